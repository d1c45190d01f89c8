//! The agent: one small process on each database host. It votes, holds the lease in the kernel's hands, fences, watches the
//! server, and does the steps it is told under a ballot it obeys. It decides nothing: what it may do by itself is in
//! [`crate::decide::lease`].

mod barrier;
mod block;
pub mod boot;
mod carry;
pub mod client;
mod compare;
mod disk;
mod donate;
pub mod durable;
mod error_log;
mod exchange;
mod extra;
pub mod farewell;
pub mod hands;
mod hanging;
mod heartbeat;
pub mod host;
mod jobs;
pub mod lease_loop;
mod leaving;
mod logs;
mod lost_ack;
mod opening;
mod ordered_stop;
mod own_disk;
mod poll;
pub mod ports;
mod reach;
mod rebuild;
pub(crate) mod relearn;
mod renewals;
mod resume;
mod salvage;
mod second_layer;
pub mod server;
mod sources;
mod sql;
mod start;
pub mod state;
mod steps;
mod stray_vip;
mod streams;
mod take_back;
pub mod voter;
mod watch;
pub mod wire;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::client::{CallError, Connections};
use self::durable::DurableError;
use self::hands::{Hands, HandsError};
use self::host::listeners::ListenersError;
use self::lease_loop::Keeper;
use self::ports::Ports;
pub(crate) use self::sql::mysql_tls;
use self::state::{ServerProcess, Shared};
use self::voter::{VoteError, Votes};
use crate::clock;
use crate::config::AgentConfig;
use crate::serving;
use crate::vital::vital;

/// Orders that may wait for the keeper.
const ORDERS: usize = 256;
/// How long tasks may take to end.
const END_WITHIN: Duration = Duration::from_secs(2);

/// Why the agent does not run.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    #[error("{doing} {what}: {source}")]
    Io { doing: &'static str, what: String, source: io::Error },
    #[error(transparent)]
    Vote(#[from] VoteError),
    #[error(transparent)]
    Durable(#[from] DurableError),
    #[error(transparent)]
    Hands(#[from] HandsError),
    #[error(transparent)]
    Listeners(#[from] ListenersError),
    #[error(transparent)]
    Client(#[from] CallError),
}

/// Runs until `cancel`. What the kernel holds then is left to it: it runs out by itself, or the next agent adopts it.
///
/// # Errors
/// When it cannot begin: an address taken, a damaged file, no right to the packet filter.
pub async fn run(config: AgentConfig, cancel: CancellationToken) -> Result<(), AgentError> {
    for directory in [&config.data_dir, &config.run_dir] {
        make_directory(directory)?;
    }
    let tracker = TaskTracker::new();
    let hands = match &config.server {
        Some(server) => {
            let ports = Ports::open(server.port, &config.data_dir)?;
            Some(Hands::open(ports, tracker.clone(), cancel.clone())?)
        }
        None => None,
    };
    let votes = Votes::open(&config.data_dir)?;
    let boot_id = clock::boot_id().map_err(|source| AgentError::Io {
        doing: "reading",
        what: "this boot's id".to_owned(),
        source,
    })?;
    let (orders, inbox) = mpsc::channel(ORDERS);
    let ends = (tracker.clone(), cancel.clone());
    let shared = Arc::new(Shared::new(config, votes, Connections::new()?, boot_id, hands, orders, ends));
    let listener = listen(&shared).await?;
    if shared.config.server.is_some() {
        shared.seen().last_identity = durable::read(&poll::identity_path(&shared))?;
        let saved = extra::known(&shared)?;
        shared.seen().extra = saved;
        rebuild::known(&shared)?;
        let (was, data) = lease_loop::known_before(&shared);
        shared.seen().data = data;
        let found = watch::look(&shared, was.as_ref()).await;
        if !matches!(found, ServerProcess::Running(_)) {
            // Before anybody hears that it does not run.
            error_log::recall(&shared);
            let answered = error_log::may_have_answered(&shared).await;
            shared.seen().answered_at_shutdown = answered;
        }
        let keeper = Keeper::start(Arc::clone(&shared), found.clone()).await?;
        tracker.spawn(vital("lease", keeper.run(inbox)));
        spawn(&shared, watch::run(Arc::clone(&shared), found, was));
        spawn(&shared, watch::warn_of_sockets(Arc::clone(&shared)));
        spawn(&shared, ports::run(Arc::clone(&shared)));
        spawn(&shared, poll::run(Arc::clone(&shared)));
        spawn(&shared, heartbeat::run(Arc::clone(&shared)));
        spawn(&shared, second_layer::run(Arc::clone(&shared)));
        spawn(&shared, rebuild::run(Arc::clone(&shared)));
        spawn(&shared, disk::run(Arc::clone(&shared)));
        spawn(&shared, logs::run(Arc::clone(&shared)));
        spawn(&shared, reach::run(Arc::clone(&shared)));
    }
    spawn(&shared, own_disk::run(Arc::clone(&shared)));
    spawn(&shared, relearn::run(Arc::clone(&shared)));
    tracing::info!(host = shared.config.host, listen = %shared.config.listen, "the agent runs");
    // The port is bound, and what the kernel still allows was adopted. Without a service manager there is nobody to notify.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    let served = serving::serve(listener, server::router(Arc::clone(&shared)), cancel.clone());
    tokio::select! {
        () = served => {}
        // Streams that never end do not keep it from ending.
        () = async { cancel.cancelled().await; tokio::time::sleep(END_WITHIN).await } => {}
    }
    tracker.close();
    if tokio::time::timeout(END_WITHIN, tracker.wait()).await.is_err() {
        tracing::warn!("some work did not end in time and is left");
    }
    Ok(())
}

fn spawn(shared: &Shared, work: impl Future<Output = ()> + Send + 'static) {
    let cancel = shared.cancel.clone();
    shared.tracker.spawn(vital("agent", async move { cancel.run_until_cancelled(work).await }));
}

fn make_directory(path: &Path) -> Result<(), AgentError> {
    std::fs::create_dir_all(path).map_err(|source| AgentError::Io {
        doing: "creating the directory",
        what: path.display().to_string(),
        source,
    })
}

async fn listen(shared: &Shared) -> Result<TcpListener, AgentError> {
    let at = shared.config.listen;
    let bound = TcpListener::bind(at).await;
    bound.map_err(|source| AgentError::Io { doing: "listening on", what: at.to_string(), source })
}
