//! The operator's thresholds and stances, already checked against each other by `config`.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::events::EventsPolicy;
use super::extra::Remedy;

/// What an acknowledgement to a client promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// Semi-sync, after-sync, no fallback: acknowledged means on another host.
    Lossless,
    /// Acknowledged means on the primary; the lease alone keeps two writers apart.
    Async,
}

/// What happens when fewer ackers than needed remain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WithoutAckers {
    /// Commits wait.
    Block,
    /// A recorded, shown, alarmed asynchronous span.
    Degrade,
}

fn refused_port_grace() -> Duration {
    Duration::from_secs(30)
}

fn flashback() -> Remedy {
    Remedy::Flashback
}

/// All thresholds of one cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// How long nobody may have heard of the primary before it is called silent or hung. 3 s.
    pub silence: Duration,
    /// T: how long a majority's grant lasts. 3 s.
    pub lease: Duration,
    /// How often the holder renews. 500 ms.
    pub renew_every: Duration,
    /// f: worst time between a lease's end and the last byte a client can get. 300 ms.
    pub fence_within: Duration,
    /// δ: largest relative error between two hosts' clocks, in thousandths. 10 (1 %).
    pub clock_error_permille: u32,
    pub durability: Durability,
    pub without_ackers: WithoutAckers,
    /// a: acknowledgements a commit waits for. MariaDB has no such setting and is always 1.
    pub acks: u32,
    /// Longest wait for a dead server's log to be read under `lossless`, where nothing acknowledged can be in it alone. 50 ms.
    pub salvage_lossless: Duration,
    /// The same under `async`, where it saves rows. 10 s.
    pub salvage_async: Duration,
    /// How long the primary's port may let nobody in while its process runs, before it is fenced and another leads. 30 s.
    #[serde(default = "refused_port_grace")]
    pub refused_port_grace: Duration,
    /// Longest wait for received transactions to be applied before promotion; past it: refuse and tell. 10 min.
    pub catch_up: Duration,
    /// Deadline of a single statement that should be instant. 5 s.
    pub statement: Duration,
    /// Between two polls of one server. 1 s.
    pub poll_every: Duration,
    /// Between two pings of the primary. 250 ms.
    pub ping_every: Duration,
    /// Between two write heartbeats of the primary. 1 s.
    pub heartbeat_every: Duration,
    /// How many failovers may run by themselves within `budget_window`. 2.
    pub budget: u32,
    /// 30 min.
    pub budget_window: Duration,
    /// Whether a dead server is started again, as a replica, by its agent.
    pub restart: bool,
    /// Without agents, asynchronous: a refused port may count as dead when every other condition of design section 4 holds.
    pub assume_dead_when_refused: bool,
    /// What is done with a returned server's transactions that the primary lacks. Flashback where lossless, park where async.
    #[serde(default = "flashback")]
    pub extra_transactions: Remedy,
    /// Whether a server with non-transactional tables (MyISAM) is rebuilt when it returns after its server may have crashed. It is not.
    #[serde(default)]
    pub rebuild_nontransactional: bool,
    /// Whether scheduled events are made to run on the primary and nowhere else. They are.
    #[serde(default)]
    pub events: EventsPolicy,
    /// Whether opening also waits until the old primary cannot answer reads.
    pub fenced_reads: bool,
    /// Whether a server newer than a replica that must follow it may be promoted.
    pub allow_newer_primary: bool,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            silence: Duration::from_secs(3),
            lease: Duration::from_secs(3),
            renew_every: Duration::from_millis(500),
            fence_within: Duration::from_millis(200),
            clock_error_permille: 10,
            durability: Durability::Lossless,
            without_ackers: WithoutAckers::Block,
            acks: 1,
            salvage_lossless: Duration::from_millis(50),
            salvage_async: Duration::from_secs(10),
            refused_port_grace: refused_port_grace(),
            catch_up: Duration::from_secs(600),
            statement: Duration::from_secs(5),
            poll_every: Duration::from_secs(1),
            ping_every: Duration::from_millis(250),
            heartbeat_every: Duration::from_secs(1),
            budget: 2,
            budget_window: Duration::from_secs(1800),
            restart: true,
            assume_dead_when_refused: false,
            extra_transactions: Remedy::Flashback,
            rebuild_nontransactional: false,
            events: EventsPolicy::Follow,
            fenced_reads: false,
            allow_newer_primary: false,
        }
    }
}
