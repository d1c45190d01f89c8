//! Whether one member's host can replicate from another member: its agent logs in there with the replication account, as the
//! receiver would.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::instance::InstanceId;
use super::observation::Unseen;
use super::time::millis;

/// The newest test login from the agent's host at one other member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reach {
    /// The possible source.
    pub to: InstanceId,
    /// The replication account.
    pub user: String,
    /// A failure is shown only after the second in a row.
    pub outcome: Result<(), Unseen>,
    /// How long ago that was.
    #[serde(rename = "age_ms", with = "millis")]
    pub age: Duration,
}

impl Reach {
    /// A receiver would fail in the same way. A failure of the test itself, or a lack of free connections, says nothing of that.
    pub fn is_refused(&self) -> bool {
        match &self.outcome {
            Ok(()) | Err(Unseen::TooManyConnections | Unseen::Looker(_) | Unseen::WrongServer(_)) => false,
            Err(
                Unseen::Refused
                | Unseen::Lost
                | Unseen::NoRoute
                | Unseen::SilentBeforeGreeting
                | Unseen::HungAfterLogin
                | Unseen::AccessDenied(_)
                | Unseen::Server { .. }
                | Unseen::Name(_),
            ) => true,
        }
    }
}
