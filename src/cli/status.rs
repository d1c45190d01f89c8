//! One screen of a cluster: how it is, what it rests on, what would happen next. From a snapshot alone.

use chrono::{DateTime, Utc};

use super::output::{Screen, Tone};
use crate::decide::candidate::Candidate;
use crate::http::contract::{ClusterSummary, Node, Topology};
use crate::manager::snapshot::{Hearing, MemberSnapshot, Snapshot};
use crate::model::cluster::Mode;
use crate::model::observation::Access;
use crate::model::policy::Durability;
use crate::model::report::ThreadState;
use crate::model::time::human;
use crate::model::verdict::Verdict;

/// Longest state in the table; the whole text is among the issues.
const STATE_WIDTH: usize = 28;

/// Whether `status` ends with 0: healthy, or nobody's care yet.
pub(super) fn is_well(verdict: Verdict) -> bool {
    matches!(verdict, Verdict::Healthy | Verdict::NotAdopted)
}

fn tone(verdict: Verdict) -> Tone {
    match verdict {
        Verdict::Healthy => Tone::Good,
        Verdict::NotAdopted | Verdict::Starting | Verdict::Degraded | Verdict::ManagerCutOff => Tone::Warn,
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
        | Verdict::SplitBrain => Tone::Bad,
    }
}

fn mode(mode: Mode) -> &'static str {
    match mode {
        Mode::Observe => "observe: only watches",
        Mode::Manual => "manual: fails over on your word",
        Mode::Auto => "auto: fails over by itself",
    }
}

/// The whole screen.
pub(super) fn screen(screen: Screen, of: &Snapshot) -> String {
    let verdict = screen.paint(tone(of.verdict), &of.verdict.to_string().to_uppercase());
    let mut lines = vec![
        format!(
            "{}  {verdict}  ({})  {}",
            screen.paint(Tone::Strong, &of.cluster.0),
            mode(of.mode),
            screen.paint(Tone::Quiet, &time(of.at))
        ),
        format!("  {}", of.sentence),
    ];
    if of.recovering {
        lines.push(screen.paint(Tone::Warn, "  a recovery is running: mhactl follow"));
    }
    if let Some(why) = &of.not_leading {
        lines.push(screen.paint(Tone::Warn, &format!("  this manager does not lead: {why}")));
    }
    lines.push(String::new());
    lines.extend(facts(of).into_iter().map(|(name, tone, text)| {
        format!("  {} {}", screen.paint(Tone::Quiet, &format!("{name:<11}")), screen.paint(tone, &text))
    }));
    lines.push(String::new());
    lines.push(members(screen, of));
    let parked: Vec<String> = of
        .parked
        .iter()
        .map(|parked| format!("{} since {}: {}", parked.instance, time(parked.since), parked.why))
        .collect();
    let wishes = wishes(of);
    let lists = [
        ("refused", Tone::Bad, &of.refused),
        ("issues", Tone::Warn, &of.issues),
        ("parked: \"mhactl rejoin HOST --dry-run\" shows what can be done", Tone::Warn, &parked),
        ("by command, beside the configuration", Tone::Quiet, &wishes),
        ("evidence", Tone::Quiet, &of.evidence),
    ];
    for (title, tone, items) in lists {
        // Why a healthy cluster is healthy is in the table already.
        if !items.is_empty() && (title != "evidence" || of.verdict != Verdict::Healthy) {
            lines.push(String::new());
            lines.push(format!("  {}", screen.paint(tone, title)));
            lines.extend(items.iter().map(|item| format!("  - {item}")));
        }
    }
    lines.push(String::new());
    lines.extend(prospect(screen, of));
    lines.join("\n")
}

/// What operators asked of single members and what holds until they ask otherwise.
fn wishes(of: &Snapshot) -> Vec<String> {
    let wishes = &of.wishes;
    let added = wishes.added.iter().map(|member| format!("{} was added", member.instance));
    let removed = wishes.removed.iter().map(|instance| format!("{instance} was removed"));
    let below = wishes.below.iter().map(|it| format!("{} belongs below {}", it.instance, it.source));
    let stopped = wishes
        .stopped
        .iter()
        .map(|it| format!("{} was stopped by {} at {}: {}", it.instance, it.by, time(it.since), it.threads));
    let waiting = of.waiting.iter().map(|it| format!("{} is to be rebuilt: {}", it.instance, it.why));
    added.chain(removed).chain(below).chain(stopped).chain(waiting).collect()
}

fn time(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%d %H:%M:%S UTC").to_string()
}

fn facts(of: &Snapshot) -> Vec<(&'static str, Tone, String)> {
    let primary = match &of.primary {
        Some(primary) => ("primary", Tone::Plain, format!("{primary}, generation {}", of.generation)),
        None => ("primary", Tone::Bad, "none known".to_owned()),
    };
    let mut facts = vec![primary, durability(of)];
    let leader = of.members.iter().find(|member| of.primary.as_ref() == Some(&member.instance));
    if let Some(vip) = &of.vip {
        let unheard = leader.filter(|leader| leader.agent == Hearing::NotHeard);
        facts.push(match (&of.vip_on, unheard) {
            (Some(holder), _) => ("VIP", Tone::Plain, format!("{vip}, held by {holder}")),
            (None, Some(leader)) => {
                let text = format!("{vip}, holder unknown: the agent of {} is not heard", leader.instance);
                ("VIP", Tone::Warn, text)
            }
            (None, None) => ("VIP", Tone::Bad, format!("{vip}, held by nobody")),
        });
    }
    if let Some(leader) = leader {
        let (tone, text) = match (leader.lease, leader.access) {
            (Some(left), _) => (Tone::Plain, format!("{} left on {}", human(left), leader.instance)),
            (None, Some(Access::Closed)) => {
                (Tone::Bad, format!("none: {} is closed to clients", leader.instance))
            }
            (None, _) if leader.agent == Hearing::None => {
                (Tone::Plain, format!("none: {} has no agent", leader.instance))
            }
            (None, _) if leader.agent == Hearing::Ok => {
                (Tone::Warn, format!("none held by {}", leader.instance))
            }
            (None, _) => (Tone::Warn, format!("unknown: the agent of {} is not heard", leader.instance)),
        };
        facts.push(("lease", tone, text));
    }
    facts
}

fn durability(of: &Snapshot) -> (&'static str, Tone, String) {
    let name = "durability";
    if let Some(degraded) = &of.degraded {
        let text = format!(
            "lossless is not in force since {}: {}; an acknowledged row may be on the primary alone",
            time(degraded.since),
            degraded.why
        );
        return (name, Tone::Warn, text);
    }
    let names: Vec<String> = of.ackers.iter().map(ToString::to_string).collect();
    match (of.durability, of.acks) {
        (Durability::Async, _) => (name, Tone::Plain, "async: acknowledged means on the primary".to_owned()),
        (Durability::Lossless, 0) => {
            let text = "lossless is wanted and not in force: an acknowledged row may be on the primary alone";
            (name, Tone::Warn, text.to_owned())
        }
        (Durability::Lossless, _) if names.is_empty() => {
            (name, Tone::Bad, "lossless: no acker is there, and every commit waits for one".to_owned())
        }
        (Durability::Lossless, acks) => {
            let text = format!("lossless: every commit waits for {acks} of {}", names.join(", "));
            (name, Tone::Plain, text)
        }
    }
}

fn members(screen: Screen, of: &Snapshot) -> String {
    let head = [
        "MEMBER", "ROLE", "STATE", "VERSION", "WRITES", "SOURCE", "STREAM", "LAG", "TO APPLY", "AGENT", "VIP",
    ];
    screen.table(&head, of.members.iter().map(member).collect())
}

fn member(of: &MemberSnapshot) -> Vec<(Tone, String)> {
    let dash = || "-".to_owned();
    let good = |good: bool, otherwise: Tone| if good { Tone::Plain } else { otherwise };
    let role = if of.role == "primary" { Tone::Strong } else { Tone::Plain };
    let (stream_tone, stream) = stream(of);
    vec![
        (role, of.instance.to_string()),
        (role, of.role.clone()),
        (good(of.state == "ok", Tone::Bad), shortened(&of.state)),
        (Tone::Plain, of.version.map_or_else(dash, |version| version.to_string())),
        (Tone::Plain, writes(of).to_owned()),
        (Tone::Plain, of.source.as_ref().map_or_else(dash, ToString::to_string)),
        (stream_tone, stream.to_owned()),
        (Tone::Plain, lag(of).unwrap_or_else(dash)),
        (Tone::Plain, if of.source.is_some() { of.to_apply.to_string() } else { dash() }),
        (good(of.agent.is_fine(), Tone::Warn), of.agent.to_string()),
        (Tone::Plain, if of.vip { "here".to_owned() } else { dash() }),
    ]
}

fn shortened(text: &str) -> String {
    if text.chars().count() <= STATE_WIDTH {
        return text.to_owned();
    }
    let short: String = text.chars().take(STATE_WIDTH - 1).collect();
    format!("{}…", short.trim_end())
}

fn writes(of: &MemberSnapshot) -> &'static str {
    match (of.read_only, of.access) {
        (_, Some(Access::Closed)) => "fenced",
        (Some(false), _) => "yes",
        (Some(true), _) => "no",
        (None, _) => "?",
    }
}

fn stream(of: &MemberSnapshot) -> (Tone, &'static str) {
    match (of.receiver, of.applier) {
        (None, None) => (Tone::Plain, "-"),
        (Some(ThreadState::Running), Some(ThreadState::Running)) => (Tone::Plain, "running"),
        (Some(ThreadState::Connecting), Some(ThreadState::Running)) => (Tone::Warn, "connecting"),
        (Some(ThreadState::Stopped), Some(ThreadState::Stopped)) => (Tone::Bad, "stopped"),
        (Some(ThreadState::Stopped), _) => (Tone::Bad, "receiver stopped"),
        (_, Some(ThreadState::Stopped)) => (Tone::Bad, "applier stopped"),
        (_, _) => (Tone::Warn, "unclear"),
    }
}

/// True lag where the heartbeat tells it, else the server's own word.
fn lag(of: &MemberSnapshot) -> Option<String> {
    of.source.as_ref()?;
    of.heartbeat_age.map(human).or_else(|| of.seconds_behind.map(|seconds| format!("{seconds} s")))
}

/// "If the primary died now", and who could not lead.
fn prospect(screen: Screen, of: &Snapshot) -> Vec<String> {
    let best = of.candidates.first().filter(|candidate| candidate.is_eligible());
    let mut lines = match (of.prospect.split_once(": "), best) {
        // While it serves: what was decided.
        (Some((title, sentence)), _) => {
            let tone = if sentence.contains("nobody would lead") { Tone::Bad } else { Tone::Plain };
            let title = screen.paint(Tone::Quiet, &format!("{title}:"));
            vec![format!("  {title} {}", screen.paint(tone, sentence))]
        }
        // A best candidate is no promise: what is refused is listed above.
        (None, Some(best)) if !of.refused.is_empty() => {
            let title = screen.paint(Tone::Quiet, "best candidate, if nothing were refused:");
            vec![format!("  {title} {}", to_fetch(best))]
        }
        (None, Some(best)) => {
            vec![format!("  {} {}", screen.paint(Tone::Quiet, "in a failover:"), to_fetch(best))]
        }
        (None, None) => vec![screen.paint(Tone::Bad, "  nobody could lead")],
    };
    for other in of.candidates.iter().filter(|other| Some(*other) != best && !other.is_eligible()) {
        let reasons: Vec<String> = other.against.iter().map(ToString::to_string).collect();
        lines.push(format!("  {} could not: {}", other.instance, reasons.join("; ")));
    }
    lines
}

fn to_fetch(best: &Candidate) -> String {
    let apply = match best.to_apply {
        0 => "nothing left to apply".to_owned(),
        n => format!("at most {n} transactions to apply first"),
    };
    let fetch = match best.behind {
        0 => String::new(),
        n => format!(", at most {n} to fetch from another replica"),
    };
    format!("{} could lead, {apply}{fetch}", best.instance)
}

/// Many clusters, a line each.
pub(super) fn many(screen: Screen, clusters: &[ClusterSummary]) -> String {
    let rows = clusters.iter().map(|of| {
        let primary = of.primary.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string);
        vec![
            (Tone::Strong, of.cluster.0.clone()),
            (tone(of.verdict), of.verdict.to_string()),
            (Tone::Plain, primary),
            (
                if of.writable { Tone::Plain } else { Tone::Bad },
                if of.writable { "yes" } else { "no" }.to_owned(),
            ),
            (Tone::Plain, of.issues.to_string()),
            (Tone::Plain, of.sentence.clone()),
        ]
    });
    screen.table(&["CLUSTER", "VERDICT", "PRIMARY", "WRITABLE", "ISSUES", ""], rows.collect())
}

/// The trees.
pub(super) fn topology(screen: Screen, of: &Topology) -> String {
    let verdict = screen.paint(tone(of.verdict), &of.verdict.to_string());
    let mut lines = vec![format!("{}  {verdict}", screen.paint(Tone::Strong, &of.cluster.0))];
    for root in &of.roots {
        branch(screen, root, "", "", &mut lines);
    }
    lines.join("\n")
}

fn branch(screen: Screen, node: &Node, lead: &str, below: &str, lines: &mut Vec<String>) {
    let of = &node.member;
    let (stream_tone, stream) = stream(of);
    let mut words = vec![of.role.clone()];
    if of.state != "ok" {
        words.push(screen.paint(Tone::Bad, &of.state));
    }
    match writes(of) {
        "yes" => {
            words.push(screen.paint(if of.role == "primary" { Tone::Good } else { Tone::Bad }, "writable"))
        }
        "fenced" => words.push(screen.paint(Tone::Warn, "fenced")),
        _ => {}
    }
    if of.vip {
        words.push("VIP".to_owned());
    }
    if !matches!(stream, "-" | "running") {
        words.push(screen.paint(stream_tone, stream));
    }
    words.extend(lag(of).map(|lag| format!("lag {lag}")));
    words.extend(
        node.stray_source.as_ref().map(|source| screen.paint(Tone::Warn, &format!("follows {source}"))),
    );
    lines.push(format!(
        "{lead}{}  {}",
        screen.paint(Tone::Strong, &of.instance.to_string()),
        words.join(", ")
    ));
    for (index, replica) in node.replicas.iter().enumerate() {
        let last = index + 1 == node.replicas.len();
        let (joint, under) = if last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
        branch(screen, replica, &format!("{below}{joint}"), &format!("{below}{under}"), lines);
    }
}
