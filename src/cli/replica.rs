//! `mhactl replica …` and `mhactl set …`: what to change about one member, as clap reads it and as the API is asked for it.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use tokio::time::{Instant, sleep};

use super::args::{agent_url, span};
use super::commands::{AGAIN, AWAY, Desk, Ended, Words, path};
use super::error::{CliError, Exit};
use crate::http::contract::{RejoinRequest, ReplicaRequest};
use crate::manager::snapshot::Snapshot;
use crate::model::instance::InstanceId;
use crate::model::intent::How;
use crate::model::report::ThreadState;
use crate::model::wishes::{Change, Threads};

/// What every one of them may be told.
#[derive(Debug, Args)]
pub(super) struct Manner {
    #[arg(long)]
    pub(super) cluster: Option<String>,
    /// Although commits may wait for acknowledgements afterwards; the refusal without it says what exactly.
    #[arg(long)]
    force: bool,
    /// How long others may take to be level.
    #[arg(long, value_name = "SPAN", default_value = "10s", value_parser = span)]
    wait: Duration,
    /// Show what would be done, or all that is in the way, and change nothing.
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Do it without asking.
    #[arg(long, conflicts_with = "dry_run")]
    pub(super) yes: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum ReplicaCommand {
    /// Make a server a member and a replica; it gets no vote, and leads only once the configuration names it.
    Add {
        #[arg(value_name = "HOST")]
        instance: InstanceId,
        /// Below this member, instead of the primary.
        #[arg(long, value_name = "HOST")]
        source: Option<InstanceId>,
        /// The agent beside it, such as http://db4:8421.
        #[arg(long, value_name = "URL", value_parser = agent_url)]
        agent: Option<String>,
        #[command(flatten)]
        manner: Manner,
    },
    /// Take a replica out of the cluster, also where the configuration names it; its replication is stopped.
    Remove {
        #[arg(value_name = "HOST")]
        instance: InstanceId,
        /// It goes on replicating, without acknowledging.
        #[arg(long)]
        keep_running: bool,
        #[command(flatten)]
        manner: Manner,
    },
    /// Put a replica below another member; it is put back there after repairs.
    Move {
        #[arg(value_name = "HOST")]
        instance: InstanceId,
        /// The primary, or another replica.
        #[arg(long, value_name = "HOST")]
        source: InstanceId,
        #[command(flatten)]
        manner: Manner,
    },
    /// Stop a replica; it stays stopped, acknowledges nothing and leads nothing until it is started.
    Stop {
        #[arg(value_name = "HOST")]
        instance: InstanceId,
        /// Only receiving.
        #[arg(long, conflicts_with = "sql")]
        io: bool,
        /// Only applying.
        #[arg(long)]
        sql: bool,
        #[command(flatten)]
        manner: Manner,
    },
    /// Replace a replica's data by a copy of a healthy one's; as `rejoin HOST --how rebuild`.
    Rebuild {
        #[arg(value_name = "HOST")]
        instance: InstanceId,
        /// Copy this one; else the one that is missed least.
        #[arg(long, value_name = "HOST")]
        from: Option<InstanceId>,
        #[arg(long)]
        cluster: Option<String>,
        /// End when the copy has begun, instead of telling how far it is until the replica replicates.
        #[arg(long)]
        detach: bool,
        /// Show what would be done, or all that is in the way, and change nothing.
        #[arg(long)]
        dry_run: bool,
        /// Do it without asking.
        #[arg(long, conflicts_with = "dry_run")]
        yes: bool,
    },
    /// Start a stopped replica, where it belongs; while no primary serves, its applier alone.
    Start {
        #[arg(value_name = "HOST")]
        instance: InstanceId,
        /// Apply first what was received. It is always done so: a start of both threads at once may throw that away.
        #[arg(long)]
        sql: bool,
        #[command(flatten)]
        manner: Manner,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum Switch {
    On,
    Off,
}

#[derive(Debug, Subcommand)]
pub(super) enum SetCommand {
    /// Close a replica to writers. Never opens one: there is one writer, the primary.
    ReadOnly {
        #[arg(value_name = "HOST")]
        instance: InstanceId,
        on: Switch,
        #[command(flatten)]
        manner: Manner,
    },
}

impl ReplicaCommand {
    /// Only shown.
    pub(super) fn is_dry_run(&self) -> bool {
        match self {
            Self::Add { manner, .. }
            | Self::Remove { manner, .. }
            | Self::Move { manner, .. }
            | Self::Stop { manner, .. }
            | Self::Start { manner, .. } => manner.dry_run,
            Self::Rebuild { dry_run, .. } => *dry_run,
        }
    }
}

/// What is asked, and how; then done.
pub(super) async fn replica(desk: &Desk, command: ReplicaCommand, by: String) -> Ended {
    let (instance, wanted, manner) = match command {
        ReplicaCommand::Add { instance, source, agent, manner } => {
            (instance, Change::Add { agent, source }, manner)
        }
        ReplicaCommand::Remove { instance, keep_running, manner } => {
            (instance, Change::Remove { keep_running }, manner)
        }
        ReplicaCommand::Move { instance, source, manner } => (instance, Change::Move { source }, manner),
        ReplicaCommand::Stop { instance, io, sql, manner } => {
            let threads = match (io, sql) {
                (true, _) => Threads::Receiver,
                (false, true) => Threads::Applier,
                (false, false) => Threads::Both,
            };
            (instance, Change::Stop { threads }, manner)
        }
        ReplicaCommand::Start { instance, sql: _, manner } => (instance, Change::Start, manner),
        ReplicaCommand::Rebuild { instance, from, cluster, detach, dry_run, yes } => {
            let request = RejoinRequest { instance, how: How::Rebuild, from, by, dry_run };
            return desk.rejoin(cluster, request, (yes, detach)).await;
        }
    };
    let request = request(instance, wanted, &manner, by);
    change(desk, manner.cluster, request, manner.yes).await
}

/// The same for `set`.
pub(super) fn set(command: SetCommand, by: String) -> (ReplicaRequest, Manner) {
    let SetCommand::ReadOnly { instance, on, manner } = command;
    let change = Change::ReadOnly { on: matches!(on, Switch::On) };
    (request(instance, change, &manner, by), manner)
}

fn request(instance: InstanceId, change: Change, manner: &Manner, by: String) -> ReplicaRequest {
    let within_ms = u64::try_from(manner.wait.as_millis()).ok();
    ReplicaRequest { instance, change, force: manner.force, within_ms, by, dry_run: manner.dry_run }
}

/// Shows the plan, asks, begins, and sees it to its end.
pub(super) async fn change(
    desk: &Desk,
    cluster: Option<String>,
    request: ReplicaRequest,
    yes: bool,
) -> Ended {
    let cluster = desk.cluster(cluster).await?;
    let proposal_of = ReplicaRequest { dry_run: true, ..request.clone() };
    let words = Words {
        verb: "replica",
        what: "change",
        if_refused: "mend what is named; \"mhactl topology\" shows who replicates from whom",
        note: "",
        question: format!("Do this about {}?", request.instance),
    };
    let only_show = request.dry_run;
    let ended = desk.begin(&cluster, &words, (&proposal_of, &request), only_show, yes).await?;
    if ended == Exit::Done && !only_show && matches!(request.change, Change::Add { .. }) {
        return joined(desk, &cluster, &request.instance).await;
    }
    Ok(ended)
}

/// Waits until a new member follows: beside an agent it is brought in as a returned server is, after it is one.
async fn joined(desk: &Desk, cluster: &str, instance: &InstanceId) -> Ended {
    let deadline = Instant::now() + AWAY;
    let mut last = String::new();
    loop {
        let snapshot: Snapshot = desk.client.get(&path(cluster, &[]), &[]).await?.value()?;
        let member = snapshot.members.iter().find(|member| member.instance == *instance);
        let runs = |state: Option<ThreadState>| state == Some(ThreadState::Running);
        if member.is_some_and(|member| runs(member.receiver) && runs(member.applier)) {
            return Ok(Exit::Done);
        }
        let parked = snapshot.parked.iter().find(|parked| parked.instance == *instance);
        let trouble = match (parked, Instant::now() >= deadline) {
            (Some(parked), _) => format!("{instance} is a member, and parked: {}", parked.why),
            (None, true) => {
                format!("{instance} is a member, and does not follow yet: {}", snapshot.sentence)
            }
            (None, false) => String::new(),
        };
        if !trouble.is_empty() {
            let next = "\"mhactl status\" shows how it is; \"mhactl replica remove\" takes it out again";
            return Err(CliError::new(Exit::Failed, "not_joined", trouble, next));
        }
        if !desk.json && last != snapshot.sentence {
            desk.screen.print(&snapshot.sentence);
            last = snapshot.sentence;
        }
        sleep(AGAIN).await;
    }
}
