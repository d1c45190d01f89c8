//! Steps: wanted facts about one instance, so precise that doing one twice is doing it once, each with what shows that it is so.

mod seen;
mod words;

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use seen::{Evidence, Salvaged, Votes};

use crate::model::ballot::Generation;
use crate::model::cluster::VipAddress;
use crate::model::gtid::GtidSet;
use crate::model::instance::InstanceId;
use crate::model::time::millis;
use crate::model::wishes::{Threads, Wish};

/// Why a second primary cannot exist: one of the promotion rules of the design's section 4.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Proof {
    /// (a) The old primary's agent answered "fenced" or "released" for its generation.
    Fenced,
    /// (c) Too few registered ackers are left to it: nothing the new primary lacks can be acknowledged.
    AckFence,
    /// (d) A majority of voters let its lease run out.
    Expired,
    /// (e) A STONITH hook cut its power.
    Stonith,
    /// (f) The operator said so.
    Operator,
    /// It was blocked for a switchover, and takes itself back without a manager: true only at voters that never granted anything to
    /// whoever was to follow it.
    TakenBack,
    /// Asynchronous without agents: refused from two hosts and all the conditions of `assume_dead_when_refused`.
    AssumedDead,
    /// First adoption of a running primary: nobody ever accepted a generation.
    Adoption,
}

impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fenced => "its agent answered fenced",
            Self::AckFence => "no acker is left to it",
            Self::Expired => "its lease has run out at a majority of voters",
            Self::Stonith => "its power was cut",
            Self::Operator => "the operator said so",
            Self::TakenBack => "blocked, and nobody was let in after it",
            Self::AssumedDead => "assumed dead as configured: refused everywhere",
            Self::Adoption => "there is no older primary",
        })
    }
}

/// One wanted fact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Step {
    /// No client byte reaches this server, and it holds no lease. The VIP may go on answering there, with a reset, until it is announced
    /// elsewhere or its time is over.
    Fence { instance: InstanceId, generation: Generation },
    /// It applies what `source` writes less than `closely` later: no more than that will writers wait for it.
    KeepUp {
        instance: InstanceId,
        source: InstanceId,
        #[serde(rename = "closely_ms", with = "millis")]
        closely: Duration,
        #[serde(rename = "within_ms", with = "millis")]
        within: Duration,
    },
    /// It replicates from `to` instead of `from`, acknowledging where `acker`, and was turned without ever asking for what `to` had not
    /// applied.
    Turn {
        instance: InstanceId,
        from: InstanceId,
        to: InstanceId,
        #[serde(default = "yes")]
        acker: bool,
        #[serde(rename = "within_ms", with = "millis")]
        within: Duration,
    },
    /// Transactions that are open on it had `drain` to end; with `end_older`, sessions that had one open for longer were ended, those
    /// that wait for an acknowledgement never (S5).
    Quiet {
        instance: InstanceId,
        #[serde(rename = "drain_ms", with = "millis")]
        drain: Duration,
        #[serde(rename = "end_older_ms", with = "millis::option", default)]
        end_older: Option<Duration>,
    },
    /// It takes no writes: read-only by its own word, its lease released, closed to clients with its replicas' streams spared. The VIP
    /// goes on answering there, with a reset, until it is announced elsewhere or its time is over.
    Block {
        instance: InstanceId,
        generation: Generation,
        #[serde(rename = "within_ms", with = "millis")]
        within: Duration,
        /// What its agent does by itself when it hears nothing more and nobody else came to lead: a manager that dies in the block
        /// does not leave it blocked. Its first is the claim that decides whether the rest may be done.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        otherwise: Vec<Step>,
    },
    /// It has executed exactly `set`: nobody wrote after it was blocked (a privileged session can).
    Unmoved { instance: InstanceId, set: GtidSet },
    /// Its process is gone (after a fence only; never a clean stop).
    Kill { instance: InstanceId },
    /// The replica receives nothing more from `source`, and its applier runs (or has nothing to apply).
    StopReceiving { instance: InstanceId, source: InstanceId },
    /// Whatever complete transactions the dead server's log holds beyond `beyond` were read by its agent, within the time, and are
    /// on `to`. Not being able to is told and is no failure: `required` says whether it is.
    Salvage {
        from: InstanceId,
        to: InstanceId,
        beyond: GtidSet,
        #[serde(rename = "within_ms", alias = "within", with = "millis")]
        within: Duration,
        required: bool,
    },
    /// All of `set` is applied.
    WaitApplied {
        instance: InstanceId,
        set: GtidSet,
        #[serde(rename = "within_ms", alias = "within", with = "millis")]
        within: Duration,
    },
    /// It replicates from `source` until it has all of `set`, as a replica: catching up from a more advanced one.
    CatchUpFrom {
        instance: InstanceId,
        source: InstanceId,
        set: GtidSet,
        #[serde(rename = "within_ms", alias = "within", with = "millis")]
        within: Duration,
    },
    /// A majority of voters durably accepted this generation for this candidate.
    Claim { candidate: InstanceId, generation: Generation, proof: Proof },
    /// Replication is stopped with nothing left to apply; the channel's settings are kept.
    StopReplicating { instance: InstanceId },
    /// Semi-sync's source side is armed for `acks` acknowledgements, or off with 0.
    ArmSource { instance: InstanceId, acks: u32 },
    /// It replicates from `source` by GTID; with `acker` it acknowledges.
    PointReplica { instance: InstanceId, source: InstanceId, acker: bool },
    /// At least so many ackers are connected.
    AckersAttached { instance: InstanceId, acks: u32 },
    /// The store names this primary, generation and ackers.
    Register {
        primary: InstanceId,
        generation: Generation,
        ackers: Vec<InstanceId>,
        acks: u32,
        degraded: Option<String>,
    },
    /// It holds a majority's lease for the generation, clients pass, and it is writable. One that is not armed for `acks` acknowledgements
    /// is not opened: it may have been restarted since. 0 where it waits for none, or is armed by whoever opens it.
    Open {
        instance: InstanceId,
        generation: Generation,
        #[serde(default)]
        acks: u32,
    },
    /// It is the replica that `Fence`d servers become when their history is known good: clients pass, read-only.
    Admit { instance: InstanceId },
    /// The VIP is on it, and announced.
    HoldVip { instance: InstanceId, generation: Generation, vip: VipAddress },
    /// The VIP is not on it.
    LoseVip { instance: InstanceId },
    /// Its replication settings are gone. Only when nothing received is unapplied, except what is in `discard`: others have that.
    ForgetSource {
        instance: InstanceId,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        discard: Option<GtidSet>,
    },
    /// Its server runs, read-only, replication stopped, both semi-sync sides off, clients fenced. `as_replica` is never said of a server
    /// that stays primary. With `drop_tail` MariaDB's recovery drops from the binary log what the engine had not made durable: what was
    /// never acknowledged (S7), and the last rows that were, where no other host had to have them first.
    StartServer {
        instance: InstanceId,
        as_replica: bool,
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        drop_tail: bool,
    },
    /// `read_only` (and `super_read_only` where there is one) is as wanted.
    SetReadOnly { instance: InstanceId, on: bool },
    /// The heartbeat table and the two small accounts exist (made on the primary, replicated from there); with `semi_sync` its source
    /// side is loaded.
    Furnish {
        instance: InstanceId,
        #[serde(default)]
        semi_sync: bool,
    },
    /// The transactions of `extra`, which the primary lacks, are saved on its host, with what is in them.
    SaveExtra {
        instance: InstanceId,
        extra: GtidSet,
        #[serde(rename = "within_ms", with = "millis")]
        within: Duration,
    },
    /// Its history is exactly `keep`, without `extra`, which is saved; with `rows` what those changed is as it was before them.
    /// Only of a server that is fenced.
    Rewind {
        instance: InstanceId,
        extra: GtidSet,
        keep: GtidSet,
        rows: bool,
        #[serde(rename = "within_ms", with = "millis")]
        within: Duration,
    },
    /// The operator's traffic program was told this of the primary `instance`, and says that it is so. It may be told twice.
    Direct { instance: InstanceId, order: TrafficOrder, generation: Generation },
    /// A copy of `from`'s data is being made beside its own, or was. That goes on without anybody waiting for it. With `keep` its own
    /// is kept for good: nobody could look into it.
    Rebuild { instance: InstanceId, from: InstanceId, keep: bool },
    /// The copy is its data; its server runs, read-only, replicating nothing, with the copy's history. Only of a server that is
    /// fenced; its old data is kept until it replicates.
    Exchange {
        instance: InstanceId,
        #[serde(rename = "within_ms", with = "millis")]
        within: Duration,
    },
    /// It is taken out of automatic hands until a person decides.
    Park { instance: InstanceId, why: String },
    /// Those threads of it are stopped with nothing lost, both only when nothing received is left to apply; without its receiver it is
    /// no acker, whoever starts that again.
    Halt {
        instance: InstanceId,
        threads: Threads,
        #[serde(rename = "within_ms", with = "millis")]
        within: Duration,
    },
    /// Its event scheduler runs or does not; with `enable` the events that replication set aside on it are enabled, but for those. Those
    /// that somebody disabled there are left so. With `enable` only on the primary: it is logged.
    Events {
        instance: InstanceId,
        scheduler: bool,
        #[serde(default)]
        enable: Option<BTreeSet<String>>,
    },
    /// The store says that this is wished of it.
    Wish { instance: InstanceId, wish: Wish },
}

/// Plans stored before a replica could be turned without acknowledging.
fn yes() -> bool {
    true
}

/// What the traffic program is told of the primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TrafficOrder {
    /// Hold its clients' new transactions back: it is about to take no writes.
    Pause,
    /// Let them go on: nothing has changed.
    Resume,
    /// Send all clients there, and let them go on.
    Move,
}

impl fmt::Display for TrafficOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pause => "the traffic program holds its clients back",
            Self::Resume => "the traffic program lets its clients go on",
            Self::Move => "the traffic program sends clients there",
        })
    }
}

impl Step {
    /// It changes nothing anywhere.
    pub fn only_looks(&self) -> bool {
        matches!(self, Self::WaitApplied { .. } | Self::AckersAttached { .. } | Self::Unmoved { .. })
    }

    /// The instance this step is about.
    pub fn instance(&self) -> &InstanceId {
        match self {
            Self::Fence { instance, .. }
            | Self::Block { instance, .. }
            | Self::KeepUp { instance, .. }
            | Self::Quiet { instance, .. }
            | Self::Turn { instance, .. }
            | Self::Unmoved { instance, .. }
            | Self::Kill { instance }
            | Self::StopReceiving { instance, .. }
            | Self::WaitApplied { instance, .. }
            | Self::CatchUpFrom { instance, .. }
            | Self::StopReplicating { instance }
            | Self::ArmSource { instance, .. }
            | Self::PointReplica { instance, .. }
            | Self::AckersAttached { instance, .. }
            | Self::Open { instance, .. }
            | Self::Admit { instance }
            | Self::HoldVip { instance, .. }
            | Self::LoseVip { instance }
            | Self::ForgetSource { instance, .. }
            | Self::StartServer { instance, .. }
            | Self::SetReadOnly { instance, .. }
            | Self::Furnish { instance, .. }
            | Self::SaveExtra { instance, .. }
            | Self::Rewind { instance, .. }
            | Self::Direct { instance, .. }
            | Self::Rebuild { instance, .. }
            | Self::Exchange { instance, .. }
            | Self::Park { instance, .. }
            | Self::Halt { instance, .. }
            | Self::Events { instance, .. }
            | Self::Wish { instance, .. } => instance,
            Self::Salvage { to, .. } => to,
            Self::Claim { candidate, .. } => candidate,
            Self::Register { primary, .. } => primary,
        }
    }
}
