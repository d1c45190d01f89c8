//! What was asked of this manager, and what it remembers of its own attempts: data, beside the view.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::cluster::ClusterName;
use super::extra::Remedy;
use super::instance::InstanceId;
use super::time::Moment;

/// An operator's word for a failover.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailoverAsk {
    /// Promote this one, or nobody.
    #[serde(default)]
    pub to: Option<InstanceId>,
    /// Go on although acknowledged rows may be lost; what may be lost is named in the plan.
    #[serde(default)]
    pub accept_loss: bool,
    /// The operator vouches that the old primary cannot write (promotion rule f).
    #[serde(default)]
    pub old_primary_is_dead: bool,
    /// Who asked, for the history.
    #[serde(default)]
    pub by: String,
}

/// An operator's word for a planned change of primary.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SwitchoverAsk {
    /// To this one; else to the best.
    pub to: Option<InstanceId>,
    /// How long writers may wait at most; past it everything is taken back.
    pub write_block: Duration,
    /// How far behind the target may be, and how long it may take to catch up before writers are blocked.
    pub wait_lag: Duration,
    /// How long transactions that are open may take to end before writers are blocked.
    pub drain: Duration,
    /// Sessions with long transactions are ended before writers are blocked, instead of standing in the way.
    pub kill_long_transactions: bool,
    /// A handoff's: what was left until its deadline; `wait_lag` follows from it.
    pub remaining: Option<Duration>,
    /// Who asked, for the history.
    pub by: String,
}

impl Default for SwitchoverAsk {
    fn default() -> Self {
        Self {
            to: None,
            write_block: Duration::from_secs(2),
            wait_lag: Duration::from_secs(10),
            drain: Duration::from_millis(500),
            kill_long_transactions: false,
            remaining: None,
            by: String::new(),
        }
    }
}

/// How an operator wants a returned member dealt with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum How {
    /// As policy says.
    #[default]
    Auto,
    Flashback,
    Park,
    /// Its data is replaced by a copy of another server's.
    Rebuild,
}

impl How {
    /// What is done instead of what policy says.
    pub fn remedy(self) -> Option<Remedy> {
        match self {
            Self::Auto => None,
            Self::Flashback => Some(Remedy::Flashback),
            Self::Park => Some(Remedy::Park),
            Self::Rebuild => Some(Remedy::Rebuild),
        }
    }
}

/// A plan that was taken back, or a repair that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Undone {
    /// Whom it was about.
    pub instance: InstanceId,
    pub at: Moment,
    /// How many times in a row.
    pub times: u32,
    pub why: String,
}

impl Undone {
    /// How long to wait before the next attempt: 2 s, doubled each time, at most 5 min.
    pub fn pause(&self) -> Duration {
        Duration::from_secs(2)
            .saturating_mul(1 << self.times.saturating_sub(1).min(10))
            .min(Duration::from_secs(300))
    }
}

/// The longest pause between two attempts to have somebody serve, while nobody does.
const WHILE_OUT: Duration = Duration::from_secs(2);
/// What the other clusters of one manager go through at the same time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AtOnce {
    /// The others whose primaries were lost within the last minute.
    pub lost: Vec<ClusterName>,
    /// The most automatic failovers within a minute.
    pub limit: u32,
    /// That many have begun: no other begins by itself before this is over.
    pub held_back: Option<Duration>,
}

/// So many primaries lost within a minute have one likely cause.
const MANY: usize = 3;

impl AtOnce {
    /// What an operator should know where this cluster's primary is not the only one that was lost.
    pub fn warning(&self) -> Option<String> {
        let lost = self.lost.len() + 1;
        if lost < MANY {
            return None;
        }
        let names: Vec<&str> = self.lost.iter().take(5).map(|name| name.0.as_str()).collect();
        let more = if self.lost.len() > names.len() { " and others" } else { "" };
        Some(format!(
            "{lost} clusters lost their primaries within a minute (this one, {}{more}): look for one cause, such as the network, a rack or \
             this manager's host",
            names.join(", ")
        ))
    }
}

/// A plan that ended well, and how many times in a row it was wanted again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repeated {
    /// What it does, without the figures.
    pub shape: String,
    pub at: Moment,
    pub times: u32,
}

/// So often in a row a plan may be carried out without a pause.
const FREE_REPEATS: u32 = 3;

/// What is wanted again within this, and four pauses, has had no effect.
const SOON: Duration = Duration::from_secs(10);

/// So many different plans are remembered.
const REPEATED: usize = 16;

impl Repeated {
    /// How long to wait before it is done again: after the third time in a row 4 s, doubled each time, at most 5 min.
    pub fn pause(&self) -> Duration {
        match self.times.checked_sub(FREE_REPEATS) {
            None => Duration::ZERO,
            Some(more) => {
                Duration::from_secs(4).saturating_mul(1 << more.min(10)).min(Duration::from_secs(300))
            }
        }
    }
}

/// Generations and sets grow each time: what is left tells whether it is the same again.
fn shape(title: &str) -> String {
    let figure = |word: &&str| word.starts_with(|c: char| c.is_ascii_digit());
    title.split(' ').filter(|word| !figure(word)).collect::<Vec<_>>().join(" ")
}

/// So many lines about what was not taken back are kept.
const LEFT: usize = 64;

/// Everything `decide` is given beside the view.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intents {
    pub failover: Option<FailoverAsk>,
    pub undone: Vec<Undone>,
    /// Whom an operator wants brought back now: it is, also where it would be left alone.
    #[serde(default)]
    pub asked: Option<InstanceId>,
    /// When the last recovery ended: what was seen before it is no reason for another.
    #[serde(default)]
    pub settled_at: Option<Moment>,
    /// What taking a recovery back could not do, as its outcome says it: each line begins with whom it is about.
    #[serde(default)]
    pub left: Vec<String>,
    /// How many rebuilds of a member were begun in a row.
    #[serde(default)]
    pub rebuilds: Vec<(InstanceId, u32)>,
    /// Whose event scheduler was last seen to be as recorded, and when.
    #[serde(default)]
    pub events_settled: Option<(InstanceId, Moment)>,
    /// What the other clusters of this manager go through now.
    #[serde(default)]
    pub at_once: AtOnce,
    /// Plans that ended well and were wanted again at once: what they did does not last.
    #[serde(default)]
    pub repeated: Vec<Repeated>,
    /// Attempts at members' events since those were last as wanted. Of no account for anything else done about them.
    #[serde(default)]
    pub events_tried: Vec<Undone>,
}

impl Intents {
    /// How long to leave `instance` alone, and why.
    pub fn pause(&self, instance: &InstanceId, now: Moment) -> Option<(Duration, &str)> {
        let last = self.undone.iter().find(|undone| undone.instance == *instance)?;
        let remaining = last.pause().saturating_sub(now.since(last.at));
        (!remaining.is_zero()).then_some((remaining, last.why.as_str()))
    }

    /// The same while clients are out: nobody waits longer than 2 s for the next attempt, however many failed.
    pub fn pause_while_out(&self, instance: &InstanceId, now: Moment) -> Option<(Duration, &str)> {
        let last = self.undone.iter().find(|undone| undone.instance == *instance)?;
        let remaining = last.pause().min(WHILE_OUT).saturating_sub(now.since(last.at));
        (!remaining.is_zero()).then_some((remaining, last.why.as_str()))
    }

    /// How many attempts at `instance` failed in a row.
    pub fn failures(&self, instance: &InstanceId) -> u32 {
        self.undone.iter().find(|undone| undone.instance == *instance).map_or(0, |undone| undone.times)
    }

    /// How many rebuilds of `instance` were begun since it last followed, or an operator last spoke of it.
    pub fn rebuilds(&self, instance: &InstanceId) -> u32 {
        self.rebuilds.iter().find(|(about, _)| about == instance).map_or(0, |(_, times)| *times)
    }

    /// Notes another one.
    pub fn note_rebuild(&mut self, instance: &InstanceId) {
        let times = self.rebuilds(instance) + 1;
        self.forget_rebuilds(instance);
        self.rebuilds.push((instance.clone(), times));
    }

    pub fn forget_rebuilds(&mut self, instance: &InstanceId) {
        self.rebuilds.retain(|(about, _)| about != instance);
    }

    /// How long to leave the events of `instance` alone.
    pub fn events_pause(&self, instance: &InstanceId, now: Moment) -> Option<Duration> {
        let last = self.events_tried.iter().find(|tried| tried.instance == *instance)?;
        let remaining = last.pause().saturating_sub(now.since(last.at));
        (!remaining.is_zero()).then_some(remaining)
    }

    /// Notes an attempt at the events of `instance`; a long time after the last one it is the first again.
    pub fn note_events_try(&mut self, instance: &InstanceId, at: Moment) {
        let before = self.events_tried.iter().position(|tried| tried.instance == *instance);
        let before = before.map(|index| self.events_tried.swap_remove(index));
        let before = before.filter(|tried| at.since(tried.at) < tried.pause() * 4);
        let times = before.map_or(0, |tried| tried.times) + 1;
        self.events_tried.push(Undone { instance: instance.clone(), at, times, why: String::new() });
    }

    /// Notes a failed attempt.
    pub fn note_undone(&mut self, instance: &InstanceId, at: Moment, why: &str) {
        let times = self.failures(instance) + 1;
        self.undone.retain(|undone| undone.instance != *instance);
        self.undone.push(Undone { instance: instance.clone(), at, times, why: why.to_owned() });
    }

    /// Notes that a plan ended well. Wanted again soon after, it is one more in the row.
    pub fn note_repeat(&mut self, title: &str, at: Moment) {
        let shape = shape(title);
        let before = self.repeated.iter().position(|repeated| repeated.shape == shape);
        let before = before.map(|index| self.repeated.remove(index));
        let soon = |before: &Repeated| at.since(before.at) < before.pause() * 4 + SOON;
        let times = before.filter(soon).map_or(0, |before| before.times) + 1;
        self.repeated.push(Repeated { shape, at, times });
        let excess = self.repeated.len().saturating_sub(REPEATED);
        self.repeated.drain(..excess);
    }

    /// How long a plan is not carried out again because it has had no lasting effect, and how often it was.
    pub fn in_vain(&self, title: &str, now: Moment) -> Option<(Duration, u32)> {
        let shape = shape(title);
        let last = self.repeated.iter().find(|repeated| repeated.shape == shape)?;
        let remaining = last.pause().saturating_sub(now.since(last.at));
        (!remaining.is_zero()).then_some((remaining, last.times))
    }

    /// Notes what was not taken back.
    pub fn note_left(&mut self, left: &[String]) {
        self.left.extend(left.iter().cloned());
        let excess = self.left.len().saturating_sub(LEFT);
        self.left.drain(..excess);
    }

    /// Whether something about `instance` was not taken back.
    pub fn was_left(&self, instance: &InstanceId) -> bool {
        self.left.iter().any(|left| is_about(left, instance))
    }

    /// Another one leads in its place. What was left on `instance` itself is mended when it returns.
    pub fn note_replaced(&mut self, instance: &InstanceId) {
        self.undone.retain(|undone| undone.instance != *instance);
    }

    /// Forgets failed attempts at `instance`: the last one succeeded.
    pub fn note_done(&mut self, instance: &InstanceId) {
        self.undone.retain(|undone| undone.instance != *instance);
        self.left.retain(|left| !is_about(left, instance));
    }
}

/// Whether a line about what was not taken back is about that one.
pub(crate) fn is_about(left: &str, instance: &InstanceId) -> bool {
    left.strip_prefix(instance.to_string().as_str()).is_some_and(|rest| rest.starts_with(' '))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_lasting_effect_is_repeated_ever_less_often() {
        let mut intents = Intents::default();
        let mut now = Moment::default();
        let mut pauses = Vec::new();
        for generation in 1..=12 {
            let title = format!("db1 leads again, generation {generation}");
            let pause = intents.in_vain(&title, now).map_or(Duration::ZERO, |(pause, _)| pause);
            pauses.push(pause.as_secs());
            now = now + pause + Duration::from_secs(1);
            intents.note_repeat(&title, now);
        }
        assert_eq!(pauses, [0, 0, 0, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
        assert!(intents.in_vain("db1 is started", now).is_none());
        now = now + Duration::from_secs(3_600);
        intents.note_repeat("db1 leads again, generation 13", now);
        assert!(intents.in_vain("db1 leads again, generation 14", now).is_none());
    }
}
