//! The write heartbeat: one row that proves commits and, on replicas, tells the true lag. Written with an unprivileged account,
//! one at a time, only by whoever holds the lease; given up when late, never killed (a killed one commits: S5).

use tokio::time::Instant;

use crate::model::ballot::Generation;
use crate::mysql::client::Connection;
use crate::mysql::dialect::literal;
use crate::mysql::fault::ClientError;

/// What must exist for it, in order. Made at adoption, on the primary.
pub const HEARTBEAT_SCHEMA: [&str; 2] = [
    "CREATE DATABASE IF NOT EXISTS mha",
    "CREATE TABLE IF NOT EXISTS mha.heartbeat (id INT NOT NULL PRIMARY KEY, at DATETIME(6) NOT NULL, \
     writer VARCHAR(255) NOT NULL, generation BIGINT UNSIGNED NOT NULL) ENGINE=InnoDB",
];

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
    let sql = format!(
        "INSERT INTO mha.heartbeat (id, at, writer, generation) VALUES (1, UTC_TIMESTAMP(6), {}, {generation}) \
         ON DUPLICATE KEY UPDATE at=VALUES(at), writer=VALUES(writer), generation=VALUES(generation)",
        literal(writer)
    );
    conn.query(&sql, deadline).await.map(drop)
}
