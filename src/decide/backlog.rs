//! How long a failover would first have to apply what replicas have received, told in time and before it is needed.

use std::time::Duration;

use crate::model::cluster::Promotion;
use crate::model::report::{Replication, Report};
use crate::model::time::human;
use crate::model::view::{ClusterView, Seen};

/// A longer backlog is an issue: for about so long nobody could write in a failover.
const LONG: Duration = Duration::from_secs(10);

/// How far behind its newest transaction a replica is. The write heartbeat tells best, where the primary writes one.
pub(super) fn lag(view: &ClusterView, report: &Report) -> Option<Duration> {
    let own = || report.channel()?.seconds_behind.map(Duration::from_secs);
    let primary = view.record.as_ref().and_then(|record| view.of(&record.primary));
    let is_written = primary.and_then(Seen::agent_now).is_none_or(|agent| agent.heartbeat_fault.is_none());
    report.heartbeat_age.filter(|_| is_written).or_else(own)
}

/// One sentence when even the replica that is least behind has a long backlog to apply.
pub(super) fn issue(view: &ClusterView) -> Option<String> {
    let backlogs = view.replicas().filter_map(|(instance, seen)| {
        let may_lead =
            view.cluster.member(instance).is_some_and(|member| member.promotion != Promotion::Never);
        let report = seen.latest().filter(|_| may_lead)?;
        report.channel().filter(|channel| channel.delay.is_zero() && Replication::is_running(channel))?;
        let lag = lag(view, report)?;
        // Without anything to apply an old heartbeat says that the primary writes none.
        Some((instance, if Report::is_level(report) { Duration::ZERO } else { lag }))
    });
    let (instance, lag) = backlogs.min_by_key(|(_, lag)| *lag)?;
    (lag > LONG).then(|| {
        format!(
            "a failover would first apply a backlog of {} on {instance}, and nobody could write for about as long; give the replicas more \
             parallel appliers, or write less",
            human(lag)
        )
    })
}
