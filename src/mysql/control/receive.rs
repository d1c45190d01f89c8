//! Stopping, waiting and forgetting, without losing anything received. On MariaDB the applier must run before the receiver is
//! stopped: a thread started while both are stopped purges the relay logs (N1, H5).

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{ControlEnv, ControlError, named, semi_sync, side};
use crate::model::gtid::GtidSet;
use crate::model::report::{Replication, ThreadState};
use crate::model::wishes;
use crate::mysql::client::Connection;
use crate::mysql::dialect::{Side, Threads};
use crate::mysql::probe::{Standing, standing};
use crate::mysql::sessions::kill;

/// The longest single wait, so that an applier that stops with an error is noticed.
const SLICE: Duration = Duration::from_millis(500);

/// Between two looks at a thread that is about to end.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// The receiver stopped, the applier running or with nothing to apply. Of the default channel, whatever its source is called:
/// two names may be one server, and an acknowledging receiver left running is worse than one stopped for nothing.
pub(super) async fn stop_receiving(conn: &mut Connection, deadline: Instant) -> Result<(), ControlError> {
    let mut seen = standing(conn, deadline).await?;
    if start_applier(conn, &seen, deadline).await? {
        seen = standing(conn, deadline).await?;
    }
    let Some(channel) = seen.channel() else { return Ok(()) };
    refuse_stopped_applier(conn, &seen, channel)?;
    if channel.receiver == ThreadState::Stopped {
        return Ok(());
    }
    let stop = conn.dialect().stop(Threads::Receiver);
    let sql = match conn.dialect().hurry_stop() {
        Some(hurry) => format!("{hurry}; {stop}"),
        None => stop,
    };
    conn.query(&sql, deadline).await?;
    Ok(())
}

/// Starts an applier that is stopped with something to apply; answers whether it did. Safe on MariaDB only while the
/// receiver runs or connects; elsewhere always.
async fn start_applier(
    conn: &mut Connection,
    seen: &Standing,
    deadline: Instant,
) -> Result<bool, ControlError> {
    let Some(channel) = seen.channel() else { return Ok(false) };
    if channel.applier != ThreadState::Stopped || channel.applier_error.is_some() {
        return Ok(false);
    }
    let purges = conn.dialect().purges_at_start();
    if channel.receiver == ThreadState::Stopped {
        return match seen.unapplied() {
            None => Ok(false),
            Some(missing) if purges => Err(ControlError::BothStopped { server: named(conn), missing }),
            Some(_) => start(conn, deadline).await,
        };
    }
    start(conn, deadline).await
}

async fn start(conn: &mut Connection, deadline: Instant) -> Result<bool, ControlError> {
    let sql = conn.dialect().start(Threads::Applier);
    conn.query(&sql, deadline).await?;
    Ok(true)
}

/// On MariaDB a receiver is not stopped while an applier is stopped with something to apply. Elsewhere its log is kept, and a
/// server whose applier is broken may still be the source of its log.
fn refuse_stopped_applier(
    conn: &Connection,
    seen: &Standing,
    channel: &Replication,
) -> Result<(), ControlError> {
    if !conn.dialect().purges_at_start() || channel.applier != ThreadState::Stopped {
        return Ok(());
    }
    match seen.unapplied() {
        None => Ok(()),
        Some(missing) => Err(stopped_applier(conn, channel, missing)),
    }
}

/// A channel without GTIDs has no received set: what it read and did not apply is known by position only.
pub(super) fn refuse_unread(conn: &Connection, seen: &Standing) -> Result<(), ControlError> {
    if seen.is_behind_by_position() {
        let what = "replicates by file and position, and has not applied all it read".to_owned();
        return Err(ControlError::Unsupported { server: named(conn), what });
    }
    Ok(())
}

fn stopped_applier(conn: &Connection, channel: &Replication, missing: GtidSet) -> ControlError {
    let (code, text) = match &channel.applier_error {
        Some(error) => (error.code, error.text.clone()),
        None => (0, "stopped".to_owned()),
    };
    ControlError::ApplierStopped { server: named(conn), code, text, missing }
}

/// All of `set` applied, waiting at most `within`. An applier that does not run ends the wait.
pub(super) async fn wait_applied(
    conn: &mut Connection,
    set: &GtidSet,
    within: Duration,
) -> Result<(), ControlError> {
    let end = Instant::now() + within;
    let text = match set {
        GtidSet::MySql(set) => set.to_string(),
        GtidSet::MariaDb(set) => set.position_text(),
    };
    loop {
        let left = end.saturating_duration_since(Instant::now());
        // The answer is read for what it is below: a position can be reached by a history that lacks part of the set.
        if !text.is_empty() && !left.is_zero() {
            let slice = left.min(SLICE);
            let sql = conn.dialect().wait_applied(&text, slice);
            conn.query(&sql, Instant::now() + slice + Duration::from_secs(2)).await?;
        }
        let seen = standing(conn, Instant::now() + Duration::from_secs(2)).await?;
        let missing = set.minus(&seen.history.executed);
        if missing.is_empty() {
            return Ok(());
        }
        if let Some(channel) = seen.channel().filter(|channel| channel.applier == ThreadState::Stopped) {
            return Err(stopped_applier(conn, channel, missing));
        }
        if Instant::now() >= end || seen.channel().is_none() {
            return Err(ControlError::NotApplied { server: named(conn), missing, within });
        }
    }
}

/// Both threads stopped with nothing left to apply; the receiver first, so that nothing comes between look and stop.
pub(super) async fn stop_replicating(conn: &mut Connection, deadline: Instant) -> Result<(), ControlError> {
    let mut seen = standing(conn, deadline).await?;
    if seen.channel().is_some_and(|channel| channel.receiver != ThreadState::Stopped) {
        stop_receiving(conn, deadline).await?;
        seen = standing(conn, deadline).await?;
    }
    refuse_unread(conn, &seen)?;
    if let Some(missing) = seen.unapplied() {
        return Err(ControlError::Unapplied { server: named(conn), missing });
    }
    if seen.channel().is_some_and(|channel| channel.applier != ThreadState::Stopped) {
        stop_applier(conn, deadline).await?;
    }
    Ok(())
}

/// Both threads stopped, where what was received and is not applied is no more than `discard`.
async fn stop_without(
    conn: &mut Connection,
    discard: &GtidSet,
    deadline: Instant,
) -> Result<(), ControlError> {
    let beyond = |seen: &Standing| seen.unapplied().map(|missing| missing.minus(discard));
    let seen = standing(conn, deadline).await?;
    if let Some(missing) = beyond(&seen).filter(|missing| !missing.is_empty()) {
        return Err(ControlError::Unapplied { server: named(conn), missing });
    }
    let Some(channel) = seen.channel() else { return Ok(()) };
    if channel.receiver != ThreadState::Stopped {
        let sql = conn.dialect().stop(Threads::Receiver);
        conn.query(&sql, deadline).await?;
    }
    // More may have come until the receiver stopped.
    let seen = standing(conn, deadline).await?;
    if let Some(missing) = beyond(&seen).filter(|missing| !missing.is_empty()) {
        return Err(ControlError::Unapplied { server: named(conn), missing });
    }
    if seen.channel().is_some_and(|channel| channel.applier != ThreadState::Stopped) {
        stop_applier(conn, deadline).await?;
    }
    Ok(())
}

/// The applier stopped, with everything complete that it had begun.
async fn stop_applier(conn: &mut Connection, deadline: Instant) -> Result<(), ControlError> {
    give_up_half(conn, deadline).await?;
    let sql = conn.dialect().stop(Threads::Applier);
    conn.query(&sql, deadline).await?;
    Ok(())
}

/// Ends a coordinator that holds the first part of a transaction whose rest cannot come. The part is rolled back; it was never in the
/// received set. The thread then says that it was killed (1756), until it starts again.
///
/// The end is awaited: a coordinator that is asked to stop before it has seen the `KILL` waits the whole minute after all. For the
/// same reason a coordinator that has not yet read as far as the part is given the time to.
async fn give_up_half(conn: &mut Connection, deadline: Instant) -> Result<(), ControlError> {
    let Some(sql) = conn.dialect().half_received() else { return Ok(()) };
    let (mut killed, mut was_idle) = (None, false);
    loop {
        let rows = conn.query(sql, deadline).await?;
        let Some(half) = rows.first() else { return Ok(()) };
        let is = |name: &str| half.number::<u8>(name) == Some(1);
        match half.number::<u64>("id") {
            Some(id) if is("begun") && killed != Some(id) => {
                kill(conn, id, deadline).await?;
                killed = Some(id);
            }
            _ if is("begun") => {}
            // The columns are not of one moment: it may have begun between two of them.
            _ if was_idle || !is("level") => return Ok(()),
            _ => was_idle = is("idle"),
        }
        sleep(LOOK_AGAIN).await;
    }
}

/// Those threads stopped, by an operator's word, with nothing lost; without its receiver it is no acker, whoever starts that again.
pub(super) async fn halt(
    conn: &mut Connection,
    threads: wishes::Threads,
    within: Duration,
    env: &ControlEnv,
) -> Result<(), ControlError> {
    let deadline = Instant::now() + within.max(env.statement);
    if threads.receives() {
        stop_receiving(conn, deadline).await?;
        semi_sync::words(conn, deadline).await?;
        if let Some(sql) = side(conn, Side::Replica, false) {
            conn.query(&sql, deadline).await?;
        }
    }
    if !threads.applies() {
        return Ok(());
    }
    let mut seen = standing(conn, deadline).await?;
    let Some(channel) = seen.channel() else { return Ok(()) };
    // Where a thread that starts keeps what was received, a delayed one need not be waited for.
    let must_be_level = channel.receiver == ThreadState::Stopped && conn.dialect().purges_at_start();
    if must_be_level {
        refuse_unread(conn, &seen)?;
        if let Some(missing) = seen.unapplied() {
            wait_applied(conn, &missing, within).await?;
            seen = standing(conn, deadline).await?;
        }
    }
    if seen.channel().is_some_and(|channel| channel.applier != ThreadState::Stopped) {
        stop_applier(conn, deadline).await?;
    }
    Ok(())
}

/// No default channel any more; refused while anything received is unapplied that is not in `discard`.
pub(super) async fn forget_source(
    conn: &mut Connection,
    discard: Option<&GtidSet>,
    deadline: Instant,
) -> Result<(), ControlError> {
    match discard {
        Some(discard) => stop_without(conn, discard, deadline).await?,
        None => stop_replicating(conn, deadline).await?,
    }
    let sql = conn.dialect().forget();
    conn.query(&sql, deadline).await?;
    Ok(())
}
