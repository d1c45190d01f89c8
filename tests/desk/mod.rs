//! A manager's outside made of fixtures: a board, a history, and a loop that answers every ask and remembers it.
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use mha::decide::candidate::{Against, Candidate};
use mha::decide::plan::{Plan, PlanKind, Stage, Step};
use mha::execute::Outcome;
use mha::execute::journal::{Entry, Recovery, What};
use mha::http::ApiState;
use mha::manager::event::{Ask, Event, Proposal, Then};
use mha::manager::handle::ClusterHandle;
use mha::manager::snapshot::{Doing, Hearing, MemberSnapshot, Snapshot};
use mha::model::ballot::Generation;
use mha::model::cluster::{ClusterName, Mode, Promotion, VipAddress};
use mha::model::extra::{Change, Dossier, Saved, Told, Touched};
use mha::model::gtid::GtidSet;
use mha::model::instance::{Flavor, InstanceId, Version};
use mha::model::intent::{FailoverAsk, How};
use mha::model::observation::Access;
use mha::model::policy::Durability;
use mha::model::record::{Degraded, Parked};
use mha::model::report::ThreadState;
use mha::model::verdict::Verdict;
use mha::model::wishes::{Threads, Wish, Wishes};
use mha::store::Store;
use secrecy::SecretString;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

pub(crate) fn host(name: &str) -> InstanceId {
    InstanceId::new(name, 3306)
}

fn gtids(text: &str) -> GtidSet {
    GtidSet::parse(Flavor::MariaDb, text).unwrap()
}

fn replica(name: &str, to_apply: u64) -> MemberSnapshot {
    MemberSnapshot {
        instance: host(name),
        role: "replica".to_owned(),
        state: "ok".to_owned(),
        version: Some(Version::new(10, 11, 14)),
        read_only: Some(true),
        executed: Some(gtids("0-1-100")),
        source: Some(host("db1")),
        receiver: Some(ThreadState::Running),
        applier: Some(ThreadState::Running),
        seconds_behind: Some(0),
        heartbeat_age: Some(Duration::from_millis(210)),
        to_apply,
        agent: Hearing::Ok,
        asked_at: None,
        access: Some(Access::Admitted),
        vip: false,
        lease: None,
        job: None,
    }
}

/// db1 leads, db2 and db3 follow; nothing is the matter.
pub(crate) fn healthy() -> Snapshot {
    let left = Duration::from_millis(2_700);
    let primary = MemberSnapshot {
        role: "primary".to_owned(),
        read_only: Some(false),
        executed: Some(gtids("0-1-100")),
        source: None,
        receiver: None,
        applier: None,
        seconds_behind: None,
        heartbeat_age: None,
        access: Some(Access::Held { remaining: left }),
        vip: true,
        lease: Some(left),
        ..replica("db1", 0)
    };
    let candidate = |name: &str, to_apply, against| Candidate {
        hampered: None,
        failed_at: None,
        instance: host(name),
        promotion: Promotion::Allow,
        against,
        behind: 0,
        to_apply,
        same_zone: false,
        known: gtids("0-1-100"),
        ours: gtids("0-1-100"),
    };
    Snapshot {
        at: DateTime::<Utc>::UNIX_EPOCH + TimeDelta::milliseconds(1_795_000_000_123),
        cluster: ClusterName("orders".to_owned()),
        mode: Mode::Auto,
        verdict: Verdict::Healthy,
        sentence: "db1 serves, 2 replicas follow".to_owned(),
        doing: Doing::Rest,
        refused: vec![],
        prospect: "if db1 died now: db2 would lead, nothing acknowledged lost".to_owned(),
        primary: Some(host("db1")),
        generation: Generation(4),
        durability: Durability::Lossless,
        acks: 1,
        ackers: vec![host("db2"), host("db3")],
        degraded: None,
        parked: vec![],
        wishes: Wishes::default(),
        waiting: vec![],
        vip: Some(VipAddress { address: [10, 0, 0, 100].into(), prefix: 24, interface: "eth0".to_owned() }),
        vip_on: Some(host("db1")),
        evidence: vec!["db1 answers".to_owned()],
        issues: vec![],
        members: vec![primary, replica("db2", 12), replica("db3", 0)],
        candidates: vec![candidate("db2", 12, vec![]), candidate("db3", 0, vec![Against::Never])],
        recovering: false,
        not_leading: None,
    }
}

/// db1 is gone, db3's applier has stopped, and its error text tries to take over the terminal.
pub(crate) fn dead() -> Snapshot {
    let mut board = healthy();
    board.verdict = Verdict::DeadPrimary;
    board.sentence = "db1 is dead; isolating it".to_owned();
    board.evidence =
        vec!["agent on db1: process gone for 12 ms".to_owned(), "db2: receiver lost db1".to_owned()];
    board.issues = vec!["db3: its applier is stopped: \u{1b}[2Jgone\nroot# \u{9b}31m".to_owned()];
    board.recovering = true;
    board.vip_on = None;
    board.prospect = String::new();
    board.doing = Doing::Refuse;
    board.refused = vec!["this cluster is in mode \"manual\"".to_owned()];
    board.degraded = Some(Degraded { since: board.at, why: "no acker was left".to_owned() });
    board.parked =
        vec![Parked { instance: host("db3"), since: board.at, why: "it has 0-3-1 alone".to_owned() }];
    let [db1, db2, db3] = board.members.as_mut_slice() else { unreachable!() };
    *db1 = MemberSnapshot {
        state: "not running".to_owned(),
        version: None,
        read_only: None,
        executed: None,
        access: Some(Access::Closed),
        vip: false,
        lease: None,
        ..db1.clone()
    };
    db2.receiver = Some(ThreadState::Connecting);
    db3.applier = Some(ThreadState::Stopped);
    db3.seconds_behind = None;
    db3.heartbeat_age = None;
    board
}

pub(crate) fn plan(kind: PlanKind) -> Plan {
    let isolate = vec![
        Step::Fence { instance: host("db1"), generation: Generation(4) },
        Step::StopReceiving { instance: host("db2"), source: host("db1") },
    ];
    let (title, stages, commit) = match kind {
        PlanKind::Promote => {
            let open = Step::Open { instance: host("db2"), generation: Generation(5), acks: 0 };
            (
                "db2 leads generation 5",
                vec![
                    Stage::new("prepare", vec![Step::StopReplicating { instance: host("db2") }]),
                    Stage::new("promote", vec![open]),
                ],
                Some(1),
            )
        }
        PlanKind::Adopt => {
            let open = Step::Open { instance: host("db1"), generation: Generation(1), acks: 0 };
            ("adopt orders: db1 leads, generation 1", vec![Stage::new("open", vec![open])], None)
        }
        PlanKind::Topology => {
            let (instance, threads, within) = (host("db3"), Threads::Both, Duration::from_secs(10));
            let wish = Wish::Stop { threads, by: "ann@desk".to_owned() };
            let stages = vec![
                Stage::new("stop", vec![Step::Halt { instance: instance.clone(), threads, within }]),
                Stage::new("record", vec![Step::Wish { instance, wish }]),
            ];
            ("db3 stops: receiver and applier, asked for by ann@desk", stages, None)
        }
        PlanKind::Isolate | PlanKind::Switchover | PlanKind::Rejoin | PlanKind::Repair => {
            ("db1 is to acknowledge nothing more (dead primary)", vec![Stage::new("isolate", isolate)], None)
        }
    };
    Plan {
        cluster: ClusterName("orders".to_owned()),
        kind,
        title: title.to_owned(),
        stages,
        commit,
        basis: vec![],
    }
}

/// A failover by an operator, all of it but its end.
pub(crate) fn failover(id: &str) -> Recovery {
    let began_at = DateTime::<Utc>::UNIX_EPOCH + TimeDelta::milliseconds(1_795_000_000_123);
    let ms = Duration::from_millis;
    let stage = |plan, index, name: &str| What::Stage { plan, index, name: name.to_owned() };
    let done = |stage: &str, step: &str, took, note: &str| What::Done {
        stage: stage.to_owned(),
        step: step.to_owned(),
        took: ms(took),
        note: note.to_owned(),
    };
    let entries = [
        (0, What::Accepted { plan: plan(PlanKind::Isolate) }),
        (1, stage(PlanKind::Isolate, 0, "isolate")),
        (9, done("isolate", "db1 closed to clients (generation 4)", 8, "")),
        (12, done("isolate", "db2 receives nothing more from db1", 11, "")),
        (13, What::Accepted { plan: plan(PlanKind::Promote) }),
        (14, stage(PlanKind::Promote, 0, "catch up")),
        (30, done("catch up", "db2 gets what only db1's log holds", 16, "nothing was there alone")),
        (31, stage(PlanKind::Promote, 1, "promote")),
        (45, done("promote", "db2 writable (generation 5)", 14, "")),
        (46, stage(PlanKind::Promote, 2, "traffic")),
        (52, done("traffic", "db2 holds 10.0.0.100", 6, "")),
        (53, stage(PlanKind::Promote, 3, "repoint")),
        (
            70,
            What::Failed {
                stage: "repoint".to_owned(),
                step: "db3 replicates from db2, acknowledging".to_owned(),
                took: ms(17),
                why: "error 1236: \u{1b}]0;owned\u{7}".to_owned(),
            },
        ),
    ];
    let at = |after: u64| began_at + TimeDelta::milliseconds(after as i64);
    Recovery {
        id: id.to_owned(),
        cluster: ClusterName("orders".to_owned()),
        title: "db1 is dead: its process is gone".to_owned(),
        about: host("db1"),
        kind: PlanKind::Isolate,
        ask: Some(FailoverAsk { accept_loss: true, by: "ann@desk".to_owned(), ..FailoverAsk::default() }),
        began_at,
        entries: entries
            .into_iter()
            .map(|(after, what)| Entry { at: at(after), after: ms(after), what })
            .collect(),
    }
}

pub(crate) fn ended(outcome: Outcome) -> Entry {
    Entry { at: DateTime::UNIX_EPOCH, after: Duration::from_millis(71), what: What::Ended { outcome } }
}

/// What the loop answers.
#[derive(Debug, Clone, Default)]
pub(crate) struct Script {
    /// Why failover, adoption, ack and unpark are refused; empty lets them through.
    pub(crate) refusals: Vec<String>,
}

/// A manager without servers.
pub(crate) struct Desk {
    pub(crate) board: watch::Sender<Arc<Snapshot>>,
    pub(crate) recovery: watch::Sender<Option<Arc<Recovery>>>,
    pub(crate) store: Store,
    pub(crate) stop: CancellationToken,
    /// The asks heard, as text.
    pub(crate) heard: Arc<Mutex<Vec<String>>>,
    handle: ClusterHandle,
    _dir: tempfile::TempDir,
    _loop: tokio::task::JoinHandle<()>,
}

impl Desk {
    pub(crate) fn new(board: Snapshot, script: Script) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let (events, inbox) = mpsc::channel(8);
        let name = board.cluster.clone();
        let (board, shown) = watch::channel(Arc::new(board));
        let (recovery, running) = watch::channel(None);
        let heard = Arc::new(Mutex::new(Vec::new()));
        let answering = answer(inbox, script, store.clone(), recovery.clone(), Arc::clone(&heard));
        #[expect(clippy::disallowed_methods, reason = "a test's own task, ended with its runtime")]
        let looping = tokio::spawn(answering);
        let handle = ClusterHandle::new(name, shown, running, events);
        Self {
            board,
            recovery,
            store,
            stop: CancellationToken::new(),
            heard,
            handle,
            _dir: dir,
            _loop: looping,
        }
    }

    pub(crate) fn state(&self, token: Option<&str>) -> ApiState {
        let token = token.map(SecretString::from);
        ApiState::new([self.handle.clone()], self.store.clone(), token, self.stop.clone())
    }

    /// The same cluster under a second name beside the first.
    pub(crate) fn state_of_two(&self) -> ApiState {
        let name = ClusterName("billing".to_owned());
        let board = Snapshot { cluster: name.clone(), ..healthy() };
        let mut second = self.handle.clone();
        second.board = watch::channel(Arc::new(board)).1;
        second.name = name;
        ApiState::new([self.handle.clone(), second], self.store.clone(), None, self.stop.clone())
    }

    /// A recovery in the store, ended or not.
    pub(crate) async fn remember(&self, recovery: &Recovery) {
        let head = Recovery { entries: vec![], ..recovery.clone() };
        self.store.begin(&head).await.unwrap();
        self.store.append(&recovery.id, recovery.entries.clone()).await.unwrap();
    }
}

async fn proposed(
    then: Then,
    sentence: String,
    plans: Vec<Plan>,
    dossier: Option<Dossier>,
    script: &Script,
    store: &Store,
    recovery: &watch::Sender<Option<Arc<Recovery>>>,
) {
    let blockers = script.refusals.clone();
    match then {
        Then::Propose(answer) => {
            let _ = answer.send(Proposal { sentence, plans, blockers, dossier });
        }
        Then::Begin(answer) => {
            let begun = if blockers.is_empty() { Ok("r1".to_owned()) } else { Err(blockers) };
            let _ = answer.send(begun);
            if script.refusals.is_empty() {
                play(store, recovery).await;
            }
        }
    }
}

async fn answer(
    mut inbox: mpsc::Receiver<Event>,
    script: Script,
    store: Store,
    recovery: watch::Sender<Option<Arc<Recovery>>>,
    heard: Arc<Mutex<Vec<String>>>,
) {
    let refused = |refusals: &[String]| if refusals.is_empty() { Ok(()) } else { Err(refusals.to_vec()) };
    while let Some(event) = inbox.recv().await {
        let Event::Ask(ask) = event else { continue };
        heard.lock().unwrap().push(format!("{ask:?}"));
        match ask {
            Ask::Failover { then, .. } => {
                let plans = vec![plan(PlanKind::Isolate), plan(PlanKind::Promote)];
                let sentence = "db1 is dead: fail over to db2".to_owned();
                proposed(then, sentence, plans, None, &script, &store, &recovery).await;
            }
            Ask::Switchover { then, .. } => {
                let plans = vec![plan(PlanKind::Switchover), plan(PlanKind::Promote)];
                let sentence = "switchover db1 -> db2".to_owned();
                proposed(then, sentence, plans, None, &script, &store, &recovery).await;
            }
            Ask::Rejoin { instance, how: How::Rebuild, from, then: Then::Propose(answer), .. } => {
                let from = from.unwrap_or_else(|| host("db2"));
                let sentence =
                    format!("the rebuild of {instance} from {from} begins: an operator asked for it");
                let steps = [
                    Step::Rebuild { instance: instance.clone(), from, keep: false },
                    Step::Exchange { instance, within: Duration::from_secs(300) },
                ];
                let plans = steps.map(|step| Plan {
                    stages: vec![Stage::new("stage", vec![step])],
                    ..plan(PlanKind::Rejoin)
                });
                let (plans, blockers) = (plans.to_vec(), script.refusals.clone());
                let _ = answer.send(Proposal { sentence, plans, blockers, dossier: None });
            }
            Ask::Rejoin { instance, then, .. } => {
                let (sentence, plans) = (format!("park {instance}"), vec![plan(PlanKind::Rejoin)]);
                proposed(then, sentence, plans, Some(dossier()), &script, &store, &recovery).await;
            }
            Ask::Replica { ask, then } => {
                let (sentence, plans) = (format!("{} stops", ask.instance), vec![plan(PlanKind::Topology)]);
                proposed(then, sentence, plans, None, &script, &store, &recovery).await;
            }
            Ask::Abort { answer } => {
                let _ = answer.send(
                    refused(&script.refusals)
                        .map(|()| "called off".to_owned())
                        .map_err(|reasons| reasons.join("; ")),
                );
            }
            Ask::AdoptPlan { answer, .. } => {
                let _ = answer.send(refused(&script.refusals).map(|()| plan(PlanKind::Adopt)));
            }
            Ask::Adopt { answer, .. } => {
                let _ = answer.send(refused(&script.refusals).map(|()| "r1".to_owned()));
                if script.refusals.is_empty() {
                    play(&store, &recovery).await;
                }
            }
            Ask::Votes { answer, .. } => {
                let voters = refused(&script.refusals).map(|()| "db3".to_owned());
                let _ = answer.send(voters.map_err(|reasons| reasons.join("; ")));
            }
            Ask::Acknowledge { answer } | Ask::Unpark { answer, .. } => {
                let _ = answer.send(refused(&script.refusals).map_err(|reasons| reasons.join("; ")));
            }
        }
    }
}

/// Two extra transactions, one of which no rows tell how to take back.
fn dossier() -> Dossier {
    let at = DateTime::<Utc>::UNIX_EPOCH + TimeDelta::milliseconds(1_795_000_000_123);
    let table = "app.writes".to_owned();
    let values = |values: &[&str]| values.iter().map(|value| (*value).to_owned()).collect::<Vec<_>>();
    let update = Change::Updated {
        table: table.clone(),
        before: values(&["1", "'a'"]),
        after: values(&["1", "'\u{1b}[31mb'"]),
    };
    let statement = Change::Statement { text: "ALTER TABLE app.writes ADD c INT".to_owned() };
    let obstacle = "\"ALTER TABLE app.writes ADD c INT\" is a statement, which no rows tell how to take back";
    let told = |gtid: &str, change| Told { gtid: gtid.to_owned(), at, changes: vec![change] };
    Dossier {
        host: "db1".to_owned(),
        flavor: Flavor::MariaDb,
        saved_at: at,
        saved: Saved {
            set: GtidSet::parse(Flavor::MariaDb, "0-1-(101..102)").unwrap(),
            transactions: 2,
            tables: vec![Touched { table, inserted: 0, updated: 1, deleted: 0 }],
            statements: 1,
            first_at: Some(at),
            last_at: Some(at),
            benign: false,
            obstacle: Some(obstacle.to_owned()),
            file: "/var/lib/mha-agent/extra/20260102-030405-db1.binlog".to_owned(),
            sha256: "5e".repeat(32),
            rewinding: None,
        },
        shown: vec![told("0-1-101", update), told("0-1-102", statement)],
        left_out: 0,
        undecoded: None,
    }
}

/// Runs the fixture failover to its end, entry by entry.
async fn play(store: &Store, shown: &watch::Sender<Option<Arc<Recovery>>>) {
    let whole = failover("r1");
    let mut now = Recovery { entries: vec![], ..whole.clone() };
    // It was played before.
    if store.begin(&now).await.is_err() {
        return;
    }
    shown.send_replace(Some(Arc::new(now.clone())));
    for entry in whole.entries.into_iter().chain([ended(Outcome::Done)]) {
        store.append(&now.id, vec![entry.clone()]).await.unwrap();
        now.entries.push(entry);
        shown.send_replace(Some(Arc::new(now.clone())));
        tokio::task::yield_now().await;
    }
}
