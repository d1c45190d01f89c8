//! The write heartbeat: proves that commits end, gives replicas their true lag. Written only while the lease is held, by an
//! account that read_only stops, one at a time; one that does not come back is waited for and never killed (a killed one
//! commits).

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::lost_ack;
use super::sql::connect_heartbeat;
use super::state::Shared;
use crate::clock;
use crate::decide::lease::holder::Role;
use crate::model::ballot::Generation;
use crate::mysql::client::Connection;
use crate::mysql::control::write_heartbeat;

/// Until the policy is known.
const DEFAULT_EVERY: Duration = Duration::from_secs(1);
/// How long connecting may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(1);
/// A commit may wait for an acknowledgement for days; its answer is waited for.
const ANSWER_WITHIN: Duration = Duration::from_secs(7 * 24 * 3_600);

/// So many tries in a row must fail before it is told: one fails in every planned change.
const FAULT_AFTER: u32 = 3;

/// Runs until cancelled.
pub(super) async fn run(shared: Arc<Shared>) {
    let (mut conn, mut failed) = (None, 0);
    loop {
        let policy_every = shared.seen().membership.as_ref().map(|member| member.policy.heartbeat_every);
        tokio::time::sleep(policy_every.unwrap_or(DEFAULT_EVERY)).await;
        let Some(generation) = leads(&shared) else {
            (conn, failed) = (None, 0);
            let mut seen = shared.seen();
            seen.commits.clear();
            seen.heartbeat_fault = None;
            continue;
        };
        let written = write(&shared, &mut conn, generation).await;
        failed = if written.is_ok() { 0 } else { failed + 1 };
        if let Err(why) = &written {
            tracing::debug!(why, "no heartbeat");
            conn = None;
        }
        let fault = written.err().filter(|_| failed >= FAULT_AFTER);
        let before = std::mem::replace(&mut shared.seen().heartbeat_fault, fault.clone());
        if let Some(why) = fault.filter(|_| before.is_none()) {
            tracing::error!(
                why,
                "the heartbeat cannot be written: lag is not measured by it, and a hang is noticed late"
            );
        }
    }
}

/// The generation whose lease is held now, of a server that is writable as far as is known.
pub(super) fn leads(shared: &Shared) -> Option<Generation> {
    let seen = shared.seen();
    let held = seen.open_until.is_some_and(|until| until > clock::now());
    let writable = seen.server.as_ref().is_ok_and(|report| !report.read_only);
    match seen.kept.role {
        Role::Primary { generation } if held && writable => Some(generation),
        Role::Primary { .. }
        | Role::Unmanaged
        | Role::Unknown
        | Role::Replica
        | Role::Fenced { .. }
        | Role::Deposed { .. } => None,
    }
}

async fn write(shared: &Shared, slot: &mut Option<Connection>, generation: Generation) -> Result<(), String> {
    let mut conn = match slot.take().filter(Connection::is_open) {
        Some(conn) => conn,
        None => connect_heartbeat(shared, Instant::now() + CONNECT_WITHIN)
            .await
            .map_err(|error| error.to_string())?,
    };
    let began = clock::now();
    shared.seen().heartbeat_since = Some(began);
    let deadline = Instant::now() + ANSWER_WITHIN;
    let written = tokio::select! {
        written = write_heartbeat(&mut conn, &shared.config.host, generation, deadline) => written,
        never = lost_ack::run(shared, generation) => match never {},
    };
    {
        let mut seen = shared.seen();
        seen.heartbeat_since = None;
        if written.is_ok() {
            seen.note_commit(clock::now().since(began));
        }
    }
    *slot = Some(conn);
    written.map_err(|error| error.to_string())
}
