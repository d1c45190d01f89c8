//! `mhactl rolling`: a command of the operator's, run where the operator is, for one server after the other: replicas, a switchover, the
//! old primary. Stops at the first trouble and says how to go on. Never decides what is well: the manager's words do.

mod order;
mod run;

pub(super) use self::run::rolling;

use std::time::Duration;

use clap::Args;

use super::args::span;
use crate::model::instance::InstanceId;

/// A variable that was never set must not walk round the servers doing nothing, and switch over.
fn command(text: &str) -> Result<String, String> {
    if text.trim().is_empty() {
        return Err(
            "it is empty; say what is to be run for each server, as 'ssh $HOST systemctl restart mysqld'"
                .to_owned(),
        );
    }
    Ok(text.to_owned())
}

/// What it is told.
#[derive(Debug, Args)]
pub(super) struct Rolling {
    pub(super) cluster: Option<String>,
    /// Run by "sh -c" once for each server, with HOST, PORT, CLUSTER and ROLE ("replica" or "former-primary") in its environment.
    #[arg(long, value_name = "COMMAND", value_parser = command)]
    command: String,
    /// Make this one primary when the replicas are done; else the best.
    #[arg(long, value_name = "HOST")]
    to: Option<InstanceId>,
    /// Leave this one out; also those that are done, to go on after a stop. Without the primary nobody is switched over.
    #[arg(long, value_name = "HOST")]
    skip: Vec<InstanceId>,
    /// How far behind a replica may be and be level.
    #[arg(long, value_name = "SPAN", default_value = "5s", value_parser = span)]
    max_lag: Duration,
    /// How long a server may take to be level again after its command.
    #[arg(long, value_name = "SPAN", default_value = "10m", value_parser = span)]
    wait: Duration,
    /// How long the command may take; past it, it is ended.
    #[arg(long, value_name = "SPAN", default_value = "30m", value_parser = span)]
    command_timeout: Duration,
    /// Although commits may wait while an acknowledging replica is worked on.
    #[arg(long)]
    force: bool,
    /// Show the order and do nothing.
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Do it without asking.
    #[arg(long, conflicts_with = "dry_run")]
    yes: bool,
}

impl Rolling {
    /// As the options say where nothing is said.
    const MAX_LAG: Duration = Duration::from_secs(5);
    const WAIT: Duration = Duration::from_secs(10 * 60);
    const COMMAND_TIMEOUT: Duration = Duration::from_secs(30 * 60);
}
