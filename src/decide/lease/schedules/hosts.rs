//! The hosts: effects on a modelled kernel, voters and holders that answer, processes that begin anew.

use std::time::Duration;

use super::Broken;
use super::world::{Event, MEMBERS, Message, Party, SECOND, World, adopted};
use crate::decide::lease::Terms;
use crate::decide::lease::holder::{Effect, Holder, Input, Start};
use crate::decide::lease::relearn::Relearn;
use crate::decide::lease::voter::{Promises, Voter};
use crate::model::ballot::Generation;
use crate::model::time::Moment;

impl World {
    pub(super) fn feed(&mut self, host: usize, input: Input) {
        let now = self.hosts[host].clock.read(self.t);
        let Some(holder) = self.hosts[host].holder.as_mut() else { return };
        if let Ok(effects) = holder.handle(input, now) {
            self.carry_out(host, effects);
        }
    }

    pub(super) fn carry_out(&mut self, host: usize, effects: Vec<Effect>) {
        let place = |wanted: &Effect| effects.iter().position(|effect| effect == wanted);
        if let (Some(close), Some(release)) = (place(&Effect::Close), place(&Effect::ReleaseVip))
            && release < close
        {
            // A client whose server's address goes first hears nothing, and waits.
            self.violation = Some(format!("db{host} gives its address up before it resets its clients"));
        }
        for effect in effects {
            match effect {
                Effect::Persist => {
                    if let Some(holder) = &self.hosts[host].holder {
                        self.hosts[host].kept = holder.kept();
                    }
                }
                Effect::SendRenew { generation, lasts } => self.send_renewals(host, generation, lasts),
                Effect::Close => {
                    // The agent may be as slow as f to see that the lease has run out; an order is read back.
                    let now = self.hosts[host].clock.read(self.t);
                    if self.hosts[host].run_until.is_some_and(|until| until > now) {
                        self.hosts[host].passes_until = self.t;
                    }
                    self.hosts[host].run_until = None;
                }
                Effect::HoldOpen { until } => self.hold_open(host, until),
                Effect::AskCompare { incarnation } => {
                    let contains_all = !self.dice.one_in(3);
                    self.feed(host, Input::Compared { incarnation, contains_all });
                }
                Effect::Admit | Effect::HoldVip { .. } | Effect::ReleaseVip | Effect::Resume => {}
            }
        }
        if let Some(due) = self.hosts[host].holder.as_ref().and_then(Holder::due) {
            let t = self.hosts[host].clock.shows(due).max(self.t + 1);
            self.at(t, Event::Tick(host));
        }
    }

    pub(super) fn send_renewals(&mut self, host: usize, generation: Generation, lasts: Duration) {
        let round = self.rounds.len();
        self.rounds.push((generation, self.hosts[host].clock.read(self.t), lasts));
        for voter in 0..self.hosts.len() {
            self.send(Party::Host(host), Party::Host(voter), Message::Renew { round });
        }
    }

    pub(super) fn hold_open(&mut self, host: usize, until: Moment) {
        let Some(generation) = self.hosts[host].holder.as_ref().and_then(|holder| holder.role().generation())
        else {
            return;
        };
        if generation < self.highest_open {
            self.violation = Some(format!("db{host} opens for {generation} after {}", self.highest_open));
        }
        if *self.holders.entry(generation).or_insert(host) != host {
            self.violation = Some(format!("generation {generation} has a second holder, db{host}"));
        }
        self.check_taken_back(host, generation);
        self.highest_open = generation.max(self.highest_open);
        if self.hosts[host].passes_until <= self.t {
            self.openings += 1;
        }
        // The kernel's timer and the last byte may be as late as f allows, by a clock that is slow.
        let f = self.terms.fence_within.as_micros() as u64 * 1_000
            / (1_000 + u64::from(self.terms.clock_error_permille));
        self.hosts[host].passes_until = self.hosts[host].clock.shows(until) + f.saturating_sub(1);
        self.hosts[host].run_until = Some(until);
    }

    pub(super) fn check(&mut self) {
        let open = (0..MEMBERS).filter(|host| self.hosts[*host].passes_until > self.t).collect::<Vec<_>>();
        if open.len() > 1 {
            self.violation = Some(format!("{open:?} are open at once"));
        }
        for host in 0..self.hosts.len() {
            let (disk, said) = (&self.hosts[host].disk, self.hosts[host].voter.promises());
            if said.generation < disk.generation || said.ballot.number < disk.ballot.number {
                self.violation = Some(format!("db{host} forgot a promise"));
            }
        }
    }

    pub(super) fn sync(&mut self, host: usize) {
        if self.broken != Broken::NoSync {
            self.hosts[host].disk = self.hosts[host].voter.promises().clone();
        }
    }

    pub(super) fn restart_agent(&mut self, host: usize) {
        let now = self.hosts[host].clock.read(self.t);
        let mut promises = self.hosts[host].disk.clone();
        if self.broken == Broken::ForgetsGrants {
            promises.may_hold.clear();
        }
        self.hosts[host].voter = Voter::restored(promises, now);
        self.begin_relearning(host);
        if self.hosts[host].holder.is_none() {
            return;
        }
        let start = Start {
            same_boot: true,
            until: self.hosts[host].run_until,
            server_up: self.hosts[host].server_up,
            same_server: !self.dice.one_in(4),
            resuming: false,
        };
        let terms = Terms { me: format!("db{host}"), ..self.terms.clone() };
        let (holder, effects) = Holder::restored(terms, self.hosts[host].kept, start, now);
        self.hosts[host].holder = Some(holder);
        self.carry_out(host, effects);
    }

    /// Its disk is gone; the server and what the kernel holds are not.
    pub(super) fn lose_promises(&mut self, host: usize) {
        let forgotten = if self.broken == Broken::VotesBlank { adopted() } else { Promises::default() };
        self.hosts[host].disk = forgotten.clone();
        self.hosts[host].voter = Voter::restored(forgotten, self.hosts[host].clock.read(self.t));
        self.begin_relearning(host);
    }

    fn begin_relearning(&mut self, host: usize) {
        let terms = Terms { me: format!("db{host}"), ..self.terms.clone() };
        let relearn = self.hosts[host].voter.blank_since().map(|since| Relearn::new(&terms, since));
        if let Some(relearn) = &relearn {
            let due = self.hosts[host].clock.shows(relearn.not_before());
            self.at(due, Event::Relearn(host));
        }
        self.hosts[host].relearn = relearn;
    }

    pub(super) fn ask_others(&mut self, host: usize) {
        if self.hosts[host].voter.blank_since().is_none() {
            return;
        }
        for other in (0..self.hosts.len()).filter(|other| *other != host) {
            self.send(Party::Host(host), Party::Host(other), Message::Ask);
        }
        self.at(self.t + SECOND, Event::Relearn(host));
    }

    pub(super) fn on_told(&mut self, from: Party, host: usize, reply: usize) {
        let (led, from) = (self.led[reply].clone(), format!("db{}", self.index(from)));
        let now = self.hosts[host].clock.read(self.t);
        let Some(relearn) = &mut self.hosts[host].relearn else { return };
        relearn.heard(&from, led, now);
        if let Some(learned) = relearn.learned() {
            let _ = self.hosts[host].voter.relearn(&learned);
            self.sync(host);
        }
    }
}
