//! The invariants of reliability.md section 6, asked after every event, and what a run must come to once everything is mended.

use std::collections::BTreeSet;

use mha::decide::guard::Blocker;
use mha::decide::plan::{Plan, PlanKind, Proof, Step};
use mha::model::ballot::Generation;
use mha::model::instance::{Flavor, InstanceId};
use mha::model::policy::{Durability, WithoutAckers};
use mha::model::time::Moment;

use super::basics::{Options, Planted};
use super::host::Filter;
use super::server::{Marks, Tx, Waiter, Written};
use super::state::{Event, MANAGERS, Sim};

/// How long after the last fault everything must be well again.
const LIVELY_WITHIN: u64 = 120_000;

/// A client was told that its row is kept.
#[derive(Debug, Clone)]
pub(crate) struct Acked {
    pub(crate) tx: Tx,
    pub(crate) server: usize,
    pub(crate) generation: u64,
    /// By as many other servers as the promise says.
    pub(crate) proven: bool,
}

/// A server was made writable as the primary of a generation.
#[derive(Debug, Clone)]
pub(crate) struct Opened {
    pub(crate) server: usize,
    pub(crate) generation: u64,
}

/// What an accepted promotion rests on.
#[derive(Debug, Clone)]
pub(crate) struct Basis {
    pub(crate) proof: Proof,
    pub(crate) old: usize,
    pub(crate) acks: u32,
    pub(crate) degraded: bool,
    /// The new generation's acknowledgements promise to be elsewhere too.
    pub(crate) lossless: bool,
    pub(crate) loss_accepted: bool,
    /// An operator's switchover: nothing at all may be missing.
    pub(crate) planned: bool,
    /// What each stopped replica had when it was read.
    pub(crate) stopped: Vec<(usize, Marks)>,
}

impl Sim {
    /// After every event.
    pub(crate) fn check(&mut self) {
        let holders = || (0..self.servers.len()).filter(|h| self.has_vip(*h) && self.passes(*h));
        if holders().nth(1).is_some() {
            let holders: Vec<usize> = holders().collect();
            self.violate(format!("I7: {holders:?} accept clients on the VIP at once"));
        }
    }

    /// The kernel is told to keep the address: no longer than it lets clients in (I7).
    pub(crate) fn check_vip(&mut self, h: usize, until: Moment) {
        let lets_in = |filter| matches!(filter, Filter::Until(held) if until <= held);
        if !lets_in(self.hosts[h].filter) {
            self.violate(format!("I7: db{h} keeps the VIP beyond its lease"));
        }
    }

    /// MariaDB waits for one acknowledgement, whatever is asked for.
    fn most_acks(&self) -> u32 {
        match self.opts.flavor {
            Flavor::MariaDb => 1,
            Flavor::MySql => u32::MAX,
        }
    }

    fn generation_of(&self, s: usize) -> u64 {
        self.opened.iter().rev().find(|opened| opened.server == s).map_or(0, |opened| opened.generation)
    }

    /// A client reads OK (I1, I2).
    pub(crate) fn acknowledge(&mut self, s: usize, tx: Tx, proven: bool) {
        let generation = self.generation_of(s);
        if let Some(newest) = self.opened.last().cloned().filter(|newest| newest.generation > generation) {
            let kept = self.servers[newest.server].knows(tx);
            let lossless = self.opts.durability == Durability::Lossless;
            let served = self.acked.iter().any(|ack| ack.generation >= newest.generation);
            if served && !(lossless && kept) {
                self.violate(format!(
                    "I1: db{s} (generation {generation}) acknowledged transaction {tx} after db{} of generation {} did",
                    newest.server, newest.generation
                ));
            }
            if proven && !kept {
                self.violate(format!(
                    "I2: db{s} acknowledged transaction {tx}, which db{} lacks",
                    newest.server
                ));
            }
        }
        self.acked.push(Acked { tx, server: s, generation, proven });
    }

    /// A server that serves waits for acknowledgements no longer: whoever remembers it as the primary knows that (I2).
    pub(crate) fn check_disarmed(&mut self, h: usize) {
        let generation = self.holder(h).and_then(|holder| holder.role().generation()).unwrap_or_default();
        if !self.serves(h) || !self.servers[h].semi_source {
            return;
        }
        let instance = self.instance(h);
        let records = self.stores.iter().filter_map(|store| store.record.as_ref());
        let of_it = records.filter(|record| record.primary == instance && record.generation <= generation);
        // A manager whose record is older than the voters know of relies on nothing that it says.
        let newest = of_it.max_by_key(|record| (record.ballot.number, record.revision));
        let lossless = newest.is_some_and(|record| {
            record.generation == generation && record.acks > 0 && record.degraded.is_none()
        });
        if lossless {
            self.violate(format!("I2: db{h} waits for nobody any more, and is recorded as lossless"));
        }
    }

    /// One generation, one host (I6).
    pub(crate) fn check_generation(&mut self, h: usize, generation: Generation) {
        let other = *self.generations.entry(generation.0).or_insert(h);
        if other != h {
            self.violate(format!("I6: generation {generation} opens db{h} and was db{other}'s"));
        }
    }

    /// Before a server takes writes (I2-I5).
    pub(crate) fn check_open(&mut self, h: usize, generation: Generation) {
        if !self.servers[h].relay.is_empty() {
            self.violate(format!(
                "I4: db{h} opens with {} received and not applied",
                self.servers[h].relay.len()
            ));
        }
        self.check_generation(h, generation);
        let known = self.opened.last().map_or(0, |opened| opened.generation);
        if generation.0 < known {
            self.violate(format!("I6: db{h} opens for generation {generation} after {known}"));
        }
        if generation.0 <= known {
            return;
        }
        self.check_promotion(h, generation);
        self.opened.push(Opened { server: h, generation: generation.0 });
        if self.told.struck_at > 0 {
            self.told.opened_after = Some(self.t - self.told.struck_at);
        }
        self.must_hold_all(h);
    }

    /// Every proven row is on the primary (I2).
    fn must_hold_all(&mut self, h: usize) {
        let lost = self.acked.iter().find(|ack| ack.proven && !self.servers[h].holds(ack.tx)).cloned();
        if let Some(Acked { tx, server, .. }) = lost {
            self.violate(format!(
                "I2: transaction {tx}, acknowledged by db{server}, is not on primary db{h}"
            ));
        }
    }

    /// Of two managers that want one server for one generation it is the one that the server's host obeys; or one whose recovery that one resumed.
    fn basis_of(&self, h: usize, generation: Generation) -> Option<&Basis> {
        let obeyed = self.hosts[h].agent.as_ref().map(|agent| &agent.voter.promises().ballot.manager);
        let by = (0..MANAGERS).find(|m| Some(&self.stores[*m].id) == obeyed);
        let of = |m: usize| self.bases.get(&(generation.0, h, m));
        by.and_then(of).or_else(|| (0..MANAGERS).find_map(of))
    }

    fn check_promotion(&mut self, h: usize, generation: Generation) {
        let Some(basis) = self.basis_of(h, generation).cloned() else { return };
        let old = basis.old;
        // A server that takes no writes and has no commit in flight acknowledges nothing, whoever reaches it: one that was recorded as
        // the primary and never opened is a replica with readers.
        let takes_nothing = self.servers[old].read_only && self.servers[old].waiters.is_empty();
        let closed = !self.hosts[old].on || !self.passes(old) || !self.servers[old].up || takes_nothing;
        let proven = match basis.proof {
            Proof::Fenced | Proof::Expired | Proof::Stonith | Proof::AssumedDead => closed,
            Proof::AckFence => (self.ackers_of(old).count() as u32) < basis.acks.max(1),
            Proof::Operator | Proof::Adoption => true,
            // Its own: it opens beside nobody.
            Proof::TakenBack => old == h,
        };
        if !proven && old != h {
            self.violate(format!(
                "I5: db{h} opens by \"{}\", and db{old} may still acknowledge",
                basis.proof
            ));
        }
        if basis.lossless && !(self.servers[h].semi_source && self.servers[h].acks >= 1) {
            self.violate(format!("I2: db{h} opens unarmed and is recorded as lossless"));
        }
        if basis.planned {
            self.must_have_all_of(h, old);
        } else if basis.degraded || basis.loss_accepted {
            self.acked.iter_mut().for_each(|ack| ack.proven = false);
            self.pass_over(h);
        } else {
            let more = basis.stopped.iter().find(|(_, other)| self.has_more(h, other));
            if let Some((other, marks)) = more {
                let (has, more) = (self.servers[h].marks, *marks);
                self.violate(format!("I3: db{h} opens with {has:?}, and stopped db{other} has {more:?}"));
            }
            self.pass_over(h);
        }
        self.count(match basis.proof {
            Proof::Fenced => "promoted: agent answered fenced",
            Proof::AckFence => "promoted: ack fence",
            Proof::Expired => "promoted: lease ran out",
            Proof::Operator | Proof::Stonith | Proof::AssumedDead | Proof::TakenBack | Proof::Adoption => {
                "promoted: other proof"
            }
        });
        if !self.hosts[old].on {
            self.count("promoted after host loss");
        }
        if self.servers[old].hung_since.is_some() || self.hosts[old].frozen {
            self.count("promoted beside a stopped primary");
        }
    }

    /// It leads without what others may have: that is errant from now on, wherever it is. What a client was told is kept never is.
    fn pass_over(&mut self, h: usize) {
        let marks = self.servers[h].marks;
        let told: BTreeSet<Tx> = self.acked.iter().filter(|ack| ack.proven).map(|ack| ack.tx).collect();
        let lacks = |tx: &Tx| self.txs[*tx].number > marks[self.txs[*tx].origin] && !told.contains(tx);
        let lacked: Vec<Tx> = (0..self.txs.len()).filter(lacks).collect();
        self.passed_over.extend(lacked);
    }

    /// Leaving out what a privileged session wrote on a blocked server, and what an earlier promotion passed over.
    fn has_more(&self, h: usize, other: &Marks) -> bool {
        let marks = self.servers[h].marks;
        let more = |tx: &Tx| {
            let Written { origin, number } = self.txs[*tx];
            number > marks[origin] && number <= other[origin]
        };
        let errant = |tx: &Tx| self.switching.errant.contains(tx) || self.passed_over.contains(tx);
        (0..self.txs.len()).any(|tx| more(&tx) && !errant(&tx))
    }

    pub(crate) fn note_plan(&mut self, m: usize, recovery: &str, plan: &Plan) {
        if matches!(plan.kind, PlanKind::Isolate | PlanKind::Switchover) {
            self.stopped[m].clear();
        }
        if plan.kind == PlanKind::Repair && plan.steps().any(|step| matches!(step, Step::Open { .. })) {
            self.count("reopened");
        }
        if plan.kind == PlanKind::Repair && plan.steps().any(|step| matches!(step, Step::Claim { .. })) {
            self.count("reopened under a new generation");
        }
        if plan.kind == PlanKind::Repair
            && plan.steps().any(|step| matches!(step, Step::AckersAttached { .. }))
        {
            self.count("lossless again");
        }
        if plan.kind == PlanKind::Repair
            && plan
                .steps()
                .all(|step| matches!(step, Step::Register { .. } | Step::ArmSource { acks: 0, .. }))
        {
            self.count("lossless given up");
        }
        if plan.kind == PlanKind::Rejoin && plan.steps().any(|step| matches!(step, Step::PointReplica { .. }))
        {
            self.count("rejoined");
        }
        if plan.kind != PlanKind::Promote {
            return;
        }
        let claimed = plan.steps().find_map(|step| match step {
            Step::Claim { candidate, generation, proof } => {
                Some((self.index(candidate), *generation, *proof))
            }
            _ => None,
        });
        let (Some((candidate, generation, proof)), Some(record)) = (claimed, self.stores[m].record.clone())
        else {
            return;
        };
        // Its store may be a copy of one that holds an unfinished recovery of another manager's as well.
        let of = self.stores[m].recoveries.iter().find(|known| known.id == recovery);
        let loss_accepted = of.and_then(|of| of.ask.as_ref()).is_some_and(|ask| ask.accept_loss);
        let planned = of.is_some_and(|of| of.kind == PlanKind::Switchover);
        let lossless =
            plan.steps().any(|step| matches!(step, Step::Register { acks, degraded: None, .. } if *acks > 0));
        // What a parked one has alone is saved and told, and waits for a person.
        let parked = |s: &usize| record.parked.iter().any(|parked| parked.instance == self.instance(*s));
        let stopped = self.stopped[m].iter().filter(|(s, _)| !parked(s)).cloned().collect();
        let basis = Basis {
            lossless,
            proof,
            old: self.index(&record.primary),
            acks: record.acks,
            degraded: record.degraded.is_some() || record.acks == 0,
            loss_accepted,
            planned,
            stopped,
        };
        self.bases.insert((generation.0, candidate, m), basis);
        self.say(format!("m{m} plan: {}", plan.basis.join("; ")));
    }

    pub(crate) fn note_refusal(&mut self, blockers: &[Blocker]) {
        for blocker in blockers {
            match blocker {
                Blocker::Incomplete { .. } => self.count("refused: incomplete"),
                Blocker::BeforeIt { .. } => self.count("refused: lacks what came before"),
                Blocker::NobodyEligible { .. } => self.count("refused: nobody eligible"),
                Blocker::Incomparable(_) => self.count("refused: incomparable"),
                Blocker::NotFenced { .. } => self.count("refused: not fenced"),
                Blocker::JustUndone { .. } => self.count("refused: just undone"),
                Blocker::NoMajority { .. } => self.count("refused: no majority"),
                Blocker::SecondWriter { .. } => self.count("refused: second writer"),
                Blocker::MayHaveLed { .. } | Blocker::HasLed { .. } => {
                    self.count("refused: another may have led")
                }
                Blocker::NotInForce { .. } => self.count("refused: lossless not in force"),
                Blocker::Mode(_)
                | Blocker::ManyAtOnce { .. }
                | Blocker::NotDead { .. }
                | Blocker::NotAdopted { .. }
                | Blocker::Budget { .. }
                | Blocker::JustStarted { .. }
                | Blocker::NotMember(_)
                | Blocker::NotEligible { .. }
                | Blocker::WouldLose { .. } => {}
            }
        }
    }

    // === liveness ===

    pub(crate) fn judge(&mut self) {
        let trouble = self.trouble();
        match trouble {
            None => {
                self.settled = true;
                self.wake.notify_one();
            }
            Some(why) if self.t > self.mended_at + LIVELY_WITHIN => {
                self.violate(format!("L: {why} ({})", self.sentence))
            }
            Some(_) => self.after(500, Event::Judge),
        }
    }

    /// What is not yet as it must be, if anything.
    fn trouble(&mut self) -> Option<String> {
        let Some(record) = self.stores[0].record.clone() else { return Some("not adopted".to_owned()) };
        if (0..MANAGERS).any(|m| (m == 0 || self.manager_up[m]) && self.stores[m].unfinished().is_some()) {
            return Some("a recovery is unfinished".to_owned());
        }
        let p = self.index(&record.primary);
        let serves = self.answers(p) && !self.servers[p].read_only && self.passes(p) && self.has_vip(p);
        if !serves && (0..self.servers.len()).any(|s| s != p && self.is_for_a_person(s, p)) {
            self.count("closed in the end beside an errant row");
            return None;
        }
        if !serves {
            let (server, host) = (&self.servers[p], &self.hosts[p]);
            return Some(format!(
                "db{p} is recorded and does not serve: up {} read_only {} filter {:?} role {:?} VIP {}",
                server.up,
                server.read_only,
                host.filter,
                self.holder(p).map(|holder| holder.role()),
                self.has_vip(p)
            ));
        }
        if let Some(other) = (0..self.servers.len()).find(|s| *s != p && self.serves(*s)) {
            return Some(format!("db{other} takes writes beside db{p}"));
        }
        let is_parked = |of: &InstanceId| record.parked.iter().any(|parked| parked.instance == *of);
        let unparked: Vec<usize> =
            (0..self.servers.len()).filter(|s| *s != p && !is_parked(&self.instance(*s))).collect();
        // Those that nothing brings back but a person's word.
        let away = |sim: &mut Self, s: usize| sim.is_for_a_person(s, p) || sim.was_left_unknown(s);
        let left = unparked.into_iter().filter(|s| !away(self, *s)).count();
        let persons = self.opts.without_ackers == WithoutAckers::Block && left < record.acks as usize;
        // Ackers that are parked, and a policy to block: a person is told, and commits wait for them. Over a slow link somebody always
        // waits, and nobody for long.
        let long = 2 * self.opts.silence + 3_000;
        let waits = |waiter: &Waiter| self.t > waiter.since + long;
        if self.servers[p].waiters.iter().any(waits) && !persons {
            let server = &self.servers[p];
            return Some(format!(
                "commits wait on db{p}, {} acker(s), armed {} for {}: {:?}",
                self.ackers_of(p).count(),
                server.semi_source,
                server.acks,
                server.waiters.iter().map(|waiter| (waiter.at, waiter.acked)).collect::<Vec<_>>()
            ));
        }
        // A parked member is a person's to bring back before anything else is asked of it.
        let next = self.opts.asks.get(self.asked);
        if next.is_some_and(|ask| !record.parked.iter().any(|parked| parked.instance == ask.instance)) {
            return Some("an operator's word is not followed yet".to_owned());
        }
        for s in (0..self.servers.len()).filter(|s| *s != p) {
            let instance = self.instance(s);
            if record.wishes.stopped(&instance).is_some() && !is_parked(&instance) {
                return Some(format!("db{s} stays stopped"));
            }
            // Below whom it belongs; acknowledging where too few others would, it stays where it is needed.
            let below = record.wishes.source_of(&instance).map(|source| self.index(source));
            // Nor below one that is itself out of automatic hands, or follows nobody.
            let is_there = |sim: &mut Self, s: usize| !is_parked(&sim.instance(s)) && !away(sim, s);
            let below = below.filter(|below| *below == p || is_there(self, *below));
            let below = below.filter(|_| !record.ackers.contains(&instance)).unwrap_or(p);
            if is_parked(&instance) || self.is_for_a_person(s, p) || self.was_left_unknown(s) {
                continue;
            }
            let server = &self.servers[s];
            // Where it belongs, and counted as an acker until the others have all that it had, which a slow link may put off for long.
            let wanted = record.wishes.source_of(&instance).map(|source| self.index(source));
            let follows = server.up
                && (server.source == Some(below) || server.source == wanted && wanted.is_some())
                && server.stream.is_some()
                && server.sql;
            if !follows {
                return Some(format!(
                    "db{s} is neither a replica nor parked: up {} source {:?} io {} sql {} connected {} error {} role {:?} filter {:?}",
                    server.up,
                    server.source,
                    server.io,
                    server.sql,
                    server.stream.is_some(),
                    server.io_error,
                    self.holder(s).map(|holder| holder.role()),
                    self.hosts[s].filter
                ));
            }
            if !server.read_only {
                return Some(format!("replica db{s} is writable"));
            }
        }
        if record.degraded.is_some() && left >= self.opts.acks.min(self.most_acks()) as usize {
            return Some(format!("lossless stays given up with {left} replica(s)"));
        }
        self.must_hold_all(p);
        None
    }
}

/// Two managers' plans may want one generation, and the voters give it to one of them: the other plan says nothing of who opens.
#[test]
fn a_promotion_is_judged_by_its_own_plan() {
    let opened_by = |h: usize| {
        let mut sim = Sim::new(Options::of(7, Planted::Nothing));
        let basis = Basis {
            proof: Proof::Fenced,
            old: 0,
            acks: 0,
            degraded: false,
            lossless: false,
            loss_accepted: false,
            planned: true,
            stopped: Vec::new(),
        };
        sim.hosts[0].filter = Filter::Closed;
        sim.bases.insert((2, 1, 0), basis);
        sim.check_open(h, Generation(2));
        sim.violation
    };
    assert_eq!(opened_by(0), None);
    assert!(opened_by(1).is_some_and(|violation| violation.contains("was not read again")));
}
