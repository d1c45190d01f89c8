//! Whether anybody still hears a primary that does not answer this manager. Vantages on one host count once; a vantage that
//! could not look is unknown, never "no" (design review H15).

use std::time::Duration;

use crate::model::ballot::Generation;
use crate::model::cluster::Voter;
use crate::model::instance::InstanceId;
use crate::model::observation::{Unseen, Vantage};
use crate::model::policy::Durability;
use crate::model::report::{Report, ThreadState};
use crate::model::time::{Moment, human};
use crate::model::view::{ClusterView, Seen};

/// What the others say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Liveness {
    /// Somebody hears it.
    Alive,
    /// A majority has heard nothing for `silence`, and fresh probes failed.
    Silent,
    /// Too little is known.
    Unknown,
}

/// One host's word.
enum Word {
    Hears(String),
    Silent(String),
    Unknown(String),
}

/// Asks every host's newest word about `primary`, adding a line of evidence each.
pub(crate) fn liveness(
    view: &ClusterView,
    primary: &InstanceId,
    now: Moment,
    evidence: &mut Vec<String>,
) -> Liveness {
    let with_voters = view.cluster.majority();
    let words: Vec<Word> = match with_voters {
        Some(_) => view.cluster.voters.iter().map(|voter| voter_word(view, primary, voter, now)).collect(),
        None => view
            .replicas()
            .filter(|(_, seen)| !follows_another(seen, primary))
            .map(|(instance, seen)| replica_word(view, instance, seen, now))
            .collect(),
    };
    let needed = with_voters.unwrap_or(words.len().max(1));
    let (mut silent, mut heard) = (0, false);
    for word in words {
        match word {
            Word::Hears(line) => {
                heard = true;
                evidence.push(line);
            }
            Word::Silent(line) => {
                silent += 1;
                evidence.push(line);
            }
            Word::Unknown(line) => evidence.push(line),
        }
    }
    // A look this manager could not take itself (no name, no socket) is no failed look.
    let own_silence = view.of(primary).is_some_and(|seen| {
        !seen.unseen().is_some_and(Unseen::says_nothing)
            && seen.failing_since.is_some_and(|since| now.since(since) >= view.cluster.policy.silence)
    });
    let own_silence = own_silence || with_voters.is_some();
    if heard {
        return Liveness::Alive;
    }
    if silent >= needed && own_silence {
        return Liveness::Silent;
    }
    evidence.push(if silent >= needed {
        "this manager has not failed to reach it itself for long enough".to_owned()
    } else {
        format!("{silent} of the {needed} hosts needed confirm silence")
    });
    Liveness::Unknown
}

/// Why too few hosts could confirm that `primary`'s host has fallen silent, if it did now: those whose agent is not heard.
pub(super) fn cannot_confirm(view: &ClusterView, primary: &InstanceId) -> Option<String> {
    let needed = view.cluster.majority()?;
    let is_heard = |voter: &&Voter| {
        let member = view.cluster.members.iter().find(|member| member.instance.host == voter.host);
        match member.and_then(|member| view.of(&member.instance)) {
            Some(seen) => seen.agent_now().is_some(),
            None => view.grants.contains_key(&voter.host),
        }
    };
    let others = view.cluster.voters.iter().filter(|voter| voter.host != primary.host);
    let (heard, deaf): (Vec<&Voter>, Vec<&Voter>) = others.partition(is_heard);
    if heard.len() >= needed || deaf.is_empty() {
        return None;
    }
    let deaf: Vec<&str> = deaf.iter().map(|voter| voter.host.as_str()).collect();
    Some(format!(
        "{} of the {needed} hosts needed could confirm its silence, there is no word from the agent on {}; start that, or make sure that \
         {primary} is dead and run \"mhactl failover --old-primary-is-dead\"",
        heard.len(),
        deaf.join(", ")
    ))
}

/// The replica's stream comes from a server in between: that it moves or stands still says nothing of the primary.
fn follows_another(seen: &Seen, primary: &InstanceId) -> bool {
    seen.latest().and_then(Report::channel).is_some_and(|channel| channel.source != *primary)
}

/// A voter's host: its replica's stream, its own grants, and a probe from there. A host that neither has a stream nor ever granted
/// speaks by its probe, once this manager has heard nothing for `silence` either.
fn voter_word(view: &ClusterView, primary: &InstanceId, voter: &Voter, now: Moment) -> Word {
    let policy = &view.cluster.policy;
    let host = &voter.host;
    if *host == primary.host {
        return Word::Unknown(format!("{host}: its own agent is not heard"));
    }
    let member = view.cluster.members.iter().find(|member| member.instance.host == *host);
    let mut quiet = None;
    // A voter that knows a newer generation grants it to somebody else: no word of this primary.
    let recorded = view.record.as_ref().map_or(Generation::default(), |record| record.generation);
    if let Some(seen) = member.and_then(|member| view.of(&member.instance)) {
        let Some((at, agent)) = seen.agent.as_ref().map(|said| said.at).zip(seen.agent_now()) else {
            return Word::Unknown(format!("{host}: no word from the agent"));
        };
        let age = now.since(at);
        if age > policy.poll_every * 2 {
            return Word::Unknown(format!("{host}: the agent's last word is {} old", human(age)));
        }
        let stream = agent.stream_still.filter(|_| !follows_another(seen, primary));
        let granted = agent.granted_ago.filter(|_| agent.generation <= recorded);
        quiet = [stream, granted].into_iter().flatten().map(|span| span + age).min();
    } else if let Some(said) = view.grants.get(host) {
        let age = now.since(said.at);
        let counts = age <= policy.poll_every * 2 && said.generation <= recorded;
        quiet = said.ago.filter(|_| counts).map(|ago| ago + age);
    }
    let probe = view.fresh_probe(primary, &Vantage::Agent(host.clone()), now, policy.silence);
    if let Some(Ok(())) = probe.map(|probe| &probe.outcome) {
        return Word::Hears(format!("{host}: greeted by {primary} when it probed"));
    }
    match (quiet, probe.and_then(|probe| probe.outcome.as_ref().err())) {
        (Some(quiet), _) if quiet < policy.silence / 2 => {
            Word::Hears(format!("{host}: heard from {primary} {} ago", human(quiet)))
        }
        (Some(quiet), _) if quiet < policy.silence => {
            Word::Unknown(format!("{host}: heard nothing from {primary} for {}", human(quiet)))
        }
        (_, Some(unseen)) if unseen.proves_alive() => Word::Hears(format!("{host}: {unseen}")),
        (_, Some(unseen)) if unseen.says_nothing() => {
            Word::Unknown(format!("{host}: could not probe ({unseen})"))
        }
        (Some(quiet), Some(unseen)) => {
            Word::Silent(format!("{host}: nothing for {}, probe {unseen}", human(quiet)))
        }
        (None, Some(unseen)) => {
            let failing = view.of(primary).and_then(|seen| seen.failing_since);
            match failing.map(|since| now.since(since)).filter(|span| *span >= policy.silence) {
                Some(span) => Word::Silent(format!(
                    "{host}: probe {unseen}; the manager heard nothing for {}",
                    human(span)
                )),
                None => Word::Unknown(format!("{host}: has no stream from {primary}, probe {unseen}")),
            }
        }
        (_, None) => Word::Unknown(format!("{host}: no probe from there yet")),
    }
}

/// Without agents: a replica's stream as this manager's own looks show it.
fn replica_word(view: &ClusterView, instance: &InstanceId, seen: &Seen, now: Moment) -> Word {
    let policy = &view.cluster.policy;
    let Some((at, report)) = seen.manager.as_ref().and_then(|look| Some((look.at, look.seen.as_ref().ok()?)))
    else {
        return Word::Unknown(format!("{instance}: does not answer"));
    };
    if now.since(at) > policy.poll_every * 2 + Duration::from_millis(500) {
        return Word::Unknown(format!("{instance}: not asked lately"));
    }
    // A stream that was stopped stands still whoever lives.
    let quiet = now.since(seen.stream_moved_at.unwrap_or(view.since));
    match report.channel().map(|channel| channel.receiver) {
        None => return Word::Unknown(format!("{instance}: is no replica")),
        Some(ThreadState::Stopped) => return Word::Unknown(format!("{instance}: its receiver is stopped")),
        Some(ThreadState::Running) if quiet < policy.silence => {
            return Word::Hears(format!("{instance}: its stream moved {} ago", human(quiet)));
        }
        Some(ThreadState::Connecting) if quiet < policy.silence => {
            return Word::Unknown(format!(
                "{instance}: lost its stream less than {} ago",
                human(policy.silence)
            ));
        }
        Some(ThreadState::Running | ThreadState::Connecting) => {}
    }
    Word::Silent(format!("{instance}: its stream has stood still for {}", human(quiet)))
}

/// `CR_CONN_HOST_ERROR`: the receiver could not connect.
const CANNOT_CONNECT: u32 = 2003;

/// The conditions of `assume_dead_when_refused` that can be seen: refused here and from another host, every configured replica
/// answers, is read-only and has lost the primary, and there is no VIP whose removal nobody could confirm.
pub(crate) fn assumed_dead(view: &ClusterView, primary: &InstanceId) -> Option<Vec<String>> {
    let policy = &view.cluster.policy;
    let wanted = policy.assume_dead_when_refused
        && policy.durability == Durability::Async
        && view.cluster.voters.is_empty()
        && view.cluster.vip.is_none();
    if !wanted || view.of(primary)?.unseen() != Some(&Unseen::Refused) {
        return None;
    }
    let mut refused = None;
    for (instance, seen) in view.replicas() {
        let report = seen.report().filter(|report| report.read_only)?;
        let channel = report.channel().filter(|channel| channel.source == *primary)?;
        if channel.receiver == ThreadState::Running {
            return None;
        }
        let error = channel.receiver_error.as_ref().filter(|error| error.code == CANNOT_CONNECT)?;
        // Both families end the text in the system's error number, and 111 is "connection refused".
        if error.text.contains("(111") {
            refused = Some(instance);
        }
    }
    Some(vec![
        format!("every replica lost it, {} was refused too", refused?),
        "assume_dead_when_refused is set".to_owned(),
    ])
}

/// Whether the recorded primary's port lets nobody in while its agent says that it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PortShut {
    /// Neither this manager nor so many hosts get in that clients are taken to be out, for so long by this manager's own looks.
    ToEverybody { hosts: Vec<String>, span: Duration },
    /// That host was greeted a moment ago.
    NotTo(String),
    /// Too few have looked.
    Unknown,
}

/// Whether the primary's port lets in neither this manager nor a majority of voters' hosts (every other member's where nobody votes).
pub(super) fn lets_nobody_in(view: &ClusterView, now: Moment) -> PortShut {
    let Some((primary, seen)) = view.primary().and_then(|primary| Some((primary, view.of(primary)?))) else {
        return PortShut::Unknown;
    };
    let Some(own) = seen.no_way_in_since(&Vantage::Manager) else { return PortShut::Unknown };
    let voters = view.cluster.voters.iter().map(|voter| voter.host.as_str());
    let members = view.cluster.members.iter().map(|member| member.instance.host.as_str());
    let hosts: Vec<&str> = match view.cluster.majority() {
        Some(_) => voters.filter(|host| *host != primary.host).collect(),
        None => members.filter(|host| *host != primary.host).collect(),
    };
    let needed = view.cluster.majority().unwrap_or(hosts.len().max(1));
    let mut out: Vec<(&str, Moment)> = Vec::new();
    for host in hosts {
        let from = Vantage::Agent(host.to_owned());
        let probe = view.fresh_probe(primary, &from, now, view.cluster.policy.silence);
        match probe.map(|probe| &probe.outcome) {
            Some(Ok(())) => return PortShut::NotTo(host.to_owned()),
            Some(Err(_)) => out.extend(seen.no_way_in_since(&from).map(|since| (host, since))),
            None => {}
        }
    }
    out.sort_by_key(|(_, since)| *since);
    // Of as many as are needed, the one that was kept out last.
    let Some((_, last)) = needed.checked_sub(1).and_then(|last| out.get(last)) else {
        return PortShut::Unknown;
    };
    let hosts = out.iter().map(|(host, _)| (*host).to_owned()).collect();
    PortShut::ToEverybody { hosts, span: now.since(own.max(*last)) }
}
