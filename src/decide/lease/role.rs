//! What one member's host is to its cluster, and what of that survives the agent's process.

use serde::{Deserialize, Serialize};

use crate::model::ballot::Generation;
use crate::model::time::Moment;

/// What this host is to its cluster.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "role", rename_all = "snake_case")]
pub enum Role {
    /// Not adopted: nothing is closed, nothing is held.
    #[default]
    Unmanaged,
    /// Adopted, and its host or its replicating server restarted since it was told what to be: closed until told again.
    Unknown,
    /// Open for reads without a lease.
    Replica,
    /// Holding the lease, or isolated and asking for it.
    Primary { generation: Generation },
    /// Closed by command; asks for nothing until opened.
    Fenced { generation: Generation },
    /// Another generation was accepted by voters; closed until the manager says what becomes of it.
    Deposed { generation: Generation },
}

impl Role {
    /// The highest generation this host has led or been fenced for.
    pub fn generation(self) -> Option<Generation> {
        match self {
            Self::Primary { generation } | Self::Fenced { generation } | Self::Deposed { generation } => {
                Some(generation)
            }
            Self::Unmanaged | Self::Unknown | Self::Replica => None,
        }
    }
}

/// What survives the agent's process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Kept {
    #[serde(flatten)]
    pub role: Role,
    /// Grows with each fence and each opening. An order to open carries the one its sender saw, so that an order that
    /// was on its way while a fence was answered is refused.
    pub epoch: u64,
    /// Whether the cluster's address belongs here while the lease is held.
    pub vip: bool,
}

/// What the agent found when it started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Start {
    /// The run file is of this boot, so what it says of the kernel holds.
    pub same_boot: bool,
    /// Until when the kernel was told to let clients pass, if of this boot.
    pub until: Option<Moment>,
    /// The server process runs.
    pub server_up: bool,
    /// It is the same process as before the restart.
    pub same_server: bool,
    /// The agent before was making the open server writable, and had not done so yet.
    pub resuming: bool,
}
