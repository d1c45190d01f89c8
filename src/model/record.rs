//! What was learned and must not be forgotten: kept in the store, shown beside the configuration.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::ballot::{Ballot, Generation};
use super::instance::InstanceId;

/// The durable memory of one adopted cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterRecord {
    /// Of the present primary.
    pub generation: Generation,
    pub primary: InstanceId,
    /// The ballot this manager leads with.
    pub ballot: Ballot,
    /// Registered ackers of this generation: written before one is armed, and an entry removed only after it was disarmed.
    pub ackers: Vec<InstanceId>,
    /// a: the smallest number of acknowledgements in force in this generation. 0 while nothing is armed.
    pub acks: u32,
    /// Since when the promise of `lossless` does not hold, and why.
    pub degraded: Option<Degraded>,
    /// Members that must not be touched until a person decides, with the reason.
    pub parked: Vec<Parked>,
    /// Automatic failovers that count against the budget, newest last, at most 16.
    pub failovers: Vec<DateTime<Utc>>,
    pub adopted_at: DateTime<Utc>,
}

/// A span in which an acknowledgement promised less than `lossless` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Degraded {
    pub since: DateTime<Utc>,
    pub why: String,
}

/// A member taken out of automatic hands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parked {
    pub instance: InstanceId,
    pub since: DateTime<Utc>,
    pub why: String,
}
