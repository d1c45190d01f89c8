//! A manager as the real one runs: leads under a ballot, looks, decides, begins or resumes a recovery, remembers in its store.
//! Deciding and executing is the code as shipped.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures::future::join_all;
use mha::decide::lease::bid::Bid;
use mha::decide::operation::{everybody, touched_by};
use mha::decide::plan::{Plan, PlanKind};
use mha::decide::standing::known_to_record;
use mha::decide::topology;
use mha::decide::{Action, adopt, decide, prospect};
use mha::execute::Outcome;
use mha::execute::journal::{Entry, Journal, Recovery, What};
use mha::execute::operations::{
    Operations, REMEMBERED, recall_left_behind, recall_proven, recall_received, recovery_of,
};
use mha::execute::record::{RecordError, change_record};
use mha::execute::recovery::{self, Operation};
use mha::execute::world::Token;
use mha::model::ballot::Ballot;
use mha::model::instance::InstanceId;
use mha::model::intent::{FailoverAsk, Intents};
use mha::model::overtaken::LedBefore;
use mha::model::record::{ClusterRecord, RecordChange};
use mha::model::view::ClusterView;
use mha::model::wishes::{Change, ReplicaAsk};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::looks::{Word, look_at, probes, witnesses};
use super::state::Sim;
use super::world::{Shared, SimRecovery, SimWorld};

pub(crate) fn wall(t: u64) -> DateTime<Utc> {
    DateTime::<Utc>::UNIX_EPOCH + TimeDelta::milliseconds(1_700_000_000_000 + t as i64)
}

/// One recovery's journal in a store that survives its manager.
pub(crate) struct MemoryJournal {
    pub(crate) shared: Shared,
    pub(crate) m: usize,
    pub(crate) id: String,
}

impl Journal for MemoryJournal {
    type Error = std::convert::Infallible;

    fn stamp(&self, what: What) -> Entry {
        self.shared.act(|sim| Entry { at: wall(sim.t), after: Duration::from_millis(sim.t), what })
    }

    async fn write(&self, entries: Vec<Entry>) -> Result<(), Self::Error> {
        if entries.is_empty() {
            return Ok(());
        }
        self.shared.awake(self.m).await;
        sleep(Duration::from_millis(1)).await;
        self.shared.act(|sim| {
            sim.keep_entries(self.m, &self.id, &entries);
            for entry in &entries {
                sim.note(self.m, &self.id, &entry.what);
            }
            let recoveries = &mut sim.stores[self.m].recoveries;
            if let Some(recovery) = recoveries.iter_mut().find(|recovery| recovery.id == self.id) {
                recovery.entries.extend(entries);
            }
        });
        if self.shared.act(|sim| std::mem::take(&mut sim.told.dies_at_write)) {
            self.shared.act(|sim| sim.manager_is_killed(self.m));
            // Its task is ended.
            std::future::pending::<()>().await;
        }
        sleep(Duration::from_millis(1)).await;
        Ok(())
    }
}

pub(crate) struct Manager {
    pub(crate) shared: Shared,
    pub(crate) m: usize,
    ballot: Ballot,
    pub(crate) view: ClusterView,
    intents: Intents,
    operations: Operations,
}

/// Runs until it is killed.
pub(crate) async fn run(shared: Shared, m: usize) {
    loop {
        let Some((ballot, led_before)) = lead(&shared, m).await else {
            sleep(Duration::from_millis(700)).await;
            continue;
        };
        let view = shared.act(|sim| {
            let since = sim.now_of_manager();
            let view =
                ClusterView::new(sim.cluster.clone(), sim.stores[m].record.clone(), since, wall(sim.t));
            ClusterView { led_before, ..view }
        });
        let (intents, operations) = Default::default();
        let mut manager = Manager { shared: shared.clone(), m, ballot, view, intents, operations };
        if !manager.note_outdated().await {
            sleep(Duration::from_millis(700)).await;
            continue;
        }
        manager.serve().await;
        // Deposed: another manager leads. It may be dead by the time this one looks again.
        let pause = shared.act(|sim| sim.dice.range(4_000, 9_000));
        sleep(Duration::from_millis(pause)).await;
    }
}

/// Has a ballot above all it hears of accepted by a majority, stored before it is used; with what the voters know of earlier leads.
async fn lead(shared: &Shared, m: usize) -> Option<(Ballot, LedBefore)> {
    let world = SimWorld::new(shared.clone(), m);
    let (stored, hosts) = shared.act(|sim| {
        let store = &sim.stores[m];
        (Ballot { number: store.ballot, manager: store.id.clone() }, sim.hosts.len())
    });
    let mut bid = Bid::new(stored, hosts / 2 + 1);
    for _ in 0..3 {
        let ballot = shared.act(|sim| {
            if bid.needs_an_id() {
                let id = format!("{}'", sim.stores[m].id);
                sim.count("store found to be a copy");
                sim.say(format!("m{m} finds its id on a ballot of another: it is {id} now"));
                bid.take_id(id);
            }
            let ballot = bid.next_ballot();
            (sim.stores[m].ballot, sim.stores[m].id) = (ballot.number, ballot.manager.clone());
            sim.keep_ballot(m);
            ballot
        });
        let answers = join_all((0..hosts).map(|h| {
            let ballot = &ballot;
            world.ask(h, move |sim| {
                let led = sim.hosts[h].agent.as_mut().map(|agent| agent.voter.take_lead(ballot).0);
                sim.sync(h);
                led
            })
        }))
        .await;
        let led: Vec<_> = answers.into_iter().flatten().flatten().collect();
        if let Some(before) = bid.heard(&led) {
            shared.act(|sim| sim.say(format!("m{m} leads with ballot {ballot}")));
            return Some((ballot, before));
        }
    }
    None
}

impl Manager {
    /// As the service: a record that is not the newest is marked so before anything is decided by it. Whether that was possible.
    async fn note_outdated(&mut self) -> bool {
        let Some(change) = self.view.outdated() else { return true };
        let world = SimWorld::new(self.shared.clone(), self.m);
        let at = self.shared.act(|sim| wall(sim.t));
        let Ok(record) = change_record(&world, &change, at).await else { return false };
        self.view.record = Some(record);
        self.shared.act(|sim| sim.count("store older than the record"));
        true
    }

    async fn serve(&mut self) {
        self.look(true).await;
        sleep(Duration::from_millis(50)).await;
        self.look(true).await;
        let unfinished = self.shared.act(|sim| sim.stores[self.m].unfinished().cloned());
        self.remember_left();
        if let Some(recovery) = unfinished {
            recall_proven(&recovery, &mut self.view);
            self.resume(&recovery).await;
        }
        let mut round = 0_u64;
        let mut said = String::new();
        loop {
            round += 1;
            // Deciding again after a plan needs what it made of the world.
            self.look(round.is_multiple_of(3) || said.is_empty()).await;
            if self.is_deposed() {
                self.shared.act(|sim| sim.say(format!("m{} is deposed", self.m)));
                return;
            }
            if self.switch_if_asked().await {
                said.clear();
            } else if self.view.record.is_none() {
                if let Ok(plan) = adopt::adopt(&self.view, None) {
                    self.act(&plan).await;
                }
            } else {
                let (now, at) = self.shared.act(|sim| (sim.now_of_manager(), wall(sim.t)));
                self.intents.failover = self.shared.act(|sim| sim.stores[self.m].ask.clone());
                let decision = decide(&self.view, &self.intents, now, at);
                let verdict = format!("{:?}", decision.diagnosis.verdict);
                self.shared.act(|sim| sim.sentence.clone_from(&decision.sentence));
                if verdict != said {
                    // Shown to operators, and decides nothing: that it can be told is tried as often as something changes.
                    prospect(&self.view, &self.intents, &decision.diagnosis, now, at);
                    self.shared.act(|sim| sim.say(format!("m{}: {}", self.m, decision.sentence)));
                    said = verdict;
                }
                let acts = matches!(decision.action, Action::Act(_));
                let known = (!acts).then(|| known_to_record(&self.view, &decision)).flatten();
                match decision.action {
                    Action::Act(plan) => {
                        self.act(&plan).await;
                        said.clear();
                    }
                    Action::Refuse { blockers } => self.shared.act(|sim| sim.note_refusal(&blockers)),
                    Action::Rest | Action::Wait { .. } => self.word().await,
                }
                if let Some(known) = known {
                    self.record_known(&known).await;
                }
            }
            sleep(Duration::from_millis(250)).await;
        }
    }

    /// Does what an operator asks of a replica next. One that was stopped is started in the end, however often that is refused.
    async fn word(&mut self) {
        let next = self.shared.act(|sim| sim.next_ask(self.m));
        let Some(ask) = next else { return };
        let now = self.shared.act(|sim| sim.now_of_manager());
        match topology::plan(&self.view, &ask, now) {
            Ok(plan) => {
                self.shared.act(|sim| {
                    sim.asked += 1;
                    sim.count("replica changed by command");
                });
                self.act(&plan).await;
                self.shared.act(|sim| {
                    if ask.change == Change::Start && sim.is_stopped(self.m, &ask.instance) {
                        sim.asked -= 1;
                    }
                });
            }
            Err(why) => self.shared.act(|sim| {
                if !(ask.change == Change::Start && sim.is_stopped(self.m, &ask.instance)) {
                    sim.say(format!("m{} refuses {:?}: {why:?}", self.m, ask.change));
                    sim.asked += 1;
                }
            }),
        }
    }

    /// What is known of the servers, for a manager that starts later.
    async fn record_known(&self, known: &RecordChange) {
        self.shared.awake(self.m).await;
        let world = SimWorld::new(self.shared.clone(), self.m);
        let at = self.shared.act(|sim| {
            sim.count("evidence of ackers recorded");
            wall(sim.t)
        });
        if change_record(&world, known, at).await.is_err() {
            self.shared.act(|sim| sim.say("the evidence of ackers is not recorded".to_owned()));
        }
    }

    fn remember_left(&mut self) {
        let recoveries: Vec<Recovery> = self.shared.act(|sim| {
            let newest = sim.stores[self.m].recoveries.iter().rev();
            newest.take(REMEMBERED as usize).cloned().collect()
        });
        recall_left_behind(&recoveries, &mut self.intents);
        recall_received(&recoveries, &mut self.view);
    }

    /// Somebody obeys a later manager: this one leads again or not at all.
    fn is_deposed(&self) -> bool {
        let mut heard = self.view.seen.values().filter_map(|seen| seen.agent_now());
        let outbid = self.shared.act(|sim| sim.outbid[self.m].clone());
        heard.any(|agent| !agent.ballot.yields_to(&self.ballot)) || !outbid.yields_to(&self.ballot)
    }

    async fn act(&mut self, plan: &Plan) {
        let ask = self.intents.failover.clone().filter(|_| plan.kind == PlanKind::Isolate);
        let recovery = self.stored(plan, ask);
        self.carry_out(&recovery, plan).await;
    }

    /// Sees a stored recovery through; meanwhile the cluster is looked at and decided about, as without it.
    pub(crate) async fn carry_out(&mut self, recovery: &Recovery, plan: &Plan) {
        let abort = self.operations.begun(recovery);
        self.view.own_statements.begin(touched_by(plan));
        self.call_off_now_and_then(&abort, plan.kind);
        let (token, world, journal) = self.tools(recovery);
        let view = self.view.clone();
        let operation = Operation { view: &view, plan, ask: recovery.ask.as_ref() };
        let work = recovery::begin(operation, &abort, &token, &world, &journal);
        let outcome = self.beside(work).await;
        self.finish(recovery, outcome);
    }

    async fn beside(
        &mut self,
        work: impl Future<Output = Result<Outcome, std::convert::Infallible>>,
    ) -> Outcome {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                biased;
                outcome = &mut work => return outcome.unwrap_or_else(|never| match never {}),
                () = self.watch() => {}
            }
        }
    }

    async fn watch(&mut self) {
        sleep(Duration::from_millis(250)).await;
        let running = self.shared.act(|sim| sim.stores[self.m].unfinished().cloned());
        let everybody = everybody(&self.view);
        let touched = running.iter().flat_map(|running| running.touched(&everybody));
        self.view.own_statements.extend(touched);
        self.look(true).await;
        let (now, at) = self.shared.act(|sim| (sim.now_of_manager(), wall(sim.t)));
        if self.operations.preempt(&decide(&self.view, &self.intents, now, at).action) {
            self.shared.act(|sim| sim.count("gave way to a failover"));
        }
    }

    /// A recovery that begins with `plan`, in the store.
    pub(crate) fn stored(&self, plan: &Plan, ask: Option<FailoverAsk>) -> Recovery {
        self.shared.act(|sim| {
            if sim.stores[self.m].unfinished().is_some() {
                sim.violate("I11: a second recovery begins beside an unfinished one".to_owned());
            }
            sim.recoveries_made += 1;
            let id = format!("m{}-{}", self.m, sim.recoveries_made);
            let recovery = recovery_of(&self.view, plan, ask, (id, wall(sim.t)))
                .expect("a simulated cluster has members");
            sim.say(format!("m{} begins: {}", self.m, plan.title));
            sim.keep_recovery(self.m, &recovery);
            sim.stores[self.m].recoveries.push(recovery.clone());
            recovery
        })
    }

    /// An operator calls an operation off, at any moment of it.
    fn call_off_now_and_then(&self, abort: &CancellationToken, kind: PlanKind) {
        let at = self.shared.act(|sim| {
            let wanted = sim.opts.story.is_none() && sim.dice.one_in(6);
            wanted.then(|| sim.dice.range(1, 600))
        });
        let Some(at) = at else { return };
        let what = match kind {
            PlanKind::Rejoin | PlanKind::Topology => "return called off",
            PlanKind::Switchover => "switchover called off",
            PlanKind::Isolate | PlanKind::Promote | PlanKind::Adopt | PlanKind::Repair => {
                "failover called off"
            }
        };
        let (abort, shared) = (abort.clone(), self.shared.clone());
        tokio::task::spawn_local(async move {
            sleep(Duration::from_millis(at)).await;
            shared.act(|sim| sim.count(what));
            abort.cancel();
        });
    }

    async fn resume(&mut self, recovery: &Recovery) {
        let overtaken = self.view.overtaken().is_some();
        self.shared.act(|sim| {
            sim.count(if overtaken { "recovery of an older journal ended" } else { "recovery resumed" });
            sim.say(format!("m{} resumes: {}", self.m, recovery.title));
            if recovery.kind == PlanKind::Isolate && !recovery.is_committed() {
                sim.stopped[self.m].clear();
            }
        });
        let abort = self.operations.begun(recovery);
        self.view.own_statements.begin(everybody(&self.view));
        let (token, world, journal) = self.tools(recovery);
        let view = self.view.clone();
        let outcome = self.beside(recovery::resume(&view, recovery, &abort, &token, &world, &journal)).await;
        self.shared.act(|sim| sim.told.resumed.push(outcome.clone()));
        self.finish(recovery, outcome);
    }

    pub(crate) fn tools(&self, recovery: &Recovery) -> (Token, SimRecovery, MemoryJournal) {
        let token = self.operations.token_of(recovery, self.ballot.clone());
        let world = SimRecovery::new(&self.shared, self.m);
        let journal = MemoryJournal { shared: self.shared.clone(), m: self.m, id: recovery.id.clone() };
        (token, world, journal)
    }

    pub(crate) fn finish(&mut self, recovery: &Recovery, outcome: Outcome) {
        let (now, ended, record) = self.shared.act(|sim| {
            sim.say(format!("m{} ends: {outcome:?}", self.m));
            match (&outcome, recovery.kind) {
                (Outcome::Undone { .. }, PlanKind::Isolate) => sim.count("failover taken back"),
                (Outcome::Failed { .. }, _) => sim.count("recovery failed"),
                (Outcome::Undone { .. } | Outcome::Done, _) => {}
            }
            let ended = sim.stores[self.m].recoveries.iter().find(|r| r.id == recovery.id).cloned();
            let ended = ended.unwrap_or_else(|| recovery.clone());
            if let (Outcome::Undone { left, .. }, Some(_)) = (&outcome, &sim.opts.story)
                && left.is_empty()
            {
                sim.check_undone(self.m, &ended);
            }
            sim.note_switched(recovery, &outcome);
            if recovery.ask.is_some() {
                sim.stores[self.m].ask = None;
            }
            (sim.now_of_manager(), ended, sim.stores[self.m].record.clone())
        });
        self.view.own_statements.extend(ended.touched(&everybody(&self.view)));
        self.view.own_statements.end(now);
        ended.note_promotion(&mut self.view, outcome.trouble(), now);
        let change = self.operations.ended(&ended, &outcome, record.as_ref(), &mut self.intents, now);
        if let Some(change) = change {
            self.shared
                .act(|sim| sim.violate(format!("nobody asked for what is to be recorded: {change:?}")));
        }
        self.view.forget_events();
        self.view.record = record;
    }

    /// Asks everybody: first the replicas, then the primary, so that what they have beyond it is errant.
    async fn look(&mut self, all: bool) {
        let m = self.m;
        self.shared.awake(m).await;
        self.view.record = self.shared.act(|sim| sim.stores[m].record.clone());
        let primary = self.view.primary().map(|primary| self.shared.act(|sim| sim.index(primary)));
        let members = self.view.cluster.members.len();
        let mut order: Vec<usize> = (0..members).filter(|s| Some(*s) != primary && all).collect();
        let silent = primary.is_some_and(|p| {
            let instance = self.shared.act(|sim| sim.instance(p));
            self.view.of(&instance).is_some_and(|seen| seen.failing_since.is_some())
        });
        order.extend(primary);
        let looks = self.shared.act(|sim| order.iter().map(|s| look_at(sim, m, *s)).collect::<Vec<_>>());
        let probes = self.shared.act(|sim| match primary.filter(|_| silent) {
            Some(p) => probes(sim, m, p),
            None => Vec::new(),
        });
        let delay = self
            .shared
            .act(|sim| if sim.dice.one_in(20) { sim.dice.range(20, 500) } else { sim.dice.range(1, 6) });
        sleep(Duration::from_millis(delay)).await;
        for (look, word) in looks {
            let of = look.of.clone();
            self.view.record_look(look);
            match word {
                Word::Said(at, status) => self.view.record_agent(&of, at, *status),
                Word::Lost(at) => self.view.record_agent_lost(&of, at),
                Word::Silent(at) => {
                    let heard = self.view.of(&of).and_then(|seen| seen.agent.as_ref().map(|agent| agent.at));
                    if heard.is_none_or(|heard| at.since(heard) > Duration::from_millis(1_500)) {
                        self.view.record_agent_lost(&of, at);
                    }
                }
            }
        }
        probes.into_iter().for_each(|probe| self.view.record_probe(probe));
        for (host, granted) in self.shared.act(|sim| witnesses(sim, m)) {
            self.view.record_grant(&host, granted);
        }
        self.push_membership();
    }

    /// Agents learn how their server was armed, should it have to lead again without a manager.
    fn push_membership(&self) {
        let Some(record) = &self.view.record else { return };
        self.shared.act(|sim| {
            let party = sim.manager_party(self.m);
            for h in 0..sim.servers.len() {
                let obeys = sim.hosts[h].agent.as_ref().is_some_and(|agent| agent.voter.obeys(&self.ballot));
                if obeys && sim.talk(party, h) && sim.agent_answers(h) {
                    sim.hosts[h].acks = record.acks;
                }
            }
        });
    }
}

impl Sim {
    pub(crate) fn note_outbid(&mut self, m: usize, ballot: &Ballot) {
        if self.outbid[m].number < ballot.number {
            self.outbid[m] = ballot.clone();
        }
    }

    /// What an operator asks next. A start that another manager has done is asked for again where the record still says "stopped".
    fn next_ask(&self, m: usize) -> Option<ReplicaAsk> {
        let again = |ask: &&ReplicaAsk| ask.change == Change::Start && self.is_stopped(m, &ask.instance);
        let next = self.opts.asks.get(self.asked);
        next.or_else(|| self.opts.asks.last().filter(again)).cloned()
    }

    fn is_stopped(&self, m: usize, instance: &InstanceId) -> bool {
        let record = self.stores[m].record.as_ref();
        record.is_some_and(|record| record.wishes.stopped(instance).is_some())
    }

    /// What a manager's store does with a record: as the real one, which is asked too where a test has one.
    pub(crate) fn save_record(&mut self, m: usize, record: &ClusterRecord) -> Result<(), RecordError> {
        let stored = self.stores[m].record.as_ref().map_or(0, |record| record.revision);
        if record.revision != stored + 1 {
            self.count("stale record refused");
            return Err(RecordError::Stale);
        }
        self.keep_record(m, record);
        let before = self.stores[m].record.replace(record.clone());
        self.say(format!(
            "m{m} records {}, generation {}, acks {}, {} acker(s), {} parked",
            record.primary,
            record.generation,
            record.acks,
            record.ackers.len(),
            record.parked.len()
        ));
        if before.is_some_and(|before| before.parked.len() < record.parked.len()) {
            self.count("parked");
        }
        Ok(())
    }

    fn note(&mut self, m: usize, recovery: &str, what: &What) {
        match what {
            What::Accepted { plan } => self.note_plan(m, recovery, plan),
            What::Stage { plan, name, .. } => self.say(format!("m{m} stage {plan}/{name}")),
            What::Failed { step, why, .. } => self.say(format!("m{m} failed {step}: {why}")),
            What::Undoing { stage } => {
                self.count("stage taken back");
                self.say(format!("m{m} takes back {stage}"));
            }
            What::Refused { blockers } => self.say(format!("m{m} refuses: {}", blockers.join("; "))),
            What::Done { .. } | What::Ended { .. } => {}
        }
    }
}
