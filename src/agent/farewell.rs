//! The small process that a service manager runs before it stops the server or the agent (ExecStop=): it asks the agent of this
//! host, and ends when the stop may go on. It is bounded by the configuration; where no agent answers, it closes the port itself.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::client::{AgentClient, CallError, Connections};
use super::host::service::{host_is_stopping, is_restarting};
use super::wire::Stops;
use super::{AgentError, boot};
use crate::config::AgentConfig;

/// The unit of the agent, as conf/mha-agent.service has it.
const AGENT_UNIT: &str = "mha-agent.service";
/// What the agent may need after its own deadline, to close the port.
const SLACK: Duration = Duration::from_secs(5);

/// An agent whose process ended is back by then, its unit restarting it at once.
const RETURNS_WITHIN: Duration = Duration::from_secs(2);
/// Between two calls to one that is away.
const AGAIN: Duration = Duration::from_millis(200);

/// Before the server is stopped: another leads, or no client is connected. Answers what was done.
///
/// # Errors
/// When neither is so.
pub async fn before_server(config: &AgentConfig) -> Result<String, AgentError> {
    let stopping = host_is_stopping().await.unwrap_or_else(|error| {
        tracing::warn!(error = %error, "taken for a stop of the server alone");
        false
    });
    let stops = if stopping { Stops::Host } else { Stops::Server };
    match ask(config, stops).await {
        Ok(done) => Ok(done),
        Err(error @ (CallError::Unreachable { .. } | CallError::Late { .. })) => {
            tracing::warn!(error = %error, "the port is closed without the agent");
            boot::close_for_stop(config).await?;
            Ok(format!("{} is closed to clients, without its agent", config.host))
        }
        Err(error) => Err(error.into()),
    }
}

/// Before the agent is stopped: another leads, unless it is started again at once. Then the kernel holds the lease meanwhile, which
/// a restart of 100 ms does not reach the end of. No long grant is taken for it: voters would hold a failover back for all of it,
/// though the agent were long back when its host dies.
///
/// # Errors
/// When the agent does not answer: clients are kept out when the lease ends.
pub async fn before_agent(config: &AgentConfig) -> Result<String, AgentError> {
    let restarts = is_restarting(AGENT_UNIT).await.unwrap_or_else(|error| {
        tracing::warn!(error = %error, "taken for a stop");
        false
    });
    if config.server.is_none() {
        return Ok("a witness stops as it is".to_owned());
    }
    if restarts {
        return Ok("started again at once: the kernel holds the lease meanwhile".to_owned());
    }
    Ok(ask(config, Stops::Agent).await?)
}

/// An agent that is started again in the middle has forgotten what it was asked: it is asked again, all within one deadline.
async fn ask(config: &AgentConfig, stops: Stops) -> Result<String, CallError> {
    let within = config.server.as_ref().map_or(Duration::ZERO, |server| server.handoff_within) + SLACK;
    let (agent, end) = (own_agent(config)?, Instant::now() + within);
    let mut away: Option<Instant> = None;
    loop {
        let asked = Instant::now();
        let error = match agent.leave(stops, end.saturating_duration_since(asked)).await {
            Ok(reply) => return Ok(reply.done),
            Err(error @ CallError::Unreachable { .. }) => error,
            Err(error) => return Err(error),
        };
        // One that had listened until now has only just gone.
        let began = away.filter(|_| asked.elapsed() < RETURNS_WITHIN).unwrap_or_else(Instant::now);
        if began.elapsed() >= RETURNS_WITHIN || Instant::now() + AGAIN >= end {
            return Err(error);
        }
        away = Some(began);
        tracing::info!(error = %error, "the agent is asked again");
        sleep(AGAIN).await;
    }
}

fn own_agent(config: &AgentConfig) -> Result<AgentClient, CallError> {
    let ip = match config.listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip @ (IpAddr::V4(_) | IpAddr::V6(_)) => ip,
    };
    let url = format!("http://{}", SocketAddr::new(ip, config.listen.port()));
    Ok(AgentClient::new(&Connections::new()?, &url, config.token.clone()))
}
