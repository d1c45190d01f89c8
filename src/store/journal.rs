//! The journal of one recovery, in the store.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::{Store, StoreError};
use crate::clock;
use crate::execute::journal::{Entry, Journal, Recovery, What};
use crate::model::time::Moment;

/// Appends to one recovery, durably first, then for whoever watches.
#[derive(Debug)]
pub struct RecoveryJournal {
    store: Store,
    id: String,
    began: Moment,
    /// How far an earlier manager had come, so that a resumed timeline goes on from there.
    before: Duration,
    shown: watch::Sender<Option<Arc<Recovery>>>,
}

impl RecoveryJournal {
    /// A journal that goes on from the last entry of `recovery`, which the store already has. `shown` gets every entry once it is durable.
    pub fn new(store: Store, recovery: Recovery, shown: watch::Sender<Option<Arc<Recovery>>>) -> Self {
        let before = recovery.entries.last().map_or(Duration::ZERO, |entry| entry.after);
        let id = recovery.id.clone();
        shown.send_replace(Some(Arc::new(recovery)));
        Self { store, id, began: clock::now(), before, shown }
    }
}

impl Journal for RecoveryJournal {
    type Error = StoreError;

    fn stamp(&self, what: What) -> Entry {
        Entry { at: clock::wall(), after: self.before + clock::now().since(self.began), what }
    }

    async fn write(&self, entries: Vec<Entry>) -> Result<(), StoreError> {
        if entries.is_empty() {
            return Ok(());
        }
        self.store.append(&self.id, entries.clone()).await?;
        self.shown.send_modify(|shown| {
            if let Some(recovery) = shown {
                Arc::make_mut(recovery).entries.extend(entries);
            }
        });
        Ok(())
    }
}
