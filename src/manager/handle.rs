//! The outside of a cluster's task: what it shows, and the way to ask it something.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout_at};

use super::event::{Ask, Event};
use super::rolling::Rolling;
use super::snapshot::Snapshot;
use crate::execute::journal::Recovery;
use crate::model::cluster::ClusterName;

/// How long an asker waits for the loop's answer.
const ANSWER: Duration = Duration::from_secs(5);

/// One cluster, for API and metrics.
#[derive(Debug, Clone)]
pub struct ClusterHandle {
    pub name: ClusterName,
    /// What the manager knows and thinks, replaced at each turn of the loop.
    pub board: watch::Receiver<Arc<Snapshot>>,
    /// The recovery that runs, or the last one since this manager started.
    pub recovery: watch::Receiver<Option<Arc<Recovery>>>,
    /// Whether somebody's command goes round its servers.
    pub rolling: Arc<Rolling>,
    pub(super) events: mpsc::Sender<Event>,
}

impl ClusterHandle {
    /// The outside of a loop that shows on `board` and `recovery` and hears `events`.
    pub fn new(
        name: ClusterName,
        board: watch::Receiver<Arc<Snapshot>>,
        recovery: watch::Receiver<Option<Arc<Recovery>>>,
        events: mpsc::Sender<Event>,
    ) -> Self {
        Self { name, board, recovery, rolling: Arc::default(), events }
    }

    /// Sends an ask made with its answer's sender, and waits for the answer.
    ///
    /// # Errors
    /// When the cluster's loop has ended, or does not answer within 5 s.
    pub async fn ask<T>(&self, make: impl FnOnce(oneshot::Sender<T>) -> Ask) -> Result<T, String> {
        let (answer, answered) = oneshot::channel();
        let deadline = Instant::now() + ANSWER;
        let asking = async {
            let ended = || format!("the task of {} has ended; restart mha-manager", self.name);
            self.events.send(Event::Ask(make(answer))).await.map_err(|_| ended())?;
            answered.await.map_err(|_| ended())
        };
        let late = || format!("the task of {} did not answer within {} s", self.name, ANSWER.as_secs());
        timeout_at(deadline, asking).await.unwrap_or_else(|_| Err(late()))
    }
}
