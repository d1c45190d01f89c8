//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::model::instance::InstanceId;

/// Operate MySQL and MariaDB clusters kept by mha-manager.
///
/// Exit codes: 0 done; 1 failed; 2 wrong usage; 3 refused, with the reasons; 5 the cluster shown is not healthy.
#[derive(Debug, Parser)]
#[command(name = "mhactl", version)]
pub(super) struct Flags {
    /// The manager's API.
    #[arg(long, global = true, env = "MHA_MANAGER", default_value = "http://127.0.0.1:8420")]
    pub(super) manager: String,
    /// File that holds the manager's token.
    #[arg(long, global = true, env = "MHA_TOKEN_FILE")]
    pub(super) token_file: Option<PathBuf>,
    /// Print the API's JSON.
    #[arg(long, global = true)]
    pub(super) json: bool,
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// One screen: verdict, sentence, members, who would lead if the primary died now.
    Status { cluster: Option<String> },
    /// Who replicates from whom.
    Topology { cluster: Option<String> },
    /// Recoveries, newest first, each as a timeline.
    History {
        cluster: Option<String>,
        #[arg(long, default_value_t = 10)]
        limit: u32,
    },
    /// Take a running cluster into care: shows every change first.
    Adopt {
        cluster: Option<String>,
        /// The server that leads, where more than one could.
        #[arg(long)]
        primary: Option<InstanceId>,
        /// Do it.
        #[arg(long)]
        yes: bool,
    },
    /// Promote a replica of a dead primary now.
    Failover {
        cluster: Option<String>,
        /// Show both plans, change nothing.
        #[arg(long)]
        dry_run: bool,
        /// Promote this one.
        #[arg(long)]
        to: Option<InstanceId>,
        /// Go on although acknowledged rows may be lost.
        #[arg(long)]
        accept_loss: bool,
        /// You vouch that the old primary cannot write.
        #[arg(long)]
        old_primary_is_dead: bool,
    },
    /// Let automatic failovers begin a new budget.
    Ack { cluster: Option<String> },
    /// Give a parked member back to automatic hands.
    Unpark {
        instance: InstanceId,
        #[arg(long)]
        cluster: Option<String>,
    },
    /// The configuration.
    #[command(subcommand)]
    Config(ConfigCommand),
}

#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Check a manager's configuration: all mistakes at once.
    Check {
        #[arg(default_value = "/etc/mha/manager.toml")]
        file: PathBuf,
    },
}
