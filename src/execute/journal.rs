//! What was begun, done and failed, in order: enough to resume after a death, and the timeline an operator reads.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::Outcome;
use crate::decide::operation::completes_rejoin;
use crate::decide::plan::{Plan, PlanKind, Step};
use crate::model::cluster::ClusterName;
use crate::model::gtid::GtidSet;
use crate::model::instance::InstanceId;
use crate::model::intent::{FailoverAsk, is_about};
use crate::model::time::{Moment, millis};
use crate::model::view::ClusterView;

/// One line of a recovery.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub at: DateTime<Utc>,
    /// Since the recovery began.
    #[serde(rename = "after_ms", alias = "after", with = "millis")]
    pub after: Duration,
    pub what: What,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum What {
    /// A plan was accepted. Stored before its first stage.
    Accepted {
        plan: Plan,
    },
    /// Written before the stage's first effect. At the commit stage, this is the intent that only leads forward.
    Stage {
        plan: PlanKind,
        index: usize,
        name: String,
    },
    Done {
        stage: String,
        step: String,
        #[serde(rename = "took_ms", alias = "took", with = "millis")]
        took: Duration,
        note: String,
    },
    Failed {
        stage: String,
        step: String,
        #[serde(rename = "took_ms", alias = "took", with = "millis")]
        took: Duration,
        why: String,
    },
    Undoing {
        stage: String,
    },
    /// A promote plan was refused, with every reason.
    Refused {
        blockers: Vec<String>,
    },
    Ended {
        outcome: Outcome,
    },
}

/// One recovery: its plans and what became of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recovery {
    pub id: String,
    pub cluster: ClusterName,
    /// One sentence: what was the matter, what was done.
    pub title: String,
    /// Whom it is about: the failed primary, the returning replica.
    pub about: InstanceId,
    pub kind: PlanKind,
    /// The operator's word it follows, if any.
    #[serde(default)]
    pub ask: Option<FailoverAsk>,
    pub began_at: DateTime<Utc>,
    pub entries: Vec<Entry>,
}

/// What these recoveries, the newest first, could not take back and no later one of them mended: each line begins with whom it is about.
pub fn left_behind(recoveries: &[Recovery]) -> Vec<String> {
    let (mut left_behind, mut mended) = (Vec::new(), Vec::<&InstanceId>::new());
    for recovery in recoveries {
        let left = match recovery.outcome() {
            // A failover mends nothing of the server it replaces.
            Some(Outcome::Done) if recovery.kind == PlanKind::Isolate => Vec::new(),
            Some(Outcome::Done) if !recovery.leads_back() => Vec::new(),
            Some(Outcome::Done) => {
                mended.push(&recovery.about);
                Vec::new()
            }
            Some(Outcome::Undone { left, .. }) => left.clone(),
            Some(Outcome::Failed { .. }) => recovery.left_stopped(),
            None => Vec::new(),
        };
        left_behind.extend(left.into_iter().filter(|line| !mended.iter().any(|it| is_about(line, it))));
    }
    left_behind
}

impl Recovery {
    /// How it ended; `None` while it runs.
    pub fn outcome(&self) -> Option<&Outcome> {
        self.entries.iter().rev().find_map(|entry| match &entry.what {
            What::Ended { outcome } => Some(outcome),
            What::Accepted { .. }
            | What::Stage { .. }
            | What::Done { .. }
            | What::Failed { .. }
            | What::Undoing { .. }
            | What::Refused { .. } => None,
        })
    }

    /// The accepted plan of that kind; the last one where it was decided again.
    pub fn plan(&self, kind: PlanKind) -> Option<&Plan> {
        self.plans().filter(|plan| plan.kind == kind).last()
    }

    /// The accepted plans, in order.
    pub fn plans(&self) -> impl Iterator<Item = &Plan> {
        self.entries.iter().filter_map(|entry| {
            let What::Accepted { plan } = &entry.what else { return None };
            Some(plan)
        })
    }

    /// A failover whose second plan was accepted by the word of its ackers: what whoever leads must have, for it is all that was acknowledged.
    /// Not where only the log of the dead primary was to prove that, or nobody; and not where it is being taken back, for its ackers may
    /// hear the old primary again.
    pub fn proven(&self) -> Option<&GtidSet> {
        let plan = self.plan(PlanKind::Promote).filter(|_| self.kind == PlanKind::Isolate)?;
        let accepts_loss = self.ask.as_ref().is_some_and(|ask| ask.accept_loss);
        let by_its_log = plan.steps().any(|step| matches!(step, Step::Salvage { required: true, .. }));
        if accepts_loss || by_its_log || self.was_undoing() {
            return None;
        }
        plan.steps().find_map(|step| if let Step::WaitApplied { set, .. } = step { Some(set) } else { None })
    }

    /// Whom it was to promote, once that was decided.
    pub fn candidate(&self) -> Option<&InstanceId> {
        let mut steps = self.plan(PlanKind::Promote)?.steps();
        steps.find_map(|step| if let Step::Open { instance, .. } = step { Some(instance) } else { None })
    }

    /// What the next decision must know of how it ended: a failover that failed with one candidate tries another one first.
    pub fn note_promotion(&self, view: &mut ClusterView, trouble: Option<&str>, now: Moment) {
        match (trouble, self.candidate().filter(|_| self.kind == PlanKind::Isolate)) {
            (Some(why), Some(candidate)) => view.note_promotion_failed(candidate, now, why),
            (Some(_), None) => {}
            (None, _) if self.kind == PlanKind::Isolate || view.primary() == Some(&self.about) => {
                view.forget_promotions_failed();
            }
            (None, _) => {}
        }
    }

    /// The members that it may have given statements to by now: those of the stages that were begun. What is taken back may concern each of
    /// `everybody`, and who blocks writers may take that back without a manager.
    pub fn touched(&self, everybody: &[InstanceId]) -> Vec<InstanceId> {
        let mut touched = Vec::new();
        for entry in &self.entries {
            match &entry.what {
                What::Stage { plan, index, .. } => {
                    let Some(plan) = self.plan(*plan) else { continue };
                    // Past the commit point a stage may begin before that is written.
                    let ahead = plan.commit.is_some_and(|commit| *index >= commit);
                    let last = if ahead { plan.stages.len() } else { index + 1 };
                    let steps = plan.stages.iter().take(last).skip(*index).flat_map(|stage| &stage.steps);
                    for step in steps {
                        if let Step::Block { .. } = step {
                            return everybody.to_vec();
                        }
                        touched.push(step.instance().clone());
                    }
                }
                What::Undoing { .. } | What::Refused { .. } => return everybody.to_vec(),
                What::Accepted { .. } | What::Done { .. } | What::Failed { .. } | What::Ended { .. } => {}
            }
        }
        touched
    }

    /// The stages of plans of that kind that were begun, in their order in time.
    fn stages_begun(&self, kind: PlanKind) -> impl DoubleEndedIterator<Item = usize> {
        self.entries.iter().filter_map(move |entry| match &entry.what {
            What::Stage { plan, index, .. } if *plan == kind => Some(*index),
            What::Accepted { .. }
            | What::Stage { .. }
            | What::Done { .. }
            | What::Failed { .. }
            | What::Undoing { .. }
            | What::Refused { .. }
            | What::Ended { .. } => None,
        })
    }

    /// The last stage of plans of that kind that was ever begun; one that was begun anew may not have got as far again.
    pub fn furthest_stage(&self, kind: PlanKind) -> Option<usize> {
        self.stages_begun(kind).max()
    }

    /// The newest stage of that plan that was begun.
    pub fn stage_begun(&self, kind: PlanKind) -> Option<usize> {
        self.stages_begun(kind).next_back()
    }

    /// Done, it leaves nothing to mend of whom it is about. A return that only starts a server, or takes it from the ackers, is half of one.
    pub fn leads_back(&self) -> bool {
        self.kind != PlanKind::Rejoin || self.plan(self.kind).is_none_or(completes_rejoin)
    }

    /// Its promotion is past the commit point.
    pub fn is_committed(&self) -> bool {
        self.commit_and_stage().is_some_and(|(commit, stage)| stage >= commit)
    }

    /// Its promotion's commit stage is done: the candidate is open, and recorded as primary.
    pub fn has_registered(&self) -> bool {
        self.commit_and_stage().is_some_and(|(commit, stage)| stage > commit)
    }

    /// The commit stage of its promotion, and the newest stage of that which was begun.
    fn commit_and_stage(&self) -> Option<(usize, usize)> {
        Some((self.plan(PlanKind::Promote)?.commit?, self.stage_begun(PlanKind::Promote)?))
    }

    /// Whom a promotion that failed past its commit point had stopped to lead: it follows nobody, and nobody but this recovery did that.
    pub fn left_stopped(&self) -> Vec<String> {
        let begun = self.stage_begun(PlanKind::Promote).map_or(0, |index| index + 1);
        let stages = self.plan(PlanKind::Promote).into_iter().flat_map(|plan| plan.stages.iter().take(begun));
        let stopped = stages.flat_map(|stage| &stage.steps).filter_map(|step| {
            let Step::StopReplicating { instance } = step else { return None };
            Some(format!("{instance} was stopped to lead, and did not"))
        });
        stopped.collect()
    }

    /// What every stage begun would be taken back by, as a plan says it: what is left where nothing more is done.
    pub fn left_undone(&self, why: &str) -> Vec<String> {
        let kinds = [
            PlanKind::Promote,
            PlanKind::Isolate,
            PlanKind::Switchover,
            PlanKind::Topology,
            PlanKind::Repair,
        ];
        let begun = |kind| {
            let stages = self.stage_begun(kind).map_or(0, |index| index + 1);
            self.plan(kind).into_iter().flat_map(move |plan| plan.stages.iter().take(stages))
        };
        kinds
            .into_iter()
            .flat_map(begun)
            .flat_map(|stage| &stage.undo)
            .map(|step| format!("{step}: {why}"))
            .collect()
    }

    /// Taking back had begun: a resumed run only goes on taking back.
    pub fn was_undoing(&self) -> bool {
        self.entries.iter().any(|entry| matches!(entry.what, What::Undoing { .. }))
    }
}

/// Where entries go: the store, or memory in tests. Written means durable.
#[expect(async_fn_in_trait, reason = "both journals are in this crate")]
pub trait Journal {
    type Error: std::fmt::Display + std::fmt::Debug;

    /// Gives `what` its times.
    fn stamp(&self, what: What) -> Entry;

    /// Appends in one transaction. An empty list is no transaction.
    async fn write(&self, entries: Vec<Entry>) -> Result<(), Self::Error>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::plan::Stage;

    fn db(host: &str) -> InstanceId {
        InstanceId::new(host, 3306)
    }

    fn recovery(kind: PlanKind, about: &str, plan: &Plan, outcome: Outcome) -> Recovery {
        let entry = |what| Entry { at: DateTime::<Utc>::UNIX_EPOCH, after: Duration::ZERO, what };
        let stage = What::Stage { plan: plan.kind, index: 0, name: plan.stages[0].name.clone() };
        let entries = [What::Accepted { plan: plan.clone() }, stage, What::Ended { outcome }];
        Recovery {
            id: about.to_owned(),
            cluster: plan.cluster.clone(),
            title: String::new(),
            about: db(about),
            kind,
            ask: None,
            began_at: DateTime::<Utc>::UNIX_EPOCH,
            entries: entries.map(entry).into(),
        }
    }

    fn plan(kind: PlanKind, step: Step) -> Plan {
        let cluster = ClusterName("orders".to_owned());
        let stages = vec![Stage::new("prepare", vec![step])];
        Plan { cluster, kind, title: String::new(), stages, commit: Some(0), basis: Vec::new() }
    }

    #[test]
    fn who_was_stopped_to_lead_and_did_not_is_led_back_when_another_leads() {
        let promote = plan(PlanKind::Promote, Step::StopReplicating { instance: db("db2") });
        let failed = Outcome::Failed { why: "no answer".to_owned() };
        let switchover = recovery(PlanKind::Switchover, "db1", &promote, failed);
        let isolate = plan(PlanKind::Isolate, Step::Kill { instance: db("db2") });
        let failover = recovery(PlanKind::Isolate, "db2", &isolate, Outcome::Done);
        let left = ["db2 was stopped to lead, and did not"];
        assert_eq!(left_behind(&[failover.clone(), switchover.clone()]), left, "the newest first");
        let start = plan(
            PlanKind::Rejoin,
            Step::StartServer { instance: db("db2"), as_replica: true, drop_tail: true },
        );
        let started = recovery(PlanKind::Rejoin, "db2", &start, Outcome::Done);
        assert_eq!(
            left_behind(&[started, failover.clone(), switchover.clone()]),
            left,
            "it follows nobody yet"
        );
        let follow = Step::PointReplica { instance: db("db2"), source: db("db1"), acker: true };
        let rejoin = plan(PlanKind::Rejoin, follow);
        let back = recovery(PlanKind::Rejoin, "db2", &rejoin, Outcome::Done);
        assert_eq!(left_behind(&[back, failover, switchover]), [""; 0], "it was led back since");
    }

    /// Somebody restarts replication at a server that the operation has not come to.
    #[test]
    fn only_stages_that_were_begun_touch_a_server() {
        let follow = |host: &str| Step::PointReplica { instance: db(host), source: db("db2"), acker: true };
        let stages = ["db1", "db2", "db3", "db4"].map(|host| Stage::new(host, vec![follow(host)])).to_vec();
        let mut promote = plan(PlanKind::Promote, follow("db1"));
        (promote.stages, promote.commit) = (stages, Some(2));
        let mut running = recovery(PlanKind::Isolate, "db1", &promote, Outcome::Done);
        running.entries.pop();
        let everybody = ["db1", "db2", "db3", "db4", "db5"].map(db);
        let begin = |running: &mut Recovery, what| {
            running.entries.push(Entry { at: DateTime::<Utc>::UNIX_EPOCH, after: Duration::ZERO, what });
        };
        let stage = |index| What::Stage { plan: PlanKind::Promote, index, name: String::new() };
        assert_eq!(running.touched(&everybody), [db("db1")]);
        begin(&mut running, stage(1));
        assert_eq!(running.touched(&everybody), ["db1", "db2"].map(db));
        begin(&mut running, stage(2));
        assert_eq!(
            running.touched(&everybody),
            everybody[..4],
            "past the commit point all that is left may begin"
        );
        begin(&mut running, What::Undoing { stage: "db3".to_owned() });
        assert_eq!(running.touched(&everybody), everybody);
    }
}
