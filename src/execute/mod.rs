//! Carries out a plan: record, act, look. It never chooses: what it may do next is in the plan, what was done is in the journal,
//! and it can be killed between any two of its awaits.

pub mod compose;
pub mod journal;
pub mod operations;
pub mod record;
pub mod recovery;
#[cfg(test)]
mod resume_tests;
mod undo;
pub mod world;

use std::collections::BTreeSet;
use std::time::Duration;

use futures::future::{join, join_all};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::decide::plan::{Evidence, OnFailure, Plan, Stage, Step};
use crate::model::instance::InstanceId;
use journal::{Entry, Journal, What};
pub use undo::take_back;
use world::{StepError, Token, World};

/// How often a stage after the commit point is tried again before a person is told.
const FORWARD_TRIES: u32 = 10;
/// The same in a planned change, where the new primary was well a moment ago: a failover is due when it is not any more.
const PLANNED_TRIES: u32 = 3;
/// No try begins later than this after the stage's first: a new primary that hangs is replaced in turn, and that waits for this.
const FORWARD_FOR: Duration = Duration::from_secs(10);
/// The same in a planned change: one statement's time.
const PLANNED_FOR: Duration = Duration::from_secs(5);
/// Between two such tries.
const FORWARD_PAUSE: Duration = Duration::from_millis(300);

const ABORTED: &str = "it was called off, by an operator or for something more urgent";

/// How a plan ended.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    Done,
    /// Stopped before the commit point and taken back. `left` names what could not be.
    Undone {
        why: String,
        left: Vec<String>,
    },
    /// Past the commit point, or not to be taken back: a person is needed.
    Failed {
        why: String,
    },
}

impl Outcome {
    /// Why it did not go through.
    pub fn trouble(&self) -> Option<&str> {
        match self {
            Self::Done => None,
            Self::Undone { why, .. } | Self::Failed { why } => Some(why),
        }
    }
}

/// What a run gives back.
#[derive(Debug)]
pub struct Finished {
    pub outcome: Outcome,
    /// What was read after each step that came true.
    pub evidence: Vec<(Step, Evidence)>,
    /// When each stage that was begun in this run began, by its index.
    pub began: Vec<(usize, Instant)>,
    /// Servers that did not answer in time when a step was asked of them.
    pub silent: BTreeSet<InstanceId>,
}

/// What ends a run before its commit point, beside a failure; after it, nothing does.
#[derive(Debug, Clone, Default)]
pub struct Bounds {
    /// Past this instant everything is taken back, for that reason.
    pub by: Option<(Instant, String)>,
    /// It was called off.
    pub abort: CancellationToken,
    /// Calling it off leaves only what goes on without anybody waiting for it: any other step that was begun is seen to its end, so that
    /// none of it happens beside what comes next.
    pub gently: bool,
}

impl Bounds {
    /// Waits until the run is to end; answers why.
    async fn over(&self) -> String {
        match &self.by {
            Some((by, why)) => tokio::select! {
                biased;
                () = sleep_until(*by) => why.clone(),
                () = self.abort.cancelled() => ABORTED.to_owned(),
            },
            None => {
                self.abort.cancelled().await;
                ABORTED.to_owned()
            }
        }
    }

    /// Why no further stage may begin, if so.
    fn is_over(&self) -> Option<String> {
        if self.abort.is_cancelled() {
            return Some(ABORTED.to_owned());
        }
        self.by.as_ref().filter(|(by, _)| Instant::now() >= *by).map(|(_, why)| why.clone())
    }
}

/// Runs `plan`, from its start or, after a death of the manager, from where the journal says it was.
///
/// # Errors
/// Only the journal's: nothing is done that could not be written down first.
pub async fn run<W: World, J: Journal>(
    plan: &Plan,
    from: From,
    token: &Token,
    world: &W,
    journal: &J,
) -> Result<Finished, J::Error> {
    let bounds = Bounds::default();
    let scope = Scope { bounds: &bounds, earlier: None, said: Vec::new(), read: &[] };
    run_within(plan, from, scope, token, world, journal).await
}

/// What a run has beside its plan.
#[derive(Debug)]
pub struct Scope<'a> {
    pub bounds: &'a Bounds,
    /// Done in whole before this plan, and taken back with it.
    pub earlier: Option<&'a Plan>,
    /// Entries that are to be written with the first stage's.
    pub said: Vec<Entry>,
    /// What the plan before this one read, a moment ago.
    pub read: &'a [(Step, Evidence)],
}

/// The same within bounds.
///
/// # Errors
/// As [`run`].
pub async fn run_within<W: World, J: Journal>(
    plan: &Plan,
    from: From,
    scope: Scope<'_>,
    token: &Token,
    world: &W,
    journal: &J,
) -> Result<Finished, J::Error> {
    let Scope { bounds, earlier, said, read } = scope;
    let (evidence, began, silent) = (Vec::new(), Vec::new(), BTreeSet::new());
    let mut run = Run { plan, earlier, bounds, token, world, journal, evidence, began, silent, said, read };
    let outcome = run.all(from).await?;
    Ok(Finished { outcome, evidence: run.evidence, began: run.began, silent: run.silent })
}

/// Where a run begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    Start,
    /// At this stage, which an earlier run began and may have done in part.
    Stage(usize),
    /// Taking back, from this stage downwards, as an earlier run had begun to.
    Undoing(usize),
}

/// Long, and about a server that is fenced and stays so: it is ended by its agent while something else begins.
fn may_be_left(step: &Step) -> bool {
    match step {
        Step::StartServer { .. }
        | Step::SaveExtra { .. }
        | Step::Rewind { .. }
        | Step::Rebuild { .. }
        | Step::Exchange { .. } => true,
        Step::Fence { .. }
        | Step::KeepUp { .. }
        | Step::Turn { .. }
        | Step::Quiet { .. }
        | Step::Block { .. }
        | Step::Unmoved { .. }
        | Step::Kill { .. }
        | Step::StopReceiving { .. }
        | Step::Salvage { .. }
        | Step::WaitApplied { .. }
        | Step::CatchUpFrom { .. }
        | Step::Claim { .. }
        | Step::StopReplicating { .. }
        | Step::ArmSource { .. }
        | Step::PointReplica { .. }
        | Step::AckersAttached { .. }
        | Step::Register { .. }
        | Step::Open { .. }
        | Step::Admit { .. }
        | Step::HoldVip { .. }
        | Step::LoseVip { .. }
        | Step::ForgetSource { .. }
        | Step::SetReadOnly { .. }
        | Step::Events { .. }
        | Step::Furnish { .. }
        | Step::Halt { .. }
        | Step::Wish { .. }
        | Step::Direct { .. }
        | Step::Park { .. } => false,
    }
}

struct Run<'a, W, J> {
    plan: &'a Plan,
    earlier: Option<&'a Plan>,
    bounds: &'a Bounds,
    token: &'a Token,
    world: &'a W,
    journal: &'a J,
    evidence: Vec<(Step, Evidence)>,
    began: Vec<(usize, Instant)>,
    silent: BTreeSet<InstanceId>,
    /// Entries that need no write of their own: they go with the next stage's.
    said: Vec<Entry>,
    read: &'a [(Step, Evidence)],
}

impl<W: World, J: Journal> Run<'_, W, J> {
    async fn all(&mut self, from: From) -> Result<Outcome, J::Error> {
        let (first, again) = match from {
            From::Start => (0, None),
            From::Stage(index) => (index, Some(index)),
            From::Undoing(index) => {
                let why = "the manager died while taking back".to_owned();
                return self.take_back(index.min(self.plan.stages.len().saturating_sub(1)), why).await;
            }
        };
        for (index, stage) in self.plan.stages.iter().enumerate().skip(first) {
            let committed = self.plan.commit.is_some_and(|commit| index >= commit);
            let over =
                if committed && self.plan.commit != Some(index) { None } else { self.bounds.is_over() };
            // The stage that an earlier run began is entered, and taken back with the others.
            if let Some(why) = over.filter(|_| again != Some(index)) {
                return self.take_back(index.saturating_sub(1), why).await;
            }
            self.say(What::Stage { plan: self.plan.kind, index, name: stage.name.clone() });
            let since = Instant::now();
            self.began.push((index, since));
            let resumed = again.filter(|again| *again == index);
            let is_past_commit = committed && self.plan.commit != Some(index);
            let mut trouble = if is_past_commit || stage.steps.iter().all(Step::only_looks) {
                // Whoever resumes goes forward from the commit point in any case, and a look leaves nothing to resume: writers do not wait for
                // the disk.
                let (journal, said) = (self.journal, std::mem::take(&mut self.said));
                let stage = self.stage_from(stage, resumed, resumed.is_some(), committed);
                let (written, trouble) = join(journal.write(said), stage).await;
                written?;
                trouble
            } else {
                self.write().await?;
                self.stage_from(stage, resumed, resumed.is_some(), committed).await
            };
            let (most, longest) = match self.earlier {
                Some(_) => (PLANNED_TRIES, PLANNED_FOR),
                None => (FORWARD_TRIES, FORWARD_FOR),
            };
            let mut tries = 1;
            while committed
                && stage.on_failure == OnFailure::Abort
                && trouble.is_some()
                && tries < most
                && since.elapsed() < longest
            {
                sleep(FORWARD_PAUSE).await;
                trouble = self.stage_from(stage, resumed, true, committed).await;
                tries += 1;
            }
            let Some(why) = trouble else { continue };
            match (stage.on_failure, committed) {
                (OnFailure::Continue, _) => {}
                (OnFailure::Stop, true) => break,
                (OnFailure::Abort, true) => {
                    self.write().await?;
                    return Ok(Outcome::Failed { why });
                }
                (OnFailure::Abort | OnFailure::Stop, false) => return self.take_back(index, why).await,
            }
        }
        self.write().await?;
        Ok(Outcome::Done)
    }

    /// A stage; where it is the one at which a dead manager's plan goes on, what was armed before it first. The journal may be older than
    /// what another manager took back, and a server that is opened unarmed, or recorded as armed, would promise what is not kept.
    async fn stage_from(
        &mut self,
        stage: &Stage,
        resumed: Option<usize>,
        again: bool,
        committed: bool,
    ) -> Option<String> {
        let Some(index) = resumed else { return self.stage(stage, again, committed).await };
        let armed = Stage { steps: self.plan.armed_before(index), ..stage.clone() };
        if let Some(why) = self.stage(&armed, true, committed).await
            && stage.on_failure == OnFailure::Abort
        {
            return Some(why);
        }
        self.stage(stage, again, committed).await
    }

    /// All steps of a stage side by side; the troubles, if any, in one line.
    async fn stage(&mut self, stage: &Stage, again: bool, committed: bool) -> Option<String> {
        let began = Instant::now();
        let this = &*self;
        let results = join_all(stage.steps.iter().map(|step| async move {
            let result = tokio::select! {
                biased;
                result = this.step(step, again) => result,
                why = this.bounds.over(), if !committed && (!this.bounds.gently || may_be_left(step)) => Err(StepError::Failed(why)),
            };
            (step, result, began.elapsed())
        }))
        .await;
        let mut troubles = Vec::new();
        for (step, result, took) in results {
            match result {
                Ok(evidence) => {
                    let note =
                        evidence.salvage.as_ref().map_or_else(String::new, |salvage| salvage.to_string());
                    self.say(What::Done { stage: stage.name.clone(), step: step.to_string(), took, note });
                    self.evidence.push((step.clone(), evidence));
                }
                Err(error) => {
                    let why = format!("{step}: {error}");
                    if let StepError::NoAnswer { .. } = error {
                        self.silent.insert(step.instance().clone());
                    }
                    self.say(What::Failed {
                        stage: stage.name.clone(),
                        step: step.to_string(),
                        took,
                        why: error.to_string(),
                    });
                    troubles.push(why);
                }
            }
        }
        (!troubles.is_empty()).then(|| troubles.join("; "))
    }

    /// Already true (asked only after an interruption: a fresh step is idempotent anyway)? Else act, and judge what is read back.
    async fn step(&self, step: &Step, again: bool) -> Result<Evidence, StepError> {
        if again
            && let Ok(seen) = self.world.observe(step).await
            && step.is_satisfied(&seen)
        {
            return Ok(seen);
        }
        if !again && let Some(seen) = step.seen_before(self.read) {
            return Ok(seen.clone());
        }
        let seen = self.world.apply(step, self.token).await?;
        if step.is_satisfied(&seen) {
            return Ok(seen);
        }
        Err(StepError::NoEffect(step.unmet()))
    }

    /// Takes back every begun stage. A resumed run takes back what an earlier one began.
    async fn take_back(&mut self, failed: usize, why: String) -> Result<Outcome, J::Error> {
        self.write().await?;
        let whole = |plan: &'_ Plan| plan.stages.len().saturating_sub(1);
        let begun: Vec<(&Plan, usize)> = std::iter::once((self.plan, failed))
            .chain(self.earlier.map(|earlier| (earlier, whole(earlier))))
            .collect();
        let left = take_back(&begun, &self.silent, self.token, self.world, self.journal).await?;
        Ok(Outcome::Undone { why, left })
    }

    fn say(&mut self, what: What) {
        self.said.push(self.journal.stamp(what));
    }

    async fn write(&mut self) -> Result<(), J::Error> {
        self.journal.write(std::mem::take(&mut self.said)).await
    }
}
