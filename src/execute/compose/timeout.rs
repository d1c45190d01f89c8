//! How long a server's side of a step is waited for.

use std::time::Duration;

use crate::decide::plan::Step;
use crate::model::policy::Policy;

/// How much longer than the agent works on a block its answer is waited for: it gives the block up by itself before.
const BLOCK_GRACE: Duration = Duration::from_millis(500);
/// Longest start of a server: crash recovery included.
const SERVER_START: Duration = Duration::from_secs(300);

/// The longest time until the answer to a step.
pub(super) fn step_timeout(step: &Step, policy: &Policy) -> Duration {
    let statement = policy.statement;
    match step {
        Step::WaitApplied { within, .. }
        | Step::KeepUp { within, .. }
        | Step::Turn { within, .. }
        | Step::CatchUpFrom { within, .. }
        | Step::Halt { within, .. }
        | Step::SaveExtra { within, .. }
        | Step::Rewind { within, .. }
        | Step::Exchange { within, .. } => *within + statement,
        Step::Salvage { within, .. } => *within + policy.catch_up + statement,
        Step::Quiet { drain, .. } => *drain + statement,
        Step::Block { within, .. } => *within + BLOCK_GRACE,
        Step::StartServer { .. } => SERVER_START,
        Step::PointReplica { .. } | Step::Open { .. } | Step::Kill { .. } | Step::Rebuild { .. } => {
            statement * 2
        }
        Step::Fence { .. }
        | Step::Unmoved { .. }
        | Step::StopReceiving { .. }
        | Step::StopReplicating { .. }
        | Step::ArmSource { .. }
        | Step::AckersAttached { .. }
        | Step::Admit { .. }
        | Step::HoldVip { .. }
        | Step::LoseVip { .. }
        | Step::ForgetSource { .. }
        | Step::SetReadOnly { .. }
        | Step::Events { .. }
        | Step::Furnish { .. }
        | Step::Claim { .. }
        | Step::Register { .. }
        | Step::Wish { .. }
        | Step::Direct { .. }
        | Step::Park { .. } => statement,
    }
}
