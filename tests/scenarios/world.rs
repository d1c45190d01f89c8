//! The world a play happens in: hosts, servers, agents and cables, from which every look, agent's word and probe is made and put
//! into a real [`ClusterView`]. Virtual time; nothing is decided here.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::{DateTime, TimeZone, Utc};
use mha::decide::decide;
use mha::decide::failover::Isolation;
use mha::decide::standing::known_to_record;
use mha::decide::switchover::Surveys;
use mha::model::ballot::{Ballot, Generation};
use mha::model::binlog::BinlogCoordinates;
use mha::model::cluster::Cluster;
use mha::model::gtid::GtidSet;
use mha::model::instance::{Flavor, Identity, InstanceId};
use mha::model::intent::{Intents, SwitchoverAsk};
use mha::model::observation::{Access, AgentStatus, Observation, Probe, Process, StrayVip, Unseen, Vantage};
use mha::model::reach::Reach;
use mha::model::record::ClusterRecord;
use mha::model::report::{Replication, Report, SemiSync, Settings, ThreadError, ThreadState};
use mha::model::time::Moment;
use mha::model::view::{ClusterView, Granted};

use crate::host::{Host, Plight};
use mha::model::wishes::ReplicaAsk;

use crate::planned;

/// Between two rounds of looks.
const TICK: Duration = Duration::from_millis(250);
/// The manager's own end of a cable.
pub(crate) const MANAGER: &str = "manager";

/// Everything there is.
#[derive(Debug, Clone)]
pub(crate) struct World {
    pub(crate) view: ClusterView,
    pub(crate) intents: Intents,
    pub(crate) now: Moment,
    pub(crate) hosts: Vec<Host>,
    pub(crate) flavor: Flavor,
    /// Server id whose transactions the present history is made of.
    pub(crate) origin: u32,
    /// Unordered pairs that cannot talk.
    pub(crate) cuts: BTreeSet<(String, String)>,
    /// When voters that are no members last granted the lease.
    granted: BTreeMap<String, Moment>,
    /// When a majority of voters last answered the primary.
    majority_at: Moment,
    pub(crate) isolation: Option<Isolation>,
    pub(crate) asks_adoption: Option<Option<InstanceId>>,
    /// What an operator was answered at once.
    pub(crate) answer: Option<String>,
    pub(crate) asks_switchover: Option<SwitchoverAsk>,
    pub(crate) asks_replica: Option<ReplicaAsk>,
    pub(crate) newcomer_has_agent: bool,
    pub(crate) surveys: Surveys,
    /// A generation that voters beside the members accepted.
    pub(crate) witnesses_accepted: Generation,
    /// Voters' hosts that are no members and do not answer.
    pub(crate) silent_voters: BTreeSet<String>,
    /// Those that answer, and have learned nothing to vote by yet.
    pub(crate) blank_voters: BTreeSet<String>,
}

impl World {
    /// A cluster that has run well for five seconds.
    pub(crate) fn new(cluster: Cluster, hosts: Vec<Host>, flavor: Flavor, now: Moment) -> Self {
        let view = ClusterView::new(cluster, None, now, wall(now));
        Self {
            view,
            intents: Intents::default(),
            now,
            hosts,
            flavor,
            origin: 1,
            cuts: BTreeSet::new(),
            granted: BTreeMap::new(),
            majority_at: now,
            isolation: None,
            asks_adoption: None,
            answer: None,
            asks_switchover: None,
            asks_replica: None,
            newcomer_has_agent: false,
            surveys: Surveys::new(),
            witnesses_accepted: Generation(0),
            silent_voters: BTreeSet::new(),
            blank_voters: BTreeSet::new(),
        }
    }

    /// Wall time: a day, plus the moment.
    pub(crate) fn wall(&self) -> DateTime<Utc> {
        wall(self.now)
    }

    /// What is known of the ackers goes into the record, as a manager writes it between two looks.
    pub(crate) fn keep_evidence(&mut self) {
        let decision = decide(&self.view, &self.intents, self.now, self.wall());
        if let Some(known) = known_to_record(&self.view, &decision) {
            let revision = self.view.record.as_ref().map_or(0, |record| record.revision);
            let record = ClusterRecord::apply(self.view.record.as_ref(), &known, self.wall()).ok();
            self.view.record = record.map(|record| ClusterRecord { revision, ..record });
        }
    }

    pub(crate) fn host(&mut self, name: &str) -> Result<&mut Host, String> {
        let wanted: InstanceId = name.parse().map_err(|error| format!("{error}"))?;
        self.hosts.iter_mut().find(|host| host.instance == wanted).ok_or(format!("no host {name}"))
    }

    pub(crate) fn set(&self, text: &[String]) -> GtidSet {
        GtidSet::parse(self.flavor, &text.join(",")).expect("plays write valid sets")
    }

    /// The first `count` transactions of a server, in its family's words.
    pub(crate) fn numbers(&self, server: u32, count: u64) -> String {
        match (self.flavor, count) {
            (_, 0) => String::new(),
            (Flavor::MariaDb, n) => format!("0-{server}-{n}"),
            (Flavor::MySql, n) => format!("00000000-0000-0000-0000-0000000000{server:02}:1-{n}"),
        }
    }

    fn can_talk(&self, left: &str, right: &str) -> bool {
        left == right || !self.cuts.contains(&pair(left, right))
    }

    fn find(&self, instance: &InstanceId) -> Option<&Host> {
        self.hosts.iter().find(|host| host.instance == *instance)
    }

    /// Lets time pass, looking all the while.
    pub(crate) fn wait(&mut self, span: Duration) {
        let end = self.now + span;
        while self.now < end {
            self.now = (self.now + TICK).min(end);
            self.streams();
            self.observe();
        }
        self.keep_evidence();
    }

    /// Replication heartbeats and grants arrive where they can.
    fn streams(&mut self) {
        let primary = self.view.primary().cloned();
        let alive: Vec<(bool, bool)> = self
            .hosts
            .iter()
            .map(|host| {
                let reaches = |other: &Host| self.can_talk(&host.instance.host, &other.instance.host);
                let stream =
                    host.source.as_ref().and_then(|source| self.find(source)).is_some_and(|source| {
                        !host.receiver_stopped && host.answers() && source.answers() && reaches(source)
                    });
                let granted = primary.as_ref().and_then(|primary| self.find(primary)).is_some_and(|holder| {
                    holder.agent_up && holder.is_host_up() && reaches(holder) && holder.answers()
                });
                (stream, granted)
            })
            .collect();
        let now = self.now;
        let holder = primary.as_ref().and_then(|primary| self.find(primary));
        let holder = holder.filter(|holder| holder.agent_up && holder.is_host_up() && holder.answers());
        let granting = self
            .view
            .cluster
            .voters
            .iter()
            .map(|voter| voter.host.clone())
            .filter(|voter| holder.is_some_and(|holder| self.can_talk(voter, &holder.instance.host)));
        let granting: Vec<String> = granting.collect();
        let votes = |voter: &&String| {
            let host = self.hosts.iter().find(|host| host.instance.host == **voter);
            host.is_none_or(|host| host.agent_up && host.is_host_up())
        };
        let majority = self.view.cluster.majority().unwrap_or(0);
        if granting.iter().filter(votes).count() >= majority {
            self.majority_at = now;
        }
        self.granted.extend(granting.into_iter().map(|voter| (voter, now)));
        for (host, (stream, granted)) in self.hosts.iter_mut().zip(alive) {
            if stream {
                host.stream_at = now;
                host.beats += 1;
            }
            if granted {
                host.granted_at = now;
            }
        }
    }

    /// One round of looks, agents' words and probes, replicas first: who is asked after them knows of more.
    pub(crate) fn observe(&mut self) {
        let primary = self.view.primary().cloned();
        let mut order: Vec<Host> = self.hosts.clone();
        order.sort_by_key(|host| Some(&host.instance) == primary.as_ref());
        for host in &order {
            self.look(host);
            self.agent_speaks(host, primary.as_ref());
        }
        self.voters_answer();
        if let Some(primary) = primary {
            self.probes(&primary);
        }
    }

    /// Voters that are no members are asked every few seconds, and those that are to be voters.
    fn voters_answer(&mut self) {
        let all = self.view.cluster.voters.iter().chain(&self.view.wanted_voters);
        let beside = all
            .map(|voter| voter.host.clone())
            .filter(|host| self.hosts.iter().all(|other| other.instance.host != *host));
        for host in beside.filter(|host| !self.silent_voters.contains(host)).collect::<Vec<_>>() {
            let generation = self.view.record.as_ref().map_or(Generation(0), |record| record.generation);
            let generation = if self.blank_voters.contains(&host) { Generation(0) } else { generation };
            self.view.record_voter(&host, self.now, generation);
        }
    }

    fn look(&mut self, host: &Host) {
        let reached = host.leads_to.as_ref().and_then(|other| self.find(other)).unwrap_or(host);
        let seen = if self.can_talk(MANAGER, &reached.instance.host) {
            reached.outcome().map(|()| self.report(reached))
        } else {
            Err(Unseen::NoRoute)
        };
        let (of, at) = (host.instance.clone(), self.now);
        if seen.is_ok() {
            self.view.record_inventory(&of, at, host.inventory.clone());
        }
        self.view.record_look(Observation { of, from: Vantage::Manager, at, seen });
    }

    fn agent_speaks(&mut self, host: &Host, primary: Option<&InstanceId>) {
        if self.view.cluster.member(&host.instance).is_none_or(|member| member.agent.is_none()) {
            return;
        }
        match host.plight {
            // Its connection stays open: no word, and no loss.
            Plight::Frozen => return,
            Plight::Down => return self.view.record_agent_lost(&host.instance, self.now),
            Plight::Well | Plight::Gone(_) | Plight::Stopped(_) | Plight::Answers(_) => {}
        }
        if !host.agent_up || !self.can_talk(MANAGER, &host.instance.host) {
            return self.view.record_agent_lost(&host.instance, self.now);
        }
        if let Some(other) = &host.agent_leads_to {
            self.view.record_agent_lost(&host.instance, self.now);
            let elsewhere = format!("it is that of {other}, not of {}", host.instance.host);
            return self.view.record_agent_elsewhere(&host.instance, Some(elsewhere));
        }
        let status = self.status(host, primary);
        self.view.record_agent(&host.instance, self.now, status);
    }

    pub(crate) fn status(&self, host: &Host, primary: Option<&InstanceId>) -> AgentStatus {
        let generation = self.view.record.as_ref().map_or(Generation(0), |record| record.generation);
        let leads = Some(&host.instance) == primary;
        let (process, unanswered, server) = match &host.plight {
            Plight::Gone(since) => {
                (Process::Gone { since: self.now.since(*since) }, Duration::ZERO, Err(Unseen::Refused))
            }
            Plight::Stopped(since) => {
                (self.running(host), self.now.since(*since), Err(Unseen::SilentBeforeGreeting))
            }
            Plight::Well | Plight::Frozen | Plight::Down | Plight::Answers(_) => {
                (self.running(host), Duration::ZERO, Ok(self.report(host)))
            }
        };
        let unheard = Some(self.now.since(self.majority_at))
            .filter(|span| leads && *span >= self.view.cluster.policy.lease && host.answers());
        let closed = host.closed || unheard.is_some() || matches!(host.plight, Plight::Gone(_));
        let access = match (closed, leads) {
            (true, _) => Access::Closed,
            (false, true) => Access::Held { remaining: Duration::from_millis(2_500) },
            (false, false) => Access::Admitted,
        };
        AgentStatus {
            host: host.instance.host.clone(),
            boot_id: "boot".to_owned(),
            ballot: Ballot { number: 1, manager: "m1".to_owned() },
            generation: generation.max(host.accepted),
            accepted_for: host.accepted_for.clone(),
            held: host.led.or(leads.then_some(generation)),
            fenced: host.fenced,
            epoch: 0,
            process,
            access,
            unheard,
            stray_vip: host.stray_vip.clone().map(|left| StrayVip { ago: Duration::from_secs(3), left }),
            vip: leads && !closed && host.has_vip && self.view.cluster.vip.is_some(),
            server,
            server_age: Duration::ZERO,
            unanswered,
            heartbeat_stuck: host.heartbeat_stuck_since.map(|since| self.now.since(since)),
            commit_takes: host.commit_takes.filter(|_| leads),
            stream_still: host
                .source
                .as_ref()
                .filter(|_| !host.receiver_stopped)
                .map(|_| self.now.since(host.stream_at)),
            granted_ago: (!leads).then(|| self.now.since(host.granted_at)),
            stopping: false,
            leaving: planned::leaving_at(host, self.now),
            extra: host.saved.clone(),
            job: host.job.clone(),
            disks: host.disk.into_iter().collect(),
            heartbeat_fault: host.heartbeat_fault.clone(),
            own_disk_fault: host.own_disk_fault.clone(),
            log_fault: host.log_fault.clone(),
            stop_hangs: host.stop_hangs,
            applier_waits: host.stop_hangs,
            threads_killed: host.threads_killed,
            stopped_by_order: host.stopped_by_order,
            answered_at_shutdown: host.answered_at_shutdown,
            start_failed: host.start_failed.clone(),
            voters: self.view.cluster.voters.iter().map(|voter| voter.host.clone()).collect(),
            reach: self.reach(host),
        }
    }

    fn reach(&self, host: &Host) -> Vec<Reach> {
        let others = self.hosts.iter().map(|other| &other.instance).filter(|other| **other != host.instance);
        let tested = others.map(|to| {
            let refused = host.refused_at.iter().find(|(at, _)| at == to);
            let outcome = refused.map_or(Ok(()), |(_, unseen)| Err(unseen.clone()));
            Reach { to: to.clone(), user: "repl".to_owned(), outcome, age: Duration::from_secs(5) }
        });
        tested.collect()
    }

    fn running(&self, host: &Host) -> Process {
        Process::Running { pid: 1000 + host.id, up: self.now.since(host.started_at) }
    }

    /// Probes of the primary from every other host that could send one, and from voters that are no members.
    fn probes(&mut self, primary: &InstanceId) {
        let Some(target) = self.find(primary).cloned() else { return };
        let agents = self.hosts.iter().filter(|host| {
            host.instance != *primary
                && host.agent_up
                && host.is_host_up()
                && self.can_talk(MANAGER, &host.instance.host)
                && self.view.cluster.member(&host.instance).is_some_and(|member| member.agent.is_some())
        });
        let agents = agents.map(|host| host.instance.host.clone());
        let others = self.view.cluster.voters.iter().map(|voter| voter.host.clone());
        let others = others.filter(|name| {
            !self.silent_voters.contains(name) && self.hosts.iter().all(|host| host.instance.host != *name)
        });
        for from in agents.chain(others).collect::<Vec<_>>() {
            let outcome =
                if self.can_talk(&from, &primary.host) { target.outcome() } else { Err(Unseen::NoRoute) };
            let (of, at) = (primary.clone(), self.now);
            let granted = self.granted.get(&from).copied();
            if self.hosts.iter().all(|host| host.instance.host != from) {
                let generation = self.view.record.as_ref().map_or(Generation(0), |record| record.generation);
                let ago = granted.map(|granted| at.since(granted));
                let generation = generation.max(self.witnesses_accepted);
                let generation = if self.blank_voters.contains(&from) { Generation(0) } else { generation };
                self.view.record_grant(&from, Granted { at, generation, ago });
            }
            self.view.record_probe(Probe { from: Vantage::Agent(from), of, at, outcome });
        }
    }

    /// What the server would say of itself.
    pub(crate) fn report(&self, host: &Host) -> Report {
        let with = |count: u64| {
            let history = self.numbers(self.origin, count);
            let all: Vec<String> =
                host.base.iter().cloned().chain((!history.is_empty()).then_some(history)).collect();
            self.set(&all)
        };
        let mut executed = with(host.applied);
        let mut purged = self.set(&[self.numbers(self.origin, host.purged)]);
        if let Some(position) = &host.position_only {
            let position = self.set(std::slice::from_ref(position));
            executed = executed.union(&position);
            purged = purged.union(&position);
        }
        if let Some((_, count)) = &host.foreign {
            executed = executed.union(&self.set(&[self.numbers(90, *count)]));
        }
        Report {
            identity: Identity {
                flavor: self.flavor,
                version: host.version,
                server_id: host.id,
                server_uuid: (self.flavor == Flavor::MySql)
                    .then(|| format!("00000000-0000-0000-0000-0000000000{:02}", host.id)),
                hostname: host.instance.host.clone(),
                port: host.instance.port,
            },
            connection: None,
            uptime: self.now.since(host.started_at),
            replication_statements: Some(host.replication_statements),
            read_only: host.read_only,
            super_read_only: (self.flavor == Flavor::MySql).then_some(host.read_only),
            executed,
            purged,
            coordinates: self.log_end(host),
            replication: self.channels(host, with(host.received)),
            semi_sync: self.semi_sync(host),
            settings: Settings {
                log_bin: host.log_bin,
                log_replica_updates: host.log_replica_updates,
                gtid: true,
                event_scheduler: false,
                durable_commits: true,
                net_timeout: Duration::from_secs(4),
            },
            restrictions: host.restrictions.clone(),
            heartbeat_age: host.source.as_ref().map(|_| host.lag.max(self.last_heartbeat())),
        }
    }

    /// How old the last write heartbeat is that any primary wrote.
    fn last_heartbeat(&self) -> Duration {
        let fails = self.hosts.iter().any(|host| host.heartbeat_fault.is_some());
        if fails { Duration::from_secs(300) } else { Duration::ZERO }
    }

    /// Who is taken from the record, or put below another one, acknowledges no more.
    fn semi_sync(&self, host: &Host) -> SemiSync {
        let mut semi_sync = host.semi_sync.clone();
        let Some(record) = &self.view.record else { return semi_sync };
        if !host.clients_told && semi_sync.clients > 0 {
            semi_sync.clients = record.ackers.len() as u32;
        }
        let registered = record.ackers.contains(&host.instance) || host.instance == record.primary;
        let acknowledges = registered || host.acknowledges_unregistered;
        semi_sync.replica_enabled &= acknowledges;
        semi_sync.replica_status &= acknowledges;
        semi_sync
    }

    fn log_end(&self, host: &Host) -> Option<BinlogCoordinates> {
        let tells = self.flavor == Flavor::MariaDb && host.log_bin;
        tells.then(|| BinlogCoordinates::new(format!("binlog.{:06}", host.log_file), 4).ok())?
    }

    fn channels(&self, host: &Host, received: GtidSet) -> Vec<Replication> {
        let Some(source) = &host.source else { return Vec::new() };
        let refused = self.find(source).is_some_and(|source| matches!(source.plight, Plight::Gone(_)));
        let (receiver, error) = match (host.receiver_stopped, refused) {
            (true, _) => (ThreadState::Stopped, host.receiver_error.clone()),
            (false, true) => {
                let text = format!("cannot connect to {source} (111 \"Connection refused\")");
                (ThreadState::Connecting, Some(ThreadError { code: 2003, text }))
            }
            (false, false) => (ThreadState::Running, None),
        };
        let own = Replication {
            channel: String::new(),
            source: source.clone(),
            receiver,
            applier: if host.applier_stopped { ThreadState::Stopped } else { ThreadState::Running },
            receiver_error: error,
            applier_error: host.applier_error.clone(),
            seconds_behind: Some(host.lag.as_secs()),
            received,
            read_to: None,
            applied_to: None,
            heartbeats: host.beats,
            heartbeat_every: Some(Duration::from_millis(750)),
            gtid: true,
            delay: host.delay,
            filters: host.filters.clone(),
        };
        let foreign = host.foreign.as_ref().map(|(source, count)| Replication {
            channel: "other".to_owned(),
            source: source.clone(),
            received: self.set(&[self.numbers(90, *count)]),
            ..own.clone()
        });
        std::iter::once(own).chain(foreign).collect()
    }
}

fn wall(at: Moment) -> DateTime<Utc> {
    let day = Utc.with_ymd_and_hms(2026, 1, 1, 12, 0, 0).single().expect("a valid date");
    day + chrono::Duration::microseconds(at.as_micros() as i64)
}

/// The two ends of a cable in one order.
pub(crate) fn pair(left: &str, right: &str) -> (String, String) {
    if left <= right { (left.to_owned(), right.to_owned()) } else { (right.to_owned(), left.to_owned()) }
}
