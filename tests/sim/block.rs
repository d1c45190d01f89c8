//! A server in a block, as its agent makes it: it becomes read-only behind the commits in flight, while new writers wait; then no
//! client byte passes, and its replicas' streams do. What a privileged session commits after that, and a statement that nobody
//! waits for any more, happen here too.

use std::time::Duration;

use mha::decide::lease::holder::Input;
use mha::decide::plan::Step;
use mha::execute::world::{StepError, Token};
use mha::model::ballot::Generation;
use mha::model::instance::{Flavor, InstanceId};
use tokio::time::{Instant, sleep};

use super::basics::Planted;
use super::host::Filter;
use super::server::{Marks, Tx, Written};
use super::state::{Event, Sim};
use super::steps::alive;
use super::world::Shared;

/// What ending a statement that waits, and closing the access, may take of the block's time.
const RESERVE: Duration = Duration::from_millis(300);

/// The agent on `h` blocks writers by `within`, or leaves them as they were.
pub(crate) async fn block(
    shared: &Shared,
    h: usize,
    life: u64,
    generation: Generation,
    within: Duration,
) -> Result<(), StepError> {
    let by = Instant::now() + within.saturating_sub(RESERVE);
    let boot = shared.act(|sim| {
        sim.spare_replicas(h);
        sim.servers[h].boot
    });
    loop {
        let answered = alive(shared, h, life).await.is_some();
        let over = Instant::now() > by;
        let closed = shared.act(|sim| sim.close_if_possible(h, boot, answered && !over));
        match closed.map_err(StepError::Failed)? {
            true => break,
            false if !answered => {
                let what = "the agent died".to_owned();
                return Err(StepError::NoAnswer { within, what });
            }
            false if over => {
                shared.act(|sim| sim.stop_closing(h, boot));
                return Err(StepError::Failed("it could not be made read-only in time".to_owned()));
            }
            false => sleep(Duration::from_millis(10)).await,
        }
    }
    sleep(Duration::from_millis(1)).await;
    alive(shared, h, life)
        .await
        .ok_or_else(|| StepError::NoAnswer { within, what: "the agent died".to_owned() })?;
    shared.act(|sim| sim.fence_after_block(h, generation)).map_err(StepError::Failed)
}

impl Sim {
    /// Bytes of replication pass: the port is open to all, or this connection is spared.
    pub(crate) fn lets(&self, s: usize, r: usize) -> bool {
        let spared = |id| self.hosts[s].spared.contains(&id);
        self.passes(s) || self.servers[r].stream.as_ref().is_some_and(|stream| spared(stream.id))
    }

    /// Exactly the replicas connected now will pass a fence; none if the server does not say who they are.
    pub(crate) fn spare_replicas(&mut self, h: usize) {
        let streams = |server: &super::server::Server| {
            server.stream.as_ref().filter(|_| server.source == Some(h)).map(|stream| stream.id)
        };
        self.hosts[h].spared = match self.answers(h) {
            true => self.servers.iter().filter_map(streams).collect(),
            false => Vec::new(),
        };
    }

    /// What it counts as executed. In MySQL a commit that waits for an acknowledgement is not, although the log has it.
    pub(crate) fn executed_marks(&self, s: usize) -> Marks {
        let mut marks = self.servers[s].marks;
        if self.opts.flavor == Flavor::MySql {
            for waiter in &self.servers[s].waiters {
                let Written { origin, number } = self.txs[waiter.tx];
                marks[origin] = marks[origin].min(number - 1);
            }
        }
        marks
    }

    /// `SET GLOBAL read_only`: at once where nobody commits, else it waits, and new writers with it.
    fn close_if_possible(&mut self, h: usize, boot: u64, waits: bool) -> Result<bool, String> {
        if !self.servers[h].up || self.servers[h].boot != boot {
            return Err("the server is down".to_owned());
        }
        if !self.answers(h) {
            if !waits {
                // It is in the server's socket already.
                self.after(20, Event::LateClose { server: h, boot });
            }
            return Ok(false);
        }
        if self.servers[h].waiters.is_empty() {
            self.servers[h].closing = None;
            self.servers[h].read_only = true;
            return Ok(true);
        }
        self.servers[h].closing.get_or_insert(0);
        Ok(false)
    }

    /// The statement is ended where the server still does what it is told; those who waited with it go on.
    fn stop_closing(&mut self, h: usize, boot: u64) {
        if self.answers(h) && self.servers[h].boot == boot {
            let waited = self.servers[h].closing.take().unwrap_or(0);
            for _ in 0..waited.min(3) {
                if self.passes(h) && self.client_link(h) {
                    self.write_at(h);
                }
            }
        }
    }

    /// Nobody waits for the statement any more, and it was not ended: it is done, or gives up, when the server goes on.
    pub(crate) fn late_close(&mut self, h: usize, boot: u64) {
        if self.servers[h].boot != boot || !self.servers[h].up {
            return;
        }
        if !self.answers(h) {
            return self.after(20, Event::LateClose { server: h, boot });
        }
        if self.servers[h].waiters.is_empty() {
            self.say(format!("db{h} becomes read-only, and nobody waits for that"));
            self.count("closed later, unasked");
            self.servers[h].closing = None;
            self.servers[h].read_only = true;
        } else {
            self.stop_closing(h, boot);
        }
    }

    fn fence_after_block(&mut self, h: usize, generation: Generation) -> Result<(), String> {
        if !self.planted(Planted::BlockWithoutFence) {
            self.feed(h, Input::Fence { generation }).map_err(|why| why.to_string())?;
        }
        self.count("blocked");
        // MySQL bug #30344595, and MariaDB's SUPER: a session that was let through before commits after it.
        if self.dice.one_in(3) {
            let later = if self.dice.one_in(4) { self.dice.range(1, 120) } else { self.dice.range(1, 25) };
            self.after(later, Event::LateCommit(h));
        }
        Ok(())
    }

    pub(crate) fn late_commit(&mut self, h: usize) {
        let blocked = self.servers[h].read_only && self.hosts[h].filter == Filter::Closed;
        let lies = self.planted(Planted::BlockWithoutFence) && self.servers[h].read_only;
        if (blocked || lies) && self.answers(h) {
            self.say(format!("db{h}: a privileged session commits in the block"));
            self.count("committed in a block");
            self.commit(h);
            self.switching.errant.extend(self.servers[h].log.last());
        }
    }

    /// It has what a privileged session wrote on a blocked server, the primary lacks that, and it is told: nobody else decides.
    pub(crate) fn is_for_a_person(&mut self, s: usize, primary: usize) -> bool {
        let (server, leads) = (&self.servers[s], &self.servers[primary]);
        let errant = self.switching.errant.iter().any(|tx| server.knows(*tx) && !leads.holds(*tx));
        if errant {
            self.count("errant in the end");
        }
        errant
    }

    /// Another manager stopped it in a recovery that the one that is left has no journal of, and its agent, which knew, was restarted since:
    /// as good as stopped by hand, and told.
    pub(crate) fn was_left_unknown(&mut self, s: usize) -> bool {
        let server = &self.servers[s];
        let known = self.stores[0].recoveries.iter().any(|recovery| recovery.id == server.stopped_by);
        let stands = server.up && !server.io && !server.sql && !self.hosts[s].stopped_by_order;
        let left = stands && !server.stopped_by.is_empty() && !known;
        if left {
            self.count("left stopped by a manager that is gone with its journal");
        }
        left
    }

    /// What the old primary's log had when it was asked again; the checker's own memory, whatever was answered.
    pub(crate) fn reread(&mut self, h: usize) {
        let waits = |tx: &Tx| self.servers[h].waiters.iter().any(|waiter| waiter.tx == *tx);
        let counts = |tx: &Tx| self.opts.flavor == Flavor::MariaDb || !waits(tx);
        let log = self.servers[h].log.iter().copied().filter(counts).collect();
        self.servers[h].reread = self.answers(h).then_some(log);
    }

    /// A planned change leaves nothing behind, acknowledged or not, in whatever durability.
    pub(crate) fn must_have_all_of(&mut self, h: usize, old: usize) {
        let Some(had) = self.servers[old].reread.take() else {
            return self.violate(format!("I3: db{h} opens, and db{old} was not read again after its block"));
        };
        if let Some(tx) = had.iter().find(|tx| !self.servers[h].holds(**tx)).copied() {
            self.violate(format!(
                "I3: db{h} opens without transaction {tx}, which blocked db{old} had when read last"
            ));
        }
        let told =
            |ack: &&super::check::Acked| self.servers[old].holds(ack.tx) && !self.servers[h].holds(ack.tx);
        if let Some(tx) = self.acked.iter().find(told).map(|ack| ack.tx) {
            self.violate(format!(
                "I2: a planned change leaves transaction {tx} on db{old}, which a client was told is kept"
            ));
        }
    }
}

impl Sim {
    /// A switchover's undo with the mistake planted: its claim asks nobody.
    pub(crate) fn is_undo_unasked(&self, m: usize, candidate: &InstanceId, token: &Token) -> bool {
        let undoes = |recovery: &mha::execute::journal::Recovery| {
            recovery.id == token.recovery
                && recovery.plan(mha::decide::plan::PlanKind::Switchover).is_some_and(|plan| {
                    plan.steps()
                        .any(|step| matches!(step, Step::Block { instance, .. } if instance == candidate))
                })
        };
        self.planted(Planted::UndoWithoutClaim) && self.stores[m].recoveries.iter().any(undoes)
    }
}
