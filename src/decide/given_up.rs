//! What was left behind when a primary was replaced: its own writes that the next one had not, with whoever had received them and was away.

use super::candidate::led_before;
use super::reopen::may_have_led_since;
use crate::model::gtid::GtidSet;
use crate::model::instance::InstanceId;
use crate::model::report::Report;
use crate::model::view::{ClusterView, Seen};

/// What a member has of that, by its `report`: written by one that led before, and not among what the recorded primary had when it began to
/// lead. No promise is about it: clients were told nothing of it, or its loss was accepted and told then. So the recorded primary has not
/// lost it, and whoever has it is not ahead.
pub(super) fn given_up(view: &ClusterView, report: &Report) -> GtidSet {
    let nothing = GtidSet::empty(report.identity.flavor);
    let Some(record) = &view.record else { return nothing };
    let Some(base) = &record.base else { return nothing };
    // Also one that follows again: it acknowledges what the recorded primary writes, and that says nothing of what it wrote itself.
    let led = |instance: &InstanceId, seen: &Seen| {
        let held = seen.agent_now().and_then(|agent| agent.held);
        let before = held.is_some_and(|held| held < record.generation);
        let formerly = record.former.contains(instance) && !may_have_led_since(view, record, instance);
        record.primary != *instance && (formerly || before)
    };
    let former =
        view.seen.iter().filter(|(instance, seen)| led(instance, seen) || led_before(view, instance, seen));
    let identities = former.filter_map(|(instance, _)| view.identity_of(instance));
    let left = identities.map(|identity| report.known().written_by(identity));
    let mut left = left.fold(nothing, |all, set| all.try_union(&set).unwrap_or(all));
    // A number that is used again names the present primary's writes too: those it has lost, if others have them and it does not.
    if let Some(primary) = view.identity_of(&record.primary) {
        left = left.minus(&left.written_by(primary));
    }
    // What the primary has by now, such as by an operator's hand, is not given up.
    if let Some((_, primary)) = view.of(&record.primary).and_then(|seen| seen.last_report.as_ref()) {
        left = left.minus(&primary.executed);
    }
    left.minus(&view.without_foreign(base))
}
