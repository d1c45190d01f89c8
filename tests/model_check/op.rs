//! What may happen to one host, and what it says to it.

use std::time::Duration;

use mha::decide::lease::voter::Claim;
use mha::decide::plan::Proof;
use mha::model::ballot::{Ballot, Generation};
use mha::model::time::Moment;

use super::manager::{Lead, Opens, Wanted};
use super::world::{cluster, instance, shown};

/// A renewal: for which generation, and when it was sent by its sender's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Ask {
    pub(crate) generation: Generation,
    pub(crate) sent_at: Moment,
}

/// Which host, when, and with which clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct At {
    pub(crate) host: u8,
    pub(crate) t: u8,
    pub(crate) fast: bool,
}

impl At {
    pub(crate) fn now(self) -> Moment {
        shown(self.fast, self.t)
    }
}

/// What may happen to one host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Op {
    /// `At` is what it is then. Renewals that have not arrived are lost, but for the late copies.
    TimePassed,
    Wakes,
    ComparedWell,
    ServerEnds,
    ServerStarts,
    Restarts {
        power_cut: bool,
        same_server: bool,
    },
    /// A renewal reaches this voter.
    Renew {
        from: u8,
        ask: Ask,
    },
    /// The renewal on its way to a voter arrived: it is on its way no more.
    Arrived {
        voter: u8,
    },
    /// A voter's answer to a renewal.
    Answer {
        voter: u8,
        ask: Ask,
        answer: u32,
    },
    /// A copy of the renewal on its way to a voter stays on its way.
    Copied {
        voter: u8,
    },
    /// The answer stays on its way.
    AnswerIsLate {
        voter: u8,
        ask: Ask,
        answer: u32,
    },
    LateAskArrives {
        nth: u8,
    },
    LateAnswerArrives {
        nth: u8,
    },
    Lead {
        lead: Lead,
    },
    Fence {
        lead: Lead,
        generation: Generation,
    },
    Claim {
        lead: Lead,
        wanted: Wanted,
    },
    Open {
        lead: Lead,
        order: Opens,
    },
}

/// What the host says to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Said {
    /// It was done, or there was nothing to say.
    Done,
    Refused,
    /// Where among the [`Machine`]'s answers a voter's is.
    Renewed(u32),
    /// The ballot is obeyed: what the voter knows.
    Obeys {
        generation: Generation,
        holder: Option<u8>,
    },
    /// The claim is accepted: how long the claimant must wait for what this voter had granted.
    Accepted {
        wait: Duration,
    },
}

impl Lead {
    pub(crate) fn of(ballot: &Ballot) -> Self {
        let manager = ballot.manager.trim_start_matches('m').parse();
        Self { number: ballot.number as u8, manager: manager.expect("it was made of a number") }
    }

    pub(crate) fn ballot(self) -> Ballot {
        Ballot { number: u64::from(self.number), manager: format!("m{}", self.manager) }
    }
}

impl Wanted {
    pub(crate) fn claim(self, ballot: Ballot) -> Claim {
        Claim {
            cluster: cluster(),
            ballot,
            generation: self.generation,
            candidate: instance(self.candidate),
            proof: if self.fenced.is_some() { Proof::Fenced } else { Proof::Expired },
            released: self.fenced.map(instance).into_iter().collect(),
        }
    }
}
