//! A program of the operator's that moves clients: what it is told, in which order, and what becomes of a change when it fails.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::lab::{Lab, SOON, now_us};
use crate::{cluster, seconds};

/// Writes what it is told; refuses what the file beside it names.
const PROGRAM: &str = r#"#!/bin/sh
cd "$(dirname "$0")" || exit 1
order=$(cat)
echo "$order" >>told
if grep -qs . refuse && echo "$order" | grep -q "\"action\":\"$(cat refuse)\""; then echo "the proxy does not answer" >&2; exit 1; fi
"#;

#[test]
fn mariadb_a_traffic_program_is_told_and_heeded() {
    let Some(mut lab) = cluster("mariadb") else { return };
    let place = lab.dir.join("mgr/traffic");
    install(&lab, &place, PROGRAM);
    lab.run(&["ctl", "switchover", "--to", "db2", "--yes"]);
    lab.wait("db2 leads", SOON, |lab| lab.is_healthy() && lab.primary().as_deref() == Some("db2"));
    assert_eq!(told(&place), ["pause db1 1", "move db2 2"]);

    // A proxy that cannot hold its clients back: nothing is changed.
    fs::write(place.join("refuse"), "pause").unwrap();
    let (done, said) = lab.attempt(&["ctl", "switchover", "--to", "db1", "--yes"]);
    assert!(!done, "{said}");
    lab.wait("db2 still leads", SOON, |lab| lab.is_healthy() && lab.primary().as_deref() == Some("db2"));
    assert_eq!(told(&place)[2..], ["pause db2 2", "resume db2 2"]);
    assert!(lab.run(&["ctl", "history", "--limit", "1"]).contains("the proxy does not answer"));

    // One that does not move them: the failover goes on, it is asked again and again, and when it is given up nothing else is missing.
    fs::write(place.join("refuse"), "move").unwrap();
    let told_before = told(&place).len();
    let fault = now_us();
    lab.run(&["kill9", "db2"]);
    let took = lab.wait("another leads", SOON, |lab| lab.primary().is_some_and(|primary| primary != "db2"));
    // Long before the recovery ends, which the program holds up.
    assert!(took < Duration::from_secs(2), "status named the next primary after {took:?}");
    let leader = lab.primary().unwrap();
    lab.wait("writes on it", SOON, |lab| lab.acks(1).iter().any(|ack| ack.0 > fault && ack.1 != 2));
    lab.wait("the program is given up", SOON, |lab| lab.log().contains("recovery failed"));
    lab.wait("all is well", SOON, Lab::is_healthy);
    let history = lab.run(&["ctl", "history", "--limit", "4"]);
    assert!(history.contains("the proxy does not answer"), "{history}");
    let moves = told(&place).split_off(told_before);
    let move_there = format!("move {leader}");
    assert!(
        moves.len() > 1 && moves.iter().all(|order| order.starts_with(&move_there)),
        "{moves:?}; {history}"
    );
    seconds(1.0);
    let found = lab.check(&leader, fault, 2);
    for wrong in ["lost", "duplicated", "split"] {
        assert_eq!(found[wrong], 0, "{found}");
    }
}

/// Puts the program in place and has the manager read of it.
pub(crate) fn install(lab: &Lab, place: &Path, text: &str) {
    fs::create_dir(place).unwrap();
    let program = place.join("program");
    fs::write(&program, text).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    lab.configure(&format!("traffic = {{ exec = \"{}\", within = \"5s\" }}", program.display()));
}

/// Each order as "action host generation".
fn told(place: &Path) -> Vec<String> {
    let text = fs::read_to_string(place.join("told")).unwrap();
    let order = |line: &str| {
        let order: Value = serde_json::from_str(line).unwrap();
        let word = |key: &str| order[key].as_str().unwrap().to_owned();
        assert_eq!((word("cluster").as_str(), &order["port"]), ("lab", &3306.into()), "{order}");
        format!("{} {} {}", word("action"), word("host"), order["generation"])
    };
    text.lines().map(order).collect()
}
