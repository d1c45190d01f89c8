//! How far a running failover is with applying what was received: what is left, and for how long at the pace so far.

use crate::decide::Decision;
use crate::decide::plan::Step;
use crate::execute::journal::{Recovery, What};
use crate::model::gtid::GtidSet;
use crate::model::instance::InstanceId;
use crate::model::time::{Moment, human};
use crate::model::view::ClusterView;

/// What was left when it was first looked at, and when it last became less.
#[derive(Debug, Clone, Default)]
pub(super) struct Progress(Option<Applying>);

#[derive(Debug, Clone)]
struct Applying {
    recovery: String,
    instance: InstanceId,
    began: (Moment, u64),
    moved: (Moment, u64),
}

impl Progress {
    /// Adds a sentence while the recovery that runs waits for an applier.
    pub(super) fn tell(
        &mut self,
        decision: &mut Decision,
        view: &ClusterView,
        recovery: Option<&Recovery>,
        now: Moment,
    ) {
        if let Some(progress) = self.note(view, recovery, now) {
            decision.sentence = format!("{}; {progress}", decision.sentence);
        }
    }

    fn note(&mut self, view: &ClusterView, recovery: Option<&Recovery>, now: Moment) -> Option<String> {
        let waiting = recovery.and_then(|recovery| Some((recovery, waits_for(recovery)?)));
        let Some((recovery, (instance, set))) = waiting else {
            self.0 = None;
            return None;
        };
        let (_, report) = view.of(instance)?.last_report.as_ref()?;
        let left = set.minus(&report.executed).count();
        let same = |at: &&mut Applying| at.recovery == recovery.id && at.instance == *instance;
        match self.0.as_mut().filter(same) {
            Some(applying) if left < applying.moved.1 => applying.moved = (now, left),
            Some(_) => {}
            None => {
                let began = (now, left);
                let (recovery, instance) = (recovery.id.clone(), instance.clone());
                self.0 = Some(Applying { recovery, instance, began, moved: began });
            }
        }
        self.0.as_ref().map(|applying| applying.told(now))
    }
}

impl Applying {
    fn told(&self, now: Moment) -> String {
        let Self { instance, began, moved, .. } = self;
        let left = moved.1;
        let (done, took) = (began.1.saturating_sub(left), moved.0.since(began.0));
        let still = now.since(moved.0);
        let pace = if done > 0 && still <= took.max(std::time::Duration::from_secs(5)) {
            let more = took.mul_f64(left as f64 / done as f64);
            format!(", about {} more at this pace", human(more))
        } else {
            format!(
                ", none finished for {}: a large transaction, or a lock (SHOW PROCESSLIST on {instance})",
                human(still)
            )
        };
        let pace = if left == 0 { String::new() } else { pace };
        format!(
            "{instance} applies what it received before it leads: {left} of {} transaction(s) left{pace}",
            began.1
        )
    }
}

/// Who applies what, in the stage that was begun last.
fn waits_for(recovery: &Recovery) -> Option<(&InstanceId, &GtidSet)> {
    let mut ended: Vec<&str> = Vec::new();
    for entry in recovery.entries.iter().rev() {
        match &entry.what {
            What::Done { step, .. } | What::Failed { step, .. } => ended.push(step),
            What::Stage { plan, index, .. } => {
                let stage = recovery.plan(*plan)?.stages.get(*index)?;
                return stage
                    .steps
                    .iter()
                    .filter(|step| !ended.contains(&step.to_string().as_str()))
                    .find_map(applies);
            }
            What::Accepted { .. } => {}
            What::Undoing { .. } | What::Refused { .. } | What::Ended { .. } => return None,
        }
    }
    None
}

fn applies(step: &Step) -> Option<(&InstanceId, &GtidSet)> {
    if let Step::WaitApplied { instance, set, .. } | Step::CatchUpFrom { instance, set, .. } = step {
        return Some((instance, set));
    }
    None
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_is_left_is_told_in_time() {
        let at = |secs| Moment::default() + Duration::from_secs(secs);
        let instance = InstanceId::new("db2", 3306);
        let applying =
            Applying { recovery: String::new(), instance, began: (at(10), 5_000), moved: (at(20), 4_000) };
        assert_eq!(
            applying.told(at(21)),
            "db2 applies what it received before it leads: 4000 of 5000 transaction(s) left, about 40.0 s more at this pace"
        );
        let stuck = Applying { began: (at(10), 1), moved: (at(10), 1), ..applying };
        assert_eq!(
            stuck.told(at(33)),
            "db2 applies what it received before it leads: 1 of 1 transaction(s) left, none finished for 23.0 s: a large transaction, \
             or a lock (SHOW PROCESSLIST on db2)"
        );
    }
}
