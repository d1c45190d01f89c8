//! Other voters in the configuration: no majority of the new list alone decides anything before all agents count by it.

use crate::lab::{Lab, SOON, now_us};
use crate::{cluster_with, seconds};

#[test]
fn mariadb_an_edit_of_the_voters_makes_no_second_writer() {
    // With lossless the ackers' side forbids it too.
    let five = ["--durability", "async", "--replicas", "4"];
    let Some(mut lab) = cluster_with("mariadb", &five) else { return };
    an_edit_of_the_voters_makes_no_second_writer(&mut lab);
}

/// The primary, db4 and db5 on one side, db2, db3 and the manager on the other: three of five voters serve on. The edited file names db1, db2
/// and db3, of which two could lead.
fn an_edit_of_the_voters_makes_no_second_writer(lab: &mut Lab) {
    let voters = |lab: &Lab| {
        let record = lab.record();
        let all = record["voters"].as_array().unwrap().iter();
        all.map(|voter| voter["host"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let five = ["db1", "db2", "db3", "db4", "db5"];
    lab.wait("the voters are recorded", SOON, |lab| voters(lab) == five);
    let began = now_us();
    for one in ["db1", "db4", "db5"] {
        for other in ["db2", "db3", "mgr"] {
            lab.run(&["cut", one, other]);
        }
    }
    lab.run(&["kill-manager"]);
    let file = lab.dir.join("mgr/manager.toml");
    let before = std::fs::read_to_string(&file).unwrap();
    let db4 = before.find("\n[[cluster.instance]]\nhost  = \"db4\"").unwrap();
    std::fs::write(&file, &before[..db4]).unwrap();
    lab.run(&["start-manager"]);
    // Longer than a failover of a lost host takes.
    seconds(10.0);
    assert_eq!(lab.primary().as_deref(), Some("db1"), "{}", lab.log());
    assert_eq!(voters(lab), five, "{}", lab.log());
    for replica in ["db2", "db3"] {
        assert_eq!(lab.sql(replica, "SELECT @@read_only"), "1", "{replica}: {}", lab.log());
    }
    let acknowledged = lab.acks(1).len();
    lab.wait("the primary serves on", SOON, |lab| lab.acks(1).len() > acknowledged + 20);
    lab.run(&["heal"]);
    lab.wait("one went, and then the other", SOON, |lab| voters(lab) == ["db1", "db2", "db3"]);
    lab.wait("the manager leads by them", SOON, |lab| {
        lab.attempt(&["ctl", "switchover", "--to", "db2", "--yes"]).0
    });
    lab.wait("db2 is the primary", SOON, |lab| lab.primary().as_deref() == Some("db2"));
    let told = lab.check("db2", began, 1);
    assert_eq!((&told["lost"], &told["split"]), (&0.into(), &0.into()), "{told}");
}
