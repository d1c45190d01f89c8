//! One host: the shipped voter and holder, what of them is durable, the kernel, and the renewals on their way.

use std::collections::BTreeSet;

use mha::decide::lease::Terms;
use mha::decide::lease::holder::{Effect, Holder, Input, Kept, Role, Start};
use mha::decide::lease::voter::{Claim, Claimed, Outstanding, Persist, Promises, Renew, Renewed, Voter};
use mha::decide::plan::Proof;
use mha::model::ballot::{Ballot, Generation};
use mha::model::time::Moment;

use super::manager::{Lead, Opens};
use super::memo::Machine;
use super::op::{Ask, At, Op, Said};
use super::world::{Bounds, cluster, host_name, host_of, instance, last_byte};

/// What a host's later steps depend on. Of its voter: what it promised, but for who led before, which no voter reads, and when it granted
/// the lease to each server.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Known {
    promises: Promises,
    granted: Vec<Option<Moment>>,
    disk: Promises,
    told: (u64, Generation),
    holder: Option<Holder>,
    kept: Kept,
    server_up: bool,
    run_until: Option<Moment>,
    passes_until: u8,
    comparing: Option<u64>,
    asked: Vec<Option<Ask>>,
    late_asks: BTreeSet<(u8, Ask)>,
    late_answers: BTreeSet<(u8, Ask, u32)>,
}

/// What is looked at after every step.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Glance {
    pub(crate) passes_until: u8,
    /// The ballot that the voter obeys, and the generation it knows.
    pub(crate) obeyed: Lead,
    pub(crate) knows: Generation,
    /// The generation for which it leads, or may do so by itself.
    pub(crate) leads: Option<Generation>,
    /// The generation for which it has asked, and the voters, by bit, that its renewal is on its way to.
    pub(crate) asks: Option<Generation>,
    pub(crate) asked: u8,
}

#[derive(Debug, Clone)]
pub(crate) struct Host {
    voter: Voter,
    /// The voter's file.
    disk: Promises,
    /// The highest ballot number and generation that an answer of this host has promised.
    told: (u64, Generation),
    /// The ballot that the voter obeys.
    pub(crate) obeyed: Lead,
    pub(crate) holder: Option<Holder>,
    /// The holder's file.
    pub(crate) kept: Kept,
    pub(crate) server_up: bool,
    /// By the agent's file of this boot: until when the kernel lets clients pass, where that is not over.
    run_until: Option<Moment>,
    /// The true time from which on no byte passes. Once that is over: one, where it ever was, so that it can be seen to have ended.
    pub(crate) passes_until: u8,
    /// The incarnation whose set is to be compared.
    pub(crate) comparing: Option<u64>,
    /// By voter: a renewal on its way. It arrives before time passes, or is lost; so is its answer.
    pub(crate) asked: Vec<Option<Ask>>,
    /// With their voters: copies that arrive at any later time, or never.
    pub(crate) late_asks: BTreeSet<(u8, Ask)>,
    pub(crate) late_answers: BTreeSet<(u8, Ask, u32)>,
}

impl Host {
    pub(crate) fn adopted(terms: Terms, voter: Voter, kept: Option<Kept>, now: Moment) -> Self {
        let (voters, promises) = (terms.voters.len(), voter.promises());
        let start =
            Start { same_boot: true, until: None, server_up: true, same_server: true, resuming: false };
        Self {
            told: (promises.ballot.number, promises.generation),
            disk: promises.clone(),
            obeyed: Lead::of(&promises.ballot),
            voter,
            holder: kept.map(|kept| Holder::restored(terms, kept, start, now).0),
            kept: kept.unwrap_or_default(),
            server_up: true,
            run_until: None,
            passes_until: 0,
            comparing: None,
            asked: vec![None; voters],
            late_asks: BTreeSet::new(),
            late_answers: BTreeSet::new(),
        }
    }

    pub(crate) fn forgot(&self) -> bool {
        let promises = self.voter.promises();
        promises.ballot.number < self.told.0 || promises.generation < self.told.1
    }

    /// Does what happens; gives what it says, and for which generation it lets clients in, if it does.
    pub(crate) fn does(&mut self, op: Op, at: At, machine: &mut Machine) -> (Said, Option<Generation>) {
        let mut lets_in = None;
        let said = match op {
            Op::Renew { .. } | Op::Lead { .. } | Op::Claim { .. } => self.votes(op, at, machine),
            Op::Arrived { .. } | Op::Copied { .. } | Op::AnswerIsLate { .. } | Op::LateAskArrives { .. } => {
                self.message(op)
            }
            Op::TimePassed => {
                self.asked.fill(None);
                let due = self.holder.as_ref().and_then(Holder::due);
                match due.is_some_and(|due| due <= at.now()) {
                    true => self.holds(Op::Wakes, at, machine, &mut lets_in),
                    false => Said::Done,
                }
            }
            Op::Restarts { power_cut, same_server } => {
                self.restarts(power_cut, same_server, at, machine, &mut lets_in)
            }
            Op::Wakes
            | Op::ComparedWell
            | Op::ServerEnds
            | Op::ServerStarts
            | Op::Answer { .. }
            | Op::LateAnswerArrives { .. }
            | Op::Fence { .. }
            | Op::Open { .. } => self.holds(op, at, machine, &mut lets_in),
        };
        self.obeyed = Lead::of(&self.voter.promises().ballot);
        self.drop_what_is_over(at);
        if !matches!(op, Op::Renew { .. } | Op::Lead { .. } | Op::Claim { .. } | Op::Arrived { .. }) {
            self.drop_what_no_leader_counts(at, machine);
        }
        (said, lets_in)
    }

    /// So that states that differ in nothing that anyone reads again are one.
    fn drop_what_is_over(&mut self, at: At) {
        self.run_until = self.run_until.filter(|until| *until > at.now());
        if self.passes_until <= at.t {
            self.passes_until = self.passes_until.min(1);
        }
    }

    /// Who leads nothing counts no grant: as if each voter had been replaced since, it begins anew when it is told to lead.
    fn drop_what_no_leader_counts(&mut self, at: At, machine: &Machine) {
        let led = self.kept.role;
        self.late_answers.retain(|(_, ask, _)| led == Role::Primary { generation: ask.generation });
        if let Some(holder) =
            self.holder.as_mut().filter(|holder| !matches!(holder.role(), Role::Primary { .. }))
        {
            let terms = machine.bounds.terms(at.host);
            holder.set_terms(Terms { voters: Vec::new(), ..terms.clone() });
            holder.set_terms(terms);
        }
    }

    pub(crate) fn glance(&self) -> Glance {
        let leads = match self.kept.role {
            Role::Primary { generation } => Some(generation),
            Role::Unmanaged | Role::Unknown | Role::Replica | Role::Fenced { .. } | Role::Deposed { .. } => {
                None
            }
        };
        let on_their_way = self.asked.iter().enumerate().filter(|(_, ask)| ask.is_some());
        Glance {
            passes_until: self.passes_until,
            obeyed: self.obeyed,
            knows: self.voter.promises().generation,
            leads,
            asks: self.asked.iter().flatten().next().map(|ask| ask.generation),
            asked: on_their_way.fold(0, |bits, (voter, _)| bits | 1 << voter),
        }
    }

    pub(crate) fn known(&self, at: At, bounds: &Bounds) -> Known {
        let but_for_rival = |promises: &Promises| Promises { rival: Ballot::default(), ..promises.clone() };
        Known {
            promises: but_for_rival(self.voter.promises()),
            granted: (0..bounds.members as u8).map(|member| self.granted(member, at, bounds)).collect(),
            disk: but_for_rival(&self.disk),
            told: self.told,
            holder: self.holder.clone(),
            kept: self.kept,
            server_up: self.server_up,
            run_until: self.run_until,
            passes_until: self.passes_until,
            comparing: self.comparing,
            asked: self.asked.clone(),
            late_asks: self.late_asks.clone(),
            late_answers: self.late_answers.clone(),
        }
    }

    /// When the voter granted the lease to a server, as a claim for the next one would learn it for which all others are released. Not
    /// where nobody would wait for it any more.
    fn granted(&self, member: u8, at: At, bounds: &Bounds) -> Option<Moment> {
        let mut others = (0..bounds.members as u8).filter(|other| *other != member).map(instance);
        let claim = Claim {
            cluster: cluster(),
            ballot: Ballot { number: u64::MAX, manager: String::new() },
            generation: Generation(u64::MAX),
            candidate: others.next()?,
            proof: Proof::Fenced,
            released: others.collect(),
        };
        let ago = match self.voter.clone().claim(&claim, at.now()).0 {
            Claimed::HeldBack { remaining, .. } => Some(bounds.lease() - remaining),
            Claimed::Accepted { outstanding } => {
                let counts =
                    |grant: &&Outstanding| !bounds.terms(at.host).wait_after_claim([*grant]).is_zero();
                outstanding.iter().find(counts).map(|grant| grant.granted_ago)
            }
            refused => panic!("the highest claim of all is refused: {refused:?}"),
        };
        ago.map(|ago| at.now().back(ago))
    }

    // === the voter ===

    /// The voter answered: what it promised is written first where it says so.
    fn answered<T>(&mut self, (answer, persist): (T, Persist)) -> T {
        match persist {
            Persist::First => self.disk = self.voter.promises().clone(),
            Persist::Unchanged => {}
        }
        let promises = self.voter.promises();
        self.told.0 = self.told.0.max(promises.ballot.number);
        self.told.1 = self.told.1.max(promises.generation);
        answer
    }

    fn votes(&mut self, op: Op, at: At, machine: &mut Machine) -> Said {
        match op {
            Op::Renew { from, ask } => {
                let holder = instance(from);
                let renew = Renew {
                    cluster: cluster(),
                    holder,
                    generation: ask.generation,
                    lasts: machine.bounds.lease(),
                };
                let answer = self.voter.renew(&renew, at.now());
                Said::Renewed(machine.answers.put(self.answered(answer)))
            }
            Op::Lead { lead } => {
                let answer = self.voter.lead(&lead.ballot());
                let led = self.answered(answer);
                match led.accepted {
                    true => {
                        Said::Obeys { generation: led.generation, holder: led.holder.as_ref().map(host_of) }
                    }
                    false => Said::Refused,
                }
            }
            Op::Claim { lead, wanted } => {
                let answer = self.voter.claim(&wanted.claim(lead.ballot()), at.now());
                match self.answered(answer) {
                    Claimed::Accepted { outstanding } => {
                        let terms = machine.bounds.terms(at.host);
                        Said::Accepted { wait: terms.wait_after_claim(&outstanding) }
                    }
                    // A claim that is held back is made again.
                    Claimed::HeldBack { .. }
                    | Claimed::OlderBallot { .. }
                    | Claimed::Superseded { .. }
                    | Claimed::Taken { .. }
                    | Claimed::MayHaveLed { .. }
                    | Claimed::NoVote => Said::Refused,
                }
            }
            _ => unreachable!("{op:?} is none of a voter's"),
        }
    }

    // === messages ===

    fn message(&mut self, op: Op) -> Said {
        match op {
            Op::Arrived { voter } => self.asked[usize::from(voter)] = None,
            Op::Copied { voter } => {
                self.late_asks.extend(self.asked[usize::from(voter)].map(|ask| (voter, ask)));
            }
            Op::AnswerIsLate { voter, ask, answer } => {
                self.late_answers.insert((voter, ask, answer));
            }
            Op::LateAskArrives { nth } => {
                let copied = self.late_asks.iter().nth(usize::from(nth)).copied();
                copied.map(|copied| self.late_asks.remove(&copied));
            }
            _ => unreachable!("{op:?} is no message's"),
        }
        Said::Done
    }

    // === the holder and its kernel ===

    fn holds(&mut self, op: Op, at: At, machine: &mut Machine, lets_in: &mut Option<Generation>) -> Said {
        let input = match op {
            Op::Wakes => Some(Input::Tick),
            Op::ComparedWell => {
                let compared = self.comparing.take();
                compared.map(|incarnation| Input::Compared { incarnation, contains_all: true })
            }
            Op::ServerEnds => {
                self.server_up = false;
                Some(Input::ServerGone)
            }
            Op::ServerStarts => {
                self.server_up = true;
                Some(Input::ServerStarted)
            }
            Op::Answer { voter, ask, answer } => Some(answer_of(voter, ask, machine.answers.get(answer))),
            Op::LateAnswerArrives { nth } => {
                let late = self.late_answers.iter().nth(usize::from(nth)).copied();
                late.map(|late| {
                    self.late_answers.remove(&late);
                    answer_of(late.0, late.1, machine.answers.get(late.2))
                })
            }
            Op::Fence { lead, generation } => self.obeys(lead).then_some(Input::Fence { generation }),
            Op::Open { lead, order } => {
                let Opens { generation, epoch, .. } = order;
                self.obeys(lead).then_some(Input::Open { generation, epoch })
            }
            _ => unreachable!("{op:?} is none of a holder's"),
        };
        let Some(input) = input else { return Said::Refused };
        let Some(handled) = self.holder.as_mut().map(|holder| holder.handle(input, at.now())) else {
            return Said::Refused;
        };
        let Ok(effects) = handled else { return Said::Refused };
        self.carry_out(effects, at, &machine.bounds, lets_in);
        if matches!(op, Op::Fence { .. }) {
            // Read back before it is answered.
            self.passes_until = self.passes_until.min(at.t);
        }
        Said::Done
    }

    /// Whether a command is obeyed; a higher ballot is accepted with the command.
    fn obeys(&mut self, lead: Lead) -> bool {
        let answer = self.voter.lead(&lead.ballot());
        self.answered(answer).accepted
    }

    fn carry_out(&mut self, effects: Vec<Effect>, at: At, bounds: &Bounds, lets_in: &mut Option<Generation>) {
        for effect in effects {
            match effect {
                Effect::Persist => self.kept = self.holder.as_ref().map_or(self.kept, Holder::kept),
                Effect::SendRenew { generation, .. } => {
                    self.asked.fill(Some(Ask { generation, sent_at: at.now() }));
                }
                Effect::Close => self.close(at),
                Effect::HoldOpen { until } => {
                    *lets_in = self.holder.as_ref().map(Holder::role).and_then(Role::generation);
                    (self.passes_until, self.run_until) = (last_byte(at.fast, until, bounds), Some(until));
                }
                Effect::AskCompare { incarnation } => self.comparing = Some(incarnation),
                Effect::Admit | Effect::HoldVip { .. } | Effect::ReleaseVip | Effect::Resume => {}
            }
        }
    }

    /// An order to close is read back. Where the lease has run out already, the kernel's own timer may be as late as f allows.
    fn close(&mut self, at: At) {
        if self.run_until.is_some_and(|until| until > at.now()) {
            self.passes_until = self.passes_until.min(at.t);
        }
        self.run_until = None;
    }

    /// The agent's process begins anew. After a power cut the kernel's state is gone too, and no server runs.
    fn restarts(
        &mut self,
        power_cut: bool,
        same_server: bool,
        at: At,
        machine: &Machine,
        lets_in: &mut Option<Generation>,
    ) -> Said {
        self.voter = Voter::restored(self.disk.clone(), at.now());
        if power_cut {
            self.passes_until = self.passes_until.min(at.t);
            (self.server_up, self.run_until) = (false, None);
        }
        self.comparing = None;
        self.late_answers.clear();
        let start = Start {
            same_boot: !power_cut,
            until: self.run_until,
            server_up: self.server_up,
            same_server: same_server && self.server_up,
            resuming: false,
        };
        if self.holder.is_some() {
            let terms = machine.bounds.terms(at.host);
            let (holder, effects) = Holder::restored(terms, self.kept, start, at.now());
            self.holder = Some(holder);
            self.carry_out(effects, at, &machine.bounds, lets_in);
        }
        Said::Done
    }
}

/// As the holder reads it: not who holds a generation that is not its own, nor which one that is.
fn answer_of(voter: u8, ask: Ask, answer: &Renewed) -> Input {
    let Ask { generation, sent_at } = ask;
    let answer = match answer {
        Renewed::Superseded { .. } => Renewed::Superseded { generation: generation.next(), holder: None },
        Renewed::OtherHolder { .. } => Renewed::OtherHolder { holder: None },
        Renewed::Granted { .. } | Renewed::NoVote => answer.clone(),
    };
    Input::Answer { from: host_name(voter), generation, sent_at, answer }
}
