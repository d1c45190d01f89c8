//! An acker that lost what it had received, and a manager that has not seen it: nobody leads before what was acknowledged is back.

use crate::lab::{Lab, SOON, now_us};
use crate::{Session, cluster, seconds};

#[test]
fn mariadb_a_new_manager_believes_no_acker_that_restarted() {
    a_new_manager_believes_no_acker_that_restarted("mariadb");
}

/// What was acknowledged last is in the relay log of db2 alone, which its restart throws away.
fn a_new_manager_believes_no_acker_that_restarted(flavor: &str) {
    let Some(mut lab) = cluster(flavor) else { return };
    // The record names a run of a server only when a later run cannot pass for it, some seconds after its start.
    lab.wait("the record names the run of db2", SOON, |lab| {
        let record = lab.record();
        record["ackers_proven"]
            .as_array()
            .is_some_and(|proven| proven.iter().any(|acker| acker["instance"] == "db2"))
    });
    let held = Session::open(&lab, "db2", "LOCK TABLES app.writes READ");
    seconds(1.0);
    lab.run(&["cut", "db1", "db3"]);
    seconds(2.0);
    let fault = now_us();
    lab.run(&["down-link", "db1"]);
    lab.run(&["kill-manager"]);
    lab.run(&["kill9", "db2"]);
    held.close();
    lab.run(&["server-start", "db2"]);
    lab.wait("db2 answers", SOON, |lab| lab.attempt(&["sql", "db2", "SELECT 1"]).0);
    lab.run(&["start-manager"]);
    let refuses = |lab: &Lab| {
        let told = lab.status().unwrap_or_default();
        told["sentence"].as_str().is_some_and(|told| told.contains("not: db2 (its server restarted"))
    };
    lab.wait("the new manager refuses", SOON, refuses);
    seconds(6.0);
    assert_eq!((lab.primary().as_deref(), lab.generation()), (Some("db1"), Some(1)), "{}", lab.log());
    lab.run(&["heal"]);
    lab.run(&["up-link", "db1"]);
    // db1 leads again, or db3 with all that db1's log holds.
    lab.wait("all are well again", SOON, Lab::is_healthy);
    let primary = lab.primary().unwrap();
    let told = lab.check(&primary, fault, 1);
    assert_eq!(told["lost"], 0, "{told}");
}
