//! An operator's word about one member, as it reaches the cluster's task: decided, then shown or begun like every plan; and a cluster
//! whose members changed looked at and led as it is now. Nothing here decides.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::cluster_task::ClusterTask;
use super::event::{Event, Proposal, Started, Then};
use crate::clock;
use crate::decide::plan::Plan;
use crate::decide::topology;
use crate::decide::topology::newcomer::{self, Newcomer};
use crate::model::instance::InstanceId;
use crate::model::wishes::{Change, ReplicaAsk};

/// How long one look at a server that is to become a member may take.
const MEET_WITHIN: Duration = Duration::from_secs(2);

impl ClusterTask {
    pub(super) async fn replica(&mut self, ask: ReplicaAsk, then: Then) {
        if let Change::Add { agent, source } = &ask.change {
            let (agent, source) = (agent.clone(), source.clone());
            return self.meet(ask, agent, source, then);
        }
        let planned = topology::plan(&self.view, &ask, clock::now());
        let planned = planned.map_err(|found| found.iter().map(ToString::to_string).collect());
        self.show_or_begin(&ask, planned, then).await;
    }

    /// Looks at a server that is to become a member, in the background; the loop goes on when it is known.
    fn meet(&self, ask: ReplicaAsk, agent: Option<String>, source: Option<InstanceId>, then: Then) {
        let configured = self.config.cluster.member(&ask.instance).cloned();
        let member = configured.unwrap_or_else(|| Newcomer::member(&self.view, &ask.instance, agent));
        let client = member.agent.as_deref().map(|url| self.agent_at(url));
        let (world, events) = (Arc::clone(&self.world), self.own_events.clone());
        self.tracker.spawn(async move {
            let deadline = Instant::now() + MEET_WITHIN;
            let asks_agent = async {
                match &client {
                    Some(client) => {
                        let answered = client.status(MEET_WITHIN).await;
                        Some(answered.map_err(|error| error.to_string()))
                    }
                    None => None,
                }
            };
            let (report, agent) = tokio::join!(world.meet(&member.instance, deadline), asks_agent);
            // Its agent may keep everybody else out.
            let beside = || agent.as_ref()?.as_ref().ok()?.server.clone().ok();
            let report = report.map_err(|error| error.to_string()).or_else(|why| beside().ok_or(why));
            let newcomer = Box::new(Newcomer { member, report, agent });
            // A loop that has ended answers nobody.
            let _ = events.send(Event::Met { ask, source, newcomer, then }).await;
        });
    }

    /// Decides, then shows or begins.
    pub(super) async fn met(
        &mut self,
        ask: ReplicaAsk,
        source: Option<&InstanceId>,
        newcomer: &Newcomer,
        then: Then,
    ) {
        let planned = newcomer::add(&self.view, &ask, source, newcomer, clock::now());
        let planned = planned.map_err(|found| found.iter().map(ToString::to_string).collect());
        self.show_or_begin(&ask, planned, then).await;
    }

    async fn show_or_begin(&mut self, ask: &ReplicaAsk, planned: Result<Plan, Vec<String>>, then: Then) {
        // Whoever asked and went away needs no answer.
        match then {
            Then::Propose(answer) => drop(answer.send(self.shown(ask, planned))),
            Then::Begin(answer) => drop(answer.send(self.begun(planned).await)),
        }
    }

    fn shown(&self, ask: &ReplicaAsk, planned: Result<Plan, Vec<String>>) -> Proposal {
        let mut blockers: Vec<String> = self.busy().into_iter().collect();
        let plans = match planned {
            Ok(plan) => vec![plan],
            Err(found) => {
                blockers.extend(found);
                Vec::new()
            }
        };
        let sentence = match plans.first() {
            Some(plan) => plan.title.clone(),
            None => format!("{}: nothing would be done about {}", self.view.cluster.name, ask.instance),
        };
        Proposal { sentence, plans, blockers, dossier: None }
    }

    async fn begun(&mut self, planned: Result<Plan, Vec<String>>) -> Started {
        if let Err(why) = &self.led {
            return Err(vec![format!("this manager does not lead: {why}")]);
        }
        if let Some(busy) = self.busy() {
            return Err(vec![busy]);
        }
        self.begin(planned?, None).await
    }
}
