//! The agents' words: one stream per member, kept up, told who belongs to the cluster each time it is; and looks at a primary's port
//! from other hosts.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::event::Event;
use super::leadership::Leadership;
use crate::agent::client::{AgentClient, CallError};
use crate::agent::relearn;
use crate::agent::voter::{Promised, Votes};
use crate::agent::wire::{Electorate, Lead, ProbeReply};
use crate::clock;
use crate::model::ballot::{Ballot, Generation};
use crate::model::cluster::{ClusterName, Voter};
use crate::model::instance::InstanceId;
use crate::model::observation::{Probe, Vantage};
use crate::mysql::Target;
use crate::mysql::greeting::greeting;

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
        let elsewhere = tokio::select! {
            () = stop.cancelled() => return,
            elsewhere = one_stream(&instance, &client, &leadership, &events) => elsewhere,
        };
        if events.send(Event::AgentLost { instance: instance.clone(), elsewhere }).await.is_err() {
            return;
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(AGAIN) => {}
        }
    }
}

/// Hands on what the agent says until its stream breaks. Answers that another host's agent was reached, where that is why.
async fn one_stream(
    instance: &InstanceId,
    client: &AgentClient,
    leadership: &Leadership,
    events: &mpsc::Sender<Event>,
) -> Option<String> {
    let mut stream = match client.events(CALL).await {
        Ok(stream) => stream,
        Err(error) => {
            tracing::debug!(%instance, %error, "agent not reached");
            return matches!(error, CallError::WrongHost { .. }).then(|| error.to_string());
        }
    };
    if let Err(error) = leadership.introduce(instance).await {
        tracing::warn!(%instance, %error, "the agent was not told who belongs to the cluster");
    }
    loop {
        match stream.next(SILENT).await {
            Ok(status) => {
                if events.send(Event::Agent(instance.clone(), Box::new(status))).await.is_err() {
                    return None;
                }
            }
            Err(error) => {
                tracing::info!(%instance, %error, "the agent's stream broke");
                return None;
            }
        }
    }
}

/// A host from which a primary's port can be looked at.
#[derive(Debug, Clone)]
pub(super) enum Lookout {
    /// By the agent there: a member's or a witness.
    Agent(Arc<AgentClient>),
    /// From here: the manager's own host, which votes.
    Own(Votes),
}

/// Asks a voter whether it is there. One that knows nothing is told whom it can learn from: before it counts, no member asks it for its vote.
pub(super) async fn ask_voter(
    lookout: Lookout,
    host: String,
    electorate: Electorate,
    events: mpsc::Sender<Event>,
) {
    let cluster = electorate.cluster.clone();
    let generation = match &lookout {
        Lookout::Agent(client) => {
            // A ballot nobody obeys: it only asks.
            let ask = Lead { cluster, ballot: Ballot::default() };
            let generation = match client.lead(&ask, CALL).await {
                Ok(led) => led.generation,
                Err(error) => {
                    tracing::debug!(host, %error, "no answer from the voter");
                    return;
                }
            };
            if generation == Generation::default()
                && let Err(error) = client.introduce(&electorate, CALL).await
            {
                tracing::debug!(host, %error, "a voter that knows nothing is not told of the others");
            }
            generation
        }
        Lookout::Own(votes) => votes.promised(&cluster).generation,
    };
    // A manager that is stopping needs no more news.
    let _ = events.send(Event::VoterHeard { host, at: clock::now(), generation }).await;
}

/// This host's own vote, where it knows nothing, learns what the others have promised.
pub(super) async fn own_vote_learns(
    votes: Votes,
    me: String,
    (electorate, clients): (Electorate, BTreeMap<String, Arc<AgentClient>>),
) {
    let cluster = electorate.cluster.clone();
    if let Err(error) = votes.introduce(electorate).await {
        tracing::error!(%cluster, %error, "no vote");
    }
    for blank in votes.blanks(&me) {
        let peer = |voter: &Voter| clients.get(&voter.host).map(|client| AgentClient::clone(client));
        relearn::round(&votes, &me, blank, peer).await;
    }
}

/// Probes `primary` from `host`, and asks when its vote was last given.
pub(super) async fn probe(
    lookout: Lookout,
    host: String,
    cluster: ClusterName,
    primary: InstanceId,
    events: mpsc::Sender<Event>,
) {
    let reply = match &lookout {
        Lookout::Agent(client) => match client.probe(&cluster, &primary, CALL).await {
            Ok(reply) => reply,
            Err(error) => {
                tracing::debug!(host, %error, "no probe from there");
                return;
            }
        },
        Lookout::Own(votes) => {
            let outcome = greeting(&Target::from(&primary), Instant::now() + CALL * 4 / 5).await;
            let Promised { generation, granted_ago, .. } = votes.promised(&cluster);
            ProbeReply { outcome, generation, granted_ago }
        }
    };
    let probe =
        Probe { from: Vantage::Agent(host.clone()), of: primary, at: clock::now(), outcome: reply.outcome };
    // A manager that is stopping needs no more news.
    let granted = Event::Granted { host, generation: reply.generation, ago: reply.granted_ago };
    let _ = events.send(granted).await;
    let _ = events.send(Event::Probe(probe)).await;
}
