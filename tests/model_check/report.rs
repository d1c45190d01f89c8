//! A check, and what it came to.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use stateright::{Checker, Model};

use super::world::Bounds;

/// The one property that must hold in every state; its violation says which part of it does not.
pub(crate) const SAFE: &str = "one writer, one holder of a generation, no promise forgotten";

#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) threads: usize,
    pub(crate) time: Duration,
}

#[derive(Debug)]
pub(crate) struct Report {
    bounds: Bounds,
    states: usize,
    depth: usize,
    took: Duration,
    /// Every state within the bounds was visited.
    exhaustive: bool,
    violation: Option<String>,
    /// What must be possible, and was not found.
    unreached: Vec<&'static str>,
}

/// Visits the states within `bounds`, breadth first, so that the shortest way to a violation is found.
pub(crate) fn check(bounds: Bounds, limits: Limits) -> Report {
    #[expect(
        clippy::disallowed_methods,
        reason = "how long a check took, as the checker's own limit counts it"
    )]
    let started = Instant::now();
    let checker = bounds.checker().threads(limits.threads).timeout(limits.time).spawn_bfs().join();
    let violation = checker.discovery(SAFE).map(|path| {
        let what = path.last_state().violation.clone().unwrap_or_default();
        let clocks = format!("{:b}", path.last_state().fast);
        let actions = path.into_actions();
        let steps = actions.iter().map(|action| format!("  {action:?}"));
        format!("{what}, with fast clocks {clocks}, after\n{}", steps.collect::<Vec<_>>().join("\n"))
    });
    let found = checker.discoveries();
    let properties = checker.model().properties();
    let reachable = properties.iter().map(|property| property.name).filter(|name| *name != SAFE);
    Report {
        bounds,
        states: checker.unique_state_count(),
        depth: checker.max_depth(),
        took: started.elapsed(),
        exhaustive: violation.is_none() && started.elapsed() < limits.time,
        violation,
        unreached: reachable.filter(|name| !found.contains_key(name)).collect(),
    }
}

impl Report {
    pub(crate) fn json(&self) -> Value {
        let Bounds { voters, members, ticks, managers, faults, all_clocks } = self.bounds;
        json!({
            "voters": voters,
            "members": members,
            "ticks": ticks,
            "managers": managers,
            "all_clocks": all_clocks,
            "agent_restarts": faults.agent_restarts,
            "server_crashes": faults.server_crashes,
            "power_cuts": faults.power_cuts,
            "withdrawals": faults.withdrawals,
            "lost_answers": faults.lost_answers,
            "late_copies": faults.late_copies,
            "states": self.states,
            "depth": self.depth,
            "seconds": self.took.as_secs_f64(),
            "exhaustive": self.exhaustive,
            "violation": self.violation,
            "unreached": self.unreached,
        })
    }

    /// Nothing that was visited breaks the property. If that was all there is, what must be possible was seen: otherwise the check would
    /// say nothing.
    pub(crate) fn assert_safe(&self) {
        if let Some(violation) = &self.violation {
            panic!("{violation}");
        }
        let reached = !self.exhaustive || self.unreached.is_empty();
        assert!(reached, "never seen: {:?}\n{}", self.unreached, self.json());
    }

    pub(crate) fn assert_exhaustive(&self) {
        self.assert_safe();
        self.assert_found_safe();
    }

    /// The same where a run is too short for all that must be possible.
    pub(crate) fn assert_found_safe(&self) {
        println!("{}", self.json());
        assert!(self.violation.is_none(), "{}", self.violation.as_deref().unwrap_or_default());
        assert!(self.exhaustive, "the time was over first: {}", self.json());
    }
}
