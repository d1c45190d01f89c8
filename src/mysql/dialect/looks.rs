//! The parts of a look that no decision can do without and that every family words differently.

use super::Dialect;
use crate::model::instance::Flavor;

impl Dialect {
    /// Settings that leave out, pass over or refuse something, in one row; with the name this server has for each that is called
    /// otherwise by others. Refused as a whole where one of them is not known.
    pub fn restrictions(self) -> String {
        let replica = if self.mysql_from(8, 0, 26) { "replica" } else { "slave" };
        let own = match self.flavor {
            Flavor::MariaDb => {
                "@@global.gtid_ignore_duplicates AS gtid_ignore_duplicates, \
                 @@global.replicate_do_db AS replicate_do_db, @@global.replicate_ignore_db AS replicate_ignore_db, \
                 @@global.replicate_do_table AS replicate_do_table, \
                 @@global.replicate_ignore_table AS replicate_ignore_table, \
                 @@global.replicate_wild_do_table AS replicate_wild_do_table, \
                 @@global.replicate_wild_ignore_table AS replicate_wild_ignore_table, \
                 NULLIF(@@global.replicate_events_marked_for_skip, 'REPLICATE') AS replicate_events_marked_for_skip"
            }
            Flavor::MySql => "@@global.offline_mode AS offline_mode",
        };
        format!(
            "SELECT @@global.{replica}_exec_mode AS exec_mode, '{replica}_exec_mode' AS exec_mode_name, \
             @@global.{replica}_skip_errors AS skip_errors, '{replica}_skip_errors' AS skip_errors_name, \
             @@global.sql_{replica}_skip_counter AS skip_counter, 'sql_{replica}_skip_counter' AS skip_counter_name, \
             @@global.skip_networking AS skip_networking, @@global.bind_address AS bind_address, {own}"
        )
    }

    /// How long the server runs, how many statements were given that may throw received transactions away, and where its binlog ends where
    /// a counter tells that without waiting for the log itself. Such are `CHANGE` and `RESET`, and on MariaDB `START` (N1). MySQL counted
    /// under the older words before 8.0.26.
    pub const fn running(self) -> &'static str {
        match self.flavor {
            Flavor::MariaDb => {
                "SHOW GLOBAL STATUS WHERE Variable_name IN ('Uptime', 'Binlog_snapshot_file', 'Binlog_snapshot_position', \
                 'Com_start_slave', 'Com_start_all_slaves', 'Com_change_master', 'Com_reset')"
            }
            Flavor::MySql => {
                "SHOW GLOBAL STATUS WHERE Variable_name IN ('Uptime', 'Com_change_replication_source', 'Com_change_master', \
                 'Com_reset')"
            }
        }
    }

    /// Heartbeats received and their period by channel, and the filters of all channels, where the answer of
    /// [`Self::show_replicas`] does not hold them.
    pub fn heartbeat_counters(self) -> Option<&'static str> {
        const COUNTERS: &str = "SELECT s.channel_name AS channel_name, s.count_received_heartbeats AS received_heartbeats, \
             c.heartbeat_interval AS heartbeat_interval \
             FROM performance_schema.replication_connection_status s \
             JOIN performance_schema.replication_connection_configuration c USING (channel_name)";
        const WITH_FILTERS: &str = "SELECT s.channel_name AS channel_name, s.count_received_heartbeats AS received_heartbeats, \
             c.heartbeat_interval AS heartbeat_interval, NULL AS filter, NULL AS rule \
             FROM performance_schema.replication_connection_status s \
             JOIN performance_schema.replication_connection_configuration c USING (channel_name) \
             UNION ALL SELECT NULL, NULL, NULL, filter_name, filter_rule \
             FROM performance_schema.replication_applier_global_filters";
        match self.flavor {
            Flavor::MariaDb => None,
            Flavor::MySql if self.mysql_from(8, 0, 1) => Some(WITH_FILTERS),
            Flavor::MySql => Some(COUNTERS),
        }
    }
}
