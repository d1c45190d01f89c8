//! A returned or astray replica led to where an operator wants it, by automatic repair: below another one, or left standing still.

use crate::decide::plan::{Plan, PlanKind, Stage, Step};
use crate::decide::rejoin::plan;
use crate::model::instance::InstanceId;
use crate::model::record::ClusterRecord;
use crate::model::report::Report;
use crate::model::view::ClusterView;

/// Its history is good, and an operator wants it to stand still.
pub(in crate::decide) fn only_admit(
    view: &ClusterView,
    record: &ClusterRecord,
    instance: &InstanceId,
) -> Plan {
    let title = format!(
        "{instance} has nothing {} lacks: open for reads, and left stopped as was asked by command",
        record.primary
    );
    let admit = Step::Admit { instance: instance.clone() };
    plan(view, PlanKind::Rejoin, title, vec![Stage::new("admit", vec![admit])])
}

/// It goes below another replica, which has all it has; not while the primary needs its acknowledgements.
pub(in crate::decide) fn below(
    view: &ClusterView,
    record: &ClusterRecord,
    (instance, report): (&InstanceId, &Report),
    home: &InstanceId,
) -> Option<Plan> {
    let above = view.of(home)?.latest()?;
    let acker = record.ackers.contains(instance);
    let spared = super::ackers_beside(view, record, instance).len() >= record.acks as usize;
    if acker && !spared {
        return None;
    }
    let within = view.cluster.policy.statement * 2;
    let from = report.channel().map(|channel| channel.source.clone()).filter(|from| from != home);
    let to = home.clone();
    let step = match from.clone() {
        Some(from) => Step::Turn { instance: instance.clone(), from, to, acker: false, within },
        None if above.executed.contains(&report.known()) => {
            Step::PointReplica { instance: instance.clone(), source: to, acker: false }
        }
        None => return None,
    };
    // While its source lives it is as well off there as it was.
    let undo =
        from.into_iter().map(|source| Step::PointReplica { instance: instance.clone(), source, acker });
    let mut stages = vec![Stage::new("follow", vec![step]).with_undo(undo.collect())];
    let [level, register] = super::leaves_ackers(view, record, instance, within);
    stages.extend(level);
    stages.push(Stage::new("admit", vec![Step::Admit { instance: instance.clone() }]));
    stages.extend(register);
    let place = match record.wishes.source_of(instance) {
        Some(wished) if wished != home => format!("{home}, while {wished} is away"),
        Some(_) => format!("{home}, where it belongs"),
        None => format!("{home}, which has what the primary's log no longer holds"),
    };
    let title = format!("{instance} has nothing the primary lacks: it goes below {place}");
    Some(plan(view, PlanKind::Rejoin, title, stages))
}
