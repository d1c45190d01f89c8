//! Commands of a play about a returned server's extra transactions, each with an example.

use std::time::Duration;

use mha::decide::rejoin;
use mha::model::extra::{Remedy, Saved, Touched};
use mha::model::instance::InstanceId;
use mha::model::job::{Job, Phase, Task};

use crate::world::World;

type Done = Result<(), String>;

/// `db1 saved rows`, `db1 saved heartbeats`, `db1 saved ddl`: its agent has saved what it has and the primary lacks.
pub(crate) fn saved(world: &mut World, name: &str, what: &[&str]) -> Done {
    let primary = world.view.primary().cloned().ok_or("no primary")?;
    let primary = world.host(&primary.host)?.clone();
    let host = world.host(name)?.clone();
    let set = world.report(&host).known().minus(&world.report(&primary).executed);
    let (table, statements) = match what {
        ["rows"] => ("app.writes", 0),
        ["heartbeats"] => ("mha.heartbeat", 0),
        ["ddl"] => ("app.writes", 1),
        _ => return Err("rows, heartbeats or ddl".to_owned()),
    };
    let transactions = set.count();
    world.host(name)?.saved = Some(Saved {
        tables: vec![Touched { table: table.to_owned(), inserted: transactions, updated: 0, deleted: 0 }],
        transactions,
        set,
        statements,
        first_at: None,
        last_at: None,
        benign: table == "mha.heartbeat",
        obstacle: (statements > 0)
            .then(|| "\"ALTER TABLE …\" is a statement, which no rows tell how to take back".to_owned()),
        file: format!("extra/{name}.binlog"),
        sha256: "5e".repeat(32),
        rewinding: None,
    });
    Ok(())
}

/// `db1 saved is set back halfway`: its history is forgotten, and the one to come not set.
pub(crate) fn halfway(world: &mut World, name: &str) -> Done {
    let host = world.host(name)?.clone();
    let executed = world.report(&host).executed;
    let host = world.host(name)?;
    let saved = host.saved.as_mut().ok_or("nothing is saved")?;
    saved.rewinding = Some(executed.minus(&saved.set));
    host.base.clear();
    (host.received, host.applied) = (0, 0);
    Ok(())
}

/// `db3 rebuilt from db2 copying`, `… ready`, `… exchanging`, `… exchanged`, `… failed the disk is full`, and `… forgotten`: what its
/// agent says of it.
pub(crate) fn rebuilt(world: &mut World, name: &str, from: &str, how: &[&str]) -> Done {
    let (how, keep) = match how {
        [how @ .., "keeping"] => (how, true),
        how => (how, false),
    };
    let task = Task::Rebuild { from: world.host(from)?.instance.clone(), keep };
    let phase = match how {
        ["copying"] => Phase::Copying,
        ["preparing"] => Phase::Preparing,
        ["ready"] => Phase::Ready,
        ["exchanging"] => Phase::Exchanging,
        ["exchanged"] => Phase::Exchanged,
        ["failed", why @ ..] => Phase::Failed { why: why.join(" ") },
        ["forgotten"] => {
            world.host(name)?.job = None;
            return Ok(());
        }
        _ => {
            return Err(
                "copying, preparing, ready, exchanging, exchanged, failed WHY or forgotten".to_owned()
            );
        }
    };
    let instance = world.host(name)?.instance.clone();
    if phase == Phase::Copying {
        world.intents.note_rebuild(&instance);
    }
    let age = Duration::from_secs(90);
    world.host(name)?.job = Some(Job { task, phase, age, done: 5 << 20, total: Some(9 << 20) });
    Ok(())
}

/// `operator asks rejoin db1 flashback`, `operator asks rejoin db3 rebuild db1`, `operator asks rejoin db3 auto`: as policy says
pub(crate) fn asks(world: &mut World, words: &[&str]) -> Done {
    let (name, how, from) = match words {
        [name, how] => (name, how, None),
        [name, how, from] => (name, how, Some(world.host(from)?.instance.clone())),
        _ => return Err("rejoin HOST HOW [FROM]".to_owned()),
    };
    let remedy = match *how {
        "auto" => None,
        "flashback" => Some(Remedy::Flashback),
        "park" => Some(Remedy::Park),
        "rebuild" => Some(Remedy::Rebuild),
        _ => return Err("auto, flashback, park or rebuild".to_owned()),
    };
    let instance = world.host(name)?.instance.clone();
    let record = world.view.record.as_mut().ok_or("not adopted")?;
    record.parked.retain(|parked| parked.instance != instance);
    record.wishes.bring_back(&instance, remedy, from.as_ref());
    world.intents.forget_rebuilds(&instance);
    Ok(())
}

/// `operator asks unpark db3`
pub(crate) fn asks_unpark(world: &mut World, instance: InstanceId) -> Done {
    let no = rejoin::not_parked(&world.view, &instance);
    if no.is_none() {
        world.view.trust_rows(&instance);
    }
    world.answer = Some(no.unwrap_or_else(|| "given back".to_owned()));
    Ok(())
}

/// `operator asks about db3`, `operator asks about db3 rebuild db9`: what would be done, as the manager's loop asks for it.
pub(crate) fn asks_about(world: &mut World, instance: InstanceId, words: &[&str]) -> Done {
    let mut view = world.view.clone();
    if let (["rebuild", rest @ ..], Some(record)) = (words, &mut view.record) {
        let from = rest.first().map(|name| name.parse::<InstanceId>().map_err(|error| error.to_string()));
        record.wishes.bring_back(&instance, Some(Remedy::Rebuild), from.transpose()?.as_ref());
    }
    let next = rejoin::about(&view, &world.intents, &instance, world.now);
    world.answer = Some(next.map_or_else(|why| why.to_string(), |plan| plan.title));
    Ok(())
}

/// `operator asks what db3 waits for`: a rebuild that has still to begin, as `mhactl status` tells it.
pub(crate) fn asks_what_waits(world: &mut World, instance: InstanceId) -> Done {
    let why = rejoin::waits(&world.view, &world.intents, &instance, world.now);
    world.answer = Some(why.unwrap_or_else(|| "nothing".to_owned()));
    Ok(())
}

/// `doubted db1`: what only it has may have been acknowledged.
pub(crate) fn doubted(world: &mut World, name: &str) -> Done {
    let instance = world.host(name)?.instance.clone();
    world.view.record.as_mut().ok_or("not adopted")?.doubted.push(instance);
    Ok(())
}
