//! A server that replication cannot bring back gets a copy of a healthy one's data. The copy is long work of its host and no
//! operation of the cluster: a small plan begins it, and what is seen of it later asks for the plan that puts it in place.
//! After that the server is a returned one like any other, compared before it follows.

use std::time::Duration;

use super::candidate::{Against, Candidate, rank};
use super::extra::Returned;
use super::plan::{Plan, PlanKind, Stage, Step};
use super::rejoin::{park, plan};
use super::topology;
use crate::model::cluster::Promotion;
use crate::model::extra::Remedy;
use crate::model::instance::{Flavor, InstanceId};
use crate::model::intent::Intents;
use crate::model::job::{Phase, Task};
use crate::model::observation::{Access, AgentStatus, Process};
use crate::model::policy::Durability;
use crate::model::record::ClusterRecord;
use crate::model::report::{Report, ThreadState};
use crate::model::view::{ClusterView, Seen};
use crate::model::wishes::Threads;

/// After so many copies in a row that came to nothing a person is asked.
const TRIES: u32 = 3;
/// How long a copy that failed is left alone.
const PAUSE: Duration = Duration::from_secs(5);
/// After a copy that failed a server that can give another is waited for so long.
const DONOR_WITHIN: Duration = Duration::from_secs(120);
/// How long the exchange may take: a stop, two renames, a start with its recovery.
const EXCHANGE_WITHIN: Duration = Duration::from_secs(300);
/// How long the other ackers may take to have what it acknowledged.
const LEVEL_WITHIN: Duration = Duration::from_secs(30);

/// How a server's rebuild stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Under {
    /// None is wanted, or its copy is in place already.
    No,
    /// An operator asked for one, and it is not begun.
    Wanted,
    /// It goes on by itself.
    Copying,
    /// Its copy can take the place of the data, or has begun to.
    Ready,
}

impl Under {
    /// Its data is to be replaced, and that is not begun or has only to be put in place.
    pub(super) fn is_wanted(self) -> bool {
        match self {
            Self::Wanted | Self::Ready => true,
            Self::No | Self::Copying => false,
        }
    }
}

pub(super) fn under_way(record: &ClusterRecord, instance: &InstanceId, agent: &AgentStatus) -> Under {
    let wanted = match record.wishes.remedy(instance) {
        Some(Remedy::Rebuild) => Under::Wanted,
        Some(Remedy::Flashback | Remedy::Park) | None => Under::No,
    };
    match agent.job.as_ref().filter(|job| job.is_rebuild()).map(|job| &job.phase) {
        None | Some(Phase::Failed { .. }) => wanted,
        Some(Phase::Copying | Phase::Preparing) => Under::Copying,
        Some(Phase::Ready | Phase::Exchanging) => Under::Ready,
        Some(Phase::Exchanged) => Under::No,
    }
}

/// What is done about one whose server does not run: its copy is put in place, or, where an operator asked and it was tried to start
/// it, made. `None`: it is started as any other.
pub(super) fn of_one_that_is_gone(
    (view, record, intents): (&ClusterView, &ClusterRecord, &Intents),
    instance: &InstanceId,
    agent: &AgentStatus,
    primary: &Report,
) -> Option<Option<Plan>> {
    match under_way(record, instance, agent) {
        Under::Ready => Some(Some(exchange(view, record, instance, agent))),
        Under::Wanted if intents.failures(instance) > 0 => {
            if primary.identity.flavor == Flavor::MySql {
                let why = "its server does not start, and it is MySQL's server that makes the copy; initialise an empty one \
                           in its place (mysqld --initialize), then ask again";
                return Some(Some(park(view, instance, why)));
            }
            let why =
                "an operator asked for it, and its server does not start: nobody can tell what it has alone";
            Some(copy((view, record, intents), instance, agent, (why, true)))
        }
        Under::Wanted | Under::Copying | Under::No => None,
    }
}

/// It cannot follow: rebuilt where policy says so, else left to a person, who is told how.
pub(super) fn instead_of_parking(of: Returned<'_>, why: &str) -> Option<Plan> {
    let Returned { view, record, instance, .. } = of;
    let lossless = view.cluster.policy.durability == Durability::Lossless;
    let doubted = lossless && record.doubt_about(instance).is_some();
    let rebuilds = match (record.wishes.remedy(instance), view.cluster.policy.extra_transactions) {
        (Some(Remedy::Rebuild), _) => true,
        (Some(Remedy::Flashback | Remedy::Park), _) => false,
        (None, Remedy::Rebuild) => !doubted,
        (None, Remedy::Flashback | Remedy::Park) => false,
    };
    if rebuilds {
        return begin(of, why);
    }
    let next = format!(
        "\"mhactl rejoin {instance} --how rebuild\" replaces its data by a copy of a healthy server's; or restore it from a backup, \
         then run \"mhactl unpark {instance}\""
    );
    let job =
        of.agent.job.as_ref().filter(|job| job.is_rebuild() && matches!(job.phase, Phase::Failed { .. }));
    let failed = job.map_or_else(String::new, |job| format!("; it is {job}"));
    Some(park(view, instance, &format!("{why}{failed}; {next}")))
}

/// A copy is begun, unless it cannot be.
pub(super) fn begin(of: Returned<'_>, why: &str) -> Option<Plan> {
    copy((of.view, of.record, of.intents), of.instance, of.agent, (why, false))
}

/// The same where what it has alone cannot be saved: its data is kept for good.
pub(super) fn begin_keeping(of: Returned<'_>, why: &str) -> Option<Plan> {
    copy((of.view, of.record, of.intents), of.instance, of.agent, (why, true))
}

/// Whether its rebuild leaves its data for good.
pub(super) fn keeps(agent: &AgentStatus) -> bool {
    agent.job.as_ref().is_some_and(|job| matches!(job.task, Task::Rebuild { keep: true, .. }))
}

fn copy(
    (view, record, intents): (&ClusterView, &ClusterRecord, &Intents),
    instance: &InstanceId,
    agent: &AgentStatus,
    (why, keep): (&str, bool),
) -> Option<Plan> {
    if let Some(job) = &agent.job {
        match (&job.task, &job.phase) {
            (Task::Rebuild { .. }, Phase::Failed { .. }) => {
                if job.age < PAUSE && intents.rebuilds(instance) > 0 {
                    return None;
                }
            }
            (Task::Rebuild { from, .. }, Phase::Exchanged) => {
                let why = format!(
                    "{why}; that is so of the copy of {from} too, which has just taken its data's place"
                );
                return Some(park(view, instance, &why));
            }
            (Task::Donate { .. }, _) => {
                return Some(park(view, instance, &format!("{why}; its host is {}", job.task)));
            }
            (Task::Rebuild { .. }, Phase::Copying | Phase::Preparing | Phase::Ready | Phase::Exchanging) => {
                return None;
            }
        }
    }
    if agent.disks.iter().any(|disk| disk.data_is_mount_point) {
        let why = format!(
            "{why}; its data directory is itself a mount point, so no copy can take its place: move the data one level down \
             (datadir = …/data), start it there, then ask again"
        );
        return Some(park(view, instance, &why));
    }
    if intents.rebuilds(instance) >= TRIES {
        let last = agent.job.as_ref().map_or_else(String::new, |job| format!(", the last time it was {job}"));
        let why = format!(
            "{why}; {TRIES} copies in a row came to nothing{last}, and no more is begun by itself; mend that, then run \"mhactl rejoin \
             {instance} --how rebuild\""
        );
        return Some(park(view, instance, &why));
    }
    let (from, reason) = match donor(view, record, instance) {
        Ok(found) => found,
        // Who gave it may be back in a moment, or lead now and its predecessor follow.
        Err(_) if agent.job.as_ref().is_some_and(|job| job.age < DONOR_WITHIN) => return None,
        Err(reasons) => {
            return Some(park(view, instance, &format!("{why}; {}", nobody(&reasons))));
        }
    };
    let step = Step::Rebuild { instance: instance.clone(), from: from.clone(), keep };
    let title = format!("the rebuild of {instance} from {from} begins ({reason}): {why}");
    Some(plan(view, PlanKind::Rejoin, title, vec![Stage::new("copy", vec![step])]))
}

/// Somebody can give a copy without being named.
pub(super) fn has_donor(view: &ClusterView, record: &ClusterRecord, instance: &InstanceId) -> bool {
    donor(view, record, instance).is_ok()
}

/// Why an operator's rebuild could not begin, for want of somebody to copy from: told before anything else of it is done.
pub(super) fn no_donor(
    (view, record): (&ClusterView, &ClusterRecord),
    instance: &InstanceId,
    agent: &AgentStatus,
) -> Option<String> {
    if under_way(record, instance, agent) != Under::Wanted {
        return None;
    }
    let reasons = donor(view, record, instance).err()?;
    Some(nobody(&reasons))
}

fn nobody(reasons: &[String]) -> String {
    format!("nobody can give it a copy: {}", reasons.join("; "))
}

/// Whose data is copied, and why that one's; or what speaks against each.
fn donor(
    view: &ClusterView,
    record: &ClusterRecord,
    instance: &InstanceId,
) -> Result<(InstanceId, String), Vec<String>> {
    let ranking = rank(view, |of| view.of(of).and_then(Seen::latest));
    let judged = |candidate: &Candidate| -> Result<(), String> {
        let against = candidate.against.iter().find(|against| !matches!(against, Against::Never));
        match against {
            Some(against) => Err(format!("{} {against}", candidate.instance)),
            None => fit(view, instance, &candidate.instance),
        }
    };
    if let Some(asked) = record.wishes.donor(instance) {
        if *asked == record.primary {
            fit(view, instance, asked).and_then(|()| commits(view, record)).map_err(|why| vec![why])?;
            return Ok((asked.clone(), "asked for, though it leads".to_owned()));
        }
        let known = ranking.candidates.iter().find(|candidate| candidate.instance == *asked);
        let known = known.filter(|candidate| candidate.instance != *instance);
        let candidate = known.ok_or_else(|| vec![format!("{asked} is no replica that answers")])?;
        judged(candidate).map_err(|why| vec![why])?;
        return Ok((asked.clone(), "asked for".to_owned()));
    }
    let (mut fits, mut reasons) = (Vec::new(), Vec::new());
    for candidate in ranking.candidates.iter().filter(|candidate| candidate.instance != *instance) {
        match judged(candidate) {
            Ok(()) => fits.push(candidate),
            Err(why) => reasons.push(why),
        }
    }
    let weight = |candidate: &Candidate| {
        // Who never leads is missed least; who is preferred may be needed soon.
        let promotion = match candidate.promotion {
            Promotion::Never => 0,
            Promotion::Allow => 1,
            Promotion::Prefer => 2,
        };
        (promotion, candidate.to_apply, candidate.behind, view.cluster.order(&candidate.instance))
    };
    let Some(best) = fits.iter().min_by_key(|candidate| weight(candidate)) else {
        reasons.push(format!(
            "{primary} leads, and is copied only where it is named: \"mhactl rejoin {instance} --how rebuild --from {primary}\"",
            primary = record.primary
        ));
        return Err(reasons);
    };
    let reason = match best.promotion {
        Promotion::Never => format!("it never leads, {} to apply", best.to_apply),
        Promotion::Allow | Promotion::Prefer => format!("a healthy replica, {} to apply", best.to_apply),
    };
    Ok((best.instance.clone(), reason))
}

/// A copy of the primary waits for its commits: where these wait for an acknowledgement, it would never end.
fn commits(view: &ClusterView, record: &ClusterRecord) -> Result<(), String> {
    let primary = &record.primary;
    let Some(report) = view.of(primary).and_then(Seen::latest) else { return Ok(()) };
    let semi_sync = &report.semi_sync;
    if semi_sync.waiting == 0 || semi_sync.clients >= record.acks {
        return Ok(());
    }
    Err(format!(
        "commits on {primary} wait for an acknowledgement, and a copy of it would wait for them: bring an acker back first, or set \
         without_ackers = \"degrade\" (or durability = \"async\") for the time of the copy"
    ))
}

/// Whether the copy of that one would do, and its host has time.
fn fit(view: &ClusterView, instance: &InstanceId, from: &InstanceId) -> Result<(), String> {
    let no = |why: &str| Err(format!("{from} {why}"));
    let Some(seen) = view.of(from) else { return no("is no member") };
    let Some(agent) = seen.agent_now() else { return no("has no agent that is heard") };
    let Some(report) = seen.latest() else { return no("does not answer") };
    if agent.access == Access::Closed {
        return no("is fenced");
    }
    if let Some(job) = agent.job.as_ref().filter(|job| !matches!(job.phase, Phase::Failed { .. })) {
        return no(&format!("is busy: {}", job.task));
    }
    let series = |report: &Report| {
        (report.identity.flavor, report.identity.version.major, report.identity.version.minor)
    };
    let own = view.of(instance).and_then(|seen| seen.last_report.as_ref()).map(|(_, report)| report);
    match own.filter(|own| series(own) != series(report)) {
        Some(own) => no(&format!(
            "is {}, and {instance} {}: a copy is used by the same series only",
            report.identity.version, own.identity.version
        )),
        None => Ok(()),
    }
}

/// The copy takes the data's place.
pub(super) fn exchange(
    view: &ClusterView,
    record: &ClusterRecord,
    instance: &InstanceId,
    agent: &AgentStatus,
) -> Plan {
    let from = match agent.job.as_ref().map(|job| &job.task) {
        Some(Task::Rebuild { from, .. }) => Some(from),
        Some(Task::Donate { .. }) | None => None,
    };
    put_in_place(view, record, instance, from)
}

fn put_in_place(
    view: &ClusterView,
    record: &ClusterRecord,
    instance: &InstanceId,
    from: Option<&InstanceId>,
) -> Plan {
    let fence = Step::Fence { instance: instance.clone(), generation: record.generation };
    let exchange = Step::Exchange { instance: instance.clone(), within: EXCHANGE_WITHIN };
    let mut stages = leaves_ackers(view, record, instance);
    stages.extend([Stage::new("fence", vec![fence]), Stage::new("exchange", vec![exchange])]);
    let whose = from.map_or_else(String::new, |from| format!(" of {from}"));
    let title = format!("the copy{whose} takes the place of {instance}'s data");
    plan(view, PlanKind::Rejoin, title, stages)
}

/// What it has acknowledged goes with its data: before that the others have all of it, and it is no acker of the record, or no failover
/// could be until it has come back. Where too few others acknowledge it stays one: nothing is lost, and nobody leads meanwhile.
fn leaves_ackers(view: &ClusterView, record: &ClusterRecord, instance: &InstanceId) -> Vec<Stage> {
    let others = topology::ackers_beside(view, record, instance).len();
    let Some(seen) = view.of(instance).filter(|_| others >= record.acks as usize) else { return Vec::new() };
    let gone = seen.agent_now().is_some_and(|agent| matches!(agent.process, Process::Gone { .. }));
    let receiving = match (gone, seen.latest()) {
        (true, _) => None,
        (false, Some(report)) => report.channel().filter(|channel| channel.receiver != ThreadState::Stopped),
        // Whether it acknowledges is not known.
        (false, None) => return Vec::new(),
    };
    let [level, register] = topology::leaves_ackers(view, record, instance, LEVEL_WITHIN);
    let halt = receiving
        .filter(|_| !register.is_empty())
        .map(|channel| topology::stops(instance, Threads::Receiver, LEVEL_WITHIN, (&channel.source, true)));
    halt.into_iter().chain(level).chain(register).collect()
}

/// What follows a copy when it is ready, for whoever asks beforehand.
pub fn afterwards(view: &ClusterView, begun: &Plan) -> Option<Plan> {
    let record = view.record.as_ref()?;
    begun.steps().find_map(|step| {
        if let Step::Rebuild { instance, from, .. } = step {
            return Some(put_in_place(view, record, instance, Some(from)));
        }
        None
    })
}
