//! `mhactl open`: the last holder is opened by hand, at its agent, when no manager is there to decide. The agent still opens
//! only with a majority of voters' grants; what the operator overrides is that its set was not, or not well, compared.

use std::path::{Path, PathBuf};
use std::time::Duration;

use secrecy::SecretString;

use super::error::{CliError, Exit};
use super::output::{Screen, clean_json};
use super::settings::token;
use crate::agent::client::{AgentClient, CallError, Connections};
use crate::config;
use crate::model::instance::InstanceId;
use crate::model::observation::{Access, AgentStatus};

/// How long the agent may take to say how it is.
const LOOK: Duration = Duration::from_secs(3);
/// How long opening may take: a majority's grants, arming, becoming writable.
const OPEN: Duration = Duration::from_secs(15);

/// Which agent, and its token: named, or found in a manager's configuration.
#[derive(Debug)]
pub(super) struct Where {
    pub(super) instance: Option<InstanceId>,
    pub(super) agent: Option<String>,
    pub(super) token_file: Option<PathBuf>,
    pub(super) config: PathBuf,
}

/// Asks the operator, orders it, shows how the host is then.
pub(super) async fn open(at: Where, yes: bool, screen: Screen, json: bool) -> Result<Exit, CliError> {
    let (url, token) = find(at)?;
    let connections = Connections::new().map_err(|error| failed(&url, &error))?;
    let agent = AgentClient::new(&connections, &url, token);
    let status = agent.status(LOOK).await.map_err(|error| failed(&url, &error))?;
    let Some(generation) = status.held else {
        let message = format!("{} has led nothing: it is no holder to be opened again", status.host);
        return Err(refused(message, "open the host that led last, or let a manager fail over"));
    };
    if let Access::Held { .. } = status.access {
        screen.print(&shown(&status, json)?);
        return Ok(Exit::Done);
    }
    if status.generation > generation {
        let message = format!(
            "{} led generation {generation}, and its voter knows of {}: another server was promoted since",
            status.host, status.generation
        );
        return Err(refused(message, "find out who leads that generation; \"mhactl adopt\" settles it"));
    }
    let question = format!(
        "{} led generation {generation}. Opened, it takes writes at once; rows that only others have are not on it. Open it?",
        status.host
    );
    if !(yes || (screen.asks && !json && screen.confirm(&question))) {
        return Err(CliError::not_confirmed("opening"));
    }
    let status = agent.open(generation, OPEN).await.map_err(|error| failed(&url, &error))?;
    screen.print(&shown(&status, json)?);
    Ok(Exit::Done)
}

fn find(at: Where) -> Result<(String, SecretString), CliError> {
    let Where { instance, agent, token_file, config } = at;
    if let Some(url) = agent {
        let file = token_file.ok_or_else(|| {
            let next =
                "give --token-file FILE; on the agent's host it is what `token` in agent.toml points at";
            CliError::usage("an agent wants its token", next)
        })?;
        return Ok((url.trim_end_matches('/').to_owned(), token(&file)?));
    }
    let instance = instance.ok_or_else(|| {
        CliError::usage("no host was named", "mhactl open HOST, or mhactl open --agent URL --token-file FILE")
    })?;
    in_config(&instance, &config)
}

fn in_config(instance: &InstanceId, path: &Path) -> Result<(String, SecretString), CliError> {
    let (config, _) = config::load_manager(path).map_err(|error| {
        CliError::usage(error.to_string(), "mend it, or name the agent by --agent URL --token-file FILE")
    })?;
    for cluster in &config.clusters {
        let Some(member) = cluster.cluster.member(instance) else { continue };
        if let (Some(url), Some(token)) = (&member.agent, &cluster.agent_token) {
            return Ok((url.clone(), token.clone()));
        }
        let message = format!("{} says no agent for {instance}", path.display());
        return Err(CliError::usage(message, "without an agent nothing keeps it closed"));
    }
    let message = format!("{} has no member {instance}", path.display());
    Err(CliError::usage(message, "name it as [[cluster.instance]] has it"))
}

fn shown(status: &AgentStatus, json: bool) -> Result<String, CliError> {
    if json {
        let text = serde_json::to_string(status)
            .map_err(|error| CliError::not_understood(&status.host, &error.to_string()))?;
        return Ok(clean_json(&text));
    }
    let generation = status.held.unwrap_or_default();
    let address = if status.vip { ", the address is on it" } else { "" };
    Ok(match status.access {
        Access::Held { remaining } => format!(
            "{} is open, generation {generation}, {:.1} s left on its lease{address}",
            status.host,
            remaining.as_secs_f64()
        ),
        Access::Admitted => format!("{} is open to readers", status.host),
        Access::Closed => format!("{} is closed", status.host),
    })
}

fn refused(message: String, next: &str) -> CliError {
    CliError::new(Exit::Refused, "refused", message, next)
}

fn failed(url: &str, error: &CallError) -> CliError {
    let message = format!("the agent at {url}: {error}");
    match error {
        CallError::Late { .. } | CallError::Unreachable { .. } => {
            CliError::new(Exit::NotReached, "not_reached", message, "is mha-agent running there?")
        }
        CallError::Token { .. } => CliError::new(
            Exit::Credentials,
            "token",
            message,
            "its token is the one `token` in agent.toml names",
        ),
        CallError::OlderBallot { .. } | CallError::Refused { .. } | CallError::WrongHost { .. } => {
            refused(message, "are a majority of the voters' agents up, and heard from this host?")
        }
        CallError::Strange { .. } => CliError::new(Exit::Failed, "failed", message, ""),
    }
}
