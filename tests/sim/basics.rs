//! What every simulated party needs: repeatable chance, clocks that run apart, and the numbers of a run.

use mha::model::instance::Flavor;
use mha::model::policy::{Durability, WithoutAckers};
use mha::model::time::Moment;

use mha::model::instance::InstanceId;
use mha::model::wishes::{Change, ReplicaAsk, Threads};

use super::story::Story;
use super::switchover::{Switch, switches_of};

/// splitmix64: the same for a seed on every machine.
#[derive(Debug, Clone)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0xA5A5_5A5A_1234_4321)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }

    /// From `low` to `high`, both included.
    pub(crate) fn range(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    pub(crate) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// A host's clock: some rate within 1 % of any other's, some origin.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    permille_fast: u64,
    origin: u64,
}

impl Clock {
    pub(crate) fn new(dice: &mut Dice) -> Self {
        Self { permille_fast: dice.below(11), origin: 1_000_000 + dice.below(1 << 40) }
    }

    /// What it shows at millisecond `t` of the run.
    pub(crate) fn read(self, t: u64) -> Moment {
        Moment::from_micros(self.origin + t * 1_000 + t * self.permille_fast)
    }

    /// The first millisecond at which it shows `local`.
    pub(crate) fn shows(self, local: Moment) -> u64 {
        let elapsed = local.as_micros().saturating_sub(self.origin);
        let mut t = elapsed / (1_000 + self.permille_fast);
        while self.read(t) < local {
            t += 1;
        }
        t
    }
}

/// A rule left out on purpose, to see that the invariants bite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Planted {
    Nothing,
    /// The agent answers "fenced" and closes nothing.
    SkipFence,
    /// Agents obey whoever commands.
    IgnoreBallots,
    /// Waiting for the applier is answered before it is done.
    OpenBeforeCatchUp,
    /// A replica is said to receive nothing more, and goes on.
    SkipStopReceiving,
    /// Both threads are stopped and started, instead of the receiver only (N1), and the server does not count it: counted, the replica is
    /// in doubt and no longer proves anything.
    StopBothThreads,
    /// The manager opens without waiting for what voters reported as granted.
    NoClaimWait,
    /// A voter's promises do not outlive its agent.
    ForgetfulVoter,
    /// The new primary is said to be armed, and is not.
    OpenUnarmed,
    /// The kernel lets clients pass after the lease has ended.
    NoTimeout,
    /// A block is answered although no fence was made: only `read_only` holds clients back.
    BlockWithoutFence,
    /// The old primary's set counts as unchanged after the block without being read again.
    SetNotReread,
    /// Taking a switchover back opens the old primary although voters were not asked for its generation.
    UndoWithoutClaim,
}

/// Everything about a run that its seed decides.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) seed: u64,
    pub(crate) members: usize,
    pub(crate) flavor: Flavor,
    pub(crate) durability: Durability,
    pub(crate) without_ackers: WithoutAckers,
    pub(crate) acks: u32,
    pub(crate) faults: usize,
    /// Replicas are level, or fall behind five seconds of every ten.
    pub(crate) bursts: bool,
    /// Milliseconds; shorter than the lease in some runs.
    pub(crate) silence: u64,
    pub(crate) planted: Planted,
    /// What an operator asks of single replicas, one after the other, whenever nothing else is to be done.
    pub(crate) asks: Vec<ReplicaAsk>,
    /// What an operator asks for while the cluster runs, and what befalls it.
    pub(crate) switches: Vec<Switch>,
    /// A manager that died is not started again before everything is mended.
    pub(crate) alone: bool,
    /// Not by chance: this happens, and nothing else.
    pub(crate) story: Option<Story>,
}

impl Options {
    pub(crate) fn of(seed: u64, planted: Planted) -> Self {
        let mut dice = Dice::new(seed);
        let members = if dice.one_in(5) { 2 } else { dice.range(3, 5) as usize };
        let flavor = if dice.one_in(2) { Flavor::MySql } else { Flavor::MariaDb };
        let durability = if dice.one_in(3) { Durability::Async } else { Durability::Lossless };
        let without_ackers = if dice.one_in(2) { WithoutAckers::Block } else { WithoutAckers::Degrade };
        let acks = if members > 3 && dice.one_in(3) { 2 } else { 1 };
        let mut faults = dice.range(3, 6) as usize;
        let bursts = dice.one_in(4);
        let silence = if dice.one_in(4) { 1_500 } else { 3_000 };
        let switches = switches_of(seed, members, planted, &mut faults);
        Self {
            seed,
            members,
            flavor,
            durability,
            without_ackers,
            acks,
            faults,
            bursts,
            silence,
            planted,
            asks: if members > 3 && planted == Planted::Nothing {
                asks_of(seed, members)
            } else {
                Vec::new()
            },
            switches,
            alone: false,
            story: None,
        }
    }
}

/// One word about a replica.
pub(crate) fn ask(of: usize, change: Change) -> ReplicaAsk {
    let instance = InstanceId::new(format!("db{of}"), 3306);
    ReplicaAsk { instance, change, force: false, within: ReplicaAsk::WITHIN, by: "anna".to_owned() }
}

/// Below the member of that number.
pub(crate) fn below(of: usize) -> Change {
    Change::Move { source: InstanceId::new(format!("db{of}"), 3306) }
}

/// In some runs the last member is put below another one, or stopped for a while.
fn asks_of(seed: u64, members: usize) -> Vec<ReplicaAsk> {
    // Dice of its own: a seed's faults stay what they were.
    let mut dice = Dice::new(seed ^ 0x0A5C);
    let last = members - 1;
    match dice.below(4) {
        0 => vec![ask(last, below(1)), ask(last, below(0))],
        1 => vec![ask(last, below(dice.range(1, last as u64 - 1) as usize))],
        2 => vec![ask(last, Change::Stop { threads: Threads::Both }), ask(last, Change::Start)],
        _ => Vec::new(),
    }
}
