//! What keeps a replica's threads from obeying: a statement that stops them and does not come back, and an applier that waits for a
//! table lock of somebody's.

use tokio::time::Instant;

use super::client::Connection;
use super::fault::ClientError;

/// What hangs on a replica now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Hanging {
    /// A session executes the statement that stops replication.
    pub stop: bool,
    /// An applier waits for a table lock.
    pub applier: bool,
    /// How many statements that stop replication the server has executed since it started.
    pub stops: u64,
}

const SQL: &str = "SELECT COALESCE(SUM(UPPER(LTRIM(INFO)) REGEXP '^STOP +(ALL +)?(SLAVE|REPLICA)'), 0) AS stops, \
     COALESCE(SUM(USER = 'system user' AND STATE LIKE 'Waiting for table%lock%'), 0) AS waits \
     FROM information_schema.PROCESSLIST WHERE ID <> CONNECTION_ID()";

/// Looks at the sessions.
///
/// # Errors
/// How asking failed by `deadline`.
pub async fn look(conn: &mut Connection, deadline: Instant) -> Result<Hanging, ClientError> {
    let rows = conn.query(SQL, deadline).await?;
    let some = |name: &str| rows.first().and_then(|row| row.number::<u64>(name)).is_some_and(|n| n > 0);
    let counters = conn.query("SHOW GLOBAL STATUS LIKE 'Com%stop%'", deadline).await?;
    let counted = counters.iter().filter(|row| row.at(0).is_some_and(stops_replication));
    let stops = counted.filter_map(|row| row.at(1)?.parse::<u64>().ok()).sum();
    Ok(Hanging { stop: some("stops"), applier: some("waits"), stops })
}

/// `Com_slave_stop`, `Com_stop_all_slaves`, `Com_replica_stop`; not group replication's.
fn stops_replication(counter: &str) -> bool {
    let counter = counter.to_ascii_lowercase();
    !counter.contains("group") && (counter.contains("slave") || counter.contains("replica"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_statements_that_stop_replication_are_counted() {
        for counter in ["Com_slave_stop", "Com_stop_all_slaves", "Com_replica_stop"] {
            assert!(stops_replication(counter), "{counter}");
        }
        assert!(!stops_replication("Com_group_replication_stop"));
    }
}
