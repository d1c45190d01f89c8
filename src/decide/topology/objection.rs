//! Why an operator's word about one member is not followed. Every one says what to do instead.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::decide::guard::names;
use crate::model::cluster::{ClusterName, Stranger};
use crate::model::gtid::GtidSet;
use crate::model::instance::{Flavor, InstanceId, Version};
use crate::model::time::human;
use crate::model::verdict::Verdict;

/// One reason not to begin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Objection {
    NotAdopted(ClusterName),
    /// `mode = "observe"`.
    Observing,
    NotHealthy {
        verdict: Verdict,
        evidence: Vec<String>,
    },
    NotMember(Stranger),
    IsMember(InstanceId),
    /// It leads, and what was asked is done to replicas only.
    Leads(InstanceId),
    Parked {
        instance: InstanceId,
        why: String,
    },
    NotAnswering {
        instance: InstanceId,
        why: String,
    },
    /// Its agent keeps it closed: it returned and is compared first.
    Fenced(InstanceId),
    /// It has no default channel.
    NoReplica(InstanceId),
    NotByGtid(InstanceId),
    ItsOwnSource(InstanceId),
    /// The source is below it.
    Circle {
        instance: InstanceId,
        source: InstanceId,
    },
    IsThere {
        instance: InstanceId,
        source: InstanceId,
    },
    Stopped {
        instance: InstanceId,
        by: String,
    },
    Runs(InstanceId),
    OtherFlavor {
        instance: InstanceId,
        flavor: Flavor,
        source: InstanceId,
    },
    /// A replica may not read what a newer source writes.
    SourceNewer {
        instance: InstanceId,
        version: Version,
        source: InstanceId,
    },
    /// Nobody can follow it: no binary log, or not of what it replicates.
    CannotFeed {
        source: InstanceId,
        why: String,
    },
    ManySources {
        instance: InstanceId,
        sources: usize,
    },
    /// Its relay log cannot be kept over the move, and its delay keeps it from being applied.
    DelayedHere {
        instance: InstanceId,
        by: Duration,
    },
    Purged {
        instance: InstanceId,
        source: InstanceId,
        set: GtidSet,
    },
    Extra {
        instance: InstanceId,
        source: InstanceId,
        set: GtidSet,
    },
    /// It is to become a member and has a history of its own.
    NoCopy {
        instance: InstanceId,
        source: InstanceId,
        set: GtidSet,
    },
    /// Commits on the primary would wait.
    LastAcker {
        instance: InstanceId,
        primary: InstanceId,
        left: usize,
        acks: u32,
    },
    HasReplicas {
        instance: InstanceId,
        replicas: Vec<InstanceId>,
    },
    /// A replica that takes writes is a second writer.
    SecondWriter {
        instance: InstanceId,
        primary: InstanceId,
    },
    /// Read-only is not what stops a primary's writers.
    NoWritesOnPrimary(InstanceId),
    /// Writable is what its lease makes it.
    OpenedByLease(InstanceId),
    IsReadOnly(InstanceId),
    SameServer {
        instance: InstanceId,
        other: InstanceId,
        what: String,
    },
    Settings {
        instance: InstanceId,
        what: String,
    },
    FollowsStranger {
        instance: InstanceId,
        source: InstanceId,
    },
}

impl fmt::Display for Objection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAdopted(cluster) => {
                write!(f, "no primary is recorded; run \"mhactl adopt {cluster}\" first")
            }
            Self::Observing => f.write_str("mode is \"observe\": set mode \"manual\" or \"auto\" first"),
            Self::NotHealthy { verdict, evidence } => write!(
                f,
                "this needs a primary that serves, and this one is \"{verdict}\" ({})",
                evidence.join("; ")
            ),
            Self::NotMember(stranger) => {
                let new = &stranger.instance;
                write!(f, "{stranger}; name one of them, or make it one with \"mhactl replica add {new}\"")
            }
            Self::IsMember(instance) => write!(f, "{instance} is a member already"),
            Self::Leads(instance) => {
                write!(f, "{instance} is the primary; make another one primary first (mhactl switchover)")
            }
            Self::Parked { instance, why } => {
                write!(f, "{instance} is parked ({why}); see \"mhactl rejoin {instance} --dry-run\"")
            }
            Self::NotAnswering { instance, why } => {
                write!(f, "{instance} does not answer ({why}); start it, or look at its network")
            }
            Self::Fenced(instance) => {
                write!(
                    f,
                    "{instance} has returned and is compared with the primary first; ask again in a moment"
                )
            }
            Self::NoReplica(instance) => write!(
                f,
                "{instance} does not replicate on its default channel; bring it back with \"mhactl rejoin {instance}\""
            ),
            Self::NotByGtid(instance) => {
                write!(f, "{instance} replicates by file and position; switch it to GTIDs first")
            }
            Self::ItsOwnSource(instance) => {
                write!(f, "{instance} cannot replicate from itself; name another source")
            }
            Self::Circle { instance, source } => write!(
                f,
                "{source} is below {instance}, so this would be a circle that gets nothing; move {source} first"
            ),
            Self::IsThere { instance, source } => write!(f, "{instance} replicates from {source} already"),
            Self::Stopped { instance, by } => {
                write!(f, "{instance} was stopped by {by}; run \"mhactl replica start {instance}\" first")
            }
            Self::Runs(instance) => write!(f, "{instance} replicates already"),
            Self::OtherFlavor { instance, flavor, source } => {
                write!(f, "{instance} is {flavor}, {source} is not; neither can follow the other")
            }
            Self::SourceNewer { instance, version, source } => write!(
                f,
                "{source} is newer than {instance} ({version}), which may not read what it writes; upgrade {instance} first, or \
                 allow it with allow_newer_primary"
            ),
            Self::CannotFeed { source, why } => {
                write!(f, "nothing can be below {source}: {why}; mend that, or name another source")
            }
            Self::ManySources { instance, sources } => write!(
                f,
                "{instance} replicates from {sources} sources, and what came from which cannot be told apart at its new place; \
                 move its default channel by hand"
            ),
            Self::DelayedHere { instance, by } => write!(
                f,
                "{instance} is delayed by {}, and MariaDB throws away what it received and has not applied; set its delay to 0, \
                 let it catch up, then ask again",
                human(*by)
            ),
            Self::Purged { instance, source, set } => write!(
                f,
                "{source}'s log no longer holds {set}, which {instance} lacks; name another source, or rebuild {instance}"
            ),
            Self::Extra { instance, source, set } => write!(
                f,
                "{instance} has {set}, which {source} lacks; see \"mhactl rejoin {instance} --dry-run\""
            ),
            Self::NoCopy { instance, source, set } => write!(
                f,
                "{instance} has {set}, which {source} lacks: it is no copy of this cluster; restore it from a backup of one of its \
                 members, or forget its history where that is only its own set-up (RESET MASTER, RESET BINARY LOGS AND GTIDS)"
            ),
            Self::LastAcker { instance, primary, left, acks } => write!(
                f,
                "without {instance} {left} acker(s) are left of the {acks} every commit on {primary} waits for: writers would wait; \
                 bring another replica below {primary}, or add --force"
            ),
            Self::HasReplicas { instance, replicas } => write!(
                f,
                "{instance} feeds {}, which would get nothing more; move that first (mhactl replica move), or add --force",
                names(replicas)
            ),
            Self::SecondWriter { instance, primary } => write!(
                f,
                "{instance} is a replica: writes there would be a second truth beside {primary}'s, and lost at the next rejoin; \
                 to write there run \"mhactl switchover --to {instance}\""
            ),
            Self::NoWritesOnPrimary(instance) => write!(
                f,
                "{instance} is the primary, and read_only would leave its clients with errors and nobody to write to; to work on \
                 it run \"mhactl switchover\" first, or \"mhactl rolling\""
            ),
            Self::OpenedByLease(instance) => write!(
                f,
                "{instance} is the primary and is writable while it holds its lease, no sooner; \"mhactl status\" says what keeps it"
            ),
            Self::IsReadOnly(instance) => write!(f, "{instance} is read-only already"),
            Self::SameServer { instance, other, what } => {
                write!(f, "{instance} and {other} have the same {what}; give each its own")
            }
            Self::Settings { instance, what } => write!(f, "{instance}: {what}"),
            Self::FollowsStranger { instance, source } => write!(
                f,
                "{instance} replicates from {source}, which is no member; end that on {instance} by hand first, if it is to be ours"
            ),
        }
    }
}
