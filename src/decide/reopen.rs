//! The recorded primary serves again, where it is: closed and whole, dead with no failover allowed, or without its address.

use std::time::Duration;

use super::candidate::is_passed_over;
use super::failover::{acks_in_force, next_generation};
use super::given_up::given_up;
use super::plan::{Plan, PlanKind, Proof, Stage, Step};
use super::rejoin::{ATTEMPTS, is_on_its_way, of_ours, plan};
use crate::model::ballot::Generation;
use crate::model::cluster::Mode;
use crate::model::gtid::GtidSet;
use crate::model::instance::InstanceId;
use crate::model::intent::Intents;
use crate::model::observation::{Access, AgentStatus, Process};
use crate::model::record::ClusterRecord;
use crate::model::report::{Report, ThreadState};
use crate::model::time::Moment;
use crate::model::view::{ClusterView, Seen};

/// So long a member has had what the primary lacks when it is believed that the primary has lost it: what is being written now is with
/// the acknowledging ones a moment before it counts as executed.
const STEADY: Duration = Duration::from_secs(1);

/// Why the recorded primary is not opened where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NotOpened {
    Wait(String),
    /// Others have what it wrote itself and has lost, such as with a disk that lied about what it holds: they have the whole.
    LostTail(String),
}

impl<T: Into<String>> From<T> for NotOpened {
    fn from(why: T) -> Self {
        Self::Wait(why.into())
    }
}

/// The recorded primary runs and is closed. If it has everything every member that answers has, it leads again under its
/// own generation (design section 4, isolation; F124).
pub(super) fn reopen(view: &ClusterView, intents: &Intents, now: Moment) -> Result<Plan, NotOpened> {
    let record = view.record.as_ref().ok_or("the cluster is not adopted")?;
    let primary = &record.primary;
    if let Some((remaining, why)) = intents.pause_while_out(primary, now) {
        return Err(format!("the last attempt failed ({why}), next in {} s", remaining.as_secs() + 1).into());
    }
    let seen = view.of(primary).ok_or("the recorded primary is no member")?;
    let agent = seen.agent_now().ok_or("no word from its agent")?;
    let asked_at = seen.agent.as_ref().map(|said| said.at.back(said.status.server_age));
    if intents.settled_at.is_some_and(|settled| asked_at.is_none_or(|asked| asked <= settled)) {
        return Err("a recovery has just ended; it is looked at again first".into());
    }
    let report =
        agent.server.as_ref().map_err(|unseen| format!("its server does not answer its agent: {unseen}"))?;
    let generation = generation_to_open(view, record)?;
    let adopt = |primary: &InstanceId| format!("\"mhactl adopt {} --primary {primary}\"", view.cluster.name);
    // A parked member's history is a person's to judge, and was when it was parked.
    let judged = |instance: &InstanceId| record.parked.iter().any(|parked| parked.instance == *instance);
    let mut lost = None;
    for (instance, replica) in view.replicas() {
        let Some(other) = replica.latest() else { continue };
        let fenced = replica.agent_now().is_some_and(|agent| agent.access == Access::Closed);
        if other.is_writable() && !fenced {
            return Err(format!(
                "opening {primary} beside {instance} would make two writers; make {instance} read-only, or run {}",
                adopt(instance)
            )
            .into());
        }
        let extra: GtidSet = of_ours(other, report).minus(&report.executed).minus(&given_up(view, other));
        // Its own sessions wait for the acknowledgement, which comes once it is open.
        if is_on_its_way(report, &extra, true) {
            continue;
        }
        // What it has beyond an older look at the primary may be what the primary has written since.
        let looked_later = replica.last_report.as_ref().map(|(at, _)| *at) > asked_at;
        let changed_at = replica.moved_at.max(replica.stream_moved_at);
        if !extra.is_empty() && looked_later && changed_at > asked_at {
            return Err(format!(
                "{instance} was looked at after {primary} and has moved on: {primary} is looked at again before the two are compared"
            )
            .into());
        }
        if !extra.is_empty() && !judged(instance) && !is_passed_over(view, instance, replica) {
            let had = replica.moved_at.zip(asked_at).is_some_and(|(at, asked)| asked.since(at) >= STEADY);
            let is_tail = extra.minus(&extra.written_by(&report.identity)).is_empty()
                && extra.minus(&other.executed).is_empty();
            let never_led = agent.held.is_none_or(|held| held < record.generation);
            if never_led && other.executed.contains(&report.executed) {
                lost.get_or_insert_with(|| {
                    format!(
                        "{primary} never led generation {}, and {instance} has what it lacks: {}",
                        record.generation,
                        extra.told()
                    )
                });
                continue;
            }
            if !had || !is_tail {
                return Err(format!(
                    "{instance} has what {primary} lacks: {}; to go on from it run {}",
                    extra.told(),
                    adopt(instance)
                )
                .into());
            }
            lost.get_or_insert_with(|| {
                format!("{instance} has what {primary} wrote and has lost: {}", extra.told())
            });
        }
    }
    let follows = report.channel().filter(|channel| channel.receiver != ThreadState::Stopped);
    if let Some(channel) = follows.filter(|channel| !is_replaced(view, record, &channel.source)) {
        return Err(format!(
            "{primary} replicates from {}: the topology was changed by hand; run {}",
            channel.source,
            adopt(&channel.source)
        )
        .into());
    }
    if let Some(lost) = lost {
        return Err(NotOpened::LostTail(lost));
    }
    Ok(reopen_plan(view, record, report, generation))
}

/// The recorded one, while no voter knows a higher. A claim that was taken back leaves voters with a generation nobody led, for
/// which they refuse the recorded one: then a new one, if every member's agent says that it led none of those in between.
fn generation_to_open(view: &ClusterView, record: &ClusterRecord) -> Result<Generation, String> {
    let next = next_generation(view);
    if next == record.generation.next() {
        return Ok(record.generation);
    }
    for member in view.cluster.members.iter().filter(|member| member.agent.is_some()) {
        let instance = &member.instance;
        let Some(agent) = view.of(instance).and_then(Seen::agent_now) else {
            return Err(format!(
                "voters know a generation after {}, and the agent on {instance} is not heard: its server may have led it",
                record.generation
            ));
        };
        // What the recorded one has led since, for another manager or by itself, is its own.
        let others = agent.held.filter(|_| *instance != record.primary);
        if let Some(led) = others.filter(|held| *held > record.generation) {
            return Err(format!(
                "{instance} has led generation {led}, the record knows of {}; if its history is the right one run \"mhactl adopt {} --primary {instance}\"",
                record.generation, view.cluster.name
            ));
        }
    }
    Ok(next)
}

/// A member that led before the recorded primary, and is closed: nobody puts a primary below it. Another manager did, which took its own
/// failover back before it was recorded who leads.
fn is_replaced(view: &ClusterView, record: &ClusterRecord, source: &InstanceId) -> bool {
    let agent = view.of(source).and_then(Seen::agent_now);
    let closed = agent.is_some_and(|agent| {
        agent.access == Access::Closed && agent.held.is_some_and(|held| held < record.generation)
    });
    closed || view.overtaken().is_some() && view.cluster.member(source).is_some()
}

fn reopen_plan(view: &ClusterView, record: &ClusterRecord, report: &Report, generation: Generation) -> Plan {
    let primary = &record.primary;
    // No fewer than recorded: a failover counts on that.
    let acks = if record.acks == 0 { 0 } else { acks_in_force(view, Some(report)).max(record.acks) };
    let open = Step::Open { instance: primary.clone(), generation, acks };
    let mut stages = Vec::new();
    if report.channel().is_some_and(|channel| channel.receiver != ThreadState::Stopped) {
        let (set, within) = (report.known(), view.cluster.policy.catch_up);
        let applied = Step::WaitApplied { instance: primary.clone(), set, within };
        stages.push(Stage::new("catch up", vec![applied]));
        stages.push(Stage::new("prepare", vec![Step::StopReplicating { instance: primary.clone() }]));
    }
    stages.push(Stage::new("arm", vec![Step::ArmSource { instance: primary.clone(), acks }]));
    if generation == record.generation {
        stages.push(Stage::new("open", vec![open]));
    } else {
        let claim = Step::Claim { candidate: primary.clone(), generation, proof: Proof::Expired };
        let register = Step::Register {
            primary: primary.clone(),
            generation,
            ackers: record.ackers.clone(),
            acks: record.acks,
            degraded: record.degraded.as_ref().map(|degraded| degraded.why.clone()),
        };
        stages.push(Stage::new("claim", vec![claim]));
        stages.push(Stage::new("open", vec![open, register]));
    }
    if let Some(vip) = view.cluster.vip.clone() {
        let step = Step::HoldVip { instance: primary.clone(), generation, vip };
        stages.push(Stage::new("traffic", vec![step]));
    }
    plan(view, PlanKind::Repair, format!("{primary} leads again, generation {generation}"), stages)
}

/// A majority of voters has accepted that generation, and none that is heard a later one: whose it is has led last, and nobody can have
/// been let in after it.
fn is_the_voters_last(view: &ClusterView, generation: Generation) -> bool {
    let Some(needed) = view.cluster.majority() else { return false };
    let known: Vec<Generation> = accepted(view).map(|(known, _)| known).collect();
    known.iter().all(|known| *known <= generation)
        && known.iter().filter(|known| **known == generation).count() >= needed
}

/// Whether the voters that have accepted that generation say that it is `instance`'s; `None` where none of them is heard to say whose it is.
fn was_accepted_for(view: &ClusterView, generation: Generation, instance: &InstanceId) -> Option<bool> {
    let holders = accepted(view).filter(|(known, _)| *known == generation).filter_map(|(_, holder)| holder);
    holders.map(|holder| holder == instance).reduce(|all, this| all && this)
}

/// Whether one that led before may have led again after the recorded generation, by what the voters that are heard have accepted. A generation
/// is one host's: where a single later one is known, and is somebody else's, it has not.
pub(super) fn may_have_led_since(view: &ClusterView, record: &ClusterRecord, instance: &InstanceId) -> bool {
    let (later, next) = (record.generation.next(), next_generation(view));
    let is_anothers = || next == later.next() && was_accepted_for(view, later, instance) == Some(false);
    view.overtaken().is_some() || next != later && !is_anothers()
}

/// Whether `instance` led the generation that its agent names as held. The agent of a fenced server names the one that it is fenced for: of
/// that only the voters tell whose it is.
pub(super) fn led_it(
    view: &ClusterView,
    instance: &InstanceId,
    agent: &AgentStatus,
    held: Generation,
) -> bool {
    was_accepted_for(view, held, instance).unwrap_or(agent.fenced.is_none())
}

/// The highest generation that each voter has accepted, by its newest word, and for whom where it says so.
fn accepted(view: &ClusterView) -> impl Iterator<Item = (Generation, Option<&InstanceId>)> {
    view.cluster.voters.iter().filter_map(|voter| {
        let here = view.cluster.members.iter().filter(|member| member.instance.host == voter.host);
        let agents = here.filter_map(|member| view.of(&member.instance)?.agent_now());
        let said = agents.max_by_key(|agent| agent.generation);
        said.map(|agent| (agent.generation, agent.accepted_for.as_ref()))
            .or_else(|| view.grants.get(&voter.host).map(|granted| (granted.generation, None)))
    })
}

/// Who serves by a later generation than the recorded one, or would if its server ran: a majority of voters gave it that, and gives it
/// still. What a claim that came to nothing left with some of them is no matter.
pub(crate) fn led_since(view: &ClusterView) -> Option<(InstanceId, Generation)> {
    let (primary, generation) = led_later(view, |_| true)?;
    Some((primary.clone(), generation))
}

fn led_later(view: &ClusterView, believed: impl Fn(&Seen) -> bool) -> Option<(&InstanceId, Generation)> {
    let record = view.record.as_ref()?;
    let leads = |instance: &InstanceId, seen: &Seen| {
        let agent = seen.agent_now().filter(|_| believed(seen))?;
        let open = matches!(agent.access, Access::Held { .. }) && seen.latest()?.is_writable();
        // Nobody was let in after it. It may be fenced, by a failover that another manager did not end.
        let led = |held: Generation| is_the_voters_last(view, held) && led_it(view, instance, agent, held);
        agent.held.filter(|held| *held > record.generation && (open || led(*held)))
    };
    let leading = view.seen.iter().filter_map(|(instance, seen)| Some((instance, leads(instance, seen)?)));
    leading.max_by_key(|(_, generation)| *generation)
}

/// A member leads by a later generation than the recorded one: a server that was blocked for a switchover was taken back by its agent
/// after the switchover had ended, badly, for its manager, or the manager died before it was recorded. So it is the primary, and recorded.
pub(super) fn led_by_another(view: &ClusterView, intents: &Intents) -> Option<Plan> {
    let record = view.record.as_ref().filter(|_| view.cluster.mode != Mode::Observe)?;
    let (primary, generation) = led_later(view, |seen| is_heard_since(seen, intents))?;
    let serving = view.of(primary).and_then(Seen::report).filter(|report| report.is_writable());
    let acknowledging = acknowledging(view, record, primary, serving);
    // Those that were its ackers before may be again, though nobody sees it now.
    let may_acknowledge = |instance: &&InstanceId| {
        let known = record.ackers.contains(instance) || **instance == record.primary;
        *instance != primary && (known || acknowledging.contains(instance))
    };
    let acking = view.seen.keys().filter(may_acknowledge).cloned();
    let degraded = match serving {
        Some(report) => found_degraded(record, report, primary, "whoever had it lead"),
        None => Some(record.degraded.as_ref().map_or_else(
            || format!("another manager had {primary} lead, and nobody can tell what its commits waited for"),
            |degraded| degraded.why.clone(),
        )),
    };
    let register = Step::Register {
        primary: primary.clone(),
        generation,
        ackers: if record.acks == 0 { Vec::new() } else { acking.collect() },
        acks: if serving.is_some() && degraded.is_some() && record.degraded.is_none() {
            0
        } else {
            record.acks
        },
        degraded: degraded.filter(|_| record.acks > 0 || record.degraded.is_some()),
    };
    let title = format!(
        "{primary} leads generation {generation} by a majority's word, {} with generation {} was recorded: that is recorded now",
        record.primary, record.generation
    );
    Some(plan(view, PlanKind::Repair, title, vec![Stage::new("record", vec![register])]))
}

/// The primary serves as recorded, but another manager has led since that was recorded: what is so now is recorded anew, before anything
/// rests on it. Where fewer acknowledgements are waited for than recorded, that is recorded too, and mended like any other such span.
pub(super) fn confirmed(view: &ClusterView, intents: &Intents) -> Option<Plan> {
    let overtaken = view.overtaken()?;
    let record = view.record.as_ref()?;
    let seen = view.of(&record.primary)?;
    serving(seen, record, intents)?;
    let report = seen.report().filter(|report| report.is_writable())?;
    let degraded = found_degraded(record, report, &record.primary, "another manager");
    let mut ackers = record.ackers.clone();
    if record.acks > 0 {
        let acknowledging = acknowledging(view, record, &record.primary, Some(report));
        ackers.extend(acknowledging.into_iter().filter(|it| !record.ackers.contains(it)).cloned());
    }
    let register = Step::Register {
        primary: record.primary.clone(),
        generation: record.generation,
        ackers,
        acks: if degraded.is_some() && record.degraded.is_none() { 0 } else { record.acks },
        degraded,
    };
    let title = format!("{} leads as recorded; {overtaken}: it is recorded again", record.primary);
    Some(plan(view, PlanKind::Repair, title, vec![Stage::new("record", vec![register])]))
}

/// Members that acknowledge to `primary`, by what they last said. Where more are connected to it than that, or it cannot be asked, those that
/// are not heard may be among them too; they leave the record when they are seen not to acknowledge.
fn acknowledging<'v>(
    view: &'v ClusterView,
    record: &ClusterRecord,
    primary: &InstanceId,
    serving: Option<&Report>,
) -> Vec<&'v InstanceId> {
    let acknowledges = |seen: &Seen| seen.latest().is_some_and(|report| report.acknowledges_to(primary));
    let heard = view.seen.values().filter(|seen| acknowledges(seen)).count();
    let unexplained = serving.is_none_or(|report| report.semi_sync.clients as usize > heard);
    let may = |instance: &InstanceId, seen: &Seen| {
        acknowledges(seen) || unexplained && is_silent(record, instance, seen)
    };
    let found = view.seen.iter().filter(|(instance, seen)| *instance != primary && may(instance, seen));
    found.map(|(instance, _)| instance).collect()
}

/// Neither its server nor its agent is heard, so that it may acknowledge. One whose own rows are in doubt, or that is left to a person, is not
/// guessed to: to be registered would end the doubt.
fn is_silent(record: &ClusterRecord, instance: &InstanceId, seen: &Seen) -> bool {
    let left = record.parked.iter().any(|parked| parked.instance == *instance);
    seen.latest().is_none() && seen.agent_now().is_none() && !left && record.doubt_about(instance).is_none()
}

/// Why lossless is given up, as recorded, or because a primary that another manager left waits for fewer acknowledgements than recorded.
fn found_degraded(
    record: &ClusterRecord,
    report: &Report,
    primary: &InstanceId,
    manager: &str,
) -> Option<String> {
    let known = record.degraded.as_ref().map(|degraded| degraded.why.clone());
    let left = report.semi_sync.not_armed_for(record.acks).filter(|_| record.acks > 0);
    known.or_else(|| left.map(|why| format!("{manager} had left {primary} without it: {why}")))
}

/// Its agent has spoken since the last recovery ended: what it said before may be what that has changed.
fn is_heard_since(seen: &Seen, intents: &Intents) -> bool {
    seen.agent.as_ref().is_some_and(|said| intents.settled_at.is_none_or(|settled| said.at > settled))
}

/// The agent of a primary that holds the lease of the recorded generation, by a word since the last recovery ended.
fn serving<'a>(seen: &'a Seen, record: &ClusterRecord, intents: &Intents) -> Option<&'a AgentStatus> {
    seen.agent_now().filter(|agent| {
        is_heard_since(seen, intents)
            && matches!(agent.access, Access::Held { .. })
            && agent.held == Some(record.generation)
    })
}

/// The primary serves, and the VIP is not on it: a promotion ended before its traffic moved, or somebody took it away.
pub(super) fn traffic(view: &ClusterView, intents: &Intents, now: Moment) -> Option<Plan> {
    let record = view.record.as_ref()?;
    let (primary, vip) = (&record.primary, view.cluster.vip.clone()?);
    let seen = view.of(primary)?;
    let agent = serving(seen, record, intents)?;
    if agent.vip || intents.pause(primary, now).is_some() {
        return None;
    }
    let title = format!("{} is not on {primary}, which serves: it moves there", vip.address);
    let generation = record.generation;
    // It serves, and goes on as it is armed.
    let open = Step::Open { instance: primary.clone(), generation, acks: 0 };
    let stages = vec![
        Stage::new("open", vec![open]),
        Stage::new("traffic", vec![Step::HoldVip { instance: primary.clone(), generation, vip }]),
    ];
    Some(plan(view, PlanKind::Repair, title, stages))
}

/// The primary serves, and settings by which it once replicated from another member are left, with both threads stopped: the end of its
/// promotion failed. A thread that runs is another matter: somebody made a ring, and `issues` names it.
pub(super) fn tidy(view: &ClusterView, intents: &Intents, now: Moment) -> Option<Plan> {
    let record = view.record.as_ref()?;
    let primary = &record.primary;
    let seen = view.of(primary)?;
    serving(seen, record, intents)?;
    let report = seen.report().filter(|report| report.is_writable())?;
    let channel = report.channel().filter(|channel| view.cluster.member(&channel.source).is_some())?;
    if !channel.is_stopped() || intents.pause(primary, now).is_some() {
        return None;
    }
    let title = format!(
        "{primary} leads and still has settings to replicate from {}: it forgets them",
        channel.source
    );
    let tidy = Step::ForgetSource { instance: primary.clone(), discard: None };
    Some(plan(view, PlanKind::Repair, title, vec![Stage::new("tidy", vec![tidy])]))
}

/// A dead primary whose failover is refused is started in place, as the primary it was (D2): nothing of it may be dropped.
pub(super) fn restart_in_place(
    view: &ClusterView,
    intents: &Intents,
    now: Moment,
    why: &str,
) -> Option<Plan> {
    let record = view.record.as_ref()?;
    let agent = view.of(&record.primary)?.agent_now()?;
    let gone = matches!(agent.process, Process::Gone { .. }) && agent.access == Access::Closed;
    let allowed = view.cluster.policy.restart
        && !agent.is_stopped_by_others()
        && agent.stuck_disk().is_none()
        && intents.failures(&record.primary) < ATTEMPTS;
    // A promotion that failed is no reason to wait with this.
    let failed_at =
        intents.undone.iter().find(|undone| undone.instance == record.primary).map(|undone| undone.at);
    let promotion = view.seen.values().filter_map(|seen| Some(seen.promotion_failed.as_ref()?.0)).max();
    let paused = intents.pause_while_out(&record.primary, now).is_some() && failed_at != promotion;
    if !gone || !allowed || paused {
        return None;
    }
    let stage = Stage::new(
        "start",
        vec![Step::StartServer { instance: record.primary.clone(), as_replica: false, drop_tail: false }],
    );
    let title = format!("start {} again in place, for no failover {why}", record.primary);
    Some(plan(view, PlanKind::Repair, title, vec![stage]))
}
