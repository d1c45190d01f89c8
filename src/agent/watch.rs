//! Finds the server's process and waits for its end, without asking anybody while it runs.

use std::sync::Arc;
use std::time::Duration;

use super::error_log;
use super::host::process::{Find, ProcessError, Watch, find};
use super::host::service::Service;
use super::lease_loop::Order;
use super::state::{ServerProcess, Shared};
use crate::{clock, config};

/// Between two searches while no server runs.
const SEARCH_EVERY: Duration = Duration::from_millis(100);
/// Between two questions to the service manager while no server runs.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// The same when searching itself fails.
const SEARCH_AFTER_ERROR: Duration = Duration::from_secs(1);

/// How the server of this host is recognised, best first.
pub(super) fn ways(shared: &Shared) -> Vec<Find> {
    let Some(server) = &shared.config.server else { return Vec::new() };
    let pid_file = server.pid_file.clone().map(Find::PidFile);
    pid_file.into_iter().chain([Find::Socket(server.socket.clone())]).collect()
}

/// Looks once.
pub(super) async fn look(shared: &Shared) -> ServerProcess {
    match search(shared).await {
        Ok(Some(watch)) => ServerProcess::Running(Arc::new(watch)),
        Ok(None) => not_found(shared.config.server.as_ref().and_then(|server| server.service.as_ref())),
        Err(error) => ServerProcess::Unknown(error.to_string()),
    }
}

/// Not finding it is no proof of anything, unless nobody but this agent starts it: after a boot it is then not there, and
/// waits to be started, to lead or to follow.
fn not_found(service: Option<&config::Service>) -> ServerProcess {
    match service {
        Some(config::Service::Command { .. }) => ServerProcess::Gone(clock::now()),
        Some(config::Service::Unit(_)) | None => {
            ServerProcess::Unknown("no process found, and none was seen to end".to_owned())
        }
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
    let mut asked = None;
    loop {
        if let ServerProcess::Running(watch) = &now {
            let watch = Arc::clone(watch);
            tokio::select! {
                () = watch.exited() => {}
                // It runs no code any more: what is left is the kernel's work, and nobody has to wait for that.
                () = watch.ending() => {}
            }
            now = ServerProcess::Gone(clock::now());
            // Before anybody hears that it is gone: a failover asks for it at once.
            let answered = error_log::may_have_answered(&shared).await;
            shared.seen().answered_at_shutdown = answered;
            tracing::error!(pid = watch_pid(&shared), "the server's process has ended");
            shared.seen().ending = Some(Arc::clone(&watch));
            if shared.orders.send(Order::Server(now.clone())).await.is_err() {
                return;
            }
            watch.exited().await;
        }
        match search(&shared).await {
            Ok(Some(watch)) => {
                now = ServerProcess::Running(Arc::new(watch));
                {
                    let mut seen = shared.seen();
                    (seen.stopping, seen.leaving, seen.answered_at_shutdown) = (false, None, false);
                }
                tracing::info!("the server's process is there");
                if shared.orders.send(Order::Server(now.clone())).await.is_err() {
                    return;
                }
            }
            Ok(None) => {
                if matches!(now, ServerProcess::Gone(_))
                    && asked.is_none_or(|at| clock::now().since(at) >= ASK_EVERY)
                {
                    asked = Some(clock::now());
                    note_stop(&shared).await;
                }
                tokio::time::sleep(SEARCH_EVERY).await;
            }
            Err(error) => {
                tracing::debug!(error = %error, "searching the server's process");
                tokio::time::sleep(SEARCH_AFTER_ERROR).await;
            }
        }
    }
}

/// Tells the operator of a socket unit that listens for the server.
pub(super) async fn warn_of_sockets(shared: Arc<Shared>) {
    let unit = shared.config.server.as_ref().and_then(|server| server.service.as_ref());
    let Some(config::Service::Unit(name)) = unit else { return };
    for socket in (Service::Unit { name: name.clone() }).listening_sockets().await {
        tracing::warn!(
            "{socket} listens for {name}: its port would answer for a dead server, and connections start one that was stopped; run \"systemctl mask --now {socket}\""
        );
    }
}

/// Whether the operator had the service manager stop it: then nobody starts it but them.
async fn note_stop(shared: &Shared) {
    let unit = shared.config.server.as_ref().and_then(|server| server.service.as_ref());
    let Some(config::Service::Unit(name)) = unit else { return };
    let stopped = Service::Unit { name: name.clone() }.was_stopped().await;
    let before = std::mem::replace(&mut shared.seen().stopping, stopped);
    if stopped && !before {
        tracing::warn!(
            unit = name,
            "the service manager was told to stop the server: it is not started again from here"
        );
    }
}

fn watch_pid(shared: &Shared) -> u32 {
    match &shared.seen().process {
        ServerProcess::Running(watch) => watch.process().pid,
        ServerProcess::Gone(_) | ServerProcess::Unknown(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_only_the_agent_starts_is_gone_after_a_boot() {
        let command = config::Service::Command { command: vec!["start".to_owned()], log: "log".into() };
        assert!(matches!(not_found(Some(&command)), ServerProcess::Gone(_)));
        // The unit may be starting it right now.
        let unit = config::Service::Unit("mariadb.service".to_owned());
        assert!(matches!(not_found(Some(&unit)), ServerProcess::Unknown(_)));
        assert!(matches!(not_found(None), ServerProcess::Unknown(_)));
    }
}
