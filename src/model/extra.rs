//! Transactions that a returned server has and the primary lacks: what was saved of them, what is in them, and what may be
//! done about them. Data only.

use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::gtid::GtidSet;
use super::instance::Flavor;

/// What is done about extra transactions once they are saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Remedy {
    /// Their rows are put back as they were, and the server follows the primary.
    Flashback,
    /// The server is left alone until a person decides.
    Park,
    /// Its data is replaced by a copy of a healthy server's.
    Rebuild,
}

impl fmt::Display for Remedy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Flashback => "flashback",
            Self::Park => "park",
            Self::Rebuild => "rebuild",
        })
    }
}

/// How many rows of a table the extra transactions touched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Touched {
    /// `schema.table`.
    pub table: String,
    pub inserted: u64,
    pub updated: u64,
    pub deleted: u64,
}

/// The extra transactions of the server beside an agent that it has saved, in short.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    pub set: GtidSet,
    pub transactions: u64,
    /// The most touched first, at most [`MOST_TABLES`].
    pub tables: Vec<Touched>,
    /// Statements among them, changes of schemas included: what no row event says.
    pub statements: u64,
    /// When the first and the last of them were written, by that server's clock.
    pub first_at: Option<DateTime<Utc>>,
    pub last_at: Option<DateTime<Utc>>,
    /// Nothing but what this program writes for itself is in them.
    pub benign: bool,
    /// Why their rows cannot be put back; `None` where they can.
    pub obstacle: Option<String>,
    /// The raw events, on that host. Beside it, ending in `.json`, what is in them.
    pub file: String,
    /// Of that file, in hexadecimal.
    pub sha256: String,
    /// The history the server is being set back to: begun, and not known to be done.
    #[serde(default)]
    pub rewinding: Option<GtidSet>,
}

/// Most tables a summary names.
pub const MOST_TABLES: usize = 16;
/// How many of them a sentence names.
const NAMED: usize = 3;

impl fmt::Display for Saved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.transactions == 1 { "" } else { "s" };
        write!(f, "{} transaction{plural} (", self.transactions)?;
        let mut parts: Vec<String> = Vec::new();
        if self.statements > 0 {
            parts.push(format!("{} statement(s)", self.statements));
        }
        for table in self.tables.iter().take(NAMED) {
            let counts =
                [(table.inserted, "inserted"), (table.updated, "updated"), (table.deleted, "deleted")];
            let counts = counts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}"));
            parts.push(format!("{}: {}", table.table, counts.collect::<Vec<_>>().join(" ")));
        }
        if self.tables.len() > NAMED {
            parts.push(format!("{} more table(s)", self.tables.len() - NAMED));
        }
        if parts.is_empty() {
            parts.push("no rows".to_owned());
        }
        write!(f, "{}), saved in {}", parts.join(", "), self.file)
    }
}

/// What is in the extra transactions, for people: bounded, the file beside it has it all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dossier {
    pub host: String,
    pub flavor: Flavor,
    pub saved_at: DateTime<Utc>,
    pub saved: Saved,
    /// The first of them, in order.
    pub shown: Vec<Told>,
    /// Changes that are only in the file.
    pub left_out: u64,
    /// Why rows are shown without their values, where they are.
    pub undecoded: Option<String>,
}

/// One extra transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    pub gtid: String,
    pub at: DateTime<Utc>,
    pub changes: Vec<Change>,
}

/// One change in it. Values are as the binary log tool prints them, in the order of the table's columns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "snake_case")]
pub enum Change {
    Inserted {
        table: String,
        after: Vec<String>,
    },
    Updated {
        table: String,
        before: Vec<String>,
        after: Vec<String>,
    },
    Deleted {
        table: String,
        before: Vec<String>,
    },
    /// A statement: what it changed is not known by rows, and is never inverted.
    Statement {
        text: String,
    },
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inserted { table, after } => write!(f, "inserted {table} ({})", after.join(", ")),
            Self::Updated { table, before, after } => {
                write!(f, "updated  {table} ({}) -> ({})", before.join(", "), after.join(", "))
            }
            Self::Deleted { table, before } => write!(f, "deleted  {table} ({})", before.join(", ")),
            Self::Statement { text } => write!(f, "statement {text}"),
        }
    }
}
