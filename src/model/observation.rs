//! What was seen: who looked, of whom, when, and what was seen or *how* it failed. No answer is "unknown", not "no".

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::ballot::{Ballot, Generation};
use super::disk::Disk;
use super::extra::Saved;
use super::instance::InstanceId;
use super::job::Job;
use super::log_fault::LogFault;
use super::reach::Reach;
use super::report::Report;
use super::time::{Moment, millis};

/// Who looked. Vantages on one host count once.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Vantage {
    /// This manager's own connection.
    Manager,
    /// The agent on the named host.
    Agent(String),
}

impl fmt::Display for Vantage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Manager => f.write_str("manager"),
            Self::Agent(host) => write!(f, "agent on {host}"),
        }
    }
}

/// How looking failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unseen {
    /// The port refused: host up, nobody listens (or a filter resets).
    Refused,
    /// An open connection was reset or closed.
    Lost,
    /// No route, or no answer to the connection attempt.
    NoRoute,
    /// Connected, and no greeting came in time (S1: a stopped server).
    SilentBeforeGreeting,
    /// Logged in, and a question was not answered in time.
    HungAfterLogin,
    /// Alive: the account was refused (1045, 1044, 1130 …).
    AccessDenied(String),
    /// Alive: 1040, 1203, 1226.
    TooManyConnections,
    /// Alive: another server answered than the one meant.
    WrongServer(String),
    /// Alive: any other error the server itself sent.
    Server { code: u16, text: String },
    /// The name did not resolve.
    Name(String),
    /// This looker could not look at all (its own failure).
    Looker(String),
}

impl Unseen {
    /// The server itself spoke: whatever it said, it is not dead.
    pub fn proves_alive(&self) -> bool {
        match self {
            Self::AccessDenied(_) | Self::TooManyConnections | Self::Server { .. } => true,
            Self::Refused
            | Self::Lost
            | Self::NoRoute
            | Self::SilentBeforeGreeting
            | Self::HungAfterLogin
            | Self::WrongServer(_)
            | Self::Name(_)
            | Self::Looker(_) => false,
        }
    }

    /// Time ran out on it: it may hang, and what was asked may still happen.
    pub fn is_silence(&self) -> bool {
        match self {
            Self::NoRoute | Self::SilentBeforeGreeting | Self::HungAfterLogin => true,
            Self::Refused
            | Self::Lost
            | Self::AccessDenied(_)
            | Self::TooManyConnections
            | Self::WrongServer(_)
            | Self::Server { .. }
            | Self::Name(_)
            | Self::Looker(_) => false,
        }
    }

    /// No connection came about, so no client gets in from there either.
    pub fn lets_nobody_in(&self) -> bool {
        match self {
            Self::Refused | Self::NoRoute => true,
            Self::Lost
            | Self::SilentBeforeGreeting
            | Self::HungAfterLogin
            | Self::AccessDenied(_)
            | Self::TooManyConnections
            | Self::WrongServer(_)
            | Self::Server { .. }
            | Self::Name(_)
            | Self::Looker(_) => false,
        }
    }

    /// The connection attempt was answered by nothing at all, so nothing is known of the server.
    pub fn says_nothing(&self) -> bool {
        match self {
            Self::Name(_) | Self::Looker(_) | Self::WrongServer(_) => true,
            Self::Refused
            | Self::Lost
            | Self::NoRoute
            | Self::SilentBeforeGreeting
            | Self::HungAfterLogin
            | Self::AccessDenied(_)
            | Self::TooManyConnections
            | Self::Server { .. } => false,
        }
    }
}

impl fmt::Display for Unseen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused => f.write_str("refused"),
            Self::Lost => f.write_str("connection lost"),
            Self::NoRoute => f.write_str("no answer"),
            Self::SilentBeforeGreeting => f.write_str("connected, no greeting"),
            Self::HungAfterLogin => f.write_str("hung after login"),
            Self::AccessDenied(text) => write!(f, "access denied ({text})"),
            Self::TooManyConnections => f.write_str("too many connections"),
            Self::WrongServer(text) => write!(f, "another server answered ({text})"),
            Self::Server { code, text } => write!(f, "error {code} ({text})"),
            Self::Name(text) => write!(f, "name not resolved ({text})"),
            Self::Looker(text) => write!(f, "could not look ({text})"),
        }
    }
}

/// One look at one server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observation {
    pub of: InstanceId,
    pub from: Vantage,
    /// On the looking manager's clock.
    pub at: Moment,
    pub seen: Result<Report, Unseen>,
}

/// The server's process, as the agent beside it sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Process {
    Running {
        pid: u32,
        up: Duration,
    },
    Gone {
        since: Duration,
    },
    /// Not found, and never seen: no proof of anything.
    Unknown {
        why: String,
    },
}

/// Whether clients reach the server, read back from the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    /// No lease is needed: a read-only replica.
    Admitted,
    /// Open until the kernel closes it, unless renewed.
    Held {
        #[serde(rename = "remaining_ms", with = "millis")]
        remaining: Duration,
    },
    /// Rung 1: no client byte passes.
    Closed,
}

/// The service manager is about to stop the server, and says so before it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Leaving {
    /// Another is to lead by then; after that it is stopped all the same.
    Handoff { remaining: Duration },
    /// It is closed and comes back: for so long nobody is to take over.
    Restart { remaining: Duration },
    /// Nobody took over in time: it is closed, and is being stopped.
    Now,
}

/// The VIP on a host that does not hold the lease, where something else than its agent has added it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StrayVip {
    /// Since it was last found there.
    pub ago: Duration,
    /// Why it is there still; `None` where it was removed.
    pub left: Option<String>,
}

/// What the agent on a member's host says. Ages, not moments: it crosses hosts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentStatus {
    pub host: String,
    pub boot_id: String,
    /// Highest ballot and generation it durably accepted as a voter.
    pub ballot: Ballot,
    pub generation: Generation,
    /// To whom that generation belongs, as it accepted it as a voter.
    #[serde(default)]
    pub accepted_for: Option<InstanceId>,
    /// The generation whose lease it holds or last held.
    pub held: Option<Generation>,
    /// The generation it was durably fenced for: until it is told to open, it asks for no lease. Being closed alone proves
    /// nothing of the next moment: an isolated holder is closed and opens again by itself.
    pub fenced: Option<Generation>,
    /// Grows with each fence and each opening; an order to open must name the one it saw.
    pub epoch: u64,
    pub process: Process,
    pub access: Access,
    /// It leads and is closed: for how long no majority of voters has answered its requests for the lease (no fewer than the
    /// lease's own length). `None` while it serves, asks for nothing, or is refused rather than unheard.
    pub unheard: Option<Duration>,
    pub vip: bool,
    /// The VIP was found there lately though it holds no lease.
    #[serde(default)]
    pub stray_vip: Option<StrayVip>,
    /// Its own poll through the socket, and how old it is.
    pub server: Result<Report, Unseen>,
    pub server_age: Duration,
    /// For how long the server has not answered its questions (handshake or query); zero when it answers.
    pub unanswered: Duration,
    /// For how long the write heartbeat in flight has not come back; `None` when none is in flight.
    pub heartbeat_stuck: Option<Duration>,
    /// Why the last tries to write the heartbeat failed: it tells neither lag nor a hang. `None` while it is written, or one is in flight.
    #[serde(default)]
    pub heartbeat_fault: Option<String>,
    /// For how long the local replica's stream has received nothing, neither event nor heartbeat. `None` while it does not replicate.
    pub stream_still: Option<Duration>,
    /// How long a commit takes: the middle of the last write heartbeats; `None` while it leads nothing, or has not written enough.
    #[serde(default)]
    pub commit_takes: Option<Duration>,
    /// How long ago this host, as a voter, last granted the present primary's lease.
    pub granted_ago: Option<Duration>,
    /// The service manager was told to stop the server, which is gone: nobody starts it again but the operator.
    pub stopping: bool,
    /// The service manager is about to stop the server; kept until another process of it is there.
    #[serde(default)]
    pub leaving: Option<Leaving>,
    /// Transactions of its server that the primary lacked, saved on that host.
    #[serde(default)]
    pub extra: Option<Saved>,
    /// What the host is busy with, or was and nobody has looked after yet.
    #[serde(default)]
    pub job: Option<Job>,
    /// The filesystems its server writes to, each once; empty where they cannot be looked at.
    #[serde(default)]
    pub disks: Vec<Disk>,
    /// Why the agent itself cannot write to its own data directory: it can keep neither a role nor a vote.
    #[serde(default)]
    pub own_disk_fault: Option<String>,
    /// The newest file of its server's binary log that cannot be read; `None` too where nobody looks.
    #[serde(default)]
    pub log_fault: Option<LogFault>,
    /// For how long a statement that stops its replication has not come back.
    #[serde(default)]
    pub stop_hangs: Option<Duration>,
    /// For how long its applier has waited for a table lock.
    #[serde(default)]
    pub applier_waits: Option<Duration>,
    /// A thread of its replication stands still, and no statement stopped it.
    #[serde(default)]
    pub threads_killed: bool,
    /// Its replication stands because a manager's order left it so, and no order has started it since: nobody stopped it by hand, and
    /// that manager may be gone with its journal.
    #[serde(default)]
    pub stopped_by_order: bool,
    /// Its server was shut down in order, as its error log says or does not rule out, and has not run since. MySQL then answers commits that
    /// wait for an acknowledgement with OK (tried on 9.7); MariaDB ends their connections.
    #[serde(default)]
    pub answered_at_shutdown: bool,
    /// Why starting its server failed last, while it does not run.
    #[serde(default)]
    pub start_failed: Option<String>,
    /// The hosts whose votes it counts.
    #[serde(default)]
    pub voters: Vec<String>,
    /// Whether a receiver on that host could log in at each other member.
    #[serde(default)]
    pub reach: Vec<Reach>,
}

impl AgentStatus {
    /// Why its server can write nothing, where the disk is the reason.
    pub fn stuck_disk(&self) -> Option<&Disk> {
        self.disks.iter().find(|disk| disk.is_stuck())
    }
}

impl AgentStatus {
    /// Its server was or is being stopped by somebody, who starts it again: nobody here does.
    pub fn is_stopped_by_others(&self) -> bool {
        self.stopping || self.leaving.is_some()
    }
}

/// One agent's word, and when it came.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentSeen {
    pub at: Moment,
    pub status: AgentStatus,
    /// Since when it has been heard without a gap that counts as silence.
    pub since: Moment,
}

/// A fresh probe of a server's port from another host: connect, and wait for the greeting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    pub from: Vantage,
    pub of: InstanceId,
    pub at: Moment,
    /// `Ok` when the greeting came.
    pub outcome: Result<(), Unseen>,
}
