//! Bookkeeping of one cluster's operations, for the live service and the simulation alike: at most one runs, it is begun as a stored
//! recovery, gives way to what is more urgent, and its end is remembered for the decisions after it.

use chrono::{DateTime, Utc};
use tokio_util::sync::CancellationToken;

use super::Outcome;
use super::journal::{Recovery, left_behind};
use super::recovery::ended_elsewhere;
use super::world::Token;
use crate::decide::Action;
use crate::decide::operation::{Conduct, begins_rebuild, completes_rejoin, subject_of};
use crate::decide::plan::{Plan, PlanKind, Step};
use crate::model::ballot::Ballot;
use crate::model::instance::InstanceId;
use crate::model::intent::{FailoverAsk, Intents};
use crate::model::record::{ClusterRecord, RecordChange};
use crate::model::time::Moment;
use crate::model::view::ClusterView;

/// So many recoveries back it is looked for what was left behind.
pub const REMEMBERED: u32 = 20;

/// The operations of one cluster.
#[derive(Debug, Default)]
pub struct Operations {
    running: Option<Running>,
    /// So many were begun.
    begun: u64,
}

/// The one that runs.
#[derive(Debug, Clone)]
pub struct Running {
    pub about: InstanceId,
    pub kind: PlanKind,
    abort: CancellationToken,
}

/// The recovery that begins with `plan`: to be stored before its first effect. `None` where the cluster has no members.
pub fn recovery_of(
    view: &ClusterView,
    plan: &Plan,
    ask: Option<FailoverAsk>,
    (id, began_at): (String, DateTime<Utc>),
) -> Option<Recovery> {
    Some(Recovery {
        id,
        cluster: view.cluster.name.clone(),
        title: plan.title.clone(),
        about: subject_of(view, plan)?,
        kind: plan.kind,
        ask,
        began_at,
        entries: Vec::new(),
    })
}

/// Recalls what servers had received when earlier recoveries planned by it: one that has less now has lost it.
pub fn recall_received(recoveries: &[Recovery], view: &mut ClusterView) {
    let Some(primary) = view.record.as_ref().map(|record| record.primary.clone()) else { return };
    let about = recoveries.iter().filter(|recovery| recovery.about == primary);
    for step in about.filter_map(|recovery| recovery.plan(PlanKind::Promote)).flat_map(Plan::steps) {
        if let Step::WaitApplied { instance, set, .. } = step {
            view.recall_received(instance, set);
        }
    }
}

/// Recalls what the failover that an earlier manager did not end had proven before it pointed the ackers elsewhere.
pub fn recall_proven(unfinished: &Recovery, view: &mut ClusterView) {
    if let Some(proven) = unfinished.proven().filter(|_| ended_elsewhere(view, unfinished).is_none()) {
        view.recall_proven(&unfinished.about, proven);
    }
}

/// Recalls what earlier recoveries, the newest first, could not take back: it is still to be mended.
pub fn recall_left_behind(recoveries: &[Recovery], intents: &mut Intents) {
    intents.note_left(&left_behind(recoveries));
}

impl Operations {
    pub fn running(&self) -> Option<&Running> {
        self.running.as_ref()
    }

    pub fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// `recovery` runs now; what it gives back calls it off.
    pub fn begun(&mut self, recovery: &Recovery) -> CancellationToken {
        self.begun += 1;
        let abort = CancellationToken::new();
        self.running =
            Some(Running { about: recovery.about.clone(), kind: recovery.kind, abort: abort.clone() });
        abort
    }

    /// Under which the steps of `recovery`, which was begun last, are ordered by the manager that leads with `ballot`.
    pub fn token_of(&self, recovery: &Recovery, ballot: Ballot) -> Token {
        let automatic = recovery.ask.is_none() && Conduct::of(recovery.kind).preempts;
        Token { ballot, recovery: recovery.id.clone(), operation: self.begun, automatic, back: false }
    }

    /// Calls the running operation off where a failover is due and it gives way to one; whether it did so just now.
    pub fn preempt(&self, action: &Action) -> bool {
        let Action::Act(plan) = action else { return false };
        let yields = self.running.as_ref().filter(|running| Conduct::of(running.kind).preemptible);
        let Some(running) = yields.filter(|running| !running.abort.is_cancelled()) else { return false };
        let due = Conduct::of(plan.kind).preempts;
        if due {
            running.abort.cancel();
        }
        due
    }

    /// Calls the running operation off; whether there was one.
    pub fn call_off(&self) -> bool {
        self.running.as_ref().is_some_and(|running| {
            running.abort.cancel();
            true
        })
    }

    /// The operation has ended so, and this is what the record says now. `ended` has the plans that were accepted. Gives back a change
    /// that is still to be recorded: nothing is left to do of what an operator wanted for the member.
    pub fn ended(
        &mut self,
        ended: &Recovery,
        outcome: &Outcome,
        record: Option<&ClusterRecord>,
        intents: &mut Intents,
        now: Moment,
    ) -> Option<RecordChange> {
        self.running = None;
        let about = &ended.about;
        intents.failover = None;
        intents.settled_at = Some(now);
        // How often it was tried is of no account for one that leads, nor when it comes back some other day.
        if let Some(record) = record {
            intents.forget_rebuilds(&record.primary);
        }
        match outcome {
            Outcome::Undone { left, .. } => intents.note_left(left),
            Outcome::Failed { .. } => intents.note_left(&ended.left_stopped()),
            Outcome::Done => {}
        }
        if let Some(why) = outcome.trouble() {
            // A planned change that was called off is no reason to leave a primary alone that dies now.
            if !Conduct::of(ended.kind).planned {
                intents.note_undone(about, now, why);
            }
            return None;
        }
        // A failover leaves the old primary, and half a return leaves the member, as it was: a later recovery mends it. So does a repair that
        // records another primary in its place.
        let untouched =
            ended.plan(ended.kind).is_some_and(|plan| plan.steps().all(|step| step.instance() != about));
        if Conduct::of(ended.kind).preempts || !ended.leads_back() || untouched {
            intents.note_replaced(about);
        } else {
            intents.note_done(about);
        }
        intents.note_repeat(&ended.title, now);
        let plan = ended.plan(ended.kind)?;
        if begins_rebuild(plan) {
            intents.note_rebuild(about);
        }
        if !completes_rejoin(plan) {
            return None;
        }
        intents.forget_rebuilds(about);
        let asked = record.is_some_and(|record| record.wishes.remedy(about).is_some());
        asked.then(|| RecordChange::ForgetRemedies { instances: vec![about.clone()] })
    }

    /// The operation could not be written down any further: it is resumed later, by this manager or another. That says nothing of whom it is
    /// about.
    pub fn interrupted(&mut self, intents: &mut Intents, now: Moment) {
        self.running = None;
        intents.failover = None;
        intents.settled_at = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::plan::{Stage, Step};
    use crate::execute::journal::{Entry, What};
    use crate::model::ballot::Generation;
    use crate::model::cluster::ClusterName;
    use crate::model::extra::Remedy;

    fn db(host: &str) -> InstanceId {
        InstanceId::new(host, 3306)
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

    fn recovery(plan: Plan) -> Recovery {
        let at = DateTime::UNIX_EPOCH;
        let kind = plan.kind;
        let accepted = Entry { at, after: Default::default(), what: What::Accepted { plan } };
        Recovery {
            id: "r1".to_owned(),
            cluster: ClusterName("orders".to_owned()),
            title: String::new(),
            about: db("db2"),
            kind,
            ask: None,
            began_at: at,
            entries: vec![accepted],
        }
    }

    fn point() -> Step {
        Step::PointReplica { instance: db("db2"), source: db("db1"), acker: true }
    }

    fn record() -> ClusterRecord {
        ClusterRecord::new(db("db1"), Generation(1), DateTime::UNIX_EPOCH)
    }

    const NOW: Moment = Moment::from_micros(5);

    #[test]
    fn only_a_failover_ends_what_runs_and_only_what_gives_way() {
        let due = |kind| Action::Act(plan(kind, vec![point()]));
        let mut operations = Operations::default();
        assert!(!operations.preempt(&due(PlanKind::Isolate)), "nothing runs");
        for (running, gives_way) in [
            (PlanKind::Rejoin, true),
            (PlanKind::Topology, true),
            (PlanKind::Repair, false),
            (PlanKind::Isolate, false),
            (PlanKind::Switchover, false),
            (PlanKind::Adopt, false),
        ] {
            let abort = operations.begun(&recovery(plan(running, vec![point()])));
            assert!(!operations.preempt(&due(PlanKind::Repair)) && !abort.is_cancelled(), "{running}");
            assert_eq!(operations.preempt(&due(PlanKind::Isolate)), gives_way, "{running}");
            assert_eq!(abort.is_cancelled(), gives_way, "{running}");
            assert!(!operations.preempt(&due(PlanKind::Isolate)), "it is called off once");
        }
    }

    #[test]
    fn the_next_operation_is_not_called_off_with_the_one_before() {
        let mut operations = Operations::default();
        let first = operations.begun(&recovery(plan(PlanKind::Rejoin, vec![point()])));
        assert!(operations.call_off() && first.is_cancelled());
        let mut intents = Intents::default();
        let ended = recovery(plan(PlanKind::Rejoin, vec![point()]));
        operations.ended(&ended, &Outcome::Done, None, &mut intents, NOW);
        assert!(!operations.is_running() && !operations.call_off());
        assert!(!operations.begun(&ended).is_cancelled());
    }

    #[test]
    fn what_failed_is_paused_but_not_what_an_operator_planned() {
        let undone =
            Outcome::Undone { why: "no answer".to_owned(), left: vec!["db2 follows db1".to_owned()] };
        let end = |kind| {
            let (mut operations, mut intents) = (Operations::default(), Intents::default());
            let ended = recovery(plan(kind, vec![point()]));
            operations.begun(&ended);
            assert_eq!(operations.ended(&ended, &undone, Some(&record()), &mut intents, NOW), None);
            assert_eq!((intents.settled_at, intents.was_left(&db("db2"))), (Some(NOW), true));
            intents.failures(&db("db2"))
        };
        assert_eq!((end(PlanKind::Rejoin), end(PlanKind::Isolate), end(PlanKind::Repair)), (1, 1, 1));
        assert_eq!((end(PlanKind::Switchover), end(PlanKind::Topology)), (0, 0));
    }

    #[test]
    fn what_was_left_of_a_member_outlives_a_repair_that_does_nothing_about_it() {
        let was_left = |instance: &str| {
            let mut intents = Intents::default();
            intents.note_left(&["db2 was stopped to lead, and did not".to_owned()]);
            let ended = recovery(plan(
                PlanKind::Repair,
                vec![Step::Open { instance: db(instance), generation: Generation(5), acks: 0 }],
            ));
            let mut operations = Operations::default();
            operations.begun(&ended);
            operations.ended(&ended, &Outcome::Done, Some(&record()), &mut intents, NOW);
            intents.was_left(&db("db2"))
        };
        assert!(was_left("db1") && !was_left("db2"));
    }

    #[test]
    fn a_member_that_is_back_needs_no_remedy_any_more() {
        let mut record = record();
        record.wishes.bring_back(&db("db2"), Some(Remedy::Rebuild), None);
        let end = |steps, outcome: &Outcome| {
            let (mut operations, mut intents) = (Operations::default(), Intents::default());
            intents.note_rebuild(&db("db2"));
            let ended = recovery(plan(PlanKind::Rejoin, steps));
            operations.begun(&ended);
            let change = operations.ended(&ended, outcome, Some(&record), &mut intents, NOW);
            (change.is_some(), intents.rebuilds(&db("db2")))
        };
        let rebuild = Step::Rebuild { instance: db("db2"), from: db("db3"), keep: false };
        let failed = Outcome::Failed { why: "broken".to_owned() };
        assert_eq!(end(vec![point()], &Outcome::Done), (true, 0));
        assert_eq!(end(vec![point()], &failed), (false, 1));
        assert_eq!(end(vec![rebuild], &Outcome::Done), (false, 2), "it goes on by itself");
    }
}
