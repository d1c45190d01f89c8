//! Scheduled events of the cluster's servers: read beside the probes, on connections of their own, for reading them may wait behind
//! somebody who changes one; and what the primary's say is recorded. What is done about them is decided elsewhere.

use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::Part;
use super::cluster_task::ClusterTask;
use super::event::Event;
use super::monitor::Watched;
use crate::clock;
use crate::decide::events::{Lesson, learn, mends};
use crate::decide::plan::Plan;
use crate::model::events::EventsPolicy;
use crate::model::record::RecordChange;
use crate::model::time::Moment;
use crate::mysql::{ClientError, Connection, Target, events};

/// Asks one server for its events every `poll_every` until stopped. One that does not answer says nothing here: that is the probe's news.
pub(super) async fn watch(watched: Watched, told: mpsc::Sender<Event>, stop: CancellationToken) {
    if watched.policy.events == EventsPolicy::Leave {
        return;
    }
    let mut tick = interval(watched.policy.poll_every);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut connection = None;
    let mut last_why = None;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        let asked = clock::now();
        match ask(&watched, &mut connection).await {
            Ok(events) => {
                last_why = None;
                let event = Event::Events(watched.instance.clone(), asked, Box::new(events));
                if told.send(event).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                // A server that refuses does so every time.
                if last_why != error.code && error.code.is_some() {
                    tracing::warn!(instance = %watched.instance, error = %error, "its scheduled events were not read");
                }
                last_why = error.code;
            }
        }
    }
}

async fn ask(
    watched: &Watched,
    slot: &mut Option<Connection>,
) -> Result<crate::model::events::ServerEvents, ClientError> {
    let deadline = Instant::now() + watched.policy.statement;
    let mut connection = match slot.take().filter(Connection::is_open) {
        Some(open) => open,
        None => {
            let target = Target::from(&watched.instance);
            Connection::open(&target, &watched.admin, &watched.tls, None, deadline).await?
        }
    };
    let seen = events::read(&mut connection, deadline).await;
    *slot = Some(connection).filter(Connection::is_open);
    seen
}

impl ClusterTask {
    /// Records what the primary teaches, while nobody changes anything.
    pub(super) async fn learn_events(&mut self) {
        if self.operations.is_running() || self.part != Part::Leads || self.led.is_err() || self.to_resume {
            return;
        }
        if self.view.cluster.policy.events == EventsPolicy::Leave {
            if self.view.record.as_ref().is_some_and(|record| record.events.is_some())
                && let Err(why) = self.amend(RecordChange::Events { wanted: None }).await
            {
                tracing::error!(cluster = %self.view.cluster.name, why, "what was wanted of events is still recorded");
            }
            return;
        }
        let Some(Lesson { wanted, settled }) = learn(&self.view, &self.intents) else { return };
        let primary = self.view.primary().cloned();
        if let (Some(primary), Some(at)) = (primary, settled) {
            self.intents.events_settled = Some((primary, at));
        }
        let Some(wanted) = wanted else { return };
        let (scheduler, idle) = (wanted.scheduler, wanted.idle.len());
        match self.amend(RecordChange::Events { wanted: Some(wanted) }).await {
            Ok(()) => tracing::info!(
                cluster = %self.view.cluster.name,
                scheduler,
                idle,
                "scheduled events are wanted as the primary has them"
            ),
            Err(why) => {
                tracing::error!(cluster = %self.view.cluster.name, why, "what is wanted of events was not recorded")
            }
        }
    }

    /// So that what fails is not tried again at once.
    pub(super) fn note_events_try(&mut self, plan: &Plan, now: Moment) {
        if let Some(instance) = mends(plan) {
            self.intents.note_events_try(instance, now);
        }
    }
}
