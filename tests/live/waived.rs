//! An operator makes a replica lead that lacks acknowledged rows. An acker of the generation before returns with them: they are not set back,
//! and a person decides.

use crate::lab::{Lab, SOON};
use crate::{cluster_with, seconds};

#[test]
fn mariadb_a_former_ackers_acknowledged_rows_are_not_set_back() {
    a_former_ackers_acknowledged_rows_are_not_set_back("mariadb");
}

#[test]
#[ignore = "the other family runs in the gate: scripts/test live-more"]
fn mysql_a_former_ackers_acknowledged_rows_are_not_set_back() {
    a_former_ackers_acknowledged_rows_are_not_set_back("mysql");
}

fn a_former_ackers_acknowledged_rows_are_not_set_back(flavor: &str) {
    let Some(lab) = cluster_with(flavor, &["--replicas", "3"]) else { return };
    lab.run(&["cut", "db1", "db3"]);
    lab.run(&["cut", "db1", "db4"]);
    let before = lab.count(1);
    lab.wait("rows that db2 alone acknowledged", SOON, |lab| lab.count(1) > before + 200);
    lab.run(&["down-link", "db1"]);
    let acknowledged = lab.count(1);
    let rows = |lab: &Lab| lab.sql("db2", "SELECT COUNT(*) FROM app.writes").parse::<usize>().unwrap();
    lab.wait("db2 has applied them", SOON, |lab| rows(lab) >= acknowledged);
    lab.run(&["down-link", "db2"]);
    lab.wait("nobody leads by itself", SOON, |lab| {
        lab.sentence().contains("acknowledged rows may be missing")
    });
    assert_eq!((lab.primary().as_deref(), lab.generation()), (Some("db1"), Some(1)), "{}", lab.log());

    lab.run(&["ctl", "failover", "--accept-loss", "--to", "db3", "--yes"]);
    lab.wait("writes on db3", SOON, |lab| lab.acks(1).iter().any(|ack| ack.1 == 3));
    // The address comes with the opening, a moment before status names it.
    lab.wait("db3 is the primary", SOON, |lab| lab.primary().as_deref() == Some("db3"));
    lab.run(&["up-link", "db2"]);
    lab.wait("db2 is parked", SOON, |lab| parked(lab, "db2").is_some());
    let told = parked(&lab, "db2").unwrap();
    println!("{flavor}: {told}");
    assert!(told.contains("some may have been acknowledged to clients"), "{told}");
    assert!(!told.contains("no client was told"), "{told}");
    let saved = lab.dir.join("db2/agent/extra");
    let saved = std::fs::read_dir(saved).unwrap().filter(|entry| {
        entry.as_ref().unwrap().path().extension().is_some_and(|extension| extension == "binlog")
    });
    assert_eq!(saved.count(), 1, "{told}");
    seconds(2.0);
    assert!(rows(&lab) >= acknowledged, "{}", lab.log());
    let history = lab.run(&["ctl", "history", "--limit", "20"]);
    assert!(!history.contains("db2 is set back"), "{history}");

    lab.run(&["ctl", "rejoin", "db2", "--how", "flashback", "--yes"]);
    lab.wait("db2 follows db3", SOON, |lab| lab.source("db2").as_deref() == Some("db3"));
}

/// Why it is parked, if it is.
fn parked(lab: &Lab, host: &str) -> Option<String> {
    let status = lab.status()?;
    let found = status["parked"].as_array()?.iter().find(|parked| parked["instance"] == host)?;
    found["why"].as_str().map(ToOwned::to_owned)
}
