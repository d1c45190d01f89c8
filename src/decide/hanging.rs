//! Replicas whose threads do not obey, by their agents' looks: named, and not waited for.

use std::time::Duration;

use crate::model::instance::InstanceId;
use crate::model::time::human;
use crate::model::view::{ClusterView, Seen};

/// A statement that stops replication takes milliseconds; after this it waits for something that does not end.
const HANGS_AFTER: Duration = Duration::from_secs(2);

/// For how long stopping its replication has been waited for, if that hangs. Another such statement would wait behind it.
pub(super) fn stop_hangs(seen: &Seen) -> Option<Duration> {
    seen.agent_now()?.stop_hangs.filter(|span| *span >= HANGS_AFTER)
}

/// For how long its applier has waited for somebody's table lock.
pub(super) fn applier_waits(seen: &Seen) -> Option<Duration> {
    seen.agent_now()?.applier_waits.filter(|span| *span >= HANGS_AFTER)
}

/// What is the matter, one sentence each.
pub(super) fn issues(view: &ClusterView) -> Vec<String> {
    let replicas = view.replicas();
    replicas.flat_map(|(instance, seen)| about(instance, seen)).collect()
}

fn about(instance: &InstanceId, seen: &Seen) -> Vec<String> {
    let waits = applier_waits(seen).map(|span| {
        format!(
            "{instance}: its applier has waited {} for a table lock; end the session there that holds it (SHOW PROCESSLIST)",
            human(span)
        )
    });
    let hangs = stop_hangs(seen).map(|span| {
        format!(
            "{instance}: stopping its replication has hung for {}; a failover does not wait for it, and it cannot lead or acknowledge \
             before that ends",
            human(span)
        )
    });
    hangs.into_iter().chain(waits).collect()
}
