//! Finds the server's process and waits for its end, without asking anybody while it runs.

use std::sync::Arc;
use std::time::Duration;

use super::error_log;
use super::host::absence::{self, Marks};
use super::host::process::{Find, Process, ProcessError, Watch, find};
use super::host::service::Service;
use super::lease_loop::Order;
use super::state::{ServerProcess, Shared};
use crate::model::time::Moment;
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

/// Looks once. `was` is the process that an earlier agent of this boot watched.
pub(super) async fn look(shared: &Shared, was: Option<&Process>) -> ServerProcess {
    let why = match search(shared).await {
        Ok(Some(watch)) => return ServerProcess::Running(Arc::new(watch)),
        Ok(None) => "no process is found by `pid_file` and `socket`".to_owned(),
        Err(error) => error.to_string(),
    };
    // A missing pid file, or a socket by another name, does not end a server that was seen to run.
    match was.map(Watch::open) {
        Some(Ok(Some(watch))) => return ServerProcess::Running(Arc::new(watch)),
        Some(Err(error)) => return ServerProcess::Unknown(error.to_string()),
        Some(Ok(None)) | None => {}
    }
    match prove_gone(shared, was).await {
        Ok(()) => ServerProcess::Gone(clock::now()),
        Err(reason) => ServerProcess::Unknown(format!("{why}, and {reason}")),
    }
}

/// "Gone" lets a manager fail over at once: it is said only of a server that is proven not to run.
async fn prove_gone(shared: &Shared, was: Option<&Process>) -> Result<(), String> {
    let (server, hands) = shared.server()?;
    if was.is_none() && !only_started_here(server.service.as_ref()) {
        return Err("none was seen to end, while others than this agent start it".to_owned());
    }
    let data = server.data_dir.clone().or_else(|| shared.seen().data.clone());
    let (ports, socket) = (hands.ports.known(), server.socket.clone());
    absence::prove(&Marks { ports, socket, data, was: was.cloned() }).await
}

/// After a boot it is then not there, and waits to be started, to lead or to follow. A unit may be starting it right now.
fn only_started_here(service: Option<&config::Service>) -> bool {
    match service {
        Some(config::Service::Command { .. }) => true,
        Some(config::Service::Unit(_)) | None => false,
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

/// Runs until cancelled; `found` is what the first look gave, and `was` what it was given.
pub(super) async fn run(shared: Arc<Shared>, found: ServerProcess, was: Option<Process>) {
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
                not_found(&shared, &mut now, &mut asked, was.as_ref()).await;
                tokio::time::sleep(SEARCH_EVERY).await;
            }
            Err(error) => {
                tracing::debug!(error = %error, "searching the server's process");
                not_found(&shared, &mut now, &mut asked, was.as_ref()).await;
                tokio::time::sleep(SEARCH_AFTER_ERROR).await;
            }
        }
    }
}

/// Once in [`ASK_EVERY`]: whether an operator stopped a server that is gone, and whether one that was not found is gone.
async fn not_found(
    shared: &Arc<Shared>,
    now: &mut ServerProcess,
    asked: &mut Option<Moment>,
    was: Option<&Process>,
) {
    if asked.is_some_and(|at| clock::now().since(at) < ASK_EVERY) {
        return;
    }
    *asked = Some(clock::now());
    match now {
        ServerProcess::Gone(_) => note_stop(shared).await,
        ServerProcess::Unknown(_) if prove_gone(shared, was).await.is_ok() => {
            let answered = error_log::may_have_answered(shared).await;
            shared.seen().answered_at_shutdown = answered;
            tracing::warn!("the server was not found, and is proven not to run");
            *now = ServerProcess::Gone(clock::now());
            // The agent is stopping: nobody needs to hear it.
            let _ = shared.orders.send(Order::Server(now.clone())).await;
        }
        ServerProcess::Unknown(_) | ServerProcess::Running(_) => {}
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
    fn a_server_that_only_the_agent_starts_may_be_gone_though_none_was_seen_to_end() {
        let command = config::Service::Command { command: vec!["start".to_owned()], log: "log".into() };
        assert!(only_started_here(Some(&command)));
        let unit = config::Service::Unit("mariadb.service".to_owned());
        assert!(!only_started_here(Some(&unit)) && !only_started_here(None));
    }
}
