//! PURE. Voters, ballots, generations, lease, isolation: two state machines run unchanged by the agent and by the
//! simulator. No IO, no clock, no `async`: `now` is passed in, what is to be done comes back as data.
//!
//! Why at most one host is open at a time: a holder counts each grant from when it *asked*, and is entitled until the
//! majority-th latest of those ends. A new generation needs a majority of voters too, so one of them did both: it
//! grants the old holder nothing after it accepted the claim, and says what it granted before. Whoever claims waits that
//! out ([`Terms::wait_after_claim`]), or proves that those very holders were fenced ([`voter::Claim::released`]).

pub mod bid;
pub mod holder;
pub mod refusal;
pub mod relearn;
mod role;
mod signal;
pub mod take_back;
pub mod voter;

#[cfg(test)]
mod restarts;
#[cfg(test)]
mod schedules;
#[cfg(test)]
mod tests;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use self::voter::Outstanding;
use crate::model::policy::Policy;

/// The longest grant there is: one planned restart of an agent.
pub const LONGEST_GRANT: Duration = Duration::from_secs(60);

/// What all parties of one cluster agree upon.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Terms {
    /// This host's name.
    pub me: String,
    /// Hosts with a vote, a fixed list.
    pub voters: Vec<String>,
    /// How many votes decide: more than half of all configured voters.
    pub majority: usize,
    /// T: how long a grant lasts.
    pub lease: Duration,
    /// Between two renewals.
    pub renew_every: Duration,
    /// f: from a lease's end to the last byte a client can get.
    pub fence_within: Duration,
    /// δ: largest relative error between two hosts' clocks, in thousandths.
    pub clock_error_permille: u32,
}

impl Terms {
    /// The terms of `policy` for these voters, of which more than half decide.
    pub fn new(me: &str, voters: Vec<String>, policy: &Policy) -> Self {
        Self {
            me: me.to_owned(),
            majority: voters.len() / 2 + 1,
            voters,
            lease: policy.lease,
            renew_every: policy.renew_every,
            fence_within: policy.fence_within,
            clock_error_permille: policy.clock_error_permille,
        }
    }

    /// How long to wait, counted from the last answer of an accepting majority, until none of the reported grants entitles
    /// anyone: the largest (`lasts` + f)(1 + δ) − age. Zero when nothing is outstanding any more.
    ///
    /// δ is taken of the whole span, not of the rest only: the age was measured by a clock that may be fast too.
    pub fn wait_after_claim<'a>(&self, outstanding: impl IntoIterator<Item = &'a Outstanding>) -> Duration {
        outstanding
            .into_iter()
            .map(|grant| {
                let span = grant.lasts + self.fence_within;
                (span + span * self.clock_error_permille / 1_000).saturating_sub(grant.granted_ago)
            })
            .max()
            .unwrap_or(Duration::ZERO)
    }
}
