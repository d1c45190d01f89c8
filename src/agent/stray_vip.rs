//! The cluster's address on a host that does not hold the lease: clients that find it there are refused for as long as it stays. What this
//! agent adds has an end by itself. One without an end was added by something else, and is removed, unless the operator wants no changes.

use std::time::Duration;

use super::hands::Hands;
use super::state::{Shared, Stray};
use crate::clock;
use crate::model::cluster::{Mode, VipAddress};

/// Notes whether the address is here. `belongs` says that this host holds the lease.
pub(super) async fn look(shared: &Shared, hands: &Hands, vip: &VipAddress, belongs: bool) {
    let Ok(left) = hands.vip_left(vip).await else { return };
    shared.seen().vip = left.is_some();
    if belongs || left != Some(Duration::MAX) {
        // Gone meanwhile, or taken over by this agent: what is noted is that it was here.
        if let Some(stray) = &mut shared.seen().stray_vip {
            stray.left = None;
        }
        return;
    }
    let mode = shared.seen().membership.as_ref().map(|membership| membership.mode).unwrap_or_default();
    let left = match mode {
        Mode::Observe => Some("mode is \"observe\"".to_owned()),
        Mode::Manual | Mode::Auto => hands.release_vip(vip).await.err().map(|error| error.to_string()),
    };
    let mut seen = shared.seen();
    seen.vip = left.is_some();
    let is_new = seen.stray_vip.as_ref().is_none_or(|before| before.left != left);
    if is_new {
        match &left {
            None => {
                tracing::warn!(%vip, "the cluster's address was on this host, which does not hold the lease: it is removed")
            }
            Some(why) => {
                tracing::error!(%vip, why, "the cluster's address is on this host, which does not hold the lease, and stays there")
            }
        }
    }
    seen.stray_vip = Some(Stray { at: clock::now(), left });
    drop(seen);
    if is_new {
        shared.announce_change();
    }
}
