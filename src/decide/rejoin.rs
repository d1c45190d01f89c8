//! A server that returned, and a primary that was closed: compared first, then led back, or parked with the reason.

mod asked;
mod refused;

use super::extra::{self, Returned};
use super::failover::acks_in_force;
use super::hanging;
use super::plain_tables;
use super::plan::{Plan, PlanKind, Stage, Step};
use super::rebuild::{self, Under};
use super::standing::holds_unapplied;
use super::topology;
use super::verdict::first_lasting;
use crate::model::gtid::GtidSet;
use crate::model::instance::{Flavor, InstanceId};
use crate::model::intent::Intents;
use crate::model::job::Job;
use crate::model::observation::{Access, AgentStatus, Process};
use crate::model::policy::Durability;
use crate::model::record::ClusterRecord;
use crate::model::report::{Replication, Report, ThreadState};
use crate::model::time::Moment;
use crate::model::view::{ClusterView, Seen};

use refused::{cannot_be_sent, refusal, refused_for_history};

pub use asked::{Not, about, not_parked, waiting, waits};

/// After so many failed attempts in a row a returning server is left to a person (F096).
pub(super) const ATTEMPTS: u32 = 5;

/// The same while commits wait for an acknowledgement: no pause is long then, and whoever is left alone acknowledges nothing.
const ATTEMPTS_WHILE_OUT: u32 = 60;

/// What an applier stops with that was killed, or whose session was.
const KILLED: [u32; 3] = [1317, 1756, 1927];

/// What to do next for some member that is not where it belongs, while the primary serves. One at a time.
pub fn rejoin(view: &ClusterView, intents: &Intents, now: Moment) -> Option<Plan> {
    let record = view.record.as_ref()?;
    let waits = commits_wait(view, record);
    let next = |(instance, seen): (&InstanceId, &Seen)| {
        let parked = record.parked.iter().any(|parked| parked.instance == *instance);
        let pause = match waits {
            true => intents.pause_while_out(instance, now),
            false => intents.pause(instance, now),
        };
        // Another order about its replication would wait behind the one that hangs, and everybody else behind that.
        if parked || pause.is_some() || hanging::stop_hangs(seen).is_some() {
            return None;
        }
        // One that is well stays in automatic hands, although nobody can give it the copy an operator wants.
        let is_well = seen.agent_now().is_some_and(|agent| agent.access != Access::Closed)
            && record.wishes.is_to_be_rebuilt(instance);
        step(view, record, intents, (instance, seen), now).filter(|plan| !is_well || parking(plan).is_none())
    };
    // Starting a server takes long: first those that run.
    let runs =
        |seen: &Seen| seen.agent_now().is_some_and(|agent| !matches!(agent.process, Process::Gone { .. }));
    let running = view.replicas().filter(|(_, seen)| runs(seen));
    // And those below it get another source meanwhile: that takes moments, if they are to be moved at all.
    let feeds = |(instance, seen): &(&InstanceId, &Seen)| {
        let gone = seen.agent_now().and_then(|agent| match agent.process {
            Process::Gone { since } => Some(since),
            Process::Running { .. } | Process::Unknown { .. } => None,
        });
        gone.is_some_and(|since| since < view.cluster.policy.silence)
            && topology::has_orphans(view, record, instance, now)
    };
    let others = view.replicas().filter(|replica| !feeds(replica));
    first_lasting(running.chain(others).filter_map(next), intents, now)
}

/// Commits wait at the primary, and too few ackers are connected.
pub(super) fn commits_wait(view: &ClusterView, record: &ClusterRecord) -> bool {
    view.of(&record.primary).and_then(Seen::latest).is_some_and(|report| {
        let semi_sync = &report.semi_sync;
        semi_sync.waiting > 0 && semi_sync.clients < semi_sync.acks
    })
}

/// They have waited for long.
fn has_waited_alone(view: &ClusterView, record: &ClusterRecord) -> bool {
    let waited = view.of(&record.primary).and_then(Seen::agent_now).and_then(|agent| agent.heartbeat_stuck);
    commits_wait(view, record) && waited.is_some_and(|waited| waited >= view.cluster.policy.silence)
}

/// Why a plan that only parks does so.
fn parking(plan: &Plan) -> Option<&str> {
    plan.steps().find_map(|step| if let Step::Park { why, .. } = step { Some(why.as_str()) } else { None })
}

fn step(
    view: &ClusterView,
    record: &ClusterRecord,
    intents: &Intents,
    (instance, seen): (&InstanceId, &Seen),
    now: Moment,
) -> Option<Plan> {
    let leader = view.of(&record.primary)?;
    let stale = |at: Moment| intents.settled_at.is_some_and(|settled| at <= settled);
    if seen.manager.as_ref().is_none_or(|look| stale(look.at))
        || seen.agent.as_ref().is_none_or(|said| stale(said.at))
    {
        return None;
    }
    let agent = seen.agent_now()?;
    let attempts = if commits_wait(view, record) { ATTEMPTS_WHILE_OUT } else { ATTEMPTS };
    if intents.failures(instance) >= attempts {
        let why = intents
            .undone
            .iter()
            .find(|undone| undone.instance == *instance)
            .map_or("", |undone| &undone.why);
        return Some(park(
            view,
            instance,
            &format!("{attempts} attempts to bring it back failed; the last: {why}"),
        ));
    }
    let gone = matches!(agent.process, Process::Gone { .. });
    // What its server was asked before the last recovery ended shows the world that recovery changed.
    if !gone && seen.agent.as_ref().is_none_or(|said| stale(said.at.back(said.status.server_age))) {
        return None;
    }
    // Where nothing is known of the primary, one that is down is started, and compared later.
    let Some((asked_at, primary)) = leader.last_report.as_ref().filter(|_| leader.latest().is_some()) else {
        let is_copied = agent.job.as_ref().is_some_and(Job::is_rebuild);
        return (gone && !is_copied).then(|| started(view, record, (instance, agent)))?;
    };
    let home = topology::home(view, record, instance, now);
    returning(view, record, intents, (instance, seen), (agent, &home), (*asked_at, primary))
}

fn returning(
    view: &ClusterView,
    record: &ClusterRecord,
    intents: &Intents,
    (instance, seen): (&InstanceId, &Seen),
    (agent, home): (&AgentStatus, &InstanceId),
    (asked_at, primary): (Moment, &Report),
) -> Option<Plan> {
    let under = rebuild::under_way(record, instance, agent);
    // Whoever stops it starts it, and then it is looked at.
    if under == Under::Copying || agent.leaving.is_some() {
        return None;
    }
    if let Process::Gone { .. } = agent.process {
        if let Some(plan) = rebuild::of_one_that_is_gone((view, record, intents), instance, agent, primary) {
            return plan;
        }
        return started(view, record, (instance, agent));
    }
    let report = agent.server.as_ref().ok()?;
    let at = Standing::of((view, record, intents), (instance, agent), (report, home), under);
    // A replica that follows its source with its source side left on in my.cnf never led: nobody waits on it.
    let led = report.semi_sync.source_enabled && (report.semi_sync.waiting > 0 || !at.follows);
    if report.is_writable() || led {
        // It led once and its sockets may hold waiting commits: no clean stop, no switching off (S5, N2, N3).
        let why = if report.is_writable() {
            "it is writable"
        } else {
            "its sessions may wait for acknowledgements"
        };
        return Some(restart(view, record, instance, why));
    }
    if !at.due && (at.stopped || refusal(home, report).is_none()) {
        return None;
    }
    let (reported_at, report) = seen.last_report.as_ref()?;
    // What has not changed since then was so then: looks at two servers in one rhythm may never come in the order wanted here.
    let changed_at = seen.moved_at.max(seen.stream_moved_at).unwrap_or(*reported_at);
    if changed_at.min(*reported_at) > asked_at && !at.moves() {
        return None;
    }
    compared(Returned { view, record, intents, instance, agent, report, primary }, at, seen, home)
}

/// Its server is gone: it is started again, if that is this tool's to do.
fn started(
    view: &ClusterView,
    record: &ClusterRecord,
    (instance, agent): (&InstanceId, &AgentStatus),
) -> Option<Plan> {
    // One that was admitted in the moment in which its server died is not closed: that comes with the start.
    let closed = match agent.access {
        Access::Closed | Access::Admitted => true,
        Access::Held { .. } => false,
    };
    // On a full disk it would wait for room before it answered anybody.
    let is_ours = view.cluster.policy.restart && !agent.stopping && agent.leaving.is_none();
    (closed && is_ours && agent.stuck_disk().is_none()).then(|| start(view, record, instance, agent))
}

/// How one that runs stands, by its own last word.
#[derive(Debug, Clone, Copy)]
struct Standing {
    fenced: bool,
    under: Under,
    /// It receives from where it belongs.
    follows: bool,
    /// It receives, from wherever.
    receives: bool,
    /// What somebody stopped by command stays where and as it is.
    stopped: bool,
    /// It was added by command, and does not take part yet.
    joins: bool,
    /// It receives from another member.
    astray: bool,
    /// Something is to be done about it.
    due: bool,
}

impl Standing {
    fn of(
        (view, record, intents): (&ClusterView, &ClusterRecord, &Intents),
        (instance, agent): (&InstanceId, &AgentStatus),
        (report, home): (&Report, &InstanceId),
        under: Under,
    ) -> Self {
        let fenced = agent.access == Access::Closed;
        let follows =
            report.channel().is_some_and(|c| c.source == *home && c.receiver == ThreadState::Running);
        let receives = report.channel().is_some_and(|channel| channel.receiver == ThreadState::Running);
        let astray = report
            .channel()
            .is_some_and(|channel| channel.source != *home && is_member(view, &channel.source));
        let stopped = record.wishes.stopped(instance).is_some();
        let acknowledges = record.ackers.contains(instance);
        let joins = record.wishes.added.iter().any(|member| member.instance == *instance)
            && (report.channel().is_none()
                || !acknowledges && topology::would_acknowledge(view, record, (instance, report), home));
        // Below another one it acknowledges nothing, whatever an older record says.
        let recorded = *home != record.primary && acknowledges;
        // An order that came late, or somebody's hand, made it follow without acknowledging: commits may wait for nobody but it.
        let mute = *home == record.primary
            && record.acks > 0
            && acknowledges
            && follows
            && !report.semi_sync.replica_enabled;
        // Commits wait for more ackers than there are, and it could be one: at the promotion it could not reach the new primary.
        let lacked = *home == record.primary
            && record.acks as usize > record.ackers.len()
            && follows
            && !acknowledges
            && topology::would_acknowledge(view, record, (instance, report), home);
        let left = intents.was_left(instance)
            || intents.failures(instance) > 0
            || agent.threads_killed
            || agent.stopped_by_order;
        let stands = lacked
            || joins
            || astray
            || recorded
            || mute
            || refused_for_history(home, report)
            || left_stopped(report, left);
        let asked = intents.asked.as_ref() == Some(instance)
            && !report.channel().is_some_and(Replication::is_running);
        // Closed, it is due whether it replicates or not: a server that starts its threads by itself would stay closed for ever.
        let due = fenced || under.is_wanted() || (stands || asked) && !stopped;
        Self { fenced, under, follows, receives, stopped, joins, astray, due }
    }

    /// One that receives moves on between two looks: what was found when both were compared counts.
    fn moves(self) -> bool {
        self.receives && !self.fenced
    }
}

/// What becomes of one that was compared with the primary.
fn compared(of: Returned<'_>, at: Standing, seen: &Seen, home: &InstanceId) -> Option<Plan> {
    let Returned { view, record, instance, agent, report, primary, .. } = of;
    if let Some(plan) = extra::unfinished(of).filter(|_| !at.under.is_wanted()) {
        return Some(plan);
    }
    let nothing = || GtidSet::empty(report.identity.flavor);
    let extra = match &seen.errant {
        Some(errant) if at.moves() => errant.clone(),
        None if at.moves() => nothing(),
        Some(_) | None => of_ours(report, primary).minus(&primary.executed),
    };
    let extra = if is_on_its_way(primary, &extra, at.fenced) {
        // A commit may wait for the acknowledgement of this very one, which it gives when it has come. One that is to lose its data is
        // left until the primary has it, and so is one that is closed, unless that is the primary's own beyond doubt: written since
        // they last had the same, by a server that has not restarted since, and so in its log still.
        let own = seen
            .held_in_common_at
            .is_some_and(|then| view.of(&record.primary).is_some_and(|it| it.runs_since(then)));
        let unproven = at.fenced && !own;
        if unproven && has_waited_alone(view, record) {
            // Nobody else will acknowledge. What it has is saved and taken back, and comes again if the primary has it.
            extra
        } else if unproven || at.under.is_wanted() || primary.semi_sync.waiting == 0 {
            return None;
        } else {
            nothing()
        }
    } else {
        beside_what_comes(primary, extra, at.fenced)
    };
    if !extra.is_empty() {
        // What an open one has not applied is in no log of its own, and can be saved in a moment.
        let comes = !at.fenced && !at.under.is_wanted() && is_applying(report);
        let comes = comes && !report.executed.contains(&extra);
        return (at.due && !comes).then(|| extra::remedy(of, &extra, at.under))?;
    }
    if at.under == Under::Ready {
        return Some(rebuild::exchange(view, record, instance, agent));
    }
    if at.under == Under::Wanted {
        return rebuild::begin(of, "an operator asked for it");
    }
    if let Some(why) = cannot_be_sent(of, home, at.joins) {
        return rebuild::instead_of_parking(of, &why);
    }
    // Where nobody can give a copy, or commits wait for it, it follows, and what may be damaged is told.
    if at.fenced
        && let Some(why) = plain_tables::may_be_damaged(of)
        && !commits_wait(view, record)
        && rebuild::has_donor(view, record, instance)
    {
        return rebuild::begin(of, &why);
    }
    if !at.due {
        return None;
    }
    if at.stopped {
        return Some(topology::only_admit(view, record, instance));
    }
    // MariaDB would throw away what it received and cannot apply: a person mends its applier first, and others are not kept waiting.
    if at.astray && report.identity.flavor == Flavor::MariaDb && holds_unapplied(report).is_some() {
        return None;
    }
    if *home != record.primary {
        return topology::below(view, record, (instance, report), home);
    }
    Some(follow(view, record, instance, primary))
}

/// The primary wrote it itself, and has it as soon as somebody acknowledges: MySQL counts a commit that waits as not executed. A fenced
/// server cannot be given it now, so that of one only sessions that wait are believed.
pub(super) fn is_on_its_way(primary: &Report, extra: &GtidSet, fenced: bool) -> bool {
    !extra.is_empty() && beside_what_comes(primary, extra.clone(), fenced).is_empty()
}

/// Without what is on its way to the primary: under load that is another set at every look.
fn beside_what_comes(primary: &Report, extra: GtidSet, fenced: bool) -> GtidSet {
    match !fenced || primary.semi_sync.waiting > 0 {
        true => extra.minus(&extra.written_by(&primary.identity)),
        false => extra,
    }
}

fn is_applying(report: &Report) -> bool {
    report.channel().is_some_and(|channel| channel.applier == ThreadState::Running)
}

/// Receiving nothing, with its applier running: how a failover leaves a replica whose taking back was cut short. Somebody who
/// stops a replica by hand stops both threads, and is left alone unless a recovery is known to have `left` it so. One that hung while
/// a switchover was taken back stops its applier late, after it was told to go on: that is left, too.
fn left_stopped(report: &Report, left: bool) -> bool {
    report.channel().map_or(left, |channel| {
        let deaf = channel.receiver == ThreadState::Stopped && channel.receiver_error.is_none();
        let killed = channel.applier_error.as_ref().is_none_or(|error| KILLED.contains(&error.code));
        let idle = channel.applier == ThreadState::Stopped && killed;
        if left { deaf || idle } else { deaf && channel.applier == ThreadState::Running }
    })
}

/// What it has of the cluster's history: all of it, unless it replicates from several clusters.
pub(super) fn of_ours(report: &Report, primary: &Report) -> GtidSet {
    match report.replication.len() {
        0 | 1 => report.known(),
        _ => report.known().of_origins(&primary.executed),
    }
}

fn is_member(view: &ClusterView, instance: &InstanceId) -> bool {
    view.cluster.member(instance).is_some()
}

pub(super) fn plan(view: &ClusterView, kind: PlanKind, title: String, stages: Vec<Stage>) -> Plan {
    Plan { cluster: view.cluster.name.clone(), kind, title, stages, commit: None, basis: Vec::new() }
}

/// An agent whose server died while it led asks for no lease, and so hears of no later generation: it is told first.
fn start(view: &ClusterView, record: &ClusterRecord, instance: &InstanceId, agent: &AgentStatus) -> Plan {
    let led = agent.held.is_some() && agent.fenced.is_none() || agent.access != Access::Closed;
    let fence = Step::Fence { instance: instance.clone(), generation: record.generation };
    let mut stages: Vec<Stage> = led.then(|| Stage::new("fence", vec![fence])).into_iter().collect();
    stages.push(start_as_replica(view, record, instance));
    plan(view, PlanKind::Rejoin, format!("start {instance} again, fenced"), stages)
}

fn restart(view: &ClusterView, record: &ClusterRecord, instance: &InstanceId, why: &str) -> Plan {
    let stages = vec![
        Stage::new("fence", vec![Step::Fence { instance: instance.clone(), generation: record.generation }]),
        Stage::new("kill", vec![Step::Kill { instance: instance.clone() }]),
        start_as_replica(view, record, instance),
    ];
    plan(view, PlanKind::Rejoin, format!("restart {instance} fenced, as a replica: {why}"), stages)
}

/// Its recovery drops what was never acknowledged only where all that was acknowledged is on another host too. MariaDB drops more than that: a
/// commit is durable in the engine with the next one's prepare, up to a second after the client was told. Elsewhere everything is kept, and saved
/// before it is set back; and so it is on one that never led, which has nothing that was not acknowledged.
fn start_as_replica(view: &ClusterView, record: &ClusterRecord, instance: &InstanceId) -> Stage {
    let lossless = view.cluster.policy.durability == Durability::Lossless && record.acks > 0;
    let led = view.of(instance).and_then(Seen::agent_now).is_some_and(|agent| agent.held.is_some());
    let drop_tail = lossless && led && record.doubt_about(instance).is_none();
    Stage::new("start", vec![Step::StartServer { instance: instance.clone(), as_replica: true, drop_tail }])
}

pub(super) fn park(view: &ClusterView, instance: &InstanceId, why: &str) -> Plan {
    let stage = Stage::new("park", vec![Step::Park { instance: instance.clone(), why: why.to_owned() }]);
    plan(view, PlanKind::Rejoin, format!("park {instance}: {why}"), vec![stage])
}

/// Its history is the primary's: a replica again. The larger R is recorded before the acker is armed (H4).
fn follow(view: &ClusterView, record: &ClusterRecord, instance: &InstanceId, primary: &Report) -> Plan {
    let tables = plain_tables::at_return(view, instance).map_or_else(String::new, |told| format!("; {told}"));
    let title = format!("{instance} has nothing the primary lacks: it follows {}{tables}", record.primary);
    plan(view, PlanKind::Rejoin, title, follow_stages(view, record, instance, primary))
}

pub(super) fn follow_stages(
    view: &ClusterView,
    record: &ClusterRecord,
    instance: &InstanceId,
    primary: &Report,
) -> Vec<Stage> {
    let seen = view.of(instance).and_then(Seen::latest);
    let lossless = seen.map_or_else(
        || topology::is_lossless(view),
        |report| topology::would_acknowledge(view, record, (instance, report), &record.primary),
    );
    let mut ackers = record.ackers.clone();
    if lossless && !ackers.contains(instance) {
        ackers.push(instance.clone());
    }
    let acks = acks_in_force(view, Some(primary));
    let rearm = lossless && record.acks < acks && ackers.len() >= acks as usize;
    let register = |acks, degraded| Step::Register {
        primary: record.primary.clone(),
        generation: record.generation,
        ackers: ackers.clone(),
        acks,
        degraded,
    };
    let mut stages = vec![
        Stage::new(
            "register",
            vec![register(record.acks, record.degraded.as_ref().map(|degraded| degraded.why.clone()))],
        ),
        Stage::new(
            "follow",
            vec![Step::PointReplica {
                instance: instance.clone(),
                source: record.primary.clone(),
                acker: lossless,
            }],
        ),
        Stage::new("admit", vec![Step::Admit { instance: instance.clone() }]),
    ];
    if rearm {
        stages.push(Stage::new("arm", vec![Step::ArmSource { instance: record.primary.clone(), acks }]));
        stages.push(Stage::new(
            "attach",
            vec![Step::AckersAttached { instance: record.primary.clone(), acks }],
        ));
        stages.push(Stage::new("lossless", vec![register(acks, None)]));
    }
    stages
}
