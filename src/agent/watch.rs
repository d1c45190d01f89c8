//! Finds the server's process and waits for its end, without asking anybody while it runs.

use std::sync::Arc;
use std::time::Duration;

use super::host::process::{Find, ProcessError, Watch, find};
use super::lease_loop::Order;
use super::state::{ServerProcess, Shared};
use crate::clock;
use crate::config::Service;

/// Between two searches while no server runs.
const SEARCH_EVERY: Duration = Duration::from_millis(100);
/// The same when searching itself fails.
const SEARCH_AFTER_ERROR: Duration = Duration::from_secs(1);

/// How the server of this host is recognised, best first.
pub(super) fn ways(shared: &Shared) -> Vec<Find> {
    let Some(server) = &shared.config.server else { return Vec::new() };
    let pid_file = server.pid_file.clone().map(Find::PidFile);
    pid_file.into_iter().chain([Find::Socket(server.socket.clone())]).collect()
}

/// Looks once. Not finding it is no proof of anything, unless nobody but this agent starts it: after a boot it is then not
/// there, and waits for the agent's start (F124).
pub(super) async fn look(shared: &Shared) -> ServerProcess {
    let service = shared.config.server.as_ref().and_then(|server| server.service.as_ref());
    match search(shared).await {
        Ok(Some(watch)) => ServerProcess::Running(Arc::new(watch)),
        Ok(None) if matches!(service, Some(Service::Command { .. })) => ServerProcess::Gone(clock::now()),
        Ok(None) => ServerProcess::Unknown("no process found, and none was seen to end".to_owned()),
        Err(error) => ServerProcess::Unknown(error.to_string()),
    }
}

async fn search(shared: &Shared) -> Result<Option<Watch>, ProcessError> {
    let mut failed = None;
    for way in ways(shared) {
        match find(&way).await {
            Ok(Some(process)) => {
                if let Some(watch) = Watch::open(&process)? {
                    return Ok(Some(watch));
                }
            }
            Ok(None) => {}
            // A stale pid file does not hide a server that listens.
            Err(error) => failed = Some(error),
        }
    }
    failed.map_or(Ok(None), Err)
}

/// Runs until cancelled; `found` is what the first look gave.
pub(super) async fn run(shared: Arc<Shared>, found: ServerProcess) {
    let mut now = found;
    loop {
        if let ServerProcess::Running(watch) = &now {
            watch.exited().await;
            now = ServerProcess::Gone(clock::now());
            tracing::error!(pid = watch_pid(&shared), "the server's process has ended");
            if shared.orders.send(Order::Server(now.clone())).await.is_err() {
                return;
            }
        }
        match search(&shared).await {
            Ok(Some(watch)) => {
                now = ServerProcess::Running(Arc::new(watch));
                tracing::info!("the server's process is there");
                if shared.orders.send(Order::Server(now.clone())).await.is_err() {
                    return;
                }
            }
            Ok(None) => tokio::time::sleep(SEARCH_EVERY).await,
            Err(error) => {
                tracing::debug!(error = %error, "searching the server's process");
                tokio::time::sleep(SEARCH_AFTER_ERROR).await;
            }
        }
    }
}

fn watch_pid(shared: &Shared) -> u32 {
    match &shared.seen().process {
        ServerProcess::Running(watch) => watch.process().pid,
        ServerProcess::Gone(_) | ServerProcess::Unknown(_) => 0,
    }
}
