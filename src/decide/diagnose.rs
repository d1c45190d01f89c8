//! From a view to a verdict with its evidence. Rows are tried top-down, the ones that forbid acting first, so that no two overlap.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::evidence::{Liveness, PortShut, assumed_dead, lets_nobody_in, liveness};
use super::guard::names;
use super::starved::receivers_fail;
use crate::model::instance::InstanceId;
use crate::model::observation::{Access, AgentStatus, Leaving, Process, Unseen};
use crate::model::policy::{Durability, WithoutAckers};
use crate::model::report::{Report, ThreadState};
use crate::model::time::{Moment, human};
use crate::model::verdict::Verdict;
use crate::model::view::{ClusterView, Seen};

/// A verdict and what it rests on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnosis {
    pub verdict: Verdict,
    pub primary: Option<InstanceId>,
    /// Who saw what, line by line.
    pub evidence: Vec<String>,
    /// What is the matter beside the primary, one sentence each.
    pub issues: Vec<String>,
}

impl Diagnosis {
    fn new(verdict: Verdict, primary: Option<&InstanceId>, evidence: Vec<String>) -> Self {
        Self { verdict, primary: primary.cloned(), evidence, issues: Vec::new() }
    }
}

/// What is the matter, by everything this manager knows at `now`.
pub fn diagnose(view: &ClusterView, now: Moment) -> Diagnosis {
    let mut diagnosis = primary_diagnosis(view, now);
    diagnosis.issues = super::issues::issues(view, now);
    diagnosis.issues.extend(super::electorate::issue(view, diagnosis.verdict, now));
    if diagnosis.verdict == Verdict::Healthy && !diagnosis.issues.is_empty() {
        diagnosis.verdict = Verdict::Degraded;
        if let Some(unmet) = unmet(view) {
            diagnosis.verdict = Verdict::Starting;
            diagnosis.evidence.push(unmet);
        }
    }
    diagnosis
}

/// Whom nobody has tried to hear yet, which says nothing about them: a manager's first moment, or a new member's.
fn unmet(view: &ClusterView) -> Option<String> {
    view.cluster.members.iter().find_map(|member| {
        let (instance, seen) = (&member.instance, view.of(&member.instance)?);
        if seen.manager.is_none() {
            return Some(format!("{instance} not asked yet"));
        }
        let waits = member.agent.is_some() && seen.agent_untried();
        waits.then(|| format!("the agent on {} not asked yet", instance.host))
    })
}

fn primary_diagnosis(view: &ClusterView, now: Moment) -> Diagnosis {
    if let Some(split) = split_brain(view) {
        return split;
    }
    let Some(record) = &view.record else { return not_adopted(view) };
    let primary = &record.primary;
    let Some(seen) = view.of(primary) else {
        let text = format!("the recorded primary {primary} is no member of the configuration");
        return Diagnosis::new(Verdict::MisconfiguredPrimary, Some(primary), vec![text]);
    };
    if let Some(report) = answering(view, seen, now) {
        return living(view, primary, seen, report, now);
    }
    let Some(look) = &seen.manager else {
        if seen.agent.is_none() {
            return Diagnosis::new(
                Verdict::Starting,
                Some(primary),
                vec![format!("{primary} not asked yet")],
            );
        }
        return unanswering(view, primary, seen, now, None);
    };
    let fresh = now.since(look.at) <= view.cluster.policy.silence && !gone_after(seen, look.at);
    match look.seen.as_ref().err() {
        Some(unseen) if unseen.proves_alive() && fresh => alive_but_no(primary, unseen),
        other => unanswering(view, primary, seen, now, other),
    }
}

/// The primary's last answer to this manager, if it is recent.
fn answering<'a>(view: &ClusterView, seen: &'a Seen, now: Moment) -> Option<&'a Report> {
    let look = seen.manager.as_ref()?;
    if gone_after(seen, look.at) || now.since(look.at) > view.cluster.policy.silence {
        return None;
    }
    look.seen.as_ref().ok()
}

/// The agent saw the process gone no earlier than `at`. What answered later was started since, whoever started it.
fn gone_after(seen: &Seen, at: Moment) -> bool {
    let said = seen.agent.as_ref().filter(|_| seen.agent_lost_at.is_none());
    said.is_some_and(|said| matches!(said.status.process, Process::Gone { .. }) && said.at >= at)
}

fn not_adopted(view: &ClusterView) -> Diagnosis {
    let text = match view.primary() {
        Some(primary) => format!(
            "{primary} takes writes; run \"mhactl adopt {}\" to see what adopting it would change",
            view.cluster.name
        ),
        None => "no single writable server is seen yet".to_owned(),
    };
    Diagnosis::new(Verdict::NotAdopted, view.primary(), vec![text])
}

/// Two servers take writes from clients. A fenced one takes none, whatever its `read_only` says.
fn split_brain(view: &ClusterView) -> Option<Diagnosis> {
    let reachable = |seen: &Seen| {
        seen.latest().is_some_and(Report::is_writable)
            && seen.agent_now().is_none_or(|agent| match agent.access {
                Access::Closed => false,
                Access::Admitted | Access::Held { .. } => true,
            })
    };
    let writable: Vec<&InstanceId> =
        view.seen.iter().filter(|(_, seen)| reachable(seen)).map(|(instance, _)| instance).collect();
    if writable.len() < 2 {
        return None;
    }
    let lines = writable.iter().filter_map(|instance| {
        let report = view.of(instance)?.latest()?;
        Some(format!("{instance} takes writes, has {}", report.executed))
    });
    let next = format!(
        "nothing is touched: make all but one read-only, then run \"mhactl adopt {} --primary HOST\"",
        view.cluster.name
    );
    Some(Diagnosis::new(Verdict::SplitBrain, view.primary(), lines.chain([next]).collect()))
}

fn alive_but_no(primary: &InstanceId, unseen: &Unseen) -> Diagnosis {
    let verdict = match unseen {
        Unseen::TooManyConnections => Verdict::OverloadedPrimary,
        Unseen::AccessDenied(_)
        | Unseen::Server { .. }
        | Unseen::Refused
        | Unseen::Lost
        | Unseen::NoRoute
        | Unseen::SilentBeforeGreeting
        | Unseen::HungAfterLogin
        | Unseen::WrongServer(_)
        | Unseen::Name(_)
        | Unseen::Looker(_) => Verdict::MisconfiguredPrimary,
    };
    Diagnosis::new(
        verdict,
        Some(primary),
        vec![format!("{primary} answered the manager: {unseen}: it is alive")],
    )
}

/// The primary answers this manager.
fn living(view: &ClusterView, primary: &InstanceId, seen: &Seen, report: &Report, now: Moment) -> Diagnosis {
    if let Some(text) = isolated(view, seen, now) {
        return Diagnosis::new(Verdict::IsolatedPrimary, Some(primary), vec![text]);
    }
    if let Some(text) = super::restrictions::refuses_clients(primary, report) {
        return Diagnosis::new(Verdict::MisconfiguredPrimary, Some(primary), vec![text]);
    }
    let policy = &view.cluster.policy;
    let semi_sync = &report.semi_sync;
    let stuck = seen.agent_now().and_then(|agent| agent.heartbeat_stuck).unwrap_or(Duration::ZERO);
    // Ackers that vanished without a word stay connected for minutes, so what counts is that a session waits, not how many are
    // connected. One that waits is never killed (S5): this row stands before "hung".
    let starved =
        semi_sync.clients < semi_sync.acks && (semi_sync.waiting > 0 || stuck > policy.heartbeat_every);
    let unheard = semi_sync.waiting > 0 && stuck >= policy.silence;
    let still_for = seen.moved_at.map_or(Duration::ZERO, |moved| now.since(moved));
    if let Some(text) = acknowledgement_lost(view, primary, report, stuck.min(still_for)) {
        return Diagnosis::new(Verdict::HungPrimary, Some(primary), vec![text]);
    }
    if policy.durability == Durability::Lossless && semi_sync.source_enabled && (starved || unheard) {
        let connected = semi_sync.clients >= semi_sync.acks;
        let next = match policy.without_ackers {
            _ if connected && let Some(text) = nothing_arrives(view) => text,
            _ if connected => {
                "an acknowledgement is slow or was lost, or large packets do not arrive (MTU); \"mhactl failover\" goes on without it, and \
                 nothing acknowledged is lost"
                    .to_owned()
            }
            WithoutAckers::Block => "bring an acker back, or set without_ackers = \"degrade\"".to_owned(),
            WithoutAckers::Degrade => format!("lossless is given up after {}", human(policy.silence)),
        };
        let failing = (!connected).then(|| receivers_fail(view, primary)).flatten();
        let failing = failing.map_or_else(String::new, |failing| format!("{failing}; "));
        let text = format!(
            "{failing}{primary}: {} session(s) wait for {} acknowledgement(s), {} acker(s) connected; {next}{}",
            semi_sync.waiting,
            semi_sync.acks,
            semi_sync.clients,
            crowded_out(view, primary)
        );
        return Diagnosis::new(Verdict::BlockedForAcks, Some(primary), vec![text]);
    }
    // A commit that waited for an acknowledgement may have got it since the agent spoke: only a word that is not older than the look
    // at the server counts beside it.
    let said_later =
        seen.agent.as_ref().zip(seen.manager.as_ref()).is_some_and(|(said, look)| said.at >= look.at);
    if said_later && stuck >= policy.silence && still_for >= policy.silence {
        let disk = seen.agent_now().and_then(AgentStatus::stuck_disk);
        let text = format!(
            "{primary}: a write heartbeat has waited {}, nothing was committed for {}{}",
            human(stuck),
            human(still_for),
            disk.map_or_else(String::new, |disk| format!("; {disk}"))
        );
        return Diagnosis::new(Verdict::HungPrimary, Some(primary), vec![text]);
    }
    if let Some(text) = closed(primary, seen, report) {
        let others = view.replicas().filter(|(_, other)| other.latest().is_some_and(Report::is_writable));
        let others = others.map(|(instance, _)| format!("{instance} takes writes by somebody else's hand"));
        return Diagnosis::new(
            Verdict::ClosedPrimary,
            Some(primary),
            std::iter::once(text).chain(others).collect(),
        );
    }
    Diagnosis::new(Verdict::Healthy, Some(primary), vec![format!("{primary} answers and takes writes")])
}

/// Its agent is heard here and by no majority of voters, so it is closed: by its own fresh word. Sessions that wait there for
/// an acknowledgement have no client any more.
fn isolated(view: &ClusterView, seen: &Seen, now: Moment) -> Option<String> {
    let agent = seen.agent_now()?;
    let said = seen.agent.as_ref()?;
    let age = now.since(said.at);
    if agent.access == Access::Closed && stays_closed(agent.leaving, age) {
        return Some("agent: its service manager stops it, clients kept out".to_owned());
    }
    let unheard = agent.unheard.filter(|_| agent.access == Access::Closed)? + age;
    // This manager has just heard the agent again. Its voters may hear it in the next moment too, and then it serves on.
    let just_back = now.since(said.since) < AMONG_VOTERS_AGAIN;
    (!is_old(view, age) && !just_back).then(|| {
        format!("agent: no majority of voters has answered it for {}, clients kept out", human(unheard))
    })
}

/// Nobody took over in time, or a planned restart takes longer than it was given.
fn stays_closed(leaving: Option<Leaving>, age: Duration) -> bool {
    match leaving {
        Some(Leaving::Now) => true,
        Some(Leaving::Restart { remaining }) => remaining <= age,
        Some(Leaving::Handoff { .. }) | None => false,
    }
}

/// A host that stands still keeps its connections open: what its agent said then is no word of now.
fn is_old(view: &ClusterView, age: Duration) -> bool {
    let policy = &view.cluster.policy;
    age > (policy.silence / 2).max(policy.poll_every)
}

/// So long a primary that is heard again may take to be among its voters again: several renewals, each on a connection of its own.
const AMONG_VOTERS_AGAIN: Duration = Duration::from_millis(1_500);

/// So many times `silence` may acknowledgements be slow: 36 s as it is shipped, past the 30 s that are none of our business (F013).
const SLOW_ACKS: u32 = 12;

/// No acker receives anything over a connection that stands, and new connections are made: small packets arrive.
fn nothing_arrives(view: &ClusterView) -> Option<String> {
    let ackers = &view.record.as_ref()?.ackers;
    let still = |acker: &InstanceId| super::issues::receives_nothing(view, view.of(acker)?);
    let shortest = ackers.iter().map(still).collect::<Option<Vec<_>>>()?.into_iter().min()?;
    Some(format!(
        "{} are connected and have received nothing for {}: look for full disks there, and for packets of full size that are lost on the way \
         (MTU; on an acker's host \"ping -M do -s 1472\" to the primary shows it)",
        names(ackers),
        human(shortest)
    ))
}

/// Clients that wait take all places, and the ackers that would let them go find none (error 1040).
fn crowded_out(view: &ClusterView, primary: &InstanceId) -> String {
    const TOO_MANY_CONNECTIONS: u32 = 1040;
    let refused = |seen: &Seen| {
        let channel = seen.latest().and_then(Report::channel).filter(|channel| channel.source == *primary);
        let error = channel.and_then(|channel| channel.receiver_error.as_ref());
        error.is_some_and(|error| error.code == TOO_MANY_CONNECTIONS)
    };
    let refused: Vec<InstanceId> =
        view.replicas().filter(|(_, seen)| refused(seen)).map(|(instance, _)| instance.clone()).collect();
    if refused.is_empty() {
        return String::new();
    }
    format!(
        "; {} cannot connect (\"Too many connections\"): raise max_connections on {primary} at once with SET GLOBAL, or \"mhactl failover\" \
         goes on elsewhere",
        names(&refused)
    )
}

/// Enough ackers are connected and hear the primary, so they have what its sessions wait for, and nothing has been committed for long:
/// an acknowledgement was lost when its stream broke, and no later one comes to stand for it (F013, MySQL bug #104015).
fn acknowledgement_lost(
    view: &ClusterView,
    primary: &InstanceId,
    report: &Report,
    stuck: Duration,
) -> Option<String> {
    let (policy, semi_sync) = (&view.cluster.policy, &report.semi_sync);
    if semi_sync.waiting == 0 || semi_sync.clients < semi_sync.acks || stuck < policy.silence * SLOW_ACKS {
        return None;
    }
    let record = view.record.as_ref()?;
    let hears = |acker: &&InstanceId| {
        view.of(acker).is_some_and(|seen| {
            let follows = seen.latest().and_then(Report::channel).is_some_and(|channel| {
                channel.source == *primary && channel.receiver == ThreadState::Running
            });
            let still = seen.agent_now().and_then(|agent| agent.stream_still);
            follows && still.is_some_and(|still| still < policy.silence)
        })
    };
    let hearing: Vec<InstanceId> = record.ackers.iter().filter(hears).cloned().collect();
    (hearing.len() >= semi_sync.acks as usize).then(|| {
        format!(
            "{primary}: {} session(s) have waited {} for an acknowledgement that was lost: {} hear it and have everything",
            semi_sync.waiting,
            human(stuck),
            names(&hearing)
        )
    })
}

fn closed(primary: &InstanceId, seen: &Seen, report: &Report) -> Option<String> {
    // The newest word counts: the agent's may be younger than the manager's look, such as one taken before a promotion.
    if seen.last_report.as_ref().map_or(report.read_only, |(_, newest)| newest.read_only) {
        return Some(format!("{primary} is the recorded primary and read-only"));
    }
    match seen.agent_now()?.access {
        Access::Closed => {
            Some(format!("{primary} runs, and its agent keeps clients out: it holds no majority's lease"))
        }
        Access::Held { .. } | Access::Admitted => None,
    }
}

/// The primary does not answer this manager; its agent, its replicas and other hosts are heard.
fn unanswering(
    view: &ClusterView,
    primary: &InstanceId,
    seen: &Seen,
    now: Moment,
    unseen: Option<&Unseen>,
) -> Diagnosis {
    let mut evidence: Vec<String> = unseen.map(|unseen| format!("manager: {unseen}")).into_iter().collect();
    let verdict = match seen.agent_now() {
        Some(agent) => {
            let age = now.since(seen.agent.as_ref().map_or(now, |said| said.at));
            let alone = isolated(view, seen, now);
            by_agent(view, agent, (age, now), unseen, alone, &mut evidence)
        }
        None => assumed_dead(view, primary).map(|lines| {
            evidence.extend(lines);
            Verdict::DeadPrimary
        }),
    };
    let verdict = verdict.unwrap_or_else(|| match liveness(view, primary, now, &mut evidence) {
        Liveness::Alive => Verdict::ManagerCutOff,
        Liveness::Silent => Verdict::SilentPrimary,
        Liveness::Unknown if hears_nobody(view) => {
            evidence.push("nobody answers this manager".to_owned());
            Verdict::ManagerCutOff
        }
        Liveness::Unknown => Verdict::UnreachablePrimary,
    });
    if verdict != Verdict::IsolatedPrimary
        && verdict.calls_for_failover()
        && !view.replicas().any(|(_, replica)| replica.latest().is_some())
    {
        evidence.push("no replica answers either".to_owned());
        return Diagnosis::new(Verdict::DeadPrimaryAndReplicas, Some(primary), evidence);
    }
    Diagnosis::new(verdict, Some(primary), evidence)
}

/// Every member is silent to this manager, servers and agents alike: likelier its own network than all of theirs.
fn hears_nobody(view: &ClusterView) -> bool {
    let silent = |seen: &Seen| match seen.unseen() {
        Some(Unseen::SilentBeforeGreeting | Unseen::HungAfterLogin | Unseen::NoRoute) => {
            seen.agent_now().is_none()
        }
        Some(
            Unseen::Refused
            | Unseen::Lost
            | Unseen::AccessDenied(_)
            | Unseen::TooManyConnections
            | Unseen::Server { .. }
            | Unseen::WrongServer(_)
            | Unseen::Name(_)
            | Unseen::Looker(_),
        )
        | None => false,
    };
    view.seen.len() > 1 && view.seen.values().all(silent)
}

/// Its port does not let this manager in although its process runs. Whether it lets anybody in, other hosts say.
fn shut(view: &ClusterView, now: Moment, unseen: &Unseen, evidence: &mut Vec<String>) -> Verdict {
    match lets_nobody_in(view, now) {
        PortShut::NotTo(host) => {
            evidence.push(format!("{host}: greeted by it when it probed"));
            Verdict::ManagerCutOff
        }
        // The host itself refuses; silence may be the network's between here and there.
        PortShut::Unknown if *unseen == Unseen::Refused => Verdict::MisconfiguredPrimary,
        PortShut::Unknown => Verdict::ManagerCutOff,
        // So does a host that has just been lost.
        PortShut::ToEverybody { span, .. }
            if *unseen != Unseen::Refused && span < view.cluster.policy.silence =>
        {
            Verdict::ManagerCutOff
        }
        PortShut::ToEverybody { hosts, span } => {
            let grace = view.cluster.policy.refused_port_grace;
            let next = match grace.saturating_sub(span) {
                left if left.is_zero() => "it is fenced and replaced (refused_port_grace)".to_owned(),
                left => format!("it is fenced and replaced in {} (refused_port_grace)", human(left)),
            };
            evidence.push(format!(
                "{}: cannot connect either; its port has let nobody in for {}: look there at skip_networking, bind_address and packet \
                 filters; {next}",
                hosts.join(", "),
                human(span)
            ));
            Verdict::MisconfiguredPrimary
        }
    }
}

/// What the agent beside the primary says. `None`: it knows nothing of the process, so its word decides nothing.
fn by_agent(
    view: &ClusterView,
    agent: &AgentStatus,
    (age, now): (Duration, Moment),
    unseen: Option<&Unseen>,
    isolated: Option<String>,
    evidence: &mut Vec<String>,
) -> Option<Verdict> {
    let policy = &view.cluster.policy;
    if is_old(view, age) && !matches!(agent.process, Process::Gone { .. }) {
        evidence.push(format!("agent: its last word is {} old", human(age)));
        return None;
    }
    let unanswered = if agent.unanswered.is_zero() { Duration::ZERO } else { agent.unanswered + age };
    match &agent.process {
        Process::Gone { since } => {
            let access =
                if agent.access == Access::Closed { "access closed" } else { "access not closed yet" };
            let failed = super::issues::start_failed(agent);
            evidence.push(format!("agent: process gone for {}, {access}{failed}", human(*since + age)));
            Some(Verdict::DeadPrimary)
        }
        Process::Unknown { why } => {
            evidence.push(format!("agent: {why}"));
            None
        }
        Process::Running { pid, .. } if unanswered >= policy.silence => {
            evidence
                .push(format!("agent: process {pid} runs and has not answered for {}", human(unanswered)));
            Some(Verdict::HungPrimary)
        }
        Process::Running { pid, .. } if unanswered > Duration::ZERO => {
            evidence.push(format!("agent: process {pid} runs, no answer for {}", human(unanswered)));
            Some(Verdict::UnreachablePrimary)
        }
        Process::Running { pid, .. } => {
            evidence.push(format!("agent: process {pid} runs and answers"));
            if let Some(text) = isolated {
                evidence.push(text);
                return Some(Verdict::IsolatedPrimary);
            }
            if agent.access == Access::Closed {
                evidence.push("agent: no majority's lease, clients kept out".to_owned());
                return Some(Verdict::ClosedPrimary);
            }
            // The host answers this manager, and its port does not: bind-address, skip-networking, somebody's filter or a name lookup.
            match unseen.filter(|unseen| unseen.lets_nobody_in()) {
                Some(unseen) => Some(shut(view, now, unseen, evidence)),
                None => Some(Verdict::ManagerCutOff),
            }
        }
    }
}
