//! What the agent of a blocked server does when it hears no more of the block: as `agent/take_back.rs`, over the model's network. What it
//! asks, what the answers come to, voters and holder are as shipped.

use std::time::Duration;

use futures::future::join_all;
use mha::decide::lease::Terms;
use mha::decide::lease::holder::{Input, Role};
use mha::decide::lease::take_back::{AGAIN, LeftAlone, PATIENCE, Tally};
use mha::decide::plan::Step;
use mha::execute::world::Token;
use mha::model::ballot::Generation;
use tokio::time::{Instant, sleep};

use super::state::Sim;
use super::steps::{agent_step, alive};
use super::world::Shared;

const FOLLOW: Duration = Duration::from_secs(10);

enum Trouble {
    Overtaken,
    Later,
}

pub(crate) struct Left {
    pub(crate) shared: Shared,
    pub(crate) h: usize,
    pub(crate) life: u64,
    pub(crate) token: Token,
    pub(crate) within: Duration,
    pub(crate) otherwise: Vec<Step>,
}

/// Waits for the manager's next word, and does without it when none comes.
pub(crate) async fn unless_heard(left: Left) {
    let Left { shared, h, life, within, .. } = &left;
    let (h, life) = (*h, *life);
    let Some(blocked) = LeftAlone::new(&left.otherwise, shared.act(|sim| sim.hosts[h].kept)) else { return };
    let back = blocked.back;
    sleep(*within + PATIENCE).await;
    let mut mine = false;
    while alive(shared, h, life).await.is_some() {
        let kept = shared.act(|sim| sim.hosts[h].kept);
        let ours = mine && kept.role == (Role::Primary { generation: back });
        if !ours && !blocked.stands(kept) {
            return;
        }
        let won = if ours { Ok(()) } else { left.win(blocked).await };
        mine |= won.is_ok();
        let done = match won {
            Ok(()) => left.open(back, kept.epoch).await,
            Err(trouble) => Err(trouble),
        };
        match done {
            Ok(()) => return left.follow(back).await,
            Err(Trouble::Overtaken) => return,
            Err(Trouble::Later) => sleep(AGAIN).await,
        }
    }
}

impl Left {
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

    /// Looks first, then claims; waits until no grant to anybody else is left.
    async fn win(&self, blocked: LeftAlone) -> Result<(), Trouble> {
        let h = self.h;
        let (cluster, voters) = self.shared.act(|sim| (sim.cluster.clone(), sim.hosts.len()));
        let names = cluster.voters.iter().map(|voter| voter.host.clone()).collect();
        let terms = Terms::new("agent", names, &cluster.policy);
        let candidate = self.shared.act(|sim| sim.instance(h));
        let seen = join_all((0..voters).map(|v| {
            self.ask(v, move |sim| {
                let now = sim.now_at(v);
                let voter = &sim.hosts[v].agent.as_ref()?.voter;
                Some((voter.promises().generation, voter.granted_ago(now).is_some()))
            })
        }))
        .await;
        let seen: Vec<(Generation, bool)> = seen.into_iter().flatten().flatten().collect();
        if seen.iter().any(|(known, granted)| blocked.is_overtaken(*known, *granted)) {
            return Err(Trouble::Overtaken);
        }
        if seen.len() < terms.majority {
            return Err(Trouble::Later);
        }
        let claim = blocked.claim(cluster.name.clone(), self.token.ballot.clone(), candidate);
        let answers = join_all((0..voters).map(|v| {
            let claim = &claim;
            self.ask(v, move |sim| {
                let now = sim.now_at(v);
                let answer = sim.hosts[v].agent.as_mut().map(|agent| agent.voter.claim(claim, now).0);
                sim.sync(v);
                answer
            })
        }))
        .await;
        let hosts = cluster.voters.iter().map(|voter| voter.host.clone());
        let wait = match Tally::of(&terms, hosts.zip(answers.into_iter().map(Option::flatten))) {
            Tally::Won { wait } => wait,
            Tally::Lost { .. } => return Err(Trouble::Overtaken),
            Tally::Later { .. } => return Err(Trouble::Later),
        };
        sleep(wait * 1_010 / 1_000).await;
        let kept = self.shared.act(|sim| sim.hosts[h].kept);
        if blocked.stands(kept) { Ok(()) } else { Err(Trouble::Overtaken) }
    }

    async fn open(&self, back: Generation, epoch: u64) -> Result<(), Trouble> {
        let (h, until) = (self.h, Instant::now() + FOLLOW);
        let ordered = self.shared.act(|sim| sim.feed(h, Input::Open { generation: back, epoch }));
        ordered.map_err(|_| Trouble::Later)?;
        loop {
            alive(&self.shared, h, self.life).await.ok_or(Trouble::Overtaken)?;
            let opened = self.shared.act(|sim| {
                let now = sim.now_at(h);
                let role = Role::Primary { generation: back };
                let leads = sim.holder(h).is_some_and(|holder| holder.holds(now) && holder.role() == role);
                let opens = leads && sim.answers(h);
                if opens {
                    sim.open_server(h, "taken back by its agent");
                    sim.note_won(h, back, &self.token.recovery);
                    sim.switching.taken_back.push(back.0);
                    sim.count("taken back by its agent");
                }
                opens
            });
            if opened {
                break;
            }
            if Instant::now() > until {
                return Err(Trouble::Later);
            }
            sleep(Duration::from_millis(10)).await;
        }
        let held = self.shared.act(|sim| sim.feed(h, Input::TakeVip { generation: back }));
        held.map_err(|_| Trouble::Later)
    }

    /// The replicas that were taken from it return, each by its own agent.
    async fn follow(&self, back: Generation) {
        let points = self.otherwise.iter().filter(|step| matches!(step, Step::PointReplica { .. }));
        join_all(points.map(|step| async move {
            let leads = |sim: &mut Sim| sim.hosts[self.h].kept.role == (Role::Primary { generation: back });
            let token = Token { back: true, ..self.token.clone() };
            while self.shared.act(leads) {
                let r = self.shared.act(|sim| sim.index(step.instance()));
                if self.ask(r, |_| ()).await.is_some()
                    && let Ok(seen) = agent_step(&self.shared, r, step, &token, 0).await
                    && step.is_satisfied(&seen)
                {
                    return;
                }
                sleep(AGAIN).await;
            }
        }))
        .await;
    }
}
