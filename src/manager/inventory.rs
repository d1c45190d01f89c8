//! What of a server is read now and then, beside the probes and never in their way: one connection for each reading, one at a time. A new
//! connection of the probe is a reason to read at once, for the filters of a binary log change with a restart only.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::cluster_task::ClusterTask;
use super::event::Event;
use super::monitor::Watched;
use crate::clock;
use crate::decide::plan::PlanKind;
use crate::model::inventory::Inventory;
use crate::model::observation::Unseen;
use crate::model::time::Moment;
use crate::mysql::{ClientError, Connection, Target, inventory};

/// Between two readings.
const EVERY: Duration = Duration::from_secs(60);
/// After a question that hung, unless the server was reached anew: its session waits on in the server until the disk has room.
const AFTER_HANG: Duration = Duration::from_secs(900);
/// Between two counts of tables.
const COUNT_EVERY: Duration = Duration::from_secs(600);
/// Longer than the server spends on it.
const COUNT_WITHIN: Duration = Duration::from_secs(8);

/// Reads one server until stopped. One that does not answer says nothing here: that is the probe's news.
pub(super) async fn watch(
    watched: Watched,
    told: mpsc::Sender<Event>,
    reconnected: Arc<Notify>,
    stop: CancellationToken,
) {
    let mut tick = interval(EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut reader =
        Reader { watched, known: Inventory::default(), counted_at: None, hung_at: None, last_why: None };
    loop {
        let pause = tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => AFTER_HANG,
            () = reconnected.notified() => EVERY,
        };
        if reader.hung_at.is_some_and(|at| at.elapsed() < pause) {
            continue;
        }
        if reader.read(&told).await.is_none() {
            return;
        }
    }
}

/// What is known of one server.
struct Reader {
    watched: Watched,
    known: Inventory,
    counted_at: Option<Instant>,
    hung_at: Option<Instant>,
    /// A server that refuses does so every time: logged once.
    last_why: Option<u16>,
}

impl Reader {
    /// `None` when the task that owns the cluster has ended.
    async fn read(&mut self, told: &mpsc::Sender<Event>) -> Option<()> {
        let asked = clock::now();
        let deadline = Instant::now() + self.watched.policy.statement;
        let target = Target::from(&self.watched.instance);
        let opened = Connection::open(&target, &self.watched.admin, &self.watched.tls, None, deadline).await;
        let Ok(mut connection) = opened else { return Some(()) };
        match inventory::binlog_filters(&mut connection, deadline).await {
            Ok(filters) => {
                self.known.binlog_filters = Some(filters);
                (self.hung_at, self.last_why) = (None, None);
            }
            Err(error) if error.unseen == Unseen::HungAfterLogin => self.hung_at = Some(Instant::now()),
            Err(error) => self.warn(&error, "the filters of its binary log were not read"),
        }
        // What matters for a promotion does not wait for a long count.
        self.tell(told, asked).await?;
        if connection.is_open() && self.counted_at.is_none_or(|at| at.elapsed() >= COUNT_EVERY) {
            let deadline = Instant::now() + COUNT_WITHIN;
            self.counted_at = Some(Instant::now());
            match inventory::plain_tables(&mut connection, deadline).await {
                Ok(tables) => self.known.tables = Some(tables),
                Err(error) => self.warn(&error, "its tables without transactions were not counted"),
            }
            self.tell(told, asked).await?;
        }
        connection.close(Instant::now() + self.watched.policy.statement).await;
        Some(())
    }

    async fn tell(&self, told: &mpsc::Sender<Event>, asked: Moment) -> Option<()> {
        let event = Event::Inventory(self.watched.instance.clone(), asked, Box::new(self.known.clone()));
        told.send(event).await.ok()
    }

    fn warn(&mut self, error: &ClientError, what: &str) {
        if self.last_why != error.code && error.code.is_some() {
            tracing::warn!(instance = %self.watched.instance, error = %error, "{what}");
        }
        self.last_why = error.code;
    }
}

impl ClusterTask {
    /// An adoption is the operator's word on every history.
    pub(super) fn after_adoption(&mut self) {
        if self.recovery.borrow().as_ref().is_some_and(|ended| ended.kind == PlanKind::Adopt) {
            self.view.forget_resets();
        }
    }
}
