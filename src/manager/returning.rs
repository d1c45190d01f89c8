//! A returned or parked member, as an operator asks about it: shown with what only it has, brought back, given back to automatic
//! hands. Decided by the same rules as without an operator, whose word stands before policy's.

use std::time::Duration;

use tokio::sync::oneshot;

use super::cluster_task::ClusterTask;
use super::event::{Proposal, Started};
use crate::clock;
use crate::decide::plan::{Plan, Step};
use crate::decide::rejoin;
use crate::execute::journal::Recovery;
use crate::model::instance::InstanceId;
use crate::model::intent::{How, Intents};

/// How long the agent may take to say what is in extra transactions.
const DOSSIER_WITHIN: Duration = Duration::from_secs(3);

/// After it nothing of an operator's word is left to do.
pub(super) fn settles(ended: &Recovery) -> bool {
    let last = |step: &Step| matches!(step, Step::PointReplica { .. } | Step::Park { .. });
    ended.plan(ended.kind).is_some_and(|plan| plan.steps().any(last))
}

impl ClusterTask {
    /// What would be done about it now, as if it were not parked.
    fn would_do(&self, instance: &InstanceId, how: How) -> Result<Plan, Vec<String>> {
        self.would_do_with(self.intents.clone(), instance, how)
    }

    fn would_do_with(
        &self,
        mut intents: Intents,
        instance: &InstanceId,
        how: How,
    ) -> Result<Plan, Vec<String>> {
        if self.view.cluster.member(instance).is_none() {
            return Err(vec![format!("{instance} is no member of {}", self.view.cluster.name)]);
        }
        let mut view = self.view.clone();
        if let Some(record) = &mut view.record {
            record.parked.retain(|parked| parked.instance != *instance);
        }
        intents.note_done(instance);
        intents.note_remedy(instance, how.remedy());
        rejoin::about(&view, &intents, instance, clock::now()).map_err(|why| vec![why])
    }

    /// Answers when the agent has said what is in its extra transactions, or did not in time.
    pub(super) fn propose_rejoin(&self, instance: InstanceId, how: How, answer: oneshot::Sender<Proposal>) {
        let mut blockers: Vec<String> = self.busy().into_iter().collect();
        let plans = match self.would_do(&instance, how) {
            Ok(plan) => vec![plan],
            Err(reasons) => {
                blockers.extend(reasons);
                Vec::new()
            }
        };
        let sentence = match plans.first() {
            Some(plan) => plan.title.clone(),
            None => format!("{}: nothing would be done about {instance}", self.view.cluster.name),
        };
        let agent = self.world.agents.get(&instance).cloned();
        self.tracker.spawn(async move {
            // One that cannot say shows nothing; the plan is no other for that.
            let dossier = match agent {
                Some(agent) => agent.dossier(DOSSIER_WITHIN).await.ok(),
                None => None,
            };
            // Whoever asked and went away needs no answer.
            let _ = answer.send(Proposal { sentence, plans, blockers, dossier });
        });
    }

    pub(super) async fn rejoin(&mut self, instance: &InstanceId, how: How) -> Started {
        if let Err(why) = &self.led {
            return Err(vec![format!("this manager does not lead: {why}")]);
        }
        if let Some(busy) = self.busy() {
            return Err(vec![busy]);
        }
        let plan = self.would_do(instance, how)?;
        self.give_back(instance, how).await.map_err(|why| vec![why])?;
        self.begin(plan, None).await
    }

    /// Refused where it would only be parked again, with what to ask for instead.
    pub(super) async fn unpark(&mut self, instance: &InstanceId) -> Result<(), String> {
        // Nothing is done by it: what was seen before the last recovery ended will do.
        let intents = Intents { settled_at: None, ..self.intents.clone() };
        if let Ok(plan) = self.would_do_with(intents, instance, How::Auto)
            && let Some(Step::Park { why, .. }) = plan.steps().next()
        {
            return Err(format!(
                "it would be parked again at once: {why}; \"mhactl rejoin {instance} --how flashback\" or \"--how park\" decides"
            ));
        }
        self.give_back(instance, How::Auto).await
    }

    async fn give_back(&mut self, instance: &InstanceId, how: How) -> Result<(), String> {
        self.amend(|record| record.parked.retain(|parked| parked.instance != *instance)).await?;
        self.intents.note_done(instance);
        self.intents.note_remedy(instance, how.remedy());
        Ok(())
    }
}
