//! What must not pass a fence, and what must not cause one.

use std::io::Write as _;
use std::time::Duration;

use crate::lab::{Lab, SOON, now_us};
use crate::{Session, cluster, cluster_with, seconds};

#[test]
fn mariadb_a_local_session_commits_nothing_after_a_switchover() {
    a_local_session_commits_nothing_after_a_switchover("mariadb");
}

#[test]
fn mysql_a_local_session_commits_nothing_after_a_switchover() {
    a_local_session_commits_nothing_after_a_switchover("mysql");
}

/// Root over the unix socket may ignore `read_only`, and no packet filter sees it.
fn a_local_session_commits_nothing_after_a_switchover(flavor: &str) {
    let Some(lab) = cluster(flavor) else { return };
    lab.sql("db1", "CREATE TABLE app.local (n INT PRIMARY KEY)");
    let mut session = Session::open(&lab, "db1", "BEGIN; INSERT INTO app.local VALUES (1)");
    let open = "SELECT COUNT(*) > 0 FROM information_schema.INNODB_TRX WHERE trx_rows_modified > 0";
    lab.wait("a transaction is open", SOON, |lab| lab.sql("db1", open) == "1");
    let mut asking = lab.spawn(&["ctl", "switchover", "--to", "db2", "--yes"]);
    lab.wait("writers are blocked", SOON, |lab| lab.sql("db1", "SELECT @@read_only") == "1");
    // The session may be gone already, and its client with it.
    let _ = writeln!(session.0.stdin.as_mut().unwrap(), "COMMIT;");
    assert!(asking.wait().unwrap().success(), "{}", lab.log());
    lab.wait("db1 is a healthy replica", SOON, |lab| {
        lab.is_healthy() && lab.primary().as_deref() == Some("db2") && lab.source("db1").is_some()
    });
    session.close();
    seconds(1.0);
    for host in ["db1", "db2", "db3"] {
        let found = lab.sql(host, "SELECT COUNT(*) FROM app.local");
        assert_eq!(found, "0", "{host}; {}\n{}", lab.log(), lab.agent_log("db1"));
    }
    // Nothing holds commits up any more: the way back goes as well.
    lab.run(&["ctl", "switchover", "--to", "db1", "--yes"]);
    lab.sql("db1", "INSERT INTO app.local VALUES (2)");
    lab.wait("the row is everywhere", SOON, |lab| lab.sql("db2", "SELECT COUNT(*) FROM app.local") == "1");
}

#[test]
fn mariadb_short_outages_do_not_cost_the_lease() {
    short_outages_do_not_cost_the_lease("mariadb");
}

/// No packet reaches db1 from another host for so long, measured there.
fn deaf(lab: &Lab, span: f64) {
    let script = format!(
        "nft -f - <<'END'\n\
         add table inet flap\n\
         add chain inet flap in {{ type filter hook input priority -300; }}\n\
         add rule inet flap in iifname eth0 drop\n\
         END\n\
         sleep {span}; nft delete table inet flap"
    );
    lab.run(&["exec", "db1", "bash", "-c", &script]);
}

fn short_outages_do_not_cost_the_lease(flavor: &str) {
    let Some(mut lab) = cluster(flavor) else { return };
    let since = now_us();
    for _ in 0..5 {
        deaf(&lab, 2.3);
        seconds(2.0);
    }
    lab.wait("healthy again", SOON, Lab::is_healthy);
    assert_eq!((lab.primary().as_deref(), lab.generation()), (Some("db1"), Some(1)), "{}", lab.log());
    let agent = std::fs::read_to_string(lab.dir.join("db1/mha-agent.log")).unwrap();
    // The first one is from before it was opened.
    let closed = agent.lines().filter(|line| line.contains("role=Primary") && line.contains("open=false"));
    assert_eq!(closed.count(), 1, "{agent}");
    let found = lab.check("db1", since, 1);
    assert_eq!((&found["lost"], &found["duplicated"]), (&0.into(), &0.into()), "{found}");
}

#[test]
fn mariadb_a_flushed_packet_filter_lets_no_write_in() {
    a_flushed_packet_filter_lets_no_write_in("mariadb");
}

#[test]
fn mysql_a_flushed_packet_filter_lets_no_write_in() {
    a_flushed_packet_filter_lets_no_write_in("mysql");
}

/// A firewall's reload on an old primary that is cut off from everybody but its clients; then the same without its agent.
fn a_flushed_packet_filter_lets_no_write_in(flavor: &str) {
    let Some(mut lab) = cluster_with(flavor, &["--durability", "async"]) else { return };
    for other in ["db2", "db3", "mgr"] {
        lab.run(&["cut", "db1", other]);
    }
    lab.wait("another primary", SOON, |lab| lab.primary().is_some_and(|primary| primary != "db1"));
    lab.wait("db1 is read-only behind its filter", SOON, |lab| lab.sql("db1", "SELECT @@read_only") == "1");
    lab.write_at("db1", 200, &["--rate", "500", "--connections", "4"]);
    for agent in ["alive", "dead"] {
        if agent == "dead" {
            lab.run(&["kill-agent", "db1"]);
        }
        for _ in 0..3 {
            let gone = "nft delete table inet mha_3306 2>/dev/null; true";
            lab.run(&["exec", "db1", "bash", "-c", gone]);
            std::thread::sleep(Duration::from_millis(500));
        }
        assert_eq!(lab.count(200), 0, "agent {agent}: acknowledged on the wrong side");
    }
}
