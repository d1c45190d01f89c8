//! Properties of plays nobody wrote: random clusters, random misfortune, and what must hold of whatever is decided.

use std::time::Duration;

use mha::decide::failover::{Isolation, promote};
use mha::decide::lint::lint;
use mha::decide::plan::{Evidence, Plan, PlanKind, Step};
use mha::decide::{Action, decide};
use mha::model::gtid::GtidSet;
use mha::model::instance::InstanceId;
use mha::model::view::{ClusterView, Seen};
use proptest::prelude::*;

use crate::commands::perform;
use crate::world::World;

/// What may befall a replica.
const FATES: [&str; 12] = [
    "",
    "",
    "",
    "preferred",
    "never",
    "filtered",
    "delayed 60s",
    "applier stopped 1062 duplicate key",
    "receiver stopped",
    "no-replica-updates",
    "errant 2",
    "version 11.4.2",
];

/// What may befall the primary.
const DEATHS: [&str; 9] = [
    "kill db1",
    "host-down db1",
    "stop db1",
    "freeze db1",
    "cut manager db1",
    "db1 too-many-connections",
    "db1 refuses",
    "kill-agent db1",
    "db1 heartbeat stuck",
];

/// A random play: cluster kind, replicas' positions and fates, the primary's death, and how long it lasts.
#[derive(Debug, Clone)]
struct Play {
    lossless: bool,
    agents: bool,
    mysql: bool,
    replicas: Vec<(u64, u64, usize)>,
    death: usize,
    seconds: u64,
    gone: Option<usize>,
}

impl Play {
    fn names(&self) -> Vec<String> {
        (2..self.replicas.len() + 2).map(|n| format!("db{n}")).collect()
    }

    fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!(
            "cluster orders: db1 primary, {} replicas, {}, {}, {}",
            self.names().join(" "),
            if self.lossless { "lossless" } else { "async" },
            if self.agents { "agents" } else { "no agents" },
            if self.mysql { "mysql" } else { "mariadb" }
        )];
        for (name, (received, unapplied, fate)) in self.names().iter().zip(&self.replicas) {
            let applied = received.saturating_sub(*unapplied).max(1);
            lines.push(format!("{name} received {received} applied {applied}"));
            if !FATES[*fate].is_empty() {
                lines.push(format!("{name} {}", FATES[*fate]));
            }
        }
        lines.push("wait 1s".to_owned());
        if let Some(gone) = self.gone {
            lines.push(format!("host-down {}", self.names()[gone % self.replicas.len()]));
        }
        lines.push(DEATHS[self.death].to_owned());
        lines.push(format!("wait {}s", self.seconds));
        lines
    }

    fn world(&self) -> World {
        enact(&self.lines())
    }
}

fn enact(lines: &[String]) -> World {
    let mut world = None;
    for line in lines {
        perform(&mut world, line).unwrap_or_else(|why| panic!("{line:?}: {why}"));
    }
    world.expect("the first line makes one")
}

fn play() -> impl Strategy<Value = Play> {
    let replica = (80_u64..=100, 0_u64..=20, 0..FATES.len());
    (
        any::<bool>(),
        any::<bool>(),
        any::<bool>(),
        proptest::collection::vec(replica, 1..=4),
        0..DEATHS.len(),
        0_u64..=6,
        proptest::option::weighted(0.3, 0_usize..4),
    )
        .prop_map(|(lossless, agents, mysql, replicas, death, seconds, gone)| Play {
            lossless,
            agents,
            mysql,
            replicas,
            death,
            seconds,
            gone,
        })
}

fn promotion(view: &ClusterView) -> Option<Plan> {
    let primary = view.primary()?;
    promote(view, &Isolation::supposed(view, primary), None).ok()
}

fn leader(plan: &Plan) -> Option<InstanceId> {
    plan.steps().find(|step| matches!(step, Step::Open { .. })).map(|step| step.instance().clone())
}

/// What the plan's leader has before it opens.
fn target(plan: &Plan) -> Option<GtidSet> {
    plan.steps()
        .find_map(|step| if let Step::WaitApplied { set, .. } = step { Some(set.clone()) } else { None })
}

fn salvages(plan: &Plan) -> bool {
    plan.steps().any(|step| matches!(step, Step::Salvage { required: true, .. }))
}

/// One server has many names: whoever still receives is not stopped, whatever its source is called.
#[test]
fn stopped_is_stopped_whatever_the_source_is_called() {
    let mut world =
        enact(&["cluster orders: db1 primary, db2 replica, lossless, agents, mariadb".to_owned()]);
    let stop =
        Step::StopReceiving { instance: InstanceId::new("db2", 3306), source: InstanceId::new("db1", 3306) };
    for (line, stopped) in [
        ("db2 follows db1", false),
        ("db2 follows 10.0.0.1", false),
        ("db2 receiver stopped", true),
        ("db2 follows nobody", true),
    ] {
        let mut playing = Some(world);
        perform(&mut playing, line).unwrap();
        world = playing.unwrap();
        let report = world.report(world.hosts.iter().find(|host| host.id == 2).unwrap());
        let seen = Evidence { report: Some(report), ..Evidence::default() };
        assert_eq!(stop.is_satisfied(&seen), stopped, "{line}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is decided: plans are sound, and a failover follows from death, not from doubt.
    #[test]
    fn every_act_is_sound_and_decided(play in play()) {
        let world = play.world();
        let decision = decide(&world.view, &world.intents, world.now, world.wall());
        prop_assert!(!decision.sentence.is_empty());
        let Action::Act(plan) = &decision.action else { return Ok(()) };
        prop_assert_eq!(lint(plan), Vec::<String>::new());
        if plan.kind == PlanKind::Isolate {
            prop_assert!(decision.diagnosis.verdict.calls_for_failover(), "{:?}", decision.diagnosis);
            let promoted = promotion(&world.view);
            prop_assert!(promoted.is_some(), "isolated without anybody to promote: {}", decision.sentence);
            prop_assert_eq!(lint(&promoted.unwrap()), Vec::<String>::new());
        }
    }

    /// A primary that answers this manager or that somebody hears is never replaced.
    #[test]
    fn no_failover_of_a_primary_somebody_hears(play in play(), death in 4_usize..=7) {
        prop_assert!(["cut manager db1", "db1 too-many-connections", "db1 refuses", "kill-agent db1"].contains(&DEATHS[death]));
        let play = Play { death, gone: None, ..play };
        let world = play.world();
        let decision = decide(&world.view, &world.intents, world.now, world.wall());
        prop_assert!(!decision.diagnosis.verdict.calls_for_failover(), "{}", decision.sentence);
    }

    /// Invariant I3: nothing a reachable server is known to have is left behind without a word; errant transactions are, and so is what only
    /// the old primary's log can give, by a required salvage.
    #[test]
    fn the_leader_has_everything_anybody_has(play in play()) {
        let world = play.world();
        let Some(plan) = promotion(&world.view) else { return Ok(()) };
        if salvages(&plan) {
            return Ok(());
        }
        let target = target(&plan).unwrap();
        for (instance, seen) in world.view.replicas() {
            let Some(report) = seen.latest() else { continue };
            let errant = seen.errant.clone().unwrap_or_else(|| GtidSet::empty(target.flavor()));
            let missing = report.known().minus(&errant).minus(&target);
            prop_assert!(missing.is_empty(), "{instance} has {missing} beyond {target}");
        }
    }

    /// A replica that does not answer adds no courage: no refusal becomes a promotion of a less advanced server.
    #[test]
    fn an_unreachable_replica_adds_no_courage(play in play()) {
        let before = play.world();
        let mut lines = play.lines();
        let extra = format!("db{}", play.replicas.len() + 2);
        let names = play.names();
        lines[0] = lines[0].replace(&names.join(" "), &format!("{} {extra}", names.join(" ")));
        lines.insert(1, format!("host-down {extra}"));
        let after = enact(&lines);
        match (promotion(&before.view), promotion(&after.view)) {
            (None, Some(plan)) => prop_assert!(false, "it led to {plan}"),
            (Some(old), Some(new)) if !salvages(&old) && !salvages(&new) => {
                prop_assert!(target(&new).unwrap().contains(&target(&old).unwrap()));
            }
            (Some(_), Some(_)) | (_, None) => {}
        }
    }

    /// Names decide nothing: the same cluster under other names, in the same configuration order, makes the same choice.
    #[test]
    fn names_decide_nothing(play in play()) {
        let choice = promotion(&play.world().view).and_then(|plan| leader(&plan));
        let rename = |text: &str| {
            // Names that sort the other way round.
            (1..=play.replicas.len() + 1).fold(text.to_owned(), |text, n| {
                text.replace(&format!("db{n}"), &format!("host{}", 9 - n))
            })
        };
        let lines: Vec<String> = play.lines().iter().map(|line| rename(line)).collect();
        let renamed = promotion(&enact(&lines).view).and_then(|plan| leader(&plan));
        prop_assert_eq!(choice.map(|chosen| rename(&chosen.to_string())), renamed.map(|chosen| chosen.to_string()));
    }

    /// Order is the last tie-break only: whoever is chosen, in any configuration order, has the same set and the same rank before it.
    #[test]
    fn order_breaks_ties_only(play in play()) {
        let names = play.names();
        let backwards: Vec<String> = names.iter().rev().cloned().collect();
        let mut lines = play.lines();
        lines[0] = lines[0].replace(&names.join(" "), &backwards.join(" "));
        let (one, other) = (play.world(), enact(&lines));
        // Server ids follow the order of the configuration, and errant transactions are named by them.
        prop_assume!(one.view.seen.values().all(|seen: &Seen| seen.errant.is_none()));
        match (promotion(&one.view), promotion(&other.view)) {
            (Some(one), Some(other)) => prop_assert_eq!(target(&one), target(&other)),
            (None, None) => {}
            (one, other) => prop_assert!(false, "{one:?} / {other:?}"),
        }
    }

    /// Time alone brings no doubtful act: from one moment to the next a wait may become an act only of a primary that calls for it.
    #[test]
    fn undecided_evidence_never_acts(play in play()) {
        let mut world = play.world();
        for _ in 0..8 {
            let decision = decide(&world.view, &world.intents, world.now, world.wall());
            if let Action::Act(plan) = &decision.action {
                let verdict = decision.diagnosis.verdict;
                let failover = matches!(plan.kind, PlanKind::Isolate | PlanKind::Promote);
                prop_assert!(!failover || verdict.calls_for_failover(), "{}", decision.sentence);
            }
            world.wait(Duration::from_millis(500));
        }
    }
}
