//! What is the matter with a primary, in one of the field's words.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What is the matter with the primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Never adopted: nothing is known to be lost or gained.
    NotAdopted,
    /// Not everybody was asked yet, and nothing is known to be wrong with the primary.
    Starting,
    Healthy,
    /// The primary serves; something beside it needs a person or a moment.
    Degraded,
    /// Proven dead: process gone, by the word of its agent.
    DeadPrimary,
    /// Nobody has heard of it for `silence`: a majority of voters' hosts says so.
    SilentPrimary,
    /// Handshakes or writes hang for `silence` while its host lives.
    HungPrimary,
    /// It fails to answer and the evidence is not complete.
    UnreachablePrimary,
    /// Only this manager is blind.
    ManagerCutOff,
    /// It answers that it has no room (1040 …).
    OverloadedPrimary,
    /// It answers, but not to us (1045 …), or its port refuses while its process lives.
    MisconfiguredPrimary,
    /// Commits wait for acknowledgements nobody gives.
    BlockedForAcks,
    /// It runs, is the recorded primary, and is closed or read-only.
    ClosedPrimary,
    /// It runs and its agent is heard, but no majority of voters answers it, or its service manager stops it: closed, and nothing
    /// will open it again there.
    IsolatedPrimary,
    /// Dead, and every replica too.
    DeadPrimaryAndReplicas,
    /// Two servers take writes.
    SplitBrain,
}

impl Verdict {
    /// The primary is known to serve its clients.
    pub fn serves(self) -> bool {
        match self {
            Self::Healthy | Self::Degraded => true,
            Self::NotAdopted
            | Self::Starting
            | Self::DeadPrimary
            | Self::SilentPrimary
            | Self::HungPrimary
            | Self::UnreachablePrimary
            | Self::ManagerCutOff
            | Self::OverloadedPrimary
            | Self::MisconfiguredPrimary
            | Self::BlockedForAcks
            | Self::ClosedPrimary
            | Self::IsolatedPrimary
            | Self::DeadPrimaryAndReplicas
            | Self::SplitBrain => false,
        }
    }

    /// The verdicts a failover may follow from.
    pub fn calls_for_failover(self) -> bool {
        match self {
            Self::DeadPrimary | Self::SilentPrimary | Self::HungPrimary | Self::IsolatedPrimary => true,
            Self::NotAdopted
            | Self::Starting
            | Self::Healthy
            | Self::Degraded
            | Self::UnreachablePrimary
            | Self::ManagerCutOff
            | Self::OverloadedPrimary
            | Self::MisconfiguredPrimary
            | Self::BlockedForAcks
            | Self::ClosedPrimary
            | Self::DeadPrimaryAndReplicas
            | Self::SplitBrain => false,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotAdopted => "not adopted",
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::DeadPrimary => "dead primary",
            Self::SilentPrimary => "silent primary",
            Self::HungPrimary => "hung primary",
            Self::UnreachablePrimary => "unreachable primary",
            Self::ManagerCutOff => "manager cut off",
            Self::OverloadedPrimary => "overloaded primary",
            Self::MisconfiguredPrimary => "misconfigured primary",
            Self::BlockedForAcks => "blocked for acknowledgements",
            Self::ClosedPrimary => "closed primary",
            Self::IsolatedPrimary => "isolated primary",
            Self::DeadPrimaryAndReplicas => "dead primary and replicas",
            Self::SplitBrain => "split brain",
        })
    }
}
