//! A request-and-answer netlink client: messages are built, sent in one datagram, and their answers awaited.
//!
//! It exists because spawning `nft` for every lease renewal costs more than the renewal. It knows framing,
//! acknowledgements and attributes; it never knows what a message means.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::Mutex;

/// How long the kernel may take for one request, waiting for other users of the same subsystem included.
pub(super) const DEADLINE: Duration = Duration::from_millis(500);

const HEADER: usize = 16;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
/// Makes a new object where none is yet.
pub(super) const NLM_F_CREATE: u16 = 0x400;
/// Changes the object where there is one.
pub(super) const NLM_F_REPLACE: u16 = 0x100;
const NLA_F_NESTED: u16 = 1 << 15;
const NLA_TYPE_MASK: u16 = 0x3fff;
const RECEIVE_BUFFER: usize = 64 << 10;
/// A dump interrupted by somebody else's change is begun again this often.
const DUMP_TRIES: usize = 8;

/// Why the kernel did not do what a request asked.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    #[error("the kernel refused: {0}")]
    Refused(io::Error),
    #[error("the netlink socket failed: {0}")]
    Socket(io::Error),
    #[error("no answer from the kernel within {} ms", DEADLINE.as_millis())]
    Deadline,
    #[error("the kernel's answer could not be read: {0}")]
    Malformed(&'static str),
    #[error("the tables changed under every one of {DUMP_TRIES} attempts to read them")]
    Unsettled,
}

impl NetlinkError {
    /// The error number the kernel answered with, where it answered.
    pub(super) fn refused_with(&self) -> Option<i32> {
        match self {
            Self::Refused(error) => error.raw_os_error(),
            Self::Socket(_) | Self::Deadline | Self::Malformed(_) | Self::Unsettled => None,
        }
    }
}

/// One message, without its header's length and sequence number.
#[derive(Debug, Clone)]
pub(super) struct Message {
    kind: u16,
    flags: u16,
    body: Vec<u8>,
}

impl Message {
    /// A message of `kind` whose fixed part is `fixed`; `flags` are added to "request".
    pub(super) fn new(kind: u16, flags: u16, fixed: &[u8]) -> Self {
        Self { kind, flags, body: fixed.to_vec() }
    }

    /// Appends one attribute.
    pub(super) fn attribute(&mut self, kind: u16, value: &[u8]) {
        put_attribute(&mut self.body, kind, value);
    }

    /// Appends a text attribute, zero-terminated as the kernel wants it.
    pub(super) fn text(&mut self, kind: u16, value: &str) {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attribute(kind, &bytes);
    }

    /// Appends an attribute that holds attributes.
    pub(super) fn nested(&mut self, kind: u16, inner: &[u8]) {
        self.attribute(kind | NLA_F_NESTED, inner);
    }

    fn encode(&self, out: &mut Vec<u8>, sequence: u32, extra_flags: u16) {
        let length = (HEADER + self.body.len()) as u32;
        out.extend(length.to_ne_bytes());
        out.extend(self.kind.to_ne_bytes());
        out.extend((self.flags | extra_flags | NLM_F_REQUEST).to_ne_bytes());
        out.extend(sequence.to_ne_bytes());
        out.extend(0_u32.to_ne_bytes());
        out.extend(&self.body);
        pad(out);
    }
}

/// Appends `kind: value` to a buffer of attributes, padded to four bytes.
pub(super) fn put_attribute(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    out.extend(((value.len() + 4) as u16).to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(value);
    pad(out);
}

/// Appends a nested attribute to a buffer of attributes.
pub(super) fn put_nested(out: &mut Vec<u8>, kind: u16, inner: &[u8]) {
    put_attribute(out, kind | NLA_F_NESTED, inner);
}

fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(4), 0);
}

/// The attributes in `bytes`, as (kind, value); ends at the first that does not fit.
pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(*bytes.first_chunk()?));
        let kind = u16::from_ne_bytes(*bytes.get(2..)?.first_chunk()?) & NLA_TYPE_MASK;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The value of the first attribute of `kind` in `bytes`.
pub(super) fn find_attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(found, _)| *found == kind).map(|(_, value)| value)
}

/// One message from the kernel.
#[derive(Debug)]
pub(super) struct Answer<'a> {
    pub(super) kind: u16,
    flags: u16,
    sequence: u32,
    pub(super) body: &'a [u8],
}

/// The messages in one datagram; ends at the first that does not fit.
pub(super) fn answers(mut bytes: &[u8]) -> impl Iterator<Item = Answer<'_>> {
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
        let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
        let flags = u16::from_ne_bytes(*bytes.get(6..)?.first_chunk()?);
        let sequence = u32::from_ne_bytes(*bytes.get(8..)?.first_chunk()?);
        let body = bytes.get(HEADER..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Answer { kind, flags, sequence, body })
    })
}

/// The error of an acknowledgement: `Ok` when its number is zero.
fn outcome(body: &[u8]) -> Result<(), NetlinkError> {
    match body.first_chunk().map(|bytes| i32::from_ne_bytes(*bytes)) {
        Some(0) => Ok(()),
        Some(number) => Err(NetlinkError::Refused(io::Error::from_raw_os_error(-number))),
        None => Err(NetlinkError::Malformed("an acknowledgement without its error number")),
    }
}

/// A socket to one netlink family of the kernel. One request is under way at a time.
#[derive(Debug)]
pub(super) struct Netlink {
    socket: Arc<Mutex<Socket>>,
    next: AtomicU32,
}

impl Netlink {
    /// Opens a socket to the netlink family `protocol`, in the calling thread's network namespace.
    pub(super) fn open(protocol: i32) -> Result<Self, NetlinkError> {
        let open = || {
            let socket =
                Socket::new(Domain::from(libc::AF_NETLINK), Type::RAW, Some(Protocol::from(protocol)))?;
            socket.set_read_timeout(Some(DEADLINE))?;
            socket.set_write_timeout(Some(DEADLINE))?;
            io::Result::Ok(socket)
        };
        let socket = open().map_err(NetlinkError::Socket)?;
        Ok(Self { socket: Arc::new(Mutex::new(socket)), next: AtomicU32::new(1) })
    }

    /// Sends `messages` as one transaction between `begin` and `end`; `Ok` when all of it is in force, and nothing of
    /// it is when not.
    pub(super) async fn transact(
        &self,
        begin: &Message,
        messages: &[Message],
        end: &Message,
    ) -> Result<(), NetlinkError> {
        let count = messages.len() as u32;
        let first = self.next.fetch_add(count + 2, Ordering::Relaxed);
        let mut request = Vec::with_capacity(512);
        begin.encode(&mut request, first, 0);
        for (message, sequence) in messages.iter().zip(first + 1..) {
            message.encode(&mut request, sequence, NLM_F_ACK);
        }
        end.encode(&mut request, first + count + 1, 0);
        self.blocking(move |socket| await_acks(socket, &request, first, count)).await
    }

    /// Sends one message and waits for its acknowledgement.
    pub(super) async fn request(&self, message: &Message) -> Result<(), NetlinkError> {
        let sequence = self.next.fetch_add(1, Ordering::Relaxed);
        let mut request = Vec::with_capacity(128);
        message.encode(&mut request, sequence, NLM_F_ACK);
        self.blocking(move |socket| await_acks(socket, &request, sequence, 1)).await
    }

    /// Sends messages that do not depend on one another in one datagram; the refusals among their answers.
    pub(super) async fn each(&self, messages: &[Message]) -> Result<Vec<NetlinkError>, NetlinkError> {
        let count = messages.len() as u32;
        let first = self.next.fetch_add(count, Ordering::Relaxed);
        let mut request = Vec::with_capacity(128 * messages.len());
        for (message, sequence) in messages.iter().zip(first..) {
            message.encode(&mut request, sequence, NLM_F_ACK);
        }
        self.blocking(move |socket| await_each(socket, &request, first, count)).await
    }

    /// Asks for everything that matches `message`; the bodies of the answers, in the kernel's order.
    pub(super) async fn dump(&self, message: &Message) -> Result<Vec<Vec<u8>>, NetlinkError> {
        for _ in 0..DUMP_TRIES {
            let sequence = self.next.fetch_add(1, Ordering::Relaxed);
            let mut request = Vec::with_capacity(128);
            message.encode(&mut request, sequence, NLM_F_DUMP);
            if let Some(found) = self.blocking(move |socket| await_dump(socket, &request, sequence)).await? {
                return Ok(found);
            }
        }
        Err(NetlinkError::Unsettled)
    }

    /// Sending may wait in the kernel for another user's transaction, so it is done off the async threads. The socket's
    /// lock goes along: a request that overran keeps later ones waiting (each within its own deadline), and none piles up.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Socket) -> Result<T, NetlinkError> + Send + 'static,
    ) -> Result<T, NetlinkError> {
        // Nobody waits any more for what would begin later, and a lease that it would extend may have ended.
        let by = tokio::time::Instant::now() + DEADLINE;
        let in_time = move |socket: &Socket| match tokio::time::Instant::now() < by {
            true => work(socket),
            false => Err(NetlinkError::Deadline),
        };
        let whole = async {
            let socket = Arc::clone(&self.socket).lock_owned().await;
            let done = tokio::task::spawn_blocking(move || in_time(&socket)).await;
            done.map_err(|error| NetlinkError::Socket(io::Error::other(error)))?
        };
        tokio::time::timeout(DEADLINE, whole).await.map_err(|_| NetlinkError::Deadline)?
    }
}

fn receive(mut socket: &Socket, buffer: &mut [u8]) -> Result<usize, NetlinkError> {
    socket.read(buffer).map_err(|error| {
        let late = matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut);
        if late { NetlinkError::Deadline } else { NetlinkError::Socket(error) }
    })
}

fn await_acks(socket: &Socket, request: &[u8], first: u32, count: u32) -> Result<(), NetlinkError> {
    socket.send(request).map_err(NetlinkError::Socket)?;
    // A batch answers with numbers first+1..=first+count, a single request with its own; a failed commit answers with
    // the number of the batch's beginning.
    let batch = first..=first + count;
    let mut buffer = vec![0; RECEIVE_BUFFER];
    let mut acknowledged = 0;
    let mut failure = None;
    while acknowledged < count && failure.is_none() {
        let length = receive(socket, &mut buffer)?;
        for answer in answers(&buffer[..length]) {
            if answer.kind == NLMSG_ERROR && batch.contains(&answer.sequence) {
                acknowledged += 1;
                failure = failure.or(outcome(answer.body).err());
            }
        }
    }
    failure.map_or(Ok(()), Err)
}

fn await_each(
    socket: &Socket,
    request: &[u8],
    first: u32,
    count: u32,
) -> Result<Vec<NetlinkError>, NetlinkError> {
    socket.send(request).map_err(NetlinkError::Socket)?;
    let asked = first..first + count;
    let mut buffer = vec![0; RECEIVE_BUFFER];
    let (mut answered, mut refused) = (0, Vec::new());
    while answered < count {
        let length = receive(socket, &mut buffer)?;
        for answer in answers(&buffer[..length]) {
            if answer.kind == NLMSG_ERROR && asked.contains(&answer.sequence) {
                answered += 1;
                refused.extend(outcome(answer.body).err());
            }
        }
    }
    Ok(refused)
}

/// `None` when the dump was interrupted by a change and must be begun again.
fn await_dump(socket: &Socket, request: &[u8], sequence: u32) -> Result<Option<Vec<Vec<u8>>>, NetlinkError> {
    socket.send(request).map_err(NetlinkError::Socket)?;
    let mut buffer = vec![0; RECEIVE_BUFFER];
    let mut found = Vec::new();
    let mut interrupted = false;
    loop {
        let length = receive(socket, &mut buffer)?;
        for answer in answers(&buffer[..length]).filter(|answer| answer.sequence == sequence) {
            interrupted |= answer.flags & NLM_F_DUMP_INTR != 0;
            match answer.kind {
                NLMSG_ERROR => {
                    outcome(answer.body)?;
                    return Err(NetlinkError::Malformed("an acknowledgement in place of a listing"));
                }
                NLMSG_DONE => {
                    outcome(answer.body)?;
                    return Ok((!interrupted).then_some(found));
                }
                _ => found.push(answer.body.to_vec()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_framed_and_padded() {
        let mut message = Message::new(0x0a0c, NLM_F_CREATE, &[1, 0, 0, 0]);
        message.text(1, "ab");
        let mut bytes = Vec::new();
        message.encode(&mut bytes, 7, NLM_F_ACK);
        assert_eq!(bytes.len(), 16 + 4 + 8);
        assert_eq!(bytes[0..4], 28_u32.to_ne_bytes());
        assert_eq!(bytes[4..6], 0x0a0c_u16.to_ne_bytes());
        assert_eq!(bytes[6..8], 0x405_u16.to_ne_bytes());
        assert_eq!(bytes[8..12], 7_u32.to_ne_bytes());
        assert_eq!(&bytes[20..], [7, 0, 1, 0, b'a', b'b', 0, 0], "length counts no padding");
        let answer = answers(&bytes).next().unwrap();
        assert_eq!((answer.kind, answer.sequence), (0x0a0c, 7));
        assert_eq!(find_attribute(&answer.body[4..], 1), Some(&b"ab\0"[..]));
    }

    #[test]
    fn nested_attributes_are_read_without_their_flag() {
        let mut inner = Vec::new();
        put_attribute(&mut inner, 5, &[9, 9]);
        let mut outer = Vec::new();
        put_nested(&mut outer, 3, &inner);
        assert_eq!(find_attribute(find_attribute(&outer, 3).unwrap(), 5), Some(&[9, 9][..]));
    }

    #[test]
    fn torn_bytes_end_the_reading() {
        assert_eq!(attributes(&[200, 0, 1, 0, 1]).count(), 0);
        assert_eq!(attributes(&[0, 0, 1, 0]).count(), 0);
        assert_eq!(answers(&[1, 2, 3]).count(), 0);
        assert_eq!(answers(&[255; 40]).count(), 0);
    }

    #[test]
    fn a_refusal_keeps_its_number() {
        assert!(outcome(&0_i32.to_ne_bytes()).is_ok());
        assert_eq!(outcome(&(-libc::ENOENT).to_ne_bytes()).unwrap_err().refused_with(), Some(libc::ENOENT));
        assert!(outcome(&[]).is_err());
    }
}
