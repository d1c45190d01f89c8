//! Every port of the server, not only the configured one: a fence that leaves `extra_port`, `admin_port` or the X protocol open
//! is none. They are learned from the sockets the server's process listens on, and remembered, so that its next start is met by
//! a closed filter. It opens nothing and closes nothing: the keeper does, when it is told.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use super::durable;
use super::host::listeners::{Listeners, ListenersError};
use super::lease_loop::Order;
use super::state::{ServerProcess, Shared};
use crate::clock;

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The same while a server is young: its plugins begin to listen when it already answers.
const LOOK_EVERY_YOUNG: Duration = Duration::from_millis(250);
/// How long a server is young. After that a port it does not listen on is nobody's.
const YOUNG: Duration = Duration::from_secs(30);
/// How long one look may take, before a fence that goes by what is known.
const LOOK_WITHIN: Duration = Duration::from_millis(500);

/// What is known of the server's ports.
#[derive(Debug)]
pub struct Ports {
    configured: u16,
    path: PathBuf,
    known: Mutex<BTreeSet<u16>>,
    listeners: tokio::sync::Mutex<Listeners>,
}

impl Ports {
    /// The configured port, and those remembered below `data_dir`.
    ///
    /// # Errors
    /// When the kernel gives no socket.
    pub fn open(configured: u16, data_dir: &Path) -> Result<Self, ListenersError> {
        let path = data_dir.join("ports.json");
        let remembered: Option<BTreeSet<u16>> = durable::read(&path).unwrap_or_else(|error| {
            // No promise was in it: a server that runs says it again.
            tracing::warn!(error = %error, "the server's further ports are learned again");
            None
        });
        let mut known = remembered.unwrap_or_default();
        known.insert(configured);
        let listeners = tokio::sync::Mutex::new(Listeners::open()?);
        Ok(Self { configured, path, known: Mutex::new(known), listeners })
    }

    /// To be guarded, the configured one first: the filter is named by it.
    pub fn known(&self) -> Vec<u16> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let further = known.iter().copied().filter(|port| *port != self.configured);
        std::iter::once(self.configured).chain(further).collect()
    }

    /// What is to be guarded from now on; `None` when nothing changes.
    fn take_in(&self, observed: BTreeSet<u16>, young: bool) -> Option<BTreeSet<u16>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        // One that does not listen on its own port is not whole yet, or may not be reached at all.
        let whole = !young && observed.contains(&self.configured);
        let mut wanted = if whole { observed } else { known.union(&observed).copied().collect() };
        wanted.insert(self.configured);
        (*known != wanted).then(|| {
            known.clone_from(&wanted);
            wanted
        })
    }
}

/// Looks once; when it returns well, every port the server listens on is guarded as the lease has it.
///
/// # Errors
/// Why that is not known, in words.
pub(super) async fn learn(shared: &Shared) -> Result<(), String> {
    let (_, hands) = shared.server()?;
    let ports = &hands.ports;
    let process = match &shared.seen().process {
        ServerProcess::Running(watch) => watch.process().clone(),
        ServerProcess::Gone(_) | ServerProcess::Unknown(_) => return Ok(()),
    };
    let mut listeners = ports.listeners.lock().await;
    let looked = tokio::time::timeout(LOOK_WITHIN, listeners.ports_of(&process)).await;
    let observed =
        looked.map_err(|_| "the kernel does not say in time which ports the server has".to_owned())?;
    let observed = observed.map_err(|error| error.to_string())?;
    let young = clock::now().since(process.started) < YOUNG;
    let Some(wanted) = ports.take_in(observed, young) else { return Ok(()) };
    tracing::info!(ports = ?wanted, "the server's ports");
    // Told while the lock is held: who asks meanwhile must not hear "nothing new" before it is so.
    let (reply, done) = oneshot::channel();
    shared.orders.send(Order::Ports(reply)).await.map_err(|_| "the agent is stopping".to_owned())?;
    done.await.map_err(|_| "the agent is stopping".to_owned())?;
    let path = ports.path.clone();
    let written = tokio::task::spawn_blocking(move || durable::write(&path, &wanted)).await;
    if !matches!(written, Ok(Ok(()))) {
        tracing::warn!("after a restart of the agent the server's further ports are learned again");
    }
    Ok(())
}

/// Runs until cancelled.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut changes = shared.changes();
    let mut told = false;
    loop {
        if let Err(why) = learn(&shared).await {
            if !told {
                tracing::warn!(why, "only the ports known until now are guarded");
            }
            told = true;
        } else {
            told = false;
        }
        let young = match &shared.seen().process {
            ServerProcess::Running(watch) => clock::now().since(watch.process().started) < YOUNG,
            ServerProcess::Gone(_) | ServerProcess::Unknown(_) => false,
        };
        let pause = if young { LOOK_EVERY_YOUNG } else { LOOK_EVERY };
        // A change may be a new process; its end needs no look.
        let _ = tokio::time::timeout(pause, changes.changed()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_forgotten_only_when_a_whole_server_does_without_it() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("ports.json"), "[3306,3307]").unwrap();
        let ports = Ports::open(3306, directory.path()).unwrap();
        assert_eq!(ports.known(), [3306, 3307]);
        assert_eq!(ports.take_in(BTreeSet::new(), false), None, "it listens on nothing yet");
        assert_eq!(ports.take_in([3306].into(), true), None, "its plugins may come");
        assert_eq!(ports.take_in([3306, 33060].into(), true), Some([3306, 3307, 33060].into()));
        assert_eq!(ports.take_in([3306, 33060].into(), false), Some([3306, 33060].into()));
        std::fs::write(directory.path().join("ports.json"), "[33").unwrap();
        assert_eq!(Ports::open(3310, directory.path()).unwrap().known(), [3310]);
    }
}
