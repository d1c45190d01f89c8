//! Steps: wanted facts about one instance, so precise that doing one twice is doing it once, each with what shows that it is so.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::ballot::Generation;
use crate::model::cluster::VipAddress;
use crate::model::gtid::GtidSet;
use crate::model::instance::InstanceId;
use crate::model::observation::{Access, AgentStatus, Process};
use crate::model::record::ClusterRecord;
use crate::model::report::{Report, ThreadState};
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
    /// It holds a majority's lease for the generation, clients pass, and it is writable.
    Open { instance: InstanceId, generation: Generation },
    /// It is the replica that `Fence`d servers become when their history is known good: clients pass, read-only.
    Admit { instance: InstanceId },
    /// The VIP is on it, and announced.
    HoldVip { instance: InstanceId, generation: Generation, vip: VipAddress },
    /// The VIP is not on it.
    LoseVip { instance: InstanceId },
    /// Its replication settings are gone. Only when nothing received is unapplied.
    ForgetSource { instance: InstanceId },
    /// Its server runs, read-only, replication stopped, both semi-sync sides off, clients fenced. `as_replica` lets recovery drop
    /// what was never acknowledged (S7); never on a server that stays primary.
    StartServer { instance: InstanceId, as_replica: bool },
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
    /// The store says that this is wished of it.
    Wish { instance: InstanceId, wish: Wish },
}

/// Plans stored before a replica could be turned without acknowledging.
fn yes() -> bool {
    true
}

impl Step {
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
            | Self::ForgetSource { instance }
            | Self::StartServer { instance, .. }
            | Self::SetReadOnly { instance, .. }
            | Self::Furnish { instance, .. }
            | Self::SaveExtra { instance, .. }
            | Self::Rewind { instance, .. }
            | Self::Park { instance, .. }
            | Self::Halt { instance, .. }
            | Self::Wish { instance, .. } => instance,
            Self::Salvage { to, .. } => to,
            Self::Claim { candidate, .. } => candidate,
            Self::Register { primary, .. } => primary,
        }
    }
}

/// What was read after a step was done, by whoever did it. `is_satisfied` judges it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    pub report: Option<Report>,
    pub agent: Option<AgentStatus>,
    pub record: Option<ClusterRecord>,
    /// Voters' hosts that accepted a claim.
    pub votes: Option<Votes>,
    pub salvage: Option<Salvaged>,
    /// How long it took to apply what its source had just written.
    #[serde(rename = "behind_ms", with = "millis::option", default)]
    pub behind: Option<Duration>,
    /// The heartbeat table was found.
    pub furnished: bool,
}

/// How a claim went.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Votes {
    pub accepted: Vec<String>,
    /// Host and its reason.
    pub refused: Vec<(String, String)>,
    /// More than half of all configured voters accepted, or there are no voters.
    pub majority: bool,
}

/// What the dead server's log gave.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Salvaged {
    /// The log was read to its end.
    pub complete: bool,
    /// Transactions brought over.
    pub transactions: u64,
    /// What could not be done, in words; empty when all went well.
    pub trouble: String,
}

impl fmt::Display for Salvaged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.transactions, self.complete) {
            (0, true) => f.write_str("nothing was there alone")?,
            (n, true) => write!(f, "{n} transaction(s) saved")?,
            (n, false) => write!(f, "log not read to its end, {n} transaction(s) saved")?,
        }
        if self.trouble.is_empty() { Ok(()) } else { write!(f, " ({})", self.trouble) }
    }
}

impl Step {
    /// Whether the wanted fact is a fact, by what was read.
    pub fn is_satisfied(&self, seen: &Evidence) -> bool {
        let report = seen.report.as_ref();
        let agent = seen.agent.as_ref();
        match self {
            Self::Fence { generation, .. } => agent.is_some_and(|agent| {
                agent.access == Access::Closed && agent.fenced.is_some_and(|fenced| fenced >= *generation)
            }),
            Self::Block { generation, .. } => {
                report.is_some_and(|report| report.read_only)
                    && agent.is_some_and(|agent| {
                        agent.access == Access::Closed
                            && agent.fenced.is_some_and(|fenced| fenced >= *generation)
                    })
            }
            Self::KeepUp { closely, .. } => seen.behind.is_some_and(|behind| behind <= *closely),
            // As quiet as it became.
            Self::Quiet { .. } => true,
            Self::Unmoved { set, .. } => report.is_some_and(|report| report.executed == *set),
            Self::Kill { .. } => agent.is_some_and(|agent| matches!(agent.process, Process::Gone { .. })),
            // Whatever its source is called: one server has many names, and the ack fence rests on this.
            Self::StopReceiving { .. } => report.is_some_and(|report| {
                report.channel().is_none_or(|channel| channel.receiver == ThreadState::Stopped)
            }),
            Self::Salvage { required, .. } => {
                !required || seen.salvage.as_ref().is_some_and(|salvage| salvage.complete)
            }
            Self::WaitApplied { set, .. } | Self::CatchUpFrom { set, .. } => {
                report.is_some_and(|report| report.executed.contains(set))
            }
            Self::Claim { .. } => seen.votes.as_ref().is_some_and(|votes| votes.majority),
            Self::StopReplicating { .. } => report.is_some_and(|report| {
                report.is_level()
                    && report.channel().is_none_or(|channel| {
                        channel.receiver == ThreadState::Stopped && channel.applier == ThreadState::Stopped
                    })
            }),
            Self::ArmSource { acks: 0, .. } => report.is_some_and(|report| !report.semi_sync.source_enabled),
            Self::ArmSource { acks, .. } => report.is_some_and(|report| {
                report.semi_sync.source_enabled
                    && report.semi_sync.after_sync
                    && report.semi_sync.acks >= *acks
            }),
            Self::PointReplica { source, acker, .. } => {
                report.is_some_and(|report| follows(report, source, *acker))
            }
            Self::Turn { to, acker, .. } => report.is_some_and(|report| follows(report, to, *acker)),
            Self::AckersAttached { acks, .. } => {
                report.is_some_and(|report| report.semi_sync.clients >= *acks)
            }
            Self::Register { primary, generation, ackers, acks, degraded } => {
                seen.record.as_ref().is_some_and(|record| {
                    (&record.primary, record.generation) == (primary, *generation)
                        && (&record.ackers, record.acks) == (ackers, *acks)
                        && record.degraded.is_some() == degraded.is_some()
                })
            }
            Self::Open { generation, .. } => {
                report.is_some_and(Report::is_writable)
                    && agent.is_none_or(|agent| {
                        agent.held == Some(*generation) && matches!(agent.access, Access::Held { .. })
                    })
            }
            Self::Admit { .. } => {
                report.is_some_and(|report| report.read_only)
                    && agent.is_none_or(|agent| agent.access == Access::Admitted)
            }
            Self::HoldVip { .. } => agent.is_none_or(|agent| agent.vip),
            Self::LoseVip { .. } => agent.is_none_or(|agent| !agent.vip),
            Self::ForgetSource { .. } => report.is_some_and(|report| report.channel().is_none()),
            // One that stays primary may lead again by itself before it is looked at.
            Self::StartServer { as_replica, .. } => {
                report.is_some_and(|report| report.read_only || !as_replica)
            }
            Self::SetReadOnly { on, .. } => report.is_some_and(|report| report.read_only == *on),
            Self::Furnish { .. } => seen.furnished,
            Self::SaveExtra { extra, .. } => agent
                .and_then(|agent| agent.extra.as_ref())
                .is_some_and(|saved| saved.set == *extra && saved.rewinding.is_none()),
            Self::Rewind { keep, .. } => {
                report.is_some_and(|report| report.executed == *keep)
                    && agent.is_some_and(|agent| agent.extra.is_none())
            }
            Self::Park { instance, .. } => seen
                .record
                .as_ref()
                .is_some_and(|record| record.parked.iter().any(|parked| parked.instance == *instance)),
            Self::Halt { threads, .. } => report.is_some_and(|report| halted(report, *threads)),
            Self::Wish { instance, wish } => {
                seen.record.as_ref().is_some_and(|record| record.wishes.holds(instance, wish))
            }
        }
    }
}

/// It replicates from `source` with both threads, read-only; with `acker` it is set to acknowledge.
fn follows(report: &Report, source: &InstanceId, acker: bool) -> bool {
    report.read_only
        && !report.semi_sync.source_enabled
        && (!acker || report.semi_sync.replica_enabled)
        && report.channel().is_some_and(|channel| {
            channel.source == *source
                && channel.receiver != ThreadState::Stopped
                && channel.applier == ThreadState::Running
        })
}

/// Those threads are stopped; without its receiver it is not set to acknowledge, and two stopped threads left nothing to apply.
fn halted(report: &Report, threads: Threads) -> bool {
    let stopped = |wanted: bool, state: ThreadState| !wanted || state == ThreadState::Stopped;
    (!threads.receives() || !report.semi_sync.replica_enabled)
        && report.channel().is_none_or(|channel| {
            stopped(threads.receives(), channel.receiver) && stopped(threads.applies(), channel.applier)
        })
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fence { instance, generation } => {
                write!(f, "{instance} closed to clients (generation {generation})")
            }
            Self::Block { instance, generation, .. } => {
                write!(f, "{instance} takes no writes and is closed to clients (generation {generation})")
            }
            Self::KeepUp { instance, source, closely, .. } => {
                write!(f, "{instance} is less than {} ms behind {source}", closely.as_millis())
            }
            Self::Turn { instance, from, to, acker, .. } => {
                let acker = if *acker { ", acknowledging" } else { "" };
                write!(f, "{instance} replicates from {to} instead of {from}{acker}")
            }
            Self::Quiet { instance, drain, end_older } => {
                write!(f, "transactions open on {instance} have {} ms to end", drain.as_millis())?;
                match end_older {
                    Some(older) => write!(f, ", those older than {} ms are ended", older.as_millis()),
                    None => Ok(()),
                }
            }
            Self::Unmoved { instance, set } => write!(f, "{instance} still has {set} and no more"),
            Self::Kill { instance } => write!(f, "{instance} server process killed"),
            Self::StopReceiving { instance, source } => {
                write!(f, "{instance} receives nothing more from {source}")
            }
            Self::Salvage { from, to, .. } => write!(f, "{to} gets what only {from}'s log holds"),
            Self::WaitApplied { instance, set, .. } => write!(f, "{instance} applies to {set}"),
            Self::CatchUpFrom { instance, source, set, .. } => {
                write!(f, "{instance} catches up from {source} to {set}")
            }
            Self::Claim { candidate, generation, proof } => {
                write!(f, "voters accept {candidate} for generation {generation}: {proof}")
            }
            Self::StopReplicating { instance } => write!(f, "{instance} stops replicating"),
            Self::ArmSource { instance, acks: 0 } => write!(f, "{instance} waits for no acknowledgement"),
            Self::ArmSource { instance, acks } => {
                write!(f, "{instance} armed: commits wait for {acks} acknowledgement(s)")
            }
            Self::PointReplica { instance, source, acker } => {
                write!(
                    f,
                    "{instance} replicates from {source}{}",
                    if *acker { ", acknowledging" } else { "" }
                )
            }
            Self::AckersAttached { instance, acks } => write!(f, "{acks} acker(s) attached to {instance}"),
            Self::Register { primary, generation, ackers, acks, degraded } => {
                write!(f, "{primary} recorded as primary of generation {generation}")?;
                match (ackers.is_empty(), degraded) {
                    (true, None) => Ok(()),
                    (true, Some(_)) => f.write_str(", lossless given up"),
                    (false, degraded) => {
                        let names: Vec<String> = ackers.iter().map(ToString::to_string).collect();
                        let span = if degraded.is_some() { ", lossless not in force" } else { "" };
                        write!(f, ", {acks} of {} acknowledging{span}", names.join(" "))
                    }
                }
            }
            Self::Open { instance, generation } => write!(f, "{instance} writable (generation {generation})"),
            Self::Admit { instance } => write!(f, "{instance} open for reads"),
            Self::HoldVip { instance, vip, .. } => write!(f, "{instance} holds {}", vip.address),
            Self::LoseVip { instance } => write!(f, "{instance} gives the VIP up"),
            Self::ForgetSource { instance } => write!(f, "{instance} forgets its old source"),
            Self::StartServer { instance, .. } => {
                write!(f, "{instance} server started, read-only and fenced")
            }
            Self::SetReadOnly { instance, on } => {
                write!(f, "{instance} {}", if *on { "read-only" } else { "writable" })
            }
            Self::Furnish { instance, semi_sync } => {
                write!(
                    f,
                    "{instance} has the heartbeat table, and accounts for heartbeat and replication (made where missing"
                )?;
                f.write_str(if *semi_sync { "), semi-sync loaded" } else { ")" })
            }
            Self::SaveExtra { instance, extra, .. } => write!(f, "{instance} has {extra} saved beside it"),
            Self::Rewind { instance, extra, keep, rows, .. } => {
                let what = if *rows { ", the rows of those as they were before" } else { "" };
                write!(f, "{instance} is set back to {keep}: without {extra}{what}")
            }
            Self::Park { instance, why } => write!(f, "{instance} parked: {why}"),
            Self::Halt { instance, threads, .. } => write!(f, "{instance}: {threads} stopped"),
            Self::Wish { instance, wish } => match wish {
                Wish::Follow { source: Some(source) } => {
                    write!(f, "{instance} recorded to be below {source}")
                }
                Wish::Follow { source: None } => write!(f, "{instance} recorded to be below the primary"),
                Wish::Stop { threads, .. } => write!(f, "{instance} recorded as stopped: {threads}"),
                Wish::Run => write!(f, "{instance} recorded to replicate"),
                Wish::Join { .. } => write!(f, "{instance} recorded as a member"),
                Wish::Leave => write!(f, "{instance} recorded as no member"),
            },
        }
    }
}
