//! A voter of this host that knows nothing asks the others, when enough time has passed ([`crate::decide::lease::relearn`]).
//! It never promises on its own account: it takes over what the others promised.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;

use super::client::AgentClient;
use super::state::Shared;
use super::voter::{Blank, Votes};
use super::wire::{Electorate, Lead, Membership};
use crate::clock;
use crate::model::ballot::Ballot;
use crate::model::cluster::Voter;

/// Between two rounds.
const AGAIN: Duration = Duration::from_secs(2);
/// How long one voter may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// Runs until cancelled.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut every = tokio::time::interval(AGAIN);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        let own = shared.seen().membership.as_ref().map(electorate);
        if let Some(own) = own
            && let Err(error) = shared.votes.introduce(own).await
        {
            tracing::error!(error = %error, "no vote");
        }
        let me = &shared.config.host;
        for blank in shared.votes.blanks(me) {
            round(&shared.votes, me, blank, |voter| Some(shared.peer(&voter.host, &voter.url))).await;
        }
    }
}

/// What a member tells a voter that knows nothing.
pub(super) fn electorate(membership: &Membership) -> Electorate {
    Electorate {
        ballot: membership.ballot.clone(),
        cluster: membership.cluster.clone(),
        voters: membership.voters.clone(),
        policy: membership.policy.clone(),
    }
}

/// Asks the others once what they have promised, where the time for that has come; takes it over where enough of them said so.
pub(crate) async fn round(
    votes: &Votes,
    me: &str,
    blank: Blank,
    peer: impl Fn(&Voter) -> Option<AgentClient>,
) {
    let Blank { electorate, mut relearn } = blank;
    if clock::now() < relearn.not_before() {
        return;
    }
    let others = electorate.voters.iter().filter(|voter| voter.host != me);
    // A ballot nobody obeys: it only asks.
    let ask = Lead { cluster: electorate.cluster.clone(), ballot: Ballot::default() };
    let answers = join_all(others.filter_map(|voter| Some((voter, peer(voter)?))).map(|(voter, client)| {
        let ask = &ask;
        async move { (voter.host.as_str(), client.lead(ask, ANSWER_WITHIN).await) }
    }))
    .await;
    for (host, answer) in answers {
        if let Ok(led) = answer {
            relearn.heard(host, led, clock::now());
        }
    }
    let Some(learned) = relearn.learned() else { return };
    let (cluster, generation) = (&electorate.cluster, learned.generation);
    match votes.relearn(cluster, &learned).await {
        Ok(()) => {
            tracing::warn!(%cluster, %generation, "this host knew nothing of its vote; it learned from the others")
        }
        Err(error) => tracing::error!(error = %error, "no vote"),
    }
}
