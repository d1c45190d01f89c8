//! The second layer of a fence: a server that is closed to clients by the packet filter is made read-only too, so that it takes no write
//! where another program removes the filter, or while no agent runs that would write it again.
//!
//! Only once the filter is closed and every client connection is cut. A commit that waits for an acknowledgement is left to wait: it holds
//! the statement up until its own lock timeout, and nothing else is done to it. Ending the commit's session would commit it locally.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::block;
use super::sql::connect_admin;
use super::state::Shared;
use crate::clock;
use crate::decide::lease::holder::{Input, Role};
use crate::model::observation::Access;
use crate::mysql::{control, probe};

/// Between two looks whether it is wanted.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// After an attempt that did not succeed.
const AGAIN: Duration = Duration::from_secs(2);
/// How long one attempt may take; the server gives a lock up a second earlier.
const WITHIN: Duration = Duration::from_millis(2_500);

/// Runs until cancelled.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut failed = false;
    loop {
        sleep(LOOK_EVERY).await;
        if !wanted(&shared) {
            failed = false;
            continue;
        }
        match make_read_only(&shared).await {
            Ok(true) => tracing::info!("the fenced server is read-only too"),
            Ok(false) => {}
            Err(error) => {
                if !failed {
                    tracing::warn!(
                        error,
                        "the fenced server is not read-only yet; the packet filter alone keeps writes out; tried again every {} s",
                        AGAIN.as_secs()
                    );
                }
                failed = true;
                sleep(AGAIN).await;
            }
        }
    }
}

/// Fenced, or cut off from the voters for so long that another server may lead; and writable as far as is known.
fn wanted(shared: &Shared) -> bool {
    let seen = shared.seen();
    let closed = match seen.kept.role {
        Role::Fenced { .. } | Role::Deposed { .. } => seen.access == Access::Closed,
        Role::Primary { .. } => seen.unheard(clock::now()).is_some(),
        Role::Unmanaged | Role::Unknown | Role::Replica => false,
    };
    closed && seen.server.as_ref().is_ok_and(|report| !report.read_only)
}

/// Whether it was made so now. A host that leads again meanwhile is told, and makes its server writable again.
async fn make_read_only(shared: &Shared) -> Result<bool, String> {
    let deadline = Instant::now() + WITHIN;
    let mut conn = connect_admin(shared, deadline).await.map_err(|error| error.to_string())?;
    let report = probe::report(&mut conn, deadline).await.map_err(|unseen| unseen.to_string())?;
    if report.read_only || !wanted(shared) {
        conn.close(deadline).await;
        return Ok(false);
    }
    let id = block::session_of(&mut conn, deadline).await.map_err(|error| error.to_string())?;
    let done = control::set_read_only(&mut conn, true, deadline).await;
    match &done {
        Ok(()) => conn.close(deadline).await,
        // It must not happen later.
        Err(_) => block::end(shared, id).await,
    }
    if let Err(refused) = shared.order(Input::MadeReadOnly).await {
        tracing::debug!(error = %refused, "the lease's keeper is not told");
    }
    done.map(|()| true).map_err(|error| error.to_string())
}
