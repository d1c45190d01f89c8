//! What a blocked server's agent reaches when its manager is not heard any more: voters, replicas' agents, its own server. When it asks
//! whom, and when it opens, is in [`OrphanedBlock`].

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::lease_loop::terms;
use super::opening;
use super::resume::arm_as_member;
use super::state::Shared;
use super::voter::VoteError;
use super::wire::{Claim, Claimed, Membership};
use crate::decide::lease::holder::{Input, Kept};
use crate::decide::plan::{Evidence, Step};
use crate::execute::compose::{BlockedHost, Electorate, OrphanedBlock};
use crate::execute::world::{StepError, Token};
use crate::model::ballot::Generation;
use crate::model::cluster::Voter;

/// One question to one voter.
const CALL: Duration = Duration::from_secs(1);

/// Waits for the manager's next word, and does without it when none comes. `within` is the block's own time.
pub(super) fn unless_heard(shared: &Arc<Shared>, token: &Token, within: Duration, otherwise: &[Step]) {
    let Some(block) = OrphanedBlock::new(token, shared.seen().kept, otherwise, within) else { return };
    let (host, cancel) = (ThisHost(Arc::clone(shared)), shared.cancel.clone());
    shared.tracker.spawn(async move {
        cancel.run_until_cancelled(block.take_back_unless_heard(&host)).await;
    });
}

struct ThisHost(Arc<Shared>);

impl ThisHost {
    fn is_here(&self, voter: &Voter) -> bool {
        voter.host == self.0.config.host
    }
}

impl BlockedHost for ThisHost {
    async fn kept(&self) -> Option<Kept> {
        Some(self.0.seen().kept)
    }

    fn electorate(&self) -> Option<Electorate> {
        let membership = self.0.seen().membership.clone()?;
        let terms = terms(&membership, &self.0.config.host);
        let Membership { cluster, instance, voters, .. } = membership;
        Some(Electorate { cluster, instance, voters, terms })
    }

    async fn sleep(&self, span: Duration) {
        sleep(span).await;
    }

    async fn look(&self, voter: &Voter) -> Option<(Generation, bool)> {
        let seen = match self.is_here(voter) {
            true => self.0.status(),
            false => self.0.peer(&voter.host, &voter.url).status(CALL).await.ok()?,
        };
        Some((seen.generation, seen.granted_ago.is_some()))
    }

    async fn claim(&self, voter: &Voter, claim: &Claim) -> Option<Claimed> {
        if self.is_here(voter) {
            let own = timeout(CALL, self.0.votes.claim(claim)).await.ok()?;
            return own.inspect_err(|error: &VoteError| tracing::error!(error = %error, "no vote")).ok();
        }
        self.0.peer(&voter.host, &voter.url).claim(claim, CALL).await.ok()
    }

    async fn open(&self, generation: Generation, epoch: u64, deadline: Instant) -> Result<(), String> {
        let opened = async {
            let acks = arm_as_member(&self.0, deadline).await?;
            opening::open(&self.0, generation, acks, Some(epoch), deadline).await
        };
        opened.await.map_err(|error| error.to_string())
    }

    async fn take_vip(&self, generation: Generation) -> Result<(), String> {
        self.0.order(Input::TakeVip { generation }).await.map_err(|error| error.to_string())
    }

    async fn at_replica(
        &self,
        step: &Step,
        token: &Token,
        timeout: Duration,
    ) -> Option<Result<Evidence, StepError>> {
        let agent = self.0.agent_of(step.instance())?;
        Some(agent.step(token, step, timeout).await)
    }
}
