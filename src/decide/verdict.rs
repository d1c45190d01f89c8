//! The one entry: everything known in, one decision out, which always reads as one sentence.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::ackers;
use super::backlog::lag;
use super::candidate::{Ranking, rank};
use super::diagnose::{Diagnosis, diagnose};
use super::events;
use super::evidence::{self, PortShut};
use super::failover::{self, Isolation};
use super::guard::{self, Blocker};
use super::plan::{Plan, PlanKind, Step};
use super::reach;
use super::rejoin;
use super::reopen::{self, NotOpened};
use crate::model::cluster::Mode;
use crate::model::instance::InstanceId;
use crate::model::intent::{FailoverAsk, Intents};
use crate::model::observation::Leaving;
use crate::model::report::{Replication, Report};
use crate::model::time::{Moment, human};
use crate::model::verdict::Verdict;
use crate::model::view::ClusterView;

/// What to do now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "action", content = "of", rename_all = "snake_case")]
pub enum Action {
    /// Nothing is the matter, or nothing that is ours to mend.
    Rest,
    /// The evidence does not decide yet. No mutating effect.
    Wait {
        why: String,
    },
    /// Something should be done and must not be.
    Refuse {
        blockers: Vec<Blocker>,
    },
    Act(Plan),
}

/// A decision with everything it rests on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    pub diagnosis: Diagnosis,
    /// "If the primary died now."
    pub ranking: Ranking,
    pub action: Action,
    /// What, of whom, why, what next.
    pub sentence: String,
}

/// Decides. `wall` only counts the failover budget, `now` everything else.
pub fn decide(view: &ClusterView, intents: &Intents, now: Moment, wall: DateTime<Utc>) -> Decision {
    let mut diagnosis = diagnose(view, now);
    if diagnosis.verdict.calls_for_failover() {
        diagnosis.evidence.extend(intents.at_once.warning());
    }
    let ranking = rank(view, |instance| view.of(instance).and_then(|seen| seen.latest()));
    let action = unless_in_vain(act(view, intents, &diagnosis, &ranking, now, wall), intents, now);
    let sentence = sentence(view, &diagnosis, &action);
    Decision { diagnosis, ranking, action, sentence }
}

/// What was done several times and is wanted again has no lasting effect: it is done ever less often, and a person is told. Giving lossless
/// up is never put off: clients hang meanwhile. Its return is.
fn unless_in_vain(action: Action, intents: &Intents, now: Moment) -> Action {
    let Action::Act(plan) = action else { return action };
    match in_vain(&plan, intents, now) {
        Some(why) => Action::Wait { why },
        None => Action::Act(plan),
    }
}

/// Why that plan is to wait: it had no lasting effect.
pub(super) fn in_vain(plan: &Plan, intents: &Intents, now: Moment) -> Option<String> {
    let again = match plan.kind {
        PlanKind::Repair if gives_lossless_up(plan) => None,
        PlanKind::Rejoin | PlanKind::Repair | PlanKind::Topology => intents.in_vain(&plan.title, now),
        PlanKind::Isolate | PlanKind::Promote | PlanKind::Switchover | PlanKind::Adopt => None,
    };
    let (remaining, times) = again.filter(|_| intents.failover.is_none())?;
    Some(format!(
        "\"{}\" was done {times} times and does not last; it is done again in {}; look for what undoes it (another tool, a script, a \
         wrong address)",
        plan.title,
        human(remaining)
    ))
}

/// The first plan that is not in vain, by rules in the order of their urgency: what waits holds up nothing behind it. Where all wait, the
/// first one, for its reason.
pub(super) fn first_lasting(
    plans: impl Iterator<Item = Plan>,
    intents: &Intents,
    now: Moment,
) -> Option<Plan> {
    let mut waits = None;
    for plan in plans {
        if in_vain(&plan, intents, now).is_none() {
            return Some(plan);
        }
        waits = waits.or(Some(plan));
    }
    waits
}

/// A rule that gives a plan where something is to be done.
type Rule<'r> = &'r dyn Fn() -> Option<Plan>;

fn by_rules(rules: &[Rule<'_>], intents: &Intents, now: Moment) -> Action {
    first_lasting(rules.iter().filter_map(|rule| rule()), intents, now).map_or(Action::Rest, Action::Act)
}

/// It lets waiting commits go, and does nothing else; one that opens a server may disarm it too.
fn gives_lossless_up(plan: &Plan) -> bool {
    let opens = plan.steps().any(|step| matches!(step, Step::Open { .. }));
    !opens && plan.steps().any(|step| matches!(step, Step::ArmSource { acks: 0, .. }))
}

fn act(
    view: &ClusterView,
    intents: &Intents,
    diagnosis: &Diagnosis,
    ranking: &Ranking,
    now: Moment,
    wall: DateTime<Utc>,
) -> Action {
    if let Some(ask) = &intents.failover {
        return asked(view, diagnosis, ranking, ask);
    }
    if let Some(why) = awaited(view, diagnosis, now) {
        return Action::Wait { why };
    }
    if let Some(plan) = reopen::led_by_another(view, intents) {
        return Action::Act(plan);
    }
    match diagnosis.verdict {
        Verdict::DeadPrimary | Verdict::SilentPrimary | Verdict::HungPrimary | Verdict::IsolatedPrimary => {
            unplanned(view, intents, diagnosis, ranking, now, wall)
        }
        Verdict::Healthy | Verdict::Degraded if view.cluster.mode != Mode::Observe => {
            let rules: [Rule<'_>; 9] = [
                &|| reopen::confirmed(view, intents),
                &|| reopen::traffic(view, intents, now),
                &|| reopen::tidy(view, intents, now),
                &|| events::mend(view, intents, now),
                &|| rejoin::rejoin(view, intents, now),
                &|| ackers::lower(view, intents, now),
                &|| ackers::rearm(view, ranking, intents, now),
                &|| ackers::retire(view, intents, now),
                &|| ackers::recruit(view, ranking, intents, now),
            ];
            by_rules(&rules, intents, now)
        }
        // What mends it is an acker that is back; whom policy lets go first does not wait for that.
        Verdict::BlockedForAcks if view.cluster.mode != Mode::Observe => {
            let rules: [Rule<'_>; 5] = [
                &|| reopen::confirmed(view, intents),
                &|| ackers::lower(view, intents, now),
                &|| ackers::degrade(view, intents, now),
                // Who only reads needs the address too.
                &|| reopen::traffic(view, intents, now),
                &|| rejoin::rejoin(view, intents, now),
            ];
            by_rules(&rules, intents, now)
        }
        Verdict::ClosedPrimary if view.cluster.mode != Mode::Observe => {
            match reopen::reopen(view, intents, now) {
                Ok(plan) => Action::Act(plan),
                Err(NotOpened::Wait(why)) => Action::Wait { why },
                Err(NotOpened::LostTail(why)) => {
                    go_on_from_the_whole(unplanned(view, intents, diagnosis, ranking, now, wall), why)
                }
            }
        }
        Verdict::UnreachablePrimary | Verdict::Starting => {
            Action::Wait { why: diagnosis.evidence.last().cloned().unwrap_or_default() }
        }
        // Its agent is heard, so that it can be fenced.
        Verdict::MisconfiguredPrimary if is_shut_for_good(view, now) => {
            unplanned(view, intents, diagnosis, ranking, now, wall)
        }
        // What needs no look at the primary goes on, and so does what its agent's word is enough for.
        Verdict::ManagerCutOff if view.cluster.mode != Mode::Observe => {
            rejoin::rejoin(view, intents, now).map_or(Action::Rest, Action::Act)
        }
        // Nobody to promote: after a power cut the last primary is the one to start.
        Verdict::DeadPrimaryAndReplicas => start_or_refuse(view, intents, ranking, now),
        Verdict::NotAdopted
        | Verdict::Healthy
        | Verdict::Degraded
        | Verdict::ManagerCutOff
        | Verdict::OverloadedPrimary
        | Verdict::MisconfiguredPrimary
        | Verdict::BlockedForAcks
        | Verdict::ClosedPrimary
        | Verdict::SplitBrain => Action::Rest,
    }
}

/// The primary has lost what others have: a failover is due, for that reason.
fn go_on_from_the_whole(action: Action, why: String) -> Action {
    match action {
        Action::Act(plan) => Action::Act(Plan { title: format!("{why}; {}", plan.title), ..plan }),
        Action::Refuse { blockers } => {
            Action::Wait { why: format!("{why}; no failover: {}", guard::told(&blockers)) }
        }
        Action::Rest | Action::Wait { .. } => Action::Wait { why },
    }
}

/// The primary's server is away by its operator's word, and comes back: nobody takes over while its time lasts.
fn awaited(view: &ClusterView, diagnosis: &Diagnosis, now: Moment) -> Option<String> {
    match diagnosis.verdict {
        Verdict::DeadPrimary
        | Verdict::DeadPrimaryAndReplicas
        | Verdict::HungPrimary
        | Verdict::UnreachablePrimary
        | Verdict::MisconfiguredPrimary
        | Verdict::ClosedPrimary => {}
        Verdict::NotAdopted
        | Verdict::Starting
        | Verdict::Healthy
        | Verdict::Degraded
        | Verdict::SilentPrimary
        | Verdict::ManagerCutOff
        | Verdict::OverloadedPrimary
        | Verdict::BlockedForAcks
        | Verdict::IsolatedPrimary
        | Verdict::SplitBrain => return None,
    }
    let primary = &view.record.as_ref()?.primary;
    let seen = view.of(primary)?;
    let Some(Leaving::Restart { remaining }) = seen.agent_now()?.leaving else { return None };
    let remaining = remaining.saturating_sub(now.since(seen.agent.as_ref()?.at));
    (!remaining.is_zero()).then(|| {
        format!(
            "a planned restart of its server: another leads if it is not back within {}",
            human(remaining)
        )
    })
}

fn start_or_refuse(view: &ClusterView, intents: &Intents, ranking: &Ranking, now: Moment) -> Action {
    let mode = (view.cluster.mode != Mode::Auto).then_some(Blocker::Mode(view.cluster.mode));
    let blockers: Vec<Blocker> = mode.into_iter().chain(guard::nobody(ranking)).collect();
    if view.cluster.mode == Mode::Auto
        && let Some(plan) =
            reopen::restart_in_place(view, intents, now, &format!("is possible: {}", guard::told(&blockers)))
    {
        return Action::Act(plan);
    }
    Action::Refuse { blockers }
}

/// The primary's port has let nobody in for longer than policy allows.
fn is_shut_for_good(view: &ClusterView, now: Moment) -> bool {
    match evidence::lets_nobody_in(view, now) {
        PortShut::ToEverybody { span, .. } => span >= view.cluster.policy.refused_port_grace,
        PortShut::NotTo(_) | PortShut::Unknown => false,
    }
}

/// The primary failed by itself.
fn unplanned(
    view: &ClusterView,
    intents: &Intents,
    diagnosis: &Diagnosis,
    ranking: &Ranking,
    now: Moment,
    wall: DateTime<Utc>,
) -> Action {
    let Some(primary) = &diagnosis.primary else { return Action::Rest };
    let mut blockers = guard::before_failover(view, ranking, now, wall);
    if let Some(remaining) = intents.at_once.held_back {
        blockers.push(Blocker::ManyAtOnce { limit: intents.at_once.limit, remaining });
    }
    // What promoting would refuse is known before anything is touched.
    if let Err(more) = failover::promote(view, &Isolation::supposed(view, primary), None) {
        let told = blockers.iter().any(|blocker| matches!(blocker, Blocker::NobodyEligible { .. }));
        let again = |blocker: &Blocker| told && matches!(blocker, Blocker::NobodyEligible { .. });
        blockers.extend(more.into_iter().filter(|blocker| !again(blocker)));
    }
    if blockers.is_empty()
        && let Some(why) = reach::leads_nowhere(view, ranking)
        && let Some(plan) = reopen::restart_in_place(view, intents, now, &format!("would help: {why}"))
    {
        return Action::Act(plan);
    }
    if let Some((remaining, why)) = intents.pause_while_out(primary, now) {
        blockers.push(Blocker::JustUndone { remaining, why: why.to_owned() });
    }
    if blockers.is_empty() {
        return Action::Act(failover::isolate(view, diagnosis, primary));
    }
    let only_ours = blockers.iter().all(|blocker| match blocker {
        Blocker::JustStarted { .. } | Blocker::JustUndone { .. } | Blocker::ManyAtOnce { .. } => true,
        Blocker::Mode(_)
        | Blocker::Budget { .. }
        | Blocker::NobodyEligible { .. }
        | Blocker::Incomparable(_)
        | Blocker::Incomplete { .. }
        | Blocker::BeforeIt { .. }
        | Blocker::NotFenced { .. }
        | Blocker::NotMember(_)
        | Blocker::NotEligible { .. }
        | Blocker::NotInForce { .. }
        | Blocker::MayHaveLed { .. }
        | Blocker::HasLed { .. }
        | Blocker::NotAdopted { .. }
        | Blocker::NotDead { .. }
        | Blocker::NoMajority { .. }
        | Blocker::SecondWriter { .. }
        | Blocker::WouldLose { .. } => false,
    });
    if !only_ours
        && view.cluster.mode == Mode::Auto
        && let Some(plan) =
            reopen::restart_in_place(view, intents, now, &format!("is possible: {}", guard::told(&blockers)))
    {
        return Action::Act(plan);
    }
    Action::Refuse { blockers }
}

/// An operator asked: mode, budget and pauses do not hold them back; proofs and histories do.
fn asked(view: &ClusterView, diagnosis: &Diagnosis, ranking: &Ranking, ask: &FailoverAsk) -> Action {
    let Some(primary) = &diagnosis.primary else {
        return Action::Refuse { blockers: vec![Blocker::NotAdopted { cluster: view.cluster.name.clone() }] };
    };
    if let Some(stranger) = ask.to.as_ref().and_then(|wanted| view.cluster.stranger(wanted)) {
        return Action::Refuse { blockers: vec![Blocker::NotMember(stranger)] };
    }
    let dead = match diagnosis.verdict {
        Verdict::DeadPrimary
        | Verdict::SilentPrimary
        | Verdict::HungPrimary
        | Verdict::IsolatedPrimary
        // Nobody is served there, and the one who asks may know that this will last.
        | Verdict::ClosedPrimary
        | Verdict::BlockedForAcks => true,
        Verdict::UnreachablePrimary => ask.old_primary_is_dead,
        // Whether it serves clients is theirs to know who ask. Its agent fences it, or they vouch for it.
        Verdict::MisconfiguredPrimary | Verdict::OverloadedPrimary | Verdict::ManagerCutOff => {
            ask.old_primary_is_dead || failover::agent_is_heard(view, primary)
        }
        Verdict::NotAdopted
        | Verdict::Starting
        | Verdict::Healthy
        | Verdict::Degraded
        | Verdict::DeadPrimaryAndReplicas
        | Verdict::SplitBrain => false,
    };
    if !dead {
        return Action::Refuse { blockers: vec![Blocker::NotDead { verdict: diagnosis.verdict }] };
    }
    if let Some(blocker) = guard::nobody(ranking).filter(|_| ranking.incomparable.is_none()) {
        return Action::Refuse { blockers: vec![blocker] };
    }
    match failover::promote(view, &Isolation::supposed(view, primary), Some(ask)) {
        Ok(_) => Action::Act(failover::isolate(view, diagnosis, primary)),
        Err(blockers) => Action::Refuse { blockers },
    }
}

fn sentence(view: &ClusterView, diagnosis: &Diagnosis, action: &Action) -> String {
    let name = &view.cluster.name;
    let about = match &diagnosis.primary {
        Some(primary) if diagnosis.verdict.serves() => served(view, diagnosis, primary),
        Some(primary) => {
            let about = format!("{name}: {} {primary}", diagnosis.verdict);
            // Clients may well be served, so that the rest matters as much as when they are.
            let heard = view.replicas().any(|(_, seen)| seen.latest().is_some());
            let beside = heard && may_serve(diagnosis.verdict);
            let beside = beside.then_some(&diagnosis.issues).into_iter().flatten();
            with(&about, &diagnosis.evidence.iter().chain(beside).cloned().collect::<Vec<_>>())
        }
        None => with(&format!("{name}: {}", diagnosis.verdict), &diagnosis.evidence),
    };
    match action {
        Action::Rest => about,
        Action::Wait { why } if about.contains(why.as_str()) => format!("{about}; waiting"),
        Action::Wait { why } => format!("{about}; waiting: {why}"),
        Action::Refuse { blockers } => {
            format!("{about}; nothing is done: {}", guard::told(blockers))
        }
        Action::Act(plan) => format!("{about}; {}", plan.title),
    }
}

fn may_serve(verdict: Verdict) -> bool {
    match verdict {
        Verdict::ManagerCutOff | Verdict::OverloadedPrimary | Verdict::MisconfiguredPrimary => true,
        Verdict::NotAdopted
        | Verdict::Starting
        | Verdict::Healthy
        | Verdict::Degraded
        | Verdict::DeadPrimary
        | Verdict::SilentPrimary
        | Verdict::HungPrimary
        | Verdict::UnreachablePrimary
        | Verdict::BlockedForAcks
        | Verdict::ClosedPrimary
        | Verdict::IsolatedPrimary
        | Verdict::DeadPrimaryAndReplicas
        | Verdict::SplitBrain => false,
    }
}

/// "orders: healthy, db1 primary, 2 replicas, lag 0.2 s".
fn served(view: &ClusterView, diagnosis: &Diagnosis, primary: &InstanceId) -> String {
    let replicating: Vec<&Report> = view
        .replicas()
        .filter_map(|(_, seen)| seen.latest())
        .filter(|report| report.channel().is_some_and(Replication::is_running))
        .collect();
    let replicas = match replicating.len() {
        0 => "no replica".to_owned(),
        1 => "1 replica".to_owned(),
        n => format!("{n} replicas"),
    };
    let lag = replicating
        .iter()
        .filter_map(|report| lag(view, report))
        .max()
        .map_or_else(String::new, |lag| format!(", lag {:.1} s", lag.as_secs_f64()));
    let text = format!("{}: {}, {primary} primary, {replicas}{lag}", view.cluster.name, diagnosis.verdict);
    with(&text, &diagnosis.issues)
}

fn with(about: &str, details: &[String]) -> String {
    if details.is_empty() { about.to_owned() } else { format!("{about} ({})", details.join("; ")) }
}
