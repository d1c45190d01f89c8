//! What real servers say of settings that leave out, pass over or refuse something.

use mha::agent::host::tail::check;
use mha::model::cluster::{Cluster, ClusterName, Member, Mode, Promotion};
use mha::model::gtid::GtidSet;
use mha::model::instance::Flavor;
use mha::model::observation::{Observation, Vantage};
use mha::model::policy::Policy;
use mha::model::restrictions::{Setting, listed};
use mha::model::time::Moment;
use mha::model::view::ClusterView;
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
                 GLOBAL sql_slave_skip_counter=2, GLOBAL replicate_events_marked_for_skip=FILTER_ON_SLAVE"
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
                "replicate_do_table = a.b, replicate_events_marked_for_skip = FILTER_ON_SLAVE, replicate_ignore_db = bar",
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

/// A reset shows at the next look: on MySQL by the sets, on a MariaDB replica by the end of the log alone.
#[tokio::test]
async fn a_reset_history_shows_at_the_next_look() {
    on_both(async |flavor| {
        let Some(crate::Pair { primary, replica, mut p, mut r }) = crate::pair(flavor, false).await else {
            return;
        };
        let cluster = cluster_of(&primary, &replica);
        let mut view = ClusterView::new(cluster, None, Moment::from_micros(0), mha::clock::wall());
        let mut at = 0;
        let mut take = |view: &mut ClusterView, of: &Server, report| {
            at += 1_000_000;
            let at = Moment::from_micros(at);
            view.record_look(Observation { of: of.id(), from: Vantage::Manager, at, seen: Ok(report) });
        };
        run(&mut r, "FLUSH BINARY LOGS").await;
        for _ in 0..2 {
            take(&mut view, &replica, look(&mut r).await);
            take(&mut view, &primary, look(&mut p).await);
        }
        assert!(view.of(&replica.id()).unwrap().reset.is_none());
        let had = look(&mut r).await.executed;
        let reset = match flavor {
            Flavor::MariaDb => "RESET MASTER",
            Flavor::MySql => "RESET BINARY LOGS AND GTIDS",
        };
        run(&mut r, if flavor == Flavor::MySql { "STOP REPLICA" } else { "DO 1" }).await;
        run(&mut r, reset).await;
        run(&mut p, "INSERT INTO t.t VALUES ()").await;
        let level = look(&mut p).await.executed;
        if flavor == Flavor::MariaDb {
            crate::until(&mut r, "the next row", |seen| seen.executed.contains(&level)).await;
        }
        take(&mut view, &replica, look(&mut r).await);
        assert_eq!(view.of(&replica.id()).unwrap().reset.as_ref().map(|reset| &reset.had), Some(&had));
        // Its administrator tells a MySQL server what it had.
        if flavor == Flavor::MySql {
            run(&mut r, &format!("SET GLOBAL gtid_purged='{had}'")).await;
            take(&mut view, &replica, look(&mut r).await);
            assert!(view.of(&replica.id()).unwrap().reset.is_none());
        }
        run(&mut p, reset).await;
        take(&mut view, &primary, look(&mut p).await);
        assert!(view.of(&primary.id()).unwrap().reset.is_some());
    })
    .await;
}

fn cluster_of(primary: &Server, replica: &Server) -> Cluster {
    let member = |server: &Server| Member {
        instance: server.id(),
        promotion: Promotion::Allow,
        zone: None,
        agent: None,
    };
    Cluster {
        name: ClusterName("orders".to_owned()),
        mode: Mode::Observe,
        members: vec![member(primary), member(replica)],
        vip: None,
        traffic: None,
        voters: Vec::new(),
        policy: Policy::default(),
    }
}

/// A file that is gone, or compressed in place, is told with what the rest of the log does not give.
#[tokio::test]
async fn a_log_file_that_cannot_be_read_is_told() {
    on_both(async |flavor| {
        let Some(server) = Server::start(flavor, 1, &[]).await else { return };
        let mut conn = server.connect().await;
        run(
            &mut conn,
            "CREATE DATABASE t; CREATE TABLE t.t (id INT); INSERT INTO t.t VALUES (1); FLUSH BINARY LOGS",
        )
        .await;
        let first = look(&mut conn).await.executed;
        run(
            &mut conn,
            "INSERT INTO t.t VALUES (2); FLUSH BINARY LOGS; INSERT INTO t.t VALUES (3); FLUSH BINARY LOGS",
        )
        .await;
        let index = server.data().join("binlog.index");
        assert_eq!(check(flavor, &index).unwrap(), None);
        let logs = conn.query("SHOW BINARY LOGS", within(5.0)).await.unwrap();
        // MySQL begins another file when it was made ready: the one that holds the first row is the fourth from the end.
        let name = logs[logs.len() - 4].text("log_name").unwrap().to_owned();
        let path = server.data().join(&name);
        std::fs::rename(&path, path.with_extension("gz")).unwrap();
        let fault = check(flavor, &index).unwrap().unwrap();
        assert_eq!((fault.file.as_str(), fault.why.as_str()), (name.as_str(), "is missing"));
        assert_eq!(fault.before.as_ref(), Some(&first));
        std::fs::write(&path, [0x1f, 0x8b, 8, 0, 0, 0, 0, 0]).unwrap();
        let fault = check(flavor, &index).unwrap().unwrap();
        assert_eq!(fault.why, "is no binary log");
        assert!(!fault.is_needed_by(&first) && fault.is_needed_by(&GtidSet::empty(flavor)));
    })
    .await;
}
