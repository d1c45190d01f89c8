//! Lossless beside a primary that serves: given up where policy says so and nobody acknowledges, in force again when ackers are
//! back. The record always says less than is so: it changes before the server is disarmed, and after ackers are attached.

use std::time::Duration;

use super::candidate::{Candidate, Ranking};
use super::failover::acks_in_force;
use super::plan::{Plan, PlanKind, Stage, Step};
use super::proof::{disarmed, lapsed_before, unregistered};
use super::restrictions;
use super::standing::holds_unapplied;
use super::topology;
use crate::model::instance::InstanceId;
use crate::model::intent::Intents;
use crate::model::observation::Access;
use crate::model::policy::{Durability, WithoutAckers};
use crate::model::record::ClusterRecord;
use crate::model::report::{Report, ThreadState};
use crate::model::time::{Moment, human};
use crate::model::view::{ClusterView, Seen};
use crate::model::wishes::Threads;

/// `without_ackers = "degrade"`, and commits have waited `silence` for acknowledgements nobody gives: the span is recorded, then
/// they are let go.
pub(super) fn degrade(view: &ClusterView, intents: &Intents, now: Moment) -> Option<Plan> {
    let policy = &view.cluster.policy;
    let record = view.record.as_ref()?;
    let primary = &record.primary;
    let degrades =
        policy.durability == Durability::Lossless && policy.without_ackers == WithoutAckers::Degrade;
    if !degrades || intents.pause(primary, now).is_some() {
        return None;
    }
    let seen = view.of(primary)?;
    let waited = waited(seen, now);
    if waited < policy.silence {
        return None;
    }
    let why = format!("commits on {primary} had waited {} for acknowledgements nobody gave", human(waited));
    let stages = vec![
        Stage::new("record", vec![register(record, record.ackers.clone(), 0, Some(why.clone()))]),
        Stage::new("disarm", vec![Step::ArmSource { instance: primary.clone(), acks: 0 }]),
    ];
    Some(plan(view, format!("lossless is given up until an acker is back: {why}"), stages))
}

/// Fewer acknowledgements are configured than recorded: that is recorded first, so that a failover never counts on more than are waited for.
pub(super) fn lower(view: &ClusterView, intents: &Intents, now: Moment) -> Option<Plan> {
    let record = lossless_record(view)?;
    let primary = &record.primary;
    let report = fresh(view, intents, primary).filter(|report| report.is_writable())?;
    let acks = acks_in_force(view, Some(report));
    if acks == 0 || acks >= record.acks || intents.pause(primary, now).is_some() {
        return None;
    }
    let stages = vec![
        Stage::new("record", vec![register(record, record.ackers.clone(), acks, None)]),
        Stage::new("arm", vec![Step::ArmSource { instance: primary.clone(), acks }]),
    ];
    let title = format!("{primary} waits for {acks} acknowledgement(s), {} were recorded", record.acks);
    Some(plan(view, title, stages))
}

/// How long commits have waited, by its agent; by the manager's own eyes where there is none.
fn waited(seen: &Seen, now: Moment) -> Duration {
    match seen.agent_now() {
        Some(agent) => agent.heartbeat_stuck.unwrap_or_default(),
        None => seen.moved_at.map_or(Duration::ZERO, |moved| now.since(moved)),
    }
}

/// Lossless was given up, was found not to be in force, or is newly configured, and enough replicas follow that can acknowledge. What the
/// primary has by then is the base of the new promise.
pub(super) fn rearm(view: &ClusterView, ranking: &Ranking, intents: &Intents, now: Moment) -> Option<Plan> {
    let record = view.record.as_ref()?;
    let primary = &record.primary;
    let lossless = view.cluster.policy.durability == Durability::Lossless;
    let report = fresh(view, intents, primary)?;
    let given_up = record.degraded.as_ref().filter(|_| lossless).map(|degraded| degraded.why.clone());
    let found = lossless_record(view).filter(|_| report.is_writable());
    let found = found.and_then(|record| disarmed(view, record, view.of(primary)?));
    let lapsed = lapsed_before(view, primary).filter(|_| report.is_writable());
    let found = found.or(lapsed);
    let title = found.as_ref().map(|why| format!("{primary} is armed again: {why}"));
    let never = lossless && record.acks == 0 && record.degraded.is_none();
    let never = never.then(|| "lossless is configured, and was not put in force yet".to_owned());
    let title = title.or_else(|| never.as_ref().map(|why| format!("{primary} is armed: {why}")));
    let why = given_up.or(found).or(never)?;
    let acks = acks_in_force(view, Some(report));
    let follows = |candidate: &&Candidate| {
        candidate.can_acknowledge()
            && fresh(view, intents, &candidate.instance).is_some_and(|report| is_fed(report, primary))
    };
    let ready: Vec<&InstanceId> = ranking
        .candidates
        .iter()
        .filter(follows)
        .map(|candidate| &candidate.instance)
        .filter(|instance| is_admitted(view, instance) && hears(view, instance))
        .collect();
    if acks == 0 || ready.len() < acks as usize || intents.pause(primary, now).is_some() {
        return None;
    }
    let mut ackers = record.ackers.clone();
    ackers.extend(
        ready.iter().filter(|instance| !record.ackers.contains(instance)).map(|instance| (*instance).clone()),
    );
    // One that connected while the source side was off may have to announce itself again (N8).
    let announce = ready.iter().map(|instance| Step::PointReplica {
        instance: (*instance).clone(),
        source: primary.clone(),
        acker: true,
    });
    let arm = |acks| Step::ArmSource { instance: primary.clone(), acks };
    // Where commits may wait already, as recorded, nothing lets them go.
    let was_off = if record.acks == 0 { vec![arm(0)] } else { Vec::new() };
    let stages = vec![
        Stage::new("register", vec![register(record, ackers.clone(), record.acks, Some(why))]),
        Stage::new("arm", vec![arm(acks)]).with_undo(was_off),
        Stage::new("announce", announce.collect()),
        Stage::new("attach", vec![Step::AckersAttached { instance: primary.clone(), acks }]),
        Stage::new("lossless", vec![register(record, ackers, acks, None)]),
    ];
    let back = || format!("{} acker(s) are back: {primary} is lossless again", ready.len());
    Some(plan(view, title.unwrap_or_else(back), stages))
}

/// A registered acker that receives nothing any more acknowledges nothing, and every failover would wait for its word; one whose settings
/// leave out or pass over something acknowledges what it may not have. It is kept from acknowledging, and is taken from the record once
/// the others have all that it had. So is one that nobody registered, where its settings keep it from being registered.
pub(super) fn retire(view: &ClusterView, intents: &Intents, now: Moment) -> Option<Plan> {
    let record = lossless_record(view)?;
    fresh(view, intents, &record.primary)?;
    record.ackers.iter().chain(unregistered(view, record)).find_map(|acker| {
        let registered = record.ackers.contains(acker);
        if view.cluster.member(acker).is_none() {
            return leaves_configuration(view, record, intents, (acker, now));
        }
        let report = fresh(view, intents, acker).filter(|_| answers(view, acker))?;
        let within = view.cluster.policy.statement;
        let follows = is_fed(report, &record.primary) && is_admitted(view, acker);
        let (deaf, why) = match restrictions::keeps_from_acknowledging(view, acker, report) {
            Some(why) if follows => (topology::mute(acker, &record.primary), why),
            Some(_) | None if !registered => return None,
            // Not stopped by hand: it is led back as soon as its agent is heard.
            Some(_) | None if is_left(view, intents, acker) => return None,
            Some(_) | None => {
                let why = receives_nothing(view, record, acker, report, now)?;
                let halt = Step::Halt { instance: acker.clone(), threads: Threads::Receiver, within };
                (Stage::new("deaf", vec![halt]), why)
            }
        };
        let sound = |other: &&&InstanceId| {
            let report = view.of(other).and_then(Seen::latest);
            report.is_some_and(|report| restrictions::may_acknowledge(view, other, report))
        };
        let others = topology::ackers_beside(view, record, acker);
        if others.iter().filter(sound).count() < record.acks as usize || intents.pause(acker, now).is_some() {
            return None;
        }
        // One that nobody registered is counted first: until the others have what it has acknowledged, its word is asked for.
        let counted = (!registered).then(|| topology::joins_record(record, acker));
        let level = topology::levels_ackers(view, record, acker, within);
        let register = topology::leaves_record(record, acker);
        let stages = counted.into_iter().chain([deaf]).chain(level).chain([register]).collect();
        let title = format!("{acker} is no acker any more: {why}");
        Some(Plan { kind: PlanKind::Rejoin, ..plan(view, title, stages) })
    })
}

/// An acker that the configuration does not name any more is asked nothing: the others get all that the primary has, which is the least that
/// any primary after it must have, and then it is taken from the record.
fn leaves_configuration(
    view: &ClusterView,
    record: &ClusterRecord,
    intents: &Intents,
    (acker, now): (&InstanceId, Moment),
) -> Option<Plan> {
    let others = topology::ackers_beside(view, record, acker);
    // A failed attempt counts for the first one that was to be level.
    let waits = others.first().is_none_or(|first| intents.pause(first, now).is_some());
    if waits || others.len() < record.acks as usize {
        return None;
    }
    let level = topology::levels_ackers(view, record, acker, view.cluster.policy.statement);
    let stages = level.into_iter().chain([topology::leaves_record(record, acker)]).collect();
    let title = format!("{acker} is no acker any more: it is not in the configuration");
    Some(Plan { kind: PlanKind::Rejoin, ..plan(view, title, stages) })
}

fn answers(view: &ClusterView, instance: &InstanceId) -> bool {
    view.of(instance).is_some_and(|seen| seen.latest().is_some())
}

fn lossless_record(view: &ClusterView) -> Option<&ClusterRecord> {
    let lossless = view.cluster.policy.durability == Durability::Lossless;
    view.record.as_ref().filter(|record| lossless && record.acks > 0 && record.degraded.is_none())
}

/// A recovery left it as it is, or its agent, which would do what is wanted here, is not heard.
fn is_left(view: &ClusterView, intents: &Intents, acker: &InstanceId) -> bool {
    let parked = view
        .record
        .as_ref()
        .is_some_and(|record| record.parked.iter().any(|parked| parked.instance == *acker));
    let has_agent = view.cluster.member(acker).is_some_and(|member| member.agent.is_some());
    let agent = view.of(acker).and_then(Seen::agent_now);
    let by_order = agent.is_some_and(|agent| agent.stopped_by_order);
    has_agent && agent.is_none() || !parked && (by_order || intents.was_left(acker))
}

/// Why it acknowledges nothing, where nothing here brings that back by itself.
fn receives_nothing(
    view: &ClusterView,
    record: &ClusterRecord,
    acker: &InstanceId,
    report: &Report,
    now: Moment,
) -> Option<String> {
    let channel = report.channel();
    let receives = channel.is_some_and(|channel| channel.receiver != ThreadState::Stopped);
    // What it has received and not applied is lost if it is touched: that is a person's to mend first.
    if receives || holds_unapplied(report).is_some() {
        return None;
    }
    let seen = view.of(acker)?;
    // What it acknowledged last reaches the others meanwhile.
    let still = seen.stream_moved_at.map_or(Duration::ZERO, |moved| now.since(moved));
    if still < view.cluster.policy.silence {
        return None;
    }
    if record.parked.iter().any(|parked| parked.instance == *acker) {
        return Some("it is parked and receives nothing".to_owned());
    }
    // A server that returned is compared and led back; one that was left so by a failover is started.
    let closed = seen.agent_now().is_some_and(|agent| agent.access == Access::Closed);
    let started = channel.is_some_and(|channel| channel.applier == ThreadState::Running);
    (!closed && !started).then(|| {
        match channel {
            None => "it does not replicate",
            Some(_) => "its replication was stopped by hand",
        }
        .to_owned()
    })
}

/// A replica that follows the primary well and is not registered: it acknowledges from now on.
pub(super) fn recruit(view: &ClusterView, ranking: &Ranking, intents: &Intents, now: Moment) -> Option<Plan> {
    let record = lossless_record(view)?;
    fresh(view, intents, &record.primary)?;
    ranking.candidates.iter().find_map(|candidate| {
        let instance = &candidate.instance;
        let follows = candidate.can_acknowledge()
            && fresh(view, intents, instance).is_some_and(|report| is_fed(report, &record.primary))
            && record.wishes.source_of(instance).is_none()
            && topology::home(view, record, instance, now) == record.primary;
        let new = !record.ackers.contains(instance)
            && answers(view, instance)
            && view.of(instance).is_some_and(|seen| seen.doubt.is_none())
            && intents.pause(instance, now).is_none();
        if !(follows && new && is_admitted(view, instance) && hears(view, instance)) {
            return None;
        }
        let title = format!("{instance} follows {} and acknowledges from now on", record.primary);
        let stages = topology::joins_ackers(record, instance);
        Some(Plan { kind: PlanKind::Rejoin, ..plan(view, title, stages) })
    })
}

/// What it last said, if that was after the last recovery.
fn fresh<'a>(view: &'a ClusterView, intents: &Intents, instance: &InstanceId) -> Option<&'a Report> {
    let (at, report) = view.of(instance)?.last_report.as_ref()?;
    let settled = intents.settled_at.is_some_and(|settled| *at <= settled);
    (!settled).then_some(report)
}

fn is_fed(report: &Report, primary: &InstanceId) -> bool {
    report.channel().is_some_and(|channel| {
        channel.source == *primary
            && channel.receiver == ThreadState::Running
            && channel.applier == ThreadState::Running
    })
}

/// Connected it may be by its own word through a cut that the kernel has not noticed, and by its source's: its agent hears what comes.
fn hears(view: &ClusterView, instance: &InstanceId) -> bool {
    let still = view.of(instance).and_then(|seen| seen.agent_now()?.stream_still);
    still.is_none_or(|still| still < view.cluster.policy.silence)
}

/// One that its agent still keeps closed is not led back yet.
fn is_admitted(view: &ClusterView, instance: &InstanceId) -> bool {
    let closed = |seen: &Seen| seen.agent_now().is_some_and(|agent| agent.access == Access::Closed);
    view.of(instance).is_some_and(|seen| !closed(seen))
}

fn register(record: &ClusterRecord, ackers: Vec<InstanceId>, acks: u32, degraded: Option<String>) -> Step {
    Step::Register { primary: record.primary.clone(), generation: record.generation, ackers, acks, degraded }
}

fn plan(view: &ClusterView, title: String, stages: Vec<Stage>) -> Plan {
    Plan {
        cluster: view.cluster.name.clone(),
        kind: PlanKind::Repair,
        title,
        stages,
        commit: None,
        basis: Vec::new(),
    }
}
