//! The agents' words: one stream per member, kept up, told who belongs to the cluster each time it is.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::event::Event;
use super::leadership::Leadership;
use crate::agent::client::AgentClient;
use crate::clock;
use crate::model::instance::InstanceId;
use crate::model::observation::{Probe, Vantage};

/// An agent says something at least every 500 ms; silence past this is a broken stream.
const SILENT: Duration = Duration::from_millis(1_600);
/// Deadline of one call.
const CALL: Duration = Duration::from_secs(1);
/// Between two attempts to reach an agent.
const AGAIN: Duration = Duration::from_millis(250);

/// Listens to one agent until stopped.
pub(super) async fn listen(
    instance: InstanceId,
    client: Arc<AgentClient>,
    leadership: Arc<Leadership>,
    events: mpsc::Sender<Event>,
    stop: CancellationToken,
) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = one_stream(&instance, &client, &leadership, &events) => {}
        }
        if events.send(Event::AgentLost(instance.clone())).await.is_err() {
            return;
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(AGAIN) => {}
        }
    }
}

async fn one_stream(
    instance: &InstanceId,
    client: &AgentClient,
    leadership: &Leadership,
    events: &mpsc::Sender<Event>,
) {
    let mut stream = match client.events(CALL).await {
        Ok(stream) => stream,
        Err(error) => {
            tracing::debug!(%instance, %error, "agent not reached");
            return;
        }
    };
    if let Err(error) = leadership.introduce(instance).await {
        tracing::warn!(%instance, %error, "the agent was not told who belongs to the cluster");
    }
    loop {
        match stream.next(SILENT).await {
            Ok(status) => {
                if events.send(Event::Agent(instance.clone(), Box::new(status))).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::info!(%instance, %error, "the agent's stream broke");
                return;
            }
        }
    }
}

/// Asks an agent to probe `primary` from its host.
pub(super) async fn probe(
    client: Arc<AgentClient>,
    host: String,
    primary: InstanceId,
    events: mpsc::Sender<Event>,
) {
    let Ok(outcome) = client.probe(&primary, CALL).await else { return };
    let probe = Probe { from: Vantage::Agent(host), of: primary, at: clock::now(), outcome };
    // A manager that is stopping needs no more news.
    let _ = events.send(Event::Probe(probe)).await;
}
