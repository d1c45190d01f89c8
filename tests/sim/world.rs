//! The simulated outside of a plan: commands travel to agents, which refuse older ballots, do the step as the real ones do, and
//! answer if they can. A command that was sent arrives even when its sender has died.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use mha::decide::plan::{Evidence, Step, Votes};
use mha::execute::compose::Composed;
use mha::execute::world::{StepError, Token, World};
use mha::model::cluster::Cluster;
use tokio::sync::oneshot;
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep, timeout};

use super::state::Sim;
use super::steps::agent_step;
use super::story::Fate;

pub(crate) use super::steps::evidence as evidence_of;

/// The world, shared by all tasks of a run. All of them are on one thread, and time moves only when all of them wait.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) sim: Rc<RefCell<Sim>>,
    pub(crate) base: Instant,
}

impl Shared {
    /// Does something now, and checks every invariant after it.
    pub(crate) fn act<T>(&self, what: impl FnOnce(&mut Sim) -> T) -> T {
        let mut sim = self.sim.borrow_mut();
        sim.t = (Instant::now() - self.base).as_millis() as u64;
        let result = what(&mut sim);
        sim.check();
        result
    }

    /// A manager whose process stands still does nothing.
    pub(crate) async fn awake(&self, m: usize) {
        while self.act(|sim| sim.stalled[m]) {
            sleep(Duration::from_millis(20)).await;
        }
    }

    async fn wander(&self) {
        let delay =
            self.act(|sim| if sim.dice.one_in(15) { sim.dice.range(10, 400) } else { sim.dice.range(1, 4) });
        sleep(Duration::from_millis(delay)).await;
    }
}

/// What manager `m` reaches: the primitives of every step.
#[derive(Clone)]
pub(crate) struct SimWorld {
    pub(crate) shared: Shared,
    pub(crate) m: usize,
    pub(crate) cluster: Rc<Cluster>,
}

pub(crate) const STATEMENT: Duration = Duration::from_secs(5);
/// How often an agent that works at a step is asked whether it is still there, and how long that may take.
const PULSE: Duration = Duration::from_secs(1);
const PULSE_WITHIN: Duration = Duration::from_secs(5);

impl SimWorld {
    pub(crate) fn new(shared: Shared, m: usize) -> Self {
        let cluster = Rc::new(shared.act(|sim| sim.cluster.clone()));
        Self { shared, m, cluster }
    }

    /// A question to the agent on `h`, answered at once where it can be asked.
    pub(crate) async fn ask<T>(&self, h: usize, question: impl FnOnce(&mut Sim) -> T) -> Option<T> {
        self.shared.awake(self.m).await;
        self.shared.wander().await;
        let party = self.shared.act(|sim| sim.manager_party(self.m));
        let answer = self.shared.act(|sim| {
            (!sim.cut[party][h] && sim.agent_answers(h)).then(|| question(sim)).filter(|_| !sim.cut[h][party])
        });
        self.shared.wander().await;
        if answer.is_none() {
            sleep(Duration::from_millis(300)).await;
        }
        self.shared.awake(self.m).await;
        answer
    }

    /// A step travels to the agent on its server's host, which does it and answers if it can.
    pub(crate) async fn command(
        &self,
        step: &Step,
        token: &Token,
        within: Duration,
    ) -> Result<Evidence, StepError> {
        let (m, h) = (self.m, self.shared.act(|sim| sim.index(step.instance())));
        let no_answer = || StepError::NoAnswer { within, what: step.to_string() };
        let epoch = match step {
            Step::Open { .. } => self.ask(h, |sim| sim.hosts[h].kept.epoch).await.ok_or_else(no_answer)?,
            _ => 0,
        };
        // A host that is gone is not waited for as long as its work may take.
        let gone = within.min(STATEMENT + PULSE);
        self.shared.awake(m).await;
        let (answer, answered) = oneshot::channel();
        let (shared, step_, token) = (self.shared.clone(), step.clone(), token.clone());
        spawn_local(async move {
            shared.wander().await;
            let party = shared.act(|sim| sim.manager_party(m));
            if shared.act(|sim| sim.cut[party][h] || !sim.hosts[h].on) {
                return sleep(gone).await;
            }
            let result = agent_step(&shared, h, &step_, &token, epoch).await;
            shared.wander().await;
            if shared.act(|sim| sim.cut[h][party] || !sim.hosts[h].on) {
                return sleep(gone).await;
            }
            // Nobody may wait for it any more.
            let _ = answer.send(result);
        });
        tokio::select! {
            biased;
            answer = timeout(within, answered) => match answer {
                Ok(Ok(result)) => result,
                Ok(Err(_)) | Err(_) => Err(no_answer()),
            },
            () = self.silenced(h) => Err(no_answer()),
        }
    }

    /// Waits until the agent does not answer in time.
    async fn silenced(&self, h: usize) {
        loop {
            sleep(PULSE).await;
            let until = Instant::now() + PULSE_WITHIN;
            while self.ask(h, |_| ()).await.is_none() {
                if Instant::now() > until {
                    return;
                }
            }
        }
    }
}

/// One recovery of manager `m`: its steps as composed, and what befalls the manager meanwhile.
pub(crate) struct SimRecovery {
    world: SimWorld,
    composed: Composed<Rc<SimWorld>>,
}

impl SimRecovery {
    pub(crate) fn new(shared: &Shared, m: usize) -> Self {
        let world = SimWorld::new(shared.clone(), m);
        Self { composed: Composed::new(Rc::new(world.clone())), world }
    }

    /// Never returns: the manager's task is ended.
    async fn die(&self) -> Result<Evidence, StepError> {
        self.world.shared.act(|sim| sim.manager_is_killed(self.world.m));
        std::future::pending().await
    }

    async fn done(&self, step: &Step, token: &Token) -> Result<Evidence, StepError> {
        let (shared, m) = (&self.world.shared, self.world.m);
        if let Step::Claim { candidate, .. } = step
            && shared.act(|sim| sim.is_undo_unasked(m, candidate, token))
        {
            let votes = Some(Votes { majority: true, ..Votes::default() });
            return Ok(Evidence { votes, ..Evidence::default() });
        }
        let result = self.composed.apply(step, token).await;
        if let (Step::StopReceiving { instance, .. }, Ok(_)) = (step, &result) {
            shared.act(|sim| {
                let s = sim.index(instance);
                let marks = sim.received_marks(s);
                sim.stopped[m].push((s, marks));
            });
        }
        result
    }
}

impl World for SimRecovery {
    async fn observe(&self, step: &Step) -> Result<Evidence, StepError> {
        self.composed.observe(step).await
    }

    async fn apply(&self, step: &Step, token: &Token) -> Result<Evidence, StepError> {
        let (shared, m) = (&self.world.shared, self.world.m);
        shared.act(|sim| {
            if sim.stores[m].unfinished().is_none() {
                sim.violate(format!("I10: {step} outside of any recovery"));
            }
        });
        shared.awake(m).await;
        let (fate, late) = shared.act(|sim| sim.meets(m, token, step));
        if fate == Fate::NotSent {
            return self.die().await;
        }
        let mut done = self.done(step, token).await;
        if fate == Fate::SentTwice {
            done = self.done(step, token).await;
        }
        if late {
            shared.act(|sim| sim.befall(m));
        }
        match fate {
            Fate::NotAnswered => self.die().await,
            Fate::AnswerLost => Err(StepError::NoAnswer { within: STATEMENT, what: step.to_string() }),
            Fate::Lives | Fate::NotSent | Fate::Recorded | Fate::SentTwice | Fate::ServerHangs => done,
        }
    }
}
