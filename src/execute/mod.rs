//! Carries out a plan: record, act, look. It never chooses: what it may do next is in the plan, what was done is in the journal,
//! and it can be killed between any two of its awaits.

pub mod journal;
pub mod recovery;
pub mod world;

use std::time::Duration;

use futures::future::join_all;
use tokio::time::{Instant, sleep};

use crate::decide::plan::{Evidence, OnFailure, Plan, Stage, Step};
use journal::{Entry, Journal, What};
use world::{StepError, Token, World};

/// How often a stage after the commit point is tried again before a person is told.
const FORWARD_TRIES: u32 = 10;
/// Between two such tries.
const FORWARD_PAUSE: Duration = Duration::from_millis(300);

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
    let mut run = Run { plan, token, world, journal, evidence: Vec::new(), said: Vec::new() };
    let outcome = run.all(from).await?;
    Ok(Finished { outcome, evidence: run.evidence })
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

struct Run<'a, W, J> {
    plan: &'a Plan,
    token: &'a Token,
    world: &'a W,
    journal: &'a J,
    evidence: Vec<(Step, Evidence)>,
    /// Entries that need no write of their own: they go with the next stage's.
    said: Vec<Entry>,
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
            self.say(What::Stage { plan: self.plan.kind, index, name: stage.name.clone() });
            self.write().await?;
            let mut trouble = self.stage(stage, again == Some(index)).await;
            let mut tries = 1;
            while committed
                && stage.on_failure == OnFailure::Abort
                && trouble.is_some()
                && tries < FORWARD_TRIES
            {
                sleep(FORWARD_PAUSE).await;
                trouble = self.stage(stage, true).await;
                tries += 1;
            }
            let Some(why) = trouble else { continue };
            match (stage.on_failure, committed) {
                (OnFailure::Continue, _) => {}
                (OnFailure::Abort, true) => {
                    self.write().await?;
                    return Ok(Outcome::Failed { why });
                }
                (OnFailure::Abort, false) => return self.take_back(index, why).await,
            }
        }
        self.write().await?;
        Ok(Outcome::Done)
    }

    /// All steps of a stage side by side; the troubles, if any, in one line.
    async fn stage(&mut self, stage: &Stage, again: bool) -> Option<String> {
        let began = Instant::now();
        let this = &*self;
        let results = join_all(stage.steps.iter().map(|step| async move {
            let result = this.step(step, again).await;
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
        let seen = self.world.apply(step, self.token).await?;
        if step.is_satisfied(&seen) {
            return Ok(seen);
        }
        Err(StepError::NoEffect(format!("{step} is not so when read back")))
    }

    /// Takes back every begun stage, last first. A resumed run takes back what an earlier one began.
    async fn take_back(&mut self, failed: usize, why: String) -> Result<Outcome, J::Error> {
        let mut left = Vec::new();
        for stage in self.plan.stages[..=failed].iter().rev().filter(|stage| !stage.undo.is_empty()) {
            self.say(What::Undoing { stage: stage.name.clone() });
            self.write().await?;
            for step in &stage.undo {
                if let Err(error) = self.step(step, true).await {
                    self.say(What::Failed {
                        stage: stage.name.clone(),
                        step: step.to_string(),
                        took: Duration::ZERO,
                        why: error.to_string(),
                    });
                    left.push(format!("{step}: {error}"));
                }
            }
        }
        self.write().await?;
        Ok(Outcome::Undone { why, left })
    }

    fn say(&mut self, what: What) {
        self.said.push(self.journal.stamp(what));
    }

    async fn write(&mut self) -> Result<(), J::Error> {
        self.journal.write(std::mem::take(&mut self.said)).await
    }
}
