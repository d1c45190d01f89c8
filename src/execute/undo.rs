//! Takes back what was begun: each server's undo steps in their order, servers side by side.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::future::join_all;
use tokio::time::Instant;

use super::journal::{Journal, What};
use super::world::{StepError, Token, World};
use crate::decide::plan::{Plan, PlanKind, Stage, Step};
use crate::model::instance::InstanceId;

const NOT_TRIED: &str = "not tried: it did not answer a moment ago";
const NOT_WON: &str = "not tried: a majority of voters did not accept its generation";

/// One step to be done, with the stage whose undo it is.
type Back<'a> = (&'a str, &'a Step);

/// Takes back the begun stages of these plans, each given with the index of the last one begun: last first, servers side by
/// side, so that one that hangs does not keep another from serving. Gives back what could not be.
///
/// In a failover nobody serves while this lasts, so a server that does not answer is asked no second time; `silent` are those that
/// did not before. What is left of them is mended when they return. After a block each step is tried, for the old primary may serve;
/// but it does not open for a generation that a claim just before did not win.
///
/// # Errors
/// The journal's.
pub async fn take_back<W: World, J: Journal>(
    begun: &[(&Plan, usize)],
    silent: &BTreeSet<InstanceId>,
    token: &Token,
    world: &W,
    journal: &J,
) -> Result<Vec<String>, J::Error> {
    let stages: Vec<&Stage> = begun
        .iter()
        .flat_map(|(plan, last)| plan.stages.iter().take(last + 1).rev())
        .filter(|stage| !stage.undo.is_empty())
        .collect();
    if stages.is_empty() {
        return Ok(Vec::new());
    }
    let said = stages.iter().map(|stage| journal.stamp(What::Undoing { stage: stage.name.clone() }));
    journal.write(said.collect()).await?;
    let token = &Token { back: true, ..token.clone() };
    let serves_after = begun.iter().any(|(plan, _)| plan.kind == PlanKind::Switchover);
    let results = join_all(by_server(&stages).into_iter().map(|(instance, steps)| {
        let patience = match serves_after {
            true => Patience::EachStep,
            false if silent.contains(instance) => Patience::Spent,
            false => Patience::UntilSilent,
        };
        undo(steps, patience, token, world)
    }))
    .await;
    let (mut left, mut said) = (Vec::new(), Vec::new());
    for ((stage, step), result, took) in results.into_iter().flatten() {
        let (stage, text) = (stage.to_owned(), step.to_string());
        match result {
            Ok(()) => said.push(What::Done { stage, step: text, took, note: "taken back".to_owned() }),
            Err(why) => {
                left.push(format!("{text}: {why}"));
                said.push(What::Failed { stage, step: text, took, why });
            }
        }
    }
    journal.write(said.into_iter().map(|what| journal.stamp(what)).collect()).await?;
    Ok(left)
}

fn by_server<'a>(stages: &[&'a Stage]) -> Vec<(&'a InstanceId, Vec<Back<'a>>)> {
    let mut servers: Vec<(&InstanceId, Vec<Back>)> = Vec::new();
    for stage in stages {
        for step in &stage.undo {
            let entry = (stage.name.as_str(), step);
            match servers.iter_mut().find(|(instance, _)| *instance == step.instance()) {
                Some((_, steps)) => steps.push(entry),
                None => servers.push((step.instance(), vec![entry])),
            }
        }
    }
    servers
}

/// How long one server is waited for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Patience {
    /// Each step is tried, whatever became of the one before.
    EachStep,
    /// Nothing more is asked after a question without an answer.
    UntilSilent,
    Spent,
}

async fn undo<'a, W: World>(
    steps: Vec<Back<'a>>,
    mut patience: Patience,
    token: &Token,
    world: &W,
) -> Vec<(Back<'a>, Result<(), String>, Duration)> {
    let mut results = Vec::new();
    let mut won = true;
    for back @ (_, step) in steps {
        let began = Instant::now();
        // A voter believes whoever renews a later generation: without the claim somebody else may be open still.
        if !won && rests_on_a_claim(step) {
            results.push((back, Err(NOT_WON.to_owned()), Duration::ZERO));
            continue;
        }
        if patience == Patience::Spent {
            results.push((back, Err(NOT_TRIED.to_owned()), Duration::ZERO));
            continue;
        }
        // What a world observes may be older than the stage: acted upon without a look.
        let result = match world.apply(step, token).await {
            Ok(seen) if step.is_satisfied(&seen) => Ok(()),
            Ok(_) => Err("it is not so when read back".to_owned()),
            Err(error) => {
                if patience == Patience::UntilSilent && matches!(error, StepError::NoAnswer { .. }) {
                    patience = Patience::Spent;
                }
                Err(error.to_string())
            }
        };
        won &= result.is_ok() || !matches!(step, Step::Claim { .. });
        results.push((back, result, began.elapsed()));
    }
    results
}

/// Nobody opens, and nobody is recorded, for a generation that voters did not give.
fn rests_on_a_claim(step: &Step) -> bool {
    matches!(step, Step::Open { .. } | Step::HoldVip { .. } | Step::Register { .. })
}
