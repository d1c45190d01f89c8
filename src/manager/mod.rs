//! The service; the only place where the parts meet.

mod agents;
mod claim;
mod cluster_task;
pub mod event;
mod fenced;
pub mod handle;
mod leadership;
mod live_world;
mod monitor;
mod planned;
pub mod reload;
mod returning;
pub mod snapshot;
mod teller;
mod vote;
mod watchers;

use std::collections::BTreeMap;
use std::sync::Arc;

use secrecy::SecretString;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::agents::Lookout;
use self::cluster_task::{ClusterTask, EVENTS};
use self::handle::ClusterHandle;
use self::leadership::Leadership;
use self::live_world::LiveWorld;
use self::monitor::Watched;
use self::reload::Running;
use self::snapshot::Snapshot;
use self::vote::OwnVote;
use self::watchers::Watchers;
use crate::agent::client::{AgentClient, CallError, Connections};
use crate::agent::voter::VoteError;
use crate::clock;
use crate::config::{self, ClusterConfig, ManagerConfig};
use crate::decide::decide;
use crate::model::cluster::Cluster;
use crate::model::instance::InstanceId;
use crate::model::intent::Intents;
use crate::model::view::ClusterView;
use crate::mysql::control::ControlEnv;
use crate::mysql::{Account, Tls};
use crate::notify::Notifier;
use crate::store::{Store, StoreError};

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
struct Common {
    own: Option<OwnVote>,
    connections: Connections,
    store: Store,
    notifier: Notifier,
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
    let own = vote::serve(config, tracker, stop).await?;
    let (on_event, target) = watch::channel(config.on_event.clone());
    let notifier = Notifier::start(target, store.clone(), tracker, stop);
    let common =
        Common { own, connections, store, notifier, part, tracker: tracker.clone(), stop: stop.clone() };
    let mut handles = Vec::new();
    for cluster in &config.clusters {
        handles.push(start_cluster(cluster, &common).await?);
    }
    let running = Running::new(config.clone(), on_event, handles.clone());
    Ok((common.store, handles, running))
}

async fn start_cluster(config: &ClusterConfig, common: &Common) -> Result<ClusterHandle, StartError> {
    let Common { own, connections, store, notifier, part, tracker, stop } = common;
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
    let watchers = Watchers::start(
        watched,
        lookouts(cluster, &agents, &voters, own.as_ref()),
        cluster.name.clone(),
        own_events.clone(),
        tracker.clone(),
        stop.clone(),
    );
    let view = ClusterView::new(cluster.clone(), record, clock::now());
    let first = decide(&view, &Intents::default(), clock::now(), clock::wall());
    let (board, shown) = watch::channel(Arc::new(Snapshot::new(
        &view,
        first,
        clock::wall(),
        false,
        Some(JUST_STARTED.to_owned()),
    )));
    let (recovery, followed) = watch::channel(None);
    let world = LiveWorld {
        cluster: cluster.clone(),
        admin: account(&config.accounts.admin),
        tls: tls(&config.tls),
        env: ControlEnv {
            replication: account(&config.accounts.replication),
            heartbeat: account(&config.accounts.heartbeat),
            heartbeat_every: cluster.policy.silence / 4,
            statement: cluster.policy.statement,
        },
        agents,
        voters,
        store: store.clone(),
        tracker: tracker.clone(),
        fenced: Default::default(),
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
        part: *part,
        running: None,
        abort: CancellationToken::new(),
        wish: None,
        led: Err(JUST_STARTED.to_owned()),
        to_resume: false,
        last_told: String::new(),
    };
    tracker.spawn(task.run());
    tracker.spawn(teller::follow(shown.clone(), followed.clone(), notifier.clone(), stop.clone()));
    Ok(ClusterHandle { name: cluster.name.clone(), board: shown, recovery: followed, events: own_events })
}

/// Every host that can look at a primary's port for this manager.
fn lookouts(
    cluster: &Cluster,
    agents: &BTreeMap<InstanceId, Arc<AgentClient>>,
    voters: &BTreeMap<String, Arc<AgentClient>>,
    own: Option<&OwnVote>,
) -> BTreeMap<String, Lookout> {
    let votes = cluster.voters.iter().filter_map(|voter| {
        let lookout = match own.filter(|own| own.host == voter.host) {
            Some(own) => Lookout::Own(own.votes.clone()),
            None => Lookout::Agent(Arc::clone(voters.get(&voter.host)?)),
        };
        Some((voter.host.clone(), lookout))
    });
    let members = agents.iter().map(|(id, agent)| (id.host.clone(), Lookout::Agent(Arc::clone(agent))));
    votes.chain(members).collect()
}

fn watched(config: &ClusterConfig, instance: &InstanceId) -> Watched {
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
