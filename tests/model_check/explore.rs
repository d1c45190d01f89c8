//! Visits every state that the bounds allow, breadth first, so that the shortest way to a violation is found. On one thread: of two
//! runs within the same bounds both visit the same states in the same order.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::time::{Duration, Instant};

use mha::decide::lease::holder::{Kept, Role};
use mha::decide::lease::voter::{Claim, Claimed, Promises, Voter};
use mha::decide::plan::Proof;
use mha::model::ballot::Generation;

use super::actions::Action;
use super::host::{At, Host, Op, Said};
use super::manager::{Lead, Opens};
use super::memo::{HostId, Machine, Mixer};
use super::world::{Bounds, MOST_VOTERS, World, cluster, instance};

/// What must be found where all states were visited: a model in which nothing can happen does not pass.
pub(crate) const POSSIBLE: [&str; 4] = [
    "a promotion lets clients in",
    "the lease is renewed",
    "the lease runs out",
    "a promotion behind a fence lets clients in before the lease runs out",
];

/// No more are kept, for want of memory: 5 GB of it.
const MOST_STATES: usize = 60_000_000;

/// A hash is its own hash.
#[derive(Debug, Default, Clone, Copy)]
struct Same(u64);

impl Hasher for Same {
    fn write(&mut self, _: &[u8]) {
        unreachable!("only hashes are hashed by this");
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// What an exploration came to.
#[derive(Debug)]
pub(crate) struct Explored {
    pub(crate) states: usize,
    /// Steps of the longest way that was gone.
    pub(crate) depth: usize,
    /// Local states of hosts, and steps of them: so often did the shipped code run.
    pub(crate) local: (usize, usize),
    /// Every state within the bounds was visited.
    pub(crate) exhaustive: bool,
    pub(crate) violation: Option<String>,
    /// By place in [`POSSIBLE`].
    pub(crate) found: [bool; POSSIBLE.len()],
}

struct Explorer {
    machine: Machine,
    /// By hash of a state, that of the state it was first reached from.
    from: HashMap<u64, u64, BuildHasherDefault<Same>>,
    next: Vec<World>,
    found: [bool; POSSIBLE.len()],
}

fn hash_of(world: &World) -> u64 {
    let mut mixer = Mixer::default();
    world.hash(&mut mixer);
    mixer.finish()
}

/// As far as the time allows.
#[expect(clippy::disallowed_methods, reason = "how long a check may take")]
pub(crate) fn explore(bounds: Bounds, time: Duration) -> Explored {
    let until = Instant::now() + time;
    let machine = Machine::new(bounds);
    let (from, next) = (HashMap::default(), Vec::new());
    let mut explorer = Explorer { machine, from, next, found: [false; POSSIBLE.len()] };
    for fast in bounds.clocks() {
        let world = explorer.machine.adopted(fast);
        explorer.reached(world, None);
    }
    let (mut depth, mut violation) = (0, None);
    'all: while !explorer.next.is_empty() {
        let level = std::mem::take(&mut explorer.next);
        depth += 1;
        for (nth, world) in level.iter().enumerate() {
            violation = explorer.steps(world);
            if violation.is_some()
                || (nth % 1_024 == 0 && (Instant::now() >= until || explorer.from.len() > MOST_STATES))
            {
                break 'all;
            }
        }
    }
    Explored {
        states: explorer.from.len(),
        depth,
        local: explorer.machine.sizes(),
        exhaustive: violation.is_none() && explorer.next.is_empty(),
        violation,
        found: explorer.found,
    }
}

impl Explorer {
    /// Everything that may happen next; gives the first thing that must not.
    fn steps(&mut self, world: &World) -> Option<String> {
        let mut actions = Vec::new();
        self.machine.actions(world, &mut actions);
        let before = hash_of(world);
        for action in actions {
            let after = self.machine.after(world, action);
            if let Some(broken) = self.machine.violation.take() {
                return Some(self.told(&broken, world, action));
            }
            if after != *world {
                self.reached(after, Some(before));
            }
        }
        None
    }

    fn reached(&mut self, world: World, before: Option<u64>) {
        let hash = hash_of(&world);
        if let Entry::Vacant(place) = self.from.entry(hash) {
            place.insert(before.unwrap_or(hash));
            let passes_until = self.machine.passes_until(world.hosts[0]);
            let (first, until) =
                (world.highest_open() == Generation(1), world.adopted_until(&self.machine.bounds));
            let seen = [
                !first,
                first && passes_until > until,
                first && (1..=world.t).contains(&passes_until),
                !first && world.t < until,
            ];
            for (found, seen) in self.found.iter_mut().zip(seen) {
                *found |= seen;
            }
            self.next.push(world);
        }
    }

    /// A violation, and the way to it.
    fn told(&mut self, broken: &str, last: &World, action: Action) -> String {
        let mut way = vec![hash_of(last)];
        while let Some(before) =
            way.last().map(|hash| self.from[hash]).filter(|before| Some(before) != way.last())
        {
            way.push(before);
        }
        let mut steps = Vec::new();
        let clocks = self.machine.bounds.clocks();
        let starts: Vec<World> = clocks.into_iter().map(|fast| self.machine.adopted(fast)).collect();
        let mut world = starts.into_iter().find(|world| Some(&hash_of(world)) == way.last());
        for hash in way.iter().rev().skip(1) {
            let Some(before) = world else { break };
            let mut actions = Vec::new();
            self.machine.actions(&before, &mut actions);
            let step = actions.into_iter().map(|action| (action, self.machine.after(&before, action)));
            let step = step.collect::<Vec<_>>().into_iter().find(|(_, after)| hash_of(after) == *hash);
            world = step.map(|(_, after)| after);
            steps.extend(step.map(|(action, _)| format!("  {action:?}")));
        }
        steps.push(format!("  {action:?}"));
        format!("{broken}, with fast clocks {:b}, after\n{}", last.fast, steps.join("\n"))
    }
}

impl Machine {
    /// The first server has just been told to lead generation 1, and asks every voter; the others are its replicas.
    fn adopted(&mut self, fast: u8) -> World {
        let bounds = self.bounds;
        let (lead, generation) = (Lead { number: 1, manager: 0 }, Generation(1));
        let mut hosts = [HostId::NONE; MOST_VOTERS];
        for host in 0..bounds.voters as u8 {
            let at = At { host, t: 0, fast: fast & (1 << host) != 0 };
            let now = at.now();
            let mut voter = Voter::restored(Promises::default(), now);
            let (claimed, _) = voter.claim(&adoption(lead, generation), now);
            assert_eq!(claimed, Claimed::Accepted { outstanding: Vec::new() });
            let role = if host == 0 { Role::Unknown } else { Role::Replica };
            let kept = (usize::from(host) < bounds.members).then_some(Kept { role, ..Kept::default() });
            let adopted = Host::adopted(bounds.terms(host), voter, kept, now);
            hosts[usize::from(host)] = self.put_host(adopted, at);
        }
        let mut world = World::new(&bounds, fast, hosts);
        let order = Opens { generation, target: 0, epoch: 0 };
        assert_eq!(self.host_does(&mut world, 0, Op::Open { lead, order }), Said::Done);
        world
    }
}

fn adoption(lead: Lead, generation: Generation) -> Claim {
    Claim {
        cluster: cluster(),
        ballot: lead.ballot(),
        generation,
        candidate: instance(0),
        proof: Proof::Adoption,
        released: Vec::new(),
    }
}
