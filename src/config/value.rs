//! Texts that stand for values: durations, URLs, prefixes, names; and the nearest of several names.
//! Each refusal is a pair: what is wrong, and what to write instead. Never reads a file.

use std::net::IpAddr;
use std::time::Duration;

use super::AGENT_PORT;
use crate::model::instance::InstanceId;

/// What is wrong, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) message: String,
    pub(super) advice: String,
}

pub(super) fn refuse<T>(message: impl Into<String>, advice: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal { message: message.into(), advice: advice.into() })
}

/// Milliseconds of each unit a duration may carry.
const UNITS: [(&str, u64); 5] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// `250ms`, `3s`, `10m`, `1h`, `2d`: a whole number and a unit.
pub(super) fn duration(text: &str) -> Result<Duration, Refusal> {
    const UNIT: &str = "the units are ms, s, m, h and d";
    if text.starts_with('-') {
        return refuse(format!("{text:?} is negative"), "write a duration longer than zero, such as \"3s\"");
    }
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(split);
    let unit = unit.trim();
    if digits.is_empty() {
        return refuse(
            format!("{text:?} is no duration"),
            format!("write a whole number and a unit, such as \"3s\"; {UNIT}"),
        );
    }
    if unit.is_empty() {
        return refuse(
            format!("{text:?} has no unit"),
            format!("write \"{digits}s\" or \"{digits}ms\"; {UNIT}"),
        );
    }
    if unit.starts_with(['.', ',']) {
        return refuse(
            format!("{text:?} is no whole number"),
            "write it in a smaller unit, such as \"1500ms\"",
        );
    }
    let Some((_, factor)) = UNITS.iter().find(|(name, _)| *name == unit) else {
        let near = UNITS.iter().find(|(name, _)| unit.to_ascii_lowercase().starts_with(name));
        let near = near.map_or("s", |(name, _)| name);
        return refuse(format!("{unit:?} is no unit of time"), format!("write \"{digits}{near}\"; {UNIT}"));
    };
    match digits.parse::<u64>().ok().and_then(|number| number.checked_mul(*factor)) {
        Some(0) => {
            refuse(format!("{text:?} is no time at all"), "write a duration longer than zero, such as \"3s\"")
        }
        Some(millis) => Ok(Duration::from_millis(millis)),
        None => refuse(format!("{text:?} is too long"), "write a shorter duration"),
    }
}

/// As it would be written in the configuration, in the largest unit that is exact.
pub(super) fn show(duration: Duration) -> String {
    let millis = duration.as_millis();
    let fits = |factor: u64| millis.is_multiple_of(u128::from(factor)) && millis > 0;
    UNITS.iter().rev().find(|(_, factor)| fits(*factor)).map_or_else(
        || format!("{millis}ms"),
        |(unit, factor)| format!("{}{unit}", millis / u128::from(*factor)),
    )
}

/// The URL of an agent, as it is kept.
///
/// # Errors
/// What is wrong with it, and what to write instead.
pub fn agent_url(text: &str) -> Result<String, (String, String)> {
    match base_url(text, AGENT_PORT) {
        Ok((url, _)) => Ok(url),
        Err(Refusal { message, advice }) => Err((message, advice)),
    }
}

/// `http://HOST:PORT`, with nothing behind it; gives it back without a closing slash, and its host.
pub(super) fn base_url(text: &str, default_port: u16) -> Result<(String, String), Refusal> {
    if text.starts_with("https://") {
        return refuse(
            format!("{text:?}: https to agents is not supported by mha {}", env!("CARGO_PKG_VERSION")),
            "write http:// and keep the agents' port to a network you trust; the token proves who asks",
        );
    }
    let Some(rest) = text.strip_prefix("http://") else {
        return refuse(
            format!("{text:?} is no URL of an agent"),
            format!("write \"http://HOST:{default_port}\""),
        );
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    // A host without brackets and with several colons is IPv6, where a port cannot be told from the address.
    let has_port = rest.rsplit_once(':').is_some_and(|(host, _)| !host.contains(':') || host.ends_with(']'));
    match rest.parse::<InstanceId>() {
        Ok(id) if has_port => Ok((url(&id.host, id.port), id.host)),
        Ok(id) => refuse(format!("{text:?} has no port"), format!("write {:?}", url(&id.host, default_port))),
        Err(error) => refuse(
            format!("{text:?} is no URL of an agent: {error}"),
            format!("write \"http://HOST:{default_port}\", with nothing behind the port"),
        ),
    }
}

/// A host with an optional port.
pub(super) fn instance(text: &str) -> Result<InstanceId, Refusal> {
    const ADVICE: &str = "write a host's name or address: \"db1\", \"10.0.0.11\"; with a port where it is not 3306: \"db1:3307\"";
    if text.contains("//") {
        return refuse(format!("{text:?} is a URL, not a host"), ADVICE);
    }
    text.parse::<InstanceId>()
        .map_err(|error| Refusal { message: error.to_string(), advice: ADVICE.to_owned() })
}

/// `http://host:port`, brackets around IPv6.
pub(super) fn url(host: &str, port: u16) -> String {
    if host.contains(':') { format!("http://[{host}]:{port}") } else { format!("http://{host}:{port}") }
}

/// `10.0.0.100/24`, `fd00::100/64`: an address a host can hold, with its prefix length.
pub(super) fn prefixed(text: &str) -> Result<(IpAddr, u8), Refusal> {
    let example = "write address and prefix length, such as \"10.0.0.100/24\" or \"fd00::100/64\"";
    let Some((address, prefix)) = text.split_once('/') else {
        return match text.parse::<IpAddr>() {
            Ok(IpAddr::V4(_)) => refuse(
                format!("{text:?} has no prefix length"),
                format!("write \"{text}/24\", or your network's length"),
            ),
            Ok(IpAddr::V6(_)) => refuse(
                format!("{text:?} has no prefix length"),
                format!("write \"{text}/64\", or your network's length"),
            ),
            Err(_) => refuse(format!("{text:?} is no IP address"), example),
        };
    };
    let Ok(address) = address.parse::<IpAddr>() else {
        return refuse(format!("{address:?} is no IP address"), example);
    };
    let most = if address.is_ipv4() { 32 } else { 128 };
    let Some(prefix) = prefix.parse::<u8>().ok().filter(|prefix| (1..=most).contains(prefix)) else {
        return refuse(
            format!("/{prefix} is no prefix length"),
            format!("write 1 to {most} behind the slash"),
        );
    };
    if address.is_unspecified() || address.is_loopback() || address.is_multicast() {
        return refuse(format!("clients cannot reach {address} on another host"), example);
    }
    if let IpAddr::V4(v4) = address
        && prefix < 31
    {
        let host_bits = u32::MAX >> prefix;
        let host = u32::from(v4) & host_bits;
        if host == 0 || host == host_bits {
            let what =
                if host == 0 { "the network's own address" } else { "the network's broadcast address" };
            return refuse(
                format!("{address} is {what} in a /{prefix}"),
                "write a free host address of that network",
            );
        }
    }
    Ok((address, prefix))
}

/// Whether both addresses are in one network of that prefix length.
pub(super) fn same_network(a: IpAddr, b: IpAddr, prefix: u8) -> bool {
    match (a, b) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (u32::from(a) ^ u32::from(b)).leading_zeros() >= u32::from(prefix),
        (IpAddr::V6(a), IpAddr::V6(b)) => {
            (u128::from(a) ^ u128::from(b)).leading_zeros() >= u32::from(prefix)
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
    }
}

/// Hosts are the same whatever their case and closing dot; addresses whatever their spelling.
pub(super) fn same_host(host: &str) -> String {
    match host.parse::<IpAddr>() {
        Ok(address) => address.to_string(),
        Err(_) => host.trim_end_matches('.').to_ascii_lowercase(),
    }
}

/// The name that was probably meant.
pub(super) fn nearest<'a>(written: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let written = written.to_ascii_lowercase().replace('-', "_");
    // A long text is no slip of the pen, and the table below grows with its length.
    if written.len() > 64 {
        return None;
    }
    let near = |name: &&str| {
        let apart = distance(&written, name);
        let inside = written.len() >= 4 && (name.starts_with(&written) || written.starts_with(*name));
        (apart <= (name.len() / 3).max(1) || inside).then_some(apart)
    };
    names.into_iter().filter_map(|name| near(&name).map(|apart| (apart, name))).min().map(|(_, name)| name)
}

/// Letters to insert, drop, change or swap with their neighbour.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let differs = usize::from(a[i - 1] != b[j - 1]);
            let mut best = (rows[i - 1][j] + 1).min(row[j - 1] + 1).min(rows[i - 1][j - 1] + differs);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}
