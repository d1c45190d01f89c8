//! A replica of MariaDB whose threads both stand still throws what it received and did not apply away as soon as either starts. That is
//! no loss while its source serves and has all of it: then it is received again.

use secrecy::ExposeSecret;
use tokio::time::Instant;

use super::ControlEnv;
use crate::model::gtid::GtidSet;
use crate::model::instance::{Flavor, InstanceId};
use crate::model::observation::Unseen;
use crate::mysql::client::{Connection, Target, Tls};
use crate::mysql::fault::ClientError;

/// Whether `source` takes writes and has logged `missing`. What cannot be learned is no.
pub(super) async fn has_all(
    source: &InstanceId,
    missing: &GtidSet,
    env: &ControlEnv,
    deadline: Instant,
) -> bool {
    let answer = match ask(source, env, &Tls::Off, deadline).await {
        Err(ClientError { unseen: Unseen::AccessDenied(_), .. }) => {
            ask(source, env, &Tls::Unverified, deadline).await
        }
        answer => answer,
    };
    match answer {
        Ok(Some(logged)) => logged.contains(missing),
        Ok(None) => false,
        Err(error) => {
            let secret = env.replication.password.expose_secret();
            tracing::warn!(%source, error = %error.scrubbed(secret), "what it has logged is not known");
            false
        }
    }
}

/// What it has logged; nothing of one that is read-only: it may be no primary any more.
async fn ask(
    source: &InstanceId,
    env: &ControlEnv,
    tls: &Tls,
    deadline: Instant,
) -> Result<Option<GtidSet>, ClientError> {
    let target = Target::from(source);
    let mut conn = Connection::open(&target, &env.replication, tls, None, deadline).await?;
    let sql = "SELECT @@global.read_only AS closed, @@global.gtid_binlog_pos AS logged";
    let rows = conn.query(sql, deadline).await?;
    conn.close(deadline).await;
    let open = rows.first().filter(|row| row.switch("closed") == Some(false));
    Ok(open.and_then(|row| GtidSet::parse(Flavor::MariaDb, row.text("logged")?).ok()))
}
