//! The login: greeting, encryption where it is configured, and the password by the method that the account has.

use mysql_common::constants::CapabilityFlags;
use mysql_common::crypto;
use mysql_common::io::ParseBuf;
use mysql_common::packets::{AuthPlugin, HandshakePacket, HandshakeResponse};
use secrecy::ExposeSecret;

use super::answer::server_error;
use super::packet::Packets;
use super::{LOGIN_PACKET, WireError};
use crate::mysql::client::{Account, Tls};

/// The longest public key that is computed with, in bytes of its PEM form: a longer one would keep a thread busy.
const PUBLIC_KEY: usize = 2048;

/// The most packets of the server from the login to its end; the longest honest exchange has four.
const ROUNDS: u8 = 8;

/// The length of the challenge of the methods that end it with a zero byte, that byte included.
const TERMINATED_CHALLENGE: usize = 21;

/// Present-day servers announce multi-byte collations by one byte only; this one is known to all of them.
const UTF8MB4_SINCE: (u16, u16, u16) = (5, 5, 3);

const WANTED: CapabilityFlags = CapabilityFlags::CLIENT_PROTOCOL_41
    .union(CapabilityFlags::CLIENT_SECURE_CONNECTION)
    .union(CapabilityFlags::CLIENT_LONG_PASSWORD)
    .union(CapabilityFlags::CLIENT_TRANSACTIONS)
    .union(CapabilityFlags::CLIENT_MULTI_STATEMENTS)
    .union(CapabilityFlags::CLIENT_MULTI_RESULTS)
    .union(CapabilityFlags::CLIENT_PLUGIN_AUTH)
    .union(CapabilityFlags::CLIENT_CONNECT_ATTRS);

/// Without these nothing that is sent after the greeting would be understood.
const NEEDED: CapabilityFlags =
    CapabilityFlags::CLIENT_PROTOCOL_41.union(CapabilityFlags::CLIENT_SECURE_CONNECTION);

/// Logs in on a fresh connection.
pub(super) async fn login(
    mut packets: Packets,
    host: &str,
    account: &Account,
    tls: &Tls,
) -> Result<Packets, WireError> {
    let (offered, challenge, method) = greeted(packets.read(LOGIN_PACKET).await?)?;
    if !offered.contains(NEEDED) {
        return Err(WireError::refused("it speaks a protocol older than MySQL 4.1"));
    }
    let mut capabilities = offered & WANTED;
    if *tls != Tls::Off {
        if !offered.contains(CapabilityFlags::CLIENT_SSL) {
            return Err(WireError::Tls(
                "the server offers none; enable it there, or set tls = \"off\"".to_owned(),
            ));
        }
        capabilities |= CapabilityFlags::CLIENT_SSL;
        packets.write(&encryption_request(capabilities)).await?;
        packets = packets.encrypt(host, tls).await?;
    }
    let secret = account.password.expose_secret();
    let proof = method.gen_data(Some(secret), &challenge);
    let attributes = [("program_name".to_owned(), env!("CARGO_PKG_NAME").to_owned())].into();
    let response = HandshakeResponse::new(
        proof.as_deref(),
        UTF8MB4_SINCE,
        Some(account.user.as_bytes()),
        None::<&[u8]>,
        Some(method.borrow()),
        capabilities,
        Some(attributes),
        u32::MAX >> 2,
    );
    let mut payload = Vec::new();
    mysql_common::proto::MySerialize::serialize(&response, &mut payload);
    packets.write(&payload).await?;
    prove(&mut packets, method, challenge, secret).await?;
    Ok(packets)
}

/// What the server can, its challenge, and the method that it begins with.
fn greeted(packet: &[u8]) -> Result<(CapabilityFlags, Vec<u8>, AuthPlugin<'static>), WireError> {
    match packet {
        [0xff, error @ ..] => return Err(server_error(error)),
        [10, ..] => {}
        _ => return Err(WireError::refused("what answers there does not speak MySQL's protocol")),
    }
    let greeting: HandshakePacket<'_> =
        ParseBuf(packet).parse(()).map_err(|error| WireError::refused(format!("its greeting: {error}")))?;
    let method = match greeting.auth_plugin() {
        Some(AuthPlugin::CachingSha2Password) => AuthPlugin::CachingSha2Password,
        Some(_) | None => AuthPlugin::MysqlNativePassword,
    };
    Ok((greeting.capabilities(), greeting.nonce(), method))
}

fn encryption_request(capabilities: CapabilityFlags) -> Vec<u8> {
    let mut request = capabilities.bits().to_le_bytes().to_vec();
    request.extend((u32::MAX >> 2).to_le_bytes());
    request.push(45);
    request.extend([0; 23]);
    request
}

/// Follows the server until it accepts or refuses, through at most one change of the method.
async fn prove(
    packets: &mut Packets,
    mut method: AuthPlugin<'static>,
    mut challenge: Vec<u8>,
    secret: &str,
) -> Result<(), WireError> {
    let mut switched = false;
    for _ in 0..ROUNDS {
        match packets.read(LOGIN_PACKET).await? {
            [0x00, ..] => return Ok(()),
            [0xff, error @ ..] => return Err(server_error(error)),
            [0xfe, request @ ..] if !switched => {
                switched = true;
                (method, challenge) = switch(request)?;
                let proof = method.gen_data(Some(secret), &challenge);
                packets.write(proof.as_deref().unwrap_or(&[])).await?;
            }
            // The server knows the password's hash already; its OK follows.
            [0x01, 0x03] if method == AuthPlugin::CachingSha2Password => {}
            [0x01, 0x04] if method == AuthPlugin::CachingSha2Password => {
                send_password(packets, &challenge, secret).await?;
            }
            _ => return Err(WireError::refused("an unexpected packet during the login")),
        }
    }
    Err(WireError::refused("its login does not end"))
}

/// The method that the account has, and its challenge.
fn switch(request: &[u8]) -> Result<(AuthPlugin<'static>, Vec<u8>), WireError> {
    let mut parts = request.splitn(2, |byte| *byte == 0);
    let name = parts.next().unwrap_or(&[]);
    let challenge = parts.next().unwrap_or(&[]);
    let method = match AuthPlugin::from_bytes(name) {
        method
        @ (AuthPlugin::MysqlNativePassword | AuthPlugin::CachingSha2Password | AuthPlugin::Ed25519) => {
            method.into_owned()
        }
        AuthPlugin::MysqlOldPassword
        | AuthPlugin::MysqlClearPassword
        | AuthPlugin::MariadbParsec { .. }
        | AuthPlugin::Other(_) => {
            return Err(WireError::refused(format!(
                "the account logs in by {:?}; give it mysql_native_password, caching_sha2_password or ed25519",
                String::from_utf8_lossy(&name[..name.len().min(64)])
            )));
        }
    };
    let challenge = match challenge {
        [challenge @ .., 0] if challenge.len() + 1 == TERMINATED_CHALLENGE => challenge,
        challenge => challenge,
    };
    if challenge.is_empty() {
        return Err(WireError::refused("its challenge is empty"));
    }
    Ok((method, challenge.to_vec()))
}

/// The password itself, for a server that does not know its hash yet: as it is where nobody can read along, else encrypted.
async fn send_password(packets: &mut Packets, challenge: &[u8], secret: &str) -> Result<(), WireError> {
    let mut password = secret.as_bytes().to_vec();
    password.push(0);
    if packets.is_private() {
        return packets.write(&password).await;
    }
    packets.write(&[0x02]).await?;
    let key = match packets.read(PUBLIC_KEY).await? {
        [0x01, key @ ..] => key.to_vec(),
        [0xff, error @ ..] => return Err(server_error(error)),
        _ => return Err(WireError::refused("an unexpected packet in place of its public key")),
    };
    for (byte, mask) in password.iter_mut().zip(challenge.iter().cycle()) {
        *byte ^= mask;
    }
    packets.write(&crypto::encrypt(&password, &key)).await
}
