//! What sessions do that a planned change must know of. Looks only, and asks nothing that could wait for a lock.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::client::{Account, Connection};
use super::dialect::literal;
use super::fault::ClientError;
use super::record::Record;
use crate::model::instance::Flavor;
use crate::model::sessions::{Doing, OpenTransaction, Session, Sessions};

/// Sessions worth a word, at most: the first ones say enough.
const MOST: usize = 20;
/// Of a statement's text, in characters.
const TEXT: usize = 80;

/// Clients' sessions with their transactions; streams, appliers and this session left out.
const PROCESSES: &str = "SELECT p.ID AS id, p.USER AS user, p.HOST AS host, p.COMMAND AS command, p.TIME AS time, \
     COALESCE(p.STATE, '') AS state, LEFT(COALESCE(p.INFO, ''), 200) AS info, \
     TIMESTAMPDIFF(SECOND, t.trx_started, NOW()) AS age, t.trx_rows_modified AS changed \
     FROM information_schema.PROCESSLIST p \
     LEFT JOIN information_schema.INNODB_TRX t ON t.trx_mysql_thread_id = p.ID \
     WHERE p.ID <> CONNECTION_ID() AND p.USER NOT IN ('system user', 'event_scheduler') \
     AND p.COMMAND NOT LIKE 'Binlog Dump%' AND p.COMMAND NOT IN ('Daemon', 'Slave_IO', 'Slave_SQL', 'Slave_worker')";

/// Locks that are held until their session lets them go. MySQL only.
const EXPLICIT_LOCKS: &str = "SELECT t.PROCESSLIST_ID AS id, t.PROCESSLIST_USER AS user, \
     COALESCE(t.PROCESSLIST_HOST, '') AS host, COALESCE(t.PROCESSLIST_TIME, 0) AS time, l.OBJECT_TYPE AS object, \
     COALESCE(l.OBJECT_SCHEMA, '') AS db, COALESCE(l.OBJECT_NAME, '') AS name \
     FROM performance_schema.metadata_locks l JOIN performance_schema.threads t ON t.THREAD_ID = l.OWNER_THREAD_ID \
     WHERE l.LOCK_STATUS = 'GRANTED' AND t.PROCESSLIST_ID <> CONNECTION_ID() \
     AND ((l.OBJECT_TYPE IN ('GLOBAL', 'COMMIT', 'BACKUP LOCK') AND l.LOCK_TYPE IN ('SHARED', 'EXCLUSIVE')) \
     OR (l.OBJECT_TYPE = 'TABLE' AND l.LOCK_TYPE IN ('SHARED_NO_READ_WRITE', 'SHARED_READ_ONLY')))";

const HAS_LOCKS: &str = "SELECT 1 AS here FROM information_schema.PLUGINS \
     WHERE PLUGIN_NAME = 'METADATA_LOCK_INFO' AND PLUGIN_STATUS = 'ACTIVE'";
/// The same by MariaDB's plugin `metadata_lock_info`, where somebody installed it.
const MARIADB_LOCKS: &str = "SELECT l.THREAD_ID AS id, p.USER AS user, p.HOST AS host, p.TIME AS time, \
     l.LOCK_TYPE AS object, l.LOCK_MODE AS mode, l.TABLE_SCHEMA AS db, l.TABLE_NAME AS name \
     FROM information_schema.METADATA_LOCK_INFO l JOIN information_schema.PROCESSLIST p ON p.ID = l.THREAD_ID \
     WHERE p.ID <> CONNECTION_ID() AND l.LOCK_MODE IN \
     ('MDL_SHARED_NO_READ_WRITE', 'MDL_SHARED_READ_ONLY', 'MDL_BACKUP_FTWRL1', 'MDL_BACKUP_FTWRL2')";

/// Asks what sessions do; with `replication` also whether that account exists, and what the binlog leaves out.
///
/// # Errors
/// How it failed by `deadline`.
pub async fn sessions(
    conn: &mut Connection,
    replication: Option<&Account>,
    deadline: Instant,
) -> Result<Sessions, ClientError> {
    let rows = conn.query(PROCESSES, deadline).await?;
    let mut found: Vec<Session> = rows.iter().filter_map(busy).collect();
    let locks = match conn.dialect().flavor() {
        Flavor::MySql => Some(EXPLICIT_LOCKS),
        Flavor::MariaDb => (!conn.query(HAS_LOCKS, deadline).await?.is_empty()).then_some(MARIADB_LOCKS),
    };
    // Not seen where it is not installed, or not allowed: the block itself then meets the lock, within its time.
    if let Some(locks) = locks
        && let Ok(rows) = conn.query(locks, deadline).await
    {
        for lock in rows.iter().filter_map(lock) {
            let told = |session: &Session| session.id == lock.id && session.doing == lock.doing;
            if !found.iter().any(told) {
                found.push(lock);
            }
        }
    }
    found.sort_by_key(|session| std::cmp::Reverse(session.since));
    found.truncate(MOST);
    let (mut replication_account, mut binlog_filter) = (None, None);
    if let Some(account) = replication {
        let sql = format!("SELECT COUNT(*) AS n FROM mysql.user WHERE user = {}", literal(&account.user));
        if let Ok(rows) = conn.query(&sql, deadline).await {
            replication_account = rows.first().and_then(|row| row.number::<u64>("n")).map(|n| n > 0);
        }
        let rows = conn.query(conn.dialect().show_binlog_status(), deadline).await?;
        binlog_filter = rows.first().and_then(filter);
    }
    Ok(Sessions { sessions: found, replication_account, binlog_filter })
}

/// Open transactions, by their own numbers: a session may go on to its next one.
const TRANSACTIONS: &str = "SELECT t.trx_id AS trx, p.ID AS id, TIMESTAMPDIFF(SECOND, t.trx_started, NOW()) AS age, \
     p.COMMAND AS command, COALESCE(p.STATE, '') AS state \
     FROM information_schema.INNODB_TRX t JOIN information_schema.PROCESSLIST p ON p.ID = t.trx_mysql_thread_id \
     WHERE p.ID <> CONNECTION_ID() AND p.USER NOT IN ('system user', 'event_scheduler')";

/// Clients' transactions that are open now.
///
/// # Errors
/// How asking failed by `deadline`.
pub async fn open_transactions(
    conn: &mut Connection,
    deadline: Instant,
) -> Result<Vec<OpenTransaction>, ClientError> {
    let rows = conn.query(TRANSACTIONS, deadline).await?;
    let open = |row: &Record| {
        let state = row.text_or_empty("state").to_ascii_lowercase();
        let commits = ["semi-sync", "commit", "binlog", "flush", "waiting for"];
        Some(OpenTransaction {
            id: row.text("trx")?.to_owned(),
            session: row.number("id")?,
            age: row.number("age").map_or(Duration::ZERO, Duration::from_secs),
            commits: commits.iter().any(|word| state.contains(word)),
        })
    };
    Ok(rows.iter().filter_map(open).collect())
}

/// How long one question over the connection that holds the lock may take, before it is given up with the lock.
const LOCK_ANSWERS_WITHIN: Duration = Duration::from_secs(5);
/// Between two looks whether the ended ones are gone.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Transactions that have changed something, or wait for a lock, of everybody but the appliers.
const WRITERS: &str = "SELECT p.ID AS id FROM information_schema.PROCESSLIST p \
     LEFT JOIN information_schema.INNODB_TRX t ON t.trx_mysql_thread_id = p.ID \
     WHERE p.ID <> CONNECTION_ID() AND p.USER NOT IN ('system user', 'event_scheduler') \
     AND (t.trx_rows_modified > 0 OR t.trx_rows_locked > 0 OR p.STATE IN \
     ('Waiting for backup lock', 'Waiting for global read lock', 'Waiting for commit lock'))";

/// Ends every session with a transaction that has changed something, behind a lock that keeps it from committing. Never without such a
/// lock: a commit that waits for an acknowledgement would be committed by that. How many there were, and how many of them are still there: one
/// that has not seen yet that it is ended commits when the lock is given up. They are waited for `within`. No question is cut off by that: a
/// connection that is given up in the middle of an answer is closed, and the lock ends with it.
///
/// # Errors
/// How asking, or ending one, failed: the server did not answer one question within 5 s.
pub async fn end_writers(conn: &mut Connection, within: Duration) -> Result<(usize, usize), ClientError> {
    let until = Instant::now() + within;
    let by = || Instant::now() + LOCK_ANSWERS_WITHIN;
    let mut rows = conn.query(WRITERS, by()).await?;
    for id in rows.iter().filter_map(|row| row.number::<u64>("id")) {
        kill(conn, id, by()).await?;
    }
    // A session that is ended rolls back first.
    let count = rows.len();
    while !rows.is_empty() && Instant::now() + LOOK_EVERY < until {
        sleep(LOOK_EVERY).await;
        rows = conn.query(WRITERS, by()).await?;
    }
    Ok((count, rows.len()))
}

/// Ends a session whose transaction is open for too long.
pub async fn end_session(conn: &mut Connection, session: u64, deadline: Instant) {
    tracing::warn!(server = %conn.target(), session, "its transaction was open for too long: ended");
    let _ = kill(conn, session, deadline).await;
}

/// What a server answers to a `KILL` of a session that does not exist (`ER_NO_SUCH_THREAD`).
pub const NO_SUCH_SESSION: u16 = 1094;

/// `KILL`. A session that has ended meanwhile counts as ended.
///
/// # Errors
/// How ending it failed by `deadline`.
pub async fn kill(conn: &mut Connection, session: u64, deadline: Instant) -> Result<(), ClientError> {
    match conn.query(&format!("KILL {session}"), deadline).await {
        Err(error) if error.code == Some(NO_SUCH_SESSION) => Ok(()),
        answer => answer.map(drop),
    }
}

fn filter(row: &Record) -> Option<String> {
    let of = |name: &str| row.text(name).filter(|text| !text.is_empty());
    let only = of("binlog_do_db").map(|databases| format!("only {databases}"));
    let without = of("binlog_ignore_db").map(|databases| format!("without {databases}"));
    let parts: Vec<String> = only.into_iter().chain(without).collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

fn session(row: &Record, since: Duration, doing: Doing) -> Option<Session> {
    let text: String = row.text_or_empty("info").chars().filter(|c| !c.is_control()).take(TEXT).collect();
    Some(Session {
        id: row.number("id")?,
        user: row.text_or_empty("user").to_owned(),
        host: row.text_or_empty("host").to_owned(),
        since,
        doing,
        text,
    })
}

fn busy(row: &Record) -> Option<Session> {
    let running = Duration::from_secs(row.number("time").unwrap_or(0));
    let state = row.text_or_empty("state");
    let lower = state.to_ascii_lowercase();
    if lower.contains("semi-sync ack") {
        return session(row, running, Doing::WaitsForAck);
    }
    if lower.starts_with("waiting for") && lower.ends_with("lock") {
        return session(row, running, Doing::WaitsForLock(state.to_owned()));
    }
    let age = row.number("age").map(Duration::from_secs);
    let idle = row.text_or_empty("command") == "Sleep";
    if !idle && changes_schema(row.text_or_empty("info")) {
        return session(row, running, Doing::ChangesSchema);
    }
    let rows = row.number("changed").unwrap_or(0);
    session(row, age?, Doing::Transaction { idle, rows })
}

fn changes_schema(text: &str) -> bool {
    let first: Vec<String> = text.split_whitespace().take(1).map(str::to_ascii_uppercase).collect();
    first.first().is_some_and(|word| {
        ["ALTER", "CREATE", "DROP", "TRUNCATE", "RENAME", "OPTIMIZE", "REPAIR"].contains(&word.as_str())
    })
}

fn lock(row: &Record) -> Option<Session> {
    let since = Duration::from_secs(row.number("time").unwrap_or(0));
    let on_table = row.text_or_empty("object").to_ascii_lowercase().contains("table")
        && !row.text_or_empty("mode").contains("FTWRL");
    let doing = if on_table {
        Doing::LocksTables(format!("{}.{}", row.text_or_empty("db"), row.text_or_empty("name")))
    } else {
        Doing::LocksEverything
    };
    session(row, since, doing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ddl_is_known_by_its_first_word() {
        assert!(changes_schema("alter table t add c int"));
        assert!(!changes_schema("SELECT 'ALTER'"));
        assert!(!changes_schema(""));
    }
}
