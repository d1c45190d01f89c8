//! How a server comes up that somebody else starts: as the replica it was.

use tokio::time::Instant;

use super::ControlError;
use crate::mysql::client::Connection;

/// `ER_OPTION_PREVENTS_STATEMENT`.
const PREVENTED: u16 = 1290;

/// From its next start on the server is read-only (not `super_read_only`: a package that alters an account at its upgrade would
/// hang), and with `quiet` runs no scheduled event, until somebody says otherwise at run time: only on whichever leads that is done. Of a replica, which is so already: persisting changes nothing that runs. MariaDB keeps nothing;
/// there the configuration must say so.
///
/// # Errors
/// The server's refusal (it has no room, or the account may not), or no answer by `deadline`.
pub async fn boots_closed(conn: &mut Connection, quiet: bool, deadline: Instant) -> Result<(), ControlError> {
    let Some(kept) = conn.dialect().kept_settings() else { return Ok(()) };
    let rows = conn.query(kept, deadline).await?;
    let is_kept = |name: &str, value: &str| {
        rows.iter().any(|row| row.text_or_empty("name") == name && row.text_or_empty("value") == value)
    };
    for (name, value) in [("read_only", "ON"), ("event_scheduler", "OFF")] {
        if is_kept(name, value) || (name == "event_scheduler" && !quiet) {
            continue;
        }
        match conn.query(&format!("SET PERSIST {name}={value}"), deadline).await {
            // Its scheduler was disabled at its start, and will be.
            Err(error) if error.code == Some(PREVENTED) => {}
            done => drop(done?),
        }
    }
    Ok(())
}
