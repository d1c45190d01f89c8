//! A service address on an interface, with a lifetime the kernel ends by itself.
//!
//! The lifetime is the fallback: it has whole seconds, and the packet filter is the fence. Nobody is told of the
//! address here (see [`super::announce`]), and whether it may be taken is not asked.
//!
//! Only this address ever goes away. Linux deletes with an IPv4 address every other one of its network that it has as secondary to it,
//! also when the address ends by itself. So beside another address of its network it is added with a prefix that no other has.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::frames::Mac;
use super::netlink::{Message, NLM_F_CREATE, NLM_F_REPLACE, Netlink, NetlinkError, find_attribute};
use super::promote::{self, Promoting};

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
/// IPv4: not the first address of its network on that interface.
const IFA_F_SECONDARY: u8 = 1;
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
    #[error(
        "{vip} is not released: the kernel would delete {others} of this host with it, and could not be told to keep that ({source}); run \
         \"sysctl -w net.ipv4.conf.{}.promote_secondaries=1\"",
        .vip.interface
    )]
    OthersWouldGo { vip: Vip, others: String, source: std::io::Error },
}

/// What an announcement needs to know of an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) mac: Option<Mac>,
}

/// One address of an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    address: IpAddr,
    prefix: u8,
    /// Deleted by the kernel with the first address of its network.
    secondary: bool,
    /// How much longer it is held (whole seconds, [`Duration::MAX`] for ever).
    left: Duration,
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
        let doing = "holding the service address";
        let failed = |source| VipError::Netlink { vip: vip.clone(), doing, source };
        check_prefix(vip)?;
        let link = self.link(vip).await?;
        let entries = self.entries(vip, link.index).await?;
        let added = Vip { prefix: prefix_beside(vip, &entries), ..vip.clone() };
        let mut message = request(&added, link.index, RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE)?;
        // A network of one or two has no broadcast address; the kernel would take the address itself for it.
        if let IpAddr::V4(address) = added.address
            && added.prefix < 31
        {
            message.attribute(IFA_BROADCAST, &broadcast(address, added.prefix).octets());
        }
        let seconds = whole_seconds(valid_for).to_ne_bytes();
        // Preferred and valid lifetime, then two stamps the kernel fills in.
        message.attribute(IFA_CACHEINFO, &[seconds, seconds, [0; 4], [0; 4]].concat());
        if vip.address.is_ipv6() {
            message.attribute(IFA_FLAGS, &IFA_F_NODAD.to_ne_bytes());
        }
        self.netlink.request(&message).await.map_err(failed)?;
        // Added by somebody else, or before this host had another address of the network. It would outlast the lease.
        for other in own(vip, &entries).filter(|entry| entry.prefix != added.prefix) {
            self.remove(vip, link.index, other, &entries).await?;
        }
        Ok(())
    }

    /// Removes the address, whatever its prefix; one that is not there is already so, and so is one whose interface is gone.
    ///
    /// # Errors
    /// When the kernel refuses or is late, or would delete another address with it.
    pub async fn release(&self, vip: &Vip) -> Result<(), VipError> {
        let link = match self.link(vip).await {
            Err(VipError::NoInterface { .. }) => return Ok(()),
            other @ (Ok(_) | Err(_)) => other?,
        };
        let entries = self.entries(vip, link.index).await?;
        for entry in own(vip, &entries) {
            self.remove(vip, link.index, entry, &entries).await?;
        }
        Ok(())
    }

    /// How much longer the interface holds the address (whole seconds, [`Duration::MAX`] for ever); `None` when it does not.
    ///
    /// # Errors
    /// When the kernel refuses or is late.
    pub async fn held(&self, vip: &Vip) -> Result<Option<Duration>, VipError> {
        let link = match self.link(vip).await {
            Err(VipError::NoInterface { .. }) => return Ok(None),
            other @ (Ok(_) | Err(_)) => other?,
        };
        let entries = self.entries(vip, link.index).await?;
        Ok(own(vip, &entries).map(|entry| entry.left).max())
    }

    /// Every address of that interface and of the service address's family.
    async fn entries(&self, vip: &Vip, index: u32) -> Result<Vec<Entry>, VipError> {
        let doing = "looking for the service address";
        let failed = |source| VipError::Netlink { vip: vip.clone(), doing, source };
        let message = Message::new(RTM_GETADDR, 0, &[family(vip.address), 0, 0, 0, 0, 0, 0, 0]);
        let answers = self.netlink.dump(&message).await.map_err(failed)?;
        Ok(answers.iter().filter_map(|answer| read_entry(answer, index)).collect())
    }

    /// Removes one of the entries, and no other.
    async fn remove(&self, vip: &Vip, index: u32, entry: &Entry, entries: &[Entry]) -> Result<(), VipError> {
        let others: Vec<String> = going_with(entry, entries).map(|other| other.to_string()).collect();
        let promoting: Option<Promoting> = match others.is_empty() {
            true => None,
            false => promote::secondaries(&vip.interface).map_err(|source| VipError::OthersWouldGo {
                vip: vip.clone(),
                others: others.join(", "),
                source,
            })?,
        };
        let removed = Vip { prefix: entry.prefix, ..vip.clone() };
        let done = self.netlink.request(&request(&removed, index, RTM_DELADDR, 0)?).await;
        drop(promoting);
        match done {
            Err(error) if error.refused_with() == Some(libc::EADDRNOTAVAIL) => Ok(()),
            other @ (Ok(()) | Err(_)) => other.map_err(|source| VipError::Netlink {
                vip: vip.clone(),
                doing: "releasing the service address",
                source,
            }),
        }
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

/// The service address among these, with each of its prefixes.
fn own<'a>(vip: &Vip, entries: &'a [Entry]) -> impl Iterator<Item = &'a Entry> + use<'a> {
    let address = vip.address;
    entries.iter().filter(move |entry| entry.address == address)
}

/// With which prefix the address is added. The configured one is needed only where nothing else leads to its network.
fn prefix_beside(vip: &Vip, entries: &[Entry]) -> u8 {
    // IPv6 has an address once on an interface, and renewing it leaves its prefix. None goes away with it.
    if let (IpAddr::V6(_), Some(entry)) = (vip.address, own(vip, entries).next()) {
        return entry.prefix;
    }
    let mut others = entries.iter().filter(|entry| entry.address != vip.address);
    let near = |entry: &Entry| {
        in_one_network(vip.address, entry.address, vip.prefix)
            || in_one_network(vip.address, entry.address, entry.prefix)
    };
    if others.any(near) { most_bits(vip.address) } else { vip.prefix }
}

/// Who is deleted with that address unless the kernel is told otherwise: the secondary ones of its network, if it is the first.
fn going_with<'a>(entry: &Entry, entries: &'a [Entry]) -> impl Iterator<Item = IpAddr> + use<'a> {
    let Entry { address, prefix, secondary, .. } = *entry;
    let follows = move |other: &&Entry| {
        let same = other.prefix == prefix && in_one_network(other.address, address, prefix);
        address.is_ipv4() && !secondary && other.secondary && other.address != address && same
    };
    entries.iter().filter(follows).map(|other| other.address)
}

fn in_one_network(one: IpAddr, other: IpAddr, prefix: u8) -> bool {
    let bits = |address: IpAddr| match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    };
    let host = u32::from(most_bits(one).saturating_sub(prefix));
    one.is_ipv4() == other.is_ipv4() && (bits(one) ^ bits(other)).checked_shr(host).unwrap_or(0) == 0
}

fn most_bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn check_prefix(vip: &Vip) -> Result<(), VipError> {
    let most = most_bits(vip.address);
    if vip.prefix > most { Err(VipError::Prefix { vip: vip.clone(), most }) } else { Ok(()) }
}

fn request(vip: &Vip, index: u32, kind: u16, flags: u16) -> Result<Message, VipError> {
    check_prefix(vip)?;
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

fn read_entry(answer: &[u8], index: u32) -> Option<Entry> {
    let (prefix, flags) = (*answer.get(1)?, *answer.get(2)?);
    let on = u32::from_ne_bytes(*answer.get(4..)?.first_chunk()?);
    let body = answer.get(IFADDRMSG..)?;
    let address = find_attribute(body, IFA_LOCAL).or_else(|| find_attribute(body, IFA_ADDRESS))?;
    let address = match address.len() {
        4 => IpAddr::from(*address.first_chunk::<4>()?),
        _ => IpAddr::from(*address.first_chunk::<16>()?),
    };
    let valid = find_attribute(body, IFA_CACHEINFO).and_then(|info| info.get(4..)?.first_chunk());
    let left = match valid.map_or(FOREVER, |bytes| u32::from_ne_bytes(*bytes)) {
        FOREVER => Duration::MAX,
        seconds => Duration::from_secs(u64::from(seconds)),
    };
    (on == index).then_some(Entry { address, prefix, secondary: flags & IFA_F_SECONDARY != 0, left })
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

    fn entry(address: &str, prefix: u8, secondary: bool) -> Entry {
        Entry { address: address.parse().unwrap(), prefix, secondary, left: Duration::MAX }
    }

    #[test]
    fn beside_an_address_of_its_network_it_has_a_prefix_of_its_own() {
        let vip = |address: &str, prefix| Vip {
            address: address.parse().unwrap(),
            prefix,
            interface: "eth0".to_owned(),
        };
        let four = vip("10.0.0.100", 24);
        assert_eq!(prefix_beside(&four, &[entry("10.0.0.5", 24, false)]), 32);
        assert_eq!(prefix_beside(&four, &[entry("10.0.7.5", 16, false)]), 32, "its network leads there");
        assert_eq!(prefix_beside(&four, &[entry("10.0.7.5", 24, false)]), 24, "nothing else leads there");
        assert_eq!(prefix_beside(&four, &[entry("10.0.0.100", 24, false)]), 24);
        assert_eq!(prefix_beside(&four, &[]), 24);
        let six = vip("fd77::100", 64);
        assert_eq!(prefix_beside(&six, &[entry("fd77::1", 64, false), entry("fe80::1", 64, false)]), 128);
        assert_eq!(prefix_beside(&six, &[entry("fd77::100", 64, false), entry("fd77::1", 64, false)]), 64);
        assert_eq!(prefix_beside(&vip("10.0.0.100", 0), &[entry("192.0.2.1", 24, false)]), 32);
    }

    #[test]
    fn the_secondary_addresses_of_a_first_one_go_with_it() {
        let going = |first: &Entry, others: &[Entry]| going_with(first, others).count();
        let first = entry("10.0.0.100", 24, false);
        let second = entry("10.0.0.5", 24, true);
        assert_eq!(going(&first, &[first.clone(), second.clone(), entry("10.0.0.6", 24, true)]), 2);
        assert_eq!(going(&second, &[first.clone(), second.clone()]), 0);
        assert_eq!(going(&first, &[entry("10.0.0.5", 16, true), entry("10.0.1.5", 24, true)]), 0);
        assert_eq!(going(&entry("10.0.0.100", 32, false), &[second]), 0);
    }

    #[test]
    fn errors_name_the_address_and_the_interface() {
        let vip = Vip { address: "10.0.0.100".parse().unwrap(), prefix: 33, interface: "eth0".to_owned() };
        let text = request(&vip, 1, RTM_NEWADDR, 0).unwrap_err().to_string();
        assert!(text.contains("10.0.0.100/33 on eth0"), "{text}");
    }
}
