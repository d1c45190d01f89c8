//! What servers do with commits that wait for an acknowledgement, as decisions take it to be.

use tokio::task::JoinSet;

use super::*;

/// A server that is armed, without an acker, and a session whose commit waits.
async fn waiting(flavor: Flavor) -> Option<(Server, Connection, u64, JoinSet<bool>)> {
    let server = Server::start(flavor, 1, &[]).await?;
    let mut conn = server.connect().await;
    run(&mut conn, "CREATE DATABASE t; CREATE TABLE t.t (id INT PRIMARY KEY)").await;
    step(&mut conn, Step::ArmSource { instance: server.id(), acks: 1 }).await;
    let mut writer = server.connect().await;
    let rows = writer.query("SELECT CONNECTION_ID() AS id", within(5.0)).await.unwrap();
    let session = rows[0].number("id").unwrap();
    let mut write = JoinSet::new();
    write.spawn(async move { writer.query("INSERT INTO t.t VALUES (1)", within(20.0)).await.is_ok() });
    until(&mut conn, "waiter", |seen| seen.semi_sync.waiting == 1).await;
    Some((server, conn, session, write))
}

/// MariaDB answers a commit that waits with OK when somebody ends its statement, and counts it. MySQL goes on waiting.
#[tokio::test]
async fn a_killed_statement_is_answered_alone_on_mariadb_and_counted() {
    let Some((_server, mut conn, session, mut write)) = waiting(Flavor::MariaDb).await else { return };
    assert_eq!(look(&mut conn).await.semi_sync.unacknowledged, 0);
    run(&mut conn, &format!("KILL QUERY {session}")).await;
    assert!(write.join_next().await.unwrap().unwrap(), "its client saw an error");
    let seen = look(&mut conn).await;
    assert_eq!((seen.semi_sync.unacknowledged, seen.semi_sync.not_armed_for(1)), (1, None));

    let Some((_server, mut conn, session, mut write)) = waiting(Flavor::MySql).await else { return };
    run(&mut conn, &format!("KILL QUERY {session}")).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(write.try_join_next().is_none(), "MySQL ends the wait, too");
    assert_eq!(look(&mut conn).await.semi_sync.waiting, 1);
}

/// MySQL answers commits that wait with OK when it is shut down, and its error log says that it was; MariaDB does not answer.
#[tokio::test]
async fn a_shutdown_answers_what_waits_on_mysql() {
    for (flavor, answers) in [(Flavor::MySql, true), (Flavor::MariaDb, false)] {
        let Some((server, _conn, _, mut write)) = waiting(flavor).await else { return };
        server.signal("-TERM");
        assert_eq!(write.join_next().await.unwrap().unwrap(), answers, "{flavor}");
        let log = std::fs::read_to_string(server.data().parent().unwrap().join("log.err")).unwrap();
        assert_eq!(log.contains("Received SHUTDOWN from user"), answers, "{flavor}: {log}");
    }
}

/// A fallback that somebody sets, and waiting that ends without ackers, are seen in the next look.
#[tokio::test]
async fn what_disarms_a_source_is_seen() {
    on_both(async |flavor| {
        let Some(server) = Server::start(flavor, 1, &[]).await else { return };
        let mut conn = server.connect().await;
        step(&mut conn, Step::ArmSource { instance: server.id(), acks: 1 }).await;
        assert_eq!(look(&mut conn).await.semi_sync.not_armed_for(1), None);
        let (timeout, none) = match flavor {
            Flavor::MariaDb => ("rpl_semi_sync_master_timeout", "rpl_semi_sync_master_wait_no_slave"),
            Flavor::MySql => ("rpl_semi_sync_source_timeout", "rpl_semi_sync_source_wait_no_replica"),
        };
        for set in [format!("{timeout}=1000"), format!("{none}=0")] {
            run(&mut conn, &format!("SET GLOBAL {set}")).await;
            let why = look(&mut conn).await.semi_sync.not_armed_for(1);
            assert!(why.is_some(), "{flavor}: {set}");
            step(&mut conn, Step::ArmSource { instance: server.id(), acks: 1 }).await;
            assert_eq!(look(&mut conn).await.semi_sync.not_armed_for(1), None, "{flavor}: {set}");
        }
    })
    .await;
}
