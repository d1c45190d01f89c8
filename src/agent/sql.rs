//! The agent's connections to its own server, by the socket. Spares are kept open between steps.

use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use super::state::{ServerProcess, Shared};
use crate::config;
use crate::model::observation::Unseen;
use crate::model::report::Report;
use crate::mysql::client::{Account, Connection, Target, Tls};
use crate::mysql::fault::ClientError;
use crate::mysql::probe;

/// How long a kept connection may take to prove that it is alive.
const ALIVE_WITHIN: Duration = Duration::from_millis(200);
/// One that was in use so short a time ago is taken for alive without asking.
const FRESH: Duration = Duration::from_millis(100);
/// So many steps run side by side in a change of primary.
const SPARES: usize = 2;
/// How long a greeting may take before a manager has told of its policy.
const GREETED_WITHIN: Duration = Duration::from_secs(5);

/// The spares, and when each was given back; the last one is taken first.
#[derive(Debug, Default)]
pub struct Spare(Mutex<Vec<(Connection, Instant)>>);

impl Spare {
    /// A connection of the admin account.
    ///
    /// # Errors
    /// How connecting failed by `deadline`.
    pub async fn take(&self, shared: &Shared, deadline: Instant) -> Result<Connection, ClientError> {
        while let Some((mut conn, since)) = self.pop().await {
            let by = deadline.min(Instant::now() + ALIVE_WITHIN);
            if since.elapsed() < FRESH || conn.ping(by).await.is_ok() {
                return Ok(conn);
            }
        }
        connect_admin(shared, deadline).await
    }

    /// Gives one back for the next.
    pub async fn give(&self, conn: Connection) {
        let mut spares = self.0.lock().await;
        if conn.is_open() && spares.len() < SPARES {
            spares.push((conn, Instant::now()));
        }
    }

    async fn pop(&self) -> Option<(Connection, Instant)> {
        self.0.lock().await.pop()
    }
}

/// A new connection of the admin account.
///
/// # Errors
/// How it failed by `deadline`.
pub(super) async fn connect_admin(shared: &Shared, deadline: Instant) -> Result<Connection, ClientError> {
    let server = running(shared)?;
    connect(server.socket.clone(), &server.admin, greeted_by(shared, deadline)).await
}

/// A new connection of the heartbeat account.
///
/// # Errors
/// How it failed by `deadline`.
pub(super) async fn connect_heartbeat(shared: &Shared, deadline: Instant) -> Result<Connection, ClientError> {
    let server = running(shared)?;
    connect(server.socket.clone(), &server.heartbeat, greeted_by(shared, deadline)).await
}

/// However long the work may take that the connection is for, a server that is there greets in the time of a statement.
fn greeted_by(shared: &Shared, deadline: Instant) -> Instant {
    let policy = shared.seen().membership.as_ref().map(|membership| membership.policy.statement);
    deadline.min(Instant::now() + policy.unwrap_or(GREETED_WITHIN))
}

/// The server, unless it has ended: connecting then would be asking the service manager, where that listens for it
/// (mariadb.socket), and would start it.
fn running(shared: &Shared) -> Result<&config::ServerConfig, ClientError> {
    let unseen = match (&shared.config.server, &shared.seen().process) {
        (Some(server), ServerProcess::Running(_) | ServerProcess::Unknown(_)) => return Ok(server),
        (Some(_), ServerProcess::Gone(_)) => Unseen::Refused,
        (None, _) => Unseen::Looker("a witness has no server".to_owned()),
    };
    Err(ClientError { server: "this host's server".to_owned(), unseen, code: None })
}

async fn connect(
    socket: std::path::PathBuf,
    account: &config::Account,
    deadline: Instant,
) -> Result<Connection, ClientError> {
    Connection::open(&Target::Socket(socket), &mysql_account(account), &Tls::Off, None, deadline).await
}

/// The configured account in the words of `mysql`.
pub(super) fn mysql_account(account: &config::Account) -> Account {
    Account { user: account.user.clone(), password: account.password.clone() }
}

/// The configured encryption in the words of `mysql`.
pub(crate) fn mysql_tls(tls: &config::Tls) -> Tls {
    match tls {
        config::Tls::Off => Tls::Off,
        config::Tls::Required => Tls::Unverified,
        config::Tls::VerifyIdentity { ca } => Tls::Identity { ca: Some(ca.clone()), name: None },
    }
}

/// A fresh report.
///
/// # Errors
/// How looking failed by `deadline`.
pub(super) async fn fresh_report(
    shared: &Shared,
    spare: &Spare,
    deadline: Instant,
) -> Result<Report, Unseen> {
    let mut conn = spare.take(shared, deadline).await.map_err(|error| error.unseen)?;
    let report = probe::report(&mut conn, deadline).await;
    spare.give(conn).await;
    report
}
