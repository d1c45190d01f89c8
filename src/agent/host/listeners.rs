//! Which TCP ports a process listens on, as the kernel has it: what an operator forgot to write down is found all the same
//! (`extra_port`, `admin_port`, the X protocol). It changes nothing.

use std::collections::BTreeSet;

use super::diag::{Diag, Listener};
use super::netlink::NetlinkError;
use super::process::{self, Process, ProcessError};

/// Why the ports are not known.
#[derive(Debug, thiserror::Error)]
pub enum ListenersError {
    #[error("asking the kernel who listens: {0}")]
    Netlink(#[from] NetlinkError),
    #[error("asking which sockets the server has: {0}")]
    Process(#[from] ProcessError),
}

/// Asks again and again at little cost: the process's own descriptors are read only when something in this network namespace
/// began or ceased to listen.
#[derive(Debug)]
pub struct Listeners {
    diag: Diag,
    last: Option<(Process, Vec<Listener>, BTreeSet<u16>)>,
}

impl Listeners {
    /// In the calling thread's network namespace.
    ///
    /// # Errors
    /// When the kernel gives no socket.
    pub fn open() -> Result<Self, ListenersError> {
        Ok(Self { diag: Diag::open()?, last: None })
    }

    /// The ports `process` listens on, on any address.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub async fn ports_of(&mut self, process: &Process) -> Result<BTreeSet<u16>, ListenersError> {
        let all = self.diag.listeners().await?;
        if let Some((known, listeners, ports)) = &self.last
            && known == process
            && *listeners == all
        {
            return Ok(ports.clone());
        }
        let own = process::sockets_of(process).await?;
        let ports: BTreeSet<u16> = all
            .iter()
            .filter(|listener| own.contains(&listener.inode))
            .map(|listener| listener.port)
            .collect();
        self.last = Some((process.clone(), all, ports.clone()));
        Ok(ports)
    }
}
