//! The server's unit is to be stopped, and its agent is killed while another is being made to lead.

use std::fs;
use std::time::Duration;

use crate::blocked::PROGRAM;
use crate::cluster;
use crate::lab::{SOON, now_us};
use crate::traffic::install;

#[test]
fn mariadb_a_handoff_survives_its_agent() {
    a_handoff_survives_its_agent("mariadb");
}

#[test]
#[ignore = "the other family runs in the gate: scripts/test live-more"]
fn mysql_a_handoff_survives_its_agent() {
    a_handoff_survives_its_agent("mysql");
}

fn a_handoff_survives_its_agent(flavor: &str) {
    let Some(mut lab) = cluster(flavor) else { return };
    let place = lab.dir.join("mgr/traffic");
    install(&lab, &place, PROGRAM);
    let begun = now_us();
    let mut stopping = lab.before_stop("db1");
    lab.wait("everything before the block is done", SOON, |_| place.join("paused").exists());
    lab.run(&["kill-agent", "db1"]);
    lab.run(&["start-agent", "db1"]);
    fs::write(place.join("go"), "").unwrap();
    let within = lab.wait("another leads", SOON, |lab| lab.primary().is_some_and(|primary| primary != "db1"));
    assert!(stopping.wait().unwrap().success(), "{}", lab.log());
    let leader = lab.primary().unwrap();
    let gap = lab.longest_gap(1, begun);
    println!(
        "{flavor}, its agent killed in a handoff: another leads after {} ms, no write for {} ms",
        within.as_millis(),
        gap.as_millis()
    );
    assert!(gap < Duration::from_secs(1), "no write for {gap:?}: that is a crash's, not a switchover's");
    lab.wait("all is well", SOON, |lab| lab.is_healthy() || lab.sentence().contains("is being stopped"));
    let found = lab.check(&leader, begun, 1);
    for wrong in ["lost", "duplicated", "split"] {
        assert_eq!(found[wrong], 0, "{found}");
    }
}
