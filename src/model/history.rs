//! Whether a server's own history is still the one it was seen to have. Executed transactions become more, and the end of a binary log
//! goes forward: what shows anything else was reset by somebody's hand, or is another copy of the data.

use serde::{Deserialize, Serialize};

use super::gtid::GtidSet;
use super::instance::Flavor;
use super::job::Job;
use super::observation::{Access, Observation};
use super::report::Report;
use super::time::Moment;
use super::view::{ClusterView, Seen};

/// A server was seen to have forgotten its own history (`RESET MASTER`, `RESET BINARY LOGS AND GTIDS`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryReset {
    pub at: Moment,
    /// What it had executed before, which its binary log does not hold any more.
    pub had: GtidSet,
}

/// Whether the history of `now` does not follow that of `before`, which the same server said to the same looker earlier.
fn was_reset(before: &Report, now: &Report) -> bool {
    let lost = before.executed.minus(&now.executed);
    match now.identity.flavor {
        Flavor::MySql => !lost.is_empty(),
        // A whole domain may be deleted for good reasons, from the log or from the position. On a replica the next transaction that is
        // replicated brings back the appearance of the whole; the log itself goes back by a reset only.
        Flavor::MariaDb => {
            let back = match (&before.coordinates, &now.coordinates) {
                (Some(before), Some(now)) => now < before,
                (Some(_) | None, Some(_) | None) => false,
            };
            back || !lost.is_empty()
                && (now.executed.is_empty() || !lost.of_origins(&now.executed).is_empty())
        }
    }
}

impl Seen {
    /// Compares an own look with the answer to the one before: looks of one looker come in the order in which they were made. A closed
    /// server may be set back by its agent, and is compared with the primary before anybody relies on it; what restarted may have been
    /// rebuilt, or have lost what was not on its disk, which others look after.
    pub(super) fn note_history(&mut self, look: &Observation) {
        let previous =
            self.manager.take().and_then(|look| look.seen.ok()).or_else(|| self.answered_before.take());
        let agent = self.agent_now();
        let closed = agent.is_some_and(|agent| agent.access == Access::Closed);
        let rebuilt = agent.and_then(|agent| agent.job.as_ref()).is_some_and(Job::is_rebuild);
        let saved = agent.and_then(|agent| agent.extra.as_ref()).map(|saved| saved.set.clone());
        let Ok(now) = &look.seen else {
            self.answered_before = previous.filter(|_| !closed);
            return;
        };
        if self.reset.as_ref().is_some_and(|reset| now.purged.contains(&reset.had)) {
            // Its administrator has told it what it had, so its log is known to begin after that.
            self.reset = None;
        }
        let Some(before) = previous.filter(|_| !closed) else { return };
        if now.uptime < before.uptime {
            if rebuilt {
                self.reset = None;
            }
            return;
        }
        let lost = before.executed.minus(&now.executed);
        let set_back = !lost.is_empty() && saved.is_some_and(|saved| saved.contains(&lost));
        if self.reset.is_none() && !set_back && was_reset(&before, now) {
            self.reset = Some(HistoryReset { at: look.at, had: before.executed });
        }
    }
}

impl ClusterView {
    /// A set as a server says it, without the domains that are compared with nobody.
    pub fn without_foreign(&self, set: &GtidSet) -> GtidSet {
        set.without_domains(&self.seen.values().flat_map(|seen| seen.foreign.iter().copied()).collect())
    }
}
