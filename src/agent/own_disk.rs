//! Tries whether the agent's own data directory can be written. The role and the votes of this host are kept there: a host that cannot
//! write them can neither take the lead nor hand it over, and a manager must know that before it plans either.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

use super::durable;
use super::state::Shared;

/// Between two tries.
const EVERY: Duration = Duration::from_secs(5);
/// A try that takes longer is told as a fault: a role that is written so slowly is not written within a step.
const SLOW_AFTER: Duration = Duration::from_secs(3);
/// Below `data_dir`: one file for the regular try, one for the try before a step. They may be written at the same time.
const REGULAR: &str = "writable.new";
const BEFORE_A_STEP: &str = "writable-step.new";

/// Runs until cancelled. One try at a time: a disk that hangs holds up nothing but this.
pub(super) async fn run(shared: Arc<Shared>) {
    loop {
        let path = shared.config.data_dir.join(REGULAR);
        let mut trying = spawn_blocking(move || try_write(&path));
        let outcome = loop {
            match timeout(SLOW_AFTER, &mut trying).await {
                Ok(Ok(outcome)) => break outcome,
                Ok(Err(error)) => break Err(error.to_string()),
                Err(_) => note(&shared, Err(slow(&shared.config.data_dir))),
            }
        };
        note(&shared, outcome);
        sleep(EVERY).await;
    }
}

/// Tries once, before a step after which something must be kept.
///
/// # Errors
/// Why nothing can be kept, in words.
pub(super) async fn check(shared: &Shared) -> Result<(), String> {
    let path = shared.config.data_dir.join(BEFORE_A_STEP);
    let outcome = match timeout(SLOW_AFTER, spawn_blocking(move || try_write(&path))).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(slow(&shared.config.data_dir)),
    };
    outcome.map_err(|why| {
        format!("the agent cannot write to its own data directory ({why}), so nothing was changed; make room there, or mend that disk")
    })
}

fn try_write(path: &Path) -> Result<(), String> {
    durable::try_write(path).map_err(|source| format!("writing a test file, {}: {source}", path.display()))
}

fn slow(data_dir: &Path) -> String {
    format!("writing a test file in {} took longer than {} s", data_dir.display(), SLOW_AFTER.as_secs())
}

fn note(shared: &Shared, outcome: Result<(), String>) {
    let fault = outcome.err();
    let before = std::mem::replace(&mut shared.seen().own_disk_fault, fault.clone());
    match (&before, &fault) {
        (None, Some(why)) => tracing::error!(
            "this agent cannot write to its own data directory ({why}): its host cannot take the lead and does not vote for a new primary; make room there, or mend that disk"
        ),
        (Some(_), None) => tracing::info!("this agent can write to its own data directory again"),
        (None, None) | (Some(_), Some(_)) => {}
    }
    if before.is_some() != fault.is_some() {
        shared.announce_change();
    }
}
