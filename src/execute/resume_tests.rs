//! What a manager makes of the journal of one that died, step by step: a world that only says what was asked of it.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

use chrono::DateTime;

use super::Outcome;
use super::journal::{Entry, Journal, Recovery, What};
use super::recovery::resume;
use super::world::{StepError, Token, World};
use crate::decide::plan::{Evidence, Plan, PlanKind, Stage, Step, TrafficOrder};
use crate::model::ballot::{Ballot, Generation};
use crate::model::cluster::{Cluster, ClusterName, Mode};
use crate::model::instance::InstanceId;
use crate::model::overtaken::Recorded;
use crate::model::policy::Policy;
use crate::model::record::ClusterRecord;
use crate::model::time::Moment;
use crate::model::view::ClusterView;

fn db(host: &str) -> InstanceId {
    InstanceId::new(host, 3306)
}

fn view() -> ClusterView {
    let cluster = Cluster {
        name: ClusterName("orders".to_owned()),
        mode: Mode::Auto,
        members: Vec::new(),
        vip: None,
        traffic: None,
        voters: Vec::new(),
        policy: Policy::default(),
    };
    let record = ClusterRecord::new(db("db1"), Generation(1), DateTime::UNIX_EPOCH);
    ClusterView::new(cluster, Some(record), Moment::from_micros(0), DateTime::UNIX_EPOCH)
}

fn plan(kind: PlanKind, commit: Option<usize>, stages: Vec<Stage>) -> Plan {
    let cluster = ClusterName("orders".to_owned());
    Plan { cluster, kind, title: String::new(), stages, commit, basis: Vec::new() }
}

/// Armed at stage 0, opened at stage 1; a word to the traffic program stands for everything else.
fn promote() -> Plan {
    let arm = Stage::new("arm", vec![Step::ArmSource { instance: db("db2"), acks: 1 }]);
    plan(PlanKind::Promote, Some(1), vec![arm, Stage::new("promote", vec![told("db2")])])
}

fn isolate() -> Plan {
    plan(PlanKind::Isolate, None, vec![Stage::new("isolate", vec![told("db1")])])
}

fn told(host: &str) -> Step {
    Step::Direct { instance: db(host), order: TrafficOrder::Pause, generation: Generation(1) }
}

fn recovery(kind: PlanKind, plans: Vec<Plan>, begun: (PlanKind, usize)) -> Recovery {
    let entry = |what| Entry { at: DateTime::UNIX_EPOCH, after: Duration::ZERO, what };
    let accepted = plans.into_iter().map(|plan| What::Accepted { plan });
    let stage = What::Stage { plan: begun.0, index: begun.1, name: String::new() };
    Recovery {
        id: "r1".to_owned(),
        cluster: ClusterName("orders".to_owned()),
        title: String::new(),
        about: db("db1"),
        kind,
        ask: None,
        began_at: DateTime::UNIX_EPOCH,
        entries: accepted.chain([stage]).map(entry).collect(),
    }
}

/// Does nothing, and says of all it is asked for that it is so, but for what `fails`.
#[derive(Debug, Default)]
struct Asked {
    applied: Mutex<Vec<String>>,
    written: Mutex<Vec<What>>,
    fails: BTreeSet<String>,
    /// An operator calls the operation off while this step is done.
    called_off_at: Option<String>,
    abort: CancellationToken,
}

impl World for Asked {
    async fn observe(&self, _step: &Step) -> Result<Evidence, StepError> {
        Ok(Evidence::default())
    }

    async fn apply(&self, step: &Step, _token: &Token) -> Result<Evidence, StepError> {
        self.applied.lock().unwrap().push(step.to_string());
        if self.fails.contains(&step.to_string()) {
            return Err(StepError::Failed("it cannot".to_owned()));
        }
        if self.called_off_at.as_ref() == Some(&step.to_string()) {
            self.abort.cancel();
        }
        Ok(Evidence { directed: true, ..Evidence::default() })
    }
}

impl Journal for Asked {
    type Error = std::convert::Infallible;

    fn stamp(&self, what: What) -> Entry {
        Entry { at: DateTime::UNIX_EPOCH, after: Duration::ZERO, what }
    }

    async fn write(&self, entries: Vec<Entry>) -> Result<(), Self::Error> {
        self.written.lock().unwrap().extend(entries.into_iter().map(|entry| entry.what));
        Ok(())
    }
}

impl Asked {
    async fn resumes(&self, recovery: &Recovery) -> Outcome {
        self.resumes_in(&view(), recovery).await
    }

    async fn resumes_in(&self, view: &ClusterView, recovery: &Recovery) -> Outcome {
        let ballot = Ballot { number: 2, manager: "m".to_owned() };
        let token =
            Token { ballot, recovery: recovery.id.clone(), operation: 0, automatic: true, back: false };
        let Ok(outcome) = resume(view, recovery, &self.abort, &token, self, self).await;
        outcome
    }

    fn stages(&self) -> Vec<(PlanKind, usize)> {
        let written = self.written.lock().unwrap();
        let stage = |what: &What| match what {
            What::Stage { plan, index, .. } => Some((*plan, *index)),
            What::Accepted { .. }
            | What::Done { .. }
            | What::Failed { .. }
            | What::Undoing { .. }
            | What::Refused { .. }
            | What::Ended { .. } => None,
        };
        written.iter().filter_map(stage).collect()
    }
}

/// Another manager may have led the replicas back: they have more than the second plan was made from.
#[tokio::test]
async fn a_failover_resumed_before_its_commit_point_begins_again_at_its_isolation() {
    let asked = Asked::default();
    let journal = recovery(PlanKind::Isolate, vec![isolate(), promote()], (PlanKind::Promote, 0));
    let outcome = asked.resumes(&journal).await;
    assert_eq!(asked.stages(), [(PlanKind::Isolate, 0)], "it is decided again who is to lead");
    assert!(matches!(outcome, Outcome::Undone { .. }), "nobody could: {outcome:?}");
}

#[tokio::test]
async fn an_operation_that_is_called_off_after_it_was_resumed_begins_no_further_stage() {
    let stages = ["db1", "db2"].map(|host| Stage::new(host, vec![told(host)])).to_vec();
    let journal =
        recovery(PlanKind::Topology, vec![plan(PlanKind::Topology, None, stages)], (PlanKind::Topology, 0));
    let asked = Asked { called_off_at: Some(told("db1").to_string()), ..Asked::default() };
    let outcome = asked.resumes(&journal).await;
    assert!(matches!(outcome, Outcome::Undone { .. }), "{outcome:?}");
    assert_eq!(asked.stages(), [(PlanKind::Topology, 0)]);
}

/// Another manager may have disarmed the next primary: nothing is opened, or recorded, that does not wait for its ackers.
#[tokio::test(start_paused = true)]
async fn what_was_armed_is_armed_again_before_anything_rests_on_it() {
    let arm = Step::ArmSource { instance: db("db2"), acks: 1 }.to_string();
    let asked = Asked { fails: [arm.clone()].into(), ..Asked::default() };
    let journal = recovery(PlanKind::Isolate, vec![isolate(), promote()], (PlanKind::Promote, 1));
    let outcome = asked.resumes(&journal).await;
    assert!(matches!(outcome, Outcome::Failed { .. }), "{outcome:?}");
    let applied = asked.applied.lock().unwrap().clone();
    assert!(applied.len() > 1 && applied.iter().all(|step| *step == arm), "{applied:?}");

    let repair = plan(PlanKind::Repair, None, promote().stages);
    let asked = Asked { fails: [arm.clone()].into(), ..Asked::default() };
    let journal = recovery(PlanKind::Repair, vec![repair], (PlanKind::Repair, 1));
    assert!(matches!(asked.resumes(&journal).await, Outcome::Undone { .. }));
    assert_eq!(*asked.applied.lock().unwrap(), [arm], "a primary that is opened again is no other matter");
}

/// A record that the rival itself wrote is a copy of its record, and may lack what it wrote after.
#[tokio::test]
async fn nothing_is_resumed_where_a_newer_record_may_have_been_written() {
    let journal = recovery(PlanKind::Isolate, vec![isolate(), promote()], (PlanKind::Promote, 1));
    for (recorded, rival, resumed) in [(0, 0, true), (5, 4, true), (5, 5, false), (5, 6, false)] {
        let mut view = view();
        let ballot = |number, manager: &str| Ballot { number, manager: manager.to_owned() };
        view.led_before.rival = ballot(rival, "n");
        view.record.as_mut().unwrap().ballot = ballot(recorded, "m");
        let asked = Asked::default();
        asked.resumes_in(&view, &journal).await;
        assert_eq!(!asked.applied.lock().unwrap().is_empty(), resumed, "{recorded} recorded, rival {rival}");
    }
    // Its own ballot, and the store is from before the last change.
    for (known, resumed) in [(9, true), (10, true), (11, false)] {
        let mut view = view();
        view.record.as_mut().unwrap().revision = 10;
        view.led_before.recorded = Recorded { ballot: 0, revision: known };
        if let Some(change) = view.outdated() {
            let marked = ClusterRecord::apply(view.record.as_ref(), &change, DateTime::UNIX_EPOCH);
            view.record = marked.ok();
        }
        let asked = Asked::default();
        asked.resumes_in(&view, &journal).await;
        assert_eq!(!asked.applied.lock().unwrap().is_empty(), resumed, "10 held, {known} known");
    }
}
