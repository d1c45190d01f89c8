//! Which ackers still have everything that they acknowledged: what the record is to say of that for a manager that starts later, and why
//! one of them does not count when it is asked what a dead primary acknowledged.

use std::time::Duration;

use super::failover::Isolation;
use super::proof::lapse;
use super::verdict::{Action, Decision};
use crate::model::instance::InstanceId;
use crate::model::observation::Access;
use crate::model::record::RecordChange;
use crate::model::report::{Report, ThreadState};
use crate::model::standing::{AckerEvidence, Between, Known, Loss, Standing, loss_between};
use crate::model::view::ClusterView;

/// What the record is to say of the servers, where it says something else now. It changes when an acker restarts or is level again, when
/// a failover is refused, and with what should never happen: never on the way of a failover, and not with every look.
pub fn known_to_record(view: &ClusterView, decision: &Decision) -> Option<RecordChange> {
    let record = view.record.as_ref()?;
    let refused = match &decision.action {
        Action::Refuse { .. } => true,
        Action::Act(_) | Action::Rest | Action::Wait { .. } => false,
    };
    let ackers: Vec<AckerEvidence> =
        record.ackers.iter().filter_map(|acker| view.evidence(acker, refused)).collect();
    let (resets, filtered_logs) = (view.resets(), view.filtered_logs());
    let (rows_left_out, identities) = (view.rows_left_out(), view.identities());
    // It ends when a base is recorded, not when its cause does.
    let lapse = record.lapse.clone().or_else(|| lapse(view));
    let answered_alone = view.answered_alone().cloned();
    let same = ackers.len() == record.ackers_proven.len()
        && ackers.iter().all(|wanted| record.ackers_proven.iter().any(|told| told.says_the_same(wanted)))
        && resets == record.history_resets
        && filtered_logs == record.filtered_logs
        && rows_left_out == record.rows_left_out
        && identities == record.identities
        && answered_alone == record.answered_alone
        && lapse.is_some() == record.lapse.is_some();
    let known = Known { ackers, resets, filtered_logs, rows_left_out, identities, answered_alone, lapse };
    (!same).then_some(RecordChange::Known(known))
}

/// Why an acker does not tell what `primary` acknowledged; `None` where it does.
pub(super) fn does_not_count(
    view: &ClusterView,
    isolation: &Isolation,
    acker: &InstanceId,
) -> Option<String> {
    let Some(seen) = view.of(acker) else {
        return Some("it is not in the configuration any more, so nobody can ask what it has".to_owned());
    };
    let Some(stopped) = isolation.stopped.get(acker) else {
        return Some(unstopped(view, isolation, acker));
    };
    // What the statements of the very failover that is resumed may have thrown away is among what was proven before them.
    let by_us = |loss| loss == Loss::Unseen && view.proven_before().is_some();
    if let Some(standing) = view.doubt_of(acker).filter(|standing| !by_us(standing.loss)) {
        return Some(standing.to_string());
    }
    // What it answered after its receiver stopped is compared with what it had before. A dry run has no such answer.
    let (at, before) = seen.last_report.as_ref().filter(|_| seen.latest() != Some(stopped))?;
    // An applier that stood was started with it.
    let stood = before.channel().is_none_or(|channel| channel.applier == ThreadState::Stopped);
    let between = Between {
        elapsed: Duration::ZERO,
        same_run: before.connection.is_some() && before.connection == stopped.connection,
        ours: stood || view.own_statements.ended_since(acker, *at),
    };
    let loss = loss_between(before, stopped, between)?;
    let known = before.known();
    Some(Standing { loss, had: Some(&known).filter(|_| loss == Loss::FellBack), has: stopped }.to_string())
}

fn unstopped(view: &ClusterView, isolation: &Isolation, acker: &InstanceId) -> String {
    let seen = view.of(acker);
    let Some(report) = seen.and_then(|seen| seen.latest()) else { return "it does not answer".to_owned() };
    if seen.and_then(|seen| seen.agent_now()).is_some_and(|agent| agent.access == Access::Closed) {
        return "its agent keeps it closed".to_owned();
    }
    match report.channel() {
        None => "it does not replicate".to_owned(),
        Some(channel) if channel.source != isolation.primary => {
            format!("it replicates from {}", channel.source)
        }
        Some(_) => format!("it did not stop receiving from {}", isolation.primary),
    }
}

/// It answers, and has received what it has not applied while its applier stands: that is lost if somebody restarts its replication.
pub(super) fn holds_unapplied(report: &Report) -> Option<u64> {
    let channel = report.channel().filter(|channel| channel.applier == ThreadState::Stopped)?;
    let waiting = channel.received.minus(&report.executed).count();
    (waiting > 0).then_some(waiting)
}
