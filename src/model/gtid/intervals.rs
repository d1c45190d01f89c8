//! The interval algebra both GTID families share: sets of sequence numbers, and such sets under a key (a server UUID
//! with its tag, or a domain with a server). Every operation is one linear merge; none walks single transactions.

use std::cmp::Ordering;
use std::collections::BTreeMap;

/// Sequence numbers `first..=last`. Invariant: `1 <= first <= last`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Interval {
    pub(super) first: u64,
    pub(super) last: u64,
}

impl Interval {
    /// None where the bounds break the invariant.
    pub(super) const fn new(first: u64, last: u64) -> Option<Self> {
        if 1 <= first && first <= last { Some(Self { first, last }) } else { None }
    }
}

/// A set of sequence numbers. Invariant: sorted, disjoint and not adjacent, so that equal sets are equal values.
/// As no interval holds 0, the count of any set fits in 64 bits.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Intervals(Vec<Interval>);

impl Intervals {
    /// From intervals in any order that may overlap.
    pub(super) fn from_unsorted(mut parts: Vec<Interval>) -> Self {
        parts.sort_unstable_by_key(|part| part.first);
        let mut set = Self(Vec::with_capacity(parts.len()));
        for part in parts {
            set.append(part);
        }
        set
    }

    /// Adds an interval that begins no earlier than any already here.
    fn append(&mut self, next: Interval) {
        match self.0.last_mut() {
            Some(tail) if tail.last.saturating_add(1) >= next.first => tail.last = tail.last.max(next.last),
            Some(_) | None => self.0.push(next),
        }
    }

    pub(super) fn as_slice(&self) -> &[Interval] {
        &self.0
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn count(&self) -> u64 {
        self.0.iter().map(|part| part.last - part.first + 1).sum()
    }

    /// The highest number in the set.
    pub(super) fn newest(&self) -> Option<u64> {
        self.0.last().map(|part| part.last)
    }

    /// Whether every number of `other` is here.
    pub(super) fn contains(&self, other: &Self) -> bool {
        let mut ours = self.0.iter().peekable();
        // As ours are not adjacent, an interval of theirs is covered by one of ours or not at all.
        other.0.iter().all(|theirs| {
            while ours.next_if(|our| our.last < theirs.last).is_some() {}
            ours.peek().is_some_and(|our| our.first <= theirs.first)
        })
    }

    pub(super) fn union(&self, other: &Self) -> Self {
        let mut set = Self(Vec::with_capacity(self.0.len() + other.0.len()));
        let (mut left, mut right) = (self.0.iter().peekable(), other.0.iter().peekable());
        loop {
            let next = match (left.peek(), right.peek()) {
                (Some(l), Some(r)) if l.first <= r.first => left.next(),
                (Some(_), None) => left.next(),
                (Some(_) | None, Some(_)) => right.next(),
                (None, None) => return set,
            };
            if let Some(part) = next {
                set.append(*part);
            }
        }
    }

    pub(super) fn intersect(&self, other: &Self) -> Self {
        let mut set = Self::default();
        let (mut i, mut j) = (0, 0);
        while let (Some(l), Some(r)) = (self.0.get(i), other.0.get(j)) {
            if let Some(common) = Interval::new(l.first.max(r.first), l.last.min(r.last)) {
                set.append(common);
            }
            if l.last <= r.last { i += 1 } else { j += 1 }
        }
        set
    }

    pub(super) fn minus(&self, other: &Self) -> Self {
        let mut set = Self::default();
        let mut cuts = other.0.iter().peekable();
        for part in &self.0 {
            // None once nothing of this part is left.
            let mut rest = Some(*part);
            while cuts.next_if(|cut| cut.last < part.first).is_some() {}
            while let Some(left) = rest
                && let Some(cut) = cuts.peek()
                && cut.first <= part.last
            {
                if left.first < cut.first {
                    set.append(Interval { first: left.first, last: cut.first - 1 });
                }
                rest = cut.last.checked_add(1).and_then(|first| Interval::new(first, part.last));
                // A cut that reaches past this part may cut the next one too.
                if cut.last > part.last {
                    break;
                }
                cuts.next();
            }
            if let Some(left) = rest {
                set.append(left);
            }
        }
        set
    }
}

/// Interval sets in ascending order of their keys. Invariant: each key once and none with an empty set, so that equal sets are equal
/// values.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Keyed<K>(Vec<(K, Intervals)>);

impl<K> Default for Keyed<K> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<K: Ord + Clone> Keyed<K> {
    /// From intervals in any order that may overlap; a key may come with none.
    pub(super) fn from_unsorted(parts: BTreeMap<K, Vec<Interval>>) -> Self {
        let sets = parts.into_iter().map(|(key, parts)| (key, Intervals::from_unsorted(parts)));
        Self(sets.filter(|(_, set)| !set.is_empty()).collect())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, &Intervals)> {
        self.0.iter().map(|(key, set)| (key, set))
    }

    fn get(&self, key: &K) -> Option<&Intervals> {
        let found = self.0.binary_search_by(|(own, _)| own.cmp(key)).ok()?;
        self.0.get(found).map(|(_, set)| set)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many transactions there are, or `u64::MAX` where that is more than 64 bits hold.
    pub(super) fn count(&self) -> u64 {
        self.0.iter().map(|(_, set)| set.count()).fold(0, u64::saturating_add)
    }

    pub(super) fn contains(&self, other: &Self) -> bool {
        other.0.iter().all(|(key, theirs)| self.get(key).is_some_and(|ours| ours.contains(theirs)))
    }

    pub(super) fn union(&self, other: &Self) -> Self {
        let mut sets = Vec::with_capacity(self.0.len().max(other.0.len()));
        let (mut left, mut right) = (self.0.iter().peekable(), other.0.iter().peekable());
        while let (Some((key, ours)), Some((other, theirs))) = (left.peek().copied(), right.peek().copied()) {
            match key.cmp(other) {
                Ordering::Less => sets.extend(left.next().cloned()),
                Ordering::Greater => sets.extend(right.next().cloned()),
                Ordering::Equal => {
                    sets.push((key.clone(), ours.union(theirs)));
                    left.next();
                    right.next();
                }
            }
        }
        sets.extend(left.chain(right).cloned());
        Self(sets)
    }

    pub(super) fn minus(&self, other: &Self) -> Self {
        let rest = self.0.iter().map(|(key, ours)| {
            let left = other.get(key).map_or_else(|| ours.clone(), |theirs| ours.minus(theirs));
            (key.clone(), left)
        });
        Self(rest.filter(|(_, set)| !set.is_empty()).collect())
    }

    /// What is here under the keys that `other` has too.
    pub(super) fn under_keys_of(&self, other: &Self) -> Self {
        self.under(|key| other.get(key).is_some())
    }

    /// What is here under such keys.
    pub(super) fn under(&self, wanted: impl Fn(&K) -> bool) -> Self {
        Self(self.0.iter().filter(|(key, _)| wanted(key)).cloned().collect())
    }

    pub(super) fn intersect(&self, other: &Self) -> Self {
        let common = self.0.iter().filter_map(|(key, ours)| {
            let theirs = other.get(key)?;
            Some((key.clone(), ours.intersect(theirs)))
        });
        Self(common.filter(|(_, set)| !set.is_empty()).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn naive(parts: &[Interval]) -> HashSet<u64> {
        parts.iter().flat_map(|part| part.first..=part.last).collect()
    }

    fn assert_normal(set: &Intervals) {
        assert!(set.0.iter().all(|part| 1 <= part.first && part.first <= part.last), "{set:?}");
        assert!(set.0.windows(2).all(|pair| pair[0].last + 1 < pair[1].first), "{set:?}");
    }

    /// Small intervals close together, at the bottom, around 2^63 and at the very top of the range.
    fn parts() -> impl Strategy<Value = (Vec<Interval>, Vec<Interval>)> {
        let list = || prop::collection::vec((0u64..40, 0u64..8), 0..12);
        (prop::sample::select(vec![1, (1 << 63) - 20, u64::MAX - 46]), list(), list()).prop_map(
            |(base, left, right)| {
                let place = |list: Vec<(u64, u64)>| {
                    let spans = list.into_iter().map(|(at, len)| (base + at, base + at + len));
                    spans.map(|(first, last)| Interval { first, last }).collect()
                };
                (place(left), place(right))
            },
        )
    }

    proptest! {
        #[test]
        fn agrees_with_a_set_of_numbers((left, right) in parts()) {
            let (a, b) = (Intervals::from_unsorted(left.clone()), Intervals::from_unsorted(right.clone()));
            let (na, nb) = (naive(&left), naive(&right));
            for (set, expected) in [
                (a.clone(), na.clone()),
                (a.union(&b), &na | &nb),
                (a.intersect(&b), &na & &nb),
                (a.minus(&b), &na - &nb),
            ] {
                assert_normal(&set);
                prop_assert_eq!(naive(&set.0), expected.clone());
                prop_assert_eq!(set.count(), expected.len() as u64);
                prop_assert_eq!(set.newest(), expected.iter().copied().max());
                prop_assert_eq!(set.is_empty(), expected.is_empty());
            }
            prop_assert_eq!(a.contains(&b), na.is_superset(&nb));
            prop_assert!(a.union(&b).contains(&b));
            prop_assert_eq!(a == b, na == nb);
        }
    }

    #[test]
    fn the_whole_range_is_counted() {
        let whole = Intervals::from_unsorted(vec![Interval::new(1, u64::MAX).unwrap()]);
        assert_eq!(whole.count(), u64::MAX);
        assert!(whole.minus(&whole).is_empty());
        assert_eq!(whole.union(&whole), whole);
        let top = Intervals::from_unsorted(vec![Interval::new(u64::MAX, u64::MAX).unwrap()]);
        assert_eq!(whole.minus(&top).newest(), Some(u64::MAX - 1));
        assert_eq!(Interval::new(0, 3), None);
        assert_eq!(Interval::new(4, 3), None);
    }
}
