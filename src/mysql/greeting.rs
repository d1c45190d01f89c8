//! The cheapest look at a server: does it greet? Needs no account, so any agent can do it from its own side, and tells a
//! stopped server (connected, silent) from a lost host (not connected). It proves nothing about queries or commits.
//!
//! It never walks away from a greeting: a client that does is counted by the server towards `max_connect_errors`, and after
//! enough of them its host is blocked. It sends a login instead, as a user that does not exist, and is refused (1045):
//! servers do not count that one, though they note it in `Aborted_connects` and, by default, in their error log.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, timeout_at};

use super::client::{Target, resolve};
use super::fault::{of_io, spoken};
use crate::model::observation::Unseen;

/// The longest greeting believed, in bytes; real ones are below 200.
const LONGEST: usize = 4096;

/// Who does not exist.
const NOBODY: &str = "mha_greeting";

/// How long a refused login may take once the greeting has come: it no longer changes the answer.
const GOODBYE: Duration = Duration::from_millis(200);

/// Whether `target` greets.
///
/// # Errors
/// How it did not: refused, lost, no route by `deadline`, connected and silent by `deadline`, or an error it sent in place of
/// a greeting (which proves it alive).
pub async fn greeting(target: &Target, deadline: Instant) -> Result<(), Unseen> {
    let place = Place::of(target, deadline).await?;
    let stage = Stage::default();
    match timeout_at(deadline, look(&place, &stage)).await {
        Ok(seen) => seen,
        Err(_) => Err(stage.unseen()),
    }
}

/// Where to connect, resolved.
#[derive(Debug, Clone)]
pub(super) enum Place {
    Tcp(Vec<SocketAddr>),
    Socket(PathBuf),
}

impl Place {
    pub(super) async fn of(target: &Target, deadline: Instant) -> Result<Self, Unseen> {
        match target {
            Target::Tcp { host, port } => Ok(Self::Tcp(
                resolve(host, *port, deadline).await?.into_iter().map(|ip| (ip, *port).into()).collect(),
            )),
            Target::Socket(path) => Ok(Self::Socket(path.clone())),
        }
    }
}

/// How far a look has come; shared, because a look that ran out of time cannot answer any more.
#[derive(Debug, Default)]
pub(super) struct Stage(AtomicU8);

impl Stage {
    fn set(&self, stage: u8) {
        self.0.store(stage, Ordering::Relaxed);
    }

    /// What an elapsed deadline means at this stage.
    pub(super) fn unseen(&self) -> Unseen {
        match self.0.load(Ordering::Relaxed) {
            0 => Unseen::NoRoute,
            1 => Unseen::SilentBeforeGreeting,
            _ => Unseen::HungAfterLogin,
        }
    }
}

/// Connects, waits for the greeting, and takes its leave. Has no deadline of its own.
pub(super) async fn look(place: &Place, stage: &Stage) -> Result<(), Unseen> {
    match place {
        Place::Tcp(addresses) => {
            let stream = TcpStream::connect(&**addresses).await.map_err(|error| of_io(&error))?;
            talk(stream, stage).await
        }
        Place::Socket(path) => {
            let stream = UnixStream::connect(path).await.map_err(|error| of_io(&error))?;
            talk(stream, stage).await
        }
    }
}

async fn talk(mut stream: impl AsyncRead + AsyncWrite + Unpin, stage: &Stage) -> Result<(), Unseen> {
    stage.set(1);
    let packet = read(&mut stream).await.map_err(|error| of_io(&error))?;
    match packet.as_slice() {
        [10, greeting @ ..] => {
            stage.set(2);
            // Whether the refusal still comes says nothing new: the greeting has been seen.
            let _ = timeout_at(Instant::now() + GOODBYE, take_leave(&mut stream, greeting)).await;
            Ok(())
        }
        [0xff, low, high, text @ ..] => {
            let text = if text.first() == Some(&b'#') { text.get(6..).unwrap_or(&[]) } else { text };
            Err(spoken(u16::from_le_bytes([*low, *high]), &String::from_utf8_lossy(text)))
        }
        _ => Err(Unseen::Looker("what answers there does not speak MySQL's protocol".to_owned())),
    }
}

/// One packet's payload.
async fn read(stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Vec<u8>> {
    let mut header = [0; 4];
    stream.read_exact(&mut header).await?;
    let [low, middle, high, _] = header;
    let length = u32::from_le_bytes([low, middle, high, 0]) as usize;
    if length > LONGEST {
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, "no greeting is that long"));
    }
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload).await?;
    Ok(payload)
}

/// Logs in as nobody and waits to be refused, through at most one change of the authentication method.
async fn take_leave(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    greeting: &[u8],
) -> std::io::Result<()> {
    // CLIENT_LONG_PASSWORD, PROTOCOL_41, SECURE_CONNECTION, PLUGIN_AUTH; no database, an empty answer to the challenge.
    let mut login = vec![0x01, 0x82, 0x08, 0, 0, 0, 0, 1, 45];
    login.extend([0; 23]);
    login.extend(NOBODY.bytes());
    login.extend([0, 0]);
    // By the method the greeting ends with: MySQL counts a client without one as an interrupted connection.
    login.extend(method(greeting));
    login.push(0);
    stream.write_all(&framed(&login, 1)).await?;
    if read(stream).await?.first() == Some(&0xfe) {
        stream.write_all(&framed(&[], 3)).await?;
        read(stream).await?;
    }
    Ok(())
}

/// The name of the authentication method at a greeting's end.
fn method(greeting: &[u8]) -> &[u8] {
    let named = greeting.strip_suffix(&[0]).unwrap_or(greeting);
    named.rsplit(|byte| *byte == 0).next().unwrap_or(&[])
}

fn framed(payload: &[u8], sequence: u8) -> Vec<u8> {
    let mut packet = (payload.len() as u32).to_le_bytes().to_vec();
    packet.truncate(3);
    packet.push(sequence);
    packet.extend(payload);
    packet
}
