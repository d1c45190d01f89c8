//! Being told: every change of verdict or decision, and every recovery's begin and end, reach a person's program or webhook. One
//! worker, a bounded queue, a deadline for each, and the result kept. It never holds up a cluster, and carries no secret.

pub(crate) mod exec;
mod webhook;

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::OnEvent;
use crate::decide::plan::PlanKind;
use crate::execute::Outcome;
use crate::model::cluster::ClusterName;
use crate::model::instance::InstanceId;
use crate::model::time::millis;
use crate::model::verdict::Verdict;
use crate::store::Store;

/// Notices that may wait; past it the newest are dropped, and that is logged.
const QUEUE: usize = 64;
/// Longest delivery.
const DEADLINE: Duration = Duration::from_secs(10);
/// Pauses between attempts at a webhook. A program is started once: what it did before it failed is not known.
const AGAIN: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(5)];
/// What is still waiting at the end of the service may take so long.
const LAST: Duration = Duration::from_secs(2);

/// What a notice is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Occasion {
    /// The verdict or the decision changed.
    Decision,
    /// Something should be done, and is refused.
    Refused,
    RecoveryBegan,
    RecoveryEnded,
    /// This manager does not lead, or leads again.
    Leadership,
}

/// How soon somebody should look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Urgency {
    Info,
    Warning,
    Critical,
}

/// What is told: JSON on a program's input, the body of a webhook's request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Notice {
    pub at: DateTime<Utc>,
    pub cluster: ClusterName,
    pub occasion: Occasion,
    pub urgency: Urgency,
    /// What, of whom, why, what next.
    pub sentence: String,
    pub verdict: Verdict,
    pub primary: Option<InstanceId>,
    pub evidence: Vec<String>,
    /// Why nothing is done, or why it failed.
    pub reasons: Vec<String>,
    pub recovery: Option<RecoveryNotice>,
}

/// The recovery a notice is about.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RecoveryNotice {
    pub id: String,
    pub kind: PlanKind,
    pub about: InstanceId,
    pub title: String,
    /// `None` while it runs.
    pub outcome: Option<Outcome>,
    #[serde(rename = "took_ms", with = "millis::option")]
    pub took: Option<Duration>,
}

/// A notice and what became of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Told {
    pub notice: Notice,
    /// "exec /path" or "webhook": never its address, which may hold a key.
    pub to: String,
    #[serde(rename = "took_ms", with = "millis")]
    pub took: Duration,
    /// Why it was not delivered; `None` when it was.
    pub trouble: Option<String>,
}

/// Where notices go in. Clones share the queue.
#[derive(Debug, Clone)]
pub struct Notifier(mpsc::Sender<Notice>);

impl Notifier {
    /// Starts the worker. Whom it tells is looked up for each notice, so that a reload counts at once.
    pub fn start(
        target: watch::Receiver<Option<OnEvent>>,
        store: Store,
        tracker: &TaskTracker,
        stop: &CancellationToken,
    ) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE);
        tracker.spawn(work(waiting, target, store, stop.clone()));
        Self(queue)
    }

    /// Puts a notice into the queue; never waits.
    pub fn tell(&self, notice: Notice) {
        if let Err(error) = self.0.try_send(notice) {
            let (mpsc::error::TrySendError::Full(notice) | mpsc::error::TrySendError::Closed(notice)) = error;
            tracing::error!(cluster = %notice.cluster, notice = notice.sentence, "nobody is told: {QUEUE} notices wait already; look at on_event's program or webhook");
        }
    }
}

async fn work(
    mut waiting: mpsc::Receiver<Notice>,
    target: watch::Receiver<Option<OnEvent>>,
    store: Store,
    stop: CancellationToken,
) {
    loop {
        let notice = tokio::select! {
            notice = waiting.recv() => notice,
            () = stop.cancelled() => break,
        };
        let Some(notice) = notice else { return };
        deliver(notice, &target, &store, &stop).await;
    }
    // What was known before the end is still told, in a moment's time.
    let rest = async {
        while let Ok(notice) = waiting.try_recv() {
            deliver(notice, &target, &store, &stop).await;
        }
    };
    if timeout(LAST, rest).await.is_err() {
        tracing::warn!("the service ends, and not everybody was told of the last notices");
    }
}

async fn deliver(
    notice: Notice,
    target: &watch::Receiver<Option<OnEvent>>,
    store: &Store,
    stop: &CancellationToken,
) {
    let Some(target) = target.borrow().clone() else { return };
    let Ok(json) = serde_json::to_vec(&notice) else { return };
    let began = Instant::now();
    let (to, result) = match &target {
        OnEvent::Exec(path) => {
            (format!("exec {}", path.display()), exec::run(path, &json, began + DEADLINE).await)
        }
        OnEvent::Webhook(url) => ("webhook".to_owned(), post(url, &json, stop).await),
    };
    let trouble = result.err();
    if let Some(why) = &trouble {
        tracing::error!(cluster = %notice.cluster, to, why, "nobody was told");
    }
    let told = Told { notice, to, took: began.elapsed(), trouble };
    if let Err(error) = store.save_told(told).await {
        tracing::error!(error = %error, "who was told is not written down");
    }
}

/// Posted again after a failure, as often as there are pauses; at the service's end only once.
async fn post(url: &secrecy::SecretString, json: &[u8], stop: &CancellationToken) -> Result<(), String> {
    let mut pauses = AGAIN.into_iter();
    loop {
        let result = webhook::post(url, json, DEADLINE).await;
        let Some(pause) = pauses.next().filter(|_| result.is_err()) else { return result };
        tokio::select! {
            () = sleep(pause) => {}
            () = stop.cancelled() => return result,
        }
    }
}

#[cfg(test)]
mod tests;
