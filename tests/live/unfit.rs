//! A replica whose own settings leave rows out, pass over errors or keep everybody out: it is named beforehand, and when the primary dies the
//! other replica leads and has each acknowledged row.

use std::time::Duration;

use crate::lab::{Lab, SOON, now_us};
use crate::rejoin::other_primary;
use crate::{cluster, nothing_lost};

/// Where db2 does not acknowledge, writers wait until the dead primary's server is a replica.
const LONGEST_PAUSE: Duration = Duration::from_secs(6);

/// What makes db2 unfit.
#[derive(Clone, Copy)]
enum Unfit {
    /// A line of its configuration.
    File(&'static str),
    /// A statement, while it runs.
    Statement(&'static str),
}

#[test]
fn mariadb_a_replica_with_a_binary_log_filter_is_passed_over() {
    the_unfit_replica_is_passed_over("mariadb", Unfit::File("binlog_do_db = other"), "binlog_do_db = other");
}

#[test]
#[ignore = "the other family runs in the gate: scripts/test live-more"]
fn mysql_a_replica_with_a_binary_log_filter_is_passed_over() {
    the_unfit_replica_is_passed_over("mysql", Unfit::File("binlog_do_db = other"), "binlog_do_db = other");
}

#[test]
#[ignore = "the other family runs in the gate: scripts/test live-more"]
fn mariadb_a_replica_without_networking_is_passed_over() {
    the_unfit_replica_is_passed_over("mariadb", Unfit::File("skip_networking = ON"), "skip_networking = ON");
}

#[test]
#[ignore = "the other family runs in the gate: scripts/test live-more"]
fn mysql_a_replica_without_networking_is_passed_over() {
    the_unfit_replica_is_passed_over("mysql", Unfit::File("skip_networking = ON"), "skip_networking = ON");
}

#[test]
#[ignore = "the other family runs in the gate: scripts/test live-more"]
fn mariadb_a_replica_on_loopback_is_passed_over() {
    let setting = "bind_address = 127.0.0.1";
    the_unfit_replica_is_passed_over("mariadb", Unfit::File(setting), setting);
}

#[test]
#[ignore = "the other family runs in the gate: scripts/test live-more"]
fn mysql_a_replica_on_loopback_is_passed_over() {
    let setting = "bind_address = 127.0.0.1";
    the_unfit_replica_is_passed_over("mysql", Unfit::File(setting), setting);
}

#[test]
fn mariadb_a_replica_that_passes_over_errors_is_passed_over() {
    let statement = Unfit::Statement("SET GLOBAL slave_exec_mode = 'IDEMPOTENT'");
    the_unfit_replica_is_passed_over("mariadb", statement, "slave_exec_mode = IDEMPOTENT");
}

#[test]
#[ignore = "the other family runs in the gate: scripts/test live-more"]
fn mysql_a_replica_that_passes_over_errors_is_passed_over() {
    let statement = Unfit::Statement("SET GLOBAL replica_exec_mode = 'IDEMPOTENT'");
    the_unfit_replica_is_passed_over("mysql", statement, "replica_exec_mode = IDEMPOTENT");
}

#[test]
fn mysql_a_replica_in_offline_mode_is_passed_over() {
    let statement = Unfit::Statement("SET GLOBAL offline_mode = ON");
    the_unfit_replica_is_passed_over("mysql", statement, "offline_mode is ON");
}

fn the_unfit_replica_is_passed_over(flavor: &str, unfit: Unfit, named: &str) {
    let Some(mut lab) = cluster(flavor) else { return };
    match unfit {
        Unfit::File(line) => {
            lab.configure_server("db2", line);
            lab.run(&["kill9", "db2"]);
        }
        Unfit::Statement(statement) => drop(lab.sql("db2", statement)),
    }
    lab.wait("the setting is named, and db3 would lead", SOON, |lab| {
        let status = lab.status().unwrap_or_default();
        let word = |key: &str| status[key].as_str().unwrap_or_default().to_owned();
        word("sentence").contains("db2")
            && word("sentence").contains(named)
            && word("prospect").contains(": db3 would lead")
            && status["recovering"] == false
    });
    println!("{flavor}, {named}: {}", lab.status().unwrap()["prospect"]);
    let before = lab.count(1);
    lab.wait("writes beside it", SOON, |lab| lab.count(1) > before + 100);

    let fault = now_us();
    lab.run(&["kill9", "db1"]);
    assert_eq!(other_primary(&lab, "db1"), "db3", "{}", lab.log());
    lab.wait("writes on it", SOON, |lab| lab.acks(1).iter().any(|ack| ack.1 == 3));
    let gap = lab.longest_gap(1, fault);
    println!("{flavor}, {named}: no write for {} ms", gap.as_millis());
    assert!(gap < LONGEST_PAUSE, "no write for {gap:?}; {}", lab.log());
    lab.wait("the old primary follows", SOON, |lab| lab.source("db1").as_deref() == Some("db3"));
    let history = lab.run(&["ctl", "history", "--limit", "20"]);
    assert!(!history.contains("failover db1 -> db2"), "{history}");
    nothing_lost(&mut lab, "db3", fault, 1);
    // One that followed a filtered log would have each transaction, and lack its row.
    let sum = |lab: &Lab, host: &str| lab.sql(host, "CHECKSUM TABLE app.writes");
    lab.wait("the old primary has the same rows", SOON, |lab| sum(lab, "db1") == sum(lab, "db3"));
}
