//! One switchover after the other under load, round all hosts: nothing is lost, and nothing grows.

use crate::lab::{Lab, SOON, now_us};
use crate::{cluster, seconds};

/// So many, unless `MHA_SWITCHOVERS` says otherwise.
const SWITCHOVERS: usize = 15;
/// Rounds before anything is measured: caches and pools fill.
const WARM: usize = 6;
const HOSTS: [&str; 3] = ["db1", "db2", "db3"];

#[test]
fn mariadb_many_switchovers_in_a_row() {
    many_switchovers_in_a_row("mariadb");
}

#[test]
fn mysql_many_switchovers_in_a_row() {
    many_switchovers_in_a_row("mysql");
}

fn many_switchovers_in_a_row(flavor: &str) {
    let Some(mut lab) = cluster(flavor) else { return };
    let many = std::env::var("MHA_SWITCHOVERS").map_or(SWITCHOVERS, |many| many.parse().unwrap());
    // No more than a replica applies on two cores that three servers share: one that lags is not switched to.
    lab.write(2, &["--connections", "8", "--rate", "150"]);
    let begin = now_us();
    let mut before = None;
    let mut gaps = Vec::new();
    for round in 0..many {
        if round == WARM {
            before = Some(Used::of(&lab));
        }
        let to = HOSTS[(round + 1) % HOSTS.len()];
        let since = now_us();
        lab.run(&["ctl", "switchover", "--to", to, "--yes"]);
        lab.wait("it leads, and all is well", SOON, |lab| {
            lab.is_healthy() && lab.primary().as_deref() == Some(to)
        });
        gaps.push(lab.longest_gap(1, since));
    }
    seconds(3.0);
    let after = Used::of(&lab);
    assert_eq!(lab.generation(), Some(1 + many as u64), "none was taken back");
    let last = HOSTS[many % HOSTS.len()];
    // The number of a server that never led: whose acknowledgements after the fault would be too many is asked of none.
    let found = lab.check(last, begin, 99);
    gaps.sort();
    println!(
        "{flavor}: {many} switchovers, {found}, longest pause of each p50 {} ms, max {} ms",
        gaps[gaps.len() / 2].as_millis(),
        gaps[gaps.len() - 1].as_millis()
    );
    for wrong in ["lost", "duplicated"] {
        assert_eq!(found[wrong], 0, "{found}");
    }
    let before = before.expect("more rounds than it takes to be warm");
    println!("before {before:?}, after {after:?}");
    before.has_not_grown_to(&after);
}

/// What a long run must not use up.
#[derive(Debug)]
struct Used {
    /// Megabytes and open descriptors of the manager, then of each agent.
    programs: Vec<(f64, usize)>,
    /// Of each server.
    connections: Vec<i64>,
}

impl Used {
    fn of(lab: &Lab) -> Self {
        let mut programs = vec![("mgr", "mha-manager")];
        programs.extend(HOSTS.map(|host| (host, "mha-agent")));
        let programs = programs
            .into_iter()
            .map(|(host, program)| (lab.usage(host, program).1, lab.descriptors(host, program)))
            .collect();
        let count = "SELECT COUNT(*) FROM information_schema.processlist WHERE user <> 'app'";
        let connections = HOSTS.map(|host| lab.sql(host, count).parse().unwrap()).into();
        Self { programs, connections }
    }

    /// Each round that leaked a connection or a descriptor would show: there are more rounds than what is let pass.
    fn has_not_grown_to(&self, after: &Self) {
        for (before, after) in self.programs.iter().zip(&after.programs) {
            assert!(after.0 < before.0 + 8.0, "memory: {before:?} became {after:?}");
            assert!(after.1 <= before.1 + 6, "descriptors: {before:?} became {after:?}");
        }
        for (before, after) in self.connections.iter().zip(&after.connections) {
            assert!(*after <= before + 6, "connections: {before} became {after}");
        }
    }
}
