//! What befalls a cluster: one fault after another, also in the middle of a recovery from the one before; at last all is mended.

use mha::decide::lease::holder::Role;
use mha::model::ballot::Generation;
use mha::model::intent::FailoverAsk;

use super::host::Filter;
use super::state::{Event, MANAGERS, Sim, Store};

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    Kill(usize),
    /// SIGSTOP of the server.
    Hang(usize),
    /// All processes of a host stop; its kernel's timers go on.
    Freeze(usize),
    Power(usize),
    CutOff(usize),
    CutPair(usize, usize),
    CutOneWay(usize, usize),
    Agent(usize),
    /// In the middle of its next recovery.
    Manager(usize),
    SecondManager,
    Slow(usize),
    Ask,
    /// A manager's process stands still, and goes on later.
    Stall(usize),
}

const KINDS: u64 = 12;

fn generation(store: &Store) -> Option<Generation> {
    store.record.as_ref().map(|record| record.generation)
}

impl Sim {
    pub(crate) fn recorded_primary(&self) -> Option<usize> {
        let newest =
            self.stores.iter().filter_map(|store| store.record.as_ref()).max_by_key(|r| r.generation)?;
        Some(self.index(&newest.primary))
    }

    /// One more fault, if the cluster was adopted and the run has some left.
    pub(crate) fn strike(&mut self) {
        if self.mended {
            return;
        }
        if self.opened.is_empty() {
            return self.after(500, Event::Strike);
        }
        if let Some(story) = self.opts.story.clone() {
            story.fault.iter().for_each(|fault| self.hit(fault));
            story.later.iter().for_each(|(at, event)| self.after(*at, event.clone()));
            self.told.struck_at = self.t;
            return self.after(story.lasts, Event::MendAll);
        }
        if self.strikes < self.opts.faults {
            let fault = self.draw();
            self.hit(&fault);
            self.strikes += 1;
            let lasts = if self.dice.one_in(3) {
                self.dice.range(300, 3_000)
            } else {
                self.dice.range(3_000, 16_000)
            };
            self.somebody_acts();
            if let Some(beside) = self.lost_beside(&fault) {
                self.hit(&beside);
                self.after(lasts, Event::Mend(beside));
            }
            self.after(lasts, Event::Mend(fault));
        }
        if self.strikes < self.opts.faults {
            let next =
                if self.dice.one_in(2) { self.dice.range(50, 4_500) } else { self.dice.range(4_000, 12_000) };
            self.after(next, Event::Strike);
        } else {
            let calm = self.dice.range(6_000, 14_000).max(self.still_asked_for());
            self.after(calm, Event::MendAll);
        }
    }

    fn draw(&mut self) -> Fault {
        let mut kind = self.dice.below(KINDS);
        while self.kinds.contains(&kind) && self.kinds.len() < KINDS as usize {
            kind = (kind + 1) % KINDS;
        }
        // Most runs begin with something the primary does not survive.
        if self.strikes == 0 && !self.dice.one_in(4) {
            kind = self.dice.below(5);
        }
        self.kinds.insert(kind);
        let primary = self.recorded_primary().unwrap_or(0);
        let (members, hosts) = (self.servers.len() as u64, self.hosts.len() as u64);
        let mut server = self.dice.below(members) as usize;
        if self.dice.one_in(2) || self.strikes == 0 {
            server = primary;
        }
        let parties = self.cut.len() as u64;
        let (a, b) = (self.dice.below(hosts) as usize, self.dice.below(parties) as usize);
        match kind {
            0 => Fault::Kill(server),
            1 => Fault::Hang(server),
            2 => Fault::Freeze(server),
            3 => Fault::Power(server),
            4 => Fault::CutOff(server),
            5 => Fault::CutPair(if self.dice.one_in(2) { primary } else { a }, b),
            6 => Fault::CutOneWay(if self.dice.one_in(2) { primary } else { a }, b),
            7 => Fault::Agent(server),
            8 => Fault::Manager(0),
            9 => Fault::SecondManager,
            10 => Fault::Slow(server),
            _ => Fault::Ask,
        }
    }

    pub(crate) fn hit(&mut self, fault: &Fault) {
        self.say(format!("FAULT {fault:?}"));
        match *fault {
            Fault::Kill(s) => self.crash(s),
            Fault::Hang(s) if self.servers[s].up => self.servers[s].hung_since = Some(self.t),
            Fault::Hang(_) => {}
            Fault::Freeze(h) => self.hosts[h].frozen = true,
            Fault::Power(h) => self.power_off(h),
            Fault::CutOff(h) => self.set_cut_off(h, true),
            Fault::CutPair(a, b) if a != b => (self.cut[a][b], self.cut[b][a]) = (true, true),
            Fault::CutOneWay(a, b) if a != b => self.cut[a][b] = true,
            Fault::CutPair(..) | Fault::CutOneWay(..) => {}
            Fault::Agent(h) => self.stop_agent(h),
            Fault::Manager(m) => self.after(20, Event::ManagerDies { m, tries: 400 }),
            Fault::SecondManager if self.manager_up[1] => {}
            Fault::SecondManager => {
                // What it knows itself may be newer.
                if generation(&self.stores[1]) <= generation(&self.stores[0]) {
                    self.stores[1] = self.stores[0].clone();
                    self.stores[1].id = "m1".to_owned();
                    self.stopped[1] = self.stopped[0].clone();
                }
                self.manager_up[1] = true;
            }
            Fault::Stall(m) => self.stalled[m] = true,
            Fault::Slow(s) => self.servers[s].slow = 600,
            Fault::Ask => {
                self.stores[0].ask = Some(FailoverAsk { by: "operator".to_owned(), ..FailoverAsk::default() })
            }
        }
    }

    /// Waits for a recovery to be under way, then lets some of it happen.
    pub(crate) fn manager_dies(&mut self, m: usize, tries: u32) {
        if !self.manager_up[m] || self.mended {
            return;
        }
        if self.stores[m].unfinished().is_none() && tries > 1 {
            return self.after(20, Event::ManagerDies { m, tries: tries - 1 });
        }
        if tries > 0 {
            let late = if self.dice.one_in(4) { self.dice.range(1, 4_000) } else { self.dice.range(1, 150) };
            return self.after(late, Event::ManagerDies { m, tries: 0 });
        }
        if let Some(recovery) = self.stores[m].unfinished() {
            use mha::decide::plan::PlanKind;
            let what = match (recovery.plan(PlanKind::Promote), recovery.kind) {
                (Some(_), _) => "manager killed in promote",
                (None, PlanKind::Isolate) => "manager killed in isolate",
                (None, PlanKind::Switchover) => "manager killed in a block",
                (
                    None,
                    PlanKind::Adopt
                    | PlanKind::Promote
                    | PlanKind::Rejoin
                    | PlanKind::Repair
                    | PlanKind::Topology,
                ) => "manager killed in another plan",
            };
            self.count(what);
        }
        self.say(format!("m{m} dies"));
        self.manager_up[m] = false;
    }

    pub(crate) fn mend(&mut self, fault: &Fault) {
        if self.mended {
            return;
        }
        self.say(format!("mended {fault:?}"));
        match *fault {
            // Whoever owns the server's start has to start it.
            Fault::Kill(_) => {}
            Fault::Hang(s) => self.servers[s].hung_since = None,
            Fault::Freeze(h) => self.hosts[h].frozen = false,
            Fault::Power(h) => self.power_on(h),
            Fault::CutOff(h) => self.set_cut_off(h, false),
            Fault::CutPair(a, b) => (self.cut[a][b], self.cut[b][a]) = (false, false),
            Fault::CutOneWay(a, b) => self.cut[a][b] = false,
            Fault::Agent(h) => self.start_agent(h),
            Fault::Manager(m) => self.manager_up[m] = true,
            Fault::SecondManager => self.manager_up[1] = false,
            Fault::Stall(m) => self.stalled[m] = false,
            Fault::Slow(s) => self.servers[s].slow = 8,
            Fault::Ask => self.stores[0].ask = None,
        }
    }

    fn set_cut_off(&mut self, h: usize, cut: bool) {
        for other in (0..self.cut.len()).filter(|other| *other != h) {
            (self.cut[h][other], self.cut[other][h]) = (cut, cut);
        }
    }

    fn power_off(&mut self, h: usize) {
        if !self.hosts[h].on {
            return;
        }
        if self.hosts[h].has_server {
            self.crash(h);
        }
        self.stop_agent(h);
        let host = &mut self.hosts[h];
        (host.on, host.frozen, host.vip) = (false, false, None);
        host.spared.clear();
    }

    /// A new boot: nothing of the kernel's state is left but the filter that is closed before the network is up.
    fn power_on(&mut self, h: usize) {
        if self.hosts[h].on {
            return;
        }
        let host = &mut self.hosts[h];
        (host.on, host.boot) = (true, host.boot + 1);
        host.filter = if host.kept.role == Role::Unmanaged { Filter::Open } else { Filter::Closed };
        self.start_agent(h);
    }

    /// Everything is as it should be outside of our hands, and the operator keeps one manager, on the newer store.
    pub(crate) fn mend_all(&mut self) {
        self.note_alone();
        self.say("everything is mended".to_owned());
        self.stalled.fill(false);
        (self.mended, self.mended_at) = (true, self.t);
        self.cut.iter_mut().flatten().for_each(|cut| *cut = false);
        for s in 0..self.servers.len() {
            (self.servers[s].hung_since, self.servers[s].slow) = (None, 8);
        }
        for h in 0..self.hosts.len() {
            self.hosts[h].frozen = false;
            self.power_on(h);
            self.start_agent(h);
        }
        if generation(&self.stores[1]) > generation(&self.stores[0]) {
            self.stores[0] = self.stores[1].clone();
            self.stores[0].id = "m0".to_owned();
            self.manager_up[0] = false;
            self.restart_first = true;
        } else {
            self.manager_up[0] = true;
        }
        self.stores[0].ask = None;
        (1..MANAGERS).for_each(|m| self.manager_up[m] = false);
        self.after(1_000, Event::Judge);
    }
}
