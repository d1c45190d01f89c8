//! The service; the only place where the parts meet.

mod agents;
mod cluster_task;
pub mod event;
pub mod handle;
mod leadership;
mod live_world;
mod monitor;
pub mod snapshot;
mod watchers;

use std::collections::BTreeMap;
use std::sync::Arc;

use secrecy::SecretString;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::cluster_task::{ClusterTask, EVENTS};
use self::handle::ClusterHandle;
use self::leadership::Leadership;
use self::live_world::LiveWorld;
use self::monitor::Watched;
use self::snapshot::Snapshot;
use self::watchers::Watchers;
use crate::agent::client::{AgentClient, CallError, Connections};
use crate::clock;
use crate::config::{self, ClusterConfig, ManagerConfig};
use crate::decide::decide;
use crate::model::intent::Intents;
use crate::model::view::ClusterView;
use crate::mysql::control::ControlEnv;
use crate::mysql::{Account, Tls};
use crate::store::{Store, StoreError};

/// Why the service could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("cannot make a client for the agents: {0}")]
    Agents(#[from] CallError),
}

/// Starts the loops of every configured cluster on `tracker`; they end when `stop` is cancelled.
///
/// # Errors
/// When the store cannot be opened or read.
pub async fn start(
    config: &ManagerConfig,
    tracker: &TaskTracker,
    stop: &CancellationToken,
) -> Result<(Store, Vec<ClusterHandle>), StartError> {
    let store = Store::open(&config.data_dir)?;
    let connections = Connections::new()?;
    let mut handles = Vec::new();
    for cluster in &config.clusters {
        handles.push(start_cluster(cluster, &connections, &store, tracker, stop).await?);
    }
    Ok((store, handles))
}

async fn start_cluster(
    config: &ClusterConfig,
    connections: &Connections,
    store: &Store,
    tracker: &TaskTracker,
    stop: &CancellationToken,
) -> Result<ClusterHandle, StartError> {
    let cluster = &config.cluster;
    let record = store.record(&cluster.name).await?;
    let token = config.agent_token.clone().unwrap_or_else(|| SecretString::from(String::new()));
    let client = |url: &str| Arc::new(AgentClient::new(connections, url, token.clone()));
    let agents: BTreeMap<_, _> = cluster
        .members
        .iter()
        .filter_map(|member| Some((member.instance.clone(), client(member.agent.as_deref()?))))
        .collect();
    let voters: BTreeMap<_, _> =
        cluster.voters.iter().map(|voter| (voter.host.clone(), client(&voter.url))).collect();
    let leadership = Arc::new(Leadership::new(
        cluster.clone(),
        store.clone(),
        voters.clone(),
        agents.clone(),
        record.clone(),
    ));
    let (own_events, events) = mpsc::channel(EVENTS);
    for (instance, agent) in &agents {
        tracker.spawn(agents::listen(
            instance.clone(),
            Arc::clone(agent),
            Arc::clone(&leadership),
            own_events.clone(),
            stop.clone(),
        ));
    }
    let watched = cluster.members.iter().map(|member| watched(config, &member.instance)).collect();
    let watchers =
        Watchers::start(watched, agents.clone(), own_events.clone(), tracker.clone(), stop.clone());
    let view = ClusterView::new(cluster.clone(), record, clock::now());
    let first = decide(&view, &Intents::default(), clock::now(), clock::wall());
    let (board, shown) =
        watch::channel(Arc::new(Snapshot::new(&view, first, false, Some("just started".to_owned()))));
    let (recovery, followed) = watch::channel(None);
    let world = LiveWorld {
        cluster: cluster.clone(),
        admin: account(&config.accounts.admin),
        tls: tls(&config.tls),
        env: ControlEnv {
            replication: account(&config.accounts.replication),
            heartbeat_every: cluster.policy.silence / 4,
            statement: cluster.policy.statement,
        },
        agents,
        voters,
        store: store.clone(),
    };
    let task = ClusterTask {
        view,
        intents: Intents::default(),
        store: store.clone(),
        world: Arc::new(world),
        leadership,
        watchers,
        events,
        own_events: own_events.clone(),
        board,
        recovery,
        tracker: tracker.clone(),
        stop: stop.clone(),
        running: None,
        led: Err("just started".to_owned()),
        last_told: String::new(),
    };
    tracker.spawn(task.run());
    Ok(ClusterHandle { name: cluster.name.clone(), board: shown, recovery: followed, events: own_events })
}

fn watched(config: &ClusterConfig, instance: &crate::model::instance::InstanceId) -> Watched {
    Watched {
        instance: instance.clone(),
        admin: account(&config.accounts.admin),
        tls: tls(&config.tls),
        policy: config.cluster.policy.clone(),
    }
}

fn account(account: &config::Account) -> Account {
    Account { user: account.user.clone(), password: account.password.clone() }
}

fn tls(tls: &config::Tls) -> Tls {
    match tls {
        config::Tls::Off => Tls::Off,
        config::Tls::Required => Tls::Unverified,
        config::Tls::VerifyIdentity { ca } => Tls::Identity { ca: Some(ca.clone()), name: None },
    }
}
