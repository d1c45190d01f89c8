//! What one recovery has seen that its later steps rest on. It ends with the recovery, and is empty when a manager resumes one: each
//! use says what is asked then.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::decide::plan::{Evidence, Step, TrafficOrder};
use crate::model::gtid::GtidSet;
use crate::model::instance::InstanceId;

/// Evidence of the running recovery.
#[derive(Debug, Default)]
pub(super) struct RunContext(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    fenced: BTreeSet<InstanceId>,
    armed: BTreeMap<InstanceId, GtidSet>,
    directed: Option<(TrafficOrder, InstanceId)>,
}

impl RunContext {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A step was done, and this was read back.
    pub(super) fn note(&self, step: &Step, seen: &Evidence) {
        if let Step::Fence { instance, .. } | Step::Block { instance, .. } = step
            && step.is_satisfied(seen)
        {
            self.known().fenced.insert(instance.clone());
        }
        if let (Step::ArmSource { instance, .. }, Some(report)) = (step, &seen.report) {
            self.known().armed.insert(instance.clone(), report.executed.clone());
        }
    }

    /// Servers that answered a fence, and it was read back: only their grants may be lifted by a claim.
    pub(super) fn fenced(&self) -> Vec<InstanceId> {
        self.known().fenced.iter().cloned().collect()
    }

    /// What a server had when it was armed: everything acknowledged before it led.
    pub(super) fn armed(&self, instance: &InstanceId) -> Option<GtidSet> {
        self.known().armed.get(instance).cloned()
    }

    /// The traffic program did that last.
    pub(super) fn was_directed(&self, order: TrafficOrder, instance: &InstanceId) -> bool {
        self.known().directed.as_ref().is_some_and(|(last, about)| (*last, about) == (order, instance))
    }

    pub(super) fn note_directed(&self, order: TrafficOrder, instance: &InstanceId) {
        self.known().directed = Some((order, instance.clone()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ballot::Generation;

    #[test]
    fn a_fence_counts_only_when_it_was_read_back() {
        let (context, db1) = (RunContext::default(), InstanceId::new("db1", 3306));
        let fence = Step::Fence { instance: db1, generation: Generation(2) };
        context.note(&fence, &Evidence::default());
        assert!(context.fenced().is_empty());
    }

    #[test]
    fn the_traffic_program_is_remembered_by_its_last_order() {
        let (context, db1) = (RunContext::default(), InstanceId::new("db1", 3306));
        assert!(!context.was_directed(TrafficOrder::Pause, &db1));
        context.note_directed(TrafficOrder::Pause, &db1);
        assert!(context.was_directed(TrafficOrder::Pause, &db1));
        assert!(!context.was_directed(TrafficOrder::Resume, &db1));
        context.note_directed(TrafficOrder::Resume, &db1);
        assert!(!context.was_directed(TrafficOrder::Pause, &db1));
    }
}
