//! Many seeds at once: what a run of them comes to, and what is printed of it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use serde::Serialize;

use super::basics::{Options, Planted};
use super::run;

/// What must happen at least once in so many seeds; fewer need not meet all of it.
const WANTED_FROM: u64 = 150;
const WANTED: [&str; 6] = [
    "promoted: agent answered fenced",
    "rejoined",
    "recovery resumed",
    "switchover done",
    "switchover taken back",
    "switchover resumed",
];
/// The same, of what is rarer.
const WANTED_RARELY_FROM: u64 = 1_000;
const WANTED_RARELY: [&str; 16] = [
    "promoted: ack fence",
    "promoted: lease ran out",
    "promoted after host loss",
    "promoted beside a stopped primary",
    "taken back by its agent",
    "reopened",
    "reopened under a new generation",
    "lossless given up",
    "lossless again",
    "extra transactions saved",
    "set back",
    "salvaged",
    "replica changed by command",
    "recovery of an older journal ended",
    "manager killed in promote",
    "manager killed in a block",
];

/// What the seeds of a batch came to.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) seeds: u64,
    pub(crate) events: u64,
    /// Simulated milliseconds.
    pub(crate) lasted: u64,
    /// Seconds of one core.
    pub(crate) core_seconds: f64,
    /// Of all that happened in all of them: what only makes the simulation faster leaves it as it is.
    pub(crate) hash: u64,
    pub(crate) counters: BTreeMap<&'static str, u64>,
    /// In order of seed.
    pub(crate) failing: Vec<(u64, String)>,
}

/// As `scripts/sim --json` prints it.
#[derive(Debug, Serialize)]
struct Summary<'a> {
    seeds: u64,
    violations: usize,
    failing_seeds: Vec<u64>,
    events: u64,
    schedules_per_s_per_core: f64,
    events_per_s_per_core: f64,
    hash: String,
    counters: &'a BTreeMap<&'static str, u64>,
}

impl Batch {
    fn take(&mut self, seed: u64) {
        let run = run(Options::of(seed, Planted::Nothing));
        self.seeds += 1;
        self.events += run.events;
        self.lasted += run.lasted;
        self.hash = self.hash.wrapping_add(run.hash);
        for (name, n) in run.counters {
            *self.counters.entry(name).or_default() += n;
        }
        self.failing.extend(run.violation.map(|violation| (seed, violation)));
    }

    fn add(&mut self, other: Self) {
        self.seeds += other.seeds;
        self.events += other.events;
        self.lasted += other.lasted;
        self.core_seconds += other.core_seconds;
        self.hash = self.hash.wrapping_add(other.hash);
        for (name, n) in other.counters {
            *self.counters.entry(name).or_default() += n;
        }
        self.failing.extend(other.failing);
    }

    /// What should have happened in so many seeds, and did not.
    pub(crate) fn never_happened(&self) -> Vec<&'static str> {
        let wanted = WANTED.iter().filter(|_| self.seeds >= WANTED_FROM);
        let rare = WANTED_RARELY.iter().filter(|_| self.seeds >= WANTED_RARELY_FROM);
        wanted.chain(rare).copied().filter(|name| !self.counters.contains_key(name)).collect()
    }

    pub(crate) fn json(&self) -> String {
        let per_second = |n: u64| (n as f64 / self.core_seconds.max(1e-9) * 10.0).round() / 10.0;
        let summary = Summary {
            seeds: self.seeds,
            violations: self.failing.len(),
            failing_seeds: self.failing.iter().map(|(seed, _)| *seed).collect(),
            events: self.events,
            schedules_per_s_per_core: per_second(self.seeds),
            events_per_s_per_core: per_second(self.events),
            hash: format!("{:016x}", self.hash),
            counters: &self.counters,
        };
        serde_json::to_string(&summary).expect("numbers and names are JSON")
    }
}

/// Seeds `from..from + seeds` on as many threads as there are processors.
#[expect(clippy::disallowed_methods, reason = "how long it takes is measured, and decides nothing")]
pub(crate) fn batch(from: u64, seeds: u64) -> Batch {
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    let next = AtomicU64::new(from);
    let mut all = Batch::default();
    std::thread::scope(|scope| {
        let work = || {
            let (mut part, began) = (Batch::default(), Instant::now());
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= from + seeds {
                    break;
                }
                part.take(seed);
            }
            part.core_seconds = began.elapsed().as_secs_f64();
            part
        };
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            all.add(worker.join().expect("a run panicked"));
        }
    });
    all.failing.sort_unstable();
    all
}
