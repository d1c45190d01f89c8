//! Taking a running cluster into care: every change it makes is shown first, and none is made without the operator's word.

use super::failover::{acks_in_force, next_generation};
use super::plan::{Plan, PlanKind, Proof, Stage, Step, TrafficOrder};
use super::promotion;
use super::restrictions;
use super::topology;
use crate::model::ballot::Generation;
use crate::model::instance::InstanceId;
use crate::model::observation::Access;
use crate::model::policy::Durability;
use crate::model::report::Report;
use crate::model::view::{ClusterView, Seen};
use crate::model::wishes::Wish;

/// The plan that makes `primary` the recorded one, its replicas followers and ackers.
///
/// # Errors
/// Every reason in the way, one sentence each.
pub fn adopt(view: &ClusterView, primary: Option<&InstanceId>) -> Result<Plan, Vec<String>> {
    let primary = match primary.or_else(|| view.primary()) {
        Some(primary) => primary.clone(),
        None => {
            let text = "no single writable server is seen; name the primary with --primary HOST";
            return Err(vec![text.to_owned()]);
        }
    };
    let obstacles = obstacles(view, &primary);
    if !obstacles.is_empty() {
        return Err(obstacles);
    }
    let lossless = view.cluster.policy.durability == Durability::Lossless;
    let replicas: Vec<InstanceId> = members(view).filter(|instance| **instance != primary).cloned().collect();
    let tiers = tiers(view, &primary, &replicas, lossless);
    let source_of =
        |replica: &InstanceId| tiers.iter().find(|(below, _)| below == replica).map(|(_, source)| source);
    let acks =
        if lossless { acks_in_force(view, view.of(&primary).and_then(|seen| seen.latest())) } else { 0 };
    let acknowledges = |replica: &InstanceId| {
        let report = view.of(replica).and_then(Seen::latest);
        report.is_none_or(|report| restrictions::may_acknowledge(view, replica, report))
    };
    let direct =
        replicas.iter().filter(|replica| source_of(replica).is_none() && acknowledges(replica)).cloned();
    let ackers: Vec<InstanceId> = if lossless { direct.collect() } else { Vec::new() };
    let generation = next_generation(view);
    let follow: Vec<Step> = replicas
        .iter()
        .map(|replica| Step::PointReplica {
            instance: replica.clone(),
            source: source_of(replica).unwrap_or(&primary).clone(),
            acker: ackers.contains(replica),
        })
        .collect();
    let place: Vec<Step> = tiers
        .iter()
        .map(|(replica, source)| Step::Wish {
            instance: replica.clone(),
            wish: Wish::Follow { source: Some(source.clone()) },
        })
        .collect();
    let admit: Vec<Step> = replicas
        .iter()
        .filter(|replica| view.of(replica).is_some_and(|seen| seen.agent_now().is_some()))
        .map(|replica| Step::Admit { instance: replica.clone() })
        .collect();
    let (fence, proof) = older_primary(view, &primary);
    let claim = Step::Claim { candidate: primary.clone(), generation, proof };
    // Until it is armed, and an acker is attached, what it acknowledges may be on it alone.
    let not_yet = lossless.then(|| "it was being adopted, and not armed yet".to_owned());
    let register = |degraded| Step::Register {
        primary: primary.clone(),
        generation,
        ackers: ackers.clone(),
        acks,
        degraded,
    };
    let mut stages: Vec<Stage> = fence.into_iter().map(|step| Stage::new("fence", vec![step])).collect();
    stages.extend([
        Stage::new("claim", vec![claim]),
        Stage::new("register", vec![register(not_yet)]),
        Stage::new("open", vec![Step::Open { instance: primary.clone(), generation, acks: 0 }]),
        Stage::new("furnish", vec![Step::Furnish { instance: primary.clone(), semi_sync: lossless }]),
    ]);
    stages.extend(
        [("follow", follow), ("place", place), ("admit", admit)]
            .into_iter()
            .filter(|(_, steps)| !steps.is_empty())
            .map(|(name, steps)| Stage::new(name, steps)),
    );
    if lossless {
        stages.push(Stage::new("arm", vec![Step::ArmSource { instance: primary.clone(), acks }]));
        stages.push(Stage::new("attach", vec![Step::AckersAttached { instance: primary.clone(), acks }]));
        stages.push(Stage::new("lossless", vec![register(None)]));
    }
    if let Some(vip) = view.cluster.vip.clone() {
        stages
            .push(Stage::new("traffic", vec![Step::HoldVip { instance: primary.clone(), generation, vip }]));
    }
    if view.cluster.traffic.is_some() {
        stages.push(Stage::new("direct", vec![promotion::direct(&primary, TrafficOrder::Move, generation)]));
    }
    Ok(Plan {
        cluster: view.cluster.name.clone(),
        kind: PlanKind::Adopt,
        title: format!("adopt {}: {primary} leads, generation {generation}", view.cluster.name),
        stages,
        commit: None,
        basis: restrictions::told_at_adoption(view, &primary),
    })
}

/// Replicas that are below another one, and that one: they stay there. Where too few would be left to acknowledge, all go below the
/// primary.
fn tiers(
    view: &ClusterView,
    primary: &InstanceId,
    replicas: &[InstanceId],
    lossless: bool,
) -> Vec<(InstanceId, InstanceId)> {
    let tiers: Vec<(InstanceId, InstanceId)> = replicas
        .iter()
        .filter_map(|replica| {
            let source = topology::tier(view, primary, replica)?;
            replicas.contains(source).then(|| (replica.clone(), source.clone()))
        })
        .collect();
    let acks = acks_in_force(view, view.of(primary).and_then(|seen| seen.latest())) as usize;
    let left = replicas.len() - tiers.len();
    if lossless && left < acks { Vec::new() } else { tiers }
}

/// What keeps an earlier primary from holding a lease beside this one: it is fenced where its agent answers, waited for otherwise.
fn older_primary(view: &ClusterView, primary: &InstanceId) -> (Option<Step>, Proof) {
    let promised = |seen: &Seen| {
        seen.agent.as_ref().is_some_and(|agent| agent.status.generation > Generation::default())
    };
    let Some(record) = &view.record else {
        let unheard_of = !view.seen.values().any(promised);
        return (None, if unheard_of { Proof::Adoption } else { Proof::Expired });
    };
    if view.cluster.voters.is_empty() {
        return (None, Proof::Operator);
    }
    let answers = view.of(&record.primary).is_some_and(|seen| seen.agent_now().is_some());
    if record.primary == *primary || !answers {
        return (None, Proof::Expired);
    }
    let fence = Step::Fence { instance: record.primary.clone(), generation: record.generation };
    (Some(fence), Proof::Fenced)
}

fn members(view: &ClusterView) -> impl Iterator<Item = &InstanceId> {
    view.cluster.members.iter().map(|member| &member.instance)
}

fn obstacles(view: &ClusterView, primary: &InstanceId) -> Vec<String> {
    let mut found = Vec::new();
    if let Some(stranger) = view.cluster.stranger(primary) {
        return vec![format!("{stranger}; name one of them with --primary")];
    }
    if let Some(record) = &view.record
        && record.primary != *primary
        && view.of(&record.primary).and_then(|seen| seen.latest()).is_some_and(Report::is_writable)
    {
        found.push(format!(
            "{} is the recorded primary and still takes writes; make it read-only first",
            record.primary
        ));
    }
    let Some(leader) = view.of(primary).and_then(|seen| seen.latest()) else {
        found.push(format!("{primary} does not answer; it cannot be adopted as primary"));
        return found;
    };
    for (instance, seen) in view.seen.iter().filter(|(instance, _)| *instance != primary) {
        let Some(report) = seen.latest() else {
            let how = seen.unseen().map_or_else(|| "not asked yet".to_owned(), ToString::to_string);
            found.push(format!(
                "{instance} does not answer ({how}); start it, or take it out of the configuration"
            ));
            continue;
        };
        let fenced = seen.agent_now().is_some_and(|agent| agent.access == Access::Closed);
        if report.is_writable() && !fenced {
            found.push(format!("{instance} takes writes too; make all but one server read-only first"));
        }
        let ours = if report.replication.len() > 1 {
            report.executed.of_origins(&leader.executed)
        } else {
            report.executed.clone()
        };
        let extra = ours.minus(&leader.executed);
        if !extra.is_empty() {
            found.push(format!(
                "{instance} has transactions {primary} lacks: {extra}; rebuild it, or choose it as primary"
            ));
        }
        if report.identity.server_id == leader.identity.server_id {
            found.push(format!(
                "{instance} and {primary} both have server_id {}; give each its own",
                leader.identity.server_id
            ));
        }
    }
    for member in view.cluster.members.iter().filter(|member| member.agent.is_some()) {
        if view.of(&member.instance).is_some_and(|seen| seen.agent_now().is_none()) {
            found.push(format!("the agent on {} is not heard; start mha-agent there", member.instance.host));
        }
    }
    if !leader.settings.log_bin {
        found.push(format!("{primary} has no binary log; set log_bin and restart it"));
    }
    if !leader.settings.gtid {
        found.push(format!(
            "{primary} has GTIDs off; set gtid_mode=ON (recovery without GTID is not supported yet)"
        ));
    }
    found
}
