//! How a manager takes the lead of a cluster: rounds of ballots, each above every number that was heard, until a majority of the
//! voters obeys one.
//!
//! A store may be a copy: of a manager that runs elsewhere, or from before this one led last. Both would lead under one id, and a
//! voter would not tell one of them that the other has led ([`super::voter::Promises::rival`]). So a manager that finds its id on a
//! ballot that it never used takes a new id.

use super::voter::Led;
use crate::model::ballot::Ballot;
use crate::model::overtaken::LedBefore;

/// Rounds before a manager gives up for now.
pub const ROUNDS: u32 = 5;

/// One attempt to take the lead.
#[derive(Debug, Clone)]
pub struct Bid {
    /// The last ballot that was used, or the store's.
    ballot: Ballot,
    highest: u64,
    majority: usize,
    copied: bool,
}

impl Bid {
    /// `stored` is the ballot that the store holds.
    pub fn new(stored: Ballot, majority: usize) -> Self {
        let highest = stored.number;
        Self { ballot: stored, highest, majority, copied: false }
    }

    /// Whether the ballots so far show that another manager uses this one's id.
    pub fn needs_an_id(&self) -> bool {
        self.copied
    }

    /// From now on under this id.
    pub fn take_id(&mut self, id: String) {
        self.ballot.manager = id;
        self.copied = false;
    }

    /// The ballot of the next round. It must be durable before any voter is asked.
    pub fn next_ballot(&mut self) -> Ballot {
        self.highest += 1;
        self.ballot.number = self.highest;
        self.ballot.clone()
    }

    /// What the voters answered to the ballot of this round. Gives what they know of earlier leads, where a majority obeys this one; `None`
    /// where a higher ballot is needed.
    pub fn heard<'a>(&mut self, answers: impl IntoIterator<Item = &'a Led> + Clone) -> Option<LedBefore> {
        let accepted = answers.clone().into_iter().filter(|led| led.accepted).count();
        if self.majority > 0 && accepted >= self.majority {
            let recorded = answers.clone().into_iter().map(|led| led.recorded).max().unwrap_or_default();
            let rivals = answers.into_iter().map(|led| &led.rival);
            let rival = rivals.max_by_key(|rival| rival.number).cloned().unwrap_or_default();
            return Some(LedBefore { rival, recorded });
        }
        for led in answers.into_iter().filter(|led| !led.accepted) {
            self.highest = self.highest.max(led.ballot.number);
            self.copied |=
                led.ballot.manager == self.ballot.manager && led.ballot.number >= self.ballot.number;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::super::voter::{Promises, Voter};
    use super::*;
    use crate::model::overtaken::Recorded;
    use crate::model::time::Moment;

    fn ballot(number: u64, manager: &str) -> Ballot {
        Ballot { number, manager: manager.to_owned() }
    }

    fn voters() -> Vec<Voter> {
        (0..3).map(|_| Voter::restored(Promises::default(), Moment::ZERO)).collect()
    }

    /// Leads with what a store holds, asking the voters of `heard`; the ballot it leads with and the rival it is told.
    fn leads(voters: &mut [Voter], stored: Ballot, heard: [usize; 2]) -> (Ballot, Ballot) {
        let mut bid = Bid::new(stored, 2);
        for round in 0..ROUNDS {
            if bid.needs_an_id() {
                bid.take_id(format!("new{round}"));
            }
            let ballot = bid.next_ballot();
            let answers: Vec<Led> = heard.iter().map(|voter| voters[*voter].take_lead(&ballot).0).collect();
            if let Some(before) = bid.heard(&answers) {
                return (ballot, before.rival);
            }
        }
        panic!("nobody else bids")
    }

    #[test]
    fn one_store_leads_under_one_id_and_has_no_rival() {
        let mut voters = voters();
        assert_eq!(leads(&mut voters, ballot(0, "m"), [0, 1]), (ballot(1, "m"), Ballot::default()));
        assert_eq!(leads(&mut voters, ballot(1, "m"), [1, 2]), (ballot(2, "m"), Ballot::default()));
        // It was stored and never asked for.
        assert_eq!(leads(&mut voters, ballot(3, "m"), [0, 2]), (ballot(4, "m"), Ballot::default()));
        assert_eq!(leads(&mut voters, ballot(0, "n"), [0, 2]), (ballot(5, "n"), ballot(4, "m")));
        assert_eq!(leads(&mut voters, ballot(4, "m"), [0, 1]), (ballot(6, "m"), ballot(5, "n")));
    }

    #[test]
    fn of_two_managers_on_copies_of_a_store_the_second_is_told_of_the_first() {
        for heard in [[0, 1], [1, 2], [0, 2]] {
            // The copy asks for the very number that the other one leads with.
            let mut three = voters();
            leads(&mut three, ballot(4, "m"), [0, 1]);
            assert_eq!(leads(&mut three, ballot(4, "m"), heard), (ballot(6, "new1"), ballot(5, "m")));
            // The other one has led more often since.
            leads(&mut three, ballot(6, "m"), [0, 1]);
            let (led, rival) = leads(&mut three, ballot(4, "m"), heard);
            assert_eq!((led.number, rival), (8, ballot(7, "m")));
        }
    }

    /// A voter that was not asked by the other manager may accept at once, and does not count for a majority.
    #[test]
    fn a_majority_contains_one_that_knows_the_other_manager() {
        let mut three = voters();
        leads(&mut three, ballot(4, "m"), [0, 1]);
        leads(&mut three, ballot(5, "m"), [0, 1]);
        assert_eq!(leads(&mut three, ballot(4, "m"), [1, 2]), (ballot(7, "new1"), ballot(6, "m")));
    }

    #[test]
    fn a_majority_tells_of_the_newest_record_that_a_majority_was_told_of() {
        let newest = Recorded { ballot: 4, revision: 12 };
        for heard in [[0, 1], [1, 2], [0, 2]] {
            let mut three = voters();
            for told in [Recorded { ballot: 4, revision: 11 }, newest, Recorded { ballot: 3, revision: 90 }] {
                let _ = three[0].note_record(told);
                let _ = three[1].note_record(told);
            }
            let mut bid = Bid::new(ballot(4, "m"), 2);
            let asked = bid.next_ballot();
            let answers: Vec<Led> = heard.iter().map(|voter| three[*voter].take_lead(&asked).0).collect();
            assert_eq!(bid.heard(&answers).unwrap().recorded, newest);
        }
    }

    #[test]
    fn no_majority_of_nobody() {
        assert_eq!(Bid::new(ballot(1, "m"), 0).heard(&[]), None);
    }
}
