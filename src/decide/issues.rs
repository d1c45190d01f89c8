//! What is the matter beside the primary: one sentence each, for the operator and the metrics.

use std::time::Duration;

use super::backlog;
use super::candidate::{errant, keep_received};
use super::events;
use super::hanging;
use super::plain_tables;
use super::proof::{Promise, promise};
use super::reach;
use super::restrictions;
use super::standing::holds_unapplied;
use crate::model::instance::InstanceId;
use crate::model::job::{Job, Phase};
use crate::model::observation::{Access, AgentStatus, Leaving, Process, Unseen};
use crate::model::policy::Durability;
use crate::model::report::{Replication, Report, ThreadState};
use crate::model::time::{Moment, human};
use crate::model::view::{ClusterView, Seen};

/// A commit that takes longer has more than one good disk and a near acker to wait for.
const SLOW_COMMIT: Duration = Duration::from_millis(150);

/// All issues, members in configuration order.
pub(crate) fn issues(view: &ClusterView, now: Moment) -> Vec<String> {
    let mut found = Vec::new();
    for (instance, seen) in view.replicas() {
        found.extend(replica_issues(view, instance, seen, now));
    }
    for member in view.cluster.members.iter().filter(|member| member.agent.is_some()) {
        if let Some(seen) = view.of(&member.instance).filter(|seen| seen.agent_now().is_none()) {
            let why = seen.agent_elsewhere.as_ref().map_or_else(String::new, |why| format!(": {why}"));
            found.push(format!("no word from the agent on {}{why}", member.instance.host));
        }
    }
    for voter in &view.cluster.voters {
        let is_member = view.cluster.members.iter().any(|member| member.instance.host == voter.host);
        if let Some(silent) = view.voter_silent_for(&voter.host, now).filter(|_| !is_member) {
            found.push(format!(
                "the voter on {} has not answered for {}; its vote is missing in a failover: look at the agent there",
                voter.host,
                human(silent)
            ));
        }
    }
    found.extend(view.cluster.members.iter().filter_map(|member| elsewhere(view, &member.instance)));
    found.extend(view.cluster.members.iter().filter_map(|member| leaving(view, &member.instance)));
    found.extend(view.primary().and_then(|primary| slow_commits(view, primary)));
    for (instance, seen) in &view.seen {
        found.extend(seen.foreign.iter().map(|domain| {
            format!(
                "{instance}: its replication position (gtid_slave_pos) names domain {domain}, of which no member's log holds anything; it is not \
                 compared, and a later SET GLOBAL gtid_slave_pos can leave it out"
            )
        }));
        found.extend(seen.agent_now().into_iter().flat_map(|agent| of_host(view, instance, agent)));
        for disk in seen.agent_now().iter().flat_map(|agent| &agent.disks) {
            if disk.is_stuck() {
                found.push(format!("{instance}: {disk}; nothing is written there until that is mended"));
            } else if disk.is_low() {
                found.push(format!("{instance}: {disk}; make room"));
            }
        }
    }
    found.extend(view.seen.iter().filter_map(|(instance, seen)| restrictions::log_issue(instance, seen)));
    found.extend(plain_tables::issue(view));
    found.extend(reach::issues(view));
    found.extend(hanging::issues(view));
    found.extend(backlog::issue(view));
    if let Some(record) = &view.record {
        if !record.without_vote.is_empty() {
            found.push(format!(
                "without a vote, as destroyed: {}; when such a host is back, and nothing but \"extra\" is left in its agent's data directory, run \"mhactl votes --back HOST\"",
                record.without_vote.join(", ")
            ));
        }
        if let Some(degraded) = &record.degraded {
            found.push(format!(
                "lossless is not in force since {}: {}",
                degraded.since.format("%H:%M:%S"),
                degraded.why
            ));
        }
        found.extend(
            record.parked.iter().map(|parked| format!("{} is parked: {}", parked.instance, parked.why)),
        );
        found.extend(semi_sync_issue(view, &record.primary));
        found.extend(ring(view, &record.primary));
        let primary = view.of(&record.primary).and_then(|seen| Some((seen, seen.latest()?)));
        found.extend(
            primary
                .into_iter()
                .flat_map(|(seen, report)| restrictions::of_primary(view, &record.primary, seen, report)),
        );
        found.extend(events::issue(view, record));
    }
    found
}

/// What an agent says of its own host.
fn of_host(view: &ClusterView, instance: &InstanceId, agent: &AgentStatus) -> Vec<String> {
    let own_disk = agent.own_disk_fault.as_ref().map(|why| {
        format!(
            "{instance}: its agent cannot write to its own data directory ({why}): its host can neither take the lead nor hand it over, and \
             does not vote for a new primary; make room there, or mend that disk"
        )
    });
    let vip = view.cluster.vip.as_ref().zip(agent.stray_vip.as_ref()).map(|(vip, stray)| match &stray.left {
        None => format!(
            "{instance}: {vip} was on its host, which does not hold the lease, and was removed {} ago; take it out of whatever adds it there",
            human(stray.ago)
        ),
        Some(why) => format!(
            "{instance}: {vip} is on its host, which does not hold the lease, and stays there ({why}); remove it there (\"ip address delete\"), \
             and take it out of whatever adds it"
        ),
    });
    let heartbeat = agent.heartbeat_fault.as_ref().map(|why| {
        format!(
            "{instance}: its agent cannot write the heartbeat ({why}): lag is not measured by it and a hang of {instance} is noticed late; mend \
             the account that [heartbeat] names in the agent's configuration, or what keeps it out"
        )
    });
    own_disk.into_iter().chain(vip).chain(heartbeat).collect()
}

/// The primary replicates from one of its own replicas: what comes back that way is applied on it, and after its crash it is in the way.
fn ring(view: &ClusterView, primary: &InstanceId) -> Option<String> {
    let report = view.of(primary)?.latest().filter(|report| report.is_writable())?;
    let channel = report.channel().filter(|channel| view.cluster.member(&channel.source).is_some())?;
    let source = &channel.source;
    if channel.is_stopped() {
        return Some(format!("{primary} is the primary and keeps settings to replicate from {source}"));
    }
    Some(format!(
        "{primary} is the primary and replicates from {source}, a replica of its own; end that on {primary}: stop its replication, then \
         reset it with \"ALL\""
    ))
}

/// Commits end, and each takes long. The server's own flags show nothing of it.
fn slow_commits(view: &ClusterView, primary: &InstanceId) -> Option<String> {
    let takes = view.of(primary)?.agent_now()?.commit_takes.filter(|takes| *takes >= SLOW_COMMIT)?;
    let acked = view.record.as_ref().is_some_and(|record| record.acks > 0);
    let acks = if acked { ", at its ackers' disks and the network to them" } else { "" };
    Some(format!(
        "{primary}: a commit takes {} (the middle of its last write heartbeats); look at its disk{acks}, and for a long queue of writers",
        human(takes)
    ))
}

/// Its name or its port leads the manager to another server.
fn elsewhere(view: &ClusterView, instance: &InstanceId) -> Option<String> {
    let Unseen::WrongServer(why) = view.of(instance)?.unseen()? else { return None };
    Some(format!(
        "{instance}: the manager reaches another server under this name: {why}; look at where the name and the port lead (DNS, the hosts \
         file, port forwarding)"
    ))
}

fn leaving(view: &ClusterView, instance: &InstanceId) -> Option<String> {
    let leads = view.primary() == Some(instance);
    Some(match view.of(instance)?.agent_now()?.leaving? {
        Leaving::Handoff { remaining } if leads => {
            format!(
                "{instance} is to be stopped by its service manager: another is to lead within {}",
                human(remaining)
            )
        }
        Leaving::Restart { .. } | Leaving::Handoff { .. } | Leaving::Now => {
            format!("{instance} is being stopped by its service manager")
        }
    })
}

/// What is the matter with one replica.
pub(super) fn about(view: &ClusterView, instance: &InstanceId, now: Moment) -> Vec<String> {
    view.of(instance).map_or_else(Vec::new, |seen| replica_issues(view, instance, seen, now))
}

fn replica_issues(view: &ClusterView, instance: &InstanceId, seen: &Seen, now: Moment) -> Vec<String> {
    let agent = seen.agent_now();
    let job = agent.and_then(|agent| agent.job.as_ref()).filter(|job| job.is_rebuild());
    let wanted = view.record.as_ref().is_some_and(|record| record.wishes.remedy(instance).is_some());
    let open = agent.is_some_and(|agent| agent.access == Access::Admitted);
    // One that failed, of a replica that is well, matters to whoever wants another.
    let past = |job: &Job| matches!(job.phase, Phase::Failed { .. }) && open && !wanted;
    let job = job.filter(|job| !past(job)).map(|job| format!("{instance} is {job}"));
    job.into_iter().chain(state_issues(view, instance, seen, now)).collect()
}

/// Why it was not started, if that was tried.
pub(super) fn start_failed(agent: &AgentStatus) -> String {
    agent.start_failed.as_ref().map_or_else(String::new, |why| format!("; the last start failed: {why}"))
}

fn state_issues(view: &ClusterView, instance: &InstanceId, seen: &Seen, now: Moment) -> Vec<String> {
    // What a server said before its process ended is no news.
    let gone = seen.agent_now().filter(|agent| matches!(agent.process, Process::Gone { .. }));
    if let Some(agent) = gone.filter(|_| seen.report().is_none()) {
        return vec![format!("{instance}: its server is not running{}", start_failed(agent))];
    }
    let Some(report) = seen.latest() else {
        let how = seen.unseen().map_or_else(|| "not asked yet".to_owned(), ToString::to_string);
        let since =
            seen.failing_since.map_or_else(String::new, |since| format!(" for {}", human(now.since(since))));
        return vec![format!("{instance} does not answer{since}: {how}")];
    };
    let mut found = stream_issues(view, instance, report);
    found.extend(deaf(view, instance, seen, report));
    found.extend(restrictions::of_replica(view, instance, seen, report, now));
    if seen.agent_now().is_some_and(|agent| agent.access == Access::Closed) {
        found.push(format!("{instance} is fenced: not compared with the primary yet"));
    }
    if let Some(waiting) = holds_unapplied(report) {
        found.push(format!("{instance}: {}", keep_received(waiting)));
    }
    if report.is_writable() {
        found.push(format!("{instance} is a replica and writable"));
    }
    // What the primary wrote itself is on its way to being committed there, or waits for an acknowledgement.
    if let Some(errant) = errant(view, seen).filter(|_| report.replication.len() < 2) {
        found.push(format!("{instance} has transactions the primary lacks: {}", errant.told()));
    }
    found
}

/// Connected, by its own word, and nothing comes, not even its source's heartbeats (S2): a receiver that waits for room on its disk looks
/// so for up to a minute after there is room (MySQL manual, "How MySQL Handles a Full Disk"). No news while the source itself is not heard.
fn deaf(view: &ClusterView, instance: &InstanceId, seen: &Seen, report: &Report) -> Option<String> {
    let channel = report.channel()?;
    let still = receives_nothing(view, seen)?;
    let source_speaks = view.of(&channel.source).is_some_and(|source| source.latest().is_some());
    source_speaks.then(|| {
        format!("{instance} hears nothing from {} for {}, though connected", channel.source, human(still))
    })
}

/// For how long a connected receiver has received nothing, where that is too long.
pub(super) fn receives_nothing(view: &ClusterView, seen: &Seen) -> Option<Duration> {
    let channel = seen.latest()?.channel()?;
    let still = seen.agent_now()?.stream_still?;
    (channel.receiver == ThreadState::Running && still >= view.cluster.policy.silence * 2).then_some(still)
}

fn stream_issues(view: &ClusterView, instance: &InstanceId, report: &Report) -> Vec<String> {
    let wishes = view.record.as_ref().map(|record| &record.wishes);
    let stopped = wishes.and_then(|wishes| wishes.stopped(instance));
    let by_command = stopped.is_some();
    let mut found = Vec::from_iter(stopped.map(|stopped| {
        format!(
            "{instance} was stopped by {} at {} ({}); \"mhactl replica start {instance}\" starts it",
            stopped.by,
            stopped.since.format("%Y-%m-%d %H:%M"),
            stopped.threads
        )
    }));
    let Some(channel) = report.channel() else {
        found.push(format!("{instance} does not replicate"));
        return found;
    };
    if let Some(primary) = view.primary() {
        let wanted = view.cluster.members.iter().any(|member| member.instance == channel.source);
        if channel.source != *primary && !wanted {
            found.push(format!("{instance} replicates from the stranger {}", channel.source));
        }
    }
    if let Some(source) = wishes.and_then(|wishes| wishes.source_of(instance))
        && *source != channel.source
        && !by_command
        && view.primary() != Some(source)
    {
        found.push(format!(
            "{instance} replicates from {} until {source}, below which it belongs, is there and steady",
            channel.source
        ));
    }
    found.extend(threads(instance, channel, by_command));
    found
}

/// Its threads that do not run, and why; without those that stand by an operator's word.
pub(super) fn threads(instance: &InstanceId, channel: &Replication, by_command: bool) -> Vec<String> {
    let both = [
        ("receiver", channel.receiver, &channel.receiver_error),
        ("applier", channel.applier, &channel.applier_error),
    ];
    let told = both.into_iter().filter_map(|(name, state, error)| {
        let why = error
            .as_ref()
            .map_or_else(String::new, |error| format!(" by error {}: {}", error.code, error.text));
        match state {
            ThreadState::Running => None,
            ThreadState::Connecting => {
                Some(format!("{instance} cannot reach its source {}{why}", channel.source))
            }
            ThreadState::Stopped if by_command && error.is_none() => None,
            ThreadState::Stopped => Some(format!("{instance}: its {name} is stopped{why}")),
        }
    });
    told.collect()
}

fn semi_sync_issue(view: &ClusterView, primary: &InstanceId) -> Option<String> {
    let report = view.of(primary)?.latest()?;
    if view.cluster.policy.durability != Durability::Lossless || view.record.as_ref()?.acks == 0 {
        return None;
    }
    let semi_sync = &report.semi_sync;
    if let Promise::Broken { why, .. } = promise(view) {
        return Some(format!("what {primary} acknowledges may be on no registered acker: {why}"));
    }
    let ackers = view.record.as_ref()?.ackers.len();
    if semi_sync.clients as usize > ackers {
        return Some(format!(
            "{primary} has {} connected ackers, only {ackers} are registered: the ack fence proves nothing",
            semi_sync.clients
        ));
    }
    None
}
