//! One host: its clock, its kernel (which holds the lease without a process), and its agent, which runs the real voter and holder
//! machines over a disk that keeps what was synced.

use std::time::Duration;

use mha::decide::lease::Terms;
use mha::decide::lease::holder::{Effect, Holder, Input, Kept, Role, Start, unheard};
use mha::decide::lease::refusal::Refusal;
use mha::decide::lease::voter::{Promises, Renew, Renewed, Voter};
use mha::execute::world::Orders;
use mha::model::ballot::Generation;
use mha::model::observation::{Access, AgentStatus, Probe, Process, Unseen, Vantage};
use mha::model::time::Moment;

use super::basics::{Clock, Planted};
use super::server::Tx;
use super::state::{Event, Sim};

/// What the kernel does with clients' bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Filter {
    Open,
    /// By its own timer, on the host's clock.
    Until(Moment),
    Closed,
}

#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) voter: Voter,
    /// `None` on a witness.
    pub(crate) holder: Option<Holder>,
    /// The server process it knows to run.
    pub(crate) sees_server: bool,
}

#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) on: bool,
    pub(crate) frozen: bool,
    pub(crate) clock: Clock,
    pub(crate) agent: Option<Agent>,
    /// Grows with each start of the agent.
    pub(crate) life: u64,
    pub(crate) boot: u64,
    // What survives the agent's process.
    pub(crate) promises: Promises,
    pub(crate) kept: Kept,
    pub(crate) kept_boot: u64,
    pub(crate) kept_server: u64,
    pub(crate) acks: u32,
    pub(crate) has_server: bool,
    /// An order about its server's replication is being done.
    pub(crate) turning: bool,
    /// What its agent remembers of the orders that it was given.
    pub(crate) ordered: Orders,
    /// A manager's order left its replication standing; its agent forgets that when it restarts.
    pub(crate) stopped_by_order: bool,
    // The kernel.
    pub(crate) filter: Filter,
    pub(crate) vip: Option<Moment>,
    /// Replicas' connections that pass although it is closed.
    pub(crate) spared: Vec<u64>,
    /// How late its timers are, within f.
    pub(crate) late: u64,
    pub(crate) ticks_at: Option<u64>,
    /// Highest ballot number this host has done anything under; the checker's own memory.
    pub(crate) obeyed: u64,
    /// What its voter last answered upon; the checker's own memory.
    pub(crate) sworn: (u64, Generation),
}

impl Host {
    pub(crate) fn new(clock: Clock, has_server: bool, late: u64) -> Self {
        Self {
            on: true,
            frozen: false,
            clock,
            agent: None,
            life: 0,
            boot: 1,
            promises: Promises::default(),
            kept: Kept::default(),
            kept_boot: 1,
            kept_server: 0,
            acks: 0,
            has_server,
            turning: false,
            ordered: Orders::default(),
            stopped_by_order: false,
            filter: Filter::Open,
            vip: None,
            spared: Vec::new(),
            late,
            ticks_at: None,
            obeyed: 0,
            sworn: (0, Generation(0)),
        }
    }
}

impl Sim {
    pub(crate) fn now_at(&self, h: usize) -> Moment {
        self.hosts[h].clock.read(self.t)
    }

    /// A client's bytes pass this host's filter.
    pub(crate) fn passes(&self, h: usize) -> bool {
        match self.hosts[h].filter {
            Filter::Until(_) if self.planted(Planted::NoTimeout) => true,
            Filter::Open => true,
            Filter::Closed => false,
            Filter::Until(until) => self.t < self.hosts[h].clock.shows(until) + self.hosts[h].late,
        }
    }

    /// It answers for the cluster's address.
    pub(crate) fn has_vip(&self, h: usize) -> bool {
        if self.planted(Planted::NoTimeout) {
            return self.hosts[h].on && self.hosts[h].vip.is_some();
        }
        let ends = |until| self.hosts[h].clock.shows(until) + self.hosts[h].late;
        self.hosts[h].on && self.hosts[h].vip.is_some_and(|until| self.t < ends(until))
    }

    /// The agent runs and is not stopped.
    pub(crate) fn agent_answers(&self, h: usize) -> bool {
        self.hosts[h].on && !self.hosts[h].frozen && self.hosts[h].agent.is_some()
    }

    fn terms(&self, h: usize) -> Terms {
        let voters = self.cluster.voters.iter().map(|voter| voter.host.clone()).collect();
        Terms::new(&self.host_name(h), voters, &self.cluster.policy)
    }

    pub(crate) fn start_agent(&mut self, h: usize) {
        if !self.hosts[h].on || self.hosts[h].agent.is_some() {
            return;
        }
        let now = self.now_at(h);
        let up = self.hosts[h].has_server && self.servers[h].up;
        let until = match self.hosts[h].filter {
            Filter::Until(until) => Some(until),
            Filter::Open | Filter::Closed => None,
        };
        if self.planted(Planted::ForgetfulVoter) {
            self.hosts[h].promises = Promises::default();
        }
        let host = &self.hosts[h];
        let start = Start {
            same_boot: host.kept_boot == host.boot,
            until,
            server_up: up,
            same_server: host.has_server && host.kept_server == self.servers[h].boot,
            resuming: false,
        };
        let voter = Voter::restored(host.promises.clone(), now);
        let restored = host.has_server.then(|| Holder::restored(self.terms(h), host.kept, start, now));
        let (holder, effects) =
            restored.map_or((None, Vec::new()), |(holder, effects)| (Some(holder), effects));
        let host = &mut self.hosts[h];
        host.life += 1;
        host.agent = Some(Agent { voter, holder, sees_server: up });
        host.kept_boot = host.boot;
        self.keep_server(h);
        self.carry_out(h, effects);
    }

    /// The run file names the process it watches.
    fn keep_server(&mut self, h: usize) {
        if self.hosts[h].has_server && self.servers[h].up {
            self.hosts[h].kept_server = self.servers[h].boot;
        }
    }

    pub(crate) fn stop_agent(&mut self, h: usize) {
        (self.hosts[h].agent, self.hosts[h].turning) = (None, false);
        self.hosts[h].ordered = Orders::default();
        self.hosts[h].stopped_by_order = false;
        self.hosts[h].life += 1;
    }

    /// Gives the holder what happened and does what it says, in order.
    pub(crate) fn feed(&mut self, h: usize, input: Input) -> Result<(), Refusal> {
        let now = self.now_at(h);
        let Some(holder) = self.hosts[h].agent.as_mut().and_then(|agent| agent.holder.as_mut()) else {
            return Ok(());
        };
        let effects = holder.handle(input, now)?;
        self.carry_out(h, effects);
        Ok(())
    }

    fn carry_out(&mut self, h: usize, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Persist => {
                    if let Some(holder) = self.holder(h) {
                        self.hosts[h].kept = holder.kept();
                    }
                }
                Effect::SendRenew { generation, lasts } => self.send_renewals(h, generation, lasts),
                Effect::Close => {
                    if self.hosts[h].filter != Filter::Closed {
                        self.say(format!("db{h} closed to clients"));
                    }
                    self.hosts[h].filter = Filter::Closed;
                }
                Effect::HoldOpen { until } => self.hold_open(h, until),
                Effect::Admit => self.hosts[h].filter = Filter::Open,
                Effect::HoldVip { until } => {
                    if !self.has_vip(h) {
                        self.say(format!("db{h} takes the VIP"));
                    }
                    self.hosts[h].vip = Some(until);
                    self.check_vip(h, until);
                }
                Effect::ReleaseVip => self.hosts[h].vip = None,
                Effect::AskCompare { incarnation } => self.after(6, Event::Compare { host: h, incarnation }),
                Effect::Resume => self.resume(h),
            }
        }
        self.tick_later(h);
    }

    pub(crate) fn holder(&self, h: usize) -> Option<&Holder> {
        self.hosts[h].agent.as_ref()?.holder.as_ref()
    }

    fn tick_later(&mut self, h: usize) {
        let Some(due) = self.holder(h).and_then(Holder::due) else { return };
        let at = self.hosts[h].clock.shows(due).max(self.t + 1);
        if self.hosts[h].ticks_at.is_none_or(|known| known > at || known <= self.t) {
            self.hosts[h].ticks_at = Some(at);
            self.after(at - self.t, Event::Tick(h));
        }
    }

    pub(crate) fn tick(&mut self, h: usize) {
        if self.hosts[h].ticks_at.is_some_and(|at| at > self.t) {
            return;
        }
        self.hosts[h].ticks_at = None;
        if self.hosts[h].frozen {
            return self.after(50, Event::Tick(h));
        }
        let _ = self.feed(h, Input::Tick);
        self.tick_later(h);
    }

    fn hold_open(&mut self, h: usize, until: Moment) {
        let generation = self.holder(h).and_then(|holder| holder.role().generation());
        if !matches!(self.hosts[h].filter, Filter::Until(_)) {
            self.say(format!("db{h} open for generation {}", generation.unwrap_or_default()));
        }
        self.hosts[h].filter = Filter::Until(until);
        self.check_generation(h, generation.unwrap_or_default());
    }

    /// The last holder leads again by itself after its server was restarted.
    fn resume(&mut self, h: usize) {
        let acks = self.hosts[h].acks;
        if !self.answers(h) {
            return;
        }
        self.count("reopened by itself after a restart");
        self.servers[h].semi_source = acks > 0;
        self.servers[h].acks = acks;
        self.open_server(h, "leads again by itself");
    }

    // === the lease ===

    fn send_renewals(&mut self, h: usize, generation: Generation, lasts: Duration) {
        let life = self.hosts[h].life;
        self.rounds.push((h, life, generation, self.now_at(h), lasts));
        let round = self.rounds.len() - 1;
        for voter in 0..self.hosts.len() {
            self.send(h, voter, Event::Renew { round, voter });
        }
    }

    pub(crate) fn on_renew(&mut self, round: usize, voter: usize) {
        if !self.agent_answers(voter) {
            return;
        }
        let (h, _, generation, _, lasts) = self.rounds[round];
        let holder = self.instance(h);
        let ask = Renew { cluster: self.cluster.name.clone(), holder, generation, lasts };
        let now = self.now_at(voter);
        let Some(agent) = self.hosts[voter].agent.as_mut() else { return };
        let (answer, _) = agent.voter.renew(&ask, now);
        self.sync(voter);
        self.renewals.push(answer);
        let reply = self.renewals.len() - 1;
        self.send(voter, h, Event::Renewed { round, voter, reply });
    }

    pub(crate) fn on_renewed(&mut self, round: usize, voter: usize, reply: usize) {
        let (h, life, generation, sent_at, _) = self.rounds[round];
        if !self.agent_answers(h) || self.hosts[h].life != life {
            return;
        }
        let answer: Renewed = self.renewals[reply].clone();
        let from = self.host_name(voter);
        let _ = self.feed(h, Input::Answer { from, generation, sent_at, answer });
    }

    /// What the voter promised is on the disk before it is said. Promises never fall (I6).
    pub(crate) fn sync(&mut self, h: usize) {
        let Some(agent) = &self.hosts[h].agent else { return };
        let (new, old) = (agent.voter.promises().clone(), &self.hosts[h].promises);
        if new.generation < old.generation || new.ballot.number < old.ballot.number {
            self.violate(format!("I6: the voter on {h} forgot a promise"));
        }
        let sworn = (new.ballot.number, new.generation);
        if sworn.0 < self.hosts[h].sworn.0 || sworn.1 < self.hosts[h].sworn.1 {
            self.violate(format!(
                "I6: the voter on {h} promised {:?} and answers {sworn:?}",
                self.hosts[h].sworn
            ));
        }
        self.hosts[h].sworn = sworn;
        self.hosts[h].promises = new;
    }

    /// Does this server's set contain that of every member it reaches?
    pub(crate) fn compare(&mut self, h: usize, incarnation: u64) {
        if !self.agent_answers(h) || !self.answers(h) {
            return;
        }
        let known: Vec<Tx> = (0..self.servers.len())
            .filter(|other| {
                *other != h && self.talk(h, *other) && self.agent_answers(*other) && self.answers(*other)
            })
            .flat_map(|other| self.servers[other].log.iter().chain(&self.servers[other].relay).copied())
            .collect();
        let contains_all = known.iter().all(|tx| self.servers[h].holds(*tx));
        let _ = self.feed(h, Input::Compared { incarnation, contains_all });
    }

    /// The agent notices that a process ended or began.
    pub(crate) fn process_seen(&mut self, h: usize) {
        if !self.hosts[h].on || self.hosts[h].agent.is_none() {
            return;
        }
        if self.hosts[h].frozen {
            return self.after(50, Event::ProcessSeen(h));
        }
        let up = self.servers[h].up;
        self.keep_server(h);
        if let Some(agent) = self.hosts[h].agent.as_mut() {
            let saw = std::mem::replace(&mut agent.sees_server, up);
            let input = match (saw, up) {
                (true, false) => Input::ServerGone,
                (false, true) => Input::ServerStarted,
                (true, true) | (false, false) => return,
            };
            let _ = self.feed(h, input);
        }
    }

    // === what it says ===

    pub(crate) fn status(&mut self, h: usize) -> AgentStatus {
        self.hosts[h].stopped_by_order &= !(self.servers[h].io && self.servers[h].sql);
        let now = self.now_at(h);
        let server = if self.answers(h) {
            Ok(self.report(h))
        } else if self.servers[h].up {
            Err(Unseen::SilentBeforeGreeting)
        } else {
            Err(Unseen::Refused)
        };
        let state = &self.servers[h];
        let process = if state.up {
            Process::Running { pid: state.boot as u32, up: Duration::from_millis(self.t - state.booted_at) }
        } else {
            Process::Gone { since: Duration::from_millis(self.t - state.gone_at) }
        };
        let access = match self.hosts[h].filter {
            Filter::Open => Access::Admitted,
            Filter::Until(until) if until > now => Access::Held { remaining: until - now },
            Filter::Until(_) | Filter::Closed => Access::Closed,
        };
        let unanswered =
            state.hung_since.map_or(Duration::ZERO, |since| Duration::from_millis(self.t - since));
        let oldest = state.waiters.iter().map(|waiter| self.t - waiter.since).max();
        let host = &self.hosts[h];
        let role = self.holder(h).map(Holder::role).unwrap_or_default();
        AgentStatus {
            host: self.host_name(h),
            boot_id: host.boot.to_string(),
            ballot: host.promises.ballot.clone(),
            generation: host.promises.generation,
            accepted_for: host.promises.holder.clone(),
            held: role.generation(),
            fenced: match role {
                Role::Fenced { generation } => Some(generation),
                Role::Unmanaged
                | Role::Unknown
                | Role::Replica
                | Role::Primary { .. }
                | Role::Deposed { .. } => None,
            },
            epoch: host.kept.epoch,
            process,
            access,
            unheard: self.holder(h).and_then(|holder| {
                unheard(holder.heard_at(), access == Access::Closed, self.cluster.policy.lease, now)
            }),
            vip: self.has_vip(h),
            stray_vip: None,
            server,
            server_age: Duration::ZERO,
            unanswered,
            heartbeat_stuck: oldest.map(Duration::from_millis),
            commit_takes: None,
            stream_still: state.source.map(|_| Duration::from_millis(self.t - state.stream_heard)),
            granted_ago: host.agent.as_ref().and_then(|agent| agent.voter.granted_ago(now)),
            stopping: false,
            leaving: None,
            extra: state.saved.clone(),
            job: None,
            disks: Vec::new(),
            heartbeat_fault: None,
            own_disk_fault: None,
            log_fault: None,
            stop_hangs: None,
            applier_waits: None,
            threads_killed: false,
            stopped_by_order: host.stopped_by_order,
            answered_at_shutdown: false,
            start_failed: None,
            voters: self.cluster.voters.iter().map(|voter| voter.host.clone()).collect(),
            reach: Vec::new(),
        }
    }

    /// A look at a server's port from `from`.
    pub(crate) fn knock(&self, from: usize, s: usize) -> Result<(), Unseen> {
        if !self.hosts[s].on || !self.talk(from, s) {
            return Err(Unseen::NoRoute);
        }
        if !self.servers[s].up || (from != s && !self.passes(s)) {
            return Err(Unseen::Refused);
        }
        if self.answers(s) { Ok(()) } else { Err(Unseen::SilentBeforeGreeting) }
    }

    pub(crate) fn probe_from(&self, h: usize, s: usize, at: Moment) -> Probe {
        Probe { from: Vantage::Agent(self.host_name(h)), of: self.instance(s), at, outcome: self.knock(h, s) }
    }

    /// The old primary is closed by order.
    pub(crate) fn fence(&mut self, h: usize, generation: Generation) -> Result<(), Refusal> {
        if self.opts.planted == Planted::SkipFence {
            return Ok(());
        }
        self.feed(h, Input::Fence { generation })
    }
}
