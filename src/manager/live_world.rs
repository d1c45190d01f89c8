//! The world for real: each step goes to whom it concerns. To the agent beside the server where there is one, to the server itself
//! otherwise, to the voters, to the store.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::armed::Armed;
use super::direct::Direction;
use super::fenced::Fenced;
use crate::agent::client::AgentClient;
use crate::clock;
use crate::decide::plan::{Evidence, Step};
use crate::execute::record::{RecordError, RecordStore, change_record};
use crate::execute::world::{StepError, Token, World};
use crate::model::ballot::Generation;
use crate::model::cluster::Cluster;
use crate::model::events::EventsPolicy;
use crate::model::gtid::GtidSet;
use crate::model::instance::InstanceId;
use crate::model::record::{ClusterRecord, RecordChange, Registration};
use crate::model::report::Report;
use crate::model::sessions::Sessions;
use crate::mysql::control::{self, ControlEnv};
use crate::mysql::{Account, Connection, Target, Tls, events, probe, sessions};
use crate::store::{Store, StoreError};

/// How much longer than the agent works on a block its answer is waited for.
const BLOCK_GRACE: Duration = Duration::from_millis(500);
/// Longest start of a server: crash recovery included.
const SERVER_START: Duration = Duration::from_secs(300);

/// Everything outside of one cluster.
#[derive(Debug)]
pub(super) struct LiveWorld {
    pub(super) cluster: Cluster,
    pub(super) admin: Account,
    pub(super) tls: Tls,
    /// For servers without an agent: what changing their source needs.
    pub(super) env: ControlEnv,
    pub(super) agents: BTreeMap<InstanceId, Arc<AgentClient>>,
    /// By host.
    pub(super) voters: BTreeMap<String, Arc<AgentClient>>,
    pub(super) store: Store,
    pub(super) tracker: TaskTracker,
    pub(super) fenced: Fenced,
    pub(super) armed: Armed,
    /// What the traffic program did last.
    pub(super) directed: std::sync::Mutex<Option<Direction>>,
}

impl World for LiveWorld {
    async fn observe(&self, step: &Step) -> Result<Evidence, StepError> {
        match step {
            Step::Register { .. } | Step::Park { .. } | Step::Wish { .. } => {
                let record = self.record().await?;
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
            | Step::Exchange { .. } => self.look(step.instance()).await,
        }
    }

    async fn apply(&self, step: &Step, token: &Token) -> Result<Evidence, StepError> {
        match step {
            Step::Claim { candidate, generation, proof } => {
                self.claim(candidate, *generation, *proof, token).await
            }
            Step::Register { primary, generation, ackers, acks, degraded } => {
                self.register(primary, *generation, ackers, (*acks, degraded.as_deref()), token).await
            }
            Step::Park { instance, why } => {
                self.change(RecordChange::Park { instance: instance.clone(), why: why.clone() }).await
            }
            Step::Direct { instance, order, generation } => {
                self.direct(instance, *order, *generation, token).await
            }
            Step::Wish { instance, wish } => {
                let (instance, wish) = (instance.clone(), wish.clone());
                self.change(RecordChange::Override { instance, wish }).await
            }
            Step::Turn { instance, from, to, acker, within } => {
                self.turn(instance, from, (to, *acker), *within, token).await
            }
            Step::Quiet { instance, drain, end_older } => {
                let deadline = Instant::now() + *drain + self.cluster.policy.statement;
                let mut connection = self.connect(instance, deadline).await?;
                sessions::quiet(&mut connection, *drain, *end_older, deadline).await.map_err(failed)?;
                Ok(Evidence::default())
            }
            Step::KeepUp { instance, source, closely, within } => {
                self.keep_up(instance, source, *closely, *within).await
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

impl LiveWorld {
    /// How long the server's side of a step may take.
    fn patience(&self, step: &Step) -> Duration {
        let statement = self.cluster.policy.statement;
        match step {
            Step::WaitApplied { within, .. }
            | Step::KeepUp { within, .. }
            | Step::Turn { within, .. }
            | Step::CatchUpFrom { within, .. }
            | Step::Halt { within, .. }
            | Step::SaveExtra { within, .. }
            | Step::Rewind { within, .. }
            | Step::Exchange { within, .. } => *within + statement,
            Step::Salvage { within, .. } => *within + self.cluster.policy.catch_up + statement,
            Step::Quiet { drain, .. } => *drain + statement,
            // Its agent gives it up by itself before: nothing of it happens later.
            Step::Block { within, .. } => *within + BLOCK_GRACE,
            Step::StartServer { .. } => SERVER_START,
            Step::PointReplica { .. } | Step::Open { .. } | Step::Kill { .. } | Step::Rebuild { .. } => {
                statement * 2
            }
            Step::Fence { .. }
            | Step::Unmoved { .. }
            | Step::StopReceiving { .. }
            | Step::StopReplicating { .. }
            | Step::ArmSource { .. }
            | Step::AckersAttached { .. }
            | Step::Admit { .. }
            | Step::HoldVip { .. }
            | Step::LoseVip { .. }
            | Step::ForgetSource { .. }
            | Step::SetReadOnly { .. }
            | Step::Events { .. }
            | Step::Furnish { .. }
            | Step::Claim { .. }
            | Step::Register { .. }
            | Step::Wish { .. }
            | Step::Direct { .. }
            | Step::Park { .. } => statement,
        }
    }

    pub(super) async fn at_server(&self, step: &Step, token: &Token) -> Result<Evidence, StepError> {
        let within = self.patience(step);
        let Some(agent) = self.agents.get(step.instance()) else { return self.directly(step, within).await };
        let seen = agent.step(token, step, within).await?;
        if let Step::Fence { instance, .. } | Step::Block { instance, .. } = step
            && step.is_satisfied(&seen)
        {
            self.fenced.note(&token.recovery, instance);
        }
        if let (Step::ArmSource { instance, .. }, Some(report)) = (step, &seen.report) {
            self.armed.note(&token.recovery, instance, report.executed.clone());
        }
        Ok(seen)
    }

    /// By SQL from here, for a server without an agent.
    async fn directly(&self, step: &Step, within: Duration) -> Result<Evidence, StepError> {
        let instance = step.instance();
        let deadline = Instant::now() + within;
        let mut connection = self.connect(instance, deadline).await?;
        let read_only = |on| Step::SetReadOnly { instance: instance.clone(), on };
        let instead = if let Step::Open { .. } = step {
            Some(read_only(false))
        } else if let Step::Admit { .. } = step {
            Some(read_only(true))
        } else {
            None
        };
        let wanted = instead.as_ref().unwrap_or(step);
        control::apply(&mut connection, wanted, &self.env).await.map_err(failed)?;
        if let Step::Admit { .. } = step {
            let quiet = self.cluster.policy.events == EventsPolicy::Follow;
            if let Err(error) = control::boots_closed(&mut connection, quiet, deadline).await {
                tracing::warn!(%instance, error = %error, "whoever starts this server may find it writable");
            }
        }
        if let Step::Events { .. } = step {
            let events = events::read(&mut connection, deadline).await.map_err(failed)?;
            return Ok(Evidence { events: Some(events), ..Evidence::default() });
        }
        let furnished = matches!(step, Step::Furnish { .. });
        Ok(Evidence { furnished, ..self.report(&mut connection, deadline).await? })
    }

    pub(super) async fn connect(
        &self,
        instance: &InstanceId,
        deadline: Instant,
    ) -> Result<Connection, StepError> {
        let within = deadline.saturating_duration_since(Instant::now());
        let opened = Connection::open(&Target::from(instance), &self.admin, &self.tls, None, deadline).await;
        opened.map_err(|error| StepError::unseen(&error.unseen, within, error.to_string()))
    }

    /// What sessions do there; of the server that is to lead also what its replicas will need.
    pub(super) async fn sessions(
        &self,
        instance: &InstanceId,
        leads_next: bool,
        deadline: Instant,
    ) -> Result<Sessions, StepError> {
        let mut connection = self.connect(instance, deadline).await?;
        let replication = leads_next.then_some(&self.env.replication);
        sessions::sessions(&mut connection, replication, deadline).await.map_err(failed)
    }

    /// What a server says that is no member yet.
    pub(super) async fn meet(&self, instance: &InstanceId, deadline: Instant) -> Result<Report, StepError> {
        let mut connection = self.connect(instance, deadline).await?;
        probe::report(&mut connection, deadline).await.map_err(failed)
    }

    async fn report(&self, connection: &mut Connection, deadline: Instant) -> Result<Evidence, StepError> {
        let report = probe::report(connection, deadline).await.map_err(failed)?;
        Ok(Evidence { report: Some(report), ..Evidence::default() })
    }

    async fn look(&self, instance: &InstanceId) -> Result<Evidence, StepError> {
        let within = self.cluster.policy.statement;
        match self.agents.get(instance) {
            Some(agent) => {
                let status = agent.status(within).await?;
                Ok(Evidence {
                    report: status.server.clone().ok(),
                    agent: Some(status),
                    ..Evidence::default()
                })
            }
            None => {
                let deadline = Instant::now() + within;
                let mut connection = self.connect(instance, deadline).await?;
                self.report(&mut connection, deadline).await
            }
        }
    }

    async fn register(
        &self,
        primary: &InstanceId,
        generation: Generation,
        ackers: &[InstanceId],
        (acks, degraded): (u32, Option<&str>),
        token: &Token,
    ) -> Result<Evidence, StepError> {
        let mut registration = Registration {
            primary: primary.clone(),
            generation,
            ballot: token.ballot.clone(),
            ackers: ackers.to_vec(),
            acks,
            degraded: degraded.map(str::to_owned),
            automatic: token.automatic,
            base: None,
        };
        if registration.starts_new_guarantee(self.record().await?.as_ref()) {
            registration.base = self.base(primary, token).await;
        }
        self.change(RecordChange::Register(Box::new(registration))).await
    }

    /// What `primary` had when it was armed; what it has now where nothing is known of that.
    async fn base(&self, primary: &InstanceId, token: &Token) -> Option<GtidSet> {
        if let Some(armed) = self.armed.of(&token.recovery, primary) {
            return Some(armed);
        }
        let deadline = Instant::now() + self.cluster.policy.statement;
        let look = async { self.report(&mut self.connect(primary, deadline).await?, deadline).await };
        match look.await {
            Ok(seen) => seen.report.map(|report| report.executed),
            Err(error) => {
                tracing::warn!(%primary, error = %error, "what it had when it began to lead is not known");
                None
            }
        }
    }

    async fn change(&self, change: RecordChange) -> Result<Evidence, StepError> {
        let record = change_record(self, &change, clock::wall()).await?;
        Ok(Evidence { record: Some(record), ..Evidence::default() })
    }
}

impl RecordStore for LiveWorld {
    async fn record(&self) -> Result<Option<ClusterRecord>, RecordError> {
        self.store.record(&self.cluster.name).await.map_err(|error| RecordError::Store(error.to_string()))
    }

    async fn save_record(&self, record: &ClusterRecord) -> Result<(), RecordError> {
        self.store.save_record(&self.cluster.name, record).await.map_err(|error| match error {
            StoreError::StaleRecord { .. } => RecordError::Stale,
            error @ (StoreError::Open { .. }
            | StoreError::Lock { .. }
            | StoreError::Taken { .. }
            | StoreError::Sql(_)
            | StoreError::Decode(_)
            | StoreError::Closed
            | StoreError::Random(_)) => RecordError::Store(error.to_string()),
        })
    }
}

pub(super) fn failed(error: impl std::fmt::Display) -> StepError {
    StepError::Failed(error.to_string())
}
