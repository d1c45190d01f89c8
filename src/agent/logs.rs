//! Keeps an eye on the files of the server's binary log: whether each that the index names can still be read. One look at a time, on a
//! thread of its own: a disk that hangs holds nothing up but this.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::host::tail;
use super::state::Shared;

/// Between two looks: a few bytes of each file are read.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Runs until cancelled; ends at once where nobody said which index it is.
pub(super) async fn run(shared: Arc<Shared>) {
    let index = shared.config.server.as_ref().and_then(|server| server.binlog_index.clone());
    let Some(index) = index else { return };
    loop {
        let flavor = shared.seen().last_identity.map(|(flavor, _)| flavor);
        if let Some(flavor) = flavor {
            let index = index.clone();
            let Ok(looked) = spawn_blocking(move || tail::check(flavor, &index)).await else { return };
            match looked {
                Ok(fault) => {
                    let before = {
                        let mut seen = shared.seen();
                        std::mem::replace(&mut seen.log_fault, fault.clone())
                    };
                    if before != fault {
                        if let Some(fault) = &fault {
                            tracing::error!(
                                "{fault}; a replica that needs it cannot replicate from this server"
                            );
                        }
                        shared.announce_change();
                    }
                }
                Err(error) => tracing::debug!(%error, "the binary log's files were not looked at"),
            }
        }
        sleep(LOOK_EVERY).await;
    }
}
