//! Commands of a play about single replicas, each with an example, and what is told of them.

use mha::decide::topology::newcomer::{Newcomer, add};
use mha::decide::topology::plan;
use mha::model::cluster::Cluster;
use mha::model::instance::InstanceId;
use mha::model::wishes::{Change, ReplicaAsk, Threads, Wish};

use crate::host::Host;
use crate::telling::{line, show};
use crate::world::World;

type Done = Result<(), String>;

fn instance(text: &str) -> Result<InstanceId, String> {
    text.parse().map_err(|error| format!("{error}"))
}

/// `operator asks replica move db3 db2`, `operator asks replica stop db3 --io --force`, `operator asks replica start db3`,
/// `operator asks replica remove db3 --keep-running`, `operator asks replica read-only db3 on`
pub(crate) fn asks(world: &mut World, words: &[&str]) -> Done {
    let options: Vec<&str> = words.iter().copied().filter(|word| word.starts_with("--")).collect();
    let words: Vec<&str> = words.iter().copied().filter(|word| !word.starts_with("--")).collect();
    let (name, change) = match words.as_slice() {
        ["move", name, source] => (name, Change::Move { source: instance(source)? }),
        ["stop", name] => {
            let threads = match (options.contains(&"--io"), options.contains(&"--sql")) {
                (true, _) => Threads::Receiver,
                (false, true) => Threads::Applier,
                (false, false) => Threads::Both,
            };
            (name, Change::Stop { threads })
        }
        ["start", name] => (name, Change::Start),
        ["remove", name] => (name, Change::Remove { keep_running: options.contains(&"--keep-running") }),
        ["add", name] => (name, Change::Add { agent: None, source: None }),
        ["add", name, source] => (name, Change::Add { agent: None, source: Some(instance(source)?) }),
        ["read-only", name, on] => (name, Change::ReadOnly { on: *on == "on" }),
        _ => return Err("add, move, stop, start, remove or read-only".to_owned()),
    };
    world.newcomer_has_agent = options.contains(&"--agent");
    world.asks_replica = Some(ReplicaAsk {
        instance: instance(name)?,
        change,
        force: options.contains(&"--force"),
        within: ReplicaAsk::WITHIN,
        by: "anna".to_owned(),
    });
    Ok(())
}

/// `db3 wished below db2`, `db3 wished stopped`, `db3 wished stopped --sql`: what an operator asked for some time ago.
pub(crate) fn wished(world: &mut World, name: &str, words: &[&str]) -> Done {
    let wish = match words {
        ["below", source] => Wish::Follow { source: Some(instance(source)?) },
        ["stopped"] => Wish::Stop { threads: Threads::Both, by: "anna".to_owned() },
        ["stopped", "--sql"] => Wish::Stop { threads: Threads::Applier, by: "anna".to_owned() },
        ["running"] => Wish::Run,
        _ => return Err("below SOURCE, stopped or running".to_owned()),
    };
    let (instance, now) = (instance(name)?, world.wall());
    let record = world.view.record.as_mut().ok_or("not adopted")?;
    record.wishes.note(&instance, &wish, now);
    // It acknowledges nothing any more, and is not registered.
    if wish != Wish::Run {
        record.ackers.retain(|acker| *acker != instance);
    }
    Ok(())
}

/// `registered db4`: the record names it as an acker.
pub(crate) fn registered(world: &mut World, name: &str) -> Done {
    if name == "nobody" {
        let record = world.view.record.as_mut().ok_or("not adopted")?;
        (record.ackers, record.acks) = (Vec::new(), 1);
        return Ok(());
    }
    let this = instance(name)?;
    world.view.record.as_mut().ok_or("not adopted")?.ackers.push(this);
    Ok(())
}

/// `stranger db4`: a host of the world that is no member. Its server has what the members have, and follows nobody.
pub(crate) fn stranger(world: &mut World, name: &str) -> Done {
    let this = instance(name)?;
    let id = world.hosts.len() as u32 + 1;
    let mut host = Host::new(this, id, None, world.flavor, world.now);
    host.read_only = true;
    world.hosts.push(host);
    Ok(())
}

/// `joined db4`: it is a member now, with an agent.
pub(crate) fn joined(world: &mut World, name: &str) -> Done {
    let this = instance(name)?;
    let url = Some(format!("http://{name}:8421"));
    let wish = Wish::Join { member: Box::new(Newcomer::member(&world.view, &this, url)) };
    let now = world.wall();
    let record = world.view.record.as_mut().ok_or("not adopted")?;
    record.wishes.note(&this, &wish, now);
    let members = record.wishes.members(&world.view.cluster.members);
    let cluster = Cluster { members, ..world.view.cluster.clone() };
    world.view.follow_members(cluster);
    Ok(())
}

/// `removed db4`: it is no member any more.
pub(crate) fn removed(world: &mut World, name: &str) -> Done {
    let (this, now) = (instance(name)?, world.wall());
    let record = world.view.record.as_mut().ok_or("not adopted")?;
    record.wishes.note(&this, &Wish::Leave, now);
    let members = record.wishes.members(&world.view.cluster.members);
    let cluster = Cluster { members, ..world.view.cluster.clone() };
    world.view.follow_members(cluster);
    Ok(())
}

fn newcomer(world: &World, ask: &ReplicaAsk) -> Newcomer {
    let host = world.hosts.iter().find(|host| host.instance == ask.instance);
    let report = host.map(|host| world.report(host)).ok_or_else(|| "no route to host".to_owned());
    let url = world.newcomer_has_agent.then(|| format!("http://{}:8421", ask.instance.host));
    let agent = host.filter(|_| world.newcomer_has_agent).map(|host| Ok(world.status(host, None)));
    Newcomer { member: Newcomer::member(&world.view, &ask.instance, url), report, agent }
}

/// The plan with what takes it back, or everything in its way.
pub(crate) fn tell(world: &World, ask: &ReplicaAsk, name: &str) -> String {
    let mut out = String::new();
    let planned = match &ask.change {
        Change::Add { source, .. } => {
            add(&world.view, ask, source.as_ref(), &newcomer(world, ask), world.now)
        }
        Change::Remove { .. }
        | Change::Move { .. }
        | Change::Stop { .. }
        | Change::Start
        | Change::ReadOnly { .. } => plan(&world.view, ask, world.now),
    };
    match planned {
        Ok(plan) => {
            show(&mut out, &plan, name);
            for step in plan.stages.iter().rev().flat_map(|stage| &stage.undo) {
                line(&mut out, "  undo: ", &step.to_string());
            }
        }
        Err(found) => found.iter().for_each(|why| line(&mut out, "in the way: ", &why.to_string())),
    }
    out
}
