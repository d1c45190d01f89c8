//! What the agent on a host does with a step, and its server with a statement: as the real ones do, over the model.

use std::time::Duration;

use mha::decide::lease::holder::{Input, Role};
use mha::decide::lease::refusal::permits;
use mha::decide::plan::{Evidence, Step};
use mha::execute::world::{StepError, Token};
use mha::model::instance::{Flavor, InstanceId};
use mha::model::observation::Access;
use mha::model::report::ThreadState;
use tokio::time::{Instant, sleep};

use super::alone::unless_heard;
use super::basics::Planted;
use super::block::block;
use super::state::Sim;
use super::world::{STATEMENT, Shared};

pub(crate) fn evidence(sim: &mut Sim, h: usize) -> Evidence {
    let report = sim.answers(h).then(|| sim.report(h));
    Evidence { report, agent: Some(sim.status(h)), furnished: true, ..Evidence::default() }
}

/// The agent on `h` does a step of a manager whose ballot it obeys.
pub(crate) async fn agent_step(
    shared: &Shared,
    h: usize,
    step: &Step,
    token: &Token,
    epoch: u64,
) -> Result<Evidence, StepError> {
    let dead = || StepError::NoAnswer { within: STATEMENT, what: "the agent died".to_owned() };
    let life = shared.act(|sim| sim.hosts[h].life);
    let failed = |why: String| StepError::Failed(why);
    if !shared.act(|sim| sim.hosts[h].agent.is_some()) {
        return Err(dead());
    }
    alive(shared, h, life).await.ok_or_else(dead)?;
    let until = Instant::now() + STATEMENT;
    shared.act(|sim| sim.obey(h, token))?;
    let role = shared.act(|sim| sim.holder(h).map(|holder| holder.role()).unwrap_or_default());
    permits(role, step).map_err(|refusal| failed(refusal.to_string()))?;
    let stops = shared.act(|sim| sim.leaves_standing(h, step, token));
    match step {
        Step::Fence { generation, .. } => {
            shared.act(|sim| sim.fence(h, *generation)).map_err(|why| failed(why.to_string()))?;
        }
        Step::Block { generation, within, otherwise, .. } => {
            block(shared, h, life, *generation, *within).await?;
            unless_heard(shared, (h, life), token, *within, otherwise);
        }
        Step::Unmoved { .. } => shared.act(|sim| sim.reread(h)),
        Step::Kill { .. } => shared.act(|sim| sim.crash(h)),
        Step::StartServer { as_replica, drop_tail, .. } => {
            sleep(Duration::from_millis(400)).await;
            alive(shared, h, life).await.ok_or_else(dead)?;
            if *as_replica && !shared.act(|sim| sim.servers[h].up) {
                let generation = role.generation().unwrap_or_default();
                let input = Input::Fence { generation };
                shared.act(|sim| sim.feed(h, input)).map_err(|why| failed(why.to_string()))?;
            }
            shared.act(|sim| sim.start(h, *drop_tail));
            sleep(Duration::from_millis(30)).await;
        }
        Step::Admit { .. } => {
            if !shared.act(|sim| sim.servers[h].read_only) {
                return Err(failed(
                    "it is writable; only a read-only server is opened as a replica".to_owned(),
                ));
            }
            shared.act(|sim| sim.feed(h, Input::Admit)).map_err(|why| failed(why.to_string()))?;
        }
        Step::HoldVip { generation, .. } => {
            let input = Input::TakeVip { generation: *generation };
            shared.act(|sim| sim.feed(h, input)).map_err(|why| failed(why.to_string()))?;
        }
        Step::LoseVip { .. } => {
            shared.act(|sim| sim.feed(h, Input::LoseVip)).map_err(|why| failed(why.to_string()))?;
        }
        Step::Open { generation, acks, .. } => {
            let disarmed = *acks > 0 && shared.act(|sim| !sim.servers[h].semi_source);
            if disarmed {
                shared.act(|sim| sim.count("restarted after it was armed"));
                return Err(failed("its server was restarted since it was armed".to_owned()));
            }
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
                    shared.act(|sim| {
                        sim.note_won(h, *generation, &token.recovery);
                        // A refusal fails nothing: the order for the address follows.
                        let _ = sim.feed(h, Input::TakeVip { generation: *generation });
                    });
                    break;
                }
                if Instant::now() > until {
                    return Err(failed("no majority granted the lease in time".to_owned()));
                }
                sleep(Duration::from_millis(10)).await;
            }
        }
        Step::Furnish { .. } => {}
        Step::SaveExtra { extra, .. } => {
            sleep(Duration::from_millis(40)).await;
            alive(shared, h, life).await.ok_or_else(dead)?;
            shared.act(|sim| sim.save_extra(h, extra)).map_err(failed)?;
        }
        // Files are not in this model: nobody asks for it here.
        Step::Rebuild { .. } | Step::Exchange { .. } => {
            return Err(failed("no copy can be made here".to_owned()));
        }
        Step::Rewind { extra, keep, .. } => {
            shared.act(|sim| sim.rewind_begin(h, extra, keep)).map_err(failed)?;
            // A server without a history is what a death in the middle leaves.
            sleep(Duration::from_millis(20)).await;
            alive(shared, h, life).await.ok_or_else(dead)?;
            shared.act(|sim| sim.rewind_end(h)).map_err(failed)?;
        }
        Step::PointReplica { .. } | Step::StopReplicating { .. } => {
            // The later of two orders is the one that stands.
            while shared.act(|sim| std::mem::replace(&mut sim.hosts[h].turning, true)) {
                sleep(Duration::from_millis(5)).await;
                alive(shared, h, life).await.ok_or_else(dead)?;
                if Instant::now() > until {
                    return Err(dead());
                }
            }
            let done = sql(shared, h, life, step).await;
            shared.act(|sim| sim.hosts[h].turning &= sim.hosts[h].life != life);
            done?;
        }
        _ => sql(shared, h, life, step).await?,
    }
    alive(shared, h, life).await.ok_or_else(dead)?;
    Ok(shared.act(|sim| {
        let settled = matches!(step, Step::PointReplica { .. } | Step::Open { .. } | Step::Halt { .. });
        sim.hosts[h].stopped_by_order = (sim.hosts[h].stopped_by_order || stops) && !settled;
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
        Step::Block { generation, .. } if planted == Planted::BlockWithoutFence => {
            if let Some(agent) = &mut seen.agent {
                (agent.access, agent.fenced) = (Access::Closed, Some(*generation));
            }
        }
        Step::Unmoved { set, .. } if planted == Planted::SetNotReread => {
            if let Some(report) = &mut seen.report {
                report.executed = set.clone();
            }
        }
        Step::ArmSource { acks, .. } if planted == Planted::OpenUnarmed && *acks > 0 => {
            if let Some(report) = &mut seen.report {
                (report.semi_sync.source_enabled, report.semi_sync.acks) = (true, *acks);
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
pub(crate) async fn alive(shared: &Shared, h: usize, life: u64) -> Option<()> {
    loop {
        let (same, frozen) =
            shared.act(|sim| (sim.hosts[h].on && sim.hosts[h].life == life, sim.hosts[h].frozen));
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
    let mut answered = Instant::now();
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
        if answers {
            answered = Instant::now();
        }
        if Instant::now() > until || answered.elapsed() > STATEMENT {
            return Err(match answers {
                true => StepError::Failed(format!("not so after {within:?}")),
                false => StepError::NoAnswer { within, what: "connected, no greeting".to_owned() },
            });
        }
        sleep(Duration::from_millis(15)).await;
    }
}

/// Steps that are statements.
async fn sql(shared: &Shared, h: usize, life: u64, step: &Step) -> Result<(), StepError> {
    match step {
        Step::StopReceiving { .. } if shared.act(|sim| sim.planted(Planted::SkipStopReceiving)) => Ok(()),
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
        Step::Halt { threads, within, .. } => {
            level(shared, h, life, *within, |sim| {
                if threads.receives() {
                    sim.stop_receiving(h)?;
                    sim.servers[h].semi_replica = false;
                }
                if threads.applies() {
                    if !sim.servers[h].io && !sim.servers[h].relay.is_empty() {
                        return Ok(false);
                    }
                    sim.servers[h].sql = false;
                }
                Ok(true)
            })
            .await
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
        Step::ArmSource { acks, .. } if *acks > 0 && shared.act(|sim| sim.planted(Planted::OpenUnarmed)) => {
            Ok(())
        }
        Step::ArmSource { acks, .. } => {
            level(shared, h, life, STATEMENT, |sim| {
                if *acks == 0 {
                    sim.check_disarmed(h);
                }
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

async fn point(
    shared: &Shared,
    h: usize,
    life: u64,
    source: &InstanceId,
    acker: bool,
) -> Result<(), StepError> {
    let source = shared.act(|sim| sim.index(source));
    level(shared, h, life, STATEMENT, |sim| sim.point_begin(h, source, acker)).await?;
    level(shared, h, life, STATEMENT, |sim| sim.point_end(h, source, acker)).await
}

impl Sim {
    /// A step that stops a server's replication, or opens one that does not replicate: its agent remembers that, and the checker by whom.
    fn leaves_standing(&mut self, h: usize, step: &Step, token: &Token) -> bool {
        let stops = matches!(
            step,
            Step::StopReceiving { .. } | Step::StopReplicating { .. } | Step::CatchUpFrom { .. }
        );
        let stands = !self.servers[h].io && !self.servers[h].sql;
        let leaves = stops && !stands || matches!(step, Step::Admit { .. }) && stands;
        if leaves {
            self.hosts[h].stopped_by_order = true;
            self.servers[h].stopped_by.clone_from(&token.recovery);
        }
        leaves
    }

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
        self.hosts[h].ordered.take(token).inspect_err(|_| self.count("came after it was taken back"))
    }

    fn purges_at_start(&self) -> bool {
        self.opts.flavor == Flavor::MariaDb
    }

    fn stop_receiving(&mut self, s: usize) -> Result<(), String> {
        if self.servers[s].source.is_none() {
            return Ok(());
        }
        if self.planted(Planted::StopBothThreads) {
            let counted = self.servers[s].replication_statements;
            self.stop_io(s);
            self.servers[s].sql = false;
            self.start_sql(s);
            self.servers[s].replication_statements = counted;
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
        self.servers[s].replication_statements += 1;
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
