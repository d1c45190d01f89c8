//! What the manager makes of a world, as text: verdict, candidates, the sentence, and every plan. Every plan must be sound.

use std::fmt::Write as _;

use mha::decide::adopt::adopt;
use mha::decide::failover::{Isolation, promote};
use mha::decide::guard::Blocker;
use mha::decide::lint::lint;
use mha::decide::loss;
use mha::decide::plan::{Plan, PlanKind};
use mha::decide::{Action, Decision, decide, prospect};

use crate::world::World;
use crate::{planned, topology};

/// Decides, and tells all of it.
pub(crate) fn tell(world: &mut World, name: &str) -> String {
    world.observe();
    let mut out = String::new();
    if let Some(answer) = world.answer.take() {
        return format!("answer: {answer}\n");
    }
    if let Some(ask) = world.asks_switchover.take() {
        return planned::tell(world, &ask, name);
    }
    if let Some(ask) = world.asks_replica.take() {
        return topology::tell(world, &ask, name);
    }
    if let Some(primary) = world.asks_adoption.take() {
        match adopt(&world.view, primary.as_ref()) {
            Ok(plan) => show(&mut out, &plan, name),
            Err(reasons) => reasons.iter().for_each(|why| line(&mut out, "not adopted: ", why)),
        }
        return out;
    }
    let decision = decide(&world.view, &world.intents, world.now, world.wall());
    line(&mut out, "verdict: ", &decision.diagnosis.verdict.to_string());
    for evidence in &decision.diagnosis.evidence {
        line(&mut out, "  seen: ", evidence);
    }
    line(&mut out, "candidates:", "");
    for candidate in &decision.ranking.candidates {
        line(&mut out, "  ", &candidate.to_string());
    }
    line(&mut out, "says: ", &decision.sentence);
    let told = prospect(&world.view, &world.intents, &decision.diagnosis, world.now, world.wall());
    if !told.is_empty() {
        line(&mut out, "prospect: ", &told);
    }
    if let Some(ask) = world.intents.failover.as_ref().filter(|ask| ask.accept_loss) {
        line(&mut out, "", &loss::bound(&world.view, &decision.ranking, ask.to.as_ref(), world.now));
    }
    line(&mut out, "does: ", does(&decision));
    if let Action::Act(plan) = &decision.action {
        show(&mut out, plan, name);
        if plan.kind == PlanKind::Isolate {
            promotion(&mut out, world, &decision, name);
        }
    }
    out
}

fn does(decision: &Decision) -> &'static str {
    match &decision.action {
        Action::Rest => "nothing",
        Action::Wait { .. } => "wait",
        Action::Refuse { .. } => "refuse",
        Action::Act(_) => "act",
    }
}

/// What would follow isolating, by what the play says it gave or by what a dry run supposes.
fn promotion(out: &mut String, world: &World, decision: &Decision, name: &str) {
    let Some(primary) = &decision.diagnosis.primary else { return };
    let (title, isolation) = match &world.isolation {
        Some(given) => ("isolating gave: ", given.clone()),
        None => ("if nothing more arrives: ", Isolation::supposed(&world.view, primary)),
    };
    let stopped: Vec<String> = isolation.stopped.keys().map(ToString::to_string).collect();
    let what = format!(
        "{} {}fenced, {}, its log {}readable",
        isolation.primary,
        if isolation.fenced { "" } else { "not " },
        if stopped.is_empty() {
            "nobody stopped".to_owned()
        } else {
            format!("{} stopped", stopped.join(" "))
        },
        if isolation.log_readable { "" } else { "not " }
    );
    line(out, title, &what);
    match promote(&world.view, &isolation, world.intents.failover.as_ref()) {
        Ok(plan) => show(out, &plan, name),
        Err(blockers) => blockers.iter().map(Blocker::to_string).for_each(|why| line(out, "refused: ", &why)),
    }
}

pub(crate) fn show(out: &mut String, plan: &Plan, name: &str) {
    let broken = lint(plan);
    assert!(broken.is_empty(), "{name}: an unsound plan: {broken:?}\n{plan}");
    line(out, "", &plan.to_string());
    if matches!(plan.kind, PlanKind::Promote | PlanKind::Adopt) {
        plan.basis.iter().for_each(|why| line(out, "  because ", why));
    }
}

pub(crate) fn line(out: &mut String, label: &str, text: &str) {
    writeln!(out, "{label}{text}").expect("writing to a string cannot fail");
}
