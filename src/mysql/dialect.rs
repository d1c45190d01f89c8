//! Every word that differs by flavor and version, and nothing else: MariaDB 10.5 and later, MySQL 5.7, 8.0, 8.4, 9.x. The only
//! source file with the servers' old words for source and replica. No IO.
//!
//! Tried on MariaDB 10.11 and MySQL 9.7; for the versions between, from the manuals.

mod looks;

use std::time::Duration;

use super::client::Account;
use crate::model::gtid::GtidSet;
use crate::model::instance::{Flavor, InstanceId, Version};

/// Which words a server takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dialect {
    flavor: Flavor,
    version: Version,
}

/// One of a replica's threads, or both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Threads {
    Receiver,
    Applier,
    Both,
}

/// The two sides of semi-sync.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Source,
    Replica,
}

/// Which of the two generations of semi-sync words each side of a server has; `None` where the plugin is not loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SemiSyncWords {
    /// `Some(true)`: the old words.
    source_is_old: Option<bool>,
    replica_is_old: Option<bool>,
}

/// What a channel is set to. All other options of it are left as they are.
#[derive(Debug, Clone, Copy)]
pub struct ChannelChange<'a> {
    pub source: &'a InstanceId,
    pub account: &'a Account,
    pub heartbeat_every: Duration,
    /// Switch it to GTIDs: needs both threads stopped, so left out where it is already so.
    pub use_gtid: bool,
}

/// All that the account of replication needs.
pub const REPLICATION_RIGHT: &str = "REPLICATION SLAVE";

/// The present-day form of a column, variable or status name, in lower case.
pub fn today(name: &str) -> String {
    name.to_ascii_lowercase().replace("master", "source").replace("slave", "replica")
}

impl SemiSyncWords {
    /// From the raw names of the server's semi-sync variables.
    pub fn of<'a>(names: impl Iterator<Item = &'a str>) -> Self {
        let mut words = Self::default();
        for name in names.map(str::to_ascii_lowercase) {
            match name.as_str() {
                "rpl_semi_sync_master_enabled" => words.source_is_old = Some(true),
                "rpl_semi_sync_source_enabled" => words.source_is_old = Some(false),
                "rpl_semi_sync_slave_enabled" => words.replica_is_old = Some(true),
                "rpl_semi_sync_replica_enabled" => words.replica_is_old = Some(false),
                _ => {}
            }
        }
        words
    }

    /// Whether that side is loaded.
    pub fn has(self, side: Side) -> bool {
        self.old(side).is_some()
    }

    fn old(self, side: Side) -> Option<bool> {
        match side {
            Side::Source => self.source_is_old,
            Side::Replica => self.replica_is_old,
        }
    }

    /// `SET GLOBAL …_enabled`, or nothing where that side is not loaded.
    pub fn enable(self, side: Side, on: bool) -> Option<String> {
        let stem = match (side, self.old(side)?) {
            (Side::Source, true) => "master",
            (Side::Source, false) => "source",
            (Side::Replica, true) => "slave",
            (Side::Replica, false) => "replica",
        };
        Some(format!("SET GLOBAL rpl_semi_sync_{stem}_enabled={}", u8::from(on)))
    }

    /// The settings an armed source needs before it is enabled; `acks` only where the server has such a setting.
    pub fn arm(self, wait: Duration, acks: Option<u32>) -> Option<String> {
        let timeout_ms = wait.as_millis();
        let (stem, none, count) = if self.source_is_old? {
            ("master", "wait_no_slave", "wait_for_slave_count")
        } else {
            ("source", "wait_no_replica", "wait_for_replica_count")
        };
        let count =
            acks.map(|acks| format!(", GLOBAL rpl_semi_sync_{stem}_{count}={acks}")).unwrap_or_default();
        Some(format!(
            "SET GLOBAL rpl_semi_sync_{stem}_timeout={timeout_ms}, GLOBAL rpl_semi_sync_{stem}_wait_point=AFTER_SYNC, \
             GLOBAL rpl_semi_sync_{stem}_{none}=1{count}"
        ))
    }

    /// The number of connected ackers.
    pub fn clients(self) -> Option<&'static str> {
        Some(if self.source_is_old? {
            "SHOW GLOBAL STATUS LIKE 'Rpl_semi_sync_master_clients'"
        } else {
            "SHOW GLOBAL STATUS LIKE 'Rpl_semi_sync_source_clients'"
        })
    }
}

impl Dialect {
    pub const fn new(flavor: Flavor, version: Version) -> Self {
        Self { flavor, version }
    }

    pub const fn flavor(self) -> Flavor {
        self.flavor
    }

    fn mysql_from(self, major: u16, minor: u16, patch: u16) -> bool {
        self.flavor == Flavor::MySql && self.version >= Version::new(major, minor, patch)
    }

    /// Whether `SHOW REPLICA STATUS`, `START REPLICA` and their kin are known.
    fn says_replica(self) -> bool {
        self.mysql_from(8, 0, 22)
    }

    /// Whether starting a thread while both are stopped throws away what was received and not applied (N1).
    pub const fn purges_at_start(self) -> bool {
        matches!(self.flavor, Flavor::MariaDb)
    }

    /// Whether the applier may run while the source is changed. Where not, it must be level first: the change purges.
    pub const fn changes_under_applier(self) -> bool {
        matches!(self.flavor, Flavor::MySql)
    }

    /// Whether semi-sync is built in, with words known beforehand.
    pub const fn built_in_semi_sync(self) -> Option<SemiSyncWords> {
        match self.flavor {
            Flavor::MariaDb => Some(SemiSyncWords { source_is_old: Some(true), replica_is_old: Some(true) }),
            Flavor::MySql => None,
        }
    }

    /// Whether the number of acknowledgements can be set; else it is 1.
    pub const fn counts_acks(self) -> bool {
        matches!(self.flavor, Flavor::MySql)
    }

    /// Loads a side's plugin; `None` where it is built in.
    pub fn install_semi_sync(self, side: Side) -> Option<&'static str> {
        match (self.flavor, side, self.mysql_from(8, 0, 26)) {
            (Flavor::MariaDb, _, _) => None,
            (Flavor::MySql, Side::Source, true) => {
                Some("INSTALL PLUGIN rpl_semi_sync_source SONAME 'semisync_source.so'")
            }
            (Flavor::MySql, Side::Replica, true) => {
                Some("INSTALL PLUGIN rpl_semi_sync_replica SONAME 'semisync_replica.so'")
            }
            (Flavor::MySql, Side::Source, false) => {
                Some("INSTALL PLUGIN rpl_semi_sync_master SONAME 'semisync_master.so'")
            }
            (Flavor::MySql, Side::Replica, false) => {
                Some("INSTALL PLUGIN rpl_semi_sync_slave SONAME 'semisync_slave.so'")
            }
        }
    }

    /// Flags, GTID sets and settings in one row.
    pub fn variables(self) -> String {
        let (updates, net_timeout) = if self.mysql_from(8, 0, 26) {
            ("log_replica_updates", "replica_net_timeout")
        } else {
            ("log_slave_updates", "slave_net_timeout")
        };
        let own = match self.flavor {
            Flavor::MariaDb => {
                "@@global.gtid_binlog_state AS binlog_state, @@global.gtid_slave_pos AS position"
            }
            Flavor::MySql => {
                "@@global.gtid_executed AS executed, @@global.gtid_purged AS purged, \
                 @@global.gtid_mode AS gtid_mode, @@global.super_read_only AS super_read_only"
            }
        };
        format!(
            "SELECT @@global.read_only AS read_only, @@global.log_bin AS log_bin, @@global.{updates} AS log_updates, \
             @@global.event_scheduler AS event_scheduler, @@global.sync_binlog AS sync_binlog, \
             @@global.innodb_flush_log_at_trx_commit AS flush_log, @@global.{net_timeout} AS net_timeout, {own}"
        )
    }

    /// The GTID sets alone.
    pub const fn gtid_variables(self) -> &'static str {
        match self.flavor {
            Flavor::MariaDb => {
                "SELECT @@global.read_only AS read_only, @@global.gtid_binlog_state AS binlog_state, \
                 @@global.gtid_slave_pos AS position"
            }
            Flavor::MySql => {
                "SELECT @@global.read_only AS read_only, @@global.super_read_only AS super_read_only, \
                 @@global.gtid_executed AS executed, @@global.gtid_purged AS purged"
            }
        }
    }

    /// All channels of a replica.
    pub fn show_replicas(self) -> &'static str {
        match (self.flavor, self.says_replica()) {
            (Flavor::MariaDb, _) => "SHOW ALL SLAVES STATUS",
            (Flavor::MySql, true) => "SHOW REPLICA STATUS",
            (Flavor::MySql, false) => "SHOW SLAVE STATUS",
        }
    }

    /// Where the binlog ends. May hang (S8: a full disk): for a connection of its own.
    pub fn show_binlog_status(self) -> &'static str {
        if self.mysql_from(8, 2, 0) { "SHOW BINARY LOG STATUS" } else { "SHOW MASTER STATUS" }
    }

    fn noun(self) -> &'static str {
        if self.says_replica() { "REPLICA" } else { "SLAVE" }
    }

    /// The default channel only: without the clause MySQL takes all of them. MariaDB's session default is that one.
    const fn channel(self) -> &'static str {
        match self.flavor {
            Flavor::MariaDb => "",
            Flavor::MySql => " FOR CHANNEL ''",
        }
    }

    pub fn start(self, threads: Threads) -> String {
        format!("START {}{}{}", self.noun(), threads.words(), self.channel())
    }

    pub fn stop(self, threads: Threads) -> String {
        format!("STOP {}{}{}", self.noun(), threads.words(), self.channel())
    }

    /// One row where the stopped receiver queued only the first part of a transaction. `STOP REPLICA SQL_THREAD` would wait a minute
    /// for the rest (`SLAVE_WAIT_GROUP_DONE`, 60 s, in MySQL's rpl_replica.cc; measured on 9.7). An applier without workers, and
    /// MariaDB's, end at once.
    ///
    /// `id` is the coordinator's session. `begun`: it holds the first part. `idle`: it has read the whole relay log. `level`:
    /// everything that was received whole is applied.
    pub fn half_received(self) -> Option<&'static str> {
        self.mysql_from(8, 0, 1).then_some(
            "SELECT t.processlist_id AS id, c.processing_transaction = s.queueing_transaction AS begun, \
             t.processlist_state LIKE '%has read all relay log%' AS idle, \
             GTID_SUBSET(s.received_transaction_set, @@global.gtid_executed) AS level \
             FROM performance_schema.replication_connection_status s \
             JOIN performance_schema.replication_applier_status_by_coordinator c USING (channel_name) \
             JOIN performance_schema.threads t ON t.thread_id = c.thread_id \
             WHERE s.channel_name = '' AND s.service_state = 'OFF' \
             AND s.queueing_transaction NOT IN ('', 'ANONYMOUS')",
        )
    }

    /// Forgets the default channel and its settings.
    pub fn forget(self) -> String {
        format!("RESET {} ALL{}", self.noun(), self.channel())
    }

    /// Switching the source side off waits for a thread that looks up once a second (MySQL's `Ack_receiver`, whose `poll` lasts 1 s;
    /// measured on 9.7: 1.0 s). A former primary then acknowledges first: nothing but its own applier would wait for it meanwhile.
    pub const fn disarms_late(self) -> bool {
        match self.flavor {
            Flavor::MySql => true,
            Flavor::MariaDb => false,
        }
    }

    /// What keeps stopping a semi-sync receiver short when its source is silent: MariaDB connects to it once more, to end its
    /// stream (N6). 1 s is the least it knows.
    pub const fn hurry_stop(self) -> Option<&'static str> {
        match self.flavor {
            Flavor::MariaDb => Some("SET GLOBAL rpl_semi_sync_slave_kill_conn_timeout=1"),
            Flavor::MySql => None,
        }
    }

    /// Makes a source refuse this replica where their histories have parted. Without it a MariaDB source passes over whatever another
    /// server wrote up to the sequence number that the replica has, without an error (tried on 10.11; the default is off). The receiver
    /// tells its source when it connects. MySQL compares sets.
    pub const fn refuse_parted_history(self) -> Option<&'static str> {
        match self.flavor {
            Flavor::MariaDb => Some("SET GLOBAL gtid_strict_mode=1"),
            Flavor::MySql => None,
        }
    }

    /// Points the default channel; names only what must change, so that TLS options, delay and filters stay.
    /// Holds the password: never to be logged.
    pub fn change_source(self, change: &ChannelChange<'_>) -> String {
        use secrecy::ExposeSecret;
        let new = self.mysql_from(8, 0, 23);
        let word = if new { "SOURCE" } else { "MASTER" };
        let mut options = vec![
            format!("{word}_HOST={}", literal(&change.source.host)),
            format!("{word}_PORT={}", change.source.port),
            format!("{word}_USER={}", literal(&change.account.user)),
            format!("{word}_PASSWORD={}", literal(change.account.password.expose_secret())),
            format!("{word}_HEARTBEAT_PERIOD={:.3}", change.heartbeat_every.as_secs_f64()),
            format!("{word}_CONNECT_RETRY=1"),
        ];
        match self.flavor {
            // Both threads are stopped for it anyway, and before 10.10 it is off unless named.
            Flavor::MariaDb => options.push("MASTER_USE_GTID=slave_pos".to_owned()),
            Flavor::MySql => {
                // 10 since 8.4, after which a replica gives up for good.
                options.push(format!("{word}_RETRY_COUNT=1000000"));
                if self.mysql_from(8, 0, 4) {
                    // For caching_sha2_password without TLS.
                    options.push(format!("GET_{word}_PUBLIC_KEY=1"));
                }
                if change.use_gtid {
                    options.push(format!("{word}_AUTO_POSITION=1"));
                }
            }
        }
        let verb = if new { "CHANGE REPLICATION SOURCE TO" } else { "CHANGE MASTER TO" };
        format!("{verb} {}{}", options.join(", "), self.channel())
    }

    /// Sets where a replica without a position of its own begins. MariaDB only.
    pub fn set_position(self, position: &str) -> Option<String> {
        match self.flavor {
            Flavor::MariaDb => Some(format!("SET GLOBAL gtid_slave_pos={}", literal(position))),
            Flavor::MySql => None,
        }
    }

    /// Waits up to `within` for a set or position to be applied; answers 0 when it is.
    pub fn wait_applied(self, set: &str, within: Duration) -> String {
        let seconds = within.as_secs_f64().max(0.001);
        match self.flavor {
            Flavor::MariaDb => format!("SELECT MASTER_GTID_WAIT({}, {seconds:.3}) AS waited", literal(set)),
            Flavor::MySql => {
                format!("SELECT WAIT_FOR_EXECUTED_GTID_SET({}, {seconds:.3}) AS waited", literal(set))
            }
        }
    }

    /// Read-only, and no commit by anybody until the connection unlocks the tables or ends; `None` where being read-only is all it needs.
    pub const fn lock_commits(self) -> Option<&'static str> {
        match self.flavor {
            Flavor::MySql => None,
            Flavor::MariaDb => Some("FLUSH TABLES WITH READ LOCK; SET GLOBAL read_only=1"),
        }
    }

    /// Read-only for everybody who can be held to it, or writable.
    pub const fn set_read_only(self, on: bool) -> &'static str {
        match (self.flavor, on) {
            // Implies read_only.
            (Flavor::MySql, true) => "SET GLOBAL super_read_only=1",
            (Flavor::MariaDb, true) => "SET GLOBAL read_only=1",
            // On MySQL this ends super_read_only too.
            (Flavor::MySql | Flavor::MariaDb, false) => "SET GLOBAL read_only=0",
        }
    }

    /// What the server was told to keep over restarts (MySQL manual, "Persisted System Variables"); `None` where it keeps nothing.
    pub fn kept_settings(self) -> Option<&'static str> {
        self.mysql_from(8, 0, 11).then_some(
            "SELECT VARIABLE_NAME AS name, VARIABLE_VALUE AS value FROM performance_schema.persisted_variables",
        )
    }

    /// Forgets the whole history and every log.
    pub fn reset_history(self) -> &'static str {
        if self.mysql_from(8, 2, 0) { "RESET BINARY LOGS AND GTIDS" } else { "RESET MASTER" }
    }

    /// Sets the history of a server that has none.
    pub fn set_history(self, history: &GtidSet) -> String {
        match history {
            GtidSet::MySql(set) => format!("SET GLOBAL gtid_purged={}", literal(&set.to_string())),
            GtidSet::MariaDb(set) => format!(
                "SET GLOBAL gtid_binlog_state={}; SET GLOBAL gtid_slave_pos={}",
                literal(&set.state_text()),
                literal(&set.position_text())
            ),
        }
    }

    /// How row events are taken: `mode` must be STRICT, or a row that is missing is passed over; `triggers` NO.
    pub const fn row_rules(self) -> &'static str {
        match self.flavor {
            Flavor::MySql => "SELECT @@session.rbr_exec_mode AS mode",
            Flavor::MariaDb => {
                "SELECT @@global.slave_exec_mode AS mode, @@global.slave_run_triggers_for_rbr AS triggers"
            }
        }
    }

    /// Lets a privileged session write while ordinary users still cannot; `None` where it always may.
    pub const fn lift_super_read_only(self) -> Option<&'static str> {
        match self.flavor {
            Flavor::MySql => Some("SET GLOBAL super_read_only=0"),
            Flavor::MariaDb => None,
        }
    }
}

impl Threads {
    const fn words(self) -> &'static str {
        match self {
            Self::Receiver => " IO_THREAD",
            Self::Applier => " SQL_THREAD",
            Self::Both => "",
        }
    }
}

/// A quoted string that ends where it should, for sessions without `NO_BACKSLASH_ESCAPES` (ours: `client.rs` sees to it).
pub fn literal(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('\'');
    for c in text.chars() {
        match c {
            '\0' => quoted.push_str("\\0"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\u{1a}' => quoted.push_str("\\Z"),
            '\\' | '\'' | '"' => {
                quoted.push('\\');
                quoted.push(c);
            }
            c => quoted.push(c),
        }
    }
    quoted.push('\'');
    quoted
}

/// A quoted name of a schema or of what is in one.
pub fn identifier(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

/// Arguments of the server's program.
impl Dialect {
    /// Starts read-only and replicating nothing.
    pub fn start_closed(self) -> &'static [&'static str] {
        match self.flavor() {
            Flavor::MySql if self.version >= Version::new(8, 0, 26) => {
                &["--read-only=1", "--skip-replica-start"]
            }
            Flavor::MySql | Flavor::MariaDb => &["--read-only=1", "--skip-slave-start"],
        }
    }

    /// Lets MariaDB's recovery drop from the binary log what the engine had not made durable: what was never acknowledged (S7), and the last
    /// rows that were. Before the switch of its own it took the role from the
    /// semi-sync setting (MDEV-33465). MySQL has neither.
    pub fn start_without_tail(self) -> Option<&'static str> {
        let Version { major, minor, patch } = self.version;
        let has_role = match (major, minor) {
            (10, 6) => patch >= 19,
            (10, 11) => patch >= 9,
            (11, 1) => patch >= 6,
            (11, 2) => patch >= 5,
            (11, 4) => patch >= 3,
            (major, minor) => major > 11 || (major == 11 && minor > 4),
        };
        match (self.flavor(), has_role) {
            (Flavor::MySql, _) => None,
            (Flavor::MariaDb, true) => Some("--init-rpl-role=SLAVE"),
            (Flavor::MariaDb, false) => Some("--rpl-semi-sync-slave-enabled=ON"),
        }
    }
}

#[cfg(test)]
mod tests;
