//! GTID sets of both families: read, printed, compared, joined and subtracted. Transactions of the two families have
//! nothing in common, so across families a non-empty set is never contained, nothing is subtracted, and joining is an error.
//! No IO: which variable of which server a set came from is the caller's business.

mod error;
mod intervals;
pub mod mariadb;
pub mod mysql;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

pub use self::error::{GtidError, GtidProblem};
use self::mariadb::MariaDbSet;
use self::mysql::MySqlSet;
use super::instance::{Flavor, Identity};

/// A set of transactions of one family. Equal sets are equal values; the empty sets of two families are not equal.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "Stored", try_from = "Stored")]
pub enum GtidSet {
    MySql(MySqlSet),
    MariaDb(MariaDbSet),
}

impl GtidSet {
    /// The set of nothing.
    pub fn empty(flavor: Flavor) -> Self {
        match flavor {
            Flavor::MySql => Self::MySql(MySqlSet::default()),
            Flavor::MariaDb => Self::MariaDb(MariaDbSet::default()),
        }
    }

    /// Reads what a server of that family prints, with any white space and newlines; empty text is the empty set.
    pub fn parse(flavor: Flavor, text: &str) -> Result<Self, GtidError> {
        match flavor {
            Flavor::MySql => MySqlSet::parse(text).map(Self::MySql),
            Flavor::MariaDb => MariaDbSet::parse(text).map(Self::MariaDb),
        }
    }

    /// One transaction alone, as a server's log names it.
    pub fn single(flavor: Flavor, gtid: &str) -> Result<Self, GtidError> {
        match flavor {
            Flavor::MySql => MySqlSet::parse(gtid).map(Self::MySql),
            Flavor::MariaDb => MariaDbSet::single(gtid).map(Self::MariaDb),
        }
    }

    pub fn flavor(&self) -> Flavor {
        match self {
            Self::MySql(_) => Flavor::MySql,
            Self::MariaDb(_) => Flavor::MariaDb,
        }
    }

    pub fn is_empty(&self) -> bool {
        match self {
            Self::MySql(set) => set.0.is_empty(),
            Self::MariaDb(set) => set.0.is_empty(),
        }
    }

    /// How many transactions. For MariaDB an upper bound: the servers of a domain share its sequence numbers, and the text
    /// does not tell which of them wrote which number. Stops at `u64::MAX`.
    pub fn count(&self) -> u64 {
        match self {
            Self::MySql(set) => set.0.count(),
            Self::MariaDb(set) => set.0.count(),
        }
    }

    /// For a message: how many transactions, and whether it may be fewer.
    pub fn told_count(&self) -> String {
        match self {
            Self::MariaDb(_) if self.count() > 1 => format!("at most {}", self.count()),
            Self::MariaDb(_) | Self::MySql(_) => self.count().to_string(),
        }
    }

    /// For a message: the set, and whether it may be more than there is. The servers of a MariaDB domain share its numbers, so that of a span
    /// only some may be transactions of that server.
    pub fn told(&self) -> String {
        match self {
            Self::MariaDb(_) if self.count() > 1 => format!("at most {self}"),
            Self::MariaDb(_) | Self::MySql(_) => self.to_string(),
        }
    }

    /// Whether every transaction of `other` is here. The empty set is contained in any set, of either family.
    pub fn contains(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::MySql(ours), Self::MySql(theirs)) => ours.0.contains(&theirs.0),
            (Self::MariaDb(ours), Self::MariaDb(theirs)) => ours.0.contains(&theirs.0),
            (Self::MySql(_), Self::MariaDb(_)) | (Self::MariaDb(_), Self::MySql(_)) => other.is_empty(),
        }
    }

    /// Whether it has all that `other` has, by what a server knows of itself: a MariaDB server that was made from a dump does not know
    /// who wrote what the dump held, and there the newest of each domain tells.
    pub fn is_as_far_as(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::MariaDb(ours), Self::MariaDb(theirs)) => ours.is_as_far_as(theirs),
            (Self::MySql(_), _) | (_, Self::MySql(_)) => self.contains(other),
        }
    }

    /// How far it goes: on MariaDB the newest transaction of each domain with all that its server wrote there before. On MySQL all of it.
    pub fn newest(&self) -> Self {
        match self {
            Self::MySql(_) => self.clone(),
            Self::MariaDb(set) => Self::MariaDb(set.newest_of_each()),
        }
    }

    /// The replication domains it has something of; none on MySQL.
    pub fn domains(&self) -> BTreeSet<u32> {
        match self {
            Self::MySql(_) => BTreeSet::new(),
            Self::MariaDb(set) => set.newest_per_domain().into_keys().collect(),
        }
    }

    /// What is not of those domains.
    pub fn without_domains(&self, domains: &BTreeSet<u32>) -> Self {
        match self {
            Self::MySql(_) => self.clone(),
            Self::MariaDb(set) => Self::MariaDb(set.without_domains(domains)),
        }
    }

    /// All of both. Where one is empty, the other; an error where both hold something and are of two families.
    pub fn try_union(&self, other: &Self) -> Result<Self, GtidError> {
        match (self, other) {
            (Self::MySql(ours), Self::MySql(theirs)) => Ok(Self::MySql(MySqlSet(ours.0.union(&theirs.0)))),
            (Self::MariaDb(ours), Self::MariaDb(theirs)) => {
                Ok(Self::MariaDb(MariaDbSet(ours.0.union(&theirs.0))))
            }
            (Self::MySql(_), Self::MariaDb(_)) | (Self::MariaDb(_), Self::MySql(_)) => {
                match (self.is_empty(), other.is_empty()) {
                    (_, true) => Ok(self.clone()),
                    (true, false) => Ok(other.clone()),
                    (false, false) => Err(GtidError::Flavors { left: self.flavor(), right: other.flavor() }),
                }
            }
        }
    }

    /// All of both, for callers who know that the families agree; [`Self::try_union`] for those who do not.
    ///
    /// Two non-empty sets of different families are a defect of the caller: a failed assertion in a debug build, `self`
    /// in a release build. A decision that has not excluded servers of another family must not be made with this.
    pub fn union(&self, other: &Self) -> Self {
        let joined = self.try_union(other);
        debug_assert!(joined.is_ok(), "{joined:?}");
        joined.unwrap_or_else(|_| self.clone())
    }

    /// What is here and not in `other`; all of it where the families differ.
    pub fn minus(&self, other: &Self) -> Self {
        match (self, other) {
            (Self::MySql(ours), Self::MySql(theirs)) => Self::MySql(MySqlSet(ours.0.minus(&theirs.0))),
            (Self::MariaDb(ours), Self::MariaDb(theirs)) => {
                Self::MariaDb(MariaDbSet(ours.0.minus(&theirs.0)))
            }
            (Self::MySql(_), Self::MariaDb(_)) | (Self::MariaDb(_), Self::MySql(_)) => self.clone(),
        }
    }

    /// What is here and was written by servers (MariaDB: servers within a domain) of which `other` holds something too:
    /// what a replica of several clusters has of one of them. Nothing where the families differ.
    pub fn of_origins(&self, other: &Self) -> Self {
        match (self, other) {
            (Self::MySql(ours), Self::MySql(theirs)) => {
                Self::MySql(MySqlSet(ours.0.under_keys_of(&theirs.0)))
            }
            (Self::MariaDb(ours), Self::MariaDb(theirs)) => {
                Self::MariaDb(MariaDbSet(ours.0.under_keys_of(&theirs.0)))
            }
            (Self::MySql(_), Self::MariaDb(_)) | (Self::MariaDb(_), Self::MySql(_)) => {
                Self::empty(self.flavor())
            }
        }
    }

    /// What that server itself wrote. Nothing where its family differs or, for MySQL, its UUID is not known.
    pub fn written_by(&self, server: &Identity) -> Self {
        match self {
            Self::MySql(set) => {
                Self::MySql(set.written_by(server.server_uuid.as_deref().unwrap_or_default()))
            }
            Self::MariaDb(set) => Self::MariaDb(set.written_by(server.server_id)),
        }
    }

    /// What a server had executed when it stood at this position (the newest of each domain), having had `before` some time earlier and
    /// `after` later. For MySQL a position is the whole history.
    pub fn history_between(&self, before: &Self, after: &Self) -> Self {
        match (self, before, after) {
            (Self::MariaDb(position), Self::MariaDb(before), Self::MariaDb(after)) => {
                Self::MariaDb(position.history_between(before, after))
            }
            (Self::MySql(_) | Self::MariaDb(_), _, _) => self.clone(),
        }
    }

    /// What is in both; nothing where the families differ.
    pub fn intersect(&self, other: &Self) -> Self {
        match (self, other) {
            (Self::MySql(ours), Self::MySql(theirs)) => Self::MySql(MySqlSet(ours.0.intersect(&theirs.0))),
            (Self::MariaDb(ours), Self::MariaDb(theirs)) => {
                Self::MariaDb(MariaDbSet(ours.0.intersect(&theirs.0)))
            }
            (Self::MySql(_), Self::MariaDb(_)) | (Self::MariaDb(_), Self::MySql(_)) => {
                Self::empty(self.flavor())
            }
        }
    }
}

/// What the server accepts back, and for MariaDB intervals that do not begin at 1 as `0-1-(51..100)`, which it does not.
impl fmt::Display for GtidSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MySql(set) => set.fmt(f),
            Self::MariaDb(set) => set.fmt(f),
        }
    }
}

/// The form in which a set is stored and sent.
#[derive(Serialize, Deserialize)]
struct Stored {
    flavor: Flavor,
    set: String,
}

impl From<GtidSet> for Stored {
    fn from(set: GtidSet) -> Self {
        Self { flavor: set.flavor(), set: set.to_string() }
    }
}

impl TryFrom<Stored> for GtidSet {
    type Error = GtidError;
    fn try_from(stored: Stored) -> Result<Self, GtidError> {
        Self::parse(stored.flavor, &stored.set)
    }
}

/// Digits and nothing else: `str::parse` would take a sign too.
fn number(text: &str) -> Option<u64> {
    if text.bytes().all(|b| b.is_ascii_digit()) { text.parse().ok() } else { None }
}
