//! Packets: a length of three bytes, a sequence number, the payload. Memory grows with what has arrived, never with what is announced.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpStream, UnixStream};

use super::WireError;
use super::tls;
use crate::mysql::client::Tls;

/// A payload of this length is continued in the next packet.
const FULL: usize = 0xff_ffff;

/// What is kept of the payload's buffer between packets, in bytes.
const KEPT: usize = 64 << 10;

trait Io: AsyncRead + AsyncWrite + Send + Sync + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Io for T {}

/// A socket that packets are read from and written to.
pub(super) struct Packets {
    io: BufReader<Box<dyn Io>>,
    /// The number that the next packet carries, in either direction.
    sequence: u8,
    payload: Vec<u8>,
    /// Nobody between the two ends can read along: a local socket, or TLS.
    private: bool,
}

impl Packets {
    pub(super) fn tcp(stream: TcpStream) -> Self {
        Self::new(Box::new(stream), false)
    }

    pub(super) fn unix(stream: UnixStream) -> Self {
        Self::new(Box::new(stream), true)
    }

    fn new(io: Box<dyn Io>, private: bool) -> Self {
        Self { io: BufReader::new(io), sequence: 0, payload: Vec::new(), private }
    }

    pub(super) fn is_private(&self) -> bool {
        self.private
    }

    /// Goes on over TLS. Bytes that came before it are an attempt to slip something in, and end the connection.
    pub(super) async fn encrypt(self, host: &str, tls: &Tls) -> Result<Self, WireError> {
        if !self.io.buffer().is_empty() {
            return Err(WireError::refused("it sent data before the encryption began"));
        }
        let stream = tls::connect(self.io.into_inner(), host, tls).await?;
        Ok(Self { io: BufReader::new(Box::new(stream)), private: true, ..self })
    }

    /// The payload of the next packet, of at most `limit` bytes.
    pub(super) async fn read(&mut self, limit: usize) -> Result<&[u8], WireError> {
        let mut header = [0; 4];
        self.io.read_exact(&mut header).await?;
        let [low, middle, high, sequence] = header;
        let length = u32::from_le_bytes([low, middle, high, 0]) as usize;
        if length > limit || length == FULL {
            return Err(WireError::refused(format!(
                "it sends a packet of {}{length} bytes; at most {limit} are read",
                if length == FULL { "at least " } else { "" }
            )));
        }
        if sequence != self.sequence {
            return Err(WireError::refused(format!(
                "it sends packet {sequence} where {} is due",
                self.sequence
            )));
        }
        self.sequence = sequence.wrapping_add(1);
        self.payload.clear();
        self.payload.shrink_to(KEPT);
        self.payload.reserve(length.min(KEPT));
        (&mut self.io).take(length as u64).read_to_end(&mut self.payload).await?;
        if self.payload.len() < length {
            return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
        }
        Ok(&self.payload)
    }

    /// Begins a new exchange.
    pub(super) async fn command(&mut self, command: u8, text: &[u8]) -> Result<(), WireError> {
        self.sequence = 0;
        let mut payload = Vec::with_capacity(text.len() + 1);
        payload.push(command);
        payload.extend(text);
        self.write(&payload).await
    }

    pub(super) async fn write(&mut self, payload: &[u8]) -> Result<(), WireError> {
        let mut packets = Vec::with_capacity(payload.len() + 8);
        let mut rest = payload;
        loop {
            let (now, later) = rest.split_at(rest.len().min(FULL));
            let [low, middle, high, _] = (now.len() as u32).to_le_bytes();
            packets.extend([low, middle, high, self.sequence]);
            packets.extend(now);
            self.sequence = self.sequence.wrapping_add(1);
            rest = later;
            if now.len() < FULL {
                break;
            }
        }
        let io = self.io.get_mut();
        io.write_all(&packets).await?;
        io.flush().await?;
        Ok(())
    }
}
