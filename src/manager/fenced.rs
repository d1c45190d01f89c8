//! Who answered a fence in the recovery that runs: only their grants may be lifted by a claim. Forgets with the next recovery; knows
//! nothing after a restart, and then the manager asks again.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use crate::model::ballot::Generation;
use crate::model::instance::InstanceId;
use crate::model::observation::{Access, AgentStatus};

/// Answers to fences, of one recovery at a time.
#[derive(Debug, Default)]
pub(super) struct Fenced(Mutex<(String, BTreeSet<InstanceId>)>);

impl Fenced {
    /// `instance` answered a fence of `recovery`, and it was read back.
    pub(super) fn note(&self, recovery: &str, instance: &InstanceId) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.0 != recovery {
            *known = (recovery.to_owned(), BTreeSet::new());
        }
        known.1.insert(instance.clone());
    }

    /// Everybody who did, in that recovery.
    pub(super) fn of(&self, recovery: &str) -> Vec<InstanceId> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.0 == recovery { known.1.iter().cloned().collect() } else { Vec::new() }
    }
}

/// The agent's durable word that its server was fenced for `generation` and is closed now: as good as an answer to this manager.
pub(super) fn stands(agent: &AgentStatus, generation: Generation) -> bool {
    agent.access == Access::Closed && agent.fenced.is_some_and(|fenced| fenced >= generation)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_counts_in_its_own_recovery_only() {
        let (db1, db2) = (InstanceId::new("db1", 3306), InstanceId::new("db2", 3306));
        let fenced = Fenced::default();
        assert!(fenced.of("first").is_empty());
        fenced.note("first", &db1);
        fenced.note("first", &db2);
        assert_eq!(fenced.of("first"), [db1.clone(), db2]);
        assert!(fenced.of("second").is_empty());
        fenced.note("second", &db1);
        assert_eq!(fenced.of("second"), [db1]);
        assert!(fenced.of("first").is_empty());
    }
}
