//! The one job of a host: who has it, how far it is, and how it is called off. A rebuild is remembered on disk, for its copy and
//! the old data outlive the agent; giving a copy away is not. It does no work itself.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use super::durable::{self, DurableError};
use super::state::Shared;
use crate::clock;
use crate::model::gtid::GtidSet;
use crate::model::instance::InstanceId;
use crate::model::job::{Job, Phase, Task};
use crate::model::time::Moment;

/// What is kept of a rebuild.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Rebuild {
    pub(super) from: InstanceId,
    pub(super) phase: Phase,
    /// The old data is never removed: nobody could look into it.
    pub(super) keep: bool,
    /// The data directory, by its true name.
    pub(super) data: PathBuf,
    /// The copy's history, where it has to be told to the server.
    pub(super) history: Option<GtidSet>,
    /// Where the old data is once the copy takes its place.
    pub(super) old: Option<PathBuf>,
}

#[derive(Debug)]
enum Work {
    Rebuild(Rebuild),
    Donate { to: InstanceId },
}

#[derive(Debug)]
struct Current {
    work: Work,
    since: Moment,
    done: u64,
    total: Option<u64>,
    /// Ends it, with the reason left in `called_off`.
    cancel: CancellationToken,
    called_off: Option<String>,
}

/// The slot.
#[derive(Debug, Default)]
pub struct Jobs {
    current: Mutex<Option<Current>>,
    /// Held while a copy takes the data's place.
    pub(super) exchange: tokio::sync::Mutex<()>,
}

fn path(shared: &Shared) -> PathBuf {
    shared.config.data_dir.join("rebuild.json")
}

/// What an earlier agent left.
///
/// # Errors
/// When its file cannot be read.
pub(super) fn kept(shared: &Shared) -> Result<Option<Rebuild>, DurableError> {
    durable::read::<Option<Rebuild>>(&path(shared)).map(Option::flatten)
}

impl Jobs {
    fn lock(&self) -> MutexGuard<'_, Option<Current>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the host says of its job.
    pub(super) fn shown(&self) -> Option<Job> {
        let current = self.lock();
        let current = current.as_ref()?;
        let (task, phase) = match &current.work {
            Work::Rebuild(rebuild) => {
                (Task::Rebuild { from: rebuild.from.clone(), keep: rebuild.keep }, rebuild.phase.clone())
            }
            Work::Donate { to } => (Task::Donate { to: to.clone() }, Phase::Copying),
        };
        let age = clock::now().since(current.since);
        Some(Job { task, phase, age, done: current.done, total: current.total })
    }

    /// The rebuild, as it stands.
    pub(super) fn rebuild(&self) -> Option<Rebuild> {
        match &self.lock().as_ref()?.work {
            Work::Rebuild(rebuild) => Some(rebuild.clone()),
            Work::Donate { .. } => None,
        }
    }

    /// Why nothing else may be begun, if so.
    fn busy(current: &Option<Current>) -> Result<(), String> {
        match current.as_ref().map(|current| &current.work) {
            Some(Work::Donate { to }) => Err(format!("this host is giving {to} a copy of its data")),
            Some(Work::Rebuild(rebuild)) => match rebuild.phase {
                Phase::Failed { .. } | Phase::Exchanged => Ok(()),
                Phase::Copying | Phase::Preparing | Phase::Ready | Phase::Exchanging => {
                    Err(format!("its server is being rebuilt from {}", rebuild.from))
                }
            },
            None => Ok(()),
        }
    }

    /// Takes the slot for a copy to be given away, until the guard is dropped.
    pub(super) fn donate(shared: &Arc<Shared>, to: InstanceId) -> Result<Donating, String> {
        let cancel = shared.cancel.child_token();
        {
            let mut current = shared.jobs.lock();
            Self::busy(&current)?;
            if current.is_some() {
                return Err("what its own rebuild left is not settled yet".to_owned());
            }
            *current = Some(Current {
                work: Work::Donate { to },
                since: clock::now(),
                done: 0,
                total: None,
                cancel: cancel.clone(),
                called_off: None,
            });
        }
        shared.announce_change();
        Ok(Donating { shared: Arc::clone(shared), cancel })
    }

    /// Takes the slot for a rebuild; `Err` says what runs.
    pub(super) fn begin(&self, shared: &Shared, rebuild: Rebuild) -> Result<CancellationToken, String> {
        let cancel = shared.cancel.child_token();
        let mut current = self.lock();
        Self::busy(&current)?;
        *current = Some(Current {
            work: Work::Rebuild(rebuild),
            since: clock::now(),
            done: 0,
            total: None,
            cancel: cancel.clone(),
            called_off: None,
        });
        Ok(cancel)
    }

    /// How far copying is.
    pub(super) fn progress(&self, done: u64, total: Option<u64>) {
        if let Some(current) = self.lock().as_mut() {
            (current.done, current.total) = (done, total);
        }
    }

    /// Changes what is kept of the rebuild; written before it is shown.
    ///
    /// # Errors
    /// That there is none, or it was not written.
    pub(super) async fn amend(shared: &Shared, change: impl FnOnce(&mut Rebuild)) -> Result<(), String> {
        let mut rebuild = shared.jobs.rebuild().ok_or("no rebuild is known here")?;
        change(&mut rebuild);
        write(shared, Some(rebuild.clone())).await?;
        if let Some(current) = shared.jobs.lock().as_mut() {
            current.work = Work::Rebuild(rebuild);
            current.since = clock::now();
        }
        shared.announce_change();
        Ok(())
    }

    /// Nothing of a rebuild is left to look after.
    pub(super) async fn forget(shared: &Shared) -> Result<(), String> {
        write(shared, None).await?;
        *shared.jobs.lock() = None;
        shared.announce_change();
        Ok(())
    }

    /// Ends whatever copies, and a rebuild that failed is forgotten; what takes the data's place is not ended.
    pub(super) fn call_off(&self, why: &str) -> Option<String> {
        let mut current = self.lock();
        let current = current.as_mut()?;
        let task = match &current.work {
            Work::Donate { to } => Task::Donate { to: to.clone() },
            Work::Rebuild(rebuild) => match rebuild.phase {
                Phase::Exchanging | Phase::Exchanged | Phase::Failed { .. } => return None,
                Phase::Copying | Phase::Preparing | Phase::Ready => {
                    Task::Rebuild { from: rebuild.from.clone(), keep: rebuild.keep }
                }
            },
        };
        current.called_off = Some(why.to_owned());
        current.cancel.cancel();
        Some(task.to_string())
    }

    /// Why somebody ended it, if anybody did.
    pub(super) fn called_off(&self) -> Option<String> {
        self.lock().as_ref().and_then(|current| current.called_off.clone())
    }

    /// Why it ends.
    pub(super) fn reason(&self) -> String {
        self.called_off().unwrap_or_else(|| "the agent is stopping".to_owned())
    }

    /// Ends giving a copy away: this host is needed for something more urgent.
    pub(super) fn needed(&self, why: &str) {
        let donates = matches!(self.lock().as_ref(), Some(Current { work: Work::Donate { .. }, .. }));
        if donates && let Some(task) = self.call_off(why) {
            tracing::warn!(task, why, "called off");
        }
    }

    /// An earlier agent's rebuild goes on being one.
    pub(super) fn adopt(&self, rebuild: Rebuild, cancel: CancellationToken) {
        *self.lock() = Some(Current {
            work: Work::Rebuild(rebuild),
            since: clock::now(),
            done: 0,
            total: None,
            cancel,
            called_off: None,
        });
    }
}

async fn write(shared: &Shared, rebuild: Option<Rebuild>) -> Result<(), String> {
    let path = path(shared);
    let written = spawn_blocking(move || durable::write(&path, &rebuild)).await;
    written.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
}

/// The slot, while a copy is given away.
#[derive(Debug)]
pub(super) struct Donating {
    pub(super) shared: Arc<Shared>,
    pub(super) cancel: CancellationToken,
}

impl Drop for Donating {
    fn drop(&mut self) {
        *self.shared.jobs.lock() = None;
        self.shared.announce_change();
    }
}
