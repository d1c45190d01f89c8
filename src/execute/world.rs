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
    /// Which operation of the manager that leads with `ballot`, from 1. 0: of an earlier version, or outside any operation.
    #[serde(default)]
    pub operation: u64,
    /// No operator asked for it: it counts against the budget of automatic failovers.
    pub automatic: bool,
    /// It takes this recovery back: what was ordered in it before that, and comes later, is refused.
    #[serde(default)]
    pub back: bool,
}

/// What an agent remembers of the orders that it was given, so that one which was long on its way is not done after a later one. The network
/// may hold a request back for many seconds after its manager has given it up.
#[derive(Debug, Clone, Default)]
pub struct Orders {
    /// The newest operation, and under which ballot.
    newest: (Ballot, u64),
    /// The recovery that was last seen to be taken back.
    taken_back: String,
}

impl Orders {
    /// Takes in an order whose ballot is obeyed.
    ///
    /// # Errors
    /// [`StepError::Deposed`] where a later one was taken in: of a later operation, or one that takes its recovery back.
    pub fn take(&mut self, token: &Token) -> Result<(), StepError> {
        let deposed = |why: &str| Err(StepError::Deposed(why.to_owned()));
        let (ballot, operation) = &self.newest;
        if token.operation > 0 && token.ballot == *ballot && token.operation < *operation {
            return deposed("its manager has begun a later operation");
        }
        if token.operation > 0 {
            self.newest = (token.ballot.clone(), token.operation);
        }
        let known = !token.recovery.is_empty() && self.taken_back == token.recovery;
        match (token.back, known) {
            (true, false) => self.taken_back.clone_from(&token.recovery),
            (false, true) => return deposed("its recovery is being taken back"),
            (true, true) | (false, false) => {}
        }
        Ok(())
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn token(ballot: u64, operation: u64, recovery: &str, back: bool) -> Token {
        let ballot = Ballot { number: ballot, manager: "m1".to_owned() };
        Token { ballot, recovery: recovery.to_owned(), operation, automatic: true, back }
    }

    #[test]
    fn an_order_that_was_long_on_its_way_is_not_done_after_a_later_one() {
        let mut orders = Orders::default();
        assert_eq!(orders.take(&token(1, 4, "failover", false)), Ok(()));
        assert_eq!(orders.take(&token(1, 5, "rejoin", false)), Ok(()));
        assert!(orders.take(&token(1, 4, "failover", false)).is_err(), "an earlier operation's");
        assert_eq!(orders.take(&token(1, 0, "", false)), Ok(()), "of no operation");
        assert_eq!(orders.take(&token(2, 1, "resumed", false)), Ok(()), "another lead counts anew");
        assert_eq!(orders.take(&token(2, 1, "resumed", true)), Ok(()));
        assert!(orders.take(&token(2, 1, "resumed", false)).is_err(), "what is taken back");
        assert_eq!(orders.take(&token(2, 1, "resumed", true)), Ok(()));
    }
}
