//! A host that was fenced for a planned change and hears nothing more: it claims for itself, above whoever was to follow, and opens only
//! if nobody led in between.

use std::collections::BTreeMap;

use super::Broken;
use super::world::{Event, Message, Order, Party, SECOND, World, cluster, instance};
use crate::decide::lease::holder::Input;
use crate::decide::lease::take_back::LeftAlone;
use crate::decide::lease::voter::{Claimed, Outstanding};
use crate::decide::plan::Proof;
use crate::model::ballot::{Ballot, Generation};

/// One such fence.
#[derive(Debug, Clone)]
pub(super) struct Block {
    host: usize,
    ballot: Ballot,
    blocked: LeftAlone,
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
            blocked: LeftAlone {
                led: generation,
                back: generation.next().next(),
                epoch: self.hosts[host].kept.epoch,
            },
            claim: None,
            accepted: BTreeMap::new(),
            opening: false,
            opened: false,
        });
        let due = self.t + self.dice.below(6 * SECOND);
        self.at(due, Event::TakeBack(self.blocks.len() - 1));
    }

    pub(super) fn take_back(&mut self, block: usize) {
        let Block { host, ballot, blocked, .. } = self.blocks[block].clone();
        if !blocked.stands(self.hosts[host].kept) {
            return;
        }
        let mut claim = blocked.claim(cluster(), ballot, instance(host));
        if self.broken == Broken::TakesBackBlindly {
            claim.proof = Proof::Expired;
        }
        self.claims.push(claim);
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
        let Block { host, blocked, .. } = self.blocks[block].clone();
        if blocked.stands(self.hosts[host].kept) {
            self.blocks[block].opening = true;
            self.feed(host, Input::Open { generation: blocked.back, epoch: blocked.epoch });
        }
    }

    /// Whoever led after the block may have acknowledged what this host lacks.
    pub(super) fn check_taken_back(&mut self, host: usize, generation: Generation) {
        let is_this = |block: &Block| block.host == host && block.blocked.back == generation && block.opening;
        let Some(block) = self.blocks.iter_mut().find(|block| is_this(block)) else { return };
        self.taken_back += usize::from(!std::mem::replace(&mut block.opened, true));
        let since =
            self.holders.range(block.blocked.led.next()..generation).find(|(_, other)| **other != host);
        if let Some((led, other)) = since {
            self.violation =
                Some(format!("db{host} takes itself back by {generation} after db{other} led {led}"));
        }
    }
}
