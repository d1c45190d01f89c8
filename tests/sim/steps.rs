//! The simulated outside of a plan: commands travel to agents, which refuse older ballots, do the step as the real ones do, and
//! answer if they can. A command that was sent arrives even when its sender has died.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use mha::decide::lease::Terms;
use mha::decide::lease::holder::{Input, Role};
use mha::decide::lease::voter::{Claim, Claimed, Outstanding};
use mha::decide::plan::{Evidence, Proof, Salvaged, Step, Votes};
use mha::execute::world::{StepError, Token, World};
use mha::model::ballot::Generation;
use mha::model::instance::{Flavor, InstanceId};
use mha::model::observation::Access;
use mha::model::report::ThreadState;
use tokio::sync::oneshot;
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep, timeout};

use super::basics::Planted;
use super::state::Sim;

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

    async fn wander(&self) {
        let delay = self.act(|sim| if sim.dice.one_in(15) { sim.dice.range(10, 400) } else { sim.dice.range(1, 4) });
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

const STATEMENT: Duration = Duration::from_secs(5);

impl SimWorld {
    pub(crate) fn new(shared: Shared, m: usize) -> Self {
        Self { shared, m, fenced: RefCell::default() }
    }

    /// A question to the agent on `h`, answered at once where it can be asked.
    pub(crate) async fn ask<T>(&self, h: usize, question: impl FnOnce(&mut Sim) -> T) -> Option<T> {
        self.shared.wander().await;
        let party = self.shared.act(|sim| sim.manager_party(self.m));
        let answer = self.shared.act(|sim| {
            (!sim.cut[party][h] && sim.agent_answers(h)).then(|| question(sim)).filter(|_| !sim.cut[h][party])
        });
        self.shared.wander().await;
        if answer.is_none() {
            sleep(Duration::from_millis(300)).await;
        }
        answer
    }

    async fn command(&self, step: &Step, token: &Token) -> Result<Evidence, StepError> {
        let (m, h) = (self.m, self.shared.act(|sim| sim.index(step.instance())));
        let epoch = match step {
            Step::Open { .. } => self.ask(h, |sim| sim.hosts[h].kept.epoch).await,
            Step::Fence { .. }
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
            | Step::ForgetSource { .. }
            | Step::StartServer { .. }
            | Step::SetReadOnly { .. }
            | Step::Furnish { .. }
            | Step::Park { .. } => Some(0),
        };
        let within = match step {
            Step::WaitApplied { within, .. } | Step::CatchUpFrom { within, .. } => *within + STATEMENT,
            _ => STATEMENT,
        };
        let no_answer = || StepError::NoAnswer { within, what: step.to_string() };
        let Some(epoch) = epoch else { return Err(no_answer()) };
        let (answer, answered) = oneshot::channel();
        let (shared, step_, token) = (self.shared.clone(), step.clone(), token.clone());
        spawn_local(async move {
            shared.wander().await;
            let party = shared.act(|sim| sim.manager_party(m));
            if shared.act(|sim| sim.cut[party][h] || !sim.hosts[h].on) {
                return sleep(within).await;
            }
            let result = agent_step(&shared, h, &step_, &token, epoch).await;
            shared.wander().await;
            if shared.act(|sim| sim.cut[h][party] || !sim.hosts[h].on) {
                return sleep(within).await;
            }
            // Nobody may wait for it any more.
            let _ = answer.send(result);
        });
        match timeout(within, answered).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) | Err(_) => Err(no_answer()),
        }
    }

    async fn claim(&self, candidate: &InstanceId, generation: Generation, proof: Proof, token: &Token) -> Evidence {
        let (cluster, voters) = self.shared.act(|sim| {
            (sim.cluster.clone(), (0..sim.hosts.len()).collect::<Vec<_>>())
        });
        let terms = Terms::new("manager", cluster.voters.iter().map(|v| v.host.clone()).collect(), &cluster.policy);
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

    async fn claim_one(&self, h: usize, claim: &Claim, until: Instant) -> (usize, Result<Vec<Outstanding>, String>) {
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
        while self.shared.act(|sim| !sim.answers(to) || !sim.servers[to].relay.is_empty()) {
            if Instant::now() > until {
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
            Step::Register { .. } | Step::Park { .. } => {
                let record = self.shared.act(|sim| sim.stores[self.m].record.clone());
                Ok(Evidence { record, ..Evidence::default() })
            }
            Step::Claim { .. } | Step::Salvage { .. } | Step::Furnish { .. } => Ok(Evidence::default()),
            _ => {
                let seen = self.ask(h, |sim| evidence(sim, h)).await.ok_or_else(|| StepError::NoAnswer {
                    within: STATEMENT,
                    what: "observe".to_owned(),
                })?;
                if matches!(step, Step::Fence { .. }) && step.is_satisfied(&seen) {
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
        match step {
            Step::Register { .. } | Step::Park { .. } => {
                sleep(Duration::from_millis(2)).await;
                let record = self.shared.act(|sim| sim.write_record(self.m, step, token));
                sleep(Duration::from_millis(1)).await;
                Ok(Evidence { record, ..Evidence::default() })
            }
            Step::Claim { candidate, generation, proof } => {
                Ok(self.claim(candidate, *generation, *proof, token).await)
            }
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
                if let (Step::StopReceiving { .. }, Ok(_)) = (step, &result) {
                    self.shared.act(|sim| {
                        let s = sim.index(step.instance());
                        let marks = sim.received_marks(s);
                        sim.stopped[self.m].push((s, marks));
                    });
                }
                if let (Step::Fence { instance, .. }, Ok(_)) = (step, &result) {
                    self.fenced.borrow_mut().push(instance.clone());
                }
                result
            }
        }
    }
}

fn evidence(sim: &mut Sim, h: usize) -> Evidence {
    let report = sim.answers(h).then(|| sim.report(h));
    Evidence { report, agent: Some(sim.status(h)), furnished: true, ..Evidence::default() }
}

/// The agent on `h` does a step of a manager whose ballot it obeys.
async fn agent_step(shared: &Shared, h: usize, step: &Step, token: &Token, epoch: u64) -> Result<Evidence, StepError> {
    let dead = || StepError::NoAnswer { within: STATEMENT, what: "the agent died".to_owned() };
    let life = shared.act(|sim| sim.hosts[h].life);
    let failed = |why: String| StepError::Failed(why);
    if !shared.act(|sim| sim.hosts[h].agent.is_some()) {
        return Err(dead());
    }
    alive(shared, h, life).await.ok_or_else(dead)?;
    let until = Instant::now() + STATEMENT;
    shared.act(|sim| sim.obey(h, token))?;
    match step {
        Step::Fence { generation, .. } => {
            shared.act(|sim| sim.fence(h, *generation)).map_err(|why| failed(why.to_string()))?;
        }
        Step::Kill { .. } => shared.act(|sim| sim.crash(h)),
        Step::StartServer { as_replica, .. } => {
            sleep(Duration::from_millis(400)).await;
            alive(shared, h, life).await.ok_or_else(dead)?;
            if *as_replica {
                // As a replica it comes up closed, and stays so until it was compared.
                let known = shared.act(|sim| {
                    let led = sim.holder(h).and_then(|holder| holder.role().generation());
                    led.unwrap_or_default().max(sim.hosts[h].promises.generation)
                });
                let input = Input::Fence { generation: known };
                shared.act(|sim| sim.feed(h, input)).map_err(|why| failed(why.to_string()))?;
            }
            shared.act(|sim| sim.start(h, *as_replica));
            sleep(Duration::from_millis(30)).await;
        }
        Step::Admit { .. } => {
            shared.act(|sim| sim.feed(h, Input::Admit)).map_err(|why| failed(why.to_string()))?;
        }
        Step::HoldVip { generation, .. } => {
            let input = Input::TakeVip { generation: *generation };
            shared.act(|sim| sim.feed(h, input)).map_err(|why| failed(why.to_string()))?;
        }
        Step::Open { generation, .. } => {
            let input = Input::Open { generation: *generation, epoch };
            shared.act(|sim| sim.feed(h, input)).map_err(|why| failed(why.to_string()))?;
            loop {
                alive(shared, h, life).await.ok_or_else(dead)?;
                let opened = shared.act(|sim| {
                    let now = sim.now_at(h);
                    let leads = sim.holder(h).is_some_and(|holder| {
                        holder.holds(now) && holder.role() == Role::Primary { generation: *generation }
                    });
                    (leads && sim.answers(h)).then(|| sim.open_server(h, "opened"))
                });
                if opened.is_some() {
                    break;
                }
                if Instant::now() > until {
                    return Err(failed("no majority granted the lease in time".to_owned()));
                }
                sleep(Duration::from_millis(10)).await;
            }
        }
        Step::Furnish { .. } => {}
        _ => sql(shared, h, life, step).await?,
    }
    alive(shared, h, life).await.ok_or_else(dead)?;
    Ok(shared.act(|sim| {
        let mut seen = evidence(sim, h);
        lie(sim, step, &mut seen);
        seen
    }))
}

/// What a planted mistake makes of the truth.
fn lie(sim: &Sim, step: &Step, seen: &mut Evidence) {
    let planted = sim.opts.planted;
    match step {
        Step::Fence { generation, .. } if planted == Planted::SkipFence => {
            if let Some(agent) = &mut seen.agent {
                (agent.access, agent.vip, agent.fenced) = (Access::Closed, false, Some(*generation));
            }
        }
        Step::StopReceiving { .. } if planted == Planted::SkipStopReceiving => {
            if let Some(channel) = seen.report.as_mut().and_then(|report| report.replication.first_mut()) {
                channel.receiver = ThreadState::Stopped;
            }
        }
        Step::WaitApplied { .. } | Step::CatchUpFrom { .. } | Step::StopReplicating { .. }
            if planted == Planted::OpenBeforeCatchUp =>
        {
            if let Some(report) = &mut seen.report {
                report.executed = report.known();
            }
        }
        _ => {}
    }
}

/// A stopped agent goes on where it was when it wakes; a dead one never does.
async fn alive(shared: &Shared, h: usize, life: u64) -> Option<()> {
    loop {
        let (same, frozen) = shared.act(|sim| (sim.hosts[h].on && sim.hosts[h].life == life, sim.hosts[h].frozen));
        if !same {
            return None;
        }
        if !frozen {
            return Some(());
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// Polls until `done` or the deadline; the server must answer all the while.
async fn level(
    shared: &Shared,
    h: usize,
    life: u64,
    within: Duration,
    done: impl Fn(&mut Sim) -> Result<bool, String>,
) -> Result<(), StepError> {
    let until = Instant::now() + within;
    loop {
        if alive(shared, h, life).await.is_none() {
            return Err(StepError::NoAnswer { within, what: "the agent died".to_owned() });
        }
        let (up, answers) = shared.act(|sim| (sim.servers[h].up, sim.answers(h)));
        if !up {
            return Err(StepError::Failed("the server is down".to_owned()));
        }
        if answers && shared.act(&done).map_err(StepError::Failed)? {
            return Ok(());
        }
        if Instant::now() > until {
            return Err(StepError::Failed(format!("not so after {within:?}")));
        }
        sleep(Duration::from_millis(15)).await;
    }
}

/// Steps that are statements.
async fn sql(shared: &Shared, h: usize, life: u64, step: &Step) -> Result<(), StepError> {
    match step {
        Step::StopReceiving { .. } => {
            level(shared, h, life, STATEMENT, |sim| sim.stop_receiving(h).map(|()| true)).await
        }
        Step::WaitApplied { set, within, .. } => {
            level(shared, h, life, *within, |sim| {
                let skip = sim.planted(Planted::OpenBeforeCatchUp);
                Ok(skip || sim.report(h).executed.contains(set))
            })
            .await
        }
        Step::CatchUpFrom { source, set, within, .. } => {
            point(shared, h, life, source, false).await?;
            level(shared, h, life, *within, |sim| Ok(sim.report(h).executed.contains(set))).await?;
            level(shared, h, life, STATEMENT, |sim| sim.stop_receiving(h).map(|()| true)).await
        }
        Step::StopReplicating { .. } => {
            level(shared, h, life, STATEMENT, |sim| sim.stop_replicating(h).map(|()| true)).await
        }
        Step::ForgetSource { .. } => {
            level(shared, h, life, STATEMENT, |sim| {
                sim.stop_replicating(h)?;
                sim.purge_relay(h);
                sim.servers[h].source = None;
                Ok(true)
            })
            .await
        }
        Step::ArmSource { acks, .. } => {
            level(shared, h, life, STATEMENT, |sim| {
                sim.servers[h].semi_source = *acks > 0;
                if *acks == 0 {
                    sim.release(h, false);
                } else {
                    sim.servers[h].acks = *acks;
                    sim.servers[h].semi_replica = false;
                }
                Ok(true)
            })
            .await
        }
        Step::PointReplica { source, acker, .. } => point(shared, h, life, source, *acker).await,
        Step::AckersAttached { acks, .. } => {
            level(shared, h, life, STATEMENT, |sim| Ok(sim.ackers_of(h).count() as u32 >= *acks)).await
        }
        Step::SetReadOnly { on, .. } => {
            level(shared, h, life, STATEMENT, |sim| {
                sim.servers[h].read_only = *on;
                Ok(true)
            })
            .await
        }
        _ => Err(StepError::Failed(format!("not a statement: {step}"))),
    }
}

async fn point(shared: &Shared, h: usize, life: u64, source: &InstanceId, acker: bool) -> Result<(), StepError> {
    let source = shared.act(|sim| sim.index(source));
    level(shared, h, life, STATEMENT, |sim| sim.point_begin(h, source, acker)).await?;
    level(shared, h, life, STATEMENT, |sim| sim.point_end(h, source, acker)).await
}

impl Sim {
    fn obey(&mut self, h: usize, token: &Token) -> Result<(), StepError> {
        let planted = self.planted(Planted::IgnoreBallots);
        let Some(agent) = self.hosts[h].agent.as_mut() else {
            return Err(StepError::Failed("no agent".to_owned()));
        };
        let (led, _) = agent.voter.lead(&token.ballot);
        self.sync(h);
        if !led.accepted && !planted {
            self.count("older ballot refused");
            return Err(StepError::Deposed(format!("ballot {} is obeyed here", led.ballot)));
        }
        if token.ballot.number < self.hosts[h].obeyed {
            self.violate(format!("I6: db{h} obeys ballot {} after {}", token.ballot, self.hosts[h].obeyed));
        }
        self.hosts[h].obeyed = token.ballot.number;
        Ok(())
    }

    fn purges_at_start(&self) -> bool {
        self.opts.flavor == Flavor::MariaDb
    }

    fn stop_receiving(&mut self, s: usize) -> Result<(), String> {
        if self.servers[s].source.is_none() || self.planted(Planted::SkipStopReceiving) {
            return Ok(());
        }
        if self.planted(Planted::StopBothThreads) {
            self.stop_io(s);
            self.servers[s].sql = false;
            self.start_sql(s);
            return Ok(());
        }
        let (io, unapplied) = (self.servers[s].io, !self.servers[s].relay.is_empty());
        if !self.servers[s].sql && (io || unapplied) {
            if !io && self.purges_at_start() {
                return Err("both threads are stopped with something unapplied".to_owned());
            }
            self.start_sql(s);
        }
        self.stop_io(s);
        Ok(())
    }

    fn stop_replicating(&mut self, s: usize) -> Result<(), String> {
        self.stop_receiving(s)?;
        if !self.servers[s].relay.is_empty() && !self.planted(Planted::OpenBeforeCatchUp) {
            return Err("received and not applied".to_owned());
        }
        self.servers[s].sql = false;
        Ok(())
    }

    /// Read-only, source side off, acknowledging side set; then what can be done without losing what was received.
    fn point_begin(&mut self, s: usize, source: usize, acker: bool) -> Result<bool, String> {
        let server = &self.servers[s];
        if server.source.is_none() && server.semi_source && !server.waiters.is_empty() {
            return Err("sessions wait for an acknowledgement".to_owned());
        }
        let server = &mut self.servers[s];
        server.read_only = true;
        server.semi_replica = acker;
        if std::mem::replace(&mut server.semi_source, false) {
            self.release(s, false);
        }
        let known = self.servers[s].source;
        if known.is_some() && known != Some(source) && self.purges_at_start() {
            self.stop_receiving(s)?;
        }
        Ok(true)
    }

    fn point_end(&mut self, s: usize, source: usize, acker: bool) -> Result<bool, String> {
        let (known, io, sql) = (self.servers[s].source, self.servers[s].io, self.servers[s].sql);
        let unapplied = !self.servers[s].relay.is_empty();
        if known == Some(source) {
            if !io && !sql && unapplied && self.purges_at_start() {
                return Err("both threads are stopped with something unapplied".to_owned());
            }
            if !sql {
                self.start_sql(s);
            }
            let announced = self.servers[s].stream.as_ref().is_none_or(|stream| stream.announced == acker);
            if !announced {
                self.stop_io(s);
            }
            if !announced || !io {
                self.start_io(s);
            }
            return Ok(true);
        }
        if known.is_some() && self.purges_at_start() {
            if unapplied {
                return Ok(false);
            }
            self.servers[s].sql = false;
        }
        self.stop_io(s);
        self.servers[s].source = Some(source);
        if self.purges_at_start() {
            self.purge_relay(s);
        }
        self.start_io(s);
        self.start_sql(s);
        Ok(true)
    }

    /// The server takes writes: what must hold of it is checked first.
    pub(crate) fn open_server(&mut self, h: usize, how: &str) {
        let generation = self.holder(h).and_then(|holder| holder.role().generation()).unwrap_or_default();
        if self.servers[h].read_only {
            self.say(format!("db{h} {how}: writable, generation {generation}"));
        }
        self.check_open(h, generation);
        self.servers[h].read_only = false;
    }
}
