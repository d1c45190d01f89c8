//! A plan's steps about this host's server, each safe to do twice: the fence and the lease by the keeper, the process by its
//! descriptor, the rest by SQL. What is answered was read after it was done.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::lease_loop::OrderError;
use super::opening::{admit, open};
use super::ports;
use super::resume::arm_as_member;
use super::sql::fresh_report;
use super::start::StartAs;
use super::state::{ServerProcess, Shared};
use super::streams::{deafen, leaving, spare_replicas, unblock};
use super::wire::StepRequest;
use super::{barrier, block, exchange, extra, ordered_stop, own_disk, rebuild, start, take_back};
use crate::clock;
use crate::decide::lease::holder::{Input, Role};
use crate::decide::lease::refusal::{Refusal, permits};
use crate::decide::plan::{Evidence, Step};
use crate::execute::world::StepError;
use crate::model::ballot::Generation;
use crate::model::job::Phase;
use crate::model::observation::{Access, Process};
use crate::mysql::ControlEnv;
use crate::mysql::control::{self, ControlError};
use crate::mysql::events;
use crate::mysql::fault::ClientError;

/// How long a killed process may take to be gone.
const GONE_WITHIN: Duration = Duration::from_secs(2);

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

/// A server's own deadline within a step ends before the step's: what it answers is read back, or told, in what is left.
fn statement_within(left: Duration) -> Duration {
    left.saturating_sub((left / 10).min(Duration::from_millis(250)))
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
    // Before the first statement, for its manager may die in it; after the last one, for a look in between saw the threads run.
    let stops = ordered_stop::begin(shared, step);
    let read = done(shared, request, deadline).await?;
    ordered_stop::end(shared, step, stops);
    match read {
        Read::Events => events_read_back(shared, deadline).await,
        Read::Agent => read_back(shared, false, deadline).await,
        Read::Attached(acks) => {
            Ok(Evidence { attached: Some(acks), ..read_back(shared, false, deadline).await? })
        }
        Read::Server => {
            let furnished = matches!(step, Step::Furnish { .. });
            Ok(Evidence { furnished, ..read_back(shared, true, deadline).await? })
        }
    }
}

/// What tells whether a step came true, beside the agent's own status.
enum Read {
    Agent,
    Server,
    Events,
    /// The step has counted so many ackers itself.
    Attached(u32),
}

async fn done(shared: &Arc<Shared>, request: &StepRequest, deadline: Instant) -> Result<Read, StepError> {
    let (step, token) = (&request.step, &request.token);
    let agent = |()| Read::Agent;
    let server = |()| Read::Server;
    let failed = StepError::Failed;
    // These leave the old primary of a switchover blocked; every other order needs a server that commits.
    if !matches!(step, Step::Block { .. } | Step::Unmoved { .. } | Step::Fence { .. } | Step::LoseVip { .. })
    {
        barrier::lift(shared).await.map_err(StepError::Failed)?;
    }
    match step {
        Step::Fence { generation, .. } => fence(shared, *generation).await.map(agent),
        Step::Kill { .. } => kill(shared, deadline).await.map(agent),
        Step::LoseVip { .. } => Ok(shared.order(Input::LoseVip).await.map(agent)?),
        Step::HoldVip { generation, .. } => {
            Ok(shared.order(Input::TakeVip { generation: *generation }).await.map(agent)?)
        }
        Step::SaveExtra { extra, within, .. } => {
            extra::save(shared, extra, *within).await.map(agent).map_err(failed)
        }
        Step::Rebuild { from, keep, .. } => {
            rebuild::begin(shared, token, from, *keep).await.map(agent).map_err(failed)
        }
        Step::Block { generation, within, otherwise, .. } => {
            block::block(shared, *generation, deadline.min(Instant::now() + *within)).await?;
            take_back::unless_heard(shared, token, *within, otherwise);
            Ok(Read::Server)
        }
        // Reading it back is all.
        Step::Unmoved { .. } => Ok(Read::Server),
        Step::Open { generation, acks, .. } => {
            let acks = match token.back {
                true => arm_as_member(shared, deadline).await?,
                false => *acks,
            };
            open(shared, *generation, acks, request.epoch, deadline).await.map(server)
        }
        Step::Admit { .. } => admit(shared, deadline).await.map(server),
        Step::StartServer { as_replica, drop_tail, .. } => {
            start(shared, StartAs::of(*as_replica, *drop_tail), deadline).await.map(server)
        }
        Step::StopReceiving { source, .. } => {
            deafen(shared, source).await;
            sql(shared, step, deadline).await.map(server)
        }
        Step::PointReplica { source, .. } => {
            let _alone = turn(shared, step, deadline).await?;
            unblock(shared, source, deadline).await?;
            leaving(shared, source, sql(shared, step, deadline), deadline).await.map(server)
        }
        Step::StopReplicating { .. } => {
            let _alone = turn(shared, step, deadline).await?;
            // A server that is to lead is told this first, and it is the last that is taken back where its host cannot keep that it leads.
            let (kept, stopped) = tokio::join!(own_disk::check(shared), sql(shared, step, deadline));
            kept.map_err(failed)?;
            stopped.map(server)
        }
        Step::CatchUpFrom { source, .. } => {
            unblock(shared, source, deadline).await?;
            sql(shared, step, deadline).await.map(server)
        }
        Step::Rewind { extra, keep, rows, .. } => {
            extra::rewind(shared, extra, keep, *rows, deadline).await.map(server)
        }
        Step::Exchange { .. } => exchange::exchange(shared, deadline).await.map(server),
        Step::Events { .. } => sql(shared, step, deadline).await.map(|()| Read::Events),
        // That is what it waited for: no further question about it.
        Step::AckersAttached { acks, .. } => {
            sql(shared, step, deadline).await.map(|()| Read::Attached(*acks))
        }
        Step::WaitApplied { .. }
        | Step::ArmSource { .. }
        | Step::ForgetSource { .. }
        | Step::Furnish { .. }
        | Step::Halt { .. }
        | Step::SetReadOnly { .. } => sql(shared, step, deadline).await.map(server),
        Step::Salvage { .. }
        | Step::KeepUp { .. }
        | Step::Quiet { .. }
        | Step::Turn { .. }
        | Step::Claim { .. }
        | Step::Register { .. }
        | Step::Wish { .. }
        | Step::Direct { .. }
        | Step::Park { .. } => Err(StepError::Failed(format!("an agent does not do this step: {step}"))),
    }
}

async fn fence(shared: &Shared, generation: Generation) -> Result<(), StepError> {
    spare_replicas(shared).await;
    shared.order(Input::Fence { generation }).await?;
    // A port it opened a moment ago is closed too, before the fence is answered.
    ports::learn(shared).await.map_err(StepError::Failed)
}

async fn start(shared: &Shared, start_as: StartAs, deadline: Instant) -> Result<(), StepError> {
    if shared.jobs.rebuild().is_some_and(|rebuild| rebuild.phase == Phase::Exchanging) {
        let why = "a copy is taking the place of its data; that is ended first";
        return Err(StepError::Failed(why.to_owned()));
    }
    start::server(shared, start_as, deadline).await.map_err(StepError::Failed)
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
    let env = ControlEnv { statement: env.statement.min(statement_within(within)), ..env };
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

pub(super) async fn kill(shared: &Shared, deadline: Instant) -> Result<(), StepError> {
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
    let within = GONE_WITHIN.min(deadline.saturating_duration_since(Instant::now()) / 2);
    watch.confirm_gone(within).await.map_err(failed)?;
    let by = Instant::now() + within;
    wait_for(shared, by, |shared| matches!(shared.status().process, Process::Gone { .. })).await
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
