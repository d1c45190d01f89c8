//! What holds MariaDB's commits up from a switchover's block until the old primary follows, or serves again. `read_only` does not stop
//! a session with the privilege to ignore it (`READ ONLY ADMIN`), and one that came in over the unix socket is not cut by the packet
//! filter: it would commit on the old primary alone. The global read lock stops everybody. MySQL's `super_read_only` does so by itself.
//!
//! The lock is a connection's: it ends with this process, and at its own deadline. No commit waits for an acknowledgement while it is
//! held, so that ending a session cannot commit anything. Transactions that have changed rows are ended behind it, before it is given up.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until};

use super::state::Shared;
use crate::mysql::client::Connection;
use crate::mysql::sessions;

/// How long ending the sessions behind the lock may take.
const END_WITHIN: Duration = Duration::from_millis(500);
/// How long the lock is kept for sessions that have not ended yet, where somebody waits for it to be given up.
const LIFT_PATIENCE: Duration = Duration::from_secs(3);
/// How long giving the lock up may take; the connection is closed all the same.
const LIFT_WITHIN: Duration = Duration::from_millis(500);
/// The lock outlasts the block's own time by this: the promotion, and what takes the block back by itself, are over by then.
const AFTER_BLOCK: Duration = Duration::from_secs(30);

/// The lock of one server, if it is held.
#[derive(Debug, Default)]
pub struct Barrier(Mutex<Option<Held>>);

#[derive(Debug)]
struct Held {
    conn: Connection,
    until: Instant,
}

/// Keeps the lock that `conn` holds, and ends the transactions that wait behind it, in the background: the block is not longer for that.
pub(super) async fn keep(shared: &Arc<Shared>, conn: Connection, within: Duration) {
    let until = Instant::now() + within + AFTER_BLOCK;
    *shared.barrier.0.lock().await = Some(Held { conn, until });
    let waiting = Arc::clone(shared);
    shared.start(async move {
        let _ = end_transactions(&waiting).await;
        sleep_until(until).await;
        let overdue =
            waiting.barrier.0.lock().await.as_ref().is_some_and(|held| held.until <= Instant::now());
        if overdue {
            tracing::warn!(
                "the switchover that blocked this server has not gone on; its commits are held up no longer"
            );
            if let Err(why) = lift(&waiting).await {
                tracing::warn!("{why}; it ends now all the same");
                release(&waiting).await;
            }
        }
    });
}

/// Gives the lock up. What had begun before the block and has not ended is ended first.
///
/// # Errors
/// The lock stays, for a session that is still there would commit on this server alone.
pub(super) async fn lift(shared: &Shared) -> Result<(), String> {
    let by = Instant::now() + LIFT_PATIENCE;
    while let Err(why) = end_transactions(shared).await {
        if Instant::now() >= by {
            return Err(format!("the lock that holds commits up since the block is kept: {why}"));
        }
    }
    give_up(shared).await;
    Ok(())
}

/// Gives the lock up after one attempt to end what had begun before the block: the server leads again, and clients wait.
pub(super) async fn release(shared: &Shared) {
    if let Err(why) = end_transactions(shared).await {
        tracing::warn!("transactions that were open when the server was blocked may commit: {why}");
    }
    give_up(shared).await;
}

async fn give_up(shared: &Shared) {
    let Some(Held { mut conn, .. }) = shared.barrier.0.lock().await.take() else { return };
    let deadline = Instant::now() + LIFT_WITHIN;
    if let Err(error) = conn.query("UNLOCK TABLES", deadline).await {
        tracing::warn!(error = %error, "the global read lock ends with its connection");
    }
    conn.close(deadline).await;
}

/// One attempt. Where the lock's own connection has ended there is nothing to be kept.
async fn end_transactions(shared: &Shared) -> Result<(), String> {
    let mut slot = shared.barrier.0.lock().await;
    let Some(held) = slot.as_mut() else { return Ok(()) };
    let ended = sessions::end_writers(&mut held.conn, END_WITHIN).await;
    if !held.conn.is_open() {
        tracing::warn!(
            "transactions that were open when the server was blocked may commit here alone; look for errant transactions"
        );
        return Ok(());
    }
    match ended {
        Ok((0, _)) => Ok(()),
        Ok((count, 0)) => {
            tracing::warn!(
                count,
                "transactions that were open when the server was blocked for a switchover: ended and rolled back"
            );
            Ok(())
        }
        Ok((_, left)) => Err(format!("{left} session(s) were ended and are still there")),
        Err(error) => Err(error.to_string()),
    }
}
