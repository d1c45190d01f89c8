//! The elements of one nftables table's sets, changed in atomic transactions and read back, over netlink.
//!
//! Rules are not made here ([`super::filter`] writes them once, with `nft`); this file only counts them.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::netlink::{
    Message, NLM_F_CREATE, Netlink, NetlinkError, attributes, find_attribute, put_attribute, put_nested,
};

/// `NETLINK_NETFILTER`.
pub(super) const FAMILY: i32 = 12;
pub(super) const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const GET_RULE: u16 = SUBSYSTEM << 8 | 7;
const NEW_ELEMENT: u16 = SUBSYSTEM << 8 | 12;
const GET_ELEMENT: u16 = SUBSYSTEM << 8 | 13;
const DELETE_ELEMENT: u16 = SUBSYSTEM << 8 | 14;
/// `NFPROTO_INET`.
const INET: u8 = 1;
/// Length of the fixed part of a message.
pub(super) const NFGENMSG: usize = 4;

const LIST_TABLE: u16 = 1;
const LIST_SET: u16 = 2;
const LIST_ELEMENTS: u16 = 3;
const LIST_ITEM: u16 = 1;
const ELEMENT_KEY: u16 = 1;
const ELEMENT_TIMEOUT: u16 = 4;
const ELEMENT_EXPIRATION: u16 = 5;
const DATA_VALUE: u16 = 1;
const RULE_TABLE: u16 = 1;

/// The sets of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Set {
    /// Ports that need a lease to be reached.
    Guarded,
    /// Ports open until their element times out.
    Lease,
    /// Remote endpoints that pass a guard.
    Spared4,
    Spared6,
    /// Remote servers this host may not connect to.
    Blocked4,
    Blocked6,
}

impl Set {
    pub(super) const ALL: [Self; 6] =
        [Self::Guarded, Self::Lease, Self::Spared4, Self::Spared6, Self::Blocked4, Self::Blocked6];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Guarded => "guarded",
            Self::Lease => "lease",
            Self::Spared4 => "spared4",
            Self::Spared6 => "spared6",
            Self::Blocked4 => "blocked4",
            Self::Blocked6 => "blocked6",
        }
    }

    /// The set's type, in `nft`'s words.
    pub(super) const fn declaration(self) -> &'static str {
        match self {
            Self::Guarded => "type inet_service;",
            Self::Lease => "type inet_service; flags timeout;",
            Self::Spared4 | Self::Blocked4 => "type ipv4_addr . inet_service;",
            Self::Spared6 | Self::Blocked6 => "type ipv6_addr . inet_service;",
        }
    }
}

/// One change of one set; several are applied together or not at all.
#[derive(Debug, Clone)]
pub(super) struct Change(Message);

/// One element as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Element {
    pub(super) key: Vec<u8>,
    /// Until it expires; `None` when it never does.
    pub(super) remaining: Option<Duration>,
}

/// A port as a set's key.
pub(super) fn port_key(port: u16) -> Vec<u8> {
    port.to_be_bytes().to_vec()
}

/// An address and port as the key of a concatenated set: each part fills whole words.
pub(super) fn endpoint_key(endpoint: SocketAddr) -> Vec<u8> {
    let mut key = match endpoint.ip() {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    key.extend(endpoint.port().to_be_bytes());
    key.extend([0, 0]);
    key
}

/// Reads what [`endpoint_key`] wrote.
pub(super) fn read_endpoint(key: &[u8]) -> Option<SocketAddr> {
    let (address, port) = key.split_at_checked(key.len().checked_sub(4)?)?;
    let address = match address.len() {
        4 => IpAddr::from(*address.first_chunk::<4>()?),
        16 => IpAddr::from(*address.first_chunk::<16>()?),
        _ => return None,
    };
    Some(SocketAddr::new(address, u16::from_be_bytes(*port.first_chunk()?)))
}

/// One table of family `inet`.
#[derive(Debug)]
pub(super) struct Table {
    name: String,
    netlink: Netlink,
}

impl Table {
    pub(super) fn open(name: &str) -> Result<Self, NetlinkError> {
        Ok(Self { name: name.to_owned(), netlink: Netlink::open(FAMILY)? })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Empties `set`; an empty one is already so.
    pub(super) fn flush(&self, set: Set) -> Change {
        Change(self.message(DELETE_ELEMENT, 0, set))
    }

    /// Adds `keys`, all with the same time to live; one that is there already stays.
    pub(super) fn add(&self, set: Set, keys: &[Vec<u8>], timeout: Option<Duration>) -> Change {
        let mut message = self.message(NEW_ELEMENT, NLM_F_CREATE, set);
        message.nested(LIST_ELEMENTS, &encode_elements(keys, timeout));
        Change(message)
    }

    /// Removes `keys`; the whole transaction fails with ENOENT when one is not there.
    pub(super) fn remove(&self, set: Set, keys: &[Vec<u8>]) -> Change {
        let mut message = self.message(DELETE_ELEMENT, 0, set);
        message.nested(LIST_ELEMENTS, &encode_elements(keys, None));
        Change(message)
    }

    /// Puts all changes into force together, or none.
    pub(super) async fn apply(&self, changes: &[Change]) -> Result<(), NetlinkError> {
        let border = |kind| {
            let subsystem = SUBSYSTEM.to_be_bytes();
            Message::new(kind, 0, &[0, 0, subsystem[0], subsystem[1]])
        };
        let messages: Vec<Message> = changes.iter().map(|change| change.0.clone()).collect();
        self.netlink.transact(&border(BATCH_BEGIN), &messages, &border(BATCH_END)).await
    }

    /// The elements of `set`. One whose time is over is left out.
    pub(super) async fn elements(&self, set: Set) -> Result<Vec<Element>, NetlinkError> {
        let answers = self.netlink.dump(&self.message(GET_ELEMENT, 0, set)).await?;
        Ok(answers.iter().flat_map(|answer| decode_elements(answer)).collect())
    }

    /// How many rules the table has.
    pub(super) async fn rules(&self) -> Result<usize, NetlinkError> {
        let mut message = Message::new(GET_RULE, 0, &[INET, 0, 0, 0]);
        message.text(RULE_TABLE, &self.name);
        let answers = self.netlink.dump(&message).await?;
        let mut wanted = self.name.as_bytes().to_vec();
        wanted.push(0);
        let ours = |answer: &&Vec<u8>| {
            answer.get(NFGENMSG..).and_then(|body| find_attribute(body, RULE_TABLE)) == Some(&wanted[..])
        };
        Ok(answers.iter().filter(ours).count())
    }

    fn message(&self, kind: u16, flags: u16, set: Set) -> Message {
        let mut message = Message::new(kind, flags, &[INET, 0, 0, 0]);
        message.text(LIST_TABLE, &self.name);
        message.text(LIST_SET, set.name());
        message
    }
}

fn encode_elements(keys: &[Vec<u8>], timeout: Option<Duration>) -> Vec<u8> {
    let mut list = Vec::new();
    for key in keys {
        let mut value = Vec::new();
        put_attribute(&mut value, DATA_VALUE, key);
        let mut element = Vec::new();
        put_nested(&mut element, ELEMENT_KEY, &value);
        if let Some(span) = timeout {
            // Zero would mean "never expires".
            let milliseconds = u64::try_from(span.as_millis()).unwrap_or(u64::MAX).max(1);
            put_attribute(&mut element, ELEMENT_TIMEOUT, &milliseconds.to_be_bytes());
        }
        put_nested(&mut list, LIST_ITEM, &element);
    }
    list
}

fn decode_elements(answer: &[u8]) -> Vec<Element> {
    let list =
        answer.get(NFGENMSG..).and_then(|body| find_attribute(body, LIST_ELEMENTS)).unwrap_or_default();
    let number = |element: &[u8], kind| -> Option<u64> {
        find_attribute(element, kind)
            .and_then(|value| value.first_chunk())
            .map(|value| u64::from_be_bytes(*value))
    };
    let decode = |element: &[u8]| {
        let key = find_attribute(find_attribute(element, ELEMENT_KEY)?, DATA_VALUE)?.to_vec();
        let remaining = match (number(element, ELEMENT_EXPIRATION), number(element, ELEMENT_TIMEOUT)) {
            (Some(left), _) => Some(Duration::from_millis(left)),
            (None, Some(_)) => Some(Duration::ZERO),
            (None, None) => None,
        };
        (remaining != Some(Duration::ZERO)).then_some(Element { key, remaining })
    };
    attributes(list)
        .filter(|(kind, _)| *kind == LIST_ITEM)
        .filter_map(|(_, element)| decode(element))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_round_trip_as_keys() {
        for text in ["10.0.0.1:555", "[fd00::1]:3306"] {
            let endpoint: SocketAddr = text.parse().unwrap();
            assert_eq!(read_endpoint(&endpoint_key(endpoint)), Some(endpoint));
        }
        assert_eq!(endpoint_key("10.0.0.1:555".parse().unwrap()), [10, 0, 0, 1, 2, 43, 0, 0]);
        assert_eq!(read_endpoint(&[1, 2, 3]), None);
    }

    #[test]
    fn elements_are_written_as_they_are_read() {
        let list = encode_elements(&[port_key(3306)], Some(Duration::from_secs(3)));
        let mut answer = vec![INET, 0, 0, 0];
        put_nested(&mut answer, LIST_ELEMENTS, &list);
        assert!(decode_elements(&answer).is_empty(), "a timeout without a remaining time is over");
        let forever = encode_elements(&[port_key(3306)], None);
        let mut answer = vec![INET, 0, 0, 0];
        put_nested(&mut answer, LIST_ELEMENTS, &forever);
        assert_eq!(decode_elements(&answer), [Element { key: port_key(3306), remaining: None }]);
    }
}
