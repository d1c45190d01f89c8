//! The write heartbeat: one row that proves commits and, on replicas, tells the true lag. Written with an unprivileged account,
//! one at a time, only by whoever holds the lease; given up when late, never killed (a killed one commits: S5).

use std::ops::RangeInclusive;

use tokio::time::Instant;

use crate::model::ballot::Generation;
use crate::mysql::client::Connection;
use crate::mysql::dialect::literal;
use crate::mysql::fault::ClientError;

/// What must exist for it, in order. Made at adoption, on the primary.
pub const HEARTBEAT_SCHEMA: [&str; 3] = [
    "CREATE DATABASE IF NOT EXISTS mha",
    "CREATE TABLE IF NOT EXISTS mha.heartbeat (id INT NOT NULL PRIMARY KEY, at DATETIME(6) NOT NULL, \
     writer VARCHAR(255) NOT NULL, generation BIGINT UNSIGNED NOT NULL) ENGINE=InnoDB",
    // The rows for later commits are everywhere from then on: one that is inserted later would stop a replica that has it already.
    "INSERT INTO mha.heartbeat (id, at, writer, generation) VALUES (3, UTC_TIMESTAMP(6), '', 0), (4, UTC_TIMESTAMP(6), '', 0), \
     (5, UTC_TIMESTAMP(6), '', 0), (6, UTC_TIMESTAMP(6), '', 0), (7, UTC_TIMESTAMP(6), '', 0), (8, UTC_TIMESTAMP(6), '', 0), \
     (9, UTC_TIMESTAMP(6), '', 0), (10, UTC_TIMESTAMP(6), '', 0) ON DUPLICATE KEY UPDATE id = VALUES(id)",
];

/// The row that is the heartbeat. Row 2 belongs to a rewind.
const HEARTBEAT: u32 = 1;
/// The rows that a later commit may be written to; [`HEARTBEAT_SCHEMA`] makes them.
pub const LATER_ROWS: RangeInclusive<u32> = 3..=10;

/// Whether that row is written by the agent of a primary: not the mark of a rewind.
pub fn is_heartbeat_row(row: u32) -> bool {
    row == HEARTBEAT || LATER_ROWS.contains(&row)
}

/// Writes the heartbeat in the name of `writer` and commits it.
///
/// # Errors
/// The server's refusal (1290 on a read-only server), or no answer by `deadline`: then the row may yet be committed.
pub async fn write_heartbeat(
    conn: &mut Connection,
    writer: &str,
    generation: Generation,
    deadline: Instant,
) -> Result<(), ClientError> {
    write_row(conn, HEARTBEAT, writer, generation, deadline).await
}

/// Commits something while the heartbeat waits for an acknowledgement: an acknowledgement of this one stands for all before it. `row` is one
/// of [`LATER_ROWS`], and nothing else writes it.
///
/// # Errors
/// As [`write_heartbeat`].
pub async fn write_later_row(
    conn: &mut Connection,
    row: u32,
    writer: &str,
    generation: Generation,
    deadline: Instant,
) -> Result<(), ClientError> {
    write_row(conn, row, writer, generation, deadline).await
}

async fn write_row(
    conn: &mut Connection,
    row: u32,
    writer: &str,
    generation: Generation,
    deadline: Instant,
) -> Result<(), ClientError> {
    let sql = format!(
        "INSERT INTO mha.heartbeat (id, at, writer, generation) VALUES ({row}, UTC_TIMESTAMP(6), {}, {generation}) \
         ON DUPLICATE KEY UPDATE at=VALUES(at), writer=VALUES(writer), generation=VALUES(generation)",
        literal(writer)
    );
    conn.query(&sql, deadline).await.map(drop)
}
