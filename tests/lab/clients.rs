//! Clients as they are in the field, without a time limit of their own: some wait for one answer after the other on a connection
//! that they keep, some connect for every statement. At its end it writes how long each waited at most, as one JSON object.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Opts, OptsBuilder};
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::sleep;

/// Between two tries to connect.
const BETWEEN_TRIES: Duration = Duration::from_millis(10);
/// Between the first connections of two clients: a server's queue of new ones is short.
const APART: Duration = Duration::from_millis(5);

#[derive(Debug, Parser)]
#[command(about = "Wait for answers without a time limit, and say how long")]
struct Args {
    /// Address or name to connect to: the VIP.
    #[arg(long)]
    host: String,
    #[arg(long, default_value_t = 3306)]
    port: u16,
    #[arg(long, default_value = "app")]
    user: String,
    /// File holding the password.
    #[arg(long)]
    password_file: PathBuf,
    /// Clients that keep their connection and wait in SELECT SLEEP(0.05).
    #[arg(long, default_value_t = 200)]
    waiting: usize,
    /// Clients that connect anew for every statement.
    #[arg(long, default_value_t = 170)]
    reconnecting: usize,
    /// Between two statements of a client that reconnects.
    #[arg(long, default_value_t = 500)]
    pause_ms: u64,
    /// This file is made when every client has had an answer.
    #[arg(long)]
    ready: PathBuf,
}

fn monotonic_us() -> u64 {
    let at = clock_gettime(ClockId::Monotonic);
    at.tv_sec.unsigned_abs() * 1_000_000 + at.tv_nsec.unsigned_abs() / 1_000
}

/// How long one client waited, in microseconds.
#[derive(Debug, Default)]
struct Waits {
    /// Since when it waits for an answer on an open connection; 0 when it does not.
    since: AtomicU64,
    longest: AtomicU64,
    answers: AtomicU64,
    /// Connections that ended while their client waited.
    ended: AtomicU64,
    /// Since when it connects, login included; 0 when it does not.
    connecting: AtomicU64,
    longest_connect: AtomicU64,
}

impl Waits {
    fn begin(of: &AtomicU64) {
        of.store(monotonic_us(), Ordering::Relaxed);
    }

    fn end(of: &AtomicU64, longest: &AtomicU64) {
        let since = of.swap(0, Ordering::Relaxed);
        longest.fetch_max(monotonic_us().saturating_sub(since), Ordering::Relaxed);
    }

    /// The longest wait, the one that has not ended included.
    fn longest(of: &AtomicU64, longest: &AtomicU64) -> f64 {
        let since = of.load(Ordering::Relaxed);
        let now = if since == 0 { 0 } else { monotonic_us().saturating_sub(since) };
        now.max(longest.load(Ordering::Relaxed)) as f64 / 1_000.0
    }
}

#[derive(Debug, Serialize)]
struct Figures {
    clients: usize,
    /// Connections whose client waited for an answer for more than a second.
    over_1s: usize,
    longest_ms: f64,
    /// The same of connecting, until the login is answered.
    connect_over_1s: usize,
    longest_connect_ms: f64,
    answers: u64,
    ended: u64,
}

fn figures(clients: &[Arc<Waits>]) -> Figures {
    let waits: Vec<f64> = clients.iter().map(|of| Waits::longest(&of.since, &of.longest)).collect();
    let connects: Vec<f64> =
        clients.iter().map(|of| Waits::longest(&of.connecting, &of.longest_connect)).collect();
    let most = |of: &[f64]| of.iter().copied().fold(0.0, f64::max);
    let over = |of: &[f64]| of.iter().filter(|wait| **wait > 1_000.0).count();
    let sum = |of: fn(&Waits) -> &AtomicU64| clients.iter().map(|one| of(one).load(Ordering::Relaxed)).sum();
    Figures {
        clients: clients.len(),
        over_1s: over(&waits),
        longest_ms: most(&waits),
        connect_over_1s: over(&connects),
        longest_connect_ms: most(&connects),
        answers: sum(|one| &one.answers),
        ended: sum(|one| &one.ended),
    }
}

async fn connect(opts: &Opts, waits: &Waits) -> Conn {
    Waits::begin(&waits.connecting);
    loop {
        #[expect(
            clippy::disallowed_methods,
            reason = "the measuring client must not share the code it measures"
        )]
        let connected = Conn::new(opts.clone()).await;
        if let Ok(conn) = connected {
            Waits::end(&waits.connecting, &waits.longest_connect);
            return conn;
        }
        // Refused: the next try is a connection of its own.
        Waits::end(&waits.connecting, &waits.longest_connect);
        sleep(BETWEEN_TRIES).await;
        Waits::begin(&waits.connecting);
    }
}

/// One client's life. `pause` is that of a client which connects for every statement.
async fn wait_for_answers(opts: Opts, waits: Arc<Waits>, pause: Option<Duration>) {
    let mut kept = None;
    loop {
        let mut conn = match kept.take() {
            Some(conn) => conn,
            None => connect(&opts, &waits).await,
        };
        Waits::begin(&waits.since);
        let answered = conn.query_drop(if pause.is_some() { "SELECT 1" } else { "SELECT SLEEP(0.05)" }).await;
        Waits::end(&waits.since, &waits.longest);
        match (answered, pause) {
            (Err(_), _) => {
                waits.ended.fetch_add(1, Ordering::Relaxed);
            }
            (Ok(()), None) => {
                waits.answers.fetch_add(1, Ordering::Relaxed);
                kept = Some(conn);
            }
            (Ok(()), Some(pause)) => {
                waits.answers.fetch_add(1, Ordering::Relaxed);
                drop(conn);
                sleep(pause).await;
            }
        }
    }
}

async fn run(args: Args) -> Result<()> {
    let password = std::fs::read_to_string(&args.password_file)
        .with_context(|| format!("cannot read {}", args.password_file.display()))?;
    let opts: Opts = OptsBuilder::default()
        .ip_or_hostname(args.host)
        .tcp_port(args.port)
        .user(Some(args.user))
        .pass(Some(password.trim_end()))
        .prefer_socket(false)
        // Known values spare a round trip at each login.
        .max_allowed_packet(Some(1 << 24))
        .wait_timeout(Some(28_800))
        .into();
    let mut term = signal(SignalKind::terminate())?;
    let mut tasks = JoinSet::new();
    let mut clients = Vec::new();
    for number in 0..args.waiting + args.reconnecting {
        let waits = Arc::new(Waits::default());
        let pause = (number >= args.waiting).then_some(Duration::from_millis(args.pause_ms));
        tasks.spawn(wait_for_answers(opts.clone(), Arc::clone(&waits), pause));
        sleep(APART).await;
        clients.push(waits);
    }
    let ready = async {
        while clients.iter().any(|waits| waits.answers.load(Ordering::Relaxed) == 0) {
            sleep(BETWEEN_TRIES).await;
        }
        // Logging in all at once is not what is measured.
        for waits in &clients {
            waits.longest.store(0, Ordering::Relaxed);
            waits.longest_connect.store(0, Ordering::Relaxed);
        }
        std::fs::write(&args.ready, "").context("cannot say that all are connected")
    };
    tokio::select! {
        ready = ready => {
            ready?;
            let _ = term.recv().await;
        }
        _ = term.recv() => {}
    }
    let figures = serde_json::to_string(&figures(&clients))?;
    tasks.shutdown().await;
    writeln!(std::io::stdout(), "{figures}").context("cannot write the figures")
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("clients: {error:#}");
            ExitCode::FAILURE
        }
    }
}
