//! The operator's tool: everything it shows is the API's JSON, as a table for people or as it is with `--json`.

mod args;
mod client;
mod output;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use tokio::time::{Instant, sleep};

use self::args::{Command, ConfigCommand, Flags};
use self::client::{Api, Refused};
use crate::decide::diagnose::Verdict;
use crate::decide::plan::Plan;
use crate::execute::journal::Recovery;
use crate::http::{AdoptBody, FailoverBody, UnparkBody};
use crate::manager::event::Proposal;
use crate::manager::snapshot::Snapshot;

/// Done, and all is well.
pub const OK: u8 = 0;
/// The operation began and did not succeed, or something else failed.
pub const FAILED: u8 = 1;
/// Refused, with the reasons.
pub const REFUSED: u8 = 3;
/// The cluster shown is not healthy.
pub const UNHEALTHY: u8 = 5;

/// How long a recovery is followed.
const FOLLOW: Duration = Duration::from_secs(900);

/// Runs one command line.
pub async fn run() -> ExitCode {
    let flags: Flags = clap::Parser::parse();
    match command(flags).await {
        Ok(code) => ExitCode::from(code),
        Err(error) if error.is::<Refused>() => {
            output::trouble(&format!("refused:\n{error}"));
            ExitCode::from(REFUSED)
        }
        Err(error) => {
            output::trouble(&format!("{error:#}"));
            ExitCode::from(FAILED)
        }
    }
}

async fn command(flags: Flags) -> anyhow::Result<u8> {
    if let Command::Config(ConfigCommand::Check { file }) = &flags.command {
        return Ok(check(file));
    }
    let api = Api::new(&flags.manager, flags.token_file.as_deref())?;
    match flags.command {
        Command::Config(_) => Ok(OK),
        Command::Status { cluster } => status(&api, cluster.as_deref(), flags.json).await,
        Command::Topology { cluster } => {
            let snapshot = one(&api, cluster.as_deref()).await?;
            output::show(flags.json, &snapshot, output::topology)
        }
        Command::History { cluster, limit } => {
            let name = one(&api, cluster.as_deref()).await?.cluster;
            let found: Vec<Recovery> = api.get(&format!("clusters/{name}/history?limit={limit}")).await?;
            output::show(flags.json, &found, |found| {
                found.iter().map(output::timeline).collect::<Vec<_>>().join("\n\n")
            })
        }
        Command::Adopt { cluster, primary, yes } => {
            let name = one(&api, cluster.as_deref()).await?.cluster;
            let query = primary.as_ref().map_or_else(String::new, |primary| format!("?primary={primary}"));
            let plan: Plan = api.get(&format!("clusters/{name}/adopt{query}")).await?;
            output::show(false, &plan, ToString::to_string)?;
            if !yes {
                output::line("nothing was changed; run again with --yes to do this");
                return Ok(OK);
            }
            let id: String = api.post(&format!("clusters/{name}/adopt"), &AdoptBody { primary }).await?;
            follow(&api, &name.0, &id, flags.json).await
        }
        Command::Failover { cluster, dry_run, to, accept_loss, old_primary_is_dead } => {
            let name = one(&api, cluster.as_deref()).await?.cluster;
            let path = format!("clusters/{name}/failover");
            let body = FailoverBody { to, accept_loss, old_primary_is_dead, dry_run };
            if dry_run {
                let proposal: Proposal = api.post(&path, &body).await?;
                return output::show(flags.json, &proposal, output::proposal);
            }
            let id: String = api.post(&path, &body).await?;
            follow(&api, &name.0, &id, flags.json).await
        }
        Command::Ack { cluster } => {
            let name = one(&api, cluster.as_deref()).await?.cluster;
            api.post::<()>(&format!("clusters/{name}/ack"), &()).await?;
            output::line("the budget of automatic failovers begins anew");
            Ok(OK)
        }
        Command::Unpark { instance, cluster } => {
            let name = one(&api, cluster.as_deref()).await?.cluster;
            api.post::<()>(&format!("clusters/{name}/unpark"), &UnparkBody { instance: instance.clone() })
                .await?;
            output::line(&format!("{instance} is in automatic hands again"));
            Ok(OK)
        }
    }
}

fn check(file: &std::path::Path) -> u8 {
    match crate::config::load_manager(file) {
        Ok((_, warnings)) => {
            for warning in &warnings {
                output::line(&warning.to_string());
            }
            output::line(&format!("{}: no mistakes, {} warning(s)", file.display(), warnings.len()));
            OK
        }
        Err(errors) => {
            output::trouble(&errors.to_string());
            FAILED
        }
    }
}

async fn one(api: &Api, wanted: Option<&str>) -> anyhow::Result<Snapshot> {
    let mut all: Vec<Snapshot> = api.get("clusters").await?;
    match wanted {
        Some(name) => all
            .into_iter()
            .find(|one| one.cluster.0 == name)
            .with_context(|| format!("the manager has no cluster {name:?}")),
        None if all.len() == 1 => all.pop().context("the manager has no cluster"),
        None => anyhow::bail!("name the cluster: the manager has {}", all.len()),
    }
}

async fn status(api: &Api, cluster: Option<&str>, json: bool) -> anyhow::Result<u8> {
    let snapshot = one(api, cluster).await?;
    output::show(json, &snapshot, output::status)?;
    Ok(if snapshot.verdict == Verdict::Healthy { OK } else { UNHEALTHY })
}

/// Waits for the end of a recovery and shows its timeline.
async fn follow(api: &Api, cluster: &str, id: &str, json: bool) -> anyhow::Result<u8> {
    let deadline = Instant::now() + FOLLOW;
    loop {
        let found: Vec<Recovery> = api.get(&format!("clusters/{cluster}/history?limit=20")).await?;
        if let Some(recovery) = found.iter().find(|one| one.id == id && one.outcome().is_some()) {
            output::show(json, recovery, output::timeline)?;
            let trouble = recovery.outcome().and_then(crate::execute::Outcome::trouble);
            return Ok(if trouble.is_none() { OK } else { FAILED });
        }
        anyhow::ensure!(Instant::now() < deadline, "{id} still runs; see \"mhactl history\"");
        sleep(Duration::from_millis(100)).await;
    }
}
