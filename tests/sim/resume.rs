//! Killed at every command: of an adoption, of failovers, of a rejoin, of a reopening and of giving lossless up and taking it
//! back. The next manager finds the real store's file, resumes or begins anew, and the cluster is well in the end.

use mha::decide::plan::PlanKind;
use mha::execute::Outcome;
use mha::model::instance::Flavor;
use mha::model::policy::{Durability, WithoutAckers};
use mha::model::wishes::{Change, Threads};

use super::basics::{Options, Planted, ask, below};
use super::faults::Fault;
use super::run;
use super::state::Event;
use super::story::{Fate, Story, Successor};

/// What may happen at a command, and who goes on.
const FATES: [(Fate, Successor); 8] = [
    (Fate::NotSent, Successor::SameStore),
    (Fate::NotAnswered, Successor::SameStore),
    (Fate::Recorded, Successor::SameStore),
    (Fate::NotAnswered, Successor::DiesToo),
    (Fate::NotAnswered, Successor::OlderStore),
    (Fate::Recorded, Successor::OlderStore),
    (Fate::AnswerLost, Successor::SameStore),
    (Fate::SentTwice, Successor::SameStore),
];

/// Tells the story once for each command of it, in every way in which it can go wrong there; the number of commands it went wrong at.
pub(crate) fn at_every_command(fault: Option<Fault>, kind: PlanKind, change: impl Fn(&mut Options)) -> usize {
    let mut deaths = 0;
    for flavor in [Flavor::MariaDb, Flavor::MySql] {
        for (fate, successor) in FATES {
            // An older store does not have what an operator asked for since: he has to ask again.
            if kind == PlanKind::Topology && successor == Successor::OlderStore {
                continue;
            }
            for nth in 1.. {
                let mut opts = Options::of(7, Planted::Nothing);
                (opts.members, opts.flavor, opts.acks) = (3, flavor, 1);
                (opts.durability, opts.without_ackers) = (Durability::Lossless, WithoutAckers::Block);
                (opts.asks, opts.switches) = (Vec::new(), Vec::new());
                opts.story = Some(Story {
                    fault: fault.clone(),
                    later: Vec::new(),
                    lasts: 12_000,
                    kind,
                    nth,
                    fate,
                    successor,
                });
                change(&mut opts);
                let run = run(opts);
                let about =
                    format!("{flavor:?} {fate:?} {successor:?} at command {nth}: {:?}", run.told.died_at);
                let trace = || run.trace.join("\n");
                assert!(run.violation.is_none(), "{about}: {:?}\n{}", run.violation, trace());
                for outcome in &run.told.resumed {
                    let whole = match outcome {
                        Outcome::Done => true,
                        Outcome::Undone { left, .. } => left.is_empty(),
                        Outcome::Failed { .. } => false,
                    };
                    assert!(whole, "{about}: {outcome:?}\n{}", trace());
                }
                if run.told.died_at.is_none() {
                    break;
                }
                // The old primary does not come back before the story ends: what this one did itself must not keep the next from going on.
                let waited_for = fault == Some(Fault::Power(0)) && kind == PlanKind::Isolate;
                let died = !matches!(fate, Fate::AnswerLost | Fate::SentTwice);
                if waited_for && died && successor == Successor::SameStore {
                    let after = run.told.opened_after.unwrap_or(u64::MAX);
                    assert!(
                        after < 12_000,
                        "{about}: nobody leads before the old primary is back\n{}",
                        trace()
                    );
                }
                let lives = matches!(fate, Fate::AnswerLost | Fate::SentTwice);
                let resumed = run.told.resumed.len();
                let as_meant = match successor {
                    _ if lives => resumed == 0,
                    Successor::SameStore => resumed == 1,
                    // The second manager may have ended the operation before its own first command, which is one of the next.
                    Successor::DiesToo => (1..=2).contains(&resumed),
                    Successor::OlderStore => resumed == 0,
                };
                assert!(as_meant, "{about}: resumed {resumed} times\n{}", trace());
                deaths += 1;
            }
        }
    }
    deaths
}

#[test]
fn an_adoption_ends_whole() {
    let deaths = at_every_command(None, PlanKind::Adopt, |_| {});
    assert!(deaths >= 4 * 9, "only {deaths} deaths");
}

#[test]
fn a_failover_from_a_killed_server_ends_whole() {
    let deaths = at_every_command(Some(Fault::Kill(0)), PlanKind::Isolate, |_| {});
    assert!(deaths >= 4 * 12, "only {deaths} deaths");
}

#[test]
fn a_failover_from_a_lost_host_ends_whole() {
    let deaths = at_every_command(Some(Fault::Power(0)), PlanKind::Isolate, |_| {});
    assert!(deaths >= 4 * 11, "only {deaths} deaths");
}

#[test]
fn a_failover_from_a_hung_server_ends_whole() {
    let deaths = at_every_command(Some(Fault::Hang(0)), PlanKind::Isolate, |_| {});
    assert!(deaths >= 4 * 12, "only {deaths} deaths");
}

#[test]
fn a_rejoin_ends_whole() {
    let deaths = at_every_command(Some(Fault::Kill(0)), PlanKind::Rejoin, |_| {});
    assert!(deaths >= 4 * 4, "only {deaths} deaths");
}

#[test]
fn a_restarted_replica_s_return_ends_whole() {
    let deaths = at_every_command(Some(Fault::Kill(2)), PlanKind::Rejoin, |_| {});
    assert!(deaths >= 4 * 4, "only {deaths} deaths");
}

#[test]
fn giving_lossless_up_and_taking_it_back_ends_whole() {
    let deaths = at_every_command(Some(Fault::CutOff(1)), PlanKind::Repair, |opts| {
        opts.members = 2;
        opts.without_ackers = WithoutAckers::Degrade;
    });
    assert!(deaths >= 4 * 5, "only {deaths} deaths");
}

/// The host is lost while commits wait, so that its server returns with what nobody else has: saved, set back, followed.
#[test]
fn a_return_with_a_tail_of_its_own_ends_whole() {
    let of = |seed| {
        let mut opts = Options::of(seed, Planted::Nothing);
        (opts.members, opts.flavor, opts.acks) = (3, Flavor::MySql, 1);
        (opts.durability, opts.without_ackers) = (Durability::Lossless, WithoutAckers::Block);
        opts.switches = Vec::new();
        opts
    };
    let lives = Story {
        fault: Some(Fault::Power(0)),
        later: Vec::new(),
        lasts: 12_000,
        kind: PlanKind::Rejoin,
        nth: 1_000,
        fate: Fate::Lives,
        successor: Successor::SameStore,
    };
    let sets_back = |seed: &u64| {
        let opts = Options { story: Some(lives.clone()), ..of(*seed) };
        run(opts).counters.contains_key("set back")
    };
    let seed = (0..400).find(sets_back).expect("a host is lost while a commit waits");
    let deaths = at_every_command(Some(Fault::Power(0)), PlanKind::Rejoin, |opts| {
        *opts = Options { story: opts.story.take(), ..of(seed) };
    });
    assert!(deaths >= 4 * 7, "only {deaths} deaths");
}

/// A replica stopped, started, put below another one, and back.
#[test]
fn a_replicas_change_by_command_ends_whole() {
    let steps = [
        (Change::Stop { threads: Threads::Both }, 3),
        (Change::Stop { threads: Threads::Applier }, 4),
        (below(1), 3),
    ];
    for (change, least) in steps {
        let back = if change == below(1) { below(0) } else { Change::Start };
        let deaths = at_every_command(None, PlanKind::Topology, |opts| {
            opts.members = 4;
            opts.asks = vec![ask(3, change.clone()), ask(3, back.clone())];
        });
        assert!(deaths >= 4 * 2 * least, "only {deaths} deaths of {change:?}");
    }
}

/// The primary is killed, and at each command of its failover the server hangs that the command is for. Another one leads after a
/// statement's patience (5 s) and a pause (2 s); past the commit point after two of the first, for a new primary is not given up sooner. Counted
/// from the kill, half a second before the server hangs.
#[test]
fn a_server_that_hangs_in_the_middle_of_a_failover_is_left() {
    for flavor in [Flavor::MariaDb, Flavor::MySql] {
        for nth in 1.. {
            let mut opts = Options::of(7, Planted::Nothing);
            (opts.members, opts.flavor, opts.acks) = (4, flavor, 1);
            (opts.durability, opts.without_ackers) = (Durability::Lossless, WithoutAckers::Block);
            let (fault, fate) = (Some(Fault::Kill(0)), Fate::ServerHangs);
            (opts.asks, opts.switches) = (Vec::new(), Vec::new());
            let (kind, successor) = (PlanKind::Isolate, Successor::SameStore);
            opts.story = Some(Story { fault, later: Vec::new(), lasts: 60_000, kind, nth, fate, successor });
            let run = run(opts);
            let about = format!("{flavor:?} at command {nth}: {:?}", run.told.died_at);
            assert!(run.violation.is_none(), "{about}: {:?}\n{}", run.violation, run.trace.join("\n"));
            let Some(after) = run.told.opened_after else { panic!("{about}: nobody leads") };
            assert!(after <= 12_500, "{about}: somebody leads after {after} ms\n{}", run.trace.join("\n"));
            if run.told.died_at.is_none() {
                break;
            }
        }
    }
}

/// Lossless is given up, and what is acknowledged then is on the primary alone. The manager is restored from a copy that knows nothing of it, and
/// has never seen the primary, which is gone: nobody is promoted before it is back.
#[test]
fn a_manager_on_an_older_store_does_not_take_lossless_to_be_in_force() {
    for flavor in [Flavor::MariaDb, Flavor::MySql] {
        let mut opts = Options::of(7, Planted::Nothing);
        (opts.members, opts.flavor, opts.acks) = (2, flavor, 1);
        (opts.durability, opts.without_ackers) = (Durability::Lossless, WithoutAckers::Degrade);
        (opts.asks, opts.switches) = (Vec::new(), Vec::new());
        let later = vec![
            (7_000, Event::ManagerDies { m: 0, tries: 0 }),
            (8_000, Event::Hit(Fault::Power(0))),
            (8_500, Event::Mend(Fault::CutOff(1))),
            (9_000, Event::Succeed(0)),
        ];
        opts.story = Some(Story {
            fault: Some(Fault::CutOff(1)),
            later,
            lasts: 40_000,
            kind: PlanKind::Repair,
            nth: 1_000,
            fate: Fate::Lives,
            successor: Successor::OlderStore,
        });
        let run = run(opts);
        let trace = run.trace.join("\n");
        assert!(run.violation.is_none(), "{flavor:?}: {:?}\n{trace}", run.violation);
        let refused = trace.matches("data directory is older than its last lead").count();
        assert!(refused > 0, "{flavor:?}: nothing was refused\n{trace}");
    }
}
