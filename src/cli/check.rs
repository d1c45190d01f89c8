//! `mhactl config check`: a file read as the programs read it, nothing started.

use std::path::{Path, PathBuf};

use super::commands::Ended;
use super::error::{CliError, Exit};
use super::output::Screen;
use crate::config;

pub(super) fn check(screen: Screen, json: bool, file: Option<PathBuf>, agent: bool) -> Ended {
    let default = if agent { "/etc/mha/agent.toml" } else { "/etc/mha/manager.toml" };
    let file = file.unwrap_or_else(|| PathBuf::from(default));
    let (good, warnings) = match checked(&file, agent) {
        Ok(found) => found,
        Err(text) => {
            let next = "correct it and check again";
            // The text names file, line and what to write; on a terminal nothing need be added.
            if json {
                return Err(CliError::usage(text, next));
            }
            screen.note(&text);
            return Ok(Exit::Usage);
        }
    };
    if json {
        let body = serde_json::json!({ "file": file, "good": true, "warnings": warnings });
        screen.print(&body.to_string());
        return Ok(Exit::Done);
    }
    for warning in &warnings {
        screen.note(&format!("{warning}\n"));
    }
    screen.print(&format!("{}: good, {good}", file.display()));
    Ok(Exit::Done)
}

/// One phrase of what the file holds, and its warnings; or every mistake.
fn checked(file: &Path, agent: bool) -> Result<(String, Vec<String>), String> {
    let texts = |warnings: Vec<config::Warning>| warnings.iter().map(ToString::to_string).collect();
    if agent {
        let (agent, warnings) = config::load_agent(file).map_err(|errors| errors.to_string())?;
        let what = if agent.server.is_some() { "the agent of a server" } else { "a witness" };
        return Ok((format!("{what} on {}", agent.host), texts(warnings)));
    }
    let (manager, warnings) = config::load_manager(file).map_err(|errors| errors.to_string())?;
    let names: Vec<String> = manager
        .clusters
        .iter()
        .map(|of| format!("{} ({} instances)", of.cluster.name, of.cluster.members.len()))
        .collect();
    Ok((names.join(", "), texts(warnings)))
}
