//! Which loops look at what: a probe loop per server always, ping and sentinel at the primary, other hosts' probes while the
//! primary does not answer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::agents::{self, Lookout};
use super::cluster_task::ClusterTask;
use super::event::Event;
use super::inventory;
use super::leadership::Leadership;
use super::monitor::{self, Watched};
use super::scheduled;
use crate::agent::client::AgentClient;
use crate::agent::wire::Electorate;
use crate::decide::diagnose::Diagnosis;
use crate::model::cluster::ClusterName;
use crate::model::instance::InstanceId;
use crate::model::observation::{Observation, Unseen};
use crate::model::time::Moment;
use crate::model::verdict::Verdict;
use crate::model::view::{ClusterView, Seen};
use crate::vital::vital;

/// Between two rounds of probes from other hosts.
const PROBE_EVERY: Duration = Duration::from_millis(400);

/// Between two questions to a voter's host that is no member's, while nothing is the matter with the primary.
const ASK_VOTERS_EVERY: Duration = Duration::from_secs(5);

/// All loops of one cluster.
#[derive(Debug)]
pub(super) struct Watchers {
    watched: BTreeMap<InstanceId, Watched>,
    nudges: BTreeMap<InstanceId, Arc<Notify>>,
    /// By host: members' agents, witnesses, and this host where it votes.
    lookouts: BTreeMap<String, Lookout>,
    cluster: ClusterName,
    leadership: Arc<Leadership>,
    events: mpsc::Sender<Event>,
    tracker: TaskTracker,
    stop: CancellationToken,
    /// Whom ping and sentinel look at, and what ends them.
    at_primary: Option<(InstanceId, CancellationToken)>,
    probed_at: Option<Moment>,
    voters_asked_at: Option<Moment>,
}

impl Watchers {
    /// Starts a probe loop per server.
    pub(super) fn start(
        watched: Vec<Watched>,
        lookouts: BTreeMap<String, Lookout>,
        leadership: Arc<Leadership>,
        events: mpsc::Sender<Event>,
        tracker: TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        let mut nudges = BTreeMap::new();
        for one in &watched {
            let (nudge, reconnected) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
            let bells = (Arc::clone(&nudge), Arc::clone(&reconnected));
            tracker.spawn(vital("look", monitor::watch(one.clone(), events.clone(), bells, stop.clone())));
            let inventory = inventory::watch(one.clone(), events.clone(), reconnected, stop.clone());
            tracker.spawn(vital("inventory", inventory));
            tracker.spawn(vital("events", scheduled::watch(one.clone(), events.clone(), stop.clone())));
            nudges.insert(one.instance.clone(), nudge);
        }
        let watched = watched.into_iter().map(|one| (one.instance.clone(), one)).collect();
        Self {
            watched,
            nudges,
            lookouts,
            cluster: leadership.cluster().clone(),
            leadership,
            events,
            tracker,
            stop,
            at_primary: None,
            probed_at: None,
            voters_asked_at: None,
        }
    }

    /// Looks closer where the diagnosis wants it.
    pub(super) fn follow(&mut self, view: &ClusterView, diagnosis: &Diagnosis, now: Moment) {
        let primary = view.primary().cloned();
        if self.at_primary.as_ref().map(|(instance, _)| instance) != primary.as_ref() {
            if let Some((_, end)) = self.at_primary.take() {
                end.cancel();
            }
            self.at_primary =
                primary.clone().and_then(|instance| Some((instance.clone(), self.close_look(&instance)?)));
        }
        let unsure = match diagnosis.verdict {
            Verdict::UnreachablePrimary
            | Verdict::ManagerCutOff
            | Verdict::SilentPrimary
            | Verdict::MisconfiguredPrimary => true,
            Verdict::NotAdopted
            | Verdict::Starting
            | Verdict::Healthy
            | Verdict::Degraded
            | Verdict::DeadPrimary
            | Verdict::HungPrimary
            | Verdict::OverloadedPrimary
            | Verdict::BlockedForAcks
            | Verdict::ClosedPrimary
            | Verdict::IsolatedPrimary
            | Verdict::DeadPrimaryAndReplicas
            | Verdict::SplitBrain => false,
        };
        if let Some(primary) = primary.filter(|_| unsure) {
            self.probe_from_everywhere(&primary, now);
        }
        if self.voters_asked_at.is_none_or(|at| now.since(at) >= ASK_VOTERS_EVERY) {
            self.voters_asked_at = Some(now);
            self.ask_voters(view);
            let leadership = Arc::clone(&self.leadership);
            self.tracker.spawn(vital("membership", async move { leadership.introduce_untold().await }));
        }
    }

    /// The connection to that one leads to another server: the next look is over a new one.
    pub(super) fn reconnect(&self, instance: &InstanceId) {
        if let Some(watched) = self.watched.get(instance) {
            watched.reconnect.store(true, Ordering::Relaxed);
        }
    }

    /// Looks at everything now.
    pub(super) fn nudge_all(&self) {
        for nudge in self.nudges.values() {
            nudge.notify_one();
        }
    }

    fn close_look(&self, instance: &InstanceId) -> Option<CancellationToken> {
        let (watched, nudge) = (self.watched.get(instance)?, self.nudges.get(instance)?);
        let end = self.stop.child_token();
        self.tracker.spawn(vital("ping", monitor::ping(watched.clone(), Arc::clone(nudge), end.clone())));
        let sentinel =
            monitor::sentinel(watched.clone(), self.events.clone(), Arc::clone(nudge), end.clone());
        self.tracker.spawn(vital("sentinel", sentinel));
        Some(end)
    }

    /// A member's agent is heard by its stream. A witness would be missed only when its vote is needed.
    fn ask_voters(&self, view: &ClusterView) {
        let is_member = |host: &str| view.cluster.members.iter().any(|member| member.instance.host == host);
        for (host, lookout) in self.lookouts.iter().filter(|(host, _)| !is_member(host)) {
            let (electorate, _) = self.electorate(view);
            let asking = agents::ask_voter(lookout.clone(), host.clone(), electorate, self.events.clone());
            self.tracker.spawn(vital("voter", asking));
            if let Lookout::Own(votes) = lookout {
                self.tracker.spawn(vital(
                    "vote",
                    agents::own_vote_learns(votes.clone(), host.clone(), self.electorate(view)),
                ));
            }
        }
    }

    /// Who votes, and how they are asked.
    fn electorate(&self, view: &ClusterView) -> (Electorate, BTreeMap<String, Arc<AgentClient>>) {
        let electorate = Electorate {
            ballot: self.leadership.ballot(),
            cluster: self.cluster.clone(),
            voters: view.cluster.voters.clone(),
            policy: view.cluster.policy.clone(),
        };
        let clients = self.lookouts.iter().filter_map(|(host, lookout)| match lookout {
            Lookout::Agent(client) => Some((host.clone(), Arc::clone(client))),
            Lookout::Own(_) => None,
        });
        (electorate, clients.collect())
    }

    fn probe_from_everywhere(&mut self, primary: &InstanceId, now: Moment) {
        if self.probed_at.is_some_and(|at| now.since(at) < PROBE_EVERY) {
            return;
        }
        self.probed_at = Some(now);
        for (host, lookout) in self.lookouts.iter().filter(|(host, _)| **host != primary.host) {
            let (cluster, primary) = (self.cluster.clone(), primary.clone());
            let probing = agents::probe(lookout.clone(), host.clone(), cluster, primary, self.events.clone());
            self.tracker.spawn(vital("probe", probing));
        }
    }
}

impl ClusterTask {
    /// Takes in a look. One that reached another server is taken again over a new connection.
    pub(super) fn take_look(&mut self, look: Observation) {
        let of = look.of.clone();
        self.view.record_look(look);
        if let Some(Unseen::WrongServer(_)) = self.view.of(&of).and_then(Seen::unseen) {
            self.watchers.reconnect(&of);
        }
    }
}
