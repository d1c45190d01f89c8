//! One manager process: it leads, fences or not, claims, waits and opens, as if it were the only one. It is never stopped, so its orders
//! may come at any later time: that covers a manager that hangs, and orders that are late on their way.

use std::time::Duration;

use mha::model::ballot::Generation;

use super::memo::Machine;
use super::op::{Op, Said};
use super::world::{World, shown, tick_of};

/// A ballot: its number, and whose it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Lead {
    pub(crate) number: u8,
    pub(crate) manager: u8,
}

/// How far a manager has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Stage {
    /// A majority obeys it. It knows the highest generation among them, and its holder.
    Leads { known: Generation, holder: Option<u8> },
    /// The voters that accepted, by bit, and the longest that it must wait for what any of them had granted before.
    Claiming { claim: Wanted, accepted: u8, wait: Duration },
    /// A majority accepted: it opens its candidate from that tick on, by its own clock; zero once that is reached.
    Claimed { claim: Wanted, due: u8 },
    /// Nothing that it still does gets anywhere, but for its claim, where that is on its way to a voter that may accept it.
    Ended { claim: Option<Wanted> },
}

/// A claim, but for what is the same in all of one manager's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Wanted {
    pub(crate) generation: Generation,
    pub(crate) candidate: u8,
    /// The server that answered a fence.
    pub(crate) fenced: Option<u8>,
}

/// An order to open that was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Opens {
    pub(crate) generation: Generation,
    pub(crate) target: u8,
    pub(crate) epoch: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Manager {
    pub(crate) lead: Lead,
    pub(crate) stage: Stage,
    /// The candidate's epoch, as it was read for the order to open.
    pub(crate) epoch: Option<u64>,
    /// The order to open has arrived.
    arrived: bool,
    /// A copy of an order to open, or the order of a promotion that was given up since: still on its way.
    pub(crate) late: Option<Opens>,
    /// The claim of a promotion that it has given up since: still on its way.
    pub(crate) late_claim: Option<Wanted>,
}

impl Manager {
    /// The claim that its messages to voters carry.
    pub(crate) fn wanted(&self) -> Option<Wanted> {
        match &self.stage {
            Stage::Leads { .. } => None,
            Stage::Claiming { claim, .. } | Stage::Claimed { claim, .. } => Some(*claim),
            Stage::Ended { claim } => *claim,
        }
    }

    /// The grants that it knows of are over.
    pub(crate) fn may_open(&self) -> bool {
        matches!(self.stage, Stage::Claimed { due: 0, .. })
    }

    /// The order to open that is on its way: it carries the epoch that was read before.
    pub(crate) fn opens(&self) -> Option<Opens> {
        match (&self.stage, self.epoch) {
            (Stage::Claimed { claim, .. }, Some(epoch)) if !self.arrived => {
                Some(Opens { generation: claim.generation, target: claim.candidate, epoch })
            }
            (
                Stage::Leads { .. } | Stage::Claiming { .. } | Stage::Claimed { .. } | Stage::Ended { .. },
                _,
            ) => None,
        }
    }

    fn begin_claim(&mut self, candidate: u8, known: Generation, fenced: Option<u8>) {
        let claim = Wanted { generation: known.next(), candidate, fenced };
        self.stage = Stage::Claiming { claim, accepted: 0, wait: Duration::ZERO };
    }

    fn time_passed(&mut self, t: u8) {
        if let Stage::Claimed { due, .. } = &mut self.stage
            && *due <= t
        {
            *due = 0;
        }
    }
}

/// A manager's clock is fast: with a slow one it would only wait longer, and every manager may be late anyway.
const MANAGER_IS_FAST: bool = true;

/// The tick at which a manager that begins to wait now has waited.
fn due_at(t: u8, wait: Duration) -> u8 {
    tick_of(MANAGER_IS_FAST, shown(MANAGER_IS_FAST, t) + wait)
}

impl Machine {
    fn change_manager(&mut self, world: &mut World, manager: u8, change: impl FnOnce(&mut Manager)) {
        let mut changed = self.manager(world, manager);
        change(&mut changed);
        world.managers[usize::from(manager)] = self.put_manager(changed);
    }

    pub(crate) fn time_passes(&mut self, world: &mut World) {
        world.t += 1;
        for host in 0..self.bounds.voters as u8 {
            self.host_does(world, host, Op::TimePassed);
        }
        for manager in 0..world.led() as u8 {
            let t = world.t;
            self.change_manager(world, manager, |manager| manager.time_passed(t));
        }
    }

    /// So that states that differ only in what a manager was about to do, and cannot any more, are one: a voter that obeys a higher ballot
    /// never obeys a lower one again ([`Machine::violation`] otherwise), and one that knows a generation gives no earlier one.
    pub(crate) fn end_managers(&mut self, world: &mut World) {
        for manager in 0..world.led() as u8 {
            let state = self.manager(world, manager);
            let ended = match self.ended(world, &state) {
                true => Manager {
                    stage: Stage::Ended {
                        claim: state.wanted().filter(|claim| {
                            (0..self.bounds.voters as u8)
                                .any(|voter| self.may_learn(world, &state, *claim, voter))
                        }),
                    },
                    epoch: None,
                    arrived: false,
                    ..state
                },
                false => state,
            };
            if ended != state {
                world.managers[usize::from(manager)] = self.put_manager(ended);
            }
        }
    }

    fn ended(&self, world: &World, state: &Manager) -> bool {
        let obeying = (0..self.bounds.voters as u8).filter(|host| self.obeys(world, *host, state.lead));
        match state.stage {
            // It may fence a host that obeys it.
            Stage::Leads { .. } => obeying.count() == 0,
            Stage::Claiming { wait, .. }
                if world.left.withdrawals == 0 && due_at(world.t, wait) > self.bounds.ticks =>
            {
                true
            }
            Stage::Claiming { claim, accepted, .. } => {
                let may = obeying.filter(|voter| accepted & (1 << voter) == 0);
                let may = may.filter(|voter| self.may_accept(world, state, claim, *voter));
                (accepted.count_ones() as usize) + may.count() <= self.bounds.voters / 2
            }
            Stage::Claimed { claim, due } => {
                let never = state.arrived || due > self.bounds.ticks;
                world.left.withdrawals == 0 && (never || !self.obeys(world, claim.candidate, state.lead))
            }
            Stage::Ended { .. } => true,
        }
    }

    /// Whether it may still order a server to open.
    pub(crate) fn may_still_open(&self, world: &World, manager: u8) -> bool {
        let state = self.manager(world, manager);
        state.late.is_some() || !matches!(state.stage, Stage::Ended { .. })
    }

    fn obeys(&self, world: &World, host: u8, lead: Lead) -> bool {
        self.yields(self.glance(world, host).obeyed, lead)
    }

    /// Whether a voter may accept a claim, now or later.
    pub(crate) fn may_accept(&self, world: &World, state: &Manager, claim: Wanted, voter: u8) -> bool {
        let known = self.glance(world, voter).knows;
        self.obeys(world, voter, state.lead) && known <= claim.generation
    }

    /// Whether a claim may still change what a voter knows.
    pub(crate) fn may_learn(&self, world: &World, state: &Manager, claim: Wanted, voter: u8) -> bool {
        let host = self.glance(world, voter);
        let again = host.knows == claim.generation && host.obeyed == state.lead;
        !again && self.may_accept(world, state, claim, voter)
    }

    /// A manager leads: `quorum`, a majority of voters by bit, obeys it. Its number is above every other's, or, where it did not hear of the
    /// last one, the same. Not where a voter of them refuses.
    pub(crate) fn start_manager(&mut self, world: &mut World, quorum: u8, unaware: bool) {
        let others = world.led() as u8;
        let highest = (0..others).map(|other| self.manager(world, other).lead.number).max().unwrap_or(1);
        let lead = Lead { number: if unaware { highest } else { highest + 1 }, manager: others };
        let before = *world;
        let (mut known, mut knows) = (Generation::default(), None);
        for voter in (0..self.bounds.voters as u8).filter(|voter| quorum & (1 << voter) != 0) {
            let Said::Obeys { generation, holder } = self.host_does(world, voter, Op::Lead { lead }) else {
                *world = before;
                return;
            };
            if generation > known {
                (known, knows) = (generation, holder);
            }
        }
        let stage = Stage::Leads { known, holder: knows };
        let manager = Manager { lead, stage, epoch: None, arrived: false, late: None, late_claim: None };
        world.managers[usize::from(others)] = self.put_manager(manager);
    }

    pub(crate) fn read_epoch(&mut self, world: &mut World, manager: u8) {
        if let Some(claim) = self.manager(world, manager).wanted() {
            let epoch = self.host(world, claim.candidate).kept.epoch;
            self.change_manager(world, manager, |manager| manager.epoch = Some(epoch));
        }
    }

    /// The old holder is fenced, or not asked: then its grants must run out.
    pub(crate) fn decide(&mut self, world: &mut World, manager: u8, candidate: u8, fenced: Option<u8>) {
        if let Stage::Leads { known, .. } = self.manager(world, manager).stage {
            self.change_manager(world, manager, |manager| manager.begin_claim(candidate, known, fenced));
        }
    }

    /// An order to fence reaches a host; gives whether it is obeyed.
    pub(crate) fn fence(&mut self, world: &mut World, manager: u8, host: u8, generation: Generation) -> bool {
        let lead = self.manager(world, manager).lead;
        self.host_does(world, host, Op::Fence { lead, generation }) == Said::Done
    }

    /// A claim reaches a voter. `answered`: the answer arrives.
    pub(crate) fn claim(
        &mut self,
        world: &mut World,
        manager: u8,
        wanted: Wanted,
        voter: u8,
        answered: bool,
    ) {
        let asks = self.manager(world, manager);
        let said = self.host_does(world, voter, Op::Claim { lead: asks.lead, wanted });
        let (Said::Accepted { wait }, Stage::Claiming { claim, accepted, wait: before }) = (said, asks.stage)
        else {
            return;
        };
        if !answered || claim != wanted {
            return;
        }
        let (accepted, wait) = (accepted | 1 << voter, wait.max(before));
        let majority = self.bounds.voters / 2 + 1;
        let stage = if (accepted.count_ones() as usize) < majority {
            Stage::Claiming { claim, accepted, wait }
        } else {
            let due = due_at(world.t, wait);
            Stage::Claimed { claim, due: if due <= world.t { 0 } else { due } }
        };
        self.change_manager(world, manager, |manager| manager.stage = stage);
    }

    /// An order to open reaches its host.
    pub(crate) fn open(&mut self, world: &mut World, manager: u8, order: Opens) {
        let lead = self.manager(world, manager).lead;
        self.host_does(world, order.target, Op::Open { lead, order });
    }

    pub(crate) fn order_arrived(&mut self, world: &mut World, manager: u8) {
        self.change_manager(world, manager, |manager| manager.arrived = true);
    }

    pub(crate) fn copy_order(&mut self, world: &mut World, manager: u8) {
        self.change_manager(world, manager, |manager| manager.late = manager.opens());
    }

    /// A promotion is given up after its claim: its candidate is fenced, another server is promoted. Orders of it may be on their way.
    pub(crate) fn withdraw(&mut self, world: &mut World, manager: u8, other: u8) {
        let known = self.manager(world, manager);
        let Some(claim) = known.wanted() else { return };
        self.change_manager(world, manager, |manager| {
            manager.late = manager.opens().or(manager.late);
            manager.late_claim = Some(claim);
        });
        if !self.fence(world, manager, claim.candidate, claim.generation) {
            world.managers[usize::from(manager)] = self.put_manager(known);
            return;
        }
        self.change_manager(world, manager, |manager| {
            (manager.epoch, manager.arrived) = (None, false);
            manager.begin_claim(other, claim.generation, Some(claim.candidate));
        });
    }
}
