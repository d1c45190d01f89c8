//! GTID sets of both families.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::instance::Flavor;

/// Placeholder until the algebra lands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GtidSet {
    flavor: Flavor,
    text: String,
}

impl GtidSet {
    pub fn empty(flavor: Flavor) -> Self {
        Self { flavor, text: String::new() }
    }
    pub fn flavor(&self) -> Flavor {
        self.flavor
    }
    pub fn is_empty(&self) -> bool {
        self.text.is_empty()
    }
    pub fn contains(&self, other: &Self) -> bool {
        self.text == other.text
    }
    #[must_use]
    pub fn union(&self, _other: &Self) -> Self {
        self.clone()
    }
}

impl fmt::Display for GtidSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
