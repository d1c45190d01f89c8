//! A whole recovery over the seam: for a failover isolate, then, from what that showed, promote. Run unchanged by the manager
//! and by the simulation; resumed from the journal alone.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::journal::{Journal, Recovery, What};
use super::world::{Token, World};
use super::{Bounds, Finished, From, Outcome, Scope, run, run_within, take_back};
use crate::decide::failover::{self, Isolation};
use crate::decide::lint::lint;
use crate::decide::plan::{Evidence, Plan, PlanKind, Step};
use crate::decide::switchover::{self, Blocked};
use crate::model::instance::InstanceId;
use crate::model::intent::FailoverAsk;
use crate::model::observation::{Access, Process};
use crate::model::view::ClusterView;

const NOTHING_READ: &str = "the old primary's set was not read after the block";

/// Begins the recovery that `plan` (as decided from `view`) asks for, and sees it through. A failover is taken back once `abort` is
/// cancelled, unless it is past its commit point.
///
/// # Errors
/// The journal's: nothing is done that could not be written down first.
pub async fn begin<W: World, J: Journal>(
    view: &ClusterView,
    plan: &Plan,
    (ask, abort): (Option<&FailoverAsk>, &CancellationToken),
    token: &Token,
    world: &W,
    journal: &J,
) -> Result<Outcome, J::Error> {
    let outcome = match accept(plan, journal).await? {
        Some(broken) => broken,
        None if plan.kind == PlanKind::Isolate => {
            let asked = Asked { ask, bounds: Bounds { abort: abort.clone(), ..Bounds::default() } };
            isolate_then_promote(view, plan, From::Start, asked, token, world, journal).await?
        }
        None => run(plan, From::Start, token, world, journal).await?.outcome,
    };
    end(outcome, journal).await
}

/// Begins a plan that gives way: once `abort` is cancelled it goes no further. A long step on a fenced server is left to its agent then;
/// an operator's word about a replica is left in the middle, and taken back.
///
/// # Errors
/// The journal's.
pub async fn begin_yielding<W: World, J: Journal>(
    plan: &Plan,
    abort: &CancellationToken,
    token: &Token,
    world: &W,
    journal: &J,
) -> Result<Outcome, J::Error> {
    let gently = plan.kind == PlanKind::Rejoin;
    let bounds = Bounds { by: None, abort: abort.clone(), gently };
    let scope = Scope { bounds: &bounds, earlier: None, said: Vec::new() };
    let outcome = match accept(plan, journal).await? {
        Some(broken) => broken,
        None => run_within(plan, From::Start, scope, token, world, journal).await?.outcome,
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
    let outcome = if let Some(plan) = recovery.plan(PlanKind::Switchover) {
        resume_switch(plan, recovery, token, world, journal).await?
    } else if let Some((plan, at)) = resumed(PlanKind::Promote) {
        let finished = run(plan, at, token, world, journal).await?;
        let isolate = recovery.plan(PlanKind::Isolate);
        unwind(finished.outcome, isolate, &finished.silent, token, world, journal).await?
    } else if let Some((plan, at)) = resumed(PlanKind::Isolate) {
        let asked = Asked { ask: recovery.ask.as_ref(), bounds: Bounds::default() };
        isolate_then_promote(view, plan, at, asked, token, world, journal).await?
    } else if let Some((plan, at)) = resumed(recovery.kind) {
        run(plan, at, token, world, journal).await?.outcome
    } else {
        Outcome::Undone { why: "the manager died before a plan was stored".to_owned(), left: Vec::new() }
    };
    end(outcome, journal).await
}

/// Begins the switchover that `plan` asks for, and sees it through: done, or taken back within `write_block` of the block's begin.
///
/// # Errors
/// The journal's.
pub async fn switch<W: World, J: Journal>(
    view: &ClusterView,
    plan: &Plan,
    write_block: Duration,
    abort: &CancellationToken,
    token: &Token,
    world: &W,
    journal: &J,
) -> Result<Outcome, J::Error> {
    let outcome = match accept(plan, journal).await? {
        Some(broken) => broken,
        None => block_then_promote(view, plan, write_block, abort, token, world, journal).await?,
    };
    end(outcome, journal).await
}

async fn block_then_promote<W: World, J: Journal>(
    view: &ClusterView,
    plan: &Plan,
    write_block: Duration,
    abort: &CancellationToken,
    token: &Token,
    world: &W,
    journal: &J,
) -> Result<Outcome, J::Error> {
    let mut bounds = Bounds { by: None, abort: abort.clone(), gently: false };
    let scope = Scope { bounds: &bounds, earlier: None, said: Vec::new() };
    let blocked = run_within(plan, From::Start, scope, token, world, journal).await?;
    if blocked.outcome != Outcome::Done {
        return Ok(blocked.outcome);
    }
    let whole = [(plan, plan.stages.len().saturating_sub(1))];
    let promoted = Blocked::of(plan, &blocked.evidence).ok_or_else(|| vec![NOTHING_READ.to_owned()]);
    let promoted = promoted.and_then(|blocked| {
        switchover::promote(view, &blocked)
            .map_err(|obstacles| obstacles.iter().map(ToString::to_string).collect())
    });
    let promote = match promoted {
        Ok(plan) => plan,
        Err(blockers) => {
            journal.write(vec![journal.stamp(What::Refused { blockers: blockers.clone() })]).await?;
            let left = take_back(&whole, &blocked.silent, token, world, journal).await?;
            return Ok(Outcome::Undone { why: blockers.join("; "), left });
        }
    };
    // Writers wait since the plan's last stage began.
    let since = blocked.began.last().map_or_else(Instant::now, |(_, at)| *at);
    let spent = spent(view.primary(), write_block, since.elapsed());
    bounds.by = Some((since + write_block, spent));
    // Written with the first stage: each write is time in which writers wait.
    let said = vec![journal.stamp(What::Accepted { plan: promote.clone() })];
    if let Some(Outcome::Undone { why, .. }) = unsound(&promote) {
        journal.write(said).await?;
        let left = take_back(&whole, &blocked.silent, token, world, journal).await?;
        return Ok(Outcome::Undone { why, left });
    }
    let scope = Scope { bounds: &bounds, earlier: Some(plan), said };
    let outcome = run_within(&promote, From::Start, scope, token, world, journal).await?.outcome;
    let commit = promote.commit.unwrap_or_default();
    let begun = [(&promote, commit), (plan, plan.stages.len().saturating_sub(1))];
    unless_taken_back(outcome, plan, &begun, token, world, journal).await
}

/// Why writers are let on: their time is over. Names the old primary where most of it went by until that had stopped them.
fn spent(primary: Option<&InstanceId>, write_block: Duration, blocking: Duration) -> String {
    let late = primary.filter(|_| blocking > write_block / 2);
    let by = late.map_or_else(String::new, |primary| {
        format!(", {} ms of it until {primary} had answered that its writers wait", blocking.as_millis())
    });
    format!("the write block took longer than {} ms{by}", write_block.as_millis())
}

/// A switchover whose manager died: forward past the commit point; before it taken back, for writers wait already.
async fn resume_switch<W: World, J: Journal>(
    plan: &Plan,
    recovery: &Recovery,
    token: &Token,
    world: &W,
    journal: &J,
) -> Result<Outcome, J::Error> {
    let began = |plan: &Plan| recovery.stage_begun(plan.kind);
    let promote = recovery.plan(PlanKind::Promote);
    if let Some((promote, index)) = promote.and_then(|promote| Some((promote, began(promote)?)))
        && promote.commit.is_some_and(|commit| index >= commit)
        && !recovery.was_undoing()
        && !was_taken_back(plan, world).await
    {
        let outcome = run(promote, From::Stage(index), token, world, journal).await?.outcome;
        let begun = [(promote, index), (plan, plan.stages.len().saturating_sub(1))];
        return unless_taken_back(outcome, plan, &begun, token, world, journal).await;
    }
    let begun: Vec<(&Plan, usize)> =
        promote.into_iter().chain([plan]).filter_map(|plan| Some((plan, began(plan)?))).collect();
    let left = take_back(&begun, &BTreeSet::new(), token, world, journal).await?;
    Ok(Outcome::Undone { why: "the manager died before the commit point".to_owned(), left })
}

/// A promotion that failed past its commit point because the old primary serves again is taken back in the record, and at the replicas.
async fn unless_taken_back<W: World, J: Journal>(
    outcome: Outcome,
    switch: &Plan,
    begun: &[(&Plan, usize)],
    token: &Token,
    world: &W,
    journal: &J,
) -> Result<Outcome, J::Error> {
    let Outcome::Failed { why } = &outcome else { return Ok(outcome) };
    if !was_taken_back(switch, world).await {
        return Ok(outcome);
    }
    let left = take_back(begun, &BTreeSet::new(), token, world, journal).await?;
    Ok(Outcome::Undone { why: why.clone(), left })
}

/// Whether the old primary's agent took it back while its manager stood still or was gone: the voters gave the target's generation up
/// for that, and what is left to do is to record it.
async fn was_taken_back<W: World>(plan: &Plan, world: &W) -> bool {
    let undo = plan.stages.iter().flat_map(|stage| &stage.undo);
    let Some(open) = undo.into_iter().find(|step| matches!(step, Step::Open { .. })) else { return false };
    world.observe(open).await.is_ok_and(|seen| open.is_satisfied(&seen))
}

/// What an operator said of a failover, and may say yet.
struct Asked<'a> {
    ask: Option<&'a FailoverAsk>,
    bounds: Bounds,
}

async fn isolate_then_promote<W: World, J: Journal>(
    view: &ClusterView,
    plan: &Plan,
    from: From,
    Asked { ask, bounds }: Asked<'_>,
    token: &Token,
    world: &W,
    journal: &J,
) -> Result<Outcome, J::Error> {
    // Isolating again from its first stage is harmless, and a resumed manager needs all of its evidence.
    let from = if let From::Stage(_) = from { From::Stage(0) } else { from };
    let scope = || Scope { bounds: &bounds, earlier: None, said: Vec::new() };
    let isolated = run_within(plan, from, scope(), token, world, journal).await?;
    if isolated.outcome != Outcome::Done {
        return Ok(isolated.outcome);
    }
    let Some(primary) = view.primary() else {
        return Ok(Outcome::Failed { why: "no primary is recorded".to_owned() });
    };
    let isolation = isolation(primary, &isolated);
    let mut silent = isolated.silent;
    let promoted = match failover::promote(view, &isolation, ask) {
        Ok(plan) => match accept(&plan, journal).await? {
            Some(broken) => broken,
            None => {
                let finished = run_within(&plan, From::Start, scope(), token, world, journal).await?;
                silent.extend(finished.silent);
                finished.outcome
            }
        },
        Err(blockers) => {
            let blockers: Vec<String> = blockers.iter().map(ToString::to_string).collect();
            journal.write(vec![journal.stamp(What::Refused { blockers: blockers.clone() })]).await?;
            Outcome::Undone { why: blockers.join("; "), left: Vec::new() }
        }
    };
    unwind(promoted, Some(plan), &silent, token, world, journal).await
}

/// A promotion that was taken back takes the isolation back too: replicas listen to the old primary again, should it return.
async fn unwind<W: World, J: Journal>(
    outcome: Outcome,
    isolate: Option<&Plan>,
    silent: &BTreeSet<InstanceId>,
    token: &Token,
    world: &W,
    journal: &J,
) -> Result<Outcome, J::Error> {
    let (Outcome::Undone { why, mut left }, Some(isolate)) = (outcome.clone(), isolate) else {
        return Ok(outcome);
    };
    let whole = [(isolate, isolate.stages.len().saturating_sub(1))];
    left.extend(take_back(&whole, silent, token, world, journal).await?);
    Ok(Outcome::Undone { why, left })
}

/// Stores the plan, unless it breaks a rule no plan may break.
async fn accept<J: Journal>(plan: &Plan, journal: &J) -> Result<Option<Outcome>, J::Error> {
    journal.write(vec![journal.stamp(What::Accepted { plan: plan.clone() })]).await?;
    Ok(unsound(plan))
}

/// How a plan that breaks a rule ends.
fn unsound(plan: &Plan) -> Option<Outcome> {
    let broken = lint(plan);
    if broken.is_empty() {
        return None;
    }
    let why =
        format!("the plan breaks the rules and was not run (please report this): {}", broken.join("; "));
    Some(Outcome::Undone { why, left: Vec::new() })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spent_write_block_names_whose_stopping_took_it() {
        let (db1, ms) = (InstanceId::new("db1", 3306), Duration::from_millis);
        assert_eq!(spent(Some(&db1), ms(2_000), ms(40)), "the write block took longer than 2000 ms");
        assert_eq!(
            spent(Some(&db1), ms(2_000), ms(2_310)),
            "the write block took longer than 2000 ms, 2310 ms of it until db1 had answered that its writers wait"
        );
    }
}
