//! A voter of this host that knows nothing asks the others, when enough time has passed ([`crate::decide::lease::relearn`]).
//! It never promises on its own account: it takes over what the others promised.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;

use super::state::Shared;
use super::voter::Blank;
use super::wire::{Electorate, Lead, Membership};
use crate::clock;
use crate::model::ballot::Ballot;

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
        for blank in shared.votes.blanks() {
            round(&shared, blank).await;
        }
    }
}

/// What a member tells a voter that knows nothing.
pub(super) fn electorate(membership: &Membership) -> Electorate {
    Electorate {
        cluster: membership.cluster.clone(),
        voters: membership.voters.clone(),
        policy: membership.policy.clone(),
    }
}

async fn round(shared: &Shared, blank: Blank) {
    let Blank { electorate, mut relearn } = blank;
    if clock::now() < relearn.not_before() {
        return;
    }
    let others = electorate.voters.iter().filter(|voter| voter.host != shared.config.host);
    // A ballot nobody obeys: it only asks.
    let ask = Lead { cluster: electorate.cluster.clone(), ballot: Ballot::default() };
    let answers = join_all(others.map(|voter| {
        let client = shared.peer(&voter.host, &voter.url);
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
    match shared.votes.relearn(cluster, &learned).await {
        Ok(()) => {
            tracing::warn!(%cluster, %generation, "this host knew nothing of its vote; it learned from the others")
        }
        Err(error) => tracing::error!(error = %error, "no vote"),
    }
}
