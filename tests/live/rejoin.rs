//! Old primaries that return with transactions nobody else has: what a crash leaves, thousands written on the side, changes of
//! schemas. They come back by themselves with the primary's rows, or are parked with everything saved.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use crate::lab::{Lab, SOON, now_us};
use crate::{Session, cluster, seconds};

/// So many transactions of its own an old primary returns with.
const MANY: usize = 10_000;
/// Rows of extra transactions have this client's number.
pub(super) const STRANGER: u32 = 9_000;

#[test]
fn mariadb_a_returned_primarys_own_transactions() {
    a_returned_primarys_own_transactions("mariadb");
}

#[test]
fn mysql_a_returned_primarys_own_transactions() {
    a_returned_primarys_own_transactions("mysql");
}

fn a_returned_primarys_own_transactions(flavor: &str) {
    let Some(mut lab) = cluster(flavor) else { return };
    let fault = now_us();
    lab.write(100, &["--connections", "32", "--rate", "320", "--statement-timeout-ms", "30000"]);
    lab.wait("writes of all 32", SOON, |lab| lab.count(100) > 300);

    // All 32 wait for an acknowledgement that cannot come, and nobody can read the log of the dead server.
    lab.run(&["cut", "db1", "db2"]);
    lab.run(&["cut", "db1", "db3"]);
    seconds(0.5);
    lab.run(&["kill-agent", "db1"]);
    lab.run(&["kill9", "db1"]);
    let primary = other_primary(&lab, "db1");
    // Not before: its kernel would still deliver what the server had sent.
    lab.run(&["heal"]);
    let back = returns(&lab, "db1");
    let told = lab.run(&["ctl", "history", "--limit", "5"]);
    // MariaDB drops at its start as a replica what was never acknowledged (S7); MySQL keeps it (S6).
    assert_eq!(told.contains("db1 is set back"), flavor == "mysql", "{told}");
    println!("{flavor}, 32 connections: a replica again {} ms after its agent's start", back.as_millis());

    for (number, many) in [(1, 1), (2, MANY)] {
        let old = lab.primary().unwrap();
        lab.run(&["ctl", "ack"]);
        gone(&lab, &old);
        other_primary(&lab, &old);
        let mut text = String::new();
        for row in 0..many {
            writeln!(text, "INSERT INTO app.writes VALUES ({}, {row}, NOW(6), 9);", STRANGER + number)
                .unwrap();
        }
        text.push_str("UPDATE mha.heartbeat SET generation=99;\n");
        extra(&lab, &old, &text);
        let back = returns(&lab, &old);
        let told = lab.run(&["ctl", "history", "--limit", "3"]);
        // Beside them what its clients waited for when it died.
        let inserted =
            told.split("app.writes: ").nth(1).and_then(|text| text.split(' ').next()?.parse().ok());
        assert!(told.contains("is set back") && inserted.is_some_and(|rows: usize| rows >= many), "{told}");
        println!(
            "{flavor}, {many} extra transaction(s): a replica again {} ms after its agent's start",
            back.as_millis()
        );
    }

    let old = lab.primary().unwrap();
    lab.run(&["ctl", "ack"]);
    gone(&lab, &old);
    let last = other_primary(&lab, &old);
    extra(
        &lab,
        &old,
        &format!(
            "INSERT INTO app.writes VALUES ({STRANGER}, 1, NOW(6), 9);\nALTER TABLE app.writes COMMENT='its own';\n"
        ),
    );
    lab.run(&["start-agent", &old]);
    parked_with_dossier(&lab, &old);

    let rows =
        |host: &str| lab.sql(host, &format!("SELECT COUNT(*) FROM app.writes WHERE client >= {STRANGER}"));
    let third = ["db1", "db2", "db3"].into_iter().find(|host| *host != old && *host != last).unwrap();
    assert_eq!((rows(&last), rows(third), rows(&old)), ("0".into(), "0".into(), "1".into()));
    let found = lab.check(&last, fault, 1);
    for wrong in ["lost", "duplicated"] {
        assert_eq!(found[wrong], 0, "{found}");
    }
    let sum = |host: &str| lab.sql(host, "CHECKSUM TABLE app.writes");
    lab.wait("both have the same rows", SOON, |_| sum(&last) == sum(third));
    assert_ne!(primary, "db1");
}

#[test]
fn mysql_two_failovers_in_a_row_under_load_end_healthy() {
    let Some(mut lab) = cluster("mysql") else { return };
    let fault = now_us();
    lab.write(100, &["--connections", "32", "--rate", "320", "--statement-timeout-ms", "30000"]);
    lab.wait("writes of all 32", SOON, |lab| lab.count(100) > 300);
    lab.run(&["kill9", "db1"]);
    let second = other_primary(&lab, "db1");
    let before = lab.count(100);
    lab.wait("writes on the second", SOON, |lab| lab.count(100) > before + 100);
    lab.run(&["kill9", &second]);
    let third = other_primary(&lab, &second);
    let healed = lab.wait("all three well", SOON, Lab::is_healthy);
    println!("two failovers in a row: healthy {} ms after the second", healed.as_millis());
    let found = lab.check(&third, fault, 1);
    for wrong in ["lost", "duplicated"] {
        assert_eq!(found[wrong], 0, "{found}");
    }
    let sum = |host: &str| lab.sql(host, "CHECKSUM TABLE app.writes");
    lab.wait("all have the same rows", SOON, |_| sum("db1") == sum("db2") && sum("db2") == sum("db3"));
}

/// Server and agent of a host end at once, when the others could go on without them.
pub(super) fn gone(lab: &Lab, host: &str) {
    lab.wait("somebody could lead instead", SOON, |lab| {
        lab.status().is_some_and(|status| {
            status["prospect"].as_str().is_some_and(|prospect| !prospect.contains("nobody would lead"))
        })
    });
    lab.run(&["kill-agent", host]);
    lab.run(&["kill9", host]);
}

pub(super) fn other_primary(lab: &Lab, old: &str) -> String {
    lab.wait("another primary", SOON, |lab| {
        lab.primary().is_some_and(|primary| primary != old) && lab.sentence().contains(" primary")
    });
    let primary = lab.primary().unwrap();
    lab.wait("it is writable", SOON, |lab| lab.sql(&primary, "SELECT @@read_only") == "0");
    primary
}

/// Starts the agent and waits until its server is a replica and all is well; how long that took.
fn returns(lab: &Lab, host: &str) -> Duration {
    let began = Instant::now();
    lab.run(&["start-agent", host]);
    lab.wait("a healthy replica again", SOON, |lab| {
        lab.is_healthy() && lab.attempt(&["sql", host, "SELECT @@read_only"]).1.trim() == "1"
    });
    began.elapsed()
}

/// Writes on a dead primary's server while neither its agent nor a client is there.
pub(super) fn extra(lab: &Lab, host: &str, statements: &str) {
    lab.run(&["server-start", host]);
    lab.wait("it runs", SOON, |lab| lab.attempt(&["sql", host, "SELECT 1"]).0);
    let fast =
        "SET GLOBAL read_only=0; SET GLOBAL sync_binlog=0; SET GLOBAL innodb_flush_log_at_trx_commit=2;\n";
    let closed = if lab.run(&["env"]).contains("FLAVOR=mysql") { "super_read_only" } else { "read_only" };
    let slow = format!(
        "SET GLOBAL sync_binlog=1; SET GLOBAL innodb_flush_log_at_trx_commit=1; SET GLOBAL {closed}=1"
    );
    Session::open(lab, host, &[fast, statements, &slow].concat()).close();
}

/// Parked, with what it has saved and shown, and an unpark that says what to do instead.
pub(super) fn parked_with_dossier(lab: &Lab, host: &str) {
    lab.wait("parked", SOON, |lab| {
        lab.status()
            .is_some_and(|status| status["parked"].as_array().is_some_and(|parked| !parked.is_empty()))
    });
    let told = lab.sentence();
    assert!(told.contains("ALTER TABLE") && told.contains("saved in"), "{told}");
    // As JSON: on a screen only the first of those are shown that the crash left beside them.
    let (_, shown) = lab.attempt(&["ctl", "rejoin", host, "--how", "flashback", "--dry-run", "--json"]);
    assert!(shown.contains("ALTER TABLE app.writes") && shown.contains("\"9000\""), "{shown}");
    // Refused at once, or when both servers were looked at.
    lab.wait("unpark says what to do instead", SOON, |lab| {
        let (done, said) = lab.attempt(&["ctl", "unpark", host]);
        assert!(!done, "{said}");
        said.contains("mhactl rejoin")
    });
    let saved = std::fs::read_dir(lab.dir.join(host).join("agent/extra")).unwrap();
    let names: Vec<String> =
        saved.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    assert!(names.iter().any(|name| name.ends_with(".binlog")), "{names:?}");
}

#[test]
fn mariadb_a_server_whose_file_switches_semi_sync_on_comes_back() {
    a_server_whose_file_switches_semi_sync_on_comes_back("mariadb", "rpl_semi_sync_master_enabled");
}

#[test]
fn mysql_a_server_whose_file_switches_semi_sync_on_comes_back() {
    a_server_whose_file_switches_semi_sync_on_comes_back("mysql", "rpl_semi_sync_source_enabled");
}

/// As the vendors' manuals advise. A server that comes up like that has never led, and nobody waits there.
fn a_server_whose_file_switches_semi_sync_on_comes_back(flavor: &str, variable: &str) {
    let Some(mut lab) = cluster(flavor) else { return };
    for host in ["db1", "db2", "db3"] {
        let file = lab.dir.join(host).join("server.cnf");
        let text = std::fs::read_to_string(&file).unwrap();
        // The last one counts.
        std::fs::write(&file, format!("{text}\n[mysqld]\n{variable} = ON\n")).unwrap();
    }
    let fault = now_us();
    lab.run(&["kill9", "db1"]);
    let primary = other_primary(&lab, "db1");
    lab.wait("the old primary follows, all are well", SOON, Lab::is_healthy);
    let replica = if primary == "db2" { "db3" } else { "db2" };
    lab.run(&["kill9", replica]);
    lab.wait("so does a replica that died", SOON, |lab| lab.source(replica).as_ref() == Some(&primary));
    lab.wait("all are well again", SOON, Lab::is_healthy);
    let told = lab.run(&["ctl", "history", "--limit", "50"]);
    let restarts = told.lines().filter(|line| line.contains("its sessions may wait")).count();
    assert!(restarts <= 1, "{restarts} restarts:\n{told}");
    let told = lab.check(&primary, fault, 1);
    assert_eq!((&told["lost"], &told["split"]), (&0.into(), &0.into()), "{told}");
}
