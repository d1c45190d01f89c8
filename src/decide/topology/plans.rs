//! The stages of each change, once nothing is in its way.

use super::{joins_ackers, leaves_ackers, mute, stops, would_acknowledge};
use crate::decide::plan::{Stage, Step};
use crate::model::instance::{Flavor, InstanceId};
use crate::model::record::ClusterRecord;
use crate::model::report::{Replication, Report};
use crate::model::view::ClusterView;
use crate::model::wishes::{ReplicaAsk, Threads, Wish};

fn wish(instance: &InstanceId, wish: Wish, before: Wish) -> Stage {
    let step = |wish| Step::Wish { instance: instance.clone(), wish };
    Stage::new("record", vec![step(wish)]).with_undo(vec![step(before)])
}

/// It replicates from `to` instead of `from` without acknowledging; taken back, it is as it was.
fn turn(
    record: &ClusterRecord,
    ask: &ReplicaAsk,
    from: &InstanceId,
    to: &InstanceId,
    report: &Report,
) -> Stage {
    let instance = ask.instance.clone();
    // One that is delayed keeps what it received and goes on with it, where its server can.
    let delayed = report.channel().is_some_and(|channel| !channel.delay.is_zero());
    let step = if delayed && report.identity.flavor == Flavor::MySql {
        Step::PointReplica { instance: instance.clone(), source: to.clone(), acker: false }
    } else {
        let (from, to) = (from.clone(), to.clone());
        Step::Turn { instance: instance.clone(), from, to, acker: false, within: ask.within }
    };
    let back =
        Step::PointReplica { acker: record.ackers.contains(&instance), source: from.clone(), instance };
    Stage::new("turn", vec![step]).with_undo(vec![back])
}

pub(super) fn moved(
    view: &ClusterView,
    record: &ClusterRecord,
    ask: &ReplicaAsk,
    to: &InstanceId,
    report: &Report,
) -> Vec<Stage> {
    let instance = &ask.instance;
    let from = report.channel().map_or(to, |channel| &channel.source);
    let mut stages = Vec::new();
    if from != to {
        stages.push(turn(record, ask, from, to, report));
    }
    let source = (*to != record.primary).then(|| to.clone());
    let before = record.wishes.source_of(instance).cloned();
    let recorded = wish(instance, Wish::Follow { source }, Wish::Follow { source: before });
    if would_acknowledge(view, record, (instance, report), to) {
        stages.push(recorded);
        stages.extend(joins_ackers(record, instance));
        return stages;
    }
    let [level, register] = leaves_ackers(view, record, instance, ask.within);
    stages.extend(level);
    stages.push(recorded);
    stages.extend(register);
    stages
}

pub(super) fn stopped(
    view: &ClusterView,
    record: &ClusterRecord,
    ask: &ReplicaAsk,
    threads: Threads,
    report: &Report,
) -> Vec<Stage> {
    let instance = &ask.instance;
    let acker = record.ackers.contains(instance);
    let source = report.channel().map_or(&record.primary, |channel| &channel.source);
    let [level, register] = leaves_ackers(view, record, instance, ask.within);
    let halt = stops(instance, threads, ask.within, (source, acker));
    let mut stages = Vec::new();
    if acker && !threads.receives() {
        // It goes on receiving: it is told first that it acknowledges no more.
        stages.push(mute(instance, source));
        stages.extend(level);
        stages.push(halt);
    } else {
        stages.push(halt);
        stages.extend(level);
    }
    let by = if ask.by.is_empty() { "an operator".to_owned() } else { ask.by.clone() };
    stages.push(wish(instance, Wish::Stop { threads, by }, record.wishes.of_threads(instance)));
    stages.extend(register);
    stages
}

/// While no primary serves: what it has received is applied, and its receiver is left as it is where it runs. The applier is started first:
/// MariaDB throws away what was received when a thread starts while both are stopped.
pub(super) fn applied(record: &ClusterRecord, ask: &ReplicaAsk, channel: &Replication) -> Vec<Stage> {
    let instance = &ask.instance;
    let acker = record.ackers.contains(instance);
    let start = Step::PointReplica { instance: instance.clone(), source: channel.source.clone(), acker };
    let run = record.wishes.stopped(instance).is_some();
    let run = run.then(|| wish(instance, Wish::Run, record.wishes.of_threads(instance)));
    run.into_iter().chain([Stage::new("apply", vec![start])]).collect()
}

pub(super) fn started(
    view: &ClusterView,
    record: &ClusterRecord,
    ask: &ReplicaAsk,
    to: &InstanceId,
    report: &Report,
) -> Vec<Stage> {
    let instance = &ask.instance;
    let from = report.channel().map_or(to, |channel| &channel.source);
    let mut stages = vec![wish(instance, Wish::Run, record.wishes.of_threads(instance))];
    if from == to {
        let step = Step::PointReplica { instance: instance.clone(), source: to.clone(), acker: false };
        stages.push(Stage::new("follow", vec![step]));
    } else {
        stages.push(turn(record, ask, from, to, report));
    }
    if would_acknowledge(view, record, (instance, report), to) {
        stages.extend(joins_ackers(record, instance));
    }
    stages
}

pub(super) fn removed(
    view: &ClusterView,
    record: &ClusterRecord,
    ask: &ReplicaAsk,
    keep_running: bool,
    report: Option<&Report>,
) -> Vec<Stage> {
    let instance = &ask.instance;
    let acker = record.ackers.contains(instance);
    let channel = report.and_then(Report::channel);
    let mut stages = Vec::new();
    if let Some(channel) = channel {
        if !keep_running {
            stages.push(stops(instance, Threads::Both, ask.within, (&channel.source, acker)));
        } else if acker {
            stages.push(mute(instance, &channel.source));
        }
    }
    let [level, register] = leaves_ackers(view, record, instance, ask.within);
    stages.extend(level);
    let member = view.cluster.member(instance).cloned().map(Box::new);
    let step = |wish| Step::Wish { instance: instance.clone(), wish };
    let back = member.map(|member| step(Wish::Join { member }));
    stages.push(Stage::new("record", vec![step(Wish::Leave)]).with_undo(back.into_iter().collect()));
    stages.extend(register);
    stages
}
