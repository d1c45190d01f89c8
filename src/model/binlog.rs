//! Binlog coordinates and their order: a file and an offset in one server's binlog (or relay log). File names are compared
//! by the number they end in, because `mysql-bin.999999` is followed by `mysql-bin.1000000`. Coordinates of two servers say
//! nothing about each other, even where they compare: that they are of one server is the caller's business.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A place in a binlog: up to but not including byte `position` of `file`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct BinlogCoordinates {
    /// The file's name without a path, such as `mysql-bin.000123`.
    pub file: String,
    /// Bytes from the file's beginning.
    pub position: u64,
}

impl BinlogCoordinates {
    /// From a file name and an offset as a server reports them; an error where the name is no binlog's.
    pub fn new(file: impl Into<String>, position: u64) -> Result<Self, BinlogError> {
        let file = file.into();
        let strange = |c: char| c.is_whitespace() || c.is_control() || "/\\'\"`".contains(c);
        if split(&file).is_none() || file.contains(strange) {
            return Err(BinlogError::File(clip(&file)));
        }
        Ok(Self { file, position })
    }
}

/// The base name, and the digits after its last dot.
fn split(file: &str) -> Option<(&str, &str)> {
    let (base, digits) = file.rsplit_once('.')?;
    let numbered = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    (numbered && !base.is_empty()).then_some((base, digits))
}

/// By the number of the file, then by position. None where the base names differ: such files are of no one sequence.
impl PartialOrd for BinlogCoordinates {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        if self.file == other.file {
            return Some(self.position.cmp(&other.position));
        }
        let ((base, digits), (other_base, other_digits)) = (split(&self.file)?, split(&other.file)?);
        if base != other_base {
            return None;
        }
        // Without leading zeros the longer number is the greater: no limit to the digits, and no overflow.
        let (ours, theirs) = (digits.trim_start_matches('0'), other_digits.trim_start_matches('0'));
        match ours.len().cmp(&theirs.len()).then_with(|| ours.cmp(theirs)) {
            // `.1` and `.01`: two names for one number are not of one sequence.
            Ordering::Equal => None,
            unequal @ (Ordering::Less | Ordering::Greater) => Some(unequal),
        }
    }
}

impl fmt::Display for BinlogCoordinates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.position)
    }
}

/// Why a text is not a place in a binlog.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BinlogError {
    #[error("{0:?} is no place in a binlog; write file:position such as mysql-bin.000123:456")]
    Shape(String),
    #[error("{0:?} is no binlog file name; it is a plain name, a dot and a number, such as mysql-bin.000123")]
    File(String),
    #[error("{0:?} is no position in a binlog; it is a number of bytes of at most 64 bits")]
    Position(String),
}

/// What an error repeats of a wrong text.
fn clip(text: &str) -> String {
    text.chars().take(80).collect()
}

impl FromStr for BinlogCoordinates {
    type Err = BinlogError;

    /// `mysql-bin.000123:456`, white space around it allowed.
    fn from_str(text: &str) -> Result<Self, BinlogError> {
        let (file, position) = text.trim().rsplit_once(':').ok_or_else(|| BinlogError::Shape(clip(text)))?;
        let digits = position.bytes().all(|b| b.is_ascii_digit());
        match position.parse() {
            Ok(position) if digits => Self::new(file, position),
            Ok(_) | Err(_) => Err(BinlogError::Position(clip(position))),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> BinlogCoordinates {
        text.parse().unwrap()
    }

    #[test]
    fn files_are_ordered_by_number() {
        assert!(at("mysql-bin.999999:900") < at("mysql-bin.1000000:4"));
        assert!(at("mysql-bin.000009:4") < at("mysql-bin.000010:4"));
        assert!(at("mysql-bin.000009:4") < at("mysql-bin.000009:5"));
        assert!(at("b.99999999999999999999999999:4") < at("b.100000000000000000000000000:4"));
    }

    #[test]
    fn other_sequences_are_incomparable() {
        for (left, right) in [("a-bin.000001:4", "b-bin.000002:4"), ("a.01:4", "a.1:4"), ("a.01:4", "a.1:5")]
        {
            assert_eq!(at(left).partial_cmp(&at(right)), None, "{left} {right}");
        }
    }

    #[test]
    fn wrong_text_says_what_is_wrong() {
        for text in ["", "mysql-bin.000001", " \n"] {
            assert!(matches!(text.parse::<BinlogCoordinates>(), Err(BinlogError::Shape(_))), "{text:?}");
        }
        for text in [":4", "mysql-bin:4", ".000001:4", "b.:4", "b.1x:4", "../b.1:4", "b'.1:4", "b c.1:4"] {
            assert!(matches!(text.parse::<BinlogCoordinates>(), Err(BinlogError::File(_))), "{text:?}");
        }
        for text in ["b.1:", "b.1:+4", "b.1:-4", "b.1:18446744073709551616"] {
            assert!(matches!(text.parse::<BinlogCoordinates>(), Err(BinlogError::Position(_))), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn order_is_that_of_the_numbers(
            left in (prop_oneof![999_990u64..1_000_010, any::<u64>()], 0u64..4),
            right in (prop_oneof![999_990u64..1_000_010, any::<u64>()], 0u64..4),
        ) {
            // As servers name them: six digits, more where needed.
            let place = |(file, position)| BinlogCoordinates::new(format!("db.x-bin.{file:06}"), position).unwrap();
            prop_assert_eq!(place(left).partial_cmp(&place(right)), Some(left.cmp(&right)));
            prop_assert_eq!(place(left) == place(right), left == right);
        }

        #[test]
        fn text_and_json_round_trip(base in "[a-z][a-z0-9.:_-]{0,12}", number in 0u32.., position in any::<u64>()) {
            let place = BinlogCoordinates::new(format!("{base}.{number:06}"), position).unwrap();
            prop_assert_eq!(&at(&place.to_string()), &place);
            let json = serde_json::to_string(&place).unwrap();
            prop_assert_eq!(serde_json::from_str::<BinlogCoordinates>(&json).unwrap(), place);
        }

        #[test]
        fn parsing_never_panics(text in any::<String>()) {
            if let Ok(place) = text.parse::<BinlogCoordinates>() {
                prop_assert_eq!(at(&place.to_string()), place);
            }
        }
    }
}
