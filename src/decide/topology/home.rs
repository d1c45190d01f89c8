//! Where a replica belongs: below the primary, or below the member an operator put it under; while that one is away, below whatever
//! that one belongs to, or a sibling that still has what it lacks. Never decides whether it may be moved now.

use std::time::Duration;

use super::is_lossless;
use crate::decide::failover::acks_in_force;
use crate::decide::rejoin::commits_wait;
use crate::decide::restrictions;
use crate::model::instance::InstanceId;
use crate::model::observation::{Access, Process};
use crate::model::record::ClusterRecord;
use crate::model::report::{Replication, Report, ThreadState};
use crate::model::time::Moment;
use crate::model::view::{ClusterView, Seen};

/// A source that returned is gone back to when its server has run for so long: one that dies again and again moves nobody.
const STEADY: Duration = Duration::from_secs(30);

/// Whom `instance` belongs below now.
pub(in crate::decide) fn home(
    view: &ClusterView,
    record: &ClusterRecord,
    instance: &InstanceId,
    now: Moment,
) -> InstanceId {
    if is_needed(view, record, instance) {
        return record.primary.clone();
    }
    let present = source_now(view, instance);
    let mut at = instance;
    // As many steps as there are members: wishes may have come to go in a circle when roles changed.
    for _ in &view.cluster.members {
        let Some(source) = record.wishes.source_of(at).filter(|source| **source != record.primary) else {
            break;
        };
        if source == instance {
            break;
        }
        if can_be_source(view, record, source, now)
            && !is_below(view, source, instance)
            && (present == Some(source) || is_steady(view, source))
        {
            return source.clone();
        }
        at = source;
    }
    if can_give(view, &record.primary, instance) {
        return record.primary.clone();
    }
    sibling(view, record, instance, now).unwrap_or_else(|| record.primary.clone())
}

/// Clients wait, or lossless is given up, for want of an acker, and this one could be one: its place below another replica can wait.
fn is_needed(view: &ClusterView, record: &ClusterRecord, instance: &InstanceId) -> bool {
    let primary = view.of(&record.primary).and_then(Seen::latest);
    let acks = acks_in_force(view, primary) as usize;
    let lacking = record.degraded.is_some() || commits_wait(view, record);
    if !lacking || acks == 0 || !is_lossless(view) || record.wishes.source_of(instance).is_none() {
        return false;
    }
    let able = |instance: &InstanceId| {
        let parked = record.parked.iter().any(|parked| parked.instance == *instance);
        let report = view.of(instance).and_then(Seen::latest);
        let hears = |report: &Report| {
            report.channel().is_some_and(|channel| channel.receiver == ThreadState::Running)
                && restrictions::may_acknowledge(view, instance, report)
        };
        !parked && report.is_some_and(hears)
    };
    let others = view.replicas().map(|(other, _)| other).filter(|other| *other != instance);
    let others = others.filter(|other| record.wishes.source_of(other).is_none() && able(other)).count();
    others < acks && able(instance)
}

/// Somebody replicates from it who would be moved.
pub(in crate::decide) fn has_orphans(
    view: &ClusterView,
    record: &ClusterRecord,
    source: &InstanceId,
    now: Moment,
) -> bool {
    view.replicas().any(|(instance, seen)| {
        source_now(view, instance) == Some(source)
            && seen.latest().is_some()
            && record.wishes.stopped(instance).is_none()
            && home(view, record, instance, now) != *source
    })
}

/// Another replica that can give `instance` what the primary's log no longer holds.
fn sibling(
    view: &ClusterView,
    record: &ClusterRecord,
    instance: &InstanceId,
    now: Moment,
) -> Option<InstanceId> {
    let good = |other: &InstanceId| {
        can_be_source(view, record, other, now)
            && !is_below(view, other, instance)
            && can_give(view, other, instance)
            && is_whole(view, other)
    };
    let mut others = view.replicas().map(|(other, _)| other).filter(|other| *other != instance);
    others.find(|other| good(other)).cloned()
}

/// A member in care that answers, or was heard a moment ago.
fn can_be_source(view: &ClusterView, record: &ClusterRecord, source: &InstanceId, now: Moment) -> bool {
    let parked = record.parked.iter().any(|parked| parked.instance == *source);
    view.cluster.member(source).is_some() && !parked && !is_away(view, source, now)
}

/// Its server is gone, has not answered for `silence`, or returned and is not compared yet.
fn is_away(view: &ClusterView, instance: &InstanceId, now: Moment) -> bool {
    let Some(seen) = view.of(instance) else { return true };
    let agent = seen.agent_now();
    if agent
        .is_some_and(|agent| matches!(agent.process, Process::Gone { .. }) || agent.access == Access::Closed)
    {
        return true;
    }
    seen.latest().is_none()
        && seen.failing_since.is_some_and(|since| now.since(since) >= view.cluster.policy.silence)
}

fn is_steady(view: &ClusterView, instance: &InstanceId) -> bool {
    view.of(instance).and_then(|seen| seen.latest()).is_some_and(|report| {
        report.uptime >= STEADY && report.channel().is_some_and(Replication::is_running)
    })
}

fn is_whole(view: &ClusterView, instance: &InstanceId) -> bool {
    view.of(instance).and_then(|seen| seen.latest()).is_some_and(|report| cannot_feed(report).is_none())
}

/// Why nobody can be below a replica with such an answer, if so.
pub(super) fn cannot_feed(report: &Report) -> Option<String> {
    if !report.settings.log_bin {
        return Some("it has no binary log".to_owned());
    }
    if !report.settings.log_replica_updates {
        return Some("it does not log what it replicates (log_replica_updates)".to_owned());
    }
    if !report.settings.gtid {
        return Some("its GTIDs are off".to_owned());
    }
    let channel = report.channel()?;
    if report.replication.len() > 1 {
        return Some(format!("it replicates from {} sources", report.replication.len()));
    }
    if !report.filters().is_empty() {
        return Some("it filters its stream, and so would everything below it".to_owned());
    }
    (!channel.delay.is_zero()).then(|| {
        format!("it is delayed by {} s, and so would be everything below it", channel.delay.as_secs())
    })
}

/// Its log holds all that `instance` lacks.
fn can_give(view: &ClusterView, source: &InstanceId, instance: &InstanceId) -> bool {
    let last = |of: &InstanceId| view.of(of).and_then(|seen| seen.last_report.as_ref());
    let (Some((_, source)), Some((_, replica))) = (last(source), last(instance)) else { return true };
    replica.known().contains(&source.purged)
}

/// The replica it is below, where that one gets the primary's stream and can hand it on.
pub(in crate::decide) fn tier<'v>(
    view: &'v ClusterView,
    primary: &InstanceId,
    instance: &InstanceId,
) -> Option<&'v InstanceId> {
    let source = source_now(view, instance).filter(|source| *source != primary)?;
    (is_below(view, source, primary) && is_whole(view, source)).then_some(source)
}

/// Whom it replicates from, by its last answer.
pub(super) fn source_now<'v>(view: &'v ClusterView, instance: &InstanceId) -> Option<&'v InstanceId> {
    let (_, report) = view.of(instance)?.last_report.as_ref()?;
    report.channel().map(|channel| &channel.source)
}

/// `instance` gets its stream from `top`, over however many others.
pub(in crate::decide) fn is_below(view: &ClusterView, instance: &InstanceId, top: &InstanceId) -> bool {
    let mut at = instance;
    for _ in &view.cluster.members {
        match source_now(view, at) {
            Some(source) if source == top => return true,
            Some(source) if view.primary() != Some(at) => at = source,
            Some(_) | None => return false,
        }
    }
    false
}
