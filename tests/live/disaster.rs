//! So many hosts are lost that no majority of voters is left: one command goes on with what there is.

use crate::cluster_with;
use crate::lab::{Lab, SOON, now_us};

#[test]
fn mariadb_two_of_three_hosts_are_destroyed() {
    let Some(mut lab) = cluster_with("mariadb", &["--durability", "async"]) else { return };
    the_primary_is_left(&lab);
    the_primary_is_among_them(&mut lab);
}

/// It closes without a majority, and opens again when the others' votes are taken away.
fn the_primary_is_left(lab: &Lab) {
    for host in ["db2", "db3"] {
        lab.run(&["down-link", host]);
    }
    lab.wait("the primary closes", SOON, |lab| lab.sentence().contains("db1") && !takes_writes(lab));
    let (done, said) = lab.attempt(&["ctl", "votes", "--destroyed", "db2,db3", "--confirm", "db2 db3"]);
    assert!(!done, "{said}");
    lab.run(&["ctl", "votes", "--destroyed", "db2,db3", "--confirm", "db2 db3 destroyed"]);
    lab.wait("the primary serves alone", SOON, takes_writes);
    assert!(lab.sentence().contains("without a vote, as destroyed: db2, db3"), "{}", lab.sentence());
    for host in ["db2", "db3"] {
        lab.run(&["up-link", host]);
    }
    for host in ["db2", "db3"] {
        lab.wait("it has its vote back", SOON, |lab| lab.attempt(&["ctl", "votes", "--back", host]).0);
    }
    lab.wait("all are well again", SOON, Lab::is_healthy);
}

fn the_primary_is_among_them(lab: &mut Lab) {
    let fault = now_us();
    for host in ["db1", "db2"] {
        lab.run(&["down-link", host]);
    }
    lab.wait("nobody leads", SOON, |lab| lab.sentence().contains("1 of the 2 hosts needed confirm silence"));
    let words = ["ctl", "failover", "--accept-loss", "--old-primary-is-dead", "--without-voters", "db1,db2"];
    lab.run(&[&words[..], &["--confirm", "db1 db2 destroyed"]].concat());
    lab.wait("db3 is the primary", SOON, |lab| lab.primary().as_deref() == Some("db3"));
    lab.wait("db3 takes writes", SOON, takes_writes);
    let told = lab.check("db3", fault, 1);
    assert_eq!(told["split"], 0, "{told}");
}

/// The writer is acknowledged something new.
fn takes_writes(lab: &Lab) -> bool {
    let before = lab.acks(1).len();
    crate::seconds(1.0);
    lab.acks(1).len() > before + 5
}
