//! What a server says of itself, and what a manager sees of servers and hosts from where it stands.

use std::time::Duration;

use mha::model::gtid::GtidSet;
use mha::model::instance::{Flavor, Identity, Version};
use mha::model::observation::{AgentStatus, Observation, Probe, Unseen, Vantage};
use mha::model::report::{Replication, Report, SemiSync, Settings, ThreadError, ThreadState};
use mha::model::restrictions::Restrictions;
use mha::model::time::Moment;
use mha::model::view::Granted;

use super::server::NET_TIMEOUT;
use super::state::Sim;

/// What came of asking an agent.
pub(crate) enum Word {
    Said(Moment, Box<AgentStatus>),
    Lost(Moment),
    Silent(Moment),
}

pub(crate) fn look_at(sim: &mut Sim, m: usize, s: usize) -> (Observation, Word) {
    let (party, at) = (sim.manager_party(m), sim.now_of_manager());
    let seen: Result<_, Unseen> = sim.knock(party, s).map(|()| sim.report(s));
    let word = if !sim.hosts[s].on || !sim.talk(party, s) || sim.hosts[s].frozen {
        Word::Silent(at)
    } else if sim.agent_answers(s) {
        Word::Said(at, Box::new(sim.status(s)))
    } else {
        Word::Lost(at)
    };
    (Observation { of: sim.instance(s), from: Vantage::Manager, at, seen }, word)
}

pub(crate) fn probes(sim: &mut Sim, m: usize, p: usize) -> Vec<Probe> {
    let (party, at) = (sim.manager_party(m), sim.now_of_manager());
    (0..sim.hosts.len())
        .filter(|h| *h != p && sim.talk(party, *h) && sim.agent_answers(*h))
        .map(|h| sim.probe_from(h, p, at))
        .collect()
}

/// What voters that are no members say of their grants.
pub(crate) fn witnesses(sim: &Sim, m: usize) -> Vec<(String, Granted)> {
    let (party, at) = (sim.manager_party(m), sim.now_of_manager());
    let heard = (sim.servers.len()..sim.hosts.len()).filter(|h| sim.talk(party, *h) && sim.agent_answers(*h));
    heard
        .map(|h| {
            let ago = sim.hosts[h].agent.as_ref().and_then(|agent| agent.voter.granted_ago(sim.now_at(h)));
            (sim.host_name(h), Granted { at, generation: sim.hosts[h].promises.generation, ago })
        })
        .collect()
}

impl Sim {
    /// A look from inside.
    pub(crate) fn report(&mut self, s: usize) -> Report {
        let executed = self.executed_marks(s);
        let executed = self.set_of(executed);
        let received = self.received_marks(s);
        let received = self.set_of(received);
        let server = &self.servers[s];
        let flavor = self.opts.flavor;
        let channel = server.source.map(|source| Replication {
            channel: String::new(),
            source: self.instance(source),
            receiver: match (server.io, &server.stream) {
                (false, _) => ThreadState::Stopped,
                (true, Some(_)) => ThreadState::Running,
                (true, None) => ThreadState::Connecting,
            },
            applier: if server.sql { ThreadState::Running } else { ThreadState::Stopped },
            receiver_error: server.io_error.then(not_there),
            applier_error: None,
            seconds_behind: None,
            received,
            read_to: None,
            applied_to: None,
            heartbeats: server.heartbeats,
            heartbeat_every: Some(Duration::from_millis(500)),
            gtid: true,
            delay: Duration::ZERO,
            filters: Vec::new(),
        });
        // It had run for long when the cluster was adopted.
        let ran_before = if server.boot == 1 { 900_000 } else { 0 };
        Report {
            identity: Identity {
                flavor,
                version: Version::new(10, 11, 14),
                server_id: s as u32 + 1,
                server_uuid: (flavor == Flavor::MySql)
                    .then(|| format!("00000000-0000-0000-0000-00000000000{}", s + 1)),
                hostname: format!("db{s}"),
                port: 3306,
            },
            connection: None,
            uptime: Duration::from_secs((self.t - server.booted_at + ran_before) / 1_000),
            replication_statements: Some(server.replication_statements),
            read_only: server.read_only,
            super_read_only: None,
            executed,
            purged: GtidSet::empty(flavor),
            coordinates: None,
            replication: channel.into_iter().collect(),
            semi_sync: SemiSync {
                available: true,
                source_enabled: server.semi_source,
                source_status: server.semi_source,
                after_sync: true,
                timeout: SemiSync::LONGEST_WAIT,
                waits_without_ackers: Some(true),
                acks: server.acks,
                clients: self.ackers_of(s).count() as u32,
                waiting: server.waiters.len() as u32,
                unacknowledged: 0,
                replica_enabled: server.semi_replica,
                replica_status: server.stream.as_ref().is_some_and(|stream| stream.announced),
            },
            settings: Settings {
                log_bin: true,
                log_replica_updates: true,
                gtid: true,
                event_scheduler: false,
                durable_commits: true,
                net_timeout: Duration::from_millis(NET_TIMEOUT),
            },
            restrictions: Restrictions::default(),
            heartbeat_age: None,
        }
    }
}

/// What MariaDB says to a replica whose position it does not have.
fn not_there() -> ThreadError {
    let text = "Error: connecting slave requested to start from a GTID which is not in the master's binlog";
    ThreadError { code: 1236, text: text.to_owned() }
}
