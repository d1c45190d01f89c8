//! The two machines, one rule at a time.

use std::time::Duration;

use super::Terms;
use super::holder::{Effect, Holder, Input, Kept, Role, Start, unheard};
use super::refusal::Refusal;
use super::voter::{Claim, Claimed, Outstanding, Persist, Promises, Renew, Renewed, Voter};
use crate::decide::plan::Proof;
use crate::model::ballot::{Ballot, Generation};
use crate::model::cluster::ClusterName;
use crate::model::instance::InstanceId;
use crate::model::policy::Policy;
use crate::model::time::Moment;

pub(super) const T: Duration = Duration::from_secs(3);

pub(super) fn at(ms: u64) -> Moment {
    Moment::from_micros(1_000_000 + ms * 1_000)
}

fn db(host: &str) -> InstanceId {
    InstanceId::new(host, 3306)
}

fn ballot(number: u64, manager: &str) -> Ballot {
    Ballot { number, manager: manager.to_owned() }
}

fn renew(holder: &str, generation: u64) -> Renew {
    Renew {
        cluster: ClusterName("orders".to_owned()),
        holder: db(holder),
        generation: Generation(generation),
        lasts: T,
    }
}

fn claim(number: u64, generation: u64, candidate: &str, proof: Proof) -> Claim {
    Claim {
        cluster: ClusterName("orders".to_owned()),
        ballot: ballot(number, "m"),
        generation: Generation(generation),
        candidate: db(candidate),
        proof,
        released: Vec::new(),
    }
}

fn adopted() -> Voter {
    let mut voter = Voter::restored(Promises::default(), at(0));
    let (answer, persist) = voter.claim(&claim(1, 1, "db1", Proof::Adoption), at(0));
    assert_eq!((answer, persist), (Claimed::Accepted { outstanding: Vec::new() }, Persist::First));
    assert_eq!(voter.renew(&renew("db1", 1), at(0)), (Renewed::Granted { lasts: T }, Persist::First));
    voter
}

#[test]
fn a_voter_renews_without_writing() {
    let mut voter = adopted();
    assert_eq!(voter.renew(&renew("db1", 1), at(500)), (Renewed::Granted { lasts: T }, Persist::Unchanged));
    assert_eq!(voter.granted_ago(at(700)), Some(Duration::from_millis(200)));
}

#[test]
fn a_voter_gives_one_generation_to_one_holder() {
    let mut voter = adopted();
    assert_eq!(voter.renew(&renew("db2", 1), at(0)).0, Renewed::OtherHolder { holder: Some(db("db1")) });
    let (answer, _) = voter.claim(&claim(2, 1, "db2", Proof::Operator), at(9_000));
    assert_eq!(answer, Claimed::Taken { holder: Some(db("db1")) });
}

#[test]
fn a_voter_that_granted_lately_holds_a_failover_back() {
    let mut voter = adopted();
    let (answer, persist) = voter.claim(&claim(2, 2, "db2", Proof::Expired), at(1_000));
    let remaining = Duration::from_secs(2);
    assert_eq!((answer, persist), (Claimed::HeldBack { by: db("db1"), remaining }, Persist::Unchanged));
    let (answer, persist) = voter.claim(&claim(2, 2, "db2", Proof::Expired), at(3_000));
    let outstanding = vec![Outstanding { granted_ago: T, lasts: T }];
    assert_eq!((answer, persist), (Claimed::Accepted { outstanding }, Persist::First));
    let answer = voter.renew(&renew("db1", 1), at(3_001)).0;
    assert_eq!(answer, Renewed::Superseded { generation: Generation(2), holder: Some(db("db2")) });
}

/// The claim's answer was lost, and it is repeated while the old holder's last byte may still pass by a slow clock.
#[test]
fn a_repeated_claim_waits_as_long_as_the_first_under_the_widest_bounds() {
    let widest = Terms { fence_within: T - Duration::from_millis(1), clock_error_permille: 100, ..terms() };
    let mut voter = adopted();
    let over = (T + widest.fence_within) * 11 / 10;
    let mut now = T;
    while now < over {
        let moment = at(0) + now;
        let (Claimed::Accepted { outstanding }, _) = voter.claim(&claim(2, 2, "db2", Proof::Expired), moment)
        else {
            panic!("the lease is over: nothing holds it back")
        };
        assert_eq!(widest.wait_after_claim(&outstanding), over - now, "{now:?} after the grant");
        now += Duration::from_millis(100);
    }
}

#[test]
fn a_fence_lifts_only_the_grants_of_whom_it_fenced() {
    let mut voter = adopted();
    let mut wrong = claim(2, 2, "db3", Proof::Fenced);
    wrong.released = vec![db("db2")];
    assert!(matches!(voter.claim(&wrong, at(100)).0, Claimed::HeldBack { .. }));
    let mut right = claim(2, 2, "db3", Proof::Fenced);
    right.released = vec![db("db1")];
    assert_eq!(voter.claim(&right, at(100)).0, Claimed::Accepted { outstanding: Vec::new() });
}

#[test]
fn a_blocked_holder_is_taken_back_only_where_nobody_was_let_in_after_it() {
    let blocked = claim(2, 3, "db1", Proof::TakenBack);
    let mut next = claim(2, 2, "db2", Proof::Fenced);
    next.released = vec![db("db1")];
    let claimed = || {
        let mut voter = adopted();
        assert!(matches!(voter.claim(&next, at(100)).0, Claimed::Accepted { .. }));
        voter
    };
    let refused = Claimed::MayHaveLed { holder: Some(db("db2")) };
    // Only claimed for: the claim is void from now on, and asking again is answered alike.
    let mut voter = claimed();
    for _ in 0..2 {
        assert!(matches!(voter.claim(&blocked, at(200)).0, Claimed::Accepted { .. }));
    }
    assert!(matches!(voter.renew(&renew("db2", 2), at(300)).0, Renewed::Superseded { .. }));
    // One grant is enough, however long ago; a restart forgets none.
    let mut voter = claimed();
    assert!(matches!(voter.renew(&renew("db2", 2), at(200)).0, Renewed::Granted { .. }));
    assert_eq!(voter.claim(&blocked, at(900_000)), (refused.clone(), Persist::Unchanged));
    let mut restarted = Voter::restored(claimed().promises().clone(), at(0));
    assert_eq!(restarted.claim(&blocked, at(900_000)).0, refused);
    // What the others told it says nothing of what it granted itself.
    let mut blank = Voter::restored(Promises::default(), at(0));
    assert_eq!(blank.relearn(claimed().promises()), Persist::First);
    assert_eq!(blank.claim(&blocked, at(900_000)).0, refused);
    // A manager that claims for the same server has more to do before it opens it.
    let mut voter = adopted();
    assert!(matches!(voter.claim(&claim(2, 3, "db1", Proof::Expired), at(100)).0, Claimed::Accepted { .. }));
    assert!(matches!(voter.claim(&blocked, at(200)).0, Claimed::MayHaveLed { .. }));
}

#[test]
fn a_candidate_keeps_what_it_was_granted_before() {
    let mut voter = adopted();
    assert!(matches!(voter.claim(&claim(2, 2, "db1", Proof::Expired), at(100)).0, Claimed::Accepted { .. }));
    // db1 may still be open by its grant for generation 1.
    assert!(matches!(voter.claim(&claim(3, 3, "db2", Proof::Expired), at(200)).0, Claimed::HeldBack { .. }));
}

#[test]
fn a_restarted_voter_counts_its_grants_as_given_now() {
    let mut voter = Voter::restored(adopted().promises().clone(), at(60_000));
    let (answer, _) = voter.claim(&claim(2, 2, "db2", Proof::Expired), at(62_000));
    assert_eq!(answer, Claimed::HeldBack { by: db("db1"), remaining: Duration::from_secs(1) });
}

#[test]
fn a_long_grant_is_remembered_over_a_restart_and_forgotten_after_its_end() {
    let mut voter = adopted();
    let long = Renew { lasts: Duration::from_secs(3_600), ..renew("db1", 1) };
    let minute = Duration::from_secs(60);
    assert_eq!(voter.renew(&long, at(0)), (Renewed::Granted { lasts: minute }, Persist::First));
    assert_eq!(voter.renew(&renew("db1", 1), at(5_000)).1, Persist::Unchanged);
    assert_eq!(voter.promises().lasts, minute);
    assert_eq!(voter.renew(&renew("db1", 1), at(58_000)).1, Persist::First);
    assert_eq!(voter.promises().lasts, T);
}

#[test]
fn an_older_ballot_is_refused_and_a_leader_change_touches_no_lease() {
    let mut voter = adopted();
    let (led, persist) = voter.lead(&ballot(5, "n"));
    assert_eq!((led.accepted, led.generation, persist), (true, Generation(1), Persist::First));
    assert!(!voter.obeys(&ballot(5, "m")) && voter.obeys(&ballot(5, "n")));
    let (answer, _) = voter.claim(&claim(4, 2, "db2", Proof::Operator), at(9_000));
    assert_eq!(answer, Claimed::OlderBallot { accepted: ballot(5, "n") });
    assert!(matches!(voter.renew(&renew("db1", 1), at(100)).0, Renewed::Granted { .. }));
}

/// What a manager that leads again must know: that another one has led since, whoever has tried in between.
#[test]
fn the_last_ballot_of_another_manager_is_remembered() {
    let mut voter = adopted();
    assert_eq!(voter.lead(&ballot(2, "m")).0.rival, Ballot::default(), "nobody but m has led");
    assert_eq!(voter.lead(&ballot(3, "n")).0.rival, ballot(2, "m"));
    assert_eq!(voter.lead(&ballot(17, "m")).0.rival, ballot(3, "n"));
    // A second try of its own hides nothing, nor does a voter's restart.
    assert_eq!(voter.lead(&ballot(18, "m")).0.rival, ballot(3, "n"));
    let mut voter = Voter::restored(voter.promises().clone(), at(0));
    assert_eq!(voter.lead(&ballot(19, "m")).0.rival, ballot(3, "n"));
    assert_eq!(voter.lead(&ballot(20, "n")).0.rival, ballot(19, "m"));
}

/// Two managers on copies of one store have one id: only the first of them leads with a number.
#[test]
fn an_equal_ballot_leads_once_and_is_obeyed_as_often_as_it_comes() {
    let mut voter = adopted();
    assert!(voter.take_lead(&ballot(2, "m")).0.accepted);
    assert!(!voter.take_lead(&ballot(2, "m")).0.accepted, "it leads already, or its copy does");
    assert!(voter.lead(&ballot(2, "m")).0.accepted, "a command under it");
    assert!(voter.take_lead(&ballot(3, "m")).0.accepted);
}

#[test]
fn a_voter_that_missed_the_claim_believes_the_new_holder() {
    let mut voter = adopted();
    assert_eq!(voter.renew(&renew("db2", 2), at(100)).1, Persist::First);
    assert!(matches!(voter.renew(&renew("db1", 1), at(200)).0, Renewed::Superseded { .. }));
    // And still knows that db1 may be open by what it granted.
    let Claimed::HeldBack { .. } = voter.claim(&claim(2, 3, "db3", Proof::Expired), at(2_900)).0 else {
        panic!("not held back")
    };
}

#[test]
fn the_wait_covers_clocks_that_run_apart() {
    let terms = terms();
    let outstanding = |ms, lasts| Outstanding { granted_ago: Duration::from_millis(ms), lasts };
    assert_eq!(terms.wait_after_claim(&[]), Duration::ZERO);
    let wait = terms.wait_after_claim(&[outstanding(2_000, T), outstanding(1_000, T)]);
    assert_eq!(wait, Duration::from_millis(2_000 + 30 + 202));
    assert_eq!(terms.wait_after_claim(&[outstanding(60_000, T)]), Duration::ZERO);
}

// === the holder ===

pub(super) fn terms() -> Terms {
    let voters = ["db1", "db2", "db3"].map(str::to_owned).to_vec();
    Terms::new("db1", voters, &Policy::default())
}

pub(super) const UP: Start =
    Start { same_boot: true, until: None, server_up: true, same_server: true, resuming: false };

pub(super) fn granted(from: &str, generation: u64, sent: u64) -> Input {
    Input::Answer {
        from: from.to_owned(),
        generation: Generation(generation),
        sent_at: at(sent),
        answer: Renewed::Granted { lasts: T },
    }
}

fn superseded(from: &str, sent: u64) -> Input {
    Input::Answer {
        from: from.to_owned(),
        generation: Generation(1),
        sent_at: at(sent),
        answer: Renewed::Superseded { generation: Generation(2), holder: Some(db("db2")) },
    }
}

/// Opened for generation 1 by grants asked for at 0.
pub(super) fn opened() -> Holder {
    let (mut holder, effects) = Holder::restored(terms(), Kept::default(), UP, at(0));
    assert_eq!(effects, []);
    let effects = holder.handle(Input::Open { generation: Generation(1), epoch: 0 }, at(0)).unwrap();
    let renewal = Effect::SendRenew { generation: Generation(1), lasts: T };
    assert_eq!(effects, [Effect::Persist, renewal], "what could not be written is not asked for");
    assert_eq!(holder.handle(granted("db1", 1, 0), at(1)).unwrap(), []);
    assert_eq!(holder.handle(granted("db2", 1, 0), at(5)).unwrap(), [Effect::HoldOpen { until: at(3_000) }]);
    holder
}

#[test]
fn it_opens_by_a_majority_and_holds_from_when_it_asked() {
    let mut holder = opened();
    assert!(holder.holds(at(2_999)) && !holder.holds(at(3_000)));
    assert_eq!(holder.handle(granted("db1", 1, 500), at(501)).unwrap(), []);
    let effects = holder.handle(granted("db3", 1, 500), at(900)).unwrap();
    assert_eq!(effects, [Effect::HoldOpen { until: at(3_500) }]);
}

#[test]
fn a_stranger_has_no_vote_and_one_voter_has_one() {
    let (mut holder, _) = Holder::restored(terms(), Kept::default(), UP, at(0));
    holder.handle(Input::Open { generation: Generation(1), epoch: 0 }, at(0)).unwrap();
    for _ in 0..3 {
        assert_eq!(holder.handle(granted("db1", 1, 0), at(1)).unwrap(), []);
        assert_eq!(holder.handle(granted("db9", 1, 0), at(1)).unwrap(), []);
        assert_eq!(holder.handle(granted("db2", 7, 0), at(1)).unwrap(), []);
    }
}

#[test]
fn isolated_it_closes_goes_on_asking_and_opens_again_by_itself() {
    let mut holder = opened();
    holder.handle(Input::TakeVip { generation: Generation(1) }, at(10)).unwrap();
    let effects = holder.handle(Input::Tick, at(3_000)).unwrap();
    let renewal = Effect::SendRenew { generation: Generation(1), lasts: T };
    assert_eq!(effects, [renewal, Effect::Close, Effect::ReleaseVip]);
    holder.handle(granted("db1", 1, 3_000), at(3_001)).unwrap();
    let effects = holder.handle(granted("db3", 1, 3_000), at(3_002)).unwrap();
    assert_eq!(effects, [Effect::HoldOpen { until: at(6_000) }, Effect::HoldVip { until: at(6_000) }]);
}

/// Plays 6 s in which no renewal that is sent in the 2.4 s after `cut` is ever answered, and one sent at another time is at once; the
/// renewals sent while cut off.
fn through_an_outage(cut: u64) -> Result<usize, u64> {
    let mut holder = opened();
    let (mut lost, mut now) = (0, 0);
    while now < 6_000 {
        let effects = holder.handle(Input::Tick, at(now)).unwrap();
        let (mut due, mut sent) = (effects, false);
        while !due.is_empty() {
            if due.contains(&Effect::Close) {
                return Err(now);
            }
            sent |= due.iter().any(|effect| matches!(effect, Effect::SendRenew { .. }));
            due.clear();
            if sent && !(cut..cut + 2_400).contains(&now) {
                sent = false;
                due.extend(holder.handle(granted("db1", 1, now), at(now)).unwrap());
                due.extend(holder.handle(granted("db2", 1, now), at(now)).unwrap());
            }
        }
        lost += usize::from(sent);
        now += 10;
    }
    Ok(lost)
}

#[test]
fn an_outage_that_ends_before_the_lease_does_not_cost_it() {
    for cut in (500..1_000).step_by(10) {
        let lost = through_an_outage(cut).unwrap_or_else(|at| panic!("cut at {cut}, closed at {at}"));
        assert!((10..30).contains(&lost), "cut at {cut}: {lost} renewals were lost");
    }
}

#[test]
fn one_voter_that_knows_more_does_not_fence_a_holder_but_forbids_reopening() {
    let mut holder = opened();
    assert_eq!(holder.handle(superseded("db3", 500), at(600)).unwrap(), []);
    assert!(holder.holds(at(700)));
    let effects = holder.handle(Input::Tick, at(3_000)).unwrap();
    assert!(effects.contains(&Effect::Close) && effects.contains(&Effect::Persist));
    assert_eq!(holder.role(), Role::Deposed { generation: Generation(1) });
    let refused = holder.handle(Input::Open { generation: Generation(1), epoch: 1 }, at(3_100));
    assert_eq!(refused, Err(Refusal::Superseded(Generation(1))));
}

#[test]
fn it_says_that_nobody_hears_it_only_once_closed_for_that() {
    let mut holder = opened();
    let closing = holder.handle(Input::Tick, at(3_000)).unwrap();
    assert!(closing.contains(&Effect::Close), "{closing:?}");
    let told = |holder: &Holder, now| unheard(holder.heard_at(), !holder.holds(now), T, now);
    assert_eq!(told(&holder, at(2_999)), None);
    assert_eq!(holder.heard_at(), Some(at(0)), "also while it still holds");
    assert_eq!(told(&holder, at(3_000)), Some(Duration::from_secs(3)));
    // A refusal is an answer: nobody can say that a failover would do better.
    let one = holder.handle(superseded("db2", 3_500), at(3_510)).unwrap();
    assert_eq!((one, told(&holder, at(3_510))), (Vec::new(), Some(Duration::from_millis(3_510))));
    holder.handle(granted("db1", 1, 3_500), at(3_511)).unwrap();
    assert_eq!(told(&holder, at(3_511)), None);
}

#[test]
fn one_made_read_only_while_isolated_is_writable_again_when_it_leads() {
    let mut holder = opened();
    holder.handle(Input::Tick, at(3_000)).unwrap();
    assert_eq!(holder.handle(Input::MadeReadOnly, at(3_200)).unwrap(), []);
    holder.handle(granted("db1", 1, 3_500), at(3_501)).unwrap();
    let effects = holder.handle(granted("db3", 1, 3_500), at(3_502)).unwrap();
    assert_eq!(effects, [Effect::HoldOpen { until: at(6_500) }, Effect::Resume]);
    // The statement ended after the lease had come back.
    assert_eq!(holder.handle(Input::MadeReadOnly, at(3_600)).unwrap(), [Effect::Resume]);
    // A fenced one is opened by an order, which makes it writable itself.
    holder.handle(Input::Fence { generation: Generation(1) }, at(3_700)).unwrap();
    assert_eq!(holder.handle(Input::MadeReadOnly, at(3_800)).unwrap(), []);
}

#[test]
fn it_steps_down_when_no_majority_can_grant_any_more() {
    let mut holder = opened();
    holder.handle(superseded("db3", 500), at(600)).unwrap();
    let effects = holder.handle(superseded("db2", 500), at(610)).unwrap();
    assert_eq!(effects, [Effect::Close, Effect::ReleaseVip, Effect::Persist]);
    assert_eq!(holder.handle(Input::Tick, at(5_000)).unwrap(), []);
}

#[test]
fn a_dead_server_is_closed_first_and_asks_for_nothing() {
    let mut holder = opened();
    let effects = holder.handle(Input::ServerGone, at(600)).unwrap();
    assert_eq!(effects, [Effect::Close]);
    assert_eq!(holder.due(), None);
    assert_eq!(holder.handle(granted("db1", 1, 500), at(601)).unwrap(), []);
}

#[test]
fn a_restarted_server_opens_only_after_its_set_was_compared() {
    let mut holder = opened();
    holder.handle(Input::ServerGone, at(600)).unwrap();
    holder.handle(Input::ServerStarted, at(900)).unwrap();
    holder.handle(granted("db1", 1, 900), at(901)).unwrap();
    let effects = holder.handle(granted("db2", 1, 900), at(902)).unwrap();
    assert_eq!(effects, [Effect::AskCompare { incarnation: 2 }]);
    let stale = Input::Compared { incarnation: 1, contains_all: true };
    assert_eq!(holder.handle(stale, at(903)).unwrap(), []);
    let missing = Input::Compared { incarnation: 2, contains_all: false };
    assert_eq!(holder.handle(missing, at(904)).unwrap(), []);
    let all = Input::Compared { incarnation: 2, contains_all: true };
    let effects = holder.handle(all, at(905)).unwrap();
    assert_eq!(effects, [Effect::HoldOpen { until: at(3_900) }, Effect::Resume]);
}

#[test]
fn fenced_it_asks_for_nothing_and_orders_from_before_are_refused() {
    let mut holder = opened();
    assert_eq!(
        holder.handle(Input::Fence { generation: Generation(0) }, at(9)),
        Err(Refusal::Older { known: Generation(1), asked: Generation(0) })
    );
    let before = holder.kept().epoch;
    let effects = holder.handle(Input::Fence { generation: Generation(1) }, at(10)).unwrap();
    assert_eq!(effects, [Effect::Close, Effect::Persist]);
    assert_eq!(holder.handle(Input::Tick, at(5_000)).unwrap(), []);
    let late = Input::Open { generation: Generation(1), epoch: before };
    assert_eq!(holder.handle(late, at(20)), Err(Refusal::Stale { known: before + 1, asked: before }));
    let undo = Input::Open { generation: Generation(1), epoch: before + 1 };
    assert!(holder.handle(undo, at(30)).is_ok());
    // A grant from before the fence does not count.
    assert_eq!(holder.handle(granted("db1", 1, 5), at(31)).unwrap(), []);
    assert_eq!(holder.handle(granted("db2", 1, 5), at(31)).unwrap(), []);
}

#[test]
fn a_restarted_agent_adopts_what_the_kernel_holds() {
    let kept = Kept { role: Role::Primary { generation: Generation(1) }, epoch: 4, vip: true };
    let start = Start { until: Some(at(9_000)), ..UP };
    let (mut holder, effects) = Holder::restored(terms(), kept, start, at(1_000));
    assert_eq!(effects, [Effect::HoldOpen { until: at(9_000) }, Effect::HoldVip { until: at(9_000) }]);
    assert!(matches!(holder.handle(Input::Tick, at(1_000)).unwrap()[..], [Effect::SendRenew { .. }]));
    for start in [
        Start { same_boot: false, ..start },
        Start { same_server: false, ..start },
        Start { until: Some(at(900)), ..start },
    ] {
        let (_, effects) = Holder::restored(terms(), kept, start, at(1_000));
        assert_eq!(effects, [Effect::Close, Effect::ReleaseVip]);
    }
}

#[test]
fn after_a_boot_a_replica_waits_to_be_told_and_an_unmanaged_one_is_left_alone() {
    let replica = Kept { role: Role::Replica, epoch: 1, vip: false };
    let boot = Start { same_boot: false, ..UP };
    assert_eq!(Holder::restored(terms(), replica, UP, at(0)).1, [Effect::Admit]);
    let (holder, effects) = Holder::restored(terms(), replica, boot, at(0));
    assert_eq!(effects, [Effect::Close, Effect::ReleaseVip, Effect::Persist]);
    assert_eq!(holder.role(), Role::Unknown);
    assert_eq!(Holder::restored(terms(), Kept::default(), boot, at(0)).1, []);
}

#[test]
fn a_replica_whose_server_ended_is_closed_until_it_is_told_again() {
    let replica = Kept { role: Role::Replica, epoch: 1, vip: false };
    let (mut holder, _) = Holder::restored(terms(), replica, UP, at(0));
    assert_eq!(holder.handle(Input::ServerGone, at(10)).unwrap(), [Effect::Close, Effect::Persist]);
    assert_eq!(holder.handle(Input::ServerStarted, at(20)).unwrap(), []);
    assert_eq!(holder.role(), Role::Unknown);
    holder.handle(Input::Fence { generation: Generation(1) }, at(30)).unwrap();
    assert!(holder.handle(Input::Admit, at(40)).unwrap().contains(&Effect::Admit));
    // The same, ended while no agent ran.
    for start in [Start { same_server: false, ..UP }, Start { server_up: false, same_server: false, ..UP }] {
        let (holder, effects) = Holder::restored(terms(), replica, start, at(0));
        assert_eq!((effects[0].clone(), holder.role()), (Effect::Close, Role::Unknown));
    }
}

#[test]
fn a_primary_is_not_admitted_as_a_replica() {
    let mut holder = opened();
    assert_eq!(holder.handle(Input::Admit, at(9)), Err(Refusal::Leads(Generation(1))));
    holder.handle(Input::Fence { generation: Generation(1) }, at(10)).unwrap();
    let effects = holder.handle(Input::Admit, at(20)).unwrap();
    assert_eq!(effects, [Effect::ReleaseVip, Effect::Persist, Effect::Admit]);
}
