//! What an operator asks about one member: what would be done, what a rebuild waits for, why it is left as it is. By the same rules as
//! without an operator.

use std::fmt;

use super::{parking, step};
use crate::decide::guard::names;
use crate::decide::issues;
use crate::decide::plan::Plan;
use crate::decide::rebuild::{self, Under};
use crate::decide::restrictions::left_out_before;
use crate::model::instance::InstanceId;
use crate::model::intent::Intents;
use crate::model::observation::Access;
use crate::model::record::ClusterRecord;
use crate::model::time::Moment;
use crate::model::view::ClusterView;

/// Why nothing is to be done about a member that was asked about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Not {
    /// It is known in a moment: both servers are looked at first.
    Yet(String),
    Ever(String),
}

impl fmt::Display for Not {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Yet(why) | Self::Ever(why) => f.write_str(why),
        }
    }
}

/// Why a member cannot be given back into automatic hands: it is in them already. `None` where it is parked, and where it may lack rows
/// and an operator vouches for them.
pub fn not_parked(view: &ClusterView, instance: &InstanceId) -> Option<String> {
    if let Some(stranger) = view.cluster.stranger(instance) {
        return Some(format!("{stranger}; name one of them"));
    }
    let parked = view.record.iter().flat_map(|record| &record.parked).map(|parked| parked.instance.clone());
    let parked: Vec<InstanceId> = parked.collect();
    let vouched = view
        .of(instance)
        .is_some_and(|seen| seen.latest().is_some_and(|report| !left_out_before(seen, report).is_empty()));
    let no = !parked.contains(instance) && !vouched;
    no.then(|| format!("{instance} is not parked, it is in automatic hands; parked: {}", names(&parked)))
}

/// What to do next about one member, whether it is parked or not.
///
/// # Errors
/// Why nothing is to be done, or nothing yet.
pub fn about(view: &ClusterView, intents: &Intents, instance: &InstanceId, now: Moment) -> Result<Plan, Not> {
    let never = |why: String| Err(Not::Ever(why));
    let donor = view.record.as_ref().and_then(|record| record.wishes.donor(instance));
    if let Some(stranger) =
        [Some(instance), donor].into_iter().flatten().find_map(|it| view.cluster.stranger(it))
    {
        return never(format!("{stranger}; name one of them"));
    }
    if donor == Some(instance) {
        return never(format!("{instance} cannot be a copy of itself; name another with --from"));
    }
    let Some(record) = view.record.as_ref() else {
        return never("the cluster is not adopted; run \"mhactl adopt\" first".to_owned());
    };
    if record.primary == *instance {
        return never(format!("{instance} is the primary"));
    }
    let Some(seen) = view.of(instance) else { return never(format!("{instance} was never seen")) };
    let Some(agent) = seen.agent_now() else {
        return never(format!("no word from the agent on {}", instance.host));
    };
    if let Some((remaining, why)) = intents.pause(instance, now) {
        let seconds = remaining.as_secs() + 1;
        return never(format!("the last attempt failed ({why}), next in {seconds} s"));
    }
    if let Some(job) = agent.job.as_ref().filter(|job| job.is_rebuild() && job.is_running()) {
        return never(format!("{instance} is {job}; \"mhactl abort\" calls that off"));
    }
    if view.of(&record.primary).is_none_or(|primary| primary.report().is_none()) {
        return never(format!("{} does not answer: there is nothing to compare it with", record.primary));
    }
    if let Some(why) = rebuild::no_donor((view, record), instance, agent) {
        return never(format!("{instance} cannot be rebuilt now: {why}"));
    }
    let next = step(view, record, intents, (instance, seen), now);
    let refused = next.as_ref().and_then(parking).filter(|_| record.wishes.is_to_be_rebuilt(instance));
    if let Some(why) = refused {
        return never(format!("{instance} cannot be rebuilt now: {why}"));
    }
    next.ok_or_else(|| match agent.access {
        Access::Closed => {
            Not::Yet(format!("{instance} is fenced, and not compared with {} yet", record.primary))
        }
        Access::Admitted | Access::Held { .. } if record.wishes.is_to_be_rebuilt(instance) => {
            Not::Yet(format!("{instance} is not compared with {} yet", record.primary))
        }
        Access::Admitted | Access::Held { .. } => Not::Ever(left_alone(view, record, instance, now)),
    })
}

/// The members whose rebuild has still to begin, each with what it waits for.
pub fn waiting(
    view: &ClusterView,
    intents: &Intents,
    now: Moment,
) -> impl Iterator<Item = (InstanceId, String)> {
    let members = view.cluster.members.iter().map(|member| &member.instance);
    members.filter_map(move |instance| Some((instance.clone(), waits(view, intents, instance, now)?)))
}

/// What a rebuild waits for that an operator asked for, and that is not under way, or not any more: the word stands until it is done,
/// called off, or its server leads.
pub fn waits(view: &ClusterView, intents: &Intents, instance: &InstanceId, now: Moment) -> Option<String> {
    let (record, seen) = (view.record.as_ref()?, view.of(instance)?);
    if !record.wishes.is_to_be_rebuilt(instance)
        || record.parked.iter().any(|parked| parked.instance == *instance)
    {
        return None;
    }
    let Some(agent) = seen.agent_now() else {
        return Some(format!("no word from the agent on {}", instance.host));
    };
    if rebuild::under_way(record, instance, agent) != Under::Wanted {
        return None;
    }
    if let Some((_, why)) = intents.pause(instance, now) {
        return Some(format!("the last attempt failed: {why}"));
    }
    let next = step(view, record, intents, (instance, seen), now);
    let why = next.as_ref().and_then(parking).map(ToOwned::to_owned);
    let no_donor = || rebuild::no_donor((view, record), instance, agent);
    Some(why.or_else(no_donor).unwrap_or_else(|| "it is begun in a moment".to_owned()))
}

/// Why nothing is done about one that is open for reads: all is well there, or what is the matter is a person's to judge.
fn left_alone(view: &ClusterView, record: &ClusterRecord, instance: &InstanceId, now: Moment) -> String {
    let issues = issues::about(view, instance, now);
    if issues.is_empty() {
        return format!("{instance} is where it belongs: nothing is to be done");
    }
    if record.wishes.stopped(instance).is_some() {
        return issues.join("; ");
    }
    format!(
        "{}; nothing is done about that by itself: mend it, or have its data replaced by a healthy server's, what it has alone being \
         saved first (\"mhactl rejoin {instance} --how rebuild\")",
        issues.join("; ")
    )
}
