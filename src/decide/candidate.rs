//! Every replica, ranked, each with its reasons for and against: "if the primary died now".

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::given_up::given_up;
use super::reach;
use super::restrictions;
use crate::model::cluster::{Member, Promotion};
use crate::model::disk::Disk;
use crate::model::gtid::GtidSet;
use crate::model::instance::{Flavor, InstanceId, Version};
use crate::model::log_fault::LogFault;
use crate::model::observation::{Access, AgentStatus};
use crate::model::record::ClusterRecord;
use crate::model::report::{Report, ThreadState};
use crate::model::restrictions::{Setting, listed};
use crate::model::time::Moment;
use crate::model::view::{ClusterView, Seen};

/// Why a replica may not lead.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Against {
    NotAnswering(String),
    /// `promotion = "never"`.
    Never,
    Parked(String),
    NoBinlog,
    /// It does not write replicated transactions to its own log: nobody could follow it.
    NoReplicaUpdates,
    NotReplicating,
    NotByGtid,
    /// Its applier stopped with an error: what it received cannot be applied.
    ApplierError {
        code: u32,
        text: String,
        /// At most so many transactions are received and wait for it.
        #[serde(default)]
        waiting: u64,
    },
    /// Filters drop part of its stream.
    Filtered(Vec<Setting>),
    /// Its own log leaves transactions out: who followed it would miss them.
    BinlogFiltered(Vec<Setting>),
    /// It passes over errors when it applies: rows may be missing.
    SkipsErrors(Vec<Setting>),
    /// It applied with these settings, which are set back: rows may be missing.
    RowsLeftOut(Vec<Setting>),
    /// It has forgotten its own history, which was this.
    HistoryReset(GtidSet),
    /// A file of its binary log that a replica needs cannot be read.
    LogUnreadable(LogFault),
    /// It runs, and no client and no replica can connect to it.
    Unreachable(String),
    /// MySQL's `offline_mode`: no client is let in, and no replica.
    Offline,
    Delayed(#[serde(with = "crate::model::time::millis")] Duration),
    /// By command, by whom.
    Stopped(String),
    MultiSource(usize),
    Errant(GtidSet),
    /// Newer than a replica that would have to follow it.
    NewerThan {
        instance: InstanceId,
        version: Version,
    },
    /// Its service manager has said that it stops it.
    Stopping,
    /// Nobody on its host can give it the VIP and the lease.
    NoAgent,
    /// It can write nothing, and so neither lead nor acknowledge.
    Disk(Disk),
    /// Its agent could not keep that it leads, so it would not.
    AgentDisk(String),
    /// Another cluster's server: it follows a source that is no member.
    Stranger(InstanceId),
}

impl fmt::Display for Against {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAnswering(why) => write!(f, "does not answer ({why})"),
            Self::Never => f.write_str("promotion = \"never\""),
            Self::Parked(why) => write!(f, "parked: {why}"),
            Self::NoBinlog => f.write_str("has no binary log"),
            Self::NoReplicaUpdates => f.write_str("does not log what it replicates"),
            Self::NotReplicating => f.write_str("is no replica"),
            Self::NotByGtid => f.write_str("does not replicate by GTID"),
            Self::ApplierError { code, text, waiting: 0 } => {
                write!(f, "its applier stopped with error {code}: {text}")
            }
            Self::ApplierError { code, text, waiting } => {
                write!(f, "its applier stopped with error {code}: {text}; {}", keep_received(*waiting))
            }
            Self::Filtered(by) => write!(f, "filters its stream ({})", listed(by)),
            Self::BinlogFiltered(by) => {
                write!(f, "leaves transactions out of its binary log ({})", listed(by))
            }
            Self::SkipsErrors(by) => write!(f, "passes over errors when it applies ({})", listed(by)),
            Self::RowsLeftOut(by) => write!(f, "may lack rows: it replicated with {}", listed(by)),
            Self::Unreachable(why) => write!(f, "cannot be reached by clients and replicas ({why})"),
            Self::HistoryReset(had) => write!(f, "has forgotten its own history, which was {had}"),
            Self::LogUnreadable(fault) => write!(f, "{fault}"),
            Self::Offline => f.write_str("offline_mode is ON"),
            Self::Delayed(by) => write!(f, "is delayed by {} s", by.as_secs()),
            Self::Stopped(by) => write!(f, "was stopped by {by}"),
            Self::MultiSource(n) => write!(f, "replicates from {n} sources"),
            Self::Errant(set) => write!(f, "has errant transactions: {}", set.told()),
            Self::NewerThan { instance, version } => {
                write!(f, "is newer than {instance} ({version}), which would be stranded")
            }
            Self::NoAgent => f.write_str("no word from its agent"),
            Self::Stopping => f.write_str("is being stopped by its service manager"),
            Self::Disk(disk) => write!(f, "{disk}"),
            Self::AgentDisk(why) => write!(f, "its agent cannot write to its own data directory ({why})"),
            Self::Stranger(source) => write!(f, "replicates from {source}, which is no member"),
        }
    }
}

/// What whoever mends a stopped applier must know. A start of both threads (MariaDB), or a reset of replication, throws away what was received.
pub(super) fn keep_received(waiting: u64) -> String {
    format!(
        "up to {waiting} received transactions wait for its applier and would be lost if both threads were restarted or reset: mend the cause, then \
         start the applier alone with \"mhactl replica start\""
    )
}

/// A replica, judged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    pub instance: InstanceId,
    pub promotion: Promotion,
    pub against: Vec<Against>,
    /// Transactions others received and it did not. An upper bound on MariaDB.
    pub behind: u64,
    /// Transactions received and not yet applied.
    pub to_apply: u64,
    pub same_zone: bool,
    /// Received ∪ executed.
    pub known: GtidSet,
    /// What of `known` is this cluster's history: without errant transactions, and without those of other clusters where it
    /// replicates from several. Only this is compared.
    pub ours: GtidSet,
    /// Why it could lead to no good: too few replicas could replicate from it, or it could not fetch what it lacks.
    #[serde(default)]
    pub hampered: Option<String>,
    /// When promoting it last failed, if that was in this outage: the others are tried first.
    #[serde(skip)]
    pub failed_at: Option<Moment>,
}

impl Candidate {
    /// Nothing speaks against it.
    pub fn is_eligible(&self) -> bool {
        self.against.is_empty()
    }

    /// Why another server could not fetch from it what it has, if so. Its errant or foreign transactions would be spread; what it cannot
    /// apply never reaches its log (relay logs are no source).
    pub(crate) fn cannot_feed(&self) -> Option<&Against> {
        self.against.iter().find(|against| match against {
            Against::NotAnswering(_)
            | Against::Parked(_)
            | Against::NoBinlog
            | Against::NoReplicaUpdates
            | Against::Filtered(_)
            | Against::BinlogFiltered(_)
            | Against::SkipsErrors(_)
            | Against::RowsLeftOut(_)
            | Against::HistoryReset(_)
            | Against::LogUnreadable(_)
            | Against::Unreachable(_)
            | Against::Offline
            | Against::MultiSource(_)
            | Against::Errant(_)
            | Against::Stranger(_) => true,
            Against::ApplierError { .. } | Against::Delayed(_) => self.to_apply > 0,
            // What it has is applied first, whoever stopped it.
            Against::Stopped(_)
            | Against::Never
            | Against::NotReplicating
            | Against::NotByGtid
            | Against::NewerThan { .. }
            | Against::Stopping
            | Against::Disk(_)
            | Against::AgentDisk(_)
            | Against::NoAgent => false,
        })
    }

    /// Whether a new primary may count on its acknowledgements at once: it can follow, and gets all of the stream.
    pub(crate) fn can_acknowledge(&self) -> bool {
        self.could_acknowledge() && !self.is_stopped()
    }

    /// Somebody stopped it by command.
    pub(crate) fn is_stopped(&self) -> bool {
        self.against.iter().any(|against| matches!(against, Against::Stopped(_)))
    }

    /// The same, if it were started.
    pub(crate) fn could_acknowledge(&self) -> bool {
        self.against.iter().all(|against| match against {
            Against::NotAnswering(_)
            | Against::Parked(_)
            | Against::ApplierError { .. }
            | Against::Filtered(_)
            | Against::BinlogFiltered(_)
            | Against::SkipsErrors(_)
            | Against::RowsLeftOut(_)
            | Against::NotReplicating
            | Against::Stopping
            | Against::Disk(_)
            | Against::Stranger(_) => false,
            Against::Stopped(_)
            | Against::Never
            | Against::Errant(_)
            | Against::NoBinlog
            | Against::NoReplicaUpdates
            | Against::NotByGtid
            | Against::Unreachable(_)
            | Against::LogUnreadable(_)
            | Against::HistoryReset(_)
            | Against::Offline
            | Against::Delayed(_)
            | Against::MultiSource(_)
            | Against::NewerThan { .. }
            | Against::AgentDisk(_)
            | Against::NoAgent => true,
        })
    }
}

impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.instance)?;
        if !self.against.is_empty() {
            let reasons: Vec<String> = self.against.iter().map(ToString::to_string).collect();
            return write!(f, " never: {}", reasons.join("; "));
        }
        match self.behind {
            0 => f.write_str(" has everything")?,
            n => write!(f, " {n} behind")?,
        }
        if self.to_apply > 0 {
            write!(f, ", {} to apply", self.to_apply)?;
        }
        if self.promotion == Promotion::Prefer {
            f.write_str(", preferred")?;
        }
        if self.failed_at.is_some() {
            f.write_str(", its last promotion failed")?;
        }
        if let Some(why) = &self.hampered {
            write!(f, ", but {why}")?;
        }
        Ok(())
    }
}

/// Two servers of which neither has everything the other has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incomparable {
    pub left: InstanceId,
    pub left_only: GtidSet,
    pub right: InstanceId,
    pub right_only: GtidSet,
}

/// The replicas in the order they would be chosen, best first; the eligible before the others.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ranking {
    pub candidates: Vec<Candidate>,
    /// Who holds the maximal set (it need not be eligible), and that set.
    pub most_advanced: Option<(InstanceId, GtidSet)>,
    pub incomparable: Option<Incomparable>,
}

impl Ranking {
    /// Whom a failover would promote.
    pub fn best(&self) -> Option<&Candidate> {
        self.candidates.first().filter(|candidate| candidate.is_eligible())
    }
}

/// Ranks every replica by the newest reports `report_of` gives: the view's, or those read after their I/O stopped.
pub fn rank<'a>(view: &'a ClusterView, report_of: impl Fn(&InstanceId) -> Option<&'a Report>) -> Ranking {
    let mut reports = view.replicas().filter_map(|(instance, _)| report_of(instance));
    let follows_several = reports.any(|report| report.replication.len() > 1);
    let reference = follows_several.then(|| reference(view, &report_of)).flatten();
    let ours: BTreeMap<&InstanceId, GtidSet> = view
        .replicas()
        .filter_map(|(instance, seen)| {
            Some((instance, ours(view, seen, report_of(instance)?, reference.as_ref())))
        })
        .collect();
    let compared: Vec<(&InstanceId, &GtidSet)> = ours
        .iter()
        .filter(|(instance, _)| is_compared(view, instance, report_of(instance)))
        .map(|(instance, set)| (*instance, set))
        .collect();
    let (most_advanced, incomparable) = maximal(&compared);
    let dead_zone = view
        .primary()
        .and_then(|primary| view.cluster.member(primary))
        .and_then(|member| member.zone.clone());
    let mut candidates: Vec<Candidate> = view
        .replicas()
        .filter_map(|(instance, seen)| {
            let member = view.cluster.member(instance)?;
            let report = report_of(instance);
            let ours = ours.get(instance).cloned();
            let against = against(view, member, seen, report, &report_of);
            let failed_at = seen.promotion_failed.as_ref().map(|(at, _)| *at);
            let judged =
                candidate(member, report, ours, against, most_advanced.as_ref(), dead_zone.as_deref());
            Some(Candidate { failed_at, ..judged })
        })
        .collect();
    let holder = most_advanced.as_ref().map(|(holder, _)| holder);
    reach::judge(view, &mut candidates, holder, &report_of);
    candidates.sort_by_key(|candidate| {
        (
            !candidate.is_eligible(),
            candidate.hampered.is_some(),
            candidate.failed_at,
            candidate.promotion,
            candidate.behind > 0,
            !candidate.same_zone,
            candidate.behind,
            candidate.to_apply,
            view.cluster.order(&candidate.instance),
        )
    });
    Ranking { candidates, most_advanced, incomparable }
}

/// The set that contains all others, or the first pair that shows there is none.
fn maximal(known: &[(&InstanceId, &GtidSet)]) -> (Option<(InstanceId, GtidSet)>, Option<Incomparable>) {
    let Some(top) = known.iter().max_by_key(|(_, set)| set.count()) else { return (None, None) };
    let top = known.iter().find(|(_, set)| known.iter().all(|(_, other)| set.contains(other))).unwrap_or(top);
    let clash = known.iter().find(|(_, other)| !top.1.contains(other)).map(|other| Incomparable {
        left: top.0.clone(),
        left_only: top.1.minus(other.1),
        right: other.0.clone(),
        right_only: other.1.minus(top.1),
    });
    match clash {
        Some(clash) => (None, Some(clash)),
        None => (Some((top.0.clone(), top.1.clone())), None),
    }
}

/// What the cluster's own history is made of: the primary's, and that of every replica of this cluster alone. Only to tell the
/// transactions of another cluster apart, where a replica follows several.
fn reference<'a>(
    view: &'a ClusterView,
    report_of: &impl Fn(&InstanceId) -> Option<&'a Report>,
) -> Option<GtidSet> {
    let primary = view
        .primary()
        .and_then(|primary| view.of(primary)?.last_report.as_ref())
        .map(|(_, report)| report.executed.clone());
    let single = view
        .replicas()
        .filter_map(|(instance, _)| report_of(instance))
        .filter(|report| report.replication.len() < 2)
        .map(Report::known);
    primary.into_iter().chain(single).reduce(|all, set| all.try_union(&set).unwrap_or(all))
}

/// What of its set is the history that `reference` is of, without errant transactions.
/// Errant is what another server than the primary wrote: what the primary itself wrote and no longer has, it has lost (a crash without
/// durable commits), and here it survives.
fn ours(view: &ClusterView, seen: &Seen, report: &Report, reference: Option<&GtidSet>) -> GtidSet {
    let known = report.known();
    let known = match reference {
        Some(reference) if report.replication.len() > 1 => known.of_origins(reference),
        Some(_) | None => known,
    };
    match errant(view, seen) {
        Some(errant) => known.minus(&errant),
        None => known,
    }
}

pub(super) fn errant(view: &ClusterView, seen: &Seen) -> Option<GtidSet> {
    let primary = view.primary().and_then(|primary| view.of(primary)?.last_report.as_ref());
    let without_lost = |errant: &GtidSet| match primary {
        Some((_, primary)) => errant.minus(&errant.written_by(&primary.identity)),
        None => errant.clone(),
    };
    // What was given up is errant although the primary died before the two could be compared.
    let left = seen.last_report.as_ref().map(|(_, report)| given_up(view, report));
    let found = seen.errant.as_ref().map(without_lost).into_iter().chain(left);
    found.reduce(|all, set| all.try_union(&set).unwrap_or(all)).filter(|errant| !errant.is_empty())
}

/// Whether what it has counts. A parked one diverged and a person was told, unless it may hold an acknowledged row; a stranger's
/// history is another cluster's (F128).
fn is_compared(view: &ClusterView, instance: &InstanceId, report: Option<&Report>) -> bool {
    let parked = view.record.as_ref().is_some_and(|record| {
        record.parked.iter().any(|parked| parked.instance == *instance) && !record.ackers.contains(instance)
    });
    let stranger = report
        .and_then(Report::channel)
        .is_some_and(|channel| view.cluster.member(&channel.source).is_none());
    let passed_over = view.of(instance).is_some_and(|seen| is_passed_over(view, instance, seen));
    !parked && !stranger && !passed_over
}

/// It led before the recorded primary and is closed since: what it alone has was passed over when that one was promoted, or nobody
/// was told of it. Never one that acknowledges in this generation, and never one the record does not know to be the older.
pub(crate) fn is_passed_over(view: &ClusterView, instance: &InstanceId, seen: &Seen) -> bool {
    let acks = |record: &ClusterRecord| record.ackers.contains(instance);
    led_before(view, instance, seen) && !view.record.as_ref().is_some_and(acks)
}

/// The same, whether it is registered to acknowledge or not, and whether its server runs or not.
pub(super) fn led_before(view: &ClusterView, instance: &InstanceId, seen: &Seen) -> bool {
    let Some(agent) = seen.agent_now().filter(|agent| agent.access == Access::Closed) else { return false };
    let Some(record) = view.record.as_ref().filter(|record| record.primary != *instance) else {
        return false;
    };
    agent.held.is_some_and(|held| held <= record.generation)
        && seen.latest().is_none_or(|report| report.channel().is_none())
}

/// Everything that speaks against it.
fn against<'a>(
    view: &ClusterView,
    member: &Member,
    seen: &Seen,
    report: Option<&Report>,
    report_of: &impl Fn(&InstanceId) -> Option<&'a Report>,
) -> Vec<Against> {
    let instance = &member.instance;
    let mut against = Vec::new();
    if member.promotion == Promotion::Never {
        against.push(Against::Never);
    }
    if let Some(parked) =
        view.record.as_ref().and_then(|r| r.parked.iter().find(|parked| parked.instance == *instance))
    {
        against.push(Against::Parked(parked.why.clone()));
    }
    if let Some(stopped) = view.record.as_ref().and_then(|record| record.wishes.stopped(instance)) {
        against.push(Against::Stopped(stopped.by.clone()));
    }
    if member.agent.is_some() && seen.agent_now().is_none() {
        against.push(Against::NoAgent);
    }
    if seen.agent_now().is_some_and(|agent| agent.leaving.is_some()) {
        against.push(Against::Stopping);
    }
    against.extend(seen.agent_now().and_then(AgentStatus::stuck_disk).copied().map(Against::Disk));
    let own_disk = seen.agent_now().and_then(|agent| agent.own_disk_fault.clone());
    against.extend(own_disk.map(Against::AgentDisk));
    match report {
        Some(report) => {
            // What another cluster wrote is foreign, not errant: `MultiSource` says so already.
            if let Some(errant) = errant(view, seen).filter(|_| report.replication.len() < 2) {
                against.push(Against::Errant(errant));
            }
            server_reasons(view, instance, report, &mut against);
            against.extend(restrictions::against(seen, report));
            against.extend(restrictions::log_fault(view, instance, seen, report_of));
            version_reasons(view, instance, report, report_of, &mut against);
        }
        None => {
            let why = seen.unseen().map_or_else(|| "no answer".to_owned(), ToString::to_string);
            against.push(Against::NotAnswering(why));
        }
    }
    against
}

fn candidate(
    member: &Member,
    report: Option<&Report>,
    ours: Option<GtidSet>,
    against: Vec<Against>,
    most_advanced: Option<&(InstanceId, GtidSet)>,
    dead_zone: Option<&str>,
) -> Candidate {
    let flavor = most_advanced.map_or(Flavor::MySql, |(_, set)| set.flavor());
    let known = report.map_or_else(|| GtidSet::empty(flavor), Report::known);
    let ours = ours.unwrap_or_else(|| GtidSet::empty(flavor));
    Candidate {
        instance: member.instance.clone(),
        promotion: member.promotion,
        behind: most_advanced.map_or(0, |(_, all)| all.minus(&ours).count()),
        to_apply: report.map_or(0, |report| known.minus(&report.executed).count()),
        same_zone: dead_zone.is_some() && member.zone.as_deref() == dead_zone,
        against,
        known,
        ours,
        hampered: None,
        failed_at: None,
    }
}

fn server_reasons(view: &ClusterView, instance: &InstanceId, report: &Report, against: &mut Vec<Against>) {
    if !report.settings.log_bin {
        against.push(Against::NoBinlog);
    } else if !report.settings.log_replica_updates {
        against.push(Against::NoReplicaUpdates);
    }
    if report.replication.len() > 1 {
        against.push(Against::MultiSource(report.replication.len()));
    }
    let Some(channel) = report.channel() else {
        against.push(Against::NotReplicating);
        return;
    };
    if view.cluster.member(&channel.source).is_none() || channel.source == *instance {
        against.push(Against::Stranger(channel.source.clone()));
    }
    if !channel.gtid {
        against.push(Against::NotByGtid);
    }
    if let (ThreadState::Stopped, Some(error)) = (channel.applier, &channel.applier_error) {
        let waiting = channel.received.minus(&report.executed).count();
        against.push(Against::ApplierError { code: error.code, text: error.text.clone(), waiting });
    }
    if channel.delay > Duration::ZERO {
        against.push(Against::Delayed(channel.delay));
    }
}

/// A newer server may write what an older replica cannot read (minor and patch of one series are no obstacle).
fn version_reasons<'a>(
    view: &ClusterView,
    instance: &InstanceId,
    report: &Report,
    report_of: &impl Fn(&InstanceId) -> Option<&'a Report>,
    against: &mut Vec<Against>,
) {
    if view.cluster.policy.allow_newer_primary {
        return;
    }
    let series = |version: Version| (version.major, version.minor);
    let older = view
        .replicas()
        .filter(|(other, _)| *other != instance)
        .filter_map(|(other, _)| Some((other, report_of(other)?.identity.version)))
        .find(|(_, version)| series(*version) < series(report.identity.version));
    if let Some((other, version)) = older {
        against.push(Against::NewerThan { instance: other.clone(), version });
    }
}
