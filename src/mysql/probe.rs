//! One poll of a server: a [`Report`] in one round trip. Only statements that cannot hang on a full disk (S8) are asked here;
//! coordinates and what the binlogs no longer hold come from [`binlog`], on a connection of their own.
//!
//! What a MariaDB replica has received and not applied is known by its newest GTID per domain only (`Gtid_IO_Pos`): where
//! servers took turns in one domain inside that span, the transactions of all but the last are not in `received` until they are
//! applied. A set that is too small makes a server look less advanced, never more.

use std::time::Duration;

use tokio::time::Instant;

use super::client::{Answer, Connection};
use super::dialect::Dialect;
use super::fault::ClientError;
use super::parse::{self, History};
use super::record::Record;
use crate::model::binlog::BinlogCoordinates;
use crate::model::gtid::GtidSet;
use crate::model::instance::Flavor;
use crate::model::observation::Unseen;
use crate::model::report::{Replication, Report};
use crate::model::restrictions::Restrictions;

const SEMI_SYNC: &str =
    "SHOW GLOBAL VARIABLES LIKE 'rpl_semi_sync%'; SHOW GLOBAL STATUS LIKE 'Rpl_semi_sync%'";

const HEARTBEAT_AGE: &str =
    "SELECT TIMESTAMPDIFF(MICROSECOND, at, UTC_TIMESTAMP(6)) AS age FROM mha.heartbeat WHERE id = 1";

/// A part of a report that a server may refuse: its version does not know it, or the account may not read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extra {
    Restrictions,
    /// MySQL's stream counters, and filters that hold for every channel.
    Counters,
    HeartbeatAge,
}

impl Extra {
    const ALL: [Self; 3] = [Self::Restrictions, Self::Counters, Self::HeartbeatAge];

    fn sql(self, dialect: Dialect) -> Option<String> {
        match self {
            Self::Restrictions => Some(dialect.restrictions()),
            Self::Counters => dialect.heartbeat_counters().map(str::to_owned),
            Self::HeartbeatAge => Some(HEARTBEAT_AGE.to_owned()),
        }
    }

    /// The heartbeat's table may be made at any time.
    fn is_asked_again(self) -> bool {
        match self {
            Self::HeartbeatAge => true,
            Self::Restrictions | Self::Counters => false,
        }
    }
}

/// Asks a server for everything a decision needs. `coordinates` is empty on MySQL, and `purged` is on MariaDB only what never was
/// in its logs: see [`binlog`]. Each `Extra` is left out where the account or the server has none.
///
/// # Errors
/// How it failed by `deadline`.
pub async fn report(conn: &mut Connection, deadline: Instant) -> Result<Report, Unseen> {
    let dialect = conn.dialect();
    let flavor = dialect.flavor();
    let extras: Vec<(Extra, String)> = Extra::ALL
        .into_iter()
        .filter(|extra| !conn.refused.contains(extra))
        .filter_map(|extra| Some((extra, extra.sql(dialect)?)))
        .collect();
    // Those that may be refused come last: the server stops at the first that fails.
    let mut sql =
        format!("{}; {}; {SEMI_SYNC}; {}", dialect.variables(), dialect.show_replicas(), dialect.running());
    for (_, more) in &extras {
        sql.push_str("; ");
        sql.push_str(more);
    }
    let Answer { sets, error } = conn.batch(&sql, deadline).await;
    let mut sets = sets.into_iter();
    let (Some(variables), Some(replicas), Some(semi_variables), Some(semi_status), Some(running)) =
        (sets.next(), sets.next(), sets.next(), sets.next(), sets.next())
    else {
        return Err(error.map_or_else(|| broken("too few answers"), Unseen::from));
    };
    if let Some(error) = error.filter(|_| !conn.is_open()) {
        return Err(error.unseen);
    }
    let row = variables.first().ok_or_else(|| broken("no variables"))?;
    let history = parse::history(flavor, row).map_err(|why| broken(&why))?;
    let mut replication = parse::channels(flavor, &replicas, &history).map_err(|why| broken(&why))?;
    let (semi_sync, words) = parse::semi_sync(&semi_variables, &semi_status);
    conn.semi_sync = Some(words);
    let running = parse::running(&running);
    let (mut restrictions, mut heartbeat_age) = (Restrictions::default(), None);
    for (extra, rows) in answered(conn, extras, sets.collect(), deadline).await? {
        match extra {
            Extra::Restrictions => {
                restrictions = rows.first().map(parse::restrictions).unwrap_or_default();
            }
            Extra::Counters => {
                parse::count_heartbeats(&mut replication, &rows);
                parse::global_filters(&mut restrictions, &rows);
            }
            Extra::HeartbeatAge => heartbeat_age = microseconds(&rows),
        }
    }
    Ok(Report {
        identity: conn.identity().clone(),
        connection: conn.number(),
        uptime: running.uptime,
        replication_statements: running.replication_statements,
        read_only: history.read_only,
        super_read_only: history.super_read_only,
        settings: parse::settings(flavor, row),
        restrictions,
        executed: history.executed,
        purged: history.purged,
        coordinates: running.coordinates,
        replication,
        semi_sync,
        heartbeat_age,
    })
}

/// What was answered of `extras`, in their order. After one that was refused the rest is asked again, in one round trip for each refusal,
/// and what was refused is not asked again on this connection.
async fn answered(
    conn: &mut Connection,
    mut extras: Vec<(Extra, String)>,
    mut sets: Vec<Vec<Record>>,
    deadline: Instant,
) -> Result<Vec<(Extra, Vec<Record>)>, Unseen> {
    let mut found = Vec::new();
    loop {
        let rest = extras.split_off(sets.len().min(extras.len()));
        found.extend(extras.into_iter().map(|(extra, _)| extra).zip(sets));
        let mut rest = rest.into_iter();
        let Some((refused, _)) = rest.next() else { return Ok(found) };
        if !refused.is_asked_again() {
            conn.refused.push(refused);
        }
        extras = rest.collect();
        if extras.is_empty() {
            return Ok(found);
        }
        let sql: Vec<&str> = extras.iter().map(|(_, sql)| sql.as_str()).collect();
        let answer = conn.batch(&sql.join("; "), deadline).await;
        if let Some(error) = answer.error.filter(|_| !conn.is_open()) {
            return Err(error.unseen);
        }
        sets = answer.sets;
    }
}

/// A clock ahead of the server's makes an age of zero, not none.
fn microseconds(rows: &[Record]) -> Option<Duration> {
    let micros: i64 = rows.first()?.number("age")?;
    Some(Duration::from_micros(u64::try_from(micros).unwrap_or(0)))
}

fn broken(why: &str) -> Unseen {
    Unseen::Looker(format!("its answer was not understood: {why}"))
}

/// The part of a report that control needs before it touches replication.
#[derive(Debug)]
pub(super) struct Standing {
    pub(super) history: History,
    pub(super) channels: Vec<Replication>,
}

impl Standing {
    pub(super) fn channel(&self) -> Option<&Replication> {
        self.channels.iter().find(|channel| channel.channel.is_empty())
    }

    /// What the default channel received and did not apply.
    pub(super) fn unapplied(&self) -> Option<GtidSet> {
        let missing = self.channel()?.received.minus(&self.history.executed);
        (!missing.is_empty()).then_some(missing)
    }

    /// Whether a channel without GTIDs has read more than it applied.
    pub(super) fn is_behind_by_position(&self) -> bool {
        self.channel().is_some_and(|channel| !channel.gtid && channel.read_to != channel.applied_to)
    }
}

/// GTID sets and threads, in one round trip.
pub(super) async fn standing(conn: &mut Connection, deadline: Instant) -> Result<Standing, ClientError> {
    let dialect = conn.dialect();
    // The threads first: what they received may be applied meanwhile, but not the other way round.
    let sql = format!("{}; {}", dialect.show_replicas(), dialect.gtid_variables());
    let Answer { sets, error } = conn.batch(&sql, deadline).await;
    if let Some(error) = error {
        return Err(error);
    }
    let parsed = (|| {
        let [replicas, variables] = sets.as_slice() else { return Err("too few answers".to_owned()) };
        let row = variables.first().ok_or("no variables")?;
        let history = parse::history(dialect.flavor(), row)?;
        let channels = parse::channels(dialect.flavor(), replicas, &history)?;
        Ok(Standing { history, channels })
    })();
    parsed.map_err(|why| conn.failed(broken(&why)))
}

/// Where a server's binlog ends and what it no longer holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binlog {
    /// `None` without a binlog.
    pub end: Option<BinlogCoordinates>,
    /// Every transaction of its history that its binlogs cannot give any more.
    pub purged: GtidSet,
}

/// Asks where the binlog ends and begins. On a full disk this hangs (S8): ask on a connection of its own, one at a time.
///
/// # Errors
/// How it failed by `deadline`.
pub async fn binlog(conn: &mut Connection, deadline: Instant) -> Result<Binlog, Unseen> {
    let dialect = conn.dialect();
    let flavor = dialect.flavor();
    let sql = format!("{}; {}", dialect.gtid_variables(), dialect.show_binlog_status());
    let Answer { sets, error } = conn.batch(&sql, deadline).await;
    if let Some(error) = error {
        return Err(error.unseen);
    }
    let row = sets.first().and_then(|rows| rows.first()).ok_or_else(|| broken("no variables"))?;
    let history = parse::history(flavor, row).map_err(|why| broken(&why))?;
    let end = sets
        .get(1)
        .and_then(|rows| rows.first())
        .and_then(|row| BinlogCoordinates::new(row.text("file")?, row.number("position")?).ok());
    let purged = match (flavor, &end) {
        (Flavor::MariaDb, Some(_)) => history.purged.union(&before_first_log(conn, deadline).await?),
        (Flavor::MariaDb, None) => history.executed,
        (Flavor::MySql, _) => history.purged,
    };
    Ok(Binlog { end, purged })
}

/// MariaDB writes what was before a binlog file at its beginning: the GTID list.
async fn before_first_log(conn: &mut Connection, deadline: Instant) -> Result<GtidSet, Unseen> {
    let events = conn.query("SHOW BINLOG EVENTS LIMIT 4", deadline).await?;
    let list = events.iter().find(|row| row.text_or_empty("event_type") == "Gtid_list");
    let text = list.map_or("", |row| row.text_or_empty("info")).trim_matches(['[', ']']);
    GtidSet::parse(Flavor::MariaDb, text).map_err(|error| broken(&error.to_string()))
}
