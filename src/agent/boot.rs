//! Before the database may start: a host that boots lets no client in until its agent has compared and said so. Run once per
//! boot by a unit of its own, because the server's unit and the agent's start side by side. It never opens anything.

use super::durable;
use super::host::filter::Filter;
use super::lease_loop;
use super::ports::Ports;
use super::wire::Membership;
use super::{AgentError, HandsError};
use crate::clock;
use crate::config::AgentConfig;
use crate::decide::lease::holder::{Kept, Role};

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Closed {
    /// Every known port of the server is closed, read back.
    Now { ports: Vec<u16> },
    /// Nothing: this host has no server, or no cluster took it in.
    NotOurs,
    /// Nothing: an agent has run since this boot, and the kernel holds what that one said.
    AgentWasHere,
}

/// Closes the server's ports, if this host belongs to a cluster and no agent has run since it booted.
///
/// # Errors
/// When a file is damaged or the kernel refuses: then the server should not be started.
pub async fn close(config: &AgentConfig) -> Result<Closed, AgentError> {
    let Some(server) = &config.server else { return Ok(Closed::NotOurs) };
    let membership: Option<Membership> = durable::read(&config.data_dir.join(lease_loop::MEMBERSHIP))?;
    let kept: Option<Kept> = durable::read(&config.data_dir.join(lease_loop::ROLE))?;
    if membership.is_none() || kept.is_some_and(|kept| kept.role == Role::Unmanaged) {
        return Ok(Closed::NotOurs);
    }
    let boot_id = clock::boot_id().map_err(|source| AgentError::Io {
        doing: "reading",
        what: "this boot's id".to_owned(),
        source,
    })?;
    if lease_loop::kernel_was_told(&config.run_dir, &boot_id) {
        return Ok(Closed::AgentWasHere);
    }
    Ok(Closed::Now { ports: shut(config, server.port).await? })
}

/// Closes the ports of a server that leads and is to be stopped, where its agent does not answer.
///
/// # Errors
/// When a file is damaged or the kernel refuses.
pub async fn close_for_stop(config: &AgentConfig) -> Result<Closed, AgentError> {
    let Some(server) = &config.server else { return Ok(Closed::NotOurs) };
    let kept: Option<Kept> = durable::read(&config.data_dir.join(lease_loop::ROLE))?;
    match kept.map(|kept| kept.role) {
        Some(Role::Primary { .. }) => Ok(Closed::Now { ports: shut(config, server.port).await? }),
        Some(
            Role::Unmanaged | Role::Unknown | Role::Replica | Role::Fenced { .. } | Role::Deposed { .. },
        )
        | None => Ok(Closed::NotOurs),
    }
}

async fn shut(config: &AgentConfig, port: u16) -> Result<Vec<u16>, AgentError> {
    let ports = Ports::open(port, &config.data_dir)?.known();
    let filter = Filter::open_or_adopt(&ports).await.map_err(HandsError::from)?;
    filter.close().await.map_err(HandsError::from)?;
    Ok(ports)
}
