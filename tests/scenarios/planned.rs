//! Commands of a play about planned changes, each with an example, and what is told of them.

use std::time::Duration;

use mha::decide::switchover::{Blocked, block, handoff, promote, target_of};
use mha::model::intent::SwitchoverAsk;
use mha::model::observation::Leaving;
use mha::model::sessions::{Doing, Session, Sessions};
use mha::model::time::Moment;

use crate::host::Host;
use crate::telling::{line, show};
use crate::world::World;

type Done = Result<(), String>;

/// `operator asks switchover`, `operator asks switchover --to db3 --kill-long-transactions`
pub(crate) fn asks(world: &mut World, words: &[&str]) -> Done {
    let mut ask = SwitchoverAsk { by: "anna".to_owned(), ..SwitchoverAsk::default() };
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match *word {
            "--to" => {
                let name = words.next().ok_or("--to HOST")?;
                ask.to = Some(name.parse().map_err(|error| format!("{error}"))?);
            }
            "--kill-long-transactions" => ask.kill_long_transactions = true,
            _ => return Err(format!("{word:?} is no option")),
        }
    }
    world.asks_switchover = Some(ask);
    Ok(())
}

/// `operator asks handoff 4s`: of the primary, with so much time left.
pub(crate) fn asks_handoff(world: &mut World, within: &str) -> Done {
    let seconds = within.strip_suffix('s').and_then(|seconds| seconds.parse().ok()).ok_or("seconds")?;
    world.asks_switchover = Some(handoff(Duration::from_secs(seconds), "anna".to_owned()));
    Ok(())
}

/// `db1 session 30 transaction idle`, `db1 session 5 ddl`, `db1 session 2 waits`, `db1 session 9 locks app.t`, `db1 session 9 ftwrl`,
/// `db1 session 3 waits-for-ack`: a session that has been at it for so many seconds.
pub(crate) fn session(world: &mut World, name: &str, seconds: &str, words: &[&str]) -> Done {
    let doing = match words {
        ["transaction"] => Doing::Transaction { idle: false, rows: 7 },
        ["transaction", "idle"] => Doing::Transaction { idle: true, rows: 7 },
        ["ddl"] => Doing::ChangesSchema,
        ["waits"] => Doing::WaitsForLock("Waiting for table metadata lock".to_owned()),
        ["locks", table] => Doing::LocksTables((*table).to_owned()),
        ["ftwrl"] => Doing::LocksEverything,
        ["waits-for-ack"] => Doing::WaitsForAck,
        _ => return Err("no such session".to_owned()),
    };
    let since = Duration::from_secs(seconds.parse().map_err(|_| "seconds".to_owned())?);
    survey(world, name, |sessions| {
        let id = 40 + sessions.sessions.len() as u64;
        let (user, host) = ("app".to_owned(), "10.0.0.7".to_owned());
        sessions.sessions.push(Session { id, user, host, since, doing, text: String::new() });
    })
}

/// `db1 leaving handoff 30s`, `db1 leaving restart 60s`, `db1 leaving now`: what its service manager says. But for a handoff it
/// is closed with it.
pub(crate) fn leaving(world: &mut World, name: &str, words: &[&str]) -> Done {
    let span = |text: &&str| {
        let seconds = text.strip_suffix('s').and_then(|seconds| seconds.parse().ok());
        seconds.map(Duration::from_secs).ok_or("a span such as 30s".to_owned())
    };
    let leaving = match words {
        ["handoff", within] => Leaving::Handoff { remaining: span(within)? },
        ["restart", within] => Leaving::Restart { remaining: span(within)? },
        ["now"] => Leaving::Now,
        _ => return Err("handoff SPAN, restart SPAN or now".to_owned()),
    };
    let now = world.now;
    let host = world.host(name)?;
    host.leaving = Some((leaving, now));
    host.closed |= !matches!(leaving, Leaving::Handoff { .. });
    Ok(())
}

/// The same, as its agent says it at `now`.
pub(crate) fn leaving_at(host: &Host, now: Moment) -> Option<Leaving> {
    let (leaving, since) = host.leaving?;
    let left = |remaining: Duration| remaining.saturating_sub(now.since(since));
    Some(match leaving {
        Leaving::Handoff { remaining } => Leaving::Handoff { remaining: left(remaining) },
        Leaving::Restart { remaining } => Leaving::Restart { remaining: left(remaining) },
        Leaving::Now => Leaving::Now,
    })
}

/// `db2 has no replication account`
pub(crate) fn no_replication_account(world: &mut World, name: &str) -> Done {
    survey(world, name, |sessions| sessions.replication_account = Some(false))
}

/// `db2 binlog only app`
pub(crate) fn binlog_filter(world: &mut World, name: &str, filter: &str) -> Done {
    survey(world, name, |sessions| sessions.binlog_filter = Some(filter.to_owned()))
}

fn survey(world: &mut World, name: &str, change: impl FnOnce(&mut Sessions)) -> Done {
    let instance = world.host(name)?.instance.clone();
    if let Ok(sessions) = world.surveys.entry(instance).or_insert_with(|| Ok(Sessions::default())) {
        change(sessions);
    }
    Ok(())
}

/// The first plan and, if nothing more is written, the second; or everything in the way.
pub(crate) fn tell(world: &World, ask: &SwitchoverAsk, name: &str) -> String {
    let mut out = String::new();
    let plan = match block(&world.view, ask, &world.surveys, world.now) {
        Ok(plan) => plan,
        Err(obstacles) => {
            obstacles.iter().for_each(|why| line(&mut out, "in the way: ", &why.to_string()));
            return out;
        }
    };
    show(&mut out, &plan, name);
    for step in plan.stages.iter().rev().flat_map(|stage| &stage.undo) {
        line(&mut out, "  undo: ", &step.to_string());
    }
    let blocked = target_of(&plan)
        .and_then(|target| Blocked::supposed(&world.view, &target))
        .expect("a primary that answers")
        .after(&plan);
    line(&mut out, "if nothing more is written:", "");
    match promote(&world.view, &blocked) {
        Ok(plan) => {
            show(&mut out, &plan, name);
            for step in plan.stages.iter().rev().flat_map(|stage| &stage.undo) {
                line(&mut out, "  undo: ", &step.to_string());
            }
        }
        Err(obstacles) => obstacles.iter().for_each(|why| line(&mut out, "refused: ", &why.to_string())),
    }
    out
}
