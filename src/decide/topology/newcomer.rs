//! A server that is to become a member: judged by one look at it, before anything of it is recorded.

use super::checks::{as_source, pair, ready};
use super::objection::Objection;
use super::{joins_ackers, would_acknowledge};
use crate::decide::plan::{Plan, PlanKind, Stage, Step};
use crate::model::cluster::{Member, Promotion};
use crate::model::instance::InstanceId;
use crate::model::observation::AgentStatus;
use crate::model::report::Report;
use crate::model::time::Moment;
use crate::model::view::ClusterView;
use crate::model::wishes::{ReplicaAsk, Threads, Wish};

/// What was seen of it, or why nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct Newcomer {
    /// As it would be a member.
    pub member: Member,
    pub report: Result<Report, String>,
    /// `None` where no agent was named.
    pub agent: Option<Result<AgentStatus, String>>,
}

impl Newcomer {
    /// How a member that the configuration does not name is one: it has no vote, and so it does not lead where votes decide.
    pub fn member(view: &ClusterView, instance: &InstanceId, agent: Option<String>) -> Member {
        let votes = view.cluster.voters.iter().any(|voter| voter.host == instance.host);
        let promotion =
            if view.cluster.voters.is_empty() || votes { Promotion::Allow } else { Promotion::Never };
        Member { instance: instance.clone(), promotion, zone: None, agent }
    }
}

/// The plan that makes it one, or everything in the way. Beside an agent it is brought in as a returned server is, once it is a member.
///
/// # Errors
/// Every objection, each with what to do about it.
pub fn add(
    view: &ClusterView,
    ask: &ReplicaAsk,
    source: Option<&InstanceId>,
    newcomer: &Newcomer,
    now: Moment,
) -> Result<Plan, Vec<Objection>> {
    let instance = &ask.instance;
    if view.cluster.member(instance).is_some() {
        return Err(vec![Objection::IsMember(instance.clone())]);
    }
    let record = ready(view, now)?;
    let source = source.unwrap_or(&record.primary);
    let mut found = Vec::new();
    agent(newcomer, &mut found);
    let above = as_source(view, record, source, &mut found);
    let report = match &newcomer.report {
        Ok(report) => report,
        Err(why) => {
            found.push(Objection::NotAnswering { instance: instance.clone(), why: why.clone() });
            return Err(found);
        }
    };
    settings(instance, report, &mut found);
    same_server(view, instance, report, &mut found);
    if let Some(channel) = report.channel().filter(|channel| view.cluster.member(&channel.source).is_none()) {
        let source = channel.source.clone();
        found.push(Objection::FollowsStranger { instance: instance.clone(), source });
    }
    if let Some(above) = above {
        pair(view, record, (instance, report), (source, above), &mut found);
    }
    for objection in &mut found {
        if let Objection::Extra { instance, source, set } = objection {
            let (instance, source, set) = (instance.clone(), source.clone(), set.clone());
            *objection = Objection::NoCopy { instance, source, set };
        }
    }
    if !found.is_empty() {
        return Err(found);
    }
    let wish = |wish| Step::Wish { instance: instance.clone(), wish };
    let join = Wish::Join { member: Box::new(newcomer.member.clone()) };
    let mut stages = Vec::new();
    if newcomer.agent.is_none() {
        let point = Step::PointReplica { instance: instance.clone(), source: source.clone(), acker: false };
        let halt = Step::Halt { instance: instance.clone(), threads: Threads::Both, within: ask.within };
        stages.push(Stage::new("follow", vec![point]).with_undo(vec![halt]));
    }
    stages.push(Stage::new("record", vec![wish(join)]).with_undo(vec![wish(Wish::Leave)]));
    if *source != record.primary {
        stages.push(Stage::new("place", vec![wish(Wish::Follow { source: Some(source.clone()) })]));
    }
    if newcomer.agent.is_none() && would_acknowledge(view, record, (instance, report), source) {
        stages.extend(joins_ackers(record, instance));
    }
    let by = if ask.by.is_empty() { "an operator" } else { ask.by.as_str() };
    Ok(Plan {
        cluster: view.cluster.name.clone(),
        kind: PlanKind::Topology,
        title: format!("{instance} becomes a member, below {source}, asked for by {by}"),
        stages,
        commit: None,
        basis: Vec::new(),
    })
}

fn agent(newcomer: &Newcomer, found: &mut Vec<Objection>) {
    let instance = &newcomer.member.instance;
    let what = match &newcomer.agent {
        None => return,
        Some(Ok(agent)) if agent.host == instance.host => return,
        Some(Ok(agent)) => {
            format!("the agent named for it is that of {}; name its own with --agent", agent.host)
        }
        Some(Err(why)) => format!("its agent does not answer ({why}); start mha-agent there"),
    };
    found.push(Objection::Settings { instance: instance.clone(), what });
}

fn settings(instance: &InstanceId, report: &Report, found: &mut Vec<Objection>) {
    let settings = &report.settings;
    let lacking = [
        (settings.log_bin, "it has no binary log; set log_bin and restart it"),
        (
            settings.log_replica_updates,
            "it does not log what it replicates; set log_replica_updates and restart it",
        ),
        (settings.gtid, "its GTIDs are off; set gtid_mode=ON"),
    ];
    found.extend(
        lacking
            .into_iter()
            .filter(|(has, _)| !has)
            .map(|(_, what)| Objection::Settings { instance: instance.clone(), what: what.to_owned() }),
    );
}

fn same_server(view: &ClusterView, instance: &InstanceId, report: &Report, found: &mut Vec<Objection>) {
    for (other, seen) in &view.seen {
        let Some((_, known)) = &seen.last_report else { continue };
        let (own, its) = (&report.identity, &known.identity);
        let what = if own.server_uuid.is_some() && own.server_uuid == its.server_uuid {
            "server_uuid".to_owned()
        } else if own.server_id == its.server_id {
            format!("server_id {}", own.server_id)
        } else {
            continue;
        };
        found.push(Objection::SameServer { instance: instance.clone(), other: other.clone(), what });
    }
}
