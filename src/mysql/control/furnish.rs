//! What a primary gets at its adoption, and every replica from it: the heartbeat's table, the two accounts that may do little, and
//! semi-sync's source side. What is there is left as it is; no password reaches a binary log.

use secrecy::ExposeSecret;
use tokio::time::Instant;

use super::heartbeat::HEARTBEAT_SCHEMA;
use super::{ControlEnv, ControlError, semi_sync};
use crate::model::instance::Flavor;
use crate::model::observation::Unseen;
use crate::mysql::client::{Account, Connection};
use crate::mysql::dialect::{REPLICATION_RIGHT, Side, literal};
use crate::mysql::fault::ClientError;

/// Makes what is missing. With `semi_sync` its source side is loaded, before anybody is told to acknowledge: MySQL does not count
/// who attached earlier.
///
/// # Errors
/// The server's refusal, or no answer by `deadline`.
pub(super) async fn furnish(
    conn: &mut Connection,
    semi_sync: bool,
    env: &ControlEnv,
    deadline: Instant,
) -> Result<(), ControlError> {
    conn.query(&HEARTBEAT_SCHEMA.join("; "), deadline).await?;
    let rights = [
        (&env.heartbeat, "SELECT, INSERT, UPDATE ON mha.heartbeat".to_owned()),
        (&env.replication, format!("{REPLICATION_RIGHT} ON *.*")),
    ];
    for (account, rights) in rights {
        if is_missing(conn, account, deadline).await? {
            create(conn, account, &rights, deadline).await?;
        }
    }
    if semi_sync {
        semi_sync::loaded(conn, Side::Source, deadline).await?;
    }
    Ok(())
}

/// Whether no host part of that user exists. Where this is not ours to see, somebody else gives out the accounts.
async fn is_missing(
    conn: &mut Connection,
    account: &Account,
    deadline: Instant,
) -> Result<bool, ClientError> {
    let sql = format!("SELECT COUNT(*) AS known FROM mysql.user WHERE user={}", literal(&account.user));
    match conn.query(&sql, deadline).await {
        Ok(rows) => Ok(rows.first().and_then(|row| row.number::<u64>("known")) == Some(0)),
        Err(error) if matches!(error.unseen, Unseen::AccessDenied(_)) => Ok(false),
        Err(error) => Err(error),
    }
}

async fn create(
    conn: &mut Connection,
    account: &Account,
    rights: &str,
    deadline: Instant,
) -> Result<(), ClientError> {
    let secret = account.password.expose_secret();
    let scrub = |error: ClientError| error.scrubbed(secret);
    let proof = match conn.dialect().flavor() {
        // It logs the statement as it came: the password goes as its hash.
        Flavor::MariaDb => {
            let sql = format!("SELECT PASSWORD({}) AS hash", literal(secret));
            let rows = conn.query(&sql, deadline).await.map_err(scrub)?;
            let hash = rows.first().and_then(|row| row.text("hash")).unwrap_or_default();
            format!("PASSWORD {}", literal(hash))
        }
        Flavor::MySql => literal(secret),
    };
    let user = literal(&account.user);
    let sql =
        format!("CREATE USER IF NOT EXISTS {user}@'%' IDENTIFIED BY {proof}; GRANT {rights} TO {user}@'%'");
    conn.query(&sql, deadline).await.map_err(scrub)?;
    Ok(())
}
