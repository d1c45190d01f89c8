//! GTID sets as MySQL writes them: `uuid:1-5:7:tag:1-3`, several UUIDs by comma. Tags are those of MySQL 8.3 and later.
//! Only reads and prints text: which variable of which server a text came from is the caller's business.

use std::collections::BTreeMap;
use std::fmt;

use super::error::{GtidError, GtidProblem};
use super::intervals::{Interval, Keyed};
use super::number;
use crate::model::instance::Flavor;

/// The highest transaction number MySQL gives out (`GNO_END - 1` in its source).
pub const MAX_NUMBER: u64 = i64::MAX as u64 - 1;

/// The longest tag, in characters.
const MAX_TAG: usize = 32;

/// Who numbers transactions: a server, and a tag within it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Origin {
    /// Big-endian, so that numeric order is the order of the printed text.
    uuid: u128,
    /// In lower case. No tag sorts first, as the server prints it.
    tag: Option<Box<str>>,
}

/// A set of MySQL transactions.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct MySqlSet(pub(super) Keyed<Origin>);

impl MySqlSet {
    /// Reads what the server prints, in any case and order. Of what it accepts but never prints, this refuses what looks
    /// like damage: an empty element, a UUID without hyphens or without numbers, an interval that runs backwards.
    pub fn parse(text: &str) -> Result<Self, GtidError> {
        let mut found = BTreeMap::new();
        if !text.trim().is_empty() {
            for part in text.split(',') {
                let at_part = |problem| GtidError::part(Flavor::MySql, part, problem);
                parse_source(part.trim(), &mut found).map_err(at_part)?;
            }
        }
        Ok(Self(Keyed::from_unsorted(found)))
    }

    /// What the server of that UUID wrote, under any tag; nothing where the text is no UUID.
    pub(super) fn written_by(&self, uuid: &str) -> Self {
        parse_uuid(uuid)
            .map_or_else(|_| Self::default(), |uuid| Self(self.0.under(|origin| origin.uuid == uuid)))
    }
}

/// One UUID with its intervals and tags.
fn parse_source(part: &str, found: &mut BTreeMap<Origin, Vec<Interval>>) -> Result<(), GtidProblem> {
    if part.is_empty() {
        return Err(GtidProblem::Empty);
    }
    let mut fields = part.split(':').map(str::trim);
    let uuid = parse_uuid(fields.next().unwrap_or_default())?;
    let mut tag = String::new();
    let mut intervals = Vec::new();
    for field in fields {
        if field.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
            // `uuid:tag:1` has nothing before its first tag; `uuid:tag:other:1` leaves a tag without numbers.
            if intervals.is_empty() && !tag.is_empty() {
                return Err(GtidProblem::NoInterval);
            }
            add(found, uuid, std::mem::take(&mut tag), std::mem::take(&mut intervals));
            tag = parse_tag(field)?;
        } else {
            intervals.push(parse_interval(field)?);
        }
    }
    if intervals.is_empty() {
        return Err(GtidProblem::NoInterval);
    }
    add(found, uuid, tag, intervals);
    Ok(())
}

fn add(found: &mut BTreeMap<Origin, Vec<Interval>>, uuid: u128, tag: String, mut intervals: Vec<Interval>) {
    let tag = Some(tag.into_boxed_str()).filter(|tag| !tag.is_empty());
    found.entry(Origin { uuid, tag }).or_default().append(&mut intervals);
}

/// 36 characters, hyphens in the places of a UUID, any case.
fn parse_uuid(text: &str) -> Result<u128, GtidProblem> {
    let hyphen_at = |index: usize| matches!(index, 8 | 13 | 18 | 23);
    if text.len() != 36 {
        return Err(GtidProblem::Uuid);
    }
    let mut uuid = 0u128;
    for (index, c) in text.char_indices() {
        match c.to_digit(16) {
            Some(digit) if !hyphen_at(index) => uuid = (uuid << 4) | u128::from(digit),
            None if hyphen_at(index) && c == '-' => {}
            Some(_) | None => return Err(GtidProblem::Uuid),
        }
    }
    Ok(uuid)
}

fn parse_tag(field: &str) -> Result<String, GtidProblem> {
    let plain = field.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if plain && field.len() <= MAX_TAG { Ok(field.to_ascii_lowercase()) } else { Err(GtidProblem::Tag) }
}

fn parse_interval(field: &str) -> Result<Interval, GtidProblem> {
    let (first, last) = field.split_once('-').unwrap_or((field, field));
    let bound = |text: &str| match number(text.trim()).ok_or(GtidProblem::Interval)? {
        n @ 1..=MAX_NUMBER => Ok(n),
        _ => Err(GtidProblem::Range { max: MAX_NUMBER }),
    };
    Interval::new(bound(first)?, bound(last)?).ok_or(GtidProblem::Backwards)
}

impl fmt::Display for MySqlSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = None;
        for (origin, set) in self.0.iter() {
            if shown != Some(origin.uuid) {
                f.write_str(if shown.is_some() { "," } else { "" })?;
                write_uuid(f, origin.uuid)?;
                shown = Some(origin.uuid);
            }
            if let Some(tag) = &origin.tag {
                write!(f, ":{tag}")?;
            }
            for part in set.as_slice() {
                write!(f, ":{}", part.first)?;
                if part.last > part.first {
                    write!(f, "-{}", part.last)?;
                }
            }
        }
        Ok(())
    }
}

fn write_uuid(f: &mut fmt::Formatter<'_>, uuid: u128) -> fmt::Result {
    let group = |shift: u32, bits: u32| (uuid >> shift) & ((1 << bits) - 1);
    let (a, b, c) = (group(96, 32), group(80, 16), group(64, 16));
    write!(f, "{a:08x}-{b:04x}-{c:04x}-{:04x}-{:012x}", group(48, 16), group(0, 48))
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";
    const B: &str = "00000000-0000-0000-0000-00000000000b";

    fn shown(text: &str) -> String {
        MySqlSet::parse(text).unwrap().to_string()
    }

    /// Expected values of this and the next test are what MySQL 9.7 answers to `GTID_SUBTRACT(text, '')`.
    #[test]
    fn what_servers_print_is_read() {
        assert_eq!(shown(" \n"), "");
        assert_eq!(shown(&format!("{A}:1-5:7")), format!("{A}:1-5:7"));
        assert_eq!(shown(&format!("{},\n{B}:7\n", A.to_uppercase() + ":1-5")), format!("{B}:7,{A}:1-5"));
        assert_eq!(shown(&format!("{A}:9:4-6:1-3:5-7, {A} : 8")), format!("{A}:1-9"));
        assert_eq!(shown(&format!("{A}:{MAX_NUMBER}")), format!("{A}:{MAX_NUMBER}"));
    }

    #[test]
    fn tags_number_on_their_own() {
        let tagged = format!("{A}:1-3:tag:4-6:tag2:1");
        assert_eq!(shown(&tagged), tagged);
        assert_eq!(shown(&format!("{A}:TAG:1:_b:2:tag:2")), format!("{A}:_b:2:tag:1-2"));
        assert_eq!(shown(&format!("{A}:zz:1:b_:1:a:1:_b:2,{A}:1")), format!("{A}:1:_b:2:a:1:b_:1:zz:1"));
        let (plain, tagged) = (MySqlSet::parse(&format!("{A}:1-9")), MySqlSet::parse(&format!("{A}:t:1-9")));
        let (plain, tagged) = (plain.unwrap(), tagged.unwrap());
        assert!(!plain.0.contains(&tagged.0) && !tagged.0.contains(&plain.0));
        assert_eq!(plain.0.union(&tagged.0).count(), 18);
    }

    #[test]
    fn wrong_text_says_what_is_wrong() {
        let long = format!("{A}:{}:1", "t".repeat(33));
        for (text, problem) in [
            (format!("{A}:1,"), GtidProblem::Empty),
            (format!("{A}:1,,{B}:1"), GtidProblem::Empty),
            ("0-1-100".to_owned(), GtidProblem::Uuid),
            (format!("{}:1", A.replace('-', "_")), GtidProblem::Uuid),
            (format!("{}g:1", &A[..35]), GtidProblem::Uuid),
            (A.to_owned(), GtidProblem::NoInterval),
            (format!("{A}:tag"), GtidProblem::NoInterval),
            (format!("{A}:1:tag:tag2:1"), GtidProblem::NoInterval),
            (format!("{A}:"), GtidProblem::Interval),
            (format!("{A}:1-2-3"), GtidProblem::Interval),
            (format!("{A}:+1"), GtidProblem::Interval),
            (format!("{A}:0-4"), GtidProblem::Range { max: MAX_NUMBER }),
            (format!("{A}:9223372036854775807"), GtidProblem::Range { max: MAX_NUMBER }),
            (format!("{A}:5-4"), GtidProblem::Backwards),
            (format!("{A}:t-g:1"), GtidProblem::Tag),
            (long, GtidProblem::Tag),
        ] {
            match MySqlSet::parse(&text) {
                Err(GtidError::Part { problem: found, .. }) => assert_eq!(found, problem, "{text}"),
                Err(GtidError::Flavors { .. }) | Ok(_) => panic!("{text} was taken"),
            }
        }
    }
}
