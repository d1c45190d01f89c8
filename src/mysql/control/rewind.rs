//! Taking a fenced server back to an earlier history: first the rows of the transactions that are to go, in one transaction
//! that no log hears of; then the history itself. It never touches a server's log before it was saved: the caller has done that.
//!
//! Row events are given to the server as events, so that it finds each row as its own applier would: one that is not there, or
//! not as it was, is an error, and then nothing is kept.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::time::Instant;

use super::{ControlError, named};
use crate::model::gtid::GtidSet;
use crate::model::instance::Flavor;
use crate::mysql::client::Connection;
use crate::mysql::dialect::literal;
use crate::mysql::probe::standing;

/// So much is sent at once, in bytes of events; the server takes more.
const BATCH: usize = 512 << 10;
/// The heartbeat's table has this row only between the two halves of a rewind: it says that the first one is done.
const MARK: &str = "DELETE FROM mha.heartbeat WHERE id=2";

/// What takes rows back.
#[derive(Debug, Clone, Copy)]
pub struct Undo<'a> {
    /// The log's format event.
    pub format: &'a [u8],
    /// Tables' maps with row events, in the order in which they are applied.
    pub events: &'a [Vec<u8>],
    /// Schema and name of each table touched.
    pub tables: &'a [(String, String)],
    /// Names what is undone: the checksum of the file it was saved in.
    pub mark: &'a str,
}

/// Takes the rows back, if that is not done yet. All or nothing; nothing of it is logged.
///
/// # Errors
/// Why nothing was changed; or no answer by `deadline`, and asking again finds out.
pub async fn undo(mut conn: Connection, undo: &Undo<'_>, deadline: Instant) -> Result<(), ControlError> {
    let closed = lift(&mut conn, deadline).await?;
    let done = undo_within(&mut conn, undo, deadline).await;
    if conn.is_open() {
        // What is open ends before the server is closed again. It stays read-only in any case, and following closes it too.
        let ended = match conn.query("ROLLBACK", deadline).await {
            Ok(_) => close_again(&mut conn, closed, deadline).await,
            Err(error) => Err(error.into()),
        };
        if let Err(error) = ended {
            tracing::warn!(error = %error, "the server stays open to administrators until it follows");
        }
    }
    conn.close(deadline).await;
    done
}

async fn undo_within(conn: &mut Connection, undo: &Undo<'_>, deadline: Instant) -> Result<(), ControlError> {
    conn.query("SET SESSION sql_log_bin=0", deadline).await?;
    let known = conn.query("SELECT writer FROM mha.heartbeat WHERE id=2", deadline).await?;
    if known.first().is_some_and(|row| row.text("writer") == Some(undo.mark)) {
        return Ok(());
    }
    refuse(conn, undo, deadline).await?;
    // One at a time: in a list of statements this one answers as if it were the last.
    conn.query(&binlog(undo.format), deadline).await?;
    if conn.dialect().flavor() == Flavor::MySql {
        // The format event makes the session expect a GTID; without one nothing of it is logged.
        conn.query("SET SESSION gtid_next='AUTOMATIC'", deadline).await?;
    }
    conn.query("BEGIN", deadline).await?;
    let mut batch = Vec::new();
    for (index, event) in undo.events.iter().enumerate() {
        batch.extend_from_slice(event);
        if batch.len() > BATCH || index + 1 == undo.events.len() {
            conn.query(&binlog(&batch), deadline).await?;
            batch.clear();
        }
    }
    let mark = format!(
        "{MARK}; INSERT INTO mha.heartbeat (id, at, writer, generation) VALUES (2, UTC_TIMESTAMP(6), {}, 0); COMMIT",
        literal(undo.mark)
    );
    conn.query(&mark, deadline).await?;
    Ok(())
}

/// Where rows were changed that no event tells of, or a row that is missing would be passed over, nothing is inverted.
async fn refuse(conn: &mut Connection, undo: &Undo<'_>, deadline: Instant) -> Result<(), ControlError> {
    let unable =
        |conn: &Connection, what: String| Err(ControlError::Unsupported { server: named(conn), what });
    let rows = conn.query(conn.dialect().row_rules(), deadline).await?;
    let strict = rows.first().is_some_and(|row| {
        row.text("mode").is_some_and(|mode| mode.eq_ignore_ascii_case("STRICT"))
            && row.text("triggers").is_none_or(|triggers| triggers.eq_ignore_ascii_case("NO"))
    });
    if !strict {
        let what =
            "take rows back exactly: it passes over rows that are missing, or runs triggers for row events";
        return unable(conn, what.to_owned());
    }
    if undo.tables.is_empty() {
        return Ok(());
    }
    let names: Vec<String> =
        undo.tables.iter().map(|(schema, name)| format!("({},{})", literal(schema), literal(name))).collect();
    let names = names.join(",");
    let sql = format!(
        "SELECT CONCAT(table_schema, '.', table_name) AS name FROM information_schema.TABLES \
         WHERE (table_schema, table_name) IN ({names}) AND engine = 'InnoDB' AND table_type = 'BASE TABLE'"
    );
    let known = conn.query(&sql, deadline).await?;
    if known.len() != undo.tables.len() {
        return unable(
            conn,
            "take rows back: one of their tables is gone, not InnoDB, or system-versioned".to_owned(),
        );
    }
    let sql = format!(
        "SELECT CONCAT(constraint_schema, '.', table_name) AS name FROM information_schema.REFERENTIAL_CONSTRAINTS \
         WHERE (unique_constraint_schema, referenced_table_name) IN ({names}) \
         AND (delete_rule NOT IN ('RESTRICT', 'NO ACTION') OR update_rule NOT IN ('RESTRICT', 'NO ACTION')) LIMIT 1"
    );
    let cascades = conn.query(&sql, deadline).await?;
    if let Some(row) = cascades.first() {
        let child = row.text_or_empty("name");
        return unable(
            conn,
            format!(
                "take rows back: a foreign key of {child} changes rows with them, which no event tells of"
            ),
        );
    }
    Ok(())
}

/// Sets the history to exactly `keep`: its logs are gone then, and it replicates from there. Forgets the mark, too.
///
/// # Errors
/// The server's refusal, or no answer by `deadline`; doing it again is safe.
pub async fn reset(mut conn: Connection, keep: &GtidSet, deadline: Instant) -> Result<(), ControlError> {
    let closed = lift(&mut conn, deadline).await?;
    let done = reset_within(&mut conn, keep, deadline).await;
    let ended = if conn.is_open() { close_again(&mut conn, closed, deadline).await } else { Ok(()) };
    done?;
    ended?;
    conn.close(deadline).await;
    Ok(())
}

async fn reset_within(conn: &mut Connection, keep: &GtidSet, deadline: Instant) -> Result<(), ControlError> {
    let seen = standing(conn, deadline).await?;
    if seen.history.executed != *keep {
        let dialect = conn.dialect();
        let sql = format!("{}; {}", dialect.reset_history(), dialect.set_history(keep));
        conn.query(&sql, deadline).await?;
        let seen = standing(conn, deadline).await?;
        if seen.history.executed != *keep {
            let what = format!("its history is {} instead of {keep}", seen.history.executed);
            return Err(ControlError::NoEffect { server: named(conn), what });
        }
    }
    conn.query(&format!("SET SESSION sql_log_bin=0; {MARK}"), deadline).await?;
    Ok(())
}

/// A server that has just been given a copy of another's data: whom that one followed is forgotten, and the history is the copy's,
/// where it does not tell by itself.
///
/// # Errors
/// As [`reset`].
pub async fn begin_anew(
    mut conn: Connection,
    history: Option<&GtidSet>,
    deadline: Instant,
) -> Result<(), ControlError> {
    let seen = standing(&mut conn, deadline).await?;
    if seen.channel().is_some() {
        let forget = conn.dialect().forget();
        conn.query(&forget, deadline).await?;
    }
    match history {
        Some(history) => reset(conn, history, deadline).await,
        None => {
            conn.close(deadline).await;
            Ok(())
        }
    }
}

/// Lets this session write where even it could not; answers whether that is to be taken back.
pub(super) async fn lift(conn: &mut Connection, deadline: Instant) -> Result<bool, ControlError> {
    let Some(lift) = conn.dialect().lift_super_read_only() else { return Ok(false) };
    let rows = conn.query("SELECT @@global.super_read_only AS closed", deadline).await?;
    let closed = rows.first().and_then(|row| row.switch("closed")).unwrap_or(false);
    // Ordinary users stay shut out: read_only is not touched.
    if closed {
        conn.query(lift, deadline).await?;
    }
    Ok(closed)
}

pub(super) async fn close_again(
    conn: &mut Connection,
    closed: bool,
    deadline: Instant,
) -> Result<(), ControlError> {
    if closed {
        let close = conn.dialect().set_read_only(true);
        conn.query(close, deadline).await?;
    }
    Ok(())
}

fn binlog(events: &[u8]) -> String {
    format!("BINLOG '{}'", base64(events))
}

fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_of_every_remainder() {
        for (bytes, text) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
        assert_eq!(base64(&[0xff, 0xfe, 0xfd]), "//79");
    }
}
