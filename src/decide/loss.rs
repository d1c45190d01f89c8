//! PURE. What an operator accepts who promotes a server that may lack acknowledged rows: a bound in transactions and in seconds, and
//! what is not known. It forbids nothing.

use super::candidate::Ranking;
use crate::model::instance::InstanceId;
use crate::model::time::{Moment, human};
use crate::model::view::ClusterView;

/// One sentence about the loss if `to` is promoted, or else the best candidate.
pub fn bound(view: &ClusterView, ranking: &Ranking, to: Option<&InstanceId>, now: Moment) -> String {
    let Some(primary) = view.primary() else {
        return "nothing is known of the loss: no primary is recorded".to_owned();
    };
    let Some(target) = to.or_else(|| ranking.best().map(|best| &best.instance)) else {
        return "nothing is known of the loss: nobody may lead".to_owned();
    };
    let had = view.of(primary).and_then(|seen| seen.last_report.as_ref());
    let has = view.of(target).and_then(|seen| seen.last_report.as_ref());
    let (Some((seen_at, had)), Some((asked_at, has))) = (had, has) else {
        return format!(
            "the loss is not known: this manager has not seen {} since it began; compare with a backup or an application's log",
            if had.is_none() { primary } else { target }
        );
    };
    let lacks = had.executed.minus(&has.known());
    let unseen = now.since(*seen_at);
    let failing =
        view.of(primary).and_then(|seen| seen.failing_since).map_or(unseen, |since| now.since(since));
    // The newest write heartbeat that it applied tells how old its newest row from the primary is.
    let span = has.heartbeat_age.map(|age| (age + now.since(*asked_at)).saturating_sub(failing));
    let span = span.map_or_else(
        || "how many seconds that is, is not known: it has no write heartbeat".to_owned(),
        |span| {
            format!(
                "its newest row from {primary} is {} older than the last answer of {primary}",
                human(span)
            )
        },
    );
    format!(
        "loss: {target} lacks {} transaction(s) that {primary} had when it was last seen, {} ago; {span}; what {primary} committed after \
         that is lost too, and is counted by nobody",
        lacks.told_count(),
        human(unseen)
    )
}
