//! Control's steps on real replication: nothing received is lost, options of a channel survive, and a failover's critical
//! path is measured. Each test runs on every flavor this machine has.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests: a failure is a panic that says where")]

#[path = "replication/lossless.rs"]
mod lossless;
#[path = "replication/restrictions.rs"]
mod restrictions;
#[path = "replication/stopping.rs"]
mod stopping;
mod support;

use std::time::Duration;

use mha::decide::plan::Step;
use mha::model::ballot::Generation;
use mha::model::gtid::GtidSet;
use mha::model::instance::Flavor;
use mha::model::observation::Unseen;
use mha::model::report::{Report, ThreadState};
use mha::mysql::control::{HEARTBEAT_SCHEMA, apply, apply_salvage, boots_closed, write_heartbeat};
use mha::mysql::probe::{binlog, report};
use mha::mysql::{Connection, ControlError, Tls};
use support::{Server, account, env, within};
use tokio::time::Instant;

const LIMIT: Duration = Duration::from_secs(20);

async fn on_both(test: impl AsyncFn(Flavor)) {
    test(Flavor::MariaDb).await;
    test(Flavor::MySql).await;
}

async fn run(conn: &mut Connection, sql: &str) {
    conn.query(sql, within(20.0)).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
}

async fn look(conn: &mut Connection) -> Report {
    report(conn, within(10.0)).await.unwrap()
}

/// Applies a step and answers how long it took.
async fn step(conn: &mut Connection, step: Step) -> Duration {
    let began = Instant::now();
    apply(conn, &step, &env()).await.unwrap_or_else(|error| panic!("{step}: {error}"));
    began.elapsed()
}

fn point(replica: &Server, source: &Server, acker: bool) -> Step {
    Step::PointReplica { instance: replica.id(), source: source.id(), acker }
}

fn stop_receiving(replica: &Server, source: &Server) -> Step {
    Step::StopReceiving { instance: replica.id(), source: source.id() }
}

fn wait(instance: &Server, set: &GtidSet) -> Step {
    Step::WaitApplied { instance: instance.id(), set: set.clone(), within: LIMIT }
}

/// Waits for a level, with a limit.
async fn until(conn: &mut Connection, what: &str, is: impl Fn(&Report) -> bool) -> Report {
    let deadline = Instant::now() + LIMIT;
    loop {
        let seen = look(conn).await;
        if is(&seen) {
            return seen;
        }
        assert!(Instant::now() < deadline, "{what}: {seen:#?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

struct Pair {
    primary: Server,
    replica: Server,
    p: Connection,
    r: Connection,
}

/// A primary with a table and a replica that follows it.
async fn pair(flavor: Flavor, acker: bool) -> Option<Pair> {
    let primary = Server::start(flavor, 1, &[]).await?;
    let replica = Server::start(flavor, 2, &[]).await?;
    let (mut p, mut r) = (primary.connect().await, replica.connect().await);
    run(&mut p, "CREATE DATABASE t; CREATE TABLE t.t (id INT PRIMARY KEY AUTO_INCREMENT, v INT); INSERT INTO t.t VALUES ()").await;
    // MySQL's replicas ask their source for semi-sync when they connect: its plugin must be loaded by then.
    if acker {
        step(&mut p, Step::ArmSource { instance: primary.id(), acks: 1 }).await;
    }
    step(&mut r, point(&replica, &primary, acker)).await;
    let set = look(&mut p).await.executed;
    step(&mut r, wait(&replica, &set)).await;
    Some(Pair { primary, replica, p, r })
}

/// Made where missing, with no more rights than needed, without a password in the log; what is there stays.
#[tokio::test]
async fn a_primary_is_furnished_once() {
    on_both(async |flavor| {
        let Some(server) = Server::start(flavor, 1, &[]).await else { return };
        let mut admin = server.connect().await;
        let grants = admin.query("SHOW GRANTS FOR 'repl'@'%'", within(5.0)).await.unwrap();
        for _ in 0..2 {
            step(&mut admin, Step::Furnish { instance: server.id(), semi_sync: true }).await;
        }
        let again = admin.query("SHOW GRANTS FOR 'repl'@'%'", within(5.0)).await.unwrap();
        assert_eq!(grants.len(), again.len());
        assert!(look(&mut admin).await.semi_sync.available);

        let login = Connection::open(&server.socket(), &account("beat"), &Tls::Off, None, within(5.0)).await;
        let mut beat = login.unwrap();
        write_heartbeat(&mut beat, "db1", Generation(1), within(5.0)).await.unwrap();
        for refused in ["SET GLOBAL read_only=1", "CREATE DATABASE other", "DELETE FROM mha.heartbeat"] {
            assert!(beat.query(refused, within(5.0)).await.is_err(), "{refused}");
        }
        let events = admin.query("SHOW BINLOG EVENTS", within(5.0)).await.unwrap();
        let log: Vec<&str> = events.iter().filter_map(|row| row.text("info")).collect();
        assert!(log.iter().any(|text| text.contains("CREATE USER") && text.contains("beat")), "{log:#?}");
        assert!(log.iter().all(|text| !text.contains("cr\\")), "{log:#?}");
    })
    .await;
}

#[tokio::test]
async fn a_report_says_what_the_servers_are() {
    on_both(async |flavor| {
        let Some(Pair { primary, replica, mut p, mut r }) = pair(flavor, true).await else { return };
        run(&mut p, &HEARTBEAT_SCHEMA.join("; ")).await;
        write_heartbeat(&mut p, "it's\\me", Generation(3), within(5.0)).await.unwrap();
        let set = look(&mut p).await.executed;
        step(&mut r, wait(&replica, &set)).await;
        until(&mut p, "acker", |seen| seen.semi_sync.clients == 1).await;
        write_heartbeat(&mut p, "it's\\me", Generation(4), within(5.0)).await.unwrap();
        let seen = look(&mut p).await;
        assert_eq!(seen.identity.flavor, flavor);
        assert!(seen.is_writable() && seen.replication.is_empty());
        assert!(seen.settings.log_bin && seen.settings.log_replica_updates && seen.settings.gtid);
        assert!(seen.settings.durable_commits && seen.settings.net_timeout == Duration::from_secs(60));
        let semi = &seen.semi_sync;
        assert!(semi.available && semi.source_enabled && semi.source_status && semi.after_sync, "{semi:?}");
        assert_eq!((semi.acks, semi.clients, semi.waiting), (1, 1, 0));
        assert_eq!(semi.timeout, Duration::from_millis(u64::from(u32::MAX)));
        assert!(seen.heartbeat_age.unwrap() < Duration::from_secs(5));
        let log = binlog(&mut p, within(5.0)).await.unwrap();
        assert!(log.end.is_some() && log.purged.is_empty(), "{log:?}");

        step(&mut r, wait(&replica, &seen.executed)).await;
        let beats = |seen: &Report| seen.channel().is_some_and(|channel| channel.heartbeats >= 2);
        let seen = until(&mut r, "heartbeats", beats).await;
        let channel = seen.channel().unwrap();
        assert!(seen.read_only && seen.super_read_only.unwrap_or(true));
        assert!(
            channel.is_running()
                && channel.gtid
                && seen.filters().is_empty()
                && channel.source == primary.id()
        );
        assert_eq!(channel.heartbeat_every, Some(Duration::from_millis(250)));
        assert_eq!((channel.delay, channel.seconds_behind), (Duration::ZERO, Some(0)));
        assert!(channel.read_to.is_some() && channel.read_to == channel.applied_to);
        assert!(seen.semi_sync.replica_enabled && seen.semi_sync.replica_status);
        assert!(seen.is_level() && seen.heartbeat_age.is_some());

        let mut plain = Connection::open(&primary.target(), &account("plain"), &Tls::Off, None, within(5.0))
            .await
            .unwrap();
        let refused = report(&mut plain, within(5.0)).await.unwrap_err();
        assert!(matches!(refused, Unseen::AccessDenied(_)), "{refused}");
        let began = Instant::now();
        for _ in 0..50 {
            look(&mut r).await;
        }
        println!("{flavor}: a report takes {:?}", began.elapsed() / 50);
    })
    .await;
}

#[tokio::test]
async fn a_repoint_keeps_the_options_of_the_channel() {
    on_both(async |flavor| {
        let Some(Pair { primary: _primary, replica, p: _p, mut r }) = pair(flavor, false).await else { return };
        let Some(other) = Server::start(flavor, 3, &[]).await else { return };
        let (set, shown) = match flavor {
            Flavor::MariaDb => (
                "STOP SLAVE; CHANGE MASTER TO MASTER_DELAY=7, MASTER_SSL=1, MASTER_SSL_CA='/ca.pem', \
                 MASTER_SSL_VERIFY_SERVER_CERT=0, IGNORE_SERVER_IDS=(77), IGNORE_DOMAIN_IDS=(9)",
                ["sql_delay", "source_ssl_allowed", "source_ssl_ca_file", "replicate_ignore_server_ids", "replicate_ignore_domain_ids"],
            ),
            Flavor::MySql => (
                "STOP REPLICA; CHANGE REPLICATION SOURCE TO SOURCE_DELAY=7, SOURCE_SSL=1, SOURCE_SSL_CA='/ca.pem', \
                 SOURCE_TLS_VERSION='TLSv1.3'; \
                 CHANGE REPLICATION FILTER REPLICATE_IGNORE_DB=(unwanted)",
                ["sql_delay", "source_ssl_allowed", "source_ssl_ca_file", "replicate_ignore_server_ids", "replicate_ignore_db"],
            ),
        };
        run(&mut r, set).await;
        let status = if flavor == Flavor::MariaDb { "SHOW ALL SLAVES STATUS" } else { "SHOW REPLICA STATUS" };
        let before = r.query(status, within(5.0)).await.unwrap().remove(0);
        step(&mut r, point(&replica, &other, true)).await;
        let after = r.query(status, within(5.0)).await.unwrap().remove(0);
        assert_eq!(after.number("source_port"), Some(other.port));
        for name in shown.into_iter().chain(["source_tls_version", "source_ssl_verify_server_cert"]) {
            assert_eq!(before.text(name), after.text(name), "{name}");
        }
        assert_eq!(after.number("sql_delay"), Some(7));
        let ignored = if flavor == Flavor::MariaDb { "77" } else { "" };
        assert_eq!(after.text("replicate_ignore_server_ids"), Some(ignored));
        let seen = look(&mut r).await;
        let channel = seen.channel().unwrap();
        assert_eq!(channel.heartbeat_every, Some(Duration::from_millis(250)));
        assert!(channel.gtid && !channel.filters.is_empty() && channel.delay == Duration::from_secs(7));
    })
    .await;
}

#[tokio::test]
async fn a_former_primary_becomes_a_replica_where_it_stands() {
    on_both(async |flavor| {
        let Some(Pair { primary, replica, mut p, mut r }) = pair(flavor, false).await else { return };
        run(&mut p, "INSERT INTO t.t VALUES ()").await;
        let all = look(&mut p).await.executed;
        step(&mut r, wait(&replica, &all)).await;
        step(&mut r, Step::StopReplicating { instance: replica.id() }).await;
        step(&mut r, Step::ForgetSource { instance: replica.id(), discard: None }).await;
        step(&mut r, Step::SetReadOnly { instance: replica.id(), on: false }).await;
        run(&mut r, "INSERT INTO t.t VALUES ()").await;
        let all = look(&mut r).await.executed;
        step(
            &mut p,
            Step::CatchUpFrom {
                instance: primary.id(),
                source: replica.id(),
                set: all.clone(),
                within: LIMIT,
            },
        )
        .await;
        let seen = look(&mut p).await;
        assert!(seen.read_only && seen.executed.contains(&all));
        assert_eq!(seen.channel().unwrap().receiver, ThreadState::Stopped);
        step(&mut r, Step::ArmSource { instance: replica.id(), acks: 1 }).await;
        step(&mut p, point(&primary, &replica, true)).await;
        until(&mut p, "acker", |seen| seen.channel().unwrap().is_running() && seen.semi_sync.replica_status)
            .await;
        // Asked again otherwise, it announces itself otherwise (N8).
        step(&mut p, point(&primary, &replica, false)).await;
        let quiet = |seen: &Report| seen.channel().unwrap().is_running() && !seen.semi_sync.replica_status;
        until(&mut p, "no acker", quiet).await;
    })
    .await;
}

/// A former primary that somebody starts by hand: MySQL kept that it is none any more; MariaDB keeps nothing.
#[tokio::test]
async fn a_replica_boots_as_one_whoever_starts_it() {
    on_both(async |flavor| {
        let more = ["--event-scheduler=ON"];
        let Some(mut server) = Server::start(flavor, 1, &more).await else { return };
        let mut conn = server.connect().await;
        step(&mut conn, Step::SetReadOnly { instance: server.id(), on: true }).await;
        boots_closed(&mut conn, false, within(5.0)).await.unwrap();
        server.start_again().await;
        let mut conn = server.connect().await;
        let kept = flavor == Flavor::MySql;
        let seen = look(&mut conn).await;
        assert_eq!(
            (seen.read_only, seen.settings.event_scheduler),
            (kept, true),
            "its events are left alone"
        );
        boots_closed(&mut conn, true, within(5.0)).await.unwrap();
        server.start_again().await;
        let seen = look(&mut server.connect().await).await;
        assert_eq!((seen.read_only, seen.settings.event_scheduler), (kept, !kept));
        let Some(never) = Server::start(flavor, 1, &["--read-only=1", "--event-scheduler=DISABLED"]).await
        else {
            return;
        };
        boots_closed(&mut never.connect().await, true, within(5.0)).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn salvaged_statements_keep_their_gtids_and_a_broken_one_leaves_nothing() {
    on_both(async |flavor| {
        let Some(server) = Server::start(flavor, 2, &[]).await else { return };
        let mut conn = server.connect().await;
        run(&mut conn, "CREATE DATABASE t; CREATE TABLE t.t (id INT PRIMARY KEY, v INT)").await;
        step(&mut conn, Step::SetReadOnly { instance: server.id(), on: true }).await;
        let (gtid, wanted) = match flavor {
            Flavor::MariaDb => {
                ("SET @@session.gtid_domain_id=0, @@session.server_id=1, @@session.gtid_seq_no=9", "0-1-9")
            }
            Flavor::MySql => (
                "SET @@SESSION.GTID_NEXT='3e11fa47-71ca-11e1-9e33-c80aa9429562:9'",
                "3e11fa47-71ca-11e1-9e33-c80aa9429562:9",
            ),
        };
        let mut good: Vec<String> =
            ["SET @@session.pseudo_thread_id=7", gtid, "BEGIN", "INSERT INTO t.t VALUES (1, 1)", "COMMIT"]
                .map(str::to_owned)
                .to_vec();
        if flavor == Flavor::MySql {
            good.push("SET @@SESSION.GTID_NEXT='AUTOMATIC'".to_owned());
        }
        let mut conn = apply_salvage(conn, &good, within(5.0)).await.unwrap();
        let seen = look(&mut conn).await;
        let text = seen.executed.to_string();
        assert!(text.contains(wanted), "{text}");
        assert!(seen.read_only && seen.super_read_only.unwrap_or(true));
        let again = if flavor == Flavor::MariaDb { "seq_no=10" } else { "562:10'" };
        let bad: Vec<String> = [
            &gtid.replace("seq_no=9", again).replace("562:9'", again),
            "BEGIN",
            "INSERT INTO t.t VALUES (2, 2)",
            "INSERT INTO t.t VALUES (1, 1)",
            "COMMIT",
        ]
        .map(str::to_owned)
        .to_vec();
        let error = apply_salvage(conn, &bad, within(5.0)).await.unwrap_err();
        assert!(matches!(error, ControlError::Salvage { number: 4, of: 5, .. }), "{error}");
        let mut conn = server.connect().await;
        let rows = conn.query("SELECT COUNT(*) AS n FROM t.t", within(5.0)).await.unwrap();
        assert_eq!(rows[0].number("n"), Some(1));
        assert!(look(&mut conn).await.super_read_only.unwrap_or(true));
    })
    .await;
}

/// 1 + 2, lossless: what a failover does to the servers, timed. Not asserted against numbers: those are the bench's.
#[tokio::test]
async fn the_critical_path_of_a_failover() {
    on_both(async |flavor| {
        let Some(Pair { primary, replica: candidate, mut p, r: mut c }) = pair(flavor, true).await else {
            return;
        };
        let Some(acker) = Server::start(flavor, 3, &[]).await else { return };
        let mut a = acker.connect().await;
        step(&mut a, point(&acker, &primary, true)).await;
        step(&mut p, Step::AckersAttached { instance: primary.id(), acks: 2 }).await;
        run(&mut p, "INSERT INTO t.t VALUES ()").await;
        let all = look(&mut p).await.executed;
        step(&mut a, wait(&acker, &all)).await;
        step(&mut c, wait(&candidate, &all)).await;
        primary.signal("-KILL");
        let killed = Instant::now();
        assert_eq!(p.query("SELECT SLEEP(9)", within(9.0)).await.unwrap_err().unseen, Unseen::Lost);
        println!("{flavor}: killed to EOF {:?}", killed.elapsed());
        let began = Instant::now();
        let (one, two) = tokio::join!(
            step(&mut c, stop_receiving(&candidate, &primary)),
            step(&mut a, stop_receiving(&acker, &primary))
        );
        println!("{flavor}: stop receiving {one:?} {two:?}");
        println!("{flavor}: wait applied {:?}", step(&mut c, wait(&candidate, &all)).await);
        println!(
            "{flavor}: stop replicating {:?}",
            step(&mut c, Step::StopReplicating { instance: candidate.id() }).await
        );
        let (armed, pointed) = tokio::join!(
            step(&mut c, Step::ArmSource { instance: candidate.id(), acks: 1 }),
            step(&mut a, point(&acker, &candidate, true))
        );
        println!("{flavor}: arm {armed:?}, point {pointed:?}");
        println!(
            "{flavor}: attached {:?}",
            step(&mut c, Step::AckersAttached { instance: candidate.id(), acks: 1 }).await
        );
        println!(
            "{flavor}: open {:?}",
            step(&mut c, Step::SetReadOnly { instance: candidate.id(), on: false }).await
        );
        println!("{flavor}: all steps {:?}", began.elapsed());
        run(&mut c, "INSERT INTO t.t VALUES ()").await;
        println!("{flavor}: first write acknowledged {:?}", began.elapsed());
        println!(
            "{flavor}: forget {:?}",
            step(&mut c, Step::ForgetSource { instance: candidate.id(), discard: None }).await
        );
        let seen = look(&mut c).await;
        assert!(
            seen.is_writable() && seen.semi_sync.clients == 1 && seen.semi_sync.unacknowledged == 0,
            "{seen:#?}"
        );
    })
    .await;
}
