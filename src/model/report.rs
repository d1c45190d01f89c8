//! What a server says of itself when asked: one poll's answer, already parsed.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::binlog::BinlogCoordinates;
use super::gtid::GtidSet;
use super::instance::{Flavor, Identity, InstanceId};
use super::restrictions::{Restrictions, Setting};
use super::time::human;

/// The state of one of a replica's two threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ThreadState {
    Running,
    /// The I/O thread is trying to reach its source.
    Connecting,
    Stopped,
}

/// An error a replication thread stopped with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThreadError {
    pub code: u32,
    pub text: String,
}

/// One replication channel, seen from the replica.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replication {
    /// Channel or connection name; empty for the default one.
    pub channel: String,
    /// Where it is told to replicate from.
    pub source: InstanceId,
    pub receiver: ThreadState,
    pub applier: ThreadState,
    pub receiver_error: Option<ThreadError>,
    pub applier_error: Option<ThreadError>,
    /// `Seconds_Behind_Master`, unknown while the applier or receiver is stopped.
    pub seconds_behind: Option<u64>,
    /// Everything this channel has received and not lost: applied or still in the relay log.
    pub received: GtidSet,
    /// Coordinates in the source's log up to which events were read.
    pub read_to: Option<BinlogCoordinates>,
    /// Coordinates in the source's log up to which events were applied.
    pub applied_to: Option<BinlogCoordinates>,
    /// Events and heartbeats received since the thread started: it grows while the stream is alive (S2).
    pub heartbeats: u64,
    /// Replication heartbeat period asked of the source.
    pub heartbeat_every: Option<Duration>,
    /// Whether it replicates by GTID (auto position, or `Using_Gtid` ≠ No).
    pub gtid: bool,
    /// Configured delay of the applier.
    pub delay: Duration,
    /// Filters that drop part of the stream.
    #[serde(default)]
    pub filters: Vec<Setting>,
}

impl Replication {
    /// Its receiver has not reached that source yet, or lost it.
    pub fn is_reaching_for(&self, source: &InstanceId) -> bool {
        self.source == *source && self.receiver == ThreadState::Connecting
    }

    /// Neither thread runs, with or without an error.
    pub fn is_stopped(&self) -> bool {
        self.receiver == ThreadState::Stopped && self.applier == ThreadState::Stopped
    }

    /// Both threads run.
    pub fn is_running(&self) -> bool {
        self.receiver == ThreadState::Running && self.applier == ThreadState::Running
    }
}

/// Both sides of semi-sync, as they are in force (not as configured).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SemiSync {
    /// The plugin is loaded, or built in.
    pub available: bool,
    pub source_enabled: bool,
    /// `Rpl_semi_sync_*_status`: off also after a fallback.
    pub source_status: bool,
    /// After-sync (lossless), not after-commit.
    pub after_sync: bool,
    /// How long a commit waits before it falls back.
    pub timeout: Duration,
    /// A commit waits also while no acker is connected (`…_wait_no_replica`). `None`: an agent of an earlier version looked.
    #[serde(default)]
    pub waits_without_ackers: Option<bool>,
    /// a in force: `wait_for_replica_count`, 1 on MariaDB.
    pub acks: u32,
    /// Connected ackers.
    pub clients: u32,
    /// Sessions waiting for an acknowledgement.
    pub waiting: u32,
    /// Commits that were not acknowledged since start (`…_no_tx`): where this grows while the source is armed, clients were told of a commit
    /// that nobody acknowledged. MariaDB answers a commit that waits, and whose session somebody ends with `KILL QUERY`, with OK.
    pub unacknowledged: u64,
    pub replica_enabled: bool,
    pub replica_status: bool,
}

impl SemiSync {
    /// The wait of an armed source: the longest that both families know, 49.7 days. MariaDB counts it in nanoseconds.
    pub const LONGEST_WAIT: Duration = Duration::from_millis(u32::MAX as u64);

    /// Why a commit that is answered may not have been acknowledged by `acks` ackers, by the settings in force; `None`: armed.
    pub fn not_armed_for(&self, acks: u32) -> Option<String> {
        if !self.source_enabled {
            return Some("semi-sync was off".to_owned());
        }
        if !self.after_sync {
            return Some("it committed before it waited (after-commit)".to_owned());
        }
        if self.timeout < Self::LONGEST_WAIT {
            return Some(format!("its commits waited for no longer than {}", human(self.timeout)));
        }
        if self.waits_without_ackers == Some(false) {
            return Some("its commits did not wait while no acker was connected".to_owned());
        }
        (self.acks < acks).then(|| format!("it waited for {} acknowledgement(s), not {acks}", self.acks))
    }
}

/// The settings a decision turns on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    pub log_bin: bool,
    /// Replicated transactions are written to its own log.
    pub log_replica_updates: bool,
    /// GTIDs are on (`gtid_mode=ON`; MariaDB always).
    pub gtid: bool,
    pub event_scheduler: bool,
    /// `sync_binlog=1` and `innodb_flush_log_at_trx_commit=1`.
    pub durable_commits: bool,
    /// `replica_net_timeout`.
    pub net_timeout: Duration,
}

/// One poll's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    pub identity: Identity,
    /// On which connection it was answered; no two have the same number, whoever opened them. Two answers on one come from one run of the
    /// server. `None`: an agent of an earlier version looked.
    #[serde(default)]
    pub connection: Option<u64>,
    pub uptime: Duration,
    /// How many statements the server has executed since it started that may throw received transactions away, whoever gave them: those that
    /// point or reset replication, and on MariaDB those that start it. `None`: an agent of an earlier version looked.
    #[serde(default)]
    pub replication_statements: Option<u64>,
    pub read_only: bool,
    /// MySQL's `super_read_only`; `None` where the server has none.
    pub super_read_only: Option<bool>,
    /// Everything in its binary log history: executed here.
    pub executed: GtidSet,
    /// What its binary logs no longer hold.
    pub purged: GtidSet,
    pub coordinates: Option<BinlogCoordinates>,
    /// All channels; the default one first.
    pub replication: Vec<Replication>,
    pub semi_sync: SemiSync,
    pub settings: Settings,
    #[serde(default)]
    pub restrictions: Restrictions,
    /// Age of the newest write heartbeat it has applied, by the hosts' wall clocks: the true lag of a replica.
    pub heartbeat_age: Option<Duration>,
}

impl Report {
    /// The channel this tool manages: the default one.
    pub fn channel(&self) -> Option<&Replication> {
        self.replication.iter().find(|channel| channel.channel.is_empty())
    }

    /// It is set to acknowledge what it receives from `source`, whether it receives now or not.
    pub fn acknowledges_to(&self, source: &InstanceId) -> bool {
        self.semi_sync.replica_enabled && self.channel().is_some_and(|channel| channel.source == *source)
    }

    /// It receives from `source`, by its own word.
    pub fn hears(&self, source: &InstanceId) -> bool {
        self.channel()
            .is_some_and(|channel| channel.source == *source && channel.receiver == ThreadState::Running)
    }

    /// Received ∪ executed: every transaction this server can give.
    pub fn known(&self) -> GtidSet {
        let received = self.replication.iter().map(|channel| &channel.received);
        let more = received.filter(|received| !self.executed.contains(received));
        more.fold(self.executed.clone(), |all, received| all.union(received))
    }

    /// What it executed and logged. On MariaDB a position may name transactions that no log of it ever held: those of a dump, or of
    /// another cluster.
    pub fn logged(&self) -> GtidSet {
        match self.identity.flavor {
            Flavor::MariaDb => self.executed.minus(&self.purged),
            Flavor::MySql => self.executed.clone(),
        }
    }

    /// The same without anything of those replication domains.
    pub fn leave_out(&mut self, domains: &BTreeSet<u32>) {
        self.executed = self.executed.without_domains(domains);
        self.purged = self.purged.without_domains(domains);
        for channel in &mut self.replication {
            channel.received = channel.received.without_domains(domains);
        }
    }

    /// Nothing received is left to apply.
    pub fn is_level(&self) -> bool {
        self.replication.iter().all(|channel| self.executed.contains(&channel.received))
    }

    /// Every filter that drops part of what the default channel brings, or would bring; each once.
    pub fn filters(&self) -> Vec<Setting> {
        let of_channel = self.channel().map(|channel| channel.filters.as_slice()).unwrap_or_default();
        let mut filters = of_channel.to_vec();
        filters.extend_from_slice(&self.restrictions.filters);
        filters.sort();
        filters.dedup();
        filters
    }

    /// It takes writes from ordinary users.
    pub fn is_writable(&self) -> bool {
        !self.read_only
    }
}
