//! What a server's own settings leave out, pass over or refuse, each by its name. A setting that a version does not know, or that
//! could not be read, is absent: unknown is never an error for a whole look.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A setting with its value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Setting {
    pub name: String,
    pub value: String,
}

impl Setting {
    pub fn new(name: &str, value: &str) -> Self {
        Self { name: name.to_owned(), value: value.to_owned() }
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {}", self.name, self.value)
    }
}

/// Settings in a row.
pub fn listed(settings: &[Setting]) -> String {
    settings.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// What one look says of these settings.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restrictions {
    /// Replication filters of the server as a whole: of what it replicates now, or would replicate.
    #[serde(default)]
    pub filters: Vec<Setting>,
    /// Settings by which its applier passes over errors or transactions.
    #[serde(default)]
    pub skips: Vec<Setting>,
    /// It listens on no network, or on addresses that only its own host reaches.
    #[serde(default)]
    pub local_only: Option<Setting>,
    /// MySQL's `offline_mode`: only administrators are let in.
    #[serde(default)]
    pub offline: bool,
}
