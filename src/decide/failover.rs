//! One recovery of two plans. *Isolate*: the old primary can acknowledge nothing more. *Promote*, from the view after it: the
//! best of what remains leads. A dry run shows the second as "if nothing more arrives".

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::candidate::{Candidate, Ranking, rank};
use super::diagnose::{Diagnosis, Verdict};
use super::guard::{self, Blocker};
use super::plan::{Plan, PlanKind, Proof, Stage, Step};
use crate::model::ballot::Generation;
use crate::model::gtid::GtidSet;
use crate::model::instance::{Flavor, InstanceId};
use crate::model::intent::FailoverAsk;
use crate::model::policy::{Durability, WithoutAckers};
use crate::model::report::Report;
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
    /// What a dry run assumes: everybody who answers now would stop, and nothing more arrives.
    pub fn supposed(view: &ClusterView, primary: &InstanceId) -> Self {
        let stopped = view
            .replicas()
            .filter_map(|(instance, seen)| Some((instance.clone(), seen.latest()?.clone())))
            .collect();
        let agent = view.of(primary).is_some_and(|seen| seen.agent_now().is_some());
        Self { primary: primary.clone(), fenced: agent, stopped, log_readable: agent }
    }
}

/// The generation after every one anybody has accepted.
pub(crate) fn next_generation(view: &ClusterView) -> Generation {
    let recorded = view.record.as_ref().map_or(Generation::default(), |record| record.generation);
    let accepted = view.seen.values().filter_map(|seen| Some(seen.agent.as_ref()?.status.generation)).max();
    recorded.max(accepted.unwrap_or_default()).next()
}

/// The plan after which the old primary can acknowledge nothing: it is fenced where its agent answers, and every replica that
/// answers has stopped receiving from it.
pub fn isolate(view: &ClusterView, diagnosis: &Diagnosis, primary: &InstanceId) -> Plan {
    let generation = view.record.as_ref().map_or(Generation::default(), |record| record.generation);
    let acking = view.cluster.policy.durability == Durability::Lossless;
    let agent = view.of(primary).is_some_and(|seen| seen.agent_now().is_some());
    let replicas: Vec<InstanceId> = view
        .replicas()
        .filter(|(_, seen)| {
            seen.latest().and_then(Report::channel).is_some_and(|channel| channel.source == *primary)
        })
        .map(|(instance, _)| instance.clone())
        .collect();
    let mut stages = Vec::new();
    let fence = Step::Fence { instance: primary.clone(), generation };
    let hung = diagnosis.verdict == Verdict::HungPrimary;
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
    let undo = replicas
        .iter()
        .map(|instance| Step::PointReplica {
            instance: instance.clone(),
            source: primary.clone(),
            acker: acking,
        })
        .collect();
    stages.push(Stage::new("isolate", steps).with_undo(undo).or_continue());
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
/// The blockers: nobody eligible, incomparable histories, an incomplete set under `lossless`, no proof that the old primary is fenced.
pub fn promote(
    view: &ClusterView,
    isolation: &Isolation,
    ask: Option<&FailoverAsk>,
) -> Result<Plan, Vec<Blocker>> {
    let ranking = rank(view, |instance| isolation.stopped.get(instance));
    let chosen = choose(&ranking, ask)?;
    let completeness = completeness(view, isolation, ask);
    let (proof, salvage_required) = match (proof(view, isolation, ask), completeness) {
        (Ok(proof), Ok(required)) => (proof, required),
        (proof, completeness) => {
            return Err([proof.err(), completeness.err()].into_iter().flatten().collect());
        }
    };
    let promotion = Promotion::new(view, isolation, &ranking, chosen, proof, salvage_required);
    Ok(promotion.plan())
}

/// The candidate to promote: the one asked for, or the best.
fn choose<'r>(ranking: &'r Ranking, ask: Option<&FailoverAsk>) -> Result<&'r Candidate, Vec<Blocker>> {
    let accept_loss = ask.is_some_and(|ask| ask.accept_loss);
    if let (Some(clash), false) = (&ranking.incomparable, accept_loss) {
        return Err(vec![Blocker::Incomparable(Box::new(clash.clone()))]);
    }
    let Some(wanted) = ask.and_then(|ask| ask.to.as_ref()) else {
        return ranking.best().ok_or_else(|| guard::nobody(ranking).into_iter().collect());
    };
    let not_eligible =
        |reasons: Vec<String>| vec![Blocker::NotEligible { instance: wanted.clone(), reasons }];
    let candidate = ranking
        .candidates
        .iter()
        .find(|candidate| candidate.instance == *wanted)
        .ok_or_else(|| not_eligible(vec!["it is no replica of this cluster".to_owned()]))?;
    if !candidate.is_eligible() {
        return Err(not_eligible(candidate.against.iter().map(ToString::to_string).collect()));
    }
    Ok(candidate)
}

/// Which promotion rule of section 4 is proven. Voters still have their say when it is claimed.
fn proof(view: &ClusterView, isolation: &Isolation, ask: Option<&FailoverAsk>) -> Result<Proof, Blocker> {
    if isolation.fenced {
        return Ok(Proof::Fenced);
    }
    let heard = |instance: &&InstanceId| isolation.stopped.contains_key(*instance);
    if let Some(record) = armed(view) {
        let needed = needed_ackers(record.ackers.len(), record.acks);
        if record.ackers.iter().filter(heard).count() >= needed && !view.cluster.policy.fenced_reads {
            return Ok(Proof::AckFence);
        }
    }
    if !view.cluster.voters.is_empty() {
        return Ok(Proof::Expired);
    }
    if ask.is_some_and(|ask| ask.old_primary_is_dead) {
        return Ok(Proof::Operator);
    }
    let why = format!(
        "{} is not fenced by an agent and too few ackers were stopped; give it an agent, or cut its power and run \"mhactl failover --old-primary-is-dead\"",
        isolation.primary
    );
    Err(Blocker::NotFenced { why })
}

/// The record, while `lossless` is really in force.
fn armed(view: &ClusterView) -> Option<&crate::model::record::ClusterRecord> {
    view.record.as_ref().filter(|record| {
        view.cluster.policy.durability == Durability::Lossless && record.acks > 0 && record.degraded.is_none()
    })
}

/// R − a + 1: so many of R registered ackers, and no acknowledgement can have gone to others only.
pub(crate) fn needed_ackers(registered: usize, acks: u32) -> usize {
    (registered + 1).saturating_sub(acks as usize)
}

/// Whether everything acknowledged is known to be among what was heard. `Ok(true)`: only if the dead server's log is read to its end.
fn completeness(
    view: &ClusterView,
    isolation: &Isolation,
    ask: Option<&FailoverAsk>,
) -> Result<bool, Blocker> {
    let Some(record) = armed(view) else { return Ok(false) };
    let standing = |instance: &InstanceId| {
        isolation.stopped.contains_key(instance)
            && view.of(instance).is_some_and(crate::model::view::Seen::is_in_good_standing)
    };
    let (heard, missing): (Vec<InstanceId>, Vec<InstanceId>) =
        record.ackers.iter().cloned().partition(standing);
    let needed = needed_ackers(record.ackers.len(), record.acks);
    if heard.len() >= needed || ask.is_some_and(|ask| ask.accept_loss) {
        return Ok(false);
    }
    if isolation.log_readable {
        return Ok(true);
    }
    Err(Blocker::Incomplete { heard, missing, needed })
}

/// Everything the promote plan is made of.
struct Promotion<'a> {
    view: &'a ClusterView,
    isolation: &'a Isolation,
    candidate: &'a Candidate,
    /// The set that must survive, and who holds it.
    target: GtidSet,
    holder: InstanceId,
    generation: Generation,
    proof: Proof,
    salvage_required: bool,
    /// Acknowledgements the new primary waits for; 0 when asynchronous or degraded.
    acks: u32,
    /// Registered ackers of the new generation.
    ackers: Vec<InstanceId>,
    /// Those attached before it opens.
    first: Vec<InstanceId>,
    degraded: Option<String>,
}

impl<'a> Promotion<'a> {
    fn new(
        view: &'a ClusterView,
        isolation: &'a Isolation,
        ranking: &Ranking,
        candidate: &'a Candidate,
        proof: Proof,
        salvage_required: bool,
    ) -> Self {
        let (holder, target) = ranking
            .most_advanced
            .clone()
            .unwrap_or_else(|| (candidate.instance.clone(), candidate.known.clone()));
        let holder = if candidate.behind == 0 { candidate.instance.clone() } else { holder };
        let policy = &view.cluster.policy;
        let mut followers: Vec<&Candidate> = ranking
            .candidates
            .iter()
            .filter(|other| {
                other.instance != candidate.instance && isolation.stopped.contains_key(&other.instance)
            })
            .filter(|other| target.contains(&other.known))
            .collect();
        followers.sort_by_key(|other| (other.to_apply, view.cluster.order(&other.instance)));
        let ackers: Vec<InstanceId> = match policy.durability {
            Durability::Lossless => followers.iter().map(|other| other.instance.clone()).collect(),
            Durability::Async => Vec::new(),
        };
        let wanted = acks_in_force(view, isolation.stopped.get(&candidate.instance));
        let short = policy.durability == Durability::Lossless && ackers.len() < wanted as usize;
        let (acks, degraded) = match (policy.durability, policy.without_ackers) {
            (Durability::Async, WithoutAckers::Block | WithoutAckers::Degrade) => (0, None),
            (Durability::Lossless, WithoutAckers::Degrade) if short => {
                let why = format!(
                    "{} acker(s) left of the {wanted} needed at the promotion of {}",
                    ackers.len(),
                    candidate.instance
                );
                (0, Some(why))
            }
            (Durability::Lossless, WithoutAckers::Block | WithoutAckers::Degrade) => (wanted, None),
        };
        let first = ackers.iter().take(acks as usize).cloned().collect();
        let generation = next_generation(view);
        Self {
            view,
            isolation,
            candidate,
            target,
            holder,
            generation,
            proof,
            salvage_required,
            acks,
            ackers,
            first,
            degraded,
        }
    }

    fn plan(&self) -> Plan {
        let mut stages = vec![self.catch_up()];
        stages.extend(self.catch_up_from_holder());
        stages.push(self.prepare());
        stages.push(self.arm());
        if !self.first.is_empty() {
            let attached = Step::AckersAttached { instance: self.leader(), acks: self.first.len() as u32 };
            stages.push(Stage::new("attach", vec![attached]));
        }
        let commit = stages.len();
        stages.push(self.open());
        stages.extend(self.traffic());
        stages.extend(self.rest());
        let old = &self.isolation.primary;
        Plan {
            cluster: self.view.cluster.name.clone(),
            kind: PlanKind::Promote,
            title: format!("failover {old} -> {}, generation {}", self.leader(), self.generation),
            stages,
            commit: Some(commit),
            basis: self.basis(),
        }
    }

    fn leader(&self) -> InstanceId {
        self.candidate.instance.clone()
    }

    /// Applying, voting and reading the dead server's log wait for nothing of each other.
    fn catch_up(&self) -> Stage {
        let policy = &self.view.cluster.policy;
        let within = policy.catch_up;
        let mut steps = vec![
            Step::WaitApplied { instance: self.holder.clone(), set: self.target.clone(), within },
            Step::Claim { candidate: self.leader(), generation: self.generation, proof: self.proof },
        ];
        if self.isolation.log_readable {
            let within = match (self.salvage_required, policy.durability) {
                (true, _) | (false, Durability::Async) => policy.salvage_async,
                (false, Durability::Lossless) => policy.salvage_lossless,
            };
            steps.push(Step::Salvage {
                from: self.isolation.primary.clone(),
                to: self.holder.clone(),
                beyond: self.target.clone(),
                within,
                required: self.salvage_required,
            });
        }
        Stage::new("catch up", steps)
    }

    /// A preferred replica that is behind gets what it lacks from the most advanced one before it leads.
    fn catch_up_from_holder(&self) -> Option<Stage> {
        if self.holder == self.leader() {
            return None;
        }
        let step = Step::CatchUpFrom {
            instance: self.leader(),
            source: self.holder.clone(),
            set: self.target.clone(),
            within: self.view.cluster.policy.catch_up,
        };
        Some(Stage::new("level", vec![step]).with_undo(vec![self.back_to_old(&self.leader())]))
    }

    fn prepare(&self) -> Stage {
        Stage::new("prepare", vec![Step::StopReplicating { instance: self.leader() }])
            .with_undo(vec![self.back_to_old(&self.leader())])
    }

    /// Armed before open, with the first ackers attached: a row acknowledged in its first millisecond must survive it.
    fn arm(&self) -> Stage {
        let mut steps = vec![Step::ArmSource { instance: self.leader(), acks: self.acks }];
        steps.extend(self.first.iter().map(|acker| self.follow(acker)));
        let mut undo: Vec<Step> = self.first.iter().map(|acker| self.back_to_old(acker)).collect();
        undo.insert(0, Step::ArmSource { instance: self.leader(), acks: 0 });
        Stage::new("arm", steps).with_undo(undo)
    }

    fn open(&self) -> Stage {
        let register = Step::Register {
            primary: self.leader(),
            generation: self.generation,
            ackers: self.ackers.clone(),
            acks: self.acks,
            degraded: self.degraded.clone(),
        };
        Stage::new(
            "promote",
            vec![Step::Open { instance: self.leader(), generation: self.generation }, register],
        )
    }

    /// Traffic before redundancy: writers wait for this stage only.
    fn traffic(&self) -> Option<Stage> {
        let vip = self.view.cluster.vip.clone()?;
        let step = Step::HoldVip { instance: self.leader(), generation: self.generation, vip };
        Some(Stage::new("traffic", vec![step]))
    }

    fn rest(&self) -> Vec<Stage> {
        let others: Vec<Step> = self
            .isolation
            .stopped
            .keys()
            .filter(|instance| **instance != self.leader() && !self.first.contains(instance))
            .map(|instance| self.follow(instance))
            .collect();
        let mut stages = Vec::new();
        if !others.is_empty() {
            stages.push(Stage::new("repoint", others).or_continue());
        }
        stages.push(Stage::new("tidy", vec![Step::ForgetSource { instance: self.leader() }]).or_continue());
        stages
    }

    fn follow(&self, instance: &InstanceId) -> Step {
        Step::PointReplica {
            instance: instance.clone(),
            source: self.leader(),
            acker: self.ackers.contains(instance),
        }
    }

    fn back_to_old(&self, instance: &InstanceId) -> Step {
        let acker = self.view.record.as_ref().is_some_and(|record| record.ackers.contains(instance));
        Step::PointReplica { instance: instance.clone(), source: self.isolation.primary.clone(), acker }
    }

    fn basis(&self) -> Vec<String> {
        let mut lines = vec![format!("{}: {}", self.isolation.primary, self.proof)];
        lines.push(format!("{} has the most: {}", self.holder, self.target));
        if self.salvage_required {
            lines.push(format!(
                "too few ackers answer: only with {}'s log read to its end",
                self.isolation.primary
            ));
        }
        lines.extend(
            self.degraded.iter().map(|why| format!("lossless is given up until an acker is back: {why}")),
        );
        lines
    }
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
