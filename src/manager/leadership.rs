//! This manager's ballot: accepted by a majority of voters before its first effect. A new lead never touches a healthy lease.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::join_all;

use crate::agent::client::{AgentClient, CallError};
use crate::agent::wire::{Lead, Membership};
use crate::decide::lease::voter::Led;
use crate::model::ballot::{Ballot, Generation};
use crate::model::cluster::Cluster;
use crate::model::instance::InstanceId;
use crate::model::record::ClusterRecord;
use crate::store::{Store, StoreError};

/// Deadline of one call.
const CALL: Duration = Duration::from_secs(1);
/// Rounds of outbidding before giving up for now.
const ROUNDS: u32 = 5;

/// Why this manager does not lead.
#[derive(Debug, thiserror::Error)]
pub(super) enum LeadError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("only {heard} of the {needed} voters needed answer; not heard: {missing}")]
    TooFew { heard: usize, needed: usize, missing: String },
    #[error("another manager keeps outbidding this one (ballot {0}); stop one of the two")]
    Outbid(Ballot),
}

/// Leads one cluster.
#[derive(Debug)]
pub(super) struct Leadership {
    cluster: Cluster,
    store: Store,
    /// By host.
    voters: BTreeMap<String, Arc<AgentClient>>,
    agents: BTreeMap<InstanceId, Arc<AgentClient>>,
    led: Mutex<(Ballot, Option<ClusterRecord>)>,
}

impl Leadership {
    pub(super) fn new(
        cluster: Cluster,
        store: Store,
        voters: BTreeMap<String, Arc<AgentClient>>,
        agents: BTreeMap<InstanceId, Arc<AgentClient>>,
        led: (Ballot, Option<ClusterRecord>),
    ) -> Self {
        Self { cluster, store, voters, agents, led: Mutex::new(led) }
    }

    /// The ballot this manager leads with; number 0 before it leads.
    pub(super) fn ballot(&self) -> Ballot {
        self.led.lock().unwrap_or_else(PoisonError::into_inner).0.clone()
    }

    /// Takes the lead: the highest number anybody knows plus one, durable here first, then accepted by a majority of voters.
    /// Gives the highest ballot of another manager that any of them has obeyed.
    ///
    /// # Errors
    /// When too few voters answer, another manager keeps outbidding, or the store fails.
    pub(super) async fn lead(&self) -> Result<Ballot, LeadError> {
        let mut ballot = self.store.ballot().await?;
        let needed = self.cluster.majority().unwrap_or(0);
        for _ in 0..ROUNDS {
            ballot.number += 1;
            self.store.save_ballot(&ballot).await?;
            let answers = self.ask_all(&ballot).await;
            let highest = answers
                .iter()
                .filter_map(|(_, answer)| Some(&answer.as_ref().ok()?.ballot))
                .max_by_key(|b| b.number);
            let accepted =
                answers.iter().filter(|(_, answer)| answer.as_ref().is_ok_and(|led| led.accepted)).count();
            if accepted >= needed {
                self.led.lock().unwrap_or_else(PoisonError::into_inner).0 = ballot;
                let rivals = answers.iter().filter_map(|(_, answer)| Some(&answer.as_ref().ok()?.rival));
                return Ok(rivals.max_by_key(|rival| rival.number).cloned().unwrap_or_default());
            }
            let heard = answers.iter().filter(|(_, answer)| answer.is_ok()).count();
            if heard < needed {
                let missing =
                    answers.iter().filter(|(_, answer)| answer.is_err()).map(|(host, _)| host.as_str());
                return Err(LeadError::TooFew {
                    heard,
                    needed,
                    missing: missing.collect::<Vec<_>>().join(", "),
                });
            }
            ballot.number = ballot.number.max(highest.map_or(0, |ballot| ballot.number));
        }
        Err(LeadError::Outbid(ballot))
    }

    async fn ask_all(&self, ballot: &Ballot) -> Vec<(String, Result<Led, CallError>)> {
        let lead = Lead { cluster: self.cluster.name.clone(), ballot: ballot.clone() };
        let lead = &lead;
        join_all(
            self.voters
                .iter()
                .map(|(host, voter)| async move { (host.clone(), voter.lead(lead, CALL).await) }),
        )
        .await
    }

    /// Tells one agent who belongs to the cluster, under this manager's ballot.
    ///
    /// # Errors
    /// When it does not answer, or obeys another manager.
    pub(super) async fn introduce(&self, instance: &InstanceId) -> Result<(), CallError> {
        let Some(agent) = self.agents.get(instance) else { return Ok(()) };
        let (ballot, record) = self.led.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let membership = Membership {
            ballot,
            cluster: self.cluster.name.clone(),
            instance: instance.clone(),
            members: self.cluster.members.clone(),
            voters: self.cluster.voters.clone(),
            vip: self.cluster.vip.clone(),
            policy: self.cluster.policy.clone(),
            generation: record.as_ref().map_or(Generation::default(), |record| record.generation),
            primary: record.as_ref().map(|record| record.primary.clone()),
            acks: record.as_ref().map_or(0, |record| record.acks),
        };
        agent.member(&membership, CALL).await.map(drop)
    }

    /// Tells every agent of a new record. One that does not hear it now is told when its stream comes up.
    pub(super) async fn introduce_all(&self, record: Option<&ClusterRecord>) {
        self.led.lock().unwrap_or_else(PoisonError::into_inner).1 = record.cloned();
        let telling =
            self.agents.keys().map(|instance| async move { (instance, self.introduce(instance).await) });
        for (instance, told) in join_all(telling).await {
            if let Err(error) = told {
                tracing::debug!(%instance, %error, "not told of the new record");
            }
        }
    }
}
