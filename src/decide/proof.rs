//! Whether the old primary can still acknowledge, and whether everything it acknowledged is known: the two questions before
//! a promotion. Never answers "probably": what is not proven is a [`Blocker`].

use super::evidence::assumed_dead;
use super::failover::{Isolation, next_generation};
use super::guard::{Blocker, Missing};
use super::plan::Proof;
use super::reopen::led_it;
use super::standing::does_not_count;
use crate::model::ballot::Generation;
use crate::model::gtid::GtidSet;
use crate::model::instance::InstanceId;
use crate::model::intent::FailoverAsk;
use crate::model::observation::Access;
use crate::model::policy::{Durability, WithoutAckers};
use crate::model::record::ClusterRecord;
use crate::model::report::Report;
use crate::model::standing::CROWDED;
use crate::model::view::{ClusterView, Seen};

/// What an acknowledgement of the present primary promises.
#[derive(Debug)]
pub(super) enum Promise<'v> {
    /// It is on another host too: `lossless`, armed by all that is known.
    Lossless(&'v ClusterRecord),
    /// Nothing beyond the primary: asynchronous, or lossless was given up and that is recorded, with no acknowledgement waited for.
    Local,
    /// `lossless` is recorded, and the primary's last answer showed that it was not in force (F054), or nobody can tell whether it was.
    Broken { record: &'v ClusterRecord, why: String },
}

/// What the primary's acknowledgements promise, by record and by its own last answer.
pub(super) fn promise(view: &ClusterView) -> Promise<'_> {
    // Given up here, it may have been taken up again since, and the other way round.
    let lossless = view.cluster.policy.durability == Durability::Lossless;
    if let (Some(record), Some(overtaken)) = (view.record.as_ref().filter(|_| lossless), view.overtaken()) {
        let why = format!("{overtaken}, and it may have been given up meanwhile");
        return Promise::Broken { record, why };
    }
    let Some(record) = view.record.as_ref().filter(|_| lossless) else { return Promise::Local };
    let may_be_given_up = view.cluster.policy.without_ackers == WithoutAckers::Degrade;
    if record.acks == 0 && record.degraded.is_some() && may_be_given_up {
        return Promise::Local;
    }
    if record.acks == 0 {
        let not_yet = || "lossless is configured and was not put in force yet".to_owned();
        let why = record.degraded.as_ref().map_or_else(not_yet, |degraded| degraded.why.clone());
        return Promise::Broken { record, why };
    }
    if let Some(degraded) = &record.degraded {
        return Promise::Broken { record, why: degraded.why.clone() };
    }
    let Some(seen) = view.of(&record.primary) else { return Promise::Lossless(record) };
    let broken = match &seen.reset {
        Some(_) => Some("its history was reset, and replicas skip what they think they have".to_owned()),
        None => lapsed(view, record, seen),
    };
    broken.map_or(Promise::Lossless(record), |why| Promise::Broken { record, why })
}

/// What the record is to say of why the primary's acknowledgements prove nothing, beside what it has for that already.
pub(super) fn lapse(view: &ClusterView) -> Option<String> {
    let record = view.record.as_ref().filter(|record| record.acks > 0 && record.degraded.is_none())?;
    let lossless = view.cluster.policy.durability == Durability::Lossless;
    view.of(&record.primary).filter(|_| lossless).and_then(|seen| lapsed(view, record, seen))
}

/// By what is so now, or what was so since a base was last recorded: rows of that time may be on no acker that is registered.
fn lapsed(view: &ClusterView, record: &ClusterRecord, primary: &Seen) -> Option<String> {
    lapsed_now(view, record, primary).or_else(|| record.lapse.clone())
}

fn lapsed_now(view: &ClusterView, record: &ClusterRecord, primary: &Seen) -> Option<String> {
    disarmed(view, record, primary).or_else(|| unknown_acker(view, record, primary))
}

/// Why it did not count, where nothing speaks against it any more but that.
pub(super) fn lapsed_before(view: &ClusterView, primary: &InstanceId) -> Option<String> {
    let record = view.record.as_ref().filter(|record| record.degraded.is_none())?;
    let now = view.of(primary).and_then(|seen| lapsed_now(view, record, seen));
    record.lapse.clone().filter(|_| now.is_none())
}

/// Why clients of the primary may have been told of rows that no acker has: it is not armed, or it answered without an acknowledgement. By
/// what it said when it last took writes: a read-only answer says nothing of how it served.
pub(super) fn disarmed(view: &ClusterView, record: &ClusterRecord, primary: &Seen) -> Option<String> {
    if let Some(alone) = view.answered_alone() {
        return Some(format!(
            "{} commit(s) were answered without an acknowledgement, such as after a KILL QUERY of a session that waited",
            alone.commits
        ));
    }
    let served = primary.served.as_ref();
    if let Some(why) = served.and_then(|served| served.not_armed_for(record.acks)) {
        return Some(why);
    }
    if served.is_some_and(|served| !served.source_status) {
        return Some("semi-sync was off".to_owned());
    }
    // Where this manager did not see it take writes, nobody knows whether commits waited.
    let waits = served.is_none_or(|served| served.waiting > 0 || served.clients < record.acks);
    // Its agent may have ended with its host since it said so.
    let shut_down = waits && primary.agent.as_ref().is_some_and(|said| said.status.answered_at_shutdown);
    shut_down
        .then(|| "it may have been shut down while commits waited, which answers them with OK".to_owned())
}

/// Members that acknowledge to the primary, and that the record does not name. Whether one receives now does not matter: it did while the
/// primary served.
pub(super) fn unregistered<'v>(
    view: &'v ClusterView,
    record: &'v ClusterRecord,
) -> impl Iterator<Item = &'v InstanceId> {
    // By its last answer: it may have gone silent with the primary.
    let unregistered = view.replicas().filter(move |(instance, seen)| {
        let last = seen.last_report.as_ref().map(|(_, report)| report);
        !record.ackers.contains(instance)
            && last.is_some_and(|report| report.acknowledges_to(&record.primary))
    });
    unregistered.map(|(instance, _)| instance)
}

/// Somebody acknowledges whom the record does not name: what it alone acknowledged is in no count of ours.
fn unknown_acker(view: &ClusterView, record: &ClusterRecord, primary: &Seen) -> Option<String> {
    if let Some(instance) = unregistered(view, record).next() {
        return Some(format!("{instance} acknowledges and is not registered"));
    }
    let crowd = primary.crowd.filter(|crowd| crowd.lasts >= CROWDED)?;
    Some(format!(
        "{} ackers were connected to it, more than its members; find the address of the other one with SHOW PROCESSLIST on {} (\"Binlog Dump\"), and \
         switch semi-sync off on that replica, not on the primary",
        crowd.clients, record.primary
    ))
}

/// Which promotion rule of section 4 is proven. Voters still have their say when it is claimed.
pub(super) fn proof(
    view: &ClusterView,
    isolation: &Isolation,
    ask: Option<&FailoverAsk>,
) -> Result<Proof, Blocker> {
    if isolation.fenced {
        return Ok(Proof::Fenced);
    }
    let unfenced = match acks_are_fenced(view, isolation) {
        Ok(()) if !view.cluster.policy.fenced_reads => return Ok(Proof::AckFence),
        Ok(()) => "fenced_reads = true asks that the old primary answers no reads either, and stopped ackers do not show that".to_owned(),
        Err(why) => why,
    };
    if !view.cluster.voters.is_empty() {
        return Ok(Proof::Expired);
    }
    if ask.is_some_and(|ask| ask.old_primary_is_dead) {
        return Ok(Proof::Operator);
    }
    if assumed_dead(view, &isolation.primary).is_some() {
        return Ok(Proof::AssumedDead);
    }
    let why = format!(
        "{} is not fenced by an agent, and {unfenced}; give it an agent, or cut its power and run \"mhactl failover --old-primary-is-dead\"",
        isolation.primary
    );
    Err(Blocker::NotFenced { why })
}

/// Too few registered ackers are left to the old primary. Void when `lossless` was not in force, or when more ackers than the
/// registered ones were connected: the one nobody knows would acknowledge on (H4).
fn acks_are_fenced(view: &ClusterView, isolation: &Isolation) -> Result<(), String> {
    let record = match promise(view) {
        Promise::Lossless(record) => record,
        Promise::Local => return Err("its acknowledgements wait for no replica".to_owned()),
        Promise::Broken { why, .. } => {
            return Err(format!(
                "its acknowledgements do not prove that a registered acker has a row: {why}"
            ));
        }
    };
    let registered = record.ackers.len();
    let clients = view
        .of(&record.primary)
        .and_then(|seen| seen.last_report.as_ref())
        .map_or(0, |(_, report)| report.semi_sync.clients as usize);
    if clients > registered {
        return Err(format!(
            "{clients} ackers were connected to it, of which only {registered} are registered"
        ));
    }
    let stopped = record.ackers.iter().filter(|acker| isolation.stopped.contains_key(*acker)).count();
    let needed = needed_ackers(registered, record.acks);
    if stopped < needed {
        return Err(format!("{stopped} of its {registered} ackers can be stopped, {needed} must be"));
    }
    Ok(())
}

/// R − a + 1: so many of R registered ackers, and no acknowledgement can have gone to others only.
pub(crate) fn needed_ackers(registered: usize, acks: u32) -> usize {
    (registered + 1).saturating_sub(acks as usize)
}

/// Whether everything acknowledged is known to be among what was heard, of which the next primary has `target`. `Ok(true)`: only if the
/// dead server's log is read to its end.
pub(super) fn completeness(
    view: &ClusterView,
    isolation: &Isolation,
    target: &GtidSet,
    ask: Option<&FailoverAsk>,
) -> Result<bool, Blocker> {
    let accept_loss = ask.is_some_and(|ask| ask.accept_loss);
    let promised = promise(view);
    if let Promise::Lossless(record) | Promise::Broken { record, .. } = &promised
        && let Some(blocker) = led_unseen(view, record).filter(|_| !accept_loss)
    {
        return Err(blocker);
    }
    let record = match promised {
        Promise::Local => return Ok(false),
        Promise::Broken { .. } if accept_loss => return Ok(false),
        Promise::Broken { .. } if isolation.log_readable => return Ok(true),
        Promise::Broken { record, why } => {
            return Err(Blocker::NotInForce { primary: record.primary.clone(), why });
        }
        Promise::Lossless(record) => record,
    };
    let (mut heard, mut missing) = (Vec::new(), Vec::new());
    for acker in &record.ackers {
        match does_not_count(view, isolation, acker) {
            None => heard.push(acker.clone()),
            Some(why) => missing.push(Missing { acker: acker.clone(), why }),
        }
    }
    let needed = needed_ackers(record.ackers.len(), record.acks);
    let before = before_it(view, record, target);
    if heard.len() >= needed && before.is_none() || accept_loss {
        return Ok(false);
    }
    if isolation.log_readable {
        return Ok(true);
    }
    Err(before.unwrap_or(Blocker::Incomplete { heard, missing, needed, acks: record.acks }))
}

/// A member has led a later generation than the recorded one, for another manager: what it acknowledged is in no count of this one. Or voters
/// know a generation that is not recorded: a claim that came to nothing, or a reign that this manager did not see, such as that of a
/// blocked primary that its agent took back. Who does not answer may have had it, and have acknowledged with other ackers.
fn led_unseen(view: &ClusterView, record: &ClusterRecord) -> Option<Blocker> {
    let led_later = view.replicas().find_map(|(instance, seen)| {
        let agent = seen.agent_now()?;
        let held =
            agent.held.filter(|held| *held > record.generation && led_it(view, instance, agent, *held))?;
        Some(Blocker::HasLed { instance: instance.clone(), held, recorded: record.generation })
    });
    let next = next_generation(view);
    if led_later.is_some() || next == record.generation.next() {
        return led_later;
    }
    let silent = view.cluster.members.iter().filter(|member| member.agent.is_some()).find(|member| {
        member.instance != record.primary
            && view.of(&member.instance).is_none_or(|seen| seen.agent_now().is_none())
    })?;
    let (instance, known) = (silent.instance.clone(), Generation(next.0 - 1));
    Some(Blocker::MayHaveLed { instance, known, recorded: record.generation })
}

/// What was acknowledged under an earlier primary is on this one, on those who acknowledge to it once they have caught up, and perhaps
/// nowhere else: one that was registered a moment ago, or was away when it began to lead, speaks for nothing of it.
fn before_it(view: &ClusterView, record: &ClusterRecord, target: &GtidSet) -> Option<Blocker> {
    let known = [record.base.as_ref(), view.proven_before()].into_iter().flatten();
    let base = known.map(|base| view.without_foreign(base)).find(|base| !target.is_as_far_as(base))?;
    Some(Blocker::BeforeIt { primary: record.primary.clone(), set: base.minus(target) })
}

/// A claim and a lease need a majority of all voters. Hosts that are no members are taken to answer: they are asked when it is claimed.
pub(super) fn majority(view: &ClusterView) -> Option<Blocker> {
    let needed = view.cluster.majority()?;
    let may_answer = |host: &str| {
        let mut here = view.cluster.members.iter().filter(|member| member.instance.host == host).peekable();
        here.peek().is_none()
            || here.any(|member| view.of(&member.instance).is_some_and(|seen| seen.agent_now().is_some()))
    };
    let silent: Vec<String> = view
        .cluster
        .voters
        .iter()
        .filter(|voter| !may_answer(&voter.host))
        .map(|voter| voter.host.clone())
        .collect();
    let have = view.cluster.voters.len() - silent.len();
    (have < needed).then_some(Blocker::NoMajority { have, needed, silent })
}

/// Another server already takes writes, by somebody's hand: opening a second one would make two (F079, F123).
pub(super) fn second_writer(view: &ClusterView, candidate: Option<&InstanceId>) -> Option<Blocker> {
    let (instance, _) =
        view.replicas().filter(|(instance, _)| Some(*instance) != candidate).find(|(_, seen)| {
            seen.latest().is_some_and(Report::is_writable)
                && seen.agent_now().is_none_or(|agent| agent.access != Access::Closed)
        })?;
    Some(Blocker::SecondWriter { instance: instance.clone(), cluster: view.cluster.name.clone() })
}
