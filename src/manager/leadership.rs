//! This manager's ballot: accepted by a majority of voters before its first effect. A new lead never touches a healthy lease.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::join_all;

use crate::agent::client::{AgentClient, CallError};
use crate::agent::wire::{Lead, Membership};
use crate::decide::lease::bid::{Bid, ROUNDS};
use crate::decide::lease::voter::Led;
use crate::model::ballot::{Ballot, Generation};
use crate::model::cluster::{Cluster, ClusterName, Mode};
use crate::model::instance::InstanceId;
use crate::model::overtaken::LedBefore;
use crate::model::record::ClusterRecord;
use crate::store::{Store, StoreError};

/// Deadline of one call.
const CALL: Duration = Duration::from_secs(1);

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
    /// It may be changed while the manager runs.
    mode: Mutex<Mode>,
    /// Agents whose last introduction failed, or is out of date.
    untold: Mutex<BTreeSet<InstanceId>>,
}

impl Leadership {
    pub(super) fn new(
        cluster: Cluster,
        store: Store,
        voters: BTreeMap<String, Arc<AgentClient>>,
        agents: BTreeMap<InstanceId, Arc<AgentClient>>,
        led: (Ballot, Option<ClusterRecord>),
    ) -> Self {
        let mode = Mutex::new(cluster.mode);
        Self { cluster, store, voters, agents, led: Mutex::new(led), mode, untold: Mutex::default() }
    }

    pub(super) fn cluster(&self) -> &ClusterName {
        &self.cluster.name
    }

    /// Agents are told of this mode from now on.
    pub(super) fn set_mode(&self, mode: Mode) {
        *self.mode.lock().unwrap_or_else(PoisonError::into_inner) = mode;
    }

    /// The ballot this manager leads with; number 0 before it leads.
    pub(super) fn ballot(&self) -> Ballot {
        self.led.lock().unwrap_or_else(PoisonError::into_inner).0.clone()
    }

    /// Takes the lead: the highest number anybody knows plus one, durable here first, then accepted by a majority of voters.
    /// Gives what they know of earlier leads.
    ///
    /// # Errors
    /// When too few voters answer, another manager keeps outbidding, or the store fails.
    pub(super) async fn lead(&self) -> Result<LedBefore, LeadError> {
        let needed = self.cluster.majority().unwrap_or(0);
        let mut bid = Bid::new(self.store.ballot().await?, needed);
        let mut ballot = Ballot::default();
        for _ in 0..ROUNDS {
            if bid.needs_an_id() {
                let id = self.store.new_id().await?;
                tracing::error!(cluster = %self.cluster.name, %ballot, new = %id, "another manager has led under this manager's id: this data directory is a copy of that one's, or older than this manager's last lead; it leads under a new id, and confirms its record first");
                bid.take_id(id);
            }
            ballot = bid.next_ballot();
            self.store.save_ballot(&ballot).await?;
            let answers = self.ask_all(&ballot).await;
            let led: Vec<&Led> = answers.iter().filter_map(|(_, answer)| answer.as_ref().ok()).collect();
            if let Some(before) = bid.heard(led.iter().copied()) {
                self.led.lock().unwrap_or_else(PoisonError::into_inner).0 = ballot;
                return Ok(before);
            }
            let heard = led.len();
            if heard < needed {
                let missing =
                    answers.iter().filter(|(_, answer)| answer.is_err()).map(|(host, _)| host.as_str());
                return Err(LeadError::TooFew {
                    heard,
                    needed,
                    missing: missing.collect::<Vec<_>>().join(", "),
                });
            }
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
    /// When it does not answer, or obeys another manager. [`Self::introduce_untold`] tries again.
    pub(super) async fn introduce(&self, instance: &InstanceId) -> Result<(), CallError> {
        let Some(agent) = self.agents.get(instance) else { return Ok(()) };
        let membership = self.membership(instance);
        let told = agent.member(&membership, CALL).await.map(drop);
        let mut untold = self.untold.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_ok() && membership == self.membership(instance) {
            untold.remove(instance);
        } else {
            untold.insert(instance.clone());
        }
        told
    }

    /// Tells those again that missed it, though their stream is up.
    pub(super) async fn introduce_untold(&self) {
        let untold = self.untold.lock().unwrap_or_else(PoisonError::into_inner).clone();
        join_all(untold.iter().map(|instance| async move {
            if let Err(error) = self.introduce(instance).await {
                tracing::debug!(%instance, %error, "still not told who belongs to the cluster");
            }
        }))
        .await;
    }

    /// What an agent is told of its cluster.
    fn membership(&self, instance: &InstanceId) -> Membership {
        let (ballot, record) = self.led.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Membership {
            ballot,
            cluster: self.cluster.name.clone(),
            instance: instance.clone(),
            members: self.cluster.members.clone(),
            voters: self.cluster.voters.clone(),
            vip: self.cluster.vip.clone(),
            mode: *self.mode.lock().unwrap_or_else(PoisonError::into_inner),
            policy: self.cluster.policy.clone(),
            generation: record.as_ref().map_or(Generation::default(), |record| record.generation),
            primary: record.as_ref().map(|record| record.primary.clone()),
            acks: record.as_ref().map_or(0, |record| record.acks),
        }
    }

    /// Tells every agent of a new record. One that does not hear it now is told when its stream comes up, or a few seconds later.
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use secrecy::SecretString;
    use tokio_util::sync::CancellationToken;
    use tokio_util::task::TaskTracker;

    use super::super::vote;
    use super::*;
    use crate::agent::client::Connections;
    use crate::agent::voter::Votes;
    use crate::model::cluster::Voter;
    use crate::model::policy::Policy;

    /// Three voters on this machine, as the managers reach them.
    async fn voters(directory: &Path, stop: &CancellationToken) -> BTreeMap<String, Arc<AgentClient>> {
        let connections = Connections::new().unwrap();
        let mut voters = BTreeMap::new();
        for host in ["v1", "v2", "v3"] {
            let listener = vote::bind(0).await.unwrap();
            let url = format!("http://127.0.0.1:{}", listener.local_addr().unwrap().port());
            let votes = Votes::open(&directory.join(host)).unwrap();
            let token = || SecretString::from("token");
            vote::spawn(listener, votes, host.to_owned(), token(), &TaskTracker::new(), stop);
            voters.insert(host.to_owned(), Arc::new(AgentClient::new(&connections, &url, token())));
        }
        voters
    }

    fn manager(directory: &Path, voters: &BTreeMap<String, Arc<AgentClient>>) -> Leadership {
        let voter = |(host, client): (&String, &Arc<AgentClient>)| Voter {
            host: host.clone(),
            url: client.url().to_owned(),
        };
        let cluster = Cluster {
            name: ClusterName("orders".to_owned()),
            mode: Mode::Auto,
            members: Vec::new(),
            vip: None,
            traffic: None,
            voters: voters.iter().map(voter).collect(),
            policy: Policy::default(),
        };
        std::fs::create_dir_all(directory).unwrap();
        let store = Store::open(directory).unwrap();
        Leadership::new(cluster, store, voters.clone(), BTreeMap::new(), (Ballot::default(), None))
    }

    fn copy(from: &Path, to: &Path) {
        std::fs::create_dir_all(to).unwrap();
        for entry in std::fs::read_dir(from).unwrap() {
            let path = entry.unwrap().path();
            std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_manager_on_a_copied_store_is_told_that_the_other_one_has_led() {
        let directory = tempfile::tempdir().unwrap();
        let (first, second) = (directory.path().join("first"), directory.path().join("second"));
        let stop = CancellationToken::new();
        let voters = voters(directory.path(), &stop).await;
        let original = manager(&first, &voters);
        assert_eq!(original.lead().await.unwrap().rival, Ballot::default());
        // Nothing writes to it now; a store that is being closed removes files.
        copy(&first, &second);
        assert_eq!(
            original.lead().await.unwrap().rival,
            Ballot::default(),
            "its own last lead is no rival's"
        );
        let led = original.ballot();
        let copied = manager(&second, &voters);
        assert_eq!(copied.lead().await.unwrap().rival, led);
        assert_ne!(copied.ballot().manager, led.manager);
        // A restart of it goes on under the new id, and is still told.
        let led_by_copy = copied.ballot();
        drop(copied);
        let copied = manager(&second, &voters);
        assert_eq!(copied.lead().await.unwrap().rival, led);
        assert_eq!(copied.ballot().manager, led_by_copy.manager);
        assert_eq!(
            original.lead().await.unwrap().rival,
            copied.ballot(),
            "and the first one is told of the copy"
        );
        assert_eq!(original.ballot().manager, led.manager);
        stop.cancel();
    }
}
