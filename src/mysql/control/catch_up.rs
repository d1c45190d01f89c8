//! Catching up from another replica, by replication that is begun and ended for that.

use std::time::Duration;

use tokio::time::Instant;

use super::receive::{stop_receiving, wait_applied};
use super::{ControlEnv, ControlError, named, point};
use crate::model::gtid::GtidSet;
use crate::model::instance::InstanceId;
use crate::model::report::ThreadState;
use crate::mysql::client::Connection;
use crate::mysql::probe::standing;

/// Between two looks whether a server that catches up still receives.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often its receiver is started.
const FEED_TRIES: u32 = 4;

/// Pointed at it, awaited, stopped. A receiver that stops in between is started again a few times: one that had
/// announced itself as an acker to a source that comes up unarmed stops once (MySQL: "Missing magic number for semi-sync packet").
pub(super) async fn catch_up(
    conn: &mut Connection,
    source: &InstanceId,
    set: &GtidSet,
    within: Duration,
    env: &ControlEnv,
) -> Result<(), ControlError> {
    let end = Instant::now() + within;
    let mut tries = 0;
    loop {
        point::point(conn, source, false, env, Instant::now() + env.statement).await?;
        tries += 1;
        let seen = loop {
            let left = end.saturating_duration_since(Instant::now());
            match wait_applied(conn, set, left.min(LOOK_EVERY)).await {
                Ok(()) => return stop_receiving(conn, Instant::now() + env.statement).await,
                Err(ControlError::NotApplied { .. }) if Instant::now() < end => {}
                Err(error) => return Err(error),
            }
            let seen = standing(conn, Instant::now() + env.statement).await?;
            let channel = seen.channel();
            // Whoever pointed it elsewhere since wants something else of it.
            if channel
                .is_none_or(|channel| channel.source != *source || channel.receiver == ThreadState::Stopped)
            {
                break seen;
            }
        };
        let stays = seen.channel().filter(|channel| channel.source == *source);
        if stays.is_none() || tries == FEED_TRIES {
            let how = match stays.map(|channel| &channel.receiver_error) {
                None => "was pointed elsewhere meanwhile".to_owned(),
                Some(None) => "is stopped".to_owned(),
                Some(Some(error)) => format!("stopped with error {}: {}", error.code, error.text),
            };
            let missing = set.minus(&seen.history.executed);
            return Err(ControlError::NotFed {
                server: named(conn),
                source_of: source.clone(),
                missing,
                how,
            });
        }
    }
}
