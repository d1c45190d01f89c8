//! `/metrics`: the boards as OpenMetrics text, units in the names. Every value is read when asked for; nothing is kept but the
//! count of recoveries.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::ApiState;
use super::api::Answer;
use super::contract::writable;
use super::error::ApiError;
use crate::clock;
use crate::decide::plan::PlanKind;
use crate::execute::Outcome;
use crate::execute::journal::{Recovery, What};
use crate::manager::handle::ClusterHandle;
use crate::manager::snapshot::{Hearing, MemberSnapshot, Snapshot};
use crate::model::verdict::Verdict;
use crate::store::StoreError;

/// How many past recoveries are counted at the first look.
const DEEPEST: u32 = 1_000;
/// How many may have ended between two looks.
const RECENT: u32 = 64;

const VERDICTS: [Verdict; 16] = [
    Verdict::NotAdopted,
    Verdict::Starting,
    Verdict::Healthy,
    Verdict::Degraded,
    Verdict::DeadPrimary,
    Verdict::SilentPrimary,
    Verdict::HungPrimary,
    Verdict::UnreachablePrimary,
    Verdict::ManagerCutOff,
    Verdict::OverloadedPrimary,
    Verdict::MisconfiguredPrimary,
    Verdict::BlockedForAcks,
    Verdict::ClosedPrimary,
    Verdict::IsolatedPrimary,
    Verdict::DeadPrimaryAndReplicas,
    Verdict::SplitBrain,
];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfBuild {
    version: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfCluster {
    cluster: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfVerdict {
    cluster: String,
    verdict: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfInstance {
    cluster: String,
    instance: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfRecovery {
    cluster: String,
    kind: String,
    outcome: String,
}

type Seconds<L> = Family<L, Gauge<f64, AtomicU64>>;
type Number<L> = Family<L, Gauge>;

/// Ended recoveries of one cluster, counted once each.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// By kind and outcome.
    counts: BTreeMap<(String, String), u64>,
    /// Id of the newest counted.
    newest: Option<String>,
    looked: bool,
    /// The newest failover that went through.
    last_failover: Option<LastFailover>,
}

#[derive(Debug, Clone, Copy)]
struct LastFailover {
    /// Unix time, seconds.
    at: f64,
    /// From the recovery's beginning until clients had the new primary.
    took: Duration,
}

pub(super) async fn serve(State(api): State<Arc<ApiState>>) -> Answer {
    for handle in api.clusters.values() {
        tally(&api, handle).await?;
    }
    let mut registry = Registry::with_prefix("mha");
    service(&mut registry, &api);
    let families = Families::registered(&mut registry);
    for handle in api.clusters.values() {
        let board = Arc::clone(&handle.board.borrow());
        families.cluster(&board);
        for member in &board.members {
            families.member(&board, member);
        }
    }
    let tallies = api.tallies.lock().unwrap_or_else(PoisonError::into_inner);
    for (cluster, tally) in &*tallies {
        families.tally(&cluster.0, tally);
    }
    drop(tallies);
    let mut text = String::new();
    encode(&mut text, &registry)
        .map_err(|_| ApiError::internal("the metrics could not be written as text"))?;
    Ok(([(CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text).into_response())
}

fn service(registry: &mut Registry, api: &ApiState) {
    let build = Number::<OfBuild>::default();
    build.get_or_create(&OfBuild { version: env!("CARGO_PKG_VERSION").to_owned() }).set(1);
    registry.register("build_info", "Version of this manager; always 1", build);
    let up: Gauge<f64, AtomicU64> = Gauge::default();
    up.set(clock::now().since(api.started).as_secs_f64());
    registry.register("manager_uptime_seconds", "Since this manager started", up);
}

/// Counts what ended since the last look. The store is asked only when the board shows that something did.
async fn tally(api: &ApiState, handle: &ClusterHandle) -> Result<(), StoreError> {
    let ended = handle
        .recovery
        .borrow()
        .as_ref()
        .filter(|shown| shown.outcome().is_some())
        .map(|shown| shown.id.clone());
    let (first, newest) = {
        let mut tallies = api.tallies.lock().unwrap_or_else(PoisonError::into_inner);
        let tally = tallies.entry(handle.name.clone()).or_default();
        (!tally.looked, tally.newest.clone())
    };
    if !first && (ended.is_none() || ended == newest) {
        return Ok(());
    }
    let recoveries = api.store.history(&handle.name, if first { DEEPEST } else { RECENT }).await?;
    let mut tallies = api.tallies.lock().unwrap_or_else(PoisonError::into_inner);
    let tally = tallies.entry(handle.name.clone()).or_default();
    // Another scrape may have counted meanwhile: what is new is judged by the tally as it is now.
    let newest = tally.newest.clone();
    let new: Vec<&Recovery> = recoveries
        .iter()
        .take_while(|recovery| Some(&recovery.id) != newest.as_ref())
        .filter(|recovery| recovery.outcome().is_some())
        .collect();
    for recovery in new.iter().rev() {
        tally.count(recovery);
    }
    tally.looked = true;
    Ok(())
}

impl Tally {
    fn count(&mut self, recovery: &Recovery) {
        let Some(outcome) = recovery.outcome() else { return };
        let kind = if recovery.kind == PlanKind::Isolate {
            "failover".to_owned()
        } else {
            recovery.kind.to_string()
        };
        let word = match outcome {
            Outcome::Done => "done",
            Outcome::Undone { .. } => "undone",
            Outcome::Failed { .. } => "failed",
        };
        *self.counts.entry((kind, word.to_owned())).or_default() += 1;
        self.newest = Some(recovery.id.clone());
        if let (PlanKind::Isolate, Some(took)) = (recovery.kind, until_writable(recovery)) {
            let at = recovery.began_at.timestamp_millis() as f64 / 1000.0;
            self.last_failover = Some(LastFailover { at, took });
        }
    }
}

/// From the recovery's beginning to the end of the stage after which clients reach a writable primary: "traffic", or "promote"
/// where there is no address to move. `None` when it did not come so far.
fn until_writable(recovery: &Recovery) -> Option<Duration> {
    let ended = |name: &str| {
        recovery.entries.iter().rev().find_map(|entry| match &entry.what {
            What::Done { stage, .. } if stage == name => Some(entry.after),
            What::Accepted { .. }
            | What::Stage { .. }
            | What::Done { .. }
            | What::Failed { .. }
            | What::Undoing { .. }
            | What::Refused { .. }
            | What::Ended { .. } => None,
        })
    };
    ended("traffic").or_else(|| ended("promote"))
}

/// The verdict as it stands in JSON.
fn word(verdict: Verdict) -> String {
    serde_json::to_value(verdict).ok().and_then(|word| Some(word.as_str()?.to_owned())).unwrap_or_default()
}

/// Every family that has a cluster in its labels.
#[derive(Debug, Default)]
struct Families {
    verdict: Number<OfVerdict>,
    writable: Number<OfCluster>,
    leading: Number<OfCluster>,
    recovering: Number<OfCluster>,
    generation: Number<OfCluster>,
    acks: Number<OfCluster>,
    issues: Number<OfCluster>,
    primary: Number<OfInstance>,
    vip: Number<OfInstance>,
    up: Number<OfInstance>,
    agent_up: Number<OfInstance>,
    behind: Number<OfInstance>,
    heartbeat_age: Seconds<OfInstance>,
    unapplied: Number<OfInstance>,
    lease: Seconds<OfInstance>,
    recoveries: Family<OfRecovery, Counter>,
    failover_took: Seconds<OfCluster>,
    failover_at: Seconds<OfCluster>,
}

impl Families {
    fn registered(to: &mut Registry) -> Self {
        let all = Self::default();
        to.register("cluster_verdict", "1 for the present verdict, 0 for every other", all.verdict.clone());
        to.register(
            "cluster_writable",
            "1 while the primary was last seen to take clients' writes",
            all.writable.clone(),
        );
        to.register(
            "cluster_leading",
            "1 while a majority of voters obeys this manager",
            all.leading.clone(),
        );
        to.register("cluster_recovering", "1 while a recovery runs", all.recovering.clone());
        to.register("cluster_generation", "Generation of the present primary", all.generation.clone());
        to.register(
            "cluster_required_acks",
            "Acknowledgements a commit waits for; 0 while not armed",
            all.acks.clone(),
        );
        to.register("cluster_issues", "Findings that need a person or a moment", all.issues.clone());
        to.register("primary_info", "The recorded primary; always 1", all.primary.clone());
        to.register("vip_info", "Who holds the VIP; always 1", all.vip.clone());
        to.register("instance_up", "1 while the server answers this manager", all.up.clone());
        to.register("agent_up", "1 while the agent on its host is heard", all.agent_up.clone());
        to.register(
            "replica_seconds_behind",
            "Lag as the replica itself says; absent while unknown",
            all.behind.clone(),
        );
        to.register(
            "replica_heartbeat_age_seconds",
            "True lag: age of the newest write heartbeat applied",
            all.heartbeat_age.clone(),
        );
        to.register(
            "replica_unapplied_transactions",
            "Received and not applied; an upper bound on MariaDB",
            all.unapplied.clone(),
        );
        to.register(
            "lease_remaining_seconds",
            "Until the kernel closes the server to clients",
            all.lease.clone(),
        );
        to.register("recoveries", "Recoveries that ended", all.recoveries.clone());
        to.register(
            "last_failover_until_writable_seconds",
            "Of the last failover: from its beginning (not from the failure) until clients had the new primary",
            all.failover_took.clone(),
        );
        to.register("last_failover_timestamp_seconds", "When it began, Unix time", all.failover_at.clone());
        all
    }

    fn cluster(&self, board: &Snapshot) {
        let name = &board.cluster.0;
        let of = OfCluster { cluster: name.clone() };
        for verdict in VERDICTS {
            let labels = OfVerdict { cluster: name.clone(), verdict: word(verdict) };
            self.verdict.get_or_create(&labels).set(i64::from(verdict == board.verdict));
        }
        self.writable.get_or_create(&of).set(i64::from(writable(board)));
        self.leading.get_or_create(&of).set(i64::from(board.not_leading.is_none()));
        self.recovering.get_or_create(&of).set(i64::from(board.recovering));
        self.generation.get_or_create(&of).set(board.generation.0.try_into().unwrap_or(i64::MAX));
        self.acks.get_or_create(&of).set(i64::from(board.acks));
        self.issues.get_or_create(&of).set(count(board.issues.len() as u64));
        let named = |instance: &crate::model::instance::InstanceId| OfInstance {
            cluster: name.clone(),
            instance: instance.to_string(),
        };
        if let Some(primary) = &board.primary {
            self.primary.get_or_create(&named(primary)).set(1);
        }
        if let Some(holder) = &board.vip_on {
            self.vip.get_or_create(&named(holder)).set(1);
        }
    }

    fn member(&self, board: &Snapshot, member: &MemberSnapshot) {
        let of = OfInstance { cluster: board.cluster.0.clone(), instance: member.instance.to_string() };
        self.up.get_or_create(&of).set(i64::from(member.state == "ok"));
        if matches!(member.agent, Hearing::Ok | Hearing::NotHeard) {
            self.agent_up.get_or_create(&of).set(i64::from(member.agent == Hearing::Ok));
        }
        if let Some(lease) = member.lease {
            self.lease.get_or_create(&of).set(lease.as_secs_f64());
        }
        if member.source.is_some() {
            self.unapplied.get_or_create(&of).set(count(member.to_apply));
            if let Some(behind) = member.seconds_behind {
                self.behind.get_or_create(&of).set(count(behind));
            }
            if let Some(age) = member.heartbeat_age {
                self.heartbeat_age.get_or_create(&of).set(age.as_secs_f64());
            }
        }
    }

    fn tally(&self, cluster: &str, tally: &Tally) {
        for ((kind, outcome), ended) in &tally.counts {
            let of = OfRecovery { cluster: cluster.to_owned(), kind: kind.clone(), outcome: outcome.clone() };
            self.recoveries.get_or_create(&of).inc_by(*ended);
        }
        if let Some(last) = tally.last_failover {
            let of = OfCluster { cluster: cluster.to_owned() };
            self.failover_took.get_or_create(&of).set(last.took.as_secs_f64());
            self.failover_at.get_or_create(&of).set(last.at);
        }
    }
}

fn count(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
