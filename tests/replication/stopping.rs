//! Stopping a replica, and closing a primary: what was received stays, and nothing holds them up.

use super::*;

#[tokio::test]
async fn stopping_a_receiver_loses_nothing_received() {
    on_both(async |flavor| {
        let Some(Pair { primary, replica, mut p, mut r }) = pair(flavor, false).await else { return };
        let applier =
            if flavor == Flavor::MariaDb { "STOP SLAVE SQL_THREAD" } else { "STOP REPLICA SQL_THREAD" };
        run(&mut r, applier).await;
        for _ in 0..20 {
            run(&mut p, "INSERT INTO t.t VALUES ()").await;
        }
        let all = look(&mut p).await.executed;
        let seen = until(&mut r, "received", |seen| seen.known().contains(&all)).await;
        assert!(!seen.is_level());
        primary.signal("-KILL");
        until(&mut r, "source lost", |seen| seen.channel().unwrap().receiver != ThreadState::Running).await;
        step(&mut r, stop_receiving(&replica, &primary)).await;
        step(&mut r, stop_receiving(&replica, &primary)).await;
        step(&mut r, wait(&replica, &all)).await;
        let rows = r.query("SELECT COUNT(*) AS n FROM t.t", within(5.0)).await.unwrap();
        assert_eq!(rows[0].number("n"), Some(21));
        step(&mut r, Step::StopReplicating { instance: replica.id() }).await;
        step(&mut r, Step::ForgetSource { instance: replica.id(), discard: None }).await;
        step(&mut r, Step::ForgetSource { instance: replica.id(), discard: None }).await;
        assert!(look(&mut r).await.channel().is_none());
    })
    .await;
}

/// A primary that dies in the middle of sending a transaction: the half that came is not waited for (MySQL's coordinator would, for a
/// minute), and is nowhere afterwards.
#[tokio::test]
async fn half_a_transaction_holds_nobody_up() {
    on_both(async |flavor| {
        let Some(Pair { primary, replica, mut p, mut r }) = pair(flavor, false).await else { return };
        run(&mut p, "CREATE TABLE t.large (v LONGBLOB)").await;
        let before = look(&mut p).await.executed;
        step(&mut r, wait(&replica, &before)).await;
        let received = || {
            let files = std::fs::read_dir(replica.data()).unwrap().flatten();
            let relay = files.filter(|file| file.file_name().to_string_lossy().contains("relay"));
            relay.map(|file| file.metadata().map_or(0, |about| about.len())).sum::<u64>()
        };
        let at_first = received();
        let large = async {
            let rows = "INSERT INTO t.large SELECT REPEAT('x', 1000000) FROM information_schema.columns LIMIT 400";
            // It dies under it, or just after it.
            let _ = p.query(rows, within(60.0)).await;
        };
        let kill = async {
            let limit = Instant::now() + LIMIT;
            while received() < at_first + 20_000_000 {
                assert!(Instant::now() < limit, "nothing is received");
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            primary.signal("-KILL");
        };
        tokio::join!(large, kill);
        let seen =
            until(&mut r, "source lost", |seen| seen.channel().unwrap().receiver != ThreadState::Running)
                .await;
        assert!(seen.is_level() && seen.known() == before, "all of it came: {seen:#?}");
        let began = Instant::now();
        step(&mut r, stop_receiving(&replica, &primary)).await;
        step(&mut r, wait(&replica, &before)).await;
        step(&mut r, Step::StopReplicating { instance: replica.id() }).await;
        let took = began.elapsed();
        println!("{flavor}: half a transaction received, stopped after {took:?}");
        assert!(took < Duration::from_secs(3), "{flavor}: {took:?}");
        let rows = r.query("SELECT COUNT(*) AS n FROM t.large", within(5.0)).await.unwrap();
        assert_eq!(rows[0].number("n"), Some(0));
        if flavor == Flavor::MySql {
            let said = "SELECT last_error_number AS code FROM performance_schema.replication_applier_status_by_coordinator";
            let said = r.query(said, within(5.0)).await.unwrap();
            assert_eq!(said[0].number("code"), Some(1756), "its half was not there to be given up");
        }
        assert_eq!(look(&mut r).await.channel().unwrap().applier_error, None);
        step(&mut r, Step::ForgetSource { instance: replica.id(), discard: None }).await;
        assert_eq!(look(&mut r).await.executed, before);
        run(&mut r, "SET GLOBAL read_only=0; INSERT INTO t.t VALUES ()").await;
    })
    .await;
}

/// Its source must serve and have all of it: then it is received again.
#[tokio::test]
async fn both_threads_stopped_with_something_unapplied_is_refused() {
    let Some(Pair { primary, replica, mut p, mut r }) = pair(Flavor::MariaDb, false).await else { return };
    run(&mut r, "STOP SLAVE SQL_THREAD").await;
    run(&mut p, "INSERT INTO t.t VALUES ()").await;
    let all = look(&mut p).await.executed;
    until(&mut r, "received", |seen| seen.known().contains(&all)).await;
    run(&mut r, "STOP SLAVE IO_THREAD").await;
    run(&mut p, "SET GLOBAL read_only=1").await;
    for step in [
        stop_receiving(&replica, &primary),
        point(&replica, &primary, false),
        Step::StopReplicating { instance: replica.id() },
        Step::ForgetSource { instance: replica.id(), discard: None },
    ] {
        let error = apply(&mut r, &step, &env()).await.unwrap_err();
        let refused = matches!(error, ControlError::BothStopped { .. } | ControlError::Unapplied { .. });
        assert!(refused, "{step}: {error}");
    }
    assert!(look(&mut r).await.known().contains(&all));
    run(&mut p, "SET GLOBAL read_only=0").await;
    step(&mut r, point(&replica, &primary, false)).await;
    step(&mut r, wait(&replica, &all)).await;
}

#[tokio::test]
async fn a_broken_applier_keeps_its_receiver_on_mariadb() {
    let Some(Pair { primary, replica, mut p, mut r }) = pair(Flavor::MariaDb, false).await else { return };
    run(&mut r, "SET sql_log_bin=0; INSERT INTO t.t VALUES (2, 9); SET sql_log_bin=1").await;
    run(&mut p, "INSERT INTO t.t VALUES (2, 0)").await;
    until(&mut r, "broken", |seen| seen.channel().unwrap().applier_error.is_some()).await;
    let error = apply(&mut r, &stop_receiving(&replica, &primary), &env()).await.unwrap_err();
    assert!(matches!(error, ControlError::ApplierStopped { code: 1062, .. }), "{error}");
    assert_eq!(look(&mut r).await.channel().unwrap().receiver, ThreadState::Running);
}

#[tokio::test]
async fn closing_gives_up_behind_a_commit_that_nobody_acknowledges() {
    on_both(async |flavor| {
        let Some(server) = Server::start(flavor, 1, &[]).await else { return };
        let mut conn = server.connect().await;
        run(&mut conn, "CREATE DATABASE t; CREATE TABLE t.t (id INT PRIMARY KEY)").await;
        step(&mut conn, Step::ArmSource { instance: server.id(), acks: 1 }).await;
        let mut writer = server.connect().await;
        let waits = writer.query("INSERT INTO t.t VALUES (1)", within(0.3)).await.unwrap_err();
        assert_eq!(waits.unseen, Unseen::HungAfterLogin);
        until(&mut conn, "waiter", |seen| seen.semi_sync.waiting == 1).await;
        let mut short = env();
        short.statement = Duration::from_millis(1500);
        let close = Step::SetReadOnly { instance: server.id(), on: true };
        let error = apply(&mut conn, &close, &short).await.unwrap_err();
        println!("{flavor}: {error}");
        // Never an acker's word taken for granted: the waiter still waits, and pointing it elsewhere would release it.
        let mut conn = server.connect().await;
        let error = apply(&mut conn, &point(&server, &server, false), &short).await.unwrap_err();
        assert!(matches!(error, ControlError::WouldRelease { sessions: 1, .. }), "{error}");
        let error = apply(&mut conn, &Step::AckersAttached { instance: server.id(), acks: 1 }, &short)
            .await
            .unwrap_err();
        assert!(matches!(error, ControlError::NotAttached { have: 0, want: 1, .. }), "{error}");
    })
    .await;
}

/// A receiver whose source is frozen: the ack fence must not wait for it longer than MariaDB's one second (N6).
#[tokio::test]
async fn stopping_a_receiver_of_a_frozen_source() {
    on_both(async |flavor| {
        let Some(Pair { primary, replica, mut p, mut r }) = pair(flavor, true).await else { return };
        step(&mut p, Step::AckersAttached { instance: primary.id(), acks: 1 }).await;
        primary.signal("-STOP");
        let took = step(&mut r, stop_receiving(&replica, &primary)).await;
        println!("{flavor}: stop receiving from a frozen source {took:?}");
        assert!(took < Duration::from_secs(2));
        primary.signal("-CONT");
    })
    .await;
}

/// Another server led for a while, and wrote what this replica never got; in its place the replica has a transaction that nobody else has.
/// By their GTID sets it lacks nothing but the last row, and a MariaDB source would pass over the rest.
#[tokio::test]
async fn a_parted_history_is_refused_where_gtid_sets_do_not_show_it() {
    let Some(Pair { primary, replica, mut p, mut r }) = pair(Flavor::MariaDb, false).await else { return };
    run(&mut r, "STOP SLAVE; RESET SLAVE ALL; SET GLOBAL read_only=0").await;
    run(&mut r, "SET GLOBAL gtid_strict_mode=0; SET SESSION server_id=1; INSERT INTO t.t VALUES (90, 0)")
        .await;
    run(&mut p, "SET SESSION server_id=2; INSERT INTO t.t VALUES (10, 0); INSERT INTO t.t VALUES (11, 0)")
        .await;
    run(&mut p, "SET SESSION server_id=1; INSERT INTO t.t VALUES (12, 0)").await;
    let (ahead, behind) = (look(&mut p).await.executed, look(&mut r).await.executed);
    assert!(behind.minus(&ahead).is_empty(), "{behind} beside {ahead}");
    step(&mut r, point(&replica, &primary, false)).await;
    let seen =
        until(&mut r, "refused", |seen| seen.channel().unwrap().receiver == ThreadState::Stopped).await;
    let error = seen.channel().unwrap().receiver_error.clone().unwrap();
    assert!(error.code == 1236 && error.text.contains("is missing the GTID"), "{error:?}");
    let rows = r.query("SELECT COUNT(*) AS n FROM t.t WHERE id = 12", within(5.0)).await.unwrap();
    assert_eq!(rows[0].number("n"), Some(0));
}
