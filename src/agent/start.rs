//! Starting a dead server: fenced, read-only, replicating nothing.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;

use super::error_log::ErrorLog;
use super::hands::Hands;
use super::host::process::{Find, ProcessState, Watch, find};
use super::host::service::Service;
use super::host::writers::{Writer, writer};
use super::lease_loop::OrderError;
use super::ports;
use super::sql::{connect_admin, fresh_report};
use super::state::{ServerProcess, Shared};
use super::steps;
use super::watch::ways;
use crate::config;
use crate::decide::lease::holder::{Input, Role};
use crate::model::events::EventsPolicy;
use crate::model::instance::{Flavor, Version};
use crate::model::observation::Access;
use crate::model::report::Report;
use crate::mysql::control;
use crate::mysql::dialect::Dialect;
use crate::mysql::events;

/// Between two looks whether it answers.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// MariaDB's recovery does not start where something that cannot be rolled back, such as a row of a MyISAM table, follows what it would drop.
const TAIL_MUST_STAY: &str = "Cannot truncate the binary log";

/// As what a server is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StartAs {
    /// It may lead again by itself.
    Primary,
    Replica,
    /// MariaDB's recovery drops what the engine had not made durable ([`crate::decide::plan::Step::StartServer`]).
    ReplicaWithoutTail,
}

impl StartAs {
    pub(super) fn of(as_replica: bool, drop_tail: bool) -> Self {
        match (as_replica, drop_tail) {
            (false, _) => Self::Primary,
            (true, false) => Self::Replica,
            (true, true) => Self::ReplicaWithoutTail,
        }
    }
}

/// Starts the server, if it does not run, and waits until it answers.
///
/// # Errors
/// Why it does not run, in words.
pub(super) async fn server(shared: &Shared, start_as: StartAs, deadline: Instant) -> Result<(), String> {
    let mut started = started(shared, start_as, deadline).await;
    let kept = |why: &String| start_as == StartAs::ReplicaWithoutTail && why.contains(TAIL_MUST_STAY);
    if let Some(why) = started.as_ref().err().filter(|why| kept(why)) {
        tracing::warn!(why, "started once more, with the end of its log kept");
        started = self::started(shared, StartAs::Replica, deadline).await;
    }
    shared.seen().start_failed = started.as_ref().err().cloned();
    shared.announce_change();
    started
}

async fn started(shared: &Shared, start_as: StartAs, deadline: Instant) -> Result<(), String> {
    let (server, hands) = shared.server()?;
    // Asked of the kernel: its end may not have been told here yet.
    let running = match &shared.seen().process {
        ServerProcess::Running(watch) => matches!(watch.state(), ProcessState::Running { .. }),
        ServerProcess::Gone(_) | ServerProcess::Unknown(_) => false,
    };
    let output = server.service.as_ref().and_then(|service| split(service).1);
    let error_log = ErrorLog::before_start(shared, output).await;
    let started = if running {
        None
    } else {
        let service = server.service.as_ref().ok_or("agent.toml says no `service` to start the server by")?;
        close(shared, hands, start_as).await?;
        let identity = last_identity(shared);
        let (service, log) = split(service);
        let arguments = arguments(&service, start_as, identity, follow(shared));
        let find = ways(shared).pop().ok_or("a witness has no server")?;
        let ending = shared.seen().ending.clone();
        if let Some(ending) = ending {
            let gone = ending.confirm_gone(deadline.saturating_duration_since(Instant::now())).await;
            gone.map_err(|error| format!("the server that ended holds its files: {error}"))?;
        }
        let data = data_directory(shared, server);
        // Units are systemd's to start, one at a time.
        if let (Service::Command { .. }, Some(data)) = (&service, &data) {
            nobody_else(data, &find, deadline).await?;
        }
        let within = deadline.saturating_duration_since(Instant::now());
        let files = (log, data.as_deref());
        match service.start(&arguments, &find, files, within).await {
            Ok(process) => Some(process),
            // It quotes the output, which is not where the server's errors go where it has a log of its own.
            Err(error) => return Err(format!("{error}; {}", error_log.said().await)),
        }
    };
    loop {
        match fresh_report(shared, &shared.spare, deadline).await {
            Ok(report) if started.is_some() && start_as != StartAs::Primary => {
                break switch_semi_sync_off(shared, &report, deadline).await?;
            }
            Ok(_) => break,
            Err(unseen) if Instant::now() + LOOK_EVERY > deadline => {
                return Err(format!("it was started and does not answer: {unseen}"));
            }
            Err(unseen)
                if started.as_ref().is_some_and(|process| matches!(Watch::open(process), Ok(None))) =>
            {
                let said = error_log.said().await;
                return Err(format!("it was started and ended before it answered ({unseen}); {said}"));
            }
            Err(_) => tokio::time::sleep(LOOK_EVERY).await,
        }
    }
    // Told before it is answered: nobody starts it a second time because it is still called gone.
    let runs = |shared: &Shared| matches!(shared.seen().process, ServerProcess::Running(_));
    let told = steps::wait_for(shared, deadline, runs).await;
    told.map_err(|_| "it answers, and its process is not found; look at `pid_file` and `socket`".to_owned())?;
    ports::learn(shared).await
}

/// A file, or what was persisted, may switch it on at each start. A source side that is on, on a server that receives nothing, is taken for one
/// whose sessions wait: it would be killed and started again without end.
async fn switch_semi_sync_off(shared: &Shared, report: &Report, deadline: Instant) -> Result<(), String> {
    let semi_sync = &report.semi_sync;
    if !semi_sync.source_enabled && !semi_sync.replica_enabled {
        return Ok(());
    }
    tracing::warn!(
        "its configuration switches semi-sync on at the start; it is switched off until it is needed"
    );
    let mut conn = connect_admin(shared, deadline).await.map_err(|error| error.to_string())?;
    control::switch_off(&mut conn, deadline).await.map_err(|error| error.to_string())
}

/// As configured, else where it last was.
fn data_directory(shared: &Shared, server: &config::ServerConfig) -> Option<PathBuf> {
    server.data_dir.clone().or_else(|| shared.seen().data.clone())
}

/// Returns once no process writes to the data, or the server is found: a script or `mysqld_safe` may have started one a moment ago, which
/// nothing tells of yet. A second one would wait up to 100 s for the first one's files and then go on with what it read before: a
/// binary log falls out of its index, and what only that log held is rolled back.
async fn nobody_else(data: &Path, server: &Find, deadline: Instant) -> Result<(), String> {
    loop {
        if find(server).await.is_ok_and(|found| found.is_some()) {
            return Ok(());
        }
        // A directory that cannot be read is for the server itself to complain of.
        let Ok(Some(Writer { pid, name, file })) = writer(data).await else { return Ok(()) };
        if Instant::now() + LOOK_EVERY > deadline {
            return Err(format!(
                "process {pid} ({name}) writes to {}, and is not the server by `pid_file` and `socket`; a second server beside it would \
                 break the data, so none is started: end that process, or put `pid_file` and `socket` in agent.toml right",
                file.display()
            ));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// No client comes in before the server is what it is to be. A replica's start is a fence of its own, so that whoever sees it
/// idle and fenced points it; what leads and is started in place stays closed until it was compared.
async fn close(shared: &Shared, hands: &Hands, start_as: StartAs) -> Result<(), String> {
    let (role, is_member) = {
        let seen = shared.seen();
        (seen.kept.role, seen.membership.is_some())
    };
    if !is_member {
        return Ok(());
    }
    if start_as != StartAs::Primary {
        if let Role::Primary { generation } = role {
            return Err(format!(
                "this host leads generation {generation}; fence it before its server is started as a replica"
            ));
        }
        // Not for what was promised as a voter: that would read as a generation this host has led.
        let generation = role.generation().unwrap_or_default();
        return shared.order(Input::Fence { generation }).await.map_err(|error| error.to_string());
    }
    if role == Role::Unmanaged {
        return Ok(());
    }
    let access = hands.access().await.map_err(|error| error.to_string())?;
    if access != Access::Closed {
        hands.close().await.map_err(|error| OrderError::from(error).to_string())?;
    }
    Ok(())
}

fn split(service: &config::Service) -> (Service, Option<&Path>) {
    match service {
        config::Service::Unit(name) => (Service::Unit { name: name.clone() }, None),
        config::Service::Command { command, log } => {
            (Service::Command { start: command.clone(), stop: None }, Some(log))
        }
    }
}

fn last_identity(shared: &Shared) -> Option<(Flavor, Version)> {
    shared.seen().last_identity
}

/// What a program is given beside its own arguments. A unit has these in its server's configuration (checked at adoption),
/// and takes only the one that must not stay there.
fn arguments(
    service: &Service,
    start_as: StartAs,
    identity: Option<(Flavor, Version)>,
    events: EventsPolicy,
) -> Vec<String> {
    let Some((flavor, version)) = identity else { return Vec::new() };
    let dialect = Dialect::new(flavor, version);
    let standing = match service {
        Service::Command { .. } => dialect.start_closed(),
        Service::Unit { .. } => &[],
    };
    let role = (start_as == StartAs::ReplicaWithoutTail).then(|| dialect.start_without_tail()).flatten();
    // MySQL's units take no arguments, and need none: it keeps the scheduler off by itself once it was a replica, and an event that runs
    // there all the same meets super_read_only. MariaDB lets those of a privileged definer write.
    let matters = match service {
        Service::Command { .. } => true,
        Service::Unit { .. } => flavor == Flavor::MariaDb,
    };
    let events = (events == EventsPolicy::Follow && matters).then_some(events::START_WITHOUT);
    standing.iter().copied().chain(role).chain(events).map(str::to_owned).collect()
}

/// Started without its events only where a manager is known to switch them on again where they belong.
fn follow(shared: &Shared) -> EventsPolicy {
    shared.seen().membership.as_ref().map_or(EventsPolicy::Leave, |membership| membership.policy.events)
}
