//! A server that was blocked for a switchover and hears no more of it: its manager died in the block. The agent then asks the voters for a
//! generation above the target's, and serves again if nobody was ever let in below that. It decides nothing: the voters' promises
//! do, and whichever of promotion and taking back a majority granted first has won.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::time::{Instant, sleep};

use super::client::AgentClient;
use super::state::Shared;
use super::steps;
use super::voter::VoteError;
use super::wire::{Claim, Claimed, Membership};
use crate::decide::lease::Terms;
use crate::decide::lease::holder::{Input, Role};
use crate::decide::plan::{Proof, Step};
use crate::execute::world::Token;
use crate::model::ballot::Generation;
use crate::model::cluster::{Member, Voter};
use crate::model::instance::InstanceId;
use crate::model::observation::AgentStatus;

/// A manager that lives has ended the block, or taken it back, so long after the block's own time.
const PATIENCE: Duration = Duration::from_secs(3);
/// Between two tries, and how long one may go on being tried: after that a person, or a manager that returns, decides.
const AGAIN: Duration = Duration::from_secs(1);
const TRIED_FOR: Duration = Duration::from_secs(600);
/// One question to one voter, and one step of a replica's agent.
const CALL: Duration = Duration::from_secs(1);
const FOLLOW: Duration = Duration::from_secs(10);

/// Why it does not serve again now.
enum Trouble {
    /// Somebody leads, or led, after it; or a manager has spoken.
    Overtaken(String),
    Later(String),
}

/// What one block leaves to its agent.
struct Block {
    token: Token,
    /// This host's, as the fence left it: any word of a manager changes it.
    epoch: u64,
    /// What it led, and what it asks for.
    led: Generation,
    back: Generation,
    otherwise: Vec<Step>,
}

/// Waits for the manager's next word, and does without it when none comes. `within` is the block's own time.
pub(super) fn unless_heard(shared: &Arc<Shared>, token: &Token, within: Duration, otherwise: &[Step]) {
    let kept = shared.seen().kept;
    let Some(Step::Claim { generation: back, .. }) = otherwise.first() else { return };
    let Role::Fenced { generation: led } = kept.role else { return };
    let block = Block {
        token: Token { back: true, ..token.clone() },
        epoch: kept.epoch,
        led,
        back: *back,
        otherwise: otherwise.to_vec(),
    };
    let (shared, cancel) = (Arc::clone(shared), shared.cancel.clone());
    let tracker = shared.tracker.clone();
    tracker.spawn(async move {
        let work = async {
            sleep(within + PATIENCE).await;
            take_back(&shared, &block).await;
        };
        cancel.run_until_cancelled(work).await;
    });
}

async fn take_back(shared: &Shared, block: &Block) {
    let end = Instant::now() + TRIED_FOR;
    // A manager may have made it lead that very generation since: that is not this block's.
    let mut won = false;
    while Instant::now() < end {
        let role = shared.seen().kept;
        let ours = won && role.role == (Role::Primary { generation: block.back });
        if !ours && !block.stands(shared) {
            return;
        }
        let done = match ours {
            // Won, and something of the opening failed.
            true => open(shared, block, role.epoch).await,
            false => win(shared, block, &mut won).await,
        };
        match done {
            Ok(()) => {
                tracing::warn!(
                    generation = %block.back,
                    recovery = block.token.recovery,
                    "its manager was not heard after the block, and nobody was let in elsewhere: serves again"
                );
                return follow(shared, block).await;
            }
            Err(Trouble::Overtaken(why)) => {
                return tracing::info!(why, "is not taken back after a block");
            }
            Err(Trouble::Later(why)) => tracing::warn!(why, "blocked, and not taken back yet"),
        }
        sleep(AGAIN).await;
    }
    tracing::error!("blocked, and not taken back: start a manager, or run \"mhactl open\" here");
}

impl Block {
    fn stands(&self, shared: &Shared) -> bool {
        let kept = shared.seen().kept;
        kept.epoch == self.epoch && matches!(kept.role, Role::Fenced { .. })
    }

    /// By what a voter's host says of itself: somebody was let in after this block.
    fn overtaken_by(&self, seen: &AgentStatus) -> Option<String> {
        let beyond = seen.generation > self.back;
        let granted = seen.generation > self.led && seen.generation < self.back && seen.granted_ago.is_some();
        (beyond || granted).then(|| format!("{} knows generation {} at work", seen.host, seen.generation))
    }
}

/// Looks first: a claim that must fail would leave voters with a generation nobody leads. Then claims, and opens.
async fn win(shared: &Shared, block: &Block, won: &mut bool) -> Result<(), Trouble> {
    let membership = shared.seen().membership.clone();
    let membership = membership.ok_or_else(|| Trouble::Overtaken("no member any more".to_owned()))?;
    let terms = Terms::new(
        &shared.config.host,
        membership.voters.iter().map(|voter| voter.host.clone()).collect(),
        &membership.policy,
    );
    let seen = join_all(membership.voters.iter().map(|voter| look(shared, voter))).await;
    let seen: Vec<AgentStatus> = seen.into_iter().flatten().collect();
    if let Some(why) = seen.iter().find_map(|seen| block.overtaken_by(seen)) {
        return Err(Trouble::Overtaken(why));
    }
    if seen.len() < terms.majority {
        return Err(Trouble::Later(format!("{} of {} voters answer", seen.len(), terms.voters.len())));
    }
    let wait = claim(shared, block, &membership, &terms).await?;
    sleep(wait).await;
    if !block.stands(shared) {
        return Err(Trouble::Overtaken("a manager has spoken".to_owned()));
    }
    *won = true;
    open(shared, block, block.epoch).await
}

async fn look(shared: &Shared, voter: &Voter) -> Option<AgentStatus> {
    if voter.host == shared.config.host {
        return Some(shared.status());
    }
    let client = AgentClient::new(&shared.connections, &voter.url, shared.config.token.clone());
    client.status(CALL).await.ok()
}

/// Asks every voter; gives how long grants to others may still entitle them.
async fn claim(
    shared: &Shared,
    block: &Block,
    membership: &Membership,
    terms: &Terms,
) -> Result<Duration, Trouble> {
    let claim = Claim {
        cluster: membership.cluster.clone(),
        ballot: block.token.ballot.clone(),
        generation: block.back,
        candidate: membership.instance.clone(),
        proof: Proof::TakenBack,
        released: Vec::new(),
    };
    let answers = join_all(membership.voters.iter().map(|voter| ask(shared, voter, &claim))).await;
    let (mut accepted, mut outstanding, mut refused) = (0, Vec::new(), Vec::new());
    for (voter, answer) in membership.voters.iter().zip(answers) {
        match answer {
            Some(Claimed::Accepted { outstanding: more }) => {
                accepted += 1;
                outstanding.extend(more);
            }
            // Held back by an old grant, or silent: it may accept later.
            Some(Claimed::HeldBack { .. } | Claimed::NoVote) | None => {}
            Some(
                Claimed::OlderBallot { .. }
                | Claimed::Superseded { .. }
                | Claimed::Taken { .. }
                | Claimed::MayHaveLed { .. },
            ) => refused.push(voter.host.as_str()),
        }
    }
    if accepted >= terms.majority {
        return Ok(terms.wait_after_claim(&outstanding));
    }
    if terms.voters.len() - refused.len() < terms.majority {
        return Err(Trouble::Overtaken(format!("refused by {}", refused.join(", "))));
    }
    Err(Trouble::Later(format!("{accepted} of {} votes", terms.majority)))
}

async fn ask(shared: &Shared, voter: &Voter, claim: &Claim) -> Option<Claimed> {
    if voter.host == shared.config.host {
        let own = tokio::time::timeout(CALL, shared.votes.claim(claim)).await.ok()?;
        return own.inspect_err(|error: &VoteError| tracing::error!(error = %error, "no vote")).ok();
    }
    let client = AgentClient::new(&shared.connections, &voter.url, shared.config.token.clone());
    client.claim(claim, CALL).await.ok()
}

async fn open(shared: &Shared, block: &Block, epoch: u64) -> Result<(), Trouble> {
    let later = |why: String| Trouble::Later(why);
    let deadline = Instant::now() + FOLLOW;
    steps::open(shared, block.back, Some(epoch), deadline).await.map_err(|error| later(error.to_string()))?;
    if block.otherwise.iter().any(|step| matches!(step, Step::HoldVip { .. })) {
        let held = shared.order(Input::TakeVip { generation: block.back }).await;
        held.map_err(|error| later(error.to_string()))?;
    }
    Ok(())
}

/// The replicas that were taken from it return, each by its own agent: a commit here may wait for them.
async fn follow(shared: &Shared, block: &Block) {
    let Some(membership) = shared.seen().membership.clone() else { return };
    let url = |instance: &InstanceId| {
        let mut members = membership.members.iter();
        members.find(|member: &&Member| member.instance == *instance).and_then(|member| member.agent.clone())
    };
    let steps = block.otherwise.iter().filter(|step| matches!(step, Step::PointReplica { .. }));
    join_all(steps.filter_map(|step| Some((url(step.instance())?, step))).map(|(url, step)| async move {
        let client = AgentClient::new(&shared.connections, &url, shared.config.token.clone());
        let end = Instant::now() + TRIED_FOR;
        let leads = || shared.seen().kept.role == (Role::Primary { generation: block.back });
        while leads() && Instant::now() < end {
            match client.step(&block.token, step, FOLLOW).await {
                Ok(seen) if step.is_satisfied(&seen) => return,
                Ok(_) => tracing::warn!(%step, "not so when read back"),
                Err(error) => tracing::warn!(%step, error = %error, "a replica does not return yet"),
            }
            sleep(AGAIN).await;
        }
    }))
    .await;
}
