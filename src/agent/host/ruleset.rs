//! The kernel's word that another process has changed the packet filter of this network namespace: a firewall's reload takes our table
//! away too. Never says what was changed; the one who waits looks for itself.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::net::RecvFlags;
use rustix::net::netlink::SocketAddrNetlink;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::unix::AsyncFd;

use super::netlink::{answers, find_attribute};
use super::nft;

/// Notifications of nf_tables, as a bit of a netlink address: group 7.
const GROUP: u32 = 1 << (7 - 1);
/// A transaction is in force: the last notification of each.
const NEW_GENERATION: u16 = nft::SUBSYSTEM << 8 | 15;
/// The thread whose transaction it was.
const GENERATION_THREAD: u16 = 2;
const BUFFER: usize = 64 << 10;
/// Datagrams that are read in one go, at most: the rest is told of the next time.
const AT_ONCE: usize = 256;

/// Listens to the kernel.
#[derive(Debug)]
pub struct Ruleset {
    socket: AsyncFd<OwnedFd>,
}

impl Ruleset {
    /// # Errors
    /// When the kernel gives no socket.
    pub fn open() -> io::Result<Self> {
        let protocol = Protocol::from(nft::FAMILY);
        let socket = Socket::new(Domain::from(libc::AF_NETLINK), Type::RAW, Some(protocol))?;
        socket.set_nonblocking(true)?;
        rustix::net::bind(&socket, &SocketAddrNetlink::new(0, GROUP))?;
        Ok(Self { socket: super::watch(socket.into())? })
    }

    /// Waits until another process has changed something. Cancelling loses nothing.
    ///
    /// # Errors
    /// When the socket does not work any more.
    pub async fn changed(&mut self) -> io::Result<()> {
        loop {
            let mut ready = self.socket.readable().await?;
            if let Ok(changed) = ready.try_io(|socket| by_others(socket.get_ref()))
                && changed?
            {
                return Ok(());
            }
        }
    }
}

/// Reads what has come; whether another process changed something. What was lost for want of room may have been such a change.
fn by_others(socket: &OwnedFd) -> io::Result<bool> {
    let mut buffer = vec![0; BUFFER];
    let (mut changed, mut read) = (false, false);
    for _ in 0..AT_ONCE {
        match rustix::net::recv(socket, &mut buffer[..], RecvFlags::empty()) {
            Ok((_, length)) => changed |= says_so(&buffer[..length.min(BUFFER)]),
            Err(rustix::io::Errno::NOBUFS) => changed = true,
            Err(rustix::io::Errno::WOULDBLOCK) if read => break,
            Err(error) => return Err(error.into()),
        }
        read = true;
    }
    Ok(changed)
}

fn says_so(datagram: &[u8]) -> bool {
    answers(datagram).any(|answer| {
        let thread = answer
            .body
            .get(nft::NFGENMSG..)
            .and_then(|attributes| find_attribute(attributes, GENERATION_THREAD))
            .and_then(|value| value.first_chunk())
            .map(|value| u32::from_be_bytes(*value));
        answer.kind == NEW_GENERATION && !thread.is_some_and(is_own)
    })
}

/// In a container the kernel's number may be none of ours: then a change of our own is news too, which costs a look.
fn is_own(thread: u32) -> bool {
    Path::new("/proc/self/task").join(thread.to_string()).exists()
}
