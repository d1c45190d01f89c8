//! The service; the only place where the parts meet.

mod agents;
mod attaching;
mod cluster_task;
mod direct;
pub mod event;
mod fleet;
pub mod handle;
mod inventory;
mod leadership;
mod live_world;
mod members;
mod monitor;
mod planned;
mod progress;
mod record;
pub mod reload;
mod returning;
pub mod rolling;
mod scheduled;
pub mod snapshot;
mod teller;
mod topology;
mod vote;
mod votes;
mod watchers;

use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::cluster_task::{ClusterTask, EVENTS};
use self::fleet::Fleet;
use self::handle::ClusterHandle;
use self::members::Parts;
use self::reload::Running;
use self::snapshot::Snapshot;
use self::vote::OwnVote;
use crate::agent::client::{CallError, Connections};
use crate::agent::voter::VoteError;
use crate::clock;
use crate::config::{ClusterConfig, ManagerConfig};
use crate::decide::decide;
use crate::model::ballot::Ballot;
use crate::model::intent::Intents;
use crate::model::view::ClusterView;
use crate::notify::Notifier;
use crate::store::{Store, StoreError};
use crate::vital::vital;

/// Why a manager that has not asked the voters yet does not lead.
const JUST_STARTED: &str = "just started";

/// What a manager takes upon itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// It asks the voters to obey it, goes on with what an earlier one left, and acts.
    Leads,
    /// It leads too, and begins nothing that no operator asked for.
    Obeys,
    /// It looks and proposes; no voter hears of it.
    Watches,
}

/// Why the service could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("cannot make a client for the agents: {0}")]
    Agents(#[from] CallError),
    #[error("this manager's promises as a voter cannot be kept: {0}")]
    Votes(#[from] VoteError),
    #[error(
        "cannot listen on port {port} for this host's vote: {source}; is another manager running? (host and vote in [manager])"
    )]
    Vote { port: u16, source: std::io::Error },
}

/// What every cluster's tasks share.
#[derive(Debug)]
struct Common {
    own: Option<OwnVote>,
    connections: Connections,
    store: Store,
    notifier: Notifier,
    fleet: Fleet,
    part: Part,
    tracker: TaskTracker,
    stop: CancellationToken,
}

/// Starts the loops of every configured cluster on `tracker`; they end when `stop` is cancelled.
///
/// # Errors
/// When the store cannot be opened or read, or this host's vote cannot be served.
pub async fn start(
    config: &ManagerConfig,
    part: Part,
    tracker: &TaskTracker,
    stop: &CancellationToken,
) -> Result<(Store, Vec<ClusterHandle>, Running), StartError> {
    let store = Store::open(&config.data_dir)?;
    let connections = Connections::new()?;
    let own = vote::serve(config, &store, tracker, stop).await?;
    let (on_event, target) = watch::channel(config.on_event.clone());
    let notifier = Notifier::start(target, store.clone(), tracker, stop);
    let fleet = Fleet::new(config.failovers_at_once);
    let (tracker, stop) = (tracker.clone(), stop.clone());
    let common = Common { own, connections, store, notifier, fleet, part, tracker, stop };
    let mut handles = Vec::new();
    let common = Arc::new(common);
    for cluster in &config.clusters {
        handles.push(start_cluster(cluster, &common).await?);
    }
    let running = Running::new(config.clone(), on_event, handles.clone());
    Ok((common.store.clone(), handles, running))
}

async fn start_cluster(config: &ClusterConfig, common: &Arc<Common>) -> Result<ClusterHandle, StartError> {
    let Common { store, notifier, part, tracker, stop, .. } = &**common;
    let record = store.record(&config.cluster.name).await?;
    let cluster = members::effective(&config.cluster, record.as_ref());
    let (own_events, events) = mpsc::channel(EVENTS);
    let parts = Parts::start(config, &cluster, (Ballot::default(), record.clone()), common, &own_events);
    let mut view = ClusterView::new(cluster.clone(), record, clock::now(), clock::wall());
    view.wanted_voters.clone_from(&config.cluster.voters);
    let first = decide(&view, &Intents::default(), clock::now(), clock::wall());
    let (board, shown) = watch::channel(Arc::new(Snapshot::new(
        &view,
        first,
        &Intents::default(),
        (clock::now(), clock::wall()),
        false,
        Some(JUST_STARTED.to_owned()),
    )));
    let (recovery, followed) = watch::channel(None);
    let Parts { world, leadership, watchers, stop: parts_stop } = parts;
    let task = ClusterTask {
        view,
        intents: Intents::default(),
        store: store.clone(),
        world,
        leadership,
        watchers,
        config: config.clone(),
        common: Arc::clone(common),
        parts_stop,
        events,
        own_events: own_events.clone(),
        board,
        recovery,
        tracker: tracker.clone(),
        stop: stop.clone(),
        part: *part,
        operations: Default::default(),
        handoff: None,
        led: Err(JUST_STARTED.to_owned()),
        to_resume: false,
        asking: CancellationToken::new(),
        interrupted_at: None,
        evidence_failed_at: None,
        voters_failed_at: None,
        progress: Default::default(),
        record_read_at: 0,
        last_told: String::new(),
    };
    tracker.spawn(vital("cluster", task.run()));
    tracker.spawn(teller::follow(shown.clone(), followed.clone(), notifier.clone(), stop.clone()));
    Ok(ClusterHandle::new(cluster.name, shown, followed, own_events))
}
