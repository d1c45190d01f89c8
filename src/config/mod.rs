//! What the operator wants, from TOML: read, checked against itself, secrets loaded. One pass finds every mistake, each
//! with its line and what to write instead. Never asks a server, never changes anything, never shows a secret.
//!
//! ```text
//! text ──► read.rs (kinds, unknown keys) ──► manager.rs, cluster.rs, agent.rs (values) ──► check.rs (values against each other)
//! ```

mod account;
mod agent;
mod check;
mod cluster;
mod difference;
mod findings;
mod manager;
mod read;
mod secret;
mod thresholds;
mod value;

#[cfg(test)]
mod tests;

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use secrecy::SecretString;
use toml::de::DeTable;

pub use self::difference::difference;
use self::findings::Findings;
pub use self::findings::{ConfigErrors, Finding, Warning};
use self::read::Table;
pub use self::value::agent_url;
use crate::model::cluster::{Cluster, Voter};

/// Port of an agent where none is written.
pub const AGENT_PORT: u16 = 8421;
/// Port of the manager's own vote where none is written.
pub const VOTE_PORT: u16 = 8422;

/// Everything `manager.toml` says.
#[derive(Debug, Clone)]
pub struct ManagerConfig {
    /// Where the API is served.
    pub listen: SocketAddr,
    pub data_dir: PathBuf,
    /// The most automatic failovers of all clusters that begin within a minute.
    pub failovers_at_once: u32,
    pub on_event: Option<OnEvent>,
    /// What API clients must show; `None` only on a loopback address.
    pub token: Option<SecretString>,
    /// The vote of the manager's own host: a voter in clusters where it makes the number odd.
    pub vote: Option<Voter>,
    pub clusters: Vec<ClusterConfig>,
}

/// One cluster, and what opens its servers and agents.
#[derive(Debug, Clone)]
pub struct ClusterConfig {
    pub cluster: Cluster,
    pub accounts: Accounts,
    /// What its agents and witnesses want to be shown; `None` only where there are none.
    pub agent_token: Option<SecretString>,
    /// Of the manager's connections to its servers, and of replication.
    pub tls: Tls,
}

/// The three accounts the product uses on a server.
#[derive(Debug, Clone)]
pub struct Accounts {
    /// The manager's own.
    pub admin: Account,
    /// The replicas' at their source.
    pub replication: Account,
    /// May write `mha.heartbeat` and nothing else.
    pub heartbeat: Account,
}

/// A server account.
#[derive(Debug, Clone)]
pub struct Account {
    pub user: String,
    pub password: SecretString,
}

/// How a connection to a server is protected.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Tls {
    #[default]
    Off,
    /// Encrypted; whoever answers is believed.
    Required,
    /// Encrypted; the certificate must be signed by this authority (a PEM file) and name the host.
    VerifyIdentity { ca: PathBuf },
}

/// Who is told of every decision.
#[derive(Clone)]
pub enum OnEvent {
    /// Posted there as JSON. The URL is a secret: that of a chat service holds its key.
    Webhook(SecretString),
    /// Started with JSON on its standard input.
    Exec(PathBuf),
}

impl fmt::Debug for OnEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Webhook(_) => f.write_str("Webhook(…)"),
            Self::Exec(path) => write!(f, "Exec({})", path.display()),
        }
    }
}

/// Everything `agent.toml` says.
#[derive(Debug, Clone)]
pub struct AgentConfig {
    /// Where managers and other agents ask.
    pub listen: SocketAddr,
    /// This host's name as the voters' list has it.
    pub host: String,
    /// What everybody who asks must show.
    pub token: SecretString,
    /// What must outlive a reboot: ballots and grants accepted.
    pub data_dir: PathBuf,
    /// What must not: what this boot's kernel still allows.
    pub run_dir: PathBuf,
    /// The server on this host; `None` for a witness, which only votes.
    pub server: Option<ServerConfig>,
}

/// The server an agent watches, starts and opens.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    pub port: u16,
    pub socket: PathBuf,
    /// `None`: asked from the server.
    pub pid_file: Option<PathBuf>,
    /// `None`: asked from the server while it lives.
    pub data_dir: Option<PathBuf>,
    /// `None`: asked from the server while it lives.
    pub binlog_index: Option<PathBuf>,
    /// The program that decodes binary logs, and arguments before ours.
    pub binlog_tool: Vec<String>,
    /// How the server is started; `None` leaves a dead one to others.
    pub service: Option<Service>,
    pub on_stop: OnStop,
    /// How long the service manager is kept waiting for another to lead. 30 s.
    pub handoff_within: Duration,
    /// How long a planned restart keeps others from taking over. 60 s.
    pub restart_window: Duration,
    /// By the socket.
    pub admin: Account,
    pub heartbeat: Account,
    /// Given to the server when it is to follow another.
    pub replication: Account,
    /// Of replication from this host.
    pub replication_tls: Tls,
}

/// What is done before the service manager stops a server that leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnStop {
    /// Another leads first.
    Handoff,
    /// Nobody takes over while it is away, for the window that is given to it.
    PlannedRestart,
}

/// How a server is started and stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Service {
    /// A systemd unit.
    Unit(String),
    /// A program that becomes the server, and the file that takes what it says.
    Command { command: Vec<String>, log: PathBuf },
}

/// Reads and checks `manager.toml`, and loads the secrets it points at.
///
/// # Errors
/// The file cannot be read, or holds mistakes: all of them.
pub fn load_manager(path: &Path) -> Result<(ManagerConfig, Vec<Warning>), ConfigErrors> {
    check_manager_text(&path.display().to_string(), &read_text(path)?)
}

/// Reads and checks `agent.toml`, and loads the secrets it points at.
///
/// # Errors
/// The file cannot be read, or holds mistakes: all of them.
pub fn load_agent(path: &Path) -> Result<(AgentConfig, Vec<Warning>), ConfigErrors> {
    check_agent_text(&path.display().to_string(), &read_text(path)?)
}

/// As [`load_manager`], of a text at hand; `name` is what messages call it.
///
/// # Errors
/// The text holds mistakes: all of them.
pub fn check_manager_text(name: &str, text: &str) -> Result<(ManagerConfig, Vec<Warning>), ConfigErrors> {
    check_text(name, text, manager::read)
}

/// As [`load_agent`], of a text at hand; `name` is what messages call it.
///
/// # Errors
/// The text holds mistakes: all of them.
pub fn check_agent_text(name: &str, text: &str) -> Result<(AgentConfig, Vec<Warning>), ConfigErrors> {
    check_text(name, text, agent::read)
}

fn check_text<T>(
    name: &str,
    text: &str,
    read: impl FnOnce(&Table<'_>) -> Option<T>,
) -> Result<(T, Vec<Warning>), ConfigErrors> {
    let findings = Findings::new(name, text);
    let (document, broken) = DeTable::parse_recoverable(text);
    for error in &broken {
        findings.syntax(error);
    }
    // A text half read would seem to lack what is only unreadable.
    let value = if findings.has_errors() {
        None
    } else {
        read(&Table::new(&findings, document.get_ref(), 0..0, "the file"))
    };
    findings.finish(value)
}

fn read_text(path: &Path) -> Result<String, ConfigErrors> {
    std::fs::read_to_string(path).map_err(|source| ConfigErrors::Unreadable { path: path.to_owned(), source })
}
