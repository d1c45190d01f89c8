//! A file of a server's binary log that its index names and that is not there, or is no log: whoever needs it gets nothing.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::gtid::GtidSet;

/// The newest such file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogFault {
    /// The file's name without a path.
    pub file: String,
    pub why: String,
    /// What the files after it do not give; `None` where that is not known, or there is none.
    pub before: Option<GtidSet>,
}

impl LogFault {
    /// Whether a replica that has `known` needs what cannot be read.
    pub fn is_needed_by(&self, known: &GtidSet) -> bool {
        self.before.as_ref().is_none_or(|before| !known.contains(before))
    }
}

impl fmt::Display for LogFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "its binary log file {} {}", self.file, self.why)
    }
}
