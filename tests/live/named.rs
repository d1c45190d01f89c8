//! What an operator is told of a cluster that still serves, and what is left as the operator wants it.

use std::time::Duration;

use crate::lab::{Lab, SOON, now_us};
use crate::{cluster, seconds};

#[test]
fn mariadb_what_is_wrong_is_named() {
    what_is_wrong_is_named("mariadb");
}

#[test]
fn mysql_what_is_wrong_is_named() {
    what_is_wrong_is_named("mysql");
}

fn what_is_wrong_is_named(flavor: &str) {
    let Some(mut lab) = cluster(flavor) else { return };
    let since = now_us();
    a_frozen_primary_stays_frozen(&lab);
    lost_packets_of_full_size_are_named(&lab);
    a_heartbeat_that_cannot_be_written_is_named(&lab);
    let leader = lab.primary().unwrap();
    let found = lab.check(&leader, since, 1);
    for wrong in ["lost", "duplicated"] {
        assert_eq!(found[wrong], 0, "{found}");
    }
}

/// C1: in "observe" nobody undoes an operator's `read_only`.
fn a_frozen_primary_stays_frozen(lab: &Lab) {
    lab.reconfigure("mode = \"auto\"\n", "mode = \"observe\"\n");
    lab.sql("db1", "SET GLOBAL read_only = 1");
    lab.wait("it is told", SOON, |lab| lab.sentence().contains("is the recorded primary and read-only"));
    seconds(4.0);
    assert_eq!(lab.sql("db1", "SELECT @@global.read_only"), "1");
    assert_eq!((lab.primary().as_deref(), lab.generation()), (Some("db1"), Some(1)), "{}", lab.log());
    let thawed = now_us();
    lab.reconfigure("mode = \"observe\"\n", "mode = \"auto\"\n");
    lab.wait("writes go on", SOON, |lab| lab.acks(1).iter().any(|ack| ack.0 > thawed));
}

/// C2: small packets arrive at the replicas and large ones do not, as with a wrong MTU on the way.
fn lost_packets_of_full_size_are_named(lab: &Lab) {
    lab.sql("db1", "CREATE TABLE app.large (n INT PRIMARY KEY, v MEDIUMTEXT)");
    let small_only = "add table inet lab; add chain inet lab input { type filter hook input priority -300; }; \
                      add rule inet lab input tcp sport 3306 meta length > 1400 drop";
    for replica in ["db2", "db3"] {
        lab.run(&["exec", replica, "nft", small_only]);
    }
    let mut waits = lab.spawn(&["sql", "db1", "INSERT INTO app.large VALUES (1, REPEAT('x', 200000))"]);
    lab.wait("it is named", SOON, |lab| lab.sentence().contains("(MTU"));
    assert_eq!((lab.primary().as_deref(), lab.generation()), (Some("db1"), Some(1)), "{}", lab.log());
    lab.run(&["heal"]);
    lab.wait("all is well", SOON, Lab::is_healthy);
    assert!(waits.wait().unwrap().success());
}

/// D17: the account of the write heartbeat is locked. It is named, and its age is no lag.
fn a_heartbeat_that_cannot_be_written_is_named(lab: &Lab) {
    lab.sql("db1", "ALTER USER mha_heartbeat@'%' ACCOUNT LOCK");
    let sessions = "SELECT id FROM information_schema.processlist WHERE user = 'mha_heartbeat'";
    for id in lab.sql("db1", sessions).lines() {
        lab.sql("db1", &format!("KILL {id}"));
    }
    lab.wait("it is named", SOON, |lab| lab.sentence().contains("its agent cannot write the heartbeat"));
    // Longer than the lag that a switchover allows.
    seconds(12.0);
    lab.run(&["ctl", "switchover", "--to", "db2", "--yes"]);
    lab.wait("db2 leads", SOON, |lab| lab.primary().as_deref() == Some("db2"));
    lab.sql("db2", "ALTER USER mha_heartbeat@'%' ACCOUNT UNLOCK");
    lab.wait("all is well", SOON, Lab::is_healthy);
    let gap = lab.longest_gap(1, now_us() - 3_000_000);
    assert!(gap < Duration::from_secs(3), "writes stand still: {gap:?}");
}
