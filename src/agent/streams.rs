//! The streams of replication through the kernel's filter: those that pass a fence, and those that are reset so that a thread ends.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

use super::host::resolve;
use super::state::{ServerProcess, Shared};
use crate::execute::world::StepError;
use crate::model::instance::InstanceId;
use crate::model::report::ThreadState;

/// How long a server may take to say who replicates from it, before a fence that then spares nobody.
const ENUMERATE_WITHIN: Duration = Duration::from_millis(150);
/// How long a name may take to resolve before a block of its server ends. Longer than where it may as well be left undone.
const RESOLVE_WITHIN: Duration = Duration::from_secs(5);
/// Connections of replicas, as the server sees them.
const DUMPS: &str =
    "SELECT HOST AS host FROM information_schema.PROCESSLIST WHERE COMMAND LIKE 'Binlog Dump%'";

/// A switchover's replicas must receive what the old primary still has: their streams, and only theirs, pass the fence. They
/// carry no client's answer. A server that does not answer spares nobody.
pub(super) async fn spare_replicas(shared: &Shared) {
    let Ok((_, hands)) = shared.server() else { return };
    let answers = {
        let seen = shared.seen();
        let runs = matches!(seen.process, ServerProcess::Running(_));
        runs && seen.server.is_ok() && seen.unanswered_since.is_none()
    };
    let deadline = Instant::now() + ENUMERATE_WITHIN;
    let mut endpoints = Vec::<SocketAddr>::new();
    if answers && let Ok(mut conn) = shared.spare.take(shared, deadline).await {
        if let Ok(rows) = conn.query(DUMPS, deadline).await {
            for text in rows.iter().filter_map(|row| row.text("host")) {
                match text.parse::<SocketAddr>() {
                    Ok(endpoint) => endpoints.push(endpoint),
                    // A server that resolves names shows those.
                    Err(_) => {
                        let resolved = resolve(text).await;
                        if resolved.is_empty() {
                            tracing::warn!(
                                replica = text,
                                "its stream is cut by the fence: its name does not resolve"
                            );
                        }
                        endpoints.extend(resolved);
                    }
                }
            }
        }
        shared.spare.give(conn).await;
    }
    let done = match hands.filter().await {
        Ok(filter) if endpoints.is_empty() => filter.clear_spared().await,
        Ok(filter) => filter.spare(&endpoints).await,
        Err(error) => Err(error),
    };
    if let Err(error) = done {
        tracing::warn!(error = %error, "replicas' streams are cut by the fence too");
    }
}

/// Packets to the source are reset first: a thread that is told to stop then does not wait for a silent host.
pub(super) async fn deafen(shared: &Shared, source: &InstanceId) {
    let Ok((_, hands)) = shared.server() else { return };
    let addresses = resolve((source.host.as_str(), source.port)).await;
    if addresses.is_empty() {
        tracing::warn!(%source, "stopping may take longer: its name does not resolve, so its packets are not reset");
    }
    if let Err(error) = hands.block_source(source, &addresses).await {
        tracing::warn!(%source, error = %error, "stopping may take longer");
    }
}

/// The same of the source that is left for another, while that is done: to a server that stands still a receiver says goodbye for as long
/// as `replica_net_timeout`, and commits may wait for it at its new place.
pub(super) async fn leaving(
    shared: &Shared,
    source: &InstanceId,
    turn: impl Future<Output = Result<(), StepError>>,
    deadline: Instant,
) -> Result<(), StepError> {
    let left = {
        let seen = shared.seen();
        let channel = seen.server.as_ref().ok().and_then(|report| report.channel());
        let channel = channel.filter(|of| of.source != *source && of.receiver != ThreadState::Stopped);
        channel.map(|channel| channel.source.clone())
    };
    let Some(left) = left else { return turn.await };
    deafen(shared, &left).await;
    let turned = turn.await;
    unblock(shared, &left, deadline).await?;
    turned
}

/// Receivers of this host reach the source again.
///
/// # Errors
/// When they may be kept from it still: a receiver that is told to follow it would wait for it in vain.
pub(super) async fn unblock(
    shared: &Shared,
    source: &InstanceId,
    deadline: Instant,
) -> Result<(), StepError> {
    let (_, hands) = shared.server().map_err(StepError::Failed)?;
    // What is left of the step's time is for the server.
    let within = RESOLVE_WITHIN.min(deadline.saturating_duration_since(Instant::now()) / 2);
    hands.unblock_source(source, within).await.map_err(|error| StepError::Failed(error.to_string()))
}
