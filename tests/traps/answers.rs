//! Answers without bound, from a peer that has let us log in: each ends its own connection, and takes no memory to speak of.

use std::sync::Arc;
use std::time::Duration;

use mha::model::observation::Unseen;
use mha::mysql::{Connection, Target, Tls};
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

use crate::support::{account, within};
use crate::{hello, packet};

/// What the peer answers the first query, or the login, with.
#[derive(Debug, Clone, Copy)]
enum Attack {
    /// A result set that announces so many columns.
    Columns(u64),
    /// Columns whose names are long.
    LongNames,
    /// Rows with one short value, without end.
    Rows,
    /// Rows with as many NULLs as there may be columns, one byte each, without end.
    Nulls,
    /// One row in packets of 16 MB, without end.
    Row,
    /// One packet just below the length that is continued.
    Packet,
    /// Empty results, each with another behind it.
    Results,
    /// Asks for a file of this host.
    File,
    /// A greeting of 16 MB.
    Greeting,
    /// A login that never ends.
    Login,
}

const LIMIT: u64 = 64 << 20;

/// The server's status flag "more results exist".
const MORE: u8 = 8;

/// This process's resident memory at its highest since [`forget_peak`], in bytes.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
}

fn forget_peak() {
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
}

fn encryption() -> TlsAcceptor {
    let pem = include_bytes!("fake.pem");
    let certificates = CertificateDer::pem_slice_iter(pem).map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_slice(pem).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(certificates, key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

/// One client's connection from the greeting to the attack. Ends when the client goes.
async fn serve(mut stream: TcpStream, attack: Attack, tls: bool) -> std::io::Result<()> {
    if let Attack::Greeting = attack {
        return flood(&mut stream, &[0xff, 0xff, 0xff, 0, 10]).await;
    }
    stream.write_all(&hello()).await?;
    if tls {
        receive(&mut stream).await?;
        let mut stream = encryption().accept(stream).await?;
        return converse(&mut stream, attack, 3).await;
    }
    converse(&mut stream, attack, 2).await
}

async fn converse(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    attack: Attack,
    sequence: u8,
) -> std::io::Result<()> {
    receive(stream).await?;
    if let Attack::Login = attack {
        // "The password is known, wait": to a client of that method, again and again.
        stream.write_all(&numbered(sequence, b"\xfecaching_sha2_password\x0012345678901234567890\0")).await?;
        receive(stream).await?;
        let mut next = sequence.wrapping_add(2);
        loop {
            stream.write_all(&numbered(next, &[1, 3])).await?;
            next = next.wrapping_add(1);
        }
    }
    stream.write_all(&numbered(sequence, &[0, 0, 0, 2, 0, 0, 0])).await?;
    receive(stream).await?;
    assail(stream, attack).await
}

async fn assail(stream: &mut (impl AsyncWrite + Unpin), attack: Attack) -> std::io::Result<()> {
    let column = |name: &[u8]| {
        let mut column = b"\x03def\0\0\0".to_vec();
        column.push(0xfd);
        column.extend(&(name.len() as u32).to_le_bytes()[..3]);
        column.extend(name);
        column
    };
    match attack {
        Attack::Columns(count) => {
            let mut header = vec![0xfe];
            header.extend(count.to_le_bytes());
            stream.write_all(&numbered(1, &header)).await?;
            let mut sequence = 1_u8;
            loop {
                sequence = sequence.wrapping_add(1);
                stream.write_all(&numbered(sequence, &column(b"a"))).await?;
            }
        }
        Attack::LongNames => {
            stream.write_all(&numbered(1, &[0xfc, 0, 0x10])).await?;
            let name = vec![b'n'; 1 << 20];
            let mut sequence = 1_u8;
            loop {
                sequence = sequence.wrapping_add(1);
                stream.write_all(&numbered(sequence, &column(&name))).await?;
            }
        }
        Attack::Rows => {
            head(stream, 1, &column(b"a")).await?;
            rows(stream, 4, b"\x01x").await
        }
        Attack::Nulls => {
            head(stream, 4096, &column(b"a")).await?;
            rows(stream, ((4096 + 3) % 256) as u8, &[0xfb; 4096]).await
        }
        Attack::Row => {
            head(stream, 1, &column(b"a")).await?;
            flood(stream, &[0xff, 0xff, 0xff, 4, 0xfe, 0, 0, 0, 0, 4, 0, 0, 0]).await
        }
        Attack::Packet => {
            head(stream, 1, &column(b"a")).await?;
            flood(stream, &[0xfe, 0xff, 0xff, 4, 0xfd, 0xf8, 0xff, 0xff]).await
        }
        Attack::Results => {
            let mut sequence = 0_u8;
            loop {
                sequence = sequence.wrapping_add(1);
                stream.write_all(&numbered(sequence, &[0, 0, 0, MORE, 0, 0, 0])).await?;
            }
        }
        Attack::File => stream.write_all(&numbered(1, b"\xfb/etc/passwd")).await,
        Attack::Greeting | Attack::Login => unreachable!("was sent before"),
    }
}

/// The head of a result set: `count` columns, and what ends them.
async fn head(stream: &mut (impl AsyncWrite + Unpin), count: u16, column: &[u8]) -> std::io::Result<()> {
    let [low, high] = count.to_le_bytes();
    stream.write_all(&numbered(1, &[0xfc, low, high])).await?;
    for n in 0..count {
        stream.write_all(&numbered((n as u8).wrapping_add(2), column)).await?;
    }
    stream.write_all(&numbered((count as u8).wrapping_add(2), &[0xfe, 0, 0, 2, 0])).await
}

async fn rows(stream: &mut (impl AsyncWrite + Unpin), first: u8, row: &[u8]) -> std::io::Result<()> {
    let mut sequence = first.wrapping_sub(1);
    let mut buffer = Vec::new();
    loop {
        buffer.clear();
        for _ in 0..64 {
            buffer.extend(numbered(sequence.wrapping_add(1), row));
            sequence = sequence.wrapping_add(1);
        }
        stream.write_all(&buffer).await?;
    }
}

/// `start`, then bytes without end.
async fn flood(stream: &mut (impl AsyncWrite + Unpin), start: &[u8]) -> std::io::Result<()> {
    stream.write_all(start).await?;
    loop {
        stream.write_all(&[b'x'; 1 << 16]).await?;
    }
}

fn numbered(sequence: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = (payload.len() as u32).to_le_bytes()[..3].to_vec();
    packet.push(sequence);
    packet.extend(payload);
    packet
}

async fn receive(stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<()> {
    let length = stream.read_u24_le().await?;
    let mut payload = vec![0; length + 1];
    stream.read_exact(&mut payload).await.map(drop)
}

trait ReadU24 {
    async fn read_u24_le(&mut self) -> std::io::Result<usize>;
}

impl<T: AsyncRead + Unpin> ReadU24 for T {
    async fn read_u24_le(&mut self) -> std::io::Result<usize> {
        let mut bytes = [0; 3];
        self.read_exact(&mut bytes).await?;
        Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], 0]) as usize)
    }
}

/// Attacks a connection, and returns what it made of that.
async fn attacked(attack: Attack, tls: bool) -> Unseen {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let target = Target::Tcp { host: "127.0.0.1".to_owned(), port };
    forget_peak();
    let before = peak();
    let began = Instant::now();
    let attacker = async {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            // The client hangs up: that is the point.
            let _ = serve(stream, attack, tls).await;
        }
    };
    let encryption = if tls { Tls::Unverified } else { Tls::Off };
    let account = account("mha");
    let error = tokio::select! {
        biased;
        opened = Connection::open(&target, &account, &encryption, None, within(20.0)) => opened.unwrap_err(),
        () = attacker => unreachable!("accepts for ever"),
    };
    let grown = peak().saturating_sub(before);
    println!("{attack:?} tls {tls}: {error} after {:?}, {} KiB", began.elapsed(), grown >> 10);
    assert!(grown < LIMIT, "{attack:?}: {grown} bytes");
    assert!(began.elapsed() < Duration::from_secs(15), "{attack:?}: {:?}", began.elapsed());
    error.unseen
}

async fn refused(attack: Attack, words: &str) {
    for tls in [false, true] {
        let unseen = attacked(attack, tls).await;
        assert!(matches!(&unseen, Unseen::Looker(text) if text.contains(words)), "{attack:?}: {unseen}");
    }
}

#[tokio::test]
async fn columns_without_number() {
    refused(Attack::Columns(1 << 40), "announces 1099511627776 columns; at most 4096").await;
    refused(Attack::Columns(4097), "announces 4097 columns").await;
    refused(Attack::Columns(u64::MAX), "announces 18446744073709551615 columns").await;
    refused(Attack::LongNames, "does not end within the 16777216 bytes").await;
}

#[tokio::test]
async fn rows_without_end() {
    refused(Attack::Rows, "does not end within the 16777216 bytes").await;
    refused(Attack::Nulls, "does not end within the 16777216 bytes").await;
}

#[tokio::test]
async fn a_row_without_end() {
    refused(Attack::Row, "a packet of at least 16777215 bytes; at most 8388608").await;
    refused(Attack::Packet, "a packet of 16777214 bytes; at most 8388608").await;
}

#[tokio::test]
async fn results_without_end() {
    refused(Attack::Results, "does not end within the 16777216 bytes").await;
}

#[tokio::test]
async fn a_file_of_this_host() {
    refused(Attack::File, "asks for a file of this host").await;
}

#[tokio::test]
async fn a_login_without_end() {
    refused(Attack::Login, "its login does not end").await;
    assert!(matches!(attacked(Attack::Greeting, false).await, Unseen::Looker(_)));
}

#[test]
fn packets_are_numbered() {
    assert_eq!(packet(b"ab"), numbered(0, b"ab"));
}
