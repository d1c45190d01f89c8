//! "If the primary died now": who would lead and what would be lost, told while there is still time to mend it. Never acts.

use chrono::{DateTime, Utc};

use super::diagnose::Diagnosis;
use super::evidence::cannot_confirm;
use super::failover::{Isolation, promote};
use super::guard::{self, Blocker, told};
use super::plan::{Plan, Step};
use super::proof::{Promise, promise};
use super::reach;
use crate::model::gtid::GtidSet;
use crate::model::instance::InstanceId;
use crate::model::intent::Intents;
use crate::model::time::Moment;
use crate::model::verdict::Verdict;
use crate::model::view::ClusterView;

/// One sentence while the primary serves (well or badly); empty when it is dead, unknown or not adopted. It asks all that a failover asks,
/// which takes as long as deciding: for whoever shows it, and no part of a decision.
pub fn prospect(
    view: &ClusterView,
    intents: &Intents,
    diagnosis: &Diagnosis,
    now: Moment,
    wall: DateTime<Utc>,
) -> String {
    let Some(primary) = diagnosis.primary.as_ref().filter(|_| serves(diagnosis.verdict)) else {
        return String::new();
    };
    let mut held_back = guard::not_by_itself(view, wall);
    if let Some((remaining, why)) = intents.pause(primary, now) {
        held_back.push(Blocker::JustUndone { remaining, why: why.to_owned() });
    }
    let sentence = succession(view, primary);
    match sentence.split_once(": ") {
        Some((_, rest)) if !held_back.is_empty() => format!(
            "if {primary} died now: nobody would lead by itself: {}; when an operator asks: {rest}",
            told(&held_back)
        ),
        Some(_) | None => sentence,
    }
}

/// Who would lead, and what would be lost, where nothing holds this manager back.
fn succession(view: &ClusterView, primary: &InstanceId) -> String {
    let server = Isolation::supposed(view, primary);
    let fenced = server.fenced;
    let host = Isolation { fenced: false, log_readable: false, ..server.clone() };
    let of_host = match (promote(view, &host, None), cannot_confirm(view, primary)) {
        (Ok(plan), None) => Ok(outcome(view, primary, &plan)),
        (Ok(_), Some(why)) => Err(format!("nobody would lead by itself: {why}")),
        (Err(blockers), _) => Err(format!("nobody would lead: {}", told(&blockers))),
    };
    let nobody = match of_host {
        Ok(outcome) => return format!("if {primary} died now: {outcome}"),
        Err(nobody) => nobody,
    };
    // Without its agent the one is as the other.
    if !fenced {
        return format!("if {primary} died now: {nobody}");
    }
    match promote(view, &server, None) {
        Ok(plan) => format!(
            "if {primary}'s server died now: {}; if its host did: {nobody}",
            outcome(view, primary, &plan)
        ),
        Err(blockers) => format!("if {primary} died now: nobody would lead: {}", told(&blockers)),
    }
}

fn serves(verdict: Verdict) -> bool {
    match verdict {
        Verdict::Healthy
        | Verdict::Degraded
        | Verdict::ManagerCutOff
        | Verdict::OverloadedPrimary
        | Verdict::MisconfiguredPrimary
        | Verdict::BlockedForAcks => true,
        Verdict::NotAdopted
        | Verdict::Starting
        | Verdict::DeadPrimary
        | Verdict::SilentPrimary
        | Verdict::HungPrimary
        | Verdict::UnreachablePrimary
        | Verdict::ClosedPrimary
        | Verdict::IsolatedPrimary
        | Verdict::DeadPrimaryAndReplicas
        | Verdict::SplitBrain => false,
    }
}

fn outcome(view: &ClusterView, primary: &InstanceId, plan: &Plan) -> String {
    let opened = plan.steps().find(|step| matches!(step, Step::Open { .. })).map(Step::instance);
    let Some(leader) = opened else { return "nobody would lead".to_owned() };
    let salvaged = plan.steps().any(|step| matches!(step, Step::Salvage { required: true, .. }));
    let loss = match promise(view) {
        _ if salvaged => "nothing acknowledged lost if its log can be read to its end".to_owned(),
        Promise::Lossless(_) => "nothing acknowledged lost".to_owned(),
        Promise::Local | Promise::Broken { .. } => at_most(view, primary, plan),
    };
    let unlogged = super::restrictions::never_logged(view, primary);
    let unlogged = unlogged.map_or_else(String::new, |what| format!(", {what}"));
    let vain = reach::in_vain(view, leader).map_or_else(String::new, |why| format!(", but {why}"));
    format!("{leader} would lead, {loss}{unlogged}{vain}")
}

/// What the primary had when last asked and the plan does not bring over. Not less than the truth: what it commits between two polls
/// is not known here, and is said so.
fn at_most(view: &ClusterView, primary: &InstanceId, plan: &Plan) -> String {
    let last =
        view.of(primary).and_then(|seen| seen.last_report.as_ref()).map(|(_, report)| &report.executed);
    let target: Option<&GtidSet> =
        plan.steps().find_map(|step| if let Step::WaitApplied { set, .. } = step { Some(set) } else { None });
    match (last, target) {
        (Some(last), Some(target)) => format!(
            "up to {} transaction(s) lost, and what it commits after the last look",
            last.minus(target).count()
        ),
        (Some(_) | None, Some(_) | None) => "an unknown number of transactions lost".to_owned(),
    }
}
