//! Everything in the way of a switchover, found at once and before anything is touched.

use std::time::Duration;

use super::backlog::lag;
use super::candidate::{Candidate, Ranking, rank};
use super::diagnose::{Diagnosis, diagnose};
use super::failover::agent_is_heard;
use super::obstacle::Obstacle;
use super::proof::{majority, second_writer};
use super::reopen::led_since;
use super::switchover::Surveys;
use super::{guard, issues};
use crate::model::cluster::Mode;
use crate::model::instance::InstanceId;
use crate::model::intent::SwitchoverAsk;
use crate::model::report::{Replication, Report};
use crate::model::sessions::{Doing, Session};
use crate::model::time::Moment;
use crate::model::verdict::Verdict;
use crate::model::view::{ClusterView, Seen};

/// A heartbeat in flight for longer than this is a sign of a lock.
const HANGS: Duration = Duration::from_secs(1);
/// On a slow disk every commit takes long: so many times its usual span is a sign of a lock there.
const HANGS_TIMES: u32 = 3;

/// The server to promote, or everything in the way.
///
/// # Errors
/// Every obstacle found.
pub(super) fn preflight(
    view: &ClusterView,
    ask: &SwitchoverAsk,
    surveys: &Surveys,
    now: Moment,
) -> Result<InstanceId, Vec<Obstacle>> {
    let Some(record) = &view.record else {
        return Err(vec![Obstacle::NotAdopted { cluster: view.cluster.name.clone() }]);
    };
    let mut found = Vec::new();
    if view.cluster.mode == Mode::Observe {
        found.push(Obstacle::Observing);
    }
    let diagnosis = diagnose(view, now);
    if !diagnosis.verdict.serves() {
        let evidence = diagnosis.evidence.clone();
        found.push(Obstacle::NotHealthy { verdict: diagnosis.verdict, evidence });
    }
    // Its agent would refuse to be blocked for a generation that is over, and taking that back would cost it the one it leads.
    found.extend(led_since(view).map(|(primary, generation)| Obstacle::LedSince {
        primary,
        generation,
        recorded: record.generation,
    }));
    let ranking = rank(view, |instance| view.of(instance).and_then(|seen| seen.latest()));
    let target = choose(view, &ranking, &record.primary, ask, &mut found);
    at_primary(view, &diagnosis, &record.primary, ask, surveys, &mut found);
    if let Some(target) = &target {
        at_target(view, &record.primary, target, ask, surveys, &mut found);
    }
    found.extend(
        [majority(view), second_writer(view, target.as_ref())].into_iter().flatten().map(Obstacle::Other),
    );
    match target {
        Some(target) if found.is_empty() => Ok(target),
        Some(_) | None => Err(found),
    }
}

fn choose(
    view: &ClusterView,
    ranking: &Ranking,
    primary: &InstanceId,
    ask: &SwitchoverAsk,
    found: &mut Vec<Obstacle>,
) -> Option<InstanceId> {
    let Some(wanted) = &ask.to else {
        let best = best(view, ranking, ask.wait_lag);
        if best.is_none() {
            found.extend(guard::nobody(ranking).map(Obstacle::Other));
        }
        return best.cloned();
    };
    if wanted == primary {
        found.push(Obstacle::IsPrimary(wanted.clone()));
        return None;
    }
    if let Some(stranger) = view.cluster.stranger(wanted) {
        found.push(Obstacle::NotMember(stranger));
        return None;
    }
    let mut reasons = match ranking.candidates.iter().find(|candidate| candidate.instance == *wanted) {
        Some(candidate) => candidate.against.iter().map(ToString::to_string).collect(),
        None => vec!["it is no replica".to_owned()],
    };
    if is_to_be_rebuilt(view, wanted) {
        reasons.push(
            "an operator asked that its data be replaced, which a primary's never is (\"mhactl abort\" calls that off)"
                .to_owned(),
        );
    }
    if !reasons.is_empty() {
        found.push(Obstacle::NotEligible { instance: wanted.clone(), reasons });
    }
    Some(wanted.clone())
}

/// Whom a planned change takes where nobody is named: one that keeps up before one that lags further than `wait_lag` or stands still, and
/// of those one right below the primary before one that is further down; who is to be rebuilt last.
pub(super) fn best<'a>(
    view: &ClusterView,
    ranking: &'a Ranking,
    wait_lag: Duration,
) -> Option<&'a InstanceId> {
    let latest = |candidate: &Candidate| view.of(&candidate.instance).and_then(Seen::latest);
    let runs = |candidate: &&Candidate| {
        latest(candidate).and_then(Report::channel).is_some_and(Replication::is_running)
            && !is_to_be_rebuilt(view, &candidate.instance)
    };
    let keeps_up = |candidate: &&Candidate| {
        runs(candidate)
            && latest(candidate).and_then(|report| lag(view, report)).is_none_or(|lag| lag <= wait_lag)
    };
    let is_near = |candidate: &&Candidate| {
        let channel = latest(candidate).and_then(Report::channel);
        channel.is_some_and(|channel| Some(&channel.source) == view.primary())
    };
    let eligible = || ranking.candidates.iter().filter(|candidate| candidate.is_eligible());
    let best = eligible().filter(is_near).find(keeps_up).or_else(|| eligible().find(keeps_up));
    let best = best.or_else(|| eligible().filter(is_near).find(runs)).or_else(|| eligible().find(runs));
    best.or(ranking.best()).map(|best| &best.instance)
}

fn is_to_be_rebuilt(view: &ClusterView, instance: &InstanceId) -> bool {
    view.record.as_ref().is_some_and(|record| record.wishes.is_to_be_rebuilt(instance))
}

fn at_primary(
    view: &ClusterView,
    diagnosis: &Diagnosis,
    primary: &InstanceId,
    ask: &SwitchoverAsk,
    surveys: &Surveys,
    found: &mut Vec<Obstacle>,
) {
    agent(view, primary, found);
    let own_disk = view.of(primary).and_then(|seen| seen.agent_now()?.own_disk_fault.clone());
    found.extend(own_disk.map(|why| Obstacle::AgentDisk { instance: primary.clone(), why }));
    let agent = view.of(primary).and_then(Seen::agent_now);
    let usual = agent.and_then(|agent| agent.commit_takes).unwrap_or_default();
    let stuck = agent.and_then(|agent| agent.heartbeat_stuck);
    if let Some(since) = stuck.filter(|since| *since > HANGS.max(usual * HANGS_TIMES)) {
        found.push(Obstacle::WritesHang { instance: primary.clone(), since });
    }
    match surveys.get(primary) {
        Some(Ok(survey)) => found.extend(
            survey
                .sessions
                .iter()
                .filter(|session| is_in_the_way(session, ask))
                // A commit that waits for an acknowledgement is an open transaction to the server, and must not be ended (S5).
                .filter(|_| diagnosis.verdict != Verdict::BlockedForAcks)
                .map(|session| Obstacle::Busy { instance: primary.clone(), session: session.clone() }),
        ),
        Some(Err(why)) => {
            found.push(Obstacle::Unseen { instance: primary.clone(), why: why.clone() });
        }
        None => {}
    }
}

fn is_in_the_way(session: &Session, ask: &SwitchoverAsk) -> bool {
    match &session.doing {
        Doing::Transaction { .. } => session.since > ask.write_block && !ask.kill_long_transactions,
        Doing::ChangesSchema | Doing::WaitsForLock(_) | Doing::WaitsForAck => session.since > HANGS,
        Doing::LocksTables(_) | Doing::LocksEverything => true,
    }
}

fn at_target(
    view: &ClusterView,
    primary: &InstanceId,
    target: &InstanceId,
    ask: &SwitchoverAsk,
    surveys: &Surveys,
    found: &mut Vec<Obstacle>,
) {
    let report = |instance: &InstanceId| view.of(instance).and_then(|seen| seen.latest());
    agent(view, target, found);
    let job = view.of(target).and_then(|seen| seen.agent_now()?.job.as_ref());
    if let Some(job) = job.filter(|job| job.is_rebuild() && job.is_running()) {
        let why = format!("is {job}; wait for that, or end it with \"mhactl abort\"");
        found.push(Obstacle::NotEligible { instance: target.clone(), reasons: vec![why] });
    }
    if let Some(channel) = report(target).and_then(Report::channel) {
        let still = issues::threads(target, channel, false);
        found.extend(still.into_iter().map(|what| Obstacle::StandsStill { instance: target.clone(), what }));
    }
    if let Some(by) = report(target).and_then(|report| lag(view, report)).filter(|by| *by > ask.wait_lag) {
        let (allowed, remaining) = (ask.wait_lag, ask.remaining);
        found.push(Obstacle::Behind { instance: target.clone(), by, allowed, remaining });
    }
    if let (Some(old), Some(new)) = (report(primary), report(target)) {
        let series = |report: &Report| (report.identity.version.major, report.identity.version.minor);
        if series(old) < series(new) && !view.cluster.policy.allow_newer_primary {
            let version = old.identity.version;
            let (primary, target) = (primary.clone(), target.clone());
            found.push(Obstacle::OlderPrimary { primary, version, target });
        }
    }
    match surveys.get(target) {
        Some(Ok(survey)) => {
            if survey.replication_account == Some(false) {
                found.push(Obstacle::NoReplicationAccount(target.clone()));
            }
            if let Some(filter) = survey.binlog_filter.clone() {
                found.push(Obstacle::BinlogFilter { instance: target.clone(), filter });
            }
            let holds =
                |session: &&Session| matches!(session.doing, Doing::LocksTables(_) | Doing::LocksEverything);
            found.extend(
                survey
                    .sessions
                    .iter()
                    .filter(holds)
                    .map(|session| Obstacle::Busy { instance: target.clone(), session: session.clone() }),
            );
        }
        Some(Err(why)) => {
            found.push(Obstacle::Unseen { instance: target.clone(), why: why.clone() });
        }
        None => {}
    }
}

fn agent(view: &ClusterView, instance: &InstanceId, found: &mut Vec<Obstacle>) {
    if !agent_is_heard(view, instance) {
        found.push(Obstacle::NoAgent(instance.clone()));
    } else if view.of(instance).and_then(|seen| seen.agent_now()).is_some_and(|agent| agent.stopping) {
        found.push(Obstacle::AgentStopping(instance.clone()));
    }
}
