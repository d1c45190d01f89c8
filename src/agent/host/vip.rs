//! A service address on an interface, with a lifetime the kernel ends by itself.
//!
//! The lifetime is the fallback: it has whole seconds, and the packet filter is the fence. Nobody is told of the
//! address here (see [`super::announce`]), and whether it may be taken is not asked.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::frames::Mac;
use super::netlink::{Message, NLM_F_CREATE, NLM_F_REPLACE, Netlink, NetlinkError, find_attribute};

/// `NETLINK_ROUTE`.
const FAMILY: i32 = 0;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
const IFADDRMSG: usize = 8;
const IFINFOMSG: usize = 16;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const IFA_CACHEINFO: u16 = 6;
const IFA_FLAGS: u16 = 8;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
/// Skip IPv6 duplicate-address detection: it takes 1.8 s, and is done by [`super::announce::probe`] where it is wanted.
const IFA_F_NODAD: u32 = 2;
const FOREVER: u32 = u32::MAX;
/// The address outlasts what it is held for by at least this: where no process is left to cut the clients' connections, what the server
/// answers after its lease still leaves as a reset (see [`super::filter`]), and only with the address that the client knows.
const OUTLASTS: Duration = Duration::from_millis(200);

/// A service address and where it belongs.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Vip {
    pub address: IpAddr,
    /// Bits of the network part.
    pub prefix: u8,
    pub interface: String,
}

impl std::fmt::Display for Vip {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{} on {}", self.address, self.prefix, self.interface)
    }
}

/// Why an address is not as it was told to be.
#[derive(Debug, thiserror::Error)]
pub enum VipError {
    #[error("the network socket of this host could not be opened: {source}")]
    Open { source: NetlinkError },
    #[error(
        "there is no interface {interface:?} on this host for the service address; check `vip.interface`"
    )]
    NoInterface { interface: String },
    #[error("{doing} {vip}: {source}; changing addresses needs root (CAP_NET_ADMIN)")]
    Netlink { vip: Vip, doing: &'static str, source: NetlinkError },
    #[error("{vip}: a prefix of an address of this family has at most {most} bits")]
    Prefix { vip: Vip, most: u8 },
}

/// What an announcement needs to know of an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) mac: Option<Mac>,
}

/// The addresses of this host.
#[derive(Debug)]
pub struct Addresses {
    netlink: Netlink,
}

impl Addresses {
    /// # Errors
    /// When the kernel gives no socket.
    pub fn open() -> Result<Self, VipError> {
        Ok(Self { netlink: Netlink::open(FAMILY).map_err(|source| VipError::Open { source })? })
    }

    /// Adds the address, or renews it, so that it ends `valid_for` and a moment (rounded up to whole seconds) from now.
    ///
    /// # Errors
    /// When the interface is not there, or the kernel refuses or is late.
    pub async fn hold(&self, vip: &Vip, valid_for: Duration) -> Result<(), VipError> {
        let link = self.link(vip).await?;
        let mut message = request(vip, link.index, RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE)?;
        if let IpAddr::V4(address) = vip.address {
            message.attribute(IFA_BROADCAST, &broadcast(address, vip.prefix).octets());
        }
        let seconds = whole_seconds(valid_for).to_ne_bytes();
        // Preferred and valid lifetime, then two stamps the kernel fills in.
        message.attribute(IFA_CACHEINFO, &[seconds, seconds, [0; 4], [0; 4]].concat());
        if vip.address.is_ipv6() {
            message.attribute(IFA_FLAGS, &IFA_F_NODAD.to_ne_bytes());
        }
        let doing = "holding the service address";
        self.netlink.request(&message).await.map_err(|source| VipError::Netlink {
            vip: vip.clone(),
            doing,
            source,
        })
    }

    /// Removes the address; one that is not there is already so, and so is one whose interface is gone.
    ///
    /// # Errors
    /// When the kernel refuses or is late.
    pub async fn release(&self, vip: &Vip) -> Result<(), VipError> {
        let link = match self.link(vip).await {
            Err(VipError::NoInterface { .. }) => return Ok(()),
            other @ (Ok(_) | Err(_)) => other?,
        };
        match self.netlink.request(&request(vip, link.index, RTM_DELADDR, 0)?).await {
            Err(error) if error.refused_with() == Some(libc::EADDRNOTAVAIL) => Ok(()),
            other @ (Ok(()) | Err(_)) => other.map_err(|source| VipError::Netlink {
                vip: vip.clone(),
                doing: "releasing the service address",
                source,
            }),
        }
    }

    /// How much longer the interface holds the address (whole seconds, [`Duration::MAX`] for ever); `None` when it does not.
    ///
    /// # Errors
    /// When the kernel refuses or is late.
    pub async fn held(&self, vip: &Vip) -> Result<Option<Duration>, VipError> {
        let doing = "looking for the service address";
        let failed = |source| VipError::Netlink { vip: vip.clone(), doing, source };
        let link = match self.link(vip).await {
            Err(VipError::NoInterface { .. }) => return Ok(None),
            other @ (Ok(_) | Err(_)) => other?,
        };
        let message = Message::new(RTM_GETADDR, 0, &[family(vip.address), 0, 0, 0, 0, 0, 0, 0]);
        let answers = self.netlink.dump(&message).await.map_err(failed)?;
        Ok(answers.iter().find_map(|answer| remaining(answer, link.index, vip)))
    }

    /// The index and hardware address of the address's interface.
    pub(super) async fn link(&self, vip: &Vip) -> Result<Link, VipError> {
        let doing = "looking for the interface of";
        let failed = |source| VipError::Netlink { vip: vip.clone(), doing, source };
        let answers =
            self.netlink.dump(&Message::new(RTM_GETLINK, 0, &[0; IFINFOMSG])).await.map_err(failed)?;
        let found = answers.iter().find_map(|answer| read_link(answer, &vip.interface));
        found.ok_or_else(|| VipError::NoInterface { interface: vip.interface.clone() })
    }
}

fn family(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => libc::AF_INET as u8,
        IpAddr::V6(_) => libc::AF_INET6 as u8,
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn request(vip: &Vip, index: u32, kind: u16, flags: u16) -> Result<Message, VipError> {
    let most = if vip.address.is_ipv4() { 32 } else { 128 };
    if vip.prefix > most {
        return Err(VipError::Prefix { vip: vip.clone(), most });
    }
    let mut fixed = vec![family(vip.address), vip.prefix, 0, 0];
    fixed.extend(index.to_ne_bytes());
    let mut message = Message::new(kind, flags, &fixed);
    message.attribute(IFA_LOCAL, &octets(vip.address));
    message.attribute(IFA_ADDRESS, &octets(vip.address));
    Ok(message)
}

fn broadcast(address: Ipv4Addr, prefix: u8) -> Ipv4Addr {
    let host = u32::MAX.checked_shr(u32::from(prefix)).unwrap_or(0);
    Ipv4Addr::from(u32::from(address) | host)
}

fn whole_seconds(span: Duration) -> u32 {
    let span = span.saturating_add(OUTLASTS);
    let seconds = span.as_secs().saturating_add(u64::from(span.subsec_nanos() > 0));
    u32::try_from(seconds).unwrap_or(FOREVER - 1).clamp(1, FOREVER - 1)
}

fn remaining(answer: &[u8], index: u32, vip: &Vip) -> Option<Duration> {
    let prefix = *answer.get(1)?;
    let on = u32::from_ne_bytes(*answer.get(4..)?.first_chunk()?);
    let body = answer.get(IFADDRMSG..)?;
    let address = find_attribute(body, IFA_LOCAL).or_else(|| find_attribute(body, IFA_ADDRESS))?;
    if on != index || prefix != vip.prefix || address != octets(vip.address) {
        return None;
    }
    let valid = find_attribute(body, IFA_CACHEINFO).and_then(|info| info.get(4..)?.first_chunk());
    match valid.map_or(FOREVER, |bytes| u32::from_ne_bytes(*bytes)) {
        FOREVER => Some(Duration::MAX),
        seconds => Some(Duration::from_secs(u64::from(seconds))),
    }
}

fn read_link(answer: &[u8], name: &str) -> Option<Link> {
    let index = u32::from_ne_bytes(*answer.get(4..)?.first_chunk()?);
    let body = answer.get(IFINFOMSG..)?;
    let found = find_attribute(body, IFLA_IFNAME)?.strip_suffix(&[0])?;
    let mac = find_attribute(body, IFLA_ADDRESS).and_then(|bytes| bytes.try_into().ok()).map(Mac);
    (found == name.as_bytes()).then_some(Link { index, mac })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes_are_rounded_up_and_never_for_ever() {
        assert_eq!(whole_seconds(Duration::from_millis(2_001)), 3);
        assert_eq!(whole_seconds(Duration::from_millis(2_800)), 3);
        assert_eq!(whole_seconds(Duration::from_secs(3)), 4, "the address outlasts the filter's lease");
        assert_eq!(whole_seconds(Duration::ZERO), 1);
        assert_eq!(whole_seconds(Duration::MAX), FOREVER - 1);
    }

    #[test]
    fn broadcast_of_any_prefix() {
        assert_eq!(broadcast(Ipv4Addr::new(10, 0, 0, 100), 24), Ipv4Addr::new(10, 0, 0, 255));
        assert_eq!(broadcast(Ipv4Addr::new(10, 0, 0, 100), 32), Ipv4Addr::new(10, 0, 0, 100));
        assert_eq!(broadcast(Ipv4Addr::new(10, 0, 0, 100), 0), Ipv4Addr::BROADCAST);
    }

    #[test]
    fn errors_name_the_address_and_the_interface() {
        let vip = Vip { address: "10.0.0.100".parse().unwrap(), prefix: 33, interface: "eth0".to_owned() };
        let text = request(&vip, 1, RTM_NEWADDR, 0).unwrap_err().to_string();
        assert!(text.contains("10.0.0.100/33 on eth0"), "{text}");
    }
}
