//! The one way to change the record of a cluster: read it, apply the change, write it over the revision that was read. Where another
//! writer was faster, the same again from what that one wrote.

use chrono::{DateTime, Utc};
use futures::stream::{Stream, StreamExt as _};

use super::world::StepError;
use crate::model::record::{ClusterRecord, NotAdopted, RecordChange};

/// How often a change is applied to a record that somebody else changes at the same time.
const TRIES: u32 = 8;

/// Where the record of one cluster is kept.
#[expect(
    async_fn_in_trait,
    reason = "both stores are in this crate and run on one thread or are Send by construction"
)]
pub trait RecordStore {
    /// The record as it is now.
    async fn record(&self) -> Result<Option<ClusterRecord>, RecordError>;

    /// Writes `record` durably over the revision before it; [`RecordError::Stale`] where another one is stored.
    async fn save_record(&self, record: &ClusterRecord) -> Result<(), RecordError>;

    /// Has a majority of the voters that count by this record know durably that it was written; [`RecordError::Untold`] where they do not
    /// answer.
    async fn note_record(&self, record: &ClusterRecord) -> Result<(), RecordError>;
}

/// Why the record was not changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    #[error(transparent)]
    NotAdopted(#[from] NotAdopted),
    /// Another revision is stored than the one the change was made from.
    #[error("the record of this cluster was changed by something else {TRIES} times in a row; try again")]
    Stale,
    #[error("{0}")]
    Store(String),
    /// It was written, and a manager that starts with an older copy of the store would not hear of it.
    #[error("only {heard} of the {needed} voters needed know of the record that was written: {why}")]
    Untold { heard: usize, needed: usize, why: String },
}

impl From<RecordError> for StepError {
    fn from(error: RecordError) -> Self {
        Self::Failed(error.to_string())
    }
}

/// Makes `change`, which happens at `at`, durable; gives back the record with it. Where a later manager must not miss it, the voters know of it
/// before anything rests on it.
///
/// # Errors
/// When there is no record to change, the store fails, others change the record all the time, or too few voters answer.
pub async fn change_record<S: RecordStore + ?Sized>(
    store: &S,
    change: &RecordChange,
    at: DateTime<Utc>,
) -> Result<ClusterRecord, RecordError> {
    for _ in 0..TRIES {
        let before = store.record().await?;
        let record = ClusterRecord::apply(before.as_ref(), change, at)?;
        match store.save_record(&record).await {
            Ok(()) => {
                if change.must_be_told(before.as_ref()) {
                    store.note_record(&record).await?;
                }
                return Ok(record);
            }
            Err(RecordError::Stale) => {}
            Err(
                error @ (RecordError::NotAdopted(_) | RecordError::Store(_) | RecordError::Untold { .. }),
            ) => return Err(error),
        }
    }
    Err(RecordError::Stale)
}

/// Waits until `needed` voters have said that they noted a record. `answers` are theirs, in any order; an `Err` says which voter did not
/// and why.
///
/// # Errors
/// [`RecordError::Untold`] when all have answered and too few noted it.
pub async fn noted_by(
    needed: usize,
    answers: impl Stream<Item = Result<(), String>>,
) -> Result<(), RecordError> {
    let mut answers = std::pin::pin!(answers);
    let (mut heard, mut why) = (0, Vec::new());
    while heard < needed {
        match answers.next().await {
            Some(Ok(())) => heard += 1,
            Some(Err(error)) => why.push(error),
            None => return Err(RecordError::Untold { heard, needed, why: why.join("; ") }),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;
    use crate::model::ballot::Generation;
    use crate::model::instance::InstanceId;
    use crate::model::overtaken::Recorded;

    /// A store that somebody else writes to between a reader's reading and writing, so many times.
    struct Contended {
        stored: RefCell<Option<ClusterRecord>>,
        others: Cell<u32>,
        told: Cell<Recorded>,
    }

    impl RecordStore for Contended {
        async fn record(&self) -> Result<Option<ClusterRecord>, RecordError> {
            let read = self.stored.borrow().clone();
            if let Some(left) = self.others.get().checked_sub(1) {
                self.others.set(left);
                let instance = InstanceId::new(format!("db{left}"), 3306);
                let other = RecordChange::Park { instance, why: "somebody else's".to_owned() };
                let next = ClusterRecord::apply(read.as_ref(), &other, DateTime::UNIX_EPOCH)?;
                *self.stored.borrow_mut() = Some(next);
            }
            Ok(read)
        }

        async fn save_record(&self, record: &ClusterRecord) -> Result<(), RecordError> {
            let mut stored = self.stored.borrow_mut();
            if stored.as_ref().map_or(0, |stored| stored.revision) + 1 != record.revision {
                return Err(RecordError::Stale);
            }
            *stored = Some(record.clone());
            Ok(())
        }

        async fn note_record(&self, record: &ClusterRecord) -> Result<(), RecordError> {
            let recorded = record.recorded();
            self.told.set(recorded);
            Ok(())
        }
    }

    fn contended(others: u32) -> Contended {
        let record = ClusterRecord::new(InstanceId::new("db1", 3306), Generation(1), DateTime::UNIX_EPOCH);
        Contended { stored: RefCell::new(Some(record)), others: Cell::new(others), told: Cell::default() }
    }

    #[tokio::test]
    async fn a_change_that_comes_second_keeps_what_the_first_wrote() {
        let store = contended(3);
        let park = RecordChange::Park { instance: InstanceId::new("db9", 3306), why: "broken".to_owned() };
        let record = change_record(&store, &park, DateTime::UNIX_EPOCH).await.unwrap();
        let parked: Vec<_> = record.parked.iter().map(|parked| parked.instance.host.as_str()).collect();
        assert_eq!((parked, record.revision), (vec!["db2", "db1", "db0", "db9"], 4));
        assert_eq!(store.told.get(), record.recorded());
        assert_eq!(*store.stored.borrow(), Some(record));
    }

    #[tokio::test]
    async fn a_change_gives_up_where_others_always_come_first() {
        let store = contended(100);
        let change = change_record(&store, &RecordChange::AcknowledgeFailovers, DateTime::UNIX_EPOCH);
        assert_eq!(change.await, Err(RecordError::Stale));
        assert_eq!(store.others.get(), 100 - TRIES);
    }

    #[tokio::test]
    async fn only_a_registration_begins_a_record() {
        let store = Contended { stored: RefCell::new(None), others: Cell::new(0), told: Cell::default() };
        let change = change_record(&store, &RecordChange::AcknowledgeFailovers, DateTime::UNIX_EPOCH);
        assert_eq!(change.await, Err(RecordError::NotAdopted(NotAdopted)));
    }
}
