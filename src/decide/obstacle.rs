//! What stands in the way of a planned change. Every one says what to do about it.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::guard::Blocker;
use crate::model::ballot::Generation;
use crate::model::cluster::{ClusterName, Stranger};
use crate::model::instance::{InstanceId, Version};
use crate::model::sessions::{Doing, Session};
use crate::model::time::human;
use crate::model::verdict::Verdict;

/// One reason not to begin.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Obstacle {
    NotAdopted {
        cluster: ClusterName,
    },
    /// `mode = "observe"`.
    Observing,
    /// The primary does not serve.
    NotHealthy {
        verdict: Verdict,
        evidence: Vec<String>,
    },
    /// Another manager, or an agent that took a block back, had somebody lead since the record was written. It is recorded in a moment.
    LedSince {
        primary: InstanceId,
        generation: Generation,
        recorded: Generation,
    },
    /// It leads already.
    IsPrimary(InstanceId),
    NotMember(Stranger),
    NotEligible {
        instance: InstanceId,
        reasons: Vec<String>,
    },
    /// A lease and a fence are needed at both ends.
    NoAgent(InstanceId),
    AgentStopping(InstanceId),
    /// It could not keep that the old primary was closed, nor that it leads again where that is taken back.
    AgentDisk {
        instance: InstanceId,
        why: String,
    },
    Behind {
        instance: InstanceId,
        by: Duration,
        allowed: Duration,
        /// A handoff's time until its deadline, which `allowed` follows from.
        #[serde(default)]
        remaining: Option<Duration>,
    },
    /// The old primary could not follow a server so much newer.
    OlderPrimary {
        primary: InstanceId,
        version: Version,
        target: InstanceId,
    },
    /// The write heartbeat does not come back: somebody holds a lock, or nobody acknowledges.
    WritesHang {
        instance: InstanceId,
        since: Duration,
    },
    Busy {
        instance: InstanceId,
        session: Session,
    },
    /// A thread of the target does not run: it would not keep up.
    StandsStill {
        instance: InstanceId,
        what: String,
    },
    NoReplicationAccount(InstanceId),
    BinlogFilter {
        instance: InstanceId,
        filter: String,
    },
    /// Its sessions could not be looked at.
    Unseen {
        instance: InstanceId,
        why: String,
    },
    /// It never answered this manager.
    NotSeen(InstanceId),
    /// A reason a failover has too.
    Other(Blocker),
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAdopted { cluster } => {
                write!(f, "no primary is recorded; run \"mhactl adopt {cluster}\" first")
            }
            Self::Observing => f.write_str("mode is \"observe\": set mode \"manual\" or \"auto\" first"),
            Self::NotHealthy { verdict, evidence } => write!(
                f,
                "a switchover needs a primary that serves, and this one is \"{verdict}\" ({}); see \"mhactl failover\"",
                evidence.join("; ")
            ),
            Self::LedSince { primary, generation, recorded } => write!(
                f,
                "{primary} leads generation {generation}, and {recorded} is recorded: that is mended first; try again in a moment"
            ),
            Self::IsPrimary(instance) => {
                write!(f, "{instance} is the primary already; name another with --to")
            }
            Self::NotMember(stranger) => write!(f, "{stranger}; name one of them with --to"),
            Self::NotEligible { instance, reasons } => {
                write!(
                    f,
                    "{instance} may not lead: {}; mend that, or name another with --to",
                    reasons.join("; ")
                )
            }
            Self::NoAgent(instance) => {
                write!(f, "no word from the agent on {}; start mha-agent there", instance.host)
            }
            Self::AgentStopping(instance) => {
                write!(f, "{} is being stopped; wait until it is back", instance.host)
            }
            Self::AgentDisk { instance, why } => write!(
                f,
                "the agent on {} cannot write to its own data directory ({why}), so it could not keep that its server gives the lead up; make \
                 room there, or mend that disk",
                instance.host
            ),
            Self::Behind { instance, by, allowed, remaining: Some(remaining) } => write!(
                f,
                "{instance} is {} behind, and {} are allowed with {} left until the deadline; wait, lighten its load, or give the \
                 handoff longer (--deadline, or handoff_within of its agent)",
                human(*by),
                human(*allowed),
                human(*remaining)
            ),
            Self::Behind { instance, by, allowed, remaining: None } => write!(
                f,
                "{instance} is {} behind, {} are allowed; wait, lighten its load, or raise --wait-lag",
                human(*by),
                human(*allowed)
            ),
            Self::StandsStill { instance, what } => write!(
                f,
                "{what}; start it with \"mhactl replica start {instance}\", or name another with --to"
            ),
            Self::OlderPrimary { primary, version, target } => write!(
                f,
                "{primary} ({version}) is older than {target} and could not follow it; upgrade {primary} first, or allow it with allow_newer_primary"
            ),
            Self::WritesHang { instance, since } => write!(
                f,
                "writes on {instance} hang for {}; look for locks and for ackers that are gone",
                human(*since)
            ),
            Self::Busy { instance, session } => {
                let id = session.id;
                let what = match &session.doing {
                    Doing::Transaction { .. } => {
                        format!("let it end, end it (KILL {id}), or add --kill-long-transactions")
                    }
                    Doing::ChangesSchema => "let it end".to_owned(),
                    Doing::WaitsForLock(_) => "find who holds the lock and let it go".to_owned(),
                    Doing::LocksTables(_) | Doing::LocksEverything => {
                        format!("let it unlock, or end it (KILL {id})")
                    }
                    Doing::WaitsForAck => "bring an acker back; it must not be ended".to_owned(),
                };
                write!(f, "on {instance} {session}; {what}")
            }
            Self::NoReplicationAccount(instance) => write!(
                f,
                "{instance} has no replication account, so nobody could follow it; create it on the primary"
            ),
            Self::BinlogFilter { instance, filter } => write!(
                f,
                "{instance} filters its binary log ({filter}), so its replicas would miss rows; remove the filter"
            ),
            Self::Unseen { instance, why } => {
                write!(
                    f,
                    "the sessions of {instance} cannot be seen ({why}); grant the admin account PROCESS"
                )
            }
            Self::NotSeen(instance) => write!(f, "{instance} has not answered yet; ask again in a moment"),
            Self::Other(blocker) => write!(f, "{blocker}"),
        }
    }
}
