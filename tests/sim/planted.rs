//! The simulation can fail: each rule left out on purpose is caught by some seed.

use super::basics::{Options, Planted};
use super::{links, run};

/// Seeds tried before a planted mistake counts as not seen.
const SEEDS: u64 = 6_000;

const ALL: [Planted; 12] = [
    Planted::SkipFence,
    Planted::IgnoreBallots,
    Planted::OpenBeforeCatchUp,
    Planted::SkipStopReceiving,
    Planted::StopBothThreads,
    Planted::NoClaimWait,
    Planted::ForgetfulVoter,
    Planted::OpenUnarmed,
    Planted::NoTimeout,
    Planted::BlockWithoutFence,
    Planted::SetNotReread,
    Planted::UndoWithoutClaim,
];

/// The mistake of that name.
pub(crate) fn named(name: &str) -> Option<Planted> {
    ALL.into_iter().find(|planted| format!("{planted:?}") == name)
}

fn caught(planted: Planted, by: &[&str]) {
    let mut others = Vec::new();
    // Those with slow links too: only there do the ackers of one primary differ for long.
    for seed in (0..SEEDS).chain(links::FROM..links::FROM + SEEDS) {
        if let Some(violation) = run(Options::of(seed, planted)).violation {
            if by.iter().any(|invariant| violation.starts_with(invariant)) {
                return;
            }
            others.push(format!("seed {seed}: {violation}"));
        }
    }
    panic!("{planted:?} was not seen in twice {SEEDS} seeds; what was: {others:?}");
}

#[test]
fn a_fence_that_lies_is_caught() {
    caught(Planted::SkipFence, &["I1", "I2", "I5", "I7"]);
}

#[test]
fn an_agent_that_obeys_anybody_is_caught() {
    caught(Planted::IgnoreBallots, &["I6"]);
}

#[test]
fn opening_before_all_is_applied_is_caught() {
    caught(Planted::OpenBeforeCatchUp, &["I2", "I3", "I4"]);
}

#[test]
fn an_acker_that_goes_on_is_caught() {
    caught(Planted::SkipStopReceiving, &["I1", "I2", "I3", "I5"]);
}

#[test]
fn throwing_relay_logs_away_is_caught() {
    caught(Planted::StopBothThreads, &["I2", "I3", "I8"]);
}

#[test]
fn opening_within_a_lease_is_caught() {
    caught(Planted::NoClaimWait, &["I1", "I5", "I7"]);
}

#[test]
fn a_voter_that_forgets_is_caught() {
    caught(Planted::ForgetfulVoter, &["I1", "I5", "I6", "I7"]);
}

#[test]
fn opening_unarmed_is_caught() {
    caught(Planted::OpenUnarmed, &["I1", "I2", "I3", "L"]);
}

#[test]
fn a_kernel_that_forgets_its_timer_is_caught() {
    caught(Planted::NoTimeout, &["I1", "I5", "I7"]);
}

#[test]
fn a_block_without_a_fence_is_caught() {
    caught(Planted::BlockWithoutFence, &["I1", "I2", "I5", "I7"]);
}

#[test]
fn a_set_that_is_not_read_again_is_caught() {
    caught(Planted::SetNotReread, &["I3"]);
}

#[test]
fn an_undo_that_asks_no_voter_is_caught() {
    caught(Planted::UndoWithoutClaim, &["I1", "I2", "I5", "I7", "I15"]);
}
