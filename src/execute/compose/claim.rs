//! A generation for a candidate: asked of all voters, won with the first majority, and not used before every grant that
//! entitles the old primary has surely ended.

use std::ops::Deref;
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt as _};
use tokio::time::{Instant, sleep};

use super::{Composed, Primitives};
use crate::decide::lease::Terms;
use crate::decide::lease::voter::{Claim, Claimed, Outstanding};
use crate::decide::plan::{Evidence, Proof, Votes};
use crate::execute::record::RecordStore as _;
use crate::execute::world::{StepError, Token};
use crate::model::ballot::Generation;
use crate::model::instance::InstanceId;
use crate::model::observation::{Access, AgentStatus};

/// Deadline of one call to a voter.
const CALL_TIMEOUT: Duration = Duration::from_secs(1);
/// Between two claims at a voter that is still bound by a grant.
const LONGEST_PAUSE: Duration = Duration::from_millis(50);
const SHORTEST_PAUSE: Duration = Duration::from_millis(2);

/// One voter, as a claimant reaches it.
#[expect(
    async_fn_in_trait,
    reason = "both worlds are in this crate and run on one thread or are Send by construction"
)]
pub trait Voter {
    /// Its answer, or why there was none within that time.
    async fn claim(&self, claim: &Claim, timeout: Duration) -> Result<Claimed, String>;
}

/// One voter's answer; asked again while a grant binds it, and while there is patience.
///
/// # Errors
/// Why it gave none.
pub async fn claim_until_answered<V: Voter>(
    voter: V,
    claim: Claim,
    patience: Duration,
) -> Result<Claimed, String> {
    let deadline = Instant::now() + patience;
    loop {
        let answer = voter.claim(&claim, CALL_TIMEOUT).await?;
        let pause = match &answer {
            Claimed::HeldBack { remaining, .. } => (*remaining).min(LONGEST_PAUSE),
            Claimed::Accepted { .. }
            | Claimed::OlderBallot { .. }
            | Claimed::Superseded { .. }
            | Claimed::Taken { .. }
            | Claimed::MayHaveLed { .. }
            | Claimed::NoVote => return Ok(answer),
        };
        if Instant::now() + pause >= deadline {
            return Ok(answer);
        }
        sleep(pause.max(SHORTEST_PAUSE)).await;
    }
}

impl<W> Composed<W>
where
    W: Deref,
    W::Target: Primitives,
{
    /// Asks all voters at once and goes on with the first majority: a host that is gone keeps nobody waiting.
    pub(super) async fn claim(
        &self,
        candidate: &InstanceId,
        generation: Generation,
        proof: Proof,
        token: &Token,
    ) -> Result<Evidence, StepError> {
        let primitives = &*self.primitives;
        let (cluster, policy) = (primitives.cluster(), &primitives.cluster().policy);
        let won = |votes| Evidence { votes: Some(votes), ..Evidence::default() };
        let Some(majority) = cluster.majority() else {
            return Ok(won(Votes { majority: true, ..Votes::default() }));
        };
        let claim = Claim {
            cluster: cluster.name.clone(),
            ballot: token.ballot.clone(),
            generation,
            candidate: candidate.clone(),
            proof,
            released: self.released(proof).await?,
        };
        let patience = policy.lease * 2 + policy.statement;
        let mut asking: FuturesUnordered<_> = cluster
            .voters
            .iter()
            .map(|voter| {
                let asked = primitives.ask_voter(&voter.host, &claim, patience);
                async { (voter.host.clone(), asked.await) }
            })
            .collect();
        let mut votes = Votes::default();
        let mut outstanding: Vec<Outstanding> = Vec::new();
        // A voter that misses the first claim of all knows of no generation, and must wait before it grants anything.
        let all = proof == Proof::Adoption;
        while all || votes.accepted.len() < majority {
            let Some((host, answer)) = asking.next().await else { break };
            match answer {
                Ok(Claimed::Accepted { outstanding: more }) => {
                    outstanding.extend(more);
                    votes.accepted.push(host);
                }
                Ok(other) => votes.refused.push((host, refusal(&other))),
                Err(why) => votes.refused.push((host, why)),
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
        let hosts = cluster.voters.iter().map(|voter| voter.host.clone()).collect();
        let wait = Terms::new("", hosts, policy).wait_after_claim(&outstanding);
        if !wait.is_zero() {
            primitives.sleep(wait).await;
        }
        Ok(won(votes))
    }

    /// Whose grants a claim lifts: who answered a fence in this recovery. A manager that resumes one asks the old primary again.
    async fn released(&self, proof: Proof) -> Result<Vec<InstanceId>, StepError> {
        match proof {
            Proof::Fenced | Proof::Stonith => {}
            Proof::AckFence
            | Proof::Expired
            | Proof::Operator
            | Proof::AssumedDead
            | Proof::TakenBack
            | Proof::Adoption => return Ok(Vec::new()),
        }
        let fenced = self.context.fenced();
        if !fenced.is_empty() {
            return Ok(fenced);
        }
        let Some(record) = self.primitives.record().await? else { return Ok(Vec::new()) };
        // No answer lifts nothing: the voters then hold the claim back until the grants have ended.
        let seen = match self.primitives.has_agent(&record.primary) {
            true => self.primitives.look(&record.primary, CALL_TIMEOUT).await.ok(),
            false => None,
        };
        let stands =
            seen.and_then(|seen| seen.agent).is_some_and(|agent| is_fenced(&agent, record.generation));
        Ok(stands.then_some(record.primary).into_iter().collect())
    }
}

/// The agent's durable word that its server was fenced for `generation` and is closed now: as good as an answer to this manager.
fn is_fenced(agent: &AgentStatus, generation: Generation) -> bool {
    agent.access == Access::Closed && agent.fenced.is_some_and(|fenced| fenced >= generation)
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
