//! What real servers say of settings that leave out, pass over or refuse something.

use mha::model::instance::Flavor;
use mha::model::restrictions::{Setting, listed};
use mha::mysql::inventory::{binlog_filters, plain_tables};
use mha::mysql::probe::report;
use mha::mysql::{Connection, Tls};

use crate::support::{Server, account, within};
use crate::{look, on_both, run};

fn names(settings: &[Setting]) -> String {
    listed(settings)
}

#[tokio::test]
async fn a_look_names_filters_and_what_passes_over_errors() {
    on_both(async |flavor| {
        let word = if flavor == Flavor::MariaDb { "slave" } else { "replica" };
        let skips = format!("--{word}-skip-errors=1062");
        let more = ["--binlog-do-db=other", "--binlog-ignore-db=scratch", "--replicate-ignore-db=bar", &skips];
        let Some(server) = Server::start(flavor, 1, &more).await else { return };
        let mut conn = server.connect().await;
        let seen = look(&mut conn).await;
        assert_eq!(names(&seen.filters()), "replicate_ignore_db = bar");
        assert_eq!(names(&seen.restrictions.skips), format!("{word}_skip_errors = 1062"));
        assert!(!seen.restrictions.offline);
        // Every server of these tests listens on loopback.
        assert_eq!(seen.restrictions.local_only, Some(Setting::new("bind_address", "127.0.0.1")));
        let filters = binlog_filters(&mut conn, within(5.0)).await.unwrap();
        assert_eq!(names(&filters), "binlog_do_db = other, binlog_ignore_db = scratch");

        let at_run_time = match flavor {
            Flavor::MariaDb => {
                "SET GLOBAL slave_exec_mode='IDEMPOTENT', GLOBAL gtid_ignore_duplicates=1, GLOBAL replicate_do_table='a.b', \
                 GLOBAL sql_slave_skip_counter=2"
            }
            Flavor::MySql => {
                "SET GLOBAL replica_exec_mode='IDEMPOTENT', GLOBAL offline_mode=1; \
                 CHANGE REPLICATION FILTER REPLICATE_DO_TABLE=(a.b), REPLICATE_IGNORE_DB=()"
            }
        };
        run(&mut conn, at_run_time).await;
        let seen = look(&mut conn).await;
        let (filters, skips) = match flavor {
            Flavor::MariaDb => (
                "replicate_do_table = a.b, replicate_ignore_db = bar",
                "slave_exec_mode = IDEMPOTENT, slave_skip_errors = 1062, sql_slave_skip_counter = 2, gtid_ignore_duplicates = 1",
            ),
            Flavor::MySql => (
                "replicate_do_table = a.b",
                "replica_exec_mode = IDEMPOTENT, replica_skip_errors = 1062",
            ),
        };
        assert_eq!(names(&seen.filters()), filters);
        assert_eq!(names(&seen.restrictions.skips), skips);
        assert_eq!(seen.restrictions.offline, flavor == Flavor::MySql);
    })
    .await;
}

/// A channel's own filters, set at run time, beside those that hold for all.
#[tokio::test]
async fn a_filter_of_a_channel_is_seen_on_the_next_look() {
    on_both(async |flavor| {
        let Some(pair) = crate::pair(flavor, false).await else { return };
        let mut replica = pair.r;
        assert!(look(&mut replica).await.filters().is_empty());
        let set = match flavor {
            Flavor::MariaDb => "STOP SLAVE SQL_THREAD; SET GLOBAL replicate_wild_ignore_table='app.%'; START SLAVE SQL_THREAD",
            Flavor::MySql => {
                "STOP REPLICA SQL_THREAD FOR CHANNEL ''; \
                 CHANGE REPLICATION FILTER REPLICATE_WILD_IGNORE_TABLE=('app.%') FOR CHANNEL ''; START REPLICA SQL_THREAD FOR CHANNEL ''"
            }
        };
        run(&mut replica, set).await;
        let seen = look(&mut replica).await;
        assert_eq!(names(&seen.filters()), "replicate_wild_ignore_table = app.%");
        assert!(!seen.channel().unwrap().filters.is_empty());
    })
    .await;
}

/// What an account may not read is unknown; the rest of the look is as it would be.
#[tokio::test]
async fn what_is_refused_costs_no_look() {
    on_both(async |flavor| {
        let Some(server) = Server::start(flavor, 1, &[]).await else { return };
        let mut admin = server.connect().await;
        let rights = match flavor {
            Flavor::MariaDb => "SLAVE MONITOR, BINLOG MONITOR",
            Flavor::MySql => "REPLICATION CLIENT",
        };
        run(
            &mut admin,
            &format!(
                "CREATE USER 'looker'@'%' IDENTIFIED BY 'se\\'cr\\\\et'; GRANT {rights} ON *.* TO 'looker'@'%'; \
                 SET GLOBAL {}_exec_mode='IDEMPOTENT'",
                if flavor == Flavor::MariaDb { "slave" } else { "replica" }
            ),
        )
        .await;
        let login = Connection::open(&server.socket(), &account("looker"), &Tls::Off, None, within(5.0)).await;
        let mut looker = login.unwrap();
        for _ in 0..3 {
            let seen = report(&mut looker, within(5.0)).await.unwrap();
            assert_eq!(seen.restrictions.skips.len(), 1, "{seen:?}");
            assert!(looker.is_open() && seen.heartbeat_age.is_none());
        }
    })
    .await;
}

#[tokio::test]
async fn tables_without_transactions_are_counted() {
    on_both(async |flavor| {
        let Some(server) = Server::start(flavor, 1, &[]).await else { return };
        let mut conn = server.connect().await;
        assert_eq!(plain_tables(&mut conn, within(8.0)).await.unwrap().count, 0);
        run(
            &mut conn,
            "CREATE DATABASE t; CREATE TABLE t.a (id INT) ENGINE=MyISAM; CREATE TABLE t.b (id INT) ENGINE=MEMORY; \
             CREATE TABLE t.c (id INT) ENGINE=InnoDB; CREATE VIEW t.v AS SELECT * FROM t.a",
        )
        .await;
        let mut found = plain_tables(&mut conn, within(8.0)).await.unwrap();
        found.some.sort();
        assert_eq!((found.count, found.some.join(", ")), (2, "t.a (MyISAM), t.b (MEMORY)".to_owned()));
    })
    .await;
}
