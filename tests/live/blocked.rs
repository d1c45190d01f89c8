//! A manager that dies in the write block of a switchover and does not come back: the old primary's agent takes its server back.

use std::fs;
use std::time::Duration;

use crate::lab::{Lab, SOON, now_us};
use crate::traffic::install;
use crate::{Session, cluster};

/// Holds the switchover before its block until the test says so.
pub(crate) const PROGRAM: &str = r#"#!/bin/sh
cd "$(dirname "$0")" || exit 1
grep -q pause || exit 0
touch paused
for n in $(seq 40); do [ -e go ] && exit 0; sleep 0.1; done
exit 1
"#;

#[test]
fn mariadb_a_manager_that_dies_in_the_block_leaves_nobody_blocked() {
    a_manager_that_dies_in_the_block_leaves_nobody_blocked("mariadb");
}

#[test]
fn mysql_a_manager_that_dies_in_the_block_leaves_nobody_blocked() {
    a_manager_that_dies_in_the_block_leaves_nobody_blocked("mysql");
}

fn a_manager_that_dies_in_the_block_leaves_nobody_blocked(flavor: &str) {
    let Some(mut lab) = cluster(flavor) else { return };
    let place = lab.dir.join("mgr/traffic");
    install(&lab, &place, PROGRAM);
    let mut asking = lab.spawn(&["ctl", "switchover", "--to", "db2", "--yes"]);
    lab.wait("everything before the block is done", SOON, |_| place.join("paused").exists());
    // A target that acknowledges and cannot apply keeps the block open for its whole time.
    let held = Session::open(&lab, "db2", "LOCK TABLES app.writes READ");
    let waits =
        "SELECT COUNT(*) > 0 FROM information_schema.processlist WHERE state LIKE 'Waiting for table%lock'";
    lab.wait("db2 cannot apply", SOON, |lab| lab.sql("db2", waits) == "1");
    let fault = now_us();
    fs::write(place.join("go"), "").unwrap();
    lab.wait("writers are blocked", SOON, |lab| lab.sql("db1", "SELECT @@read_only") == "1");
    lab.run(&["kill-manager"]);
    held.close();
    asking.wait().unwrap();
    let serves = |lab: &Lab| lab.acks(1).iter().any(|ack| ack.0 > fault + 1_000_000);
    lab.wait("writes go on without a manager", SOON, serves);
    let gap = lab.longest_gap(1, fault);
    assert!(gap < Duration::from_secs(7), "no write for {gap:?}");
    let running = if flavor == "mysql" { "REPLICA" } else { "SLAVE" };
    for replica in ["db2", "db3"] {
        lab.wait("the replicas are its own again", SOON, |lab| {
            let seen = lab.sql(replica, &format!("SHOW {running} STATUS"));
            seen.contains("db1") && !seen.contains("db2")
        });
    }

    lab.run(&["start-manager"]);
    lab.wait("a manager finds all well", SOON, |lab| {
        lab.is_healthy() && lab.primary().as_deref() == Some("db1")
    });
    assert_eq!(lab.generation(), Some(3), "{}", lab.log());
    let history = lab.run(&["ctl", "history", "--limit", "1"]);
    assert!(history.contains("taken back"), "{history}");
    println!("{flavor}, manager dead in the block: no write for {} ms", gap.as_millis());
    let found = lab.check("db1", fault, 2);
    for wrong in ["lost", "duplicated", "split"] {
        assert_eq!(found[wrong], 0, "{found}");
    }

    // And the next one goes through.
    fs::remove_file(place.join("paused")).unwrap();
    lab.run(&["ctl", "switchover", "--to", "db2", "--yes"]);
    lab.wait("db2 leads", SOON, |lab| lab.is_healthy() && lab.primary().as_deref() == Some("db2"));
}
