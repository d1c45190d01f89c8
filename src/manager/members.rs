//! What one cluster's task needs to see and reach its members: made of the configuration and of what was added or removed by command,
//! and made anew when that changes, while the task goes on. Never decides who is a member.

use std::collections::BTreeMap;
use std::sync::Arc;

use secrecy::SecretString;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Common;
use super::agents::{self, Lookout};
use super::cluster_task::ClusterTask;
use super::event::Event;
use super::leadership::Leadership;
use super::live_world::LiveWorld;
use super::monitor::Watched;
use super::vote::OwnVote;
use super::watchers::Watchers;
use crate::agent::client::AgentClient;
use crate::agent::mysql_tls;
use crate::config::{self, ClusterConfig};
use crate::decide::electorate::counted;
use crate::model::ballot::Ballot;
use crate::model::cluster::Cluster;
use crate::model::instance::InstanceId;
use crate::model::record::ClusterRecord;
use crate::mysql::Account;
use crate::mysql::control::ControlEnv;
use crate::vital::vital;

/// The configured cluster with the members and voters it has by now.
pub(super) fn effective(configured: &Cluster, record: Option<&ClusterRecord>) -> Cluster {
    let members = match record {
        Some(record) => record.wishes.members(&configured.members),
        None => configured.members.clone(),
    };
    Cluster { members, voters: counted(&configured.voters, record), ..configured.clone() }
}

/// What looks at members, and what reaches them.
pub(super) struct Parts {
    pub(super) world: Arc<LiveWorld>,
    pub(super) leadership: Arc<Leadership>,
    pub(super) watchers: Watchers,
    /// Ends what looks.
    pub(super) stop: CancellationToken,
}

impl Parts {
    /// Starts to look at the members of `cluster`; what is led already, under which ballot, goes on.
    pub(super) fn start(
        config: &ClusterConfig,
        cluster: &Cluster,
        led: (Ballot, Option<ClusterRecord>),
        common: &Common,
        events: &mpsc::Sender<Event>,
    ) -> Self {
        let Common { own, connections, store, tracker, .. } = common;
        let stop = common.stop.child_token();
        let client =
            |host: &str, url: &str| Arc::new(AgentClient::new(connections, url, token(config)).of_host(host));
        let agents: BTreeMap<_, _> = cluster
            .members
            .iter()
            .filter_map(|member| {
                let agent = client(&member.instance.host, member.agent.as_deref()?);
                Some((member.instance.clone(), agent))
            })
            .collect();
        let voters: BTreeMap<_, _> = cluster
            .voters
            .iter()
            .map(|voter| (voter.host.clone(), client(&voter.host, &voter.url)))
            .collect();
        let leadership =
            Arc::new(Leadership::new(cluster.clone(), store.clone(), voters.clone(), agents.clone(), led));
        for (instance, agent) in &agents {
            let leadership = Arc::clone(&leadership);
            let listening =
                agents::listen(instance.clone(), Arc::clone(agent), leadership, events.clone(), stop.clone());
            tracker.spawn(vital("agent", listening));
        }
        // One that is to vote is asked before it does.
        let mut looking = voters.clone();
        for wanted in &config.cluster.voters {
            looking.entry(wanted.host.clone()).or_insert_with(|| client(&wanted.host, &wanted.url));
        }
        let watched = cluster.members.iter().map(|member| watched(config, &member.instance)).collect();
        let watchers = Watchers::start(
            watched,
            lookouts(&agents, &looking, own.as_ref()),
            Arc::clone(&leadership),
            events.clone(),
            tracker.clone(),
            stop.clone(),
        );
        let world = LiveWorld {
            cluster: cluster.clone(),
            admin: account(&config.accounts.admin),
            tls: mysql_tls(&config.tls),
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
            outbid: Default::default(),
        };
        Self { world: Arc::new(world), leadership, watchers, stop }
    }
}

impl ClusterTask {
    /// Members or voters that the record has come to name are looked at, and told of, or not any more.
    pub(super) fn follow_members(&mut self) {
        let cluster = effective(&self.config.cluster, self.view.record.as_ref());
        if cluster.members == self.view.cluster.members && cluster.voters == self.view.cluster.voters {
            return;
        }
        // How far to go by itself may have been changed since the start.
        let cluster = Cluster { mode: self.view.cluster.mode, ..cluster };
        tracing::info!(cluster = %cluster.name, members = cluster.members.len(), voters = cluster.voters.len(), "its members or voters changed");
        self.parts_stop.cancel();
        let led = (self.leadership.ballot(), self.view.record.clone());
        let parts = Parts::start(&self.config, &cluster, led, &self.common, &self.own_events);
        (self.world, self.leadership, self.watchers, self.parts_stop) =
            (parts.world, parts.leadership, parts.watchers, parts.stop);
        let known = |instance: &InstanceId| self.view.of(instance).is_some();
        let joined = cluster.members.iter().filter(|member| !known(&member.instance));
        // One that was a member before comes with its threads stopped by us.
        let due: Vec<String> =
            joined.map(|member| format!("{} replicates: it became a member", member.instance)).collect();
        self.intents.note_left(&due);
        self.view.follow_members(cluster);
    }

    /// An agent that is no member's yet.
    pub(super) fn agent_at(&self, url: &str) -> AgentClient {
        AgentClient::new(&self.common.connections, url, token(&self.config))
    }
}

fn token(config: &ClusterConfig) -> SecretString {
    config.agent_token.clone().unwrap_or_else(|| SecretString::from(String::new()))
}

/// Every host that can look at a primary's port for this manager.
fn lookouts(
    agents: &BTreeMap<InstanceId, Arc<AgentClient>>,
    voters: &BTreeMap<String, Arc<AgentClient>>,
    own: Option<&OwnVote>,
) -> BTreeMap<String, Lookout> {
    let votes = voters.iter().map(|(host, voter)| {
        let lookout = match own.filter(|own| own.host == *host) {
            Some(own) => Lookout::Own(own.votes.clone()),
            None => Lookout::Agent(Arc::clone(voter)),
        };
        (host.clone(), lookout)
    });
    let members = agents.iter().map(|(id, agent)| (id.host.clone(), Lookout::Agent(Arc::clone(agent))));
    votes.chain(members).collect()
}

fn watched(config: &ClusterConfig, instance: &InstanceId) -> Watched {
    Watched {
        instance: instance.clone(),
        admin: account(&config.accounts.admin),
        tls: mysql_tls(&config.tls),
        policy: config.cluster.policy.clone(),
        reconnect: Arc::default(),
    }
}

fn account(account: &config::Account) -> Account {
    Account { user: account.user.clone(), password: account.password.clone() }
}
