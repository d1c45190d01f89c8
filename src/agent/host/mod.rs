//! The agent's hands on one Linux host: the packet filter, the service address, the server's process and files.
//!
//! No policy lives here: each module does as it is told, within a deadline, and reads back what the kernel (or the
//! disk) then holds. Who may be told what is decided elsewhere. Everything acts in the network namespace of the
//! calling thread at the time a handle is opened.

pub mod absence;
pub mod announce;
pub mod copy;
mod diag;
pub mod disk;
mod events;
pub mod extra;
pub mod filter;
pub mod frames;
pub mod heard;
pub mod listeners;
mod netlink;
mod nft;
mod output;
pub mod process;
mod promote;
mod reset;
mod rows;
pub mod ruleset;
pub mod salvage;
pub mod service;
pub mod tail;
pub mod values;
pub mod vip;
pub mod writers;

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use tokio::io::unix::AsyncFd;
use tokio::net::ToSocketAddrs;

/// How long a name may take to resolve.
const RESOLVE_WITHIN: Duration = Duration::from_millis(300);

/// The addresses of a server; none where its name does not resolve soon. Only for what may as well be left undone.
pub async fn resolve(endpoint: impl ToSocketAddrs) -> Vec<SocketAddr> {
    resolve_within(endpoint, RESOLVE_WITHIN).await.unwrap_or_default()
}

/// The addresses of a server.
///
/// # Errors
/// Why its name does not resolve, in words.
pub async fn resolve_within(
    endpoint: impl ToSocketAddrs,
    within: Duration,
) -> Result<Vec<SocketAddr>, String> {
    match tokio::time::timeout(within, tokio::net::lookup_host(endpoint)).await {
        Ok(Ok(addresses)) => Ok(addresses.collect()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {} ms", within.as_millis())),
    }
}

/// Bytes in hexadecimal, as checksums are shown.
pub fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Waits on a descriptor of ours. Only owned ones are taken: what stays open while it is registered is what tokio's
/// safe constructor could not demand.
#[expect(
    deprecated,
    reason = "its successor is an unsafe fn; an OwnedFd upholds what that one asks of the caller"
)]
fn watch(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::new(descriptor)
}
