//! Running what a dead server's log held on the server that takes its place: statements made by the log tool, in order, on
//! one session that is given up at the first failure, so that a transaction it left open is rolled back.

use tokio::time::Instant;

use super::{ControlError, named};
use crate::mysql::client::Connection;

/// Applies `statements` and gives the connection back. Transactions that were completed before a failure stay.
///
/// # Errors
/// The first failure and its place, or no answer by `deadline`. The session is gone then, and what it had open with it.
pub async fn apply_salvage(
    mut conn: Connection,
    statements: &[String],
    deadline: Instant,
) -> Result<Connection, ControlError> {
    let closed = match conn.dialect().lift_super_read_only() {
        None => false,
        Some(lift) => {
            let rows = conn.query("SELECT @@global.super_read_only AS closed", deadline).await?;
            let closed = rows.first().and_then(|row| row.switch("closed")).unwrap_or(false);
            // Ordinary users stay shut out: read_only is not touched.
            if closed {
                conn.query(lift, deadline).await?;
            }
            closed
        }
    };
    let done = run(&mut conn, statements, deadline).await;
    if closed {
        // On a fresh session this would need the account again; on this one an open transaction ends first.
        let close = format!("ROLLBACK; {}", conn.dialect().set_read_only(true));
        let reclosed = conn.query(&close, deadline).await;
        // The first failure is the one to tell.
        done?;
        reclosed?;
        return Ok(conn);
    }
    match done {
        Ok(()) => Ok(conn),
        Err(error) => {
            conn.close(deadline).await;
            Err(error)
        }
    }
}

async fn run(conn: &mut Connection, statements: &[String], deadline: Instant) -> Result<(), ControlError> {
    for (index, statement) in statements.iter().enumerate() {
        match conn.query(statement, deadline).await {
            Ok(_) => {}
            // The tool names the dead server's session in them, which the account may not be allowed to: no data is in them.
            Err(error) if conn.is_open() && error.code == Some(1227) && is_pretence(statement) => {}
            Err(error) => {
                let server = named(conn);
                return Err(ControlError::Salvage { server, number: index + 1, of: statements.len(), error });
            }
        }
    }
    Ok(())
}

/// `SET @@session.pseudo_…` and nothing else.
fn is_pretence(statement: &str) -> bool {
    let text = statement.trim_start().to_ascii_lowercase();
    let text = text
        .strip_prefix("/*!")
        .map_or(text.as_str(), |rest| rest.trim_start_matches(|c: char| c.is_ascii_digit()).trim_start());
    text.strip_prefix("set ").is_some_and(|rest| {
        let rest = rest.trim_start().trim_start_matches("@@").trim_start_matches("session.");
        rest.starts_with("pseudo_") && !rest.contains(',')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pretences_may_fail() {
        assert!(is_pretence("SET @@session.pseudo_thread_id=9"));
        assert!(is_pretence("/*!50530 SET @@SESSION.PSEUDO_SLAVE_MODE=1*/"));
        assert!(!is_pretence("SET @@session.pseudo_thread_id=9, @@session.gtid_domain_id=0"));
        assert!(!is_pretence("INSERT INTO t VALUES ('set @@pseudo_')"));
    }
}
