//! Commands of a play about a returned server's extra transactions, each with an example.

use mha::model::extra::{Remedy, Saved, Touched};

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

/// `operator asks rejoin db1 flashback`
pub(crate) fn asks(world: &mut World, words: &[&str]) -> Done {
    let [name, how] = words else { return Err("rejoin HOST HOW".to_owned()) };
    let remedy = match *how {
        "flashback" => Remedy::Flashback,
        "park" => Remedy::Park,
        _ => return Err("flashback or park".to_owned()),
    };
    let instance = world.host(name)?.instance.clone();
    if let Some(record) = &mut world.view.record {
        record.parked.retain(|parked| parked.instance != instance);
    }
    world.intents.note_remedy(&instance, Some(remedy));
    Ok(())
}

/// `doubted db1`: what only it has may have been acknowledged.
pub(crate) fn doubted(world: &mut World, name: &str) -> Done {
    let instance = world.host(name)?.instance.clone();
    world.view.record.as_mut().ok_or("not adopted")?.doubted.push(instance);
    Ok(())
}
