//! Steps to statements: makes a plan's SQL steps true, each of them safe to do twice. It refuses what would lose received
//! transactions or release waiting commits, and never decides whether a step should be done: that was settled before.
//!
//! Success here means that the statements were accepted and the server's own answer was as wanted; the executor still reads
//! a fresh report afterwards.

mod boot;
mod catch_up;
mod clone;
mod furnish;
mod heartbeat;
mod point;
mod receive;
mod refetch;
mod rewind;
mod salvage;
mod semi_sync;

use std::time::Duration;

use tokio::time::Instant;

use super::client::{Account, Connection};
use super::dialect::{ChannelChange, Side};
use super::events;
use super::fault::ClientError;
use crate::decide::plan::Step;
use crate::model::gtid::GtidSet;
use crate::model::instance::InstanceId;

pub use self::boot::boots_closed;
pub use self::clone::{
    CloneOrder, clone, clone_progress, data_directory, end_clone, end_giving, load_clone, outside,
};
pub use self::heartbeat::{HEARTBEAT_SCHEMA, LATER_ROWS, is_heartbeat_row, write_heartbeat, write_later_row};
pub use self::rewind::{Undo, begin_anew, reset, undo};
pub use self::salvage::apply_salvage;
pub use self::semi_sync::{refuse_unarmed, switch_off};

/// What steps need beside themselves.
#[derive(Debug, Clone)]
pub struct ControlEnv {
    /// Replicas log in at their source with it.
    pub replication: Account,
    /// Writes the heartbeat's table and may do nothing else.
    pub heartbeat: Account,
    /// Replication heartbeat asked of the source; at most a quarter of `silence`.
    pub heartbeat_every: Duration,
    /// Deadline of a step that has none of its own.
    pub statement: Duration,
}

/// `ER_SPECIFIC_ACCESS_DENIED_ERROR`.
const NO_PRIVILEGE: u16 = 1227;

/// Why a step was not made true.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error("{0}")]
    Client(#[from] ClientError),
    #[error("{server} has received {missing} and not applied it; let its applier finish first")]
    Unapplied { server: String, missing: GtidSet },
    #[error(
        "both replication threads of {server} are stopped with {missing} unapplied, and MariaDB would throw it away at a \
         start; copy its relay logs first"
    )]
    BothStopped { server: String, missing: GtidSet },
    #[error(
        "the applier of {server} does not run (error {code}: {text}) with {missing} unapplied; its receiver is left as it is, \
         because MariaDB would throw that away at the next start; repair the applier"
    )]
    ApplierStopped { server: String, code: u32, text: String, missing: GtidSet },
    #[error(
        "{server} has not caught up from {source_of}: it lacks {missing}, and its receiver {how}; see to that, or wait until it has reached \
         another that has it"
    )]
    NotFed { server: String, source_of: InstanceId, missing: GtidSet, how: String },
    #[error("{server} has not applied {missing} within {within:?}; look at its applier and its load")]
    NotApplied { server: String, missing: GtidSet, within: Duration },
    #[error(
        "{server} has {have} of {want} acknowledging replicas after {within:?}; look at their receivers (SHOW REPLICA STATUS), and at the \
         network from their hosts to it"
    )]
    NotAttached { server: String, have: u32, want: u32, within: Duration },
    #[error(
        "{sessions} session(s) of {server} wait for an acknowledgement; switching it off would let them commit unseen"
    )]
    WouldRelease { server: String, sessions: u32 },
    #[error(
        "{server} was armed, and is no more: {why}; its server was restarted, or somebody changed its settings; it is armed again at the \
         next attempt"
    )]
    NotArmed { server: String, why: String },
    #[error("{server} cannot: {what}")]
    Unsupported { server: String, what: String },
    #[error("{server} took it without effect: {what}")]
    NoEffect { server: String, what: String },
    #[error(
        "statement {number} of {of} failed on {server}, none of the unfinished transaction is kept: {error}"
    )]
    Salvage { server: String, number: usize, of: usize, error: ClientError },
    #[error("not a step done by SQL: {0}")]
    NotSql(String),
}

impl ControlError {
    /// The server or this program refused, for a reason of its own: asking again ends the same way.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Client(error) | Self::Salvage { error, .. } => {
                error.code.is_some() && !error.is_unanswered()
            }
            Self::Unsupported { .. } => true,
            Self::Unapplied { .. }
            | Self::BothStopped { .. }
            | Self::ApplierStopped { .. }
            | Self::NotApplied { .. }
            | Self::NotFed { .. }
            | Self::NotAttached { .. }
            | Self::WouldRelease { .. }
            | Self::NotArmed { .. }
            | Self::NoEffect { .. }
            | Self::NotSql(_) => false,
        }
    }

    /// Whether the effect is unknown: a statement was sent and no answer came.
    pub fn is_unanswered(&self) -> bool {
        match self {
            Self::Client(error) | Self::Salvage { error, .. } => error.is_unanswered(),
            Self::Unapplied { .. }
            | Self::BothStopped { .. }
            | Self::ApplierStopped { .. }
            | Self::NotApplied { .. }
            | Self::NotFed { .. }
            | Self::NotAttached { .. }
            | Self::WouldRelease { .. }
            | Self::NotArmed { .. }
            | Self::Unsupported { .. }
            | Self::NoEffect { .. }
            | Self::NotSql(_) => false,
        }
    }
}

/// Makes a step true on the server `conn` leads to, which must be the step's instance.
///
/// # Errors
/// Why it is not true; [`ControlError::NotSql`] for a step that is done by agents or the store, and for salvage.
pub async fn apply(conn: &mut Connection, step: &Step, env: &ControlEnv) -> Result<(), ControlError> {
    let deadline = Instant::now() + env.statement;
    match step {
        Step::StopReceiving { .. } => receive::stop_receiving(conn, deadline).await,
        Step::WaitApplied { set, within, .. } => receive::wait_applied(conn, set, *within).await,
        Step::CatchUpFrom { source, set, within, .. } => {
            catch_up::catch_up(conn, source, set, *within, env).await
        }
        Step::StopReplicating { .. } => receive::stop_replicating(conn, deadline).await,
        Step::ForgetSource { discard, .. } => receive::forget_source(conn, discard.as_ref(), deadline).await,
        Step::ArmSource { acks: 0, .. } => semi_sync::disarm_source(conn, deadline).await,
        Step::ArmSource { acks, .. } => semi_sync::arm_source(conn, *acks, deadline).await,
        Step::PointReplica { source, acker, .. } => point::point(conn, source, *acker, env, deadline).await,
        Step::AckersAttached { acks, .. } => semi_sync::wait_attached(conn, *acks, env.statement).await,
        Step::SetReadOnly { on, .. } => set_read_only(conn, *on, deadline).await,
        Step::Events { scheduler, enable, .. } => {
            events::settle(conn, *scheduler, enable.as_ref(), deadline).await
        }
        Step::Furnish { semi_sync, .. } => furnish::furnish(conn, *semi_sync, env, deadline).await,
        Step::Halt { threads, within, .. } => receive::halt(conn, *threads, *within, env).await,
        Step::Fence { .. }
        | Step::Block { .. }
        | Step::Unmoved { .. }
        | Step::KeepUp { .. }
        | Step::Quiet { .. }
        | Step::Turn { .. }
        | Step::Kill { .. }
        | Step::Salvage { .. }
        | Step::Claim { .. }
        | Step::Register { .. }
        | Step::Open { .. }
        | Step::Admit { .. }
        | Step::HoldVip { .. }
        | Step::LoseVip { .. }
        | Step::StartServer { .. }
        | Step::SaveExtra { .. }
        | Step::Rewind { .. }
        | Step::Rebuild { .. }
        | Step::Exchange { .. }
        | Step::Wish { .. }
        | Step::Direct { .. }
        | Step::Park { .. } => Err(ControlError::NotSql(step.to_string())),
    }
}

/// Sets `read_only`, and `super_read_only` where there is one. Closing can wait behind long writes and unacknowledged
/// commits (S3): the server itself gives up after the deadline's whole seconds, so that nothing is closed later, unasked.
///
/// # Errors
/// The server's refusal, or no answer by `deadline`.
pub async fn set_read_only(conn: &mut Connection, on: bool, deadline: Instant) -> Result<(), ControlError> {
    let statement = conn.dialect().set_read_only(on);
    let left = deadline.saturating_duration_since(Instant::now());
    let sql = if on {
        format!("SET SESSION lock_wait_timeout={}; {statement}", left.as_secs().max(1))
    } else {
        statement.to_owned()
    };
    conn.query(&sql, deadline).await?;
    Ok(())
}

/// Makes the server read-only for everybody, privileged sessions included. Whether this connection holds a lock for that, which ends
/// with it.
///
/// # Errors
/// How it failed by `deadline`: then the lock may be held, or wait, until the session is ended.
pub async fn block_commits(conn: &mut Connection, deadline: Instant) -> Result<bool, ControlError> {
    let Some(lock) = conn.dialect().lock_commits() else {
        set_read_only(conn, true, deadline).await?;
        return Ok(false);
    };
    let left = deadline.saturating_duration_since(Instant::now());
    let sql = format!("SET SESSION lock_wait_timeout={}; {lock}", left.as_secs().max(1));
    match conn.query(&sql, deadline).await {
        Ok(_) => Ok(true),
        Err(error) if error.code == Some(NO_PRIVILEGE) => {
            tracing::warn!(error = %error, "privileged local sessions are not kept from committing in a switchover; grant RELOAD to the admin account");
            set_read_only(conn, true, deadline).await?;
            Ok(false)
        }
        Err(error) => Err(error.into()),
    }
}

fn change<'a>(source: &'a InstanceId, env: &'a ControlEnv, use_gtid: bool) -> ChannelChange<'a> {
    ChannelChange { source, account: &env.replication, heartbeat_every: env.heartbeat_every, use_gtid }
}

/// `SET …_enabled` for a side, where it is loaded.
fn side(conn: &Connection, side: Side, on: bool) -> Option<String> {
    conn.semi_sync.or(conn.dialect().built_in_semi_sync())?.enable(side, on)
}

fn named(conn: &Connection) -> String {
    conn.target().to_string()
}
