//! What is read back after a step, and whether it makes the wanted fact one.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Step;
use crate::model::events::ServerEvents;
use crate::model::instance::InstanceId;
use crate::model::job::{Phase, Task};
use crate::model::observation::{Access, AgentStatus, Process};
use crate::model::record::ClusterRecord;
use crate::model::report::{Replication, Report, ThreadState};
use crate::model::time::millis;
use crate::model::wishes::Threads;

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
    /// So many ackers were attached when they were waited for.
    #[serde(default)]
    pub attached: Option<u32>,
    /// The heartbeat table was found.
    pub furnished: bool,
    /// The traffic program ended well.
    #[serde(default)]
    pub directed: bool,
    /// Its scheduled events, where they were what the step is about.
    #[serde(default)]
    pub events: Option<ServerEvents>,
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
    /// What was read before that shows this to be so already: transactions that were applied stay applied.
    pub fn seen_before<'e>(&self, read: &'e [(Self, Evidence)]) -> Option<&'e Evidence> {
        let Self::WaitApplied { instance, .. } = self else { return None };
        let of_it = read.iter().filter(|(step, _)| step.instance() == instance);
        of_it.map(|(_, seen)| seen).find(|seen| self.is_satisfied(seen))
    }

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
                report.is_level() && report.channel().is_none_or(Replication::is_stopped)
            }),
            Self::ArmSource { acks: 0, .. } => report.is_some_and(|report| !report.semi_sync.source_enabled),
            Self::ArmSource { acks, .. } => report.is_some_and(|report| {
                report.semi_sync.not_armed_for(*acks).is_none() && !report.semi_sync.replica_enabled
            }),
            Self::PointReplica { source, acker, .. } => {
                report.is_some_and(|report| follows(report, source, *acker))
            }
            // Where it came from it served: it does so at its new place before anybody counts on that.
            Self::Turn { to, acker, .. } => report.is_some_and(|report| {
                follows(report, to, *acker) && report.channel().is_some_and(Replication::is_running)
            }),
            Self::AckersAttached { acks, .. } => seen
                .attached
                .or(report.map(|report| report.semi_sync.clients))
                .is_some_and(|have| have >= *acks),
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
                let muted = |report: &Report| !report.semi_sync.source_enabled && report.read_only;
                report.is_some_and(|report| !as_replica || muted(report))
            }
            Self::SetReadOnly { on, .. } => report.is_some_and(|report| report.read_only == *on),
            Self::Furnish { .. } => seen.furnished,
            Self::Direct { .. } => seen.directed,
            Self::SaveExtra { extra, .. } => agent
                .and_then(|agent| agent.extra.as_ref())
                .is_some_and(|saved| saved.set == *extra && saved.rewinding.is_none()),
            Self::Rewind { keep, .. } => {
                report.is_some_and(|report| report.executed == *keep)
                    && agent.is_some_and(|agent| agent.extra.is_none())
            }
            Self::Rebuild { from, .. } => agent.and_then(|agent| agent.job.as_ref()).is_some_and(|job| {
                matches!(&job.task, Task::Rebuild { from: known, .. } if known == from)
                    && !matches!(job.phase, Phase::Failed { .. })
            }),
            Self::Exchange { .. } => {
                report.is_some_and(|report| report.read_only)
                    && agent
                        .and_then(|agent| agent.job.as_ref())
                        .is_some_and(|job| job.is_rebuild() && job.phase == Phase::Exchanged)
            }
            Self::Park { instance, .. } => seen
                .record
                .as_ref()
                .is_some_and(|record| record.parked.iter().any(|parked| parked.instance == *instance)),
            Self::Halt { threads, .. } => report.is_some_and(|report| halted(report, *threads)),
            Self::Events { scheduler, enable, .. } => seen.events.as_ref().is_some_and(|events| {
                events.has_scheduler(*scheduler)
                    && enable.as_ref().is_none_or(|idle| events.missing(idle).next().is_none())
            }),
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
