//! The simulated outside of a plan: commands travel to agents, which refuse older ballots, do the step as the real ones do, and
//! answer if they can. A command that was sent arrives even when its sender has died.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use mha::decide::lease::Terms;
use mha::decide::lease::voter::{Claim, Claimed, Outstanding};
use mha::decide::plan::{Evidence, Proof, Salvaged, Step, Votes};
use mha::execute::record::{RecordError, RecordStore, change_record};
use mha::execute::world::{StepError, Token, World};
use mha::model::ballot::Generation;
use mha::model::instance::InstanceId;
use mha::model::record::{ClusterRecord, RecordChange, Registration};
use mha::model::report::Report;
use tokio::sync::oneshot;
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep, timeout};

use super::basics::Planted;
use super::manager::wall;
use super::state::Sim;
use super::steps::{agent_step, evidence};
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

/// What manager `m` acts upon.
pub(crate) struct SimWorld {
    pub(crate) shared: Shared,
    pub(crate) m: usize,
    /// Who answered "fenced" in this recovery.
    pub(crate) fenced: RefCell<Vec<InstanceId>>,
}

pub(crate) const STATEMENT: Duration = Duration::from_secs(5);

impl SimWorld {
    pub(crate) fn new(shared: Shared, m: usize) -> Self {
        Self { shared, m, fenced: RefCell::default() }
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

    pub(crate) async fn command(&self, step: &Step, token: &Token) -> Result<Evidence, StepError> {
        let (m, h) = (self.m, self.shared.act(|sim| sim.index(step.instance())));
        let epoch = match step {
            Step::Open { .. } => self.ask(h, |sim| sim.hosts[h].kept.epoch).await,
            Step::Fence { .. }
            | Step::KeepUp { .. }
            | Step::Turn { .. }
            | Step::Quiet { .. }
            | Step::Block { .. }
            | Step::Unmoved { .. }
            | Step::Kill { .. }
            | Step::StopReceiving { .. }
            | Step::Salvage { .. }
            | Step::WaitApplied { .. }
            | Step::CatchUpFrom { .. }
            | Step::Claim { .. }
            | Step::StopReplicating { .. }
            | Step::ArmSource { .. }
            | Step::PointReplica { .. }
            | Step::AckersAttached { .. }
            | Step::Register { .. }
            | Step::Admit { .. }
            | Step::HoldVip { .. }
            | Step::LoseVip { .. }
            | Step::ForgetSource { .. }
            | Step::StartServer { .. }
            | Step::SetReadOnly { .. }
            | Step::Furnish { .. }
            | Step::SaveExtra { .. }
            | Step::Rewind { .. }
            | Step::Rebuild { .. }
            | Step::Exchange { .. }
            | Step::Halt { .. }
            | Step::Events { .. }
            | Step::Wish { .. }
            | Step::Direct { .. }
            | Step::Park { .. } => Some(0),
        };
        let within = match step {
            Step::WaitApplied { within, .. } | Step::CatchUpFrom { within, .. } => *within + STATEMENT,
            // Its agent gives it up by itself before.
            Step::Block { within, .. } => *within + Duration::from_millis(500),
            _ => STATEMENT,
        };
        // A host that is gone is not waited for as long as its work may take.
        let gone = within.min(STATEMENT + Duration::from_secs(1));
        let no_answer = || StepError::NoAnswer { within, what: step.to_string() };
        let Some(epoch) = epoch else { return Err(no_answer()) };
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
        match timeout(within, answered).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) | Err(_) => Err(no_answer()),
        }
    }

    async fn claim(
        &self,
        candidate: &InstanceId,
        generation: Generation,
        proof: Proof,
        token: &Token,
    ) -> Evidence {
        let (cluster, voters) =
            self.shared.act(|sim| (sim.cluster.clone(), (0..sim.hosts.len()).collect::<Vec<_>>()));
        if self.shared.act(|sim| sim.is_undo_unasked(self.m, candidate, token)) {
            return Evidence {
                votes: Some(Votes { majority: true, ..Votes::default() }),
                ..Evidence::default()
            };
        }
        let terms =
            Terms::new("manager", cluster.voters.iter().map(|v| v.host.clone()).collect(), &cluster.policy);
        let released = if proof == Proof::Fenced { self.fenced.borrow().clone() } else { Vec::new() };
        let claim = Claim {
            cluster: cluster.name.clone(),
            ballot: token.ballot.clone(),
            generation,
            candidate: candidate.clone(),
            proof,
            released,
        };
        let until = Instant::now() + cluster.policy.lease + Duration::from_secs(2);
        let mut waiting: FuturesUnordered<_> =
            voters.iter().map(|h| self.claim_one(*h, &claim, until)).collect();
        let mut votes = Votes::default();
        let mut outstanding: Vec<Outstanding> = Vec::new();
        while let Some((h, answer)) = waiting.next().await {
            match answer {
                Ok(granted) => {
                    votes.accepted.push(format!("db{h}"));
                    outstanding.extend(granted);
                }
                Err(why) => votes.refused.push((format!("db{h}"), why)),
            }
            if votes.accepted.len() >= terms.majority {
                break;
            }
        }
        votes.majority = votes.accepted.len() >= terms.majority;
        let wait = terms.wait_after_claim(&outstanding);
        let skip = self.shared.act(|sim| sim.planted(Planted::NoClaimWait));
        if votes.majority && !wait.is_zero() && !skip {
            self.shared.act(|sim| sim.count("claim waited for what was granted"));
            // The manager's clock may be fast.
            sleep(wait * 1_010 / 1_000 + Duration::from_millis(1)).await;
        }
        Evidence { votes: Some(votes), ..Evidence::default() }
    }

    async fn claim_one(
        &self,
        h: usize,
        claim: &Claim,
        until: Instant,
    ) -> (usize, Result<Vec<Outstanding>, String>) {
        loop {
            let asked = self
                .ask(h, |sim| {
                    let now = sim.now_at(h);
                    let answer = sim.hosts[h].agent.as_mut().map(|agent| agent.voter.claim(claim, now).0);
                    sim.sync(h);
                    answer
                })
                .await
                .flatten();
            let pause = match asked {
                Some(Claimed::Accepted { outstanding }) => return (h, Ok(outstanding)),
                Some(Claimed::HeldBack { remaining, .. }) => {
                    self.shared.act(|sim| sim.count("claim held back"));
                    remaining + Duration::from_millis(5)
                }
                Some(other) => return (h, Err(format!("{other:?}"))),
                None => Duration::from_millis(200),
            };
            if Instant::now() + pause > until {
                return (h, Err("no answer or held back".to_owned()));
            }
            sleep(pause).await;
        }
    }

    async fn salvage(&self, from: usize, to: usize, within: Duration, token: &Token) -> Salvaged {
        let trouble = |text: &str| Salvaged { trouble: text.to_owned(), ..Salvaged::default() };
        let read = self.ask(from, |sim| {
            (!sim.servers[from].up).then(|| (sim.servers[from].log.clone(), sim.dice.range(5, 70)))
        });
        let Some(Some((log, takes))) = read.await else { return trouble("its log cannot be read") };
        sleep(within.min(Duration::from_millis(takes))).await;
        if Duration::from_millis(takes) > within {
            return trouble("not read in time");
        }
        let until = Instant::now() + within + Duration::from_secs(10);
        let mut answered = Instant::now();
        while self.shared.act(|sim| !sim.answers(to) || !sim.servers[to].relay.is_empty()) {
            if self.shared.act(|sim| sim.answers(to)) {
                answered = Instant::now();
            }
            if Instant::now() > until || answered.elapsed() > STATEMENT {
                return trouble("the receiver does not catch up");
            }
            sleep(Duration::from_millis(10)).await;
        }
        let brought = self.ask(to, |sim| {
            let obeys = sim.hosts[to].agent.as_ref().is_some_and(|agent| agent.voter.obeys(&token.ballot));
            if !obeys || !sim.answers(to) || !sim.servers[to].relay.is_empty() {
                return None;
            }
            let missing: Vec<usize> = log.iter().copied().filter(|tx| !sim.servers[to].holds(*tx)).collect();
            missing.iter().for_each(|tx| sim.append(to, *tx));
            if !missing.is_empty() {
                sim.count("salvaged");
            }
            Some(missing.len() as u64)
        });
        match brought.await {
            Some(Some(transactions)) => Salvaged { complete: true, transactions, trouble: String::new() },
            Some(None) | None => trouble("could not be brought over"),
        }
    }
}

impl World for SimWorld {
    async fn observe(&self, step: &Step) -> Result<Evidence, StepError> {
        let h = self.shared.act(|sim| sim.index(step.instance()));
        match step {
            Step::Direct { .. } => Ok(Evidence { directed: true, ..Evidence::default() }),
            Step::Register { .. } | Step::Park { .. } | Step::Wish { .. } => {
                let record = self.record().await?;
                Ok(Evidence { record, ..Evidence::default() })
            }
            Step::Claim { .. } | Step::Salvage { .. } | Step::Furnish { .. } => Ok(Evidence::default()),
            _ => {
                let seen = self
                    .ask(h, |sim| evidence(sim, h))
                    .await
                    .ok_or_else(|| StepError::NoAnswer { within: STATEMENT, what: "observe".to_owned() })?;
                if matches!(step, Step::Fence { .. } | Step::Block { .. }) && step.is_satisfied(&seen) {
                    self.fenced.borrow_mut().push(step.instance().clone());
                }
                Ok(seen)
            }
        }
    }

    async fn apply(&self, step: &Step, token: &Token) -> Result<Evidence, StepError> {
        self.shared.act(|sim| {
            if sim.stores[self.m].unfinished().is_none() {
                sim.violate(format!("I10: {step} outside of any recovery"));
            }
        });
        self.shared.awake(self.m).await;
        let (fate, late) = self.shared.act(|sim| sim.meets(self.m, token, step));
        if fate == Fate::NotSent {
            return self.die().await;
        }
        let done = self.done(step, token).await;
        if late {
            self.shared.act(|sim| sim.befall(self.m));
        }
        if fate == Fate::NotAnswered {
            return self.die().await;
        }
        done
    }
}

impl SimWorld {
    /// Never returns: the manager's task is ended.
    async fn die(&self) -> Result<Evidence, StepError> {
        self.shared.act(|sim| sim.manager_is_killed(self.m));
        std::future::pending().await
    }

    /// As the live world composes it.
    async fn turn(
        &self,
        instance: &InstanceId,
        from: &InstanceId,
        (to, acker): (&InstanceId, bool),
        within: Duration,
        token: &Token,
    ) -> Result<Evidence, StepError> {
        let stop = Step::StopReceiving { instance: instance.clone(), source: from.clone() };
        let stopped = self.command(&stop, token).await?;
        let set = stopped.report.map(|report| report.known());
        let set = set.ok_or_else(|| StepError::NoEffect("not read".to_owned()))?;
        let applied = |instance: &InstanceId| Step::WaitApplied {
            instance: instance.clone(),
            set: set.clone(),
            within,
        };
        for instance in [instance, to] {
            self.command(&applied(instance), token).await?;
        }
        let point = Step::PointReplica { instance: instance.clone(), source: to.clone(), acker };
        let mut seen = self.command(&point, token).await?;
        let arrives = async {
            while seen
                .report
                .as_ref()
                .and_then(Report::channel)
                .is_some_and(|channel| channel.is_reaching_for(to))
            {
                sleep(Duration::from_millis(10)).await;
                seen = self.command(&applied(instance), token).await?;
            }
            Ok(seen)
        };
        timeout(within, arrives)
            .await
            .unwrap_or_else(|_| Err(StepError::Failed(format!("it has not reached {to}"))))
    }

    async fn change(&self, change: RecordChange) -> Result<Evidence, StepError> {
        let at = self.shared.act(|sim| {
            sim.note_change(self.m, &change);
            wall(sim.t)
        });
        let record = change_record(self, &change, at).await?;
        Ok(Evidence { record: Some(record), ..Evidence::default() })
    }

    async fn done(&self, step: &Step, token: &Token) -> Result<Evidence, StepError> {
        match step {
            Step::Register { primary, generation, ackers, acks, degraded } => {
                let mut registration = Registration {
                    primary: primary.clone(),
                    generation: *generation,
                    ballot: token.ballot.clone(),
                    ackers: ackers.clone(),
                    acks: *acks,
                    degraded: degraded.clone(),
                    automatic: token.automatic,
                    base: None,
                };
                if registration.starts_new_guarantee(self.record().await?.as_ref()) {
                    registration.base = Some(self.shared.act(|sim| sim.base_of(self.m, primary, token)));
                }
                self.change(RecordChange::Register(Box::new(registration))).await
            }
            Step::Park { instance, why } => {
                self.change(RecordChange::Park { instance: instance.clone(), why: why.clone() }).await
            }
            Step::Wish { instance, wish } => {
                let (instance, wish) = (instance.clone(), wish.clone());
                self.change(RecordChange::Override { instance, wish }).await
            }
            Step::Claim { candidate, generation, proof } => {
                Ok(self.claim(candidate, *generation, *proof, token).await)
            }
            Step::Turn { instance, from, to, acker, within } => {
                self.turn(instance, from, (to, *acker), *within, token).await
            }
            Step::KeepUp { instance, source, closely, within } => {
                self.keep_up(instance, source, (*closely, *within)).await
            }
            Step::Quiet { instance, drain, .. } => self.quiet(instance, *drain).await,
            Step::Salvage { from, to, within, .. } => {
                let (from, to) = self.shared.act(|sim| (sim.index(from), sim.index(to)));
                let salvage = Some(self.salvage(from, to, *within, token).await);
                Ok(Evidence { salvage, ..Evidence::default() })
            }
            _ => {
                let result = self.command(step, token).await;
                self.shared.act(|sim| {
                    let said = match &result {
                        Ok(seen) if step.is_satisfied(seen) => "done".to_owned(),
                        Ok(_) => "without effect".to_owned(),
                        Err(error) => error.to_string(),
                    };
                    sim.say(format!("m{} {step}: {said}", self.m));
                });
                if let (Step::ArmSource { instance, .. }, Ok(Evidence { report: Some(report), .. })) =
                    (step, &result)
                {
                    let armed = (token.recovery.clone(), instance.clone(), report.executed.clone());
                    self.shared.act(|sim| sim.armed[self.m] = Some(armed));
                }
                if let (Step::StopReceiving { .. }, Ok(_)) = (step, &result) {
                    self.shared.act(|sim| {
                        let s = sim.index(step.instance());
                        let marks = sim.received_marks(s);
                        sim.stopped[self.m].push((s, marks));
                    });
                }
                if let (Step::Fence { instance, .. } | Step::Block { instance, .. }, Ok(_)) = (step, &result)
                {
                    self.fenced.borrow_mut().push(instance.clone());
                }
                result
            }
        }
    }
}

impl RecordStore for SimWorld {
    async fn record(&self) -> Result<Option<ClusterRecord>, RecordError> {
        self.shared.awake(self.m).await;
        Ok(self.shared.act(|sim| sim.stores[self.m].record.clone()))
    }

    async fn save_record(&self, record: &ClusterRecord) -> Result<(), RecordError> {
        sleep(Duration::from_millis(2)).await;
        self.shared.act(|sim| sim.save_record(self.m, record))?;
        sleep(Duration::from_millis(1)).await;
        Ok(())
    }
}
