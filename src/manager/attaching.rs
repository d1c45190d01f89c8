//! Waiting until ackers are attached, with the receivers' own errors as the reason when they are not: what the waiting server sees is
//! only that nobody comes.

use std::time::Duration;

use futures::future::join_all;
use tokio::time::{Instant, sleep};

use super::live_world::LiveWorld;
use crate::decide::plan::{Evidence, Step};
use crate::execute::world::{StepError, Token};
use crate::model::instance::InstanceId;
use crate::model::report::{Replication, ThreadState};
use crate::mysql::probe;

/// So long receivers may fail before they are looked at: one that connects needs no look.
const FIRST_LOOK: Duration = Duration::from_secs(1);
/// Between two looks. A receiver tries again every second.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long one look may take.
const LOOK_WITHIN: Duration = Duration::from_secs(1);
/// In so many looks in a row every receiver must show an error before nobody waits for it any longer.
const LOOKS: u32 = 3;

impl LiveWorld {
    /// Waits for ackers. Ends early, with what their receivers say, once all of them fail again and again.
    pub(super) async fn attached(
        &self,
        step: &Step,
        token: &Token,
        timeout: Duration,
    ) -> Result<Evidence, StepError> {
        let source = step.instance();
        let error = tokio::select! {
            seen = self.at_server(step, token, timeout) => match seen {
                Ok(seen) if step.is_satisfied(&seen) => return Ok(seen),
                Ok(_) => StepError::NoEffect(step.unmet()),
                Err(error @ StepError::Deposed(_)) => return Err(error),
                Err(error) => error,
            },
            why = self.all_receivers_fail(source) => return Err(StepError::Failed(why)),
        };
        match self.receiver_errors(source).await {
            Some(why) if !why.is_empty() => Err(StepError::Failed(format!("{}; {error}", why.join("; ")))),
            Some(_) | None => Err(error),
        }
    }

    /// Waits until every receiver that was pointed at `source` has shown an error several times in a row.
    async fn all_receivers_fail(&self, source: &InstanceId) -> String {
        let mut failed = 0;
        sleep(FIRST_LOOK).await;
        loop {
            match self.receiver_errors(source).await {
                Some(why) if !why.is_empty() => {
                    failed += 1;
                    if failed >= LOOKS {
                        return why.join("; ");
                    }
                }
                Some(_) | None => failed = 0,
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// The errors of all receivers pointed at `source`. `None` when one of them runs, or has no error yet.
    async fn receiver_errors(&self, source: &InstanceId) -> Option<Vec<String>> {
        let others = self.cluster.members.iter().map(|member| &member.instance);
        let others = others.filter(|instance| *instance != source);
        let looks = others.map(async |instance| {
            let deadline = Instant::now() + LOOK_WITHIN;
            let mut connection = self.connect(instance, deadline).await.ok()?;
            let report = probe::report(&mut connection, deadline).await.ok()?;
            connection.close(deadline).await;
            receiver_error(instance, report.channel(), source)
        });
        join_all(looks).await.into_iter().flatten().collect()
    }
}

/// `None` for one that is not pointed at `source`; `Some(None)` for one that receives, or has not failed yet.
fn receiver_error(
    instance: &InstanceId,
    channel: Option<&Replication>,
    source: &InstanceId,
) -> Option<Option<String>> {
    let channel = channel.filter(|channel| channel.source == *source)?;
    if channel.receiver == ThreadState::Running {
        return Some(None);
    }
    let error = channel.receiver_error.as_ref();
    Some(error.map(|error| {
        format!("{instance} cannot replicate from {source}: error {}: {}", error.code, error.text)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::gtid::GtidSet;
    use crate::model::instance::Flavor;
    use crate::model::report::ThreadError;

    fn channel(receiver: ThreadState, error: Option<(u32, &str)>) -> Replication {
        Replication {
            channel: String::new(),
            source: InstanceId::new("db2", 3306),
            receiver,
            applier: ThreadState::Running,
            receiver_error: error.map(|(code, text)| ThreadError { code, text: text.to_owned() }),
            applier_error: None,
            seconds_behind: None,
            received: GtidSet::empty(Flavor::MariaDb),
            read_to: None,
            applied_to: None,
            heartbeats: 0,
            heartbeat_every: None,
            gtid: true,
            delay: Duration::ZERO,
            filters: Vec::new(),
        }
    }

    #[test]
    fn only_what_a_receiver_of_that_source_failed_with_is_told() {
        let [db1, db2, db3] = ["db1", "db2", "db3"].map(|host| InstanceId::new(host, 3306));
        let seen = |channel: &Replication, source| receiver_error(&db3, Some(channel), source);
        let locked = channel(ThreadState::Connecting, Some((4151, "Access denied, this account is locked")));
        let told = "db3 cannot replicate from db2: error 4151: Access denied, this account is locked";
        assert_eq!(seen(&locked, &db2), Some(Some(told.to_owned())));
        // One that points elsewhere is nobody this waits for; one that has not failed is waited for.
        assert_eq!(seen(&locked, &db1), None);
        assert_eq!(seen(&channel(ThreadState::Connecting, None), &db2), Some(None));
        assert_eq!(seen(&channel(ThreadState::Running, Some((2003, "earlier"))), &db2), Some(None));
    }
}
