//! A planned change of primary, in two plans. The first takes everything slow before the block and then blocks writers; the
//! second, from the old primary's set as read after the block, promotes. Both are taken back together before the commit point.

use std::time::Duration;

use super::candidate::{Candidate, rank};
use super::events;
use super::failover::{Isolation, next_generation};
use super::feeding::Feeding;
use super::obstacle::Obstacle;
use super::plan::{Evidence, Plan, PlanKind, Proof, Stage, Step, TrafficOrder};
use super::preflight::{best, preflight};
use super::promotion::{Handover, Promotion, direct};
use super::topology;
use crate::model::cluster::Mode;
use crate::model::gtid::GtidSet;
use crate::model::instance::InstanceId;
use crate::model::intent::SwitchoverAsk;
use crate::model::observation::Leaving;
use crate::model::record::ClusterRecord;
use crate::model::sessions::Sessions;
use crate::model::time::Moment;
use crate::model::view::ClusterView;

/// What was seen inside servers for a switchover: by whom it was asked for, or why it could not be.
pub type Surveys = std::collections::BTreeMap<InstanceId, Result<Sessions, String>>;

/// What blocking achieved, read back: the only basis of the promote plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocked {
    pub primary: InstanceId,
    pub target: InstanceId,
    /// Everything the old primary had when nobody could write any more.
    pub set: GtidSet,
    /// Ackers of the target that replicate from it already.
    pub turned: Vec<InstanceId>,
}

impl Blocked {
    /// Out of what was read after each step of the first plan; `None` when something of it is missing.
    pub fn of(plan: &Plan, evidence: &[(Step, Evidence)]) -> Option<Self> {
        let target = target_of(plan)?;
        evidence.iter().rev().find_map(|(step, seen)| {
            let Step::Block { instance, .. } = step else { return None };
            let set = seen.report.as_ref()?.executed.clone();
            let turned = turned(evidence.iter().map(|(step, _)| step));
            Some(Self { primary: instance.clone(), target: target.clone(), set, turned })
        })
    }

    /// What a dry run assumes: nothing more is written than was seen by anybody.
    pub fn supposed(view: &ClusterView, target: &InstanceId) -> Option<Self> {
        let primary = view.primary()?.clone();
        let own = view.of(&primary)?.last_report.as_ref()?.1.executed.clone();
        // Replicas asked later than the primary have more of its history.
        let ranking = rank(view, |instance| view.of(instance).and_then(|seen| seen.latest()));
        let set = ranking
            .candidates
            .iter()
            .filter(|candidate| candidate.is_eligible())
            .fold(own, |all, candidate| all.try_union(&candidate.ours).unwrap_or(all));
        Some(Self { primary, target: target.clone(), set, turned: Vec::new() })
    }

    /// The same, after that first plan.
    #[must_use]
    pub fn after(self, plan: &Plan) -> Self {
        Self { turned: turned(plan.steps()), ..self }
    }
}

fn turned<'a>(steps: impl Iterator<Item = &'a Step>) -> Vec<InstanceId> {
    steps
        .filter_map(|step| {
            let Step::Turn { instance, .. } = step else { return None };
            Some(instance.clone())
        })
        .collect()
}

/// Whom the first plan was made for.
pub fn target_of(plan: &Plan) -> Option<InstanceId> {
    plan.steps().find_map(|step| {
        let Step::KeepUp { instance, .. } = step else { return None };
        Some(instance.clone())
    })
}

/// Whom a switchover would make primary: the one asked for, or the best. Needed before anything is asked of the servers.
pub fn target(view: &ClusterView, ask: &SwitchoverAsk) -> Option<InstanceId> {
    ask.to.clone().or_else(|| {
        let ranking = rank(view, |instance| view.of(instance).and_then(|seen| seen.latest()));
        best(view, &ranking, ask.wait_lag).cloned()
    })
}

/// So long before its end a handoff ends sessions with long transactions: the stop would end them anyway.
const LAST_CHANCE: Duration = Duration::from_secs(10);

/// What the primary's service manager asks for by its agent's word: another leads before it stops the server. `None` when it
/// asks for nothing, its time is over, or nothing is to be done here without an operator.
pub fn handoff_asked(view: &ClusterView, now: Moment) -> Option<SwitchoverAsk> {
    let primary = &view.record.as_ref()?.primary;
    let seen = view.of(primary)?;
    let Some(Leaving::Handoff { remaining }) = seen.agent_now()?.leaving else { return None };
    let remaining = remaining.saturating_sub(now.since(seen.agent.as_ref()?.at));
    if remaining.is_zero() || view.cluster.mode == Mode::Observe {
        return None;
    }
    Some(handoff(remaining, format!("the service manager of {}", primary.host)))
}

/// A change of primary that must be done within `remaining`, for whoever asks.
pub fn handoff(remaining: Duration, by: String) -> SwitchoverAsk {
    let usual = SwitchoverAsk::default();
    SwitchoverAsk {
        wait_lag: usual.wait_lag.min(remaining / 2),
        kill_long_transactions: remaining < LAST_CHANCE,
        remaining: Some(remaining),
        by,
        ..usual
    }
}

/// The first plan, or everything in its way at once.
///
/// # Errors
/// Every obstacle, each with what to do about it.
pub fn block(
    view: &ClusterView,
    ask: &SwitchoverAsk,
    surveys: &Surveys,
    now: Moment,
) -> Result<Plan, Vec<Obstacle>> {
    let target = preflight(view, ask, surveys, now)?;
    let Some(record) = &view.record else {
        return Err(vec![Obstacle::NotAdopted { cluster: view.cluster.name.clone() }]);
    };
    let old = record.primary.clone();
    let keep_up = |instance: &InstanceId, within| Step::KeepUp {
        instance: instance.clone(),
        source: old.clone(),
        closely: ask.write_block / 4,
        within,
    };
    // Once ackers were turned, commits rest on the target: if that stands still they wait, no longer than for a block.
    let soon = ask.write_block.min(ask.wait_lag);
    // Pointing the first ackers at the target takes longest of all: those that the old primary can do without are turned before.
    let promotion = Blocked::supposed(view, &target).ok_or_else(|| vec![Obstacle::NotSeen(old.clone())])?;
    let promotion = promote(view, &promotion)?;
    let spare = record.ackers.len().saturating_sub(record.acks as usize);
    let first: Vec<&InstanceId> = attached_first(&promotion).collect();
    // One that the target itself is below feeds it until the block.
    let (first, fed_by): (Vec<&InstanceId>, Vec<&InstanceId>) =
        first.into_iter().partition(|instance| !topology::is_below(view, &target, instance));
    let (turn, later) = first.split_at(spare.min(first.len()));
    let turn: Vec<Step> = turn
        .iter()
        .map(|instance| Step::Turn {
            instance: (*instance).clone(),
            from: old.clone(),
            to: target.clone(),
            acker: true,
            within: soon,
        })
        .collect();
    let turn_back = turn.iter().map(|step| Step::PointReplica {
        instance: step.instance().clone(),
        source: old.clone(),
        acker: record.ackers.contains(step.instance()),
    });
    let turn = Stage::new("turn", turn.clone()).with_undo(turn_back.collect());
    let close = std::iter::once(&target).chain(later.iter().chain(&fed_by).copied());
    let close: Vec<Step> = close.map(|instance| keep_up(instance, soon)).collect();
    let quiet = Step::Quiet {
        instance: old.clone(),
        drain: ask.drain,
        end_older: ask.kill_long_transactions.then_some(ask.write_block),
    };
    let undo = serve_again(view, record);
    let replicas = std::iter::once(&target).chain(first.iter().chain(&fed_by).copied());
    let otherwise = alone(&undo, record, replicas);
    let (instance, generation, within) = (old.clone(), record.generation, ask.write_block);
    let block = Step::Block { instance, generation, within, otherwise };
    let mut stages = vec![Stage::new("prepare", vec![keep_up(&target, ask.wait_lag), quiet])];
    if !turn.steps.is_empty() {
        stages.push(turn);
    }
    stages.push(Stage::new("close", close));
    stages.extend(events::paused(view, record));
    if view.cluster.traffic.is_some() {
        let order = |order| vec![direct(&old, order, record.generation)];
        stages.push(Stage::new("pause", order(TrafficOrder::Pause)).with_undo(order(TrafficOrder::Resume)));
    }
    stages.push(Stage::new("block", vec![block]).with_undo(undo));
    let by = if ask.by.is_empty() { "an operator" } else { ask.by.as_str() };
    Ok(Plan {
        cluster: view.cluster.name.clone(),
        kind: PlanKind::Switchover,
        title: format!("switchover {old} -> {target}, asked for by {by}"),
        stages,
        commit: None,
        basis: vec![format!(
            "writers wait {} ms at most, or everything is taken back",
            ask.write_block.as_millis()
        )],
    })
}

/// Who is pointed at the new primary before it opens.
fn attached_first(promotion: &Plan) -> impl Iterator<Item = &InstanceId> {
    let before = promotion.commit.unwrap_or(promotion.stages.len());
    promotion.stages.iter().take(before).flat_map(|stage| &stage.steps).filter_map(|step| {
        let Step::PointReplica { instance, .. } = step else { return None };
        Some(instance)
    })
}

/// The old primary leads again, under a generation above the target's: whichever of the two a majority granted last is the one
/// that may open, so that taking back and promoting cannot both win.
fn serve_again(view: &ClusterView, record: &ClusterRecord) -> Vec<Step> {
    let (primary, generation) = (record.primary.clone(), next_generation(view).next());
    let mut steps = vec![
        Step::Claim { candidate: primary.clone(), generation, proof: Proof::Fenced },
        // Its agent arms it as its membership says before it opens it again.
        Step::Open { instance: primary.clone(), generation, acks: 0 },
    ];
    if let Some(vip) = view.cluster.vip.clone() {
        steps.push(Step::HoldVip { instance: primary.clone(), generation, vip });
    }
    steps.push(Step::Register {
        primary,
        generation,
        ackers: record.ackers.clone(),
        acks: record.acks,
        degraded: record.degraded.as_ref().map(|degraded| degraded.why.clone()),
    });
    steps
}

/// The same as far as the old primary's agent can do it without a manager, and the replicas that were taken from it: a commit would
/// wait for them.
fn alone<'a>(
    undo: &[Step],
    record: &ClusterRecord,
    replicas: impl Iterator<Item = &'a InstanceId>,
) -> Vec<Step> {
    let own = undo.iter().filter_map(|step| {
        if let Step::Claim { candidate, generation, .. } = step {
            let (candidate, generation) = (candidate.clone(), *generation);
            return Some(Step::Claim { candidate, generation, proof: Proof::TakenBack });
        }
        matches!(step, Step::Open { .. } | Step::HoldVip { .. }).then(|| step.clone())
    });
    let mut steps: Vec<Step> = own.collect();
    steps.extend(replicas.map(|replica| Step::PointReplica {
        instance: replica.clone(),
        source: record.primary.clone(),
        acker: record.ackers.contains(replica),
    }));
    steps
}

/// The second plan: the target gets all of the blocked set, and leads.
///
/// # Errors
/// When the target can no longer lead by what is known.
pub fn promote(view: &ClusterView, blocked: &Blocked) -> Result<Plan, Vec<Obstacle>> {
    let isolation =
        Isolation { fenced: true, log_readable: false, ..Isolation::supposed(view, &blocked.primary) };
    let ranking = rank(view, |instance| isolation.report_of(view, instance));
    let chosen: Option<&Candidate> =
        ranking.candidates.iter().find(|candidate| candidate.instance == blocked.target);
    let Some(chosen) = chosen.filter(|candidate| candidate.is_eligible()) else {
        let reasons = chosen
            .map_or_else(Vec::new, |candidate| candidate.against.iter().map(ToString::to_string).collect());
        return Err(vec![Obstacle::NotEligible { instance: blocked.target.clone(), reasons }]);
    };
    let feeding = Feeding {
        holder: blocked.target.clone(),
        target: view.without_foreign(&blocked.set),
        salvage_required: false,
        given_up: None,
    };
    let handover = Handover { set: blocked.set.clone(), turned: blocked.turned.clone() };
    let promotion =
        Promotion::new(view, &isolation, &ranking, chosen, feeding, Proof::Fenced, None, Some(handover));
    Ok(promotion.plan())
}
