//! The only thing about the world that `decide` is given: the newest observations by instance and vantage.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::ballot::Generation;
use super::cluster::Cluster;
use super::events::ServerEvents;
use super::gtid::GtidSet;
use super::instance::InstanceId;
use super::observation::{AgentSeen, AgentStatus, Observation, Probe, Unseen, Vantage};
use super::record::ClusterRecord;
use super::report::Report;
use super::time::Moment;

/// Uptime is told in whole seconds; looks take time. Less lost than this is no restart.
const RESTART_SLACK: Duration = Duration::from_secs(2);

/// Probes kept per instance.
const PROBES_KEPT: usize = 32;

/// Everything known of one server.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Seen {
    /// The last answer, whoever got it, kept after the server fell silent.
    pub last_report: Option<(Moment, Report)>,
    /// The manager's newest own look, good or bad.
    pub manager: Option<Observation>,
    /// Since when every own look has failed.
    pub failing_since: Option<Moment>,
    /// When its executed set was last seen to grow: commits make progress.
    pub moved_at: Option<Moment>,
    /// When its replication stream was last seen to bring something, event or heartbeat, by our own looks (S2).
    pub stream_moved_at: Option<Moment>,
    /// When its server was last seen to have restarted; `None` if it never did while we looked.
    pub restarted_at: Option<Moment>,
    /// What the primary had when it was first asked after that restart: all that this server may have acknowledged before it.
    #[serde(default)]
    pub to_reach: Option<GtidSet>,
    /// It has been level with the primary since that restart: it has all of `to_reach`.
    pub level_since_restart: bool,
    /// Transactions it executed that the primary, asked later, did not have.
    pub errant: Option<GtidSet>,
    /// When it last said what it has, and the primary, asked later, had all of that: what it has beyond came to it since.
    #[serde(default)]
    pub held_in_common_at: Option<Moment>,
    pub agent: Option<AgentSeen>,
    /// Since when the agent's stream is broken. `None` while it is up, or without an agent.
    pub agent_lost_at: Option<Moment>,
    pub probes: VecDeque<Probe>,
    /// Its scheduled events as the manager last read them, kept after the server fell silent; not over a recovery.
    #[serde(default)]
    pub events: Option<(Moment, ServerEvents)>,
}

impl Seen {
    /// Nobody has tried to hear its agent yet.
    pub fn agent_untried(&self) -> bool {
        self.agent.is_none() && self.agent_lost_at.is_none()
    }

    /// Takes in a new answer, noting what changed since the last one.
    fn take_report(&mut self, at: Moment, report: &Report) {
        if let Some((before_at, before)) = &self.last_report {
            let elapsed = at.since(*before_at);
            if report.uptime + RESTART_SLACK < before.uptime + elapsed {
                self.restarted_at = Some(at);
                self.to_reach = None;
                self.level_since_restart = false;
            }
            if report.executed != before.executed {
                self.moved_at = Some(at);
            }
            let sign = |report: &Report| {
                report.channel().map(|c| (c.heartbeats, c.received.clone(), c.read_to.clone()))
            };
            if sign(report) != sign(before) {
                self.stream_moved_at = Some(at);
            }
        } else {
            self.moved_at = Some(at);
            self.stream_moved_at = Some(at);
        }
        self.last_report = Some((at, report.clone()));
    }

    /// A restart may have lost what was acknowledged before it, so that only an answer the primary gives later tells what has to be
    /// there. That one answer stands: under load no two looks at two servers ever show the same.
    fn note_level(&mut self, primary: Option<&(Moment, GtidSet)>) {
        let Some(restarted_at) = self.restarted_at.filter(|_| !self.level_since_restart) else { return };
        if self.to_reach.is_none() {
            self.to_reach =
                primary.filter(|(at, _)| *at > restarted_at).map(|(_, executed)| executed.clone());
        }
        let Some((_, report)) = &self.last_report else { return };
        if self.to_reach.as_ref().is_some_and(|all| report.known().contains(all)) {
            self.level_since_restart = true;
            self.to_reach = None;
        }
    }

    /// It has run without a restart since then at least, by its own word.
    pub fn runs_since(&self, then: Moment) -> bool {
        let runs = |(at, report): &(Moment, Report)| report.uptime > at.since(then) + RESTART_SLACK;
        self.last_report.as_ref().is_some_and(runs)
    }

    /// Its acknowledgements still stand: it did not restart since, or has been level since (S13).
    pub fn is_in_good_standing(&self) -> bool {
        self.restarted_at.is_none() || self.level_since_restart
    }

    /// The last answer if the newest own look was one.
    pub fn report(&self) -> Option<&Report> {
        self.manager.as_ref().and_then(|look| look.seen.as_ref().ok())
    }

    /// How the newest own look failed.
    pub fn unseen(&self) -> Option<&Unseen> {
        self.manager.as_ref().and_then(|look| look.seen.as_ref().err())
    }

    /// The agent's word while its stream is up.
    pub fn agent_now(&self) -> Option<&AgentStatus> {
        match self.agent_lost_at {
            None => self.agent.as_ref().map(|seen| &seen.status),
            Some(_) => None,
        }
    }

    /// The newest answer by whichever way: own look, or the agent's socket.
    pub fn latest(&self) -> Option<&Report> {
        self.report().or_else(|| self.agent_now().and_then(|agent| agent.server.as_ref().ok()))
    }
}

/// A voter's word about its grants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Granted {
    /// When it was said.
    pub at: Moment,
    /// The highest generation it knows.
    pub generation: Generation,
    /// How long before that it last granted; `None` if it never did.
    pub ago: Option<Duration>,
}

/// The world as this manager sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClusterView {
    pub cluster: Cluster,
    pub record: Option<ClusterRecord>,
    pub seen: BTreeMap<InstanceId, Seen>,
    /// When a voter's host that is no member last granted the lease, by its own word.
    #[serde(default)]
    pub grants: BTreeMap<String, Granted>,
    /// When this manager began to look: it acts only on evidence gathered since.
    pub since: Moment,
}

impl ClusterView {
    /// Nothing seen yet.
    pub fn new(cluster: Cluster, record: Option<ClusterRecord>, since: Moment) -> Self {
        let seen = cluster.members.iter().map(|member| (member.instance.clone(), Seen::default())).collect();
        Self { cluster, record, seen, grants: BTreeMap::new(), since }
    }

    /// Other members: what is known of those that stay is kept.
    pub fn follow_members(&mut self, cluster: Cluster) {
        self.seen.retain(|instance, _| cluster.member(instance).is_some());
        for member in &cluster.members {
            self.seen.entry(member.instance.clone()).or_default();
        }
        self.cluster = cluster;
    }

    /// What is known of that member; nothing for a stranger.
    pub fn of(&self, instance: &InstanceId) -> Option<&Seen> {
        self.seen.get(instance)
    }

    /// Takes in one look. Looks at strangers are dropped: the configuration decides who is a member.
    pub fn record_look(&mut self, look: Observation) {
        let Some(seen) = self.seen.get_mut(&look.of) else { return };
        let instance = look.of.clone();
        match &look.seen {
            Ok(report) => {
                seen.take_report(look.at, report);
                seen.failing_since = None;
            }
            Err(_) => {
                seen.failing_since.get_or_insert(look.at);
            }
        }
        seen.manager = Some(look);
        self.compare(&instance);
    }

    /// After a new report of `instance`: what the others have that the primary, asked later, has not, and who is level again.
    fn compare(&mut self, instance: &InstanceId) {
        let Some(primary) = self.primary().cloned() else { return };
        // Sets are long: they are copied only where something is compared with them.
        if *instance != primary && self.of(instance).is_none_or(Seen::is_in_good_standing) {
            return;
        }
        let told = self.seen.get(&primary).and_then(|seen| seen.last_report.as_ref());
        let told = told.map(|(at, report)| (*at, report.executed.clone()));
        if *instance != primary {
            if let Some(seen) = self.seen.get_mut(instance) {
                seen.note_level(told.as_ref());
            }
            return;
        }
        let Some(told) = told else { return };
        for (_, seen) in self.seen.iter_mut().filter(|(other, _)| **other != primary) {
            let Some((at, report)) = &seen.last_report else { continue };
            if *at <= told.0 {
                let extra = report.executed.minus(&told.1);
                if extra.is_empty() && told.1.contains(&report.known()) {
                    seen.held_in_common_at = Some(*at);
                }
                seen.errant = (!extra.is_empty()).then_some(extra);
            }
            seen.note_level(Some(&told));
        }
    }

    /// Takes in one agent's word.
    pub fn record_agent(&mut self, instance: &InstanceId, at: Moment, status: AgentStatus) {
        let Some(seen) = self.seen.get_mut(instance) else { return };
        if let Ok(report) = &status.server {
            let asked_at = at.back(status.server_age);
            if seen.last_report.as_ref().is_none_or(|(when, _)| *when <= asked_at) {
                seen.take_report(asked_at, report);
            }
        }
        seen.agent_lost_at = None;
        seen.agent = Some(AgentSeen { at, status });
        self.compare(instance);
    }

    /// The agent's stream broke.
    pub fn record_agent_lost(&mut self, instance: &InstanceId, at: Moment) {
        if let Some(seen) = self.seen.get_mut(instance) {
            seen.agent_lost_at.get_or_insert(at);
        }
    }

    /// Takes in one probe from another host.
    pub fn record_probe(&mut self, probe: Probe) {
        let Some(seen) = self.seen.get_mut(&probe.of) else { return };
        seen.probes.retain(|old| old.from != probe.from);
        seen.probes.push_back(probe);
        while seen.probes.len() > PROBES_KEPT {
            seen.probes.pop_front();
        }
    }

    /// Takes in what a server said of its scheduled events.
    pub fn record_events(&mut self, of: &InstanceId, at: Moment, events: ServerEvents) {
        if let Some(seen) = self.seen.get_mut(of) {
            seen.events = Some((at, events));
        }
    }

    /// A recovery has ended: what was said of events before is no news.
    pub fn forget_events(&mut self) {
        self.seen.values_mut().for_each(|seen| seen.events = None);
    }

    /// Takes in what a voter's host says of its grants. Members' agents say it in their status.
    pub fn record_grant(&mut self, host: &str, granted: Granted) {
        if self.cluster.voters.iter().any(|voter| voter.host == host) {
            self.grants.insert(host.to_owned(), granted);
        }
    }

    /// The primary: the recorded one; before adoption, the single writable server that others replicate from.
    pub fn primary(&self) -> Option<&InstanceId> {
        if let Some(record) = &self.record {
            return Some(&record.primary);
        }
        let mut writable =
            self.seen.iter().filter(|(_, seen)| seen.latest().is_some_and(Report::is_writable));
        match (writable.next(), writable.next()) {
            (Some((only, _)), None) => Some(only),
            (Some(_), Some(_)) | (None, _) => None,
        }
    }

    /// Every member but the primary, in configuration order.
    pub fn replicas(&self) -> impl Iterator<Item = (&InstanceId, &Seen)> {
        let primary = self.primary();
        self.cluster
            .members
            .iter()
            .map(|member| &member.instance)
            .filter(move |instance| Some(*instance) != primary)
            .filter_map(|instance| self.seen.get_key_value(instance))
    }

    /// The newest probe of `of` from `from`, if it is younger than `age`.
    pub fn fresh_probe(&self, of: &InstanceId, from: &Vantage, now: Moment, age: Duration) -> Option<&Probe> {
        let seen = self.seen.get(of)?;
        seen.probes.iter().find(|probe| probe.from == *from && now.since(probe.at) <= age)
    }
}
