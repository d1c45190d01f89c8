//! Disks that are full, on the primary and on a replica, and a candidate that hangs: two things wrong at once.

use std::time::Duration;

use crate::lab::{Lab, SOON, now_us};
use crate::{cluster_with, seconds};

#[test]
fn mariadb_a_full_disk_is_named_and_passed_over() {
    a_full_disk_is_named_and_passed_over("mariadb");
}

#[test]
#[ignore = "the other family runs in the gate: scripts/test live-more"]
fn mysql_a_full_disk_is_named_and_passed_over() {
    a_full_disk_is_named_and_passed_over("mysql");
}

fn a_full_disk_is_named_and_passed_over(flavor: &str) {
    let Some(mut lab) = cluster_with(flavor, &["--disk", "1G"]) else { return };
    let fault = now_us();
    let old = the_primarys_is_full(&lab);
    let found = lab.check(&lab.primary().unwrap(), fault, number(&old) as u32);
    unharmed(&found, Duration::from_millis(9_000), &lab);
    println!("{flavor}, the primary's disk full: {found}");
    lab.run(&["room", &old]);
    lab.wait("it is a healthy replica again", SOON, Lab::is_healthy);

    let (primary, replica) = (lab.primary().unwrap(), candidate(&lab));
    lab.run(&["full", &replica]);
    lab.wait("its disk is named", SOON, |lab| {
        lab.sentence().contains(&format!("{replica}: its disk is full"))
    });
    assert_ne!(candidate(&lab), replica, "{}", lab.run(&["ctl", "status"]));
    lab.run(&["ctl", "ack"]);
    lab.write(2, &["--rate", "200"]);
    lab.wait("writes beside a full replica", SOON, |lab| lab.acks(2).len() > 50);
    let fault = now_us();
    lab.run(&["kill9", &primary]);
    let third = leads(&lab, &[&primary, &replica]);
    lab.wait("writes on it", SOON, |lab| lab.acks(2).iter().any(|ack| ack.1 == number(&third)));
    seconds(2.0);
    let found = lab.check(&third, fault, number(&primary) as u32);
    // Its writers wait until the dead server is an acker again.
    unharmed(&found, Duration::from_millis(4_000), &lab);
    println!("{flavor}, a replica's disk full, the primary killed: {found}");
    lab.run(&["room", &replica]);
    lab.wait("its disk is no news", SOON, |lab| !lab.sentence().contains("its disk is full"));
}

/// Commits hang; the next one is not started on it before there is room.
fn the_primarys_is_full(lab: &Lab) -> String {
    let old = lab.primary().unwrap();
    lab.sql(&old, "CREATE TABLE app.filler (b LONGTEXT)");
    lab.run(&["full", &old]);
    // The writer's own rows are small: what fills a disk comes in bulk, and may be refused or wait.
    let bulk = "INSERT INTO app.filler SELECT REPEAT('x', 60000) FROM app.writes LIMIT 50";
    let mut filling = lab.spawn(&["sql", &old, bulk]);
    let next = leads(lab, &[&old]);
    filling.kill().ok();
    filling.wait().unwrap();
    lab.wait("writes on it", SOON, |lab| lab.acks(1).iter().any(|ack| ack.1 == number(&next)));
    lab.wait("the reason is told", SOON, |lab| lab.sentence().contains(&format!("{old}: its disk is full")));
    seconds(3.0);
    assert!(lab.sentence().contains("its server is not running"), "{}", lab.sentence());
    old
}

fn leads(lab: &Lab, not: &[&str]) -> String {
    lab.wait("another primary", SOON, |lab| lab.primary().is_some_and(|now| !not.contains(&now.as_str())));
    lab.primary().unwrap()
}

/// Who would lead if the primary died now.
fn candidate(lab: &Lab) -> String {
    let prospect = lab.status().unwrap()["prospect"].as_str().unwrap().to_owned();
    let named = prospect.split_once("now: ").and_then(|(_, rest)| rest.split_once(" would lead"));
    named.unwrap_or_else(|| panic!("{prospect}")).0.to_owned()
}

fn number(host: &str) -> u64 {
    host.trim_start_matches("db").parse().unwrap()
}

fn unharmed(found: &serde_json::Value, outage: Duration, lab: &Lab) {
    for wrong in ["lost", "duplicated", "split"] {
        assert_eq!(found[wrong], 0, "{found}; {}", lab.log());
    }
    let took = Duration::from_secs_f64(found["gap_ms"].as_f64().unwrap() / 1_000.0);
    assert!(took < outage, "no write for {took:?}; {}", lab.log());
}
