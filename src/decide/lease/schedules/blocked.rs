//! A host that was fenced for a planned change and hears nothing more: it claims for itself, above whoever was to follow, and opens only
//! if nobody led in between.

use std::collections::BTreeMap;

use super::Broken;
use super::world::{Event, Message, Order, Party, SECOND, World, cluster, instance};
use crate::decide::lease::holder::{Input, Role};
use crate::decide::lease::voter::{Claim, Claimed, Outstanding};
use crate::decide::plan::Proof;
use crate::model::ballot::{Ballot, Generation};

/// One such fence.
#[derive(Debug, Clone)]
pub(super) struct Block {
    host: usize,
    ballot: Ballot,
    /// What the host had led at most when it was blocked.
    from: Generation,
    /// Above the one the manager claims for the other.
    back: Generation,
    epoch: u64,
    claim: Option<usize>,
    accepted: BTreeMap<usize, Vec<Outstanding>>,
    /// It was told to open by this, and did.
    opening: bool,
    opened: bool,
}

impl World {
    pub(super) fn blocked(&mut self, host: usize, order: usize) {
        let Order { ballot, generation, .. } = self.orders[order].clone();
        if !self.dice.one_in(3) {
            return;
        }
        self.blocks.push(Block {
            host,
            ballot,
            from: generation,
            back: generation.next().next(),
            epoch: self.hosts[host].kept.epoch,
            claim: None,
            accepted: BTreeMap::new(),
            opening: false,
            opened: false,
        });
        let due = self.t + self.dice.below(6 * SECOND);
        self.at(due, Event::TakeBack(self.blocks.len() - 1));
    }

    /// Nobody has told it anything since.
    fn stands(&self, block: &Block) -> bool {
        let kept = self.hosts[block.host].kept;
        kept.epoch == block.epoch && matches!(kept.role, Role::Fenced { .. })
    }

    pub(super) fn take_back(&mut self, block: usize) {
        let Block { host, ballot, back, .. } = self.blocks[block].clone();
        if !self.stands(&self.blocks[block]) {
            return;
        }
        let proof = if self.broken == Broken::TakesBackBlindly { Proof::Expired } else { Proof::TakenBack };
        self.claims.push(Claim {
            cluster: cluster(),
            ballot,
            generation: back,
            candidate: instance(host),
            proof,
            released: Vec::new(),
        });
        let claim = self.claims.len() - 1;
        self.blocks[block].claim = Some(claim);
        self.blocks[block].accepted.clear();
        for voter in 0..self.hosts.len() {
            self.send(Party::Host(host), Party::Host(voter), Message::Claim { claim });
        }
        let again = self.t + SECOND;
        self.at(again, Event::TakeBack(block));
    }

    pub(super) fn on_claimed_back(&mut self, from: Party, host: usize, claim: usize, reply: usize) {
        let voter = self.index(from);
        let Some(block) = self.blocks.iter().position(|block| block.claim == Some(claim)) else { return };
        let Claimed::Accepted { outstanding } = self.claimed[reply].clone() else { return };
        self.blocks[block].accepted.insert(voter, outstanding);
        if self.blocks[block].accepted.len() == self.terms.majority {
            let wait = self.terms.wait_after_claim(self.blocks[block].accepted.values().flatten());
            let clock = self.hosts[host].clock;
            let due = clock.shows(clock.read(self.t) + wait);
            self.at(due, Event::TakenBack(block));
        }
    }

    pub(super) fn taken_back(&mut self, block: usize) {
        let Block { host, back, epoch, .. } = self.blocks[block].clone();
        if self.stands(&self.blocks[block]) {
            self.blocks[block].opening = true;
            self.feed(host, Input::Open { generation: back, epoch });
        }
    }

    /// Whoever led after the block may have acknowledged what this host lacks.
    pub(super) fn check_taken_back(&mut self, host: usize, generation: Generation) {
        let is_this = |block: &&Block| block.host == host && block.back == generation && block.opening;
        let Some(block) = self.blocks.iter_mut().find(|block| is_this(&&**block)) else { return };
        self.taken_back += usize::from(!std::mem::replace(&mut block.opened, true));
        let since = self.holders.range(block.from.next()..generation).find(|(_, other)| **other != host);
        if let Some((led, other)) = since {
            self.violation =
                Some(format!("db{host} takes itself back by {generation} after db{other} led {led}"));
        }
    }
}
