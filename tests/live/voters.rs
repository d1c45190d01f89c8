//! Other voters in the configuration: no majority of the new list alone decides anything before all agents count by it.

use crate::lab::{Lab, SOON, now_us};
use crate::{cluster, seconds};

#[test]
fn mariadb_an_edit_of_the_voters_makes_no_second_writer() {
    let Some(mut lab) = cluster("mariadb") else { return };
    an_edit_of_the_voters_makes_no_second_writer(&mut lab);
}

/// The primary and db3 on one side, db2 and the manager on the other; the edited file names db1, db2 and the manager's host as voters.
fn an_edit_of_the_voters_makes_no_second_writer(lab: &mut Lab) {
    let voters = |lab: &Lab| {
        let record = lab.record();
        let hosts = record["voters"]
            .as_array()
            .unwrap()
            .iter()
            .map(|voter| voter["host"].as_str().unwrap().to_owned());
        hosts.collect::<Vec<_>>()
    };
    lab.wait("the voters are recorded", SOON, |lab| voters(lab) == ["db1", "db2", "db3"]);
    let began = now_us();
    for (one, other) in [("db1", "db2"), ("db1", "mgr"), ("db3", "db2"), ("db3", "mgr")] {
        lab.run(&["cut", one, other]);
    }
    lab.run(&["kill-manager"]);
    let file = lab.dir.join("mgr/manager.toml");
    let before = std::fs::read_to_string(&file).unwrap();
    let edited = before.replace("[manager]\n", "[manager]\nhost = \"mgr\"\n");
    let db3 = edited.find("\n[[cluster.instance]]\nhost  = \"db3\"").unwrap();
    std::fs::write(&file, &edited[..db3]).unwrap();
    lab.run(&["start-manager"]);
    // Longer than a failover of a lost host takes.
    seconds(10.0);
    assert_eq!(lab.primary().as_deref(), Some("db1"), "{}", lab.log());
    assert_eq!(voters(lab), ["db1", "db2", "db3"], "{}", lab.log());
    assert_eq!(lab.sql("db2", "SELECT @@read_only"), "1");
    let acknowledged = lab.acks(1).len();
    lab.wait("the primary serves on", SOON, |lab| lab.acks(1).len() > acknowledged + 20);
    lab.run(&["heal"]);
    lab.wait("one voter came, and then one went", SOON, |lab| voters(lab) == ["db1", "db2", "mgr"]);
    lab.wait("the manager leads by them", SOON, |lab| {
        lab.attempt(&["ctl", "switchover", "--to", "db2", "--yes"]).0
    });
    assert_eq!(lab.primary().as_deref(), Some("db2"), "{}", lab.log());
    let told = lab.check("db2", began, 1);
    assert_eq!((&told["lost"], &told["split"]), (&0.into(), &0.into()), "{told}");
}
