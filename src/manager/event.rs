//! What reaches the task that owns a cluster.

use std::time::Duration;

use tokio::sync::oneshot;

use crate::decide::plan::Plan;
use crate::decide::switchover::Surveys;
use crate::execute::Outcome;
use crate::model::ballot::Generation;
use crate::model::cluster::Mode;
use crate::model::extra::Dossier;
use crate::model::instance::InstanceId;
use crate::model::intent::{FailoverAsk, How, SwitchoverAsk};
use crate::model::observation::{AgentStatus, Observation, Probe};

/// One thing that happened.
#[derive(Debug)]
pub enum Event {
    Look(Box<Observation>),
    Agent(InstanceId, Box<AgentStatus>),
    AgentLost(InstanceId),
    Probe(Probe),
    /// A voter's host said how long ago it last granted the lease.
    Granted {
        host: String,
        generation: Generation,
        ago: Option<Duration>,
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
    /// Whether a majority of voters obeys this manager.
    Led(Result<(), String>),
}

/// What is to follow once a switchover's surveys are there.
#[derive(Debug)]
pub enum Then {
    Propose(oneshot::Sender<Proposal>),
    Begin(oneshot::Sender<Started>),
    /// Begin for a service manager, which hears of it from its agent.
    HandOver,
}

/// What an operator asks of a cluster. Every ask is answered.
#[derive(Debug)]
pub enum Ask {
    /// What a failover would do now. Changes nothing.
    DryRun {
        ask: FailoverAsk,
        answer: oneshot::Sender<Proposal>,
    },
    Failover {
        ask: FailoverAsk,
        answer: oneshot::Sender<Started>,
    },
    /// A planned change of primary, or what it would do.
    Switchover {
        ask: SwitchoverAsk,
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
    /// Forget past automatic failovers: the budget begins anew.
    Acknowledge {
        answer: oneshot::Sender<Result<(), String>>,
    },
    /// What bringing a member back would do, with what is in its extra transactions. Changes nothing.
    ProposeRejoin {
        instance: InstanceId,
        how: How,
        /// How often it is looked again, where nothing is known yet.
        looks: u32,
        answer: oneshot::Sender<Proposal>,
    },
    /// Bring a returned or parked member back.
    Rejoin {
        instance: InstanceId,
        how: How,
        /// How often it is looked again, where nothing is known yet.
        looks: u32,
        answer: oneshot::Sender<Started>,
    },
    /// Take a parked member back into automatic hands.
    Unpark {
        instance: InstanceId,
        answer: oneshot::Sender<Result<(), String>>,
    },
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
