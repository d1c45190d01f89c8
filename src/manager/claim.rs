//! A generation for a candidate: asked of all voters, won with the first majority, and not used before every grant that
//! entitles the old primary has surely ended.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt as _};
use tokio::time::{Instant, sleep};

use super::fenced;
use super::live_world::{LiveWorld, failed};
use crate::agent::client::{AgentClient, CallError};
use crate::decide::lease::Terms;
use crate::decide::lease::voter::{Claim, Claimed, Outstanding};
use crate::decide::plan::{Evidence, Proof, Votes};
use crate::execute::record::RecordStore as _;
use crate::execute::world::{StepError, Token};
use crate::model::ballot::Generation;
use crate::model::instance::InstanceId;

/// Deadline of one call to a voter.
const CALL: Duration = Duration::from_secs(1);
/// Between two claims at a voter that is still bound by a grant, at most.
const CLAIM_AGAIN: Duration = Duration::from_millis(50);

impl LiveWorld {
    /// Asks all voters at once and goes on with the first majority: a host that is gone keeps nobody waiting.
    pub(super) async fn claim(
        &self,
        candidate: &InstanceId,
        generation: Generation,
        proof: Proof,
        token: &Token,
    ) -> Result<Evidence, StepError> {
        let Some(majority) = self.cluster.majority() else {
            return Ok(Evidence {
                votes: Some(Votes { majority: true, ..Votes::default() }),
                ..Evidence::default()
            });
        };
        let policy = &self.cluster.policy;
        let released = self.released(proof, token).await?;
        let claim = Claim {
            cluster: self.cluster.name.clone(),
            ballot: token.ballot.clone(),
            generation,
            candidate: candidate.clone(),
            proof,
            released,
        };
        let patience = policy.lease * 2 + policy.statement;
        let mut votes = Votes::default();
        let mut outstanding: Vec<Outstanding> = Vec::new();
        // Each on a task of its own: a voter that is late still hears of it, and lifts its old grants.
        let mut asking: FuturesUnordered<_> = self
            .voters
            .iter()
            .map(|(host, voter)| {
                self.tracker.spawn(vote(host.clone(), Arc::clone(voter), claim.clone(), patience))
            })
            .collect();
        // A voter that misses the first claim of all knows of no generation, and must wait before it grants anything.
        let all = proof == Proof::Adoption;
        while all || votes.accepted.len() < majority {
            let Some(voted) = asking.next().await else { break };
            let (host, answer) = voted.map_err(failed)?;
            match answer {
                Ok(Claimed::Accepted { outstanding: more }) => {
                    outstanding.extend(more);
                    votes.accepted.push(host);
                }
                Ok(other) => votes.refused.push((host, refusal(&other))),
                Err(error) => votes.refused.push((host, error.to_string())),
            }
        }
        votes.majority = votes.accepted.len() >= majority;
        if !votes.majority {
            let refusals = votes.refused.iter().map(|(host, why)| format!("{host}: {why}"));
            let text = format!(
                "{} of {majority} votes ({})",
                votes.accepted.len(),
                refusals.collect::<Vec<_>>().join("; ")
            );
            return Err(StepError::Failed(text));
        }
        // Also behind an ack fence: the old primary acknowledges nothing new by then, and may have clients and the VIP still (I7).
        let terms = Terms::new("", self.voters.keys().cloned().collect(), policy);
        sleep(terms.wait_after_claim(&outstanding)).await;
        Ok(Evidence { votes: Some(votes), ..Evidence::default() })
    }

    /// Whose grants a claim lifts: who answered a fence in this recovery. A manager that resumes one asks the old primary again.
    async fn released(&self, proof: Proof, token: &Token) -> Result<Vec<InstanceId>, StepError> {
        match proof {
            Proof::Fenced | Proof::Stonith => {}
            Proof::AckFence
            | Proof::Expired
            | Proof::Operator
            | Proof::AssumedDead
            | Proof::TakenBack
            | Proof::Adoption => return Ok(Vec::new()),
        }
        let known = self.fenced.of(&token.recovery);
        if !known.is_empty() {
            return Ok(known);
        }
        let Some(record) = self.record().await? else {
            return Ok(known);
        };
        // No answer lifts nothing: the voters then hold the claim back until the grants have ended.
        let asked = match self.agents.get(&record.primary) {
            Some(agent) => agent.status(CALL).await.ok(),
            None => None,
        };
        let stands = asked.is_some_and(|agent| fenced::stands(&agent, record.generation));
        Ok(stands.then_some(record.primary).into_iter().collect())
    }
}

/// One voter's answer; asked again while a grant binds it, and while there is patience.
async fn vote(
    host: String,
    voter: Arc<AgentClient>,
    claim: Claim,
    patience: Duration,
) -> (String, Result<Claimed, CallError>) {
    let deadline = Instant::now() + patience;
    loop {
        let answer = voter.claim(&claim, CALL).await;
        let pause = match &answer {
            Ok(Claimed::HeldBack { remaining, .. }) => (*remaining).min(CLAIM_AGAIN),
            Ok(
                Claimed::Accepted { .. }
                | Claimed::OlderBallot { .. }
                | Claimed::Superseded { .. }
                | Claimed::Taken { .. }
                | Claimed::MayHaveLed { .. }
                | Claimed::NoVote,
            )
            | Err(_) => return (host, answer),
        };
        if Instant::now() + pause >= deadline {
            return (host, answer);
        }
        sleep(pause.max(Duration::from_millis(2))).await;
    }
}

/// Why a voter does not accept a claim.
fn refusal(answer: &Claimed) -> String {
    match answer {
        Claimed::Accepted { .. } => "accepted".to_owned(),
        Claimed::OlderBallot { accepted } => format!("obeys the manager of ballot {accepted}"),
        Claimed::Superseded { generation, .. } => format!("knows generation {generation}"),
        Claimed::Taken { holder } => match holder {
            Some(holder) => format!("gave this generation to {holder}"),
            None => "gave this generation away".to_owned(),
        },
        Claimed::NoVote => {
            "knows of no generation: it is new, or lost its promises, and learns them first".to_owned()
        }
        Claimed::MayHaveLed { holder: Some(holder) } => format!("{holder} may have led since"),
        Claimed::MayHaveLed { holder: None } => "somebody may have led since".to_owned(),
        Claimed::HeldBack { by, remaining } => {
            format!("granted {by} the lease for {} ms more", remaining.as_millis())
        }
    }
}
