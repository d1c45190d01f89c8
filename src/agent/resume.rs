//! What a restarted last holder does when it leads again by itself, or by the operator's word: arm as before, then become writable. Never the other way
//! round: a commit between the two would be acknowledged by nobody.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::opening;
use super::state::Shared;
use super::wire::Membership;
use crate::clock;
use crate::decide::lease::holder::{Input, Role};
use crate::decide::plan::Step;
use crate::execute::world::StepError;
use crate::model::ballot::Generation;
use crate::model::policy::Durability;
use crate::mysql::control;

/// Between two tries.
const AGAIN: Duration = Duration::from_secs(1);

/// Tries for as long as this host holds the lease it held when it began.
pub(super) async fn lead_again(shared: Arc<Shared>) {
    let began = shared.seen().kept;
    loop {
        {
            let seen = shared.seen();
            let holds = seen.open_until.is_some_and(|until| until > clock::now());
            if seen.kept.epoch != began.epoch || !holds || !matches!(seen.kept.role, Role::Primary { .. }) {
                return;
            }
        }
        match try_once(&shared).await {
            Ok(()) => return tracing::info!("leads again after a restart of the server"),
            Err(why) => tracing::warn!(why, "not writable yet"),
        }
        tokio::time::sleep(AGAIN).await;
    }
}

async fn try_once(shared: &Shared) -> Result<(), String> {
    let membership = shared.seen().membership.clone().ok_or("no membership")?;
    let env = shared.control_env()?;
    let deadline = Instant::now() + env.statement;
    let mut conn = shared.spare.take(shared, deadline).await.map_err(|error| error.to_string())?;
    if let Some(arm) = arming(&membership) {
        control::apply(&mut conn, &arm, &env).await.map_err(|error| error.to_string())?;
    }
    control::set_read_only(&mut conn, false, deadline).await.map_err(|error| error.to_string())?;
    shared.spare.give(conn).await;
    Ok(())
}

fn arming(membership: &Membership) -> Option<Step> {
    let lossless = membership.policy.durability == Durability::Lossless && membership.acks > 0;
    lossless.then(|| Step::ArmSource { instance: membership.instance.clone(), acks: membership.acks })
}

/// Arms the server for what its membership says before it leads again: it may have been restarted since it led. For how many acknowledgements.
///
/// # Errors
/// Why it is not armed.
pub(super) async fn arm_as_member(shared: &Shared, deadline: Instant) -> Result<u32, StepError> {
    let Some(membership) = shared.seen().membership.clone() else { return Ok(0) };
    let Some(arm) = arming(&membership) else { return Ok(0) };
    let env = shared.control_env().map_err(StepError::Failed)?;
    let conn = shared.spare.take(shared, deadline).await;
    let mut conn = conn.map_err(|error| StepError::Failed(error.to_string()))?;
    let armed = control::apply(&mut conn, &arm, &env).await;
    shared.spare.give(conn).await;
    armed.map_err(|error| StepError::Failed(error.to_string()))?;
    Ok(membership.acks)
}

/// The operator's order, without a manager: armed, then opened by a majority's grants, then the address. What is given up is the
/// comparison with the others; the voters' word is not.
///
/// # Errors
/// As the steps it is made of.
pub(super) async fn by_hand(
    shared: &Shared,
    generation: Generation,
    deadline: Instant,
) -> Result<(), StepError> {
    let failed = |why: String| StepError::Failed(why);
    let membership = shared.seen().membership.clone().ok_or_else(|| failed("no membership".to_owned()))?;
    let (role, epoch) = {
        let kept = shared.seen().kept;
        (kept.role, kept.epoch)
    };
    if role.generation() != Some(generation) {
        return Err(failed(format!("this host did not lead generation {generation}")));
    }
    let acks = arm_as_member(shared, deadline).await?;
    opening::open(shared, generation, acks, Some(epoch), deadline).await?;
    if membership.vip.is_some() {
        shared.order(Input::TakeVip { generation }).await?;
    }
    Ok(())
}
