//! What an agent does not do, whoever orders it: commands that come too late, and what a server's role forbids.

use serde::{Deserialize, Serialize};

use super::holder::Role;
use crate::decide::plan::Step;
use crate::model::ballot::Generation;

/// Why a command was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    #[error(
        "this host knows generation {known}, the order is of {asked}: it comes from a plan that was overtaken"
    )]
    Older { known: Generation, asked: Generation },
    #[error("the order saw this agent at epoch {asked}, it is at {known}: look again, then decide again")]
    Stale { known: u64, asked: u64 },
    #[error("generation {0} was superseded here; only a higher one may open")]
    Superseded(Generation),
    #[error("no server process runs here, so there is nothing to open; start it first")]
    NoServer,
    #[error("this host leads generation {0}; fence it first")]
    Leads(Generation),
    #[error("this host's server is a replica with readers; fence it before it forgets its source")]
    Follows,
    #[error("this host does not hold the lease of generation {0}")]
    NotHolding(Generation),
}

/// Whether a host in that role may do the step. A server that leads is fenced before it is made anything else: the plan of a
/// manager that knows an older record must not turn it into a replica, nor a replica into nothing.
///
/// # Errors
/// That it leads, or follows.
pub fn permits(role: Role, step: &Step) -> Result<(), Refusal> {
    if let (Role::Replica, Step::ForgetSource { .. }) = (role, step) {
        return Err(Refusal::Follows);
    }
    let Role::Primary { generation } = role else { return Ok(()) };
    match step {
        Step::PointReplica { .. }
        | Step::CatchUpFrom { .. }
        | Step::Admit { .. }
        | Step::Halt { .. }
        | Step::Kill { .. }
        | Step::Rewind { .. }
        | Step::Rebuild { .. }
        | Step::Exchange { .. }
        // Its recovery may drop what it has acknowledged since.
        | Step::StartServer { as_replica: true, .. } => Err(Refusal::Leads(generation)),
        Step::StartServer { as_replica: false, .. }
        | Step::Fence { .. }
        | Step::KeepUp { .. }
        | Step::Turn { .. }
        | Step::Quiet { .. }
        | Step::Block { .. }
        | Step::Unmoved { .. }
        | Step::StopReceiving { .. }
        | Step::Salvage { .. }
        | Step::WaitApplied { .. }
        | Step::Claim { .. }
        | Step::StopReplicating { .. }
        | Step::ArmSource { .. }
        | Step::AckersAttached { .. }
        | Step::Register { .. }
        | Step::Open { .. }
        | Step::HoldVip { .. }
        | Step::LoseVip { .. }
        | Step::ForgetSource { .. }
        | Step::SetReadOnly { .. }
        | Step::Events { .. }
        | Step::Furnish { .. }
        | Step::SaveExtra { .. }
        | Step::Wish { .. }
        | Step::Direct { .. }
        | Step::Park { .. } => Ok(()),
    }
}
