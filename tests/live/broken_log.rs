//! A server whose binary log is not any more what it was, because somebody reset it or took a file away: that is named, it is not made to
//! lead others that need what is gone, and no acknowledged row is lost.

use std::time::Duration;

use crate::lab::{Lab, SOON, now_us};
use crate::rejoin::other_primary;
use crate::{cluster, cluster_with, nothing_lost, seconds};

#[test]
#[ignore = "the other family runs in the gate: scripts/test live-more"]
fn mariadb_a_replica_whose_log_was_reset_is_passed_over() {
    a_replica_whose_log_was_reset_is_passed_over("mariadb", "RESET MASTER");
}

#[test]
fn mysql_a_replica_whose_log_was_reset_is_passed_over() {
    let reset = "STOP REPLICA; RESET BINARY LOGS AND GTIDS; START REPLICA";
    a_replica_whose_log_was_reset_is_passed_over("mysql", reset);
}

/// First db3 lacks what db2's log held, and the primary's host is lost; then db3 has everything, and the primary's server dies.
fn a_replica_whose_log_was_reset_is_passed_over(flavor: &str, reset: &str) {
    let Some(mut lab) = cluster(flavor) else { return };
    let begun = now_us();
    lab.run(&["cut", "db1", "db3"]);
    let before = lab.count(1);
    lab.wait("rows that db3 lacks", SOON, |lab| lab.count(1) > before + 100);
    lab.sql("db2", reset);
    lab.wait("the reset is named", SOON, |lab| lab.sentence().contains("db2 has forgotten its own history"));
    lab.run(&["down-link", "db1"]);
    lab.wait("nobody leads, for that reason", SOON, |lab| {
        let told = lab.sentence();
        told.contains("nothing is done") && told.contains("has forgotten its own history")
    });
    println!("{flavor}: {}", lab.sentence());
    seconds(3.0);
    assert_eq!((lab.primary().as_deref(), lab.generation()), (Some("db1"), Some(1)), "{}", lab.log());
    let history = lab.run(&["ctl", "history", "--limit", "20"]);
    assert!(!history.contains("failover db1 -> "), "{history}");

    lab.run(&["heal"]);
    lab.wait("db1 serves again, and db3 follows", SOON, |lab| {
        let prospect = lab.status().unwrap_or_default()["prospect"].to_string();
        prospect.contains(": db3 would lead") && lab.source("db3").as_deref() == Some("db1")
    });
    lab.run(&["kill9", "db1"]);
    let killed = now_us();
    assert_eq!(other_primary(&lab, "db1"), "db3", "{}", lab.log());
    lab.wait("writes on it", SOON, |lab| lab.acks(1).iter().any(|ack| ack.1 == 3));
    let gap = lab.longest_gap(1, killed);
    println!("{flavor}: no write for {} ms", gap.as_millis());
    assert!(gap < Duration::from_secs(10), "no write for {gap:?}; {}", lab.log());
    nothing_lost(&mut lab, "db3", begun, 1);
}

#[test]
fn mariadb_a_primary_whose_log_was_reset_is_not_called_healthy() {
    a_primary_whose_log_was_reset_is_not_called_healthy("mariadb", "RESET MASTER");
}

#[test]
#[ignore = "the other family runs in the gate: scripts/test live-more"]
fn mysql_a_primary_whose_log_was_reset_is_not_called_healthy() {
    a_primary_whose_log_was_reset_is_not_called_healthy("mysql", "RESET BINARY LOGS AND GTIDS");
}

/// Its replicas skip rows whose numbers they think they have, or receive nothing any more.
fn a_primary_whose_log_was_reset_is_not_called_healthy(flavor: &str, reset: &str) {
    let Some(lab) = cluster_with(flavor, &["--durability", "async"]) else { return };
    // A reset shows where a look finds less than the one before it did.
    lab.wait("more rows than are written between two looks", SOON, |lab| lab.count(1) > 800);
    lab.sql("db1", reset);
    let named = |lab: &Lab| lab.sentence().contains("db1 has forgotten its own history");
    lab.wait("the reset is named", SOON, named);
    println!("{flavor}: {}", lab.sentence());
    for _ in 0..40 {
        let status = lab.status().unwrap();
        assert_ne!(status["verdict"], "healthy", "{status}");
        let prospect = status["prospect"].as_str().unwrap();
        assert!(!prospect.contains("up to 0 transactions"), "{prospect}");
        seconds(0.1);
    }
    assert!(named(&lab), "{}", lab.sentence());
    assert_eq!((lab.primary().as_deref(), lab.generation()), (Some("db1"), Some(1)), "{}", lab.log());
}

#[test]
fn mariadb_a_log_file_taken_away_is_named_and_the_candidate_leads_once_it_is_back() {
    a_log_file_taken_away_is_named_and_the_candidate_leads_once_it_is_back("mariadb");
}

#[test]
#[ignore = "the other family runs in the gate: scripts/test live-more"]
fn mysql_a_log_file_taken_away_is_named_and_the_candidate_leads_once_it_is_back() {
    a_log_file_taken_away_is_named_and_the_candidate_leads_once_it_is_back("mysql");
}

/// What db3 lacks is in a file of db2's log that somebody compressed, and the primary's host is lost.
fn a_log_file_taken_away_is_named_and_the_candidate_leads_once_it_is_back(flavor: &str) {
    let Some(mut lab) = cluster(flavor) else { return };
    lab.run(&["cut", "db1", "db3"]);
    lab.sql("db2", "FLUSH LOCAL BINARY LOGS");
    let before = lab.count(1);
    lab.wait("rows that db3 lacks", SOON, |lab| lab.count(1) > before + 100);
    lab.sql("db2", "FLUSH LOCAL BINARY LOGS");
    let listed = lab.sql("db2", "SHOW BINARY LOGS");
    let files: Vec<&str> = listed.lines().filter_map(|line| line.split('\t').next()).collect();
    let file = files[files.len() - 2].to_owned();
    let path = lab.dir.join("db2/data").join(&file).display().to_string();
    lab.run(&["exec", "db2", "gzip", &path]);
    let named = |lab: &Lab| lab.sentence().contains(&format!("{file} is missing"));
    lab.wait("the file is named", SOON, named);
    let fault = now_us();
    lab.run(&["down-link", "db1"]);
    lab.wait("nobody leads, for that reason", SOON, |lab| {
        lab.sentence().contains("nothing is done") && named(lab)
    });
    println!("{flavor}: {}", lab.sentence());
    seconds(3.0);
    assert_eq!((lab.primary().as_deref(), lab.generation()), (Some("db1"), Some(1)), "{}", lab.log());
    let history = lab.run(&["ctl", "history", "--limit", "20"]);
    assert!(!history.contains("failover db1 -> "), "{history}");

    lab.run(&["exec", "db2", "gunzip", &format!("{path}.gz")]);
    lab.wait("db2 leads", SOON, |lab| lab.primary().as_deref() == Some("db2"));
    lab.wait("writes on it", SOON, |lab| lab.acks(1).iter().any(|ack| ack.1 == 2));
    lab.run(&["heal"]);
    lab.wait("all are well again", SOON, Lab::is_healthy);
    nothing_lost(&mut lab, "db2", fault, 1);
}
