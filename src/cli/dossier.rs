//! What is in the transactions that only a returned member has, as text.

use super::output::{Screen, Tone};
use crate::model::extra::Dossier;

/// So many transactions are shown on a screen; the JSON has more, the file all.
const SHOWN: usize = 20;
/// So many changes of each.
const CHANGES: usize = 10;

/// The dossier under a heading of its own.
pub(super) fn text(screen: Screen, dossier: &Dossier) -> String {
    let saved = &dossier.saved;
    let mut lines = vec![
        String::new(),
        screen.paint(Tone::Strong, &format!("only {} has: {}", dossier.host, saved.set)),
        format!("  {saved}"),
        format!("  sha256 {}", saved.sha256),
    ];
    for told in dossier.shown.iter().take(SHOWN) {
        lines.push(format!("  {}  {}", told.at.format("%Y-%m-%d %H:%M:%S UTC"), told.gtid));
        lines.extend(told.changes.iter().take(CHANGES).map(|change| format!("    {change}")));
        if told.changes.len() > CHANGES {
            lines.push(format!("    and {} more change(s)", told.changes.len() - CHANGES));
        }
    }
    let more = saved.transactions.saturating_sub(dossier.shown.len().min(SHOWN) as u64);
    if more > 0 {
        lines.push(format!("  and {more} more transaction(s): see --json, or the file"));
    }
    if let Some(why) = &dossier.undecoded {
        lines.push(screen.paint(Tone::Warn, &format!("  values are not shown: {why}")));
    }
    if let Some(obstacle) = &saved.obstacle {
        lines.push(screen.paint(Tone::Warn, &format!("  their rows cannot be put back: {obstacle}")));
    }
    lines.join("\n")
}
