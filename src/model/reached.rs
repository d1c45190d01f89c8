//! PURE. Which server a look reached. A name or an address may lead to another server than the one it stands for (DNS, a hosts file, a
//! port forwarded): what that server says is no news of the member.

use serde::{Deserialize, Serialize};

use super::instance::{Identity, InstanceId};
use super::observation::{Observation, Unseen};
use super::report::{Replication, Report, ThreadState};
use super::view::ClusterView;

/// Who a member's server is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownIdentity {
    pub identity: Identity,
    /// The agent beside the server says so; else it is who answered first.
    pub by_agent: bool,
}

/// What speaks against taking a look for one at its member.
enum Mismatch {
    /// Another server was reached, with the reason.
    Wrong(String),
    /// The other member's name leads to the same server, and nothing tells which of the two it is.
    Twin(InstanceId),
}

/// Whether a look at `of` that reached `found` says nothing of `of`.
fn mismatch(view: &ClusterView, of: &InstanceId, found: &Identity) -> Option<Mismatch> {
    let known = view.seen.get(of)?.identity.as_ref();
    let others = || {
        let others = view.seen.iter().filter(|(other, _)| *other != of);
        others.filter_map(|(other, seen)| Some((other, seen.identity.as_ref()?)))
    };
    if let Some(known) = known.filter(|known| known.by_agent) {
        let same = known.identity.is_same_server(found);
        let why = || format!("it reached {found}, and the agent on {} reports {}", of.host, known.identity);
        return (!same).then(|| Mismatch::Wrong(why()));
    }
    let twin = others().find(|(_, its)| its.identity.is_same_server(found));
    if let Some((other, _)) = twin.filter(|(_, its)| its.by_agent) {
        return Some(Mismatch::Wrong(format!(
            "it reached {found}, which is {other} by the word of the agent there"
        )));
    }
    if let Some(known) = known.filter(|known| !known.identity.is_same_server(found)) {
        // Where two names led to one server, what is known of either is worth nothing.
        let contested = others().any(|(_, its)| its.identity.is_same_server(&known.identity));
        if !contested {
            return Some(Mismatch::Wrong(format!("it reached {found}, known was {}", known.identity)));
        }
    }
    twin.map(|(other, _)| Mismatch::Twin(other.clone()))
}

/// The reason where nothing tells which of two members a server is.
fn twin(of: &InstanceId, other: &InstanceId, found: &Identity) -> String {
    format!("{of} and {other} both lead to {found}: two names, one server")
}

impl ClusterView {
    /// The look, if it reached the member's own server; else a look that failed.
    pub(super) fn of_the_member(&mut self, mut look: Observation) -> Observation {
        let Ok(report) = &look.seen else { return look };
        let found = report.identity.clone();
        let why = match mismatch(self, &look.of, &found) {
            Some(Mismatch::Wrong(why)) => why,
            Some(Mismatch::Twin(other)) => {
                let why = twin(&look.of, &other, &found);
                self.doubt_look(&other, &why);
                self.know(&look.of, found, false);
                why
            }
            None => {
                self.know(&look.of, found, false);
                return look;
            }
        };
        look.seen = Err(Unseen::WrongServer(why));
        look
    }

    /// What was last seen of `instance` was another server.
    fn doubt_look(&mut self, instance: &InstanceId, why: &str) {
        if let Some(seen) = self.seen.get_mut(instance)
            && let Some(look) = seen.manager.as_mut().filter(|look| look.seen.is_ok())
        {
            look.seen = Err(Unseen::WrongServer(why.to_owned()));
            seen.failing_since.get_or_insert(look.at);
        }
    }

    fn know(&mut self, instance: &InstanceId, identity: Identity, by_agent: bool) {
        if let Some(seen) = self.seen.get_mut(instance) {
            let by_agent = by_agent || seen.identity.as_ref().is_some_and(|known| known.by_agent);
            seen.identity = Some(KnownIdentity { identity, by_agent });
        }
    }

    /// The agent says who its server is: looks that reached another one before are no news of it.
    pub(super) fn know_by_agent(&mut self, instance: &InstanceId, identity: &Identity) {
        self.know(instance, identity.clone(), true);
        let mistaken: Vec<(InstanceId, String)> = self
            .seen
            .iter()
            .filter_map(|(of, seen)| match mismatch(self, of, &seen.report()?.identity)? {
                Mismatch::Wrong(why) => Some((of.clone(), why)),
                Mismatch::Twin(_) => None,
            })
            .collect();
        for (of, why) in mistaken {
            self.doubt_look(&of, &why);
        }
    }
}

/// Whether the receiver has heard from its source between two reports. One that connects, or was started since, has heard nothing: its
/// counters begin again, which is no sign of life.
pub(super) fn has_heard(before: &Report, now: &Report) -> bool {
    let (before, Some(now)) = (before.channel(), now.channel()) else { return false };
    let sign =
        |channel: &Replication| (channel.heartbeats, channel.received.clone(), channel.read_to.clone());
    match (now.receiver, before) {
        (ThreadState::Running, before) => before.map(sign) != Some(sign(now)),
        (ThreadState::Connecting, Some(before)) => {
            now.heartbeats > before.heartbeats
                || (now.heartbeats == before.heartbeats && now.received != before.received)
        }
        (ThreadState::Connecting, None) | (ThreadState::Stopped, _) => false,
    }
}

/// Its receiver is connected.
pub(super) fn connected(report: &Report) -> bool {
    report.channel().is_some_and(|channel| channel.receiver == ThreadState::Running)
}
