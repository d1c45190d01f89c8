//! The copy takes the place of the server's data: the fenced server ends, two directories change names, the server starts with the
//! copy's history, replicating nothing. Begun, it is ended, also by the next agent; a copy the server does not start with goes,
//! and the old data is in its place again.

use std::path::PathBuf;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout_at};

use super::host::copy::{self, InPlace, Place};
use super::host::service::Service;
use super::jobs::{Jobs, Rebuild};
use super::sql::connect_admin;
use super::start::StartAs;
use super::state::{ServerProcess, Shared};
use super::{extra, start, steps};
use crate::clock;
use crate::config;
use crate::execute::world::StepError;
use crate::model::job::Phase;
use crate::model::observation::Process;
use crate::mysql::control;

/// How long a unit may take to be stopped.
const STOP_WITHIN: Duration = Duration::from_secs(60);

/// Does it, or ends what was begun.
///
/// # Errors
/// Why the copy is not in place.
pub(super) async fn exchange(shared: &Shared, deadline: Instant) -> Result<(), StepError> {
    let late = |_| StepError::Failed("another exchange is under way".to_owned());
    let _one_at_a_time = timeout_at(deadline, shared.jobs.exchange.lock()).await.map_err(late)?;
    let failed = |why: String| StepError::Failed(why);
    let rebuild = shared.jobs.rebuild().ok_or_else(|| failed("no copy is beside its data".to_owned()))?;
    match rebuild.phase {
        Phase::Exchanged => return Ok(()),
        Phase::Ready => {
            if let Some(why) = shared.jobs.called_off() {
                return Err(failed(format!("the copy was called off: {why}")));
            }
        }
        Phase::Exchanging => {}
        Phase::Copying | Phase::Preparing | Phase::Failed { .. } => {
            return Err(failed("the copy is not whole".to_owned()));
        }
    }
    if !shared.seen().is_fenced() {
        return Err(failed("only a server that is fenced is given other data".to_owned()));
    }
    let place = Place::of(&rebuild.data).map_err(|error| failed(error.to_string()))?;
    let old = match &rebuild.old {
        Some(old) => old.clone(),
        None => place.beside.join(format!("old-{}", clock::wall().format("%Y%m%d-%H%M%S"))),
    };
    let noted = old.clone();
    Jobs::amend(shared, |rebuild| {
        rebuild.phase = Phase::Exchanging;
        rebuild.old = Some(noted);
    })
    .await
    .map_err(failed)?;
    stop(shared, deadline).await?;
    let (at, aside) = (place.clone(), old.clone());
    let moved = spawn_blocking(move || copy::exchange(&at, &aside)).await;
    let in_place =
        moved.map_err(|error| failed(error.to_string()))?.map_err(|error| failed(error.to_string()))?;
    if in_place == InPlace::Old {
        let why = "the copy was taken back before, or is gone: the old data is in its place".to_owned();
        return Err(failed(taken_back(shared, why).await));
    }
    if let Err(why) = begin(shared, &rebuild, deadline).await {
        return Err(failed(undo(shared, &place, old, why).await));
    }
    // What only the old data had is saved, and no more here.
    extra::settle(shared).await.map_err(failed)?;
    Jobs::amend(shared, |rebuild| rebuild.phase = Phase::Exchanged).await.map_err(failed)?;
    tracing::warn!(from = %rebuild.from, "the copy has taken the place of the server's data");
    Ok(())
}

/// Its data is put aside: there is nothing to be shut down well. A unit is stopped, so that nobody starts it again meanwhile.
async fn stop(shared: &Shared, deadline: Instant) -> Result<(), StepError> {
    let watch = match shared.seen().process.clone() {
        ServerProcess::Running(watch) => watch,
        ServerProcess::Gone(_) => return Ok(()),
        ServerProcess::Unknown(why) => {
            return Err(StepError::Failed(format!("whether its server runs is not known: {why}")));
        }
    };
    let (server, _) = shared.server().map_err(StepError::Failed)?;
    if let Some(config::Service::Unit(name)) = &server.service {
        let unit = Service::Unit { name: name.clone() };
        unit.stop(&watch, STOP_WITHIN).await.map_err(|error| StepError::Failed(error.to_string()))?;
        let gone = |shared: &Shared| matches!(shared.status().process, Process::Gone { .. });
        return steps::wait_for(shared, deadline, gone).await;
    }
    steps::kill(shared, deadline).await
}

/// Starts it with the copy, and gives it the copy's history.
async fn begin(shared: &Shared, rebuild: &Rebuild, deadline: Instant) -> Result<(), String> {
    start::server(shared, StartAs::Replica, deadline).await?;
    let conn = connect_admin(shared, deadline).await.map_err(|error| error.to_string())?;
    control::begin_anew(conn, rebuild.history.as_ref(), deadline).await.map_err(|error| error.to_string())
}

/// The old data is in its place again; its server is started by whoever starts servers.
async fn undo(shared: &Shared, place: &Place, old: PathBuf, why: String) -> String {
    let why = format!("the server did not start well with the copy: {why}");
    let by = Instant::now() + STOP_WITHIN;
    if let Err(error) = stop(shared, by).await {
        return format!("{why}; and it could not be stopped to put the old data back: {error}");
    }
    let at = place.clone();
    let back = spawn_blocking(move || copy::take_back(&at, &old)).await;
    let back = back.map_err(|error| error.to_string()).and_then(|done| done.map_err(|e| e.to_string()));
    if let Err(error) = back {
        return format!("{why}; and the old data could not be put back: {error}");
    }
    taken_back(shared, format!("{why}; the old data is in its place again")).await
}

/// Notes that the copy did not do. Where that cannot be written, the next order finds the old data in its place.
async fn taken_back(shared: &Shared, why: String) -> String {
    let told = why.clone();
    let amended = Jobs::amend(shared, |rebuild| {
        rebuild.phase = Phase::Failed { why: told };
        rebuild.old = None;
    })
    .await;
    match amended {
        Ok(()) => why,
        Err(error) => format!("{why}; {error}"),
    }
}
