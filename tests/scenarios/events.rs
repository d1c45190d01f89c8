//! Commands of a play about scheduled events, each with an example.

use std::collections::BTreeSet;

use mha::decide::events::learn;
use mha::model::events::{EventsPolicy, Scheduler, ServerEvents};

use crate::commands::{Done, instance};
use crate::world::World;

/// `policy events leave`
pub(crate) fn leave(world: &mut World) -> Done {
    world.view.cluster.policy.events = EventsPolicy::Leave;
    Ok(())
}

/// `db1 events on, enabled app.a app.b, disabled app.c, aside app.d`: what it says of them now. The scheduler is `on`, `off` or
/// `disabled-at-start`.
pub(crate) fn said(world: &mut World, name: &str, words: &[&str]) -> Done {
    let text = words.join(" ");
    let mut parts = text.split(", ");
    let scheduler = match parts.next() {
        Some("on") => Scheduler::On,
        Some("off") => Scheduler::Off,
        Some("disabled-at-start") => Scheduler::Disabled,
        _ => return Err("on, off or disabled-at-start".to_owned()),
    };
    let uptime = world.now.since(world.host(name)?.started_at);
    let (enabled, disabled, aside) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let mut events = ServerEvents { scheduler, uptime, enabled, disabled, aside };
    for part in parts {
        let (state, names) = part.split_once(' ').ok_or("write \"enabled app.a app.b\"")?;
        let names = names.split(' ').map(ToOwned::to_owned);
        match state {
            "enabled" => events.enabled.extend(names),
            "disabled" => events.disabled.extend(names),
            "aside" => events.aside.extend(names),
            _ => return Err("enabled, disabled or aside".to_owned()),
        }
    }
    let of = instance(name)?;
    world.view.record_events(&of, world.now, events);
    Ok(())
}

/// `events are learned`: as the manager does before each decision.
pub(crate) fn learned(world: &mut World) -> Done {
    let lesson = learn(&world.view, &world.intents).ok_or("there is nothing to learn from")?;
    let record = world.view.record.as_mut().ok_or("not adopted")?;
    if let Some(at) = lesson.settled {
        world.intents.events_settled = Some((record.primary.clone(), at));
    }
    record.events = lesson.wanted.or(record.events.take());
    Ok(())
}
