//! What must survive this process: records, recoveries, this manager's identity and ballot. One SQLite file, `synchronous=FULL`, one
//! writer thread; an operator can open it with `sqlite3`. A write that returned is on the disk.

mod journal;
mod sqlite;

use std::path::{Path, PathBuf};

use tokio::sync::{mpsc, oneshot};

use crate::execute::journal::{Entry, Recovery};
use crate::model::ballot::Ballot;
use crate::model::cluster::ClusterName;
use crate::model::record::ClusterRecord;
use crate::notify::Told;

pub use journal::RecoveryJournal;

/// Writes that may wait for the disk at once.
const QUEUE: usize = 256;

/// Why the store did not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error(
        "cannot open the store {path}: {source}; check the directory's owner and free space (data_dir in [manager])"
    )]
    Open { path: PathBuf, source: rusqlite::Error },
    #[error(
        "cannot lock {path}: {source}; check the directory's owner and free space (data_dir in [manager])"
    )]
    Lock { path: PathBuf, source: std::io::Error },
    #[error("another manager of this host uses this store ({path} is locked); stop it, or ask it")]
    Taken { path: PathBuf },
    #[error("the store failed: {0}; no plan is begun before it can be written down")]
    Sql(#[from] rusqlite::Error),
    #[error(
        "the store holds what this version cannot read: {0}; it may have been written by a newer version"
    )]
    Decode(#[from] serde_json::Error),
    #[error(
        "the record of cluster {cluster} is at revision {stored}, and the change was made from revision {base}; nothing was written: \
         the record is to be read again"
    )]
    StaleRecord { cluster: ClusterName, stored: u64, base: u64 },
    #[error("recovery {id} of {cluster} has not ended; it goes on first, and no other one is begun before")]
    Unfinished { cluster: ClusterName, id: String },
    #[error("the store's writer thread has ended")]
    Closed,
    #[error("cannot read random bytes for this manager's id: {0}")]
    Random(#[from] std::io::Error),
}

type Work = Box<dyn FnOnce(&mut sqlite::Database) + Send>;

/// A handle to the store; clones share the one writer.
#[derive(Debug, Clone)]
pub struct Store {
    work: mpsc::Sender<Work>,
}

impl Store {
    /// Opens or creates the store in `data_dir`.
    ///
    /// # Errors
    /// When the directory or file cannot be made, read or written.
    pub fn open(data_dir: &Path) -> Result<Self, StoreError> {
        let mut database = sqlite::Database::open(&data_dir.join("mha.sqlite"))?;
        let (work, mut queue) = mpsc::channel::<Work>(QUEUE);
        std::thread::Builder::new().name("store".to_owned()).spawn(move || {
            while let Some(job) = queue.blocking_recv() {
                job(&mut database);
            }
        })?;
        Ok(Self { work })
    }

    async fn ask<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut sqlite::Database) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (answer, answered) = oneshot::channel();
        let job: Work = Box::new(move |database| {
            // An asker that went away wants no answer.
            let _ = answer.send(job(database));
        });
        self.work.send(job).await.map_err(|_| StoreError::Closed)?;
        answered.await.map_err(|_| StoreError::Closed)?
    }

    /// The record of an adopted cluster.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn record(&self, cluster: &ClusterName) -> Result<Option<ClusterRecord>, StoreError> {
        let cluster = cluster.clone();
        self.ask(move |database| database.record(&cluster)).await
    }

    /// Replaces the record of a cluster by the next revision of it.
    ///
    /// # Errors
    /// [`StoreError::StaleRecord`] when another revision is stored than the one `record` was made from; otherwise when it could not be
    /// made durable.
    pub async fn save_record(&self, cluster: &ClusterName, record: &ClusterRecord) -> Result<(), StoreError> {
        let (cluster, record) = (cluster.clone(), record.clone());
        self.ask(move |database| database.save_record(&cluster, &record)).await
    }

    /// Writes down that a recovery begins.
    ///
    /// # Errors
    /// When it could not be made durable.
    pub async fn begin(&self, recovery: &Recovery) -> Result<(), StoreError> {
        let recovery = recovery.clone();
        self.ask(move |database| database.begin(&recovery)).await
    }

    /// Appends to a recovery, in one transaction.
    ///
    /// # Errors
    /// When it could not be made durable.
    pub async fn append(&self, recovery: &str, entries: Vec<Entry>) -> Result<(), StoreError> {
        let recovery = recovery.to_owned();
        self.ask(move |database| database.append(&recovery, &entries)).await
    }

    /// The recovery of that cluster that did not end; at most one.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn unfinished(&self, cluster: &ClusterName) -> Result<Option<Recovery>, StoreError> {
        let cluster = cluster.clone();
        self.ask(move |database| database.unfinished(&cluster)).await
    }

    /// The newest recoveries of a cluster, newest first.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn history(&self, cluster: &ClusterName, limit: u32) -> Result<Vec<Recovery>, StoreError> {
        let cluster = cluster.clone();
        self.ask(move |database| database.history(&cluster, limit)).await
    }

    /// Keeps a notice and what became of it; the newest 1,000 of all clusters stay.
    ///
    /// # Errors
    /// When it could not be made durable.
    pub async fn save_told(&self, told: Told) -> Result<(), StoreError> {
        self.ask(move |database| database.save_told(&told)).await
    }

    /// What was told of a cluster, newest first.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn told(&self, cluster: &ClusterName, limit: u32) -> Result<Vec<Told>, StoreError> {
        let cluster = cluster.clone();
        self.ask(move |database| database.told(&cluster, limit)).await
    }

    /// The highest ballot this store has led with, under this manager's own id.
    ///
    /// # Errors
    /// When the store cannot be read, or on the first start when no random id can be drawn.
    pub async fn ballot(&self) -> Result<Ballot, StoreError> {
        self.ask(sqlite::Database::ballot).await
    }

    /// Gives this manager a new id, under which nobody has led: its store was found to be a copy.
    ///
    /// # Errors
    /// When the store or the system's source of randomness fails.
    pub async fn new_id(&self) -> Result<String, StoreError> {
        self.ask(sqlite::Database::new_id).await
    }

    /// Remembers the ballot this manager leads with from now on.
    ///
    /// # Errors
    /// When it could not be made durable.
    pub async fn save_ballot(&self, ballot: &Ballot) -> Result<(), StoreError> {
        let number = ballot.number;
        self.ask(move |database| database.save_ballot(number)).await
    }
}

#[cfg(test)]
mod tests;
