//! Tells the neighbours where a service address is now (gratuitous ARP, unsolicited neighbour advertisement), and asks
//! them whether somebody has it (ARP probe, neighbour solicitation).
//!
//! The sending socket is opened once and kept: an announcement is on the critical path of a failover, opening is not.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, Socket, Type};
use tokio::io::unix::AsyncFd;

use super::frames::{self, Mac};
use super::vip::{Addresses, Link, Vip, VipError};

/// A probe is repeated this often while its answer is awaited.
const PROBE_EVERY: Duration = Duration::from_millis(100);

/// Why neighbours could not be told or asked.
#[derive(Debug, thiserror::Error)]
pub enum AnnounceError {
    #[error(transparent)]
    Link(#[from] VipError),
    #[error("{vip}: interface has no Ethernet address to announce")]
    NoMac { vip: Vip },
    #[error("{doing} {vip}: {source}; packet sockets need root (CAP_NET_RAW)")]
    Socket { vip: Vip, doing: &'static str, source: io::Error },
}

/// Announces one service address on one interface.
#[derive(Debug)]
pub struct Announcer {
    vip: Vip,
    socket: Socket,
    frames: Vec<Vec<u8>>,
}

impl Announcer {
    /// Finds the interface and opens the sending socket. Open it anew when the interface was replaced.
    ///
    /// # Errors
    /// When the interface is not there, is no Ethernet, or the kernel gives no packet socket.
    pub async fn open(addresses: &Addresses, vip: &Vip) -> Result<Self, AnnounceError> {
        let link = addresses.link(vip).await?;
        let mac = link.mac.ok_or_else(|| AnnounceError::NoMac { vip: vip.clone() })?;
        let socket =
            packet_socket(&link, 0).map_err(|source| failed(vip, "opening a packet socket for", source))?;
        let frames = match vip.address {
            IpAddr::V4(address) => vec![
                frames::arp(frames::ARP_REQUEST, mac, address, [0; 6], address),
                frames::arp(frames::ARP_REPLY, mac, address, frames::BROADCAST, address),
            ],
            IpAddr::V6(address) => vec![frames::advertisement(mac, address)],
        };
        Ok(Self { vip: vip.clone(), socket, frames })
    }

    /// Sends the announcement once. Repeat it: a neighbour may miss one.
    ///
    /// # Errors
    /// When the interface is down or gone.
    pub fn announce(&self) -> Result<(), AnnounceError> {
        for frame in &self.frames {
            self.socket.send(frame).map_err(|source| failed(&self.vip, "announcing", source))?;
        }
        Ok(())
    }
}

/// Asks for `wait` who has the address; the hardware address of the first other host that does, at once.
///
/// # Errors
/// When the interface is not there or down, is no Ethernet, or the kernel gives no packet socket.
pub async fn probe(addresses: &Addresses, vip: &Vip, wait: Duration) -> Result<Option<Mac>, AnnounceError> {
    let link = addresses.link(vip).await?;
    let mac = link.mac.ok_or_else(|| AnnounceError::NoMac { vip: vip.clone() })?;
    let (protocol, question) = match vip.address {
        IpAddr::V4(address) => {
            let nobody = Ipv4Addr::UNSPECIFIED;
            (libc::ETH_P_ARP, frames::arp(frames::ARP_REQUEST, mac, nobody, [0; 6], address))
        }
        IpAddr::V6(address) => (libc::ETH_P_IPV6, frames::solicitation(mac, Ipv6Addr::UNSPECIFIED, address)),
    };
    let doing = "probing for";
    let socket = packet_socket(&link, protocol as u16).map_err(|source| failed(vip, doing, source))?;
    let socket = super::watch(socket.into()).map_err(|source| failed(vip, doing, source))?;
    let ask = async {
        let mut every = tokio::time::interval(PROBE_EVERY);
        loop {
            tokio::select! {
                _ = every.tick() => { rustix::io::write(socket.get_ref(), &question)?; }
                found = answer(&socket, vip.address, mac) => return found,
            }
        }
    };
    match tokio::time::timeout(wait, ask).await {
        Err(_) => Ok(None),
        Ok(found) => found.map(Some).map_err(|source| failed(vip, doing, source)),
    }
}

/// The next host other than ours that says it has `address`.
async fn answer(socket: &AsyncFd<OwnedFd>, address: IpAddr, own: Mac) -> io::Result<Mac> {
    let mut frame = [0_u8; 256];
    loop {
        let mut ready = socket.readable().await?;
        let Ok(length) = ready.try_io(|socket| Ok(rustix::io::read(socket.get_ref(), &mut frame)?)) else {
            continue;
        };
        // A frame longer than the buffer is cut by the kernel; what is looked for is short.
        if let Some(holder) = frames::claimant(&frame[..length?], address).filter(|holder| *holder != own) {
            return Ok(holder);
        }
    }
}

fn failed(vip: &Vip, doing: &'static str, source: io::Error) -> AnnounceError {
    AnnounceError::Socket { vip: vip.clone(), doing, source }
}

/// A packet socket on one interface that receives `protocol` (an Ethernet type; 0 receives nothing).
fn packet_socket(link: &Link, protocol: u16) -> io::Result<Socket> {
    // Protocol 0 until bound: otherwise frames of every interface are received in between.
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(0)))?;
    socket.set_nonblocking(true)?;
    socket.bind(&link_address(link.index, protocol)?)?;
    Ok(socket)
}

#[expect(unsafe_code, reason = "neither socket2 nor rustix can build the address of a packet socket")]
fn link_address(index: u32, protocol: u16) -> io::Result<SockAddr> {
    let mut storage = SockAddrStorage::zeroed();
    let index = i32::try_from(index).map_err(io::Error::other)?;
    // SAFETY: `sockaddr_ll` is a socket address of this platform, made of integers, and fits (checked by `view_as`).
    let address = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = protocol.to_be();
    address.sll_ifindex = index;
    // SAFETY: the storage holds a `sockaddr_ll`, and all of its bytes are initialised (zeroed, then filled).
    Ok(unsafe { SockAddr::new(storage, size_of::<libc::sockaddr_ll>() as libc::socklen_t) })
}
