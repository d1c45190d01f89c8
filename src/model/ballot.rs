//! The two fencing tokens: a generation fences data, a ballot fences commands.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Names a primary. Grows only with a promotion; 0 means "never adopted".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Generation(pub u64);

impl Generation {
    /// The generation of the next promotion.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Names a leading manager. Grows with each manager that takes the lead; every command carries it.
///
/// Invariant: two managers never lead with equal ballots. Equal numbers with different ids do occur (two managers started
/// on copies of one store) and are refused by whoever accepted the other first.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Ballot {
    pub number: u64,
    /// Random, drawn once in a manager's data directory.
    pub manager: String,
}

impl Ballot {
    /// Whether a party that accepted `self` may obey `other`: the same ballot again, or one with a higher number.
    pub fn yields_to(&self, other: &Self) -> bool {
        other.number > self.number || other == self
    }
}

impl fmt::Display for Ballot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.manager)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_equal_number_of_another_manager_is_refused() {
        let ballot = |number, manager: &str| Ballot { number, manager: manager.to_owned() };
        assert!(ballot(3, "a").yields_to(&ballot(3, "a")));
        assert!(ballot(3, "a").yields_to(&ballot(4, "b")));
        assert!(!ballot(3, "a").yields_to(&ballot(3, "b")));
        assert!(!ballot(3, "a").yields_to(&ballot(2, "a")));
    }
}
