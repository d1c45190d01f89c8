//! MySQL's clone plugin: a server makes a copy of another's data in a directory beside its own, which it goes on using. It never
//! clones over a server's own data.

use std::time::Duration;

use secrecy::ExposeSecret;
use tokio::time::{Instant, sleep};

use super::rewind::{close_again, lift};
use super::{ControlError, named};
use crate::model::instance::{Flavor, InstanceId};
use crate::mysql::client::{Account, Connection};
use crate::mysql::dialect::literal;
use crate::mysql::sessions::{NO_SUCH_SESSION, kill};

/// Between two looks whether a copy that was ended has.
const END_EVERY: Duration = Duration::from_millis(100);

/// Whose data is copied, by which account of its own, and where to.
#[derive(Debug, Clone, Copy)]
pub struct CloneOrder<'a> {
    pub from: &'a InstanceId,
    /// May back that server up.
    pub account: &'a Account,
    /// Must not be there, and the server must be able to create it.
    pub directory: &'a str,
}

/// The plugin is there, loaded if it was not.
///
/// # Errors
/// The server's refusal, or no answer by `deadline`.
pub async fn load_clone(conn: &mut Connection, deadline: Instant) -> Result<(), ControlError> {
    let sql = "SELECT 1 FROM information_schema.PLUGINS WHERE plugin_name='clone' AND plugin_status='ACTIVE'";
    if !conn.query(sql, deadline).await?.is_empty() {
        return Ok(());
    }
    // Loading a plugin writes to a table, which is not logged. Ordinary users stay shut out: read_only is not touched.
    let closed = lift(conn, deadline).await?;
    let installed = conn.query("INSTALL PLUGIN clone SONAME 'mysql_clone.so'", deadline).await;
    close_again(conn, closed, deadline).await?;
    installed?;
    Ok(())
}

/// Makes the copy. It takes as long as it takes: how far it is says [`clone_progress`] on another connection, which can also end it.
///
/// # Errors
/// The server's, which has removed what there was of the copy; or no answer by `deadline`.
pub async fn clone(
    conn: &mut Connection,
    copy: CloneOrder<'_>,
    deadline: Instant,
) -> Result<(), ControlError> {
    let InstanceId { host, port } = copy.from;
    let secret = copy.account.password.expose_secret();
    let sql = format!(
        "SET GLOBAL clone_valid_donor_list={}; CLONE INSTANCE FROM {}@{}:{port} IDENTIFIED BY {} DATA DIRECTORY={}",
        literal(&format!("{host}:{port}")),
        literal(&copy.account.user),
        literal(host),
        literal(secret),
        literal(copy.directory),
    );
    conn.query(&sql, deadline).await.map_err(|error| error.scrubbed(secret))?;
    Ok(())
}

/// Bytes copied, and about how many there are.
///
/// # Errors
/// As every question.
pub async fn clone_progress(
    conn: &mut Connection,
    deadline: Instant,
) -> Result<(u64, Option<u64>), ControlError> {
    let sql = "SELECT CAST(COALESCE(SUM(data), 0) AS UNSIGNED) AS done, CAST(COALESCE(SUM(estimate), 0) AS UNSIGNED) AS total \
               FROM performance_schema.clone_progress";
    let rows = conn.query(sql, deadline).await?;
    let number = |name| rows.first().and_then(|row| row.number::<u64>(name));
    Ok((number("done").unwrap_or(0), number("total").filter(|total| *total > 0)))
}

/// Ends every copy this server is making, and waits until it has removed what there was of it.
///
/// # Errors
/// As every question; that one goes on at `deadline`.
pub async fn end_clone(conn: &mut Connection, deadline: Instant) -> Result<(), ControlError> {
    let sql = "SELECT id FROM information_schema.PROCESSLIST WHERE info LIKE 'CLONE INSTANCE FROM %'";
    loop {
        let rows = conn.query(sql, deadline).await?;
        if rows.is_empty() {
            return Ok(());
        }
        for id in rows.iter().filter_map(|row| row.number::<u64>("id")) {
            match conn.query(&format!("KILL QUERY {id}"), deadline).await {
                // It has just ended.
                Err(error) if error.code != Some(NO_SUCH_SESSION) => return Err(error.into()),
                Ok(_) | Err(_) => {}
            }
        }
        if Instant::now() + END_EVERY > deadline {
            let what = "an earlier copy goes on although it was ended".to_owned();
            return Err(ControlError::NoEffect { server: named(conn), what });
        }
        sleep(END_EVERY).await;
    }
}

/// Ends every session by which another server copies this one's data.
///
/// # Errors
/// As every question.
pub async fn end_giving(conn: &mut Connection, deadline: Instant) -> Result<(), ControlError> {
    let sql = "SELECT id FROM information_schema.PROCESSLIST WHERE command = 'Clone'";
    let rows = conn.query(sql, deadline).await?;
    for id in rows.iter().filter_map(|row| row.number::<u64>("id")) {
        kill(conn, id, deadline).await?;
    }
    Ok(())
}

/// Files of the server that a copy in the place of its data directory would leave behind, by the settings that say so.
///
/// # Errors
/// As every question.
pub async fn outside(
    conn: &mut Connection,
    data: &str,
    deadline: Instant,
) -> Result<Vec<String>, ControlError> {
    let mut names = vec!["innodb_data_home_dir", "innodb_log_group_home_dir", "innodb_undo_directory"];
    if conn.dialect().flavor() == Flavor::MySql {
        // MariaDB's log is begun anew in any case; MySQL would read its history there.
        names.push("log_bin_basename");
    } else {
        names.push("aria_log_dir_path");
    }
    let listed: Vec<String> = names.iter().map(|name| literal(name)).collect();
    let sql = format!("SHOW GLOBAL VARIABLES WHERE variable_name IN ({})", listed.join(","));
    let data = data.trim_end_matches('/');
    let mut found = Vec::new();
    for row in conn.query(&sql, deadline).await? {
        let (name, value) = (row.at(0).unwrap_or_default(), row.at(1).unwrap_or_default());
        let below = value.strip_prefix(data).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        if value.starts_with('/') && !below {
            found.push(format!("{name} = {value}"));
        }
    }
    Ok(found)
}

/// The directory the server keeps its data in.
///
/// # Errors
/// As every question.
pub async fn data_directory(conn: &mut Connection, deadline: Instant) -> Result<String, ControlError> {
    let rows = conn.query("SELECT @@global.datadir AS datadir", deadline).await?;
    let found = rows.first().and_then(|row| row.text("datadir")).map(str::to_owned);
    found
        .ok_or_else(|| ControlError::NoEffect { server: named(conn), what: "it names no datadir".to_owned() })
}
