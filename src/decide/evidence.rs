//! Whether anybody still hears a primary that does not answer this manager. Vantages on one host count once; a vantage that
//! could not look is unknown, never "no" (design review H15).

use std::time::Duration;

use crate::model::cluster::Voter;
use crate::model::instance::InstanceId;
use crate::model::observation::Vantage;
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
        None => view.replicas().map(|(instance, seen)| replica_word(view, instance, seen, now)).collect(),
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
    let own_silence = view
        .of(primary)
        .and_then(|seen| seen.failing_since)
        .is_some_and(|since| with_voters.is_some() || now.since(since) >= view.cluster.policy.silence);
    if heard {
        return Liveness::Alive;
    }
    if silent >= needed && own_silence {
        return Liveness::Silent;
    }
    evidence.push(format!("{silent} of the {needed} hosts needed confirm silence"));
    Liveness::Unknown
}

/// A voter's host: its replica's stream, its own grants, and a probe from there.
fn voter_word(view: &ClusterView, primary: &InstanceId, voter: &Voter, now: Moment) -> Word {
    let silence = view.cluster.policy.silence;
    let host = &voter.host;
    let seen = view
        .cluster
        .members
        .iter()
        .find(|member| member.instance.host == *host)
        .and_then(|m| view.of(&m.instance));
    if *host == primary.host {
        return Word::Unknown(format!("{host}: its own agent is not heard"));
    }
    let Some((at, agent)) = seen.and_then(|seen| Some((seen.agent.as_ref()?.at, seen.agent_now()?))) else {
        return Word::Unknown(format!("{host}: no word from the agent"));
    };
    let age = now.since(at);
    let quiet = [agent.stream_still, agent.granted_ago].into_iter().flatten().map(|span| span + age).min();
    let probe = view.fresh_probe(primary, &Vantage::Agent(host.clone()), now, silence);
    if let Some(Ok(())) = probe.map(|probe| &probe.outcome) {
        return Word::Hears(format!("{host}: greeted by {primary} when it probed"));
    }
    match (quiet, probe.and_then(|probe| probe.outcome.as_ref().err())) {
        (Some(quiet), _) if quiet < silence => {
            Word::Hears(format!("{host}: heard from {primary} {} ago", human(quiet)))
        }
        (_, Some(unseen)) if unseen.proves_alive() => Word::Hears(format!("{host}: {unseen}")),
        (_, Some(unseen)) if unseen.says_nothing() => {
            Word::Unknown(format!("{host}: could not probe ({unseen})"))
        }
        (Some(quiet), Some(unseen)) => {
            Word::Silent(format!("{host}: nothing for {}, probe {unseen}", human(quiet)))
        }
        (None, Some(unseen)) => {
            Word::Unknown(format!("{host}: has no stream from {primary}, probe {unseen}"))
        }
        (_, None) => Word::Unknown(format!("{host}: no probe from there yet")),
    }
}

/// Without agents: a replica's stream as this manager's own looks show it.
fn replica_word(view: &ClusterView, instance: &InstanceId, seen: &Seen, now: Moment) -> Word {
    let policy = &view.cluster.policy;
    let Some(look) = seen.manager.as_ref().filter(|look| look.seen.is_ok()) else {
        return Word::Unknown(format!("{instance}: does not answer"));
    };
    if now.since(look.at) > policy.poll_every * 2 + Duration::from_millis(500) {
        return Word::Unknown(format!("{instance}: not asked lately"));
    }
    let quiet = seen.stream_moved_at.map_or(Duration::ZERO, |moved| now.since(moved));
    if quiet < policy.silence {
        return Word::Hears(format!("{instance}: its stream moved {} ago", human(quiet)));
    }
    Word::Silent(format!("{instance}: its stream has stood still for {}", human(quiet)))
}
