//! What may happen next, and what comes of it.

use super::manager::Stage;
use super::memo::Machine;
use super::op::{Ask, Op, Said};
use super::world::World;

/// One step. Where an answer may be lost, both cases are steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// Every agent whose lease has something due looks at it; what it asks for then may be lost.
    TimePasses,
    RenewalArrives {
        from: u8,
        voter: u8,
        answered: bool,
    },
    RenewalIsCopied {
        from: u8,
        voter: u8,
    },
    /// A renewal arrives, and its answer only later.
    AnswerIsLate {
        from: u8,
        voter: u8,
    },
    CopiedRenewalArrives {
        from: u8,
        nth: u8,
    },
    CopiedAnswerArrives {
        host: u8,
        nth: u8,
    },
    /// The server's set contains every reachable member's.
    ComparedWell {
        host: u8,
    },
    ManagerLeads {
        quorum: u8,
        unaware: bool,
    },
    ReadsEpoch {
        manager: u8,
    },
    /// Where the answer arrives, that candidate is claimed for then.
    FenceArrives {
        manager: u8,
        host: u8,
        candidate: u8,
    },
    FenceIsNotAnswered {
        manager: u8,
        host: u8,
    },
    ClaimsUnfenced {
        manager: u8,
        candidate: u8,
    },
    ClaimArrives {
        manager: u8,
        voter: u8,
        answered: bool,
    },
    LateClaimArrives {
        manager: u8,
        voter: u8,
    },
    OpenArrives {
        manager: u8,
    },
    OpenIsCopied {
        manager: u8,
    },
    LateOpenArrives {
        manager: u8,
    },
    Withdraws {
        manager: u8,
        other: u8,
    },
    AgentRestarts {
        host: u8,
        same_server: bool,
    },
    ServerEnds {
        host: u8,
    },
    ServerStarts {
        host: u8,
    },
    PowerCut {
        host: u8,
    },
}

impl Machine {
    fn voters(&self) -> std::ops::Range<u8> {
        0..self.bounds.voters as u8
    }

    fn members(&self) -> std::ops::Range<u8> {
        0..self.bounds.members as u8
    }

    pub(crate) fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        if self.is_over(world) {
            return;
        }
        for host in self.voters() {
            if world.left.agent_restarts > 0 {
                actions.push(Action::AgentRestarts { host, same_server: true });
            }
            if world.left.power_cuts > 0 {
                actions.push(Action::PowerCut { host });
            }
            if usize::from(host) < self.bounds.members {
                self.member_actions(world, host, actions);
            }
        }
        self.beginnings(world, actions);
        for manager in 0..world.led() as u8 {
            self.claim_actions(world, manager, actions);
            self.open_actions(world, manager, actions);
        }
        if world.t < self.bounds.ticks {
            actions.push(Action::TimePasses);
        }
    }

    /// Whether nothing can be broken in the rest of the run: its last tick has come, no manager may order a server to open, no voter
    /// begins anew, and at most one server lets clients in or may do so by itself.
    pub(crate) fn is_over(&self, world: &World) -> bool {
        let voters_stay = world.left.agent_restarts == 0 && world.left.power_cuts == 0;
        if world.t < self.bounds.ticks || world.led() < self.bounds.managers || !voters_stay {
            return false;
        }
        let orders = (0..world.led() as u8).any(|manager| self.may_still_open(world, manager));
        let may_let_in = |host: &u8| {
            let seen = self.glance(world, *host);
            seen.passes_until > world.t || seen.leads.is_some()
        };
        !orders && self.members().filter(may_let_in).count() <= 1
    }

    fn member_actions(&self, world: &World, host: u8, actions: &mut Vec<Action>) {
        let state = self.host(world, host);
        for voter in self.voters().filter(|voter| state.asked[usize::from(*voter)].is_some()) {
            actions.push(Action::RenewalArrives { from: host, voter, answered: true });
            if world.left.lost_answers > 0 {
                actions.push(Action::RenewalArrives { from: host, voter, answered: false });
            }
            if world.left.late_copies > 0 {
                actions.push(Action::RenewalIsCopied { from: host, voter });
                actions.push(Action::AnswerIsLate { from: host, voter });
            }
        }
        let asks = 0..state.late_asks.len() as u8;
        actions.extend(asks.map(|nth| Action::CopiedRenewalArrives { from: host, nth }));
        let answers = 0..state.late_answers.len() as u8;
        actions.extend(answers.map(|nth| Action::CopiedAnswerArrives { host, nth }));
        if state.comparing.is_some() {
            actions.push(Action::ComparedWell { host });
        }
        match state.server_up {
            true if world.left.server_crashes > 0 => actions.push(Action::ServerEnds { host }),
            true => {}
            false => actions.push(Action::ServerStarts { host }),
        }
        if world.left.agent_restarts > 0 && state.server_up && self.bounds.faults.server_crashes > 0 {
            actions.push(Action::AgentRestarts { host, same_server: false });
        }
    }

    fn beginnings(&self, world: &World, actions: &mut Vec<Action>) {
        if world.led() == self.bounds.managers {
            return;
        }
        let majority = self.bounds.voters as u32 / 2 + 1;
        let quorums = (0..1_u8 << self.bounds.voters).filter(|quorum| quorum.count_ones() == majority);
        for quorum in quorums {
            actions.push(Action::ManagerLeads { quorum, unaware: false });
            if world.led() > 0 {
                actions.push(Action::ManagerLeads { quorum, unaware: true });
            }
        }
    }

    /// Whom a manager may promote first. Of two servers that are alike in the beginning the first manager takes the first: a run in which
    /// it takes the other one is the same with their names exchanged.
    fn candidates(&self, world: &World, manager: u8) -> std::ops::Range<u8> {
        let alike = self.bounds.members == 3 && world.is_fast(1) == world.is_fast(2);
        if manager == 0 && alike { 0..2 } else { self.members() }
    }

    fn claim_actions(&self, world: &World, manager: u8, actions: &mut Vec<Action>) {
        let state = self.manager(world, manager);
        match state.stage {
            Stage::Leads { holder, .. } => {
                for candidate in self.candidates(world, manager) {
                    actions.push(Action::ClaimsUnfenced { manager, candidate });
                    let old = holder.filter(|old| *old != candidate && self.members().contains(old));
                    actions.extend(old.map(|host| Action::FenceArrives { manager, host, candidate }));
                }
                let old = holder.filter(|old| world.left.lost_answers > 0 && self.members().contains(old));
                actions.extend(old.map(|host| Action::FenceIsNotAnswered { manager, host }));
            }
            Stage::Claiming { claim, accepted, .. } => {
                let may = |voter: &u8| {
                    accepted & (1 << voter) == 0 && self.may_accept(world, &state, claim, *voter)
                };
                for voter in self.voters().filter(may) {
                    actions.push(Action::ClaimArrives { manager, voter, answered: true });
                    if world.left.lost_answers > 0 {
                        actions.push(Action::ClaimArrives { manager, voter, answered: false });
                    }
                }
            }
            // A majority is enough: nothing waits for the answer of the others.
            Stage::Claimed { .. } | Stage::Ended { .. } => {
                let claim = state.wanted().into_iter();
                let voters = claim.flat_map(|claim| {
                    self.voters().filter(move |voter| self.may_learn(world, &state, claim, *voter))
                });
                actions.extend(voters.map(|voter| Action::ClaimArrives { manager, voter, answered: false }));
            }
        }
        if let Some(claim) = state.late_claim {
            let voters = self.voters().filter(|voter| self.may_learn(world, &state, claim, *voter));
            actions.extend(voters.map(|voter| Action::LateClaimArrives { manager, voter }));
        }
    }

    fn open_actions(&self, world: &World, manager: u8, actions: &mut Vec<Action>) {
        let state = self.manager(world, manager);
        if state.epoch.is_none() && state.may_open() {
            actions.push(Action::ReadsEpoch { manager });
        }
        if state.opens().is_some() {
            actions.push(Action::OpenArrives { manager });
            if world.left.late_copies > 0 && state.late.is_none() {
                actions.push(Action::OpenIsCopied { manager });
            }
        }
        if state.late.is_some() {
            actions.push(Action::LateOpenArrives { manager });
        }
        if world.left.withdrawals > 0
            && let Stage::Claimed { claim, .. } = state.stage
        {
            let others = self.members().filter(|other| *other != claim.candidate);
            actions.extend(others.map(|other| Action::Withdraws { manager, other }));
        }
    }

    /// The state after a step; [`Machine::violation`] says what the step broke.
    pub(crate) fn after(&mut self, world: &World, action: Action) -> World {
        let mut next = *world;
        match action {
            Action::TimePasses => self.time_passes(&mut next),
            Action::ComparedWell { host } => self.just(&mut next, host, Op::ComparedWell),
            Action::AgentRestarts { host, same_server } => {
                next.left.agent_restarts -= 1;
                self.just(&mut next, host, Op::Restarts { power_cut: false, same_server });
            }
            Action::PowerCut { host } => {
                next.left.power_cuts -= 1;
                self.just(&mut next, host, Op::Restarts { power_cut: true, same_server: false });
            }
            Action::ServerEnds { host } => {
                next.left.server_crashes -= 1;
                self.just(&mut next, host, Op::ServerEnds);
            }
            Action::ServerStarts { host } => self.just(&mut next, host, Op::ServerStarts),
            Action::RenewalArrives { .. }
            | Action::RenewalIsCopied { .. }
            | Action::AnswerIsLate { .. }
            | Action::CopiedRenewalArrives { .. }
            | Action::CopiedAnswerArrives { .. } => self.renewal(&mut next, action),
            Action::ManagerLeads { .. }
            | Action::ReadsEpoch { .. }
            | Action::FenceArrives { .. }
            | Action::FenceIsNotAnswered { .. }
            | Action::ClaimsUnfenced { .. }
            | Action::ClaimArrives { .. }
            | Action::LateClaimArrives { .. }
            | Action::OpenArrives { .. }
            | Action::OpenIsCopied { .. }
            | Action::LateOpenArrives { .. }
            | Action::Withdraws { .. } => self.manage(&mut next, action),
        }
        self.end_managers(&mut next);
        self.drop_renewals(&mut next);
        if let Some(broken) = next.broken(self) {
            self.violation.get_or_insert(broken);
        }
        next
    }

    fn just(&mut self, world: &mut World, host: u8, op: Op) {
        self.host_does(world, host, op);
    }

    fn manage(&mut self, world: &mut World, action: Action) {
        match action {
            Action::ManagerLeads { quorum, unaware } => self.start_manager(world, quorum, unaware),
            Action::ReadsEpoch { manager } => self.read_epoch(world, manager),
            Action::ClaimsUnfenced { manager, candidate } => self.decide(world, manager, candidate, None),
            Action::FenceArrives { manager, host, candidate } => {
                if self.fences(world, manager, host) {
                    self.decide(world, manager, candidate, Some(host));
                }
            }
            Action::FenceIsNotAnswered { manager, host } => {
                world.left.lost_answers -= 1;
                self.fences(world, manager, host);
            }
            Action::ClaimArrives { manager, voter, answered } => {
                let state = self.manager(world, manager);
                let waits = matches!(state.stage, Stage::Claiming { .. });
                world.left.lost_answers -= u8::from(!answered && waits);
                if let Some(wanted) = state.wanted() {
                    self.claim(world, manager, wanted, voter, answered);
                }
            }
            Action::LateClaimArrives { manager, voter } => {
                if let Some(wanted) = self.manager(world, manager).late_claim {
                    self.claim(world, manager, wanted, voter, false);
                }
            }
            Action::OpenArrives { manager } => {
                if let Some(order) = self.manager(world, manager).opens() {
                    self.open(world, manager, order);
                    self.order_arrived(world, manager);
                }
            }
            Action::OpenIsCopied { manager } => {
                world.left.late_copies -= 1;
                self.copy_order(world, manager);
            }
            Action::LateOpenArrives { manager } => {
                if let Some(order) = self.manager(world, manager).late {
                    self.open(world, manager, order);
                }
            }
            Action::Withdraws { manager, other } => {
                world.left.withdrawals -= 1;
                self.withdraw(world, manager, other);
            }
            _ => unreachable!("{action:?} is none of a manager's"),
        }
    }

    fn fences(&mut self, world: &mut World, manager: u8, host: u8) -> bool {
        match self.manager(world, manager).stage {
            Stage::Leads { known, .. } => self.fence(world, manager, host, known),
            Stage::Claiming { .. } | Stage::Claimed { .. } | Stage::Ended { .. } => false,
        }
    }

    // === renewals ===

    /// A renewal that its voter refuses, now and later, and whose sender leads that generation no more, is as good as lost.
    fn drop_renewals(&mut self, world: &mut World) {
        for from in self.members() {
            let sender = self.glance(world, from);
            if sender.asked == 0 || sender.asks == sender.leads {
                continue;
            }
            for voter in self.voters().filter(|voter| sender.asked & (1 << voter) != 0) {
                if Some(self.glance(world, voter).knows) > sender.asks {
                    self.just(world, from, Op::Arrived { voter });
                }
            }
        }
    }

    fn on_its_way(&self, world: &World, from: u8, voter: u8) -> Option<Ask> {
        self.host(world, from).asked[usize::from(voter)]
    }

    /// A renewal reaches a voter; gives its answer.
    fn renews(&mut self, world: &mut World, from: u8, voter: u8, ask: Ask) -> Option<u32> {
        match self.host_does(world, voter, Op::Renew { from, ask }) {
            Said::Renewed(answer) => Some(answer),
            Said::Done | Said::Refused | Said::Obeys { .. } | Said::Accepted { .. } => None,
        }
    }

    fn renewal(&mut self, world: &mut World, action: Action) {
        match action {
            Action::RenewalArrives { from, voter, answered } => {
                world.left.lost_answers -= u8::from(!answered);
                let Some(ask) = self.on_its_way(world, from, voter) else { return };
                self.just(world, from, Op::Arrived { voter });
                let answer = self.renews(world, from, voter, ask);
                if let Some(answer) = answer.filter(|_| answered) {
                    self.just(world, from, Op::Answer { voter, ask, answer });
                }
            }
            Action::RenewalIsCopied { from, voter } => {
                world.left.late_copies -= 1;
                self.just(world, from, Op::Copied { voter });
            }
            Action::AnswerIsLate { from, voter } => {
                world.left.late_copies -= 1;
                let Some(ask) = self.on_its_way(world, from, voter) else { return };
                self.just(world, from, Op::Arrived { voter });
                if let Some(answer) = self.renews(world, from, voter, ask) {
                    self.just(world, from, Op::AnswerIsLate { voter, ask, answer });
                }
            }
            Action::CopiedRenewalArrives { from, nth } => {
                let copied = self.host(world, from).late_asks.iter().nth(usize::from(nth)).copied();
                let Some((voter, ask)) = copied else { return };
                self.just(world, from, Op::LateAskArrives { nth });
                if let Some(answer) = self.renews(world, from, voter, ask) {
                    self.just(world, from, Op::Answer { voter, ask, answer });
                }
            }
            Action::CopiedAnswerArrives { host, nth } => {
                self.just(world, host, Op::LateAnswerArrives { nth });
            }
            _ => unreachable!("{action:?} is none of a renewal"),
        }
    }
}
