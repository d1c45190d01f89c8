//! What only a dead server's log holds, brought to the candidate.

use std::ops::Deref;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::{Composed, Primitives};
use crate::decide::plan::{Evidence, Salvaged, Step};
use crate::execute::world::{StepError, Token};
use crate::model::gtid::GtidSet;
use crate::model::instance::InstanceId;

impl<W> Composed<W>
where
    W: Deref,
    W::Target: Primitives,
{
    /// Reads at the dead server's host, writes at the candidate. Never a failure of its own: whether it had to succeed, the step says.
    pub(super) async fn salvage(
        &self,
        from: &InstanceId,
        to: &InstanceId,
        beyond: &GtidSet,
        within: Duration,
        token: &Token,
    ) -> Result<Evidence, StepError> {
        let primitives = &*self.primitives;
        if !primitives.has_agent(from) || !primitives.has_agent(to) {
            return Ok(salvaged(false, 0, "no agent beside it".to_owned()));
        }
        let deadline = Instant::now() + within;
        let log = match timeout(within, primitives.read_log(from, beyond, within, token)).await {
            Ok(Ok(log)) => log,
            Ok(Err(why)) => return Ok(salvaged(false, 0, why)),
            Err(_) => return Ok(salvaged(false, 0, format!("not read within {} ms", within.as_millis()))),
        };
        if log.transactions == 0 {
            return Ok(salvaged(log.complete, 0, log.trouble));
        }
        // What is brought comes after everything received: the candidate has applied that first, which the failover waits for anyway.
        let policy = &primitives.cluster().policy;
        let applied =
            Step::WaitApplied { instance: to.clone(), set: beyond.clone(), within: policy.catch_up };
        if let Err(error) = self.at_server(&applied, token).await {
            return Ok(salvaged(false, 0, error.to_string()));
        }
        let left = deadline.saturating_duration_since(Instant::now()).max(policy.statement);
        match primitives.bring(to, log.statements, left, token).await {
            Ok(evidence) => {
                let salvage =
                    Salvaged { complete: log.complete, transactions: log.transactions, trouble: log.trouble };
                Ok(Evidence { salvage: Some(salvage), ..evidence })
            }
            Err(error) => Ok(salvaged(
                false,
                0,
                format!("{} transaction(s) read, not written: {error}", log.transactions),
            )),
        }
    }
}

fn salvaged(complete: bool, transactions: u64, trouble: String) -> Evidence {
    Evidence { salvage: Some(Salvaged { complete, transactions, trouble }), ..Evidence::default() }
}
