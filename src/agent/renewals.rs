//! Asks the voters for the lease, and gives their answers to its keeper. No renewal waits for a connection on which an earlier one is
//! unanswered: TCP waits twice as long after every retransmission, and the lease would end with the network back for a while.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::lease_loop::Order;
use super::relearn;
use super::state::Shared;
use super::wire::{Renew, Renewed};
use crate::clock;
use crate::decide::lease::holder::Input;
use crate::model::ballot::Generation;

/// Renewals of one voter that are not answered yet, at most: it is asked again and again while it is silent.
const MOST_UNANSWERED: usize = 16;
/// Longest wait for an answer.
const WITHIN: Duration = Duration::from_secs(2);

/// What is on its way.
#[derive(Debug, Default)]
pub(super) struct Renewals {
    /// Each voter's: every renewal that is not answered yet holds a clone.
    unanswered: BTreeMap<String, Arc<()>>,
}

impl Renewals {
    /// Asks every voter, each in a task of its own: the slowest does not hold up the others' answers. One that has not answered the last
    /// renewal is asked on a new connection.
    pub(super) fn send(&mut self, shared: &Arc<Shared>, generation: Generation, lasts: Duration) {
        let Some(membership) = shared.seen().membership.clone() else { return };
        // An answer later than the grant itself lasts is worth nothing.
        let within = membership.policy.lease.min(WITHIN);
        let sent_at = clock::now();
        self.unanswered.retain(|host, _| membership.voters.iter().any(|voter| voter.host == *host));
        for voter in &membership.voters {
            let ask = Renew {
                cluster: membership.cluster.clone(),
                holder: membership.instance.clone(),
                generation,
                lasts,
            };
            let on_its_way = Arc::clone(self.unanswered.entry(voter.host.clone()).or_default());
            // The map has one, and this renewal.
            let others = Arc::strong_count(&on_its_way).saturating_sub(2);
            if others >= MOST_UNANSWERED {
                continue;
            }
            let (afresh, within) = match others {
                0 => (false, within),
                _ => (true, within.min(membership.policy.renew_every * 2)),
            };
            let (asking, from, url) = (Arc::clone(shared), voter.host.clone(), voter.url.clone());
            shared.start(async move {
                let answer = ask_voter(&asking, &from, &url, &ask, afresh, within).await;
                drop(on_its_way);
                let Some(answer) = answer else { return };
                let input = Input::Answer { from, generation, sent_at, answer };
                // A full queue means a keeper that hangs in the kernel: the next answer will do.
                let _ = asking.orders.send(Order::Input(input, None)).await;
            });
        }
    }
}

/// One voter's answer; this host's own vote is asked directly.
async fn ask_voter(
    shared: &Shared,
    from: &str,
    url: &str,
    ask: &Renew,
    afresh: bool,
    within: Duration,
) -> Option<Renewed> {
    if from == shared.config.host {
        let answer = tokio::time::timeout(within, shared.votes.renew(ask)).await.ok()?;
        return answer.inspect_err(|error| tracing::error!(error = %error, "no vote")).ok();
    }
    let client = shared.peer(from, url);
    let client = if afresh { client.on_fresh_connections(&shared.connections) } else { client };
    let answer = client.renew(ask, within).await;
    if let Ok(Renewed::NoVote) = &answer {
        let electorate = shared.seen().membership.as_ref().map(relearn::electorate);
        if let Some(electorate) = electorate
            && let Err(error) = client.introduce(&electorate, within).await
        {
            tracing::debug!(error = %error, from, "a voter that knows nothing is not told of the others");
        }
    }
    answer.inspect_err(|error| tracing::debug!(error = %error, "no grant")).ok()
}
