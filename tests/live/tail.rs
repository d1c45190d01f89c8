//! The last row that an asynchronous primary acknowledged before it died. MariaDB's engine has it in memory for up to a second after the
//! client was told; a recovery that takes its server for a replica drops it from the binary log. Nobody else has it: it is kept, saved and shown.

use crate::cluster_with;
use crate::lab::{Lab, SOON};

#[test]
fn mariadb_the_last_acknowledged_row_outlives_its_server() {
    the_last_acknowledged_row_outlives_its_server("mariadb");
}

#[test]
fn mysql_the_last_acknowledged_row_outlives_its_server() {
    the_last_acknowledged_row_outlives_its_server("mysql");
}

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
