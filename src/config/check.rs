//! The rules between values: of one cluster, of several. Each says what is wrong and what to write instead;
//! what is legal but risky is a warning. Reads nothing: all values are given.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use secrecy::ExposeSecret;

use super::Accounts;
use super::VOTE_PORT;
use super::cluster::{Read, ReadMember};
use super::findings::{Findings, Span};
use super::value::{same_host, same_network, url};
use crate::model::cluster::{Mode, Promotion, Voter};
use crate::model::instance::InstanceId;
use crate::model::policy::{Durability, Policy};

/// The votes of a cluster: members' agents, witnesses, and the manager's host where that makes the number odd.
/// One vote per host.
pub(super) fn voters(
    members: &[ReadMember],
    witnesses: &[(Voter, Span)],
    manager: Option<&Voter>,
    findings: &Findings<'_>,
) -> Vec<Voter> {
    let mut voters: Vec<Voter> = Vec::new();
    let has =
        |voters: &[Voter], host: &str| voters.iter().any(|voter| same_host(&voter.host) == same_host(host));
    for ReadMember { member, .. } in members {
        if let Some(agent) = &member.agent
            && !has(&voters, &member.instance.host)
        {
            voters.push(Voter { host: member.instance.host.clone(), url: agent.clone() });
        }
    }
    for (witness, at) in witnesses {
        let twice = has(&voters, &witness.host) || voters.iter().any(|voter| voter.url == witness.url);
        if twice {
            findings.error(
                at,
                format!("{} has a vote already", witness.host),
                "name another host: one that votes twice would be a majority of fewer hosts",
            );
        } else {
            voters.push(witness.clone());
        }
    }
    if let Some(manager) = manager
        && !voters.is_empty()
        && voters.len().is_multiple_of(2)
        && !has(&voters, &manager.host)
    {
        voters.push(manager.clone());
    }
    voters
}

/// The rules of one cluster.
pub(super) fn within(
    read: &mut Read,
    witnesses: &[(Voter, Span)],
    manager: Option<&Voter>,
    findings: &Findings<'_>,
) {
    read.layer.thresholds.check_times(findings);
    hosts(read, findings);
    vip(read, findings);
    if read.partial {
        return;
    }
    let members = u32::try_from(read.members.len()).unwrap_or(u32::MAX);
    read.layer.thresholds.check_members(members, findings, &read.at);
    if members == 1 {
        findings.warn(
            &read.at,
            "with one instance there is nothing to fail over to",
            "list the cluster's other servers",
        );
    }
    promotion(read, findings);
    agents(read, witnesses, findings);
    votes(read, manager, findings);
}

fn hosts(read: &Read, findings: &Findings<'_>) {
    let mut seen: BTreeMap<String, &InstanceId> = BTreeMap::new();
    for ReadMember { member, at } in &read.members {
        let id = &member.instance;
        match seen.get(&same_host(&id.host)) {
            Some(other) if other.port == id.port => {
                findings.error(at, format!("{id} is listed twice"), "remove one of the two");
            }
            Some(other) => findings.warn(
                at,
                format!("{id} is on the same host as {other}: the loss of that host takes both"),
                "list servers of different hosts",
            ),
            None => {
                seen.insert(same_host(&id.host), id);
            }
        }
        let loopback = id
            .host
            .parse::<IpAddr>()
            .map_or(same_host(&id.host) == "localhost", |address| address.is_loopback());
        if loopback {
            findings.warn(
                at,
                format!(
                    "{} means another host on each host: replicas elsewhere would follow themselves",
                    id.host
                ),
                "write the name other hosts know it by; fine only where all of the cluster is on one host",
            );
        }
    }
}

fn vip(read: &Read, findings: &Findings<'_>) {
    let Some((vip, at)) = &read.vip else { return };
    for ReadMember { member, .. } in &read.members {
        let Ok(address) = member.instance.host.parse::<IpAddr>() else { continue };
        if address == vip.address {
            findings.error(
                at,
                format!("{address} is the address of an instance, which could never give it away"),
                "write a free address of the clients' network, or the instance's own",
            );
        } else if address.is_ipv4() == vip.address.is_ipv4()
            && !same_network(address, vip.address, vip.prefix)
        {
            findings.warn(
                at,
                format!("{} is not in {address}'s network /{}", vip.address, vip.prefix),
                "write an address of the network the clients reach these hosts by, unless they have another interface there",
            );
        }
    }
    for ReadMember { member, at: member_at } in &read.members {
        if member.agent.is_none() && member.promotion != Promotion::Never {
            findings.error(
                member_at,
                format!("{} may lead, but has no agent to hold the vip {}", member.instance, vip.address),
                "give it an agent, or promotion = \"never\"; or remove `vip`",
            );
        }
    }
}

fn promotion(read: &Read, findings: &Findings<'_>) {
    let never = read.members.iter().filter(|read| read.member.promotion == Promotion::Never).count();
    if never == read.members.len() {
        findings.error(
            &read.at,
            "no instance may lead",
            "remove promotion = \"never\" from at least two of them",
        );
    } else if never > 0 && never + 1 == read.members.len() {
        findings.warn(
            &read.at,
            "only one instance may lead: there is nothing to fail over to",
            "remove promotion = \"never\" from another of them",
        );
    }
}

fn agents(read: &Read, witnesses: &[(Voter, Span)], findings: &Findings<'_>) {
    let without: Vec<String> = read
        .members
        .iter()
        .filter(|read| read.member.agent.is_none())
        .map(|read| read.member.instance.to_string())
        .collect();
    let some = without.len() < read.members.len();
    if some && !without.is_empty() {
        findings.warn(
            &read.at,
            format!("only some instances have agents; without one: {}. A primary there holds no lease and is not fenced", without.join(", ")),
            "give every instance an agent",
        );
    }
    let thresholds = &read.layer.thresholds;
    let Policy { durability, assume_dead_when_refused, .. } = thresholds.policy;
    if assume_dead_when_refused
        && (some || durability == Durability::Lossless)
        && let Some(at) = thresholds.blame(&["assume_dead_when_refused"])
    {
        findings.warn(
            &at,
            "`assume_dead_when_refused` has no effect with agents or with durability = \"lossless\", where better proof is at hand",
            "remove it, or write false",
        );
    }
    if some {
        return;
    }
    if let Some((_, at)) = witnesses.first() {
        findings.error(
            at,
            "witnesses vote on the agents' leases, and no instance has an agent",
            "remove `witnesses`, or write agents = true",
        );
    }
    if read.mode != Mode::Auto {
        return;
    }
    match (durability, assume_dead_when_refused) {
        (Durability::Async, false) => findings.warn(
            &read.at,
            "without agents and without acknowledgements no death can be proven: it will never fail over by itself",
            "give the instances agents, or write durability = \"lossless\", or assume_dead_when_refused = true with its risk",
        ),
        (Durability::Async, true) => findings.warn(
            &read.at,
            "a primary that only refuses connections would be taken for dead, and may go on writing",
            "give the instances agents",
        ),
        (Durability::Lossless, _) => findings.warn(
            &read.at,
            "without agents nothing fences an old primary: clients that still reach it can read old rows, and see errors late",
            "give the instances agents",
        ),
    }
}

fn votes(read: &Read, manager: Option<&Voter>, findings: &Findings<'_>) {
    let count = read.voters.len();
    if count == 0 || !count.is_multiple_of(2) {
        return;
    }
    let survives = count / 2 - 1;
    let lost = if survives == 0 {
        "the loss of any host".to_owned()
    } else {
        format!("the loss of {} hosts", survives + 1)
    };
    let advice = match manager {
        Some(manager) => format!(
            "add witnesses = [\"http://HOST:8421\"]: the manager's host {} has a vote already",
            manager.host
        ),
        None => format!(
            "add a third place: host = \"…\" under [manager] where the manager has a host of its own (it then votes at {}), or witnesses = [\"http://HOST:8421\"]",
            url("HOST", VOTE_PORT)
        ),
    };
    findings.warn(&read.at, format!("{count} hosts vote, an even number: {lost} leaves no majority, so a primary closes and none is chosen"), advice);
}

/// The rules between the accounts of one cluster.
pub(super) fn accounts(accounts: &Accounts, findings: &Findings<'_>, at: &Span) {
    let Accounts { admin, replication, heartbeat } = accounts;
    if heartbeat.user == admin.user {
        findings.error(
            at,
            format!(
                "`heartbeat` and `admin` are both {:?}: an account that may set read_only also ignores it",
                admin.user
            ),
            "give the heartbeat a user of its own, which may write mha.heartbeat and nothing else",
        );
    }
    if replication.user == admin.user {
        findings.warn(
            at,
            format!("`replication` and `admin` are both {:?}: the replicas' password, kept on every server, then opens everything", admin.user),
            "give replication a user of its own",
        );
    }
    if replication.user == heartbeat.user {
        findings.warn(
            at,
            format!("`replication` and `heartbeat` are both {:?}", heartbeat.user),
            "give each a user of its own, with only its own rights",
        );
    }
}

/// The rules between clusters.
pub(super) fn between(clusters: &[Read], manager: Option<&Voter>, findings: &Findings<'_>) {
    let mut names: BTreeMap<&str, ()> = BTreeMap::new();
    let mut instances: BTreeMap<(String, u16), usize> = BTreeMap::new();
    let mut addresses: BTreeMap<IpAddr, &str> = BTreeMap::new();
    let mut agents: BTreeMap<&str, &InstanceId> = BTreeMap::new();
    for (index, read) in clusters.iter().enumerate() {
        let name = read.name.as_ref().map_or("another cluster", |name| name.0.as_str());
        if let Some(name) = &read.name
            && names.insert(&name.0, ()).is_some()
        {
            findings.error(
                &read.at,
                format!("there are two clusters {:?}", name.0),
                "give each a name of its own",
            );
        }
        if let Some((vip, at)) = &read.vip
            && let Some(other) = addresses.insert(vip.address, name)
        {
            findings.error(
                at,
                format!("{} is the vip of cluster {other:?} too", vip.address),
                "write another free address",
            );
        }
        for ReadMember { member, at } in &read.members {
            let id = &member.instance;
            let first = *instances.entry((same_host(&id.host), id.port)).or_insert(index);
            if first != index {
                findings.error(
                    at,
                    format!("{id} belongs to another cluster already"),
                    "list each server in one cluster",
                );
            }
            let Some(agent) = &member.agent else { continue };
            match agents.insert(agent, id) {
                Some(other) if other != id => findings.error(
                    at,
                    format!("{id} and {other} have one agent, {agent}, which watches only one server"),
                    "write agent = \"http://HOST:PORT\" for one of them, or agent = false",
                ),
                Some(_) | None => {}
            }
        }
    }
    one_token(clusters, manager, findings);
    budget_hint(clusters, findings);
}

/// The manager's vote is served on one port, to who shows one token: whoever holds it can vote in every cluster that counts it.
fn one_token(clusters: &[Read], manager: Option<&Voter>, findings: &Findings<'_>) {
    let Some(manager) = manager else { return };
    let counting = clusters.iter().filter(|read| read.voters.contains(manager));
    let mut tokens = counting.filter_map(|read| Some((read, read.token()?.expose_secret())));
    let Some((_, first)) = tokens.next() else { return };
    for (read, _) in tokens.filter(|(_, token)| *token != first) {
        findings.error(
            &read.at,
            format!(
                "the manager's host {} votes here and in another cluster, and the two have different agent tokens",
                manager.host
            ),
            "write one agent_token under [defaults], or give this cluster a witness of its own",
        );
    }
}

/// A window so short that its budget limits nothing.
fn budget_hint(clusters: &[Read], findings: &Findings<'_>) {
    for read in clusters {
        let Policy { budget, budget_window, .. } = read.layer.thresholds.policy;
        if budget_window < Duration::from_secs(60) * budget
            && let Some(at) = read.layer.thresholds.blame(&["budget", "budget_window"])
        {
            findings.warn(
                &at,
                format!(
                    "a budget of {budget} failovers in {} hardly limits them",
                    super::value::show(budget_window)
                ),
                "write budget = { failovers = 2, window = \"30m\" }",
            );
        }
    }
}
