//! One task owns one cluster: what is seen and asked comes in, decisions go out. Nothing here decides or touches a server; a
//! recovery runs beside the loop, and the loop begins no second one.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::event::{Ask, Event, Proposal, Started, Then};
use super::leadership::Leadership;
use super::live_world::LiveWorld;
use super::planned::Handoff;
use super::progress::Progress;
use super::snapshot::Snapshot;
use super::watchers::Watchers;
use super::{Common, Part};
use crate::clock;
use crate::config::ClusterConfig;
use crate::decide::failover::{self, Isolation};
use crate::decide::guard::looks_on;
use crate::decide::loss;
use crate::decide::operation::{Conduct, everybody, touched_by};
use crate::decide::plan::Plan;
use crate::decide::{Action, Decision, adopt, decide};
use crate::execute::compose::Composed;
use crate::execute::journal::Recovery;
use crate::execute::operations::{
    Operations, REMEMBERED, recall_left_behind, recall_proven, recall_received, recovery_of,
};
use crate::execute::recovery::Operation;
use crate::execute::world::Token;
use crate::execute::{Outcome, recovery};
use crate::model::instance::InstanceId;
use crate::model::intent::{FailoverAsk, Intents};
use crate::model::record::RecordChange;
use crate::model::time::Moment;
use crate::model::view::{ClusterView, Granted, Seen};
use crate::store::{RecoveryJournal, Store, StoreError};
use crate::vital::vital;

/// Time passes for decisions at least this often, whatever else happens.
const TICK: Duration = Duration::from_millis(100);
/// How long a manager leaves the field to another before it asks for the lead again.
const YIELD: Duration = Duration::from_secs(10);
/// Before a recovery goes on that could not be written down.
const GO_ON_AFTER: Duration = Duration::from_millis(500);
/// Events waiting to be taken in.
pub(super) const EVENTS: usize = 256;

/// The loop of one cluster and all it owns.
pub(super) struct ClusterTask {
    pub(super) view: ClusterView,
    pub(super) intents: Intents,
    pub(super) store: Store,
    pub(super) world: Arc<LiveWorld>,
    pub(super) leadership: Arc<Leadership>,
    pub(super) watchers: Watchers,
    /// As the file has it: members added and removed by command are in the record.
    pub(super) config: ClusterConfig,
    pub(super) common: Arc<Common>,
    /// Ends what looks at the present members.
    pub(super) parts_stop: CancellationToken,
    pub(super) events: mpsc::Receiver<Event>,
    pub(super) own_events: mpsc::Sender<Event>,
    pub(super) board: watch::Sender<Arc<Snapshot>>,
    /// The recovery that runs, or the last one: what followers see.
    pub(super) recovery: watch::Sender<Option<Arc<Recovery>>>,
    pub(super) tracker: TaskTracker,
    pub(super) stop: CancellationToken,
    pub(super) part: Part,
    pub(super) operations: Operations,
    /// What the primary's service manager asks for, while it does.
    pub(super) handoff: Option<Handoff>,
    /// Whether a majority of voters obeys; nothing is begun before.
    pub(super) led: Result<(), String>,
    /// This manager leads and has not gone on yet with what an earlier one may have left: it looks first.
    pub(super) to_resume: bool,
    /// Ends the attempt to take the lead that goes on.
    pub(super) asking: CancellationToken,
    /// When the store last refused what a recovery had to write.
    pub(super) interrupted_at: Option<Moment>,
    /// When the store last refused what is known of the ackers.
    pub(super) evidence_failed_at: Option<Moment>,
    /// When a change of the voters could last not be recorded.
    pub(super) voters_failed_at: Option<Moment>,
    /// How far the running recovery's journal was when the record was last read because of it.
    pub(super) record_read_at: usize,
    pub(super) progress: Progress,
    /// The last sentence logged, without its figures.
    pub(super) last_told: String,
}

impl std::fmt::Debug for ClusterTask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClusterTask").field("cluster", &self.view.cluster.name).finish_non_exhaustive()
    }
}

impl ClusterTask {
    /// Runs until stopped. A recovery that was unfinished when an earlier manager ended goes on first.
    pub(super) async fn run(mut self) {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        match self.part {
            Part::Leads | Part::Obeys => self.take_lead(Duration::ZERO),
            Part::Watches => self.led = Err("it only shows".to_owned()),
        }
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return,
                event = self.events.recv() => match event {
                    Some(event) => {
                        self.take(event).await;
                        // What arrived together is judged together.
                        while let Ok(more) = self.events.try_recv() {
                            self.take(more).await;
                        }
                    }
                    None => return,
                },
                _ = tick.tick() => {}
            }
            self.think().await;
        }
    }

    async fn take(&mut self, event: Event) {
        let now = clock::now();
        self.note_own_statements();
        match event {
            event if event.is_given_up() => {
                tracing::warn!(cluster = %self.view.cluster.name, "an order was not carried out: whoever gave it waits no more");
            }
            Event::Look(look) => self.take_look(*look),
            Event::Agent(instance, status) => self.view.record_agent(&instance, now, *status),
            Event::AgentLost { instance, elsewhere } => {
                self.view.record_agent_lost(&instance, now);
                self.view.record_agent_elsewhere(&instance, elsewhere);
            }
            Event::Events(instance, at, events) => self.view.record_events(&instance, at, *events),
            Event::Inventory(instance, at, read) => self.view.record_inventory(&instance, at, *read),
            Event::Probe(probe) => self.view.record_probe(probe),
            Event::Granted { host, generation, ago } => {
                self.view.record_grant(&host, Granted { at: now, generation, ago });
            }
            Event::VoterHeard { host, at, generation } => self.view.record_voter(&host, at, generation),
            Event::Mode(mode) => {
                self.view.cluster.mode = mode;
                self.leadership.set_mode(mode);
                self.leadership.introduce_all(self.view.record.as_ref()).await;
            }
            Event::Ask(ask) => self.answer(ask, now).await,
            Event::Ended { about, outcome } => self.ended(&about, outcome, now).await,
            Event::Surveyed { ask, surveys, then } => self.surveyed(ask, surveys, then).await,
            Event::Met { ask, source, newcomer, then } => {
                self.met(ask, source.as_ref(), &newcomer, then).await;
            }
            Event::Led(result) => {
                let before = result.as_ref().ok().cloned();
                self.led = result.map(drop);
                if let Some(before) = before {
                    self.view.led_before = before;
                    self.note_outdated().await;
                    // Agents whose stream came up before a majority obeyed have been told of no cluster, or under no ballot.
                    self.leadership.introduce_all(self.view.record.as_ref()).await;
                    self.to_resume = true;
                }
            }
        }
    }

    async fn think(&mut self) {
        let now = clock::now();
        let wall = clock::wall();
        self.learn_events().await;
        self.follow_record().await;
        self.intents.at_once = self.common.fleet.at_once(&self.view.cluster.name, now);
        let mut decision = decide(&self.view, &self.intents, now, wall);
        let running = self.recovery.borrow().clone().filter(|_| self.operations.is_running());
        self.progress.tell(&mut decision, &self.view, running.as_deref(), now);
        if decision.diagnosis.verdict.calls_for_failover() {
            self.common.fleet.note_lost(&self.view.cluster.name, now);
        }
        self.watchers.follow(&self.view, &decision.diagnosis, now);
        self.tell(&decision);
        self.give_way();
        let paused = self.interrupted_at.is_some_and(|at| now.since(at) < GO_ON_AFTER);
        if self.to_resume && !paused && !self.operations.is_running() && looks_on(&self.view, now).is_none() {
            self.to_resume = false;
            self.resume().await;
        }
        if self.operations.preempt(&decision.action) {
            tracing::warn!(cluster = %self.view.cluster.name, "a failover is due: what runs is left");
        }
        self.hand_over(now);
        let meant = self.part == Part::Leads || self.intents.failover.is_some();
        if meant
            && !self.operations.is_running()
            && self.led.is_ok()
            && !self.to_resume
            && let Action::Act(plan) = &decision.action
            && self.has_place(plan, now)
        {
            self.note_events_try(plan, now);
            let started = self.begin(plan.clone(), None).await;
            if let Err(why) = started {
                self.give_place_back(plan);
                tracing::error!(cluster = %self.view.cluster.name, why = why.join("; "), "a recovery could not be begun");
            }
        }
        self.record_evidence(&decision).await;
        self.follow_voters(&decision, now).await;
        let snapshot = Snapshot::new(
            &self.view,
            decision,
            &self.intents,
            (now, wall),
            self.operations.is_running(),
            self.led.as_ref().err().cloned(),
        );
        self.board.send_replace(Arc::new(snapshot));
    }

    fn tell(&mut self, decision: &Decision) {
        if self.is_changing_hands() {
            return;
        }
        // A sentence of which only the seconds moved on is no news.
        let figure = |word: &str| word.trim_start_matches('(').starts_with(|c: char| c.is_ascii_digit());
        let unit = |word: &str| matches!(word.trim_end_matches([',', ';', ')']), "ms" | "s");
        let words = decision.sentence.split(' ').filter(|word| !figure(word) && !unit(word));
        let shape = words.collect::<Vec<_>>().join(" ");
        if shape != self.last_told {
            tracing::info!(cluster = %self.view.cluster.name, "{}", decision.sentence);
            self.last_told = shape;
        }
    }

    /// Who leads changes, or has just changed and was not looked at since: what was seen before says nothing of it.
    fn is_changing_hands(&self) -> bool {
        if let Some(running) = self.operations.running() {
            return Conduct::of(running.kind).changes_primary;
        }
        let looked = self.view.primary().and_then(|primary| self.view.of(primary)?.manager.as_ref());
        self.intents.settled_at.is_some_and(|settled| looked.is_some_and(|look| look.at <= settled))
    }

    /// An agent obeys a later manager: orders of this one are half obeyed, half refused. It leads again after a while, in case
    /// the other one is gone.
    fn give_way(&mut self) {
        let ours = self.leadership.ballot();
        let heard = self.view.seen.values().filter_map(Seen::agent_now);
        let other = heard.map(|agent| agent.ballot.clone()).find(|ballot| !ballot.yields_to(&ours));
        // A voter that is no member is heard when a claim is refused.
        let other = other.or_else(|| self.world.outbid().filter(|ballot| !ballot.yields_to(&ours)));
        let Some(other) = other.filter(|_| self.led.is_ok() && !self.operations.is_running()) else { return };
        let why = format!(
            "the manager of ballot {other} is obeyed too; stop one of the two (this one asks for the lead again in {} s)",
            YIELD.as_secs()
        );
        tracing::error!(cluster = %self.view.cluster.name, "{why}");
        (self.led, self.to_resume) = (Err(why), false);
        self.take_lead(YIELD);
    }

    /// Asks the voters to obey this manager, in the background, until a majority does.
    /// An attempt that goes on already ends: it may ask other voters, and would outbid this one.
    pub(super) fn take_lead(&mut self, after: Duration) {
        self.asking.cancel();
        self.asking = self.stop.child_token();
        let asking = self.asking.clone();
        let (leadership, events) = (Arc::clone(&self.leadership), self.own_events.clone());
        let ask = async move {
            tokio::time::sleep(after).await;
            loop {
                let result = leadership.lead().await;
                let led = result.is_ok();
                let told = events.send(Event::Led(result.map_err(|error| error.to_string()))).await;
                if led || told.is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        };
        self.tracker.spawn(vital("lead", async move {
            asking.run_until_cancelled(ask).await;
        }));
    }

    /// The store refused a recovery's next entry. Nothing else is begun before that one has gone on to its end: left behind, it would be
    /// resumed by a later manager, when nothing is any more as it was planned for.
    fn go_on_later(&mut self, now: Moment) {
        self.to_resume = self.led.is_ok();
        self.interrupted_at = Some(now);
    }

    /// Goes on with what an earlier manager had begun, or what the store refused to write down.
    async fn resume(&mut self) {
        self.remember_left().await;
        let unfinished = match self.store.unfinished(&self.view.cluster.name).await {
            Ok(unfinished) => unfinished,
            Err(error) => {
                self.led = Err(error.to_string());
                self.take_lead(super::record::AGAIN);
                return;
            }
        };
        let Some(recovery) = unfinished.filter(|_| !self.operations.is_running()) else { return };
        tracing::warn!(cluster = %self.view.cluster.name, recovery = recovery.id, "this recovery has not ended; going on");
        recall_proven(&recovery, &mut self.view);
        let touched = everybody(&self.view);
        self.spawn(recovery.clone(), touched, move |view, token, abort, world, journal| async move {
            recovery::resume(&view, &recovery, &abort, &token, &world, &journal).await
        });
    }

    /// What earlier recoveries could not take back is still this manager's to mend.
    async fn remember_left(&mut self) {
        match self.store.history(&self.view.cluster.name, REMEMBERED).await {
            Ok(recoveries) => {
                recall_left_behind(&recoveries, &mut self.intents);
                recall_received(&recoveries, &mut self.view);
            }
            Err(error) => tracing::error!(%error, "what earlier recoveries left behind is not known"),
        }
    }

    /// Stores the recovery, then runs it beside the loop. The answer is its id.
    pub(super) async fn begin(&mut self, plan: Plan, ask: Option<FailoverAsk>) -> Started {
        if let Some(busy) = self.busy() {
            return Err(vec![busy]);
        }
        if self.to_resume {
            return Err(vec![
                "this manager looks first, or goes on with an earlier recovery; try again in a moment"
                    .to_owned(),
            ]);
        }
        let recovery = self.stored(&plan, ask.clone()).await?;
        let id = recovery.id.clone();
        let touched = touched_by(&plan);
        self.spawn(recovery, touched, move |view, token, abort, world, journal| async move {
            let operation = Operation { view: &view, plan: &plan, ask: ask.as_ref() };
            recovery::begin(operation, &abort, &token, &world, &journal).await
        });
        Ok(id)
    }

    /// A recovery that begins with `plan`, in the store.
    async fn stored(&mut self, plan: &Plan, ask: Option<FailoverAsk>) -> Result<Recovery, Vec<String>> {
        let began_at = clock::wall();
        let id = format!("{}-{}", began_at.format("%Y%m%d-%H%M%S%6f"), plan.kind);
        let recovery = recovery_of(&self.view, plan, ask, (id, began_at))
            .ok_or_else(|| vec!["the cluster has no members".to_owned()])?;
        if let Err(error) = self.store.begin(&recovery).await {
            if matches!(error, StoreError::Unfinished { .. }) {
                self.go_on_later(clock::now());
            }
            return Err(vec![error.to_string()]);
        }
        tracing::warn!(cluster = %self.view.cluster.name, recovery = recovery.id, "{plan}");
        Ok(recovery)
    }

    /// Runs it beside the loop; it may give statements to the servers `touched`.
    fn spawn<F, R>(&mut self, recovery: Recovery, touched: Vec<InstanceId>, run: F)
    where
        F: FnOnce(ClusterView, Token, CancellationToken, Composed<Arc<LiveWorld>>, RecoveryJournal) -> R,
        R: Future<Output = Result<Outcome, StoreError>> + Send + 'static,
    {
        let about = recovery.about.clone();
        let abort = self.operations.begun(&recovery);
        let token = self.operations.token_of(&recovery, self.leadership.ballot());
        self.view.own_statements.begin(touched);
        let journal = RecoveryJournal::new(self.store.clone(), recovery, self.recovery.clone());
        let world = Composed::new(Arc::clone(&self.world));
        let work = run(self.view.clone(), token, abort, world, journal);
        let events = self.own_events.clone();
        self.tracker.spawn(vital("recovery", async move {
            let outcome = work.await.map_err(|error| error.to_string());
            // A loop that has ended wants no news.
            let _ = events.send(Event::Ended { about, outcome }).await;
        }));
    }

    async fn ended(&mut self, about: &InstanceId, outcome: Result<Outcome, String>, now: Moment) {
        self.view.forget_events();
        self.note_own_statements();
        self.view.own_statements.end(now);
        self.read_record().await;
        let ended = self.recovery.borrow().clone();
        if let Some(ended) = &ended {
            let trouble = outcome.as_ref().map_or_else(|why| Some(why.as_str()), Outcome::trouble);
            ended.note_promotion(&mut self.view, trouble, now);
        }
        let name = &self.view.cluster.name;
        match &outcome {
            Ok(Outcome::Done) => tracing::warn!(cluster = %name, %about, "recovery done"),
            Ok(Outcome::Undone { why, left }) => {
                tracing::error!(cluster = %name, %about, why, left = left.join("; "), "recovery taken back");
            }
            Ok(Outcome::Failed { why }) | Err(why) => {
                tracing::error!(cluster = %name, %about, why, "recovery failed");
            }
        }
        let change = match (&outcome, ended) {
            (Ok(outcome), Some(ended)) => {
                self.operations.ended(&ended, outcome, self.view.record.as_ref(), &mut self.intents, now)
            }
            (Err(_), _) | (Ok(_), None) => {
                self.operations.interrupted(&mut self.intents, now);
                self.go_on_later(now);
                None
            }
        };
        if let Some(change) = change
            && let Err(why) = self.amend(change).await
        {
            tracing::error!(%about, why, "what was asked about it, and is done, stays recorded");
        }
        if matches!(outcome, Ok(Outcome::Done)) {
            self.after_adoption();
        }
        self.follow_members();
        self.leadership.introduce_all(self.view.record.as_ref()).await;
        self.watchers.nudge_all();
    }

    async fn answer(&mut self, ask: Ask, now: Moment) {
        match ask {
            Ask::Failover { ask, then } => match then {
                Then::Propose(answer) => drop(answer.send(self.dry_run(ask, now))),
                Then::Begin(answer) => drop(answer.send(self.failover(ask, now).await)),
            },
            Ask::Switchover { ask, then } => self.survey(ask, then),
            Ask::Abort { answer } if !self.operations.is_running() => self.call_off_rebuild(answer).await,
            Ask::Replica { ask, then } => self.replica(ask, then).await,
            Ask::Abort { answer } => {
                let _ = answer.send(self.call_off());
            }
            Ask::AdoptPlan { primary, answer } => {
                let _ = answer.send(adopt::adopt(&self.view, primary.as_ref()));
            }
            Ask::Adopt { primary, answer } => {
                let started = self.adopt(primary.as_ref()).await;
                let _ = answer.send(started);
            }
            Ask::Votes { destroyed, back, answer } => {
                let _ = answer.send(self.change_votes(&destroyed, &back).await);
            }
            Ask::Acknowledge { answer } => {
                let _ = answer.send(self.amend(RecordChange::AcknowledgeFailovers).await);
            }
            ask @ Ask::Rejoin { looks: 1.., .. } if self.knows_later(&ask) => self.look_again(ask),
            Ask::Rejoin { instance, how, from, then, .. } => match then {
                Then::Propose(answer) => self.propose_rejoin(instance, (how, from), answer),
                Then::Begin(answer) => drop(answer.send(self.rejoin(&instance, how, from.as_ref()).await)),
            },
            Ask::Unpark { instance, answer } => {
                let _ = answer.send(self.unpark(&instance).await);
            }
        }
    }

    fn decision_for(&self, ask: FailoverAsk, now: Moment) -> Decision {
        let intents = Intents { failover: Some(ask), ..self.intents.clone() };
        decide(&self.view, &intents, now, clock::wall())
    }

    fn dry_run(&self, ask: FailoverAsk, now: Moment) -> Proposal {
        let mut plans = Vec::new();
        let decision = self.decision_for(ask.clone(), now);
        let mut blockers: Vec<String> = Vec::new();
        if let Action::Refuse { blockers: refused } = &decision.action {
            blockers.extend(refused.iter().map(ToString::to_string));
        }
        if let Some(primary) = self.view.primary() {
            plans.push(failover::isolate(&self.view, &decision.diagnosis, primary));
            match failover::promote(&self.view, &Isolation::supposed(&self.view, primary), Some(&ask)) {
                Ok(plan) => plans.push(plan),
                Err(refused) => {
                    let more = refused.iter().map(ToString::to_string).filter(|why| !blockers.contains(why));
                    blockers.extend(more.collect::<Vec<_>>());
                }
            }
        }
        let mut sentence = decision.sentence;
        if ask.accept_loss {
            let loss = loss::bound(&self.view, &decision.ranking, ask.to.as_ref(), now);
            sentence = format!("{sentence}; {loss}");
        }
        Proposal { sentence, plans, blockers, dossier: None }
    }

    async fn failover(&mut self, ask: FailoverAsk, now: Moment) -> Started {
        if let Err(why) = &self.led {
            return Err(vec![format!("this manager does not lead: {why}")]);
        }
        match self.decision_for(ask.clone(), now).action {
            Action::Act(plan) => self.begin(plan, Some(ask)).await,
            Action::Refuse { blockers } => Err(blockers.iter().map(ToString::to_string).collect()),
            Action::Rest => Err(vec!["nothing is to be done".to_owned()]),
            Action::Wait { why } => Err(vec![why]),
        }
    }

    async fn adopt(&mut self, primary: Option<&InstanceId>) -> Started {
        if let Err(why) = &self.led {
            return Err(vec![format!("this manager does not lead: {why}")]);
        }
        let plan = adopt::adopt(&self.view, primary)?;
        self.begin(plan, None).await
    }
}
