//! The model as the checker takes it: breadth first, so that the shortest way to a violation is found. On one thread: of two runs within
//! the same bounds both visit the same states in the same order.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mha::decide::lease::holder::{Kept, Role};
use mha::decide::lease::voter::{Claim, Claimed, Promises, Voter};
use mha::decide::plan::Proof;
use mha::model::ballot::Generation;
use stateright::{Checker as _, HasDiscoveries, Model, Path, Property};

use super::actions::Action;
use super::host::Host;
use super::manager::{Lead, Opens};
use super::memo::{HostId, Machine};
use super::op::{At, Op, Said};
use super::world::{Bounds, MOST_VOTERS, World, cluster, instance};

const SAFE: &str = "nothing is broken";

/// What must be found where all states were visited: a model in which nothing can happen does not pass.
pub(crate) const POSSIBLE: [&str; 4] = [
    "a promotion lets clients in",
    "the lease is renewed",
    "the lease runs out",
    "a promotion behind a fence lets clients in before the lease runs out",
];

/// No more are begun, for want of memory: 5 GB of it.
const MOST_STATES: usize = 30_000_000;

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

/// The protocol within its bounds. The machine is what was computed so far; it changes no state.
struct Protocol {
    machine: Mutex<Machine>,
    until: Instant,
    visited: AtomicUsize,
    /// Time or memory was used up before everything was visited.
    given_up: AtomicBool,
}

impl Protocol {
    fn machine(&self) -> MutexGuard<'_, Machine> {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[expect(clippy::disallowed_methods, reason = "how long a check may take")]
    fn gives_up(&self) -> bool {
        let nth = self.visited.fetch_add(1, Ordering::Relaxed);
        if nth.is_multiple_of(1_024) && (Instant::now() >= self.until || nth > MOST_STATES) {
            self.given_up.store(true, Ordering::Relaxed);
        }
        self.given_up.load(Ordering::Relaxed)
    }
}

impl Model for Protocol {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        let mut machine = self.machine();
        machine.bounds.clocks().into_iter().map(|fast| machine.adopted(fast)).collect()
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        if !self.gives_up() {
            self.machine().actions(world, actions);
        }
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        let mut machine = self.machine();
        let mut after = machine.after(world, action);
        after.broken = machine.violation.take().is_some();
        (after != *world).then_some(after)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let [opens, renews, ends, fences] = POSSIBLE;
        vec![
            Property::always(SAFE, |_: &Self, world: &World| !world.broken),
            Property::sometimes(opens, |_: &Self, world: &World| world.highest_open() > Generation(1)),
            Property::sometimes(renews, |model: &Self, world: &World| {
                let machine = model.machine();
                let adopted = world.highest_open() == Generation(1);
                adopted && machine.glance(world, 0).passes_until > world.adopted_until(&machine.bounds)
            }),
            Property::sometimes(ends, |model: &Self, world: &World| {
                let passes_until = model.machine().glance(world, 0).passes_until;
                world.highest_open() == Generation(1) && (1..=world.t).contains(&passes_until)
            }),
            Property::sometimes(fences, |model: &Self, world: &World| {
                let until = world.adopted_until(&model.machine().bounds);
                world.highest_open() > Generation(1) && world.t < until
            }),
        ]
    }
}

/// As far as the time allows.
#[expect(clippy::disallowed_methods, reason = "how long a check may take")]
pub(crate) fn explore(bounds: Bounds, time: Duration) -> Explored {
    let protocol = Protocol {
        machine: Mutex::new(Machine::new(bounds)),
        until: Instant::now() + time,
        visited: AtomicUsize::new(0),
        given_up: AtomicBool::new(false),
    };
    let checked = protocol.checker().threads(1).finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    let given_up = checked.model().given_up.load(Ordering::Relaxed);
    let mut discoveries = checked.discoveries();
    let violation = discoveries.remove(SAFE).map(|path| told(checked.model(), path));
    let local = checked.model().machine().sizes();
    Explored {
        states: checked.unique_state_count(),
        depth: checked.max_depth(),
        local,
        exhaustive: violation.is_none() && !given_up,
        violation,
        found: POSSIBLE.map(|name| discoveries.contains_key(name)),
    }
}

/// A violation, and the way to it.
fn told(model: &Protocol, path: Path<World, Action>) -> String {
    let mut machine = model.machine();
    let (mut steps, mut broken, mut fast) = (Vec::new(), None, 0);
    for (world, action) in path.into_vec() {
        let Some(action) = action else { continue };
        steps.push(format!("  {action:?}"));
        machine.after(&world, action);
        (broken, fast) = (machine.violation.take(), world.fast);
    }
    format!("{}, with fast clocks {fast:b}, after\n{}", broken.unwrap_or_default(), steps.join("\n"))
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
