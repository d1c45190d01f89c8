//! Scheduled events that write a row every second: they run on the primary and nowhere else, through a switchover, a crash, and the old
//! primary's return with the scheduler ON in its configuration. What somebody disabled stays so.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::time::Duration;

use crate::lab::{Lab, SOON};
use crate::rejoin::other_primary;
use crate::{cluster, seconds};

/// A tick is due every second.
const TICK: Duration = Duration::from_secs(1);

/// One row of an event: whose, by which server, when (microseconds).
struct Tick {
    who: String,
    server: u32,
    at: i64,
}

#[test]
#[ignore = "the other family runs in the gate: scripts/test live-more"]
fn mariadb_scheduled_events_follow_the_primary() {
    scheduled_events_follow_the_primary("mariadb");
}

#[test]
fn mysql_scheduled_events_follow_the_primary() {
    scheduled_events_follow_the_primary("mysql");
}

fn scheduled_events_follow_the_primary(flavor: &str) {
    let Some(lab) = cluster(flavor) else { return };
    for host in ["db1", "db2", "db3"] {
        let path = lab.dir.join(host).join("server.cnf");
        let mut file = std::fs::OpenOptions::new().append(true).open(path).unwrap();
        file.write_all(b"event_scheduler = ON\n").unwrap();
    }
    let event = |who: &str, definer: &str, state: &str| {
        format!(
            "CREATE DEFINER={definer} EVENT app.{who} ON SCHEDULE EVERY 1 SECOND {state} \
             DO INSERT INTO app.tick (who, server, at) VALUES ('{who}', @@server_id, SYSDATE(6))"
        )
    };
    lab.sql(
        "db1",
        &format!(
            "CREATE TABLE app.tick (id BIGINT AUTO_INCREMENT PRIMARY KEY, who VARCHAR(8), server INT, at DATETIME(6)); {}; {}; {}; \
             SET GLOBAL event_scheduler=ON",
            event("plain", "app@'%'", ""),
            // MariaDB lets it write to a read-only server.
            event("mighty", "root@localhost", ""),
            event("off", "app@'%'", "DISABLE"),
        ),
    );
    ticks_from(&lab, "db1", &["plain", "mighty"]);
    seconds(2.5);

    lab.run(&["ctl", "switchover", "--to", "db2", "--yes"]);
    ticks_from(&lab, "db2", &["plain", "mighty"]);
    lab.wait("all is well", SOON, Lab::is_healthy);
    only_on(&lab, "db2");
    println!("{flavor}, switchover: longest gap of ticks {} ms", longest_gap(&lab, "db2").as_millis());

    lab.run(&["kill9", "db2"]);
    let third = other_primary(&lab, "db2");
    ticks_from(&lab, &third, &["plain", "mighty"]);
    println!("{flavor}, crash: longest gap of ticks {} ms", longest_gap(&lab, &third).as_millis());
    lab.wait("the old primary is back", SOON, |lab| {
        lab.is_healthy() && lab.attempt(&["sql", "db2", "SELECT @@read_only"]).1.trim() == "1"
    });
    seconds(2.5);
    only_on(&lab, &third);

    // By its operator's hand, and it stays so wherever the primary is.
    lab.sql(&third, "ALTER DEFINER=app@'%' EVENT app.plain DISABLE");
    seconds(2.5);
    lab.run(&["ctl", "switchover", "--to", "db2", "--yes"]);
    ticks_from(&lab, "db2", &["mighty"]);
    lab.wait("all is well again", SOON, Lab::is_healthy);
    seconds(2.5);
    assert!(!statuses(&lab, "db2")["plain"].eq("ENABLED"), "{:?}", statuses(&lab, "db2"));
    lab.sql("db2", "SET GLOBAL event_scheduler=OFF");
    seconds(5.0);
    assert_eq!(lab.sql("db2", "SELECT @@event_scheduler"), "OFF", "{}", lab.log());
    lab.sql("db2", "SET GLOBAL event_scheduler=ON");
    seconds(2.5);

    // A restart of the primary in place: its agent starts it without events, and they run again.
    assert!(lab.is_healthy(), "{}", lab.sentence());
    assert_eq!(ticks(&lab, "db2").iter().filter(|tick| tick.who == "off").count(), 0);
    each_by_one_server_at_a_time(&lab, "db2");
    assert!(!lab.run(&["ctl", "history", "--limit", "20"]).contains("set back"), "a server wrote on its own");
    let count = |host: &str| lab.sql(host, "SELECT COUNT(*), MAX(id) FROM app.tick WHERE id <= 10");
    assert_eq!(count("db1"), count("db2"));
}

/// The last three of each are from that server, which leads.
fn ticks_from(lab: &Lab, host: &str, whose: &[&str]) {
    let server = number(host);
    lab.wait(&format!("ticks from {host}"), SOON, |lab| {
        let ticks = ticks(lab, host);
        whose.iter().all(|who| {
            let last = ticks.iter().rev().filter(|tick| tick.who == *who).take(3);
            last.filter(|tick| tick.server == server).count() == 3
        })
    });
}

/// Enabled there and running; set aside everywhere else, and nothing is written on the side.
fn only_on(lab: &Lab, primary: &str) {
    for host in ["db1", "db2", "db3"] {
        lab.wait(&format!("{host} has its events as it should"), SOON, |lab| {
            let leads = host == primary;
            let enabled = statuses(lab, host).values().filter(|status| *status == "ENABLED").count();
            enabled == if leads { 2 } else { 0 }
        });
    }
    assert_eq!(lab.sql(primary, "SELECT @@event_scheduler"), "ON");
    assert_ne!(statuses(lab, primary)["off"], "ENABLED");
    each_by_one_server_at_a_time(lab, primary);
    for host in ["db1", "db2", "db3"] {
        let member = lab.member(host).unwrap();
        assert!(member["errant"].is_null() || member["errant"] == "", "{member}");
    }
}

/// Nobody ticks any more once another one has begun. One server may tick twice at once: as its scheduler starts, for the past and then
/// for its turn.
fn each_by_one_server_at_a_time(lab: &Lab, primary: &str) {
    let all = ticks(lab, primary);
    for who in ["plain", "mighty"] {
        let mut turns: Vec<u32> = all.iter().filter(|tick| tick.who == who).map(|tick| tick.server).collect();
        turns.dedup();
        let led = if who == "plain" { 3 } else { 4 };
        assert!(turns.len() <= led, "{who}: {turns:?}");
    }
}

fn ticks(lab: &Lab, host: &str) -> Vec<Tick> {
    let asked = "SELECT who, server, CAST(UNIX_TIMESTAMP(at) * 1000000 AS SIGNED) FROM app.tick ORDER BY at";
    let (_, rows) = lab.attempt(&["sql", host, asked]);
    let row = |line: &str| {
        let mut words = line.split('\t');
        let (who, server, at) = (words.next()?, words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        Some(Tick { who: who.to_owned(), server, at })
    };
    rows.lines().filter_map(row).collect()
}

fn statuses(lab: &Lab, host: &str) -> BTreeMap<String, String> {
    let rows =
        lab.sql(host, "SELECT EVENT_NAME, STATUS FROM information_schema.EVENTS WHERE EVENT_SCHEMA='app'");
    let pair = |line: &str| line.split_once('\t').map(|(name, status)| (name.to_owned(), status.to_owned()));
    rows.lines().filter_map(pair).collect()
}

/// From the last tick of the primary before to the first of this one, of whichever event waited longer.
fn longest_gap(lab: &Lab, primary: &str) -> Duration {
    let all = ticks(lab, primary);
    let of = |who: &str| {
        let own: Vec<&Tick> = all.iter().filter(|tick| tick.who == who).collect();
        let change = own.windows(2).rev().find(|pair| pair[0].server != pair[1].server);
        change.map_or(0, |pair| pair[1].at - pair[0].at)
    };
    let longest = Duration::from_micros(of("plain").max(of("mighty")).unsigned_abs());
    assert!(longest < TICK * 8, "no tick for {longest:?}");
    longest
}

fn number(host: &str) -> u32 {
    host.trim_start_matches("db").parse().unwrap()
}
