//! An operator's word about one member, as a plan or as everything in its way. What holds from then on is recorded last, when it
//! is so, and first where automatic repair must not undo it. An acker is recorded before it acknowledges; it is taken from the record
//! only when it does not any more and the others have all it had (I2).

mod back;
mod checks;
mod home;
pub mod newcomer;
pub mod objection;
mod plans;

use std::time::Duration;

use self::objection::Objection;
use super::plan::{Plan, PlanKind, Stage, Step};
use super::restrictions;
use crate::model::instance::InstanceId;
use crate::model::policy::Durability;
use crate::model::record::ClusterRecord;
use crate::model::report::Report;
use crate::model::time::Moment;
use crate::model::view::ClusterView;
use crate::model::wishes::{Change, ReplicaAsk, Threads};

pub(super) use self::back::{below, only_admit};
pub(super) use self::home::{has_orphans, home, is_below, tier};

/// A remaining acker that is no further behind than this has all that the leaving one acknowledged.
const CLOSELY: Duration = Duration::from_millis(500);

/// What would be done, or everything in the way.
///
/// # Errors
/// Every objection, each with what to do about it.
pub fn plan(view: &ClusterView, ask: &ReplicaAsk, now: Moment) -> Result<Plan, Vec<Objection>> {
    if let (Change::Start, Some(record)) = (&ask.change, checks::without_primary(view, now)) {
        let channel = checks::appliable(view, record, ask)?;
        let title = format!("{} applies what it has received", ask.instance);
        return Ok(topology_plan(view, ask, &title, plans::applied(record, ask, channel)));
    }
    let record = checks::ready(view, now)?;
    let (title, stages) = match &ask.change {
        Change::Move { source } => {
            let moved = checks::movable(view, record, ask, source)?;
            (format!("{} goes below {source}", ask.instance), plans::moved(view, record, ask, source, moved))
        }
        Change::Stop { threads } => {
            let report = checks::stoppable(view, record, ask, *threads)?;
            (
                format!("{} stops: {threads}", ask.instance),
                plans::stopped(view, record, ask, *threads, report),
            )
        }
        Change::Start => {
            let (report, to) = checks::startable(view, record, ask, now)?;
            (format!("{} replicates from {to}", ask.instance), plans::started(view, record, ask, &to, report))
        }
        Change::Remove { keep_running } => {
            let report = checks::removable(view, record, ask)?;
            let title = format!("{} is no member any more", ask.instance);
            (title, plans::removed(view, record, ask, *keep_running, report))
        }
        Change::ReadOnly { on } => {
            checks::may_be_read_only(view, record, &ask.instance, *on)?;
            let step = Step::SetReadOnly { instance: ask.instance.clone(), on: *on };
            (format!("{} takes no writes", ask.instance), vec![Stage::new("close", vec![step])])
        }
        // It is no member yet: what is known of it comes from a look of its own.
        Change::Add { .. } => return Err(vec![Objection::IsMember(ask.instance.clone())]),
    };
    Ok(topology_plan(view, ask, &title, stages))
}

fn topology_plan(view: &ClusterView, ask: &ReplicaAsk, title: &str, stages: Vec<Stage>) -> Plan {
    let by = if ask.by.is_empty() { "an operator" } else { ask.by.as_str() };
    Plan {
        cluster: view.cluster.name.clone(),
        kind: PlanKind::Topology,
        title: format!("{title}, asked for by {by}"),
        stages,
        commit: None,
        basis: Vec::new(),
    }
}

pub(super) fn is_lossless(view: &ClusterView) -> bool {
    view.cluster.policy.durability == Durability::Lossless
}

/// Whether a replica with such an answer acknowledges, once it is below `source`.
pub(super) fn would_acknowledge(
    view: &ClusterView,
    record: &ClusterRecord,
    (instance, report): (&InstanceId, &Report),
    source: &InstanceId,
) -> bool {
    is_lossless(view) && *source == record.primary && restrictions::may_acknowledge(view, instance, report)
}

/// The other ackers that hear the primary now.
pub(in crate::decide) fn ackers_beside<'v>(
    view: &'v ClusterView,
    record: &'v ClusterRecord,
    instance: &InstanceId,
) -> Vec<&'v InstanceId> {
    let hears = |acker: &InstanceId| {
        view.of(acker).and_then(|seen| seen.latest()).is_some_and(|report| report.hears(&record.primary))
    };
    record.ackers.iter().filter(|acker| *acker != instance && hears(acker)).collect()
}

/// It stops, or only a part of it; taken back, it replicates as it did.
pub(super) fn stops(
    instance: &InstanceId,
    threads: Threads,
    within: Duration,
    (source, acker): (&InstanceId, bool),
) -> Stage {
    let halt = Step::Halt { instance: instance.clone(), threads, within };
    let back = Step::PointReplica { instance: instance.clone(), source: source.clone(), acker };
    Stage::new("stop", vec![halt]).with_undo(vec![back])
}

/// It goes on receiving from `source`, and acknowledges no more.
pub(super) fn mute(instance: &InstanceId, source: &InstanceId) -> Stage {
    let follow = |acker| Step::PointReplica { instance: instance.clone(), source: source.clone(), acker };
    Stage::new("deaf", vec![follow(false)]).with_undo(vec![follow(true)])
}

/// After it acknowledges nothing any more: the others get all it had, then it is taken from the record.
pub(in crate::decide) fn leaves_ackers(
    view: &ClusterView,
    record: &ClusterRecord,
    instance: &InstanceId,
    within: Duration,
) -> [Vec<Stage>; 2] {
    if !record.ackers.contains(instance) {
        return [Vec::new(), Vec::new()];
    }
    let level = levels_ackers(view, record, instance, within);
    [level.into_iter().collect(), vec![leaves_record(record, instance)]]
}

/// The other ackers get all that the primary has now; nothing where none hears it.
pub(in crate::decide) fn levels_ackers(
    view: &ClusterView,
    record: &ClusterRecord,
    instance: &InstanceId,
    within: Duration,
) -> Option<Stage> {
    let level: Vec<Step> = ackers_beside(view, record, instance)
        .into_iter()
        .map(|acker| Step::KeepUp {
            instance: acker.clone(),
            source: record.primary.clone(),
            closely: CLOSELY,
            within,
        })
        .collect();
    (!level.is_empty()).then(|| Stage::new("level", level))
}

pub(in crate::decide) fn leaves_record(record: &ClusterRecord, instance: &InstanceId) -> Stage {
    let ackers = record.ackers.iter().filter(|acker| *acker != instance).cloned().collect();
    Stage::new("register", vec![register(record, ackers)])
}

/// The larger number is recorded, then it acknowledges.
pub(in crate::decide) fn joins_ackers(record: &ClusterRecord, instance: &InstanceId) -> Vec<Stage> {
    let point =
        Step::PointReplica { instance: instance.clone(), source: record.primary.clone(), acker: true };
    vec![joins_record(record, instance), Stage::new("acknowledge", vec![point])]
}

pub(in crate::decide) fn joins_record(record: &ClusterRecord, instance: &InstanceId) -> Stage {
    let mut ackers = record.ackers.clone();
    if !ackers.contains(instance) {
        ackers.push(instance.clone());
    }
    Stage::new("register", vec![register(record, ackers)])
}

fn register(record: &ClusterRecord, ackers: Vec<InstanceId>) -> Step {
    Step::Register {
        primary: record.primary.clone(),
        generation: record.generation,
        ackers,
        acks: record.acks,
        degraded: record.degraded.as_ref().map(|degraded| degraded.why.clone()),
    }
}
