//! The measuring client: inserts unique rows through the VIP and writes down every acknowledgement with the instant
//! it was received. It never calls a row acknowledged that the server did not acknowledge, and never gives one up:
//! the same row is tried until it is, at the first server that takes it.

#[path = "record.rs"]
mod record;

use std::fs::File;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Opts, OptsBuilder};
use rustix::time::{ClockId, clock_gettime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use record::{Failure, Record};

/// Between two tries to connect, and after a refusal.
const BETWEEN_TRIES: Duration = Duration::from_millis(10);

#[derive(Debug, Parser)]
#[command(about = "Insert unique rows, log every acknowledgement")]
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
    /// Where the records go, one JSON object per line.
    #[arg(long)]
    log: PathBuf,
    /// First client number; connection k writes as client number + k.
    #[arg(long, default_value_t = 1)]
    client: u32,
    #[arg(long, default_value_t = 1)]
    connections: u32,
    /// Writes per second over all connections; 0 is as fast as possible.
    #[arg(long, default_value_t = 0)]
    rate: u32,
    /// Deadline of a connect, login included.
    #[arg(long, default_value_t = 200)]
    connect_timeout_ms: u64,
    /// Deadline of a statement; past it the connection is dropped and the row tried again.
    #[arg(long, default_value_t = 1000)]
    statement_timeout_ms: u64,
    /// Stop after so many seconds (otherwise at SIGTERM or SIGINT).
    #[arg(long)]
    stop_after: Option<u64>,
    /// Create the table first.
    #[arg(long)]
    init: bool,
    /// Show on standard error what happens.
    #[arg(long)]
    live: bool,
}

/// This machine's monotonic clock in microseconds: the same for every process of a lab.
fn monotonic_us() -> u64 {
    let at = clock_gettime(ClockId::Monotonic);
    at.tv_sec.unsigned_abs() * 1_000_000 + at.tv_nsec.unsigned_abs() / 1_000
}

/// What all connections share: options, deadlines, the log and the figures of the live line.
#[derive(Debug)]
struct Shared {
    opts: Opts,
    connect_timeout: Duration,
    statement_timeout: Duration,
    log: Mutex<File>,
    acked: AtomicU64,
    last_ack_us: AtomicU64,
    server: AtomicU64,
    longest_gap_us: AtomicU64,
}

impl Shared {
    fn record(&self, record: &Record) -> Result<()> {
        let mut line = serde_json::to_vec(record)?;
        line.push(b'\n');
        let mut log = self.log.lock().expect("no holder of the log's lock panics");
        log.write_all(&line).context("cannot write the log")
    }

    fn ack(&self, client: u32, n: u64, server: u32, retried: bool) -> Result<()> {
        let at_us = monotonic_us();
        let before = self.last_ack_us.swap(at_us, Ordering::Relaxed);
        if before != 0 {
            self.longest_gap_us.fetch_max(at_us.saturating_sub(before), Ordering::Relaxed);
        }
        self.acked.fetch_add(1, Ordering::Relaxed);
        self.server.store(u64::from(server), Ordering::Relaxed);
        self.record(&Record::Ack { client, n, at_us, server, retried })
    }

    fn failure(&self, client: u32, n: u64, failure: Failure, text: &str) -> Result<()> {
        self.record(&Record::Error { client, n, at_us: monotonic_us(), failure, text: text.to_owned() })
    }

    async fn connect(&self) -> Result<(Conn, u32), (Failure, String)> {
        let connecting = async {
            #[expect(
                clippy::disallowed_methods,
                reason = "the measuring client must not share the code it measures"
            )]
            let mut conn = Conn::new(self.opts.clone()).await?;
            let server = conn.query_first::<u32, _>("SELECT @@server_id").await?;
            Ok::<_, mysql_async::Error>((conn, server.unwrap_or(0)))
        };
        match timeout(self.connect_timeout, connecting).await {
            Ok(Ok(connected)) => Ok(connected),
            Ok(Err(error)) => Err((Failure::Connect, error.to_string())),
            Err(_) => Err((Failure::ConnectTimeout, format!("no login within {:?}", self.connect_timeout))),
        }
    }
}

/// How one attempt to insert one row ended.
enum Attempt {
    Acknowledged,
    /// The row is there already.
    Duplicate,
    /// The server said no: nothing was written. The connection is given up, another server may answer next.
    Refused(String),
    /// No answer: the row may or may not be there.
    Unknown(Failure, String),
}

async fn insert(conn: &mut Conn, client: u32, n: u64, limit: Duration) -> Attempt {
    let statement =
        format!("INSERT INTO app.writes (client, n, at, server) VALUES ({client}, {n}, NOW(6), @@server_id)");
    match timeout(limit, conn.query_drop(statement)).await {
        Ok(Ok(())) => Attempt::Acknowledged,
        Ok(Err(mysql_async::Error::Server(error))) if error.code == 1062 => Attempt::Duplicate,
        Ok(Err(mysql_async::Error::Server(error))) => {
            Attempt::Refused(format!("{} {}", error.code, error.message))
        }
        Ok(Err(error)) => Attempt::Unknown(Failure::Lost, error.to_string()),
        Err(_) => Attempt::Unknown(Failure::StatementTimeout, format!("no answer within {limit:?}")),
    }
}

/// One connection's life: row after row, each until acknowledged.
async fn write_rows(shared: Arc<Shared>, client: u32, pause: Option<Duration>) -> Result<()> {
    let mut ticks = pause.map(interval);
    if let Some(ticks) = ticks.as_mut() {
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    }
    let mut connection = None;
    let mut n = 1;
    let mut may_be_there = false;
    loop {
        let (conn, server) = match connection.as_mut() {
            Some(connected) => connected,
            None => match shared.connect().await {
                Ok(connected) => connection.insert(connected),
                Err((failure, text)) => {
                    shared.failure(client, n, failure, &text)?;
                    sleep(BETWEEN_TRIES).await;
                    continue;
                }
            },
        };
        match insert(conn, client, n, shared.statement_timeout).await {
            Attempt::Acknowledged => shared.ack(client, n, *server, may_be_there)?,
            // Our own row of an attempt whose answer was lost: acknowledged now.
            Attempt::Duplicate if may_be_there => shared.ack(client, n, *server, true)?,
            Attempt::Duplicate => {
                shared.failure(client, n, Failure::Foreign, "a row we never sent is there")?
            }
            Attempt::Refused(text) => {
                shared.failure(client, n, Failure::Refused, &text)?;
                connection = None;
                sleep(BETWEEN_TRIES).await;
                continue;
            }
            Attempt::Unknown(failure, text) => {
                shared.failure(client, n, failure, &text)?;
                may_be_there = true;
                connection = None;
                continue;
            }
        }
        n += 1;
        may_be_there = false;
        if let Some(ticks) = ticks.as_mut() {
            ticks.tick().await;
        }
    }
}

/// Create the table, waiting for a server that can.
async fn create_table(shared: &Shared) -> Result<()> {
    const TABLE: &str = "CREATE TABLE IF NOT EXISTS app.writes \
        (client INT, n BIGINT, at DATETIME(6), server INT, PRIMARY KEY (client, n))";
    loop {
        if let Ok((mut conn, _)) = shared.connect().await {
            return conn.query_drop(TABLE).await.context("cannot create app.writes");
        }
        sleep(BETWEEN_TRIES).await;
    }
}

/// Between two lines of a log when nothing changes, in looks.
const LINE_EVERY: u64 = 25;

/// What happens, looked at five times a second: on a terminal one line that is redrawn, elsewhere a line at each change
/// and now and then.
async fn show_live(shared: Arc<Shared>) -> Result<()> {
    let terminal = std::io::stderr().is_terminal();
    let mut ticks = interval(Duration::from_millis(200));
    let (mut before, mut shown) = (0, None);
    for look in 0_u64.. {
        ticks.tick().await;
        let acked = shared.acked.load(Ordering::Relaxed);
        let silent = monotonic_us().saturating_sub(shared.last_ack_us.load(Ordering::Relaxed)) / 1_000;
        let (place, state) = match (acked, silent) {
            (0, _) => (None, "waiting for the first write".to_owned()),
            (_, 0..=500) => {
                let server = shared.server.load(Ordering::Relaxed);
                (Some(server), format!("written on db{server}"))
            }
            (_, silent) => (None, format!("no write for {silent} ms")),
        };
        let longest = shared.longest_gap_us.load(Ordering::Relaxed) / 1_000;
        let rate = (acked - before) * 5;
        let line = format!("{acked} rows acknowledged, {rate}/s, longest gap {longest} ms; {state}");
        if terminal {
            eprint!("\r\x1b[K{line}");
        } else if shown != Some(place) || look % LINE_EVERY == 0 {
            eprintln!("{line}");
            shown = Some(place);
        }
        before = acked;
    }
    Ok(())
}

async fn run(args: Args) -> Result<()> {
    let password = std::fs::read_to_string(&args.password_file)
        .with_context(|| format!("cannot read {}", args.password_file.display()))?;
    let opts = OptsBuilder::default()
        .ip_or_hostname(args.host)
        .tcp_port(args.port)
        .user(Some(args.user))
        .pass(Some(password.trim_end()))
        .prefer_socket(false)
        // Known values spare a round trip at each login.
        .max_allowed_packet(Some(1 << 24))
        .wait_timeout(Some(28_800));
    let shared = Arc::new(Shared {
        opts: opts.into(),
        connect_timeout: Duration::from_millis(args.connect_timeout_ms),
        statement_timeout: Duration::from_millis(args.statement_timeout_ms),
        log: Mutex::new(
            File::create(&args.log).with_context(|| format!("cannot write {}", args.log.display()))?,
        ),
        acked: AtomicU64::new(0),
        last_ack_us: AtomicU64::new(0),
        server: AtomicU64::new(0),
        longest_gap_us: AtomicU64::new(0),
    });
    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    let mut term = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    if args.init {
        create_table(&shared).await?;
    }
    let pause = (args.rate > 0).then(|| Duration::from_secs(1) * args.connections / args.rate);
    for index in 0..args.connections {
        tasks.spawn(write_rows(Arc::clone(&shared), args.client + index, pause));
    }
    if args.live {
        tasks.spawn(show_live(Arc::clone(&shared)));
    }
    let limit = async {
        match args.stop_after {
            Some(seconds) => sleep(Duration::from_secs(seconds)).await,
            None => stop.cancelled().await,
        }
    };
    let ended = tokio::select! {
        _ = term.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        () = limit => Ok(()),
        // A task ends only by failing.
        ended = tasks.join_next() => ended.map_or(Ok(()), |joined| joined.context("a connection's task ended")?),
    };
    tasks.shutdown().await;
    if args.live && std::io::stderr().is_terminal() {
        eprintln!();
    }
    ended
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("writer: {error:#}");
            ExitCode::FAILURE
        }
    }
}
