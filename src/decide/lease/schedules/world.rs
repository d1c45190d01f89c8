//! The world of one schedule: who is there, what is on its way, and what must hold after every event.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

use super::Broken;
use super::blocked::Block;
use crate::decide::lease::Terms;
use crate::decide::lease::holder::{Holder, Input, Kept, Start};
use crate::decide::lease::relearn::Relearn;
use crate::decide::lease::voter::{Claim, Claimed, Led, Outstanding, Promises, Renewed, Voter};
use crate::model::ballot::{Ballot, Generation};
use crate::model::cluster::ClusterName;
use crate::model::instance::InstanceId;
use crate::model::policy::Policy;
use crate::model::time::Moment;

pub(super) const MS: u64 = 1_000;
pub(super) const SECOND: u64 = 1_000 * MS;
/// Hosts with a server: the first three.
pub(super) const MEMBERS: usize = 3;
pub(super) const MANAGERS: usize = 2;
pub(super) const RUN_FOR: u64 = 90 * SECOND;

/// xorshift: schedules must be the same for a seed on every machine.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
    pub(super) fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }
    pub(super) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// A host's clock: some rate within δ of any other's, some origin.
#[derive(Clone, Copy)]
pub(super) struct Clock {
    pub(super) permille_fast: u64,
    pub(super) origin: u64,
}

impl Clock {
    pub(super) fn read(self, t: u64) -> Moment {
        Moment::from_micros(self.origin + t + t * self.permille_fast / 1_000)
    }
    /// The first true time at which this clock shows `local`.
    pub(super) fn shows(self, local: Moment) -> u64 {
        let elapsed = local.as_micros().saturating_sub(self.origin);
        let mut t = elapsed * 1_000 / (1_000 + self.permille_fast);
        while self.read(t) < local {
            t += 1;
        }
        t
    }
}

/// A party with a network address: host n, or manager n.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Party {
    Host(usize),
    Manager(usize),
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Message {
    Renew { round: usize },
    Renewed { round: usize, reply: usize },
    Lead { ballot: usize },
    Led { reply: usize },
    Claim { claim: usize },
    Claimed { claim: usize, reply: usize },
    Fence { order: usize },
    Fenced { order: usize, ok: bool },
    AskEpoch { order: usize },
    Epoch { order: usize, epoch: u64 },
    Open { order: usize, epoch: u64 },
    Ask,
    Told { reply: usize },
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Event {
    Deliver {
        from: Party,
        to: Party,
        what: Message,
    },
    Tick(usize),
    Act(usize),
    Opens {
        manager: usize,
        order: usize,
    },
    ClaimAgain {
        manager: usize,
        voter: usize,
        claim: usize,
    },
    /// A voter that lost its promises asks the others.
    Relearn(usize),
    /// A blocked host has heard nothing more.
    TakeBack(usize),
    /// And may open by what it won.
    TakenBack(usize),
    Trouble,
}

pub(super) struct HostState {
    pub(super) clock: Clock,
    pub(super) voter: Voter,
    pub(super) disk: Promises,
    pub(super) relearn: Option<Relearn>,
    pub(super) holder: Option<Holder>,
    pub(super) kept: Kept,
    pub(super) run_until: Option<Moment>,
    /// True time at which the kernel lets the last byte through.
    pub(super) passes_until: u64,
    pub(super) server_up: bool,
}

#[derive(Clone)]
pub(super) struct Order {
    pub(super) ballot: Ballot,
    pub(super) generation: Generation,
    pub(super) target: usize,
}

#[derive(Default)]
pub(super) struct ManagerState {
    pub(super) number: u64,
    pub(super) leads: BTreeMap<usize, Led>,
    pub(super) claim: Option<usize>,
    pub(super) accepted: BTreeMap<usize, Vec<Outstanding>>,
    pub(super) candidate: usize,
    pub(super) fenced: Vec<InstanceId>,
    /// The last question for the candidate's epoch, and its answer.
    pub(super) asked: Option<usize>,
    pub(super) epoch: Option<u64>,
}

pub(super) struct World {
    pub(super) dice: Dice,
    pub(super) broken: Broken,
    pub(super) terms: Terms,
    pub(super) t: u64,
    pub(super) sequence: u64,
    pub(super) queue: BinaryHeap<Reverse<(u64, u64, Event)>>,
    pub(super) hosts: Vec<HostState>,
    pub(super) managers: Vec<ManagerState>,
    pub(super) manager_clock: Clock,
    pub(super) cut: Vec<bool>,
    pub(super) rounds: Vec<(Generation, Moment, Duration)>,
    pub(super) renewed: Vec<Renewed>,
    pub(super) ballots: Vec<Ballot>,
    pub(super) led: Vec<Led>,
    pub(super) claims: Vec<Claim>,
    pub(super) claimed: Vec<Claimed>,
    pub(super) orders: Vec<Order>,
    pub(super) holders: BTreeMap<Generation, usize>,
    pub(super) blocks: Vec<Block>,
    pub(super) highest_open: Generation,
    pub(super) openings: usize,
    /// How often a blocked host led again by itself.
    pub(super) taken_back: usize,
    pub(super) violation: Option<String>,
}

pub(super) fn instance(host: usize) -> InstanceId {
    InstanceId::new(format!("db{host}"), 3306)
}

/// What every voter promised when the cluster was adopted: nobody holds the first generation.
pub(super) fn adopted() -> Promises {
    Promises { generation: Generation(1), ..Promises::default() }
}

pub(super) fn cluster() -> ClusterName {
    ClusterName("orders".to_owned())
}

impl World {
    pub(super) fn new(seed: u64, voters: usize, broken: Broken) -> Self {
        let mut dice = Dice(seed | 1);
        // A wide fence: which schedules catch which mistake depends on it, and the seeds are few.
        let policy = Policy { fence_within: Duration::from_millis(300), ..Policy::default() };
        let names = (0..voters).map(|host| format!("db{host}")).collect::<Vec<_>>();
        let terms = Terms::new("db0", names, &policy);
        let mut clock = || Clock { permille_fast: dice.below(11), origin: 1 + dice.below(1 << 40) };
        let hosts = (0..voters)
            .map(|host| {
                let clock = clock();
                let holder = (host < MEMBERS).then(|| {
                    let start = Start {
                        same_boot: true,
                        until: None,
                        server_up: true,
                        same_server: true,
                        resuming: false,
                    };
                    let terms = Terms { me: format!("db{host}"), ..terms.clone() };
                    Holder::restored(terms, Kept::default(), start, clock.read(0)).0
                });
                HostState {
                    clock,
                    voter: Voter::restored(adopted(), clock.read(0)),
                    disk: adopted(),
                    relearn: None,
                    holder,
                    kept: Kept::default(),
                    run_until: None,
                    passes_until: 0,
                    server_up: true,
                }
            })
            .collect();
        let manager_clock = clock();
        Self {
            dice,
            broken,
            terms,
            t: 0,
            sequence: 0,
            queue: BinaryHeap::new(),
            hosts,
            managers: (0..MANAGERS).map(|_| ManagerState::default()).collect(),
            manager_clock,
            cut: vec![false; voters + MANAGERS],
            rounds: Vec::new(),
            renewed: Vec::new(),
            ballots: Vec::new(),
            led: Vec::new(),
            claims: Vec::new(),
            claimed: Vec::new(),
            orders: Vec::new(),
            holders: BTreeMap::new(),
            blocks: Vec::new(),
            highest_open: Generation(0),
            openings: 0,
            taken_back: 0,
            violation: None,
        }
    }

    /// Runs one schedule; gives how often somebody was opened.
    pub(super) fn run(mut self) -> Result<usize, String> {
        while self.step()? {}
        Ok(self.openings)
    }

    /// The next event; `false` at the schedule's end.
    pub(super) fn step(&mut self) -> Result<bool, String> {
        if self.sequence == 0 {
            for manager in 0..MANAGERS {
                let first = self.dice.below(3 * SECOND);
                self.at(first, Event::Act(manager));
            }
            self.at(SECOND, Event::Trouble);
        }
        let Some(Reverse((t, _, event))) = self.queue.pop().filter(|Reverse((t, ..))| *t <= RUN_FOR) else {
            return Ok(false);
        };
        self.t = t;
        self.handle(event);
        match self.violation.take() {
            Some(violation) => Err(format!("at {} ms: {violation}", t / MS)),
            None => Ok(true),
        }
    }

    pub(super) fn at(&mut self, t: u64, event: Event) {
        self.sequence += 1;
        self.queue.push(Reverse((t, self.sequence, event)));
    }

    pub(super) fn index(&self, party: Party) -> usize {
        match party {
            Party::Host(host) => host,
            Party::Manager(manager) => self.hosts.len() + manager,
        }
    }

    pub(super) fn send(&mut self, from: Party, to: Party, what: Message) {
        if from != to && (self.cut[self.index(from)] || self.cut[self.index(to)] || self.dice.one_in(25)) {
            return;
        }
        for _ in 0..if self.dice.one_in(20) { 2 } else { 1 } {
            let delay = match self.dice.below(20) {
                0 => self.dice.below(6 * SECOND),
                1..4 => self.dice.below(400 * MS),
                _ => self.dice.below(5 * MS),
            };
            self.at(self.t + delay, Event::Deliver { from, to, what: what.clone() });
        }
    }

    pub(super) fn handle(&mut self, event: Event) {
        match event {
            Event::Deliver { from, to, what } => self.deliver(from, to, what),
            Event::Tick(host) => self.feed(host, Input::Tick),
            Event::Act(manager) => self.act(manager),
            Event::Opens { manager, order } => self.open(manager, order),
            Event::ClaimAgain { manager, voter, claim } => {
                self.send(Party::Manager(manager), Party::Host(voter), Message::Claim { claim });
            }
            Event::Relearn(host) => self.ask_others(host),
            Event::TakeBack(block) => self.take_back(block),
            Event::TakenBack(block) => self.taken_back(block),
            Event::Trouble => self.trouble(),
        }
        self.check();
    }
}
