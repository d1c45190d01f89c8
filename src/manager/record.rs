//! What the loop of a cluster reads from the record and writes to it. Nothing here decides.

use std::time::Duration;

use super::Part;
use super::cluster_task::ClusterTask;
use crate::clock;
use crate::decide::Decision;
use crate::decide::operation::everybody;
use crate::decide::standing::known_to_record;
use crate::execute::record::change_record;
use crate::model::record::RecordChange;

/// After a store that failed, so long later.
pub(super) const AGAIN: Duration = Duration::from_secs(5);

impl ClusterTask {
    /// Who leads is told as soon as that is recorded, not when the recovery has ended: what follows may take a while.
    pub(super) async fn follow_record(&mut self) {
        let entries = self
            .recovery
            .borrow()
            .as_ref()
            .filter(|recovery| self.operations.is_running() && recovery.has_registered())
            .map_or(0, |recovery| recovery.entries.len());
        if entries != 0 && entries != self.record_read_at {
            self.read_record().await;
        }
        self.record_read_at = entries;
    }

    /// What the running operation has begun: a look at one of those servers may show statements of its own.
    pub(super) fn note_own_statements(&mut self) {
        if !self.operations.is_running() {
            return;
        }
        let everybody = everybody(&self.view);
        let touched = self.recovery.borrow().as_ref().map(|running| running.touched(&everybody));
        self.view.own_statements.extend(touched.into_iter().flatten());
    }

    pub(super) async fn read_record(&mut self) {
        match self.store.record(&self.view.cluster.name).await {
            Ok(record) => self.view.record = record,
            Err(error) => tracing::error!(%error, "the record could not be read back"),
        }
    }

    /// Writes where something else is known than the record says, while nothing else changes the record.
    pub(super) async fn record_evidence(&mut self, decision: &Decision) {
        let now = clock::now();
        let leads = self.part == Part::Leads && self.led.is_ok() && !self.to_resume;
        let failed = self.evidence_failed_at.is_some_and(|at| now.since(at) < AGAIN);
        if !leads || failed || self.operations.is_running() {
            return;
        }
        let Some(known) = known_to_record(&self.view, decision) else { return };
        self.evidence_failed_at = None;
        if let Err(why) = self.amend(known).await {
            tracing::error!(cluster = %self.view.cluster.name, why, "what is known of the servers could not be recorded");
            self.evidence_failed_at = Some(now);
        }
    }

    /// A record that is not the newest is marked so before anything is decided by it.
    pub(super) async fn note_outdated(&mut self) {
        let Some(change) = self.view.outdated() else { return };
        if let Err(why) = self.amend(change).await {
            tracing::error!(cluster = %self.view.cluster.name, why, "that the record is not the newest could not be recorded");
            self.led = Err(format!("its record is not the newest, and that could not be recorded: {why}"));
            self.take_lead(AGAIN);
        }
    }

    /// Changes the record while nothing else does.
    pub(super) async fn amend(&mut self, change: RecordChange) -> Result<(), String> {
        if self.operations.is_running() {
            return Err("a recovery is running; try again when it has ended".to_owned());
        }
        let changed = change_record(&*self.world, &change, clock::wall()).await;
        self.view.record = Some(changed.map_err(|error| error.to_string())?);
        Ok(())
    }
}
