//! One host: the shipped voter and holder, what of them is durable, the kernel, and the renewals on their way.

use std::collections::BTreeSet;

use mha::decide::lease::Terms;
use mha::decide::lease::holder::{Effect, Holder, Input, Kept, Start};
use mha::decide::lease::refusal::Refusal;
use mha::decide::lease::voter::{Persist, Promises, Renew, Renewed, Voter};
use mha::model::ballot::Generation;
use mha::model::time::Moment;

use super::world::{LEASE, World, cluster, host_name, instance, terms};

/// A renewal: for which generation, and when it was sent by its sender's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Ask {
    pub(crate) generation: Generation,
    pub(crate) sent_at: Moment,
}

#[derive(Debug, Clone, PartialEq, Hash)]
pub(crate) struct Host {
    pub(crate) voter: Voter,
    /// The voter's file.
    pub(crate) disk: Promises,
    /// The highest ballot number and generation that an answer of this host has promised.
    pub(crate) told: (u64, Generation),
    pub(crate) holder: Option<Holder>,
    /// The holder's file.
    pub(crate) kept: Kept,
    pub(crate) server_up: bool,
    /// By the agent's file of this boot: until when the kernel lets clients pass.
    pub(crate) run_until: Option<Moment>,
    /// The true time at which the last byte passes.
    pub(crate) passes_until: u8,
    /// The incarnation whose set is to be compared.
    pub(crate) comparing: Option<u64>,
    /// By voter: a renewal on its way. It arrives before time passes, or is lost; so is its answer.
    pub(crate) asked: Vec<Option<Ask>>,
    /// With their voters: copies that arrive at any later time, or never.
    pub(crate) late_asks: BTreeSet<(usize, Ask)>,
    pub(crate) late_answers: Vec<(usize, Ask, Renewed)>,
}

impl Host {
    pub(crate) fn adopted(terms: Terms, promises: Promises, kept: Option<Kept>, now: Moment) -> Self {
        let voters = terms.voters.len();
        let start = Start { same_boot: true, until: None, server_up: true, same_server: true };
        Self {
            told: (promises.ballot.number, promises.generation),
            disk: promises.clone(),
            voter: Voter::restored(promises, now),
            holder: kept.map(|kept| Holder::restored(terms, kept, start, now).0),
            kept: kept.unwrap_or_default(),
            server_up: true,
            run_until: None,
            passes_until: 0,
            comparing: None,
            asked: vec![None; voters],
            late_asks: BTreeSet::new(),
            late_answers: Vec::new(),
        }
    }

    /// The voter answered: what it promised is written first where it says so.
    pub(crate) fn answered<T>(&mut self, (answer, persist): (T, Persist)) -> T {
        match persist {
            Persist::First => self.disk = self.voter.promises().clone(),
            Persist::Unchanged => {}
        }
        let promises = self.voter.promises();
        self.told.0 = self.told.0.max(promises.ballot.number);
        self.told.1 = self.told.1.max(promises.generation);
        answer
    }

    pub(crate) fn forgot(&self) -> bool {
        let promises = self.voter.promises();
        promises.ballot.number < self.told.0 || promises.generation < self.told.1
    }
}

impl World {
    /// Gives the holder what happened, and does what it says.
    pub(crate) fn feed(&mut self, host: usize, input: Input) -> Option<Refusal> {
        let now = self.now(host);
        let handled = self.change(host, |host| host.holder.as_mut().map(|holder| holder.handle(input, now)));
        match handled {
            Some(Ok(effects)) => {
                self.carry_out(host, effects);
                None
            }
            Some(Err(refusal)) => Some(refusal),
            None => None,
        }
    }

    fn carry_out(&mut self, host: usize, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Persist => self.change(host, |host| {
                    host.kept = host.holder.as_ref().map_or(host.kept, Holder::kept);
                }),
                Effect::SendRenew { generation, lasts } => {
                    assert_eq!(lasts, LEASE);
                    let ask = Ask { generation, sent_at: self.now(host) };
                    self.change(host, |host| host.asked.fill(Some(ask)));
                }
                Effect::Close => self.close(host),
                Effect::HoldOpen { until } => {
                    let role = self.host(host).holder.as_ref().map(Holder::role);
                    if let Some(generation) = role.and_then(|role| role.generation()) {
                        self.let_in(host, generation, until);
                    }
                }
                Effect::AskCompare { incarnation } => {
                    self.change(host, |host| host.comparing = Some(incarnation));
                }
                Effect::Admit | Effect::HoldVip { .. } | Effect::ReleaseVip | Effect::Resume => {}
            }
        }
    }

    /// An order to close is read back. Where the lease has run out already, the kernel's own timer may be as late as f allows.
    fn close(&mut self, host: usize) {
        let (now, t) = (self.now(host), self.t);
        self.change(host, |host| {
            if host.run_until.is_some_and(|until| until > now) {
                host.passes_until = host.passes_until.min(t);
            }
            host.run_until = None;
        });
    }

    /// The renewal on its way to a voter arrives, and its answer too, or not.
    pub(crate) fn renewal_arrives(&mut self, from: usize, voter: usize, answered: bool) {
        let Some(ask) = self.change(from, |host| host.asked[voter].take()) else { return };
        let answer = self.grant(from, voter, ask);
        if answered {
            self.answer_arrives(from, voter, ask, answer);
        }
    }

    /// What has not arrived is lost, but for the late copies.
    pub(crate) fn time_passes(&mut self) {
        self.t += 1;
        for host in 0..self.hosts.len() {
            if self.host(host).asked.iter().any(Option::is_some) {
                self.change(host, |host| host.asked.fill(None));
            }
        }
    }

    /// A voter's answer to a renewal.
    pub(crate) fn grant(&mut self, from: usize, voter: usize, ask: Ask) -> Renewed {
        let renew =
            Renew { cluster: cluster(), holder: instance(from), generation: ask.generation, lasts: LEASE };
        let now = self.now(voter);
        self.change(voter, |host| {
            let answer = host.voter.renew(&renew, now);
            host.answered(answer)
        })
    }

    pub(crate) fn answer_arrives(&mut self, host: usize, voter: usize, ask: Ask, answer: Renewed) {
        let Ask { generation, sent_at } = ask;
        self.feed(host, Input::Answer { from: host_name(voter), generation, sent_at, answer });
    }

    /// The agent's process begins anew. After a power cut the kernel's state is gone too, and no server runs.
    pub(crate) fn restart_agent(&mut self, host: usize, power_cut: bool, same_server: bool) {
        let (now, t) = (self.now(host), self.t);
        let terms = terms(host, self.hosts.len());
        let effects = self.change(host, |host| {
            host.voter = Voter::restored(host.disk.clone(), now);
            if power_cut {
                host.passes_until = host.passes_until.min(t);
                (host.server_up, host.run_until) = (false, None);
            }
            host.comparing = None;
            host.late_answers.clear();
            let until = host.run_until;
            let start = Start {
                same_boot: !power_cut,
                until,
                server_up: host.server_up,
                same_server: same_server && host.server_up,
            };
            let restored = host.holder.is_some().then(|| Holder::restored(terms, host.kept, start, now));
            let (holder, effects) =
                restored.map_or((None, Vec::new()), |(holder, effects)| (Some(holder), effects));
            host.holder = holder;
            effects
        });
        self.carry_out(host, effects);
    }
}
