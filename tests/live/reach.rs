//! Replicas that could not replicate from each other, because their account is locked or a packet filter is in the way: that is told before
//! it is needed, and a dead primary is started where it is.

use std::time::Duration;

use crate::lab::{Lab, SOON, now_us};
use crate::{cluster, nothing_lost};

/// So long may it take to start a server in place where nobody else is tried.
const AT_ONCE: Duration = Duration::from_secs(10);
/// The same after each replica was tried once.
const AFTER_BOTH: Duration = Duration::from_secs(20);

#[test]
fn mariadb_with_a_locked_replication_account_the_primary_is_started_in_place() {
    with_a_locked_replication_account_the_primary_is_started_in_place("mariadb");
}

#[test]
#[ignore = "the other family runs in the gate: scripts/test live-more"]
fn mysql_with_a_locked_replication_account_the_primary_is_started_in_place() {
    with_a_locked_replication_account_the_primary_is_started_in_place("mysql");
}

fn with_a_locked_replication_account_the_primary_is_started_in_place(flavor: &str) {
    let Some(mut lab) = cluster(flavor) else { return };
    set_replication_account(&lab, "LOCK");
    logins_are_tested(&lab, "a receiver could not log in as mha_repl");
    let prospect = lab.status().unwrap()["prospect"].to_string();
    assert!(prospect.contains("cannot log in"), "{prospect}");
    let fault = now_us();
    lab.run(&["kill9", "db1"]);
    is_started_in_place(&lab, AT_ONCE);
    // Its replicas cannot log in there either: commits wait for them.
    lab.wait("the account is named", SOON, |lab| {
        let told = lab.sentence();
        told.contains("mha_repl") && told.contains("locked")
    });
    println!("{flavor}: {}", lab.sentence());
    set_replication_account(&lab, "UNLOCK");
    lab.wait("all are well again", SOON, Lab::is_healthy);
    nobody_else_was_tried(&lab);
    nothing_lost(&mut lab, "db1", fault, 1);
}

#[test]
#[ignore = "the other family runs in the gate: scripts/test live-more"]
fn mariadb_with_replicas_cut_from_each_other_the_primary_is_started_in_place() {
    with_replicas_cut_from_each_other_the_primary_is_started_in_place("mariadb");
}

#[test]
#[ignore = "the other family runs in the gate: scripts/test live-more"]
fn mysql_with_replicas_cut_from_each_other_the_primary_is_started_in_place() {
    with_replicas_cut_from_each_other_the_primary_is_started_in_place("mysql");
}

fn with_replicas_cut_from_each_other_the_primary_is_started_in_place(flavor: &str) {
    let Some(mut lab) = cluster(flavor) else { return };
    lab.run(&["port", "db2", "db3", "3306"]);
    lab.run(&["port", "db3", "db2", "3306"]);
    logins_are_tested(&lab, "a receiver could not connect");
    let prospect = lab.status().unwrap()["prospect"].to_string();
    assert!(prospect.contains("cannot reach"), "{prospect}");
    let fault = now_us();
    lab.run(&["kill9", "db1"]);
    is_started_in_place(&lab, AT_ONCE);
    lab.wait("writes on it", SOON, |lab| lab.acks(1).last().is_some_and(|ack| ack.0 > fault + 1_000_000));
    let gap = lab.longest_gap(1, fault);
    println!("{flavor}: no write for {} ms", gap.as_millis());
    assert!(gap < AT_ONCE, "no write for {gap:?}; {}", lab.log());
    nobody_else_was_tried(&lab);
    lab.run(&["heal"]);
    nothing_lost(&mut lab, "db1", fault, 1);
}

#[test]
fn mysql_a_failed_promotion_names_the_receivers_error() {
    a_failed_promotion_names_the_receivers_error("mysql");
}

/// The account is locked a moment before the primary dies: no test of a login can tell it beforehand.
fn a_failed_promotion_names_the_receivers_error(flavor: &str) {
    let Some(mut lab) = cluster(flavor) else { return };
    set_replication_account(&lab, "LOCK");
    let fault = now_us();
    lab.run(&["kill9", "db1"]);
    let history = |lab: &Lab| lab.run(&["ctl", "history", "--limit", "20"]);
    lab.wait("a promotion has failed", SOON, |lab| history(lab).contains("FAILED"));
    is_started_in_place(&lab, AFTER_BOTH);
    let told = history(&lab);
    println!("{flavor}: {told}");
    assert!(told.contains("locked"), "{told}");
    assert!(!told.contains("no answer within"), "{told}");
    for replica in ["db2", "db3"] {
        let tries = told.matches(&format!("failover db1 -> {replica}")).count();
        assert!(tries <= 1, "{replica} was tried {tries} times: {told}");
    }
    set_replication_account(&lab, "UNLOCK");
    lab.wait("all are well again", SOON, Lab::is_healthy);
    nothing_lost(&mut lab, "db1", fault, 1);
}

/// On each host by itself: no commit waits for an acknowledgement.
fn set_replication_account(lab: &Lab, state: &str) {
    for host in ["db1", "db2", "db3"] {
        lab.unlogged(host, &format!("ALTER USER mha_repl@'%' ACCOUNT {state}"));
    }
}

/// An agent tests logins once a minute, and when it has just started.
fn logins_are_tested(lab: &Lab, told: &str) {
    for replica in ["db2", "db3"] {
        lab.run(&["kill-agent", replica]);
        lab.run(&["start-agent", replica]);
    }
    lab.wait("the failed logins are told", SOON, |lab| {
        let sentence = lab.sentence();
        sentence.contains(told) && sentence.contains("db3 at db2") && sentence.contains("db2 at db3")
    });
}

fn is_started_in_place(lab: &Lab, limit: Duration) {
    let took = lab.wait("db1 runs and is open again", limit, |lab| {
        lab.attempt(&["sql", "db1", "SELECT @@read_only"]).1.trim() == "0"
    });
    println!("db1 was open again after {} ms", took.as_millis());
}

fn nobody_else_was_tried(lab: &Lab) {
    let told = lab.run(&["ctl", "history", "--limit", "20"]);
    assert!(!told.contains("failover db1 -> "), "{told}");
    assert_eq!((lab.primary().as_deref(), lab.generation()), (Some("db1"), Some(1)), "{}", lab.log());
}
