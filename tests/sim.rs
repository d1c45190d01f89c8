//! Whole clusters, simulated: deciding, executing and leasing as shipped, over a model of servers, hosts and a network that
//! breaks. Virtual time, one thread, everything from the seed. Invariants are asked after every event.
//!
//! `SEED=7 cargo test --test sim -- seeds --nocapture` replays one run and prints it, with `PLANTED=SkipFence` the one with that
//! mistake; `scripts/sim --seeds 5000` runs more.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "the model names what it models, the checker what it counts"
)]

#[path = "sim/alone.rs"]
mod alone;
#[path = "sim/basics.rs"]
mod basics;
#[path = "sim/batch.rs"]
mod batch;
#[path = "sim/block.rs"]
mod block;
#[path = "sim/by_hand.rs"]
mod by_hand;
#[path = "sim/check.rs"]
mod check;
#[path = "sim/extra.rs"]
mod extra;
#[path = "sim/faults.rs"]
mod faults;
#[path = "sim/host.rs"]
mod host;
#[path = "sim/links.rs"]
mod links;
#[path = "sim/looks.rs"]
mod looks;
#[path = "sim/manager.rs"]
mod manager;
#[path = "sim/planted.rs"]
mod planted;
#[path = "sim/primitives.rs"]
mod primitives;
#[path = "sim/resume.rs"]
mod resume;
#[path = "sim/server.rs"]
mod server;
#[path = "sim/state.rs"]
mod state;
#[path = "sim/steps.rs"]
mod steps;
#[path = "sim/story.rs"]
mod story;
#[path = "sim/switched.rs"]
mod switched;
#[path = "sim/switchover.rs"]
mod switchover;
#[path = "sim/world.rs"]
mod world;

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use basics::{Options, Planted};
use futures::future::{Either, select};
use state::{Event, MANAGERS, Sim};
use tokio::task::{JoinHandle, LocalSet, spawn_local};
use tokio::time::{Instant, sleep_until};
use world::Shared;

/// No run lasts longer, in milliseconds.
const LONGEST: u64 = 400_000;

/// What a run came to.
struct Run {
    hash: u64,
    events: u64,
    lasted: u64,
    counters: BTreeMap<&'static str, u64>,
    violation: Option<String>,
    told: story::Told,
    trace: Vec<String>,
}

fn run(opts: Options) -> Run {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime needs nothing from outside");
    LocalSet::new().block_on(&runtime, drive(opts))
}

async fn drive(opts: Options) -> Run {
    let mut sim = Sim::new(opts);
    sim.manager_up[0] = true;
    sim.after(4_000, Event::Strike);
    if sim.opts.story.is_some() {
        let directory = tempfile::tempdir().expect("there is room for a store");
        sim.stores[0].disk = Some(story::disk(directory.path()));
        sim.directory = Some(directory);
    }
    let wake = Rc::clone(&sim.wake);
    let shared = Shared { sim: Rc::new(RefCell::new(sim)), base: Instant::now() };
    let mut tasks: Vec<Option<JoinHandle<()>>> = (0..MANAGERS).map(|_| None).collect();
    let mut alarm = pin!(sleep_until(shared.base));
    loop {
        keep_managers(&shared, &mut tasks);
        let next = {
            let sim = shared.sim.borrow();
            let over = sim.violation.is_some() || sim.settled || sim.t > LONGEST;
            sim.queue.peek().filter(|_| !over).map(|Reverse((at, _, _))| *at)
        };
        let Some(next) = next else { break };
        let at = shared.base + Duration::from_millis(next);
        if Instant::now() < at {
            alarm.as_mut().reset(at);
            match select(alarm.as_mut(), pin!(wake.notified())).await {
                Either::Left(_) | Either::Right(_) => continue,
            }
        }
        shared.act(|sim| {
            if let Some(Reverse((_, number, event))) = sim.queue.pop() {
                sim.mix(&number.to_le_bytes());
                sim.handle(event);
            }
        });
    }
    tasks.into_iter().flatten().for_each(|task| task.abort());
    let sim = shared.sim.borrow();
    Run {
        hash: sim.hash,
        events: sim.events,
        lasted: sim.t,
        counters: sim.counters.clone(),
        violation: sim.violation.clone(),
        told: sim.told.clone(),
        trace: sim.trace.clone(),
    }
}

/// Starts and kills managers as the run wants them.
fn keep_managers(shared: &Shared, tasks: &mut [Option<JoinHandle<()>>]) {
    for (m, task) in tasks.iter_mut().enumerate() {
        let wanted = shared.sim.borrow().manager_up[m];
        match (wanted, task.take()) {
            (true, None) => *task = Some(spawn_local(manager::run(shared.clone(), m))),
            (false, Some(running)) => running.abort(),
            (true, running) => *task = running,
            (false, None) => {}
        }
    }
    let mut sim = shared.sim.borrow_mut();
    if std::mem::take(&mut sim.restart_first) {
        sim.manager_up[0] = true;
    }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// Prints one run, and whether it keeps what it must.
#[expect(clippy::print_stdout, reason = "it is asked for to be read")]
fn replay(seed: u64) {
    let planted = std::env::var("PLANTED").ok().and_then(|name| planted::named(&name));
    let opts = Options::of(seed, planted.unwrap_or(Planted::Nothing));
    println!("{opts:?}");
    let run = run(opts);
    run.trace.iter().for_each(|line| println!("{line}"));
    assert!(run.violation.is_none(), "{:?}", run.violation);
}

#[test]
fn seeds_keep_every_invariant() {
    if let Some(seed) = number("SEED") {
        return replay(seed);
    }
    let (from, seeds) = (number("FROM").unwrap_or(0), number("SEEDS").unwrap_or(200));
    let all = batch::batch(from, seeds);
    println!(
        "{seeds} runs from {from}, {} events, {} simulated seconds, {:.1} s of a core, hash {:016x}",
        all.events,
        all.lasted / 1_000,
        all.core_seconds,
        all.hash
    );
    all.counters.iter().for_each(|(name, n)| println!("{n:>8}  {name}"));
    if let Ok(path) = std::env::var("SIM_JSON") {
        std::fs::write(path, all.json()).expect("the summary can be written where it is wanted");
    }
    for (seed, violation) in &all.failing {
        println!("seed {seed}: {violation}");
    }
    if let Some((seed, _)) = all.failing.first() {
        replay(*seed);
    }
    assert!(all.failing.is_empty(), "{} of {seeds} runs broke an invariant", all.failing.len());
    let never = all.never_happened();
    assert!(never.is_empty(), "in {seeds} runs never happened: {}", never.join(", "));
}

#[test]
fn a_seed_is_one_schedule() {
    for seed in (0..200).step_by(20) {
        let (first, second) =
            (run(Options::of(seed, Planted::Nothing)), run(Options::of(seed, Planted::Nothing)));
        assert_eq!(first.hash, second.hash, "seed {seed} ran two ways");
    }
}
