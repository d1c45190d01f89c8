//! Everything between a step and the primitives it is made of, once for the live service and for the simulation: whom to ask, in which
//! order, how long to wait, what to remember of a recovery. What really differs between the two is [`Primitives`].

mod claim;
mod context;
mod orphaned_block;
mod record;
mod replication;
mod salvage;
mod timeout;

use std::ops::Deref;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::time::Instant;

use self::context::RunContext;
use self::timeout::step_timeout;
use super::record::RecordStore;
use super::world::{StepError, Token, World};
use crate::decide::lease::voter::{Claim, Claimed};
use crate::decide::plan::{Evidence, Step, TrafficOrder};
use crate::model::ballot::Generation;
use crate::model::cluster::Cluster;
use crate::model::gtid::GtidSet;
use crate::model::instance::InstanceId;
use crate::model::report::Report;
use crate::model::sessions::OpenTransaction;

pub use self::claim::{Voter, claim_until_answered};
pub use self::orphaned_block::{BlockedHost, Electorate, OrphanedBlock};

/// What the outside of one cluster can do. Nothing here chooses or remembers.
#[expect(
    async_fn_in_trait,
    reason = "both worlds are in this crate and run on one thread or are Send by construction"
)]
pub trait Primitives: RecordStore {
    /// A connection of the manager's own to one server.
    type Session: ServerSession;

    fn cluster(&self) -> &Cluster;

    /// The manager's wall clock.
    fn wall(&self) -> DateTime<Utc>;

    /// Waits so long by the manager's clock.
    async fn sleep(&self, span: Duration);

    /// An agent beside the server does its steps.
    fn has_agent(&self, instance: &InstanceId) -> bool;

    /// Makes a step about one server true there, and reads it back; an answer after `timeout` is none.
    async fn step(&self, step: &Step, token: &Token, timeout: Duration) -> Result<Evidence, StepError>;

    /// What is so at a server, and what its agent says.
    async fn look(&self, instance: &InstanceId, timeout: Duration) -> Result<Evidence, StepError>;

    /// Asks the voter on `host` as [`claim_until_answered`] does. Begins at once, and goes on when nobody waits for the answer any
    /// more: a late voter still lifts its old grants.
    fn ask_voter(
        &self,
        host: &str,
        claim: &Claim,
        patience: Duration,
    ) -> impl Future<Output = Result<Claimed, String>>;

    /// Opens a session.
    async fn session(&self, instance: &InstanceId, deadline: Instant) -> Result<Self::Session, StepError>;

    /// What the log of a dead server holds beyond a set, read by its agent.
    async fn read_log(
        &self,
        from: &InstanceId,
        beyond: &GtidSet,
        within: Duration,
        token: &Token,
    ) -> Result<LogTail, String>;

    /// Writes what was read from a log at another server.
    async fn bring(
        &self,
        to: &InstanceId,
        statements: Vec<String>,
        within: Duration,
        token: &Token,
    ) -> Result<Evidence, StepError>;

    /// Has the operator's traffic program do this.
    async fn direct(
        &self,
        instance: &InstanceId,
        order: TrafficOrder,
        generation: Generation,
        recovery: &str,
    ) -> Result<(), StepError>;
}

/// One open connection to a server, as an administrator.
#[expect(
    async_fn_in_trait,
    reason = "both worlds are in this crate and run on one thread or are Send by construction"
)]
pub trait ServerSession {
    async fn report(&mut self, deadline: Instant) -> Result<Report, StepError>;

    /// Whether `set` was applied within that time.
    async fn wait_applied(&mut self, set: &GtidSet, within: Duration) -> Result<bool, StepError>;

    /// Clients' transactions that are open now.
    async fn open_transactions(&mut self, deadline: Instant) -> Result<Vec<OpenTransaction>, StepError>;

    /// Ends the session of one; that it is gone already is no failure.
    async fn end_transaction(&mut self, open: &OpenTransaction, deadline: Instant) -> Result<(), StepError>;
}

/// What the end of a dead server's log holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogTail {
    /// Statements that bring the transactions to another server.
    pub statements: Vec<String>,
    pub transactions: u64,
    /// It was read to its end.
    pub complete: bool,
    /// What could not be done.
    pub trouble: String,
}

/// The world of one recovery: its steps, made of primitives, and what it has seen of them so far.
#[derive(Debug)]
pub struct Composed<W> {
    primitives: W,
    context: RunContext,
}

impl<W> Composed<W>
where
    W: Deref,
    W::Target: Primitives,
{
    /// For one recovery, of which nothing is known yet.
    pub fn new(primitives: W) -> Self {
        Self { primitives, context: RunContext::default() }
    }

    /// A step of one server.
    async fn at_server(&self, step: &Step, token: &Token) -> Result<Evidence, StepError> {
        let timeout = step_timeout(step, &self.primitives.cluster().policy);
        let seen = self.primitives.step(step, token, timeout).await?;
        self.context.note(step, &seen);
        Ok(seen)
    }

    /// The traffic program is called once for each recovery in which that went well.
    async fn direct(
        &self,
        instance: &InstanceId,
        order: TrafficOrder,
        generation: Generation,
        token: &Token,
    ) -> Result<Evidence, StepError> {
        let is_configured = self.primitives.cluster().traffic.is_some();
        if is_configured && !self.context.was_directed(order, instance) {
            self.primitives.direct(instance, order, generation, &token.recovery).await?;
            self.context.note_directed(order, instance);
        }
        Ok(Evidence { directed: true, ..Evidence::default() })
    }
}

impl<W> World for Composed<W>
where
    W: Deref,
    W::Target: Primitives,
{
    async fn observe(&self, step: &Step) -> Result<Evidence, StepError> {
        match step {
            Step::Register { .. } | Step::Park { .. } | Step::Wish { .. } => {
                let record = self.primitives.record().await?;
                Ok(Evidence { record, ..Evidence::default() })
            }
            // Asking is claiming: a voter answers the same claim twice alike.
            Step::Claim { .. }
            | Step::Salvage { .. }
            | Step::KeepUp { .. }
            | Step::Quiet { .. }
            | Step::Events { .. }
            | Step::Direct { .. } => Ok(Evidence::default()),
            Step::Fence { .. }
            | Step::Block { .. }
            | Step::Turn { .. }
            | Step::Unmoved { .. }
            | Step::Kill { .. }
            | Step::StopReceiving { .. }
            | Step::WaitApplied { .. }
            | Step::CatchUpFrom { .. }
            | Step::StopReplicating { .. }
            | Step::ArmSource { .. }
            | Step::PointReplica { .. }
            | Step::AckersAttached { .. }
            | Step::Open { .. }
            | Step::Admit { .. }
            | Step::HoldVip { .. }
            | Step::LoseVip { .. }
            | Step::ForgetSource { .. }
            | Step::StartServer { .. }
            | Step::SetReadOnly { .. }
            | Step::Furnish { .. }
            | Step::SaveExtra { .. }
            | Step::Halt { .. }
            | Step::Rewind { .. }
            | Step::Rebuild { .. }
            | Step::Exchange { .. } => {
                let timeout = self.primitives.cluster().policy.statement;
                let seen = self.primitives.look(step.instance(), timeout).await?;
                // Armed already, by the manager before this one.
                if matches!(step, Step::ArmSource { .. }) && step.is_satisfied(&seen) {
                    self.context.note(step, &seen);
                }
                Ok(seen)
            }
        }
    }

    async fn apply(&self, step: &Step, token: &Token) -> Result<Evidence, StepError> {
        match step {
            Step::Claim { candidate, generation, proof } => {
                self.claim(candidate, *generation, *proof, token).await
            }
            Step::Register { .. } | Step::Park { .. } | Step::Wish { .. } => {
                self.change_record(step, token).await
            }
            Step::Direct { instance, order, generation } => {
                self.direct(instance, *order, *generation, token).await
            }
            Step::Turn { instance, from, to, acker, within } => {
                self.switch_source(instance, from, (to, *acker), *within, token).await
            }
            Step::Quiet { instance, drain, end_older } => self.drain(instance, *drain, *end_older).await,
            Step::KeepUp { instance, source, closely, within } => {
                self.wait_for_lag(instance, source, *closely, *within).await
            }
            Step::Salvage { from, to, beyond, within, .. } => {
                self.salvage(from, to, beyond, *within, token).await
            }
            Step::Fence { .. }
            | Step::Block { .. }
            | Step::Unmoved { .. }
            | Step::Kill { .. }
            | Step::StopReceiving { .. }
            | Step::WaitApplied { .. }
            | Step::CatchUpFrom { .. }
            | Step::StopReplicating { .. }
            | Step::ArmSource { .. }
            | Step::PointReplica { .. }
            | Step::AckersAttached { .. }
            | Step::Open { .. }
            | Step::Admit { .. }
            | Step::HoldVip { .. }
            | Step::LoseVip { .. }
            | Step::ForgetSource { .. }
            | Step::StartServer { .. }
            | Step::SetReadOnly { .. }
            | Step::Events { .. }
            | Step::Furnish { .. }
            | Step::SaveExtra { .. }
            | Step::Halt { .. }
            | Step::Rewind { .. }
            | Step::Rebuild { .. }
            | Step::Exchange { .. } => self.at_server(step, token).await,
        }
    }
}

#[cfg(test)]
mod tests;
