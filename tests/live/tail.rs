//! The end of a dead primary's binary log. MariaDB's engine has the last row in memory for up to a second after the client was told; a
//! recovery that takes its server for a replica drops it from the log.

use std::process::Child;

use crate::lab::{Lab, SOON};
use crate::{cluster, cluster_with, seconds};

#[test]
fn mariadb_the_last_acknowledged_row_outlives_its_server() {
    the_last_acknowledged_row_outlives_its_server("mariadb");
}

#[test]
fn mysql_the_last_acknowledged_row_outlives_its_server() {
    the_last_acknowledged_row_outlives_its_server("mysql");
}

/// The primary is asynchronous, so nobody else has it: it is kept, saved and shown.
fn the_last_acknowledged_row_outlives_its_server(flavor: &str) {
    let Some(lab) = cluster_with(flavor, &["--durability", "async"]) else { return };
    for other in ["db2", "db3", "client"] {
        lab.run(&["cut", "db1", other]);
    }
    // No heartbeat of its agent's makes the row durable, and nobody reads the dead server's log.
    lab.run(&["kill-agent", "db1"]);
    lab.sql("db1", "SET GLOBAL innodb_flush_log_at_timeout = 2700");
    lab.sql("db1", "INSERT INTO app.writes VALUES (9000, 1, NOW(6), 1)");
    lab.run(&["kill9", "db1"]);
    lab.wait("another leads", SOON * 2, |lab| lab.primary().is_some_and(|primary| primary != "db1"));
    lab.run(&["heal"]);
    lab.run(&["start-agent", "db1"]);
    lab.wait("db1 is parked with what only it has", SOON * 2, |lab| {
        lab.sentence().contains("db1 is parked: it has transactions the primary lacks")
    });
    let (_, shown) = lab.attempt(&["ctl", "status"]);
    assert!(shown.contains("inserted), saved in"), "{shown}");
    assert_eq!(lab.sql("db1", "SELECT COUNT(*) FROM app.writes WHERE client = 9000").trim(), "1", "{shown}");
    let (done, why) = lab.attempt(&["ctl", "rejoin", "db1", "--yes"]);
    assert!(!done && why.contains("does not come back that way"), "{why}");
    lab.run(&["ctl", "rejoin", "db1", "--how", "flashback", "--yes"]);
    lab.wait("all are well", SOON * 2, Lab::is_healthy);
}

/// Nothing of it was acknowledged; but its recovery cannot take a row of a MyISAM table back, and would not start.
#[test]
fn mariadb_a_tail_that_cannot_be_dropped_keeps_no_server_down() {
    let Some(lab) = cluster("mariadb") else { return };
    lab.sql("db1", "CREATE TABLE app.plain (n INT) ENGINE = MyISAM");
    // Two commits at most are in the log before the first is acknowledged: these two.
    lab.run(&["cut", "db1", "client"]);
    lab.run(&["kill-agent", "db1"]);
    seconds(1.0);
    for other in ["db2", "db3"] {
        lab.run(&["cut", "db1", other]);
    }
    lab.sql("db1", "SET GLOBAL innodb_flush_log_at_timeout = 2700");
    let waits = |row: &str| -> Child {
        let child = lab.spawn(&["sql", "db1", row]);
        seconds(0.3);
        child
    };
    let mut waiting = [
        waits("INSERT INTO app.writes VALUES (9000, 1, NOW(6), 1)"),
        waits("INSERT INTO app.plain VALUES (1)"),
    ];
    lab.run(&["kill9", "db1"]);
    waiting.iter_mut().for_each(|child| drop(child.wait()));
    lab.wait("another leads", SOON * 2, |lab| lab.primary().is_some_and(|primary| primary != "db1"));
    lab.run(&["heal"]);
    lab.run(&["start-agent", "db1"]);
    lab.wait("db1 runs, and is back or parked", SOON * 2, |lab| {
        lab.sentence().contains("db1 is parked: it has transactions the primary lacks") || lab.is_healthy()
    });
    let log = std::fs::read_to_string(lab.dir.join("db1/run/error.log")).unwrap();
    assert!(log.contains("Cannot truncate the binary log"), "{}: {log}", lab.sentence());
    println!("mariadb: {}", lab.sentence());
}
