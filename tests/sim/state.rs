//! The whole simulated world in one value, its queue of events, and what is recorded of a run.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use mha::decide::lease::voter::Renewed;
use mha::execute::journal::Recovery;
use mha::model::ballot::{Ballot, Generation};
use mha::model::cluster::{Cluster, ClusterName, Member, Mode, Promotion, VipAddress, Voter};
use mha::model::extra::Remedy;
use mha::model::gtid::GtidSet;
use mha::model::instance::InstanceId;
use mha::model::intent::FailoverAsk;
use mha::model::policy::{Durability, Policy};
use mha::model::record::ClusterRecord;
use mha::model::time::Moment;
use tokio::sync::Notify;

use super::basics::{Clock, Dice, Options, Planted};
use super::by_hand::ByHand;
use super::check::{Acked, Basis, Opened};
use super::faults::Fault;
use super::host::{Filter, Host};
use super::links::Links;
use super::server::{Marks, Server, Tx, Written};
use super::story::Told;
use super::switchover::Switching;

/// Something that happens at a time of its own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Event {
    Write,
    Connect(usize),
    RestartedByHand(usize),
    Deliver {
        replica: usize,
        stream: u64,
    },
    Acked {
        source: usize,
        replica: usize,
        stream: u64,
        to: usize,
    },
    Beat {
        replica: usize,
        stream: u64,
    },
    Apply(usize),
    Tick(usize),
    Renew {
        round: usize,
        voter: usize,
    },
    Renewed {
        round: usize,
        voter: usize,
        reply: usize,
    },
    Compare {
        host: usize,
        incarnation: u64,
    },
    ProcessSeen(usize),
    Strike,
    Hit(Fault),
    Mend(Fault),
    MendAll,
    ManagerDies {
        m: usize,
        tries: u32,
    },
    Judge,
    Succeed(usize),
    /// The operator asks for the planned switchover of that number, for the so-many-th time.
    Switch {
        index: usize,
        tries: u32,
    },
    /// A privileged session commits on a server that takes no writes.
    LateCommit(usize),
    /// A statement that nobody waits for any more: it closes the server when that goes on.
    LateClose {
        server: usize,
        boot: u64,
    },
}

/// A manager's durable store.
#[derive(Debug, Clone, Default)]
pub(crate) struct Store {
    pub(crate) id: String,
    pub(crate) ballot: u64,
    pub(crate) record: Option<ClusterRecord>,
    pub(crate) recoveries: Vec<Recovery>,
    /// What an operator asks for, until it is answered.
    pub(crate) ask: Option<FailoverAsk>,
    /// The real one beside it, where a test looks at what a successor finds.
    pub(crate) disk: Option<mha::store::Store>,
}

impl Store {
    pub(crate) fn unfinished(&self) -> Option<&Recovery> {
        self.recoveries.iter().find(|recovery| recovery.outcome().is_none())
    }
}

pub(crate) type Round = (usize, u64, Generation, Moment, Duration);

pub(crate) struct Sim {
    pub(crate) opts: Options,
    pub(crate) dice: Dice,
    /// Milliseconds since the run began.
    pub(crate) t: u64,
    pub(crate) queue: BinaryHeap<Reverse<(u64, u64, Event)>>,
    pub(crate) events: u64,
    pub(crate) wake: Rc<Notify>,
    pub(crate) cluster: Cluster,
    pub(crate) txs: Vec<Written>,
    pub(crate) servers: Vec<Server>,
    pub(crate) hosts: Vec<Host>,
    pub(crate) stores: Vec<Store>,
    pub(crate) manager_up: Vec<bool>,
    pub(crate) manager_clock: Clock,
    /// `cut[a][b]`: nothing gets from a to b. Hosts, then managers, then the clients.
    pub(crate) cut: Vec<Vec<bool>>,
    pub(crate) rounds: Vec<Round>,
    pub(crate) renewals: Vec<Renewed>,
    pub(crate) streams_made: u64,
    pub(crate) sets: BTreeMap<Marks, GtidSet>,
    pub(crate) acked: Vec<Acked>,
    pub(crate) opened: Vec<Opened>,
    pub(crate) passed_over: BTreeSet<Tx>,
    /// What accepted promotions rest on, by generation and by whom they are to let in: of several that want one generation the voters
    /// give it to one.
    pub(crate) bases: BTreeMap<(u64, usize, usize), Basis>,
    /// Whose generation it is.
    pub(crate) generations: BTreeMap<u64, usize>,
    /// What stopped replicas had, by manager.
    pub(crate) stopped: Vec<Vec<(usize, Marks)>>,
    /// The highest ballot for which a voter has refused a manager's claim.
    pub(crate) outbid: Vec<Ballot>,
    /// How many of the operator's asks about replicas are dealt with.
    pub(crate) asked: usize,
    pub(crate) strikes: usize,
    pub(crate) kinds: BTreeSet<u64>,
    pub(crate) mended: bool,
    pub(crate) mended_at: u64,
    pub(crate) restart_first: bool,
    /// Managers whose process stands still.
    pub(crate) stalled: Vec<bool>,
    pub(crate) switching: Switching,
    /// What a manager last said of the cluster.
    pub(crate) sentence: String,
    pub(crate) settled: bool,
    pub(crate) counters: BTreeMap<&'static str, u64>,
    pub(crate) trace: Vec<String>,
    pub(crate) hash: u64,
    pub(crate) violation: Option<String>,
    pub(crate) told: Told,
    /// Where the first manager's store is, in a story.
    pub(crate) directory: Option<tempfile::TempDir>,
    pub(crate) recoveries_made: usize,
    pub(crate) links: Links,
    pub(crate) by_hand: ByHand,
}

/// Managers a run may have: the second lives on a copy of the first one's store.
pub(crate) const MANAGERS: usize = 2;

impl Sim {
    pub(crate) fn new(opts: Options) -> Self {
        let mut dice = Dice::new(opts.seed ^ 0x5EED);
        let members = opts.members;
        let all = members + usize::from(members.is_multiple_of(2));
        // As late as it may be, but for what steps of whole milliseconds round off.
        let latest = Policy::default().fence_within.as_millis() as u64 * 14 / 15;
        let hosts: Vec<Host> = (0..all)
            .map(|h| {
                let clock = Clock::new(&mut dice);
                Host::new(clock, h < members, dice.below(latest))
            })
            .collect();
        let servers = (0..members)
            .map(|s| {
                let mut server =
                    Server { up: true, boot: 1, read_only: s != 0, acks: 1, slow: 8, ..Server::default() };
                server.source = (s != 0).then_some(0);
                (server.io, server.sql) = (s != 0, s != 0);
                server
            })
            .collect();
        let parties = all + MANAGERS + 1;
        let store = Store { id: "m0".to_owned(), ..Store::default() };
        let mut sim = Self {
            cluster: cluster(&opts, all, &mut dice),
            manager_clock: Clock::new(&mut dice),
            links: Links::of(opts.seed, members),
            by_hand: ByHand::of(opts.seed),
            opts,
            dice,
            t: 0,
            queue: BinaryHeap::new(),
            events: 0,
            wake: Rc::new(Notify::new()),
            txs: Vec::new(),
            servers,
            hosts,
            stores: vec![store; MANAGERS],
            manager_up: vec![false; MANAGERS],
            cut: vec![vec![false; parties]; parties],
            rounds: Vec::new(),
            renewals: Vec::new(),
            streams_made: 0,
            sets: BTreeMap::new(),
            acked: Vec::new(),
            opened: Vec::new(),
            passed_over: BTreeSet::new(),
            bases: BTreeMap::new(),
            generations: BTreeMap::new(),
            stopped: vec![Vec::new(); MANAGERS],
            outbid: vec![Ballot::default(); MANAGERS],
            asked: 0,
            strikes: 0,
            kinds: BTreeSet::new(),
            mended: false,
            mended_at: 0,
            restart_first: false,
            stalled: vec![false; MANAGERS],
            switching: Switching::default(),
            sentence: String::new(),
            settled: false,
            counters: BTreeMap::new(),
            trace: Vec::new(),
            hash: 0xcbf2_9ce4_8422_2325,
            violation: None,
            told: Told::default(),
            directory: None,
            recoveries_made: 0,
        };
        sim.hosts[0].filter = Filter::Open;
        for h in 0..all {
            sim.start_agent(h);
        }
        for s in 1..members {
            sim.connect_later(s, 5);
        }
        sim.after(50, Event::Write);
        for (index, switch) in sim.opts.switches.clone().into_iter().enumerate() {
            sim.after(switch.at, Event::Switch { index, tries: 0 });
        }
        sim
    }

    pub(crate) fn instance(&self, s: usize) -> InstanceId {
        InstanceId::new(self.host_name(s), 3306)
    }

    pub(crate) fn host_name(&self, h: usize) -> String {
        format!("db{h}")
    }

    pub(crate) fn index(&self, instance: &InstanceId) -> usize {
        instance.host.trim_start_matches("db").parse().unwrap_or(0)
    }

    pub(crate) fn manager_party(&self, m: usize) -> usize {
        self.hosts.len() + m
    }

    pub(crate) fn client_party(&self) -> usize {
        self.hosts.len() + MANAGERS
    }

    /// Both ways.
    pub(crate) fn talk(&self, a: usize, b: usize) -> bool {
        a == b || (!self.cut[a][b] && !self.cut[b][a])
    }

    pub(crate) fn client_link(&self, s: usize) -> bool {
        self.hosts[s].on && self.talk(self.client_party(), s)
    }

    pub(crate) fn now_of_manager(&self) -> Moment {
        self.manager_clock.read(self.t)
    }

    pub(crate) fn after(&mut self, delay: u64, event: Event) {
        self.events += 1;
        let at = self.t + delay.max(1);
        if self.queue.peek().is_none_or(|Reverse((next, _, _))| at < *next) {
            self.wake.notify_one();
        }
        self.queue.push(Reverse((at, self.events, event)));
    }

    /// A datagram between hosts: sometimes late, lost where cut.
    pub(crate) fn send(&mut self, from: usize, to: usize, event: Event) {
        if from != to && (self.cut[from][to] || !self.hosts[to].on || self.dice.one_in(60)) {
            return;
        }
        let delay = if self.dice.one_in(15) { self.dice.range(5, 300) } else { self.dice.range(1, 3) };
        self.after(delay, event);
    }

    pub(crate) fn say(&mut self, text: String) {
        self.mix(text.as_bytes());
        self.trace.push(format!("{:>7} ms  {text}", self.t));
    }

    pub(crate) fn mix(&mut self, bytes: &[u8]) {
        for byte in self.t.to_le_bytes().iter().chain(bytes) {
            self.hash = (self.hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    pub(crate) fn count(&mut self, what: &'static str) {
        *self.counters.entry(what).or_default() += 1;
    }

    pub(crate) fn violate(&mut self, what: String) {
        if self.violation.is_none() {
            self.say(format!("VIOLATION {what}"));
            self.violation = Some(what);
            self.wake.notify_one();
        }
    }

    pub(crate) fn handle(&mut self, event: Event) {
        match event {
            Event::Write => self.write(),
            Event::Connect(r) => self.connect(r),
            Event::Deliver { replica, stream } => self.deliver(replica, stream),
            Event::Acked { source, replica, stream, to } => self.acked(source, replica, stream, to),
            Event::Beat { replica, stream } => self.beat(replica, stream),
            Event::Apply(s) => self.apply(s),
            Event::Tick(h) => self.tick(h),
            Event::Renew { round, voter } => self.on_renew(round, voter),
            Event::Renewed { round, voter, reply } => self.on_renewed(round, voter, reply),
            Event::Compare { host, incarnation } => self.compare(host, incarnation),
            Event::ProcessSeen(h) => self.process_seen(h),
            Event::Strike => self.strike(),
            Event::RestartedByHand(s) => self.restart_replication(s),
            Event::Hit(fault) => self.hit(&fault),
            Event::Mend(fault) => self.mend(&fault),
            Event::MendAll => self.mend_all(),
            Event::ManagerDies { m, tries } => self.manager_dies(m, tries),
            Event::Judge => self.judge(),
            Event::Succeed(m) => self.succeed(m),
            Event::Switch { index, tries } => self.ask_to_switch(index, tries),
            Event::LateCommit(s) => self.late_commit(s),
            Event::LateClose { server, boot } => self.late_close(server, boot),
        }
    }

    /// Clients write all the time: through the VIP, and some at a server's own address.
    fn write(&mut self) {
        let next = self.dice.range(60, 180);
        self.after(next, Event::Write);
        let by_address = self.dice.one_in(3) || self.opened.is_empty();
        for s in 0..self.servers.len() {
            let reaches = self.client_link(s) && self.passes(s) && self.answers(s);
            if reaches && (by_address || self.has_vip(s)) {
                self.write_at(s);
            }
        }
    }
}

fn cluster(opts: &Options, hosts: usize, dice: &mut Dice) -> Cluster {
    let members = (0..opts.members)
        .map(|s| Member {
            instance: InstanceId::new(format!("db{s}"), 3306),
            promotion: if s > 0 && dice.one_in(6) { Promotion::Prefer } else { Promotion::Allow },
            zone: None,
            agent: Some(format!("http://db{s}:7000")),
        })
        .collect();
    let voters =
        (0..hosts).map(|h| Voter { host: format!("db{h}"), url: format!("http://db{h}:7000") }).collect();
    Cluster {
        name: ClusterName("orders".to_owned()),
        mode: Mode::Auto,
        members,
        vip: Some(VipAddress {
            address: IpAddr::from([10, 0, 0, 10]),
            prefix: 24,
            interface: "eth0".to_owned(),
        }),
        traffic: None,
        voters,
        policy: Policy {
            durability: opts.durability,
            without_ackers: opts.without_ackers,
            acks: opts.acks,
            silence: Duration::from_millis(opts.silence),
            catch_up: Duration::from_secs(15),
            salvage_async: Duration::from_secs(2),
            budget: 50,
            extra_transactions: match opts.durability {
                Durability::Lossless => Remedy::Flashback,
                Durability::Async => Remedy::Park,
            },
            ..Policy::default()
        },
    }
}

impl Sim {
    pub(crate) fn planted(&self, what: Planted) -> bool {
        self.opts.planted == what
    }
}
