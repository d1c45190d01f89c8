//! The shapes of `/api/v1` that are not model types already. The command line reads what is written here and nothing else.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::execute::journal::{Entry, Recovery};
use crate::manager::snapshot::{MemberSnapshot, Snapshot};
use crate::model::ballot::Generation;
use crate::model::cluster::{ClusterName, Mode};
use crate::model::instance::InstanceId;
use crate::model::intent::How;
use crate::model::verdict::Verdict;
use crate::model::wishes::Change;
use crate::notify::Told;

/// `GET /health`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Health {
    pub version: String,
    pub up_seconds: u64,
    pub clusters: usize,
    /// In how many of them this manager leads.
    pub leading: usize,
}

/// `GET /api/v1/clusters`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Clusters {
    pub clusters: Vec<ClusterSummary>,
}

/// One cluster in one line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClusterSummary {
    pub cluster: ClusterName,
    pub mode: Mode,
    pub verdict: Verdict,
    pub sentence: String,
    pub primary: Option<InstanceId>,
    pub generation: Generation,
    /// Clients can write, as far as was seen.
    pub writable: bool,
    pub recovering: bool,
    pub issues: usize,
}

impl ClusterSummary {
    /// The snapshot in short.
    pub fn of(snapshot: &Snapshot) -> Self {
        Self {
            cluster: snapshot.cluster.clone(),
            mode: snapshot.mode,
            verdict: snapshot.verdict,
            sentence: snapshot.sentence.clone(),
            primary: snapshot.primary.clone(),
            generation: snapshot.generation,
            writable: writable(snapshot),
            recovering: snapshot.recovering,
            issues: snapshot.issues.len(),
        }
    }
}

/// The primary answers, is not read-only, and its agent, where there is one, lets clients through.
pub fn writable(snapshot: &Snapshot) -> bool {
    use crate::model::observation::Access;
    snapshot
        .members
        .iter()
        .filter(|member| snapshot.primary.as_ref() == Some(&member.instance))
        .any(|primary| primary.read_only == Some(false) && !matches!(primary.access, Some(Access::Closed)))
}

/// `GET …/topology`: trees of who replicates from whom; the primary's first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Topology {
    pub cluster: ClusterName,
    pub verdict: Verdict,
    pub roots: Vec<Node>,
}

/// One server in a tree.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Node {
    #[serde(flatten)]
    pub member: MemberSnapshot,
    /// A server outside the cluster or one already shown, which it replicates from; absent under its source.
    pub stray_source: Option<InstanceId>,
    pub replicas: Vec<Node>,
}

impl Topology {
    /// The trees of that snapshot. Each member is in them once, also where sources go in a circle.
    pub fn of(snapshot: &Snapshot) -> Self {
        let mut left: BTreeSet<&InstanceId> =
            snapshot.members.iter().map(|member| &member.instance).collect();
        let is_member =
            |instance: &InstanceId| snapshot.members.iter().any(|member| member.instance == *instance);
        let rooted =
            |member: &&MemberSnapshot| member.source.as_ref().is_none_or(|source| !is_member(source));
        let mut tops: Vec<&MemberSnapshot> = snapshot.members.iter().filter(rooted).collect();
        tops.sort_by_key(|member| snapshot.primary.as_ref() != Some(&member.instance));
        // Whoever is in a circle of sources has no top: the first of them in configuration order stands for one.
        tops.extend(snapshot.members.iter().filter(|member| !rooted(member)));
        let mut roots = Vec::new();
        for top in tops {
            if left.remove(&top.instance) {
                let replicas = below(snapshot, &top.instance, &mut left);
                roots.push(Node { member: top.clone(), stray_source: top.source.clone(), replicas });
            }
        }
        Self { cluster: snapshot.cluster.clone(), verdict: snapshot.verdict, roots }
    }
}

fn below<'a>(snapshot: &'a Snapshot, source: &InstanceId, left: &mut BTreeSet<&'a InstanceId>) -> Vec<Node> {
    let mut found = Vec::new();
    for member in snapshot.members.iter().filter(|member| member.source.as_ref() == Some(source)) {
        if left.remove(&member.instance) {
            let replicas = below(snapshot, &member.instance, left);
            found.push(Node { member: member.clone(), stray_source: None, replicas });
        }
    }
    found
}

/// `GET …/history`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct History {
    pub recoveries: Vec<Recovery>,
}

/// `GET …/told`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ToldList {
    pub told: Vec<Told>,
}

/// `POST …/failover`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FailoverRequest {
    #[serde(default)]
    pub to: Option<InstanceId>,
    #[serde(default)]
    pub accept_loss: bool,
    #[serde(default)]
    pub old_primary_is_dead: bool,
    /// Who asks, for the history.
    #[serde(default)]
    pub by: String,
    #[serde(default)]
    pub dry_run: bool,
}

/// `POST …/switchover`. Spans in milliseconds; absent ones have the defaults of the command line.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SwitchoverRequest {
    #[serde(default)]
    pub to: Option<InstanceId>,
    #[serde(default)]
    pub write_block_ms: Option<u64>,
    #[serde(default)]
    pub wait_lag_ms: Option<u64>,
    #[serde(default)]
    pub drain_ms: Option<u64>,
    #[serde(default)]
    pub kill_long_transactions: bool,
    /// Who asks, for the history.
    #[serde(default)]
    pub by: String,
    #[serde(default)]
    pub dry_run: bool,
}

/// `POST …/handoff`. Answered with what was begun, or with [`Done`] where nothing is to be handed over.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HandoffRequest {
    /// Who is to lead no more.
    pub instance: InstanceId,
    /// For how long the asker goes on asking: less than 10 s ends sessions with long transactions. 30 s where absent.
    #[serde(default)]
    pub remaining_ms: Option<u64>,
    /// Who asks, for the history.
    #[serde(default)]
    pub by: String,
    #[serde(default)]
    pub dry_run: bool,
}

/// `POST …/abort`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AbortRequest {
    #[serde(default)]
    pub by: String,
}

/// `POST …/rolling`: a command goes round the servers, said again and again while it does.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RollingRequest {
    /// Whatever the one who runs it chose: the same in each.
    pub id: String,
    #[serde(default)]
    pub by: String,
    #[serde(default)]
    pub ended: bool,
}

/// `POST …/adopt`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdoptRequest {
    #[serde(default)]
    pub primary: Option<InstanceId>,
    #[serde(default)]
    pub by: String,
}

/// `POST …/ack`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AcknowledgeRequest {
    #[serde(default)]
    pub by: String,
}

/// `POST …/votes`: hosts that are destroyed vote no more; hosts that are back do again.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VotesRequest {
    #[serde(default)]
    pub destroyed: Vec<String>,
    #[serde(default)]
    pub back: Vec<String>,
    #[serde(default)]
    pub by: String,
}

/// `POST …/unpark`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnparkRequest {
    pub instance: InstanceId,
    #[serde(default)]
    pub by: String,
}

/// `POST …/rejoin`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RejoinRequest {
    pub instance: InstanceId,
    #[serde(default)]
    pub how: How,
    /// Whose copy it is rebuilt from; absent: the one that is missed least.
    #[serde(default)]
    pub from: Option<InstanceId>,
    #[serde(default)]
    pub by: String,
    #[serde(default)]
    pub dry_run: bool,
}

/// `POST …/replica`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplicaRequest {
    pub instance: InstanceId,
    pub change: Change,
    #[serde(default)]
    pub force: bool,
    /// How long others may take to be level, in milliseconds; 10 s where it is absent.
    #[serde(default)]
    pub within_ms: Option<u64>,
    #[serde(default)]
    pub by: String,
    #[serde(default)]
    pub dry_run: bool,
}

/// A recovery was begun.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Begun {
    /// Its id, for `…/recovery?follow=true&id=` and `…/history/{id}`.
    pub recovery: String,
}

/// Done at once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Done {
    pub done: String,
}

/// One line of `…/recovery?follow=true`. Empty lines between them only show that the stream lives.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FollowLine {
    /// The first line: the recovery, its entries left out.
    Recovery(Recovery),
    Entry(Entry),
}

/// Every answer that is not a success.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ErrorBody {
    pub error: Problem,
}

/// What happened, why, and what to do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Problem {
    /// A word for programs; it does not change.
    pub code: String,
    pub message: String,
    /// What to do.
    pub next: String,
    /// Every reason, where there are several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<String>,
}
