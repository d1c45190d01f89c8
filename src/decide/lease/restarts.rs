//! What a primary's host does when its agent is restarted: the server runs on, and what the agent before knew of it is gone.

use std::time::Duration;

use super::holder::{Effect, Holder, Input, Kept, Role, Start};
use super::tests::{UP, at, granted, opened, terms};
use super::voter::Renewed;
use crate::model::ballot::Generation;

const LED: Kept = Kept { role: Role::Primary { generation: Generation(1) }, epoch: 4, vip: false };

#[test]
fn one_cut_off_whose_agent_restarts_is_writable_again_when_it_leads() {
    // Closed when the agent ended, and closed by the kernel while none ran.
    for start in [UP, Start { until: Some(at(900)), ..UP }] {
        let (mut holder, effects) = Holder::restored(terms(), LED, start, at(1_000));
        assert_eq!(effects, [Effect::Close, Effect::ReleaseVip]);
        assert_eq!(holder.handle(granted("db1", 1, 1_000), at(1_001)).unwrap(), []);
        let effects = holder.handle(granted("db2", 1, 1_000), at(1_002)).unwrap();
        assert_eq!(effects, [Effect::HoldOpen { until: at(4_000) }, Effect::Resume]);
    }
}

#[test]
fn one_that_serves_is_adopted_as_it_is() {
    let start = Start { until: Some(at(3_000)), ..UP };
    let (_, effects) = Holder::restored(terms(), LED, start, at(1_000));
    assert_eq!(effects, [Effect::HoldOpen { until: at(3_000) }]);
    // Its agent ended after it had opened it, and before it was writable.
    let (_, effects) = Holder::restored(terms(), LED, Start { resuming: true, ..start }, at(1_000));
    assert_eq!(effects, [Effect::HoldOpen { until: at(3_000) }, Effect::Resume]);
}

#[test]
fn a_planned_restart_holds_for_as_long_as_was_granted() {
    let mut holder = opened();
    let lasts = Duration::from_secs(60);
    let effects = holder.handle(Input::Grace { lasts }, at(600)).unwrap();
    assert_eq!(effects, [Effect::SendRenew { generation: Generation(1), lasts }]);
    for voter in ["db1", "db3"] {
        let answer = Renewed::Granted { lasts };
        let input =
            Input::Answer { from: voter.to_owned(), generation: Generation(1), sent_at: at(600), answer };
        holder.handle(input, at(601)).unwrap();
    }
    assert_eq!(holder.open_until(), Some(at(60_600)));
}
