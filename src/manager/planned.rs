//! Planned changes as an operator asks for them: surveyed beside the loop, decided in it, begun by it, called off by it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot::{self, error::TryRecvError};
use tokio::time::Instant;

use super::Part;
use super::cluster_task::ClusterTask;
use super::event::{Event, Proposal, Started, Then};
use super::live_world::LiveWorld;
use crate::clock;
use crate::decide::switchover::{self, Blocked, Surveys};
use crate::model::instance::InstanceId;
use crate::model::intent::SwitchoverAsk;
use crate::model::time::Moment;

/// How long looking at the sessions of one server may take.
const SURVEY_WITHIN: Duration = Duration::from_secs(2);

/// Between two attempts to hand over.
const HANDOFF_AGAIN: Duration = Duration::from_millis(500);

/// The last attempt at what a service manager asks for.
#[derive(Debug)]
pub(super) struct Handoff {
    asked_at: Moment,
    answer: oneshot::Receiver<Started>,
}

impl ClusterTask {
    /// Looks at both servers' sessions in the background; the loop goes on when they are known.
    pub(super) fn survey(&self, ask: SwitchoverAsk, then: Then) {
        let (primary, target) = (self.view.primary().cloned(), switchover::target(&self.view, &ask));
        let (world, events) = (Arc::clone(&self.world), self.own_events.clone());
        self.tracker.spawn(async move {
            let surveys = surveys(&world, primary, target).await;
            // A loop that has ended answers nobody.
            let _ = events.send(Event::Surveyed { ask, surveys, then }).await;
        });
    }

    /// Decides, then proposes or begins.
    pub(super) async fn surveyed(&mut self, ask: SwitchoverAsk, surveys: Surveys, then: Then) {
        // Whoever asked and went away needs no answer.
        match then {
            Then::Propose(answer) => {
                let _ = answer.send(self.propose_switchover(&ask, &surveys));
            }
            Then::Begin(answer) => {
                let started = self.begin_switchover(&ask, &surveys).await;
                let _ = answer.send(started);
            }
        }
    }

    /// Does what the primary's service manager asks for, and again while it asks and it could not be begun.
    pub(super) fn hand_over(&mut self, now: Moment) {
        let Some(ask) = switchover::handoff_asked(&self.view, now) else {
            self.handoff = None;
            return;
        };
        if let Some(handoff) = &mut self.handoff {
            match handoff.answer.try_recv() {
                Ok(Err(why)) => {
                    tracing::warn!(cluster = %self.view.cluster.name, why = why.join("; "), "no handoff yet");
                }
                Ok(Ok(_)) | Err(TryRecvError::Closed) => {}
                Err(TryRecvError::Empty) => return,
            }
            if now.since(handoff.asked_at) < HANDOFF_AGAIN {
                return;
            }
        }
        if self.operations.is_running() || self.led.is_err() || self.to_resume || self.part != Part::Leads {
            return;
        }
        let (begin, answer) = oneshot::channel();
        self.handoff = Some(Handoff { asked_at: now, answer });
        self.survey(ask, Then::Begin(begin));
    }

    fn propose_switchover(&self, ask: &SwitchoverAsk, surveys: &Surveys) -> Proposal {
        let (mut plans, mut blockers) = (Vec::new(), Vec::new());
        blockers.extend(self.busy());
        match switchover::block(&self.view, ask, surveys, clock::now()) {
            Ok(plan) => {
                let promote = switchover::target_of(&plan)
                    .and_then(|target| Blocked::supposed(&self.view, &target))
                    .map(|blocked| switchover::promote(&self.view, &blocked.after(&plan)));
                plans.push(plan);
                match promote {
                    Some(Ok(promote)) => plans.push(promote),
                    Some(Err(refused)) => blockers.extend(refused.iter().map(ToString::to_string)),
                    None => blockers.push("the primary has not answered yet; ask again".to_owned()),
                }
            }
            Err(obstacles) => blockers.extend(obstacles.iter().map(ToString::to_string)),
        }
        let sentence = match (plans.first(), blockers.is_empty()) {
            (Some(plan), true) => plan.title.clone(),
            _ => format!("{}: no switchover is possible now", self.view.cluster.name),
        };
        Proposal { sentence, plans, blockers, dossier: None }
    }

    async fn begin_switchover(&mut self, ask: &SwitchoverAsk, surveys: &Surveys) -> Started {
        if let Err(why) = &self.led {
            return Err(vec![format!("this manager does not lead: {why}")]);
        }
        if let Some(busy) = self.busy() {
            return Err(vec![busy]);
        }
        let plan = switchover::block(&self.view, ask, surveys, clock::now())
            .map_err(|obstacles| obstacles.iter().map(ToString::to_string).collect::<Vec<_>>())?;
        self.begin(plan, None).await
    }

    /// What runs, for whoever asks for something else.
    pub(super) fn busy(&self) -> Option<String> {
        let about = &self.operations.running()?.about;
        let running = self.recovery.borrow().clone().filter(|recovery| recovery.outcome().is_none());
        let what = match running {
            Some(recovery) => {
                format!("\"{}\" runs since {}", recovery.title, recovery.began_at.format("%H:%M:%S UTC"))
            }
            None => format!("a recovery of {about} is running"),
        };
        Some(format!("{what}; follow it with \"mhactl follow\""))
    }

    /// Calls the running operation off.
    pub(super) fn call_off(&self) -> Result<String, String> {
        let recovery = self.recovery.borrow().clone().filter(|recovery| recovery.outcome().is_none());
        match recovery.filter(|_| self.operations.is_running()) {
            None => Err("nothing is running".to_owned()),
            Some(recovery) => {
                self.operations.call_off();
                Ok(format!("\"{}\" is called off, unless it is past its commit point", recovery.title))
            }
        }
    }
}

async fn surveys(world: &LiveWorld, primary: Option<InstanceId>, target: Option<InstanceId>) -> Surveys {
    let deadline = Instant::now() + SURVEY_WITHIN;
    let looks = [(primary, false), (target, true)]
        .into_iter()
        .filter_map(|(instance, leads_next)| Some((instance?, leads_next)))
        .map(|(instance, leads_next)| async move {
            let seen = world.sessions(&instance, leads_next, deadline).await;
            (instance, seen.map_err(|error| error.to_string()))
        });
    futures::future::join_all(looks).await.into_iter().collect()
}
