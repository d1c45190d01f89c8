//! What a play begins with: a cluster as its first line describes it, adopted and well.

use std::time::Duration;

use mha::model::ballot::{Ballot, Generation};
use mha::model::cluster::{Cluster, ClusterName, Member, Mode, Promotion, VipAddress, Voter};
use mha::model::extra::Remedy;
use mha::model::instance::{Flavor, InstanceId};
use mha::model::policy::{Durability, Policy};
use mha::model::record::ClusterRecord;
use mha::model::time::Moment;

use crate::commands::{arm, instance};
use crate::host::Host;
use crate::world::{MANAGER, World};

/// What a `cluster` line asks for beside its members.
struct Wanted {
    flavor: Flavor,
    lossless: bool,
    agents: bool,
    manager_votes: bool,
    witness: Option<String>,
    vip: bool,
}

/// `cluster orders: db1 primary, db2 db3 replicas, lossless, agents, mariadb, vip, manager votes, witness w1`
///
/// Adopted, automatic, and well for five seconds. `async`, `no agents` and `mysql` are the other choices.
pub(crate) fn cluster(line: &str) -> Result<World, String> {
    let (name, rest) =
        line["cluster ".len()..].split_once(": ").ok_or("write \"cluster NAME: db1 primary, …\"")?;
    let now = Moment::from_micros(1_000_000_000);
    let mut names: Vec<&str> = Vec::new();
    let mut wanted = Wanted {
        flavor: Flavor::MariaDb,
        lossless: true,
        agents: true,
        manager_votes: false,
        witness: None,
        vip: false,
    };
    for part in rest.split(", ") {
        match part.split(' ').collect::<Vec<_>>().as_slice() {
            ["lossless"] => wanted.lossless = true,
            ["async"] => wanted.lossless = false,
            ["agents"] => wanted.agents = true,
            ["no", "agents"] => wanted.agents = false,
            ["mariadb"] => wanted.flavor = Flavor::MariaDb,
            ["mysql"] => wanted.flavor = Flavor::MySql,
            ["vip"] => wanted.vip = true,
            ["manager", "votes"] => wanted.manager_votes = true,
            ["witness", host] => wanted.witness = Some((*host).to_owned()),
            [hosts @ .., "primary" | "replica" | "replicas"] => names.extend(hosts),
            _ => return Err(format!("{part:?} is no part of a cluster")),
        }
    }
    let ids: Vec<InstanceId> = names.iter().map(|name| instance(name)).collect::<Result<_, _>>()?;
    let configured = configured(name, &ids, &wanted)?;
    let primary = ids.first().ok_or("a cluster has a primary")?.clone();
    let hosts = (1_u32..)
        .zip(&ids)
        .map(|(id, this)| {
            let source = (*this != primary).then(|| primary.clone());
            Host::new(this.clone(), id, source, wanted.flavor, now)
        })
        .collect();
    let mut world = World::new(configured, hosts, wanted.flavor, now);
    let ackers = if wanted.lossless { ids[1..].to_vec() } else { Vec::new() };
    world.view.record = Some(ClusterRecord {
        revision: 1,
        ballot: Ballot { number: 1, manager: "m1".to_owned() },
        acks: u32::from(!ackers.is_empty()),
        ackers,
        ..ClusterRecord::new(primary.clone(), Generation(1), world.wall())
    });
    arm(&mut world, &primary);
    world.wait(Duration::from_secs(5));
    Ok(world)
}

fn configured(name: &str, ids: &[InstanceId], wanted: &Wanted) -> Result<Cluster, String> {
    let url = |host: &str| format!("http://{host}:8421");
    let members = ids.iter().map(|id| Member {
        instance: id.clone(),
        promotion: Promotion::Allow,
        zone: None,
        agent: wanted.agents.then(|| url(&id.host)),
    });
    let hosts = ids.iter().map(|id| id.host.clone()).filter(|_| wanted.agents);
    let beside = wanted.witness.clone().into_iter().chain(wanted.manager_votes.then(|| MANAGER.to_owned()));
    let voters = hosts.chain(beside).map(|host| Voter { url: url(&host), host });
    let address = "10.0.0.100".parse().map_err(|error| format!("{error}"))?;
    Ok(Cluster {
        name: ClusterName(name.to_owned()),
        mode: Mode::Auto,
        members: members.collect(),
        vip: wanted.vip.then(|| VipAddress { address, prefix: 24, interface: "eth0".to_owned() }),
        traffic: None,
        voters: voters.collect(),
        policy: Policy {
            durability: if wanted.lossless { Durability::Lossless } else { Durability::Async },
            extra_transactions: if wanted.lossless { Remedy::Flashback } else { Remedy::Park },
            ..Policy::default()
        },
    })
}
