//! The first half of a switchover at the old primary's host: read-only by the server's own word, then closed to clients with its
//! replicas' streams spared. A refusal before the fence leaves every client connected; nothing of it happens after the answer.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::sql::connect_admin;
use super::state::Shared;
use super::streams;
use super::{barrier, own_disk};
use crate::decide::lease::holder::Input;
use crate::execute::world::StepError;
use crate::model::ballot::Generation;
use crate::model::observation::Unseen;
use crate::mysql::client::Connection;
use crate::mysql::control;
use crate::mysql::fault::ClientError;
use crate::mysql::sessions::kill;

/// What ending a statement that waits, and closing the access, may take of the block's time.
const RESERVE: Duration = Duration::from_millis(300);
/// How long ending our own statement may take.
const KILL_WITHIN: Duration = Duration::from_millis(250);

/// Blocks writers by `deadline`.
///
/// # Errors
/// Why they are not, or not all, blocked; the caller opens the server again.
pub(super) async fn block(
    shared: &Arc<Shared>,
    generation: Generation,
    deadline: Instant,
) -> Result<(), StepError> {
    let failed = |error: ClientError| StepError::Failed(error.to_string());
    // While clients are let in still: a fence that cannot be written closes the server, and then nothing can open it again.
    own_disk::check(shared).await.map_err(StepError::Failed)?;
    // Of its own: when it hangs it is ended by its number, and nothing else with it.
    let mut conn = connect_admin(shared, deadline).await.map_err(failed)?;
    let id = session_of(&mut conn, deadline).await.map_err(failed)?;
    streams::spare_replicas(shared).await;
    let by = deadline.checked_sub(RESERVE).unwrap_or(deadline);
    // Commits in flight end and are answered; what begins after them is refused. Whoever waits here with them waits for `by` only.
    let locked = match control::block_commits(&mut conn, by).await {
        Ok(locked) => locked,
        Err(error) => {
            end(shared, id).await;
            return Err(StepError::Failed(format!(
                "it could not be made read-only in time: somebody holds a lock (LOCK TABLES, a long statement, DDL), or nobody acknowledges commits: {error}"
            )));
        }
    };
    if let Err(refused) = shared.order(Input::Fence { generation }).await {
        // With it the lock: the server serves on.
        end(shared, id).await;
        return Err(refused.into());
    }
    if locked {
        barrier::keep(shared, conn, deadline.saturating_duration_since(Instant::now())).await;
    } else {
        conn.close(deadline).await;
    }
    Ok(())
}

/// The number by which the server knows this connection.
pub(super) async fn session_of(conn: &mut Connection, deadline: Instant) -> Result<u64, ClientError> {
    let rows = conn.query("SELECT CONNECTION_ID() AS id", deadline).await?;
    rows.first().and_then(|row| row.number("id")).ok_or_else(|| ClientError {
        server: "this host's server".to_owned(),
        unseen: Unseen::Looker("it does not say which session this is".to_owned()),
        code: None,
    })
}

/// Ends a statement of ours that may still wait: done later, it would close a server that serves again.
pub(super) async fn end(shared: &Shared, id: u64) {
    let by = Instant::now() + KILL_WITHIN;
    let ended = async {
        let mut conn: Connection = connect_admin(shared, by).await?;
        kill(&mut conn, id, by).await
    };
    if let Err(error) = ended.await {
        tracing::debug!(session = id, error = %error, "not ended");
    }
}
