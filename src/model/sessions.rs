//! What is going on inside a server just now, as far as a planned change must know of it.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::time::human;

/// What a session does that may stand in the way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Doing {
    /// A transaction is open; `idle` between two of its statements.
    Transaction { idle: bool, rows: u64 },
    /// DDL, or the building of an index.
    ChangesSchema,
    /// It waits for a lock on a table or on everything, as its state says.
    WaitsForLock(String),
    /// `LOCK TABLES`.
    LocksTables(String),
    /// `FLUSH TABLES WITH READ LOCK`, or a backup lock.
    LocksEverything,
    /// A commit that nobody acknowledged yet. Never ended: ending it commits it unseen (S5).
    WaitsForAck,
}

/// One session worth a word.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    pub id: u64,
    pub user: String,
    pub host: String,
    /// For how long it has been at it. Whoever only holds a lock has held it for longer: its last statement ended then.
    pub since: Duration,
    pub doing: Doing,
    /// The beginning of its statement, if one runs.
    pub text: String,
}

impl fmt::Display for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let from = if self.host.is_empty() { "localhost" } else { self.host.as_str() };
        write!(f, "session {} of {}@{from} ", self.id, self.user)?;
        match &self.doing {
            Doing::Transaction { idle, rows } => {
                let how = if *idle { ", idle" } else { "" };
                write!(f, "has a transaction open for {} ({rows} row(s) changed{how})", human(self.since))?;
            }
            Doing::ChangesSchema => write!(f, "changes a table since {}", human(self.since))?,
            Doing::WaitsForLock(state) => write!(f, "waits since {} ({state})", human(self.since))?,
            Doing::LocksTables(what) => {
                write!(f, "holds LOCK TABLES on {what} for {} at least", human(self.since))?;
            }
            Doing::LocksEverything => {
                write!(f, "holds FLUSH TABLES WITH READ LOCK for {} at least", human(self.since))?;
            }
            Doing::WaitsForAck => {
                write!(f, "waits for an acknowledgement since {}", human(self.since))?;
            }
        }
        if self.text.is_empty() { Ok(()) } else { write!(f, ": {}", self.text) }
    }
}

/// One look at a server's sessions and what a new primary needs beside them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sessions {
    pub sessions: Vec<Session>,
    /// The replication account exists here; `None` where the server does not say.
    pub replication_account: Option<bool>,
    /// Databases its binlog is limited to or leaves out, if any.
    pub binlog_filter: Option<String>,
}

/// A transaction that a client has begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenTransaction {
    /// Of the transaction: its session may go on to the next one.
    pub id: String,
    pub session: u64,
    pub age: Duration,
    /// It commits, and may wait for an acknowledgement: its session must not be ended.
    pub commits: bool,
}
