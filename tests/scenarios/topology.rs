//! Commands of a play about single replicas, each with an example, and what is told of them.

use mha::decide::topology::plan;
use mha::model::instance::InstanceId;
use mha::model::wishes::{Change, ReplicaAsk, Threads, Wish};

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
        ["read-only", name, on] => (name, Change::ReadOnly { on: *on == "on" }),
        _ => return Err("move, stop, start, remove or read-only".to_owned()),
    };
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

/// The plan with what takes it back, or everything in its way.
pub(crate) fn tell(world: &World, ask: &ReplicaAsk, name: &str) -> String {
    let mut out = String::new();
    match plan(&world.view, ask, world.now) {
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
