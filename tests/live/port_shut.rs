//! A primary whose server runs and whose port lets nobody in (F016).

use std::time::Duration;

use crate::lab::{Lab, SOON, now_us};
use crate::{cluster, seconds};

/// From where nobody gets through to the primary's port.
const EVERYBODY: [&str; 4] = ["db2", "db3", "mgr", "client"];

#[test]
fn mariadb_a_primary_whose_port_is_dropped_is_replaced_after_the_grace() {
    a_primary_whose_port_is_dropped_is_replaced_after_the_grace("mariadb");
}

#[test]
#[ignore = "the other family runs in the gate: scripts/test live-more"]
fn mysql_a_primary_whose_port_is_dropped_is_replaced_after_the_grace() {
    a_primary_whose_port_is_dropped_is_replaced_after_the_grace("mysql");
}

fn a_primary_whose_port_is_dropped_is_replaced_after_the_grace(flavor: &str) {
    let Some(mut lab) = cluster(flavor) else { return };
    lab.configure("refused_port_grace = \"5s\"");
    let fault = now_us();
    for host in EVERYBODY {
        lab.run(&["port", host, "db1", "3306"]);
    }
    lab.wait("it is named", SOON, |lab| {
        let said = lab.sentence();
        said.contains("its port has let nobody in for") && said.contains("refused_port_grace")
    });
    let took = lab.wait("another leads", SOON, |lab| {
        lab.is_healthy() && lab.primary().is_some_and(|primary| primary != "db1")
            || lab.acks(1).iter().any(|ack| ack.0 > fault && ack.1 != 1)
    });
    println!("{flavor}: replaced {} ms after it was named", took.as_millis());
    lab.run(&["heal"]);
    lab.wait("all is well", SOON, Lab::is_healthy);
    seconds(1.0);
    let leader = lab.primary().unwrap();
    assert_ne!(leader, "db1");
    assert!(lab.longest_gap(1, fault) < Duration::from_secs(20), "{:?}", lab.longest_gap(1, fault));
    let found = lab.check(&leader, fault, 1);
    for wrong in ["lost", "duplicated", "split"] {
        assert_eq!(found[wrong], 0, "{found}");
    }
}
