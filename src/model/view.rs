//! The only thing about the world that `decide` is given: the newest observations by instance and vantage.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::cluster::Cluster;
use super::instance::InstanceId;
use super::observation::{AgentSeen, AgentStatus, Observation, Probe, Unseen, Vantage};
use super::record::ClusterRecord;
use super::report::Report;
use super::time::Moment;

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
    pub agent: Option<AgentSeen>,
    /// Since when the agent's stream is broken. `None` while it is up, or without an agent.
    pub agent_lost_at: Option<Moment>,
    pub probes: VecDeque<Probe>,
}

impl Seen {
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

/// The world as this manager sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClusterView {
    pub cluster: Cluster,
    pub record: Option<ClusterRecord>,
    pub seen: BTreeMap<InstanceId, Seen>,
    /// When this manager began to look: it acts only on evidence gathered since.
    pub since: Moment,
}

impl ClusterView {
    /// Nothing seen yet.
    pub fn new(cluster: Cluster, record: Option<ClusterRecord>, since: Moment) -> Self {
        let seen = cluster.members.iter().map(|member| (member.instance.clone(), Seen::default())).collect();
        Self { cluster, record, seen, since }
    }

    /// What is known of that member; nothing for a stranger.
    pub fn of(&self, instance: &InstanceId) -> Option<&Seen> {
        self.seen.get(instance)
    }

    /// Takes in one look. Looks at strangers are dropped: the configuration decides who is a member.
    pub fn record_look(&mut self, look: Observation) {
        let Some(seen) = self.seen.get_mut(&look.of) else { return };
        match &look.seen {
            Ok(report) => {
                seen.last_report = Some((look.at, report.clone()));
                seen.failing_since = None;
            }
            Err(_) => {
                seen.failing_since.get_or_insert(look.at);
            }
        }
        seen.manager = Some(look);
    }

    /// Takes in one agent's word.
    pub fn record_agent(&mut self, instance: &InstanceId, at: Moment, status: AgentStatus) {
        let Some(seen) = self.seen.get_mut(instance) else { return };
        if let Ok(report) = &status.server {
            let asked_at = at.back(status.server_age);
            if seen.last_report.as_ref().is_none_or(|(when, _)| *when <= asked_at) {
                seen.last_report = Some((asked_at, report.clone()));
            }
        }
        seen.agent_lost_at = None;
        seen.agent = Some(AgentSeen { at, status });
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
