//! What the handlers share. Holds no truth of its own: boards, the store, and two counters.

use std::collections::BTreeMap;
use std::sync::Mutex;

use secrecy::SecretString;
use tokio_util::sync::CancellationToken;

use super::auth::Denials;
use super::error::ApiError;
use super::metrics::Tally;
use crate::clock;
use crate::manager::handle::ClusterHandle;
use crate::model::cluster::ClusterName;
use crate::model::time::Moment;
use crate::store::Store;

/// The clusters served, and what opens them.
#[derive(Debug)]
pub struct ApiState {
    pub(super) clusters: BTreeMap<ClusterName, ClusterHandle>,
    pub(super) store: Store,
    /// `None` only where the service listens on a loopback address.
    pub(super) token: Option<SecretString>,
    pub(super) stop: CancellationToken,
    pub(super) started: Moment,
    pub(super) denials: Mutex<Denials>,
    /// Recoveries counted so far, by cluster.
    pub(super) tallies: Mutex<BTreeMap<ClusterName, Tally>>,
}

impl ApiState {
    /// `token` may be absent only where the service listens on a loopback address. `stop` ends `serve` and its streams.
    pub fn new(
        clusters: impl IntoIterator<Item = ClusterHandle>,
        store: Store,
        token: Option<SecretString>,
        stop: CancellationToken,
    ) -> Self {
        Self {
            clusters: clusters.into_iter().map(|handle| (handle.name.clone(), handle)).collect(),
            store,
            token,
            stop,
            started: clock::now(),
            denials: Mutex::default(),
            tallies: Mutex::default(),
        }
    }

    pub(super) fn cluster(&self, name: &str) -> Result<&ClusterHandle, ApiError> {
        self.clusters.get(&ClusterName(name.to_owned())).ok_or_else(|| {
            let names: Vec<&str> = self.clusters.keys().map(|name| name.0.as_str()).collect();
            ApiError::unknown_cluster(name, &names)
        })
    }
}
