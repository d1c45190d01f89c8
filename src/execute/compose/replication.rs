//! Steps that are several at servers, one after the other: each says by itself when its time is over, and what was in the way.

use std::collections::BTreeSet;
use std::ops::Deref;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use super::{Composed, Primitives, ServerSession as _};
use crate::decide::plan::{Evidence, Step};
use crate::execute::world::{StepError, Token};
use crate::model::instance::InstanceId;
use crate::model::report::Report;
use crate::model::sessions::OpenTransaction;

/// How much longer than an agent waits until something is applied its answer is waited for.
const ANSWER: Duration = Duration::from_millis(250);
/// Between two looks at a replica that is reaching for its source.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// Between two looks at open transactions.
const DRAIN_POLL: Duration = Duration::from_millis(20);

impl<W> Composed<W>
where
    W: Deref,
    W::Target: Primitives,
{
    /// Waits for a moment when the replica is close. For a while a better one than needed is waited for: writers pay for it.
    pub(super) async fn wait_for_lag(
        &self,
        instance: &InstanceId,
        source: &InstanceId,
        closely: Duration,
        within: Duration,
    ) -> Result<Evidence, StepError> {
        let primitives = &*self.primitives;
        let began = Instant::now();
        let (deadline, statement) = (began + within, primitives.cluster().policy.statement);
        let (mut writes, mut applies) =
            tokio::try_join!(primitives.session(source, deadline), primitives.session(instance, deadline))?;
        loop {
            let set = writes.report(Instant::now() + statement).await?.executed;
            let asked = Instant::now();
            let left = deadline.saturating_duration_since(asked);
            let applied = applies.wait_applied(&set, left).await?;
            let behind = asked.elapsed();
            let wanted = if began.elapsed() < (closely * 4).min(within / 2) { closely / 25 } else { closely };
            if applied && behind <= wanted {
                return Ok(Evidence { behind: Some(behind), ..Evidence::default() });
            }
            if !applied || Instant::now() >= deadline {
                return Err(StepError::Failed(format!(
                    "it was not close at any moment within {} s; wait for a quieter hour, lighten its load, or raise \
                     --wait-lag and --write-block",
                    within.as_secs()
                )));
            }
        }
    }

    /// Ends sessions whose transaction is open for longer than `end_older`, then gives those that are open now `drain` to end.
    /// Transactions that do not end are no failure.
    pub(super) async fn drain(
        &self,
        instance: &InstanceId,
        drain: Duration,
        end_older: Option<Duration>,
    ) -> Result<Evidence, StepError> {
        let deadline = Instant::now() + drain + self.primitives.cluster().policy.statement;
        let mut session = self.primitives.session(instance, deadline).await?;
        let end = Instant::now() + drain;
        let mut open = session.open_transactions(deadline).await?;
        if let Some(older) = end_older {
            for transaction in open.iter().filter(|open| open.age > older && !open.commits) {
                session.end_transaction(transaction, deadline).await?;
            }
            open = session.open_transactions(deadline).await?;
        }
        let ids = |open: Vec<OpenTransaction>| open.into_iter().map(|open| open.id).collect::<BTreeSet<_>>();
        let open = ids(open);
        while !open.is_empty() && Instant::now() < end {
            sleep(DRAIN_POLL).await;
            if open.is_disjoint(&ids(session.open_transactions(deadline).await?)) {
                break;
            }
        }
        Ok(Evidence::default())
    }

    /// Stopped first, then awaited at the new source: MariaDB refuses for good a replica that asks for what its source lacks.
    pub(super) async fn switch_source(
        &self,
        instance: &InstanceId,
        from: &InstanceId,
        (to, acker): (&InstanceId, bool),
        within: Duration,
        token: &Token,
    ) -> Result<Evidence, StepError> {
        let deadline = Instant::now() + within;
        let left = || deadline.saturating_duration_since(Instant::now());
        let stop = Step::StopReceiving { instance: instance.clone(), source: from.clone() };
        let stopped = self.at_server(&stop, token).await?;
        let set = stopped
            .report
            .map(|report| report.known())
            .ok_or_else(|| StepError::NoEffect("what it received was not read".to_owned()))?;
        let applied = |instance: &InstanceId| Step::WaitApplied {
            instance: instance.clone(),
            set: set.clone(),
            within: left(),
        };
        let (here, there) = (applied(instance), applied(to));
        // It replicates from nobody meanwhile, and commits may wait for it: a server that hangs is not waited for any longer.
        let both = async { tokio::try_join!(self.at_server(&here, token), self.at_server(&there, token)) };
        timeout_at(deadline + ANSWER, both).await.map_err(|_| StepError::NoAnswer {
            within,
            what: format!("{to} or {instance} does not say that it has applied all of it"),
        })??;
        let point = Step::PointReplica { instance: instance.clone(), source: to.clone(), acker };
        let pointed = self.at_server(&point, token).await?;
        let arrives = self.arrives(pointed, &here, to, token);
        timeout_at(deadline, arrives).await.unwrap_or_else(|_| Err(unreached(to, within)))
    }

    /// Pointed at its new source it has still to reach it, and nobody may count on it before. `known` is true of it already: doing that
    /// reads it afresh.
    async fn arrives(
        &self,
        mut seen: Evidence,
        known: &Step,
        to: &InstanceId,
        token: &Token,
    ) -> Result<Evidence, StepError> {
        loop {
            let channel = seen.report.as_ref().and_then(Report::channel);
            if channel.is_none_or(|channel| !channel.is_reaching_for(to)) {
                return Ok(seen);
            }
            sleep(LOOK_AGAIN).await;
            seen = self.at_server(known, token).await?;
        }
    }
}

fn unreached(to: &InstanceId, within: Duration) -> StepError {
    StepError::Failed(format!(
        "it has not reached {to} within {} ms; look at its receiver (SHOW REPLICA STATUS), and at the network and the firewalls from \
         its host to {to}",
        within.as_millis()
    ))
}
