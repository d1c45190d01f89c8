//! One manager process: it leads, fences or not, claims, waits and opens, as if it were the only one. It is never stopped, so its orders
//! may come at any later time: that covers a manager that hangs, and orders that are late on their way.

use std::collections::BTreeMap;

use mha::decide::lease::holder::Input;
use mha::decide::lease::voter::{Claim, Claimed, Outstanding};
use mha::decide::plan::Proof;
use mha::model::ballot::{Ballot, Generation};
use mha::model::instance::InstanceId;
use mha::model::time::Moment;

use super::part::Part;
use super::world::{World, cluster, instance, shown, terms};

/// How far a manager has come.
#[derive(Debug, Clone, PartialEq, Hash)]
pub(crate) enum Stage {
    /// A majority obeys it. It knows the highest generation among them, and its holder.
    Leads { known: Generation, holder: Option<InstanceId> },
    /// What each accepting voter had granted before.
    Claiming { claim: Wanted, accepted: BTreeMap<usize, Vec<Outstanding>> },
    /// A majority accepted: it opens its candidate from then on, by its own clock.
    Claimed { claim: Wanted, due: Moment },
}

/// A claim, but for what is the same in all of one manager's.
#[derive(Debug, Clone, Copy, PartialEq, Hash)]
pub(crate) struct Wanted {
    pub(crate) generation: Generation,
    pub(crate) candidate: usize,
    /// The server that answered a fence.
    pub(crate) fenced: Option<usize>,
}

/// An order to open that was sent.
#[derive(Debug, Clone, Copy, PartialEq, Hash)]
pub(crate) struct Opens {
    pub(crate) generation: Generation,
    pub(crate) target: usize,
    pub(crate) epoch: u64,
}

#[derive(Debug, Clone, PartialEq, Hash)]
pub(crate) struct Manager {
    pub(crate) ballot: Ballot,
    pub(crate) candidate: usize,
    pub(crate) stage: Stage,
    /// The candidate's epoch, as it was read for the order to open.
    pub(crate) epoch: Option<u64>,
    /// The order to open has arrived.
    pub(crate) arrived: bool,
    /// A copy of an order to open, or the order of a promotion that was given up since: still on its way.
    pub(crate) late: Option<Opens>,
    /// The claim of a promotion that it has given up since: still on its way.
    pub(crate) late_claim: Option<Wanted>,
}

impl Manager {
    fn new(ballot: Ballot, candidate: usize, stage: Stage) -> Self {
        Self { ballot, candidate, stage, epoch: None, arrived: false, late: None, late_claim: None }
    }

    /// The claim that its messages to voters carry.
    pub(crate) fn wanted(&self) -> Option<Wanted> {
        match &self.stage {
            Stage::Leads { .. } => None,
            Stage::Claiming { claim, .. } | Stage::Claimed { claim, .. } => Some(*claim),
        }
    }

    /// The grants that it knows of are over.
    pub(crate) fn may_open(&self, t: u8) -> bool {
        matches!(self.stage, Stage::Claimed { due, .. } if due <= manager_clock(t))
    }

    /// The order to open that is on its way: it carries the epoch that was read before.
    pub(crate) fn opens(&self) -> Option<Opens> {
        match (&self.stage, self.epoch) {
            (Stage::Claimed { claim, .. }, Some(epoch)) if !self.arrived => {
                Some(Opens { generation: claim.generation, target: claim.candidate, epoch })
            }
            (Stage::Leads { .. } | Stage::Claiming { .. } | Stage::Claimed { .. }, _) => None,
        }
    }

    fn begin_claim(&mut self, known: Generation, fenced: Option<usize>) {
        let claim = Wanted { generation: known.next(), candidate: self.candidate, fenced };
        self.stage = Stage::Claiming { claim, accepted: BTreeMap::new() };
    }
}

/// A manager's clock is fast: with a slow one it would only wait longer, and every manager may be late anyway.
fn manager_clock(t: u8) -> Moment {
    shown(true, t)
}

impl World {
    pub(crate) fn manager(&self, manager: usize) -> &Manager {
        self.managers[manager].get()
    }

    fn set_manager(&mut self, manager: usize, changed: Manager) {
        self.managers[manager] = Part::new(changed);
    }

    /// A manager leads: `quorum`, a majority of voters by bit, obeys it. Its number is above every other's, or, where it did not hear of the
    /// last one, the same. Not where a voter of them refuses.
    pub(crate) fn start_manager(&mut self, candidate: usize, quorum: u8, unaware: bool) {
        let highest = self.managers.iter().map(|other| other.get().ballot.number).max().unwrap_or(1);
        let number = if unaware { highest } else { highest + 1 };
        let ballot = Ballot { number, manager: format!("m{}", self.managers.len()) };
        let voters: Vec<usize> = (0..self.hosts.len()).filter(|voter| quorum & (1 << voter) != 0).collect();
        if voters.iter().any(|voter| !self.host(*voter).voter.obeys(&ballot)) {
            return;
        }
        let (mut known, mut holder) = (Generation::default(), None);
        for voter in voters {
            let led = self.change(voter, |host| {
                let answer = host.voter.lead(&ballot);
                host.answered(answer)
            });
            if led.generation > known {
                (known, holder) = (led.generation, led.holder);
            }
        }
        self.managers.push(Part::new(Manager::new(ballot, candidate, Stage::Leads { known, holder })));
    }

    pub(crate) fn read_epoch(&mut self, manager: usize) {
        let mut asks = self.manager(manager).clone();
        asks.epoch = Some(self.host(asks.candidate).kept.epoch);
        self.set_manager(manager, asks);
    }

    /// The old holder is fenced, or not asked: then its grants must run out.
    pub(crate) fn decide(&mut self, manager: usize, fenced: Option<usize>) {
        let mut decides = self.manager(manager).clone();
        if let Stage::Leads { known, .. } = decides.stage {
            decides.begin_claim(known, fenced);
            self.set_manager(manager, decides);
        }
    }

    /// An order to fence reaches a host; gives whether it is obeyed.
    pub(crate) fn fence(&mut self, manager: usize, host: usize, generation: Generation) -> bool {
        if !self.obeys(manager, host) {
            return false;
        }
        if self.feed(host, Input::Fence { generation }).is_some() {
            return false;
        }
        // Read back before it is answered.
        let t = self.t;
        self.change(host, |host| host.passes_until = host.passes_until.min(t));
        true
    }

    /// Whether a host obeys a command of that manager; a higher ballot is accepted with the command.
    fn obeys(&mut self, manager: usize, host: usize) -> bool {
        let ballot = self.manager(manager).ballot.clone();
        self.change(host, |host| {
            let answer = host.voter.lead(&ballot);
            host.answered(answer).accepted
        })
    }

    /// A claim reaches a voter. `answered`: the answer arrives.
    pub(crate) fn claim(&mut self, manager: usize, wanted: Wanted, voter: usize, answered: bool) {
        let mut asks = self.manager(manager).clone();
        let claim = Claim {
            cluster: cluster(),
            ballot: asks.ballot.clone(),
            generation: wanted.generation,
            candidate: instance(wanted.candidate),
            proof: if wanted.fenced.is_some() { Proof::Fenced } else { Proof::Expired },
            released: wanted.fenced.map(instance).into_iter().collect(),
        };
        let now = self.now(voter);
        let answer = self.change(voter, |host| {
            let answer = host.voter.claim(&claim, now);
            host.answered(answer)
        });
        let outstanding = match answer {
            Claimed::Accepted { outstanding } => outstanding,
            // A claim that is held back is made again.
            Claimed::HeldBack { .. }
            | Claimed::OlderBallot { .. }
            | Claimed::Superseded { .. }
            | Claimed::Taken { .. }
            | Claimed::MayHaveLed { .. }
            | Claimed::NoVote => return,
        };
        let terms = terms(0, self.hosts.len());
        if let Stage::Claiming { claim, accepted } = &mut asks.stage
            && answered
            && *claim == wanted
        {
            accepted.insert(voter, outstanding);
            if accepted.len() == terms.majority {
                let wait = terms.wait_after_claim(accepted.values().flatten());
                asks.stage = Stage::Claimed { claim: *claim, due: manager_clock(self.t) + wait };
            }
            self.set_manager(manager, asks);
        }
    }

    /// An order to open reaches its host.
    pub(crate) fn open(&mut self, manager: usize, order: Opens) {
        if self.obeys(manager, order.target) {
            self.feed(order.target, Input::Open { generation: order.generation, epoch: order.epoch });
        }
    }

    pub(crate) fn order_arrived(&mut self, manager: usize) {
        self.managers[manager].get_mut().arrived = true;
    }

    pub(crate) fn copy_order(&mut self, manager: usize) {
        let manager = self.managers[manager].get_mut();
        manager.late = manager.opens();
    }

    /// A promotion is given up after its claim: its candidate is fenced, another server is promoted. Orders of it may be on their way.
    pub(crate) fn withdraw(&mut self, manager: usize, other: usize) {
        let mut changed = self.manager(manager).clone();
        let Some(claim) = changed.wanted() else { return };
        changed.late = changed.opens().or(changed.late);
        changed.late_claim = Some(claim);
        if !self.fence(manager, claim.candidate, claim.generation) {
            return;
        }
        (changed.candidate, changed.epoch, changed.arrived) = (other, None, false);
        changed.begin_claim(claim.generation, Some(claim.candidate));
        self.set_manager(manager, changed);
    }
}
