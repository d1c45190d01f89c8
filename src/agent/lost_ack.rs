//! An acknowledgement that was lost: ackers that connected anew have everything, and a commit waits for the word of one that has gone
//! (MySQL bug 104015). The acknowledgement of any later commit stands for it; this writes that commit where nobody else does. It
//! proves nothing, and lets nothing go that no acker has.

use std::convert::Infallible;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::heartbeat::leads;
use super::sql::connect_heartbeat;
use super::state::Shared;
use crate::model::ballot::Generation;
use crate::mysql::control::{LATER_ROWS, write_later_row};

/// So long the heartbeat waits before, and between two of them.
const EVERY: Duration = Duration::from_secs(1);
/// How long one may take, connecting included. One that was not acknowledged either goes on in its server.
const WITHIN: Duration = Duration::from_secs(1);
/// Runs while one heartbeat waits. Each row is written once: a commit that is not acknowledged keeps its session and the lock of its row.
pub(super) async fn run(shared: &Shared, generation: Generation) -> Infallible {
    let mut rows = LATER_ROWS;
    loop {
        sleep(EVERY).await;
        if leads(shared) != Some(generation) || !somebody_could_acknowledge(shared) {
            continue;
        }
        if let Some(row) = rows.next()
            && let Err(why) = write(shared, row, generation).await
        {
            tracing::debug!(why, "no later commit was acknowledged");
        }
    }
}

/// Commits wait although an acker is connected. Without one nothing would be acknowledged.
fn somebody_could_acknowledge(shared: &Shared) -> bool {
    let seen = shared.seen();
    seen.server.as_ref().is_ok_and(|report| report.semi_sync.waiting > 0 && report.semi_sync.clients > 0)
}

async fn write(shared: &Shared, row: u32, generation: Generation) -> Result<(), String> {
    let deadline = Instant::now() + WITHIN;
    let mut conn = connect_heartbeat(shared, deadline).await.map_err(|error| error.to_string())?;
    let written = write_later_row(&mut conn, row, &shared.config.host, generation, deadline).await;
    written.map_err(|error| error.to_string())?;
    conn.close(deadline).await;
    Ok(())
}
