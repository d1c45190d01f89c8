//! Rows to model types. Strict where a wrong guess would matter (GTID sets), lenient where a server may lack a column. No IO.

use std::time::Duration;

use super::dialect::{SemiSyncWords, today};
use super::fault::plain;
use super::record::{Record, is_on};
use crate::model::binlog::BinlogCoordinates;
use crate::model::gtid::GtidSet;
use crate::model::instance::{Flavor, InstanceId};
use crate::model::report::{Replication, SemiSync, Settings, ThreadError, ThreadState};
use crate::model::restrictions::{Restrictions, Setting};

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
        filters: filters(row),
    })
}

/// Columns that are empty where nothing is filtered.
const FILTERS: [&str; 11] = [
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
    "replicate_events_marked_for_skip",
];

/// Of a setting's value, in characters: a filter may name thousands of tables.
const VALUE: usize = 200;

fn setting(name: &str, value: &str) -> Setting {
    let mut short: String = plain(value).chars().take(VALUE).collect();
    if value.chars().count() > VALUE {
        short.push('…');
    }
    Setting::new(name, &short)
}

fn filters(row: &Record) -> Vec<Setting> {
    let of = |name: &&str| row.text(name).filter(|value| !matches!(*value, "" | "(Tagged)"));
    FILTERS.iter().filter_map(|name| Some(setting(name, of(name)?))).collect()
}

/// From [`Dialect::running`](super::dialect::Dialect::running).
pub(super) struct Running {
    pub uptime: Duration,
    pub replication_statements: Option<u64>,
    pub coordinates: Option<BinlogCoordinates>,
}

/// No server runs for longer, in seconds: a hundred years.
const LONGEST_RUN: u64 = 100 * 365 * 24 * 3_600;

/// From [`Dialect::running`](super::dialect::Dialect::running); a counter that this version does not have counts nothing.
pub(super) fn running(rows: &[Record]) -> Running {
    let value = |name: &str| {
        let named = |row: &&Record| row.at(0).is_some_and(|known| known.eq_ignore_ascii_case(name));
        rows.iter().find(named).and_then(|row| row.at(1))
    };
    let number = |name| value(name).and_then(|text| text.parse().ok());
    let end = value("Binlog_snapshot_file").zip(number("Binlog_snapshot_position"));
    let end = end.and_then(|(file, position)| BinlogCoordinates::new(file, position).ok());
    let counted = rows.iter().filter(|row| row.at(0).is_some_and(|name| name.starts_with("Com_")));
    let counts = counted.filter_map(|row| row.at(1)?.parse::<u64>().ok());
    // A server whose clock was set back after it had started tells the difference without a sign.
    let uptime = number("Uptime").filter(|seconds| *seconds < LONGEST_RUN);
    Running {
        uptime: Duration::from_secs(uptime.unwrap_or(0)),
        replication_statements: Some(counts.fold(0, u64::saturating_add)),
        coordinates: end,
    }
}

/// From [`Dialect::restrictions`](super::dialect::Dialect::restrictions).
pub(super) fn restrictions(row: &Record) -> Restrictions {
    let text = |name| row.text_or_empty(name);
    // Named as this server names them: an operator looks for that word.
    let skips = [
        ("exec_mode", "STRICT"),
        ("skip_errors", "OFF"),
        ("skip_counter", "0"),
        ("gtid_ignore_duplicates", "0"),
    ];
    let skips =
        skips.into_iter().filter(|(name, off)| !matches!(text(name), "" | "OFF") && text(name) != *off);
    let skips = skips.map(|(name, _)| setting(row.text(&format!("{name}_name")).unwrap_or(name), text(name)));
    let networking = row.switch("skip_networking").filter(|skips| *skips);
    let address = text("bind_address");
    let local = !address.is_empty() && address.split(',').all(|address| is_loopback(address.trim()));
    let local_only = networking
        .map(|_| setting("skip_networking", "ON"))
        .or_else(|| local.then(|| setting("bind_address", address)));
    Restrictions {
        filters: filters(row),
        skips: skips.collect(),
        local_only,
        offline: row.switch("offline_mode").unwrap_or(false),
    }
}

/// An address that only its own host reaches. MySQL lets a network namespace follow it.
fn is_loopback(address: &str) -> bool {
    let address = address.split('/').next().unwrap_or(address);
    address.eq_ignore_ascii_case("localhost")
        || address.parse::<std::net::IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

/// Adds MySQL's filters that hold for every channel, also for those that are made later.
pub(super) fn global_filters(restrictions: &mut Restrictions, rows: &[Record]) {
    // A filter that was taken away is listed with nothing in it.
    let set = rows.iter().filter(|row| !row.text_or_empty("filter").is_empty());
    let set = set.filter(|row| !row.text_or_empty("rule").is_empty());
    restrictions.filters.extend(
        set.map(|row| setting(&row.text_or_empty("filter").to_ascii_lowercase(), row.text_or_empty("rule"))),
    );
}

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
        let named = |row: &&Record| row.text("channel_name") == Some(channel.channel.as_str());
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
        waits_without_ackers: Some(on("rpl_semi_sync_source_wait_no_replica")),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn said(columns: &[(&str, &str)]) -> Restrictions {
        restrictions(&Record::made(columns))
    }

    #[test]
    fn a_server_that_only_its_own_host_reaches() {
        for address in ["127.0.0.1", "::1", "localhost", "127.0.0.1,::1", "127.0.0.1/ns1", "::ffff:127.0.0.1"]
        {
            assert_eq!(
                said(&[("skip_networking", "0"), ("bind_address", address)]).local_only,
                Some(Setting::new("bind_address", address))
            );
        }
        for address in ["", "*", "::", "0.0.0.0", "10.0.0.1", "127.0.0.1,10.0.0.1", "db1"] {
            assert_eq!(
                said(&[("skip_networking", "0"), ("bind_address", address)]).local_only,
                None,
                "{address}"
            );
        }
        let none = said(&[("skip_networking", "1"), ("bind_address", "10.0.0.1")]);
        assert_eq!(none.local_only, Some(Setting::new("skip_networking", "ON")));
    }

    /// A column that is missing says nothing; one that is as shipped neither.
    #[test]
    fn unknown_settings_restrict_nothing() {
        assert_eq!(said(&[]), Restrictions::default());
        let shipped =
            [("exec_mode", "STRICT"), ("skip_errors", "OFF"), ("skip_counter", "0"), ("replicate_do_db", "")];
        assert_eq!(said(&shipped), Restrictions::default());
        let long = "x".repeat(VALUE * 3);
        let filters = said(&[("replicate_do_db", &long)]).filters;
        assert_eq!(filters[0].value.chars().count(), VALUE + 1);
    }
}
