//! Cuts established TCP connections by their sockets (`SOCK_DESTROY`), so that a peer blocked in a read learns of a
//! closed filter at once and not at its next packet. It never decides which: callers name ports and exceptions.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use super::netlink::{Message, Netlink, NetlinkError, find_attribute};

/// `NETLINK_SOCK_DIAG`.
const FAMILY: i32 = 4;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
const INET_DIAG_MARK: u16 = 15;
const INET_DIAG_INFO: u16 = 2;
/// The extension that asks for [`INET_DIAG_INFO`].
const WITH_INFO: u8 = 1 << (INET_DIAG_INFO - 1);
/// Where `tcpi_last_data_recv`, in milliseconds, is in `struct tcp_info`.
const LAST_DATA_RECEIVED: usize = 52;
/// Family, protocol, extensions, padding, states.
const REQUEST_FIXED: usize = 8;
/// Ports, addresses, interface and cookie of `struct inet_diag_sockid`.
const SOCKET_ID: usize = 48;
/// Where the id begins and the attributes begin in `struct inet_diag_msg`.
const ANSWER_ID: usize = 4;
const ANSWER_FIXED: usize = 72;
const ESTABLISHED: u8 = 1;
/// The program has closed the socket, and the peer has not acknowledged all that was sent before.
const FIN_WAIT_1: u8 = 4;
/// Every TCP state in which a peer is there: SYN_SENT (2), SYN_RECV (3, and 12 before it is accepted), FIN_WAIT_2 (5), CLOSE_WAIT (8),
/// LAST_ACK (9), CLOSING (11). Not LISTEN (10), CLOSE (7), TIME_WAIT (6) or a socket that is only bound (13).
const CONNECTED: u32 =
    1 << ESTABLISHED | 1 << 2 | 1 << 3 | 1 << FIN_WAIT_1 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << 11 | 1 << 12;
const LISTENING: u32 = 1 << 10;
/// Sockets that are destroyed with one request to the kernel, at most.
const AT_ONCE: usize = 64;
/// Where the inode is in `struct inet_diag_msg`.
const ANSWER_INODE: usize = 68;

/// One connected socket of this network namespace.
#[derive(Debug, Clone)]
struct Connection {
    family: u8,
    local: SocketAddr,
    remote: SocketAddr,
    mark: u32,
    state: u8,
    /// How long ago data last came; only of an established connection, and only where it was asked for.
    heard: Option<Duration>,
    id: [u8; SOCKET_ID],
}

/// One socket of this network namespace that accepts connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Listener {
    pub(super) port: u16,
    pub(super) inode: u64,
}

/// A connection to the server that was cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Served {
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
    /// The program had closed it, with data that the peer has not acknowledged. Kernels before 6.12 end such a socket without a reset.
    pub(super) orphaned: bool,
}

impl Served {
    fn of(connection: &Connection) -> Self {
        Self { local: connection.local, remote: connection.remote, orphaned: connection.state == FIN_WAIT_1 }
    }
}

/// Which end of a socket a port is at.
#[derive(Debug, Clone, Copy)]
enum End {
    Local,
    Remote,
}

/// Lists and destroys TCP sockets.
#[derive(Debug)]
pub(super) struct Diag {
    netlink: Netlink,
}

impl Diag {
    pub(super) fn open() -> Result<Self, NetlinkError> {
        Ok(Self { netlink: Netlink::open(FAMILY)? })
    }

    /// Cuts the server's side of every connection to `ports`, except from the endpoints `spared` and from local sockets
    /// that carry `mark`. Returns what was there to cut: nothing, when all of it had been cut before.
    pub(super) async fn cut_served(
        &self,
        ports: &[u16],
        spared: &HashSet<SocketAddr>,
        mark: u32,
    ) -> Result<Vec<Served>, NetlinkError> {
        let mut cut = Vec::new();
        for port in ports {
            let own: HashSet<SocketAddr> = self
                .list(*port, End::Remote)
                .await?
                .into_iter()
                .filter(|connection| connection.mark == mark)
                .map(|connection| connection.local)
                .collect();
            cut.extend(self.list(*port, End::Local).await?.into_iter().filter(|connection| {
                !spared.contains(&connection.remote) && !own.contains(&connection.remote)
            }));
        }
        self.destroy(&cut).await?;
        Ok(cut.iter().map(Served::of).collect())
    }

    /// Cuts this host's connections to `endpoint`, except those that carry `mark`. Returns how many were cut.
    pub(super) async fn cut_outgoing(&self, endpoint: SocketAddr, mark: u32) -> Result<usize, NetlinkError> {
        let mut cut = self.list(endpoint.port(), End::Remote).await?;
        cut.retain(|connection| connection.remote == endpoint && connection.mark != mark);
        self.destroy(&cut).await?;
        Ok(cut.len())
    }

    /// How long ago data last came from `endpoint` on any connection to it, except those that carry `mark`.
    pub(super) async fn heard(
        &self,
        endpoint: SocketAddr,
        mark: u32,
    ) -> Result<Option<Duration>, NetlinkError> {
        let connections = self.list_with(endpoint.port(), End::Remote, WITH_INFO).await?;
        let others = connections.iter().filter(|found| found.remote == endpoint && found.mark != mark);
        Ok(others.filter_map(|found| found.heard).min())
    }

    /// Everybody who listens on a TCP port, in order.
    pub(super) async fn listeners(&self) -> Result<Vec<Listener>, NetlinkError> {
        let mut found = Vec::new();
        for family in [libc::AF_INET as u8, libc::AF_INET6 as u8] {
            let ask = request(SOCK_DIAG_BY_FAMILY, family, 0, LISTENING, &[0; SOCKET_ID]);
            let answers = self.netlink.dump(&ask).await?;
            found.extend(answers.iter().filter_map(|answer| decode_listener(answer)));
        }
        found.sort_unstable();
        Ok(found)
    }

    async fn list(&self, port: u16, end: End) -> Result<Vec<Connection>, NetlinkError> {
        self.list_with(port, end, 0).await
    }

    async fn list_with(&self, port: u16, end: End, more: u8) -> Result<Vec<Connection>, NetlinkError> {
        let mut found = Vec::new();
        for family in [libc::AF_INET as u8, libc::AF_INET6 as u8] {
            let mut id = [0; SOCKET_ID];
            let at = match end {
                End::Local => 0,
                End::Remote => 2,
            };
            id[at..at + 2].copy_from_slice(&port.to_be_bytes());
            let answers =
                self.netlink.dump(&request(SOCK_DIAG_BY_FAMILY, family, more, CONNECTED, &id)).await?;
            found.extend(answers.iter().filter_map(|answer| decode(answer)));
        }
        Ok(found)
    }

    /// One that has gone by itself meanwhile is as good as destroyed.
    async fn destroy(&self, connections: &[Connection]) -> Result<(), NetlinkError> {
        for some in connections.chunks(AT_ONCE) {
            let messages: Vec<Message> = some
                .iter()
                .map(|connection| request(SOCK_DESTROY, connection.family, 0, CONNECTED, &connection.id))
                .collect();
            for refused in self.netlink.each(&messages).await? {
                if refused.refused_with() != Some(libc::ENOENT) {
                    return Err(refused);
                }
            }
        }
        Ok(())
    }
}

fn request(kind: u16, family: u8, more: u8, states: u32, id: &[u8; SOCKET_ID]) -> Message {
    let mut fixed = Vec::with_capacity(REQUEST_FIXED + SOCKET_ID);
    fixed.extend([family, libc::IPPROTO_TCP as u8, more, 0]);
    fixed.extend(states.to_ne_bytes());
    fixed.extend(id);
    Message::new(kind, 0, &fixed)
}

fn decode_listener(answer: &[u8]) -> Option<Listener> {
    let port = u16::from_be_bytes(*answer.get(ANSWER_ID..)?.first_chunk()?);
    let inode = u32::from_ne_bytes(*answer.get(ANSWER_INODE..)?.first_chunk()?);
    Some(Listener { port, inode: u64::from(inode) })
}

fn decode(answer: &[u8]) -> Option<Connection> {
    let family = *answer.first()?;
    let id: [u8; SOCKET_ID] = *answer.get(ANSWER_ID..)?.first_chunk()?;
    let address = |at: usize| -> Option<IpAddr> {
        let bytes: [u8; 16] = *id.get(at..)?.first_chunk()?;
        Some(if i32::from(family) == libc::AF_INET {
            IpAddr::from(Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]))
        } else {
            // A server that listens on `::` has IPv4 peers in mapped form.
            IpAddr::from(Ipv6Addr::from(bytes)).to_canonical()
        })
    };
    let state = *answer.get(1)?;
    let local = SocketAddr::new(address(4)?, u16::from_be_bytes([id[0], id[1]]));
    let remote = SocketAddr::new(address(20)?, u16::from_be_bytes([id[2], id[3]]));
    let mark = find_attribute(answer.get(ANSWER_FIXED..)?, INET_DIAG_MARK)
        .and_then(|value| value.first_chunk())
        .map_or(0, |value| u32::from_ne_bytes(*value));
    let heard = find_attribute(answer.get(ANSWER_FIXED..)?, INET_DIAG_INFO)
        .filter(|_| state == ESTABLISHED)
        .and_then(|info| info.get(LAST_DATA_RECEIVED..)?.first_chunk())
        .map(|value| Duration::from_millis(u64::from(u32::from_ne_bytes(*value))));
    Some(Connection { family, local, remote, mark, state, heard, id })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapped_peer_is_known_by_its_ipv4_address() {
        let mut answer = [0_u8; ANSWER_FIXED];
        answer[0] = libc::AF_INET6 as u8;
        answer[4..6].copy_from_slice(&3306_u16.to_be_bytes());
        answer[6..8].copy_from_slice(&555_u16.to_be_bytes());
        answer[24..40].copy_from_slice(&Ipv4Addr::new(10, 0, 0, 1).to_ipv6_mapped().octets());
        let connection = decode(&answer).unwrap();
        assert_eq!(connection.remote, "10.0.0.1:555".parse().unwrap());
        assert_eq!(connection.local.port(), 3306);
        assert!(decode(&answer[..40]).is_none());
    }
}
