//! What must hold of every plan, whoever made it. Run before executing, and in every test.

use super::plan::{OnFailure, Plan, PlanKind, Proof, Stage, Step};
use crate::model::ballot::Generation;
use crate::model::instance::InstanceId;

/// Every rule the plan breaks; empty for a sound one.
pub fn lint(plan: &Plan) -> Vec<String> {
    let mut broken = Vec::new();
    order(plan, &mut broken);
    commit(plan, &mut broken);
    threads(plan, &mut broken);
    blocks(plan, &mut broken);
    hands_over(plan, &mut broken);
    salvages(plan, &mut broken);
    rewinds(plan, &mut broken);
    for stage in &plan.stages {
        if stage.steps.is_empty() {
            broken.push(format!("stage {:?} has no steps", stage.name));
        }
        for step in &stage.steps {
            if let Step::PointReplica { instance, source, .. } | Step::CatchUpFrom { instance, source, .. } =
                step
                && instance == source
            {
                broken.push(format!("{instance} would replicate from itself"));
            }
        }
    }
    broken
}

/// Index of the first stage that holds such a step.
fn stage_of(plan: &Plan, wanted: impl Fn(&Step) -> bool) -> Option<usize> {
    plan.stages.iter().position(|stage| stage.steps.iter().any(&wanted))
}

/// The step makes `who` apply what it received.
fn applies(step: &Step, who: &InstanceId) -> bool {
    matches!(step, Step::WaitApplied { instance, .. } | Step::CatchUpFrom { instance, .. } if instance == who)
}

/// Who is opened, and in which stage.
fn opened(plan: &Plan) -> Vec<(usize, &InstanceId)> {
    let mut found = Vec::new();
    for (at, stage) in plan.stages.iter().enumerate() {
        for step in &stage.steps {
            if let Step::Open { instance, .. } = step {
                found.push((at, instance));
            }
        }
    }
    found
}

/// Armed, claimed and caught up before open; one opens; traffic and forgetting after it.
fn order(plan: &Plan, broken: &mut Vec<String>) {
    let opened = opened(plan);
    let Some(&(at, leader)) = opened.first() else {
        if let Some(stage) = stage_of(plan, |step| matches!(step, Step::HoldVip { .. })) {
            broken.push(format!("stage {stage} moves the VIP, and nobody is opened"));
        }
        return;
    };
    if opened.len() > 1 {
        broken.push("two servers would be opened".to_owned());
    }
    let before = |wanted: &dyn Fn(&Step) -> bool| stage_of(plan, wanted).is_some_and(|stage| stage < at);
    if plan.kind == PlanKind::Promote {
        let needs: [(&str, bool); 4] = [
            ("claimed", before(&|step| matches!(step, Step::Claim { candidate, .. } if candidate == leader))),
            ("caught up", before(&|step| applies(step, leader))),
            (
                "done replicating",
                before(&|step| matches!(step, Step::StopReplicating { instance } if instance == leader)),
            ),
            ("armed", before(&|step| matches!(step, Step::ArmSource { instance, .. } if instance == leader))),
        ];
        broken.extend(
            needs
                .iter()
                .filter(|(_, met)| !met)
                .map(|(what, _)| format!("{leader} would be opened before it is {what}")),
        );
        if stage_of(plan, |step| matches!(step, Step::Fence { instance, .. } | Step::Kill { instance } if instance == leader)).is_some() {
            broken.push(format!("{leader} would be fenced by the plan that opens it"));
        }
    }
    for (index, stage) in plan.stages.iter().enumerate() {
        for step in &stage.steps {
            if let Step::HoldVip { instance, .. } = step
                && (instance != leader || index <= at)
            {
                broken.push(format!("the VIP would move to {instance} before it is open"));
            }
            // A source that lacks what its replica has refuses it for good (1236), and nobody acknowledges.
            if let Step::PointReplica { instance, source, .. } = step
                && plan.kind == PlanKind::Promote
                && source == leader
                && !plan.stages[..index]
                    .iter()
                    .any(|earlier| earlier.steps.iter().any(|step| applies(step, leader)))
            {
                broken.push(format!(
                    "{instance} would follow {leader} before that has applied what it received"
                ));
            }
            if let Step::ForgetSource { instance, .. } = step
                && instance == leader
                && index <= at
            {
                broken.push(format!("{instance} would forget its source before it is open"));
            }
        }
    }
}

/// The commit point is the stage that opens; before it everything that changes something can be taken back, after it nothing is.
fn commit(plan: &Plan, broken: &mut Vec<String>) {
    let opens = opened(plan).first().map(|(at, _)| *at);
    if plan.kind == PlanKind::Promote && plan.commit != opens {
        broken.push("the commit point is not the stage that opens the new primary".to_owned());
    }
    let Some(commit) = plan.commit else { return };
    for (index, stage) in plan.stages.iter().enumerate() {
        if index >= commit && !stage.undo.is_empty() {
            broken.push(format!("stage {:?} comes after the commit point and has an undo", stage.name));
        }
        if index < commit && stage.undo.is_empty() && stage.steps.iter().any(changes_a_server) {
            broken.push(format!(
                "stage {:?} changes a server before the commit point and cannot be taken back",
                stage.name
            ));
        }
        if index < commit && stage.on_failure != OnFailure::Abort {
            broken.push(format!(
                "stage {:?} comes before the commit point and its failure would be passed over",
                stage.name
            ));
        }
    }
}

fn changes_a_server(step: &Step) -> bool {
    match step {
        Step::StopReplicating { .. }
        | Step::ArmSource { .. }
        | Step::PointReplica { .. }
        | Step::CatchUpFrom { .. }
        | Step::SetReadOnly { .. }
        | Step::Block { .. }
        | Step::Turn { .. }
        | Step::Halt { .. }
        | Step::Events { .. }
        | Step::StopReceiving { .. } => true,
        // Fences and claims are never taken back by a command: a lease is won again by votes. Salvage only adds what the old primary had.
        Step::Fence { .. }
        | Step::Unmoved { .. }
        | Step::KeepUp { .. }
        | Step::Quiet { .. }
        | Step::Kill { .. }
        | Step::Claim { .. }
        | Step::Salvage { .. }
        | Step::WaitApplied { .. }
        | Step::AckersAttached { .. }
        | Step::Register { .. }
        | Step::Open { .. }
        | Step::Admit { .. }
        | Step::HoldVip { .. }
        | Step::LoseVip { .. }
        | Step::ForgetSource { .. }
        | Step::StartServer { .. }
        | Step::Furnish { .. }
        | Step::SaveExtra { .. }
        | Step::Rewind { .. }
        | Step::Rebuild { .. }
        | Step::Exchange { .. }
        | Step::Wish { .. }
        | Step::Direct { .. }
        | Step::Park { .. } => false,
    }
}

/// N1: MariaDB purges relay logs when a thread starts while both are stopped, so both may stop only when nothing is left to apply.
fn threads(plan: &Plan, broken: &mut Vec<String>) {
    let waits = |stage: &Stage, who: &InstanceId| stage.steps.iter().any(|step| applies(step, who));
    for (index, stage) in plan.stages.iter().enumerate() {
        for step in &stage.steps {
            let Step::StopReplicating { instance } = step else { continue };
            if !plan.stages[..index].iter().any(|earlier| waits(earlier, instance)) {
                broken.push(format!(
                    "{instance} would stop both threads before it has applied what it received"
                ));
            }
        }
    }
}

/// Writers are blocked last, and taking it back is one's own: the blocked server wins a newer generation, then serves.
fn blocks(plan: &Plan, broken: &mut Vec<String>) {
    for (index, stage) in plan.stages.iter().enumerate() {
        for step in &stage.steps {
            let Step::Block { instance, generation, otherwise, .. } = step else { continue };
            broken.extend(takes_itself_back(instance, *generation, otherwise));
            if plan.kind != PlanKind::Switchover || index + 1 != plan.stages.len() {
                broken.push(format!("{instance} would be blocked, and more follow before anybody promotes"));
            }
            if !plan.stages[..index].iter().any(|earlier| earlier.steps.iter().any(keeps_up)) {
                broken.push(format!("{instance} would be blocked before a replica is known to be close"));
            }
            for earlier in &plan.stages[..index] {
                if earlier.undo.is_empty() && earlier.steps.iter().any(changes_a_server) {
                    broken
                        .push(format!("stage {:?} changes a server and cannot be taken back", earlier.name));
                }
            }
            let claims = stage.undo.iter().position(|undo| {
                matches!(undo, Step::Claim { candidate, generation: of, .. } if candidate == instance && *of > generation.next())
            });
            let opens = stage
                .undo
                .iter()
                .position(|undo| matches!(undo, Step::Open { instance: opened, .. } if opened == instance));
            if !matches!((claims, opens), (Some(claim), Some(open)) if claim < open) {
                broken.push(format!(
                    "{instance} would be blocked, and taking that back does not win it a generation above the target's"
                ));
            }
        }
    }
    if plan.kind == PlanKind::Switchover && !plan.steps().any(|step| matches!(step, Step::Block { .. })) {
        broken.push("a switchover that blocks nobody".to_owned());
    }
}

/// What a blocked server's agent may do without a manager: nothing before its own claim, above the target's generation.
fn takes_itself_back(instance: &InstanceId, generation: Generation, otherwise: &[Step]) -> Option<String> {
    let wins = otherwise.first().is_none_or(|step| {
        matches!(step, Step::Claim { candidate, generation: of, proof: Proof::TakenBack }
            if candidate == instance && *of > generation.next())
    });
    let serves = |step: &Step| {
        matches!(step, Step::Open { instance: own, .. } | Step::HoldVip { instance: own, .. } if own == instance)
            || matches!(step, Step::PointReplica { instance: other, source, .. } if other != instance && source == instance)
    };
    let only_follow = otherwise.iter().skip(1).all(serves);
    (!wins || !only_follow).then(|| {
        format!("{instance} would be blocked, and its agent may do more than take it back by its own claim")
    })
}

/// What is brought to an armed server waits for an acknowledgement.
fn salvages(plan: &Plan, broken: &mut Vec<String>) {
    for (index, stage) in plan.stages.iter().enumerate() {
        for step in &stage.steps {
            let Step::Salvage { to, .. } = step else { continue };
            let arms = |step: &Step| matches!(step, Step::ArmSource { instance, .. } if instance == to);
            if stage_of(plan, arms).is_some_and(|armed| armed <= index) {
                broken.push(format!("{to} would be armed before it has what the dead server's log holds"));
            }
        }
    }
}

/// I8: a history is forgotten only of a server no client reaches, in a plan that makes nobody primary.
fn rewinds(plan: &Plan, broken: &mut Vec<String>) {
    for (index, stage) in plan.stages.iter().enumerate() {
        for step in &stage.steps {
            let (Step::Rewind { instance, .. } | Step::Exchange { instance, .. }) = step else { continue };
            let fenced =
                |step: &Step| matches!(step, Step::Fence { instance: fenced, .. } if fenced == instance);
            if !plan.stages[..index].iter().any(|earlier| earlier.steps.iter().any(fenced)) {
                broken.push(format!("{instance} would be set back before it is fenced"));
            }
            if plan.kind != PlanKind::Rejoin || !opened(plan).is_empty() {
                broken.push(format!("{instance} would be set back by a plan that is no rejoin"));
            }
        }
    }
}

fn keeps_up(step: &Step) -> bool {
    matches!(step, Step::KeepUp { .. })
}

/// BUG#30344595: the blocked set is final only when read again after the leader stopped receiving. And the address answers at its
/// old place until it is at the new one.
fn hands_over(plan: &Plan, broken: &mut Vec<String>) {
    let Some((at, leader)) = opened(plan).first().copied() else { return };
    let read = stage_of(plan, |step| matches!(step, Step::Unmoved { .. }));
    let stopped =
        stage_of(plan, |step| matches!(step, Step::StopReplicating { instance } if instance == leader));
    if read.is_some_and(|read| read >= at || stopped.is_none_or(|stopped| stopped >= read)) {
        broken
            .push(format!("the old set would not be read between {leader}'s last receiving and its opening"));
    }
    let held = stage_of(plan, |step| matches!(step, Step::HoldVip { .. }));
    let lost = stage_of(plan, |step| matches!(step, Step::LoseVip { .. }));
    if matches!((held, lost), (Some(held), Some(lost)) if lost <= held) {
        broken.push("the VIP would be taken from its old place before it is at the new one".to_owned());
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::cluster::ClusterName;
    use crate::model::gtid::GtidSet;
    use crate::model::instance::Flavor;

    #[test]
    fn an_acker_follows_only_who_has_applied_its_position() {
        let db = |host: &str| InstanceId::new(host, 3306);
        let set = GtidSet::parse(Flavor::MariaDb, "0-1-9").unwrap();
        let applied = Step::WaitApplied { instance: db("db2"), set, within: Duration::from_secs(1) };
        let follow = Step::PointReplica { instance: db("db3"), source: db("db2"), acker: true };
        let open =
            Step::Open { instance: db("db2"), generation: crate::model::ballot::Generation(2), acks: 0 };
        let complaint = |stages: Vec<Vec<Step>>| {
            let stages: Vec<Stage> = stages.into_iter().map(|steps| Stage::new("s", steps)).collect();
            let plan = Plan {
                cluster: ClusterName("orders".to_owned()),
                kind: PlanKind::Promote,
                title: String::new(),
                commit: Some(stages.len() - 1),
                stages,
                basis: Vec::new(),
            };
            lint(&plan).into_iter().any(|broken| broken.starts_with("db3 would follow db2 before"))
        };
        let [applied, follow, open] = [applied, follow, open].map(|step| vec![step]);
        assert!(!complaint(vec![applied.clone(), follow.clone(), open.clone()]));
        assert!(complaint(vec![follow.clone(), applied.clone(), open.clone()]));
        let together = [applied, follow].concat();
        assert!(complaint(vec![together, open]), "steps of one stage run side by side");
    }
}
