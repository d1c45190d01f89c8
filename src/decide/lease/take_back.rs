//! PURE. A server that was blocked for a switchover and hears no more of it takes itself back: what it asks of the voters, and what their
//! answers come to. It decides nothing by itself: whichever of promotion and taking back a majority granted first has won.

use std::time::Duration;

use super::Terms;
use super::role::{Kept, Role};
use super::voter::{Claim, Claimed, Outstanding};
use crate::decide::plan::{Proof, Step};
use crate::model::ballot::{Ballot, Generation};
use crate::model::cluster::ClusterName;
use crate::model::instance::InstanceId;

/// A manager that lives has ended the block, or taken it back, so long after the block's own time.
pub const PATIENCE: Duration = Duration::from_secs(3);
/// Between two tries.
pub const AGAIN: Duration = Duration::from_secs(1);

/// What one block left to its agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeftAlone {
    /// What this host had led when it was blocked.
    pub led: Generation,
    /// What it claims: above the one its manager claims for the other.
    pub back: Generation,
    /// This host's, as the fence left it: any word of a manager changes it.
    pub epoch: u64,
}

/// What the voters' answers to one claim come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tally {
    /// A majority accepted; whoever it had granted before is entitled for so long at most.
    Won { wait: Duration },
    /// So many refused that it can never be won.
    Lost { refused: Vec<String> },
    /// Silent voters, and those still bound by a grant, may accept later.
    Later { accepted: usize },
}

impl LeftAlone {
    /// Nothing where the block has nothing to be taken back to, or was overtaken before it began.
    pub fn new(otherwise: &[Step], kept: Kept) -> Option<Self> {
        let Some(Step::Claim { generation: back, .. }) = otherwise.first() else { return None };
        let Role::Fenced { generation: led } = kept.role else { return None };
        Some(Self { led, back: *back, epoch: kept.epoch })
    }

    /// Nobody has told this host anything since.
    pub fn stands(&self, kept: Kept) -> bool {
        kept.epoch == self.epoch && matches!(kept.role, Role::Fenced { .. })
    }

    /// By what a voter says of itself, the highest generation it `knows` and whether it ever `granted`: somebody was let in after this
    /// block. To claim then would leave the voters with a generation nobody leads.
    pub fn is_overtaken(&self, knows: Generation, granted: bool) -> bool {
        knows > self.back || (knows > self.led && knows < self.back && granted)
    }

    /// What is asked of every voter, by the ballot of the manager that ordered the block.
    pub fn claim(&self, cluster: ClusterName, ballot: Ballot, candidate: InstanceId) -> Claim {
        Claim {
            cluster,
            ballot,
            generation: self.back,
            candidate,
            proof: Proof::TakenBack,
            released: Vec::new(),
        }
    }
}

impl Tally {
    /// Of every voter's answer, by host; `None` from one that was not heard.
    pub fn of(terms: &Terms, answers: impl IntoIterator<Item = (String, Option<Claimed>)>) -> Self {
        let (mut accepted, mut outstanding, mut refused) = (0, Vec::<Outstanding>::new(), Vec::new());
        for (host, answer) in answers {
            match answer {
                Some(Claimed::Accepted { outstanding: more }) => {
                    accepted += 1;
                    outstanding.extend(more);
                }
                Some(Claimed::HeldBack { .. } | Claimed::NoVote) | None => {}
                Some(
                    Claimed::OlderBallot { .. }
                    | Claimed::Superseded { .. }
                    | Claimed::Taken { .. }
                    | Claimed::MayHaveLed { .. },
                ) => refused.push(host),
            }
        }
        if accepted >= terms.majority {
            return Self::Won { wait: terms.wait_after_claim(&outstanding) };
        }
        if terms.voters.len() - refused.len() < terms.majority {
            return Self::Lost { refused };
        }
        Self::Later { accepted }
    }
}
