//! How a voter that knows of no generation comes to vote. It may be new, or have lost its promises with its disk; nobody can
//! tell the two apart, so both do the same: wait until no grant it may have given can be outstanding, then learn from the other
//! voters what was accepted. Until then it grants nothing and accepts no claim but an operator's.
//!
//! Why the others know: what a majority accepted, this voter among it, at least one of them accepted too, and as many are
//! asked as every majority must meet. Answers count only after the wait, when no claim it took part in is on its way any more.

use std::collections::BTreeMap;
use std::time::Duration;

use super::voter::{Led, Promises};
use super::{LONGEST_GRANT, Terms};
use crate::model::ballot::Generation;
use crate::model::time::Moment;

/// What was learned so far.
#[derive(Debug, Clone)]
pub struct Relearn {
    others: Vec<String>,
    needed: usize,
    not_before: Moment,
    heard: BTreeMap<String, Led>,
}

impl Relearn {
    /// For a voter of `terms` that has known nothing since `since`.
    pub fn new(terms: &Terms, since: Moment) -> Self {
        let others: Vec<String> = terms.voters.iter().filter(|voter| **voter != terms.me).cloned().collect();
        // One that does not vote yet took part in nothing: it asks a whole majority.
        let votes = others.len() < terms.voters.len();
        let needed = if votes { terms.majority.min(others.len()) } else { terms.majority };
        Self { others, needed, not_before: since + terms.forgotten_for(), heard: BTreeMap::new() }
    }

    /// From when on answers count.
    pub fn not_before(&self) -> Moment {
        self.not_before
    }

    /// Another voter's answer. One that knows of no generation either teaches nothing.
    pub fn heard(&mut self, from: &str, led: Led, now: Moment) {
        if now >= self.not_before
            && led.generation > Generation::default()
            && self.others.iter().any(|other| other == from)
        {
            self.heard.insert(from.to_owned(), led);
        }
    }

    /// What this voter promises from now on; `None` while too few were heard.
    pub fn learned(&self) -> Option<Promises> {
        let last = self.heard.values().max_by_key(|led| led.generation)?;
        let ballot = self.heard.values().map(|led| &led.ballot).max_by_key(|ballot| ballot.number)?;
        let rival = self.heard.values().map(|led| &led.rival).max_by_key(|rival| rival.number)?;
        (self.needed > 0 && self.heard.len() >= self.needed).then(|| Promises {
            ballot: ballot.clone(),
            rival: rival.clone(),
            recorded: self.heard.values().map(|led| led.recorded).max().unwrap_or_default(),
            generation: last.generation,
            holder: last.holder.clone(),
            may_hold: last.holder.iter().cloned().collect(),
            lasts: Duration::ZERO,
        })
    }
}

impl Terms {
    /// How long a grant may be outstanding that nobody remembers having given.
    fn forgotten_for(&self) -> Duration {
        LONGEST_GRANT + LONGEST_GRANT * self.clock_error_permille / 1_000 + self.fence_within
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ballot::Ballot;
    use crate::model::instance::InstanceId;
    use crate::model::overtaken::Recorded;
    use crate::model::policy::Policy;

    fn led(generation: u64, number: u64) -> Led {
        Led {
            rival: Ballot::default(),
            recorded: Recorded { ballot: number, revision: generation },
            accepted: false,
            ballot: Ballot { number, manager: "m".to_owned() },
            generation: Generation(generation),
            holder: Some(InstanceId::new(format!("db{generation}"), 3306)),
        }
    }

    #[test]
    fn the_highest_of_enough_others_heard_after_the_wait() {
        let voters = ["db1", "db2", "db3", "w1", "w2"].map(str::to_owned).to_vec();
        let terms = Terms::new("db1", voters, &Policy::default());
        let since = Moment::from_micros(1_000_000);
        let mut relearn = Relearn::new(&terms, since);
        let late = relearn.not_before();
        assert!(late >= since + LONGEST_GRANT);
        for other in ["db2", "db3", "w1"] {
            relearn.heard(other, led(9, 9), since);
        }
        relearn.heard("db1", led(9, 9), late);
        relearn.heard("stranger", led(9, 9), late);
        relearn.heard("w2", led(0, 9), late);
        assert_eq!(relearn.learned(), None, "too early, itself, no voter, and one that knows nothing");
        relearn.heard("db2", led(3, 7), late);
        relearn.heard("db3", led(4, 5), late);
        assert_eq!(relearn.learned(), None);
        relearn.heard("w1", led(2, 6), late);
        let learned = relearn.learned().unwrap();
        assert_eq!((learned.generation, learned.ballot.number), (Generation(4), 7));
        assert_eq!(learned.recorded, Recorded { ballot: 7, revision: 3 });
        assert_eq!(learned.holder, Some(InstanceId::new("db4", 3306)));
    }

    #[test]
    fn a_lone_voter_is_taught_by_nobody() {
        let terms = Terms::new("db1", vec!["db1".to_owned()], &Policy::default());
        assert_eq!(Relearn::new(&terms, Moment::from_micros(1)).learned(), None);
    }
}
