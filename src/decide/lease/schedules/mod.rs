//! Random schedules over the real voter and holder code: messages lost, late, twice and out of order, hosts cut off,
//! processes restarted without their memory, disks lost, clocks that run apart, two managers that both believe they lead. After every
//! event: nobody is open beside another. Each rule is also broken on purpose, and must then be caught.

mod blocked;
mod faults;
mod hosts;
mod managers;
mod network;
mod world;

use proptest::prelude::*;

use self::world::World;

/// A rule left out, to see that the property bites.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Broken {
    Nothing,
    /// The manager opens without waiting for what voters reported.
    NoWait,
    /// The holder counts grants from when the answer came.
    FromAnswer,
    /// A restarted voter forgets that it may have granted.
    ForgetsGrants,
    /// A voter answers before its promise is durable.
    NoSync,
    /// Orders to open carry whatever epoch the agent has when they arrive.
    NoEpoch,
    /// A fence lifts every grant, whoever has it.
    LiftsAll,
    /// A voter that lost its promises votes as one that was just adopted.
    VotesBlank,
    /// A blocked host takes itself back when nobody is entitled any more, whoever led in between.
    TakesBackBlindly,
}

/// The first schedule of `seeds` that breaks the property.
fn first_violation(broken: Broken, seeds: std::ops::Range<u64>) -> Option<String> {
    seeds.map(|seed| (seed, 3 + (seed % 3) as usize)).find_map(|(seed, voters)| {
        let seed = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        World::new(seed, voters, broken).run().err()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn at_most_one_host_is_open_at_a_time(seed in any::<u64>(), voters in 3_usize..=5) {
        let outcome = World::new(seed, voters, Broken::Nothing).run();
        prop_assert!(outcome.is_ok(), "{outcome:?}");
    }
}

#[test]
fn schedules_open_somebody() {
    let openings = (1..50_u64).map(|seed| World::new(seed * 7_919, 3, Broken::Nothing).run().unwrap());
    assert!(openings.sum::<usize>() > 200);
}

#[test]
fn schedules_let_blocked_hosts_take_themselves_back() {
    let mut taken = 0;
    for seed in 1..50_u64 {
        let mut world = World::new(seed * 7_919, 3, Broken::Nothing);
        while world.step().unwrap() {}
        taken += world.taken_back;
    }
    assert!(taken > 5, "{taken}");
}

#[test]
fn each_rule_left_out_is_caught() {
    let rules = [
        Broken::NoWait,
        Broken::FromAnswer,
        Broken::ForgetsGrants,
        Broken::NoSync,
        Broken::NoEpoch,
        Broken::LiftsAll,
        Broken::VotesBlank,
        Broken::TakesBackBlindly,
    ];
    for broken in rules {
        let violation = first_violation(broken, 1..30_000);
        assert!(violation.is_some(), "{broken:?} went unnoticed");
        println!("{broken:?}: {}", violation.unwrap());
    }
}
