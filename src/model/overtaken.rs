//! Whether this manager's record of a cluster is the newest there is. Another manager may have led since, and a store may be a copy or
//! restored from a backup. The voters know: with which ballot another manager has led, and which record was written last.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::ballot::Ballot;
use super::record::{ClusterRecord, RecordChange};
use super::view::ClusterView;

/// Which record of a cluster: the number of the ballot it carries, and its revision. Grows with each change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Recorded {
    pub ballot: u64,
    pub revision: u64,
}

impl fmt::Display for Recorded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "revision {} under ballot {}", self.revision, self.ballot)
    }
}

impl ClusterRecord {
    /// Which one it is.
    pub fn recorded(&self) -> Recorded {
        Recorded { ballot: self.ballot.number, revision: self.revision }
    }
}

/// What the voters told a manager when it took the lead.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LedBefore {
    /// The highest ballot that another manager has led with.
    pub rival: Ballot,
    /// The newest record that a manager has told them of.
    #[serde(default)]
    pub recorded: Recorded,
}

/// Why the record is not to be relied on: it may lack that lossless was given up, who was registered or parked, and what became of an
/// operation that it holds as unfinished.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Overtaken {
    /// It led after the record was written, or wrote it: then this one is a copy.
    By(Ballot),
    /// A newer record was written than the one in this manager's store ([`ClusterRecord::outdated`]).
    Older { known: Recorded },
}

impl fmt::Display for Overtaken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::By(rival) => write!(f, "the manager of ballot {rival} has led since"),
            Self::Older { known } => write!(
                f,
                "this manager's data directory is older than its last lead: the voters know of {known} of the record"
            ),
        }
    }
}

impl ClusterView {
    /// Why the record may not be the newest, if so.
    pub fn overtaken(&self) -> Option<Overtaken> {
        let (record, rival) = (self.record.as_ref()?, &self.led_before.rival);
        if rival.number > 0 && record.ballot.number <= rival.number {
            return Some(Overtaken::By(rival.clone()));
        }
        record.outdated.map(|known| Overtaken::Older { known })
    }

    /// What is to be recorded before anything else where the voters know of a newer record than this manager holds: it grows with each change, and
    /// would pass for the newest soon.
    pub fn outdated(&self) -> Option<RecordChange> {
        let known = self.led_before.recorded;
        let record = self.record.as_ref().filter(|record| record.outdated.is_none())?;
        (record.recorded() < known).then_some(RecordChange::Outdated { known })
    }
}
