//! PURE. In what order servers have their turn, and when one is level again: from snapshots alone.

use std::fmt;
use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::manager::snapshot::{MemberSnapshot, Snapshot};
use crate::model::instance::InstanceId;
use crate::model::observation::Access;
use crate::model::report::ThreadState;
use crate::model::time::human;

/// A server is believed from an answer that was asked for so long after its command ended.
const AFTER: Duration = Duration::from_secs(1);

/// One turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Turn {
    Replica(InstanceId),
    Switchover,
    FormerPrimary(InstanceId),
}

impl Turn {
    /// The word in the command's environment.
    pub(super) fn role(&self) -> &'static str {
        match self {
            Self::Replica(_) | Self::Switchover => "replica",
            Self::FormerPrimary(_) => "former-primary",
        }
    }

    /// The server the command is run for.
    pub(super) fn instance(&self) -> Option<&InstanceId> {
        match self {
            Self::Replica(instance) | Self::FormerPrimary(instance) => Some(instance),
            Self::Switchover => None,
        }
    }
}

impl fmt::Display for Turn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Replica(instance) => write!(f, "{instance}, a replica"),
            Self::Switchover => f.write_str("switchover"),
            Self::FormerPrimary(instance) => write!(f, "{instance}, the former primary"),
        }
    }
}

/// What is asked of the order.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub(super) skip: &'a [InstanceId],
    pub(super) max_lag: Duration,
    /// Also where commits may wait meanwhile.
    pub(super) force: bool,
}

/// Replicas first, those that nothing is below and that would lead last before the others; then the primary, as a replica. Or everything
/// in the way.
pub(super) fn order(of: &Snapshot, wanted: Wanted<'_>) -> Result<Vec<Turn>, Vec<String>> {
    let mut found = Vec::new();
    found.extend(of.not_leading.as_ref().map(|why| format!("this manager does not lead: {why}")));
    if of.recovering {
        found.push("a recovery is running; follow it with \"mhactl follow\"".to_owned());
    }
    found.extend(unwell(of));
    let Some(primary) = &of.primary else {
        found.push("no primary is known; run \"mhactl adopt\" first".to_owned());
        return Err(found);
    };
    let replicas = of.members.iter().filter(|member| member.instance != *primary);
    let mut todo: Vec<&MemberSnapshot> =
        replicas.filter(|member| !wanted.skip.contains(&member.instance)).collect();
    for member in &todo {
        found.extend(
            trouble(of, member, wanted.max_lag, None)
                .map(|why| format!("{why}; mend that, or leave it out with --skip {}", member.instance)),
        );
    }
    let acker = todo.iter().find(|member| of.ackers.contains(&member.instance));
    if let Some(acker) = acker.filter(|_| of.acks > 0 && of.ackers.len() <= of.acks as usize && !wanted.force)
    {
        found.push(format!(
            "every commit waits for {} of {} acker(s): writers would wait while {} is worked on; add a replica, or --force",
            of.acks,
            of.ackers.len(),
            acker.instance
        ));
    }
    let strangers = wanted.skip.iter().filter_map(|skipped| of.stranger(skipped));
    found.extend(strangers.map(|stranger| format!("--skip: {stranger}")));
    if !found.is_empty() {
        return Err(found);
    }
    let best_last =
        |instance: &InstanceId| of.candidates.iter().rev().position(|it| it.instance == *instance);
    todo.sort_by_key(|member| (std::cmp::Reverse(depth(of, member)), best_last(&member.instance)));
    let mut turns: Vec<Turn> =
        todo.into_iter().map(|member| Turn::Replica(member.instance.clone())).collect();
    if !wanted.skip.contains(primary) {
        turns.extend([Turn::Switchover, Turn::FormerPrimary(primary.clone())]);
    }
    Ok(turns)
}

/// How many others its stream goes through.
fn depth(of: &Snapshot, member: &MemberSnapshot) -> usize {
    let (mut at, mut depth) = (member, 0);
    while let Some(source) = at.source.as_ref().filter(|_| depth < of.members.len()) {
        let Some(next) = of.members.iter().find(|member| member.instance == *source) else { break };
        (at, depth) = (next, depth + 1);
    }
    depth
}

fn unwell(of: &Snapshot) -> Option<String> {
    (!of.verdict.serves()).then(|| of.sentence.clone())
}

/// What keeps a server from being a level replica, if anything does; after a command only by an answer asked for `after` it.
fn trouble(
    of: &Snapshot,
    member: &MemberSnapshot,
    max_lag: Duration,
    after: Option<DateTime<Utc>>,
) -> Option<String> {
    let who = &member.instance;
    if let Some(parked) = of.parked.iter().find(|parked| parked.instance == *who) {
        return Some(format!("{who} is parked: {}", parked.why));
    }
    if let Some(stopped) = of.wishes.stopped(who) {
        return Some(format!("{who} was stopped by {}", stopped.by));
    }
    if member.state != "ok" {
        return Some(format!("{who} does not answer ({})", member.state));
    }
    if after.is_some_and(|after| member.asked_at.is_none_or(|asked| asked <= after + AFTER)) {
        return Some(format!("{who} was not asked again yet"));
    }
    if matches!(member.access, Some(Access::Closed)) {
        return Some(format!("{who} is fenced: not led back yet"));
    }
    if !member.agent.is_fine() {
        return Some(format!("no word from the agent on {}", who.host));
    }
    let runs = |state: Option<ThreadState>| state == Some(ThreadState::Running);
    if !runs(member.receiver) || !runs(member.applier) {
        return Some(format!("{who} does not replicate"));
    }
    let lag = member.heartbeat_age.or_else(|| member.seconds_behind.map(Duration::from_secs));
    match lag {
        Some(lag) if lag <= max_lag => None,
        Some(lag) => Some(format!("{who} is {} behind", human(lag))),
        None => Some(format!("how far {who} is behind is not known yet")),
    }
}

/// Why the cluster is not again as `before` for the server whose turn it was, if so.
pub(super) fn not_level(
    before: &Snapshot,
    now: &Snapshot,
    instance: &InstanceId,
    max_lag: Duration,
    after: DateTime<Utc>,
) -> Option<String> {
    if let Some(why) = unwell(now) {
        return Some(why);
    }
    if now.recovering {
        return Some("a recovery is running".to_owned());
    }
    let Some(member) = now.members.iter().find(|member| member.instance == *instance) else {
        return Some(format!("{instance} is no member any more"));
    };
    if let Some(why) = trouble(now, member, max_lag, Some(after)) {
        return Some(why);
    }
    let could = |of: &Snapshot| of.candidates.iter().any(|it| it.instance == *instance && it.is_eligible());
    if could(before) && !could(now) {
        let candidate = now.candidates.iter().find(|candidate| candidate.instance == *instance);
        let why = candidate.map_or_else(|| "no candidate".to_owned(), ToString::to_string);
        return Some(format!("it could lead before its turn, and cannot now: {why}"));
    }
    let acks = |of: &Snapshot| of.ackers.contains(instance);
    (acks(before) && !acks(now)).then(|| format!("{instance} acknowledged before its turn, and does not now"))
}
