//! Real clusters in the lab: manager, agents, three servers of one flavor, a client that writes through the VIP and knows every
//! acknowledgement it was given. Needs root and the servers (`scripts/install-servers all`); without them it fails in CI, and says so
//! elsewhere.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests: a failure is a panic that says where")]
#![allow(clippy::disallowed_methods, reason = "a measurement of seconds, on a host that does not sleep")]

#[path = "live/before_it.rs"]
mod before_it;
#[path = "live/blocked.rs"]
mod blocked;
#[path = "live/broken_log.rs"]
mod broken_log;
#[path = "live/by_hand.rs"]
mod by_hand;
#[path = "live/disaster.rs"]
mod disaster;
#[path = "live/disk.rs"]
mod disk;
#[path = "live/events.rs"]
mod events;
#[path = "live/fence.rs"]
mod fence;
#[path = "live/handoff.rs"]
mod handoff;
#[path = "live/killed.rs"]
mod killed;
#[path = "live/lab.rs"]
mod lab;
#[path = "live/named.rs"]
mod named;
#[path = "live/port_shut.rs"]
mod port_shut;
#[path = "live/proven.rs"]
mod proven;
#[path = "live/reach.rs"]
mod reach;
#[path = "live/rebuild.rs"]
mod rebuild;
#[path = "live/rejoin.rs"]
mod rejoin;
#[path = "live/round.rs"]
mod round;
#[path = "live/tail.rs"]
mod tail;
#[path = "live/topology.rs"]
mod topology;
#[path = "live/traffic.rs"]
mod traffic;
#[path = "live/unfit.rs"]
mod unfit;
#[path = "live/voters.rs"]
mod voters;
#[path = "live/waived.rs"]
mod waived;

use std::io::Write as _;
use std::process::Child;
use std::time::{Duration, Instant};

use lab::{Lab, SOON, now_us};

/// A cluster of one flavor, where this machine can have it.
fn cluster(flavor: &str) -> Option<Lab> {
    cluster_with(flavor, &[])
}

/// The same with more options of `lab up`.
fn cluster_with(flavor: &str, more: &[&str]) -> Option<Lab> {
    if rustix::process::geteuid().is_root() {
        return Some(Lab::up(flavor, more));
    }
    assert!(std::env::var_os("CI").is_none(), "live tests need root");
    println!("skipped: live tests need root");
    None
}

/// Writes must not stop longer than this while nothing is failed over; a stopped server's own pause comes on top.
const BLINK: Duration = Duration::from_millis(1_200);

/// Nothing was promoted, and writes go on.
fn nothing_moved(lab: &Lab, what: &str, since: u64, pause: Duration) {
    lab.wait(&format!("{what}: healthy again"), SOON, Lab::is_healthy);
    assert_eq!((lab.primary().as_deref(), lab.generation()), (Some("db1"), Some(1)), "{what}: {}", lab.log());
    let gap = lab.longest_gap(1, since);
    assert!(gap < BLINK + pause, "{what}: no write for {gap:?}");
    println!("{what}: no failover, longest pause {} ms", gap.as_millis());
}

fn seconds(seconds: f64) {
    std::thread::sleep(Duration::from_secs_f64(seconds));
}

/// The command line of a client that is root on a host's server.
fn client_of(lab: &Lab, host: &str) -> [String; 5] {
    let client = if lab.is_mysql() {
        let prefix = std::env::var("MHA_MYSQL_PREFIX").unwrap_or_else(|_| "/opt/mha-lab/mysql".into());
        format!("{prefix}/bin/mysql")
    } else {
        "mariadb".to_owned()
    };
    let socket = lab.dir.join(host).join("run/server.sock").display().to_string();
    [client, "--no-defaults".into(), "-uroot".into(), "-S".into(), socket]
}

/// Ends the writers: the primary has each acknowledged row, once, and no other server acknowledged one beside it.
fn nothing_lost(lab: &mut Lab, primary: &str, fault: u64, old: u32) {
    let found = lab.check(primary, fault, old);
    println!("{found}");
    for wrong in ["lost", "duplicated", "split"] {
        assert_eq!(found[wrong], 0, "{found}; {}", lab.log());
    }
}

/// What a client's connection holds while the test keeps it: a lock, or a place among the connections.
struct Session(Child);

impl Session {
    fn open(lab: &Lab, host: &str, statement: &str) -> Self {
        let client = client_of(lab, host);
        let mut child = lab.spawn(&[&["exec", host][..], &client.each_ref().map(String::as_str)].concat());
        writeln!(child.stdin.as_mut().unwrap(), "{statement};").unwrap();
        Self(child)
    }

    fn close(mut self) {
        drop(self.0.stdin.take());
        self.0.wait().unwrap();
    }
}

#[test]
fn mariadb_nothing_is_failed_over_without_need() {
    nothing_is_failed_over_without_need("mariadb");
}

#[test]
fn mysql_nothing_is_failed_over_without_need() {
    nothing_is_failed_over_without_need("mysql");
}

fn nothing_is_failed_over_without_need(flavor: &str) {
    let Some(mut lab) = cluster(flavor) else { return };
    let since = now_us();
    lab.run(&["stop", "db1"]);
    seconds(1.5);
    lab.run(&["cont", "db1"]);
    nothing_moved(&lab, "stopped for half of silence", since, Duration::from_millis(1_500));

    let since = now_us();
    for host in ["db1", "db2", "db3"] {
        lab.run(&["cut", "mgr", host]);
    }
    lab.wait("the manager says it is cut off", SOON, |lab| lab.sentence().contains("manager cut off"));
    seconds(6.0);
    lab.run(&["heal"]);
    nothing_moved(&lab, "manager cut off", since, Duration::ZERO);

    let since = now_us();
    lab.run(&["kill-manager"]);
    seconds(55.0);
    // Without it the operator still sees, by the configuration and the store alone.
    let shown: serde_json::Value = serde_json::from_str(&lab.direct(&["status", "--json"])).unwrap();
    assert_eq!((&shown["verdict"], &shown["primary"]), (&"healthy".into(), &"db1".into()), "{shown}");
    seconds(5.0);
    lab.run(&["start-manager"]);
    nothing_moved(&lab, "manager dead for a minute", since, Duration::ZERO);

    let since = now_us();
    let before = lab.sql("db1", "SELECT @@max_connections");
    lab.sql("db1", "SET GLOBAL max_connections = 10");
    lab.write(500, &["--connections", "30", "--rate", "30"]);
    seconds(5.0);
    let told = lab.sentence();
    // One place is kept for an administrator, and may be taken for a moment.
    let reset = format!("SET GLOBAL max_connections = {before}");
    lab.wait("the limit is raised again", SOON, |lab| lab.attempt(&["sql", "db1", &reset]).0);
    nothing_moved(&lab, "max_connections reached", since, Duration::ZERO);
    println!("    it said: {told}");

    let since = now_us();
    lab.sql("db3", if flavor == "mysql" { "STOP REPLICA" } else { "STOP SLAVE" });
    lab.wait("the stopped replica is told", SOON, |lab| lab.sentence().contains("db3"));
    lab.sql("db3", if flavor == "mysql" { "START REPLICA" } else { "START SLAVE" });
    nothing_moved(&lab, "a replica stopped", since, Duration::ZERO);

    for host in ["db1", "db2"] {
        let since = now_us();
        lab.run(&["kill-agent", host]);
        seconds(2.0);
        lab.run(&["start-agent", host]);
        seconds(5.0);
        nothing_moved(&lab, &format!("agent of {host} killed and started"), since, Duration::ZERO);
    }
    let found = lab.check("db1", since, 1);
    assert_eq!((&found["lost"], &found["duplicated"]), (&0.into(), &0.into()), "{found}");
}

#[test]
fn mariadb_a_killed_primary_is_replaced_and_returns() {
    a_killed_primary_is_replaced_and_returns("mariadb");
}

#[test]
fn mysql_a_killed_primary_is_replaced_and_returns() {
    a_killed_primary_is_replaced_and_returns("mysql");
}

fn a_killed_primary_is_replaced_and_returns(flavor: &str) {
    let Some(mut lab) = cluster(flavor) else { return };
    lab.write(100, &["--rate", "20", "--statement-timeout-ms", "30000"]);
    let idle = (lab.usage("mgr", "mha-manager"), lab.usage("db1", "mha-agent"), Instant::now());
    seconds(10.0);
    tell_usage(&lab, idle);

    let fault = now_us();
    lab.run(&["kill9", "db1"]);
    lab.wait("another primary", SOON, |lab| lab.primary().is_some_and(|primary| primary != "db1"));
    let primary = lab.primary().unwrap();
    lab.wait("writes on it", SOON, |lab| lab.acks(1).iter().any(|ack| ack.1 != 1));
    let back = lab.wait("db1 is a healthy replica again", SOON, |lab| {
        lab.is_healthy() && lab.sql("db1", "SELECT @@read_only") == "1"
    });
    assert_eq!((lab.generation(), lab.primary()), (Some(2), Some(primary.clone())));
    if flavor == "mysql" {
        let kept = "SELECT GROUP_CONCAT(VARIABLE_NAME, ' ', VARIABLE_VALUE ORDER BY VARIABLE_NAME) \
                    FROM performance_schema.persisted_variables";
        assert_eq!(lab.sql("db1", kept), "event_scheduler OFF,read_only ON");
    }
    // Whoever waited on the old primary has had its answer by now, if it is ever to come.
    seconds(5.0);
    let found = lab.check(&primary, fault, 1);
    println!("killed: {found}; db1 was back {} ms after the writes", back.as_millis());
    for wrong in ["lost", "duplicated", "split"] {
        assert_eq!(found[wrong], 0, "{found}");
    }
    let outage = found["outage_ms"].as_f64().unwrap();
    assert!(outage < 1_000.0, "{outage} ms; {}", lab.log());
    let history = lab.run(&["ctl", "history"]);
    assert!(history.contains("failover db1 -> "), "{history}");
    a_primary_cut_from_its_replicas_is_replaced(&mut lab, &primary);
    a_planned_move_without_a_manager(&mut lab);
}

/// `mhactl --direct` does what it is told, and a manager that comes back goes on from there.
fn a_planned_move_without_a_manager(lab: &mut Lab) {
    let (old, generation) = (lab.primary().unwrap(), lab.generation().unwrap());
    lab.run(&["kill-manager"]);
    lab.direct(&["switchover", "--yes"]);
    lab.run(&["start-manager"]);
    lab.wait("the manager knows of it", SOON, |lab| {
        lab.is_healthy()
            && lab.generation() == Some(generation + 1)
            && lab.primary().is_some_and(|now| now != old)
    });
}

/// The manager and its clients reach it: without the voters it serves nobody, and what it has is taken from it (F026).
fn a_primary_cut_from_its_replicas_is_replaced(lab: &mut Lab, old: &str) {
    lab.write(200, &["--rate", "20", "--statement-timeout-ms", "30000"]);
    lab.wait("writes", SOON, |lab| !lab.acks(200).is_empty());
    let fault = now_us();
    let others: Vec<&str> = ["db1", "db2", "db3"].into_iter().filter(|host| *host != old).collect();
    others.iter().for_each(|host| drop(lab.run(&["cut", old, host])));
    lab.wait("another primary", SOON, |lab| lab.primary().is_some_and(|primary| primary != old));
    let primary = lab.primary().unwrap();
    let id = |host: &str| host.trim_start_matches("db").parse::<u64>().unwrap();
    lab.wait("writes on it", SOON, |lab| lab.acks(200).iter().any(|ack| ack.1 == id(&primary)));
    // Long enough for a return that cannot reach its source to be tried in vain more often than once.
    seconds(15.0);
    lab.run(&["heal"]);
    let back = lab.wait("the old primary is a healthy replica again", SOON, |lab| {
        lab.is_healthy() && lab.sql(old, "SELECT @@read_only") == "1"
    });
    let found = lab.check(&primary, fault, id(old) as u32);
    println!("cut: {found}; {old} was back {} ms after the network", back.as_millis());
    for wrong in ["lost", "duplicated", "split"] {
        assert_eq!(found[wrong], 0, "{found}");
    }
    // The lease's three seconds, and a second to move.
    let outage = found["gap_ms"].as_f64().unwrap();
    assert!(outage < 5_000.0, "{outage} ms; {}", lab.log());
}

/// What manager and agent use while nothing happens but a slow writer: design section "numbers", with room for a busy machine.
fn tell_usage(lab: &Lab, (manager, agent, since): ((f64, f64), (f64, f64), Instant)) {
    let span = since.elapsed().as_secs_f64();
    for (host, program, before, share, megabytes) in
        [("mgr", "mha-manager", manager, 0.02, 60.0), ("db1", "mha-agent", agent, 0.02, 40.0)]
    {
        let (used, resident) = lab.usage(host, program);
        let part = (used - before.0) / span;
        println!("{program} of {host}: {:.2} % of a core, {resident:.1} MB", part * 100.0);
        assert!(part < share && resident < megabytes, "{program} uses too much");
    }
}

#[test]
fn mariadb_a_backlog_is_applied_before_the_most_advanced_replica_leads() {
    a_backlog_is_applied("mariadb");
}

#[test]
fn mysql_a_backlog_is_applied_before_the_most_advanced_replica_leads() {
    a_backlog_is_applied("mysql");
}

/// So many transactions are received and not applied when the primary dies.
const BACKLOG: usize = 50_000;

fn a_backlog_is_applied(flavor: &str) {
    let Some(mut lab) = cluster(flavor) else { return };
    // Appliers wait behind a lock, receivers go on; db3 receives a part only.
    let locks: Vec<Session> =
        ["db2", "db3"].map(|host| Session::open(&lab, host, "FLUSH TABLES WITH READ LOCK")).into();
    seconds(0.5);
    let applied = lab.sql("db2", "SELECT COUNT(*) FROM app.writes");
    lab.write(300, &["--connections", "32"]);
    let written = |lab: &Lab| lab.count(300);
    lab.wait("half of the backlog", SOON * 4, |lab| written(lab) > BACKLOG / 2);
    // Not stopped by hand: a receiver that stands still beside a running applier is put right.
    lab.run(&["cut", "db1", "db3"]);
    lab.wait("the whole backlog", SOON * 4, |lab| written(lab) > BACKLOG);
    assert_eq!(lab.sql("db2", "SELECT COUNT(*) FROM app.writes"), applied, "the lock holds the applier");
    let fault = now_us();
    lab.run(&["kill9", "db1"]);
    locks.into_iter().for_each(Session::close);
    lab.run(&["heal"]);
    lab.wait("db2 leads", SOON * 10, |lab| lab.primary().as_deref() == Some("db2"));
    lab.wait("writes on it", SOON, |lab| lab.acks(1).iter().any(|ack| ack.1 == 2));
    lab.wait("db1 and db3 follow and have it all", SOON * 10, Lab::is_healthy);
    let found = lab.check("db2", fault, 1);
    println!("backlog: {found}");
    for wrong in ["lost", "duplicated", "split"] {
        assert_eq!(found[wrong], 0, "{found}");
    }
    assert!(found["acked"].as_u64().unwrap() > BACKLOG as u64, "{found}");
    let count = |host| lab.sql(host, "SELECT COUNT(*) FROM app.writes");
    let all = count("db2");
    lab.wait("db1 and db3 hold the same rows", SOON, |lab| {
        ["db1", "db3"].iter().all(|host| lab.sql(host, "SELECT COUNT(*) FROM app.writes") == all)
    });
}
