//! What must hold before a change is begun. Everything in the way is found at once.

use super::home::{cannot_feed, home, is_below, source_now};
use super::objection::Objection;
use super::{ackers_beside, is_lossless, would_acknowledge};
use crate::decide::diagnose::diagnose;
use crate::model::cluster::{Member, Mode};
use crate::model::gtid::GtidSet;
use crate::model::instance::{Flavor, InstanceId};
use crate::model::observation::Access;
use crate::model::policy::WithoutAckers;
use crate::model::record::ClusterRecord;
use crate::model::report::{Replication, Report, ThreadState};
use crate::model::time::Moment;
use crate::model::verdict::Verdict;
use crate::model::view::ClusterView;
use crate::model::wishes::{ReplicaAsk, Threads};

type Found = Vec<Objection>;

/// The record, where anything may be changed at all.
pub(super) fn ready(view: &ClusterView, now: Moment) -> Result<&ClusterRecord, Found> {
    let Some(record) = &view.record else {
        return Err(vec![Objection::NotAdopted(view.cluster.name.clone())]);
    };
    let mut found = Vec::new();
    if view.cluster.mode == Mode::Observe {
        found.push(Objection::Observing);
    }
    let diagnosis = diagnose(view, now);
    if !serves(diagnosis.verdict) {
        found.push(Objection::NotHealthy { verdict: diagnosis.verdict, evidence: diagnosis.evidence });
    }
    if found.is_empty() { Ok(record) } else { Err(found) }
}

/// The record, where the primary is lost and no failover has begun: what a replica has received can still be applied.
pub(super) fn without_primary(view: &ClusterView, now: Moment) -> Option<&ClusterRecord> {
    let record = view.record.as_ref().filter(|_| view.cluster.mode != Mode::Observe)?;
    match diagnose(view, now).verdict {
        Verdict::DeadPrimary
        | Verdict::SilentPrimary
        | Verdict::HungPrimary
        | Verdict::UnreachablePrimary
        | Verdict::IsolatedPrimary
        | Verdict::ClosedPrimary => Some(record),
        Verdict::NotAdopted
        | Verdict::Starting
        | Verdict::Healthy
        | Verdict::Degraded
        | Verdict::ManagerCutOff
        | Verdict::OverloadedPrimary
        | Verdict::MisconfiguredPrimary
        | Verdict::BlockedForAcks
        | Verdict::DeadPrimaryAndReplicas
        | Verdict::SplitBrain => None,
    }
}

/// The channel whose applier can be started while no primary serves.
pub(super) fn appliable<'v>(
    view: &'v ClusterView,
    record: &ClusterRecord,
    ask: &ReplicaAsk,
) -> Result<&'v Replication, Found> {
    let mut found = Vec::new();
    let report = replica(view, record, &ask.instance, &mut found);
    let Some(report) = report.filter(|_| found.is_empty()) else { return Err(found) };
    match report.channel() {
        None => Err(vec![Objection::NoReplica(ask.instance.clone())]),
        Some(channel) if channel.applier != ThreadState::Stopped => {
            Err(vec![Objection::Runs(ask.instance.clone())])
        }
        Some(channel) => Ok(channel),
    }
}

/// What an operator does may be what brings the missing acker back.
fn serves(verdict: Verdict) -> bool {
    verdict.serves() || verdict == Verdict::BlockedForAcks
}

/// A replica in care, and what it says; with reasons where it is none.
fn replica<'v>(
    view: &'v ClusterView,
    record: &ClusterRecord,
    instance: &InstanceId,
    found: &mut Found,
) -> Option<&'v Report> {
    member(view, instance, found)?;
    if record.primary == *instance {
        found.push(Objection::Leads(instance.clone()));
        return None;
    }
    in_care(view, record, instance, found);
    answer(view, instance, found)
}

fn member<'v>(view: &'v ClusterView, instance: &InstanceId, found: &mut Found) -> Option<&'v Member> {
    found.extend(view.cluster.stranger(instance).map(Objection::NotMember));
    view.cluster.member(instance)
}

/// It is neither parked nor kept closed by its agent.
fn in_care(view: &ClusterView, record: &ClusterRecord, instance: &InstanceId, found: &mut Found) {
    if let Some(parked) = record.parked.iter().find(|parked| parked.instance == *instance) {
        found.push(Objection::Parked { instance: instance.clone(), why: parked.why.clone() });
    } else if view
        .of(instance)
        .and_then(|seen| seen.agent_now())
        .is_some_and(|agent| agent.access == Access::Closed)
    {
        found.push(Objection::Fenced(instance.clone()));
    }
}

fn answer<'v>(view: &'v ClusterView, instance: &InstanceId, found: &mut Found) -> Option<&'v Report> {
    let seen = view.of(instance);
    let report = seen.and_then(|seen| seen.latest());
    if report.is_none() {
        let why = seen.and_then(|seen| seen.unseen());
        let why = why.map_or_else(|| "no answer yet".to_owned(), ToString::to_string);
        found.push(Objection::NotAnswering { instance: instance.clone(), why });
    }
    report
}

fn stopped(record: &ClusterRecord, instance: &InstanceId, found: &mut Found) {
    if let Some(stopped) = record.wishes.stopped(instance) {
        found.push(Objection::Stopped { instance: instance.clone(), by: stopped.by.clone() });
    }
}

/// Whether the primary's commits go on without it.
fn last_acker(view: &ClusterView, record: &ClusterRecord, ask: &ReplicaAsk, found: &mut Found) {
    let left = ackers_beside(view, record, &ask.instance).len();
    let needed = is_lossless(view) && record.acks > 0 && record.ackers.contains(&ask.instance);
    if needed && left < record.acks as usize && !ask.force {
        let (instance, primary) = (ask.instance.clone(), record.primary.clone());
        found.push(Objection::LastAcker { instance, primary, left, acks: record.acks });
    }
}

fn has_replicas(view: &ClusterView, ask: &ReplicaAsk, found: &mut Found) {
    let below = view.replicas().map(|(other, _)| other);
    let replicas: Vec<InstanceId> =
        below.filter(|other| source_now(view, other) == Some(&ask.instance)).cloned().collect();
    if !replicas.is_empty() && !ask.force {
        found.push(Objection::HasReplicas { instance: ask.instance.clone(), replicas });
    }
}

/// The replica's answer, when it can be put below `source`.
pub(super) fn movable<'v>(
    view: &'v ClusterView,
    record: &ClusterRecord,
    ask: &ReplicaAsk,
    source: &InstanceId,
) -> Result<&'v Report, Found> {
    let instance = &ask.instance;
    let mut found = Vec::new();
    if instance == source {
        return Err(vec![Objection::ItsOwnSource(instance.clone())]);
    }
    let report = replica(view, record, instance, &mut found);
    stopped(record, instance, &mut found);
    let wished = record.wishes.source_of(instance).unwrap_or(&record.primary);
    if source_now(view, instance) == Some(source) && wished == source {
        found.push(Objection::IsThere { instance: instance.clone(), source: source.clone() });
    }
    let above = as_source(view, record, source, &mut found);
    if is_below(view, source, instance) {
        found.push(Objection::Circle { instance: instance.clone(), source: source.clone() });
    }
    let Some(report) = report else { return Err(found) };
    channel_can_move(instance, report, &mut found);
    if let Some(above) = above {
        pair(view, record, (instance, report), (source, above), &mut found);
    }
    if !would_acknowledge(view, record, (instance, report), source) {
        last_acker(view, record, ask, &mut found);
    }
    if found.is_empty() { Ok(report) } else { Err(found) }
}

/// What the server says that is to be a source.
pub(super) fn as_source<'v>(
    view: &'v ClusterView,
    record: &ClusterRecord,
    source: &InstanceId,
    found: &mut Found,
) -> Option<&'v Report> {
    member(view, source, found)?;
    let report = answer(view, source, found)?;
    if *source == record.primary {
        return Some(report);
    }
    in_care(view, record, source, found);
    stopped(record, source, found);
    let why = cannot_feed(report).or_else(|| match report.channel() {
        None => Some("it does not replicate itself".to_owned()),
        Some(channel) if !channel.is_running() => Some("its own replication does not run".to_owned()),
        Some(_) => None,
    });
    found.extend(why.map(|why| Objection::CannotFeed { source: source.clone(), why }));
    Some(report)
}

fn channel_can_move(instance: &InstanceId, report: &Report, found: &mut Found) {
    if report.replication.len() > 1 {
        let sources = report.replication.len();
        found.push(Objection::ManySources { instance: instance.clone(), sources });
    }
    let Some(channel) = report.channel() else {
        found.push(Objection::NoReplica(instance.clone()));
        return;
    };
    if !channel.gtid {
        found.push(Objection::NotByGtid(instance.clone()));
    }
    let unapplied = !report.executed.contains(&channel.received);
    if report.identity.flavor == Flavor::MariaDb && !channel.delay.is_zero() && unapplied {
        found.push(Objection::DelayedHere { instance: instance.clone(), by: channel.delay });
    }
}

/// Whether the one can follow the other.
pub(super) fn pair(
    view: &ClusterView,
    record: &ClusterRecord,
    (instance, report): (&InstanceId, &Report),
    (source, above): (&InstanceId, &Report),
    found: &mut Found,
) {
    let (this, that) = (|| instance.clone(), || source.clone());
    let (own, its) = (&report.identity, &above.identity);
    if own.flavor != its.flavor {
        found.push(Objection::OtherFlavor { instance: this(), flavor: own.flavor, source: that() });
        return;
    }
    let series = |version: crate::model::instance::Version| (version.major, version.minor);
    if series(its.version) > series(own.version) && !view.cluster.policy.allow_newer_primary {
        found.push(Objection::SourceNewer { instance: this(), version: own.version, source: that() });
    }
    let known = report.known();
    let purged = above.purged.minus(&known);
    if !purged.is_empty() {
        found.push(Objection::Purged { instance: this(), source: that(), set: purged });
    }
    // What the primary has reaches the source in a moment; anything else never does.
    let led = view.of(&record.primary).and_then(|seen| seen.latest()).map(|primary| &primary.executed);
    let reached =
        led.map_or_else(|| above.known(), |led| above.known().try_union(led).unwrap_or(above.known()));
    let extra: GtidSet = known.minus(&reached).minus(&written_by(view, record, &known));
    if !extra.is_empty() && report.replication.len() < 2 {
        found.push(Objection::Extra { instance: this(), source: that(), set: extra });
    }
}

/// What the primary wrote itself may be on its way to being committed there, or waits for an acknowledgement.
fn written_by(view: &ClusterView, record: &ClusterRecord, known: &GtidSet) -> GtidSet {
    match view.of(&record.primary).and_then(|seen| seen.latest()) {
        Some(primary) => known.written_by(&primary.identity),
        None => GtidSet::empty(known.flavor()),
    }
}

pub(super) fn stoppable<'v>(
    view: &'v ClusterView,
    record: &ClusterRecord,
    ask: &ReplicaAsk,
    threads: Threads,
) -> Result<&'v Report, Found> {
    let mut found = Vec::new();
    let report = replica(view, record, &ask.instance, &mut found);
    let Some(report) = report else { return Err(found) };
    match report.channel() {
        None => found.push(Objection::NoReplica(ask.instance.clone())),
        Some(channel) => {
            let unapplied = !report.executed.contains(&channel.received);
            let both = threads == Threads::Both && report.identity.flavor == Flavor::MariaDb;
            if both && !channel.delay.is_zero() && unapplied {
                found.push(Objection::DelayedHere { instance: ask.instance.clone(), by: channel.delay });
            }
        }
    }
    if record.wishes.stopped(&ask.instance).is_some_and(|stopped| stopped.threads == threads) {
        stopped(record, &ask.instance, &mut found);
    }
    last_acker(view, record, ask, &mut found);
    has_replicas(view, ask, &mut found);
    if found.is_empty() { Ok(report) } else { Err(found) }
}

/// The replica's answer, and whom it will follow.
pub(super) fn startable<'v>(
    view: &'v ClusterView,
    record: &ClusterRecord,
    ask: &ReplicaAsk,
    now: Moment,
) -> Result<(&'v Report, InstanceId), Found> {
    let mut found = Vec::new();
    let report = replica(view, record, &ask.instance, &mut found);
    let Some(report) = report else { return Err(found) };
    match report.channel() {
        // Stopped by command and rebuilt since: with its word lifted it is pointed as a new one is.
        None if record.wishes.stopped(&ask.instance).is_some() => {}
        None => found.push(Objection::NoReplica(ask.instance.clone())),
        Some(channel) => {
            let runs = channel.receiver != ThreadState::Stopped && channel.applier == ThreadState::Running;
            if runs && record.wishes.stopped(&ask.instance).is_none() {
                found.push(Objection::Runs(ask.instance.clone()));
            }
        }
    }
    let to = home(view, record, &ask.instance, now);
    if let Some(above) = view.of(&to).and_then(|seen| seen.latest()) {
        pair(view, record, (&ask.instance, report), (&to, above), &mut found);
    }
    if found.is_empty() { Ok((report, to)) } else { Err(found) }
}

/// Its answer, if it gives one; one that does not is removed only by force, for it may still acknowledge.
pub(super) fn removable<'v>(
    view: &'v ClusterView,
    record: &ClusterRecord,
    ask: &ReplicaAsk,
) -> Result<Option<&'v Report>, Found> {
    let instance = &ask.instance;
    let mut found = Vec::new();
    if member(view, instance, &mut found).is_some() && record.primary == *instance {
        found.push(Objection::Leads(instance.clone()));
    }
    if !found.is_empty() {
        return Err(found);
    }
    let report = view.of(instance).and_then(|seen| seen.latest());
    if report.is_none() && record.ackers.contains(instance) && !ask.force {
        let why = "and may acknowledge still; add --force when its server is stopped for good".to_owned();
        found.push(Objection::NotAnswering { instance: instance.clone(), why });
    }
    if view.cluster.policy.without_ackers == WithoutAckers::Block {
        last_acker(view, record, ask, &mut found);
    }
    has_replicas(view, ask, &mut found);
    if found.is_empty() { Ok(report) } else { Err(found) }
}

pub(super) fn may_be_read_only(
    view: &ClusterView,
    record: &ClusterRecord,
    instance: &InstanceId,
    on: bool,
) -> Result<(), Found> {
    if record.primary == *instance {
        let instance = instance.clone();
        let why =
            if on { Objection::NoWritesOnPrimary(instance) } else { Objection::OpenedByLease(instance) };
        return Err(vec![why]);
    }
    let mut found = Vec::new();
    if member(view, instance, &mut found).is_none() {
        return Err(found);
    }
    if !on {
        let primary = record.primary.clone();
        found.push(Objection::SecondWriter { instance: instance.clone(), primary });
    } else if let Some(report) = answer(view, instance, &mut found)
        && report.read_only
        && report.super_read_only != Some(false)
    {
        found.push(Objection::IsReadOnly(instance.clone()));
    }
    if found.is_empty() { Ok(()) } else { Err(found) }
}
