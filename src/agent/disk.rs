//! Keeps an eye on the filesystems the server writes to. One look at a time, on a thread of its own: a disk that hangs holds
//! nothing up but this.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::host::disk::{Places, look, working_directory};
use super::state::{ServerProcess, Shared};
use crate::model::disk::Disk;

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Runs until cancelled.
pub(super) async fn run(shared: Arc<Shared>) {
    let binary_log = shared.config.server.as_ref().and_then(|server| server.binlog_index.as_ref());
    let mut places =
        Places { data: None, binary_log: binary_log.and_then(|index| Some(index.parent()?.into())) };
    loop {
        let pid = match &shared.seen().process {
            ServerProcess::Running(watch) => Some(watch.process().pid),
            ServerProcess::Gone(_) | ServerProcess::Unknown(_) => None,
        };
        // A dead server's directory is where it was.
        let looked = spawn_blocking(move || {
            if let Some(Ok(data)) = pid.map(working_directory) {
                places.data = Some(data);
            }
            let disks = look(&places, pid);
            (places, disks)
        });
        let Ok((known, disks)) = looked.await else { return };
        places = known;
        let stuck = |disks: &[Disk]| disks.iter().any(|disk| disk.is_stuck());
        let before = {
            let mut seen = shared.seen();
            seen.data.clone_from(&places.data);
            std::mem::replace(&mut seen.disks, disks.clone())
        };
        if stuck(&before) != stuck(&disks) {
            for disk in disks.iter().filter(|disk| disk.is_stuck()) {
                tracing::error!("nothing can be written any more: {disk}");
            }
            shared.announce_change();
        }
        sleep(LOOK_EVERY).await;
    }
}
