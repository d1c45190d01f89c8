//! What a server had when it was armed in the recovery that runs: everything acknowledged before it led. Forgets with the next
//! recovery; knows nothing after a restart, and then the server is asked.

use std::sync::{Mutex, PoisonError};

use crate::model::gtid::GtidSet;
use crate::model::instance::InstanceId;

#[derive(Debug, Default)]
pub(super) struct Armed(Mutex<Option<(String, InstanceId, GtidSet)>>);

impl Armed {
    /// `instance` was armed in `recovery`, with `set` when that was read back.
    pub(super) fn note(&self, recovery: &str, instance: &InstanceId, set: GtidSet) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *known = Some((recovery.to_owned(), instance.clone(), set));
    }

    /// What it had, if it was armed in that recovery.
    pub(super) fn of(&self, recovery: &str, instance: &InstanceId) -> Option<GtidSet> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (in_recovery, armed, set) = known.as_ref()?;
        (in_recovery == recovery && armed == instance).then(|| set.clone())
    }
}
