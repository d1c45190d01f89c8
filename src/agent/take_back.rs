//! A server that was blocked for a switchover and hears no more of it: its manager died in the block. The agent then asks the voters for a
//! generation above the target's, and serves again if nobody was ever let in below that. It decides nothing: the voters' promises
//! do, and whichever of promotion and taking back a majority granted first has won.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::time::{Instant, sleep};

use super::lease_loop::terms;
use super::opening;
use super::state::Shared;
use super::voter::VoteError;
use super::wire::{Claim, Claimed, Membership};
use crate::decide::lease::Terms;
use crate::decide::lease::holder::{Input, Role};
use crate::decide::lease::take_back::{AGAIN, LeftAlone, PATIENCE, Tally};
use crate::decide::plan::Step;
use crate::execute::world::Token;
use crate::model::cluster::Voter;
use crate::model::observation::AgentStatus;

/// How long it is tried: after that a person, or a manager that returns, decides.
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
    blocked: LeftAlone,
    otherwise: Vec<Step>,
}

/// Waits for the manager's next word, and does without it when none comes. `within` is the block's own time.
pub(super) fn unless_heard(shared: &Arc<Shared>, token: &Token, within: Duration, otherwise: &[Step]) {
    let Some(blocked) = LeftAlone::new(otherwise, shared.seen().kept) else { return };
    let token = Token { back: true, ..token.clone() };
    let block = Block { token, blocked, otherwise: otherwise.to_vec() };
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
        let kept = shared.seen().kept;
        let ours = won && kept.role == (Role::Primary { generation: block.blocked.back });
        if !ours && !block.blocked.stands(kept) {
            return;
        }
        let done = match ours {
            // Won, and something of the opening failed.
            true => open(shared, block, kept.epoch).await,
            false => win(shared, block, &mut won).await,
        };
        match done {
            Ok(()) => {
                tracing::warn!(
                    generation = %block.blocked.back,
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

/// Looks first: a claim that must fail would leave voters with a generation nobody leads. Then claims, and opens.
async fn win(shared: &Shared, block: &Block, won: &mut bool) -> Result<(), Trouble> {
    let membership = shared.seen().membership.clone();
    let membership = membership.ok_or_else(|| Trouble::Overtaken("no member any more".to_owned()))?;
    let terms = terms(&membership, &shared.config.host);
    let seen = join_all(membership.voters.iter().map(|voter| look(shared, voter))).await;
    let seen: Vec<AgentStatus> = seen.into_iter().flatten().collect();
    let overtaken =
        |seen: &&AgentStatus| block.blocked.is_overtaken(seen.generation, seen.granted_ago.is_some());
    if let Some(seen) = seen.iter().find(overtaken) {
        let why = format!("{} knows generation {} at work", seen.host, seen.generation);
        return Err(Trouble::Overtaken(why));
    }
    if seen.len() < terms.majority {
        return Err(Trouble::Later(format!("{} of {} voters answer", seen.len(), terms.voters.len())));
    }
    let wait = claim(shared, block, &membership, &terms).await?;
    sleep(wait).await;
    if !block.blocked.stands(shared.seen().kept) {
        return Err(Trouble::Overtaken("a manager has spoken".to_owned()));
    }
    *won = true;
    open(shared, block, block.blocked.epoch).await
}

async fn look(shared: &Shared, voter: &Voter) -> Option<AgentStatus> {
    if voter.host == shared.config.host {
        return Some(shared.status());
    }
    shared.peer(&voter.url).status(CALL).await.ok()
}

/// Asks every voter; gives how long grants to others may still entitle them.
async fn claim(
    shared: &Shared,
    block: &Block,
    membership: &Membership,
    terms: &Terms,
) -> Result<Duration, Trouble> {
    let Membership { cluster, instance, voters, .. } = membership;
    let claim = block.blocked.claim(cluster.clone(), block.token.ballot.clone(), instance.clone());
    let answers = voters.iter().map(async |voter| (voter.host.clone(), ask(shared, voter, &claim).await));
    match Tally::of(terms, join_all(answers).await) {
        Tally::Won { wait } => Ok(wait),
        Tally::Lost { refused } => Err(Trouble::Overtaken(format!("refused by {}", refused.join(", ")))),
        Tally::Later { accepted } => Err(Trouble::Later(format!("{accepted} of {} votes", terms.majority))),
    }
}

async fn ask(shared: &Shared, voter: &Voter, claim: &Claim) -> Option<Claimed> {
    if voter.host == shared.config.host {
        let own = tokio::time::timeout(CALL, shared.votes.claim(claim)).await.ok()?;
        return own.inspect_err(|error: &VoteError| tracing::error!(error = %error, "no vote")).ok();
    }
    shared.peer(&voter.url).claim(claim, CALL).await.ok()
}

async fn open(shared: &Shared, block: &Block, epoch: u64) -> Result<(), Trouble> {
    let later = |why: String| Trouble::Later(why);
    let deadline = Instant::now() + FOLLOW;
    opening::open(shared, block.blocked.back, Some(epoch), deadline)
        .await
        .map_err(|error| later(error.to_string()))?;
    if block.otherwise.iter().any(|step| matches!(step, Step::HoldVip { .. })) {
        let held = shared.order(Input::TakeVip { generation: block.blocked.back }).await;
        held.map_err(|error| later(error.to_string()))?;
    }
    Ok(())
}

/// The replicas that were taken from it return, each by its own agent: a commit here may wait for them.
async fn follow(shared: &Shared, block: &Block) {
    let points = block.otherwise.iter().filter(|step| matches!(step, Step::PointReplica { .. }));
    join_all(points.filter_map(|step| Some((shared.agent_of(step.instance())?, step))).map(
        |(agent, step)| async move {
            let end = Instant::now() + TRIED_FOR;
            let leads = || shared.seen().kept.role == (Role::Primary { generation: block.blocked.back });
            while leads() && Instant::now() < end {
                match agent.step(&block.token, step, FOLLOW).await {
                    Ok(seen) if step.is_satisfied(&seen) => return,
                    Ok(_) => tracing::warn!(%step, "not so when read back"),
                    Err(error) => tracing::warn!(%step, error = %error, "a replica does not return yet"),
                }
                sleep(AGAIN).await;
            }
        },
    ))
    .await;
}
