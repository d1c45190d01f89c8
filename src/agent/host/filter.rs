//! Who may reach the server, held by the kernel: one nftables table per agent, adopted and never rebuilt.
//!
//! The rules are written once and refer to sets; every later change is a change of elements in one atomic transaction.
//! A port in `guarded` is reached only while it is also in `lease`, whose elements time out without any process. What a
//! client sends to a closed port is answered by a TCP reset. What the server sends to a client is itself turned into a reset: its
//! flags are rewritten on the way out, and no TCP hands the bytes of a reset to a program. It must reach the client: a reset to the
//! server instead would end the server's socket, and the client would wait for an answer for ever. Closing the program changes nothing. Traffic forwarded to a container's own namespace is not seen here: run the agent in that namespace.

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::process::Stdio;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;

use super::diag::Diag;
pub use super::netlink::NetlinkError;
use super::nft::{self, Set};
use super::reset;

/// `SO_MARK` of the agent's own sockets: exempt from the filter, in both directions.
pub const AGENT_MARK: u32 = 0x006d_6861;

/// How long `nft` may take to write the rules.
const NFT_DEADLINE: Duration = Duration::from_secs(5);
/// Connections are looked for and cut so often at most: one that was being made is not in the first listing.
const CUT_ROUNDS: usize = 5;

/// What the kernel lets clients do, as its own sets say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "access", rename_all = "snake_case")]
pub enum Access {
    /// At least one server port is open without a lease.
    Admitted,
    /// Every port needs a lease, and at least one has it for this much longer.
    Held { remaining: Duration },
    /// No port can be reached.
    Closed,
}

/// Why the filter is not as it was told to be.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    #[error("no server port was given to guard; name the ports the server listens on")]
    NoPorts,
    #[error(
        "the program \"nft\" is not installed; install the package \"nftables\" (apt-get install nftables)"
    )]
    NftMissing,
    #[error(
        "nft could not write the table {table}: {output}; it needs root (CAP_NET_ADMIN) and nf_tables in the kernel"
    )]
    Nft { table: String, output: String },
    #[error("{doing} in the packet filter's table {table}: {source}")]
    Netlink { table: String, doing: &'static str, source: NetlinkError },
    #[error(
        "the packet filter's table {table} has vanished; somebody flushed the ruleset: open the filter again"
    )]
    Vanished { table: String },
    #[error(
        "the packet filter's table {table} has {found} rules where {expected} were written: open the filter again"
    )]
    Altered { table: String, found: usize, expected: usize },
    #[error("the packet filter's table {table} was told to be {told}, and reads back as {found:?}")]
    Contradicted { table: String, told: &'static str, found: Access },
}

/// The filter of one server's ports.
#[derive(Debug)]
pub struct Filter {
    table: nft::Table,
    ports: Vec<u16>,
    diag: Diag,
}

impl Filter {
    /// Writes the table of these ports (named by the first) if it is not there, and adopts it if it is: the rules are
    /// replaced in one transaction, no element of any set changes. A new table admits everybody.
    ///
    /// # Errors
    /// When no port is given, `nft` is missing or fails, or the kernel refuses the sockets.
    pub async fn open_or_adopt(server_ports: &[u16]) -> Result<Self, FilterError> {
        Self::open(server_ports, &[]).await
    }

    /// The same, with every port guarded from the first moment: also a new table admits nobody.
    ///
    /// # Errors
    /// As [`Self::open_or_adopt`].
    pub async fn open_guarded(server_ports: &[u16]) -> Result<Self, FilterError> {
        Self::open(server_ports, server_ports).await
    }

    async fn open(server_ports: &[u16], guarded: &[u16]) -> Result<Self, FilterError> {
        let first = server_ports.first().ok_or(FilterError::NoPorts)?;
        let name = format!("mha_{first}");
        write_rules(&name, guarded).await?;
        let opened =
            |error| FilterError::Netlink { table: name.clone(), doing: "opening a socket", source: error };
        let table = nft::Table::open(&name).map_err(opened)?;
        let diag = Diag::open().map_err(opened)?;
        let mut ports = server_ports.to_vec();
        ports.sort_unstable();
        ports.dedup();
        let filter = Self { table, ports, diag };
        filter.read_back().await?;
        Ok(filter)
    }

    /// Closes every port, cuts what is connected (spared endpoints and the agent's own sockets aside), and reads back.
    ///
    /// # Errors
    /// When the kernel refuses, is late, or then says something else.
    pub async fn close(&self) -> Result<(), FilterError> {
        // Removing elements makes the kernel wait for all packets on their way (6 to 10 ms). A failover closes a server whose end
        // has closed it already.
        if !matches!(self.read_back().await, Ok(Access::Closed)) {
            self.set_access("closing", true, None).await?;
        }
        self.cut().await;
        match self.read_back().await? {
            Access::Closed => Ok(()),
            found @ (Access::Admitted | Access::Held { .. }) => Err(self.contradicted("closed", found)),
        }
    }

    /// Opens every port for `ports_open_for` from now, and closes it then by itself; replaces an earlier lease,
    /// longer or shorter, in one transaction.
    ///
    /// # Errors
    /// When the kernel refuses or is late.
    pub async fn hold(&self, ports_open_for: Duration) -> Result<(), FilterError> {
        self.set_access("renewing the lease", true, Some(ports_open_for)).await
    }

    /// Opens every port without a lease: an ordinary read-only replica.
    ///
    /// # Errors
    /// When the kernel refuses or is late.
    pub async fn admit(&self) -> Result<(), FilterError> {
        self.set_access("admitting", false, None).await
    }

    async fn set_access(
        &self,
        doing: &'static str,
        guarded: bool,
        lease: Option<Duration>,
    ) -> Result<(), FilterError> {
        let keys: Vec<Vec<u8>> = self.ports.iter().map(|port| nft::port_key(*port)).collect();
        let mut changes = vec![self.table.flush(Set::Lease), self.table.flush(Set::Guarded)];
        if guarded {
            changes.push(self.table.add(Set::Guarded, &keys, None));
        }
        if let Some(span) = lease {
            changes.push(self.table.add(Set::Lease, &keys, Some(span)));
        }
        self.apply(doing, &changes).await
    }

    /// Lets exactly these remote endpoints through a closed filter, besides those spared before.
    ///
    /// # Errors
    /// When the kernel refuses or is late.
    pub async fn spare(&self, endpoints: &[SocketAddr]) -> Result<(), FilterError> {
        let (four, six) = split(endpoints);
        let sets = [(Set::Spared4, four), (Set::Spared6, six)];
        let changes: Vec<_> = sets
            .iter()
            .filter(|(_, keys)| !keys.is_empty())
            .map(|(set, keys)| self.table.add(*set, keys, None))
            .collect();
        self.apply("sparing endpoints", &changes).await
    }

    /// Spares nobody any longer. Connections spared until now are cut if the filter is closed.
    ///
    /// # Errors
    /// When the kernel refuses or is late.
    pub async fn clear_spared(&self) -> Result<(), FilterError> {
        if self.spared().await.map_err(|error| self.failed("reading who is spared", error))?.is_empty() {
            return self.read_back().await.map(drop);
        }
        let changes = [self.table.flush(Set::Spared4), self.table.flush(Set::Spared6)];
        self.apply("sparing nobody", &changes).await?;
        if self.read_back().await? == Access::Closed {
            self.cut().await;
        }
        Ok(())
    }

    /// Resets this host's connections *to* `server`, those open now and every later attempt.
    ///
    /// # Errors
    /// When the kernel refuses or is late.
    pub async fn block(&self, server: SocketAddr) -> Result<(), FilterError> {
        let server = canonical(server);
        let change = self.table.add(blocked_set(server), &[nft::endpoint_key(server)], None);
        self.apply("blocking a server", &[change]).await?;
        if let Err(error) = self.diag.cut_outgoing(server, AGENT_MARK).await {
            tracing::warn!(%server, error = %error, "open connections end at their next packet, not at once");
        }
        Ok(())
    }

    /// Takes back [`Self::block`]; a server that was not blocked is already so.
    ///
    /// # Errors
    /// When the kernel refuses or is late.
    pub async fn unblock(&self, server: SocketAddr) -> Result<(), FilterError> {
        let server = canonical(server);
        let doing = "unblocking a server";
        let (set, key) = (blocked_set(server), nft::endpoint_key(server));
        // A removal that finds nothing makes the kernel wait for all packets on their way all the same.
        if !self.is_blocked(server).await? {
            return self.read_back().await.map(drop);
        }
        match self.apply(doing, &[self.table.remove(set, &[key])]).await {
            // ENOENT is said of an element and of a whole table alike: ask which.
            Err(FilterError::Vanished { .. }) => self.read_back().await.map(drop),
            other @ (Ok(()) | Err(_)) => other,
        }
    }

    /// Whether this host's connections to `server` are reset.
    ///
    /// # Errors
    /// When the kernel refuses or is late.
    pub async fn is_blocked(&self, server: SocketAddr) -> Result<bool, FilterError> {
        let server = canonical(server);
        // The kernel's key has no zone.
        Ok(self.blocked().await?.contains(&SocketAddr::new(server.ip(), server.port())))
    }

    /// Every server that this host's connections to are reset.
    ///
    /// # Errors
    /// When the kernel refuses or is late.
    pub async fn blocked(&self) -> Result<HashSet<SocketAddr>, FilterError> {
        let blocked = self.endpoints([Set::Blocked4, Set::Blocked6]).await;
        blocked.map_err(|error| self.failed("reading who is blocked", error))
    }

    /// What the kernel's own sets say now, after checking that the rules are still there to read them.
    ///
    /// # Errors
    /// When the table is gone or altered, or the kernel refuses or is late.
    pub async fn read_back(&self) -> Result<Access, FilterError> {
        let doing = "reading back";
        let found = self.table.rules().await.map_err(|error| self.failed(doing, error))?;
        let expected = rules().len();
        if found == 0 {
            return Err(FilterError::Vanished { table: self.table.name().to_owned() });
        } else if found != expected {
            return Err(FilterError::Altered { table: self.table.name().to_owned(), found, expected });
        }
        let guarded = self.table.elements(Set::Guarded).await.map_err(|error| self.failed(doing, error))?;
        let lease = self.table.elements(Set::Lease).await.map_err(|error| self.failed(doing, error))?;
        Ok(judge(&self.ports, &guarded, &lease))
    }

    /// The filter is closed already: what is connected would meet a reset at its next packet. This makes it meet one now. Done while
    /// the host still has the address that the clients know, or their resets cannot leave.
    async fn cut(&self) {
        let table = self.table.name();
        match self.cut_all().await {
            Ok((count, 0)) => tracing::debug!(table, count, "cut connections"),
            Ok((count, left)) => {
                tracing::warn!(
                    table,
                    count,
                    left,
                    "connections were still there after cutting them {CUT_ROUNDS} times; they end at their next packet"
                );
            }
            Err(error) => {
                tracing::warn!(table, error = %error, "open connections end at their next packet, not at once");
            }
        }
    }

    /// How many connections were cut, and how many the last look still found.
    async fn cut_all(&self) -> Result<(usize, usize), NetlinkError> {
        let spared = self.spared().await?;
        let mut count = 0;
        for round in 1..=CUT_ROUNDS {
            let cut = self.diag.cut_served(&self.ports, &spared, AGENT_MARK).await?;
            if cut.is_empty() || round == CUT_ROUNDS {
                return Ok((count, cut.len()));
            }
            count += cut.len();
            let untold = reset::untold(&cut);
            if !untold.is_empty()
                && let Err(error) = reset::ask(&untold, AGENT_MARK)
            {
                tracing::warn!(table = self.table.name(), clients = untold.len(), error = %error, "clients are not told that their connections have ended; they learn it at their next packet");
            }
        }
        Ok((count, 0))
    }

    /// The remote endpoints that pass a closed filter.
    async fn spared(&self) -> Result<HashSet<SocketAddr>, NetlinkError> {
        self.endpoints([Set::Spared4, Set::Spared6]).await
    }

    async fn endpoints(&self, sets: [Set; 2]) -> Result<HashSet<SocketAddr>, NetlinkError> {
        let mut found = HashSet::new();
        for set in sets {
            let elements = self.table.elements(set).await?;
            found.extend(elements.iter().filter_map(|element| nft::read_endpoint(&element.key)));
        }
        Ok(found)
    }

    async fn apply(&self, doing: &'static str, changes: &[nft::Change]) -> Result<(), FilterError> {
        if changes.is_empty() {
            return Ok(());
        }
        self.table.apply(changes).await.map_err(|error| self.failed(doing, error))
    }

    fn failed(&self, doing: &'static str, source: NetlinkError) -> FilterError {
        let table = self.table.name().to_owned();
        if source.refused_with() == Some(libc::ENOENT) {
            FilterError::Vanished { table }
        } else {
            FilterError::Netlink { table, doing, source }
        }
    }

    fn contradicted(&self, told: &'static str, found: Access) -> FilterError {
        FilterError::Contradicted { table: self.table.name().to_owned(), told, found }
    }
}

/// Doubt counts as open: one unguarded port admits, one leased port holds.
fn judge(ports: &[u16], guarded: &[nft::Element], lease: &[nft::Element]) -> Access {
    let has = |set: &[nft::Element], port: u16| set.iter().any(|element| element.key == nft::port_key(port));
    if !ports.iter().all(|port| has(guarded, *port)) {
        return Access::Admitted;
    }
    let leased = |element: &&nft::Element| ports.iter().any(|port| element.key == nft::port_key(*port));
    // An element that never expires is no lease of ours, but it does open the port.
    let remaining =
        lease.iter().filter(leased).map(|element| element.remaining.unwrap_or(Duration::MAX)).max();
    match remaining {
        Some(remaining) if !remaining.is_zero() => Access::Held { remaining },
        Some(_) | None => Access::Closed,
    }
}

fn canonical(endpoint: SocketAddr) -> SocketAddr {
    SocketAddr::new(endpoint.ip().to_canonical(), endpoint.port())
}

fn blocked_set(server: SocketAddr) -> Set {
    match server.ip() {
        IpAddr::V4(_) => Set::Blocked4,
        IpAddr::V6(_) => Set::Blocked6,
    }
}

fn split(endpoints: &[SocketAddr]) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let (four, six): (Vec<_>, Vec<_>) =
        endpoints.iter().map(|endpoint| canonical(*endpoint)).partition(|endpoint| endpoint.is_ipv4());
    let keys = |list: Vec<SocketAddr>| list.into_iter().map(nft::endpoint_key).collect();
    (keys(four), keys(six))
}

/// The rules, as (chain, rule). A reset must pass, or nobody would learn of the refusal. Loopback is judged on its way in only, for
/// both directions: there the receiving socket's mark can be seen.
fn rules() -> Vec<(&'static str, String)> {
    let marked = format!("mark {AGENT_MARK:#x} accept");
    // Of what comes in: to its sender.
    let refuse = "reject with tcp reset";
    // Of what the server sends: to its receiver, who expects exactly this sequence number next. A server that dies behind a closed filter
    // is heard to end in the same way.
    let becomes_reset = "tcp flags set rst|ack accept";
    let closed = |end: &str| format!("tcp {end} @guarded tcp {end} != @lease");
    let (to_server, from_server) = (closed("dport"), closed("sport"));
    vec![
        ("input", "meta l4proto != tcp accept".to_owned()),
        ("input", "tcp flags & rst == rst accept".to_owned()),
        ("input", format!("iifname \"lo\" meta {marked}")),
        ("input", format!("socket {marked}")),
        ("input", format!("{to_server} ip saddr . tcp sport != @spared4 {refuse}")),
        ("input", format!("{to_server} ip6 saddr . tcp sport != @spared6 {refuse}")),
        ("input", format!("iifname \"lo\" {from_server} ip daddr . tcp dport != @spared4 {becomes_reset}")),
        ("input", format!("iifname \"lo\" {from_server} ip6 daddr . tcp dport != @spared6 {becomes_reset}")),
        ("input", format!("ip saddr . tcp sport @blocked4 {refuse}")),
        ("input", format!("ip6 saddr . tcp sport @blocked6 {refuse}")),
        ("output", "meta l4proto != tcp accept".to_owned()),
        ("output", "tcp flags & rst == rst accept".to_owned()),
        ("output", format!("meta {marked}")),
        ("output", format!("ip daddr . tcp dport @blocked4 {refuse}")),
        ("output", format!("ip6 daddr . tcp dport @blocked6 {refuse}")),
        (
            "output",
            format!("oifname != \"lo\" {from_server} ip daddr . tcp dport != @spared4 {becomes_reset}"),
        ),
        (
            "output",
            format!("oifname != \"lo\" {from_server} ip6 daddr . tcp dport != @spared6 {becomes_reset}"),
        ),
    ]
}

/// Creates what is missing, replaces the rules, leaves every element: safe to run at any time.
fn script(table: &str, guarded: &[u16]) -> String {
    let mut text = format!("add table inet {table}\n");
    for set in Set::ALL {
        text.push_str(&format!("add set inet {table} {} {{ {} }}\n", set.name(), set.declaration()));
    }
    for chain in ["input", "output"] {
        let hook = format!("type filter hook {chain} priority -10; policy accept;");
        text.push_str(&format!(
            "add chain inet {table} {chain} {{ {hook} }}\nflush chain inet {table} {chain}\n"
        ));
    }
    for port in guarded {
        text.push_str(&format!("add element inet {table} {} {{ {port} }}\n", Set::Guarded.name()));
    }
    for (chain, rule) in rules() {
        text.push_str(&format!("add rule inet {table} {chain} {rule}\n"));
    }
    text
}

async fn write_rules(table: &str, guarded: &[u16]) -> Result<(), FilterError> {
    let failed = |output: String| FilterError::Nft { table: table.to_owned(), output };
    let run = async {
        // Services are often started without the directories for administrators in their path.
        let path = std::env::var("PATH").unwrap_or_default();
        let mut child = tokio::process::Command::new("nft")
            .args(["-f", "-"])
            .env("PATH", format!("{path}:/usr/sbin:/sbin"))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(script(table, guarded).as_bytes()).await?;
        }
        super::output::wait(child).await
    };
    let output = match tokio::time::timeout(NFT_DEADLINE, run).await {
        Err(_) => return Err(failed(format!("no end within {} s", NFT_DEADLINE.as_secs()))),
        Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => return Err(FilterError::NftMissing),
        Ok(Err(error)) => return Err(failed(error.to_string())),
        Ok(Ok(output)) => output,
    };
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    Err(failed(text.lines().find(|line| !line.is_empty()).unwrap_or("it said nothing").trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn element(port: u16, remaining: Option<u64>) -> nft::Element {
        nft::Element { key: nft::port_key(port), remaining: remaining.map(Duration::from_millis) }
    }

    #[test]
    fn doubt_counts_as_open() {
        let guarded = [element(3306, None), element(33060, None)];
        assert_eq!(judge(&[3306, 33060], &guarded, &[]), Access::Closed);
        assert_eq!(judge(&[3306, 3307], &guarded, &[]), Access::Admitted, "3307 is not guarded");
        let held = Access::Held { remaining: Duration::from_millis(40) };
        assert_eq!(judge(&[3306, 33060], &guarded, &[element(3306, Some(40))]), held);
        assert_eq!(
            judge(&[3306], &guarded, &[element(9, Some(40))]),
            Access::Closed,
            "a lease of another port"
        );
        assert_eq!(
            judge(&[3306], &guarded, &[element(3306, Some(0))]),
            Access::Closed,
            "expired, not yet collected"
        );
    }

    #[test]
    fn the_script_can_be_run_again() {
        let text = script("mha_3306", &[3306, 33060]);
        assert!(text.lines().all(|line| line.starts_with("add ") || line.starts_with("flush chain ")));
        assert_eq!(text.matches("add rule").count(), rules().len());
        assert_eq!(text.matches("add element").count(), 2);
    }

    #[test]
    fn access_crosses_the_wire() {
        let held = Access::Held { remaining: Duration::from_millis(2_500) };
        let text = serde_json::to_string(&held).unwrap();
        assert_eq!(serde_json::from_str::<Access>(&text).unwrap(), held);
        assert_eq!(serde_json::to_string(&Access::Closed).unwrap(), r#"{"access":"closed"}"#);
    }
}
