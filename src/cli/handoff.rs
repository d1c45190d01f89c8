//! `mhactl handoff`: another leads instead of a host that is to be stopped. Asks again while something is in the way, and never
//! blocks past its deadline.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::commands::{AGAIN, Desk, Ended, caller, path};
use super::error::{CliError, Exit};
use crate::http::contract::{AbortRequest, Begun, HandoffRequest};
use crate::manager::event::Proposal;
use crate::model::instance::InstanceId;

/// What is wanted of a handoff.
pub(super) struct Handoff {
    pub(super) instance: InstanceId,
    pub(super) within: Duration,
    pub(super) dry_run: bool,
    pub(super) yes: bool,
}

impl Desk {
    /// Asks until it is begun, follows it, and asks again when it was taken back; never past the deadline.
    pub(super) async fn handoff(&self, cluster: Option<String>, asked: Handoff) -> Ended {
        let cluster = self.cluster(cluster).await?;
        let until = Instant::now() + asked.within;
        let mut agreed = asked.yes;
        loop {
            let remaining = until.saturating_duration_since(Instant::now());
            let request = |dry_run| HandoffRequest {
                instance: asked.instance.clone(),
                remaining_ms: u64::try_from(remaining.as_millis().max(1)).ok(),
                by: caller(),
                dry_run,
            };
            let reply = self.client.post(&path(&cluster, &["handoff"]), &request(true)).await?;
            let proposal: Proposal = reply.value()?;
            let nothing = proposal.plans.is_empty() && proposal.blockers.is_empty();
            if asked.dry_run || nothing {
                self.show(&reply, || Ok(self.proposed(&proposal, "if nothing more is written:")))?;
                return Ok(if proposal.blockers.is_empty() { Exit::Done } else { Exit::Refused });
            }
            if proposal.blockers.is_empty() {
                if !agreed {
                    self.screen.print(&self.proposed(&proposal, "if nothing more is written:"));
                    let what = format!("the handoff of {}", asked.instance);
                    self.agreed(false, &what, &format!("Have another lead instead of {}?", asked.instance))?;
                    agreed = true;
                }
                if let Some(exit) = self.hand_over(&cluster, &request(false), until).await? {
                    return Ok(exit);
                }
            } else if !self.json {
                self.screen.note(&format!("not yet: {}\n", proposal.blockers.join("; ")));
            }
            if Instant::now() + AGAIN >= until {
                let message =
                    format!("{} was not handed over within {} s", asked.instance, asked.within.as_secs());
                let next = "mend what is in the way; \"mhactl handoff --dry-run\" names it";
                let mut error = CliError::new(Exit::Refused, "refused", message, next);
                error.problem.reasons = proposal.blockers;
                return Err(error);
            }
            sleep(AGAIN).await;
        }
    }

    /// One attempt. `None`: it was not begun, or taken back.
    async fn hand_over(
        &self,
        cluster: &str,
        request: &HandoffRequest,
        until: Instant,
    ) -> Result<Option<Exit>, CliError> {
        let begun: Begun = match self.client.post(&path(cluster, &["handoff"]), request).await {
            Ok(reply) => match reply.value() {
                Ok(begun) => begun,
                // Somebody else was quicker: it leads no more.
                Err(_) => return Ok(None),
            },
            Err(error) if error.exit == Exit::Refused => return Ok(None),
            Err(error) => return Err(error),
        };
        let left = until.saturating_duration_since(Instant::now());
        match tokio::time::timeout(left, self.see_through(cluster, &begun.recovery)).await {
            Ok(ended) => Ok(ended.map(|exit| (exit == Exit::Done).then_some(exit))?),
            Err(_) => {
                let abort = AbortRequest { by: caller() };
                // Refused when it has ended meanwhile; the message below holds all the same.
                let _ = self.client.post(&path(cluster, &["abort"]), &abort).await;
                let next =
                    "\"mhactl follow\" shows how it ends: called off, unless it is past its commit point";
                Err(CliError::new(
                    Exit::Failed,
                    "late",
                    format!("{} is not handed over in time", request.instance),
                    next,
                ))
            }
        }
    }
}
