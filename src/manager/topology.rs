//! An operator's word about one member, as it reaches the cluster's task: decided, then shown or begun like every plan; and a cluster
//! whose members changed looked at and led as it is now. Nothing here decides.

use super::cluster_task::ClusterTask;
use super::event::{Proposal, Started, Then};
use crate::clock;
use crate::decide::plan::Plan;
use crate::decide::topology;
use crate::model::wishes::ReplicaAsk;

impl ClusterTask {
    pub(super) async fn replica(&mut self, ask: ReplicaAsk, then: Then) {
        let planned = topology::plan(&self.view, &ask, clock::now());
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
