//! A whole recovery over the seam: for a failover isolate, then, from what that showed, promote. Run unchanged by the manager
//! and by the simulation; resumed from the journal alone.

use super::journal::{Journal, Recovery, What};
use super::world::{Token, World};
use super::{Finished, From, Outcome, run};
use crate::decide::failover::{self, Isolation};
use crate::decide::lint::lint;
use crate::decide::plan::{Evidence, Plan, PlanKind, Step};
use crate::model::instance::InstanceId;
use crate::model::intent::FailoverAsk;
use crate::model::observation::{Access, Process};
use crate::model::view::ClusterView;

/// Begins the recovery that `plan` (as decided from `view`) asks for, and sees it through.
///
/// # Errors
/// The journal's: nothing is done that could not be written down first.
pub async fn begin<W: World, J: Journal>(
    view: &ClusterView,
    plan: &Plan,
    ask: Option<&FailoverAsk>,
    token: &Token,
    world: &W,
    journal: &J,
) -> Result<Outcome, J::Error> {
    let outcome = match accept(plan, journal).await? {
        Some(broken) => broken,
        None if plan.kind == PlanKind::Isolate => {
            isolate_then_promote(view, plan, From::Start, ask, token, world, journal).await?
        }
        None => run(plan, From::Start, token, world, journal).await?.outcome,
    };
    end(outcome, journal).await
}

/// Goes on with a recovery whose manager died: forward past the commit point, from the first stage not known done before it.
///
/// # Errors
/// The journal's.
pub async fn resume<W: World, J: Journal>(
    view: &ClusterView,
    recovery: &Recovery,
    token: &Token,
    world: &W,
    journal: &J,
) -> Result<Outcome, J::Error> {
    let resumed = |kind| {
        let index = recovery.stage_begun(kind).unwrap_or(0);
        let from = if recovery.was_undoing() { From::Undoing(index) } else { From::Stage(index) };
        recovery.plan(kind).map(|plan| (plan, from))
    };
    let outcome = if let Some((plan, at)) = resumed(PlanKind::Promote) {
        let finished = run(plan, at, token, world, journal).await?;
        let isolate = recovery.plan(PlanKind::Isolate);
        unwind(finished.outcome, isolate, token, world, journal).await?
    } else if let Some((plan, at)) = resumed(PlanKind::Isolate) {
        isolate_then_promote(view, plan, at, recovery.ask.as_ref(), token, world, journal).await?
    } else if let Some((plan, at)) = resumed(recovery.kind) {
        run(plan, at, token, world, journal).await?.outcome
    } else {
        Outcome::Undone { why: "the manager died before a plan was stored".to_owned(), left: Vec::new() }
    };
    end(outcome, journal).await
}

async fn isolate_then_promote<W: World, J: Journal>(
    view: &ClusterView,
    plan: &Plan,
    from: From,
    ask: Option<&FailoverAsk>,
    token: &Token,
    world: &W,
    journal: &J,
) -> Result<Outcome, J::Error> {
    // Isolating again from its first stage is harmless, and a resumed manager needs all of its evidence.
    let from = if let From::Stage(_) = from { From::Stage(0) } else { from };
    let isolated = run(plan, from, token, world, journal).await?;
    if isolated.outcome != Outcome::Done {
        return Ok(isolated.outcome);
    }
    let Some(primary) = view.primary() else {
        return Ok(Outcome::Failed { why: "no primary is recorded".to_owned() });
    };
    let isolation = isolation(primary, &isolated);
    let promoted = match failover::promote(view, &isolation, ask) {
        Ok(plan) => match accept(&plan, journal).await? {
            Some(broken) => broken,
            None => run(&plan, From::Start, token, world, journal).await?.outcome,
        },
        Err(blockers) => {
            let blockers: Vec<String> = blockers.iter().map(ToString::to_string).collect();
            journal.write(vec![journal.stamp(What::Refused { blockers: blockers.clone() })]).await?;
            Outcome::Undone { why: blockers.join("; "), left: Vec::new() }
        }
    };
    unwind(promoted, Some(plan), token, world, journal).await
}

/// A promotion that was taken back takes the isolation back too: replicas listen to the old primary again, should it return.
async fn unwind<W: World, J: Journal>(
    outcome: Outcome,
    isolate: Option<&Plan>,
    token: &Token,
    world: &W,
    journal: &J,
) -> Result<Outcome, J::Error> {
    let (Outcome::Undone { why, mut left }, Some(isolate)) = (outcome.clone(), isolate) else {
        return Ok(outcome);
    };
    for stage in isolate.stages.iter().rev().filter(|stage| !stage.undo.is_empty()) {
        journal.write(vec![journal.stamp(What::Undoing { stage: stage.name.clone() })]).await?;
        for step in &stage.undo {
            match world.apply(step, token).await {
                Ok(seen) if step.is_satisfied(&seen) => {}
                Ok(_) => left.push(format!("{step}: without effect")),
                Err(error) => left.push(format!("{step}: {error}")),
            }
        }
    }
    Ok(Outcome::Undone { why, left })
}

/// Stores the plan, unless it breaks a rule no plan may break.
async fn accept<J: Journal>(plan: &Plan, journal: &J) -> Result<Option<Outcome>, J::Error> {
    journal.write(vec![journal.stamp(What::Accepted { plan: plan.clone() })]).await?;
    let broken = lint(plan);
    if broken.is_empty() {
        return Ok(None);
    }
    let why =
        format!("the plan breaks the rules and was not run (please report this): {}", broken.join("; "));
    Ok(Some(Outcome::Undone { why, left: Vec::new() }))
}

async fn end<J: Journal>(outcome: Outcome, journal: &J) -> Result<Outcome, J::Error> {
    journal.write(vec![journal.stamp(What::Ended { outcome: outcome.clone() })]).await?;
    Ok(outcome)
}

/// What isolating showed, out of what was read after each of its steps.
fn isolation(primary: &InstanceId, isolated: &Finished) -> Isolation {
    let mut found = Isolation {
        primary: primary.clone(),
        fenced: false,
        stopped: Default::default(),
        log_readable: false,
    };
    for (step, evidence) in &isolated.evidence {
        match (step, evidence) {
            (Step::StopReceiving { instance, .. }, Evidence { report: Some(report), .. }) => {
                found.stopped.insert(instance.clone(), report.clone());
            }
            // Only the answer to the fence of this recovery, for its generation: an older fence may have been lifted since.
            (Step::Fence { instance, generation }, Evidence { agent: Some(agent), .. })
                if instance == primary =>
            {
                let for_this = agent.fenced.is_some_and(|fenced| fenced >= *generation);
                found.fenced |= for_this && agent.access == Access::Closed;
                found.log_readable |= matches!(agent.process, Process::Gone { .. });
            }
            (Step::Kill { instance }, Evidence { agent: Some(agent), .. }) if instance == primary => {
                found.log_readable |= matches!(agent.process, Process::Gone { .. });
            }
            _ => {}
        }
    }
    found
}
