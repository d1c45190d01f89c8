//! A recovery as lines, one per entry, in milliseconds since it began: the same live and in history.

use std::fmt::Write as _;
use std::time::Duration;

use super::output::{Screen, Tone};
use crate::decide::plan::PlanKind;
use crate::execute::Outcome;
use crate::execute::journal::{Entry, Recovery, What};

/// Where the durations of steps stand.
const STEP_WIDTH: usize = 60;

/// The line above a recovery's entries.
pub(super) fn head(screen: Screen, recovery: &Recovery) -> String {
    let began = recovery.began_at.format("%Y-%m-%d %H:%M:%S%.3f UTC");
    let title = screen.paint(Tone::Strong, &format!("{} of {}", name(recovery.kind), recovery.about));
    let mut text = format!("{}  {title}  {began}", recovery.id);
    if !recovery.title.is_empty() {
        let _ = write!(text, "\n  {}", recovery.title);
    }
    if let Some(ask) = &recovery.ask {
        let words = [
            ask.to.as_ref().map(|to| format!("to {to}")),
            ask.accept_loss.then(|| "loss accepted".to_owned()),
            ask.old_primary_is_dead.then(|| "old primary vouched dead".to_owned()),
        ];
        let by = if ask.by.is_empty() { "an operator" } else { ask.by.as_str() };
        let said: Vec<String> = words.into_iter().flatten().collect();
        let said = if said.is_empty() { String::new() } else { format!(" ({})", said.join(", ")) };
        let _ = write!(text, "\n  asked by {by}{said}");
    }
    text
}

/// What an operator calls it: a failover is stored under its first plan.
fn name(kind: PlanKind) -> &'static str {
    match kind {
        PlanKind::Isolate | PlanKind::Promote => "failover",
        PlanKind::Switchover => "switchover",
        PlanKind::Adopt => "adoption",
        PlanKind::Rejoin => "rejoin",
        PlanKind::Repair => "repair",
        PlanKind::Topology => "topology",
    }
}

/// One entry.
pub(super) fn line(screen: Screen, entry: &Entry) -> String {
    let at = format!("{:>10}  ", format!("+{} ms", entry.after.as_millis()));
    let at = screen.paint(Tone::Quiet, &at);
    let below = " ".repeat(16);
    match &entry.what {
        What::Accepted { plan } => {
            format!("{at}{}", screen.paint(Tone::Quiet, &format!("plan {}: {}", plan.kind, plan.title)))
        }
        What::Stage { name, .. } => format!("{at}{}", screen.paint(Tone::Strong, name)),
        What::Done { step, took, note, .. } => {
            let mut text = format!("{at}  {step:<STEP_WIDTH$} {}", span(*took));
            if !note.is_empty() {
                let _ = write!(text, "\n{below}{}", screen.paint(Tone::Quiet, note));
            }
            text
        }
        What::Failed { step, took, why, .. } => {
            let failed = screen.paint(Tone::Bad, "FAILED");
            format!(
                "{at}  {step:<STEP_WIDTH$} {}  {failed}\n{below}{}",
                span(*took),
                screen.paint(Tone::Bad, why)
            )
        }
        What::Undoing { stage } => {
            format!("{at}{}", screen.paint(Tone::Warn, &format!("taking back: {stage}")))
        }
        What::Refused { blockers } => {
            listed(format!("{at}{}", screen.paint(Tone::Bad, "refused")), &below, blockers)
        }
        What::Ended { outcome } => match outcome {
            Outcome::Done => format!("{at}{}", screen.paint(Tone::Good, "done")),
            Outcome::Undone { why, left } => {
                let text = format!("{at}{}: {why}", screen.paint(Tone::Warn, "taken back"));
                let left: Vec<String> = left.iter().map(|left| format!("not taken back: {left}")).collect();
                listed(text, &below, &left)
            }
            Outcome::Failed { why } => {
                format!("{at}{}: {why}", screen.paint(Tone::Bad, "FAILED, a person is needed"))
            }
        },
    }
}

fn listed(mut text: String, indent: &str, items: &[String]) -> String {
    for item in items {
        let _ = write!(text, "\n{indent}- {item}");
    }
    text
}

fn span(took: Duration) -> String {
    format!("{:>7}", format!("{} ms", took.as_millis()))
}

/// The whole recovery.
pub(super) fn whole(screen: Screen, recovery: &Recovery) -> String {
    let mut lines = vec![head(screen, recovery)];
    lines.extend(recovery.entries.iter().map(|entry| line(screen, entry)));
    if recovery.outcome().is_none() {
        lines.push(format!("{:>10}  {}", "", screen.paint(Tone::Warn, "still running: mhactl follow")));
    }
    lines.join("\n")
}
