//! Scheduled events in SQL: read, enabled, their scheduler switched. Both families take the same statements and call what replication
//! set aside by words of their own. `ALTER EVENT` keeps schedule, body, mode and dates of an event, and its definer where that is named.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

use super::client::{Answer, Connection};
use super::control::ControlError;
use super::dialect::{identifier, literal};
use super::fault::ClientError;
use super::record::Record;
use crate::model::events::{Scheduler, ServerEvents};
use crate::model::observation::Unseen;

/// Starts a server with no scheduled event running, whatever its configuration says: on MariaDB those of a privileged definer write to a
/// read-only server.
pub const START_WITHOUT: &str = "--event-scheduler=OFF";

/// More events than this are not looked at; [`EVENTS`] asks for no more.
const MOST: usize = 10_000;

/// `due`: it has something left to do. A time zone nobody knows here counts as over: enabling what is over is an error.
const EVENTS: &str = "SELECT @@global.event_scheduler AS scheduler; \
     SELECT EVENT_SCHEMA AS in_schema, EVENT_NAME AS name, DEFINER AS definer, STATUS AS status, \
     COALESCE(EXECUTE_AT, ENDS) IS NULL \
     OR COALESCE(CONVERT_TZ(COALESCE(EXECUTE_AT, ENDS), TIME_ZONE, @@session.time_zone) > NOW(), 0) AS due \
     FROM information_schema.EVENTS LIMIT 10000; SHOW GLOBAL STATUS LIKE 'Uptime'";

/// `ER_EVENT_DOES_NOT_EXIST`: dropped meanwhile.
const NO_SUCH_EVENT: u16 = 1539;

/// One event as the server lists it.
struct Event {
    schema: String,
    name: String,
    definer: String,
    status: Status,
}

enum Status {
    Enabled,
    Disabled,
    /// `SLAVESIDE_DISABLED`, `REPLICA_SIDE_DISABLED`.
    Aside,
    /// The same, and its time is over.
    Over,
}

impl Event {
    fn of(row: &Record) -> Self {
        let status = match row.text_or_empty("status") {
            "ENABLED" => Status::Enabled,
            "DISABLED" => Status::Disabled,
            _ if row.switch("due") == Some(false) => Status::Over,
            _ => Status::Aside,
        };
        let text = |name| row.text_or_empty(name).to_owned();
        Self { schema: text("in_schema"), name: text("name"), definer: text("definer"), status }
    }

    fn called(&self) -> String {
        format!("{}.{}", self.schema, self.name)
    }

    /// Whoever alters an event without naming its definer becomes that.
    fn enable(&self) -> String {
        let definer = match self.definer.rsplit_once('@') {
            Some((user, host)) => format!("{}@{}", literal(user), literal(host)),
            None => identifier(&self.definer),
        };
        let (schema, name) = (identifier(&self.schema), identifier(&self.name));
        format!("ALTER DEFINER={definer} EVENT {schema}.{name} ENABLE")
    }
}

/// What the server says of its events, as far as the account may see them. May wait behind a change of an event: for a connection of
/// its own.
///
/// # Errors
/// How it failed by `deadline`.
pub async fn read(conn: &mut Connection, deadline: Instant) -> Result<ServerEvents, ClientError> {
    let (scheduler, uptime, events) = list(conn, deadline).await?;
    Ok(sorted(scheduler, uptime, &events))
}

async fn list(
    conn: &mut Connection,
    deadline: Instant,
) -> Result<(Scheduler, Duration, Vec<Event>), ClientError> {
    let Answer { sets, error } = conn.batch(EVENTS, deadline).await;
    if let Some(error) = error {
        return Err(error);
    }
    let [switch, rows, uptime] = sets.as_slice() else {
        return Err(conn.failed(Unseen::Looker("its events were not understood: too few answers".to_owned())));
    };
    if rows.len() >= MOST {
        return Err(conn.failed(Unseen::Looker(format!("it has {MOST} events or more"))));
    }
    let scheduler = scheduler(switch.first().map_or("", |row| row.text_or_empty("scheduler")));
    let uptime = uptime.first().and_then(|row| row.at(1)?.parse().ok()).unwrap_or(0);
    Ok((scheduler, Duration::from_secs(uptime), rows.iter().map(Event::of).collect()))
}

fn scheduler(text: &str) -> Scheduler {
    match text {
        "ON" | "1" => Scheduler::On,
        "DISABLED" => Scheduler::Disabled,
        _ => Scheduler::Off,
    }
}

fn sorted(scheduler: Scheduler, uptime: Duration, events: &[Event]) -> ServerEvents {
    let mut all = ServerEvents {
        scheduler,
        uptime,
        enabled: BTreeSet::new(),
        disabled: BTreeSet::new(),
        aside: BTreeSet::new(),
    };
    for event in events {
        match event.status {
            Status::Enabled => all.enabled.insert(event.called()),
            Status::Disabled => all.disabled.insert(event.called()),
            Status::Aside => all.aside.insert(event.called()),
            Status::Over => false,
        };
    }
    all
}

/// Switches the scheduler off; an event that runs goes on to its end.
///
/// # Errors
/// How it failed by `deadline`.
pub async fn stop(conn: &mut Connection, deadline: Instant) -> Result<(), ClientError> {
    conn.query("SET GLOBAL event_scheduler=OFF", deadline).await.map(|_| ())
}

/// With `enable` what replication set aside is enabled, but for those named; then the scheduler is as wanted. Enabling is logged: the
/// replicas, and an old primary when it follows, set those events aside by it. One that cannot be enabled keeps no other from it.
///
/// # Errors
/// The first refusal, or no answer by `deadline`; that the scheduler was disabled at the server's start.
pub(super) async fn settle(
    conn: &mut Connection,
    wanted: bool,
    enable: Option<&BTreeSet<String>>,
    deadline: Instant,
) -> Result<(), ControlError> {
    let (scheduler, _, events) = list(conn, deadline).await?;
    if !wanted && scheduler == Scheduler::On {
        stop(conn, deadline).await?;
    }
    let mut refused = None;
    let aside = |event: &&Event| matches!(event.status, Status::Aside);
    let idle = |event: &&Event| enable.is_none_or(|idle| idle.contains(&event.called()));
    for event in events.iter().filter(aside).filter(|event| !idle(event)) {
        match conn.query(&event.enable(), deadline).await {
            Ok(_) => {}
            Err(error) if error.code == Some(NO_SUCH_EVENT) => {}
            Err(error) if error.code.is_some() && conn.is_open() => {
                refused.get_or_insert(error);
            }
            Err(error) => return Err(error.into()),
        }
    }
    if wanted && scheduler == Scheduler::Disabled {
        let what =
            "its event_scheduler is DISABLED; write event_scheduler=OFF in its configuration, and restart it";
        return Err(ControlError::Unsupported { server: conn.target().to_string(), what: what.to_owned() });
    }
    if wanted && scheduler == Scheduler::Off {
        conn.query("SET GLOBAL event_scheduler=ON", deadline).await?;
    }
    refused.map_or(Ok(()), |error| Err(error.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(family: &str) -> ServerEvents {
        let row = |name: &str, status: &str, due: &str| {
            let columns = [
                ("in_schema", "app"),
                ("name", name),
                ("definer", "o'brien@%"),
                ("status", status),
                ("due", due),
            ];
            Event::of(&Record::made(&columns))
        };
        let events = [
            row("on", "ENABLED", "1"),
            row("off", "DISABLED", "1"),
            row("aside", family, "1"),
            row("past", family, "0"),
        ];
        assert_eq!(events[0].enable(), "ALTER DEFINER='o\\'brien'@'%' EVENT `app`.`on` ENABLE");
        sorted(scheduler("ON"), Duration::ZERO, &events)
    }

    #[test]
    fn both_families_words_for_an_event_set_aside_are_known() {
        for family in ["SLAVESIDE_DISABLED", "REPLICA_SIDE_DISABLED"] {
            let events = listed(family);
            let only = |name: &str| BTreeSet::from([format!("app.{name}")]);
            assert_eq!((&events.enabled, &events.disabled), (&only("on"), &only("off")));
            assert_eq!(events.aside, only("aside"), "one whose time is over is nobody's to enable");
            assert!(events.runs());
            assert_eq!(events.missing(&only("off")).count(), 1);
            assert_eq!(events.missing(&only("aside")).count(), 0);
        }
    }

    #[test]
    fn a_scheduler_disabled_at_start_is_no_scheduler_switched_off() {
        assert_eq!(
            ["ON", "OFF", "DISABLED"].map(scheduler),
            [Scheduler::On, Scheduler::Off, Scheduler::Disabled]
        );
    }
}
