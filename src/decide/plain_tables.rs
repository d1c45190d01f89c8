//! Tables without transactions: neither crash recovery nor an acknowledgement protects what they hold. Told; a server that returns is rebuilt
//! where policy says so.

use super::extra::Returned;
use crate::model::instance::InstanceId;
use crate::model::inventory::PlainTables;
use crate::model::job::Phase;
use crate::model::view::{ClusterView, Seen};

fn of(seen: &Seen) -> Option<&PlainTables> {
    seen.inventory.as_ref()?.1.tables.as_ref().filter(|tables| tables.count > 0)
}

/// It was started after this manager began to look.
fn has_restarted(view: &ClusterView, seen: &Seen) -> bool {
    seen.last_report.as_ref().is_some_and(|(at, report)| at.back(report.uptime) > view.since)
}

fn described(tables: &PlainTables) -> String {
    let more = if tables.count > tables.some.len() as u64 { ", …" } else { "" };
    format!("{} table(s) without transactions ({}{more})", tables.count, tables.some.join(", "))
}

/// One sentence for the cluster: by the primary's tables, or by those of the first member that has some.
pub(super) fn issue(view: &ClusterView) -> Option<String> {
    let primary = view.primary().and_then(|primary| Some((primary, of(view.of(primary)?)?)));
    let (instance, tables) =
        primary.or_else(|| view.replicas().find_map(|(instance, seen)| Some((instance, of(seen)?))))?;
    let restarted: Vec<String> = view
        .seen
        .iter()
        .filter(|(_, seen)| of(seen).is_some() && has_restarted(view, seen))
        .map(|(instance, _)| instance.to_string())
        .collect();
    let since = if restarted.is_empty() {
        String::new()
    } else {
        format!("; {} restarted meanwhile: check or rebuild what it holds of them", restarted.join(", "))
    };
    Some(format!(
        "{instance} has {}: a crash may damage them, and what is acknowledged in them may be lost; convert them to InnoDB{since}",
        described(tables)
    ))
}

/// Why a server that returns closed is to be rebuilt, by policy: it may have crashed, and has the tables that the primary has.
pub(super) fn may_be_damaged(of: Returned<'_>) -> Option<String> {
    let Returned { view, record, instance, agent, .. } = of;
    let seen = view.of(instance)?;
    if !view.cluster.policy.rebuild_nontransactional {
        return None;
    }
    // A copy of a healthy server's data has just taken the place of its own.
    if agent.job.as_ref().is_some_and(|job| job.is_rebuild() && job.phase == Phase::Exchanged) {
        return None;
    }
    // Closed without a restart: nothing crashed. Who was never seen open by this manager may have been started anew.
    if seen.open_at.is_some_and(|then| seen.runs_since(then)) {
        return None;
    }
    let tables = self::of(seen).or_else(|| self::of(view.of(&record.primary)?))?;
    Some(format!(
        "its server may have crashed, it has {}, and rebuild_nontransactional = true",
        described(tables)
    ))
}

/// What to say when a server returns.
pub(super) fn at_return(view: &ClusterView, instance: &InstanceId) -> Option<String> {
    let tables = view.of(instance).and_then(of)?;
    Some(format!(
        "its {} are not compared: check them, or run \"mhactl rejoin {instance} --how rebuild\"",
        described(tables)
    ))
}
