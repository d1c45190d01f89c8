//! Effects on the kernel: the packet filter and the service address, as the lease's machine orders them. It repairs what was
//! flushed from under it, and never opens anything on its own account.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, RwLock};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::host::announce::Announcer;
use super::host::filter::{self, Filter, FilterError};
use super::host::vip::{Addresses, Vip, VipError};
use super::ports::Ports;
use crate::clock;
use crate::model::cluster::VipAddress;
use crate::model::instance::InstanceId;
use crate::model::observation::Access;
use crate::model::time::Moment;

/// Pauses between announcements of an address: a neighbour may miss one.
const ANNOUNCE_AFTER_MS: [u64; 8] = [20, 80, 200, 400, 800, 1_500, 3_000, 4_000];

/// How long telling the kernel may take: a part of the time by which a lease may end late.
const PROMPTLY: Duration = Duration::from_millis(100);

/// Why the kernel is not as ordered.
#[derive(Debug, thiserror::Error)]
pub enum HandsError {
    #[error(transparent)]
    Filter(#[from] FilterError),
    #[error(transparent)]
    Vip(#[from] VipError),
}

/// The filter of one server, and the addresses of its host.
#[derive(Debug)]
pub struct Hands {
    pub ports: Ports,
    /// `None` until the host is a member: an unmanaged server is never filtered.
    filter: RwLock<Option<Arc<Filter>>>,
    addresses: Addresses,
    /// Under which addresses each source is blocked ([`super::sources`]).
    pub(super) blocked: std::sync::Mutex<BTreeMap<InstanceId, BTreeSet<SocketAddr>>>,
    /// Ends the announcements of an address that this host is to lose.
    announcing: Mutex<CancellationToken>,
    tracker: TaskTracker,
    cancel: CancellationToken,
}

impl Hands {
    /// Touches nothing yet.
    ///
    /// # Errors
    /// When the kernel gives no socket.
    pub fn open(ports: Ports, tracker: TaskTracker, cancel: CancellationToken) -> Result<Self, HandsError> {
        let addresses = Addresses::open()?;
        let announcing = Mutex::new(cancel.child_token());
        Ok(Self {
            ports,
            filter: RwLock::new(None),
            addresses,
            blocked: std::sync::Mutex::default(),
            announcing,
            tracker,
            cancel,
        })
    }

    /// The filter, written anew if it is not there.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn filter(&self) -> Result<Arc<Filter>, FilterError> {
        self.filter_written(Filter::open_or_adopt).await
    }

    /// The same, for one that is to be closed: where it is not there, it is written so.
    async fn guarded_filter(&self) -> Result<Arc<Filter>, FilterError> {
        self.filter_written(Filter::open_guarded).await
    }

    async fn filter_written(
        &self,
        write: impl AsyncFnOnce(&[u16]) -> Result<Filter, FilterError>,
    ) -> Result<Arc<Filter>, FilterError> {
        if let Some(filter) = self.filter.read().await.as_ref() {
            return Ok(Arc::clone(filter));
        }
        let mut slot = self.filter.write().await;
        let filter = Arc::new(write(&self.ports.known()).await?);
        *slot = Some(Arc::clone(&filter));
        Ok(filter)
    }

    /// Closes, and proves it.
    ///
    /// # Errors
    /// When it is not proven closed, even with the filter written anew.
    pub async fn close(&self) -> Result<(), FilterError> {
        self.announcing.lock().await.cancel();
        let first = match self.guarded_filter().await {
            Ok(filter) => filter.close().await,
            Err(error) => Err(error),
        };
        match first {
            Ok(()) => Ok(()),
            Err(error) => {
                tracing::warn!(error = %error, "closing again, with the filter written anew");
                self.forget_filter().await;
                self.guarded_filter().await?.close().await
            }
        }
    }

    /// Clients pass until then.
    ///
    /// # Errors
    /// When the kernel refuses; what was held before runs out by itself.
    pub async fn hold_open(&self, until: Moment) -> Result<(), FilterError> {
        loop {
            let told = clock::now();
            let remaining = until.since(told);
            if remaining.is_zero() {
                return self.close().await;
            }
            if let Err(error) = self.filter().await?.hold(remaining).await {
                self.forget_filter().await;
                return Err(error);
            }
            // The kernel counts from when it was told. A process that stood still in between has told it too long a time.
            if clock::now().since(told) < PROMPTLY {
                return Ok(());
            }
        }
    }

    /// Clients pass without a lease.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn admit(&self) -> Result<(), FilterError> {
        let filter = self.filter().await?;
        filter.clear_spared().await?;
        filter.admit().await
    }

    /// No client passes a fence that comes later because a block before it spared its endpoint.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn spare_nobody(&self) -> Result<(), FilterError> {
        self.filter().await?.clear_spared().await
    }

    /// The address is here until then; announced when it was not here before.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn hold_vip(&self, vip: &VipAddress, until: Moment) -> Result<(), VipError> {
        let vip = host_vip(vip);
        let was_here = self.addresses.held(&vip).await?.is_some();
        let remaining = until.since(clock::now());
        if remaining.is_zero() {
            return self.addresses.release(&vip).await;
        }
        self.addresses.hold(&vip, remaining).await?;
        if !was_here {
            self.announce(vip).await;
        }
        Ok(())
    }

    /// Tells the neighbours at once, then again and again in the background. Failing is told, and is no failure: neighbours learn
    /// in time by asking.
    async fn announce(&self, vip: Vip) {
        let announcer = match Announcer::open(&self.addresses, &vip).await {
            Ok(announcer) => announcer,
            Err(error) => return tracing::warn!(%vip, error = %error, "the address is not announced"),
        };
        if let Err(error) = announcer.announce() {
            tracing::warn!(%vip, error = %error, "the address is not announced");
        }
        let cancel = self.cancel.child_token();
        std::mem::replace(&mut *self.announcing.lock().await, cancel.clone()).cancel();
        let again = async move {
            for pause in ANNOUNCE_AFTER_MS {
                tokio::time::sleep(Duration::from_millis(pause)).await;
                // Gone down meanwhile: the next holder announces for itself.
                let _ = announcer.announce();
            }
        };
        self.tracker.spawn(async move { cancel.run_until_cancelled(again).await });
    }

    /// The address is not here.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn release_vip(&self, vip: &VipAddress) -> Result<(), VipError> {
        self.announcing.lock().await.cancel();
        self.addresses.release(&host_vip(vip)).await
    }

    /// How much longer the address is here: [`Duration::MAX`] for one without an end, `None` for none.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub async fn vip_left(&self, vip: &VipAddress) -> Result<Option<Duration>, VipError> {
        self.addresses.held(&host_vip(vip)).await
    }

    /// What the kernel lets clients do.
    ///
    /// # Errors
    /// When it does not say, or the rules are not there.
    pub async fn access(&self) -> Result<Access, FilterError> {
        match self.filter().await?.read_back().await {
            Ok(filter::Access::Admitted) => Ok(Access::Admitted),
            Ok(filter::Access::Held { remaining }) => Ok(Access::Held { remaining }),
            Ok(filter::Access::Closed) => Ok(Access::Closed),
            Err(error) => {
                self.forget_filter().await;
                Err(error)
            }
        }
    }

    /// The server's ports have changed: the next use of the filter guards those known now.
    pub async fn forget_filter(&self) {
        *self.filter.write().await = None;
    }
}

fn host_vip(vip: &VipAddress) -> Vip {
    Vip { address: vip.address, prefix: vip.prefix, interface: vip.interface.clone() }
}
