//! A changed configuration, without a restart: every difference is told, what can count at once does, the rest is named as waiting for
//! a restart. Nothing is taken over while it would take a running recovery's cluster away from under it.

use std::sync::{Mutex, PoisonError};

use tokio::sync::watch;

use super::event::Event;
use super::handle::ClusterHandle;
use crate::config::{ManagerConfig, OnEvent, difference};

/// The running service, as far as it can be changed.
#[derive(Debug)]
pub struct Running {
    /// What is in force.
    config: Mutex<ManagerConfig>,
    on_event: watch::Sender<Option<OnEvent>>,
    handles: Vec<ClusterHandle>,
}

/// What a reload did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reloaded {
    /// The file says what is in force.
    Same,
    Taken {
        /// In force now.
        at_once: Vec<String>,
        /// Only after mha-manager is restarted; servers and clients do not notice that.
        after_restart: Vec<String>,
    },
    /// Nothing was taken over.
    Refused { why: String },
}

impl Running {
    pub(super) fn new(
        config: ManagerConfig,
        on_event: watch::Sender<Option<OnEvent>>,
        handles: Vec<ClusterHandle>,
    ) -> Self {
        Self { config: Mutex::new(config), on_event, handles }
    }

    /// Takes over what `new` says, as far as that goes without a restart: whom to tell, and clusters' modes.
    pub async fn reload(&self, new: &ManagerConfig) -> Reloaded {
        let old = self.config.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let all = difference(&old, new);
        if all.is_empty() {
            return Reloaded::Same;
        }
        let soon = in_force_after(&old, new);
        let after_restart = difference(&soon, new);
        if let Some(handle) = self.handles.iter().find(|handle| would_orphan(handle, &after_restart)) {
            let name = &handle.name;
            return Reloaded::Refused {
                why: format!(
                    "a recovery of {name} is running, and the new configuration changes {name}: reload when it has ended (mhactl follow {name})"
                ),
            };
        }
        for handle in &self.handles {
            let mode = |config: &ManagerConfig| {
                let found = config.clusters.iter().find(|config| config.cluster.name == handle.name);
                found.map(|config| config.cluster.mode)
            };
            if let Some(mode) = mode(&soon).filter(|wanted| Some(*wanted) != mode(&old))
                && handle.events.send(Event::Mode(mode)).await.is_err()
            {
                return Reloaded::Refused {
                    why: format!("the task of {} has ended; restart mha-manager", handle.name),
                };
            }
        }
        self.on_event.send_replace(soon.on_event.clone());
        *self.config.lock().unwrap_or_else(PoisonError::into_inner) = soon;
        let at_once = all.into_iter().filter(|line| !after_restart.contains(line)).collect();
        Reloaded::Taken { at_once, after_restart }
    }
}

/// The old configuration with what can be changed under way.
fn in_force_after(old: &ManagerConfig, new: &ManagerConfig) -> ManagerConfig {
    let mut soon = ManagerConfig { on_event: new.on_event.clone(), ..old.clone() };
    for config in &mut soon.clusters {
        if let Some(new) = new.clusters.iter().find(|new| new.cluster.name == config.cluster.name) {
            config.cluster.mode = new.cluster.mode;
        }
    }
    soon
}

/// Its recovery would be resumed by a manager that knows other members, voters or accounts than it was planned with.
fn would_orphan(handle: &ClusterHandle, after_restart: &[String]) -> bool {
    let whose = [format!("cluster {}:", handle.name), format!("cluster {},", handle.name)];
    let changed = after_restart.iter().any(|line| whose.iter().any(|whose| line.starts_with(whose.as_str())));
    changed && handle.board.borrow().recovering
}

#[cfg(test)]
#[path = "reload_tests.rs"]
mod tests;
