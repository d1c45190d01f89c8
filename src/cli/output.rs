//! What people read. Text of servers is shown without its control characters (F118).
#![expect(clippy::print_stdout, reason = "this is where mhactl prints")]

use std::fmt::Write as _;

use anyhow::Context as _;
use comfy_table::Table;
use serde::Serialize;

use super::OK;
use crate::execute::journal::{Recovery, What};
use crate::manager::event::Proposal;
use crate::manager::snapshot::{MemberSnapshot, Snapshot};
use crate::model::instance::InstanceId;
use crate::model::time::human;

/// Prints a line, made safe for a terminal.
pub(super) fn line(text: &str) {
    println!("{}", safe(text));
}

/// Prints a trouble to standard error.
pub(super) fn trouble(text: &str) {
    eprintln!("mhactl: {}", safe(text));
}

fn safe(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect()
}

/// Prints a value as JSON or as text.
pub(super) fn show<T: Serialize>(
    json: bool,
    value: &T,
    text: impl FnOnce(&T) -> String,
) -> anyhow::Result<u8> {
    if json {
        println!("{}", serde_json::to_string(value).context("the value has no JSON")?);
    } else {
        line(&text(value));
    }
    Ok(OK)
}

/// One screen.
pub(super) fn status(cluster: &Snapshot) -> String {
    let mut text = format!("{}\n\n", cluster.sentence);
    let primary = cluster.primary.as_ref().map_or_else(|| "none".to_owned(), ToString::to_string);
    let vip = match (&cluster.vip, &cluster.vip_on) {
        (Some(vip), Some(on)) => format!(", VIP {} on {on}", vip.address),
        (Some(vip), None) => format!(", VIP {} nowhere", vip.address),
        (None, _) => String::new(),
    };
    let _ = writeln!(text, "primary     {primary}, generation {}{vip}", cluster.generation);
    let ackers: Vec<String> = cluster.ackers.iter().map(ToString::to_string).collect();
    let durability = if cluster.acks > 0 {
        format!("lossless: {} of {} acknowledge each commit", cluster.acks, ackers.join(", "))
    } else {
        "asynchronous: an acknowledged row may be on the primary alone".to_owned()
    };
    let _ = writeln!(text, "durability  {durability}");
    let _ = writeln!(text, "if the primary died now: {}", cluster.prospect);
    if let Some(why) = &cluster.not_leading {
        let _ = writeln!(text, "this manager does not lead: {why}");
    }
    let _ = write!(text, "\n{}", members(&cluster.members));
    text
}

fn members(members: &[MemberSnapshot]) -> String {
    let mut table = Table::new();
    table.set_header([
        "member",
        "role",
        "state",
        "read-only",
        "source",
        "threads",
        "behind",
        "agent",
        "access",
    ]);
    for member in members {
        let threads = match (member.receiver, member.applier) {
            (Some(receiver), Some(applier)) => format!("{receiver:?}/{applier:?}").to_lowercase(),
            (Some(_), None) | (None, Some(_)) | (None, None) => String::new(),
        };
        let behind = member.seconds_behind.map_or_else(String::new, |seconds| format!("{seconds} s"));
        table.add_row([
            member.instance.to_string(),
            member.role.clone(),
            member.state.clone(),
            member.read_only.map_or_else(String::new, |on| if on { "yes" } else { "no" }.to_owned()),
            member.source.as_ref().map_or_else(String::new, ToString::to_string),
            threads,
            behind,
            member.agent.clone(),
            member.access.map_or_else(String::new, |access| {
                format!("{access:?}").split(' ').next().unwrap_or("").to_lowercase()
            }),
        ]);
    }
    table.to_string()
}

/// Who replicates from whom, as a tree.
pub(super) fn topology(cluster: &Snapshot) -> String {
    let roots = cluster.members.iter().filter(|one| {
        one.source
            .as_ref()
            .is_none_or(|source| !cluster.members.iter().any(|other| other.instance == *source))
    });
    let mut text = String::new();
    for root in roots {
        branch(cluster, root, 0, &mut text);
    }
    text.trim_end().to_owned()
}

fn branch(cluster: &Snapshot, member: &MemberSnapshot, depth: usize, text: &mut String) {
    let _ = writeln!(text, "{}{} ({}, {})", "  ".repeat(depth), member.instance, member.role, member.state);
    if depth > cluster.members.len() {
        return;
    }
    let under = |one: &&MemberSnapshot| {
        one.source.as_ref().is_some_and(|source: &InstanceId| *source == member.instance)
    };
    for child in cluster.members.iter().filter(under) {
        branch(cluster, child, depth + 1, text);
    }
}

/// What a failover would do.
pub(super) fn proposal(proposal: &Proposal) -> String {
    let mut parts = vec![proposal.sentence.clone()];
    parts.extend(proposal.plans.iter().map(ToString::to_string));
    parts.extend(proposal.blockers.iter().map(|why| format!("in the way: {why}")));
    parts.join("\n\n")
}

/// A recovery, line by line, in milliseconds since it began.
pub(super) fn timeline(recovery: &Recovery) -> String {
    let mut text = format!("{}  {}\n", recovery.id, recovery.title);
    for entry in &recovery.entries {
        let said = match &entry.what {
            What::Accepted { plan } => plan.title.clone(),
            What::Stage { name, .. } => format!("{name}:"),
            What::Done { step, took, note, .. } => {
                format!("  {step} ({}){}{note}", human(*took), if note.is_empty() { "" } else { ": " })
            }
            What::Failed { step, why, .. } => format!("  FAILED {step}: {why}"),
            What::Undoing { stage } => format!("taking back {stage}"),
            What::Refused { blockers } => format!("refused: {}", blockers.join("; ")),
            What::Ended { outcome } => match outcome.trouble() {
                None => "done".to_owned(),
                Some(why) => format!("NOT DONE: {why}"),
            },
        };
        let _ = writeln!(text, "{:>10.1} ms  {said}", entry.after.as_secs_f64() * 1_000.0);
    }
    text.trim_end().to_owned()
}
