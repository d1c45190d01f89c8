//! Letting clients in: to write, by a majority's lease; to read, where nobody can write.

use tokio::time::Instant;

use super::barrier;
use super::sql::fresh_report;
use super::state::{ServerProcess, Shared};
use super::steps::{step_error, wait_for};
use crate::clock;
use crate::decide::lease::holder::{Input, Role};
use crate::execute::world::StepError;
use crate::model::ballot::Generation;
use crate::model::events::EventsPolicy;
use crate::mysql::control;

/// A majority's lease, then the kernel, then the server. It must be armed for `acks` acknowledgements still, as the server itself says: a
/// restart of it since disarms it, and a restart of this agent forgets what was ordered.
pub(super) async fn open(
    shared: &Shared,
    generation: Generation,
    acks: u32,
    epoch: Option<u64>,
    deadline: Instant,
) -> Result<(), StepError> {
    let env = shared.control_env().map_err(StepError::Failed)?;
    if shared.seen().leaving.is_some_and(|leave| leave.closed || leave.restarts) {
        return Err(StepError::Failed(
            "its service manager is stopping the server: nobody is let in again".to_owned(),
        ));
    }
    let epoch = epoch
        .ok_or_else(|| StepError::Failed("an order to open must name the epoch its sender saw".to_owned()))?;
    barrier::release(shared).await;
    let connecting = shared.spare.take(shared, deadline);
    // The connection is made while the voters answer.
    let (ordered, conn) = tokio::join!(shared.order(Input::Open { generation, epoch }), connecting);
    ordered?;
    let mut conn =
        conn.map_err(|error| StepError::unseen(&error.unseen, env.statement, error.to_string()))?;
    let by = deadline.min(Instant::now() + env.statement);
    // On the connection that opens it, while the voters answer.
    control::refuse_unarmed(&mut conn, acks, by).await.map_err(|error| step_error(&error, env.statement))?;
    let gone = |shared: &Shared| matches!(shared.seen().process, ServerProcess::Gone(_));
    let decided =
        |shared: &Shared| holds(shared, generation) || !asks_for(shared, generation) || gone(shared);
    wait_for(shared, deadline, decided).await.map_err(|_| {
        StepError::Failed(format!("no majority of voters granted generation {generation} in time"))
    })?;
    if !asks_for(shared, generation) {
        return Err(StepError::Deposed(format!(
            "a majority of voters can no longer grant generation {generation}"
        )));
    }
    if gone(shared) {
        return Err(StepError::Failed("its server died while the voters were asked".to_owned()));
    }
    let by = deadline.min(Instant::now() + env.statement);
    let written = control::set_read_only(&mut conn, false, by).await;
    shared.spare.give(conn).await;
    written.map_err(|error| step_error(&error, env.statement))?;
    take_address(shared, generation).await;
    Ok(())
}

/// Clients wait for the address: it comes with the opening. Where that fails, the manager's own order for it tells why.
async fn take_address(shared: &Shared, generation: Generation) {
    let has_address = shared.seen().membership.as_ref().is_some_and(|membership| membership.vip.is_some());
    if has_address && let Err(error) = shared.order(Input::TakeVip { generation }).await {
        tracing::warn!(%generation, %error, "the address is not held yet");
    }
}

fn asks_for(shared: &Shared, generation: Generation) -> bool {
    shared.seen().kept.role == (Role::Primary { generation })
}

fn holds(shared: &Shared, generation: Generation) -> bool {
    let seen = shared.seen();
    seen.kept.role == (Role::Primary { generation })
        && seen.open_until.is_some_and(|until| until > clock::now())
}

pub(super) async fn admit(shared: &Shared, deadline: Instant) -> Result<(), StepError> {
    let seen = fresh_report(shared, &shared.spare, deadline).await;
    let report = seen.map_err(|unseen| StepError::Failed(format!("cannot be seen: {unseen}")))?;
    if !report.read_only {
        return Err(StepError::Failed(
            "it is writable; only a read-only server is opened as a replica".to_owned(),
        ));
    }
    boots_closed(shared, deadline).await;
    Ok(shared.order(Input::Admit).await?)
}

/// It comes up as a replica also where somebody else starts it. The filter closes a server that boots, so that one that cannot be told
/// so is admitted all the same.
async fn boots_closed(shared: &Shared, deadline: Instant) {
    let events = shared.seen().membership.as_ref().map(|membership| membership.policy.events);
    let told = async {
        let mut conn = shared.spare.take(shared, deadline).await?;
        let told = control::boots_closed(&mut conn, events == Some(EventsPolicy::Follow), deadline).await;
        shared.spare.give(conn).await;
        told
    };
    if let Err(error) = told.await {
        tracing::warn!(error = %error, "whoever starts this server may find it writable; write read_only in its configuration");
    }
}
