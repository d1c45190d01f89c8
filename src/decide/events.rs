//! Scheduled events follow the primary. What is wanted is learned there, while nobody changes anything: a replica has every event set
//! aside by replication, whether it was enabled or not. What differs after a change of ours is ours to mend; what differs later is its
//! operator's doing.

use std::time::Duration;

use super::plan::{Plan, PlanKind, Stage, Step};
use super::rejoin::plan;
use crate::model::events::{EventsPolicy, EventsWanted, Scheduler, ServerEvents};
use crate::model::instance::InstanceId;
use crate::model::intent::Intents;
use crate::model::record::ClusterRecord;
use crate::model::time::Moment;
use crate::model::view::ClusterView;

/// The primary's word on its events, and what it means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lesson {
    /// To be recorded, where it is news.
    pub wanted: Option<EventsWanted>,
    /// Its scheduler was seen to be as recorded: what it is from now on is its operator's doing.
    pub settled: Option<Moment>,
}

fn follows(view: &ClusterView) -> bool {
    view.cluster.policy.events == EventsPolicy::Follow
}

/// What `instance` said of its events after the last recovery ended.
fn fresh<'v>(
    view: &'v ClusterView,
    intents: &Intents,
    instance: &InstanceId,
) -> Option<(Moment, &'v ServerEvents)> {
    let (at, events) = view.of(instance)?.events.as_ref()?;
    intents.settled_at.is_none_or(|settled| *at > settled).then_some((*at, events))
}

/// What the primary teaches, read while no recovery runs and it serves.
pub fn learn(view: &ClusterView, intents: &Intents) -> Option<Lesson> {
    let record = view.record.as_ref().filter(|_| follows(view))?;
    let (at, events) = fresh(view, intents, &record.primary)?;
    view.of(&record.primary)?.latest()?;
    let news = |wanted: EventsWanted| (record.events.as_ref() != Some(&wanted)).then_some(wanted);
    let as_it_is = |scheduler| EventsWanted { generation: record.generation, scheduler, idle: events.idle() };
    let Some(known) = &record.events else {
        return Some(Lesson { wanted: news(as_it_is(events.scheduler == Scheduler::On)), settled: Some(at) });
    };
    let as_wanted = events.has_scheduler(known.scheduler);
    if known.generation != record.generation {
        let done = as_wanted && events.missing(&known.idle).next().is_none();
        let wanted = done.then(|| as_it_is(known.scheduler)).and_then(news);
        return Some(Lesson { wanted, settled: done.then_some(at) });
    }
    // Switched off since it was last seen on: by somebody, or by a restart.
    let by_somebody = switched_by_somebody(record, intents, at, events.uptime);
    let scheduler = match events.scheduler {
        Scheduler::On => true,
        Scheduler::Off => known.scheduler && !by_somebody,
        Scheduler::Disabled => known.scheduler,
    };
    let settled = (events.has_scheduler(scheduler)).then_some(at);
    Some(Lesson { wanted: news(as_it_is(scheduler)), settled })
}

/// Its scheduler was seen as recorded after the last recovery, and the server has not restarted since.
fn switched_by_somebody(record: &ClusterRecord, intents: &Intents, at: Moment, uptime: Duration) -> bool {
    let settled = intents.events_settled.as_ref().filter(|(of, _)| *of == record.primary);
    settled.is_some_and(|(_, settled)| {
        intents.settled_at.is_none_or(|ended| *settled > ended) && at.since(*settled) < uptime
    })
}

/// The new primary runs what the last one ran: after it is open, for no writer waits for it, and its failure is mended later.
pub(super) fn promoted(view: &ClusterView, leader: &InstanceId) -> Option<Stage> {
    let wanted = view.record.as_ref()?.events.as_ref().filter(|_| follows(view))?;
    if let Some((_, events)) = &view.of(leader)?.events
        && events.missing(&wanted.idle).next().is_none()
        && events.has_scheduler(wanted.scheduler)
    {
        return None;
    }
    Some(Stage::new("events", vec![as_wanted(view, leader, wanted)]).or_continue())
}

/// An old primary's own events write to a read-only server, where their definer may (MariaDB): its scheduler stops before it is
/// blocked, and runs again when that is taken back.
pub(super) fn paused(view: &ClusterView, record: &ClusterRecord) -> Option<Stage> {
    let events = view.of(&record.primary).filter(|_| follows(view))?.events.as_ref();
    let runs = match events {
        Some((_, events)) => events.runs(),
        None => record.events.as_ref().is_some_and(|wanted| wanted.scheduler),
    };
    let step = |scheduler| vec![Step::Events { instance: record.primary.clone(), scheduler, enable: None }];
    runs.then(|| Stage::new("events", step(false)).with_undo(step(true)))
}

fn as_wanted(view: &ClusterView, primary: &InstanceId, wanted: &EventsWanted) -> Step {
    let disabled = view.of(primary).and_then(|seen| seen.events.as_ref());
    let cannot = disabled.is_some_and(|(_, events)| events.scheduler == Scheduler::Disabled);
    let scheduler = wanted.scheduler && !cannot;
    Step::Events { instance: primary.clone(), scheduler, enable: Some(wanted.idle.clone()) }
}

/// What is not so yet, or not any more: the primary's events after a change or a restart, and a replica that runs some of its own.
pub(super) fn mend(view: &ClusterView, intents: &Intents, now: Moment) -> Option<Plan> {
    let record = view.record.as_ref().filter(|_| follows(view))?;
    let due = |instance: &InstanceId| intents.events_pause(instance, now).is_none();
    let one = |title, step| plan(view, PlanKind::Topology, title, vec![Stage::new("events", vec![step])]);
    let primary = &record.primary;
    if let (Some((_, events)), Some(wanted)) = (fresh(view, intents, primary), &record.events)
        && due(primary)
    {
        let moved = wanted.generation != record.generation;
        let missing = moved && events.missing(&wanted.idle).next().is_some();
        if missing || !events.has_scheduler(wanted.scheduler) {
            let title = format!("{primary} leads: the scheduled events run there");
            return Some(one(title, as_wanted(view, primary, wanted)));
        }
    }
    let parked = |instance: &InstanceId| record.parked.iter().any(|parked| parked.instance == *instance);
    let answers = view.replicas().filter(|(_, seen)| seen.latest().is_some());
    answers.map(|(instance, _)| instance).find_map(|instance| {
        let (_, events) = fresh(view, intents, instance)?;
        if !events.runs() || parked(instance) || !due(instance) {
            return None;
        }
        let title = format!("{instance} is a replica: no scheduled event runs there");
        Some(one(title, Step::Events { instance: instance.clone(), scheduler: false, enable: None }))
    })
}

/// Whose events a plan of `mend` is about.
pub fn mends(plan: &Plan) -> Option<&InstanceId> {
    let only = |step: &Step| matches!(step, Step::Events { .. });
    plan.steps().all(only).then(|| plan.steps().next().map(Step::instance)).flatten()
}

/// What an operator should know of the primary's events.
pub(super) fn issue(view: &ClusterView, record: &ClusterRecord) -> Option<String> {
    let primary = &record.primary;
    let (_, events) = view.of(primary)?.events.as_ref().filter(|_| follows(view))?;
    let wanted = record.events.as_ref()?;
    if wanted.scheduler && events.scheduler == Scheduler::Disabled {
        return Some(format!(
            "no scheduled event runs: {primary} was started with event_scheduler=DISABLED; write OFF in its configuration and \
             restart it at the next occasion"
        ));
    }
    let missing = events.missing(&wanted.idle).count();
    if wanted.generation == record.generation || missing == 0 {
        return None;
    }
    Some(format!("{missing} scheduled event(s) ran before {primary} led, and do not yet"))
}
