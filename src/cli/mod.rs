//! The operator's tool. It knows nothing the API does not say, the manager's (or that of `--direct`), or (`open`) an agent's: text for
//! people and JSON for programs come from the same answer.

mod args;
mod check;
mod client;
mod commands;
mod direct;
mod disaster;
mod dossier;
mod error;
mod handoff;
mod open;
mod output;
mod rebuilding;
mod replica;
mod rolling;
mod settings;
mod status;
mod timeline;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser as _;

use args::Flags;
use error::{CliError, Exit};
use output::{Screen, clean_json};

use crate::http::contract::ErrorBody;

/// Runs one command line, program name first. The exit codes are in `mhactl --help`.
pub async fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let flags = match Flags::try_parse_from(args) {
        Ok(flags) => flags,
        Err(error) => {
            // Help and version are what was asked for; all else is usage.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { Exit::Usage } else { Exit::Done } as u8);
        }
    };
    let (screen, json) = (Screen::detect(), flags.json);
    let exit = match commands::run(flags, screen).await {
        Ok(exit) => exit,
        Err(error) => {
            tell(screen, json, &error);
            error.exit
        }
    };
    ExitCode::from(exit as u8)
}

fn tell(screen: Screen, json: bool, error: &CliError) {
    let body = ErrorBody { error: error.problem.clone() };
    match serde_json::to_string(&body) {
        Ok(text) if json => screen.print(&clean_json(&text)),
        Ok(_) | Err(_) => screen.complain(&error.problem),
    }
}
