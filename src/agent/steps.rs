//! A plan's steps about this host's server, each safe to do twice: the fence and the lease by the keeper, the process by its
//! descriptor, the rest by SQL. What is answered was read after it was done.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::host::resolve;
use super::lease_loop::OrderError;
use super::ports;
use super::sql::fresh_report;
use super::state::{ServerProcess, Shared};
use super::wire::StepRequest;
use super::{block, exchange, extra, rebuild, start, take_back};
use crate::clock;
use crate::decide::lease::holder::{Input, Role};
use crate::decide::lease::refusal::{Refusal, permits};
use crate::decide::plan::{Evidence, Step};
use crate::execute::world::StepError;
use crate::model::ballot::Generation;
use crate::model::events::EventsPolicy;
use crate::model::instance::InstanceId;
use crate::model::job::Phase;
use crate::model::observation::{Access, Process};
use crate::model::report::ThreadState;
use crate::mysql::control::{self, ControlError};
use crate::mysql::events;
use crate::mysql::fault::ClientError;

/// How long a server may take to say who replicates from it, before a fence that then spares nobody.
const ENUMERATE_WITHIN: Duration = Duration::from_millis(150);
/// How long a killed process may take to be gone.
const GONE_WITHIN: Duration = Duration::from_secs(2);
/// Connections of replicas, as the server sees them.
const DUMPS: &str =
    "SELECT HOST AS host FROM information_schema.PROCESSLIST WHERE COMMAND LIKE 'Binlog Dump%'";

impl From<OrderError> for StepError {
    fn from(error: OrderError) -> Self {
        match &error {
            OrderError::Refused(Refusal::Older { .. } | Refusal::Stale { .. } | Refusal::Superseded(_)) => {
                Self::Deposed(error.to_string())
            }
            OrderError::Refused(
                Refusal::NoServer | Refusal::Leads(_) | Refusal::Follows | Refusal::NotHolding(_),
            )
            | OrderError::Hands(_)
            | OrderError::Durable(_)
            | OrderError::NoMember
            | OrderError::Stopping => Self::Failed(error.to_string()),
        }
    }
}

/// How a statement failed that had `within`.
pub(super) fn step_error(error: &ControlError, within: Duration) -> StepError {
    match error.is_unanswered() {
        true => StepError::NoAnswer { within, what: error.to_string() },
        false => StepError::Failed(error.to_string()),
    }
}

/// Makes a step true, and reads it back.
///
/// # Errors
/// Why it is not, or that this host's agent cannot do it.
pub(super) async fn apply(shared: &Arc<Shared>, request: &StepRequest) -> Result<Evidence, StepError> {
    let deadline = Instant::now() + request.within;
    let step = &request.step;
    let role = shared.seen().kept.role;
    permits(role, step).map_err(|refusal| StepError::Failed(refusal.to_string()))?;
    make_way(shared, step);
    let report = match step {
        Step::Fence { generation, .. } => {
            spare_replicas(shared).await;
            shared.order(Input::Fence { generation: *generation }).await?;
            // A port it opened a moment ago is closed too, before the fence is answered.
            ports::learn(shared).await.map_err(StepError::Failed)?;
            false
        }
        Step::Block { generation, within, otherwise, .. } => {
            block::block(shared, *generation, deadline.min(Instant::now() + *within)).await?;
            take_back::unless_heard(shared, &request.token, *within, otherwise);
            true
        }
        // Reading it back is all.
        Step::Unmoved { .. } => true,
        Step::Kill { .. } => {
            kill(shared).await?;
            false
        }
        Step::Open { generation, .. } => {
            open(shared, *generation, request.epoch, deadline).await?;
            true
        }
        Step::Admit { .. } => {
            admit(shared, deadline).await?;
            true
        }
        Step::LoseVip { .. } => {
            shared.order(Input::LoseVip).await?;
            false
        }
        Step::HoldVip { generation, .. } => {
            shared.order(Input::TakeVip { generation: *generation }).await?;
            false
        }
        Step::StartServer { as_replica, .. } => {
            if shared.jobs.rebuild().is_some_and(|rebuild| rebuild.phase == Phase::Exchanging) {
                return Err(StepError::Failed(
                    "a copy is taking the place of its data; that is ended first".to_owned(),
                ));
            }
            start::server(shared, *as_replica, deadline).await.map_err(StepError::Failed)?;
            true
        }
        Step::StopReceiving { source, .. } => {
            deafen(shared, source).await;
            sql(shared, step, deadline).await?;
            true
        }
        Step::PointReplica { source, .. } => {
            let _alone = turn(shared, step, deadline).await?;
            unblock(shared, source).await?;
            leaving(shared, source, sql(shared, step, deadline)).await?;
            true
        }
        Step::StopReplicating { .. } => {
            let _alone = turn(shared, step, deadline).await?;
            sql(shared, step, deadline).await?;
            true
        }
        Step::CatchUpFrom { source, .. } => {
            unblock(shared, source).await?;
            sql(shared, step, deadline).await?;
            true
        }
        Step::WaitApplied { .. }
        | Step::ArmSource { .. }
        | Step::AckersAttached { .. }
        | Step::ForgetSource { .. }
        | Step::Furnish { .. }
        | Step::Halt { .. }
        | Step::SetReadOnly { .. } => {
            sql(shared, step, deadline).await?;
            true
        }
        Step::Events { .. } => {
            sql(shared, step, deadline).await?;
            return events_read_back(shared, deadline).await;
        }
        Step::SaveExtra { extra, within, .. } => {
            extra::save(shared, extra, *within).await.map_err(StepError::Failed)?;
            false
        }
        Step::Rewind { extra, keep, rows, .. } => {
            extra::rewind(shared, extra, keep, *rows, deadline).await?;
            true
        }
        Step::Rebuild { from, keep, .. } => {
            rebuild::begin(shared, &request.token, from, *keep).await.map_err(StepError::Failed)?;
            false
        }
        Step::Exchange { .. } => {
            exchange::exchange(shared, deadline).await?;
            true
        }
        Step::Salvage { .. }
        | Step::KeepUp { .. }
        | Step::Quiet { .. }
        | Step::Turn { .. }
        | Step::Claim { .. }
        | Step::Register { .. }
        | Step::Wish { .. }
        | Step::Direct { .. }
        | Step::Park { .. } => {
            return Err(StepError::Failed(format!("an agent does not do this step: {step}")));
        }
    };
    let furnished = matches!(step, Step::Furnish { .. });
    Ok(Evidence { furnished, ..read_back(shared, report, deadline).await? })
}

/// An order whose asker has gone is seen to its end all the same: the next one about the same threads waits for that.
async fn turn<'a>(
    shared: &'a Shared,
    step: &Step,
    deadline: Instant,
) -> Result<tokio::sync::MutexGuard<'a, ()>, StepError> {
    let within = deadline.saturating_duration_since(Instant::now());
    let busy = || format!("{step}: an earlier order about its replication has not ended");
    timeout_at(deadline, shared.turning.lock())
        .await
        .map_err(|_| StepError::NoAnswer { within, what: busy() })
}

/// A copy that is being given away, or made of a server that is to lead, does not stand in the way of a failover.
fn make_way(shared: &Shared, step: &Step) {
    match step {
        Step::Open { .. } => {
            let _ = shared.jobs.call_off("its server is to lead");
        }
        Step::Fence { .. }
        | Step::Block { .. }
        | Step::Kill { .. }
        | Step::StopReceiving { .. }
        | Step::CatchUpFrom { .. }
        | Step::StopReplicating { .. } => {
            shared.jobs.needed("the giving server is needed for a change of primary")
        }
        Step::KeepUp { .. }
        | Step::Turn { .. }
        | Step::Quiet { .. }
        | Step::Unmoved { .. }
        | Step::Salvage { .. }
        | Step::WaitApplied { .. }
        | Step::Claim { .. }
        | Step::ArmSource { .. }
        | Step::PointReplica { .. }
        | Step::AckersAttached { .. }
        | Step::Register { .. }
        | Step::Admit { .. }
        | Step::HoldVip { .. }
        | Step::LoseVip { .. }
        | Step::ForgetSource { .. }
        | Step::StartServer { .. }
        | Step::SetReadOnly { .. }
        | Step::Furnish { .. }
        | Step::SaveExtra { .. }
        | Step::Rewind { .. }
        | Step::Rebuild { .. }
        | Step::Exchange { .. }
        | Step::Halt { .. }
        | Step::Events { .. }
        | Step::Wish { .. }
        | Step::Direct { .. }
        | Step::Park { .. } => {}
    }
}

/// What is so now: the agent's status, and a fresh report where one is wanted.
pub(super) async fn read_back(
    shared: &Shared,
    report: bool,
    deadline: Instant,
) -> Result<Evidence, StepError> {
    let report = if report {
        let seen = fresh_report(shared, &shared.spare, deadline).await;
        Some(seen.map_err(|unseen| StepError::NoEffect(format!("cannot be read back: {unseen}")))?)
    } else {
        None
    };
    if let Some(report) = &report {
        // Whoever looks at the agent next must not act on what was so before the step.
        let mut seen = shared.seen();
        (seen.server, seen.polled_at) = (Ok(report.clone()), clock::now());
    }
    let agent = shared.status();
    Ok(Evidence { report, agent: Some(agent), ..Evidence::default() })
}

async fn events_read_back(shared: &Shared, deadline: Instant) -> Result<Evidence, StepError> {
    let unread = |error: ClientError| StepError::NoEffect(format!("cannot be read back: {error}"));
    let mut conn = shared.spare.take(shared, deadline).await.map_err(unread)?;
    let events = events::read(&mut conn, deadline).await.map_err(unread)?;
    shared.spare.give(conn).await;
    Ok(Evidence { events: Some(events), agent: Some(shared.status()), ..Evidence::default() })
}

async fn sql(shared: &Shared, step: &Step, deadline: Instant) -> Result<(), StepError> {
    let env = shared.control_env().map_err(StepError::Failed)?;
    let within = deadline.saturating_duration_since(Instant::now());
    let opened = shared.spare.take(shared, deadline).await;
    let mut conn = opened.map_err(|error| StepError::unseen(&error.unseen, within, error.to_string()))?;
    match timeout_at(deadline, control::apply(&mut conn, step, &env)).await {
        Err(_) => Err(StepError::NoAnswer { within, what: step.to_string() }),
        Ok(Err(error)) if error.is_unanswered() => Err(step_error(&error, within)),
        Ok(Err(error)) => {
            shared.spare.give(conn).await;
            Err(StepError::Failed(error.to_string()))
        }
        Ok(Ok(())) => {
            shared.spare.give(conn).await;
            Ok(())
        }
    }
}

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
                    Err(_) => endpoints.extend(resolve(text).await),
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

pub(super) async fn kill(shared: &Shared) -> Result<(), StepError> {
    let (process, role, access) = {
        let seen = shared.seen();
        (seen.process.clone(), seen.kept.role, seen.access)
    };
    let fenced = matches!(role, Role::Fenced { .. } | Role::Deposed { .. }) && access == Access::Closed;
    if !fenced {
        return Err(StepError::Failed("killing before the fence would let clients in again".to_owned()));
    }
    let watch = match process {
        ServerProcess::Running(watch) => watch,
        ServerProcess::Gone(_) => return Ok(()),
        ServerProcess::Unknown(why) => return Err(StepError::Failed(format!("no process to kill: {why}"))),
    };
    let failed = |error: super::host::process::ProcessError| StepError::Failed(error.to_string());
    watch.kill().map_err(failed)?;
    watch.confirm_gone(GONE_WITHIN).await.map_err(failed)?;
    let by = Instant::now() + GONE_WITHIN;
    wait_for(shared, by, |shared| matches!(shared.status().process, Process::Gone { .. })).await
}

/// A majority's lease, then the kernel, then the server.
pub(super) async fn open(
    shared: &Shared,
    generation: Generation,
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
    let connecting = shared.spare.take(shared, deadline);
    // The connection is made while the voters answer.
    let (ordered, conn) = tokio::join!(shared.order(Input::Open { generation, epoch }), connecting);
    ordered?;
    let mut conn =
        conn.map_err(|error| StepError::unseen(&error.unseen, env.statement, error.to_string()))?;
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
    written.map_err(|error| step_error(&error, env.statement))
}

fn asks_for(shared: &Shared, generation: Generation) -> bool {
    shared.seen().kept.role == (Role::Primary { generation })
}

fn holds(shared: &Shared, generation: Generation) -> bool {
    let seen = shared.seen();
    seen.kept.role == (Role::Primary { generation })
        && seen.open_until.is_some_and(|until| until > clock::now())
}

/// Waits for a level, woken by changes.
pub(super) async fn wait_for(
    shared: &Shared,
    deadline: Instant,
    level: impl Fn(&Shared) -> bool,
) -> Result<(), StepError> {
    let mut changes = shared.changes();
    loop {
        if level(shared) {
            return Ok(());
        }
        match timeout_at(deadline, changes.changed()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => {
                return Err(StepError::NoEffect("it did not come to be in time".to_owned()));
            }
        }
    }
}

async fn admit(shared: &Shared, deadline: Instant) -> Result<(), StepError> {
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

/// Packets to the source are reset first: a thread that is told to stop then does not wait for a silent host.
async fn deafen(shared: &Shared, source: &InstanceId) {
    let Ok((_, hands)) = shared.server() else { return };
    for address in resolve((source.host.as_str(), source.port)).await {
        let done = match hands.filter().await {
            Ok(filter) => filter.block(address).await,
            Err(error) => Err(error),
        };
        if let Err(error) = done {
            tracing::warn!(%source, error = %error, "stopping may take longer");
        }
    }
}

/// The same of the source that is left for another, while that is done: to a server that stands still a receiver says goodbye for as long
/// as `replica_net_timeout`, and commits may wait for it at its new place.
async fn leaving(
    shared: &Shared,
    source: &InstanceId,
    turn: impl Future<Output = Result<(), StepError>>,
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
    unblock(shared, &left).await?;
    turned
}

pub(super) async fn unblock(shared: &Shared, source: &InstanceId) -> Result<(), StepError> {
    let (_, hands) = shared.server().map_err(StepError::Failed)?;
    let failed = |error: super::host::filter::FilterError| StepError::Failed(error.to_string());
    let filter = hands.filter().await.map_err(failed)?;
    for address in resolve((source.host.as_str(), source.port)).await {
        filter.unblock(address).await.map_err(failed)?;
    }
    Ok(())
}
