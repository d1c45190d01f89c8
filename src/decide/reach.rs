//! Who could replicate from whom, by the test logins of the members' agents: told before it is needed, and counted where a next
//! primary is chosen. Without an agent, or without a recent test, nothing is known and nothing is held against anybody.

use std::collections::BTreeMap;
use std::time::Duration;

use super::candidate::{Candidate, Ranking, rank};
use super::failover::acks_in_force;
use super::guard::names;
use super::hanging;
use crate::model::instance::InstanceId;
use crate::model::observation::{Access, AgentStatus, Process, Unseen};
use crate::model::policy::Durability;
use crate::model::reach::Reach;
use crate::model::report::Report;
use crate::model::time::human;
use crate::model::view::{ClusterView, Seen};

/// An older test says nothing: agents test every minute, and more often while a login fails.
const FRESH: Duration = Duration::from_secs(180);

/// The failed test login from the host of `from` at `to`, if `to` is there and takes connections. A server that is down, or closed
/// by its agent, refuses everybody, and that says nothing of the way to it.
pub(super) fn refusal<'v>(view: &'v ClusterView, from: &InstanceId, to: &InstanceId) -> Option<&'v Reach> {
    let said = view.of(from)?.agent.as_ref().filter(|_| from != to)?;
    let tests = view.of(from)?.agent_now()?.reach.iter();
    let mut refused = tests.filter(|test| test.to == *to && test.is_refused()).peekable();
    // Nothing else is looked at where nobody was refused, which is nearly always.
    refused.peek()?;
    let source = view.of(to)?;
    source.latest()?;
    if let Some(agent) = source.agent_now()
        && (agent.access == Access::Closed || !matches!(agent.process, Process::Running { .. }))
    {
        return None;
    }
    let newest = view.seen.values().filter_map(|seen| Some(seen.agent.as_ref()?.at)).max().unwrap_or(said.at);
    let fresh = |test: &&Reach| test.age + newest.since(said.at) <= FRESH;
    refused.find(fresh)
}

/// One sentence for each reason for which members cannot replicate from others.
pub(super) fn issues(view: &ClusterView) -> Vec<String> {
    let members = || view.cluster.members.iter().map(|member| &member.instance);
    let mut by_reason: BTreeMap<String, (&Reach, BTreeMap<usize, Vec<InstanceId>>)> = BTreeMap::new();
    for (place, to) in members().enumerate() {
        for from in members() {
            let Some(test) = refusal(view, from, to) else { continue };
            let reason = format!("{:?} {}", test.outcome, test.user);
            let (_, pairs) = by_reason.entry(reason).or_insert((test, BTreeMap::new()));
            pairs.entry(place).or_default().push(from.clone());
        }
    }
    let told = by_reason.into_values().filter_map(|(test, pairs)| {
        let pairs = pairs.iter().filter_map(|(place, from)| Some((from.as_slice(), members().nth(*place)?)));
        sentence(test, &pairs.collect::<Vec<_>>())
    });
    told.collect()
}

fn sentence(test: &Reach, pairs: &[(&[InstanceId], &InstanceId)]) -> Option<String> {
    let unseen = test.outcome.as_ref().err()?;
    let at = |(from, to): &(&[InstanceId], &InstanceId)| format!("{} at {to}", names(from));
    let pairs = pairs.iter().map(at).collect::<Vec<_>>().join("; ");
    Some(match speaks(unseen) {
        true => format!(
            "a receiver could not log in as {} ({unseen}): {pairs}; mend that account there (lock, password, host, privileges), or replicas \
             cannot follow after a failover",
            test.user
        ),
        false => format!(
            "a receiver could not connect ({unseen}): {pairs}; let those hosts through to that port and look at bind_address and \
             skip_networking there, or replicas cannot follow after a failover"
        ),
    })
}

/// The server itself answered.
fn speaks(unseen: &Unseen) -> bool {
    match unseen {
        Unseen::AccessDenied(_) | Unseen::Server { .. } | Unseen::TooManyConnections => true,
        Unseen::Refused
        | Unseen::Lost
        | Unseen::NoRoute
        | Unseen::SilentBeforeGreeting
        | Unseen::HungAfterLogin
        | Unseen::WrongServer(_)
        | Unseen::Name(_)
        | Unseen::Looker(_) => false,
    }
}

/// Notes for each candidate why it would lead in vain.
pub(super) fn judge<'a>(
    view: &ClusterView,
    candidates: &mut [Candidate],
    holder: Option<&InstanceId>,
    report_of: &impl Fn(&InstanceId) -> Option<&'a Report>,
) {
    let why =
        |candidate: &Candidate| hampered(view, candidate, candidates, holder, report_of(&candidate.instance));
    let found: Vec<Option<String>> = candidates.iter().map(why).collect();
    for (candidate, why) in candidates.iter_mut().zip(found) {
        candidate.hampered = why;
    }
}

/// Why commits would wait, or nothing could be fetched, if that one led: whoever must replicate from it cannot, or it cannot replicate
/// from the one that has what it lacks.
fn hampered(
    view: &ClusterView,
    candidate: &Candidate,
    all: &[Candidate],
    holder: Option<&InstanceId>,
    report: Option<&Report>,
) -> Option<String> {
    let instance = &candidate.instance;
    let why = |from: &InstanceId, to: &InstanceId| {
        let unseen = refusal(view, from, to)?.outcome.clone().err()?;
        Some(match speaks(&unseen) {
            true => format!("{from} cannot log in at {to} ({unseen})"),
            false => format!("{from} cannot reach {to} ({unseen})"),
        })
    };
    if let Some(span) = view.of(instance).and_then(hanging::stop_hangs) {
        return Some(format!("stopping its replication has hung for {}", human(span)));
    }
    let waits = view.of(instance).and_then(hanging::applier_waits).filter(|_| candidate.to_apply > 0);
    if let Some(span) = waits {
        return Some(format!("its applier has waited {} for a table lock", human(span)));
    }
    if candidate.behind > 0
        && let Some(why) = holder.and_then(|holder| why(instance, holder))
    {
        return Some(why);
    }
    if view.cluster.policy.durability != Durability::Lossless {
        return None;
    }
    let ackers = all.iter().filter(|other| other.instance != *instance && other.could_acknowledge());
    let (cannot, can): (Vec<Option<String>>, Vec<Option<String>>) =
        ackers.map(|other| why(&other.instance, instance)).partition(Option::is_some);
    let short = can.len() < acks_in_force(view, report) as usize;
    let cannot: Vec<String> = cannot.into_iter().flatten().collect();
    (short && !cannot.is_empty()).then(|| cannot.join(", "))
}

/// Why that one would lead in vain, if it led now.
pub(super) fn in_vain(view: &ClusterView, leader: &InstanceId) -> Option<String> {
    // Ranking takes time, and hardly ever is anything held against anybody.
    let suspect = |agent: &AgentStatus| {
        agent.stop_hangs.or(agent.applier_waits).is_some() || agent.reach.iter().any(Reach::is_refused)
    };
    if !view.seen.values().filter_map(Seen::agent_now).any(suspect) {
        return None;
    }
    let ranking = rank(view, |instance| view.of(instance).and_then(|seen| seen.latest()));
    let mut candidates = ranking.candidates.into_iter();
    candidates.find(|candidate| candidate.instance == *leader)?.hampered
}

/// Why no promotion would help: commits would wait under each candidate, or promoting it has just failed. Only of use while the dead
/// server can be started where it is.
pub(super) fn leads_nowhere(view: &ClusterView, ranking: &Ranking) -> Option<String> {
    let eligible = || ranking.candidates.iter().filter(|candidate| candidate.is_eligible());
    let is_hopeless = |candidate: &Candidate| candidate.hampered.is_some() || candidate.failed_at.is_some();
    if eligible().next().is_none() || !eligible().all(is_hopeless) {
        return None;
    }
    let why = eligible().map(|candidate| {
        let failed = || view.of(&candidate.instance)?.promotion_failed.as_ref().map(|(_, why)| why.clone());
        let why = candidate.hampered.clone().or_else(failed).unwrap_or_default();
        format!("{} would not serve ({why})", candidate.instance)
    });
    Some(why.collect::<Vec<_>>().join("; "))
}
