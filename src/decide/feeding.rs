//! How a candidate gets everything that must survive: it has it, a more advanced server feeds it, or the dead primary's log does.
//! Relay logs feed nobody: what a server cannot apply it cannot hand on.

use super::candidate::{Against, Candidate, Ranking, is_passed_over};
use super::failover::Isolation;
use super::guard::Blocker;
use crate::model::gtid::GtidSet;
use crate::model::instance::InstanceId;
use crate::model::view::ClusterView;

/// Where the candidate's missing transactions come from.
#[derive(Debug)]
pub(super) struct Feeding {
    /// Who has `target` and hands it on; the candidate itself when it lacks nothing.
    pub(super) holder: InstanceId,
    /// What the candidate has before it opens.
    pub(super) target: GtidSet,
    /// More is known to exist, and only the dead primary's log can give it.
    pub(super) salvage_required: bool,
    /// What is known to exist and given up, by the operator's word.
    pub(super) given_up: Option<GtidSet>,
}

impl Feeding {
    /// Everything known to exist is fed by servers that answer.
    pub(super) fn is_whole(&self) -> bool {
        !self.salvage_required && self.given_up.is_none()
    }
}

/// The way with the least loss.
///
/// # Errors
/// [`Blocker::WouldLose`] when something that is known to exist can reach the candidate by no way and no loss was accepted.
pub(super) fn feeding(
    view: &ClusterView,
    isolation: &Isolation,
    ranking: &Ranking,
    candidate: &Candidate,
    accept_loss: bool,
) -> Result<Feeding, Blocker> {
    let itself = (candidate.instance.clone(), candidate.ours.clone());
    let Some((most, all)) = &ranking.most_advanced else {
        // Incomparable, and the operator chose this one: what the others alone have is given up.
        let given_up = ranking
            .candidates
            .iter()
            .map(|other| other.ours.minus(&candidate.ours))
            .reduce(|all, set| all.try_union(&set).unwrap_or(all))
            .filter(|set| !set.is_empty());
        return Ok(Feeding { holder: itself.0, target: itself.1, salvage_required: false, given_up });
    };
    let (holder, target) = ranking
        .candidates
        .iter()
        .filter(|other| feeds(view, isolation, other, candidate))
        .map(|other| (other.instance.clone(), other.ours.clone()))
        .fold(itself, |best, other| if best.1.contains(&other.1) { best } else { other });
    let missing = all.minus(&target);
    let lost = !missing.is_empty();
    if lost && !accept_loss && !isolation.log_readable {
        let why = ranking
            .candidates
            .iter()
            .find(|other| other.instance == *most)
            .and_then(Candidate::cannot_feed)
            .map_or_else(|| "its log no longer holds all of it".to_owned(), ToString::to_string);
        return Err(Blocker::WouldLose {
            instance: candidate.instance.clone(),
            set: missing,
            holder: most.clone(),
            why,
        });
    }
    Ok(Feeding {
        holder,
        target,
        salvage_required: lost && isolation.log_readable && !accept_loss,
        given_up: (lost && accept_loss).then_some(missing),
    })
}

/// It led before the recorded primary, and has what that one was not seen to have: passed over when that one was promoted, it would come
/// back to a history that went on without it, and stay there, errant, where such a failover is taken back.
fn brings_back(view: &ClusterView, other: &Candidate) -> bool {
    let passed_over =
        view.of(&other.instance).is_some_and(|seen| is_passed_over(view, &other.instance, seen));
    let primary = view.primary().and_then(|primary| view.of(primary)?.last_report.as_ref());
    passed_over && primary.is_none_or(|(_, report)| !report.executed.contains(&other.ours))
}

/// `other` has more than the candidate and can hand all of it on: applied into its own log, and not purged from there.
fn feeds(view: &ClusterView, isolation: &Isolation, other: &Candidate, candidate: &Candidate) -> bool {
    other.instance != candidate.instance
        && other.cannot_feed().is_none()
        && other.ours.contains(&candidate.ours)
        && !brings_back(view, other)
        && isolation
            .report_of(view, &other.instance)
            .is_some_and(|report| candidate.known.contains(&report.purged))
}

/// Why a server that answers is not pointed at the new primary, if so. It keeps what it has for a person to look at.
pub(super) fn cannot_follow(
    other: &Candidate,
    leader: &Candidate,
    feeding: &Feeding,
    leader_log: Option<&GtidSet>,
) -> Option<String> {
    if let Some(parked) = other.against.iter().find(|against| matches!(against, Against::Parked(_))) {
        return Some(parked.to_string());
    }
    // One that returned is compared and led back after this; a stranger is another cluster's.
    let apart = |against: &&Against| matches!(against, Against::Stranger(_) | Against::NotReplicating);
    if let Some(apart) = other.against.iter().find(apart) {
        return Some(apart.to_string());
    }
    let beyond = other.ours.minus(&feeding.target);
    if !beyond.is_empty() && !feeding.salvage_required {
        return Some(format!("it has {}, which {} lacks", beyond.told(), leader.instance));
    }
    let purged = leader_log?.minus(&other.known);
    (!purged.is_empty())
        .then(|| format!("{}'s log no longer holds {purged}, which it lacks; rebuild it", leader.instance))
}
