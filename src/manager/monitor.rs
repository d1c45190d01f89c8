//! One probe loop per server; no probe waits for another, so five silent hosts never slow a sixth. Every look, good or bad, is
//! an observation of the same shape.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::event::Event;
use crate::clock;
use crate::model::instance::InstanceId;
use crate::model::observation::{Observation, Unseen, Vantage};
use crate::model::policy::Policy;
use crate::mysql::{Account, Connection, Target, Tls, probe};

/// What a probe loop needs.
#[derive(Debug, Clone)]
pub(super) struct Watched {
    pub(super) instance: InstanceId,
    pub(super) admin: Account,
    pub(super) tls: Tls,
    pub(super) policy: Policy,
    /// The open connection leads to another server: the next look opens a new one.
    pub(super) reconnect: Arc<AtomicBool>,
}

/// Asks one server every `poll_every`, and at once when `nudge` says so, until stopped. Says `reconnected` with each new connection: the
/// server may have been started anew.
pub(super) async fn watch(
    watched: Watched,
    events: mpsc::Sender<Event>,
    (nudge, reconnected): (Arc<Notify>, Arc<Notify>),
    stop: CancellationToken,
) {
    let mut prober = Prober { watched, connection: None, reconnected };
    let mut tick = interval(prober.watched.policy.poll_every);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
            () = nudge.notified() => {}
        }
        let look = prober.look().await;
        if events.send(Event::Look(Box::new(look))).await.is_err() {
            return;
        }
    }
}

struct Prober {
    watched: Watched,
    connection: Option<Connection>,
    reconnected: Arc<Notify>,
}

impl Prober {
    async fn look(&mut self) -> Observation {
        if self.watched.reconnect.swap(false, Ordering::Relaxed) {
            self.connection = None;
        }
        let seen = self.ask().await;
        if seen.is_err() {
            self.connection = None;
        }
        Observation { of: self.watched.instance.clone(), from: Vantage::Manager, at: clock::now(), seen }
    }

    async fn ask(&mut self) -> Result<crate::model::report::Report, Unseen> {
        // Slower than this is no answer: the next look must not wait for it.
        let deadline = Instant::now() + self.watched.policy.poll_every.max(Duration::from_millis(500));
        let connection = match self.connection.take().filter(Connection::is_open) {
            Some(open) => open,
            None => {
                let target = Target::from(&self.watched.instance);
                let opened =
                    Connection::open(&target, &self.watched.admin, &self.watched.tls, None, deadline).await?;
                self.reconnected.notify_one();
                opened
            }
        };
        let connection = self.connection.insert(connection);
        probe::report(connection, deadline).await
    }
}

/// Longest sleep of a sentinel's question; it ends at once when the server does.
const SENTINEL_SLEEP: Duration = Duration::from_secs(20);

/// Holds a question open at the primary, so that the end of its process is an event and not a poll: the kernel closes the
/// connection, and the answer is "lost" in the same millisecond.
pub(super) async fn sentinel(
    watched: Watched,
    events: mpsc::Sender<Event>,
    nudge: Arc<Notify>,
    stop: CancellationToken,
) {
    let pause = watched.policy.ping_every;
    loop {
        let lost = tokio::select! {
            () = stop.cancelled() => return,
            lost = hold_open(&watched) => lost,
        };
        if lost {
            let look = Observation {
                of: watched.instance.clone(),
                from: Vantage::Manager,
                at: clock::now(),
                seen: Err(Unseen::Lost),
            };
            if events.send(Event::Look(Box::new(look))).await.is_err() {
                return;
            }
            nudge.notify_one();
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(pause) => {}
        }
    }
}

/// Whether an established session broke off. Not being able to open one is the probe loop's news.
async fn hold_open(watched: &Watched) -> bool {
    let deadline = Instant::now() + watched.policy.statement;
    let target = Target::from(&watched.instance);
    let Ok(mut connection) = Connection::open(&target, &watched.admin, &watched.tls, None, deadline).await
    else {
        return false;
    };
    loop {
        let sql = format!("DO SLEEP({})", SENTINEL_SLEEP.as_secs());
        let deadline = Instant::now() + SENTINEL_SLEEP + watched.policy.statement;
        match connection.query(&sql, deadline).await {
            Ok(_) => {}
            Err(error) => return error.unseen == Unseen::Lost,
        }
    }
}

/// Pings on an open connection every `ping_every`; a failure nudges the probe loop, which says how.
pub(super) async fn ping(watched: Watched, nudge: Arc<Notify>, stop: CancellationToken) {
    let mut tick = interval(watched.policy.ping_every);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut connection: Option<Connection> = None;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        let deadline = Instant::now() + watched.policy.ping_every * 2;
        let alive = match &mut connection {
            Some(open) => open.ping(deadline).await.is_ok(),
            None => {
                let target = Target::from(&watched.instance);
                let opening = Connection::open(&target, &watched.admin, &watched.tls, None, deadline);
                connection = timeout(watched.policy.ping_every * 2, opening).await.ok().and_then(Result::ok);
                connection.is_some()
            }
        };
        if !alive {
            connection = None;
            nudge.notify_one();
        }
    }
}
