//! What of a server changes seldom, or may not be asked at every look. The end of the binary log hangs on a full disk (S8), and looking
//! through all tables takes long where there are many: ask on a connection of its own. Looks only.

use std::time::Duration;

use tokio::time::Instant;

use super::client::Connection;
use super::fault::{ClientError, plain};
use super::record::Record;
use crate::model::instance::Flavor;
use crate::model::inventory::PlainTables;
use crate::model::restrictions::Setting;

/// Longest time the server itself spends on counting tables.
const COUNTING: Duration = Duration::from_secs(5);
/// Of the text of a list, in characters.
const TEXT: usize = 200;
/// Tables told by name.
const SOME: usize = 5;

/// The filters of its binary log, which only the answer about its end tells (MariaDB before 11.7, every MySQL).
///
/// # Errors
/// How it failed by `deadline`, or that the account may not ask.
pub async fn binlog_filters(conn: &mut Connection, deadline: Instant) -> Result<Vec<Setting>, ClientError> {
    let rows = conn.query(conn.dialect().show_binlog_status(), deadline).await?;
    let Some(row) = rows.first() else { return Ok(Vec::new()) };
    let of = |name: &&str| {
        let value = plain(row.text(name)?);
        (!value.is_empty()).then(|| Setting::new(name, &value.chars().take(TEXT).collect::<String>()))
    };
    Ok(["binlog_do_db", "binlog_ignore_db"].iter().filter_map(of).collect())
}

/// How many tables of users are in an engine without transactions. The server ends this by itself after 5 s.
///
/// # Errors
/// How it failed by `deadline`, or that it took too long.
pub async fn plain_tables(conn: &mut Connection, deadline: Instant) -> Result<PlainTables, ClientError> {
    let limit = COUNTING.as_secs();
    let (before, hint) = match conn.dialect().flavor() {
        Flavor::MariaDb => (format!("SET STATEMENT max_statement_time={limit} FOR "), String::new()),
        Flavor::MySql => (String::new(), format!("/*+ MAX_EXECUTION_TIME({}) */ ", limit * 1_000)),
    };
    let sql = format!(
        "{before}SELECT {hint}CONCAT(TABLE_SCHEMA, '.', TABLE_NAME, ' (', ENGINE, ')') AS named \
         FROM information_schema.TABLES WHERE TABLE_TYPE = 'BASE TABLE' \
         AND ENGINE IN ('MyISAM', 'Aria', 'MEMORY', 'CSV', 'ARCHIVE', 'MRG_MyISAM') \
         AND TABLE_SCHEMA NOT IN ('mysql', 'sys', 'performance_schema', 'information_schema')"
    );
    let rows = conn.query(&sql, deadline).await?;
    let named = |row: &Record| plain(row.text_or_empty("named")).chars().take(TEXT).collect();
    Ok(PlainTables { count: rows.len() as u64, some: rows.iter().take(SOME).map(named).collect() })
}
