//! The state: true time, hosts, managers, messages, and what must never be seen.

use std::time::Duration;

use mha::decide::lease::Terms;
use mha::decide::lease::holder::{Input, Kept, Role};
use mha::decide::lease::voter::Promises;
use mha::model::ballot::{Ballot, Generation};
use mha::model::cluster::ClusterName;
use mha::model::instance::InstanceId;
use mha::model::time::Moment;

use super::host::Host;
use super::manager::Manager;
use super::part::Part;

/// A slow clock shows 20 microseconds for a tick of true time, a fast one 40: the bound of `Terms` is twice as fast, so that it matters
/// within a few ticks.
const SLOW: u64 = 20;
const FAST: u64 = 40;
const CLOCK_ERROR_PERMILLE: u32 = 1_000;
/// T: two ticks of a slow clock, one of a fast one.
pub(crate) const LEASE: Duration = Duration::from_micros(40);
const RENEW_EVERY: Duration = Duration::from_micros(20);
/// f: one tick of a slow clock.
const FENCE_WITHIN: Duration = Duration::from_micros(20);
/// Every clock's reading at tick 0: ages never reach below zero.
const ORIGIN: u64 = 1_000;

/// How many of each fault one run may hold. Besides, any request may be lost, and any of a manager's be late and overtaken by another's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Faults {
    /// The agent's process ends and begins anew with what was durable; the server and the kernel go on.
    pub(crate) agent_restarts: u8,
    /// The server ends, and later begins anew.
    pub(crate) server_crashes: u8,
    /// The host ends and begins anew: only what was durable is left.
    pub(crate) power_cuts: u8,
    /// A manager gives a promotion up after the claim, fences its candidate and promotes another server.
    pub(crate) withdrawals: u8,
    /// A request arrives and its answer does not.
    pub(crate) lost_answers: u8,
    /// A copy of a renewal, of its answer or of an order to open arrives later.
    pub(crate) late_copies: u8,
}

impl Faults {
    pub(crate) const NONE: Self = Self {
        agent_restarts: 0,
        server_crashes: 0,
        power_cuts: 0,
        withdrawals: 0,
        lost_answers: 0,
        late_copies: 0,
    };
}

/// What is explored: all of it, where the checker ends by itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) voters: usize,
    /// Hosts with a server: the first of the voters.
    pub(crate) members: usize,
    /// True time at which a run ends.
    pub(crate) ticks: u8,
    /// Manager processes. None of them ever ends, so that a manager that was replaced goes on.
    pub(crate) managers: usize,
    pub(crate) faults: Faults,
    /// Every choice of fast clocks. Otherwise all slow, all fast, only the first host's fast, all but the first host's fast.
    pub(crate) all_clocks: bool,
}

impl Bounds {
    /// Which hosts' clocks are fast, by bit.
    pub(crate) fn clocks(&self) -> Vec<u8> {
        let all = (1_u8 << self.voters) - 1;
        if self.all_clocks { (0..=all).collect() } else { vec![all - 1, 0, 1, all] }
    }
}

#[derive(Debug, Clone, PartialEq, Hash)]
pub(crate) struct World {
    pub(crate) t: u8,
    /// Bit n: the clock of host n is fast.
    pub(crate) fast: u8,
    pub(crate) hosts: Vec<Part<Host>>,
    pub(crate) managers: Vec<Part<Manager>>,
    pub(crate) left: Faults,
    /// The highest generation that clients were let in for, and to whom each generation was opened.
    pub(crate) highest_open: Generation,
    pub(crate) opened: Vec<(Generation, usize)>,
    pub(crate) violation: Option<String>,
}

pub(crate) fn host_name(host: usize) -> String {
    format!("db{host}")
}

pub(crate) fn instance(host: usize) -> InstanceId {
    InstanceId::new(host_name(host), 3306)
}

pub(crate) fn cluster() -> ClusterName {
    ClusterName("orders".to_owned())
}

pub(crate) fn terms(me: usize, voters: usize) -> Terms {
    Terms {
        me: host_name(me),
        voters: (0..voters).map(host_name).collect(),
        majority: voters / 2 + 1,
        lease: LEASE,
        renew_every: RENEW_EVERY,
        fence_within: FENCE_WITHIN,
        clock_error_permille: CLOCK_ERROR_PERMILLE,
    }
}

/// What a clock shows at a tick.
pub(crate) fn shown(fast: bool, t: u8) -> Moment {
    Moment::from_micros(ORIGIN + u64::from(t) * if fast { FAST } else { SLOW })
}

/// The first tick at which a clock shows `local`.
fn tick_of(fast: bool, local: Moment) -> u8 {
    let rate = if fast { FAST } else { SLOW };
    let tick = local.as_micros().saturating_sub(ORIGIN).div_ceil(rate);
    u8::try_from(tick).unwrap_or(u8::MAX)
}

impl World {
    /// The first server has just been told to lead generation 1, and asks every voter; the others are its replicas.
    pub(crate) fn adopted(bounds: &Bounds, fast: u8) -> Self {
        let ballot = Ballot { number: 1, manager: "first".to_owned() };
        let generation = Generation(1);
        let promises = Promises { ballot, generation, holder: Some(instance(0)), ..Promises::default() };
        let hosts = (0..bounds.voters).map(|host| {
            let now = shown(fast & (1 << host) != 0, 0);
            let role = if host == 0 { Role::Unknown } else { Role::Replica };
            let kept = (host < bounds.members).then_some(Kept { role, ..Kept::default() });
            Part::new(Host::adopted(terms(host, bounds.voters), promises.clone(), kept, now))
        });
        let mut world = Self {
            t: 0,
            fast,
            hosts: hosts.collect(),
            managers: Vec::new(),
            left: bounds.faults,
            highest_open: generation,
            opened: vec![(generation, 0)],
            violation: None,
        };
        world.feed(0, Input::Open { generation, epoch: 0 });
        world.seal(None);
        world
    }

    /// The tick at which the lease of the adoption has surely run out.
    pub(crate) fn adopted_until(&self) -> u8 {
        tick_of(self.is_fast(0), shown(false, 0) + LEASE + FENCE_WITHIN)
    }

    pub(crate) fn now(&self, host: usize) -> Moment {
        shown(self.is_fast(host), self.t)
    }

    pub(crate) fn is_fast(&self, host: usize) -> bool {
        self.fast & (1 << host) != 0
    }

    pub(crate) fn host(&self, host: usize) -> &Host {
        self.hosts[host].get()
    }

    /// Changes one host.
    pub(crate) fn change<R>(&mut self, host: usize, change: impl FnOnce(&mut Host) -> R) -> R {
        change(self.hosts[host].get_mut())
    }

    /// Takes the hashes of what was changed since `before`.
    pub(crate) fn seal(&mut self, before: Option<&Self>) {
        for (place, host) in self.hosts.iter_mut().enumerate() {
            if before.is_none_or(|before| !host.is_shared_with(&before.hosts[place])) {
                host.seal();
            }
        }
        for (place, manager) in self.managers.iter_mut().enumerate() {
            let known = before.and_then(|before| before.managers.get(place));
            if known.is_none_or(|known| !manager.is_shared_with(known)) {
                manager.seal();
            }
        }
    }

    /// Whether a client byte may pass.
    pub(crate) fn is_open(&self, host: usize) -> bool {
        self.host(host).passes_until > self.t
    }

    pub(crate) fn violate(&mut self, what: impl FnOnce() -> String) {
        self.violation.get_or_insert_with(what);
    }

    /// The kernel is told to let clients pass.
    pub(crate) fn let_in(&mut self, host: usize, generation: Generation, until: Moment) {
        let highest = self.highest_open;
        if generation < highest {
            self.violate(|| format!("db{host} opens for generation {generation} after {highest}"));
        }
        match self.opened.iter().find(|(known, _)| *known == generation) {
            Some((_, holder)) if *holder != host => {
                self.violate(|| format!("generation {generation} has a second holder, db{host}"));
            }
            Some(_) => {}
            None => self.opened.push((generation, host)),
        }
        self.highest_open = generation.max(highest);
        // The kernel's timer and the last byte may be as late as f allows.
        let last = tick_of(self.is_fast(host), until + FENCE_WITHIN);
        self.change(host, |host| (host.passes_until, host.run_until) = (last, Some(until)));
    }

    /// What must hold after every step.
    pub(crate) fn look(&mut self) {
        let open: Vec<usize> = (0..self.hosts.len()).filter(|host| self.is_open(*host)).collect();
        if open.len() > 1 {
            self.violate(|| format!("clients pass at {open:?} at once"));
        }
        for host in 0..self.hosts.len() {
            if self.host(host).forgot() {
                self.violate(|| format!("db{host} forgot a promise it had told"));
            }
        }
    }
}
