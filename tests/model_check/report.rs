//! A check, and what it came to.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::explore::{Explored, POSSIBLE, explore};
use super::world::Bounds;

#[derive(Debug)]
pub(crate) struct Report {
    bounds: Bounds,
    explored: Explored,
    took: Duration,
}

/// Visits the states within `bounds`, as far as the time allows.
#[expect(clippy::disallowed_methods, reason = "how long a check took")]
pub(crate) fn check(bounds: Bounds, time: Duration) -> Report {
    let started = Instant::now();
    let explored = explore(bounds, time);
    Report { bounds, explored, took: started.elapsed() }
}

impl Report {
    /// What must be possible, and was not found.
    fn unreached(&self) -> Vec<&'static str> {
        POSSIBLE
            .into_iter()
            .zip(self.explored.found)
            .filter(|(_, found)| !found)
            .map(|(name, _)| name)
            .collect()
    }

    pub(crate) fn json(&self) -> Value {
        let Bounds { voters, members, ticks, lease, fence, managers, faults, clocks } = self.bounds;
        json!({
            "voters": voters,
            "members": members,
            "ticks": ticks,
            "lease": lease,
            "fence": fence,
            "managers": managers,
            "clocks": clocks,
            "agent_restarts": faults.agent_restarts,
            "server_crashes": faults.server_crashes,
            "power_cuts": faults.power_cuts,
            "withdrawals": faults.withdrawals,
            "lost_answers": faults.lost_answers,
            "late_copies": faults.late_copies,
            "states": self.explored.states,
            "depth": self.explored.depth,
            "local_states": self.explored.local.0,
            "local_steps": self.explored.local.1,
            "seconds": (self.took.as_secs_f64() * 10.0).round() / 10.0,
            "exhaustive": self.explored.exhaustive,
            "violation": self.explored.violation,
            "unreached": self.unreached(),
        })
    }

    /// Nothing that was visited breaks the property.
    pub(crate) fn assert_safe(&self) {
        assert!(
            self.explored.violation.is_none(),
            "{}",
            self.explored.violation.as_deref().unwrap_or_default()
        );
    }

    /// That was all there is. For bounds that are too short for all that must be possible.
    pub(crate) fn assert_all_safe(&self) {
        println!("{}", self.json());
        self.assert_safe();
        assert!(self.explored.exhaustive, "the time was over first: {}", self.json());
    }

    /// And what must be possible was seen: otherwise the check would say nothing.
    pub(crate) fn assert_exhaustive(&self) {
        self.assert_all_safe();
        assert!(self.unreached().is_empty(), "never seen: {}", self.json());
    }
}
