//! Plans as data. A plan leaves no choice: its stages are made of steps ([`super::step`]), wanted facts. The text of a plan is the same
//! in `--dry-run`, the log, the history and the dashboard.

use std::fmt;

use serde::{Deserialize, Serialize};

pub use super::step::{Evidence, Proof, Salvaged, Step, TrafficOrder, Votes};
use crate::model::cluster::ClusterName;

/// What a stage's failure does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    /// Before the commit point: the undo of every begun stage is done, and the plan ends as undone. After it: the stage is tried again.
    Abort,
    /// Told, and the next stage begins: redundancy, not safety.
    Continue,
    /// After the commit point only: told, and nothing follows; what was done is what was asked for. The rest is mended by later plans.
    Stop,
}

/// A named phase the operator sees. Its steps run side by side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stage {
    pub name: String,
    pub steps: Vec<Step>,
    pub on_failure: OnFailure,
    /// What takes this stage back, run in order. Empty after the commit point.
    pub undo: Vec<Step>,
}

impl Stage {
    /// A stage that must succeed and has nothing to take back.
    pub fn new(name: &str, steps: Vec<Step>) -> Self {
        Self { name: name.to_owned(), steps, on_failure: OnFailure::Abort, undo: Vec::new() }
    }

    /// The same, with what takes it back.
    #[must_use]
    pub fn with_undo(self, undo: Vec<Step>) -> Self {
        Self { undo, ..self }
    }

    /// The same, but a failure is only told.
    #[must_use]
    pub fn or_continue(self) -> Self {
        Self { on_failure: OnFailure::Continue, ..self }
    }

    /// The same, but a failure ends the plan as it is.
    #[must_use]
    pub fn or_stop(self) -> Self {
        Self { on_failure: OnFailure::Stop, ..self }
    }
}

/// What a plan is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PlanKind {
    Adopt,
    Isolate,
    /// The first plan of a switchover: the old primary, still well, takes no more writes. The second is `Promote`.
    Switchover,
    Promote,
    Rejoin,
    Repair,
    /// An operator's word about one member: moved, stopped, started, added, removed.
    Topology,
}

impl fmt::Display for PlanKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Adopt => "adopt",
            Self::Isolate => "isolate",
            Self::Switchover => "switchover",
            Self::Promote => "promote",
            Self::Rejoin => "rejoin",
            Self::Repair => "repair",
            Self::Topology => "topology",
        })
    }
}

/// An immutable plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    pub cluster: ClusterName,
    pub kind: PlanKind,
    /// One sentence: what, of whom, why.
    pub title: String,
    pub stages: Vec<Stage>,
    /// Index of the stage whose *intent*, once stored, only leads forward. `None`: every stage can be taken back.
    pub commit: Option<usize>,
    /// What was known when it was made, line by line.
    pub basis: Vec<String>,
}

impl Plan {
    /// What the stages before that one armed. Nobody but the plan keeps it so, and what is opened or recorded after it rests on it.
    pub fn armed_before(&self, index: usize) -> Vec<Step> {
        let before = self.stages.iter().take(index).flat_map(|stage| &stage.steps);
        before.filter(|step| matches!(step, Step::ArmSource { acks: 1.., .. })).cloned().collect()
    }

    /// Every step in order.
    pub fn steps(&self) -> impl Iterator<Item = &Step> {
        self.stages.iter().flat_map(|stage| &stage.steps)
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "plan {}: {}", self.kind, self.title)?;
        let width = self.stages.iter().map(|stage| stage.name.len()).max().unwrap_or(0);
        for (index, stage) in self.stages.iter().enumerate() {
            for (row, step) in stage.steps.iter().enumerate() {
                let name = if row == 0 { stage.name.as_str() } else { "" };
                write!(f, "\n  {name:width$}  {step}")?;
                if row == 0 && self.commit == Some(index) {
                    f.write_str("        <- commit point")?;
                }
            }
        }
        Ok(())
    }
}
