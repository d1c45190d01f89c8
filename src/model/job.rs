//! Long work of one host that is no operation of the cluster: it is begun by a small step, shown while it goes on, and what came
//! of it is an observation like any other. One job per host at a time. Data only.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::instance::InstanceId;
use super::time::{human, millis};

/// What a host is busy with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    pub task: Task,
    pub phase: Phase,
    /// How long ago it entered its phase.
    #[serde(rename = "age_ms", with = "millis")]
    pub age: Duration,
    /// Bytes copied so far.
    #[serde(default)]
    pub done: u64,
    /// Bytes in all, as far as can be told before.
    #[serde(default)]
    pub total: Option<u64>,
}

/// The kinds of work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "task", rename_all = "snake_case")]
pub enum Task {
    /// The server's data is replaced by a copy of another's.
    Rebuild {
        from: InstanceId,
        /// The old data is kept for good: nobody could look into it.
        #[serde(default)]
        keep: bool,
    },
    /// Another server is given a copy of this one's data.
    Donate { to: InstanceId },
}

/// How far a job is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "snake_case")]
pub enum Phase {
    /// The copy is being made, beside the data or from it. Nothing of the data is touched.
    Copying,
    /// The copy is whole and is being made usable.
    Preparing,
    /// The copy is beside the data and can take its place.
    Ready,
    /// The copy takes the data's place; begun is ended.
    Exchanging,
    /// It has; the old data is kept until the server replicates.
    Exchanged,
    /// The data is as it was.
    Failed { why: String },
}

impl Job {
    /// It is a rebuild of the server beside the agent.
    pub fn is_rebuild(&self) -> bool {
        matches!(self.task, Task::Rebuild { .. })
    }

    /// Somebody waits for it, and it has not ended.
    pub fn is_running(&self) -> bool {
        match self.phase {
            Phase::Copying | Phase::Preparing | Phase::Exchanging => true,
            Phase::Ready | Phase::Exchanged | Phase::Failed { .. } => false,
        }
    }
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rebuild { from, .. } => write!(f, "being rebuilt from {from}"),
            Self::Donate { to } => write!(f, "giving {to} a copy of its data"),
        }
    }
}

impl fmt::Display for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let age = human(self.age);
        match (&self.task, &self.phase) {
            (Task::Rebuild { from, .. }, Phase::Failed { why }) => {
                return write!(f, "not rebuilt from {from}: {why} ({age} ago)");
            }
            (Task::Rebuild { from, .. }, Phase::Exchanged) => {
                return write!(f, "rebuilt from {from}, its old data is kept until it replicates");
            }
            (task, _) => write!(f, "{task}: ")?,
        }
        match &self.phase {
            Phase::Copying => {
                write!(f, "{} MiB", self.done >> 20)?;
                if let Some(total) = self.total {
                    write!(f, " of {}", total >> 20)?;
                }
                write!(f, " copied in {age}")
            }
            Phase::Preparing => write!(f, "the copy is being made usable for {age}"),
            Phase::Ready => f.write_str("the copy is ready to take its place"),
            Phase::Exchanging => write!(f, "the copy has been taking its place for {age}"),
            Phase::Exchanged => f.write_str("done"),
            Phase::Failed { why } => write!(f, "{why} ({age} ago)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_tells_how_far_it_is() {
        let task = Task::Rebuild { from: "db2".parse().unwrap(), keep: false };
        let age = Duration::from_secs(90);
        let mut job = Job { task, phase: Phase::Copying, age, done: 3 << 20, total: Some(9 << 20) };
        assert_eq!(job.to_string(), format!("being rebuilt from db2: 3 MiB of 9 copied in {}", human(age)));
        job.phase = Phase::Failed { why: "the disk is full".to_owned() };
        let text = serde_json::to_string(&job).unwrap();
        assert_eq!(serde_json::from_str::<Job>(&text).unwrap(), job);
    }
}
