//! The tables, and nothing else that knows SQL of our own store.

use std::fs::{File, TryLockError};
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension as _, TransactionBehavior, params};

use super::StoreError;
use crate::execute::journal::{Entry, Recovery, What};
use crate::model::ballot::Ballot;
use crate::model::cluster::ClusterName;
use crate::model::record::ClusterRecord;
use crate::notify::Told;
use crate::random;

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS record (cluster TEXT PRIMARY KEY, json TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS recovery (
  id TEXT PRIMARY KEY, cluster TEXT NOT NULL, began_at TEXT NOT NULL, ended INTEGER NOT NULL DEFAULT 0, json TEXT NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS recovery_by_cluster ON recovery (cluster, began_at);
CREATE TABLE IF NOT EXISTS entry (
  recovery TEXT NOT NULL REFERENCES recovery (id), seq INTEGER NOT NULL, json TEXT NOT NULL, PRIMARY KEY (recovery, seq)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS told (seq INTEGER PRIMARY KEY AUTOINCREMENT, cluster TEXT NOT NULL, json TEXT NOT NULL) STRICT;
";
/// Notices kept, of all clusters.
const TOLD_KEPT: i64 = 1_000;

/// The open file.
#[derive(Debug)]
pub(super) struct Database {
    connection: Connection,
    /// Held for as long as this is: one manager to a store.
    _lock: File,
}

/// How long an earlier manager on this host may take to let go.
const LET_GO: Duration = Duration::from_secs(1);
const LET_GO_TRIES: u32 = 20;

/// Locks the file beside the database (flock(2): it ends with the process, however that ends).
fn lock(path: &Path) -> Result<File, StoreError> {
    let failed = |source| StoreError::Lock { path: path.to_owned(), source };
    let file = File::options().create(true).truncate(false).write(true).open(path).map_err(failed)?;
    for _ in 0..LET_GO_TRIES {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => std::thread::sleep(LET_GO / LET_GO_TRIES),
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
    }
    Err(StoreError::Taken { path: path.to_owned() })
}

impl Database {
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        let open = || -> rusqlite::Result<Connection> {
            let connection = Connection::open(path)?;
            // WAL with FULL syncs the log at each commit: one fsync, and nothing that returned is forgotten at a power loss (H12).
            connection.pragma_update(None, "journal_mode", "WAL")?;
            connection.pragma_update(None, "synchronous", "FULL")?;
            connection.pragma_update(None, "foreign_keys", true)?;
            connection.busy_timeout(Duration::from_secs(2))?;
            connection.execute_batch(SCHEMA)?;
            Ok(connection)
        };
        let lock = lock(&path.with_extension("lock"))?;
        let connection = open().map_err(|source| StoreError::Open { path: path.to_owned(), source })?;
        Ok(Self { connection, _lock: lock })
    }

    pub(super) fn record(&mut self, cluster: &ClusterName) -> Result<Option<ClusterRecord>, StoreError> {
        let json: Option<String> = self
            .connection
            .prepare_cached("SELECT json FROM record WHERE cluster = ?1")?
            .query_row([&cluster.0], |row| row.get(0))
            .optional()?;
        Ok(json.map(|json| serde_json::from_str(&json)).transpose()?)
    }

    pub(super) fn save_record(
        &mut self,
        cluster: &ClusterName,
        record: &ClusterRecord,
    ) -> Result<(), StoreError> {
        let json = serde_json::to_string(record)?;
        let base = record.revision.saturating_sub(1);
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let stored = transaction
            .prepare_cached(
                "SELECT coalesce(json_extract(json, '$.revision'), 0) FROM record WHERE cluster = ?1",
            )?
            .query_row([&cluster.0], |row| row.get(0))
            .optional()?;
        let stored: i64 = stored.unwrap_or(0);
        let stored = stored.unsigned_abs();
        if record.revision == 0 || stored != base {
            return Err(StoreError::StaleRecord { cluster: cluster.clone(), stored, base });
        }
        transaction
            .prepare_cached(
                "INSERT INTO record VALUES (?1, ?2) ON CONFLICT (cluster) DO UPDATE SET json = ?2",
            )?
            .execute(params![cluster.0, json])?;
        transaction.commit()?;
        Ok(())
    }

    pub(super) fn begin(&mut self, recovery: &Recovery) -> Result<(), StoreError> {
        let json = serde_json::to_string(recovery)?;
        let unfinished: Option<String> = self
            .connection
            .prepare_cached("SELECT id FROM recovery WHERE cluster = ?1 AND ended = 0 LIMIT 1")?
            .query_row([&recovery.cluster.0], |row| row.get(0))
            .optional()?;
        if let Some(id) = unfinished {
            return Err(StoreError::Unfinished { cluster: recovery.cluster.clone(), id });
        }
        self.connection
            .prepare_cached("INSERT INTO recovery (id, cluster, began_at, json) VALUES (?1, ?2, ?3, ?4)")?
            .execute(params![recovery.id, recovery.cluster.0, recovery.began_at.to_rfc3339(), json])?;
        Ok(())
    }

    pub(super) fn append(&mut self, recovery: &str, entries: &[Entry]) -> Result<(), StoreError> {
        let transaction = self.connection.transaction()?;
        {
            let mut insert = transaction.prepare_cached(
                "INSERT INTO entry SELECT ?1, coalesce(max(seq), 0) + 1, ?2 FROM entry WHERE recovery = ?1",
            )?;
            for entry in entries {
                insert.execute(params![recovery, serde_json::to_string(entry)?])?;
                if let What::Ended { .. } = entry.what {
                    transaction.execute("UPDATE recovery SET ended = 1 WHERE id = ?1", [recovery])?;
                }
            }
        }
        transaction.commit()?;
        Ok(())
    }

    pub(super) fn unfinished(&mut self, cluster: &ClusterName) -> Result<Option<Recovery>, StoreError> {
        let found = self.recoveries(
            "SELECT id, json FROM recovery WHERE cluster = ?1 AND ended = 0 ORDER BY began_at DESC LIMIT ?2",
            cluster,
            1,
        )?;
        Ok(found.into_iter().next())
    }

    pub(super) fn history(&mut self, cluster: &ClusterName, limit: u32) -> Result<Vec<Recovery>, StoreError> {
        self.recoveries(
            "SELECT id, json FROM recovery WHERE cluster = ?1 ORDER BY began_at DESC LIMIT ?2",
            cluster,
            limit,
        )
    }

    fn recoveries(
        &mut self,
        sql: &str,
        cluster: &ClusterName,
        limit: u32,
    ) -> Result<Vec<Recovery>, StoreError> {
        let mut heads = self.connection.prepare_cached(sql)?;
        let heads = heads
            .query_map(params![cluster.0, limit], |row| {
                Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?))
            })?
            .collect::<Result<Vec<_>, _>>()?;
        let mut lines =
            self.connection.prepare_cached("SELECT json FROM entry WHERE recovery = ?1 ORDER BY seq")?;
        let mut found = Vec::new();
        for (id, json) in heads {
            let mut recovery: Recovery = serde_json::from_str(&json)?;
            for entry in lines.query_map([&id], |row| row.get::<_, String>(0))? {
                recovery.entries.push(serde_json::from_str(&entry?)?);
            }
            found.push(recovery);
        }
        Ok(found)
    }

    pub(super) fn save_told(&mut self, told: &Told) -> Result<(), StoreError> {
        let json = serde_json::to_string(told)?;
        let transaction = self.connection.transaction()?;
        transaction.execute(
            "INSERT INTO told (cluster, json) VALUES (?1, ?2)",
            params![told.notice.cluster.0, json],
        )?;
        let oldest = transaction.last_insert_rowid() - TOLD_KEPT;
        transaction.execute("DELETE FROM told WHERE seq <= ?1", [oldest])?;
        transaction.commit()?;
        Ok(())
    }

    pub(super) fn told(&mut self, cluster: &ClusterName, limit: u32) -> Result<Vec<Told>, StoreError> {
        let mut rows = self
            .connection
            .prepare_cached("SELECT json FROM told WHERE cluster = ?1 ORDER BY seq DESC LIMIT ?2")?;
        let mut found = Vec::new();
        for json in rows.query_map(params![cluster.0, limit], |row| row.get::<_, String>(0))? {
            found.push(serde_json::from_str(&json?)?);
        }
        Ok(found)
    }

    fn meta(&mut self, key: &str) -> Result<Option<String>, StoreError> {
        let sql = "SELECT value FROM meta WHERE key = ?1";
        Ok(self.connection.query_row(sql, [key], |row| row.get(0)).optional()?)
    }

    fn save_meta(&mut self, key: &str, value: &str) -> Result<(), StoreError> {
        let sql = "INSERT INTO meta VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = ?2";
        self.connection.execute(sql, [key, value])?;
        Ok(())
    }

    pub(super) fn ballot(&mut self) -> Result<Ballot, StoreError> {
        let number = self.ballot_number()?;
        let manager = match self.meta("manager")? {
            Some(id) => id,
            None => self.new_id()?,
        };
        Ok(Ballot { number, manager })
    }

    fn ballot_number(&mut self) -> Result<u64, StoreError> {
        Ok(self.meta("ballot")?.and_then(|text| text.parse().ok()).unwrap_or(0))
    }

    pub(super) fn new_id(&mut self) -> Result<String, StoreError> {
        let id = random::hex(8)?;
        self.save_meta("manager", &id)?;
        Ok(id)
    }

    /// Never a lower one: of two clusters that are led at once the one with the lower number may come second.
    pub(super) fn save_ballot(&mut self, number: u64) -> Result<(), StoreError> {
        let known = self.ballot_number()?;
        self.save_meta("ballot", &number.max(known).to_string())
    }
}
