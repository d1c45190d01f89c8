//! Which plans make up one operation, and how each is carried out: what follows a plan that was done, what may stop it, what becomes
//! of it when its manager dies, whom it is about. The executor knows none of these rules.

use std::time::Duration;

use super::failover::{self, Isolation};
use super::plan::{Evidence, Plan, PlanKind, Step};
use super::switchover::{self, Blocked};
use crate::model::instance::InstanceId;
use crate::model::intent::FailoverAsk;
use crate::model::view::ClusterView;

const NOTHING_READ: &str = "the old primary's set was not read after the block";

/// How an operation that begins with a plan of some kind is carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conduct {
    /// It is a failover: what is preemptible is called off for it, and without an operator's word it counts against the budget.
    pub preempts: bool,
    /// It is called off for a failover.
    pub preemptible: bool,
    pub stop: Stop,
    pub on_death: OnDeath,
    /// Another server leads after it.
    pub changes_primary: bool,
    /// An operator wants it: where it fails, nothing is left alone for that.
    pub planned: bool,
}

/// What calling an operation off does before its commit point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Nothing: it is short.
    Never,
    /// No step is waited for any longer.
    AtOnce,
    /// Only steps are left that go on without anybody waiting for them.
    AfterStep,
}

/// What the next manager does with an operation whose manager died before its commit point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnDeath {
    /// Goes on at the stage that was begun.
    GoOn,
    /// Goes on from the first stage: what follows rests on the evidence of all of them.
    Repeat,
    /// Takes it back: writers wait.
    TakeBack,
}

impl Conduct {
    pub fn of(kind: PlanKind) -> Self {
        let usual = Self {
            preempts: false,
            preemptible: false,
            stop: Stop::Never,
            on_death: OnDeath::GoOn,
            changes_primary: false,
            planned: false,
        };
        match kind {
            PlanKind::Adopt | PlanKind::Repair => usual,
            PlanKind::Isolate => Self {
                preempts: true,
                stop: Stop::AtOnce,
                on_death: OnDeath::Repeat,
                changes_primary: true,
                ..usual
            },
            PlanKind::Promote => Self { stop: Stop::AtOnce, changes_primary: true, ..usual },
            PlanKind::Switchover => Self {
                stop: Stop::AtOnce,
                on_death: OnDeath::TakeBack,
                changes_primary: true,
                planned: true,
                ..usual
            },
            PlanKind::Rejoin => Self { preemptible: true, stop: Stop::AfterStep, ..usual },
            PlanKind::Topology => Self { preemptible: true, stop: Stop::AtOnce, planned: true, ..usual },
        }
    }
}

/// What follows a plan that was done.
#[derive(Debug, Clone, PartialEq)]
pub enum Next {
    /// Nothing: the operation is done.
    Nothing,
    Plan(Box<FollowingPlan>),
    /// Something had to follow and cannot: what was done is taken back.
    Refused {
        blockers: Vec<String>,
    },
}

/// A plan that follows another one in the same operation.
#[derive(Debug, Clone, PartialEq)]
pub struct FollowingPlan {
    pub plan: Plan,
    /// Both plans are taken back as one: the old primary is well, and serves again.
    pub undone_together: bool,
    /// Before the commit point, since the last stage of the plan before began.
    pub write_block: Option<WriteBlock>,
}

/// How long writers may wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WriteBlock {
    pub within: Duration,
    pub primary: InstanceId,
}

impl WriteBlock {
    /// Why writers are let on: their time is over. Names the old primary where most of it went by until that had stopped them, which
    /// took `blocking`.
    pub fn exceeded(&self, blocking: Duration) -> String {
        let by = if blocking > self.within / 2 {
            let (primary, took) = (&self.primary, blocking.as_millis());
            format!(", {took} ms of it until {primary} had answered that its writers wait")
        } else {
            String::new()
        };
        format!("the write block took longer than {} ms{by}", self.within.as_millis())
    }
}

/// What follows `done`, of whose steps this was read; as the view was when the operation began.
pub fn next_plan(
    view: &ClusterView,
    done: &Plan,
    evidence: &[(Step, Evidence)],
    ask: Option<&FailoverAsk>,
) -> Next {
    match done.kind {
        PlanKind::Isolate => after_isolate(view, evidence, ask),
        PlanKind::Switchover => after_block(view, done, evidence),
        PlanKind::Adopt | PlanKind::Promote | PlanKind::Rejoin | PlanKind::Repair | PlanKind::Topology => {
            Next::Nothing
        }
    }
}

fn after_isolate(view: &ClusterView, evidence: &[(Step, Evidence)], ask: Option<&FailoverAsk>) -> Next {
    let Some(primary) = view.primary() else {
        return Next::Refused { blockers: vec!["no primary is recorded".to_owned()] };
    };
    match failover::promote(view, &Isolation::of(primary, evidence), ask) {
        Ok(plan) => Next::Plan(Box::new(FollowingPlan { plan, undone_together: false, write_block: None })),
        Err(blockers) => Next::Refused { blockers: blockers.iter().map(ToString::to_string).collect() },
    }
}

fn after_block(view: &ClusterView, done: &Plan, evidence: &[(Step, Evidence)]) -> Next {
    let Some(blocked) = Blocked::of(done, evidence) else {
        return Next::Refused { blockers: vec![NOTHING_READ.to_owned()] };
    };
    let write_block = done.steps().find_map(|step| {
        let Step::Block { instance, within, .. } = step else { return None };
        Some(WriteBlock { within: *within, primary: instance.clone() })
    });
    match switchover::promote(view, &blocked) {
        Ok(plan) => Next::Plan(Box::new(FollowingPlan { plan, undone_together: true, write_block })),
        Err(obstacles) => Next::Refused { blockers: obstacles.iter().map(ToString::to_string).collect() },
    }
}

/// The members that an operation which begins with `plan` may give statements to from its first moment. One that changes the primary takes
/// long where something does not answer, and what somebody does meanwhile at a server that it has not come to is not its doing.
pub fn touched_by(plan: &Plan) -> Vec<InstanceId> {
    match plan.kind {
        PlanKind::Rejoin | PlanKind::Repair | PlanKind::Topology => {
            plan.steps().map(|step| step.instance().clone()).collect()
        }
        PlanKind::Isolate | PlanKind::Promote | PlanKind::Switchover | PlanKind::Adopt => Vec::new(),
    }
}

/// All members.
pub fn everybody(view: &ClusterView) -> Vec<InstanceId> {
    view.cluster.members.iter().map(|member| member.instance.clone()).collect()
}

/// Whom an operation that begins with `plan` is about: the primary, or the member it moves. `None` only without members.
pub fn subject_of(view: &ClusterView, plan: &Plan) -> Option<InstanceId> {
    let primary = view.primary().cloned();
    let of_another =
        plan.steps().map(Step::instance).find(|instance| Some(*instance) != primary.as_ref()).cloned();
    // The member an operator's word is about: its record is what changes.
    let asked = || {
        let changed = |step: &&Step| matches!(step, Step::Wish { .. } | Step::SetReadOnly { .. });
        plan.steps().find(changed).map(|step| step.instance().clone())
    };
    let known = match plan.kind {
        PlanKind::Topology => asked().or(of_another).or(primary),
        PlanKind::Rejoin => of_another,
        PlanKind::Adopt | PlanKind::Isolate | PlanKind::Switchover | PlanKind::Promote | PlanKind::Repair => {
            primary.or(of_another)
        }
    };
    known.or_else(|| view.cluster.members.first().map(|member| member.instance.clone()))
}

/// After it nothing is left to do of how an operator wanted a member brought back.
pub fn completes_rejoin(plan: &Plan) -> bool {
    plan.steps().any(|step| matches!(step, Step::PointReplica { .. } | Step::Park { .. }))
}

/// It begins a rebuild.
pub fn begins_rebuild(plan: &Plan) -> bool {
    plan.steps().any(|step| matches!(step, Step::Rebuild { .. }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::plan::Stage;
    use crate::model::ballot::Generation;
    use crate::model::cluster::{Cluster, ClusterName, Member, Mode, Promotion};
    use crate::model::policy::Policy;
    use crate::model::record::ClusterRecord;
    use crate::model::time::Moment;
    use crate::model::wishes::Wish;
    use chrono::DateTime;

    fn db(host: &str) -> InstanceId {
        InstanceId::new(host, 3306)
    }

    fn view() -> ClusterView {
        let member =
            |host| Member { instance: db(host), promotion: Promotion::Allow, zone: None, agent: None };
        let cluster = Cluster {
            name: ClusterName("orders".to_owned()),
            mode: Mode::Auto,
            members: ["db1", "db2", "db3"].map(member).into(),
            vip: None,
            traffic: None,
            voters: Vec::new(),
            policy: Policy::default(),
        };
        let record = ClusterRecord::new(db("db1"), Generation(1), DateTime::UNIX_EPOCH);
        ClusterView::new(cluster, Some(record), Moment::from_micros(0), DateTime::UNIX_EPOCH)
    }

    fn plan(kind: PlanKind, steps: Vec<Step>) -> Plan {
        Plan {
            cluster: ClusterName("orders".to_owned()),
            kind,
            title: String::new(),
            stages: vec![Stage::new("stage", steps)],
            commit: None,
            basis: Vec::new(),
        }
    }

    fn register() -> Step {
        let (generation, ackers) = (Generation(1), vec![db("db3")]);
        Step::Register { primary: db("db1"), generation, ackers, acks: 1, degraded: None }
    }

    fn point(instance: &str) -> Step {
        Step::PointReplica { instance: db(instance), source: db("db1"), acker: false }
    }

    #[test]
    fn a_plan_is_about_the_primary_or_the_member_it_moves() {
        let of = |kind, steps| subject_of(&view(), &plan(kind, steps)).unwrap();
        let wish = || Step::Wish { instance: db("db3"), wish: Wish::Run };
        // A return may begin with a change of the record.
        assert_eq!(of(PlanKind::Rejoin, vec![register(), point("db2")]), db("db2"));
        assert_eq!(of(PlanKind::Topology, vec![point("db2"), wish()]), db("db3"));
        assert_eq!(of(PlanKind::Topology, vec![register(), point("db2")]), db("db2"));
        for kind in [PlanKind::Isolate, PlanKind::Switchover, PlanKind::Repair, PlanKind::Adopt] {
            assert_eq!(of(kind, vec![point("db2")]), db("db1"), "{kind}");
        }
        let unknown = ClusterView { record: None, ..view() };
        assert_eq!(subject_of(&unknown, &plan(PlanKind::Adopt, vec![point("db2")])), Some(db("db2")));
    }

    #[test]
    fn a_block_whose_set_was_not_read_is_followed_by_nothing() {
        let keep_up = Step::KeepUp {
            instance: db("db2"),
            source: db("db1"),
            closely: Duration::ZERO,
            within: Duration::ZERO,
        };
        let next = next_plan(&view(), &plan(PlanKind::Switchover, vec![keep_up]), &[], None);
        assert_eq!(next, Next::Refused { blockers: vec![NOTHING_READ.to_owned()] });
        for kind in [PlanKind::Rejoin, PlanKind::Repair, PlanKind::Topology, PlanKind::Adopt] {
            assert_eq!(next_plan(&view(), &plan(kind, vec![point("db2")]), &[], None), Next::Nothing);
        }
    }

    #[test]
    fn a_spent_write_block_names_whose_stopping_took_it() {
        let ms = Duration::from_millis;
        let block = WriteBlock { within: ms(2_000), primary: db("db1") };
        assert_eq!(block.exceeded(ms(40)), "the write block took longer than 2000 ms");
        assert_eq!(
            block.exceeded(ms(2_310)),
            "the write block took longer than 2000 ms, 2310 ms of it until db1 had answered that its writers wait"
        );
    }
}
