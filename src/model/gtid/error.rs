//! Why a text is not a GTID set, or two sets cannot be joined.

use crate::model::instance::Flavor;

/// How much of a wrong text an error repeats, in characters.
const SHOWN: usize = 80;

/// A text that is no GTID set, or sets of two families where one was needed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GtidError {
    #[error("not a {flavor} GTID set: {part:?} {problem}")]
    Part {
        flavor: Flavor,
        /// The element between two commas, cut short where it is long.
        part: String,
        problem: GtidProblem,
    },
    #[error("cannot join a {left} GTID set and a {right} one; compare servers of one family only")]
    Flavors { left: Flavor, right: Flavor },
}

impl GtidError {
    pub(super) fn part(flavor: Flavor, part: &str, problem: GtidProblem) -> Self {
        let part = part.trim();
        let shown = match part.char_indices().nth(SHOWN) {
            Some((end, _)) => format!("{}...", &part[..end]),
            None => part.to_owned(),
        };
        Self::Part { flavor, part: shown, problem }
    }
}

/// What is wrong with one element of a GTID set, and what it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GtidProblem {
    #[error("is an empty element; the text may be cut off, or has a comma too many")]
    Empty,
    #[error("does not begin with a server UUID such as 3e11fa47-71ca-11e1-9e33-c80aa9429562")]
    Uuid,
    #[error("has a UUID or tag with no transaction numbers after it; write uuid:1-5 or uuid:tag:1-5")]
    NoInterval,
    #[error("has a field that is neither a number, an interval such as 1-5, nor a tag")]
    Interval,
    #[error("has a tag that is not 1 to 32 letters, digits and underscores")]
    Tag,
    #[error("has a transaction number outside 1 to {max}")]
    Range { max: u64 },
    #[error("has an interval whose end is before its beginning")]
    Backwards,
    #[error("is not domain-server-sequence such as 0-1-100, in numbers of at most 64 bits")]
    Triple,
    #[error("has a domain or server id above 4294967295")]
    Id,
}
