//! Switchovers told command by command: the manager killed at each, for a while or for good, and each harm at each of them.

use mha::decide::plan::PlanKind;
use mha::model::instance::Flavor;
use mha::model::policy::{Durability, WithoutAckers};

use super::basics::{Options, Planted};
use super::resume::at_every_command;
use super::run;
use super::story::{Fate, Story, Successor};
use super::switchover::{Blow, Harm, Switch, Trouble, harms};

/// What becomes of a cluster whose manager died inside the block, while none returns: its old primary serves again after so
/// many ms at most; `None`: it is closed until a manager returns. One that died while taking it back, having asked the voters for it
/// already, is another matter: they keep that for a manager, and it is closed until one returns.
const SERVES_AGAIN_WITHIN: Option<u64> = Some(12_000);

/// How long no manager is there, in ms.
const ALONE: u64 = 30_000;

fn quiet(at: u64, trouble: Option<Trouble>) -> Switch {
    Switch { at, to: Some(1), write_block: 2_000, trouble }
}

fn usual(flavor: Flavor, members: usize) -> Options {
    let mut opts = Options::of(7, Planted::Nothing);
    (opts.members, opts.flavor, opts.acks, opts.faults) = (members, flavor, 1, 0);
    (opts.durability, opts.without_ackers) = (Durability::Lossless, WithoutAckers::Block);
    (opts.bursts, opts.silence) = (false, 3_000);
    opts.asks = Vec::new();
    opts
}

#[test]
fn a_switchover_ends_whole() {
    for (members, durability) in [(3, Durability::Lossless), (2, Durability::Async)] {
        let deaths = at_every_command(None, PlanKind::Switchover, |opts| {
            (opts.members, opts.durability) = (members, durability);
            opts.switches = vec![quiet(4_500, None)];
        });
        println!("{members} members, {durability:?}: {deaths} deaths");
        assert!(deaths >= 4 * 11, "only {deaths} deaths");
    }
}

/// Nobody loses anything by a manager that dies and never returns; who serves meanwhile is said in one place.
#[test]
fn a_manager_that_never_returns_leaves_one_primary_or_none() {
    let (mut closed, mut served, mut undoing) = (0, 0, 0);
    for flavor in [Flavor::MariaDb, Flavor::MySql] {
        for fate in [Fate::NotSent, Fate::NotAnswered] {
            for nth in 1.. {
                let mut opts = usual(flavor, 3);
                (opts.switches, opts.alone) = (vec![quiet(4_500, None)], true);
                let kind = PlanKind::Switchover;
                let successor = Successor::SameStore;
                opts.story =
                    Some(Story { fault: None, later: Vec::new(), lasts: ALONE, kind, nth, fate, successor });
                let run = run(opts);
                let about = format!("{flavor:?} {fate:?} at command {nth}: {:?}", run.told.died_at);
                assert!(run.violation.is_none(), "{about}: {:?}\n{}", run.violation, run.trace.join("\n"));
                let Some((before, after)) = run.told.served else { break };
                let told = run.trace.join("\n");
                if before.is_empty() && told.split(" dies").next().unwrap().contains("takes back") {
                    assert!(after.len() <= 1, "{about}: {after:?} serve\n{told}");
                    undoing += 1;
                    continue;
                }
                let expected =
                    match before.is_empty() && SERVES_AGAIN_WITHIN.is_none_or(|within| within > ALONE) {
                        true => 0,
                        false => 1,
                    };
                assert_eq!(after.len(), expected, "{about}: {after:?} serve\n{told}");
                *(if before.is_empty() { &mut closed } else { &mut served }) += 1;
            }
        }
    }
    println!("{closed} deaths inside the block, {undoing} while taking it back, {served} outside");
    assert!(closed > 12 && served > 12, "{closed} deaths inside the block, {served} outside");
}

/// Whatever befalls whom at whichever command: nothing is lost, and once it is over one primary serves.
#[test]
fn whatever_befalls_a_switchover_it_ends_whole() {
    let mut befallen = 0;
    for (nth_harm, harm) in harms().into_iter().enumerate() {
        for nth in 1..=22 {
            // Each harm meets both families, both moments and both lengths, each command some of them.
            let kind = nth + nth_harm;
            let flavor = if kind.is_multiple_of(2) { Flavor::MySql } else { Flavor::MariaDb };
            let mut opts = usual(flavor, if kind.is_multiple_of(3) { 2 } else { 4 });
            let lasts = Some(if (kind / 4).is_multiple_of(2) { 1_200 } else { 9_000 });
            let late = !(kind / 2).is_multiple_of(2);
            opts.switches = vec![quiet(3_000, Some(Trouble { nth, late, harm, lasts }))];
            let run = run(opts);
            let about = format!("{harm:?} {flavor:?} at command {nth}, late {late}, for {lasts:?} ms");
            assert!(run.violation.is_none(), "{about}: {:?}\n{}", run.violation, run.trace.join("\n"));
            let happened = ["befell a switchover", "manager killed in a switchover"];
            befallen += happened.iter().filter(|what| run.counters.contains_key(**what)).count();
            if harm == Harm::ManagerDies && run.counters.contains_key("manager killed in a switchover") {
                assert!(run.counters.contains_key("switchover resumed"), "{about}: not resumed");
            }
        }
    }
    assert!(befallen > 300, "only {befallen} switchovers met what was meant for them");
}

/// A manager dies in a switchover; another one on a copy of its store goes on with it, then switches back or fails over. The first
/// returns with the switchover unfinished in its own store: it neither goes on with that nor takes it back, for it is not about the
/// cluster as it is now.
#[test]
fn an_older_journal_is_not_gone_on_with() {
    let mut overtaken = 0;
    for nth in 3..=22 {
        for flavor in [Flavor::MariaDb, Flavor::MySql] {
            let mut opts = usual(flavor, 4);
            let harm = Harm::ManagerDiesAndAnotherLeads;
            let back = Switch { at: 8_500, to: Some(0), write_block: 2_000, trouble: None };
            opts.switches =
                vec![quiet(3_000, Some(Trouble { nth, late: false, harm, lasts: Some(9_000) })), back];
            let run = run(opts);
            let about = format!("{flavor:?} at command {nth}");
            assert!(run.violation.is_none(), "{about}: {:?}\n{}", run.violation, run.trace.join("\n"));
            overtaken += run.counters.get("recovery of an older journal ended").copied().unwrap_or(0);
        }
    }
    // That it happens at all is a counter of `scripts/sim`.
    println!("{overtaken} recoveries of an older journal");
}

/// The next primary is recorded, and stands still or is cut off before it opens: it was never let in, has acknowledged nothing, and is
/// replaced although its readers reach it.
#[test]
fn a_next_primary_that_never_opened_is_replaced() {
    let mut replaced = 0;
    for blow in [Blow::Freeze, Blow::CutOff, Blow::Hang] {
        for nth in 3..=16 {
            let kind = if nth % 2 == 0 { Flavor::MySql } else { Flavor::MariaDb };
            let mut opts = usual(kind, 3);
            opts.durability = Durability::Async;
            let trouble = Trouble { nth, late: false, harm: Harm::Target(blow), lasts: Some(20_000) };
            opts.switches = vec![quiet(3_000, Some(trouble))];
            let run = run(opts);
            let about = format!("{blow:?} {kind:?} at command {nth}");
            assert!(run.violation.is_none(), "{about}: {:?}\n{}", run.violation, run.trace.join("\n"));
            replaced += run.counters.get("promoted: lease ran out").copied().unwrap_or(0);
        }
    }
    assert!(replaced > 0, "none was replaced");
}
