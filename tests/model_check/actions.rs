//! What may happen next, and what comes of it.

use mha::decide::lease::holder::{Holder, Input};
use stateright::{Model, Property};

use super::manager::Stage;
use super::world::{Bounds, World};

/// One step. Where an answer may be lost, both cases are steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    TimePasses,
    /// The agent looks at its lease. It may be late.
    Wakes {
        host: usize,
    },
    RenewalArrives {
        from: usize,
        voter: usize,
        answered: bool,
    },
    RenewalIsCopied {
        from: usize,
        voter: usize,
    },
    /// A renewal arrives, and its answer only later.
    AnswerIsLate {
        from: usize,
        voter: usize,
    },
    CopiedRenewalArrives {
        from: usize,
        nth: usize,
    },
    CopiedAnswerArrives {
        host: usize,
        nth: usize,
    },
    /// The server's set contains every reachable member's.
    ComparedWell {
        host: usize,
    },
    ManagerLeads {
        candidate: usize,
        quorum: u8,
        unaware: bool,
    },
    ReadsEpoch {
        manager: usize,
    },
    FenceArrives {
        manager: usize,
        host: usize,
        answered: bool,
    },
    ClaimsUnfenced {
        manager: usize,
    },
    ClaimArrives {
        manager: usize,
        voter: usize,
        answered: bool,
    },
    LateClaimArrives {
        manager: usize,
        voter: usize,
    },
    OpenArrives {
        manager: usize,
    },
    OpenIsCopied {
        manager: usize,
    },
    LateOpenArrives {
        manager: usize,
    },
    Withdraws {
        manager: usize,
        other: usize,
    },
    AgentRestarts {
        host: usize,
        same_server: bool,
    },
    ServerEnds {
        host: usize,
    },
    ServerStarts {
        host: usize,
    },
    PowerCut {
        host: usize,
    },
}

impl Bounds {
    fn host_actions(&self, world: &World, actions: &mut Vec<Action>) {
        for host in 0..self.voters {
            let state = world.host(host);
            if world.left.agent_restarts > 0 {
                actions.push(Action::AgentRestarts { host, same_server: true });
            }
            if world.left.power_cuts > 0 {
                actions.push(Action::PowerCut { host });
            }
            if host >= self.members {
                continue;
            }
            if state.holder.as_ref().and_then(Holder::due).is_some_and(|due| due <= world.now(host)) {
                actions.push(Action::Wakes { host });
            }
            self.renewal_actions(world, host, actions);
            if state.comparing.is_some() {
                actions.push(Action::ComparedWell { host });
            }
            match state.server_up {
                true if world.left.server_crashes > 0 => actions.push(Action::ServerEnds { host }),
                true => {}
                false => actions.push(Action::ServerStarts { host }),
            }
            if world.left.agent_restarts > 0 && state.server_up && self.faults.server_crashes > 0 {
                actions.push(Action::AgentRestarts { host, same_server: false });
            }
        }
    }

    fn renewal_actions(&self, world: &World, host: usize, actions: &mut Vec<Action>) {
        let state = world.host(host);
        for voter in (0..self.voters).filter(|voter| state.asked[*voter].is_some()) {
            actions.push(Action::RenewalArrives { from: host, voter, answered: true });
            if world.left.lost_answers > 0 {
                actions.push(Action::RenewalArrives { from: host, voter, answered: false });
            }
            if world.left.late_copies > 0 {
                actions.push(Action::RenewalIsCopied { from: host, voter });
                actions.push(Action::AnswerIsLate { from: host, voter });
            }
        }
        actions
            .extend((0..state.late_asks.len()).map(|nth| Action::CopiedRenewalArrives { from: host, nth }));
        actions.extend((0..state.late_answers.len()).map(|nth| Action::CopiedAnswerArrives { host, nth }));
    }

    fn manager_actions(&self, world: &World, actions: &mut Vec<Action>) {
        if world.managers.len() < self.managers {
            let majority = self.voters as u32 / 2 + 1;
            let quorums = (0..1_u8 << self.voters).filter(|quorum| quorum.count_ones() == majority);
            for (quorum, candidate) in
                quorums.flat_map(|quorum| (0..self.members).map(move |host| (quorum, host)))
            {
                actions.push(Action::ManagerLeads { candidate, quorum, unaware: false });
                if !world.managers.is_empty() {
                    actions.push(Action::ManagerLeads { candidate, quorum, unaware: true });
                }
            }
        }
        for (manager, state) in world.managers.iter().map(super::part::Part::get).enumerate() {
            for voter in 0..self.voters {
                match state.stage {
                    Stage::Leads { .. } => {}
                    Stage::Claiming { .. } => {
                        actions.push(Action::ClaimArrives { manager, voter, answered: true });
                        if world.left.lost_answers > 0 {
                            actions.push(Action::ClaimArrives { manager, voter, answered: false });
                        }
                    }
                    // A majority is enough: nothing waits for the answer of the others.
                    Stage::Claimed { .. } => {
                        actions.push(Action::ClaimArrives { manager, voter, answered: false });
                    }
                }
                if state.late_claim.is_some() {
                    actions.push(Action::LateClaimArrives { manager, voter });
                }
            }
            if let Stage::Leads { holder, .. } = &state.stage {
                actions.push(Action::ClaimsUnfenced { manager });
                let old = (0..self.members).find(|host| Some(super::world::instance(*host)) == *holder);
                if let Some(host) = old.filter(|host| *host != state.candidate) {
                    actions.push(Action::FenceArrives { manager, host, answered: true });
                    if world.left.lost_answers > 0 {
                        actions.push(Action::FenceArrives { manager, host, answered: false });
                    }
                }
            }
            if state.epoch.is_none() && state.may_open(world.t) {
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
            if world.left.withdrawals > 0 && matches!(state.stage, Stage::Claimed { .. }) {
                let others = (0..self.members).filter(|other| *other != state.candidate);
                actions.extend(others.map(|other| Action::Withdraws { manager, other }));
            }
        }
    }

    fn happen(&self, world: &mut World, action: Action) {
        match action {
            Action::TimePasses => world.time_passes(),
            Action::Wakes { host } => drop(world.feed(host, Input::Tick)),
            Action::RenewalArrives { from, voter, answered } => {
                world.left.lost_answers -= u8::from(!answered);
                world.renewal_arrives(from, voter, answered);
            }
            Action::RenewalIsCopied { .. }
            | Action::AnswerIsLate { .. }
            | Action::CopiedRenewalArrives { .. }
            | Action::CopiedAnswerArrives { .. } => copies(world, action),
            Action::ComparedWell { host } => {
                if let Some(incarnation) = world.change(host, |host| host.comparing.take()) {
                    world.feed(host, Input::Compared { incarnation, contains_all: true });
                }
            }
            Action::AgentRestarts { host, same_server } => {
                world.left.agent_restarts -= 1;
                world.restart_agent(host, false, same_server);
            }
            Action::PowerCut { host } => {
                world.left.power_cuts -= 1;
                world.restart_agent(host, true, false);
            }
            Action::ServerEnds { host } => {
                world.left.server_crashes -= 1;
                world.change(host, |host| host.server_up = false);
                world.feed(host, Input::ServerGone);
            }
            Action::ServerStarts { host } => {
                world.change(host, |host| host.server_up = true);
                world.feed(host, Input::ServerStarted);
            }
            Action::ManagerLeads { .. }
            | Action::ReadsEpoch { .. }
            | Action::FenceArrives { .. }
            | Action::ClaimsUnfenced { .. }
            | Action::ClaimArrives { .. }
            | Action::LateClaimArrives { .. }
            | Action::OpenArrives { .. }
            | Action::OpenIsCopied { .. }
            | Action::LateOpenArrives { .. }
            | Action::Withdraws { .. } => manage(world, action),
        }
    }
}

fn manage(world: &mut World, action: Action) {
    match action {
        Action::ManagerLeads { candidate, quorum, unaware } => {
            world.start_manager(candidate, quorum, unaware)
        }
        Action::ReadsEpoch { manager } => world.read_epoch(manager),
        Action::ClaimsUnfenced { manager } => world.decide(manager, None),
        Action::FenceArrives { manager, host, answered } => {
            world.left.lost_answers -= u8::from(!answered);
            if let Stage::Leads { known, .. } = world.manager(manager).stage
                && world.fence(manager, host, known)
                && answered
            {
                world.decide(manager, Some(host));
            }
        }
        Action::ClaimArrives { manager, voter, answered } => {
            let stage = &world.manager(manager).stage;
            world.left.lost_answers -= u8::from(!answered && matches!(stage, Stage::Claiming { .. }));
            if let Some(wanted) = world.manager(manager).wanted() {
                world.claim(manager, wanted, voter, answered);
            }
        }
        Action::LateClaimArrives { manager, voter } => {
            if let Some(wanted) = world.manager(manager).late_claim {
                world.claim(manager, wanted, voter, false);
            }
        }
        Action::OpenArrives { manager } => {
            if let Some(order) = world.manager(manager).opens() {
                world.open(manager, order);
                world.order_arrived(manager);
            }
        }
        Action::OpenIsCopied { manager } => {
            world.left.late_copies -= 1;
            world.copy_order(manager);
        }
        Action::LateOpenArrives { manager } => {
            if let Some(order) = world.manager(manager).late {
                world.open(manager, order);
            }
        }
        Action::Withdraws { manager, other } => {
            world.left.withdrawals -= 1;
            world.withdraw(manager, other);
        }
        _ => unreachable!("{action:?} is none of a manager's"),
    }
}

fn copies(world: &mut World, action: Action) {
    match action {
        Action::RenewalIsCopied { from, voter } => {
            world.left.late_copies -= 1;
            world.change(from, |host| host.late_asks.extend(host.asked[voter].map(|ask| (voter, ask))));
        }
        Action::AnswerIsLate { from, voter } => {
            world.left.late_copies -= 1;
            if let Some(ask) = world.change(from, |host| host.asked[voter].take()) {
                let answer = world.grant(from, voter, ask);
                world.change(from, |host| host.late_answers.push((voter, ask, answer)));
            }
        }
        Action::CopiedRenewalArrives { from, nth } => {
            let copied = world.change(from, |host| {
                let copied = host.late_asks.iter().nth(nth).copied();
                copied.filter(|copied| host.late_asks.remove(copied))
            });
            if let Some((voter, ask)) = copied {
                let answer = world.grant(from, voter, ask);
                world.answer_arrives(from, voter, ask, answer);
            }
        }
        Action::CopiedAnswerArrives { host, nth } => {
            let (voter, ask, answer) = world.change(host, |host| host.late_answers.remove(nth));
            world.answer_arrives(host, voter, ask, answer);
        }
        _ => unreachable!("{action:?} is none of a copy"),
    }
}

impl Model for Bounds {
    type State = World;
    type Action = Action;

    /// Each host's clock is as slow, or as fast, as the bound allows.
    fn init_states(&self) -> Vec<World> {
        self.clocks().into_iter().map(|fast| World::adopted(self, fast)).collect()
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        if world.violation.is_some() {
            return;
        }
        self.host_actions(world, actions);
        self.manager_actions(world, actions);
        if world.t < self.ticks {
            actions.push(Action::TimePasses);
        }
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        let mut next = world.clone();
        self.happen(&mut next, action);
        next.look();
        next.seal(Some(world));
        (next != *world).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(super::report::SAFE, |_, world: &World| world.violation.is_none()),
            Property::sometimes("a promotion lets clients in", |_, world: &World| world.highest_open.0 > 1),
            Property::sometimes("the lease is renewed", |_, world: &World| {
                let initial = world.adopted_until();
                world.highest_open.0 == 1 && world.host(0).passes_until > initial
            }),
            Property::sometimes("the lease runs out", |_, world: &World| {
                world.highest_open.0 == 1 && (1..=world.t).contains(&world.host(0).passes_until)
            }),
            Property::sometimes(
                "a promotion behind a fence lets clients in before the lease runs out",
                |_, world: &World| world.highest_open.0 > 1 && world.t < world.adopted_until(),
            ),
        ]
    }
}
