//! Pointing a replica at a source: read-only, source side off, and the acknowledging side set before the receiver starts,
//! because a replica announces it only then (N8). Options of the channel that are not ours stay: TLS, delay, filters.

use secrecy::ExposeSecret;
use tokio::time::Instant;

use super::{ControlEnv, ControlError, change, named, receive, refetch, semi_sync, side};
use crate::model::gtid::GtidSet;
use crate::model::instance::InstanceId;
use crate::model::report::{Replication, SemiSync, ThreadState};
use crate::mysql::client::Connection;
use crate::mysql::dialect::{Side, Threads};
use crate::mysql::parse;
use crate::mysql::probe::{Standing, standing};

/// It replicates from `source` by GTID; with `acker` it acknowledges.
pub(super) async fn point(
    conn: &mut Connection,
    source: &InstanceId,
    acker: bool,
    env: &ControlEnv,
    deadline: Instant,
) -> Result<(), ControlError> {
    if acker {
        // The source side too: an acker may be promoted, and then there is no time to load anything.
        semi_sync::loaded(conn, Side::Source, deadline).await?;
        semi_sync::loaded(conn, Side::Replica, deadline).await?;
    } else {
        semi_sync::words(conn, deadline).await?;
    }
    let mut seen = standing(conn, deadline).await?;
    let closed = prepare(conn, &seen, acker);
    let sql = match seen.channel() {
        Some(channel) if is_as_wanted(channel, source, env) => {
            let roles = roles(conn, deadline).await?;
            if let Some(missing) = lost_at_start(conn, &seen, channel) {
                if !refetch::has_all(source, &missing, env, deadline).await {
                    return Err(ControlError::BothStopped { server: named(conn), missing });
                }
                tracing::warn!(%source, %missing, "received and not applied: it is received again");
            }
            restart(conn, channel, &roles, acker, closed)
        }
        known => {
            if known.is_none() {
                let roles = roles(conn, deadline).await?;
                refuse_release(conn, &roles)?;
            }
            if !conn.dialect().changes_under_applier() || seen.channel().is_none_or(|known| !known.gtid) {
                seen = level(conn, seen, deadline).await?;
            }
            repoint(conn, &seen, source, env, closed)
        }
    };
    let late = conn.dialect().disarms_late().then(|| side(conn, Side::Source, false)).flatten();
    let sql: Vec<String> = sql.into_iter().chain(late).collect();
    let secret = env.replication.password.expose_secret();
    conn.query(&sql.join("; "), deadline).await.map_err(|error| error.scrubbed(secret))?;
    Ok(())
}

/// What semi-sync is doing here now.
async fn roles(conn: &mut Connection, deadline: Instant) -> Result<SemiSync, ControlError> {
    let sql = "SHOW GLOBAL VARIABLES LIKE 'rpl_semi_sync%enabled'; SHOW GLOBAL STATUS LIKE 'Rpl_semi_sync%'";
    let answer = conn.batch(sql, deadline).await;
    match (answer.error, answer.sets.as_slice()) {
        (None, [variables, counters]) => Ok(parse::semi_sync(variables, counters).0),
        (None, _) => Ok(SemiSync::default()),
        (Some(error), _) => Err(error.into()),
    }
}

/// A server that is no replica, with commits waiting for an acknowledgement: switching its source side off would answer
/// their clients OK (H6). On a replica the only waiter is its own applier, which that frees.
fn refuse_release(conn: &Connection, roles: &SemiSync) -> Result<(), ControlError> {
    if roles.source_enabled && roles.waiting > 0 {
        return Err(ControlError::WouldRelease { server: named(conn), sessions: roles.waiting });
    }
    Ok(())
}

fn is_as_wanted(channel: &Replication, source: &InstanceId, env: &ControlEnv) -> bool {
    let heartbeat = channel.heartbeat_every.is_none_or(|every| every <= env.heartbeat_every);
    channel.source == *source && channel.gtid && heartbeat
}

/// What must hold before the receiver starts.
fn prepare(conn: &Connection, seen: &Standing, acker: bool) -> Vec<String> {
    let mut sql = Vec::new();
    if !seen.history.read_only || seen.history.super_read_only == Some(false) {
        sql.push(conn.dialect().set_read_only(true).to_owned());
    }
    if !conn.dialect().disarms_late() {
        sql.extend(side(conn, Side::Source, false));
    }
    sql.extend(side(conn, Side::Replica, acker));
    sql.extend(conn.dialect().refuse_parted_history().map(str::to_owned));
    sql
}

/// It points there already: threads that do not run are started, and a receiver that announced itself otherwise than
/// wanted is started again.
fn restart(
    conn: &Connection,
    channel: &Replication,
    roles: &SemiSync,
    acker: bool,
    mut sql: Vec<String>,
) -> Vec<String> {
    let dialect = conn.dialect();
    // The applier first: then stopping the receiver never leaves both stopped.
    if channel.applier == ThreadState::Stopped {
        sql.push(dialect.start(Threads::Applier));
    }
    let announced = channel.receiver != ThreadState::Running || roles.replica_status == acker;
    if !announced {
        sql.extend(dialect.hurry_stop().map(str::to_owned));
        sql.push(dialect.stop(Threads::Receiver));
    }
    if !announced || channel.receiver == ThreadState::Stopped {
        sql.push(dialect.start(Threads::Receiver));
    }
    sql
}

/// What starting a thread would throw away.
fn lost_at_start(conn: &Connection, seen: &Standing, channel: &Replication) -> Option<GtidSet> {
    seen.unapplied().filter(|_| channel.is_stopped() && conn.dialect().purges_at_start())
}

/// Nothing received is unapplied and the receiver is stopped: changing the source throws relay logs away otherwise.
async fn level(conn: &mut Connection, seen: Standing, deadline: Instant) -> Result<Standing, ControlError> {
    if seen.channel().is_none() {
        return Ok(seen);
    }
    let is_stopped = seen.channel().is_some_and(|channel| channel.receiver == ThreadState::Stopped);
    if is_stopped && seen.unapplied().is_none() && !seen.is_behind_by_position() {
        return Ok(seen);
    }
    receive::stop_receiving(conn, deadline).await?;
    let seen = standing(conn, deadline).await?;
    receive::refuse_unread(conn, &seen)?;
    if let Some(missing) = seen.unapplied() {
        receive::wait_applied(conn, &missing, deadline.saturating_duration_since(Instant::now())).await?;
    }
    Ok(standing(conn, deadline).await?)
}

fn repoint(
    conn: &Connection,
    seen: &Standing,
    source: &InstanceId,
    env: &ControlEnv,
    mut sql: Vec<String>,
) -> Vec<String> {
    let dialect = conn.dialect();
    let known = seen.channel();
    let use_gtid = known.is_none_or(|channel| !channel.gtid);
    if known.is_some() {
        // Where the applier may go on it does, and what it still has to apply is kept.
        let only_receiver = dialect.changes_under_applier() && !use_gtid;
        sql.push(dialect.stop(if only_receiver { Threads::Receiver } else { Threads::Both }));
    }
    sql.extend(position(&seen.history.executed, seen.history.position.as_ref()).and_then(|position| {
        // A server that wrote by itself has a history and no position: without one it would ask for all of it again.
        dialect.set_position(&position)
    }));
    sql.push(dialect.change_source(&change(source, env, use_gtid)));
    sql.push(dialect.start(Threads::Both));
    sql
}

/// The position MariaDB must be given, where it differs from the one it has.
fn position(executed: &GtidSet, position: Option<&GtidSet>) -> Option<String> {
    match (executed, position) {
        (GtidSet::MariaDb(executed), Some(GtidSet::MariaDb(known))) => {
            let wanted = executed.position_text();
            (wanted != known.position_text()).then_some(wanted)
        }
        (GtidSet::MariaDb(_) | GtidSet::MySql(_), _) => None,
    }
}
