//! The keys of `[defaults]` and `[[cluster]]` that make a [`Policy`]: read in layers (built in, defaults, cluster), then
//! held against each other. The ranges and rules are here; what the thresholds do is in `decide`.

use std::collections::BTreeMap;
use std::time::Duration;

use super::findings::{Findings, Span};
use super::read::Table;
use super::value::show;
use crate::model::events::EventsPolicy;
use crate::model::extra::Remedy;
use crate::model::policy::{Durability, Policy, WithoutAckers};

/// A key, its field, and the shortest and longest that makes sense in milliseconds.
type DurationKey = (&'static str, fn(&mut Policy) -> &mut Duration, u64, u64);

const MINUTE: u64 = 60_000;
const HOUR: u64 = 60 * MINUTE;

const DURATIONS: [DurationKey; 12] = [
    ("silence", |p| &mut p.silence, 200, 10 * MINUTE),
    ("lease", |p| &mut p.lease, 500, 10 * MINUTE),
    ("renew_every", |p| &mut p.renew_every, 50, MINUTE),
    ("fence_within", |p| &mut p.fence_within, 10, MINUTE),
    ("salvage_lossless", |p| &mut p.salvage_lossless, 1, MINUTE),
    ("salvage_async", |p| &mut p.salvage_async, 1, HOUR),
    ("refused_port_grace", |p| &mut p.refused_port_grace, 1_000, HOUR),
    ("catch_up", |p| &mut p.catch_up, 1_000, 24 * HOUR),
    ("statement", |p| &mut p.statement, 100, 5 * MINUTE),
    ("poll_every", |p| &mut p.poll_every, 100, MINUTE),
    ("ping_every", |p| &mut p.ping_every, 20, MINUTE),
    ("heartbeat_every", |p| &mut p.heartbeat_every, 100, MINUTE),
];

/// A yes-or-no key and its field.
type FlagKey = (&'static str, fn(&mut Policy) -> &mut bool);

const FLAGS: [FlagKey; 5] = [
    ("restart", |p| &mut p.restart),
    ("assume_dead_when_refused", |p| &mut p.assume_dead_when_refused),
    ("rebuild_nontransactional", |p| &mut p.rebuild_nontransactional),
    ("fenced_reads", |p| &mut p.fenced_reads),
    ("allow_newer_primary", |p| &mut p.allow_newer_primary),
];

const OTHERS: [&str; 7] = [
    "clock_error_permille",
    "durability",
    "without_ackers",
    "acks",
    "budget",
    "extra_transactions",
    "events",
];

/// Whether this is a threshold's key.
pub(super) fn is_key(key: &str) -> bool {
    DURATIONS.iter().any(|(name, ..)| *name == key)
        || FLAGS.iter().any(|(name, _)| *name == key)
        || OTHERS.contains(&key)
}

#[derive(Debug, Clone)]
struct Place {
    at: Span,
    /// 1 in `[defaults]`, 2 in a cluster.
    layer: u8,
    /// What stands there was refused; no rule may judge by it.
    wrong: bool,
}

/// A policy, and where each of its values was written.
#[derive(Debug, Clone, Default)]
pub(super) struct Thresholds {
    pub(super) policy: Policy,
    places: BTreeMap<&'static str, Place>,
    layer: u8,
}

impl Thresholds {
    /// Lays what that table says over what is there.
    pub(super) fn overlay(&mut self, table: &Table<'_>) {
        self.layer += 1;
        for (key, field, least, most) in &DURATIONS {
            let Some(item) = table.get(key) else { continue };
            let value = item.duration(Duration::from_millis(*least), Duration::from_millis(*most));
            self.set(key, &item.at, value, |policy, value| *field(policy) = value);
        }
        for (key, field) in FLAGS {
            let Some(item) = table.get(key) else { continue };
            self.set(key, &item.at, item.bool(), |policy, value| *field(policy) = value);
        }
        if let Some(item) = table.get("clock_error_permille") {
            self.set("clock_error_permille", &item.at, item.number(1..=100), |p, v| {
                p.clock_error_permille = v
            });
        }
        if let Some(item) = table.get("acks") {
            self.set("acks", &item.at, item.number(1..=100), |policy, value| policy.acks = value);
        }
        if let Some(item) = table.get("durability") {
            let value = item.word(&[("lossless", Durability::Lossless), ("async", Durability::Async)]);
            self.set("durability", &item.at, value, |policy, value| policy.durability = value);
        }
        if let Some(item) = table.get("without_ackers") {
            let value = item.word(&[("block", WithoutAckers::Block), ("degrade", WithoutAckers::Degrade)]);
            self.set("without_ackers", &item.at, value, |policy, value| policy.without_ackers = value);
        }
        if let Some(item) = table.get("extra_transactions") {
            let words =
                [("flashback", Remedy::Flashback), ("park", Remedy::Park), ("rebuild", Remedy::Rebuild)];
            let value = item.word(&words);
            self.set("extra_transactions", &item.at, value, |policy, value| {
                policy.extra_transactions = value
            });
        }
        if let Some(item) = table.get("events") {
            let value = item.word(&[("follow", EventsPolicy::Follow), ("leave", EventsPolicy::Leave)]);
            self.set("events", &item.at, value, |policy, value| policy.events = value);
        }
        self.overlay_budget(table);
    }

    fn overlay_budget(&mut self, table: &Table<'_>) {
        let Some(item) = table.get("budget") else { return };
        let Some(budget) = item.table("`budget`", "budget = { failovers = 2, window = \"30m\" }") else {
            return;
        };
        if let Some(failovers) = budget.get("failovers") {
            self.set("budget", &failovers.at, failovers.number(1..=100), |policy, value| {
                policy.budget = value
            });
        }
        if let Some(window) = budget.get("window") {
            let value = window.duration(Duration::from_secs(60), Duration::from_secs(7 * 86_400));
            self.set("budget_window", &window.at, value, |policy, value| policy.budget_window = value);
        }
        budget.finish();
    }

    fn set<T>(&mut self, key: &'static str, at: &Span, value: Option<T>, put: impl FnOnce(&mut Policy, T)) {
        self.places.insert(key, Place { at: at.clone(), layer: self.layer, wrong: value.is_none() });
        if let Some(value) = value {
            put(&mut self.policy, value);
        }
    }

    pub(super) fn given(&self, key: &str) -> bool {
        self.places.contains_key(key)
    }

    /// Where a rule over these keys is broken: the most particular layer, then the earliest key named.
    /// `None` where one of them was refused already, or none was written (the built-in values keep every rule).
    pub(super) fn blame(&self, keys: &[&str]) -> Option<Span> {
        let places: Vec<&Place> = keys.iter().filter_map(|key| self.places.get(key)).collect();
        if places.iter().any(|place| place.wrong) {
            return None;
        }
        let layer = places.iter().map(|place| place.layer).max()?;
        places.iter().find(|place| place.layer == layer).map(|place| place.at.clone())
    }

    /// The rules between thresholds, whatever the cluster.
    pub(super) fn check_times(&self, findings: &Findings<'_>) {
        let policy = &self.policy;
        let error = |keys: &[&str], message: String, advice: String| {
            if let Some(at) = self.blame(keys) {
                findings.error(&at, message, advice);
            }
        };
        let Policy {
            silence, lease, renew_every, fence_within, ping_every, poll_every, heartbeat_every, ..
        } = policy;
        if *lease < *renew_every * 3 {
            error(
                &["lease", "renew_every"],
                format!(
                    "a lease of {} renewed every {} ends when two renewals are lost",
                    show(*lease),
                    show(*renew_every)
                ),
                format!("write lease = \"{}\" or longer, or renew more often", show(*renew_every * 3)),
            );
        }
        if *fence_within >= *lease {
            error(
                &["fence_within", "lease"],
                format!("fence_within ({}) is as long as the lease ({})", show(*fence_within), show(*lease)),
                format!("write fence_within = \"{}\" or shorter", show(*lease / 10)),
            );
        }
        if *silence < *ping_every * 2 {
            error(
                &["silence", "ping_every"],
                format!(
                    "one lost ping (every {}) would be a silence of {}",
                    show(*ping_every),
                    show(*silence)
                ),
                format!("write silence = \"{}\" or longer, or ping more often", show(*ping_every * 2)),
            );
        }
        if *silence < *poll_every {
            error(
                &["silence", "poll_every"],
                format!(
                    "silence ({}) ends before a second poll (every {})",
                    show(*silence),
                    show(*poll_every)
                ),
                format!("write silence = \"{}\" or longer, or poll more often", show(*poll_every)),
            );
        }
        if *silence < *heartbeat_every {
            error(
                &["silence", "heartbeat_every"],
                format!(
                    "silence ({}) ends before a second heartbeat (every {})",
                    show(*silence),
                    show(*heartbeat_every)
                ),
                format!(
                    "write silence = \"{}\" or longer, or heartbeat_every shorter",
                    show(*heartbeat_every)
                ),
            );
        }
        self.check_risks(findings);
    }

    fn check_risks(&self, findings: &Findings<'_>) {
        let policy = &self.policy;
        let warn = |keys: &[&str], message: String, advice: String| {
            if let Some(at) = self.blame(keys) {
                findings.warn(&at, message, advice);
            }
        };
        if policy.silence < Duration::from_secs(1) {
            warn(
                &["silence"],
                format!(
                    "a pause of {} (a busy disk, a paused virtual machine) would be taken for a death",
                    show(policy.silence)
                ),
                "write silence = \"3s\" unless you measured that yours never pause so long".to_owned(),
            );
        }
        // T(1+δ)+f, what a failover owes a host that vanished with the lease just renewed.
        let owed = policy.lease * (1000 + policy.clock_error_permille) / 1000 + policy.fence_within;
        if owed > policy.silence + Duration::from_secs(1) {
            warn(
                &["lease", "silence", "fence_within", "clock_error_permille"],
                format!(
                    "a host that vanishes is replaced only after {}, when its lease and fence are surely over, whatever `silence` ({}) says",
                    show(owed),
                    show(policy.silence)
                ),
                format!(
                    "write lease = \"{}\" for the two to end together, or accept the longer wait",
                    show(policy.silence)
                ),
            );
        }
        if policy.statement > policy.lease * 10 {
            warn(
                &["statement"],
                format!("a statement that hangs would hold up a failover for {}", show(policy.statement)),
                "write statement = \"5s\"".to_owned(),
            );
        }
        if policy.durability == Durability::Async {
            for key in ["acks", "without_ackers", "salvage_lossless"] {
                warn(
                    &[key],
                    format!("`{key}` has no effect with durability = \"async\""),
                    format!("remove `{key}`, or write durability = \"lossless\""),
                );
            }
        }
    }

    /// The rules between thresholds and the number of members. Settles `without_ackers` and
    /// `extra_transactions` where nobody wrote them.
    pub(super) fn check_members(&mut self, members: u32, findings: &Findings<'_>, cluster: &Span) {
        if !self.given("without_ackers") {
            self.policy.without_ackers =
                if members >= 3 { WithoutAckers::Block } else { WithoutAckers::Degrade };
        }
        if !self.given("extra_transactions") {
            // Where a commit waits for no other host, somebody may have been told of rows that only one has.
            self.policy.extra_transactions = match self.policy.durability {
                Durability::Lossless => Remedy::Flashback,
                Durability::Async => Remedy::Park,
            };
        }
        let policy = &self.policy;
        if policy.durability == Durability::Async {
            return;
        }
        if self.places.get("acks").is_some_and(|place| place.wrong) {
            return;
        }
        if policy.acks >= members && (members > 1 || policy.acks > 1) {
            let most = members.saturating_sub(1).max(1);
            findings.error(
                &self.blame(&["acks"]).unwrap_or_else(|| cluster.clone()),
                format!("acks = {} can never be met: the primary does not count, and there are {members} instances", policy.acks),
                format!("write acks = {most}, or list more instances"),
            );
        } else if policy.without_ackers == WithoutAckers::Block && policy.acks + 1 >= members {
            let wait = if members == 1 {
                "no other instance can acknowledge: every commit would wait for ever".to_owned()
            } else {
                format!(
                    "with {members} instances and acks = {} the loss of any replica stops every commit",
                    policy.acks
                )
            };
            findings.warn(
                &self.blame(&["without_ackers", "acks"]).unwrap_or_else(|| cluster.clone()),
                wait,
                "list another instance, or write without_ackers = \"degrade\" to go on unprotected, alarmed",
            );
        }
    }
}
