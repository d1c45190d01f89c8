//! GTID sets as MariaDB means them. A GTID `domain-server-sequence` in a position or state stands for *everything that
//! server wrote in that domain up to that sequence number*; sets are kept per (domain, server), never by sequence alone,
//! so an errant `0-2-3` and the true `0-1-3` are incomparable.
//!
//! What the text cannot say, this module does not know: the numbers of a domain are shared by its servers, so `0-2-120`
//! after `0-1-100` means 20 transactions, not 120, and where an errant `0-2-3` and a later true `0-2-120` are of the same
//! server, the second is taken to cover the first.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::error::{GtidError, GtidProblem};
use super::intervals::{Interval, Intervals, Keyed};
use super::number;
use crate::model::instance::Flavor;

/// Who numbers transactions: a server within a domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Origin {
    domain: u32,
    server: u32,
}

/// A set of MariaDB transactions.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct MariaDbSet(pub(super) Keyed<Origin>);

impl MariaDbSet {
    /// Reads a position or state as the server prints it (`0-1-100,0-2-120,1-5-7`), and the intervals that only
    /// [`Display`](fmt::Display) writes (`0-1-(51..100)`). Entries of one domain and server are joined.
    pub fn parse(text: &str) -> Result<Self, GtidError> {
        let mut found: BTreeMap<Origin, Vec<Interval>> = BTreeMap::new();
        if !text.trim().is_empty() {
            for part in text.split(',') {
                let at_part = |problem| GtidError::part(Flavor::MariaDb, part, problem);
                let (origin, interval) = parse_entry(part.trim()).map_err(at_part)?;
                found.entry(origin).or_default().extend(interval);
            }
        }
        Ok(Self(Keyed::from_unsorted(found)))
    }

    /// In each domain, the server and sequence number of the newest transaction: the highest number, whoever wrote it.
    /// Where histories have diverged and two servers wrote that number, the higher server id; such a set is nobody's position.
    pub fn newest_per_domain(&self) -> BTreeMap<u32, (u32, u64)> {
        let mut newest: BTreeMap<u32, (u32, u64)> = BTreeMap::new();
        for (origin, set) in self.0.iter() {
            let Some(sequence) = set.newest() else { continue };
            // Servers come in ascending order: the later one wins a tie.
            let entry = newest.entry(origin.domain).or_default();
            if sequence >= entry.1 {
                *entry = (origin.server, sequence);
            }
        }
        newest
    }

    /// What is not of those domains.
    pub(super) fn without_domains(&self, domains: &BTreeSet<u32>) -> Self {
        Self(self.0.under(|origin| !domains.contains(&origin.domain)))
    }

    /// The newest of each domain, with all that its server wrote there before.
    pub(super) fn newest_of_each(&self) -> Self {
        let newest = self.newest_per_domain().into_iter();
        let found: BTreeMap<Origin, Vec<Interval>> = newest
            .map(|(domain, (server, number))| {
                (Origin { domain, server }, Interval::new(1, number).into_iter().collect())
            })
            .collect();
        Self(Keyed::from_unsorted(found))
    }

    /// Whether it has the newest of each domain of `other`, and with that all before. A server that was made from a dump knows nothing of
    /// who wrote what the dump held: where it knows nothing at all of the one who wrote that newest, the number tells.
    pub(super) fn is_as_far_as(&self, other: &Self) -> bool {
        let ours = self.newest_per_domain();
        other.newest_per_domain().into_iter().all(|(domain, (server, number))| {
            let known = self.0.iter().find(|(origin, _)| **origin == Origin { domain, server });
            match known.and_then(|(_, set)| set.newest()) {
                Some(newest) => newest >= number,
                None => ours.get(&domain).is_some_and(|(_, newest)| *newest >= number),
            }
        })
    }

    /// What the server of that id wrote, in any domain.
    pub(super) fn written_by(&self, server: u32) -> Self {
        Self(self.0.under(|origin| origin.server == server))
    }

    /// The history of a server that stood at this position, between two looks at it. The numbers of a domain ascend whoever writes: what
    /// a server had written in the end was written by then unless its number is higher than the position's.
    pub(super) fn history_between(&self, before: &Self, after: &Self) -> Self {
        let position = self.newest_per_domain();
        let mut found: BTreeMap<Origin, Vec<Interval>> = BTreeMap::new();
        for (origin, set) in before.0.iter().chain(after.0.iter()).chain(self.0.iter()) {
            let limit = position.get(&origin.domain).map_or(0, |(_, sequence)| *sequence);
            let newest = set.newest().filter(|newest| *newest <= limit);
            if let Some(interval) = newest.and_then(|newest| Interval::new(1, newest)) {
                found.entry(*origin).or_default().push(interval);
            }
        }
        Self(Keyed::from_unsorted(found))
    }

    /// What `gtid_binlog_state` takes: the last of each domain and server, the newest of a domain at its end, for the server takes
    /// that one for the domain's last.
    pub fn state_text(&self) -> String {
        let last =
            |(Origin { domain, server }, set): (&Origin, &Intervals)| Some((*domain, set.newest()?, *server));
        let mut entries: Vec<(u32, u64, u32)> = self.0.iter().filter_map(last).collect();
        entries.sort_unstable();
        let texts = entries.iter().map(|(domain, sequence, server)| format!("{domain}-{server}-{sequence}"));
        texts.collect::<Vec<_>>().join(",")
    }

    /// One transaction alone, `domain-server-sequence`, without those before it.
    pub fn single(gtid: &str) -> Result<Self, GtidError> {
        let alone = match gtid.rsplit_once('-') {
            Some((origin, sequence)) => format!("{origin}-({sequence}..{sequence})"),
            None => gtid.to_owned(),
        };
        Self::parse(&alone)
    }

    /// The newest GTID of each domain: what `gtid_slave_pos` and `MASTER_GTID_WAIT` take. Empty for the empty set.
    pub fn position_text(&self) -> String {
        let gtids = self.newest_per_domain().into_iter();
        let gtids = gtids.map(|(domain, (server, sequence))| format!("{domain}-{server}-{sequence}"));
        gtids.collect::<Vec<_>>().join(",")
    }
}

/// `d-s-n` or `d-s-(first..last)`; no interval where `n` is 0, which is how a position before the first is written.
fn parse_entry(part: &str) -> Result<(Origin, Option<Interval>), GtidProblem> {
    if part.is_empty() {
        return Err(GtidProblem::Empty);
    }
    let mut fields = part.splitn(3, '-');
    let mut next = || fields.next().ok_or(GtidProblem::Triple);
    let (domain, server, sequence) = (next()?, next()?, next()?);
    let small = |text| {
        let id = number(text).ok_or(GtidProblem::Triple)?;
        u32::try_from(id).map_err(|_| GtidProblem::Id)
    };
    let origin = Origin { domain: small(domain)?, server: small(server)? };
    let interval = match sequence.strip_prefix('(') {
        None => Interval::new(1, number(sequence).ok_or(GtidProblem::Triple)?),
        Some(inner) => {
            let span = inner.strip_suffix(')').and_then(|span| span.split_once(".."));
            let (first, last) = span.ok_or(GtidProblem::Triple)?;
            let (first, last) = number(first).zip(number(last)).ok_or(GtidProblem::Triple)?;
            if first == 0 {
                return Err(GtidProblem::Range { max: u64::MAX });
            }
            Some(Interval::new(first, last).ok_or(GtidProblem::Backwards)?)
        }
    };
    Ok((origin, interval))
}

impl fmt::Display for MariaDbSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (Origin { domain, server }, set) in self.0.iter() {
            for Interval { first, last } in set.as_slice() {
                match first {
                    1 => write!(f, "{separator}{domain}-{server}-{last}")?,
                    _ => write!(f, "{separator}{domain}-{server}-({first}..{last})")?,
                }
                separator = ",";
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(text: &str) -> MariaDbSet {
        MariaDbSet::parse(text).unwrap()
    }

    #[test]
    fn a_state_is_read_and_printed() {
        assert_eq!(set("0-1-100,0-2-120,1-5-7").to_string(), "0-1-100,0-2-120,1-5-7");
        assert_eq!(set(" 1-5-7,\n0-2-120 , 0-1-90,0-1-100\n").to_string(), "0-1-100,0-2-120,1-5-7");
        assert_eq!(set("").to_string(), "");
        assert_eq!(set("0-1-0"), MariaDbSet::default());
        let widest = "4294967295-4294967295-18446744073709551615";
        assert_eq!(set(widest).to_string(), widest);
        assert_eq!(set(widest).0.count(), u64::MAX);
    }

    #[test]
    fn what_is_missing_is_printed_as_an_interval() {
        let missing = MariaDbSet(set("0-1-100,0-2-5").0.minus(&set("0-1-50,0-2-5").0));
        assert_eq!(missing.to_string(), "0-1-(51..100)");
        assert_eq!(set("0-1-(51..100)"), missing);
        assert_eq!(set("0-1-(51..100),0-1-50").to_string(), "0-1-100");
        assert_eq!(missing.position_text(), "0-1-100");
    }

    #[test]
    fn an_errant_gtid_of_the_same_number_is_incomparable() {
        let (errant, true_one) = (set("0-1-2,0-2-3"), set("0-1-3"));
        assert!(!errant.0.contains(&true_one.0) && !true_one.0.contains(&errant.0));
        assert_eq!(MariaDbSet(errant.0.minus(&true_one.0)).to_string(), "0-2-3");
    }

    #[test]
    fn the_position_is_the_newest_of_each_domain() {
        let state = set("0-1-100,0-2-120,0-3-90,1-5-7");
        assert_eq!(state.newest_per_domain(), BTreeMap::from([(0, (2, 120)), (1, (5, 7))]));
        assert_eq!(state.position_text(), "0-2-120,1-5-7");
        assert_eq!(set("0-1-3,0-2-3").position_text(), "0-2-3");
        assert_eq!(set("").position_text(), "");
    }

    #[test]
    fn wrong_text_says_what_is_wrong() {
        for (text, problem) in [
            ("0-1-1,", GtidProblem::Empty),
            ("0-1", GtidProblem::Triple),
            ("0-1-1-1", GtidProblem::Triple),
            ("-1-1-1", GtidProblem::Triple),
            ("0-1-+1", GtidProblem::Triple),
            ("0-1-(1..2", GtidProblem::Triple),
            ("0-1-(1-2)", GtidProblem::Triple),
            ("3e11fa47-71ca-11e1-9e33-c80aa9429562:1-5", GtidProblem::Triple),
            ("4294967296-1-1", GtidProblem::Id),
            ("0-4294967296-1", GtidProblem::Id),
            ("0-1-18446744073709551616", GtidProblem::Triple),
            ("0-1-(0..2)", GtidProblem::Range { max: u64::MAX }),
            ("0-1-(3..2)", GtidProblem::Backwards),
        ] {
            match MariaDbSet::parse(text) {
                Err(GtidError::Part { problem: found, .. }) => assert_eq!(found, problem, "{text}"),
                Err(GtidError::Flavors { .. }) | Ok(_) => panic!("{text} was taken"),
            }
        }
    }
}
