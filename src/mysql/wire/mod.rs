//! The client side of the protocol that MySQL and MariaDB share: login and text queries on one socket, with limits on everything
//! that the peer may send. Nothing is reserved because the peer announces it: a server, or an attacker in front of its port, can
//! make its own connection fail and nothing else. It never reads a file for the peer and never sends a password in clear text
//! over a connection that is not private.
//!
//! The layers are `packet` (frames with a limit), `tls`, `login`, and `answer` (rows within one answer's memory limit).

mod answer;
mod login;
mod packet;
mod tls;

use std::time::Duration;

use futures::FutureExt;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpStream, UnixStream};

use self::answer::Room;
use self::packet::Packets;
use super::client::{Account, Tls};
use super::greeting::Place;
use super::record::Record;

/// The longest packet of an answer, in bytes. The longest honest one is a GTID set with hundreds of thousands of gaps.
const PACKET: usize = 8 << 20;

/// The longest packet of a login, in bytes; a real one is below 600.
const LOGIN_PACKET: usize = 4096;

/// The memory that one answer may take, in bytes, all its result sets together.
const ANSWER: usize = 16 << 20;

/// The most columns of a result set: no table and no `SELECT` of either server can have more.
const COLUMNS: u64 = 4096;

/// After so long without a byte the kernel asks whether the peer is still there.
const KEEPALIVE: Duration = Duration::from_secs(10);

const COM_QUIT: u8 = 1;
const COM_QUERY: u8 = 3;

/// How a login or a query failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum WireError {
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// The server sent an error. The connection can still be used.
    #[error("error {code} ({text})")]
    Server { code: u16, text: String },
    #[error("TLS: {0}")]
    Tls(String),
    /// The peer sent what this client does not read: beyond a limit, or not understood.
    #[error("{0}")]
    Refused(String),
}

impl WireError {
    pub(super) fn refused(what: impl Into<String>) -> Self {
        Self::Refused(what.into())
    }

    /// Whether the connection is of no use any more.
    pub(super) fn is_fatal(&self) -> bool {
        match self {
            Self::Server { .. } => false,
            Self::Io(_) | Self::Tls(_) | Self::Refused(_) => true,
        }
    }
}

/// A connection that is logged in.
pub(super) struct Session {
    packets: Packets,
    /// No query is on its way, so a goodbye would be understood.
    idle: bool,
}

impl Session {
    /// Connects to the first of the addresses that accepts, and logs in. `host` is the name that a certificate is checked against.
    pub(super) async fn open(
        place: &Place,
        host: &str,
        account: &Account,
        tls: &Tls,
    ) -> Result<Self, WireError> {
        let (packets, tls) = match place {
            Place::Tcp(addresses) => {
                let stream = TcpStream::connect(&**addresses).await?;
                stream.set_nodelay(true)?;
                SockRef::from(&stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE))?;
                (Packets::tcp(stream), tls)
            }
            Place::Socket(path) => (Packets::unix(UnixStream::connect(path).await?), &Tls::Off),
        };
        Ok(Self { packets: login::login(packets, host, account, tls).await?, idle: true })
    }

    /// Sends `sql` and reads the whole answer. The rows of each statement that returns any are appended to `sets`, also those that came
    /// before a statement failed.
    pub(super) async fn query(&mut self, sql: &str, sets: &mut Vec<Vec<Record>>) -> Result<(), WireError> {
        self.idle = false;
        let mut room = Room::new(ANSWER);
        self.packets.command(COM_QUERY, sql.as_bytes()).await?;
        let answer = answer::read(&mut self.packets, &mut room, sets).await;
        self.idle = !answer.as_ref().is_err_and(WireError::is_fatal);
        answer
    }

    /// Says goodbye, so that the server counts no aborted connection.
    pub(super) async fn quit(mut self) -> Result<(), WireError> {
        self.idle = false;
        self.packets.command(COM_QUIT, &[]).await
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if self.idle {
            // What the socket does not take at once is left unsaid.
            let _ = self.packets.command(COM_QUIT, &[]).now_or_never();
        }
    }
}
