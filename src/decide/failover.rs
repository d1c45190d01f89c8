//! One recovery of two plans. *Isolate*: the old primary can acknowledge nothing more. *Promote*, from the view after it: the
//! best of what remains leads. A dry run shows the second as "if nothing more arrives".

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::candidate::{Candidate, Ranking, rank};
use super::diagnose::Diagnosis;
use super::feeding::{Feeding, feeding};
use super::guard::{self, Blocker};
use super::hanging;
use super::plan::{Evidence, Plan, PlanKind, Stage, Step};
use super::promotion::Promotion;
use super::proof::{completeness, majority, proof, second_writer};
use crate::model::ballot::Generation;
use crate::model::instance::{Flavor, InstanceId};
use crate::model::intent::FailoverAsk;
use crate::model::observation::{Access, AgentStatus, Process};
use crate::model::policy::Durability;
use crate::model::report::Report;
use crate::model::verdict::Verdict;
use crate::model::view::ClusterView;

/// What the isolate plan achieved, read back: the only basis of the promote plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Isolation {
    pub primary: InstanceId,
    /// The old primary's agent answered "closed" after a read-back.
    pub fenced: bool,
    /// Reports of the replicas, read after their receivers stopped.
    pub stopped: BTreeMap<InstanceId, Report>,
    /// An agent beside the dead server can read its log.
    pub log_readable: bool,
}

impl Isolation {
    /// What a dry run assumes: every replica of the primary that answers now would stop, and nothing more arrives.
    pub fn supposed(view: &ClusterView, primary: &InstanceId) -> Self {
        let stopped = view
            .replicas()
            .filter_map(|(instance, seen)| Some((instance.clone(), seen.latest()?.clone())))
            .filter(|(_, report)| report.channel().is_some_and(|channel| channel.source == *primary))
            .collect();
        let agent = agent_is_heard(view, primary);
        Self { primary: primary.clone(), fenced: agent, stopped, log_readable: agent }
    }

    /// Out of what was read after each step of the isolate plan.
    pub(super) fn of(primary: &InstanceId, evidence: &[(Step, Evidence)]) -> Self {
        let mut found =
            Self { primary: primary.clone(), fenced: false, stopped: BTreeMap::new(), log_readable: false };
        for (step, seen) in evidence {
            if let (Step::StopReceiving { instance, .. }, Some(report)) = (step, &seen.report) {
                found.stopped.insert(instance.clone(), report.clone());
            }
            if *step.instance() != *primary {
                continue;
            }
            let Some(agent) = &seen.agent else { continue };
            let gone = matches!(agent.process, Process::Gone { .. });
            // Only the answer to the fence of this recovery, for its generation: an older fence may have been lifted since.
            if let Step::Fence { generation, .. } = step {
                let for_this = agent.fenced.is_some_and(|fenced| fenced >= *generation);
                found.fenced |= for_this && agent.access == Access::Closed;
                found.log_readable |= gone;
            }
            if let Step::Kill { .. } = step {
                found.log_readable |= gone;
            }
        }
        found
    }

    /// What it said after its receiver stopped; its newest word where it never listened to the old primary (a replica's replica, a
    /// server that returned). One that listens and was not stopped counts as unknown: more may come to it.
    pub(super) fn report_of<'a>(
        &'a self,
        view: &'a ClusterView,
        instance: &InstanceId,
    ) -> Option<&'a Report> {
        self.stopped.get(instance).or_else(|| {
            let report = view.of(instance)?.latest()?;
            let listens = report.channel().is_some_and(|channel| channel.source == self.primary);
            (!listens).then_some(report)
        })
    }
}

/// The same without what is compared with nobody, as the view has it.
fn without_foreign<'a>(view: &ClusterView, isolation: &'a Isolation) -> Cow<'a, Isolation> {
    let mut cleaned = Cow::Borrowed(isolation);
    for (instance, report) in &isolation.stopped {
        let foreign = view.foreign_domains(report);
        if !foreign.is_empty()
            && let Some(report) = cleaned.to_mut().stopped.get_mut(instance)
        {
            report.leave_out(&foreign);
        }
    }
    cleaned
}

/// Its agent speaks: its word is not older than `silence`, measured by the newest word of anybody. A host that stands still keeps
/// its connections open, and nobody waits for it to fence itself.
pub(crate) fn agent_is_heard(view: &ClusterView, instance: &InstanceId) -> bool {
    let words = view.seen.values().flat_map(|seen| {
        [seen.manager.as_ref().map(|look| look.at), seen.agent.as_ref().map(|said| said.at)]
    });
    let newest = words.flatten().max().unwrap_or(view.since);
    view.of(instance)
        .filter(|seen| seen.agent_lost_at.is_none())
        .and_then(|seen| seen.agent.as_ref())
        .is_some_and(|said| newest.since(said.at) <= view.cluster.policy.silence)
}

/// The generation after every one anybody has accepted.
pub(crate) fn next_generation(view: &ClusterView) -> Generation {
    let recorded = view.record.as_ref().map_or(Generation::default(), |record| record.generation);
    let accepted = view.seen.values().filter_map(|seen| Some(seen.agent.as_ref()?.status.generation)).max();
    let beside = view.grants.values().map(|granted| granted.generation).max();
    recorded.max(accepted.unwrap_or_default()).max(beside.unwrap_or_default()).next()
}

/// The plan after which the old primary can acknowledge nothing: it is fenced where its agent answers, and every replica that
/// answers has stopped receiving from it.
pub fn isolate(view: &ClusterView, diagnosis: &Diagnosis, primary: &InstanceId) -> Plan {
    let generation = view.record.as_ref().map_or(Generation::default(), |record| record.generation);
    let acking = view.cluster.policy.durability == Durability::Lossless;
    let agent = agent_is_heard(view, primary);
    let replicas: Vec<InstanceId> = view
        .replicas()
        .filter(|(_, seen)| {
            seen.latest().and_then(Report::channel).is_some_and(|channel| channel.source == *primary)
        })
        // One that waits for room on its disk does not stop before it has it, and has nothing the closed primary's log lacks.
        .filter(|(_, seen)| !agent || seen.agent_now().and_then(AgentStatus::stuck_disk).is_none())
        // Nor is one waited for whose replication somebody has tried to stop in vain.
        .filter(|(_, seen)| !agent || hanging::stop_hangs(seen).is_none())
        .map(|(instance, _)| instance.clone())
        .collect();
    let mut stages = Vec::new();
    let fence = Step::Fence { instance: primary.clone(), generation };
    // A server that may still run has sockets, known to be dead or not.
    let hung =
        diagnosis.verdict == Verdict::HungPrimary || (agent && diagnosis.verdict != Verdict::DeadPrimary);
    if hung {
        // The server still has sockets: no replica is touched before no client byte passes, or its waiters would be let go.
        stages.push(Stage::new("fence", vec![fence.clone()]));
        stages.push(Stage::new("kill", vec![Step::Kill { instance: primary.clone() }]).or_continue());
    }
    let mut steps: Vec<Step> = Vec::new();
    if agent && !hung {
        steps.push(fence);
    }
    steps.extend(
        replicas
            .iter()
            .map(|instance| Step::StopReceiving { instance: instance.clone(), source: primary.clone() }),
    );
    let stopped = |instance: &InstanceId| {
        view.record.as_ref().is_some_and(|record| record.wishes.stopped(instance).is_some())
    };
    // One that did not acknowledge before, such as for a filter, does not begin to now.
    let registered =
        |instance: &InstanceId| view.record.as_ref().is_some_and(|record| record.ackers.contains(instance));
    let undo = replicas
        .iter()
        .filter(|instance| !stopped(instance))
        .map(|instance| Step::PointReplica {
            instance: instance.clone(),
            source: primary.clone(),
            acker: acking && registered(instance),
        })
        .collect();
    if !steps.is_empty() {
        stages.push(Stage::new("isolate", steps).with_undo(undo).or_continue());
    }
    Plan {
        cluster: view.cluster.name.clone(),
        kind: PlanKind::Isolate,
        title: format!("{primary} is to acknowledge nothing more ({})", diagnosis.verdict),
        stages,
        commit: None,
        basis: diagnosis.evidence.clone(),
    }
}

/// The plan that gives the cluster its next primary, or every reason why not.
///
/// # Errors
/// The blockers: nobody eligible, incomparable histories, an incomplete set under `lossless`, no proof that the old primary is
/// fenced, no majority of voters, a second writer.
pub fn promote(
    view: &ClusterView,
    isolation: &Isolation,
    ask: Option<&FailoverAsk>,
) -> Result<Plan, Vec<Blocker>> {
    let isolation = &*without_foreign(view, isolation);
    let ranking = rank(view, |instance| isolation.report_of(view, instance));
    let (chosen, feeding) = choose(view, isolation, &ranking, ask).map_err(|mut blockers| {
        blockers.extend(second_writer(view, None));
        blockers
    })?;
    let proof = proof(view, isolation, ask);
    let completeness = completeness(view, isolation, &feeding.target, ask);
    let others = [majority(view), second_writer(view, Some(&chosen.instance))].into_iter().flatten();
    match (proof, completeness) {
        (Ok(proof), Ok(required)) => {
            let others: Vec<Blocker> = others.collect();
            if !others.is_empty() {
                return Err(others);
            }
            let required = required || feeding.salvage_required;
            let feeding = Feeding { salvage_required: required, ..feeding };
            Ok(Promotion::new(view, isolation, &ranking, chosen, feeding, proof, ask, None).plan())
        }
        (proof, completeness) => {
            let why = [proof.err(), completeness.err()].into_iter().flatten();
            Err(why.chain(others).collect())
        }
    }
}

/// The candidate to promote and how it gets what it lacks: the one asked for, or the best that can get it.
fn choose<'r>(
    view: &ClusterView,
    isolation: &Isolation,
    ranking: &'r Ranking,
    ask: Option<&FailoverAsk>,
) -> Result<(&'r Candidate, Feeding), Vec<Blocker>> {
    let accept_loss = ask.is_some_and(|ask| ask.accept_loss);
    let wanted = ask.and_then(|ask| ask.to.as_ref());
    if let Some(clash) = &ranking.incomparable
        && (!accept_loss || wanted.is_none())
    {
        return Err(vec![Blocker::Incomparable(Box::new(clash.clone()))]);
    }
    let eligible: Vec<&Candidate> = match wanted {
        Some(wanted) => vec![asked_for(view, ranking, wanted)?],
        None => ranking.candidates.iter().filter(|candidate| candidate.is_eligible()).collect(),
    };
    let (mut second_best, mut refusal) = (None, None);
    for candidate in eligible {
        match feeding(view, isolation, ranking, candidate, accept_loss) {
            Ok(feeding) if feeding.is_whole() => return Ok((candidate, feeding)),
            Ok(feeding) => second_best = second_best.or(Some((candidate, feeding))),
            Err(blocker) => refusal = refusal.or(Some(blocker)),
        }
    }
    second_best.ok_or_else(|| refusal.or_else(|| guard::nobody(ranking)).into_iter().collect())
}

fn asked_for<'r>(
    view: &ClusterView,
    ranking: &'r Ranking,
    wanted: &InstanceId,
) -> Result<&'r Candidate, Vec<Blocker>> {
    let not_eligible =
        |reasons: Vec<String>| vec![Blocker::NotEligible { instance: wanted.clone(), reasons }];
    let why = || format!("it is no replica of {}", view.cluster.name);
    let candidate = ranking
        .candidates
        .iter()
        .find(|candidate| candidate.instance == *wanted)
        .ok_or_else(|| not_eligible(vec![why()]))?;
    if !candidate.is_eligible() {
        return Err(not_eligible(candidate.against.iter().map(ToString::to_string).collect()));
    }
    Ok(candidate)
}

/// a in force: MariaDB has no such setting and waits for one (N5).
pub(crate) fn acks_in_force(view: &ClusterView, report: Option<&Report>) -> u32 {
    match report.map(|report| report.identity.flavor) {
        Some(Flavor::MariaDb) => view.cluster.policy.acks.min(1),
        Some(Flavor::MySql) | None => view.cluster.policy.acks,
    }
}

/// The longest a failover may take on the wire, for whoever waits for it: statements and claims, not applying.
pub fn patience(view: &ClusterView) -> Duration {
    view.cluster.policy.statement * 4 + view.cluster.policy.lease
}
