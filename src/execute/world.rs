//! The one seam between us and everything outside: live servers and agents, or the simulator.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::decide::plan::{Evidence, Step};
use crate::model::ballot::Ballot;
use crate::model::observation::Unseen;

/// Under whose lead, and for which recovery, a step is done. Agents refuse older ballots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    pub ballot: Ballot,
    /// The recovery this belongs to, for logs on both sides.
    pub recovery: String,
    /// No operator asked for it: it counts against the budget of automatic failovers.
    pub automatic: bool,
    /// It takes this recovery back: what was ordered in it before that, and comes later, is refused.
    #[serde(default)]
    pub back: bool,
}

/// Why a step was not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(tag = "error", content = "why", rename_all = "snake_case")]
pub enum StepError {
    /// Nobody answered in time: the effect may or may not have happened.
    #[error("no answer{}: {what}", span(*within))]
    NoAnswer { within: Duration, what: String },
    /// The server or agent answered that it could not.
    #[error("{0}")]
    Failed(String),
    /// A party that has accepted a higher ballot or generation refused.
    #[error("refused: {0}")]
    Deposed(String),
    /// It was done, and what was read afterwards is not what was wanted.
    #[error("done without effect: {0}")]
    NoEffect(String),
}

/// Nothing where the connection broke at once.
fn span(within: Duration) -> String {
    if within.is_zero() { String::new() } else { format!(" within {} ms", within.as_millis()) }
}

impl StepError {
    /// A server could not be reached or read within `within`: silence is told from words.
    pub fn unseen(unseen: &Unseen, within: Duration, what: String) -> Self {
        match unseen.is_silence() {
            true => Self::NoAnswer { within, what },
            false => Self::Failed(what),
        }
    }
}

/// What a plan acts upon.
#[expect(
    async_fn_in_trait,
    reason = "both worlds are in this crate and run on one thread or are Send by construction"
)]
pub trait World {
    /// Reads what `step` is about, changing nothing.
    async fn observe(&self, step: &Step) -> Result<Evidence, StepError>;

    /// Makes `step` true, idempotently, and reads it back.
    async fn apply(&self, step: &Step, token: &Token) -> Result<Evidence, StepError>;
}
