//! Steps that are several at servers, one after the other: each says by itself when its time is over, and what was in the way.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::live_world::{LiveWorld, failed};
use crate::agent::wire::{BringRequest, SalvageRequest};
use crate::decide::plan::{Evidence, Salvaged, Step};
use crate::execute::world::{StepError, Token};
use crate::model::gtid::GtidSet;
use crate::model::instance::InstanceId;
use crate::model::report::Report;
use crate::mysql::control::{self, ControlError};
use crate::mysql::probe;

/// How much longer than an agent waits until something is applied its answer is waited for.
const ANSWER: Duration = Duration::from_millis(250);
/// Between two looks at a replica that is reaching for its source.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

impl LiveWorld {
    /// Waits for a moment when the replica is close. For a while a better one than needed is waited for: writers pay for it.
    pub(super) async fn keep_up(
        &self,
        instance: &InstanceId,
        source: &InstanceId,
        closely: Duration,
        within: Duration,
    ) -> Result<Evidence, StepError> {
        let began = Instant::now();
        let (deadline, statement) = (began + within, self.cluster.policy.statement);
        let (mut writes, mut applies) =
            tokio::try_join!(self.connect(source, deadline), self.connect(instance, deadline))?;
        loop {
            let by = Instant::now() + statement;
            let set = probe::report(&mut writes, by).await.map_err(failed)?.executed;
            let asked = Instant::now();
            let left = deadline.saturating_duration_since(asked);
            let applied = Step::WaitApplied { instance: instance.clone(), set, within: left };
            let done = control::apply(&mut applies, &applied, &self.env).await;
            let behind = asked.elapsed();
            let wanted = if began.elapsed() < (closely * 4).min(within / 2) { closely / 25 } else { closely };
            match done {
                Ok(()) if behind <= wanted => {
                    return Ok(Evidence { behind: Some(behind), ..Evidence::default() });
                }
                Ok(()) if Instant::now() < deadline => {}
                Ok(()) | Err(ControlError::NotApplied { .. }) => {
                    return Err(StepError::Failed(format!(
                        "it was not close at any moment within {} s; wait for a quieter hour, lighten its load, or raise \
                         --wait-lag and --write-block",
                        within.as_secs()
                    )));
                }
                Err(error) => return Err(failed(error)),
            }
        }
    }

    /// Stopped first, then awaited at the new source: MariaDB refuses for good a replica that asks for what its source lacks.
    pub(super) async fn turn(
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

    /// Reads at the dead server's host, writes at the candidate. Never a failure of its own: whether it had to succeed, the step says.
    pub(super) async fn salvage(
        &self,
        from: &InstanceId,
        to: &InstanceId,
        beyond: &GtidSet,
        within: Duration,
        token: &Token,
    ) -> Result<Evidence, StepError> {
        let (Some(reader), Some(writer)) = (self.agents.get(from), self.agents.get(to)) else {
            return Ok(salvaged(false, 0, "no agent beside it".to_owned()));
        };
        let deadline = Instant::now() + within;
        let request = SalvageRequest { token: token.clone(), beyond: beyond.clone(), within };
        let log = match timeout(within, reader.salvage(&request)).await {
            Ok(Ok(log)) => log,
            Ok(Err(error)) => return Ok(salvaged(false, 0, error.to_string())),
            Err(_) => return Ok(salvaged(false, 0, format!("not read within {} ms", within.as_millis()))),
        };
        if log.transactions == 0 {
            return Ok(salvaged(log.complete, 0, log.trouble));
        }
        // What is brought comes after everything received: the candidate has applied that first, which the failover waits for anyway.
        let owed = self.cluster.policy.catch_up;
        let applied = Step::WaitApplied { instance: to.clone(), set: beyond.clone(), within: owed };
        if let Err(error) = writer.step(token, &applied, owed + self.cluster.policy.statement).await {
            return Ok(salvaged(false, 0, error.to_string()));
        }
        let left = deadline.saturating_duration_since(Instant::now()).max(self.cluster.policy.statement);
        let bring = BringRequest { token: token.clone(), statements: log.statements, within: left };
        match writer.bring(&bring).await {
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

fn unreached(to: &InstanceId, within: Duration) -> StepError {
    StepError::Failed(format!(
        "it has not reached {to} within {} ms; look at its receiver (SHOW REPLICA STATUS), and at the network and the firewalls from \
         its host to {to}",
        within.as_millis()
    ))
}
