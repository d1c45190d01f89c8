//! Ackers that lost what they had received, and a manager that has not seen it: nobody leads before what was acknowledged is back.

use crate::lab::{Lab, SOON, now_us};
use crate::{Session, cluster, nothing_lost, seconds};

const HOSTS: [&str; 3] = ["db1", "db2", "db3"];

/// What the manager does while the acker loses what it had received.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Manager {
    /// It is down, and sees nothing of it.
    Down,
    /// It sees it and refuses; then it is restarted.
    Refuses,
}

#[test]
fn mariadb_a_new_manager_believes_no_acker_that_restarted() {
    a_new_manager_believes_no_acker_that_restarted("mariadb", Manager::Down);
}

#[test]
#[ignore = "the other family runs in the gate: scripts/test live-more"]
fn mysql_a_new_manager_believes_no_acker_that_restarted() {
    a_new_manager_believes_no_acker_that_restarted("mysql", Manager::Down);
}

#[test]
fn mariadb_a_manager_that_refused_refuses_after_its_restart() {
    a_new_manager_believes_no_acker_that_restarted("mariadb", Manager::Refuses);
}

#[test]
#[ignore = "the other family runs in the gate: scripts/test live-more"]
fn mysql_a_manager_that_refused_refuses_after_its_restart() {
    a_new_manager_believes_no_acker_that_restarted("mysql", Manager::Refuses);
}

/// What was acknowledged last is in the relay log of db2 alone, which its restart throws away.
fn a_new_manager_believes_no_acker_that_restarted(flavor: &str, manager: Manager) {
    let Some(mut lab) = cluster(flavor) else { return };
    a_restart_loses_relay_logs(&lab);
    the_record_names_the_run(&lab, "db2");
    let held = Session::open(&lab, "db2", "LOCK TABLES app.writes READ");
    seconds(1.0);
    lab.run(&["cut", "db1", "db3"]);
    seconds(2.0);
    let fault = now_us();
    lab.run(&["down-link", "db1"]);
    if manager == Manager::Down {
        lab.run(&["kill-manager"]);
    }
    lab.run(&["kill9", "db2"]);
    held.close();
    // A start that meets the dying process does nothing.
    lab.wait("db2 answers", SOON, |lab| {
        lab.attempt(&["server-start", "db2"]);
        lab.attempt(&["sql", "db2", "SELECT 1"]).0
    });
    if manager == Manager::Refuses {
        lab.wait("the manager refuses", SOON, refuses_for_its_restart);
        lab.run(&["kill-manager"]);
    }
    lab.run(&["start-manager"]);
    // Where the restart was seen and written down, the record proves nothing of db2 any more.
    let refuses = |lab: &Lab| match manager {
        Manager::Down => refuses_for_its_restart(lab),
        Manager::Refuses => lab.sentence().contains("not: db2 (this manager has not seen it level"),
    };
    lab.wait("the new manager refuses", SOON, refuses);
    seconds(6.0);
    assert_eq!((lab.primary().as_deref(), lab.generation()), (Some("db1"), Some(1)), "{}", lab.log());
    lab.run(&["heal"]);
    // db1 leads again, or db3 with all that db1's log holds.
    lab.wait("all are well again", SOON, Lab::is_healthy);
    let primary = lab.primary().unwrap();
    nothing_lost(&mut lab, &primary, fault, 1);
}

/// It does so only when a later run of that server cannot pass for this one, some seconds after its start.
pub(crate) fn the_record_names_the_run(lab: &Lab, host: &str) {
    lab.wait("the record names the run of the acker's server", SOON, |lab| {
        let record = lab.record();
        let proven = record["ackers_proven"].as_array();
        proven.is_some_and(|proven| proven.iter().any(|acker| acker["instance"] == host))
    });
}

/// MariaDB does so by itself.
fn a_restart_loses_relay_logs(lab: &Lab) {
    if lab.is_mysql() {
        HOSTS.iter().for_each(|host| lab.configure_server(host, "relay_log_recovery = ON"));
    }
}

fn refuses_for_its_restart(lab: &Lab) -> bool {
    lab.sentence().contains("not: db2 (its server restarted")
}

#[test]
#[ignore = "the other family runs in the gate: scripts/test live-more"]
fn mariadb_after_a_power_cut_nobody_leads_before_the_old_primary_is_back() {
    after_a_power_cut_nobody_leads_before_the_old_primary_is_back("mariadb");
}

#[test]
fn mysql_after_a_power_cut_nobody_leads_before_the_old_primary_is_back() {
    after_a_power_cut_nobody_leads_before_the_old_primary_is_back("mysql");
}

/// Both appliers are seconds behind when all hosts lose their power, the manager's too. The manager is back first, then db2, db3 and db1.
fn after_a_power_cut_nobody_leads_before_the_old_primary_is_back(flavor: &str) {
    let Some(mut lab) = cluster(flavor) else { return };
    a_restart_loses_relay_logs(&lab);
    ["db2", "db3"].iter().for_each(|replica| the_record_names_the_run(&lab, replica));
    let held = ["db2", "db3"].map(|host| Session::open(&lab, host, "LOCK TABLES app.writes READ"));
    let before = lab.count(1);
    lab.wait("rows are acknowledged and not applied", SOON, |lab| lab.count(1) > before + 200);
    let fault = now_us();
    lab.run(&["kill-manager"]);
    for host in HOSTS {
        lab.run(&["down-link", host]);
        lab.run(&["kill-agent", host]);
        lab.run(&["kill9", host]);
    }
    held.into_iter().for_each(Session::close);
    lab.run(&["start-manager"]);
    for replica in ["db2", "db3"] {
        is_powered(&lab, replica);
        seconds(3.0);
    }
    lab.wait("both are doubted", SOON, |lab| {
        let told = lab.sentence();
        told.contains("not: db2 (its server restarted") && told.contains("db3 (its server restarted")
    });
    println!("{flavor}: {}", lab.sentence());
    seconds(3.0);
    assert_eq!((lab.primary().as_deref(), lab.generation()), (Some("db1"), Some(1)), "{}", lab.log());
    for replica in ["db2", "db3"] {
        assert_eq!(lab.sql(replica, "SELECT @@read_only"), "1", "{replica}: {}", lab.log());
    }
    is_powered(&lab, "db1");
    lab.wait("all are well again", SOON, Lab::is_healthy);
    let primary = lab.primary().unwrap();
    nothing_lost(&mut lab, &primary, fault, 1);
}

fn is_powered(lab: &Lab, host: &str) {
    for verb in ["up-link", "server-start", "start-agent"] {
        lab.run(&[verb, host]);
    }
}
