//! Sources that receivers of this host are kept from: their packets are reset until a receiver is to follow them again. Which addresses a
//! name had when it was blocked is remembered, so that a block ends though the name does not resolve then, or leads elsewhere.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::PoisonError;
use std::time::Duration;

use super::hands::Hands;
use super::host::filter::FilterError;
use super::host::resolve_within;
use crate::model::instance::InstanceId;

/// Why a source may be blocked still.
#[derive(Debug, thiserror::Error)]
pub enum UnblockError {
    #[error(transparent)]
    Filter(#[from] FilterError),
    #[error(
        "receivers of this host may still be kept from {source_id}: its name does not resolve ({why}), and the packet filter blocks {blocked}; mend \
         the name resolution of this host, or give the member by its address"
    )]
    Name { source_id: InstanceId, why: String, blocked: String },
}

impl Hands {
    /// Resets packets to these addresses of `source` and from them.
    ///
    /// # Errors
    /// When the kernel refuses; some may be blocked then.
    pub async fn block_source(
        &self,
        source: &InstanceId,
        addresses: &[SocketAddr],
    ) -> Result<(), FilterError> {
        let filter = self.filter().await?;
        {
            let mut blocked = self.blocked.lock().unwrap_or_else(PoisonError::into_inner);
            blocked.entry(source.clone()).or_default().extend(addresses);
        }
        for address in addresses {
            filter.block(*address).await?;
        }
        Ok(())
    }

    /// Takes that back: afterwards no address that `source` has, or had when it was blocked, is blocked.
    ///
    /// # Errors
    /// When the kernel refuses, or it cannot be told which of the blocked addresses is meant.
    pub async fn unblock_source(&self, source: &InstanceId, within: Duration) -> Result<(), UnblockError> {
        let filter = self.filter().await?;
        let blocked = filter.blocked().await?;
        // Who has this source's port may be it under an address that it does not have any more.
        let suspects: Vec<&SocketAddr> =
            blocked.iter().filter(|address| address.port() == source.port).collect();
        if suspects.is_empty() {
            return Ok(filter.read_back().await.map(drop)?);
        }
        let known = self.blocked.lock().unwrap_or_else(PoisonError::into_inner).get(source).cloned();
        let mut addresses: BTreeSet<SocketAddr> = known.unwrap_or_default();
        match resolve_within((source.host.as_str(), source.port), within).await {
            Ok(found) => addresses.extend(found),
            Err(why) if addresses.is_empty() => {
                let blocked: Vec<String> = suspects.iter().map(ToString::to_string).collect();
                let (source_id, blocked) = (source.clone(), blocked.join(", "));
                return Err(UnblockError::Name { source_id, why, blocked });
            }
            Err(why) => tracing::warn!(%source, why, "the addresses that it had are unblocked"),
        }
        for address in addresses {
            filter.unblock(address).await?;
        }
        self.blocked.lock().unwrap_or_else(PoisonError::into_inner).remove(source);
        Ok(())
    }
}
