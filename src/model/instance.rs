//! Who a server is: the name it is configured by, the identity it proves, its flavor and version.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Host and port as configured; never a resolved address. Shown without the port where it is 3306.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct InstanceId {
    pub host: String,
    pub port: u16,
}

impl InstanceId {
    /// The port a MySQL or MariaDB server listens on unless told otherwise.
    pub const DEFAULT_PORT: u16 = 3306;

    pub fn new(host: impl Into<String>, port: u16) -> Self {
        Self { host: host.into(), port }
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.port, self.host.contains(':')) {
            (Self::DEFAULT_PORT, _) => f.write_str(&self.host),
            (port, false) => write!(f, "{}:{port}", self.host),
            (port, true) => write!(f, "[{}]:{port}", self.host),
        }
    }
}

impl From<InstanceId> for String {
    fn from(id: InstanceId) -> Self {
        id.to_string()
    }
}

/// Why a text is not a host with an optional port.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InstanceError {
    #[error("the host name is empty; write a name or address such as \"db1\" or \"10.0.0.11\"")]
    Empty,
    #[error(
        "{0:?} holds a character no host name has; use letters, digits, '-', '.', '_' (or ':' in an IPv6 address)"
    )]
    Character(String),
    #[error("{0:?} is longer than the 253 characters a host name may have")]
    TooLong(String),
    #[error("{0:?} is no port; write a number from 1 to 65535")]
    Port(String),
}

impl TryFrom<String> for InstanceId {
    type Error = InstanceError;
    fn try_from(text: String) -> Result<Self, InstanceError> {
        text.parse()
    }
}

impl FromStr for InstanceId {
    type Err = InstanceError;

    /// `db1`, `db1:3307`, `10.0.0.11`, `fd00::1`, `[fd00::1]:3307`.
    fn from_str(text: &str) -> Result<Self, InstanceError> {
        let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, "")) => (host, None),
            Some((host, tail)) => (host, Some(tail.strip_prefix(':').unwrap_or(tail))),
            None if text.matches(':').count() == 1 => {
                text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)))
            }
            None => (text, None),
        };
        let port = match port {
            None => Self::DEFAULT_PORT,
            Some(digits) => match digits.parse::<u16>() {
                Ok(port) if port > 0 => port,
                Ok(_) | Err(_) => return Err(InstanceError::Port(digits.to_owned())),
            },
        };
        check_host(host)?;
        Ok(Self::new(host, port))
    }
}

fn check_host(host: &str) -> Result<(), InstanceError> {
    if host.is_empty() {
        return Err(InstanceError::Empty);
    }
    if host.len() > 253 {
        return Err(InstanceError::TooLong(host.to_owned()));
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | ':');
    if host.chars().all(plain) { Ok(()) } else { Err(InstanceError::Character(host.to_owned())) }
}

/// The family of a server: what `mysql/dialect.rs` turns on, with the version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Flavor {
    MySql,
    MariaDb,
}

impl fmt::Display for Flavor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MySql => "MySQL",
            Self::MariaDb => "MariaDB",
        })
    }
}

/// A server version: the three numbers, without the vendor's suffix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Version {
    pub major: u16,
    pub minor: u16,
    pub patch: u16,
}

impl Version {
    pub const fn new(major: u16, minor: u16, patch: u16) -> Self {
        Self { major, minor, patch }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

impl From<Version> for String {
    fn from(version: Version) -> Self {
        version.to_string()
    }
}

/// A version text that does not begin with three numbers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} does not begin with a version such as 10.11.6")]
pub struct VersionError(String);

impl TryFrom<String> for Version {
    type Error = VersionError;
    fn try_from(text: String) -> Result<Self, VersionError> {
        text.parse()
    }
}

impl FromStr for Version {
    type Err = VersionError;

    /// Reads `@@version`: `9.7.4`, `10.11.14-MariaDB-0+deb12u2-log`, `5.5.5-10.4.1-MariaDB` (the prefix old clients were shown).
    fn from_str(text: &str) -> Result<Self, VersionError> {
        let body = text.strip_prefix("5.5.5-").unwrap_or(text);
        let mut numbers =
            body.splitn(3, '.').map(|part| part.split(|c: char| !c.is_ascii_digit()).next().unwrap_or(""));
        let mut next = || numbers.next().and_then(|digits| digits.parse().ok());
        match (next(), next(), next()) {
            (Some(major), Some(minor), Some(patch)) => Ok(Self { major, minor, patch }),
            _ => Err(VersionError(text.to_owned())),
        }
    }
}

/// What a server says of itself; a new connection is believed only when this is the server it was meant for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pub flavor: Flavor,
    pub version: Version,
    /// `@@server_id`: unique in a replication tree.
    pub server_id: u32,
    /// `@@server_uuid` of MySQL. MariaDB 10.11 has none: its identity is `server_id`, host name and port.
    pub server_uuid: Option<String>,
    /// `@@hostname`.
    pub hostname: String,
    /// `@@port`.
    pub port: u16,
}

impl Identity {
    /// Whether both are one server, of whatever version it is now. MySQL has a UUID, and its host may be renamed; MariaDB has none, so
    /// there host name and port are part of who it is.
    pub fn is_same_server(&self, other: &Self) -> bool {
        self.flavor == other.flavor
            && self.server_id == other.server_id
            && match (&self.server_uuid, &other.server_uuid) {
                (Some(own), Some(its)) => own == its,
                (None, None) => self.hostname == other.hostname && self.port == other.port,
                (Some(_), None) | (None, Some(_)) => false,
            }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.server_uuid {
            Some(uuid) => write!(f, "{} server_id {} uuid {uuid}", self.flavor, self.server_id),
            None => {
                write!(f, "{} server_id {} on {}:{}", self.flavor, self.server_id, self.hostname, self.port)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instances_round_trip() {
        for text in ["db1", "db1:3307", "10.0.0.11", "fd00::1", "[fd00::1]:3307"] {
            assert_eq!(text.parse::<InstanceId>().unwrap().to_string(), text);
        }
        assert_eq!("db1:3306".parse::<InstanceId>().unwrap().to_string(), "db1");
    }

    #[test]
    fn hostile_names_are_refused() {
        for text in [
            "",
            "db1;rm",
            "db 1",
            "db1\n",
            "db`1",
            "db1:0",
            "db1:70000",
            "db1:x",
            "d\u{e9}",
            &"a".repeat(300),
        ] {
            assert!(text.parse::<InstanceId>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn versions_of_both_families() {
        assert_eq!("10.11.14-MariaDB-0+deb12u2-log".parse(), Ok(Version::new(10, 11, 14)));
        assert_eq!("9.7.4".parse(), Ok(Version::new(9, 7, 4)));
        assert_eq!("5.5.5-10.4.1-MariaDB".parse(), Ok(Version::new(10, 4, 1)));
        assert!("ten".parse::<Version>().is_err());
    }
}
