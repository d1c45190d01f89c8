//! One database host of a play: its server, its agent, and what is wrong with them.

use std::time::Duration;

use mha::model::ballot::Generation;
use mha::model::disk::Disk;
use mha::model::extra::Saved;
use mha::model::instance::{Flavor, InstanceId, Version};
use mha::model::inventory::Inventory;
use mha::model::job::Job;
use mha::model::log_fault::LogFault;
use mha::model::observation::{Leaving, Unseen};
use mha::model::report::{SemiSync, ThreadError};
use mha::model::restrictions::{Restrictions, Setting};
use mha::model::time::Moment;

/// What is wrong with a server or its host.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Plight {
    Well,
    /// Its process is gone since then.
    Gone(Moment),
    /// SIGSTOP since then: it connects and never speaks.
    Stopped(Moment),
    /// Server and agent stand still; connections stay open.
    Frozen,
    /// No cable.
    Down,
    /// It runs, and this is what a connection gets.
    Answers(Unseen),
}

/// One database host.
#[derive(Debug, Clone)]
pub(crate) struct Host {
    pub(crate) instance: InstanceId,
    pub(crate) id: u32,
    pub(crate) plight: Plight,
    pub(crate) agent_up: bool,
    pub(crate) closed: bool,
    pub(crate) read_only: bool,
    /// Histories of former primaries, and its own extra transactions.
    pub(crate) base: Vec<String>,
    /// What it received and applied of the present history.
    pub(crate) received: u64,
    pub(crate) applied: u64,
    pub(crate) purged: u64,
    /// Transactions of another domain that its position names and no log holds.
    pub(crate) position_only: Option<String>,
    pub(crate) source: Option<InstanceId>,
    pub(crate) receiver_stopped: bool,
    pub(crate) receiver_error: Option<ThreadError>,
    pub(crate) applier_stopped: bool,
    pub(crate) applier_error: Option<ThreadError>,
    pub(crate) delay: Duration,
    pub(crate) filters: Vec<Setting>,
    pub(crate) restrictions: Restrictions,
    pub(crate) inventory: Inventory,
    pub(crate) log_fault: Option<LogFault>,
    /// The number its newest binary log file ends in.
    pub(crate) log_file: u32,
    pub(crate) lag: Duration,
    /// A second channel's source and its transactions.
    pub(crate) foreign: Option<(InstanceId, u64)>,
    pub(crate) log_bin: bool,
    pub(crate) log_replica_updates: bool,
    pub(crate) version: Version,
    pub(crate) semi_sync: SemiSync,
    /// A fact says how many ackers are connected; otherwise those that are registered.
    pub(crate) clients_told: bool,
    pub(crate) acknowledges_unregistered: bool,
    /// A generation it accepted as a voter beyond the recorded one, and one its agent has led.
    pub(crate) accepted: Generation,
    pub(crate) accepted_for: Option<InstanceId>,
    pub(crate) fenced: Option<Generation>,
    pub(crate) led: Option<Generation>,
    pub(crate) has_vip: bool,
    pub(crate) heartbeat_stuck_since: Option<Moment>,
    /// What its agent has saved of its extra transactions.
    pub(crate) saved: Option<Saved>,
    /// What its agent is busy with.
    pub(crate) job: Option<Job>,
    /// What its service manager has said, and when.
    pub(crate) leaving: Option<(Leaving, Moment)>,
    pub(crate) disk: Option<Disk>,
    /// The VIP was found there without the lease, and why it is there still.
    pub(crate) stray_vip: Option<Option<String>>,
    pub(crate) heartbeat_fault: Option<String>,
    pub(crate) own_disk_fault: Option<String>,
    /// For how long its applier has waited for a lock, and a statement that stops it for that.
    pub(crate) stop_hangs: Option<Duration>,
    /// Its threads stand still, and no statement stopped them.
    pub(crate) threads_killed: bool,
    /// A manager's order stopped them, and none has started them since.
    pub(crate) stopped_by_order: bool,
    pub(crate) answered_at_shutdown: bool,
    /// Why its agent could not start its server.
    pub(crate) start_failed: Option<String>,
    /// Where a receiver on this host is refused, and how.
    pub(crate) refused_at: Vec<(InstanceId, Unseen)>,
    pub(crate) commit_takes: Option<Duration>,
    /// Its name and port lead the manager to that one's server.
    pub(crate) leads_to: Option<InstanceId>,
    /// So does its agent's address.
    pub(crate) agent_leads_to: Option<String>,
    pub(crate) started_at: Moment,
    pub(crate) replication_statements: u64,
    pub(crate) stream_at: Moment,
    pub(crate) beats: u64,
    pub(crate) granted_at: Moment,
}

impl Host {
    pub(crate) fn new(
        instance: InstanceId,
        id: u32,
        source: Option<InstanceId>,
        flavor: Flavor,
        now: Moment,
    ) -> Self {
        Self {
            instance,
            id,
            plight: Plight::Well,
            agent_up: true,
            closed: false,
            read_only: source.is_some(),
            base: Vec::new(),
            received: 100,
            applied: 100,
            purged: 0,
            position_only: None,
            source,
            receiver_stopped: false,
            receiver_error: None,
            applier_stopped: false,
            applier_error: None,
            delay: Duration::ZERO,
            filters: Vec::new(),
            restrictions: Restrictions::default(),
            inventory: Inventory::default(),
            log_file: 7,
            log_fault: None,
            lag: Duration::from_millis(200),
            foreign: None,
            log_bin: true,
            log_replica_updates: true,
            version: match flavor {
                Flavor::MariaDb => Version::new(10, 11, 14),
                Flavor::MySql => Version::new(8, 4, 5),
            },
            semi_sync: SemiSync { available: true, ..SemiSync::default() },
            clients_told: false,
            acknowledges_unregistered: false,
            accepted: Generation(0),
            accepted_for: None,
            fenced: None,
            led: None,
            has_vip: true,
            heartbeat_stuck_since: None,
            saved: None,
            job: None,
            leaving: None,
            disk: None,
            stray_vip: None,
            heartbeat_fault: None,
            own_disk_fault: None,
            stop_hangs: None,
            threads_killed: false,
            stopped_by_order: false,
            answered_at_shutdown: false,
            start_failed: None,
            refused_at: Vec::new(),
            commit_takes: None,
            leads_to: None,
            agent_leads_to: None,
            started_at: now.back(Duration::from_secs(900)),
            replication_statements: 2,
            stream_at: now,
            beats: 0,
            granted_at: now,
        }
    }

    /// Its server answers those that reach it.
    pub(crate) fn answers(&self) -> bool {
        match &self.plight {
            Plight::Well | Plight::Answers(_) => true,
            Plight::Gone(_) | Plight::Stopped(_) | Plight::Frozen | Plight::Down => false,
        }
    }

    /// Its kernel and agent run and have a cable.
    pub(crate) fn is_host_up(&self) -> bool {
        match &self.plight {
            Plight::Well | Plight::Answers(_) | Plight::Gone(_) | Plight::Stopped(_) => true,
            Plight::Frozen | Plight::Down => false,
        }
    }

    /// What somebody with a good cable gets.
    pub(crate) fn outcome(&self) -> Result<(), Unseen> {
        match &self.plight {
            Plight::Well if self.closed => Err(Unseen::Refused),
            Plight::Well => Ok(()),
            Plight::Gone(_) => Err(Unseen::Refused),
            Plight::Stopped(_) => Err(Unseen::SilentBeforeGreeting),
            Plight::Frozen | Plight::Down => Err(Unseen::NoRoute),
            Plight::Answers(unseen) => Err(unseen.clone()),
        }
    }
}
