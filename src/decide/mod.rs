//! PURE. The verbs: from what was seen to what to do. No IO, no clock, no randomness, no `async`.

mod ackers;
pub mod adopt;
mod backlog;
pub mod candidate;
pub mod diagnose;
pub mod events;
mod evidence;
mod extra;
pub mod failover;
mod feeding;
pub mod guard;
mod hanging;
mod issues;
pub mod lease;
pub mod lint;
pub mod loss;
pub mod obstacle;
pub mod operation;
mod plain_tables;
pub mod plan;
mod preflight;
mod promotion;
mod proof;
mod prospect;
mod reach;
pub mod rebuild;
pub mod rejoin;
pub(crate) mod reopen;
mod restrictions;
pub mod standing;
mod starved;
pub mod step;
pub mod switchover;
pub mod topology;
mod verdict;

pub use verdict::{Action, Decision, decide};
