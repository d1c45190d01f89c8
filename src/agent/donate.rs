//! Giving another server a copy of this one's data. MariaDB's backup tool is run here and what it says goes on its way as it comes,
//! as fast as the other end takes it; MySQL's servers copy by themselves, and this only holds the host's one job meanwhile.
//! Whatever makes this host needed for something more urgent ends it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use ring::digest::{Context, SHA256};
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, interval, timeout};

use super::carry::{Begin, End, LONGEST, Piece, encode};
use super::host::copy::{self, Tool};
use super::host::hexadecimal;
use super::jobs::{Donating, Jobs};
use super::sql::{connect_admin, fresh_report};
use super::state::{ServerProcess, Shared};
use super::wire::DonateRequest;
use crate::decide::lease::holder::Role;
use crate::model::instance::Flavor;
use crate::model::observation::Access;
use crate::mysql::control;

/// Pieces that wait for the other end.
const PIECES: usize = 4;
/// A sign of life while nothing else comes.
const ALIVE_EVERY: Duration = Duration::from_secs(2);
/// So long may the tool say nothing: it may wait for a long statement to end.
const SILENT: Duration = Duration::from_secs(600);
/// So long may the other end take nothing.
const TAKEN_WITHIN: Duration = Duration::from_secs(60);
/// How long this server may take to be asked.
const ASK_WITHIN: Duration = Duration::from_secs(5);

/// Begins; the body carries the copy.
///
/// # Errors
/// Why no copy can be had here now, what else the host is busy with among it.
pub(super) async fn donate(shared: &Arc<Shared>, request: DonateRequest) -> Result<Body, String> {
    let guard = Jobs::donate(shared, request.to.clone())?;
    willing(shared)?;
    let deadline = Instant::now() + ASK_WITHIN;
    let report = fresh_report(shared, &shared.spare, deadline).await.map_err(|unseen| unseen.to_string())?;
    let flavor = report.identity.flavor;
    let mut conn = connect_admin(shared, deadline).await.map_err(|error| error.to_string())?;
    let failed = |error: control::ControlError| error.to_string();
    let total = match flavor {
        Flavor::MySql => {
            control::load_clone(&mut conn, deadline).await.map_err(failed)?;
            None
        }
        Flavor::MariaDb => {
            let data = control::data_directory(&mut conn, deadline).await.map_err(failed)?;
            spawn_blocking(move || copy::size(Path::new(&data))).await.ok().and_then(Result::ok)
        }
    };
    let (sender, receiver) = mpsc::channel(PIECES);
    let begin = Piece::Begin(Begin { total, executed: report.executed });
    // There is room for the first one.
    let _ = sender.try_send(encode(&begin));
    shared.tracker.spawn(async move {
        let to = request.to;
        tracing::warn!(%to, "giving a copy of this server's data");
        let (end, sent) = carry(&guard, flavor, total, &sender).await;
        match &end {
            Ok(()) => tracing::warn!(%to, bytes = sent.bytes, "the copy is given"),
            Err(why) => tracing::warn!(%to, why, "no copy was given"),
        }
        let executed = match &end {
            Ok(()) => {
                let by = Instant::now() + ASK_WITHIN;
                fresh_report(&guard.shared, &guard.shared.spare, by).await.ok().map(|report| report.executed)
            }
            Err(_) => None,
        };
        let last = End { sha256: sent.sum(), bytes: sent.bytes, executed, error: end.err() };
        // The other end may be gone, and then wants to know nothing.
        let _ = timeout(ASK_WITHIN, sender.send(encode(&Piece::End(last)))).await;
    });
    let pieces = futures::stream::unfold(receiver, |mut receiver| async move {
        let piece = receiver.recv().await?;
        Some((Ok::<Bytes, std::convert::Infallible>(piece), receiver))
    });
    Ok(Body::from_stream(pieces))
}

fn willing(shared: &Shared) -> Result<(), String> {
    let seen = shared.seen();
    if !matches!(seen.process, ServerProcess::Running(_)) {
        return Err("no server runs here".to_owned());
    }
    let left = matches!(seen.kept.role, Role::Fenced { .. } | Role::Deposed { .. });
    if left || seen.access == Access::Closed {
        return Err("its server is fenced".to_owned());
    }
    Ok(())
}

/// What went over so far.
struct Sent {
    bytes: u64,
    hash: Context,
}

impl Sent {
    fn sum(&self) -> String {
        hexadecimal(self.hash.clone().finish().as_ref())
    }
}

async fn carry(
    guard: &Donating,
    flavor: Flavor,
    total: Option<u64>,
    sender: &mpsc::Sender<Bytes>,
) -> (Result<(), String>, Sent) {
    let mut sent = Sent { bytes: 0, hash: Context::new(&SHA256) };
    let work = async {
        match flavor {
            Flavor::MySql => hold(sender).await,
            Flavor::MariaDb => stream(&guard.shared, total, sender, &mut sent).await,
        }
    };
    let end = tokio::select! {
        end = work => end,
        () = guard.cancel.cancelled() => {
            if flavor == Flavor::MySql {
                end_giving(&guard.shared).await;
            }
            Err(guard.shared.jobs.reason())
        }
        // Of MySQL the other end holds on until it has what it wants.
        () = sender.closed() => match flavor {
            Flavor::MySql => Ok(()),
            Flavor::MariaDb => Err("the other end is gone".to_owned()),
        },
    };
    if flavor == Flavor::MariaDb {
        tidy(&guard.shared).await;
    }
    (end, sent)
}

/// The other server waits for this one for up to `net_read_timeout` (30 s), whatever it is told meanwhile: it hears at once where its session here
/// ends.
async fn end_giving(shared: &Shared) {
    let deadline = Instant::now() + ASK_WITHIN;
    let ended = async {
        let mut conn = connect_admin(shared, deadline).await.map_err(|error| error.to_string())?;
        control::end_giving(&mut conn, deadline).await.map_err(|error| error.to_string())
    };
    if let Err(error) = ended.await {
        tracing::warn!(error, "the server that is given a copy may wait for it for a while");
    }
}

/// Signs of life until the other end has what it wants.
async fn hold(sender: &mpsc::Sender<Bytes>) -> Result<(), String> {
    let mut every = interval(ALIVE_EVERY);
    loop {
        every.tick().await;
        if sender.send(encode(&Piece::Alive)).await.is_err() {
            return Ok(());
        }
    }
}

/// Nothing of a copy that was given away is left here.
pub(super) async fn tidy(shared: &Shared) {
    let directory = place(shared);
    // What is left all the same is removed before the next.
    let _ = spawn_blocking(move || copy::remove(&directory)).await;
}

fn place(shared: &Shared) -> PathBuf {
    shared.config.run_dir.join("copy")
}

async fn stream(
    shared: &Shared,
    total: Option<u64>,
    sender: &mpsc::Sender<Bytes>,
    sent: &mut Sent,
) -> Result<(), String> {
    let (server, _) = shared.server()?;
    let login = (server.admin.user.as_str(), secrecy::ExposeSecret::expose_secret(&server.admin.password));
    let mut tool: Tool = copy::backup(&place(shared), &server.socket, login).map_err(|e| e.to_string())?;
    let mut output = tool.child.stdout.take().ok_or("the backup tool has no output")?;
    let mut every = interval(ALIVE_EVERY);
    let mut heard = Instant::now();
    let mut buffer = vec![0; LONGEST];
    loop {
        let length = tokio::select! {
            read = output.read(&mut buffer) => read.map_err(|error| error.to_string())?,
            _ = every.tick() => {
                if heard.elapsed() > SILENT {
                    return Err(format!("the backup tool has said nothing for {} s", SILENT.as_secs()));
                }
                if heard.elapsed() >= ALIVE_EVERY && sender.send(encode(&Piece::Alive)).await.is_err() {
                    return Err("the other end is gone".to_owned());
                }
                continue;
            }
        };
        if length == 0 {
            return tool.end().await.map_err(|error| error.to_string());
        }
        heard = Instant::now();
        sent.hash.update(&buffer[..length]);
        sent.bytes += length as u64;
        shared.jobs.progress(sent.bytes, total);
        let piece = Piece::Data(Bytes::copy_from_slice(&buffer[..length]));
        match timeout(TAKEN_WITHIN, sender.send(encode(&piece))).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err("the other end is gone".to_owned()),
            // Towards its end the tool holds commits up, for as long as nobody takes what it says.
            Err(_) => return Err(format!("the other end takes nothing for {} s", TAKEN_WITHIN.as_secs())),
        }
    }
}
