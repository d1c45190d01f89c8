//! Both sides of semi-sync: armed means after-sync, no fallback within the server's longest timeout, and waiting even
//! when nobody is connected.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{ControlError, named, side};
use crate::model::report::SemiSync;
use crate::mysql::client::{Answer, Connection};
use crate::mysql::dialect::{SemiSyncWords, Side};
use crate::mysql::parse;

/// How long one count of the ackers may take.
const ANSWER: Duration = Duration::from_secs(1);

const VARIABLES: &str = "SHOW GLOBAL VARIABLES LIKE 'rpl_semi_sync%'";

/// The words of this server, asked for once per connection.
pub(super) async fn words(conn: &mut Connection, deadline: Instant) -> Result<SemiSyncWords, ControlError> {
    if let Some(words) = conn.semi_sync.or(conn.dialect().built_in_semi_sync()) {
        return Ok(words);
    }
    let rows = conn.query(VARIABLES, deadline).await?;
    let words = SemiSyncWords::of(rows.iter().filter_map(|row| row.at(0)));
    conn.semi_sync = Some(words);
    Ok(words)
}

/// The words, after loading the plugin of `wanted` where it is missing.
pub(super) async fn loaded(
    conn: &mut Connection,
    wanted: Side,
    deadline: Instant,
) -> Result<SemiSyncWords, ControlError> {
    let words = words(conn, deadline).await?;
    let dialect = conn.dialect();
    if words.has(wanted) {
        return Ok(words);
    }
    let Some(install) = dialect.install_semi_sync(wanted) else { return Ok(words) };
    let was_closed = match dialect.lift_super_read_only() {
        Some(_) => {
            let rows = conn.query("SELECT @@global.super_read_only AS closed", deadline).await?;
            rows.first().and_then(|row| row.switch("closed")).unwrap_or(false)
        }
        None => false,
    };
    // Loading a plugin writes to a table. Ordinary users stay shut out: read_only is not touched.
    let lift = dialect.lift_super_read_only().filter(|_| was_closed);
    if let Some(lift) = lift {
        conn.query(lift, deadline).await?;
    }
    let installed = conn.query(install, deadline).await;
    if lift.is_some() {
        conn.query(dialect.set_read_only(true), deadline).await?;
    }
    installed?;
    conn.semi_sync = None;
    let words = self::words(conn, deadline).await?;
    if words.has(wanted) {
        Ok(words)
    } else {
        Err(ControlError::NoEffect { server: named(conn), what: install.to_owned() })
    }
}

/// The source side on for `acks` acknowledgements, the replica side off; read back in the same round trip.
pub(super) async fn arm_source(
    conn: &mut Connection,
    acks: u32,
    deadline: Instant,
) -> Result<(), ControlError> {
    let counts = conn.dialect().counts_acks();
    if acks > 1 && !counts {
        return Err(ControlError::Unsupported {
            server: named(conn),
            what: format!("wait for {acks} acknowledgements; MariaDB waits for one"),
        });
    }
    let words = loaded(conn, Side::Source, deadline).await?;
    let unloaded = || ControlError::Unsupported {
        server: named(conn),
        what: "no semi-sync; install the server's semi-sync plugin".to_owned(),
    };
    let arm = words.arm(SemiSync::LONGEST_WAIT, counts.then_some(acks)).ok_or_else(unloaded)?;
    let enable = words.enable(Side::Source, true).ok_or_else(unloaded)?;
    let mut sql = Vec::from([arm, enable]);
    // The old replica side goes last: off it can only acknowledge less.
    sql.extend(words.enable(Side::Replica, false));
    sql.push(VARIABLES.to_owned());
    let rows = conn.query(&sql.join("; "), deadline).await?;
    let (seen, _) = parse::semi_sync(&rows, &[]);
    match seen.not_armed_for(acks) {
        None if !seen.replica_enabled => Ok(()),
        why => {
            let why = why.unwrap_or_else(|| "it goes on acknowledging".to_owned());
            Err(ControlError::NoEffect { server: named(conn), what: format!("armed for {acks}, and {why}") })
        }
    }
}

/// Refuses a source that is not armed for `acks` acknowledgements, unless that is none.
///
/// # Errors
/// What is missing, or how asking failed by `deadline`.
pub async fn refuse_unarmed(conn: &mut Connection, acks: u32, deadline: Instant) -> Result<(), ControlError> {
    if acks == 0 {
        return Ok(());
    }
    let rows = conn.query(VARIABLES, deadline).await?;
    match parse::semi_sync(&rows, &[]).0.not_armed_for(acks) {
        None => Ok(()),
        Some(why) => Err(ControlError::NotArmed { server: named(conn), why }),
    }
}

/// The source side off. This lets waiting commits return: asked for only where policy says so, never on a fenced server (H6).
pub(super) async fn disarm_source(conn: &mut Connection, deadline: Instant) -> Result<(), ControlError> {
    words(conn, deadline).await?;
    if let Some(off) = side(conn, Side::Source, false) {
        conn.query(&off, deadline).await?;
    }
    Ok(())
}

/// Both sides off, whatever the server's file or its persisted variables say. Only for one that has just been started and lets nobody in: a commit
/// that waited would be answered.
///
/// # Errors
/// When the server does not do so by `deadline`.
pub async fn switch_off(conn: &mut Connection, deadline: Instant) -> Result<(), ControlError> {
    words(conn, deadline).await?;
    let off: Vec<String> =
        [Side::Source, Side::Replica].iter().filter_map(|one| side(conn, *one, false)).collect();
    if !off.is_empty() {
        conn.query(&off.join("; "), deadline).await?;
    }
    Ok(())
}

/// At least `acks` ackers connected, asked again and again for at most `within`.
pub(super) async fn wait_attached(
    conn: &mut Connection,
    acks: u32,
    within: Duration,
) -> Result<(), ControlError> {
    if acks == 0 {
        return Ok(());
    }
    let deadline = Instant::now() + within;
    let Some(question) = words(conn, deadline).await?.clients() else {
        return Err(ControlError::Unsupported { server: named(conn), what: "no semi-sync".to_owned() });
    };
    let mut pause = Duration::from_micros(200);
    loop {
        // Past the end of the wait: a question begun just before it is not cut off, and the connection with it.
        let Answer { sets, error } = conn.batch(question, deadline + ANSWER).await;
        if let Some(error) = error {
            return Err(error.into());
        }
        let have = sets.first().and_then(|rows| rows.first()?.at(1)?.parse().ok()).unwrap_or(0);
        if have >= acks {
            return Ok(());
        }
        if Instant::now() + pause >= deadline {
            return Err(ControlError::NotAttached { server: named(conn), have, want: acks, within });
        }
        sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(1));
    }
}
