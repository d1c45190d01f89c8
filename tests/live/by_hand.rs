//! Both appliers have stopped with an error, the receivers acknowledge on, and the primary's host is lost. Restarting replication by hand
//! throws away what was received and not applied: nobody leads without it. `mhactl replica start` applies it, and the failover goes on.

use crate::lab::{Lab, SOON, now_us};
use crate::proven::the_record_names_the_run;
use crate::{cluster, nothing_lost, seconds};

const REPLICAS: [&str; 2] = ["db2", "db3"];

#[test]
fn mariadb_nobody_leads_after_a_restart_of_replication_lost_rows() {
    nobody_leads_after_a_restart_of_replication_lost_rows("mariadb", "STOP SLAVE; START SLAVE");
}

#[test]
#[ignore = "the other family runs in the gate: scripts/test live-more"]
fn mysql_nobody_leads_after_a_reset_of_replication_lost_rows() {
    let reset = "STOP REPLICA; RESET REPLICA; START REPLICA";
    nobody_leads_after_a_restart_of_replication_lost_rows("mysql", reset);
}

fn nobody_leads_after_a_restart_of_replication_lost_rows(flavor: &str, restart: &str) {
    let Some(mut lab) = cluster(flavor) else { return };
    REPLICAS.iter().for_each(|replica| the_record_names_the_run(&lab, replica));
    let fault = the_primary_is_lost_and_the_appliers_stand(&lab);
    for replica in REPLICAS {
        put_the_row_back(&lab, replica);
        lab.sql(replica, restart);
    }
    // Until then the failover is refused because both appliers stand.
    let names_the_restart = |lab: &Lab| lab.sentence().matches("received transactions away").count() >= 2;
    lab.wait("the refusal names the restart of both", SOON, names_the_restart);
    seconds(5.0);
    nobody_was_promoted(&lab);
    lab.run(&["kill-manager"]);
    lab.run(&["start-manager"]);
    let refuses = |lab: &Lab| lab.sentence().contains("2 must be heard in good standing and 0 are");
    lab.wait("a new manager refuses too", SOON, refuses);
    seconds(3.0);
    nobody_was_promoted(&lab);
    println!("{flavor}: {}", lab.sentence());
    lab.run(&["up-link", "db1"]);
    lab.wait("all are well again", SOON, Lab::is_healthy);
    nothing_lost(&mut lab, "db1", fault, 1);
}

#[test]
#[ignore = "the other family runs in the gate: scripts/test live-more"]
fn mariadb_a_failover_goes_on_once_the_applier_is_started() {
    a_failover_goes_on_once_the_applier_is_started("mariadb");
}

#[test]
fn mysql_a_failover_goes_on_once_the_applier_is_started() {
    a_failover_goes_on_once_the_applier_is_started("mysql");
}

fn a_failover_goes_on_once_the_applier_is_started(flavor: &str) {
    let Some(mut lab) = cluster(flavor) else { return };
    let fault = the_primary_is_lost_and_the_appliers_stand(&lab);
    for replica in REPLICAS {
        put_the_row_back(&lab, replica);
    }
    lab.run(&["ctl", "replica", "start", "db2", "--sql", "--yes"]);
    let took = lab.wait("db2 leads by itself", SOON, |lab| lab.primary().as_deref() == Some("db2"));
    println!("{flavor}: db2 leads {} ms after its applier was started", took.as_millis());
    lab.wait("writes on it", SOON, |lab| lab.acks(1).iter().any(|ack| ack.1 == 2));
    lab.run(&["up-link", "db1"]);
    lab.wait("all are well again", SOON, Lab::is_healthy);
    assert_eq!(lab.sql("db2", "SELECT v FROM app.mark"), "2");
    nothing_lost(&mut lab, "db2", fault, 1);
}

/// The replicas lack a row that the primary changes. Answers when the primary's host was lost.
fn the_primary_is_lost_and_the_appliers_stand(lab: &Lab) -> u64 {
    lab.sql("db1", "CREATE TABLE app.mark (n INT PRIMARY KEY, v INT); INSERT INTO app.mark VALUES (1, 1)");
    for replica in REPLICAS {
        let has_it = |lab: &Lab| lab.attempt(&["sql", replica, "SELECT v FROM app.mark"]).1.trim() == "1";
        lab.wait("the replica has the row", SOON, has_it);
        lab.unlogged(replica, "DELETE FROM app.mark");
    }
    lab.sql("db1", "UPDATE app.mark SET v = 2");
    for replica in REPLICAS {
        lab.wait("its applier has stopped, its receiver runs", SOON, |lab| {
            lab.member(replica)
                .is_some_and(|member| member["applier"] == "stopped" && member["receiver"] == "running")
        });
    }
    let before = lab.count(1);
    lab.wait("rows are acknowledged and not applied", SOON, |lab| lab.count(1) > before + 100);
    let fault = now_us();
    lab.run(&["down-link", "db1"]);
    lab.wait("the refusal warns of a restart", SOON, |lab| {
        let told = lab.sentence();
        told.contains("nobody may lead")
            && told.contains("would be lost if both threads were restarted or reset")
    });
    fault
}

fn put_the_row_back(lab: &Lab, replica: &str) {
    lab.unlogged(replica, "REPLACE INTO app.mark VALUES (1, 1)");
}

fn nobody_was_promoted(lab: &Lab) {
    assert_eq!((lab.primary().as_deref(), lab.generation()), (Some("db1"), Some(1)), "{}", lab.log());
    for replica in REPLICAS {
        assert_eq!(lab.sql(replica, "SELECT @@read_only"), "1", "{replica}: {}", lab.log());
    }
}
