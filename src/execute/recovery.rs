//! A whole operation over the seam: its first plan, then whatever is decided to follow from what that showed. Run unchanged by the
//! manager and by the simulation; resumed from the journal alone. Which plan follows which is none of its business.

use std::collections::BTreeSet;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::journal::{Journal, Recovery, What};
use super::operations::recall_proven;
use super::world::{Token, World};
use super::{Bounds, Finished, From, Outcome, Scope, run, run_within, take_back};
use crate::decide::lint::lint;
use crate::decide::operation::{Conduct, FollowingPlan, Next, OnDeath, Stop, next_plan};
use crate::decide::plan::{Plan, Step};
use crate::decide::reopen::led_since;
use crate::model::instance::InstanceId;
use crate::model::intent::FailoverAsk;
use crate::model::view::ClusterView;

/// What an operation begins with.
#[derive(Debug, Clone, Copy)]
pub struct Operation<'a> {
    /// As it was when the plan was decided.
    pub view: &'a ClusterView,
    pub plan: &'a Plan,
    /// The operator's word it follows, if any.
    pub ask: Option<&'a FailoverAsk>,
}

/// Begins the operation, and sees it through: done, or taken back. Once `abort` is cancelled it goes no further than its kind says,
/// unless it is past its commit point.
///
/// # Errors
/// The journal's: nothing is done that could not be written down first.
pub async fn begin<W: World, J: Journal>(
    operation: Operation<'_>,
    abort: &CancellationToken,
    token: &Token,
    world: &W,
    journal: &J,
) -> Result<Outcome, J::Error> {
    let plan = operation.plan;
    journal.write(vec![journal.stamp(What::Accepted { plan: plan.clone() })]).await?;
    let outcome = match unsound(plan) {
        Some(broken) => broken,
        None => {
            let bounds = bounds(Conduct::of(plan.kind).stop, abort);
            carry_on(operation, From::Start, bounds, token, world, journal).await?
        }
    };
    end(outcome, journal).await
}

fn bounds(stop: Stop, abort: &CancellationToken) -> Bounds {
    match stop {
        Stop::Never => Bounds::default(),
        Stop::AtOnce => Bounds { abort: abort.clone(), ..Bounds::default() },
        Stop::AfterStep => Bounds { abort: abort.clone(), gently: true, ..Bounds::default() },
    }
}

/// Goes on with an operation whose manager died: forward past the commit point; before it as its kind says.
///
/// Where another manager has led since, that one may have gone on with it, or with more: neither its next stage nor its undo is about the
/// servers as they are now. It ends here, and what is left of it is decided from what is seen. So it is where a server leads that this store
/// knows nothing of. A copy of a store is not told from the store itself, and its journal may be older than what was done: whatever rests
/// on an earlier stage makes that true again first.
///
/// Once `abort` is cancelled, what goes on before its commit point goes no further than its kind says.
///
/// # Errors
/// The journal's.
pub async fn resume<W: World, J: Journal>(
    view: &ClusterView,
    recovery: &Recovery,
    abort: &CancellationToken,
    token: &Token,
    world: &W,
    journal: &J,
) -> Result<Outcome, J::Error> {
    let mut view = view.clone();
    recall_proven(recovery, &mut view);
    let view = &view;
    let plans: Vec<&Plan> = recovery.plans().collect();
    let begun = |plan: &Plan| recovery.stage_begun(plan.kind).unwrap_or(0);
    if let Some(why) = ended_elsewhere(view, recovery) {
        let left = recovery.left_undone("not tried: another manager has led since");
        return end(Outcome::Undone { why, left }, journal).await;
    }
    let outcome = match plans.as_slice() {
        [] => {
            Outcome::Undone { why: "the manager died before a plan was stored".to_owned(), left: Vec::new() }
        }
        [first, later @ ..] => match (Conduct::of(first.kind).on_death, later.last()) {
            (OnDeath::TakeBack, next) => {
                resume_or_take_back(first, next.copied(), recovery, token, world, journal).await?
            }
            (OnDeath::GoOn | OnDeath::Repeat, Some(next)) if recovery.was_undoing() => {
                let finished = run(next, From::Undoing(begun(next)), token, world, journal).await?;
                unwind(finished.outcome, first, &finished.silent, token, world, journal).await?
            }
            (OnDeath::GoOn | OnDeath::Repeat, Some(next)) if recovery.is_committed() => {
                let finished = run(next, From::Stage(begun(next)), token, world, journal).await?;
                unwind(finished.outcome, first, &finished.silent, token, world, journal).await?
            }
            // A second plan rests on what was read after the first one: replicas that were led back since have more.
            (on_death, _) => {
                let from = match on_death {
                    _ if recovery.was_undoing() => From::Undoing(begun(first)),
                    OnDeath::Repeat => From::Stage(0),
                    OnDeath::GoOn | OnDeath::TakeBack => From::Stage(begun(first)),
                };
                let operation = Operation { view, plan: first, ask: recovery.ask.as_ref() };
                let bounds = bounds(Conduct::of(first.kind).stop, abort);
                let outcome = carry_on(operation, from, bounds, token, world, journal).await?;
                match (on_death, from) {
                    (OnDeath::Repeat, From::Stage(_)) => {
                        take_back_earlier(outcome, recovery, token, world, journal).await?
                    }
                    _ => outcome,
                }
            }
        },
    };
    end(outcome, journal).await
}

/// An operation that was begun anew and is undone: what its dead manager had begun is taken back too, though this one did not get as far.
async fn take_back_earlier<W: World, J: Journal>(
    outcome: Outcome,
    recovery: &Recovery,
    token: &Token,
    world: &W,
    journal: &J,
) -> Result<Outcome, J::Error> {
    let Outcome::Undone { why, mut left } = outcome else { return Ok(outcome) };
    let plans: Vec<&Plan> = recovery.plans().collect();
    let mut begun: Vec<(&Plan, usize)> = Vec::new();
    for plan in plans.into_iter().rev() {
        begun.extend(recovery.furthest_stage(plan.kind).map(|index| (plan, index)));
    }
    for line in take_back(&begun, &BTreeSet::new(), token, world, journal).await? {
        if !left.contains(&line) {
            left.push(line);
        }
    }
    Ok(Outcome::Undone { why, left })
}

/// Why nothing of it is continued or taken back, if so: it is not about the servers as they are now.
pub(super) fn ended_elsewhere(view: &ClusterView, recovery: &Recovery) -> Option<String> {
    const ENDED: &str = "nothing of it is continued or taken back";
    if let Some(overtaken) = view.overtaken() {
        return Some(format!("{overtaken}: {ENDED}"));
    }
    let (primary, generation) = led_since(view)?;
    let ours = recovery.is_committed() && recovery.candidate() == Some(&primary);
    let recorded = view.primary() == Some(&primary);
    (!ours && !recorded).then(|| format!("{primary} leads generation {generation} since: {ENDED}"))
}

/// The first plan of an operation, and what follows it.
async fn carry_on<W: World, J: Journal>(
    operation: Operation<'_>,
    from: From,
    bounds: Bounds,
    token: &Token,
    world: &W,
    journal: &J,
) -> Result<Outcome, J::Error> {
    let Operation { view, plan, ask } = operation;
    let scope = Scope { bounds: &bounds, earlier: None, said: Vec::new(), read: &[] };
    let first = run_within(plan, from, scope, token, world, journal).await?;
    if first.outcome != Outcome::Done {
        return Ok(first.outcome);
    }
    match next_plan(view, plan, &first.evidence, ask) {
        Next::Nothing => Ok(Outcome::Done),
        Next::Refused { blockers } => {
            journal.write(vec![journal.stamp(What::Refused { blockers: blockers.clone() })]).await?;
            let left = take_back(&[whole(plan)], &first.silent, token, world, journal).await?;
            Ok(Outcome::Undone { why: blockers.join("; "), left })
        }
        Next::Plan(next) => follow(plan, first, &next, bounds, token, world, journal).await,
    }
}

/// The second plan of an operation.
async fn follow<W: World, J: Journal>(
    plan: &Plan,
    first: Finished,
    next: &FollowingPlan,
    mut bounds: Bounds,
    token: &Token,
    world: &W,
    journal: &J,
) -> Result<Outcome, J::Error> {
    if let Some(block) = &next.write_block {
        // Writers wait since the plan's last stage began.
        let since = first.began.last().map_or_else(Instant::now, |(_, at)| *at);
        bounds.by = Some((since + block.within, block.exceeded(since.elapsed())));
    }
    let next_whole = &next.plan;
    // Written with the first stage: each write is time in which writers wait.
    let said = vec![journal.stamp(What::Accepted { plan: next_whole.clone() })];
    if let Some(Outcome::Undone { why, .. }) = unsound(next_whole) {
        journal.write(said).await?;
        let left = take_back(&[whole(plan)], &first.silent, token, world, journal).await?;
        return Ok(Outcome::Undone { why, left });
    }
    let earlier = next.undone_together.then_some(plan);
    let scope = Scope { bounds: &bounds, earlier, said, read: &first.evidence };
    let finished = run_within(next_whole, From::Start, scope, token, world, journal).await?;
    if next.undone_together {
        let begun = [(next_whole, next_whole.commit.unwrap_or_default()), whole(plan)];
        return unless_taken_back(finished.outcome, plan, &begun, token, world, journal).await;
    }
    let silent = first.silent.union(&finished.silent).cloned().collect();
    unwind(finished.outcome, plan, &silent, token, world, journal).await
}

fn whole(plan: &Plan) -> (&Plan, usize) {
    (plan, plan.stages.len().saturating_sub(1))
}

/// One that is taken back when its manager dies, for writers wait already: forward only past the commit point of its second plan.
async fn resume_or_take_back<W: World, J: Journal>(
    plan: &Plan,
    next: Option<&Plan>,
    recovery: &Recovery,
    token: &Token,
    world: &W,
    journal: &J,
) -> Result<Outcome, J::Error> {
    let began = |plan: &Plan| recovery.stage_begun(plan.kind);
    if let Some((next, index)) = next.and_then(|next| Some((next, began(next)?)))
        && recovery.is_committed()
        && !recovery.was_undoing()
        && !was_taken_back(plan, world).await
    {
        let outcome = run(next, From::Stage(index), token, world, journal).await?.outcome;
        return unless_taken_back(outcome, plan, &[(next, index), whole(plan)], token, world, journal).await;
    }
    let begun: Vec<(&Plan, usize)> =
        next.into_iter().chain([plan]).filter_map(|plan| Some((plan, began(plan)?))).collect();
    let left = take_back(&begun, &BTreeSet::new(), token, world, journal).await?;
    Ok(Outcome::Undone { why: "the manager died before the commit point".to_owned(), left })
}

/// A promotion that failed past its commit point because the old primary serves again is taken back in the record, and at the replicas.
async fn unless_taken_back<W: World, J: Journal>(
    outcome: Outcome,
    first: &Plan,
    begun: &[(&Plan, usize)],
    token: &Token,
    world: &W,
    journal: &J,
) -> Result<Outcome, J::Error> {
    let Outcome::Failed { why } = &outcome else { return Ok(outcome) };
    if !was_taken_back(first, world).await {
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

/// A second plan that was taken back takes the first one back too: replicas listen to the old primary again, should it return.
async fn unwind<W: World, J: Journal>(
    outcome: Outcome,
    first: &Plan,
    silent: &BTreeSet<InstanceId>,
    token: &Token,
    world: &W,
    journal: &J,
) -> Result<Outcome, J::Error> {
    let Outcome::Undone { why, mut left } = outcome else { return Ok(outcome) };
    left.extend(take_back(&[whole(first)], silent, token, world, journal).await?);
    Ok(Outcome::Undone { why, left })
}

/// How a plan that breaks a rule no plan may break ends.
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
