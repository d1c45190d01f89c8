//! Model check of the small protocol: voters, ballots, generations, lease, claim, promotion, managers that know nothing of each other,
//! clocks within their bound. The shipped `Voter`, `Holder` and `Terms::wait_after_claim` run over discrete time; stateright visits every
//! state that the bounds allow. See `docs/safety.md` for what is and is not covered, `scripts/model-check` for larger bounds.

#![expect(clippy::wildcard_enum_match_arm, reason = "each function takes the steps of its own part")]
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests: a failure is a panic that says where")]

#[path = "model_check/actions.rs"]
mod actions;
#[path = "model_check/explore.rs"]
mod explore;
#[path = "model_check/host.rs"]
mod host;
#[path = "model_check/manager.rs"]
mod manager;
#[path = "model_check/memo.rs"]
mod memo;
#[path = "model_check/op.rs"]
mod op;
#[path = "model_check/report.rs"]
mod report;
#[path = "model_check/world.rs"]
mod world;

use std::time::Duration;

use self::report::check;
use self::world::{Bounds, Faults};

/// All of these together take a minute of one core. None may take longer than this, on a machine that does other work too.
const GATE: Duration = Duration::from_secs(900);

const THREE: Bounds = Bounds {
    voters: 3,
    members: 2,
    ticks: 3,
    lease: 2,
    fence: 5,
    managers: 1,
    faults: Faults::NONE,
    clocks: 1,
};

/// A manager that hangs wherever it may, renewals lost wherever they may: long enough for a promotion that waits for the old lease.
#[test]
#[cfg_attr(debug_assertions, ignore = "scripts/test model runs it in a release build")]
fn three_voters_one_manager() {
    check(Bounds { clocks: 2, ..THREE }, GATE).assert_exhaustive();
}

/// With an agent that restarts at any point with what was durable.
#[test]
#[cfg_attr(debug_assertions, ignore = "scripts/test model runs it in a release build")]
fn three_voters_an_agent_restarts() {
    let faults = Faults { agent_restarts: 1, ..Faults::NONE };
    check(Bounds { faults, ..THREE }, GATE).assert_exhaustive();
}

/// With a request that is answered, and the answer lost.
#[test]
#[cfg_attr(debug_assertions, ignore = "scripts/test model runs it in a release build")]
fn three_voters_an_answer_is_lost() {
    let faults = Faults { lost_answers: 1, ..Faults::NONE };
    check(Bounds { faults, ..THREE }, GATE).assert_exhaustive();
}

/// With an answer, a renewal or an order to open that is late.
#[test]
#[cfg_attr(debug_assertions, ignore = "scripts/test model runs it in a release build")]
fn three_voters_a_late_message() {
    let faults = Faults { late_copies: 1, ..Faults::NONE };
    check(Bounds { ticks: 2, lease: 1, faults, ..THREE }, GATE).assert_all_safe();
}

/// Two managers that both go on, and may have the same number. The lease is one tick, so that it runs out within the run.
#[test]
#[cfg_attr(debug_assertions, ignore = "scripts/test model runs it in a release build")]
fn three_voters_two_managers() {
    check(Bounds { ticks: 2, lease: 1, managers: 2, ..THREE }, GATE).assert_all_safe();
}

/// With a server that ends and begins anew, of the primary or of the one that is promoted.
#[test]
#[cfg_attr(debug_assertions, ignore = "scripts/test model runs it in a release build")]
fn three_voters_a_server_crashes() {
    let faults = Faults { server_crashes: 1, ..Faults::NONE };
    check(Bounds { ticks: 2, lease: 1, faults, ..THREE }, GATE).assert_all_safe();
}

/// With a host that loses its power.
#[test]
#[cfg_attr(debug_assertions, ignore = "scripts/test model runs it in a release build")]
fn three_voters_a_power_cut() {
    let faults = Faults { power_cuts: 1, ..Faults::NONE };
    check(Bounds { ticks: 2, lease: 1, faults, ..THREE }, GATE).assert_all_safe();
}

/// A promotion that is given up for another server, with its orders still on their way.
#[test]
#[cfg_attr(debug_assertions, ignore = "scripts/test model runs it in a release build")]
fn three_voters_a_promotion_is_given_up() {
    let faults = Faults { withdrawals: 1, ..Faults::NONE };
    check(Bounds { members: 3, ticks: 2, faults, ..THREE }, GATE).assert_all_safe();
}

/// What `scripts/model-check` runs: bounds from the environment, and as far as the time allows.
#[test]
#[ignore = "takes minutes: scripts/model-check runs it"]
fn with_bounds_from_the_environment() {
    let number = |name: &str, otherwise: u64| {
        std::env::var(name)
            .map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{name}: {text}")))
    };
    let bounds = Bounds {
        voters: number("MODEL_VOTERS", 3) as usize,
        members: number("MODEL_MEMBERS", 2) as usize,
        ticks: number("MODEL_TICKS", 6) as u8,
        lease: number("MODEL_LEASE", 2) as u8,
        fence: number("MODEL_FENCE", 5) as u8,
        managers: number("MODEL_MANAGERS", 2) as usize,
        clocks: number("MODEL_CLOCKS", 2) as usize,
        faults: Faults {
            agent_restarts: number("MODEL_AGENT_RESTARTS", 1) as u8,
            server_crashes: number("MODEL_SERVER_CRASHES", 0) as u8,
            power_cuts: number("MODEL_POWER_CUTS", 0) as u8,
            withdrawals: number("MODEL_WITHDRAWALS", 0) as u8,
            lost_answers: number("MODEL_LOST_ANSWERS", 0) as u8,
            late_copies: number("MODEL_LATE_COPIES", 0) as u8,
        },
    };
    let report = check(bounds, Duration::from_secs(number("MODEL_SECONDS", 600)));
    println!("{}", report.json());
    report.assert_safe();
}
