//! A returned server has transactions the primary lacks: saved first, then set back or left to a person. What may be set back
//! without one is what nobody was promised: in a lossless cluster all that no other server has.

use std::time::Duration;

use super::plan::{Plan, PlanKind, Stage, Step};
use super::rebuild::{self, Under};
use super::rejoin::{follow_stages, park, plan};
use crate::model::extra::{Remedy, Saved};
use crate::model::gtid::GtidSet;
use crate::model::instance::InstanceId;
use crate::model::intent::Intents;
use crate::model::observation::AgentStatus;
use crate::model::policy::Durability;
use crate::model::record::ClusterRecord;
use crate::model::report::Report;
use crate::model::view::ClusterView;

/// How long reading the logs may take.
const SAVE_WITHIN: Duration = Duration::from_secs(60);
/// How long putting rows back may take.
const REWIND_WITHIN: Duration = Duration::from_secs(120);

/// What decides about one server's extra transactions.
#[derive(Debug, Clone, Copy)]
pub(super) struct Returned<'a> {
    pub(super) view: &'a ClusterView,
    pub(super) record: &'a ClusterRecord,
    pub(super) intents: &'a Intents,
    pub(super) instance: &'a InstanceId,
    pub(super) agent: &'a AgentStatus,
    /// What it said last.
    pub(super) report: &'a Report,
    pub(super) primary: &'a Report,
}

/// A rewind that was begun and not ended goes on, whatever the server's history shows in the middle of it.
pub(super) fn unfinished(of: Returned<'_>) -> Option<Plan> {
    let saved = of.agent.extra.as_ref()?;
    let keep = saved.rewinding.as_ref()?;
    Some(rewind(of, saved, keep, saved.obstacle.is_none(), "setting it back was begun and is ended now"))
}

/// What is done next about `extra`.
pub(super) fn remedy(of: Returned<'_>, extra: &GtidSet, under: Under) -> Option<Plan> {
    let Returned { view, instance, report, .. } = of;
    let lacks = format!("it has transactions the primary lacks: {}", extra.told());
    if report.replication.len() > 1 {
        let why = format!("{lacks}; it replicates from several clusters, which is left to a person");
        return Some(park(view, instance, &why));
    }
    if !report.executed.contains(extra) {
        let why = format!(
            "{lacks}; part of them it received and has not applied, so that they are in no log of its own"
        );
        return match under {
            Under::Wanted => rebuild::begin_keeping(of, &why),
            Under::Ready if rebuild::keeps(of.agent) => {
                Some(rebuild::exchange(view, of.record, instance, of.agent))
            }
            Under::Ready | Under::Copying | Under::No => Some(park(view, instance, &why)),
        };
    }
    let Some(saved) = of.agent.extra.as_ref().filter(|saved| saved.set == *extra) else {
        if under == Under::Ready && rebuild::keeps(of.agent) {
            return Some(rebuild::exchange(view, of.record, instance, of.agent));
        }
        if under == Under::Wanted && of.intents.failures(instance) > 0 {
            return rebuild::begin_keeping(of, &format!("{lacks}; they could not be saved"));
        }
        return Some(save(of, extra));
    };
    if under == Under::Ready {
        return Some(rebuild::exchange(view, of.record, instance, of.agent));
    }
    let keep = report.executed.minus(extra);
    let rows = saved.obstacle.is_none();
    if saved.benign && under != Under::Wanted {
        return Some(rewind(of, saved, &keep, rows, "they are only this program's own heartbeats"));
    }
    match chosen(of) {
        (Remedy::Park, why) => Some(park(view, instance, &parked(of, saved, &why))),
        (Remedy::Rebuild, why) => rebuild::begin(of, &format!("{why}; {saved}")),
        (Remedy::Flashback, why) => Some(match &saved.obstacle {
            None => rewind(of, saved, &keep, true, &why),
            Some(obstacle) => {
                park(view, instance, &parked(of, saved, &format!("its rows cannot be put back: {obstacle}")))
            }
        }),
    }
}

/// The operator's word, else the policy's, and why.
fn chosen(Returned { view, record, instance, .. }: Returned<'_>) -> (Remedy, String) {
    let policy = &view.cluster.policy;
    if let Some(remedy) = record.wishes.remedy(instance) {
        return (remedy, format!("an operator asked for {remedy}"));
    }
    let lossless = policy.durability == Durability::Lossless;
    let doubt = record.doubt_about(instance).filter(|_| lossless);
    match policy.extra_transactions {
        Remedy::Park => (Remedy::Park, "extra_transactions = \"park\" leaves them to a person".to_owned()),
        Remedy::Flashback | Remedy::Rebuild if let Some(why) = doubt => {
            (Remedy::Park, format!("some may have been acknowledged to clients: {why}"))
        }
        Remedy::Flashback if lossless => {
            (Remedy::Flashback, "no client was told that they are kept".to_owned())
        }
        Remedy::Flashback => (Remedy::Flashback, "extra_transactions = \"flashback\"".to_owned()),
        Remedy::Rebuild => (Remedy::Rebuild, "extra_transactions = \"rebuild\"".to_owned()),
    }
}

fn parked(Returned { instance, .. }: Returned<'_>, saved: &Saved, why: &str) -> String {
    let how = match saved.obstacle {
        None => format!(
            "\"mhactl rejoin {instance} --dry-run\" shows them; \"mhactl rejoin {instance} --how flashback\" undoes them on {instance}, so that \
             they are in that file alone: bring rows that clients rely on over to the primary first"
        ),
        Some(_) => format!(
            "\"mhactl rejoin {instance} --dry-run\" shows them, with --how rebuild its data is replaced by a copy of another's; or bring \
             them over by hand"
        ),
    };
    format!("it has transactions the primary lacks: {}; {saved}; {why}; {how}", saved.set)
}

fn save(Returned { view, instance, .. }: Returned<'_>, extra: &GtidSet) -> Plan {
    let step = Step::SaveExtra { instance: instance.clone(), extra: extra.clone(), within: SAVE_WITHIN };
    let title = format!("save what {instance} has and the primary lacks: {}", extra.told());
    plan(view, PlanKind::Rejoin, title, vec![Stage::new("save", vec![step])])
}

fn rewind(of: Returned<'_>, saved: &Saved, keep: &GtidSet, rows: bool, why: &str) -> Plan {
    let Returned { view, record, instance, report, primary, .. } = of;
    let of_it = || instance.clone();
    let fence = Step::Fence { instance: of_it(), generation: record.generation };
    let mut stages = vec![Stage::new("fence", vec![fence])];
    if report.channel().is_some() {
        // What it received from another member and has not applied is no reason to keep it away, where the primary has it.
        let unapplied = report.known().minus(&report.executed);
        let discard = Some(unapplied).filter(|set| !set.is_empty() && primary.executed.contains(set));
        stages.push(Stage::new("alone", vec![Step::ForgetSource { instance: of_it(), discard }]));
    }
    let step = Step::Rewind {
        instance: of_it(),
        extra: saved.set.clone(),
        keep: keep.clone(),
        rows,
        within: REWIND_WITHIN,
    };
    stages.push(Stage::new("rewind", vec![step]));
    stages.extend(follow_stages(view, record, instance, primary));
    let title =
        format!("{instance} is set back to what {} has too, and follows it: {why}; {saved}", record.primary);
    plan(view, PlanKind::Rejoin, title, stages)
}
