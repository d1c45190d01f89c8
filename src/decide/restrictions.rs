//! What a server says of itself that keeps it from leading or acknowledging: filters, settings that pass over errors, a port that
//! nobody reaches, offline mode. Named for the operator, with what to do about it.

use super::candidate::Against;
use crate::model::instance::InstanceId;
use crate::model::observation::{Access, Process, Unseen};
use crate::model::report::Report;
use crate::model::restrictions::{Setting, listed};
use crate::model::time::{Moment, human};
use crate::model::view::{ClusterView, Seen};

/// Which of them speak against a replica with such an answer.
pub(super) fn against(seen: &Seen, report: &Report) -> Vec<Against> {
    let mut found = Vec::new();
    let filters = report.filters();
    if !filters.is_empty() {
        found.push(Against::Filtered(filters));
    }
    let binlog = binlog_filters(seen);
    if !binlog.is_empty() {
        found.push(Against::BinlogFiltered(binlog.to_vec()));
    }
    if !report.restrictions.skips.is_empty() {
        found.push(Against::SkipsErrors(report.restrictions.skips.clone()));
    }
    let left_out = left_out_before(seen, report);
    if !left_out.is_empty() {
        found.push(Against::RowsLeftOut(left_out));
    }
    if report.restrictions.offline {
        found.push(Against::Offline);
    }
    found.extend(seen.reset.as_ref().map(|reset| Against::HistoryReset(reset.had.clone())));
    found.extend(unreachable(seen, report).map(Against::Unreachable));
    found
}

/// Settings that left rows out while it applied, and that it does not have any more.
pub(super) fn left_out_before(seen: &Seen, report: &Report) -> Vec<Setting> {
    let present = report.filters();
    let set_back = |by: &&Setting| !present.contains(by) && !report.restrictions.skips.contains(by);
    seen.rows_left_out_by.iter().filter(set_back).cloned().collect()
}

/// A replica that answers needs what its log cannot give any more.
pub(super) fn log_fault<'a>(
    view: &ClusterView,
    instance: &InstanceId,
    seen: &Seen,
    report_of: &impl Fn(&InstanceId) -> Option<&'a Report>,
) -> Option<Against> {
    let fault = seen.agent_now()?.log_fault.as_ref()?;
    let mut others = view.replicas().filter(|(other, _)| *other != instance);
    let needed =
        others.any(|(other, _)| report_of(other).is_some_and(|other| fault.is_needed_by(&other.known())));
    needed.then(|| Against::LogUnreadable(fault.clone()))
}

/// Whether its acknowledgement means that it has the row: nothing is left out or passed over on its way there, or on to others.
pub(super) fn may_acknowledge(view: &ClusterView, instance: &InstanceId, report: &Report) -> bool {
    keeps_from_acknowledging(view, instance, report).is_none()
}

/// The setting by which it may lack, or not hand on, what it acknowledges.
pub(super) fn keeps_from_acknowledging(
    view: &ClusterView,
    instance: &InstanceId,
    report: &Report,
) -> Option<String> {
    let binlog = view.of(instance).map(binlog_filters).unwrap_or_default();
    let mut found = report.filters();
    found.extend_from_slice(&report.restrictions.skips);
    found.extend_from_slice(binlog);
    if !found.is_empty() {
        return Some(format!("it is set to {}", listed(&found)));
    }
    let before = view.of(instance).map(|seen| left_out_before(seen, report)).unwrap_or_default();
    (!before.is_empty()).then(|| format!("it may lack rows, for it replicated with {}", listed(&before)))
}

/// Filters of its binary log, as last read by this manager or one before it.
pub(super) fn binlog_filters(seen: &Seen) -> &[Setting] {
    let read = seen.inventory.as_ref().and_then(|(_, inventory)| inventory.binlog_filters.as_deref());
    read.unwrap_or_default()
}

/// Why no client and no replica reaches its port, although the server runs. A look that failed is believed where no other host's probe
/// contradicts it; a setting alone is believed where it cannot be otherwise.
fn unreachable(seen: &Seen, report: &Report) -> Option<String> {
    let local = report.restrictions.local_only.as_ref();
    if let Some(setting) = local.filter(|setting| setting.name == "skip_networking") {
        return Some(setting.to_string());
    }
    let (since, unseen) = failing(seen)?;
    let probes = || seen.probes.iter().filter(|probe| probe.at >= since);
    if probes().any(|probe| probe.outcome.is_ok()) {
        return None;
    }
    if let Some(setting) = local {
        return Some(setting.to_string());
    }
    let refused = *unseen == Unseen::Refused || probes().any(|probe| probe.outcome == Err(Unseen::Refused));
    let from = probes().map(|probe| probe.from.to_string()).collect::<Vec<_>>();
    let lookers = if from.is_empty() { String::new() } else { format!(" and the {}", from.join(", the ")) };
    refused.then(|| format!("the manager{lookers} cannot connect: {unseen}"))
}

/// Since when the manager's own looks fail at a server that its agent sees well through the socket, and how. A closed server
/// refuses everybody by its agent's will.
fn failing(seen: &Seen) -> Option<(Moment, &Unseen)> {
    let agent = seen.agent_now()?;
    let gone = matches!(agent.process, Process::Gone { .. });
    if agent.server.is_err() || gone || agent.access == Access::Closed {
        return None;
    }
    let unseen = seen.unseen()?;
    let at_port = match unseen {
        Unseen::Refused | Unseen::NoRoute | Unseen::SilentBeforeGreeting => true,
        Unseen::Lost
        | Unseen::HungAfterLogin
        | Unseen::AccessDenied(_)
        | Unseen::TooManyConnections
        | Unseen::WrongServer(_)
        | Unseen::Server { .. }
        | Unseen::Name(_)
        | Unseen::Looker(_) => false,
    };
    Some((seen.failing_since?, unseen)).filter(|_| at_port)
}

/// What is the matter with a replica, by its own settings.
pub(super) fn of_replica(
    view: &ClusterView,
    instance: &InstanceId,
    seen: &Seen,
    report: &Report,
    now: Moment,
) -> Vec<String> {
    let mut found = by_settings(instance, seen, report);
    found.extend(reach_issue(view, instance, seen, report, now));
    found
}

/// A file that its index names cannot be read.
pub(super) fn log_issue(instance: &InstanceId, seen: &Seen) -> Option<String> {
    let fault = seen.agent_now()?.log_fault.as_ref()?;
    let before =
        fault.before.as_ref().map_or_else(String::new, |before| format!(" {before} or a part of it"));
    Some(format!(
        "{instance}: {fault}: a replica that lacks{before} cannot replicate from it; put the file back, or have the server purge its logs \
         up to the next one"
    ))
}

fn by_settings(instance: &InstanceId, seen: &Seen, report: &Report) -> Vec<String> {
    let mut found = Vec::new();
    let filters = report.filters();
    if !filters.is_empty() {
        found.push(format!(
            "{instance} filters what it replicates ({}): it does not lead and its acknowledgements do not count; remove the filter and \
             rebuild it, or set promotion = \"never\"",
            listed(&filters)
        ));
    }
    let binlog = binlog_filters(seen);
    if !binlog.is_empty() {
        found.push(format!(
            "{instance} leaves transactions out of its binary log ({}): a replica that followed it would miss them, so it does not lead; remove \
             the setting and restart it",
            listed(binlog)
        ));
    }
    let skips = &report.restrictions.skips;
    if !skips.is_empty() {
        found.push(format!(
            "{instance} passes over errors when it applies ({}): rows may be missing on it, so it does not lead; set it back, and compare \
             or rebuild it",
            listed(skips)
        ));
    }
    let before = left_out_before(seen, report);
    if !before.is_empty() {
        found.push(format!(
            "{instance} may lack rows whose transactions it has, for it replicated with {}: it does not lead and its acknowledgements do not count; \
             run \"mhactl rejoin {instance} --how rebuild\", or compare its tables with the primary's and run \"mhactl unpark {instance}\"",
            listed(&before)
        ));
    }
    if report.restrictions.offline {
        found.push(format!(
            "{instance}: offline_mode is ON, so clients and replicas are refused and it does not lead; \"SET GLOBAL offline_mode = OFF\" lets them in"
        ));
    }
    if let Some(reset) = &seen.reset {
        found.push(format!(
            "{instance} has forgotten its own history (RESET MASTER or RESET BINARY LOGS AND GTIDS): its binary log does not hold {} any \
             more and a replica that followed it would miss it, so it does not lead; run \"mhactl rejoin {instance} --how rebuild\"",
            reset.had
        ));
    }
    found
}

fn reach_issue(
    view: &ClusterView,
    instance: &InstanceId,
    seen: &Seen,
    report: &Report,
    now: Moment,
) -> Option<String> {
    let failing = failing(seen).map(|(since, unseen)| (now.since(since), unseen));
    if let Some(why) = unreachable(seen, report) {
        let by_setting = report.restrictions.local_only.is_some();
        // A server that is started anew refuses for a moment.
        let settled = by_setting || failing.is_some_and(|(span, _)| span >= view.cluster.policy.silence);
        return settled.then(|| {
            let next = if by_setting {
                "set an address that other hosts reach, and restart it"
            } else {
                "look at bind_address, port and the packet filter there"
            };
            format!(
                "{instance} runs, and clients and replicas cannot reach it ({why}): it does not lead; {next}"
            )
        });
    }
    let (span, unseen) = failing.filter(|(span, _)| *span >= view.cluster.policy.silence)?;
    Some(format!(
        "{instance} runs by its agent's word, and the manager cannot connect to it for {}: {unseen}; look at the network and the packet \
         filter between them",
        human(span)
    ))
}

/// What is the matter with the primary, by its own settings.
pub(super) fn of_primary(
    view: &ClusterView,
    instance: &InstanceId,
    seen: &Seen,
    report: &Report,
) -> Vec<String> {
    let mut found = Vec::new();
    let binlog = binlog_filters(seen);
    if !binlog.is_empty() {
        found.push(format!(
            "{instance} leaves writes out of its binary log ({}): they are on no replica, and are lost with it; remove the setting and \
             restart it",
            listed(binlog)
        ));
    }
    if let Some(reset) = &seen.reset {
        found.push(format!(
            "{instance} has forgotten its own history (RESET MASTER or RESET BINARY LOGS AND GTIDS), which was {}: replicas that have it \
             skip new transactions under old numbers, and lack their rows; rebuild every replica from it, then run \"mhactl adopt {}\"",
            reset.had, view.cluster.name
        ));
    }
    let filters = report.filters();
    if !filters.is_empty() {
        found.push(format!(
            "{instance} has replication filters ({}): as a replica it would not apply everything; remove them",
            listed(&filters)
        ));
    }
    let skips = &report.restrictions.skips;
    if !skips.is_empty() {
        found.push(format!(
            "{instance} would pass over errors as a replica ({}); set it back before it is one",
            listed(skips)
        ));
    }
    found
}

/// Why the primary lets no client in, where it says so itself.
pub(super) fn refuses_clients(instance: &InstanceId, report: &Report) -> Option<String> {
    report.restrictions.offline.then(|| {
        format!(
            "{instance}: offline_mode is ON, so clients and replicas are refused; \"SET GLOBAL offline_mode = OFF\" lets them in"
        )
    })
}

/// What every failover would lose: the primary's binary log leaves it out.
pub(super) fn never_logged(view: &ClusterView, primary: &InstanceId) -> Option<String> {
    let seen = view.of(primary)?;
    if seen.reset.is_some() {
        return Some("but what it wrote since its history was reset is on no replica for certain".to_owned());
    }
    let binlog = Some(binlog_filters(seen)).filter(|filters| !filters.is_empty())?;
    Some(format!("but what its binary log leaves out ({})", listed(binlog)))
}

/// What an operator should know before taking a cluster into care: none of it is in the way.
pub(super) fn told_at_adoption(view: &ClusterView, primary: &InstanceId) -> Vec<String> {
    let of = |instance: &InstanceId| -> Vec<String> {
        let Some(seen) = view.of(instance) else { return Vec::new() };
        let Some(report) = seen.latest() else { return Vec::new() };
        if instance == primary {
            of_primary(view, instance, seen, report)
        } else {
            by_settings(instance, seen, report)
        }
    };
    let members = view.cluster.members.iter().flat_map(|member| of(&member.instance));
    members.chain(super::plain_tables::issue(view)).collect()
}
