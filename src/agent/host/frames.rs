//! PURE. Ethernet frames that tell of an address or ask for one: ARP and IPv6 neighbour discovery, as bytes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

/// An Ethernet address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Mac(pub [u8; 6]);

impl std::fmt::Display for Mac {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

pub(super) const ARP_REQUEST: u16 = 1;
pub(super) const ARP_REPLY: u16 = 2;
pub(super) const BROADCAST: [u8; 6] = [0xff; 6];
const TYPE_ARP: [u8; 2] = [0x08, 0x06];
const TYPE_IPV6: [u8; 2] = [0x86, 0xdd];
const ICMPV6: u8 = 58;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
/// "This replaces what you knew."
const OVERRIDE: u8 = 0x20;
const SOURCE_LINK: u8 = 1;
const TARGET_LINK: u8 = 2;
const ETHERNET: usize = 14;
const IPV6: usize = 40;

/// An ARP packet to everybody, from the interface whose address is `mac`.
pub(super) fn arp(kind: u16, mac: Mac, sender: Ipv4Addr, target_mac: [u8; 6], target: Ipv4Addr) -> Vec<u8> {
    let mut frame = ethernet(BROADCAST, mac, TYPE_ARP);
    // Ethernet, IPv4, their lengths.
    frame.extend([0, 1, 8, 0, 6, 4]);
    frame.extend(kind.to_be_bytes());
    frame.extend(mac.0);
    frame.extend(sender.octets());
    frame.extend(target_mac);
    frame.extend(target.octets());
    frame
}

/// An unsolicited neighbour advertisement of `address` to all nodes.
pub(super) fn advertisement(mac: Mac, address: Ipv6Addr) -> Vec<u8> {
    let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    discovery(
        mac,
        address,
        all_nodes,
        [ADVERTISEMENT, 0, 0, 0, OVERRIDE, 0, 0, 0],
        address,
        Some(TARGET_LINK),
    )
}

/// A neighbour solicitation for `target`. From the unspecified address it is a duplicate-address probe.
pub(super) fn solicitation(mac: Mac, source: Ipv6Addr, target: Ipv6Addr) -> Vec<u8> {
    let last = target.octets();
    let group = Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, last[13], last[14], last[15]]);
    let option = (!source.is_unspecified()).then_some(SOURCE_LINK);
    discovery(mac, source, group, [SOLICITATION, 0, 0, 0, 0, 0, 0, 0], target, option)
}

fn discovery(
    mac: Mac,
    source: Ipv6Addr,
    to: Ipv6Addr,
    head: [u8; 8],
    target: Ipv6Addr,
    option: Option<u8>,
) -> Vec<u8> {
    let mut message = head.to_vec();
    message.extend(target.octets());
    if let Some(kind) = option {
        message.extend([kind, 1]);
        message.extend(mac.0);
    }
    let sum = checksum(source, to, &message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let group = to.octets();
    let mut frame = ethernet([0x33, 0x33, group[12], group[13], group[14], group[15]], mac, TYPE_IPV6);
    frame.extend([0x60, 0, 0, 0]);
    frame.extend((message.len() as u16).to_be_bytes());
    // Hop limit 255: neighbours ignore discovery that may have been routed.
    frame.extend([ICMPV6, 255]);
    frame.extend(source.octets());
    frame.extend(to.octets());
    frame.extend(message);
    frame
}

fn ethernet(to: [u8; 6], from: Mac, kind: [u8; 2]) -> Vec<u8> {
    [&to[..], &from.0, &kind].concat()
}

fn checksum(source: Ipv6Addr, to: Ipv6Addr, message: &[u8]) -> u16 {
    let length = (message.len() as u32).to_be_bytes();
    let whole = [&source.octets()[..], &to.octets(), &length, &[0, 0, 0, ICMPV6], message].concat();
    let mut sum: u32 = whole
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Who says in this frame that it has `address`, if that is what the frame says.
pub(super) fn claimant(frame: &[u8], address: IpAddr) -> Option<Mac> {
    let from = Mac(*frame.get(6..)?.first_chunk()?);
    let kind = frame.get(12..14)?;
    let body = frame.get(ETHERNET..)?;
    let claims = match address {
        // Sender address of a request or a reply; a probe's is unspecified and claims nothing.
        IpAddr::V4(address) => kind == TYPE_ARP && body.get(14..18)? == address.octets(),
        IpAddr::V6(address) => {
            kind == TYPE_IPV6
                && body.get(6)? == &ICMPV6
                && body.get(IPV6)? == &ADVERTISEMENT
                && body.get(IPV6 + 8..IPV6 + 24)? == address.octets()
        }
    };
    claims.then_some(from)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = Mac([2, 0, 0, 0, 0, 7]);

    #[test]
    fn an_arp_announcement_claims_and_a_probe_does_not() {
        let address = Ipv4Addr::new(10, 0, 0, 100);
        let told = arp(ARP_REQUEST, MAC, address, [0; 6], address);
        assert_eq!(told.len(), 42);
        assert_eq!(claimant(&told, address.into()), Some(MAC));
        assert_eq!(claimant(&told, Ipv4Addr::new(10, 0, 0, 101).into()), None);
        let asked = arp(ARP_REQUEST, MAC, Ipv4Addr::UNSPECIFIED, [0; 6], address);
        assert_eq!(claimant(&asked, address.into()), None);
        for cut in 0..told.len() - 14 {
            assert_eq!(claimant(&told[..cut], address.into()), None, "torn at {cut}");
        }
    }

    #[test]
    fn discovery_frames_carry_a_valid_checksum() {
        let address: Ipv6Addr = "fd00::100".parse().unwrap();
        for frame in [advertisement(MAC, address), solicitation(MAC, Ipv6Addr::UNSPECIFIED, address)] {
            let source = Ipv6Addr::from(*frame[22..].first_chunk::<16>().unwrap());
            let to = Ipv6Addr::from(*frame[38..].first_chunk::<16>().unwrap());
            assert_eq!(checksum(source, to, &frame[54..]), 0, "a sum over its own complement is zero");
        }
        assert_eq!(claimant(&advertisement(MAC, address), address.into()), Some(MAC));
        assert_eq!(claimant(&solicitation(MAC, Ipv6Addr::UNSPECIFIED, address), address.into()), None);
    }
}
