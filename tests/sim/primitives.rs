//! What a manager's steps are made of, over the model: one command at an agent, one question to a voter, one session at a server. How
//! they make up a step is the code as shipped.

use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::stream::FuturesUnordered;
use mha::decide::lease::voter::{Claim, Claimed};
use mha::decide::plan::{Evidence, Step, TrafficOrder};
use mha::execute::compose::{LogTail, Primitives, ServerSession, Voter, claim_until_answered};
use mha::execute::record::{RecordError, RecordStore, noted_by};
use mha::execute::world::{StepError, Token};
use mha::model::ballot::Generation;
use mha::model::cluster::Cluster;
use mha::model::gtid::GtidSet;
use mha::model::instance::InstanceId;
use mha::model::record::ClusterRecord;
use mha::model::report::Report;
use mha::model::sessions::OpenTransaction;
use mha::model::time::Moment;
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep};

use super::basics::Planted;
use super::manager::wall;
use super::server::{Marks, Tx, Written};
use super::state::Sim;
use super::steps::evidence;
use super::world::{STATEMENT, SimWorld};

/// Until a party that does not answer is given up, where [`SimWorld::ask`] has waited before.
const UNANSWERED: Duration = Duration::from_millis(700);

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

    async fn note_record(&self, record: &ClusterRecord) -> Result<(), RecordError> {
        let recorded = record.recorded();
        let hosts = self.shared.act(|sim| sim.hosts.len());
        let answers: FuturesUnordered<_> = (0..hosts)
            .map(|h| {
                let noted = self.ask(h, move |sim| {
                    let noted = sim.hosts[h].agent.as_mut().map(|agent| {
                        let _ = agent.voter.note_record(recorded);
                    });
                    sim.sync(h);
                    noted
                });
                async move { noted.await.flatten().ok_or_else(|| "no answer".to_owned()) }
            })
            .collect();
        noted_by(hosts / 2 + 1, answers).await
    }
}

impl Primitives for SimWorld {
    type Session = SimSession;

    fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    fn wall(&self) -> DateTime<Utc> {
        self.shared.act(|sim| wall(sim.t))
    }

    async fn sleep(&self, span: Duration) {
        let micros = span.as_micros() as u64;
        let lasts = self.shared.act(|sim| {
            let until = Moment::from_micros(sim.now_of_manager().as_micros() + micros);
            sim.manager_clock.shows(until).saturating_sub(sim.t)
        });
        sleep(Duration::from_millis(lasts)).await;
    }

    fn has_agent(&self, instance: &InstanceId) -> bool {
        self.cluster.member(instance).is_some_and(|member| member.agent.is_some())
    }

    async fn step(&self, step: &Step, token: &Token, timeout: Duration) -> Result<Evidence, StepError> {
        let result = self.command(step, token, timeout).await;
        self.shared.act(|sim| {
            let said = match &result {
                Ok(seen) if step.is_satisfied(seen) => "done".to_owned(),
                Ok(_) => "without effect".to_owned(),
                Err(error) => error.to_string(),
            };
            sim.say(format!("m{} {step}: {said}", self.m));
        });
        result
    }

    async fn look(&self, instance: &InstanceId, timeout: Duration) -> Result<Evidence, StepError> {
        let h = self.shared.act(|sim| sim.index(instance));
        match self.ask(h, |sim| evidence(sim, h)).await {
            Some(seen) => Ok(Evidence { furnished: false, ..seen }),
            None => {
                Err(StepError::NoAnswer { within: timeout, what: format!("the agent beside {instance}") })
            }
        }
    }

    fn ask_voter(
        &self,
        host: &str,
        claim: &Claim,
        patience: Duration,
    ) -> impl Future<Output = Result<Claimed, String>> {
        let h = self.shared.act(|sim| (0..sim.hosts.len()).find(|h| sim.host_name(*h) == host));
        let asking = h.map(|h| {
            let voter = SimVoter { world: self.clone(), h };
            spawn_local(claim_until_answered(voter, claim.clone(), patience))
        });
        async move {
            match asking {
                Some(answer) => {
                    let answer = answer.await.map_err(|error| error.to_string())?;
                    self.shared.act(|sim| match &answer {
                        Ok(Claimed::Accepted { .. }) => {}
                        Ok(Claimed::OlderBallot { accepted }) => sim.note_outbid(self.m, accepted),
                        refused => sim.say(format!("m{} no vote of {host}: {refused:?}", self.m)),
                    });
                    answer
                }
                None => Err("there is no such host".to_owned()),
            }
        }
    }

    async fn session(&self, instance: &InstanceId, _deadline: Instant) -> Result<SimSession, StepError> {
        let s = self.shared.act(|sim| sim.index(instance));
        let session = SimSession { world: self.clone(), s };
        session.read(|_, _| ()).await?;
        Ok(session)
    }

    async fn read_log(
        &self,
        from: &InstanceId,
        beyond: &GtidSet,
        within: Duration,
        _token: &Token,
    ) -> Result<LogTail, String> {
        let from = self.shared.act(|sim| sim.index(from));
        let read = self.ask(from, |sim| {
            let missing = (!sim.servers[from].up).then(|| sim.log_beyond(from, beyond));
            missing.map(|missing| (missing, sim.dice.range(5, 70)))
        });
        let Some(Some((log, takes))) = read.await else { return Err("its log cannot be read".to_owned()) };
        sleep(within.min(Duration::from_millis(takes))).await;
        if Duration::from_millis(takes) > within {
            return Err("not read in time".to_owned());
        }
        let statements: Vec<String> = log.iter().map(ToString::to_string).collect();
        Ok(LogTail {
            transactions: statements.len() as u64,
            statements,
            complete: true,
            trouble: String::new(),
        })
    }

    async fn bring(
        &self,
        to: &InstanceId,
        statements: Vec<String>,
        within: Duration,
        token: &Token,
    ) -> Result<Evidence, StepError> {
        let to = self.shared.act(|sim| sim.index(to));
        let log: Vec<Tx> = statements.iter().filter_map(|statement| statement.parse().ok()).collect();
        let brought = self.ask(to, |sim| {
            let obeys = sim.hosts[to].agent.as_ref().is_some_and(|agent| agent.voter.obeys(&token.ballot));
            if !obeys || !sim.answers(to) || !sim.servers[to].relay.is_empty() {
                return None;
            }
            let missing: Vec<Tx> = log.iter().copied().filter(|tx| !sim.servers[to].holds(*tx)).collect();
            missing.iter().for_each(|tx| sim.append(to, *tx));
            if !missing.is_empty() {
                sim.count("salvaged");
            }
            Some(evidence(sim, to))
        });
        match brought.await {
            Some(Some(seen)) => Ok(seen),
            Some(None) => Err(StepError::Failed("could not be brought over".to_owned())),
            None => Err(StepError::NoAnswer { within, what: "bringing a log over".to_owned() }),
        }
    }

    async fn direct(
        &self,
        _instance: &InstanceId,
        _order: TrafficOrder,
        _generation: Generation,
        _recovery: &str,
    ) -> Result<(), StepError> {
        Ok(())
    }
}

/// A voter, as one manager reaches it. A manager that died asks nobody any more.
struct SimVoter {
    world: SimWorld,
    h: usize,
}

impl Voter for SimVoter {
    async fn claim(&self, claim: &Claim, _timeout: Duration) -> Result<Claimed, String> {
        let (shared, m, h) = (&self.world.shared, self.world.m, self.h);
        if !shared.act(|sim| sim.manager_up[m]) {
            return Err("the manager died".to_owned());
        }
        let asked = self.world.ask(h, |sim| {
            let now = sim.now_at(h);
            let answer = sim.hosts[h].agent.as_mut().map(|agent| agent.voter.claim(claim, now).0);
            sim.sync(h);
            answer
        });
        let Some(answer) = asked.await.flatten() else {
            sleep(UNANSWERED).await;
            return Err("no answer".to_owned());
        };
        let waits = shared.act(|sim| !sim.planted(Planted::NoClaimWait));
        Ok(match answer {
            Claimed::Accepted { outstanding } => {
                if !outstanding.is_empty() {
                    shared.act(|sim| sim.count("claim waited for what was granted"));
                }
                Claimed::Accepted { outstanding: if waits { outstanding } else { Vec::new() } }
            }
            held @ Claimed::HeldBack { .. } => {
                shared.act(|sim| sim.count("claim held back"));
                held
            }
            other => other,
        })
    }
}

/// The manager's own connection to a server: no agent and no ballot is in that path.
pub(crate) struct SimSession {
    world: SimWorld,
    s: usize,
}

impl SimSession {
    async fn read<T>(&self, what: impl FnOnce(&mut Sim, usize) -> T) -> Result<T, StepError> {
        let (shared, m, s) = (&self.world.shared, self.world.m, self.s);
        shared.awake(m).await;
        let delay = shared.act(|sim| sim.dice.range(1, 5));
        sleep(Duration::from_millis(delay)).await;
        let seen = shared.act(|sim| {
            let party = sim.manager_party(m);
            sim.knock(party, s).map(|()| what(sim, s))
        });
        shared.awake(m).await;
        match seen {
            Ok(seen) => Ok(seen),
            Err(unseen) => {
                if unseen.is_silence() {
                    sleep(Duration::from_millis(500)).await;
                }
                Err(StepError::unseen(&unseen, STATEMENT, unseen.to_string()))
            }
        }
    }
}

impl ServerSession for SimSession {
    async fn report(&mut self, _deadline: Instant) -> Result<Report, StepError> {
        self.read(|sim, s| sim.report(s)).await
    }

    async fn wait_applied(&mut self, set: &GtidSet, within: Duration) -> Result<bool, StepError> {
        let until = Instant::now() + within;
        loop {
            if self.read(|sim, s| sim.report(s).executed.contains(set)).await? {
                return Ok(true);
            }
            if Instant::now() > until {
                return Ok(false);
            }
            sleep(Duration::from_millis(10)).await;
        }
    }

    async fn open_transactions(&mut self, _deadline: Instant) -> Result<Vec<OpenTransaction>, StepError> {
        self.read(|sim, s| {
            let open = sim.servers[s].waiters.iter().map(|waiter| OpenTransaction {
                id: waiter.tx.to_string(),
                session: waiter.tx as u64,
                age: Duration::from_millis(sim.t - waiter.since),
                commits: true,
            });
            open.collect()
        })
        .await
    }

    async fn end_transaction(&mut self, open: &OpenTransaction, _deadline: Instant) -> Result<(), StepError> {
        self.read(|sim, s| {
            let committing = sim.servers[s].waiters.iter().any(|waiter| waiter.tx as u64 == open.session);
            if committing {
                sim.violate(format!("S5: the session of a commit on db{s} is ended"));
            }
        })
        .await
    }
}

impl Sim {
    /// What the log of `s` holds beyond a set.
    fn log_beyond(&mut self, s: usize, beyond: &GtidSet) -> Vec<Tx> {
        let log = self.servers[s].log.clone();
        log.into_iter()
            .filter(|tx| {
                let Written { origin, number } = self.txs[*tx];
                let mut marks = Marks::default();
                marks[origin] = number;
                !beyond.contains(&self.set_of(marks))
            })
            .collect()
    }
}
