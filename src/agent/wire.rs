//! What crosses the network between managers, agents and voters: requests and replies, shared by `server` and `client`.
//! Ages and spans cross it, never moments. Every request but a look is refused when it comes under an older ballot.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::decide::plan::Step;
use crate::execute::world::Token;
use crate::model::ballot::{Ballot, Generation};
use crate::model::cluster::{ClusterName, Member, Mode, VipAddress, Voter};
use crate::model::gtid::GtidSet;
use crate::model::instance::InstanceId;
use crate::model::observation::Unseen;
use crate::model::overtaken::Recorded;
use crate::model::policy::Policy;

pub use crate::decide::lease::voter::{Claim, Claimed, Led, Outstanding, Renew, Renewed};

/// Paths of the API.
pub mod path {
    pub const STATUS: &str = "/v1/status";
    pub const EVENTS: &str = "/v1/events";
    pub const MEMBER: &str = "/v1/member";
    pub const LEAD: &str = "/v1/lead";
    pub const RECORDED: &str = "/v1/recorded";
    pub const RENEW: &str = "/v1/renew";
    pub const CLAIM: &str = "/v1/claim";
    pub const VOTERS: &str = "/v1/voters";
    pub const STEP: &str = "/v1/step";
    pub const PROBE: &str = "/v1/probe";
    pub const KNOWN: &str = "/v1/known";
    pub const SALVAGE: &str = "/v1/salvage";
    pub const BRING: &str = "/v1/bring";
    pub const EXTRA: &str = "/v1/extra";
    pub const DONATE: &str = "/v1/donate";
    pub const CALL_OFF: &str = "/v1/job/call-off";
    pub const OPEN: &str = "/v1/open";
    pub const RESTART_GRACE: &str = "/v1/restart-grace";
    pub const LEAVE: &str = "/v1/leave";
}

/// The longest silence on the event stream.
pub const EVENTS_EVERY: Duration = Duration::from_millis(500);

/// The longest request or event, in bytes: salvaged transactions are the largest.
pub const LONGEST_BODY: usize = 64 * 1024 * 1024;

/// What a member's agent must know to hold a lease without its manager. Pushed by the manager, kept durably.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// Under whose lead; an older one is refused.
    pub ballot: Ballot,
    pub cluster: ClusterName,
    /// The server on the agent's host.
    pub instance: InstanceId,
    /// All members, with the agents a restarted primary compares its set with.
    pub members: Vec<Member>,
    /// The fixed list of votes; a majority is of all of them.
    pub voters: Vec<Voter>,
    pub vip: Option<VipAddress>,
    /// In observe an agent keeps the lease and removes nothing that others have added.
    #[serde(default)]
    pub mode: Mode,
    pub policy: Policy,
    /// Of the primary the store knows; 0 before adoption.
    pub generation: Generation,
    pub primary: Option<InstanceId>,
    /// Acknowledgements a restarted primary arms for before it leads again by itself.
    pub acks: u32,
}

impl Membership {
    /// Whose votes a lease of this host's server needs a majority of.
    pub fn voting_hosts(&self) -> Vec<String> {
        self.voters.iter().map(|voter| voter.host.clone()).collect()
    }
}

/// A manager takes the lead.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lead {
    pub cluster: ClusterName,
    pub ballot: Ballot,
}

/// A record was written that a later manager must not miss.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoteRecord {
    pub cluster: ClusterName,
    pub recorded: Recorded,
}

/// Who votes on a cluster's lease: told to a voter that says it knows nothing, so that it can ask the others.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Electorate {
    /// Under whose lead these are the voters: of two lists the older one is not learned from.
    #[serde(default)]
    pub ballot: Ballot,
    pub cluster: ClusterName,
    pub voters: Vec<Voter>,
    pub policy: Policy,
}

/// A step for this agent's server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepRequest {
    pub token: Token,
    pub step: Step,
    /// The epoch the sender saw; needed by [`Step::Open`].
    #[serde(default)]
    pub epoch: Option<u64>,
    /// How long the sender waits.
    pub within: Duration,
}

/// A fresh look at a server's port from this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeRequest {
    pub instance: InstanceId,
    /// The cluster it belongs to.
    pub cluster: ClusterName,
    pub within: Duration,
}

/// How the look went, and what else this host knows of that cluster's primary.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeReply {
    /// `Ok` when the greeting came.
    pub outcome: Result<(), Unseen>,
    /// The highest generation this host, as a voter, knows.
    pub generation: Generation,
    /// How long ago it last granted the lease. `None` if it never did.
    pub granted_ago: Option<Duration>,
}

/// Everything the server here can give, received ∪ executed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    pub instance: InstanceId,
    pub known: GtidSet,
}

/// Read what only the dead server's log here holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SalvageRequest {
    pub token: Token,
    pub beyond: GtidSet,
    pub within: Duration,
}

/// What the log held.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SalvageReply {
    /// Statements that bring the transactions to another server; empty when there are none.
    pub statements: Vec<String>,
    pub transactions: u64,
    /// The log was read to its end.
    pub complete: bool,
    /// What could not be done, in words.
    pub trouble: String,
}

/// Bring salvaged transactions to the server here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BringRequest {
    pub token: Token,
    pub statements: Vec<String>,
    pub within: Duration,
}

/// Give another server's agent a copy of the data here, as the answer's body (`agent::carry`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DonateRequest {
    pub token: Token,
    pub to: InstanceId,
}

/// End what this host is busy with, without a trace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallOffRequest {
    pub token: Token,
    pub why: String,
}

/// The operator's `mhactl open`, at the agent, without a manager.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenRequest {
    pub generation: Generation,
    pub within: Duration,
}

/// One long grant before a planned restart of the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct GraceReply {
    /// For how long clients pass without an agent; zero where no lease is needed.
    pub granted: Duration,
}

/// What the service manager is about to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stops {
    /// The server: for good, or to start it again.
    Server,
    /// The whole host.
    Host,
    /// The agent alone; the server goes on.
    Agent,
}

/// The service manager is about to stop something of this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaveRequest {
    pub stops: Stops,
}

/// It may be stopped now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaveReply {
    /// What was done before, in one sentence.
    pub done: String,
}

/// The header that names the host a request is meant for. Requests without it are of this host's own programs.
pub const HOST_HEADER: &str = "x-mha-host";

/// Why a request was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "refused", rename_all = "snake_case")]
pub enum RequestRefused {
    /// Another manager leads here.
    OlderBallot { accepted: Ballot },
    /// Another host is meant: the name or the address of that one leads here.
    WrongHost { host: String },
    /// Nothing of the kind can be done here, with the reason.
    Cannot { why: String },
}
