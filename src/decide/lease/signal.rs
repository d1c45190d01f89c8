//! What goes into a holder, and what comes out: events and orders, and the effects to carry out in order.

use std::time::Duration;

use super::voter::Renewed;
use crate::model::ballot::Generation;
use crate::model::time::Moment;

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// Time passed; due at [`super::holder::Holder::due`].
    Tick,
    /// A voter answered a renewal that was sent at `sent_at`.
    Answer { from: String, generation: Generation, sent_at: Moment, answer: Renewed },
    /// Lead. Carries the epoch its sender saw.
    Open { generation: Generation, epoch: u64 },
    /// No client byte and no lease. The address is renewed no more: it goes on answering with a reset until the next holder announces
    /// it, or the kernel's timer ends it (a client's SYN that nobody answers costs it a second).
    Fence { generation: Generation },
    /// Be a replica that clients may read.
    Admit,
    /// The address belongs here.
    TakeVip { generation: Generation },
    /// The address does not belong here.
    LoseVip,
    /// The server's process ended.
    ServerGone,
    /// A server process appeared.
    ServerStarted,
    /// The answer to [`Effect::AskCompare`] of that incarnation.
    Compared { incarnation: u64, contains_all: bool },
    /// The closed server was made read-only: whoever leads on it again has to undo that.
    MadeReadOnly,
    /// The agent is about to be restarted: one grant of that length.
    Grace { lasts: Duration },
}

/// What to do, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Write [`super::holder::Holder::kept`] and sync, before the effects after it, before anything else is taken in, and before answering.
    Persist,
    /// Ask every voter at once.
    SendRenew { generation: Generation, lasts: Duration },
    /// Rung 1: no client byte passes.
    Close,
    /// Clients pass until then, by the kernel's own timer.
    HoldOpen { until: Moment },
    /// Clients pass.
    Admit,
    /// The address is here until then, by the kernel's own timer. Announce it when it was not.
    HoldVip { until: Moment },
    /// The address is not here.
    ReleaseVip,
    /// Does this server's set contain every reachable member's? Answer with [`Input::Compared`].
    AskCompare { incarnation: u64 },
    /// The server was restarted or made read-only, and leads again by itself: armed as it was, then writable.
    Resume,
}
