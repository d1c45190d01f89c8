//! The state: true time, hosts, managers, messages, and what must never be seen.

use std::time::Duration;

use mha::decide::lease::Terms;
use mha::model::ballot::Generation;
use mha::model::cluster::ClusterName;
use mha::model::instance::InstanceId;
use mha::model::time::Moment;

use super::memo::{HostId, Machine, ManagerId};

/// A slow clock shows 20 microseconds for a tick of true time, a fast one 30: the bound of `Terms` is half as fast again, so that it
/// matters within a few ticks. The configuration allows a tenth at most.
const SLOW: u64 = 20;
const FAST: u64 = 30;
const CLOCK_ERROR_PERMILLE: u32 = 500;
/// Every agent looks at its lease once a tick, and asks for it each time: nothing depends on when it would have asked next.
const RENEW_EVERY: Duration = Duration::ZERO;
/// Every clock's reading at tick 0: ages never reach below zero.
const ORIGIN: u64 = 1_000;

pub(crate) const MOST_VOTERS: usize = 5;
pub(crate) const MOST_MANAGERS: usize = 2;
/// Generations that a run may reach: one for the adoption, each manager and each promotion that is given up.
const MOST_GENERATIONS: usize = 8;

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
    /// T, in ticks of a slow clock.
    pub(crate) lease: u8,
    /// f, in microseconds: a part of a tick, so that the last byte passes in the tick after the lease has ended.
    pub(crate) fence: u8,
    /// Manager processes. None of them ever ends, so that a manager that was replaced goes on.
    pub(crate) managers: usize,
    pub(crate) faults: Faults,
    /// How many choices of fast clocks: all but the first host's, whose server leads; only the first host's; with 3, every choice.
    pub(crate) clocks: usize,
}

impl Bounds {
    pub(crate) fn lease(&self) -> Duration {
        Duration::from_micros(SLOW) * u32::from(self.lease)
    }

    pub(crate) fn fence(&self) -> Duration {
        Duration::from_micros(u64::from(self.fence))
    }

    pub(crate) fn terms(&self, me: u8) -> Terms {
        Terms {
            me: host_name(me),
            voters: (0..self.voters as u8).map(host_name).collect(),
            majority: self.voters / 2 + 1,
            lease: self.lease(),
            renew_every: RENEW_EVERY,
            fence_within: self.fence(),
            clock_error_permille: CLOCK_ERROR_PERMILLE,
        }
    }

    /// Which hosts' clocks are fast, by bit.
    pub(crate) fn clocks(&self) -> Vec<u8> {
        let all = (1_u8 << self.voters) - 1;
        if self.clocks > 2 { (0..=all).collect() } else { [all - 1, 1][..self.clocks].to_vec() }
    }
}

/// Small, so that many fit: hosts and managers by their place in the [`Machine`]'s lists, where each local state is once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct World {
    pub(crate) t: u8,
    /// The last step broke something.
    pub(crate) broken: bool,
    /// Bit n: the clock of host n is fast.
    pub(crate) fast: u8,
    pub(crate) left: Faults,
    /// By generation: one more than the host that clients were let in to for it; zero before that.
    opened: [u8; MOST_GENERATIONS],
    pub(crate) hosts: [HostId; MOST_VOTERS],
    pub(crate) managers: [ManagerId; MOST_MANAGERS],
}

pub(crate) fn host_name(host: u8) -> String {
    format!("db{host}")
}

pub(crate) fn instance(host: u8) -> InstanceId {
    InstanceId::new(host_name(host), 3306)
}

/// The host of an instance.
pub(crate) fn host_of(instance: &InstanceId) -> u8 {
    instance.host.trim_start_matches("db").parse().expect("it was made of a number")
}

pub(crate) fn cluster() -> ClusterName {
    ClusterName("orders".to_owned())
}

/// What a clock shows at a tick.
pub(crate) fn shown(fast: bool, t: u8) -> Moment {
    Moment::from_micros(ORIGIN + u64::from(t) * if fast { FAST } else { SLOW })
}

/// The first tick at which a clock shows `local`.
pub(crate) fn tick_of(fast: bool, local: Moment) -> u8 {
    let rate = if fast { FAST } else { SLOW };
    let tick = local.as_micros().saturating_sub(ORIGIN).div_ceil(rate);
    u8::try_from(tick).unwrap_or(u8::MAX)
}

/// The first tick at which no byte passes any more, the kernel's timer and the last byte being as late as f allows.
pub(crate) fn last_byte(fast: bool, until: Moment, bounds: &Bounds) -> u8 {
    tick_of(fast, until + bounds.fence())
}

impl World {
    /// Hosts as they are before anything has happened.
    pub(crate) fn new(bounds: &Bounds, fast: u8, hosts: [HostId; MOST_VOTERS]) -> Self {
        let mut opened = [0; MOST_GENERATIONS];
        opened[1] = 1;
        Self {
            t: 0,
            broken: false,
            fast,
            left: bounds.faults,
            opened,
            hosts,
            managers: [ManagerId::NONE; MOST_MANAGERS],
        }
    }

    pub(crate) fn is_fast(&self, host: u8) -> bool {
        self.fast & (1 << host) != 0
    }

    /// The managers that have begun.
    pub(crate) fn led(&self) -> usize {
        self.managers.iter().filter(|manager| **manager != ManagerId::NONE).count()
    }

    /// The tick at which the lease of the adoption has surely run out.
    pub(crate) fn adopted_until(&self, bounds: &Bounds) -> u8 {
        last_byte(self.is_fast(0), shown(false, 0) + bounds.lease(), bounds)
    }

    /// The highest generation that clients were let in for.
    pub(crate) fn highest_open(&self) -> Generation {
        let highest = self.opened.iter().rposition(|holder| *holder != 0);
        Generation(highest.unwrap_or_default() as u64)
    }

    /// The kernel of a host was told to let clients pass for a generation. Gives what is wrong with that.
    pub(crate) fn let_in(&mut self, host: u8, generation: Generation) -> Option<String> {
        let highest = self.highest_open();
        let holder = &mut self.opened[generation.0 as usize];
        if *holder != 0 && *holder != host + 1 {
            return Some(format!("generation {generation} has a second holder, db{host}"));
        }
        *holder = host + 1;
        (generation < highest).then(|| format!("db{host} opens for generation {generation} after {highest}"))
    }

    /// What must hold in every state.
    pub(crate) fn broken(&self, machine: &Machine) -> Option<String> {
        let hosts = 0..machine.bounds.voters as u8;
        let open = || hosts.clone().filter(|host| machine.glance(self, *host).passes_until > self.t);
        (open().count() > 1).then(|| format!("clients pass at {:?} at once", open().collect::<Vec<_>>()))
    }
}
