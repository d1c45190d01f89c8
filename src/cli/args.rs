//! The command line as clap reads it. Its words are the operator's manual: one sentence each.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};
use clap_complete::Shell;

use super::replica::{ReplicaCommand, SetCommand};
use super::rolling::Rolling;
use crate::model::instance::InstanceId;
use crate::model::intent::How;

const EXIT_CODES: &str = "\
Exit codes:
  0  done, and what was shown is well
  1  failed: it was begun and did not succeed, or something unexpected
  2  usage: the command line or a configuration is wrong
  3  refused: nothing was begun, the reasons are named (also: not confirmed)
  4  the manager was not reached
  5  unhealthy: `status` shows an adopted cluster that is not healthy
  6  the token is missing or wrong

Where the manager is, and its token: --manager and --token-file, else MHA_MANAGER and MHA_TOKEN_FILE,
else `manager` and `token_file` in ~/.config/mha/mhactl.toml or /etc/mha/mhactl.toml, else
http://127.0.0.1:8420 without a token. CLUSTER may be left out where there is only one.";

/// Show and operate the clusters mha-manager keeps.
#[derive(Debug, Parser)]
#[command(name = "mhactl", version, after_help = EXIT_CODES, max_term_width = 110)]
pub(super) struct Flags {
    /// Where the manager's API is [default: http://127.0.0.1:8420].
    #[arg(long, global = true, value_name = "URL", env = "MHA_MANAGER")]
    pub(super) manager: Option<String>,
    /// The file that holds the manager's token.
    #[arg(long, global = true, value_name = "FILE", env = "MHA_TOKEN_FILE")]
    pub(super) token_file: Option<PathBuf>,
    /// Use no manager, for when none runs: look, propose and act by the configuration and store of --config.
    #[arg(long, global = true)]
    pub(super) direct: bool,
    /// A manager's configuration, for --direct and `open`.
    #[arg(short, long, global = true, value_name = "FILE", default_value = "/etc/mha/manager.toml")]
    pub(super) config: PathBuf,
    /// Print the API's JSON instead of text for people.
    #[arg(long, global = true)]
    pub(super) json: bool,
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// How a cluster is: verdict, members, and who would lead if the primary died now.
    Status {
        cluster: Option<String>,
        /// Show it again each second, until Ctrl-C.
        #[arg(long, conflicts_with = "json")]
        watch: bool,
    },
    /// Who replicates from whom, as a tree.
    Topology { cluster: Option<String> },
    /// Take a running cluster into care. Shows every change first and asks.
    Adopt {
        cluster: Option<String>,
        /// The server that leads, where more than one could.
        #[arg(long, value_name = "HOST")]
        primary: Option<InstanceId>,
        /// Do it without asking.
        #[arg(long)]
        yes: bool,
    },
    /// Promote a replica of a failed primary. Shows both plans first and asks.
    Failover {
        cluster: Option<String>,
        /// Show both plans and change nothing.
        #[arg(long)]
        dry_run: bool,
        /// Promote this one, or nobody.
        #[arg(long, value_name = "HOST")]
        to: Option<InstanceId>,
        /// Promote although acknowledged transactions may be lost; the plan says which are known to be, and the most it can be.
        #[arg(long)]
        accept_loss: bool,
        /// You vouch that the old primary cannot take writes: powered off, or cut from every client.
        #[arg(long)]
        old_primary_is_dead: bool,
        /// These hosts are destroyed: their votes count no more, so that those that are left can decide. You are asked to type it.
        #[arg(long, value_name = "HOST,HOST", value_delimiter = ',', requires_all = ["accept_loss", "old_primary_is_dead"])]
        without_voters: Vec<String>,
        /// With --without-voters, instead of typing it: "HOST HOST destroyed".
        #[arg(long, value_name = "WORDS", requires = "without_voters")]
        confirm: Option<String>,
        /// Do it without asking.
        #[arg(long, conflicts_with = "dry_run")]
        yes: bool,
    },
    /// Change the primary while it serves: writers wait a moment, nothing is lost. Shows both plans first and asks.
    Switchover {
        cluster: Option<String>,
        /// Make this one primary; else the best.
        #[arg(long, value_name = "HOST")]
        to: Option<InstanceId>,
        /// Show both plans, or all that is in the way, and change nothing.
        #[arg(long)]
        dry_run: bool,
        /// How long writers may wait; past it everything is taken back.
        #[arg(long, value_name = "SPAN", default_value = "2s", value_parser = span)]
        write_block: Duration,
        /// How far behind the new primary may be, and how long it may take to catch up before writers wait.
        #[arg(long, value_name = "SPAN", default_value = "10s", value_parser = span)]
        wait_lag: Duration,
        /// How long open transactions may take to end before writers wait.
        #[arg(long, value_name = "SPAN", default_value = "500ms", value_parser = span)]
        drain: Duration,
        /// End sessions with long transactions, instead of leaving them in the way.
        #[arg(long)]
        kill_long_transactions: bool,
        /// Do it without asking.
        #[arg(long, conflicts_with = "dry_run")]
        yes: bool,
    },
    /// Have another lead instead of that host, before it is stopped; nothing where it does not lead. Tries again until the deadline.
    Handoff {
        #[arg(value_name = "HOST")]
        instance: InstanceId,
        #[arg(long)]
        cluster: Option<String>,
        /// Ends then, done or not. In its last 10 s sessions with long transactions are ended.
        #[arg(long, value_name = "SPAN", default_value = "30s", value_parser = deadline)]
        deadline: Duration,
        /// Show both plans, or all that is in the way, and change nothing.
        #[arg(long)]
        dry_run: bool,
        /// Do it without asking.
        #[arg(long, conflicts_with = "dry_run")]
        yes: bool,
    },
    /// Call the running operation off, as long as it can be taken back.
    Abort { cluster: Option<String> },
    /// Past recoveries, newest first; with an ID, one of them.
    History {
        cluster: Option<String>,
        /// Also without CLUSTER, where there is only one.
        id: Option<String>,
        /// How many.
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=200))]
        limit: u32,
    },
    /// The running recovery, or the last one, as it goes on.
    Follow { cluster: Option<String> },
    /// The votes of destroyed hosts count no more, or those of hosts that are back do again.
    Votes {
        cluster: Option<String>,
        /// These hosts are destroyed: their votes count no more, so that those that are left decide. You are asked to type it.
        #[arg(long, value_name = "HOST,HOST", value_delimiter = ',', required_unless_present = "back")]
        destroyed: Vec<String>,
        /// Hosts that are back, with nothing left of what their agents had voted (see the README).
        #[arg(long, value_name = "HOST,HOST", value_delimiter = ',')]
        back: Vec<String>,
        /// With --destroyed, instead of typing it: "HOST HOST destroyed".
        #[arg(long, value_name = "WORDS", requires = "destroyed")]
        confirm: Option<String>,
    },
    /// Acknowledge past automatic failovers: the budget begins anew.
    Ack { cluster: Option<String> },
    /// Bring a returned or parked member back. Shows what only it has and what would be done first, and asks.
    Rejoin {
        #[arg(value_name = "HOST")]
        instance: InstanceId,
        #[arg(long)]
        cluster: Option<String>,
        /// auto: as the configuration says; flashback: undo the transactions only it has, which stay saved in a file on its host; park: leave it alone; rebuild:
        /// replace its data by a copy of a healthy server's.
        #[arg(long, default_value = "auto", value_parser = how)]
        how: How,
        /// With --how rebuild: copy this one; else the one that is missed least.
        #[arg(long, value_name = "HOST")]
        from: Option<InstanceId>,
        /// With --how rebuild: end when the copy has begun, instead of telling how far it is until the member replicates.
        #[arg(long)]
        detach: bool,
        /// Show what only it has and what would be done, and change nothing.
        #[arg(long)]
        dry_run: bool,
        /// Do it without asking.
        #[arg(long, conflicts_with = "dry_run")]
        yes: bool,
    },
    /// Give a parked member back into automatic hands. You vouch for the rows of one that replicated with filters or passed over errors.
    Unpark {
        #[arg(value_name = "HOST")]
        instance: InstanceId,
        #[arg(long)]
        cluster: Option<String>,
    },
    /// Change one replica: its place, its threads, whether it is a member. Shows the plan first and asks.
    Replica {
        #[command(subcommand)]
        command: ReplicaCommand,
    },
    /// Set one thing of one member. Shows the plan first and asks.
    Set {
        #[command(subcommand)]
        command: SetCommand,
    },
    /// Run a command for one server after the other: replicas, then, after a switchover, the old primary. Stops at the first trouble.
    Rolling(Rolling),
    /// Open the last primary by hand, at its agent, when no manager is there. A majority of voters must still agree.
    Open {
        /// The member, as [[cluster.instance]] of --config has it; its agent and token are found there.
        #[arg(value_name = "HOST", required_unless_present = "agent", conflicts_with = "agent")]
        instance: Option<InstanceId>,
        /// Its agent, such as http://db1:8421; then --token-file holds the agent's token.
        #[arg(long, value_name = "URL", value_parser = agent_url)]
        agent: Option<String>,
        /// Do it without asking.
        #[arg(long)]
        yes: bool,
    },
    /// The configuration.
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Print a completion script for a shell.
    Completions { shell: Shell },
}

impl Command {
    /// Whether it may change something: then `--direct` asks the voters for the lead.
    pub(super) fn acts(&self) -> bool {
        match self {
            Self::Adopt { .. }
            | Self::Abort { .. }
            | Self::Ack { .. }
            | Self::Votes { .. }
            | Self::Unpark { .. } => true,
            Self::Failover { dry_run, .. }
            | Self::Switchover { dry_run, .. }
            | Self::Handoff { dry_run, .. }
            | Self::Rejoin { dry_run, .. } => !dry_run,
            Self::Replica { command } => !command.is_dry_run(),
            Self::Set { command: SetCommand::ReadOnly { manner, .. } } => !manner.dry_run,
            Self::Rolling(rolling) => !rolling.dry_run,
            Self::Status { .. }
            | Self::Topology { .. }
            | Self::History { .. }
            | Self::Follow { .. }
            | Self::Open { .. }
            | Self::Config { .. }
            | Self::Completions { .. } => false,
        }
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Check a configuration without starting anything: all mistakes at once.
    Check {
        /// The file [default: /etc/mha/manager.toml, with --agent /etc/mha/agent.toml].
        file: Option<PathBuf>,
        /// It is an agent's.
        #[arg(long)]
        agent: bool,
    },
}

fn how(text: &str) -> Result<How, String> {
    match text {
        "auto" => Ok(How::Auto),
        "flashback" => Ok(How::Flashback),
        "park" => Ok(How::Park),
        "rebuild" => Ok(How::Rebuild),
        _ => Err("it is auto, flashback, park or rebuild".to_owned()),
    }
}

/// The time of a whole handoff.
fn deadline(text: &str) -> Result<Duration, String> {
    let given = span(text)?;
    if given < Duration::from_secs(1) {
        return Err("another can lead after about a second at the earliest: give it 1s or more".to_owned());
    }
    Ok(given)
}

/// Where an agent is, as a configuration has it too.
pub(super) fn agent_url(text: &str) -> Result<String, String> {
    crate::config::agent_url(text).map_err(|(wrong, advice)| format!("{wrong}; {advice}"))
}

/// `2s`, `500ms`, `1m`.
pub(super) fn span(text: &str) -> Result<Duration, String> {
    let (digits, unit) = text.split_at(text.trim_end_matches(char::is_alphabetic).len());
    let number: u64 = digits.parse().map_err(|_| "write it with its unit, such as 2s or 500ms".to_owned())?;
    let unit = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        _ => return Err("its unit is ms, s or m".to_owned()),
    };
    number.checked_mul(unit).map(Duration::from_millis).ok_or_else(|| "too long".to_owned())
}
