//! The world for real: each step goes to whom it concerns. To the agent beside the server where there is one, to the server itself
//! otherwise, to the voters, to the store.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::stream::FuturesUnordered;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::direct;
use crate::agent::client::AgentClient;
use crate::agent::wire::{BringRequest, NoteRecord, SalvageReply, SalvageRequest};
use crate::clock;
use crate::decide::lease::voter::{Claim, Claimed};
use crate::decide::plan::{Evidence, Step, TrafficOrder};
use crate::execute::compose::{LogTail, Primitives, ServerSession, Voter, claim_until_answered};
use crate::execute::record::{RecordError, RecordStore, noted_by};
use crate::execute::world::{StepError, Token};
use crate::model::ballot::{Ballot, Generation};
use crate::model::cluster::Cluster;
use crate::model::events::EventsPolicy;
use crate::model::gtid::GtidSet;
use crate::model::instance::InstanceId;
use crate::model::record::ClusterRecord;
use crate::model::report::Report;
use crate::model::sessions::{OpenTransaction, Sessions};
use crate::mysql::control::{self, ControlEnv, ControlError};
use crate::mysql::{Account, Connection, Target, Tls, events, probe, sessions};
use crate::store::{Store, StoreError};

const NO_AGENT: &str = "no agent beside it";
/// How long a voter may take to write down which record was written.
const TELL_TIMEOUT: Duration = Duration::from_secs(1);

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
    /// The highest ballot a voter has refused a claim for.
    pub(super) outbid: std::sync::Mutex<Option<Ballot>>,
}

impl LiveWorld {
    /// The ballot of another manager that a voter obeyed when it refused a claim.
    pub(super) fn outbid(&self) -> Option<Ballot> {
        self.outbid.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note_outbid(&self, answer: &Claimed) {
        let Claimed::OlderBallot { accepted } = answer else { return };
        let mut known = self.outbid.lock().unwrap_or_else(PoisonError::into_inner);
        if known.as_ref().is_none_or(|known| known.number < accepted.number) {
            *known = Some(accepted.clone());
        }
    }
}

impl Primitives for LiveWorld {
    type Session = LiveSession;

    fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    fn wall(&self) -> DateTime<Utc> {
        clock::wall()
    }

    async fn sleep(&self, span: Duration) {
        tokio::time::sleep(span).await;
    }

    fn has_agent(&self, instance: &InstanceId) -> bool {
        self.agents.contains_key(instance)
    }

    async fn step(&self, step: &Step, token: &Token, timeout: Duration) -> Result<Evidence, StepError> {
        if let Step::AckersAttached { .. } = step {
            return self.attached(step, token, timeout).await;
        }
        self.at_server(step, token, timeout).await
    }

    async fn look(&self, instance: &InstanceId, timeout: Duration) -> Result<Evidence, StepError> {
        match self.agents.get(instance) {
            Some(agent) => {
                let status = agent.status(timeout).await?;
                Ok(Evidence {
                    report: status.server.clone().ok(),
                    agent: Some(status),
                    ..Evidence::default()
                })
            }
            None => {
                let deadline = Instant::now() + timeout;
                let mut connection = self.connect(instance, deadline).await?;
                self.report(&mut connection, deadline).await
            }
        }
    }

    fn ask_voter(
        &self,
        host: &str,
        claim: &Claim,
        patience: Duration,
    ) -> impl Future<Output = Result<Claimed, String>> {
        let asked = self.voters.get(host).map(|voter| {
            let asking = claim_until_answered(LiveVoter(Arc::clone(voter)), claim.clone(), patience);
            self.tracker.spawn(asking)
        });
        async move {
            match asked {
                Some(answer) => {
                    let answer = answer.await.map_err(|error| error.to_string())?;
                    answer.iter().for_each(|answer| self.note_outbid(answer));
                    answer
                }
                None => Err("no agent is known there".to_owned()),
            }
        }
    }

    async fn session(&self, instance: &InstanceId, deadline: Instant) -> Result<LiveSession, StepError> {
        let connection = self.connect(instance, deadline).await?;
        Ok(LiveSession { connection, instance: instance.clone(), env: self.env.clone() })
    }

    async fn read_log(
        &self,
        from: &InstanceId,
        beyond: &GtidSet,
        within: Duration,
        token: &Token,
    ) -> Result<LogTail, String> {
        let Some(agent) = self.agents.get(from) else { return Err(NO_AGENT.to_owned()) };
        let request = SalvageRequest { token: token.clone(), beyond: beyond.clone(), within };
        let SalvageReply { statements, transactions, complete, trouble } =
            agent.salvage(&request).await.map_err(|error| error.to_string())?;
        Ok(LogTail { statements, transactions, complete, trouble })
    }

    async fn bring(
        &self,
        to: &InstanceId,
        statements: Vec<String>,
        within: Duration,
        token: &Token,
    ) -> Result<Evidence, StepError> {
        let Some(agent) = self.agents.get(to) else { return Err(failed(NO_AGENT)) };
        agent.bring(&BringRequest { token: token.clone(), statements, within }).await
    }

    async fn direct(
        &self,
        instance: &InstanceId,
        order: TrafficOrder,
        generation: Generation,
        recovery: &str,
    ) -> Result<(), StepError> {
        direct::direct(&self.cluster, instance, order, generation, recovery).await
    }
}

/// A voter by its agent.
struct LiveVoter(Arc<AgentClient>);

impl Voter for LiveVoter {
    async fn claim(&self, claim: &Claim, timeout: Duration) -> Result<Claimed, String> {
        self.0.claim(claim, timeout).await.map_err(|error| error.to_string())
    }
}

/// A connection to a server, as an administrator.
#[derive(Debug)]
pub(super) struct LiveSession {
    connection: Connection,
    instance: InstanceId,
    env: ControlEnv,
}

impl ServerSession for LiveSession {
    async fn report(&mut self, deadline: Instant) -> Result<Report, StepError> {
        probe::report(&mut self.connection, deadline).await.map_err(failed)
    }

    async fn wait_applied(&mut self, set: &GtidSet, within: Duration) -> Result<bool, StepError> {
        let wanted = Step::WaitApplied { instance: self.instance.clone(), set: set.clone(), within };
        match control::apply(&mut self.connection, &wanted, &self.env).await {
            Ok(()) => Ok(true),
            Err(ControlError::NotApplied { .. }) => Ok(false),
            Err(error) => Err(failed(error)),
        }
    }

    async fn open_transactions(&mut self, deadline: Instant) -> Result<Vec<OpenTransaction>, StepError> {
        sessions::open_transactions(&mut self.connection, deadline).await.map_err(failed)
    }

    async fn end_transaction(&mut self, open: &OpenTransaction, deadline: Instant) -> Result<(), StepError> {
        sessions::end_session(&mut self.connection, open.session, deadline).await;
        Ok(())
    }
}

impl LiveWorld {
    /// By its agent, where it has one.
    pub(super) async fn at_server(
        &self,
        step: &Step,
        token: &Token,
        timeout: Duration,
    ) -> Result<Evidence, StepError> {
        match self.agents.get(step.instance()) {
            Some(agent) => agent.step(token, step, timeout).await,
            None => self.directly(step, timeout).await,
        }
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
            | StoreError::Unfinished { .. }
            | StoreError::Sql(_)
            | StoreError::Decode(_)
            | StoreError::Closed
            | StoreError::Random(_)) => RecordError::Store(error.to_string()),
        })
    }

    async fn note_record(&self, record: &ClusterRecord) -> Result<(), RecordError> {
        // Those whose votes this very record takes away are destroyed, and answer no more.
        let voters: Vec<_> = self.voters.iter().filter(|(host, _)| record.has_vote(host)).collect();
        if voters.is_empty() {
            return Ok(());
        }
        let needed = voters.len() / 2 + 1;
        let note = &NoteRecord { cluster: self.cluster.name.clone(), recorded: record.recorded() };
        let answers: FuturesUnordered<_> = voters
            .into_iter()
            .map(|(host, voter)| async move {
                voter.note_record(note, TELL_TIMEOUT).await.map_err(|error| format!("{host}: {error}"))
            })
            .collect();
        noted_by(needed, answers).await
    }
}

pub(super) fn failed(error: impl std::fmt::Display) -> StepError {
    StepError::Failed(error.to_string())
}
