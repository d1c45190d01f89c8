//! Has a client learn that its connection has ended, where the server's own socket cannot tell it: the address has left this host, or
//! the kernel ended the socket in silence.
//!
//! The client is sent a SYN in the connection's name. A client that still has the connection answers with what it expects next
//! (RFC 5961), and that answer meets no socket, or a closed filter, and so a reset, wherever the address is now. A client that has a
//! new connection of the same two ends to the new holder loses nothing: its answer is an ordinary acknowledgement there.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::diag::Served;

const TCP: u8 = 6;
/// A header without options.
const TCP_HEADER: usize = 20;
const SYN: u8 = 2;
const HOPS: u8 = 64;

/// Sends the question for each of these connections; how many were asked. `mark` lets it pass the filter.
///
/// # Errors
/// When the kernel gives no raw socket. A single client that cannot be reached is passed over.
pub(super) fn ask(connections: &[Served], mark: u32) -> io::Result<usize> {
    let mut sockets = Sockets { mark, four: None, six: None };
    let mut asked = 0;
    for connection in connections {
        let (from, to) = (connection.local, connection.remote);
        let (socket, packet) = match (from.ip(), to.ip()) {
            (IpAddr::V4(local), IpAddr::V4(remote)) => {
                (sockets.four()?, packet_v4(local, remote, &segment(from, to)))
            }
            (IpAddr::V6(local), IpAddr::V6(remote)) => {
                (sockets.six()?, packet_v6(local, remote, &segment(from, to)))
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => continue,
        };
        let sent = socket.send_to(&packet, &SockAddr::from(SocketAddr::new(to.ip(), 0)));
        asked += usize::from(sent.is_ok());
    }
    Ok(asked)
}

/// Those whose client the destroyed socket did not tell.
pub(super) fn untold(cut: &[Served]) -> Vec<Served> {
    let mut here = BTreeMap::new();
    cut.iter()
        .filter(|connection| {
            let address = connection.local.ip();
            connection.orphaned || !*here.entry(address).or_insert_with(|| is_here(address))
        })
        .copied()
        .collect()
}

/// Only an address that is gone counts as gone.
fn is_here(address: IpAddr) -> bool {
    match UdpSocket::bind((address, 0)) {
        Ok(_) => true,
        Err(error) => error.kind() != io::ErrorKind::AddrNotAvailable,
    }
}

struct Sockets {
    mark: u32,
    four: Option<Socket>,
    six: Option<Socket>,
}

impl Sockets {
    fn four(&mut self) -> io::Result<&Socket> {
        raw(&mut self.four, Domain::IPV4, self.mark)
    }

    fn six(&mut self) -> io::Result<&Socket> {
        raw(&mut self.six, Domain::IPV6, self.mark)
    }
}

/// A socket that sends whole packets, their source address included, and receives nothing.
fn raw(slot: &mut Option<Socket>, domain: Domain, mark: u32) -> io::Result<&Socket> {
    let socket = match slot.take() {
        Some(socket) => socket,
        None => {
            let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW)))?;
            socket.set_nonblocking(true)?;
            socket.set_mark(mark)?;
            socket
        }
    };
    Ok(slot.insert(socket))
}

fn segment(from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let mut segment = Vec::with_capacity(TCP_HEADER);
    segment.extend(from.port().to_be_bytes());
    segment.extend(to.port().to_be_bytes());
    // Sequence numbers: none is known, and none is needed.
    segment.extend([0; 8]);
    segment.extend([(TCP_HEADER as u8 / 4) << 4, SYN]);
    // Window; then the checksum, which is filled in below, and no urgent data.
    segment.extend(1_024_u16.to_be_bytes());
    segment.extend([0; 4]);
    let mut pseudo = Vec::with_capacity(40 + TCP_HEADER);
    for address in [from.ip(), to.ip()] {
        match address {
            IpAddr::V4(address) => pseudo.extend(address.octets()),
            IpAddr::V6(address) => pseudo.extend(address.octets()),
        }
    }
    pseudo.extend((TCP_HEADER as u32).to_be_bytes());
    pseudo.extend([0, 0, 0, TCP]);
    pseudo.extend(&segment);
    segment[16..18].copy_from_slice(&checksum(&pseudo).to_be_bytes());
    segment
}

/// The kernel fills in the header's length, its checksum and its number.
fn packet_v4(from: Ipv4Addr, to: Ipv4Addr, segment: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, HOPS, TCP, 0, 0];
    packet.extend(from.octets());
    packet.extend(to.octets());
    packet.extend(segment);
    packet
}

fn packet_v6(from: Ipv6Addr, to: Ipv6Addr, segment: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((segment.len() as u16).to_be_bytes());
    packet.extend([TCP, HOPS]);
    packet.extend(from.octets());
    packet.extend(to.octets());
    packet.extend(segment);
    packet
}

fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn served(local: &str, orphaned: bool) -> Served {
        Served { local: local.parse().unwrap(), remote: "10.0.0.9:40000".parse().unwrap(), orphaned }
    }

    #[test]
    fn a_segment_carries_a_valid_checksum() {
        let (from, to) = ("10.0.0.100:3306".parse().unwrap(), "10.0.0.9:40000".parse().unwrap());
        let segment = segment(from, to);
        assert_eq!(segment.len(), TCP_HEADER);
        let mut pseudo = vec![10, 0, 0, 100, 10, 0, 0, 9, 0, 0, 0, 20, 0, 0, 0, TCP];
        pseudo.extend(&segment);
        assert_eq!(checksum(&pseudo), 0, "a sum over its own complement is zero");
        assert_eq!(packet_v4(Ipv4Addr::LOCALHOST, Ipv4Addr::LOCALHOST, &segment).len(), 40);
        assert_eq!(packet_v6(Ipv6Addr::LOCALHOST, Ipv6Addr::LOCALHOST, &segment).len(), 60);
    }

    #[test]
    fn a_client_is_asked_where_the_socket_could_not_tell_it() {
        let here = served("127.0.0.1:3306", false);
        let orphan = served("127.0.0.1:3306", true);
        let gone = served("192.0.2.7:3306", false);
        assert_eq!(untold(&[here, orphan, gone]), [orphan, gone]);
    }
}
