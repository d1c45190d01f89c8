//! What this manager knows of the ackers, kept in the record for the one after it. Nothing here decides.

use std::time::Duration;

use super::Part;
use super::cluster_task::ClusterTask;
use crate::clock;
use crate::decide::Decision;
use crate::decide::standing::evidence_to_record;
use crate::model::record::RecordChange;

/// After a store that failed, so long later.
const AGAIN: Duration = Duration::from_secs(5);

impl ClusterTask {
    /// Writes where something else is known than the record says, while nothing else changes the record.
    pub(super) async fn record_evidence(&mut self, decision: &Decision) {
        let now = clock::now();
        let leads = self.part == Part::Leads && self.led.is_ok() && !self.to_resume;
        let failed = self.evidence_failed_at.is_some_and(|at| now.since(at) < AGAIN);
        if !leads || failed || self.operations.is_running() {
            return;
        }
        let Some(ackers) = evidence_to_record(&self.view, decision) else { return };
        self.evidence_failed_at = None;
        if let Err(why) = self.amend(RecordChange::Proven { ackers }).await {
            tracing::error!(cluster = %self.view.cluster.name, why, "what is known of the ackers could not be recorded");
            self.evidence_failed_at = Some(now);
        }
    }
}
