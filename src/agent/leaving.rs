//! Before the service manager stops something of this host it asks here, and waits for the answer. A server that leads is not
//! stopped before another leads, or before no client is connected (S5): whichever comes first. It only shows the wish; the
//! manager, which hears it in this agent's stream, does the switchover.

use std::time::Duration;

use tokio::time::Instant;

use super::host::process::ProcessState;
use super::state::{Leave, ServerProcess, Shared};
use super::steps;
use super::streams;
use super::wire::Stops;
use crate::clock;
use crate::config::OnStop;
use crate::decide::lease::LONGEST_GRANT;
use crate::decide::lease::holder::{Input, Role};
use crate::model::ballot::Generation;

/// Longest wait for a long grant: voters that have not answered by then will not.
const GRANT_WITHIN: Duration = Duration::from_secs(2);

/// Returns when it may be stopped, with what was done.
///
/// # Errors
/// Why the server cannot be closed to its clients.
pub(super) async fn leave(shared: &Shared, stops: Stops) -> Result<String, String> {
    let (server, _) = shared.server()?;
    let host = &shared.config.host;
    if !runs(shared) {
        return Ok(format!("the server of {host} does not run: nothing is to be done before"));
    }
    let restarts = server.on_stop == OnStop::PlannedRestart && stops == Stops::Server;
    let window = if restarts { server.restart_window } else { server.handoff_within };
    let leave = Leave { restarts, until: clock::now() + window, closed: false };
    let generation = match shared.seen().kept.role {
        Role::Primary { generation } => Some(generation),
        Role::Unmanaged | Role::Unknown | Role::Replica | Role::Fenced { .. } | Role::Deposed { .. } => None,
    };
    if stops == Stops::Agent && generation.is_none() {
        return Ok(format!("{host} does not lead: its agent may stop"));
    }
    shared.seen().leaving = Some(leave);
    shared.announce_change();
    let Some(generation) = generation else {
        return Ok(format!("{host} does not lead: nothing is to be handed over"));
    };
    if restarts {
        return restart(shared, window).await;
    }
    hand_over(shared, stops, generation, Instant::now() + window).await
}

fn runs(shared: &Shared) -> bool {
    // Asked of the kernel: its end may not have been told here yet.
    match &shared.seen().process {
        ServerProcess::Running(watch) => matches!(watch.state(), ProcessState::Running { .. }),
        ServerProcess::Gone(_) => false,
        ServerProcess::Unknown(_) => true,
    }
}

/// Closed as when it ends: it asks for no lease until it was started again, and then leads again by itself.
async fn restart(shared: &Shared, window: Duration) -> Result<String, String> {
    streams::spare_replicas(shared).await;
    shared.order(Input::ServerGone).await.map_err(|error| error.to_string())?;
    shared.announce_change();
    let host = &shared.config.host;
    Ok(format!(
        "{host} is closed to clients; it is waited for {} s until another takes over",
        window.as_secs()
    ))
}

async fn hand_over(
    shared: &Shared,
    stops: Stops,
    generation: Generation,
    deadline: Instant,
) -> Result<String, String> {
    let host = &shared.config.host;
    if steps::wait_for(shared, deadline, another_leads).await.is_ok() {
        if stops == Stops::Agent {
            shared.seen().leaving = None;
        }
        return Ok(format!("another leads: {host} may stop"));
    }
    if stops == Stops::Agent {
        shared.seen().leaving = None;
        return Ok(format!(
            "nobody took over from {host} in time: its clients are kept out when the lease ends"
        ));
    }
    match shared.seen().kept.role {
        // All of it is done but to tell: whoever led it is gone.
        Role::Replica | Role::Deposed { .. } => return Ok(format!("another leads: {host} may stop")),
        Role::Primary { .. } | Role::Fenced { .. } | Role::Unknown | Role::Unmanaged => {}
    }
    // A switchover that is past its block has closed it already; one that is taken back later may not open it any more.
    if let Some(leave) = &mut shared.seen().leaving {
        leave.closed = true;
    }
    streams::spare_replicas(shared).await;
    let fenced = shared.order(Input::Fence { generation }).await;
    shared.announce_change();
    fenced
        .map_err(|error| format!("nobody took over from {host} in time, and it cannot be closed: {error}"))?;
    Ok(format!(
        "nobody took over from {host} in time: it is closed to clients and stops now; a failover follows"
    ))
}

/// Told at the very end of whatever made another lead: before that the server here may still be needed, or read back.
fn another_leads(shared: &Shared) -> bool {
    let seen = shared.seen();
    let told = seen
        .membership
        .as_ref()
        .and_then(|membership| membership.primary.as_ref().map(|primary| *primary != membership.instance));
    !matches!(seen.kept.role, Role::Primary { .. }) && told == Some(true)
}

/// One long grant, so that clients pass while the agent is away. Answers for how long; zero where no lease is needed.
///
/// # Errors
/// When no majority of voters gives it.
pub(super) async fn grace(shared: &Shared) -> Result<Duration, String> {
    shared.order(Input::Grace { lasts: LONGEST_GRANT }).await.map_err(|error| error.to_string())?;
    let deadline = Instant::now() + GRANT_WITHIN;
    let mut changes = tokio::time::interval(Duration::from_millis(10));
    loop {
        let granted = {
            let seen = shared.seen();
            seen.open_until.map(|until| until.since(clock::now()))
        };
        match granted {
            Some(span) if span > LONGEST_GRANT / 2 => return Ok(span),
            // A role without a lease has nothing that could run out.
            None => return Ok(Duration::ZERO),
            Some(_) if Instant::now() > deadline => {
                return Err("no majority of voters gave the long grant; do not restart now".to_owned());
            }
            Some(_) => changes.tick().await,
        };
    }
}
