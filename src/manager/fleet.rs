//! What all clusters of one manager go through at the same time. Many primaries lost within a minute have one likely cause, such as a
//! network, a rack or this manager's own host: each cluster's decision says so, and only so many failovers begin by themselves.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::cluster_task::ClusterTask;
use crate::clock;
use crate::decide::plan::{Plan, PlanKind};
use crate::model::cluster::ClusterName;
use crate::model::intent::AtOnce;
use crate::model::time::Moment;

/// Losses and failovers this long ago count as being at once.
const WINDOW: Duration = Duration::from_secs(60);

/// Shared by the tasks of all clusters.
#[derive(Debug)]
pub(super) struct Fleet {
    /// The most automatic failovers that begin within [`WINDOW`].
    limit: u32,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// Whose primary is lost, and since when it was last seen to be.
    lost: BTreeMap<ClusterName, Moment>,
    begun: VecDeque<Moment>,
}

impl Known {
    fn forget(&mut self, now: Moment) {
        self.lost.retain(|_, at| now.since(*at) < WINDOW);
        while self.begun.front().is_some_and(|at| now.since(*at) >= WINDOW) {
            self.begun.pop_front();
        }
    }
}

impl Fleet {
    pub(super) fn new(limit: u32) -> Self {
        Self { limit, known: Mutex::default() }
    }

    fn known(&self, now: Moment) -> MutexGuard<'_, Known> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.forget(now);
        known
    }

    /// The primary of that cluster is lost.
    pub(super) fn note_lost(&self, cluster: &ClusterName, now: Moment) {
        self.known(now).lost.insert(cluster.clone(), now);
    }

    /// What that cluster's decision has to know of the others.
    pub(super) fn at_once(&self, cluster: &ClusterName, now: Moment) -> AtOnce {
        let known = self.known(now);
        let oldest = known.begun.front().filter(|_| known.begun.len() as u32 >= self.limit);
        AtOnce {
            lost: known.lost.keys().filter(|name| *name != cluster).cloned().collect(),
            limit: self.limit,
            held_back: oldest.map(|at| WINDOW.saturating_sub(now.since(*at))),
        }
    }

    /// The last place that was taken is free again.
    fn give_place_back(&self) {
        self.known(clock::now()).begun.pop_back();
    }

    /// Takes a place for an automatic failover; false where none is left.
    pub(super) fn take_place(&self, now: Moment) -> bool {
        let mut known = self.known(now);
        let free = (known.begun.len() as u32) < self.limit;
        if free {
            known.begun.push_back(now);
        }
        free
    }
}

impl ClusterTask {
    /// It could not be begun.
    pub(super) fn give_place_back(&self, plan: &Plan) {
        if plan.kind == PlanKind::Isolate && self.intents.failover.is_none() {
            self.common.fleet.give_place_back();
        }
    }

    /// A failover that nobody asked for needs a place among those of all clusters.
    pub(super) fn has_place(&self, plan: &Plan, now: Moment) -> bool {
        plan.kind != PlanKind::Isolate || self.intents.failover.is_some() || self.common.fleet.take_place(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(n: u32) -> ClusterName {
        ClusterName(format!("c{n:02}"))
    }

    #[test]
    fn only_so_many_failovers_begin_at_once() {
        let fleet = Fleet::new(3);
        let mut now = Moment::ZERO + Duration::from_secs(100);
        for n in 0..12 {
            fleet.note_lost(&name(n), now);
        }
        let taken = (0..12).filter(|_| fleet.take_place(now)).count();
        assert_eq!(taken, 3);
        let seen = fleet.at_once(&name(0), now);
        assert_eq!((seen.lost.len(), seen.held_back), (11, Some(WINDOW)));
        now = now + Duration::from_secs(40);
        assert_eq!(fleet.at_once(&name(0), now).held_back, Some(Duration::from_secs(20)));
        now = now + Duration::from_secs(20);
        let seen = fleet.at_once(&name(0), now);
        assert_eq!((seen.lost.len(), seen.held_back), (0, None));
        assert!(fleet.take_place(now));
    }
}
