//! What forbids acting now. Every "no" is a value with its reason, and says when it will be looked at again.

use std::fmt;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::candidate::{Incomparable, Ranking};
use crate::model::ballot::Generation;
use crate::model::cluster::{ClusterName, Mode, Stranger};
use crate::model::gtid::GtidSet;
use crate::model::instance::InstanceId;
use crate::model::time::{Moment, human};
use crate::model::verdict::Verdict;
use crate::model::view::ClusterView;

/// One reason not to act.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Blocker {
    /// `mode` is not `auto`, and no operator asked.
    Mode(Mode),
    /// Too many failovers in the window.
    Budget { spent: u32, window: Duration },
    /// This manager has not looked long enough to act (F079).
    JustStarted { remaining: Duration },
    /// The last attempt was undone a moment ago.
    JustUndone { remaining: Duration, why: String },
    /// Too many failovers of other clusters have begun by themselves within a minute.
    ManyAtOnce { limit: u32, remaining: Duration },
    /// Nobody may lead, each with its reasons.
    NobodyEligible { reasons: Vec<String> },
    /// Two histories, none of which contains the other.
    Incomparable(Box<Incomparable>),
    /// `lossless`: acknowledged rows may be on servers that do not answer.
    Incomplete { heard: Vec<InstanceId>, missing: Vec<Missing>, needed: usize, acks: u32 },
    /// `lossless`: what was acknowledged before this primary led is on no server that answers.
    BeforeIt { primary: InstanceId, set: GtidSet },
    /// `lossless` is recorded, and the primary's last answer showed that it was not in force.
    NotInForce { primary: InstanceId, why: String },
    /// `lossless`: voters have accepted a generation after the recorded one, and a member that does not answer may have led it.
    MayHaveLed { instance: InstanceId, known: Generation, recorded: Generation },
    /// The agent of a member says that its server has led since the record was written.
    HasLed { instance: InstanceId, held: Generation, recorded: Generation },
    /// Too few voters can answer: nobody would get a lease.
    NoMajority { have: usize, needed: usize, silent: Vec<String> },
    /// Another server takes writes by somebody else's hand.
    SecondWriter { instance: InstanceId, cluster: ClusterName },
    /// No promotion rule of section 4 is proven.
    NotFenced { why: String },
    /// An operator asked, and the primary is not known to be dead.
    NotDead { verdict: Verdict },
    /// No primary is recorded.
    NotAdopted { cluster: ClusterName },
    /// The host asked for is unknown here.
    NotMember(Stranger),
    /// The host asked for is no candidate.
    NotEligible { instance: InstanceId, reasons: Vec<String> },
    /// What `holder` alone has can reach the candidate by no way.
    WouldLose { instance: InstanceId, set: GtidSet, holder: InstanceId, why: String },
}

/// An acker that does not tell what a dead primary acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    pub acker: InstanceId,
    pub why: String,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.acker, self.why)
    }
}

impl fmt::Display for Blocker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mode(Mode::Observe) => {
                f.write_str("mode is \"observe\": nothing is done without \"mhactl adopt\" and mode \"manual\" or \"auto\"")
            }
            Self::Mode(Mode::Manual) => f.write_str("mode is \"manual\": run \"mhactl failover\" to act"),
            Self::Mode(Mode::Auto) => f.write_str("mode is \"auto\""),
            Self::Budget { spent, window } => write!(
                f,
                "{spent} automatic failovers within {} spend the budget; what ends the primaries may follow the role: look why, then run \"mhactl ack\" or \"mhactl failover\"",
                human(*window)
            ),
            Self::JustStarted { remaining } => write!(f, "this manager has just started and looks {} longer", human(*remaining)),
            Self::JustUndone { remaining, why } => {
                write!(f, "the last attempt was undone ({why}); next look in {}", human(*remaining))
            }
            Self::ManyAtOnce { limit, remaining } => write!(
                f,
                "{limit} automatic failovers of this manager's clusters have begun within a minute, which is the limit (failovers_at_once); this one begins in {}, or run \"mhactl failover\"",
                human(*remaining)
            ),
            Self::NobodyEligible { reasons } if reasons.is_empty() => {
                f.write_str("nobody may lead: the cluster has no other member")
            }
            Self::NobodyEligible { reasons } => write!(f, "nobody may lead: {}", reasons.join("; ")),
            Self::Incomparable(clash) => write!(
                f,
                "{} has {} and {} has {}, which the other lacks; decide with \"mhactl failover --to HOST --accept-loss\"",
                clash.left,
                clash.left_only.told(),
                clash.right,
                clash.right_only.told()
            ),
            Self::Incomplete { heard, missing, needed, acks } => write!(
                f,
                "acknowledged rows may be missing: with {} registered ackers and {acks} acknowledgement(s) a commit, {needed} must be heard in good standing and {} are ({}), not: {}; bring the primary or such an acker back with all it had, or accept the loss with \"mhactl failover --accept-loss\"",
                heard.len() + missing.len(),
                heard.len(),
                names(heard),
                missing.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
            ),
            Self::BeforeIt { primary, set } => write!(
                f,
                "acknowledged rows may be lost: {primary} had {set} when it began to lead, and whoever could lead now has not; bring {primary} or another that has it back, or accept the loss with \"mhactl failover --accept-loss\""
            ),
            Self::NotInForce { primary, why } => write!(
                f,
                "acknowledged rows may be on {primary} alone: lossless was not in force when it was last asked ({why}); bring it back, or accept the loss with \"mhactl failover --accept-loss\""
            ),
            Self::MayHaveLed { instance, known, recorded } => write!(
                f,
                "acknowledged rows may be missing: voters know generation {known}, {recorded} is recorded, and no word comes from the agent on {instance}, whose server may have led since; bring its host back, or accept the loss with \"mhactl failover --accept-loss\""
            ),
            Self::HasLed { instance, held, recorded } => write!(
                f,
                "acknowledged rows may be lost: {instance} has led generation {held} since, by its agent, and this manager's record ends with {recorded}; \
                 run \"mhactl adopt\" with the server whose history is the right one, or accept the loss with \"mhactl failover --accept-loss\""
            ),
            Self::NoMajority { have, needed, silent } => write!(
                f,
                "{needed} voters must accept a new primary and at most {have} can: no word from the agent on {}; start the agents, or add a witness",
                silent.join(", ")
            ),
            Self::SecondWriter { instance, cluster } => write!(
                f,
                "{instance} takes writes by somebody else's hand; make it read-only, or take it as primary with \"mhactl adopt {cluster} --primary {instance}\""
            ),
            Self::NotFenced { why } => write!(f, "the old primary may still write: {why}"),
            Self::NotDead {
                verdict:
                    Verdict::UnreachablePrimary
                    | Verdict::ManagerCutOff
                    | Verdict::MisconfiguredPrimary
                    | Verdict::OverloadedPrimary,
            } => f.write_str(
                "too little is known of the primary; if it is dead for certain, add --old-primary-is-dead",
            ),
            Self::NotDead { verdict } => write!(f, "a failover replaces a dead primary, and this one is \"{verdict}\""),
            Self::NotAdopted { cluster } => {
                write!(f, "no primary is recorded; run \"mhactl adopt {cluster} --primary HOST\" first")
            }
            Self::NotMember(stranger) => write!(f, "{stranger}; name one of them with --to"),
            Self::NotEligible { instance, reasons } => write!(f, "{instance} may not lead: {}", reasons.join("; ")),
            Self::WouldLose { instance, set, holder, why } => write!(
                f,
                "promoting {instance} would lose {}: {holder} has it and cannot hand it on ({why}); mend {holder}, or accept the loss with \"mhactl failover --accept-loss\"",
                set.told()
            ),
        }
    }
}

/// Blockers in a row.
pub(super) fn told(blockers: &[Blocker]) -> String {
    blockers.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// Names in a row, or "nobody".
pub(crate) fn names(instances: &[InstanceId]) -> String {
    if instances.is_empty() {
        return "nobody".to_owned();
    }
    instances.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// What forbids beginning an automatic failover.
pub(crate) fn before_failover(
    view: &ClusterView,
    ranking: &Ranking,
    now: Moment,
    wall: DateTime<Utc>,
) -> Vec<Blocker> {
    let mut blockers = not_by_itself(view, wall);
    blockers.extend(nobody(ranking));
    if let Some(remaining) = looks_on(view, now) {
        blockers.push(Blocker::JustStarted { remaining });
    }
    blockers
}

/// What keeps this manager from any failover that nobody asks for.
pub(crate) fn not_by_itself(view: &ClusterView, wall: DateTime<Utc>) -> Vec<Blocker> {
    let policy = &view.cluster.policy;
    let mut blockers = Vec::new();
    if view.cluster.mode != Mode::Auto {
        blockers.push(Blocker::Mode(view.cluster.mode));
    }
    if let Some(record) = &view.record {
        let spent = record
            .failovers
            .iter()
            // One that is dated ahead counts: the clock was set back since.
            .filter(|at| (wall - **at).to_std().map_or(true, |ago| ago < policy.budget_window))
            .count();
        if spent as u32 >= policy.budget {
            blockers.push(Blocker::Budget { spent: spent as u32, window: policy.budget_window });
        }
    }
    blockers
}

/// How much longer a manager that has just started looks before it acts or goes on with what an earlier one began (F079).
pub fn looks_on(view: &ClusterView, now: Moment) -> Option<Duration> {
    let remaining = (view.cluster.policy.poll_every * 2).saturating_sub(now.since(view.since));
    (!remaining.is_zero() && !heard_from_all(view)).then_some(remaining)
}

/// Every member was looked at, and every agent has spoken, since this manager began: a longer look would show nothing else.
fn heard_from_all(view: &ClusterView) -> bool {
    view.cluster.members.iter().all(|member| {
        view.of(&member.instance).is_some_and(|seen| {
            seen.manager.is_some() && (member.agent.is_none() || seen.agent_now().is_some())
        })
    })
}

/// Nobody to promote, whoever asks.
pub(crate) fn nobody(ranking: &Ranking) -> Option<Blocker> {
    if ranking.best().is_some() {
        return None;
    }
    let reasons = ranking.candidates.iter().map(ToString::to_string).collect();
    Some(Blocker::NobodyEligible { reasons })
}
