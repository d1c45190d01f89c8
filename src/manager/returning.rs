//! A returned or parked member, as an operator asks about it: shown with what only it has, brought back, given back to automatic
//! hands. Decided by the same rules as without an operator, whose word stands before policy's.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::sleep;

use super::Part;
use super::cluster_task::ClusterTask;
use super::event::{Ask, Event, Proposal, Started};
use crate::agent::wire::CallOffRequest;
use crate::clock;
use crate::decide::guard::names;
use crate::decide::plan::{Plan, Step};
use crate::decide::rebuild;
use crate::decide::rejoin::{self, Not};
use crate::execute::world::Token;
use crate::model::instance::InstanceId;
use crate::model::intent::{How, Intents};
use crate::model::job::{Job, Phase};
use crate::model::observation::{AgentStatus, Process};
use crate::model::record::{ClusterRecord, RecordChange};
use crate::model::view::Seen;

/// How long the agent may take to say what is in extra transactions.
const DOSSIER_WITHIN: Duration = Duration::from_secs(3);

/// Between two looks for an operator who waits.
const AGAIN: Duration = Duration::from_millis(250);

impl ClusterTask {
    /// Whether what is asked about a member is known in a moment, and not now.
    pub(super) fn knows_later(&self, ask: &Ask) -> bool {
        let Ask::Rejoin { instance, how, from, .. } = ask else { return false };
        matches!(self.would_do(instance, *how, from.as_ref()), Err(Not::Yet(_)))
    }

    /// Asks the same once more when both servers were looked at again.
    pub(super) fn look_again(&self, mut ask: Ask) {
        if let Ask::Rejoin { looks, .. } = &mut ask {
            *looks = looks.saturating_sub(1);
        }
        let (events, stop) = (self.own_events.clone(), self.stop.clone());
        self.tracker.spawn(async move {
            // A loop that ends drops the ask, and whoever waits is told.
            let again = async {
                sleep(AGAIN).await;
                let _ = events.send(Event::Ask(ask)).await;
            };
            stop.run_until_cancelled(again).await;
        });
    }

    /// What would bring it back now, as if it were not parked. To park it brings nobody back.
    fn would_do(&self, instance: &InstanceId, how: How, from: Option<&InstanceId>) -> Result<Plan, Not> {
        let plan = self.would_do_with(self.intents.clone(), instance, how, from)?;
        if let Some(Step::Park { why, .. }) = plan.steps().next() {
            return Err(Not::Ever(format!("{instance} does not come back that way: {why}")));
        }
        Ok(plan)
    }

    fn would_do_with(
        &self,
        mut intents: Intents,
        instance: &InstanceId,
        how: How,
        from: Option<&InstanceId>,
    ) -> Result<Plan, Not> {
        let mut view = self.view.clone();
        let released =
            ClusterRecord::apply(view.record.as_ref(), &release(instance, how, from), clock::wall());
        view.record = released.ok();
        intents.note_done(instance);
        intents.forget_rebuilds(instance);
        intents.asked = Some(instance.clone());
        rejoin::about(&view, &intents, instance, clock::now())
    }

    /// Answers when the agent has said what is in its extra transactions, or did not in time.
    pub(super) fn propose_rejoin(
        &self,
        instance: InstanceId,
        (how, from): (How, Option<InstanceId>),
        answer: oneshot::Sender<Proposal>,
    ) {
        let mut blockers: Vec<String> = self.busy().into_iter().collect();
        let plans = match self.would_do(&instance, how, from.as_ref()) {
            Ok(plan) => {
                let more = rebuild::afterwards(&self.view, &plan);
                std::iter::once(plan).chain(more).collect()
            }
            Err(why) => {
                blockers.push(why.to_string());
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

    pub(super) async fn rejoin(
        &mut self,
        instance: &InstanceId,
        how: How,
        from: Option<&InstanceId>,
    ) -> Started {
        if let Err(why) = &self.led {
            return Err(vec![format!("this manager does not lead: {why}")]);
        }
        if let Some(busy) = self.busy() {
            return Err(vec![busy]);
        }
        let plan = self.would_do(instance, how, from).map_err(|why| vec![why.to_string()])?;
        self.give_back(instance, how, from).await.map_err(|why| vec![why])?;
        self.begin(plan, None).await
    }

    /// Refused where it would only be parked again, with what to ask for instead.
    pub(super) async fn unpark(&mut self, instance: &InstanceId) -> Result<(), String> {
        if let Some(why) = rejoin::not_parked(&self.view, instance) {
            return Err(why);
        }
        // Nothing is done by it: what was seen before the last recovery ended will do.
        let intents = Intents { settled_at: None, ..self.intents.clone() };
        match self.would_do_with(intents, instance, How::Auto, None) {
            Ok(plan) => {
                if let Some(Step::Park { why, .. }) = plan.steps().next() {
                    return Err(format!("it would be parked again at once: {why}"));
                }
            }
            // What is saved beside it says that there is something to compare.
            Err(Not::Yet(why)) if self.has_saved(instance) => {
                return Err(format!("{why}; ask again in a moment"));
            }
            Err(Not::Yet(_) | Not::Ever(_)) => {}
        }
        self.give_back(instance, How::Auto, None).await?;
        self.view.trust_rows(instance);
        Ok(())
    }

    fn has_saved(&self, instance: &InstanceId) -> bool {
        let runs = |agent: &&AgentStatus| matches!(agent.process, Process::Running { .. });
        let agent = self.view.of(instance).and_then(Seen::agent_now).filter(runs);
        agent.is_some_and(|agent| agent.extra.is_some())
    }

    async fn give_back(
        &mut self,
        instance: &InstanceId,
        how: How,
        from: Option<&InstanceId>,
    ) -> Result<(), String> {
        self.amend(release(instance, how, from)).await?;
        self.intents.note_done(instance);
        self.intents.forget_rebuilds(instance);
        Ok(())
    }

    /// Ends the rebuild of a member that goes on by itself, and leaves the member to a person.
    pub(super) async fn call_off_rebuild(&mut self, answer: oneshot::Sender<Result<String, String>>) {
        let rebuilds = |job: &Job| {
            job.is_rebuild() && matches!(job.phase, Phase::Copying | Phase::Preparing | Phase::Ready)
        };
        let found = self.view.seen.iter().find_map(|(instance, seen)| {
            let job = seen.agent_now()?.job.as_ref().filter(|job| rebuilds(job))?;
            Some((instance.clone(), job.to_string()))
        });
        let agent = found.as_ref().and_then(|(instance, _)| self.world.agents.get(instance).cloned());
        let (Some((instance, job)), Some(agent)) = (found, agent) else {
            let _ = answer.send(self.call_off_waiting().await);
            return;
        };
        let why = "its rebuild was called off by an operator".to_owned();
        let off = RecordChange::CallOffRebuild {
            instance: instance.clone(),
            why: format!("{why}; \"mhactl rejoin {instance} --dry-run\" shows what can be done"),
        };
        // Before it ends: nobody begins another.
        if self.part == Part::Watches || self.led.is_err() {
            let _ = answer.send(Err("this manager does not lead".to_owned()));
            return;
        }
        if let Err(error) = self.amend(off).await {
            let _ = answer.send(Err(error));
            return;
        }
        self.intents.forget_rebuilds(&instance);
        let token = Token {
            ballot: self.leadership.ballot(),
            recovery: String::new(),
            operation: 0,
            automatic: false,
            back: false,
        };
        self.tracker.spawn(async move {
            let ended = agent.call_off(&CallOffRequest { token, why }, DOSSIER_WITHIN).await;
            let told = ended.map(|_| format!("{instance}, {job}: called off, and {instance} is parked"));
            // Whoever asked and went away needs no answer.
            let _ = answer.send(told.map_err(|error| error.to_string()));
        });
    }

    /// The rebuilds that have still to begin are not wanted any more.
    async fn call_off_waiting(&mut self) -> Result<String, String> {
        let waiting = rejoin::waiting(&self.view, &self.intents, clock::now());
        let waiting: Vec<InstanceId> = waiting.map(|(instance, _)| instance).collect();
        if waiting.is_empty() {
            return Err("nothing is running".to_owned());
        }
        self.amend(RecordChange::ForgetRemedies { instances: waiting.clone() }).await?;
        waiting.iter().for_each(|instance| self.intents.forget_rebuilds(instance));
        Ok(format!("the rebuild of {}, which was not under way: called off", names(&waiting)))
    }
}

/// It is in automatic hands, to be brought back as asked.
fn release(instance: &InstanceId, how: How, from: Option<&InstanceId>) -> RecordChange {
    RecordChange::Release { instance: instance.clone(), method: how.remedy(), donor: from.cloned() }
}
