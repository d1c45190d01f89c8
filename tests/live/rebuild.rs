//! Servers that replication cannot bring back: their data is replaced by a copy of a healthy one's, while clients write, while
//! managers and primaries die.

use std::os::unix::fs::MetadataExt;
use std::time::Instant;

use crate::lab::{Lab, SOON, now_us};
use crate::rejoin::{STRANGER, extra, gone, other_primary};
use crate::{cluster, seconds};

#[test]
fn mariadb_a_copy_brings_back_what_no_log_can() {
    a_copy_brings_back_what_no_log_can("mariadb");
}

#[test]
fn mysql_a_copy_brings_back_what_no_log_can() {
    a_copy_brings_back_what_no_log_can("mysql");
}

fn a_copy_brings_back_what_no_log_can(flavor: &str) {
    let Some(mut lab) = cluster(flavor) else { return };
    let fault = now_us();
    away_until_purged(&lab, "db3");
    wait_parked(&lab, "db3");
    let why = lab.sentence();
    assert!(why.contains("purged") || why.contains("do not hold any more"), "{why}");
    assert!(why.contains("--how rebuild"), "{why}");

    // From the replica, not from the primary; and shown before.
    let shown = lab.run(&["ctl", "rejoin", "db3", "--how", "rebuild", "--dry-run"]);
    assert!(
        shown.contains("rebuild of db3 from db2") && shown.contains("takes the place of db3's data"),
        "{shown}"
    );
    lab.run(&["ctl", "rejoin", "db3", "--how", "rebuild", "--yes", "--detach"]);
    let said = lab.run(&["ctl", "abort"]);
    assert!(said.contains("called off, and db3 is parked"), "{said}");
    wait_parked(&lab, "db3");
    lab.wait("nothing runs", SOON, |lab| !lab.status().unwrap().to_string().contains("\"copying\""));
    let began = Instant::now();
    lab.run(&["ctl", "rejoin", "db3", "--how", "rebuild", "--yes", "--detach"]);
    // Its manager dies in the middle: the next one goes on with what the agent says.
    lab.run(&["kill-manager"]);
    seconds(0.5);
    lab.run(&["start-manager"]);
    lab.wait("rebuilt, and a healthy replica", SOON, |lab| lab.is_healthy() && settled(lab, "db3"));
    println!("{flavor}: rebuilt in {} ms, its manager killed meanwhile", began.elapsed().as_millis());

    // A server with rows of its own and a change of schema: saved, then replaced.
    let old = lab.primary().unwrap();
    gone(&lab, &old);
    let second = other_primary(&lab, &old);
    extra(
        &lab,
        &old,
        &format!(
            "INSERT INTO app.writes VALUES ({STRANGER}, 1, NOW(6), 9);\nALTER TABLE app.writes COMMENT='its own';\n"
        ),
    );
    lab.run(&["start-agent", &old]);
    wait_parked(&lab, &old);
    let began = Instant::now();
    lab.run(&["ctl", "rejoin", &old, "--how", "rebuild", "--yes", "--detach"]);
    // Its agent dies while the copy takes the place of the data, or just after: the next one ends it.
    lab.wait("the copy takes its place", SOON, takes_its_place);
    lab.run(&["kill-agent", &old]);
    lab.run(&["start-agent", &old]);
    lab.wait("rebuilt after a crash", SOON, |lab| lab.is_healthy() && settled(lab, &old));
    println!("{flavor}: rebuilt with transactions of its own in {} ms", began.elapsed().as_millis());
    let saved = std::fs::read_dir(lab.dir.join(&old).join("agent/extra")).unwrap();
    let names: Vec<String> =
        saved.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    assert!(names.iter().any(|name| name.ends_with(".binlog")), "{names:?}");
    let strangers =
        |host: &str| lab.sql(host, &format!("SELECT COUNT(*) FROM app.writes WHERE client >= {STRANGER}"));
    for host in ["db1", "db2", "db3"] {
        assert_eq!(strangers(host), "0", "{host}");
    }

    // The primary dies while a copy is made of a replica: the failover does not wait, whoever leads, and in the end all are well.
    lab.run(&["ctl", "ack"]);
    let third = ["db1", "db2", "db3"].into_iter().find(|host| *host != old && *host != second).unwrap();
    dies_during_a_copy(&lab, &second, third, &old);
    lab.run(&["ctl", "ack"]);
    dies_during_a_copy(&lab, &old, &second, &second);
    lab.run(&["ctl", "ack"]);
    let last = lost_during_an_exchange(&lab, &second, third);
    let found = lab.check(&last, fault, 1);
    for wrong in ["lost", "duplicated"] {
        assert_eq!(found[wrong], 0, "{found}");
    }
    let sum = |host: &str| lab.sql(host, "CHECKSUM TABLE app.writes");
    lab.wait("all have the same rows", SOON, |_| sum("db1") == sum("db2") && sum("db2") == sum("db3"));
}

/// `primary` is killed while `rebuilt` is made a copy, and `heir`, who alone received the last transactions, leads: the one
/// that gives the copy, or the one it is made for.
fn dies_during_a_copy(lab: &Lab, primary: &str, rebuilt: &str, heir: &str) {
    let other = ["db1", "db2", "db3"].into_iter().find(|host| ![primary, heir].contains(host)).unwrap();
    let was = data(lab, rebuilt);
    lab.run(&["ctl", "rejoin", rebuilt, "--how", "rebuild", "--yes", "--detach"]);
    lab.sql(other, "STOP REPLICA IO_THREAD");
    // Transactions that only the heir has.
    let before = lab.acks(1).len();
    lab.wait("a few writes", SOON, |lab| lab.acks(1).len() > before + 5);
    let killed = Instant::now();
    lab.run(&["kill9", primary]);
    assert_eq!(other_primary(lab, primary), heir);
    println!("{heir} leads {} ms after a crash during a copy for {rebuilt}", killed.elapsed().as_millis());
    assert!(killed.elapsed().as_secs() < 10);
    // An operator's word stands until it is done, unless its server leads.
    lab.wait("all three well", SOON, |lab| all_well(lab) && (heir == rebuilt) == (data(lab, rebuilt) == was));
}

/// The primary's host is lost while a copy takes the place of the other replica's data: what that one had acknowledged is with the third
/// server, which leads.
fn lost_during_an_exchange(lab: &Lab, primary: &str, rebuilt: &str) -> String {
    lab.run(&["ctl", "rejoin", rebuilt, "--how", "rebuild", "--yes", "--detach"]);
    lab.wait("the copy takes its place", SOON, takes_its_place);
    let lost = Instant::now();
    lab.run(&["freeze", primary]);
    let heir = other_primary(lab, primary);
    println!(
        "{heir} leads {} ms after its host was lost, {rebuilt} being exchanged",
        lost.elapsed().as_millis()
    );
    assert_ne!(heir, rebuilt);
    lab.run(&["thaw", primary]);
    lab.wait("all three well again", SOON, all_well);
    heir
}

fn all_well(lab: &Lab) -> bool {
    lab.is_healthy() && ["db1", "db2", "db3"].iter().all(|host| settled(lab, host))
}

fn takes_its_place(lab: &Lab) -> bool {
    lab.status().is_some_and(|status| status.to_string().contains("\"phase\":\"exchang"))
}

/// The data directory, as told from one put in its place.
fn data(lab: &Lab, host: &str) -> u64 {
    std::fs::metadata(lab.dir.join(host).join("data")).unwrap().ino()
}

/// Down for so long that nobody's logs hold any more what it lacks.
fn away_until_purged(lab: &Lab, host: &str) {
    lab.run(&["kill-agent", host]);
    lab.run(&["kill9", host]);
    seconds(1.0);
    for other in ["db1", "db2", "db3"].into_iter().filter(|other| *other != host) {
        lab.sql(other, "FLUSH BINARY LOGS");
    }
    seconds(1.0);
    for other in ["db1", "db2", "db3"].into_iter().filter(|other| *other != host) {
        let logs = lab.sql(other, "SHOW BINARY LOGS");
        let newest = logs.lines().last().and_then(|line| line.split('\t').next()).unwrap();
        lab.sql(other, &format!("PURGE BINARY LOGS TO '{newest}'"));
    }
    lab.run(&["start-agent", host]);
}

fn wait_parked(lab: &Lab, host: &str) {
    lab.wait("parked", SOON, |lab| {
        lab.status().is_some_and(|status| {
            status["parked"].as_array().is_some_and(|parked| parked.iter().any(|of| of["instance"] == host))
        })
    });
}

/// It replicates, and nothing of its rebuild is left.
fn settled(lab: &Lab, host: &str) -> bool {
    let Some(status) = lab.status() else { return false };
    let member = status["members"].as_array().unwrap().iter().find(|of| of["instance"] == host).unwrap();
    member["job"].is_null() && !lab.dir.join(host).join("data.mha").exists()
}
