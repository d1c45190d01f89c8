//! What becomes of a message that arrived.

use super::Broken;
use super::world::{Message, Order, Party, World, cluster, instance};
use crate::decide::lease::holder::Input;
use crate::decide::lease::voter::Renew;
use crate::model::ballot::Ballot;

impl World {
    pub(super) fn deliver(&mut self, from: Party, to: Party, what: Message) {
        match (what, to) {
            (Message::Renew { round }, Party::Host(voter)) => self.on_renew(from, voter, round),
            (Message::Renewed { round, reply }, Party::Host(host)) => {
                self.on_renewed(from, host, round, reply)
            }
            (Message::Lead { ballot }, Party::Host(voter)) => {
                let (led, _) = self.hosts[voter].voter.lead(&self.ballots[ballot].clone());
                self.sync(voter);
                self.led.push(led);
                self.send(to, from, Message::Led { reply: self.led.len() - 1 });
            }
            (Message::Claim { claim }, Party::Host(voter)) => {
                let now = self.hosts[voter].clock.read(self.t);
                let (answer, _) = self.hosts[voter].voter.claim(&self.claims[claim].clone(), now);
                self.sync(voter);
                self.claimed.push(answer);
                self.send(to, from, Message::Claimed { claim, reply: self.claimed.len() - 1 });
            }
            (Message::Ask, Party::Host(voter)) => {
                let (led, _) = self.hosts[voter].voter.lead(&Ballot::default());
                self.led.push(led);
                self.send(to, from, Message::Told { reply: self.led.len() - 1 });
            }
            (Message::Told { reply }, Party::Host(host)) => self.on_told(from, host, reply),
            (Message::Fence { order }, Party::Host(host)) => self.on_fence(from, host, order),
            (Message::AskEpoch { order }, Party::Host(host)) => {
                let epoch = self.hosts[host].kept.epoch;
                self.send(to, from, Message::Epoch { order, epoch });
            }
            (Message::Open { order, epoch }, Party::Host(host)) => self.on_open(host, order, epoch),
            (Message::Led { reply }, Party::Manager(manager)) => self.on_led(from, manager, reply),
            (Message::Claimed { claim, reply }, Party::Manager(manager)) => {
                self.on_claimed(from, manager, claim, reply);
            }
            (Message::Claimed { claim, reply }, Party::Host(host)) => {
                self.on_claimed_back(from, host, claim, reply);
            }
            (Message::Fenced { order, ok }, Party::Manager(manager)) => self.on_fenced(manager, order, ok),
            (Message::Epoch { epoch, order }, Party::Manager(manager)) => {
                if self.managers[manager].asked == Some(order) {
                    self.managers[manager].epoch = Some(epoch);
                }
            }
            (what, to) => unreachable!("{what:?} to {to:?}"),
        }
    }

    pub(super) fn on_renew(&mut self, from: Party, voter: usize, round: usize) {
        let (generation, _, lasts) = self.rounds[round];
        let holder = instance(self.index(from));
        let now = self.hosts[voter].clock.read(self.t);
        let ask = Renew { cluster: cluster(), holder, generation, lasts };
        let (answer, _) = self.hosts[voter].voter.renew(&ask, now);
        self.sync(voter);
        self.renewed.push(answer);
        let reply = self.renewed.len() - 1;
        self.send(Party::Host(voter), from, Message::Renewed { round, reply });
    }

    pub(super) fn on_renewed(&mut self, from: Party, host: usize, round: usize, reply: usize) {
        let (generation, mut sent_at, _) = self.rounds[round];
        if self.broken == Broken::FromAnswer {
            sent_at = self.hosts[host].clock.read(self.t);
        }
        let (from, answer) = (format!("db{}", self.index(from)), self.renewed[reply].clone());
        self.feed(host, Input::Answer { from, generation, sent_at, answer });
    }

    pub(super) fn on_fence(&mut self, from: Party, host: usize, order: usize) {
        let Order { ballot, generation, .. } = self.orders[order].clone();
        let obeyed = self.hosts[host].voter.obeys(&ballot) && {
            let _ = self.hosts[host].voter.lead(&ballot);
            self.sync(host);
            let now = self.hosts[host].clock.read(self.t);
            let holder = self.hosts[host].holder.as_mut().expect("only members are fenced");
            match holder.handle(Input::Fence { generation }, now) {
                Ok(effects) => {
                    self.carry_out(host, effects);
                    // Read back before it is answered, also where the lease had run out a moment ago.
                    self.hosts[host].passes_until = self.hosts[host].passes_until.min(self.t);
                    self.blocked(host, order);
                    true
                }
                Err(_) => false,
            }
        };
        self.send(Party::Host(host), from, Message::Fenced { order, ok: obeyed });
    }

    pub(super) fn on_open(&mut self, host: usize, order: usize, epoch: u64) {
        let Order { ballot, generation, .. } = self.orders[order].clone();
        if !self.hosts[host].voter.obeys(&ballot) {
            return;
        }
        let epoch = if self.broken == Broken::NoEpoch { self.hosts[host].kept.epoch } else { epoch };
        self.feed(host, Input::Open { generation, epoch });
    }
}
