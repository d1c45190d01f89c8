//! Every local state of a host or a manager once, and what comes of each step of a host: the shipped code runs once for each pair of a
//! local state and what happens to it, however many states of the whole have both.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hash, Hasher};

use mha::decide::lease::voter::{Promises, Renewed, Voter};
use mha::model::ballot::Generation;
use mha::model::time::Moment;

use super::host::{Glance, Host, Known};
use super::manager::{Lead, Manager};
use super::op::{At, Op, Said};
use super::world::{Bounds, World};

/// Where a host's state is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct HostId(u32);

/// Where a manager's state is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ManagerId(u32);

impl HostId {
    /// No such host.
    pub(crate) const NONE: Self = Self(u32::MAX);
}

impl ManagerId {
    /// Not begun.
    pub(crate) const NONE: Self = Self(u32::MAX);
}

/// A quick hash of a few words, for values that no stranger chooses.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Mixer(u64);

impl Hasher for Mixer {
    fn write_u64(&mut self, word: u64) {
        let factor = 0xa076_1d64_78bd_642f_u64;
        let product = u128::from(self.0 ^ word.wrapping_add(0x9e37_79b9_7f4a_7c15)) * u128::from(factor);
        self.0 = (product as u64) ^ ((product >> 64) as u64);
    }

    fn write(&mut self, bytes: &[u8]) {
        for part in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..part.len()].copy_from_slice(part);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u8(&mut self, n: u8) {
        self.write_u64(u64::from(n));
    }

    fn write_u32(&mut self, n: u32) {
        self.write_u64(u64::from(n));
    }

    fn write_usize(&mut self, n: usize) {
        self.write_u64(n as u64);
    }

    fn write_isize(&mut self, n: isize) {
        self.write_u64(n as u64);
    }

    fn finish(&self) -> u64 {
        let mut last = *self;
        last.write_u64(1);
        last.0
    }
}

pub(crate) type Mixed = BuildHasherDefault<Mixer>;

/// Values, one of each that has a key.
#[derive(Debug)]
pub(crate) struct Once<T, K = T> {
    all: Vec<T>,
    places: HashMap<K, u32, Mixed>,
}

impl<T, K: Hash + Eq> Once<T, K> {
    fn new() -> Self {
        Self { all: Vec::new(), places: HashMap::default() }
    }

    /// Where the first value of this key is.
    fn put_as(&mut self, key: K, value: T) -> u32 {
        let all = &mut self.all;
        *self.places.entry(key).or_insert_with(|| {
            all.push(value);
            all.len() as u32 - 1
        })
    }

    pub(crate) fn get(&self, place: u32) -> &T {
        &self.all[place as usize]
    }
}

impl<T: Hash + Eq + Clone> Once<T> {
    pub(crate) fn put(&mut self, value: T) -> u32 {
        self.put_as(value.clone(), value)
    }
}

/// What comes of a step of a host.
#[derive(Debug, Clone, Copy)]
struct Done {
    host: HostId,
    said: Said,
    lets_in: Option<Generation>,
    forgot: bool,
}

#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) bounds: Bounds,
    hosts: Once<Host, Known>,
    /// By place of a host.
    glances: Vec<Glance>,
    managers: Once<Manager>,
    pub(crate) answers: Once<Renewed>,
    done: HashMap<(HostId, At, Op), Done, Mixed>,
    /// Whether a voter that obeys the first may obey the second.
    yields: HashMap<(Lead, Lead), bool, Mixed>,
    /// What the last steps broke.
    pub(crate) violation: Option<String>,
}

impl Machine {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            hosts: Once::new(),
            glances: Vec::new(),
            managers: Once::new(),
            answers: Once::new(),
            done: HashMap::default(),
            yields: HashMap::default(),
            violation: None,
        }
    }

    pub(crate) fn put_host(&mut self, host: Host, at: At) -> HostId {
        if !self.yields.contains_key(&(host.obeyed, host.obeyed)) {
            self.compare_ballots(host.obeyed);
        }
        let (known, glance) = (host.known(at, &self.bounds), host.glance());
        let place = self.hosts.put_as(known, host);
        if place as usize == self.glances.len() {
            self.glances.push(glance);
        }
        HostId(place)
    }

    /// Asks the shipped voter once for each two ballots there are.
    fn compare_ballots(&mut self, lead: Lead) {
        let known: Vec<Lead> = self.yields.keys().map(|(lead, _)| *lead).chain([lead]).collect();
        for other in known {
            for (obeyed, asked) in [(lead, other), (other, lead)] {
                let promises = Promises { ballot: obeyed.ballot(), ..Promises::default() };
                let obeys = Voter::restored(promises, Moment::ZERO).obeys(&asked.ballot());
                self.yields.insert((obeyed, asked), obeys);
            }
        }
    }

    pub(crate) fn yields(&self, obeyed: Lead, asked: Lead) -> bool {
        self.yields[&(obeyed, asked)]
    }

    pub(crate) fn put_manager(&mut self, manager: Manager) -> ManagerId {
        ManagerId(self.managers.put(manager))
    }

    pub(crate) fn manager(&self, world: &World, manager: u8) -> Manager {
        *self.managers.get(world.managers[usize::from(manager)].0)
    }

    pub(crate) fn host(&self, world: &World, host: u8) -> &Host {
        self.hosts.get(world.hosts[usize::from(host)].0)
    }

    pub(crate) fn glance(&self, world: &World, host: u8) -> Glance {
        self.glances[world.hosts[usize::from(host)].0 as usize]
    }

    /// How many local states of hosts there are, and how many steps of them.
    pub(crate) fn sizes(&self) -> (usize, usize) {
        (self.hosts.all.len(), self.done.len())
    }

    /// Something happens to one host.
    pub(crate) fn host_does(&mut self, world: &mut World, host: u8, op: Op) -> Said {
        let at = At { host, t: world.t, fast: world.is_fast(host) };
        let key = (world.hosts[usize::from(host)], at, op);
        let done = match self.done.get(&key) {
            Some(done) => *done,
            None => {
                let mut changed = self.hosts.get(key.0.0).clone();
                let (said, lets_in) = changed.does(op, at, self);
                let done = Done { forgot: changed.forgot(), host: self.put_host(changed, at), said, lets_in };
                self.done.insert(key, done);
                done
            }
        };
        world.hosts[usize::from(host)] = done.host;
        if done.forgot {
            self.violation.get_or_insert_with(|| format!("db{host} forgot a promise it had told"));
        }
        if let Some(broken) = done.lets_in.and_then(|generation| world.let_in(host, generation)) {
            self.violation.get_or_insert(broken);
        }
        done.said
    }
}
