//! One connection to one server. It proves whom it reached before it is believed, each question has a deadline, and a
//! question that ran out of time takes its connection along: reused, that would answer with the reply to the previous question.
//!
//! The only file that opens connections of `wire`. Never a pool, never a reconnect behind the caller's back.

use std::fmt;
use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::FutureExt;
use secrecy::SecretString;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::dialect::{Dialect, SemiSyncWords};
use super::fault::{ClientError, plain};
use super::greeting::{Place, Stage, look};
use super::probe::Extra;
use super::record::Record;
use super::wire::{Session, WireError};
use crate::model::instance::{Flavor, Identity, InstanceId, Version};
use crate::model::observation::Unseen;

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    Tcp { host: String, port: u16 },
    Socket(PathBuf),
}

impl From<&InstanceId> for Target {
    fn from(id: &InstanceId) -> Self {
        Self::Tcp { host: id.host.clone(), port: id.port }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } => InstanceId::new(host, *port).fmt(f),
            Self::Socket(path) => path.display().fmt(f),
        }
    }
}

/// Who logs in.
#[derive(Debug, Clone)]
pub struct Account {
    pub user: String,
    pub password: SecretString,
}

/// Encryption of a TCP connection. A local socket is never encrypted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Tls {
    #[default]
    Off,
    /// Encrypted, whoever the peer is: what servers' own generated certificates allow.
    Unverified,
    /// Encrypted, the certificate's chain and name verified.
    Identity {
        /// PEM file of the certificate authority; without it the public ones.
        ca: Option<PathBuf>,
        /// The name in the certificate, where it is not the host's.
        name: Option<String>,
    },
}

/// An answer of several statements: the row sets that came, and the failure that ended it early.
#[derive(Debug)]
pub struct Answer {
    /// One per statement that returns rows, in order.
    pub sets: Vec<Vec<Record>>,
    pub error: Option<ClientError>,
}

/// A connection to a server that has proven who it is.
pub struct Connection {
    /// Taken out while a question is on its way; not put back when it was not answered.
    conn: Option<Session>,
    target: Target,
    identity: Identity,
    pub(super) semi_sync: Option<SemiSyncWords>,
    /// What this server refused to answer, and is not asked again on this connection.
    pub(super) refused: Vec<Extra>,
    /// No other connection has it, of this process or another one.
    number: Option<u64>,
}

/// The number of the next connection; the first one of a process is drawn. `None` where the kernel gives no random bytes.
static NEXT: LazyLock<Option<AtomicU64>> = LazyLock::new(|| {
    let drawn = crate::random::hex(8).ok()?;
    u64::from_str_radix(&drawn, 16).ok().map(AtomicU64::new)
});

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("target", &self.target)
            .field("identity", &self.identity)
            .field("open", &self.conn.is_some())
            .finish_non_exhaustive()
    }
}

/// Sets what our statements rely on, then asks who this is. The comments are executed by MySQL only (`!`), or by MariaDB
/// only (`M!`): one round trip for every family.
const INTRODUCTION: &str = "SET SESSION sql_mode='', autocommit=1 /*M!100108 , max_statement_time=0 */ \
     /*!50708 , max_execution_time=0 */; \
     SELECT @@version AS version, @@server_id AS server_id, @@port AS port, @@hostname AS hostname \
     /*!50700 , @@server_uuid AS uuid */ /*M!100108 , 1 AS mariadb */";

/// What a panic over an answer is called.
const PANICKED: &str = "what it sent made this client panic";

impl Connection {
    /// Connects, logs in, and reads who answered.
    ///
    /// # Errors
    /// How it failed by `deadline`; [`Unseen::WrongServer`] when another server than `expect` answered. Past half of the time
    /// a second, account-less look runs beside the login, only to tell "no route" from "no greeting" from "hung in login".
    pub async fn open(
        target: &Target,
        account: &Account,
        tls: &Tls,
        expect: Option<&Identity>,
        deadline: Instant,
    ) -> Result<Self, ClientError> {
        let place = Place::of(target, deadline).await.map_err(|unseen| ClientError::new(target, unseen))?;
        let conn = login(target, &place, account, tls, deadline).await?;
        let unknown = Identity {
            flavor: Flavor::MySql,
            version: Version::new(0, 0, 0),
            server_id: 0,
            server_uuid: None,
            hostname: String::new(),
            port: 0,
        };
        let mut this = Self {
            conn: Some(conn),
            target: target.clone(),
            identity: unknown,
            semi_sync: None,
            refused: Vec::new(),
            number: NEXT.as_ref().map(|next| next.fetch_add(1, Ordering::Relaxed)),
        };
        let rows = this.query(INTRODUCTION, deadline).await?;
        this.identity = rows
            .first()
            .ok_or_else(|| "no row".to_owned())
            .and_then(identity)
            .map_err(|why| ClientError::new(target, Unseen::Looker(format!("who it is: {why}"))))?;
        if let Some(other) = expect.and_then(|expected| difference(expected, &this.identity)) {
            return Err(ClientError::new(target, Unseen::WrongServer(other)));
        }
        Ok(this)
    }

    /// No other connection has it, of this process or another one: what is answered on one comes from one run of the server.
    pub fn number(&self) -> Option<u64> {
        self.number
    }

    /// Who answered.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// How the server was addressed.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// The words of this server.
    pub fn dialect(&self) -> Dialect {
        Dialect::new(self.identity.flavor, self.identity.version)
    }

    /// Whether it can still be asked; false after a question was not answered in time, or the connection broke.
    pub fn is_open(&self) -> bool {
        self.conn.is_some()
    }

    /// The rows of the last statement of `sql` that returns any.
    ///
    /// # Errors
    /// How it failed by `deadline`. After anything but an error the server sent, the connection is gone.
    pub async fn query(&mut self, sql: &str, deadline: Instant) -> Result<Vec<Record>, ClientError> {
        let mut answer = self.batch(sql, deadline).await;
        match answer.error {
            None => Ok(answer.sets.pop().unwrap_or_default()),
            Some(error) => Err(error),
        }
    }

    /// Sends several statements in one round trip; the server stops at the first that fails.
    pub async fn batch(&mut self, sql: &str, deadline: Instant) -> Answer {
        let Some(mut conn) = self.conn.take() else {
            return Answer { sets: Vec::new(), error: Some(self.failed(Unseen::Lost)) };
        };
        let asking = async move {
            let mut sets = Vec::new();
            let end = conn.query(sql, &mut sets).await;
            (conn, sets, end)
        };
        // A panic over what the peer sent costs this connection, not the caller's task.
        match timeout_at(deadline, AssertUnwindSafe(asking).catch_unwind()).await {
            Err(_) => Answer { sets: Vec::new(), error: Some(self.failed(Unseen::HungAfterLogin)) },
            Ok(Err(_)) => {
                let why = Unseen::Looker(PANICKED.to_owned());
                Answer { sets: Vec::new(), error: Some(self.failed(why)) }
            }
            Ok(Ok((conn, sets, end))) => {
                let error = end.err();
                if !error.as_ref().is_some_and(WireError::is_fatal) {
                    self.conn = Some(conn);
                }
                Answer { sets, error: error.map(|error| ClientError::of(&self.target, &error)) }
            }
        }
    }

    /// A round trip, no more.
    ///
    /// # Errors
    /// As [`Self::query`].
    pub async fn ping(&mut self, deadline: Instant) -> Result<(), ClientError> {
        self.query("DO 1", deadline).await.map(drop)
    }

    /// Says goodbye. Dropping does too, but does not wait for it.
    pub async fn close(mut self, deadline: Instant) {
        if let Some(conn) = self.conn.take() {
            // A peer that does not take the goodbye is left without one.
            let _ = timeout_at(deadline, conn.quit()).await;
        }
    }

    pub(super) fn failed(&self, unseen: Unseen) -> ClientError {
        ClientError::new(&self.target, unseen)
    }
}

/// Logs in, with a look beside it when it takes long.
async fn login(
    target: &Target,
    place: &Place,
    account: &Account,
    tls: &Tls,
    deadline: Instant,
) -> Result<Session, ClientError> {
    let stage = Stage::default();
    let began = Instant::now();
    let half = began + deadline.saturating_duration_since(began) / 2;
    let beside = async {
        sleep_until(half).await;
        // Its answer is in `stage`; an error of its own is the login's to tell.
        let _ = look(place, &stage).await;
        std::future::pending::<()>().await;
    };
    let host = match target {
        Target::Tcp { host, .. } => host,
        Target::Socket(_) => "",
    };
    let login = AssertUnwindSafe(Session::open(place, host, account, tls)).catch_unwind();
    tokio::select! {
        biased;
        done = login => match done {
            Ok(Ok(conn)) => Ok(conn),
            Ok(Err(error)) => Err(ClientError::of(target, &error)),
            Err(_) => Err(ClientError::new(target, Unseen::Looker(PANICKED.to_owned()))),
        },
        () = beside => unreachable!("looks for ever"),
        () = sleep_until(deadline) => Err(ClientError::new(target, stage.unseen())),
    }
}

/// The addresses of a name.
pub(super) async fn resolve(host: &str, port: u16, deadline: Instant) -> Result<Vec<IpAddr>, Unseen> {
    if let Ok(address) = host.parse() {
        return Ok(vec![address]);
    }
    match timeout_at(deadline, tokio::net::lookup_host((host, port))).await {
        Err(_) => Err(Unseen::Name(format!("{host}: the resolver did not answer"))),
        Ok(Err(error)) => Err(Unseen::Name(format!("{host}: {}", plain(&error.to_string())))),
        Ok(Ok(addresses)) => {
            let ips: Vec<IpAddr> = addresses.map(|address| address.ip()).collect();
            if ips.is_empty() { Err(Unseen::Name(format!("{host}: no address"))) } else { Ok(ips) }
        }
    }
}

fn identity(row: &Record) -> Result<Identity, String> {
    let mariadb = row.text("mariadb").is_some();
    Ok(Identity {
        flavor: if mariadb { Flavor::MariaDb } else { Flavor::MySql },
        version: row.text_or_empty("version").parse().map_err(|error| format!("{error}"))?,
        server_id: row.number("server_id").ok_or("server_id is no number")?,
        server_uuid: row.text("uuid").map(str::to_owned),
        hostname: plain(row.text_or_empty("hostname")),
        port: row.number("port").ok_or("port is no number")?,
    })
}

/// What tells the server that answered from the one meant, in words.
fn difference(expected: &Identity, got: &Identity) -> Option<String> {
    (!expected.is_same_server(got)).then(|| format!("meant {expected}, reached {got}"))
}
