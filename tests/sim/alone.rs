//! What the agent of a blocked server reaches over the model's network when it hears no more of the block. When it asks whom, and when it
//! opens, is the code as shipped; voters and holder are too.

use std::time::Duration;

use mha::decide::lease::Terms;
use mha::decide::lease::holder::{Input, Kept, Role};
use mha::decide::lease::voter::{Claim, Claimed};
use mha::decide::plan::{Evidence, Step};
use mha::execute::compose::{BlockedHost, Electorate, OrphanedBlock};
use mha::execute::world::{StepError, Token};
use mha::model::ballot::Generation;
use mha::model::cluster::Voter;
use mha::model::time::Moment;
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep};

use super::state::Sim;
use super::steps::{agent_step, alive};
use super::world::Shared;

/// The agent on `h`, for as long as it lives.
struct BlockedAgent {
    shared: Shared,
    h: usize,
    life: u64,
    recovery: String,
}

/// Waits for the manager's next word, and does without it when none comes.
pub(crate) fn unless_heard(
    shared: &Shared,
    (h, life): (usize, u64),
    token: &Token,
    within: Duration,
    otherwise: &[Step],
) {
    let kept = shared.act(|sim| sim.hosts[h].kept);
    let Some(block) = OrphanedBlock::new(token, kept, otherwise, within) else { return };
    let host = BlockedAgent { shared: shared.clone(), h, life, recovery: token.recovery.clone() };
    spawn_local(async move { block.take_back_unless_heard(&host).await });
}

impl BlockedAgent {
    /// One question to another host's agent.
    async fn ask<T>(&self, to: usize, question: impl FnOnce(&mut Sim) -> T) -> Option<T> {
        let delay = self.shared.act(|sim| sim.dice.range(1, 6));
        sleep(Duration::from_millis(delay)).await;
        let answer = self.shared.act(|sim| {
            let hears = sim.talk(self.h, to) && sim.agent_answers(to) && sim.hosts[self.h].life == self.life;
            hears.then(|| question(sim))
        });
        sleep(Duration::from_millis(if answer.is_some() { delay } else { 1_000 })).await;
        answer
    }

    fn host_of(&self, voter: &Voter) -> Option<usize> {
        self.shared.act(|sim| (0..sim.hosts.len()).find(|h| sim.host_name(*h) == voter.host))
    }
}

impl BlockedHost for BlockedAgent {
    async fn kept(&self) -> Option<Kept> {
        alive(&self.shared, self.h, self.life).await?;
        Some(self.shared.act(|sim| sim.hosts[self.h].kept))
    }

    fn electorate(&self) -> Option<Electorate> {
        let (cluster, instance) = self.shared.act(|sim| (sim.cluster.clone(), sim.instance(self.h)));
        let names = cluster.voters.iter().map(|voter| voter.host.clone()).collect();
        let terms = Terms::new("agent", names, &cluster.policy);
        Some(Electorate { cluster: cluster.name, instance, voters: cluster.voters, terms })
    }

    async fn sleep(&self, span: Duration) {
        let micros = span.as_micros() as u64;
        let lasts = self.shared.act(|sim| {
            let until = Moment::from_micros(sim.now_at(self.h).as_micros() + micros);
            sim.hosts[self.h].clock.shows(until).saturating_sub(sim.t)
        });
        sleep(Duration::from_millis(lasts)).await;
    }

    async fn look(&self, voter: &Voter) -> Option<(Generation, bool)> {
        let v = self.host_of(voter)?;
        let seen = self.ask(v, |sim| {
            let now = sim.now_at(v);
            let voter = &sim.hosts[v].agent.as_ref()?.voter;
            Some((voter.promises().generation, voter.granted_ago(now).is_some()))
        });
        seen.await.flatten()
    }

    async fn claim(&self, voter: &Voter, claim: &Claim) -> Option<Claimed> {
        let v = self.host_of(voter)?;
        let answer = self.ask(v, |sim| {
            let now = sim.now_at(v);
            let answer = sim.hosts[v].agent.as_mut().map(|agent| agent.voter.claim(claim, now).0);
            sim.sync(v);
            answer
        });
        answer.await.flatten()
    }

    async fn open(&self, generation: Generation, epoch: u64, deadline: Instant) -> Result<(), String> {
        let h = self.h;
        let ordered = self.shared.act(|sim| sim.feed(h, Input::Open { generation, epoch }));
        ordered.map_err(|refusal| refusal.to_string())?;
        loop {
            alive(&self.shared, h, self.life).await.ok_or("the agent died")?;
            let opened = self.shared.act(|sim| {
                let now = sim.now_at(h);
                let role = Role::Primary { generation };
                let leads = sim.holder(h).is_some_and(|holder| holder.holds(now) && holder.role() == role);
                let opens = leads && sim.answers(h);
                if opens {
                    sim.open_server(h, "taken back by its agent");
                    sim.note_won(h, generation, &self.recovery);
                    sim.switching.taken_back.push(generation.0);
                    sim.count("taken back by its agent");
                }
                opens
            });
            if opened {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err("no majority granted the lease in time".to_owned());
            }
            sleep(Duration::from_millis(10)).await;
        }
    }

    async fn take_vip(&self, generation: Generation) -> Result<(), String> {
        let held = self.shared.act(|sim| sim.feed(self.h, Input::TakeVip { generation }));
        held.map_err(|refusal| refusal.to_string())
    }

    async fn at_replica(
        &self,
        step: &Step,
        token: &Token,
        timeout: Duration,
    ) -> Option<Result<Evidence, StepError>> {
        let r = self.shared.act(|sim| sim.index(step.instance()));
        Some(match self.ask(r, |_| ()).await {
            Some(()) => agent_step(&self.shared, r, step, token, 0).await,
            None => Err(StepError::NoAnswer { within: timeout, what: step.to_string() }),
        })
    }
}
