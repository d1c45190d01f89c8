//! The managers: they lead, fence, claim, wait and open, each as if it were the only one.

use std::time::Duration;

use super::Broken;
use super::world::{Event, MEMBERS, ManagerState, Message, Order, Party, SECOND, World, cluster, instance};
use crate::decide::lease::voter::{Claim, Claimed};
use crate::decide::plan::Proof;
use crate::model::ballot::{Ballot, Generation};

impl World {
    /// Begins anew: leads under a higher ballot, and wants some member as primary.
    pub(super) fn act(&mut self, manager: usize) {
        let again = self.t + SECOND + self.dice.below(12 * SECOND);
        self.at(again, Event::Act(manager));
        let seen = self.managers.iter().map(|other| other.number).max().unwrap_or(0);
        // Sometimes it does not know of the other's number.
        let base = if self.dice.one_in(3) { self.managers[manager].number } else { seen };
        let candidate = self.dice.below(MEMBERS as u64) as usize;
        self.managers[manager] = ManagerState { number: base + 1, candidate, ..ManagerState::default() };
        self.ballots.push(Ballot { number: base + 1, manager: format!("m{manager}") });
        let ballot = self.ballots.len() - 1;
        for host in 0..self.hosts.len() {
            self.send(Party::Manager(manager), Party::Host(host), Message::Lead { ballot });
        }
    }

    pub(super) fn ballot(&self, manager: usize) -> Ballot {
        Ballot { number: self.managers[manager].number, manager: format!("m{manager}") }
    }

    pub(super) fn on_led(&mut self, from: Party, manager: usize, reply: usize) {
        let (led, voter) = (self.led[reply].clone(), self.index(from));
        let ballot = self.ballot(manager);
        if !led.accepted || led.ballot != ballot || self.managers[manager].claim.is_some() {
            return;
        }
        self.managers[manager].leads.insert(voter, led);
        if self.managers[manager].leads.len() != self.terms.majority {
            return;
        }
        let known = self.managers[manager].leads.values().max_by_key(|led| led.generation);
        let (generation, holder) = known.map(|led| (led.generation, led.holder.clone())).unwrap_or_default();
        let candidate = self.managers[manager].candidate;
        self.orders.push(Order { ballot: ballot.clone(), generation, target: candidate });
        let order = self.orders.len() - 1;
        self.managers[manager].asked = Some(order);
        self.send(Party::Manager(manager), Party::Host(candidate), Message::AskEpoch { order });
        let old = (0..MEMBERS).find(|host| Some(instance(*host)) == holder && *host != candidate);
        match old {
            Some(old) if !self.dice.one_in(3) => {
                self.orders.push(Order { ballot, generation, target: old });
                let order = self.orders.len() - 1;
                self.send(Party::Manager(manager), Party::Host(old), Message::Fence { order });
            }
            Some(_) | None => self.claim(manager, generation.next(), Proof::Expired),
        }
    }

    pub(super) fn on_fenced(&mut self, manager: usize, order: usize, ok: bool) {
        let Order { ballot, generation, target } = self.orders[order].clone();
        if ok && ballot == self.ballot(manager) && self.managers[manager].claim.is_none() {
            self.managers[manager].fenced.push(instance(target));
            if self.broken == Broken::LiftsAll {
                self.managers[manager].fenced = (0..MEMBERS).map(instance).collect();
            }
            self.claim(manager, generation.next(), Proof::Fenced);
        }
    }

    pub(super) fn claim(&mut self, manager: usize, generation: Generation, proof: Proof) {
        self.claims.push(Claim {
            cluster: cluster(),
            ballot: self.ballot(manager),
            generation,
            candidate: instance(self.managers[manager].candidate),
            proof,
            released: self.managers[manager].fenced.clone(),
        });
        let claim = self.claims.len() - 1;
        self.managers[manager].claim = Some(claim);
        for host in 0..self.hosts.len() {
            self.send(Party::Manager(manager), Party::Host(host), Message::Claim { claim });
        }
    }

    pub(super) fn on_claimed(&mut self, from: Party, manager: usize, claim: usize, reply: usize) {
        let voter = self.index(from);
        if self.managers[manager].claim != Some(claim) {
            return;
        }
        let outstanding = match self.claimed[reply].clone() {
            Claimed::Accepted { outstanding } => outstanding,
            Claimed::HeldBack { remaining, .. } => {
                let again = self.manager_clock.shows(self.manager_clock.read(self.t) + remaining);
                return self.at(again, Event::ClaimAgain { manager, voter, claim });
            }
            Claimed::OlderBallot { .. }
            | Claimed::Superseded { .. }
            | Claimed::Taken { .. }
            | Claimed::MayHaveLed { .. }
            | Claimed::NoVote => return,
        };
        self.managers[manager].accepted.insert(voter, outstanding);
        if self.managers[manager].accepted.len() != self.terms.majority {
            return;
        }
        let mut wait = self.terms.wait_after_claim(self.managers[manager].accepted.values().flatten());
        if self.broken == Broken::NoWait {
            wait = Duration::ZERO;
        }
        let due = self.manager_clock.shows(self.manager_clock.read(self.t) + wait);
        self.orders.push(Order {
            ballot: self.ballot(manager),
            generation: self.claims[claim].generation,
            target: self.managers[manager].candidate,
        });
        let order = self.orders.len() - 1;
        if self.dice.one_in(6) {
            // Given up before the old grants have ended: what is fenced now is not whom they entitle.
            return self.give_up(manager, order);
        }
        self.at(due, Event::Opens { manager, order });
    }

    pub(super) fn open(&mut self, manager: usize, order: usize) {
        let target = self.orders[order].target;
        // The epoch it knows is the one it asked for with its present claim.
        let claimed = self.managers[manager].claim.map(|claim| self.claims[claim].generation);
        if self.orders[order].ballot != self.ballot(manager) || claimed != Some(self.orders[order].generation)
        {
            return;
        }
        if let Some(epoch) = self.managers[manager].epoch {
            // Sent twice, as a manager does that had no answer: one of them may come late.
            for _ in 0..2 {
                self.send(Party::Manager(manager), Party::Host(target), Message::Open { order, epoch });
            }
        }
        // And sometimes the promotion is taken back at once.
        if self.dice.one_in(2) {
            self.give_up(manager, order);
        }
    }

    /// The same server is fenced, another one claimed for.
    fn give_up(&mut self, manager: usize, order: usize) {
        let target = self.orders[order].target;
        let other = (target + 1) % MEMBERS;
        let state = &mut self.managers[manager];
        (state.claim, state.candidate, state.epoch) = (None, other, None);
        state.accepted.clear();
        state.fenced.clear();
        let order = self.orders[order].clone();
        self.orders.push(Order { target: other, ..order.clone() });
        let ask = self.orders.len() - 1;
        self.managers[manager].asked = Some(ask);
        self.orders.push(order);
        let fence = self.orders.len() - 1;
        self.send(Party::Manager(manager), Party::Host(other), Message::AskEpoch { order: ask });
        self.send(Party::Manager(manager), Party::Host(target), Message::Fence { order: fence });
    }
}
