//! Threads that somebody kills or holds up: what a script killed runs again soon after its end, and a replica that cannot be stopped keeps
//! nobody from leading.

use std::process::Child;
use std::time::Duration;

use crate::lab::{Lab, SOON, now_us};
use crate::{Session, client_of, cluster, nothing_lost};

/// All threads that send a stream, and all sessions of this program's accounts, every 300 ms.
const SCRIPT: &str = r#"end=$((SECONDS + 10))
while [ $SECONDS -lt $end ]; do
    "$@" -N -B -e "SELECT CONCAT('KILL ', id, ';') FROM information_schema.processlist
        WHERE command LIKE 'Binlog Dump%' OR user LIKE 'mha%'" | "$@" --force 2>/dev/null
    sleep 0.3
done"#;

/// What was killed last is mended within two seconds; a look at it takes part of a third.
const MENDED: Duration = Duration::from_secs(3);

#[test]
#[ignore = "the other family runs in the gate: scripts/test live-more"]
fn mariadb_what_a_script_kills_is_mended_soon_after_its_end() {
    what_a_script_kills_is_mended_soon_after_its_end("mariadb");
}

#[test]
fn mysql_what_a_script_kills_is_mended_soon_after_its_end() {
    what_a_script_kills_is_mended_soon_after_its_end("mysql");
}

fn what_a_script_kills_is_mended_soon_after_its_end(flavor: &str) {
    let Some(mut lab) = cluster(flavor) else { return };
    let begun = now_us();
    let kills = |host: &str| -> Child {
        let client = client_of(&lab, host);
        let script = ["exec", host, "bash", "-c", SCRIPT, "kills"];
        lab.spawn(&[&script[..], &client.each_ref().map(String::as_str)].concat())
    };
    let running = ["db1", "db2", "db3"].map(kills);
    for mut child in running {
        assert!(child.wait().unwrap().success());
    }
    let ended = now_us();
    let both_follow =
        |lab: &Lab| ["db2", "db3"].iter().all(|host| lab.source(host).as_deref() == Some("db1"));
    let followed = lab.wait("both replicas follow", SOON, both_follow);
    lab.wait("writes after it", SOON, |lab| lab.acks(1).last().is_some_and(|ack| ack.0 > ended));
    let gap = lab.longest_gap(1, ended);
    println!("{flavor}: replicas after {} ms, no write for {} ms", followed.as_millis(), gap.as_millis());
    assert!(gap < MENDED, "no write for {gap:?}; {}", lab.log());
    assert!(followed < MENDED, "the replicas follow after {followed:?}; {}", lab.log());
    lab.wait("all are well", SOON, Lab::is_healthy);
    assert_eq!((lab.primary().as_deref(), lab.generation()), (Some("db1"), Some(1)), "{}", lab.log());
    nothing_lost(&mut lab, "db1", begun, 1);
}

#[test]
fn mariadb_a_replica_that_does_not_stop_delays_no_failover() {
    a_replica_that_does_not_stop_delays_no_failover("mariadb", "STOP SLAVE");
}

#[test]
#[ignore = "the other family runs in the gate: scripts/test live-more"]
fn mysql_a_replica_that_does_not_stop_delays_no_failover() {
    a_replica_that_does_not_stop_delays_no_failover("mysql", "STOP REPLICA");
}

fn a_replica_that_does_not_stop_delays_no_failover(flavor: &str, stop: &str) {
    let Some(mut lab) = cluster(flavor) else { return };
    let held = Session::open(&lab, "db2", "LOCK TABLES app.writes READ");
    let waits =
        "SELECT COUNT(*) > 0 FROM information_schema.processlist WHERE state LIKE 'Waiting for table%lock'";
    lab.wait("db2 cannot apply", SOON, |lab| lab.sql("db2", waits) == "1");
    let mut stopping = lab.spawn(&["sql", "db2", stop]);
    lab.wait("it is named", SOON, |lab| {
        lab.sentence().contains("db2: stopping its replication has hung for")
    });
    let fault = now_us();
    lab.run(&["kill9", "db1"]);
    let took = lab.wait("db3 leads", SOON, |lab| lab.primary().as_deref() == Some("db3"));
    println!("{flavor}: db3 leads {} ms after the fault", took.as_millis());
    // A replica that is waited for costs five seconds.
    assert!(took < Duration::from_secs(3), "{took:?}; {}", lab.log());
    lab.wait("writes on it", SOON, |lab| lab.acks(1).iter().any(|ack| ack.1 == 3));
    held.close();
    stopping.wait().unwrap();
    lab.wait("the old primary follows", SOON, |lab| lab.source("db1").as_deref() == Some("db3"));
    nothing_lost(&mut lab, "db3", fault, 1);
}
