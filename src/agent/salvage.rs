//! What only a dead server's log holds: read from its files here, brought to another server there. Never from a server that
//! runs: its log is not at its end.

use std::path::PathBuf;
use std::time::Duration;

use tokio::time::Instant;

use super::host::salvage::{salvage, statements};
use super::host::tail::{Limits, Tail, Transaction, scan};
use super::state::{ServerProcess, Shared};
use super::steps::{read_back, step_error};
use super::wire::{BringRequest, SalvageReply, SalvageRequest};
use crate::decide::plan::Evidence;
use crate::execute::world::StepError;
use crate::model::gtid::GtidSet;
use crate::model::instance::Flavor;
use crate::mysql::control;

/// The most that is carried over, in bytes of statements: more is not a tail but a history.
const MOST_BYTES: u64 = 32 << 20;

/// Reads the tail.
///
/// # Errors
/// When it must not be read now; that it cannot be is said in the reply.
pub(super) async fn read(shared: &Shared, request: &SalvageRequest) -> Result<SalvageReply, String> {
    if let ServerProcess::Running(watch) = &shared.seen().process {
        return Err(format!("the server runs (pid {}): its log has no end yet", watch.process().pid));
    }
    Ok(read_tail(shared, request)
        .await
        .unwrap_or_else(|trouble| SalvageReply { trouble, ..SalvageReply::default() }))
}

async fn read_tail(shared: &Shared, request: &SalvageRequest) -> Result<SalvageReply, String> {
    let deadline = Instant::now() + request.within;
    let (server, _) = shared.server()?;
    let (flavor, _) = shared
        .seen()
        .last_identity
        .ok_or("the server never answered this agent, so its family is not known")?;
    let index = index_path(shared)?;
    let limits = Limits { files: 2, time: left(deadline), ..Limits::default() };
    let tail = scan(flavor, &index, None, limits).await.map_err(|error| error.to_string())?;
    let (missing, complete) = missing(flavor, &tail, &request.beyond)?;
    if missing.is_empty() {
        return Ok(SalvageReply { complete, ..SalvageReply::default() });
    }
    let decoded = salvage(flavor, &server.binlog_tool, &tail, &missing, MOST_BYTES, left(deadline)).await;
    let list = statements(&decoded.map_err(|error| error.to_string())?).map_err(|error| error.to_string())?;
    let statements = list.into_iter().map(String::from_utf8).collect::<Result<Vec<_>, _>>();
    let statements = statements.map_err(|_| "a statement is not UTF-8; bring it over by hand".to_owned())?;
    Ok(SalvageReply { statements, transactions: missing.len() as u64, complete, trouble: String::new() })
}

/// Transactions of the tail beyond a set; and whether the tail reaches back far enough to say so.
fn missing(flavor: Flavor, tail: &Tail, beyond: &GtidSet) -> Result<(Vec<Transaction>, bool), String> {
    let mut missing = Vec::new();
    for transaction in tail.transactions.iter().filter(|transaction| transaction.complete) {
        let set = GtidSet::parse(flavor, &transaction.gtid).map_err(|error| error.to_string())?;
        if !beyond.contains(&set) {
            missing.push(transaction.clone());
        }
    }
    let reaches_back = match &tail.previous {
        Some(previous) => GtidSet::parse(flavor, previous)
            .map_err(|error| error.to_string())
            .map(|set| beyond.contains(&set))?,
        // A log that does not say what came before it.
        None => false,
    };
    Ok((missing, reaches_back))
}

pub(super) fn index_path(shared: &Shared) -> Result<PathBuf, String> {
    let (server, _) = shared.server()?;
    server.binlog_index.clone().ok_or_else(|| "agent.toml says no `binlog_index`".to_owned())
}

fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}

/// Runs salvaged statements on the server here.
///
/// # Errors
/// The first failure; transactions before it are kept.
pub(super) async fn bring(shared: &Shared, request: &BringRequest) -> Result<Evidence, StepError> {
    let deadline = Instant::now() + request.within;
    let opened = super::sql::connect_admin(shared, deadline).await;
    let conn = opened.map_err(|error| StepError::unseen(&error.unseen, request.within, error.to_string()))?;
    let done = control::apply_salvage(conn, &request.statements, deadline).await;
    done.map_err(|error| step_error(&error, request.within))?;
    read_back(shared, true, deadline).await
}
