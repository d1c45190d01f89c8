//! Scheduled events (CREATE EVENT): what a server says of its own, and which of them are to run on the primary.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::ballot::Generation;

/// Who sees to it that scheduled events run on the primary and nowhere else.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EventsPolicy {
    /// This program: they follow the primary.
    #[default]
    Follow,
    /// The operator: nothing of them is touched.
    Leave,
}

/// The server's `event_scheduler`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scheduler {
    On,
    Off,
    /// Started so: it cannot be switched on before a restart.
    Disabled,
}

/// What a server says of its events. Events are named `schema.name`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerEvents {
    pub scheduler: Scheduler,
    /// Of the server, in whole seconds.
    pub uptime: Duration,
    /// They run while the scheduler does.
    pub enabled: BTreeSet<String>,
    /// Somebody disabled them on this server.
    pub disabled: BTreeSet<String>,
    /// Set aside by replication, which does so with every event, enabled at its source or not; those with nothing left to do are left out.
    pub aside: BTreeSet<String>,
}

/// What is wanted of events on the primary, as its operator left them: learned there, for no replica knows which were enabled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventsWanted {
    /// The generation whose primary was last seen to be as wanted. A later one has to be brought there first.
    pub generation: Generation,
    /// The scheduler runs.
    pub scheduler: bool,
    /// Events that ran nowhere: they are not enabled anywhere else.
    pub idle: BTreeSet<String>,
}

impl ServerEvents {
    /// Something runs here, or does at its next time.
    pub fn runs(&self) -> bool {
        self.scheduler == Scheduler::On && !self.enabled.is_empty()
    }

    /// What runs nowhere while this server is the primary.
    pub fn idle(&self) -> BTreeSet<String> {
        self.disabled.union(&self.aside).cloned().collect()
    }

    /// What is to be enabled here yet.
    pub fn missing<'a>(&'a self, idle: &'a BTreeSet<String>) -> impl Iterator<Item = &'a String> {
        self.aside.difference(idle)
    }

    /// The scheduler is as wanted, or cannot be before a restart of the server.
    pub fn has_scheduler(&self, wanted: bool) -> bool {
        match self.scheduler {
            Scheduler::On => wanted,
            Scheduler::Off => !wanted,
            Scheduler::Disabled => true,
        }
    }
}
