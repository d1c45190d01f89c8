//! An operator's switchovers: asked for while clients write and other things go wrong, each with what befalls it at a chosen
//! command. The manager's part is as `manager/planned.rs` does it; what it plans and executes is as shipped.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mha::decide::plan::{PlanKind, Step};
use mha::decide::switchover::{self, Surveys};
use mha::execute::Outcome;
use mha::execute::journal::Recovery;
use mha::execute::world::Token;
use mha::model::ballot::Generation;
use mha::model::instance::InstanceId;
use mha::model::intent::SwitchoverAsk;
use mha::model::sessions::{Doing, Session, Sessions};
use tokio::time::sleep;

use super::basics::{Dice, Planted};
use super::faults::Fault;
use super::manager::Manager;
use super::server::Tx;
use super::state::{Event, Sim};
use super::story::Fate;

/// The operator asks again so often, so long apart, in ms.
const TRIES: u32 = 6;
const AGAIN: u64 = 1_500;

/// One word of the operator.
#[derive(Debug, Clone)]
pub(crate) struct Switch {
    /// Ms since the run began.
    pub(crate) at: u64,
    pub(crate) to: Option<usize>,
    pub(crate) write_block: u64,
    pub(crate) trouble: Option<Trouble>,
}

/// What befalls it: at its `nth` command from 1, before that or after its effect.
#[derive(Debug, Clone)]
pub(crate) struct Trouble {
    pub(crate) nth: usize,
    pub(crate) late: bool,
    pub(crate) harm: Harm,
    /// Ms; the manager's death without one lasts until everything is mended.
    pub(crate) lasts: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Harm {
    ManagerDies,
    ManagerStalls,
    /// And a second one, on a copy of its store, takes over.
    ManagerStallsAndAnotherLeads,
    /// And dies; the second one on a copy of its store goes on, and it returns with what its own holds as unfinished.
    ManagerDiesAndAnotherLeads,
    /// A second one on a copy of its store leads beside the first, which goes on soon: the target hears the first only.
    TwoLead,
    Target(Blow),
    Old(Blow),
    Third(Blow),
    /// Two hosts that vote hear nobody.
    Voters,
    /// The manager does not hear the old primary, or the target, any more: its orders arrive.
    Deaf {
        target: bool,
    },
}

/// What may happen to a server's host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Blow {
    Kill,
    Hang,
    Freeze,
    Power,
    CutOff,
    Agent,
}

const BLOWS: [Blow; 6] = [Blow::Kill, Blow::Hang, Blow::Freeze, Blow::Power, Blow::CutOff, Blow::Agent];

impl Blow {
    fn at(self, h: usize) -> Fault {
        match self {
            Self::Kill => Fault::Kill(h),
            Self::Hang => Fault::Hang(h),
            Self::Freeze => Fault::Freeze(h),
            Self::Power => Fault::Power(h),
            Self::CutOff => Fault::CutOff(h),
            Self::Agent => Fault::Agent(h),
        }
    }
}

/// Every harm once.
pub(crate) fn harms() -> Vec<Harm> {
    let mut all = vec![
        Harm::ManagerDies,
        Harm::ManagerStalls,
        Harm::ManagerStallsAndAnotherLeads,
        Harm::TwoLead,
        Harm::Voters,
        Harm::Deaf { target: false },
        Harm::Deaf { target: true },
    ];
    all.extend(BLOWS.map(Harm::Target));
    all.extend(BLOWS.map(Harm::Old));
    all.extend(BLOWS.map(Harm::Third));
    all
}

/// A third of the seeds have some; half of those have few other faults.
pub(crate) fn switches_of(seed: u64, members: usize, planted: Planted, faults: &mut usize) -> Vec<Switch> {
    // Dice of its own: the other seeds stay what they were.
    let mut dice = Dice::new(seed ^ 0x51C4);
    let by_switchover =
        matches!(planted, Planted::BlockWithoutFence | Planted::SetNotReread | Planted::UndoWithoutClaim);
    if !by_switchover && (planted != Planted::Nothing || !dice.one_in(3)) {
        return Vec::new();
    }
    if by_switchover || dice.one_in(2) {
        *faults = dice.below(2) as usize;
    }
    let mut at = 0;
    // Of two managers that both go on, the second on an older journal, only what can be kept is asked for: `switched.rs` has that.
    let all: Vec<Harm> = harms().into_iter().filter(|harm| *harm != Harm::TwoLead).collect();
    (0..dice.range(1, 3))
        .map(|_| {
            at += dice.range(2_500, 9_000);
            // Every second one befalls the manager: nothing else divides an undo from a promotion.
            let pick = if dice.one_in(2) { dice.below(3) } else { dice.below(all.len() as u64) };
            let harm = match planted {
                Planted::UndoWithoutClaim => Harm::TwoLead,
                _ => all[pick as usize],
            };
            let trouble = Trouble {
                nth: dice.range(3, 20) as usize,
                late: dice.one_in(2),
                harm,
                lasts: (!dice.one_in(3)).then(|| dice.range(200, 12_000)),
            };
            Switch {
                at,
                to: dice.one_in(2).then(|| dice.below(members as u64) as usize),
                write_block: if dice.one_in(3) { 600 } else { 2_000 },
                trouble: (!dice.one_in(4)).then_some(trouble),
            }
        })
        .collect()
}

/// Where the run is with what the operator asked.
#[derive(Debug, Clone, Default)]
pub(crate) struct Switching {
    /// Asked, and begun by no manager yet.
    wanted: Option<(usize, u32)>,
    /// Whose trouble is still to come, the recovery that began it, and how many commands of it there were.
    troubled: Option<(Trouble, String, usize)>,
    /// Who was opened by each recovery's plans.
    won: BTreeMap<String, BTreeSet<usize>>,
    /// What privileged sessions committed on blocked servers.
    pub(crate) errant: Vec<Tx>,
    /// Generations that agents won without a manager.
    pub(crate) taken_back: Vec<u64>,
}

impl Sim {
    pub(crate) fn ask_to_switch(&mut self, index: usize, tries: u32) {
        if self.mended || tries > TRIES {
            return;
        }
        if self.opened.is_empty() {
            return self.after(500, Event::Switch { index, tries });
        }
        self.switching.wanted = Some((index, tries));
    }

    /// So many ms may go by until the last of the operator's words was followed.
    pub(crate) fn still_asked_for(&self) -> u64 {
        self.opts.switches.last().map_or(0, |last| (last.at + 12_000).saturating_sub(self.t))
    }

    fn take_wanted(&mut self) -> Option<(Switch, usize, u32)> {
        let (index, tries) = self.switching.wanted.take().filter(|_| !self.mended)?;
        Some((self.opts.switches[index].clone(), index, tries))
    }

    /// What a look at its sessions shows.
    fn survey(&self, m: usize, s: usize) -> Result<Sessions, String> {
        self.knock(self.manager_party(m), s).map_err(|unseen| unseen.to_string())?;
        let sessions = self.servers[s].waiters.iter().map(|waiter| Session {
            id: waiter.tx as u64,
            user: "app".to_owned(),
            host: "client".to_owned(),
            since: Duration::from_millis(self.t - waiter.since),
            doing: Doing::WaitsForAck,
            text: String::new(),
        });
        Ok(Sessions { sessions: sessions.collect(), replication_account: Some(true), binlog_filter: None })
    }

    /// What a manager meets when it gives this command: whether it lives, and whether something is to happen after it.
    pub(crate) fn meets(&mut self, m: usize, token: &Token, step: &Step) -> (Fate, bool) {
        if self.opts.story.is_some() {
            let fate = self.fate(m, token, step);
            return (fate, false);
        }
        let Some((trouble, of, commands)) = &mut self.switching.troubled else { return (Fate::Lives, false) };
        if *of != token.recovery || self.mended {
            return (Fate::Lives, false);
        }
        *commands += 1;
        if *commands != trouble.nth {
            return (Fate::Lives, false);
        }
        let (harm, late) = (trouble.harm, trouble.late);
        self.say(format!("{harm:?} {} {step}", if late { "after" } else { "before" }));
        match (harm, late) {
            (Harm::ManagerDies, true) => (Fate::NotAnswered, false),
            (Harm::ManagerDies, false) => (Fate::NotSent, false),
            (_, true) => (Fate::Lives, true),
            (_, false) => {
                self.befall(m);
                (Fate::Lives, false)
            }
        }
    }

    /// When a manager that dies is started again, if at all.
    pub(crate) fn manager_is_back_after(&mut self) -> Option<u64> {
        match self.switching.troubled.take_if(|(trouble, _, _)| trouble.harm == Harm::ManagerDies) {
            _ if self.opts.alone => None,
            Some((trouble, _, _)) => {
                self.count("manager killed in a switchover");
                // Nothing mends a manager that ends after everything else was mended.
                if self.mended { Some(700) } else { trouble.lasts }
            }
            None => Some(700),
        }
    }

    pub(crate) fn befall(&mut self, m: usize) {
        let Some((trouble, of, _)) = self.switching.troubled.take().filter(|_| !self.mended) else { return };
        let recovery = self.stores[m].recoveries.iter().find(|recovery| recovery.id == of);
        let plan = recovery.and_then(|recovery| recovery.plan(PlanKind::Switchover)).cloned();
        let Some(plan) = plan else { return };
        let blocked = plan.steps().find_map(|step| match step {
            Step::Block { instance, .. } => Some(self.index(instance)),
            _ => None,
        });
        let target = switchover::target_of(&plan).map(|target| self.index(&target));
        let (Some(old), Some(target)) = (blocked, target) else { return };
        let third = (0..self.servers.len()).find(|s| *s != old && *s != target).unwrap_or(target);
        let (party, hosts) = (self.manager_party(m), self.hosts.len() as u64);
        let faults = match trouble.harm {
            Harm::ManagerDies => Vec::new(),
            Harm::ManagerStalls => vec![Fault::Stall(m)],
            Harm::ManagerStallsAndAnotherLeads if m == 0 => vec![Fault::Stall(m), Fault::SecondManager],
            Harm::ManagerDiesAndAnotherLeads if m == 0 => {
                vec![Fault::Stall(m), Fault::SecondManager, Fault::Manager(m)]
            }
            Harm::TwoLead if m == 0 => {
                vec![Fault::Stall(m), Fault::SecondManager, Fault::CutPair(self.manager_party(1), target)]
            }
            Harm::ManagerStallsAndAnotherLeads | Harm::ManagerDiesAndAnotherLeads | Harm::TwoLead => {
                vec![Fault::Stall(m)]
            }
            Harm::Target(blow) => vec![blow.at(target)],
            Harm::Old(blow) => vec![blow.at(old)],
            Harm::Third(blow) => vec![blow.at(third)],
            Harm::Voters => {
                let first = self.dice.below(hosts) as usize;
                vec![Fault::CutOff(first), Fault::CutOff((first + 1) % hosts as usize)]
            }
            Harm::Deaf { target: true } => vec![Fault::CutOneWay(target, party)],
            Harm::Deaf { target: false } => vec![Fault::CutOneWay(old, party)],
        };
        self.count("befell a switchover");
        for fault in faults {
            self.hit(&fault);
            let lasts = match (trouble.harm, &fault) {
                (Harm::TwoLead, Fault::Stall(_)) => self.dice.range(20, 300),
                (Harm::TwoLead, _) => trouble.lasts.unwrap_or(6_000) + 7_000,
                _ => trouble.lasts.unwrap_or(6_000),
            };
            // A second manager outlasts the one that stood still for a while.
            let longer = if fault == Fault::SecondManager { 5_000 } else { 0 };
            self.after(lasts + longer, Event::Mend(fault));
        }
    }

    // === what became of it ===

    /// A promotion and its undo never both win (I15).
    pub(crate) fn note_won(&mut self, h: usize, generation: Generation, recovery: &str) {
        let planned = |known: &&Recovery| known.id == recovery && known.kind == PlanKind::Switchover;
        if !self.stores.iter().any(|store| store.recoveries.iter().any(|known| planned(&known))) {
            return;
        }
        let won = self.switching.won.entry(recovery.to_owned()).or_default();
        won.insert(h);
        if won.len() > 1 {
            let won = won.clone();
            self.violate(format!("I15: {recovery} opened {won:?}, db{h} for generation {generation}"));
        }
    }

    pub(crate) fn note_switched(&mut self, recovery: &Recovery, outcome: &Outcome) {
        if recovery.kind != PlanKind::Switchover {
            return;
        }
        self.count(match outcome {
            Outcome::Done => "switchover done",
            Outcome::Undone { .. } => "switchover taken back",
            Outcome::Failed { .. } => "switchover failed past its commit point",
        });
        if matches!(outcome, Outcome::Undone { left, .. } if !left.is_empty()) {
            self.count("switchover taken back in part");
        }
        // One that was resumed came from the store.
        if recovery.outcome().is_none() && !recovery.entries.is_empty() {
            self.count("switchover resumed");
        }
    }

    /// Clients that reach it may write.
    pub(crate) fn serves(&self, s: usize) -> bool {
        self.answers(s) && !self.servers[s].read_only && self.passes(s)
    }

    pub(crate) fn serving(&self) -> Vec<usize> {
        (0..self.servers.len()).filter(|s| self.serves(*s)).collect()
    }

    /// Before everything is mended: who serves, when no manager has come back.
    pub(crate) fn note_alone(&mut self) {
        let now = self.serving();
        if let Some((_, later)) = &mut self.told.served {
            *later = now;
        }
    }
}

impl Manager {
    /// Does what the operator asked for, if anything and if it can be done now.
    pub(crate) async fn switch_if_asked(&mut self) -> bool {
        if self.view.record.is_none() {
            return false;
        }
        let Some((switch, index, tries)) = self.shared.act(Sim::take_wanted) else { return false };
        let ask = SwitchoverAsk {
            to: switch.to.map(|to| InstanceId::new(format!("db{to}"), 3306)),
            write_block: Duration::from_millis(switch.write_block),
            by: "anna".to_owned(),
            ..SwitchoverAsk::default()
        };
        let surveys = self.surveys(&ask).await;
        let now = self.shared.act(|sim| sim.now_of_manager());
        let plan = match switchover::block(&self.view, &ask, &surveys, now) {
            Ok(plan) => plan,
            Err(obstacles) => {
                let why: Vec<String> = obstacles.iter().map(ToString::to_string).collect();
                self.shared.act(|sim| {
                    sim.count("switchover refused");
                    sim.say(format!("m{} refuses a switchover: {}", self.m, why.join("; ")));
                    sim.after(AGAIN, Event::Switch { index, tries: tries + 1 });
                });
                return false;
            }
        };
        let recovery = self.stored(&plan, None);
        self.shared.act(|sim| {
            sim.count("switchover begun");
            let id = recovery.id.clone();
            sim.switching.troubled = switch.trouble.map(|trouble| (trouble, id, 0));
        });
        self.carry_out(&recovery, &plan).await;
        true
    }

    async fn surveys(&self, ask: &SwitchoverAsk) -> Surveys {
        let both = [self.view.primary().cloned(), switchover::target(&self.view, ask)];
        let takes = self.shared.act(|sim| sim.dice.range(2, 12));
        sleep(Duration::from_millis(takes)).await;
        let look = |instance: InstanceId| {
            let seen = self.shared.act(|sim| {
                let s = sim.index(&instance);
                sim.survey(self.m, s)
            });
            (instance, seen)
        };
        both.into_iter().flatten().map(look).collect()
    }
}
