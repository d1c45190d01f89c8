//! What is worth telling a person: compares the newest board and recovery with what was last told. Decides nothing of the cluster, and
//! nothing waits for it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::snapshot::{Doing, Snapshot};
use crate::clock;
use crate::decide::plan::PlanKind;
use crate::execute::Outcome;
use crate::execute::journal::Recovery;
use crate::model::verdict::Verdict;
use crate::notify::{Notice, Notifier, Occasion, RecoveryNotice, Urgency};

/// A decision that changed is told when it has held for so long: what lasts from one look to the next wakes nobody. Recoveries are told
/// at once.
const HOLDS: Duration = Duration::from_secs(2);

/// Follows one cluster until its task ends.
pub(super) async fn follow(
    mut board: watch::Receiver<Arc<Snapshot>>,
    mut recovery: watch::Receiver<Option<Arc<Recovery>>>,
    notifier: Notifier,
    stop: CancellationToken,
) {
    let mut told = Told::default();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            changed = board.changed() => if changed.is_err() { return },
            changed = recovery.changed() => if changed.is_err() { return },
        }
        let now = Arc::clone(&board.borrow_and_update());
        let running = recovery.borrow_and_update().clone();
        for notice in told.news(&now, running.as_deref()) {
            notifier.tell(notice);
        }
    }
}

/// What was last told of one cluster.
#[derive(Debug, Default)]
struct Told {
    decision: Option<Decided>,
    /// What is thought now, and since when.
    pending: Option<(Decided, DateTime<Utc>)>,
    leading: Option<bool>,
    recovery: Option<(String, bool)>,
}

/// What of a decision is news when it changes. Figures are not: they move on by themselves.
#[derive(Debug, Clone, PartialEq)]
struct Decided {
    verdict: Verdict,
    doing: Doing,
    refused: BTreeSet<String>,
}

impl Told {
    fn news(&mut self, now: &Snapshot, recovery: Option<&Recovery>) -> Vec<Notice> {
        let recovery = recovery.and_then(|recovery| self.recovery_news(now, recovery));
        let leading = self.leading_news(now);
        recovery.into_iter().chain(leading).chain(self.decision_news(now)).collect()
    }

    fn decision_news(&mut self, now: &Snapshot) -> Option<Notice> {
        // While a recovery runs its own begin and end are told; what is seen in between is its doing.
        if now.recovering || now.verdict == Verdict::Starting {
            self.pending = None;
            return None;
        }
        let decided = Decided {
            verdict: now.verdict,
            doing: now.doing,
            refused: now.refused.iter().map(|why| without_figures(why)).collect(),
        };
        let is_quiet = matches!(now.verdict, Verdict::Healthy | Verdict::NotAdopted);
        if self.decision.as_ref() == Some(&decided) || (self.decision.is_none() && is_quiet) {
            (self.decision, self.pending) = (Some(decided), None);
            return None;
        }
        let since = match self.pending.take() {
            Some((pending, since)) if pending == decided => since,
            Some(_) | None => now.at,
        };
        if (now.at - since).to_std().is_ok_and(|held| held < HOLDS) {
            self.pending = Some((decided, since));
            return None;
        }
        self.decision = Some(decided);
        let (occasion, urgency) = match now.doing {
            Doing::Refuse => (Occasion::Refused, Urgency::Critical),
            Doing::Rest | Doing::Wait | Doing::Act => (Occasion::Decision, urgency(now.verdict)),
        };
        Some(Notice { reasons: now.refused.clone(), ..notice(now, occasion, urgency) })
    }

    fn leading_news(&mut self, now: &Snapshot) -> Option<Notice> {
        // A manager that has just started has not asked yet.
        if now.not_leading.as_deref() == Some(super::JUST_STARTED) {
            return None;
        }
        let leads = now.not_leading.is_none();
        let before = self.leading.replace(leads);
        if before == Some(leads) || (before.is_none() && leads) {
            return None;
        }
        let (urgency, sentence) = match &now.not_leading {
            Some(why) => (Urgency::Critical, format!("{}: this manager does not lead: {why}", now.cluster)),
            None => (Urgency::Info, format!("{}: this manager leads", now.cluster)),
        };
        let reasons = now.not_leading.iter().cloned().collect();
        Some(Notice { sentence, reasons, ..notice(now, Occasion::Leadership, urgency) })
    }

    fn recovery_news(&mut self, now: &Snapshot, recovery: &Recovery) -> Option<Notice> {
        let ended = recovery.outcome();
        let state = (recovery.id.clone(), ended.is_some());
        if self.recovery.as_ref() == Some(&state) {
            return None;
        }
        self.recovery = Some(state);
        let about = RecoveryNotice {
            id: recovery.id.clone(),
            kind: recovery.kind,
            about: recovery.about.clone(),
            title: recovery.title.clone(),
            outcome: ended.cloned(),
            took: ended.and(recovery.entries.last()).map(|entry| entry.after),
        };
        let name = &now.cluster;
        let title = match recovery.kind {
            // Its title is its first plan's.
            PlanKind::Isolate | PlanKind::Promote => &format!("failover of {}", recovery.about),
            PlanKind::Switchover
            | PlanKind::Adopt
            | PlanKind::Rejoin
            | PlanKind::Repair
            | PlanKind::Topology => &recovery.title,
        };
        let (occasion, urgency, sentence, reasons) = match ended {
            None => {
                (Occasion::RecoveryBegan, Urgency::Warning, format!("{name}: begun: {title}"), Vec::new())
            }
            Some(Outcome::Done) => {
                (Occasion::RecoveryEnded, Urgency::Info, format!("{name}: done: {title}"), Vec::new())
            }
            Some(Outcome::Undone { why, left }) => {
                let reasons = std::iter::once(why.clone()).chain(left.iter().cloned()).collect();
                (
                    Occasion::RecoveryEnded,
                    Urgency::Critical,
                    format!("{name}: taken back: {title}: {why}"),
                    reasons,
                )
            }
            Some(Outcome::Failed { why }) => {
                let sentence = format!("{name}: failed, a person is needed: {title}: {why}");
                (Occasion::RecoveryEnded, Urgency::Critical, sentence, vec![why.clone()])
            }
        };
        Some(Notice { sentence, reasons, recovery: Some(about), ..notice(now, occasion, urgency) })
    }
}

fn notice(now: &Snapshot, occasion: Occasion, urgency: Urgency) -> Notice {
    Notice {
        at: clock::wall(),
        cluster: now.cluster.clone(),
        occasion,
        urgency,
        sentence: now.sentence.clone(),
        verdict: now.verdict,
        primary: now.primary.clone(),
        evidence: now.evidence.clone(),
        reasons: Vec::new(),
        recovery: None,
    }
}

fn urgency(verdict: Verdict) -> Urgency {
    match verdict {
        Verdict::Healthy | Verdict::Starting | Verdict::NotAdopted => Urgency::Info,
        Verdict::Degraded | Verdict::ManagerCutOff => Urgency::Warning,
        Verdict::DeadPrimary
        | Verdict::SilentPrimary
        | Verdict::HungPrimary
        | Verdict::UnreachablePrimary
        | Verdict::OverloadedPrimary
        | Verdict::MisconfiguredPrimary
        | Verdict::BlockedForAcks
        | Verdict::ClosedPrimary
        | Verdict::IsolatedPrimary
        | Verdict::DeadPrimaryAndReplicas
        | Verdict::SplitBrain => Urgency::Critical,
    }
}

fn without_figures(text: &str) -> String {
    let figure = |word: &&str| !word.starts_with(|c: char| c.is_ascii_digit());
    text.split(' ').filter(figure).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
#[path = "teller_tests.rs"]
pub(in crate::manager) mod tests;
