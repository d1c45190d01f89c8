//! How long a failover would first have to apply what replicas have received, told in time and before it is needed.

use std::time::Duration;

use crate::model::cluster::Promotion;
use crate::model::report::{Replication, Report};
use crate::model::time::human;
use crate::model::view::ClusterView;

/// A longer backlog is an issue: for about so long nobody could write in a failover.
const LONG: Duration = Duration::from_secs(10);

/// One sentence when even the replica that is least behind has a long backlog to apply.
pub(super) fn issue(view: &ClusterView) -> Option<String> {
    let backlogs = view.replicas().filter_map(|(instance, seen)| {
        let may_lead =
            view.cluster.member(instance).is_some_and(|member| member.promotion != Promotion::Never);
        let report = seen.latest().filter(|_| may_lead)?;
        let channel =
            report.channel().filter(|channel| channel.delay.is_zero() && Replication::is_running(channel))?;
        let seconds = channel.seconds_behind.map(Duration::from_secs);
        let lag = report.heartbeat_age.or(seconds)?;
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
