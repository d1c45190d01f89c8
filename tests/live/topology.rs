//! Replicas moved, stopped, removed and added by command, a dead intermediate's replicas, and a rolling restart: all under a writer that
//! loses nothing.

use std::time::Duration;

use crate::lab::{Lab, SOON, now_us};
use crate::{cluster_with, seconds};

#[test]
fn mariadb_replicas_go_where_they_are_wanted() {
    replicas_go_where_they_are_wanted("mariadb");
}

#[test]
fn mysql_replicas_go_where_they_are_wanted() {
    replicas_go_where_they_are_wanted("mysql");
}

fn replicas_go_where_they_are_wanted(flavor: &str) {
    let Some(mut lab) = cluster_with(flavor, &["--replicas", "3"]) else { return };
    let since = now_us();
    let ctl = |lab: &Lab, words: &[&str]| lab.run(&[&["ctl"][..], words].concat());
    let refused = |lab: &Lab, words: &[&str], why: &str| {
        let (done, said) = lab.attempt(&[&["ctl"][..], words].concat());
        assert!(!done && said.contains(why), "{words:?}: {said}");
    };
    let ackers = |lab: &Lab| lab.status().unwrap()["ackers"].as_array().unwrap().len();

    // Below another replica, and it stays there.
    ctl(&lab, &["replica", "move", "db4", "--source", "db2", "--yes"]);
    // What is shown of a server is as old as the last look at it.
    lab.wait("it is seen below db2", SOON, |lab| lab.source("db4").as_deref() == Some("db2"));
    assert_eq!(ackers(&lab), 2);
    refused(&lab, &["replica", "move", "db2", "--source", "db4"], "circle");
    refused(&lab, &["replica", "remove", "db2"], "feeds db4");
    refused(&lab, &["set", "read-only", "db4", "off"], "second truth");

    // Stopped by command it stays stopped, also by a manager that is started anew.
    ctl(&lab, &["replica", "stop", "db3", "--yes"]);
    refused(&lab, &["replica", "stop", "db2"], "writers would wait");
    lab.run(&["kill-manager"]);
    lab.run(&["start-manager"]);
    seconds(8.0);
    let stopped = lab.member("db3").unwrap();
    assert_eq!((&stopped["receiver"], &stopped["applier"]), (&"stopped".into(), &"stopped".into()));
    assert!(lab.sentence().contains("was stopped by"), "{}", lab.sentence());
    ctl(&lab, &["replica", "start", "db3", "--yes"]);
    lab.wait("all is well", SOON, Lab::is_healthy);
    lab.wait("each is where it belongs", SOON, |lab| {
        (lab.source("db3").as_deref(), lab.source("db4").as_deref()) == (Some("db1"), Some("db2"))
    });
    assert_eq!(ackers(&lab), 2);
    a_dead_intermediate(&lab);
    a_member_leaves_and_comes(&lab);

    a_stranger_joins(&lab);
    let gap = lab.longest_gap(1, since);
    assert!(gap < Duration::from_millis(2_500), "no write for {gap:?}");

    // What was added by command takes part in a failover like the others, and leads nothing.
    let fault = now_us();
    lab.run(&["kill9", "db1"]);
    lab.wait("another primary", SOON, |lab| lab.primary().is_some_and(|primary| primary != "db1"));
    let primary = lab.primary().unwrap();
    assert_ne!(primary, "db4");
    lab.wait("all follow it", SOON, |lab| {
        lab.is_healthy() && lab.source("db4") == lab.primary() && lab.source("db1") == lab.primary()
    });
    let found = lab.check(&primary, fault, 1);
    println!("{flavor}, replicas by command: longest pause {} ms; {found}", gap.as_millis());
    for wrong in ["lost", "duplicated", "split"] {
        assert_eq!(found[wrong], 0, "{found}");
    }
}

/// What is below it goes to its source, and back when it is there again and steady.
fn a_dead_intermediate(lab: &Lab) {
    lab.run(&["kill9", "db2"]);
    let moved =
        lab.wait("db4 goes to the source of db2", SOON, |lab| lab.source("db4").as_deref() == Some("db1"));
    lab.wait("db2 is back", SOON, |lab| lab.source("db2").as_deref() == Some("db1"));
    lab.wait("db4 is below db2 again", SOON * 3, |lab| lab.source("db4").as_deref() == Some("db2"));
    lab.wait("all is well", SOON, Lab::is_healthy);
    println!("a dead intermediate's replica has a source again after {} ms", moved.as_millis());
}

fn a_member_leaves_and_comes(lab: &Lab) {
    let members = |lab: &Lab| lab.status().map_or(0, |status| status["members"].as_array().unwrap().len());
    lab.run(&["ctl", "replica", "remove", "db4", "--yes"]);
    lab.wait("three members", SOON, |lab| members(lab) == 3 && lab.is_healthy());
    let count = "SELECT COUNT(*) FROM app.writes";
    let left_at = lab.sql("db4", count);
    lab.run(&["kill-manager"]);
    lab.run(&["start-manager"]);
    lab.wait("still three members", SOON, |lab| members(lab) == 3 && lab.is_healthy());
    assert_eq!(lab.sql("db4", count), left_at, "its replication was stopped");
    lab.run(&["ctl", "replica", "add", "db4", "--yes"]);
    lab.wait("it is seen below db1", SOON, |lab| lab.source("db4").as_deref() == Some("db1"));
    lab.wait("four members", SOON, |lab| members(lab) == 4 && lab.is_healthy());
    assert_eq!(lab.status().unwrap()["ackers"].as_array().unwrap().len(), 3);
}

/// The same of a server the configuration does not name: it is a member by the manager's store alone, without a vote.
fn a_stranger_joins(lab: &Lab) {
    lab.run(&["ctl", "replica", "remove", "db4", "--yes"]);
    let file = lab.dir.join("mgr/manager.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let (kept, dropped) = text.rsplit_once("\n[[cluster.instance]]").unwrap();
    assert!(dropped.contains("\"db4\""), "{dropped}");
    std::fs::write(&file, kept).unwrap();
    let restart = || {
        lab.run(&["kill-manager"]);
        lab.run(&["start-manager"]);
    };
    restart();
    lab.wait("three members", SOON, |lab| lab.member("db4").is_none() && lab.is_healthy());
    lab.run(&["ctl", "replica", "add", "db4", "--agent", "http://db4:8421", "--yes"]);
    lab.wait("four members", SOON, |lab| lab.source("db4").as_deref() == Some("db1") && lab.is_healthy());
    restart();
    lab.wait("still four members", SOON, |lab| lab.source("db4").is_some() && lab.is_healthy());
    lab.run(&["kill9", "db4"]);
    lab.wait("its server is gone", SOON, |lab| lab.source("db4").is_none());
    lab.wait("it returns", SOON, |lab| lab.source("db4").is_some() && lab.is_healthy());
}

#[test]
fn mariadb_a_rolling_restart_under_load() {
    a_rolling_restart_under_load("mariadb");
}

#[test]
fn mysql_a_rolling_restart_under_load() {
    a_rolling_restart_under_load("mysql");
}

const HOSTS: [&str; 3] = ["db1", "db2", "db3"];

fn a_rolling_restart_under_load(flavor: &str) {
    let Some(mut lab) = cluster_with(flavor, &[]) else { return };
    lab.write(100, &["--connections", "8", "--rate", "200", "--statement-timeout-ms", "30000"]);
    lab.wait("writes", SOON, |lab| lab.count(100) > 50);
    let pid =
        |lab: &Lab, host: &str| std::fs::read_to_string(lab.dir.join(host).join("run/server.pid")).unwrap();
    let before = HOSTS.map(|host| pid(&lab, host));
    let order = lab.run(&["ctl", "rolling", "--command", "true", "--dry-run"]);
    let order: Vec<&str> = order.lines().map(|line| line.split_whitespace().nth(1).unwrap()).collect();
    assert_eq!((order.len(), order[2], order[3]), (4, "switchover", "db1,"), "{order:?}");
    let (done, said) = lab.attempt(&["ctl", "rolling", "--command", "exit 7", "--yes"]);
    assert!(!done && lab.primary().as_deref() == Some("db1"), "{said}");

    // Stops the server cleanly, and returns when it runs anew: its agent starts it. Run where the manager is, which sees all processes.
    let command = format!(
        r#"run={}/$HOST/run; pid=$(cat $run/server.pid) && kill $pid || exit 1
        for n in $(seq 600); do new=$(cat $run/server.pid 2>/dev/null)
            [ -n "$new" ] && [ "$new" != "$pid" ] && [ -S $run/server.sock ] && exit 0
            sleep 0.1; done; exit 1"#,
        lab.dir.display()
    );
    seconds(1.0);
    let began = now_us();
    let told = lab.run(&["ctl", "rolling", "--command", &command, "--wait", "2m", "--yes"]);
    println!("{told}");
    let took = Duration::from_micros(now_us() - began);
    let primary = lab.primary().unwrap();
    assert_ne!(primary, "db1");
    let now = HOSTS.map(|host| pid(&lab, host));
    assert!(
        now.iter().zip(&before).all(|(now, before)| now != before),
        "not every server was restarted: {now:?}"
    );
    lab.wait("all is well", SOON, Lab::is_healthy);
    let gap = lab.longest_gap(1, began);
    let found = lab.check(&primary, began, 1);
    println!(
        "{flavor}, rolling restart in {} s: longest pause {} ms; {found}",
        took.as_secs(),
        gap.as_millis()
    );
    for wrong in ["lost", "duplicated", "split"] {
        assert_eq!(found[wrong], 0, "{found}");
    }
    assert!(gap < Duration::from_secs(3), "no write for {gap:?}");
}
