//! Remembers that a manager's order stopped a replica, and no person did. That manager may die, and its journal with it, before it starts the
//! replica again; the next manager then does.

use super::state::Shared;
use crate::decide::plan::Step;
use crate::model::report::{Replication, Report};

/// A step begins; whether it leaves the replication of a server standing that ran, or lets clients in beside one that does not.
pub(super) fn begin(shared: &Shared, step: &Step) -> bool {
    let mut seen = shared.seen();
    let stops = leaves_standing(step, seen.server.as_ref().ok());
    seen.stopped_by_order |= stops;
    stops
}

/// The step was done.
pub(super) fn end(shared: &Shared, step: &Step, stops: bool) {
    let mut seen = shared.seen();
    seen.stopped_by_order = (seen.stopped_by_order || stops) && !settles(step);
}

/// Replication runs again: a later stop without an order is a person's.
pub(super) fn look(shared: &Shared, report: &Report) {
    if report.channel().is_some_and(Replication::is_running) {
        shared.seen().stopped_by_order = false;
    }
}

fn leaves_standing(step: &Step, report: Option<&Report>) -> bool {
    let stands = |report: &Report| report.channel().is_none_or(Replication::is_stopped);
    // What stands already was stopped by somebody else. A closed server is led back for that; once open, one that stands would be taken
    // for one that was stopped by hand.
    let stops =
        matches!(step, Step::StopReceiving { .. } | Step::StopReplicating { .. } | Step::CatchUpFrom { .. });
    let lets_in = matches!(step, Step::Admit { .. });
    stops && report.is_none_or(|report| !stands(report)) || lets_in && report.is_none_or(stands)
}

/// It replicates again, leads, or stands by an operator's word.
fn settles(step: &Step) -> bool {
    matches!(step, Step::PointReplica { .. } | Step::Open { .. } | Step::Halt { .. })
}
