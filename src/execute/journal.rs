//! What was begun, done and failed, in order: enough to resume after a death, and the timeline an operator reads.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::Outcome;
use crate::decide::plan::{Plan, PlanKind, Step};
use crate::model::cluster::ClusterName;
use crate::model::instance::InstanceId;
use crate::model::intent::{FailoverAsk, is_about};
use crate::model::time::{Moment, millis};
use crate::model::view::ClusterView;

/// One line of a recovery.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub at: DateTime<Utc>,
    /// Since the recovery began.
    #[serde(rename = "after_ms", alias = "after", with = "millis")]
    pub after: Duration,
    pub what: What,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum What {
    /// A plan was accepted. Stored before its first stage.
    Accepted {
        plan: Plan,
    },
    /// Written before the stage's first effect. At the commit stage, this is the intent that only leads forward.
    Stage {
        plan: PlanKind,
        index: usize,
        name: String,
    },
    Done {
        stage: String,
        step: String,
        #[serde(rename = "took_ms", alias = "took", with = "millis")]
        took: Duration,
        note: String,
    },
    Failed {
        stage: String,
        step: String,
        #[serde(rename = "took_ms", alias = "took", with = "millis")]
        took: Duration,
        why: String,
    },
    Undoing {
        stage: String,
    },
    /// A promote plan was refused, with every reason.
    Refused {
        blockers: Vec<String>,
    },
    Ended {
        outcome: Outcome,
    },
}

/// One recovery: its plans and what became of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recovery {
    pub id: String,
    pub cluster: ClusterName,
    /// One sentence: what was the matter, what was done.
    pub title: String,
    /// Whom it is about: the failed primary, the returning replica.
    pub about: InstanceId,
    pub kind: PlanKind,
    /// The operator's word it follows, if any.
    #[serde(default)]
    pub ask: Option<FailoverAsk>,
    pub began_at: DateTime<Utc>,
    pub entries: Vec<Entry>,
}

/// What these recoveries, the newest first, could not take back and no later one of them mended: each line begins with whom it is about.
pub fn left_behind(recoveries: &[Recovery]) -> Vec<String> {
    let (mut left_behind, mut mended) = (Vec::new(), Vec::<&InstanceId>::new());
    for recovery in recoveries {
        match recovery.outcome() {
            Some(Outcome::Done) => mended.push(&recovery.about),
            Some(Outcome::Undone { left, .. }) => {
                let open = |line: &&String| !mended.iter().any(|instance| is_about(line, instance));
                left_behind.extend(left.iter().filter(open).cloned());
            }
            Some(Outcome::Failed { .. }) | None => {}
        }
    }
    left_behind
}

impl Recovery {
    /// How it ended; `None` while it runs.
    pub fn outcome(&self) -> Option<&Outcome> {
        self.entries.iter().rev().find_map(|entry| match &entry.what {
            What::Ended { outcome } => Some(outcome),
            What::Accepted { .. }
            | What::Stage { .. }
            | What::Done { .. }
            | What::Failed { .. }
            | What::Undoing { .. }
            | What::Refused { .. } => None,
        })
    }

    /// The accepted plan of that kind.
    pub fn plan(&self, kind: PlanKind) -> Option<&Plan> {
        self.entries.iter().find_map(|entry| match &entry.what {
            What::Accepted { plan } if plan.kind == kind => Some(plan),
            What::Accepted { .. }
            | What::Stage { .. }
            | What::Done { .. }
            | What::Failed { .. }
            | What::Undoing { .. }
            | What::Refused { .. }
            | What::Ended { .. } => None,
        })
    }

    /// The accepted plans, in order.
    pub fn plans(&self) -> impl Iterator<Item = &Plan> {
        self.entries.iter().filter_map(|entry| {
            let What::Accepted { plan } = &entry.what else { return None };
            Some(plan)
        })
    }

    /// Whom it was to promote, once that was decided.
    pub fn candidate(&self) -> Option<&InstanceId> {
        let mut steps = self.plan(PlanKind::Promote)?.steps();
        steps.find_map(|step| if let Step::Open { instance, .. } = step { Some(instance) } else { None })
    }

    /// What the next decision must know of how it ended: a failover that failed with one candidate tries another one first.
    pub fn note_promotion(&self, view: &mut ClusterView, trouble: Option<&str>, now: Moment) {
        match (trouble, self.candidate().filter(|_| self.kind == PlanKind::Isolate)) {
            (Some(why), Some(candidate)) => view.note_promotion_failed(candidate, now, why),
            (Some(_), None) => {}
            (None, _) if self.kind == PlanKind::Isolate || view.primary() == Some(&self.about) => {
                view.forget_promotions_failed();
            }
            (None, _) => {}
        }
    }

    /// The newest stage of that plan that was begun.
    pub fn stage_begun(&self, kind: PlanKind) -> Option<usize> {
        self.entries.iter().rev().find_map(|entry| match &entry.what {
            What::Stage { plan, index, .. } if *plan == kind => Some(*index),
            What::Accepted { .. }
            | What::Stage { .. }
            | What::Done { .. }
            | What::Failed { .. }
            | What::Undoing { .. }
            | What::Refused { .. }
            | What::Ended { .. } => None,
        })
    }

    /// Taking back had begun: a resumed run only goes on taking back.
    pub fn was_undoing(&self) -> bool {
        self.entries.iter().any(|entry| matches!(entry.what, What::Undoing { .. }))
    }
}

/// Where entries go: the store, or memory in tests. Written means durable.
#[expect(async_fn_in_trait, reason = "both journals are in this crate")]
pub trait Journal {
    type Error: std::fmt::Display + std::fmt::Debug;

    /// Gives `what` its times.
    fn stamp(&self, what: What) -> Entry;

    /// Appends in one transaction. An empty list is no transaction.
    async fn write(&self, entries: Vec<Entry>) -> Result<(), Self::Error>;
}
