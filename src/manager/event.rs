//! What reaches the task that owns a cluster.

use std::time::Duration;

use tokio::sync::oneshot;

use crate::decide::plan::Plan;
use crate::decide::switchover::Surveys;
use crate::decide::topology::newcomer::Newcomer;
use crate::execute::Outcome;
use crate::model::ballot::Generation;
use crate::model::cluster::Mode;
use crate::model::events::ServerEvents;
use crate::model::extra::Dossier;
use crate::model::instance::InstanceId;
use crate::model::intent::{FailoverAsk, How, SwitchoverAsk};
use crate::model::inventory::Inventory;
use crate::model::observation::{AgentStatus, Observation, Probe};
use crate::model::overtaken::LedBefore;
use crate::model::time::Moment;
use crate::model::wishes::ReplicaAsk;

/// One thing that happened.
#[derive(Debug)]
pub enum Event {
    Look(Box<Observation>),
    Agent(InstanceId, Box<AgentStatus>),
    AgentLost {
        instance: InstanceId,
        /// That another host's agent answers there.
        elsewhere: Option<String>,
    },
    /// What a server said of its scheduled events, and when it was asked.
    Events(InstanceId, Moment, Box<ServerEvents>),
    /// What was read of a server now and then, and when it was asked.
    Inventory(InstanceId, Moment, Box<Inventory>),
    Probe(Probe),
    /// A voter's host said how long ago it last granted the lease.
    Granted {
        host: String,
        generation: Generation,
        ago: Option<Duration>,
    },
    /// A voter's host that is no member's is there.
    VoterHeard {
        host: String,
        at: Moment,
        /// The highest it knows.
        generation: Generation,
    },
    Ask(Ask),
    /// The configuration's word on how far to go by itself.
    Mode(Mode),
    /// The running recovery ended.
    Ended {
        about: InstanceId,
        outcome: Result<Outcome, String>,
    },
    /// What a switchover that was asked for must know was asked of the servers.
    Surveyed {
        ask: SwitchoverAsk,
        surveys: Surveys,
        then: Then,
    },
    /// A server that is to become a member was looked at.
    Met {
        ask: ReplicaAsk,
        source: Option<InstanceId>,
        newcomer: Box<Newcomer>,
        then: Then,
    },
    /// Whether a majority of voters obeys this manager.
    Led(Result<LedBefore, String>),
}

impl Event {
    /// An order whose asker waits no more.
    pub(super) fn is_given_up(&self) -> bool {
        match self {
            Self::Ask(ask) => ask.is_given_up(),
            Self::Surveyed { then, .. } | Self::Met { then, .. } => then.is_given_up(),
            Self::Look(_)
            | Self::Agent(..)
            | Self::AgentLost { .. }
            | Self::Events(..)
            | Self::Inventory(..)
            | Self::Probe(_)
            | Self::Granted { .. }
            | Self::VoterHeard { .. }
            | Self::Mode(_)
            | Self::Ended { .. }
            | Self::Led(_) => false,
        }
    }
}

/// Whether what was asked for is only shown, which changes nothing, or begun.
#[derive(Debug)]
pub enum Then {
    Propose(oneshot::Sender<Proposal>),
    Begin(oneshot::Sender<Started>),
}

impl Then {
    /// Nobody waits for the answer any more.
    pub fn is_given_up(&self) -> bool {
        match self {
            Self::Propose(answer) => answer.is_closed(),
            Self::Begin(answer) => answer.is_closed(),
        }
    }
}

/// What an operator asks of a cluster. Every ask is answered.
#[derive(Debug)]
pub enum Ask {
    Failover {
        ask: FailoverAsk,
        then: Then,
    },
    /// A planned change of primary.
    Switchover {
        ask: SwitchoverAsk,
        then: Then,
    },
    /// A change of one member: moved, stopped, started, added, removed.
    Replica {
        ask: ReplicaAsk,
        then: Then,
    },
    /// Call the running operation off, as long as it can be taken back. Answers what was called off.
    Abort {
        answer: oneshot::Sender<Result<String, String>>,
    },
    AdoptPlan {
        primary: Option<InstanceId>,
        answer: oneshot::Sender<Result<Plan, Vec<String>>>,
    },
    Adopt {
        primary: Option<InstanceId>,
        answer: oneshot::Sender<Started>,
    },
    /// The votes of destroyed hosts count no more; those of hosts that are back do again. Answers who votes then.
    Votes {
        destroyed: Vec<String>,
        back: Vec<String>,
        answer: oneshot::Sender<Result<String, String>>,
    },
    /// Forget past automatic failovers: the budget begins anew.
    Acknowledge {
        answer: oneshot::Sender<Result<(), String>>,
    },
    /// Bring a returned or parked member back; what is proposed comes with what is in its extra transactions.
    Rejoin {
        instance: InstanceId,
        how: How,
        /// Whose copy it is rebuilt from.
        from: Option<InstanceId>,
        /// How often it is looked again, where nothing is known yet.
        looks: u32,
        then: Then,
    },
    /// Take a parked member back into automatic hands.
    Unpark {
        instance: InstanceId,
        answer: oneshot::Sender<Result<(), String>>,
    },
}

impl Ask {
    /// Whoever asked has been told that there is no answer, and may ask again: it must not be done twice, nor later.
    pub fn is_given_up(&self) -> bool {
        match self {
            Self::Failover { then, .. }
            | Self::Switchover { then, .. }
            | Self::Replica { then, .. }
            | Self::Rejoin { then, .. } => then.is_given_up(),
            Self::Abort { answer } | Self::Votes { answer, .. } => answer.is_closed(),
            Self::AdoptPlan { answer, .. } => answer.is_closed(),
            Self::Adopt { answer, .. } => answer.is_closed(),
            Self::Acknowledge { answer } | Self::Unpark { answer, .. } => answer.is_closed(),
        }
    }
}

/// What would be done, or why nothing.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Proposal {
    /// The decision in one sentence.
    pub sentence: String,
    /// Isolate, then promote "if nothing more arrives".
    pub plans: Vec<Plan>,
    pub blockers: Vec<String>,
    /// What is in the transactions that only a returned member has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dossier: Option<Dossier>,
}

/// The recovery that was begun, or why none was.
pub type Started = Result<String, Vec<String>>;
