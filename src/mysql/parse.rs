//! Rows to model types. Strict where a wrong guess would matter (GTID sets), lenient where a server may lack a column. No IO.

use std::time::Duration;

use super::dialect::{SemiSyncWords, today};
use super::fault::plain;
use super::record::{Record, is_on};
use crate::model::binlog::BinlogCoordinates;
use crate::model::gtid::GtidSet;
use crate::model::instance::{Flavor, InstanceId};
use crate::model::report::{Replication, SemiSync, Settings, ThreadError, ThreadState};

/// `ER_MTA_INCONSISTENT_DATA`: MySQL's applier was ended from outside, by KILL or a shutdown. A worker that fails is told by its own
/// error; this one is over at the next start, by GTID.
const ENDED: u32 = 1756;

/// What the variables say of a server's history.
#[derive(Debug, Clone)]
pub(super) struct History {
    pub(super) read_only: bool,
    pub(super) super_read_only: Option<bool>,
    pub(super) executed: GtidSet,
    /// A part of what its logs cannot give; on MariaDB only what never was in them.
    pub(super) purged: GtidSet,
    /// MariaDB's `gtid_slave_pos`: where replication begins.
    pub(super) position: Option<GtidSet>,
}

fn set(flavor: Flavor, text: &str) -> Result<GtidSet, String> {
    GtidSet::parse(flavor, text).map_err(|error| error.to_string())
}

/// From [`Dialect::variables`](super::dialect::Dialect::variables) or `gtid_variables`.
pub(super) fn history(flavor: Flavor, row: &Record) -> Result<History, String> {
    let read_only = row.switch("read_only").ok_or("no read_only")?;
    let super_read_only = row.switch("super_read_only");
    Ok(match flavor {
        Flavor::MySql => History {
            read_only,
            super_read_only,
            executed: set(flavor, row.text("executed").ok_or("no gtid_executed")?)?,
            purged: set(flavor, row.text_or_empty("purged"))?,
            position: None,
        },
        Flavor::MariaDb => {
            let logged = set(flavor, row.text_or_empty("binlog_state"))?;
            let position = set(flavor, row.text("position").ok_or("no position")?)?;
            History {
                read_only,
                super_read_only,
                executed: logged.union(&position),
                purged: position.minus(&logged),
                position: Some(position),
            }
        }
    })
}

/// The settings a decision turns on.
pub(super) fn settings(flavor: Flavor, row: &Record) -> Settings {
    let number = |name| row.number::<u64>(name).unwrap_or(0);
    Settings {
        log_bin: row.switch("log_bin").unwrap_or(false),
        log_replica_updates: row.switch("log_updates").unwrap_or(false),
        gtid: flavor == Flavor::MariaDb || row.text("gtid_mode") == Some("ON"),
        event_scheduler: row.switch("event_scheduler").unwrap_or(false),
        durable_commits: number("sync_binlog") == 1 && number("flush_log") == 1,
        net_timeout: Duration::from_secs(number("net_timeout")),
    }
}

/// All channels, the default one first.
pub(super) fn channels(
    flavor: Flavor,
    rows: &[Record],
    history: &History,
) -> Result<Vec<Replication>, String> {
    let mut channels = Vec::new();
    // A row without a host is what RESET leaves behind: no channel.
    for row in rows.iter().filter(|row| !row.text_or_empty("source_host").is_empty()) {
        channels.push(channel(flavor, row, history)?);
    }
    channels.sort_by(|a, b| a.channel.cmp(&b.channel));
    Ok(channels)
}

fn channel(flavor: Flavor, row: &Record, history: &History) -> Result<Replication, String> {
    let text = |name| row.text_or_empty(name);
    let (name, gtid, received) = match flavor {
        Flavor::MySql => ("channel_name", row.switch("auto_position").unwrap_or(false), "retrieved_gtid_set"),
        Flavor::MariaDb => ("connection_name", !matches!(text("using_gtid"), "" | "No"), "gtid_io_pos"),
    };
    Ok(Replication {
        channel: plain(text(name)),
        source: InstanceId::new(host(text("source_host")), row.number("source_port").unwrap_or(0)),
        receiver: state(text("replica_io_running")),
        applier: state(text("replica_sql_running")),
        receiver_error: error(row, "last_io_errno", "last_io_error"),
        applier_error: error(row, "last_sql_errno", "last_sql_error").filter(|error| error.code != ENDED),
        seconds_behind: row.number("seconds_behind_source"),
        received: history.executed.union(&set(flavor, text(received))?),
        read_to: place(row, "source_log_file", "read_source_log_pos"),
        applied_to: place(row, "relay_source_log_file", "exec_source_log_pos"),
        heartbeats: row.number("replica_received_heartbeats").unwrap_or(0),
        heartbeat_every: row.number("replica_heartbeat_period").and_then(period),
        gtid,
        delay: Duration::from_secs(row.number("sql_delay").unwrap_or(0)),
        filtered: FILTERS.iter().any(|filter| !matches!(text(filter), "" | "(Tagged)")),
    })
}

/// Columns that are empty where nothing is filtered.
const FILTERS: [&str; 10] = [
    "replicate_do_db",
    "replicate_ignore_db",
    "replicate_do_table",
    "replicate_ignore_table",
    "replicate_wild_do_table",
    "replicate_wild_ignore_table",
    "replicate_rewrite_db",
    "replicate_do_domain_ids",
    "replicate_ignore_domain_ids",
    "replicate_ignore_server_ids",
];

/// What a replica says of its source's name is whatever somebody once configured there.
fn host(text: &str) -> String {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | ':');
    text.chars().take(253).map(|c| if fits(c) { c } else { '_' }).collect()
}

fn state(text: &str) -> ThreadState {
    match text {
        "Yes" => ThreadState::Running,
        // MariaDB says "Preparing" before it says "Connecting".
        "Connecting" | "Preparing" => ThreadState::Connecting,
        _ => ThreadState::Stopped,
    }
}

fn error(row: &Record, code: &str, text: &str) -> Option<ThreadError> {
    let code = row.number(code).filter(|code| *code != 0)?;
    Some(ThreadError { code, text: plain(row.text_or_empty(text)) })
}

fn place(row: &Record, file: &str, position: &str) -> Option<BinlogCoordinates> {
    BinlogCoordinates::new(row.text(file)?, row.number(position)?).ok()
}

fn period(seconds: f64) -> Option<Duration> {
    (seconds > 0.0).then(|| Duration::try_from_secs_f64(seconds).ok()).flatten()
}

/// Adds what `performance_schema` counts to the channels.
pub(super) fn count_heartbeats(channels: &mut [Replication], rows: &[Record]) {
    for channel in channels {
        let named = |row: &&Record| row.text_or_empty("channel_name") == channel.channel;
        if let Some(row) = rows.iter().find(named) {
            channel.heartbeats = row.number("received_heartbeats").unwrap_or(0);
            channel.heartbeat_every = row.number("heartbeat_interval").and_then(period);
        }
    }
}

/// Both sides of semi-sync, and the words this server has for them, from its variables and status counters by name.
pub(super) fn semi_sync(variables: &[Record], counters: &[Record]) -> (SemiSync, SemiSyncWords) {
    let words = SemiSyncWords::of(variables.iter().filter_map(|row| row.at(0)));
    let value = |name: &str| {
        let named = |row: &&Record| row.at(0).is_some_and(|known| today(known) == name);
        variables.iter().chain(counters).find(named).and_then(|row| row.at(1)).unwrap_or("")
    };
    let on = |name| is_on(value(name));
    let number = |name| value(name).parse::<u64>().unwrap_or(0);
    let small = |name| u32::try_from(number(name)).unwrap_or(u32::MAX);
    let seen = SemiSync {
        available: words != SemiSyncWords::default(),
        source_enabled: on("rpl_semi_sync_source_enabled"),
        source_status: on("rpl_semi_sync_source_status"),
        after_sync: value("rpl_semi_sync_source_wait_point").eq_ignore_ascii_case("AFTER_SYNC"),
        timeout: Duration::from_millis(number("rpl_semi_sync_source_timeout")),
        acks: match small("rpl_semi_sync_source_wait_for_replica_count") {
            0 => 1,
            count => count,
        },
        clients: small("rpl_semi_sync_source_clients"),
        waiting: small("rpl_semi_sync_source_wait_sessions"),
        unacknowledged: number("rpl_semi_sync_source_no_tx"),
        replica_enabled: on("rpl_semi_sync_replica_enabled"),
        replica_status: on("rpl_semi_sync_replica_status"),
    };
    (seen, words)
}
