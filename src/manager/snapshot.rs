//! What the manager knows and thinks of one cluster, as one value: API, metrics and command line print nothing else.

use std::fmt;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::decide::candidate::Candidate;
use crate::decide::{Action, Decision, prospect, rejoin};
use crate::model::ballot::Generation;
use crate::model::cluster::{ClusterName, Mode, Stranger, VipAddress};
use crate::model::gtid::GtidSet;
use crate::model::instance::{InstanceId, Version};
use crate::model::intent::Intents;
use crate::model::job::Job;
use crate::model::observation::{Access, Process};
use crate::model::policy::Durability;
use crate::model::record::{Degraded, Parked};
use crate::model::report::ThreadState;
use crate::model::time::{Moment, millis};
use crate::model::verdict::Verdict;
use crate::model::view::{ClusterView, Seen};
use crate::model::wishes::Wishes;

/// The state of a member nobody has looked at.
pub const NOT_ASKED: &str = "not asked yet";

/// Whether a member's agent is heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Hearing {
    /// The configuration names no agent there.
    #[serde(rename = "none")]
    None,
    /// A manager's first moment, or a new member's: nobody tried yet.
    #[serde(rename = "not asked yet")]
    NotAsked,
    #[serde(rename = "not heard")]
    NotHeard,
    #[serde(rename = "ok")]
    Ok,
}

impl Hearing {
    /// Nothing is the matter: it is heard, or there is none to be heard.
    pub fn is_fine(self) -> bool {
        matches!(self, Self::Ok | Self::None)
    }
}

impl fmt::Display for Hearing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::None => "none",
            Self::NotAsked => NOT_ASKED,
            Self::NotHeard => "not heard",
            Self::Ok => "ok",
        })
    }
}

/// What the manager does about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Doing {
    /// Nothing is to be done.
    Rest,
    /// It waits for more evidence.
    Wait,
    /// Something should be done, and is refused.
    Refuse,
    Act,
}

/// One cluster at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// When this was decided.
    pub at: DateTime<Utc>,
    pub cluster: ClusterName,
    pub mode: Mode,
    pub verdict: Verdict,
    /// The decision in one sentence.
    pub sentence: String,
    pub doing: Doing,
    /// Every reason of a refusal.
    pub refused: Vec<String>,
    /// "If the primary died now"; empty while it does not serve.
    pub prospect: String,
    pub primary: Option<InstanceId>,
    pub generation: Generation,
    pub durability: Durability,
    /// Acknowledgements a commit waits for; 0 while nothing is armed.
    pub acks: u32,
    pub ackers: Vec<InstanceId>,
    /// Since when `lossless` is not in force, and why.
    pub degraded: Option<Degraded>,
    /// Members out of automatic hands, with the reason.
    pub parked: Vec<Parked>,
    /// What operators asked of single members, beside the configuration.
    #[serde(default, skip_serializing_if = "Wishes::is_empty")]
    pub wishes: Wishes,
    /// Rebuilds operators asked for that are not under way, or not any more, and begin as soon as they can.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waiting: Vec<Waiting>,
    pub vip: Option<VipAddress>,
    /// Who holds the VIP, by the agents' words.
    pub vip_on: Option<InstanceId>,
    pub evidence: Vec<String>,
    pub issues: Vec<String>,
    pub members: Vec<MemberSnapshot>,
    pub candidates: Vec<Candidate>,
    /// A recovery is running.
    pub recovering: bool,
    /// Why this manager does not lead; absent while it does.
    pub not_leading: Option<String>,
}

/// A rebuild that has still to begin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    pub instance: InstanceId,
    /// What it waits for.
    pub why: String,
}

/// One member at that moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MemberSnapshot {
    pub instance: InstanceId,
    pub role: String,
    /// "ok", or how it failed.
    pub state: String,
    pub version: Option<Version>,
    pub read_only: Option<bool>,
    pub executed: Option<GtidSet>,
    pub source: Option<InstanceId>,
    pub receiver: Option<ThreadState>,
    pub applier: Option<ThreadState>,
    /// `Seconds_Behind_Master`.
    pub seconds_behind: Option<u64>,
    /// Age of the newest write heartbeat applied: true lag.
    #[serde(rename = "heartbeat_age_ms", with = "millis::option")]
    pub heartbeat_age: Option<Duration>,
    /// Received and not yet applied.
    pub to_apply: u64,
    pub agent: Hearing,
    /// When its server was last asked and answered; absent while it does not.
    #[serde(default)]
    pub asked_at: Option<DateTime<Utc>>,
    pub access: Option<Access>,
    pub vip: bool,
    #[serde(rename = "lease_ms", with = "millis::option")]
    pub lease: Option<Duration>,
    /// What its host is busy with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<Job>,
}

impl Snapshot {
    pub(super) fn new(
        view: &ClusterView,
        decision: Decision,
        intents: &Intents,
        (now, at): (Moment, DateTime<Utc>),
        recovering: bool,
        not_leading: Option<String>,
    ) -> Self {
        let record = view.record.as_ref();
        let members: Vec<MemberSnapshot> = view
            .cluster
            .members
            .iter()
            .filter_map(|member| {
                Some(member_snapshot(view, &member.instance, view.of(&member.instance)?, (now, at)))
            })
            .collect();
        let (doing, refused) = match &decision.action {
            Action::Rest => (Doing::Rest, Vec::new()),
            Action::Wait { .. } => (Doing::Wait, Vec::new()),
            Action::Refuse { blockers } => {
                (Doing::Refuse, blockers.iter().map(ToString::to_string).collect())
            }
            Action::Act(_) => (Doing::Act, Vec::new()),
        };
        Self {
            at,
            cluster: view.cluster.name.clone(),
            mode: view.cluster.mode,
            verdict: decision.diagnosis.verdict,
            sentence: decision.sentence,
            doing,
            refused,
            prospect: prospect(view, intents, &decision.diagnosis, now, at),
            primary: view.primary().cloned(),
            generation: record.map_or(Generation::default(), |record| record.generation),
            durability: view.cluster.policy.durability,
            acks: record.map_or(0, |record| record.acks),
            ackers: record.map_or_else(Vec::new, |record| record.ackers.clone()),
            degraded: record.and_then(|record| record.degraded.clone()),
            parked: record.map_or_else(Vec::new, |record| record.parked.clone()),
            wishes: record.map_or_else(Wishes::default, |record| record.wishes.clone()),
            waiting: rejoin::waiting(view, intents, now)
                .map(|(instance, why)| Waiting { instance, why })
                .collect(),
            vip: view.cluster.vip.clone(),
            vip_on: members.iter().find(|member| member.vip).map(|member| member.instance.clone()),
            evidence: decision.diagnosis.evidence,
            issues: decision.diagnosis.issues,
            members,
            candidates: decision.ranking.candidates,
            recovering,
            not_leading,
        }
    }
}

impl Snapshot {
    /// Nothing where it is a member.
    pub fn stranger(&self, instance: &InstanceId) -> Option<Stranger> {
        Stranger::among(self.members.iter().map(|member| &member.instance), &self.cluster, instance)
    }
}

fn member_snapshot(
    view: &ClusterView,
    instance: &InstanceId,
    seen: &Seen,
    (now, at): (Moment, DateTime<Utc>),
) -> MemberSnapshot {
    let report = seen.latest();
    let channel = report.and_then(|report| report.channel());
    let agent = seen.agent_now();
    let state = match (report, agent) {
        (Some(_), _) => "ok".to_owned(),
        (None, Some(agent)) if matches!(agent.process, Process::Gone { .. }) => "not running".to_owned(),
        (None, _) => seen.unseen().map_or_else(|| NOT_ASKED.to_owned(), ToString::to_string),
    };
    let is_primary = view.primary() == Some(instance);
    let parked =
        view.record.as_ref().is_some_and(|r| r.parked.iter().any(|parked| parked.instance == *instance));
    let role = match (is_primary, parked, channel) {
        (true, _, _) => "primary",
        (false, true, _) => "parked",
        (false, false, Some(_)) => "replica",
        (false, false, None) => "member",
    };
    MemberSnapshot {
        instance: instance.clone(),
        role: role.to_owned(),
        state,
        version: report.map(|report| report.identity.version),
        read_only: report.map(|report| report.read_only),
        executed: report.map(|report| report.executed.clone()),
        source: channel.filter(|_| !is_primary).map(|channel| channel.source.clone()),
        receiver: channel.filter(|_| !is_primary).map(|channel| channel.receiver),
        applier: channel.filter(|_| !is_primary).map(|channel| channel.applier),
        seconds_behind: channel.and_then(|channel| channel.seconds_behind),
        heartbeat_age: report.and_then(|report| report.heartbeat_age),
        to_apply: report.map_or(0, |report| report.known().minus(&report.executed).count()),
        agent: match view.cluster.member(instance).and_then(|member| member.agent.as_ref()) {
            None => Hearing::None,
            Some(_) if agent.is_some() => Hearing::Ok,
            Some(_) if seen.agent_untried() => Hearing::NotAsked,
            Some(_) => Hearing::NotHeard,
        },
        asked_at: seen.manager.as_ref().filter(|look| look.seen.is_ok()).map(|look| at - now.since(look.at)),
        access: agent.map(|agent| agent.access),
        vip: agent.is_some_and(|agent| agent.vip),
        job: agent.and_then(|agent| agent.job.clone()),
        lease: agent.and_then(|agent| match agent.access {
            Access::Held { remaining } => Some(remaining),
            Access::Admitted | Access::Closed => None,
        }),
    }
}
