//! A failover after a disaster: so many hosts are destroyed that no majority of voters is left. Shows what is lost, asks for it in
//! words, takes the votes of the destroyed hosts away, and fails over.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::commands::{Desk, Ended, path};
use super::error::{CliError, Exit};
use crate::http::contract::{Done, FailoverRequest, VotesRequest};
use crate::manager::event::Proposal;
use crate::manager::snapshot::Snapshot;

/// How long those that are left may take until they obey the manager under the new votes, and are heard.
const OBEYED_WITHIN: Duration = Duration::from_secs(30);
/// How long a recovery that runs meanwhile is waited for.
const SEEN_THROUGH_WITHIN: Duration = Duration::from_secs(600);
/// Between two tries.
const AGAIN: Duration = Duration::from_secs(1);

/// What is to be done with a destroyed host that comes back after all.
const BEFORE_IT_STARTS: &str = "Before it is ever started again, save \"extra\" in its agent's data directory and remove the rest of that \
    directory; then run \"mhactl votes --back HOST\".";

/// What an operator vouches for.
pub(super) struct Destroyed {
    pub(super) hosts: Vec<String>,
    /// The words that are asked for, given beforehand.
    pub(super) confirm: Option<String>,
}

impl Destroyed {
    /// Asks for it in words, where they were not given.
    fn vouched(&self, desk: &Desk) -> Result<(), CliError> {
        let words = format!("{} destroyed", self.hosts.join(" "));
        let typed = match &self.confirm {
            Some(given) => given.trim() == words,
            None => desk.screen.asks && !desk.json && desk.screen.typed(&words),
        };
        if typed {
            return Ok(());
        }
        Err(CliError::not_confirmed(&format!(
            "this, which needs the words \"{words}\" typed or given by --confirm,"
        )))
    }
}

/// The votes of destroyed hosts count no more, or those of hosts that are back do again.
pub(super) async fn votes(
    desk: &Desk,
    cluster: Option<String>,
    request: &VotesRequest,
    destroyed: &Destroyed,
) -> Ended {
    if !destroyed.hosts.is_empty() {
        if !desk.json {
            desk.screen.print(&format!(
                "The votes of {} count no more: the other voters decide alone. If one of these hosts ran on, it could take writes beside \
                 another primary. {BEFORE_IT_STARTS}",
                destroyed.hosts.join(" ")
            ));
        }
        destroyed.vouched(desk)?;
    }
    desk.do_now(cluster, "votes", request).await
}

/// Fails over, after a disaster with the hosts that are left.
pub(super) async fn failover(
    desk: &Desk,
    cluster: Option<String>,
    request: FailoverRequest,
    destroyed: &Destroyed,
    yes: bool,
) -> Ended {
    if destroyed.hosts.is_empty() {
        return desk.failover(cluster, request, yes).await;
    }
    recover(desk, cluster, request, destroyed).await
}

async fn recover(
    desk: &Desk,
    cluster: Option<String>,
    request: FailoverRequest,
    destroyed: &Destroyed,
) -> Ended {
    let cluster = desk.cluster(cluster).await?;
    let hosts = destroyed.hosts.join(" ");
    let dry = FailoverRequest { dry_run: true, ..request.clone() };
    let reply = desk.client.post(&path(&cluster, &["failover"]), &dry).await?;
    let proposal: Proposal = reply.value()?;
    if !desk.json {
        desk.screen.print(&desk.proposed(&proposal, "if nothing more arrives:"));
        desk.screen.print(&format!(
            "\nThe votes of {hosts} are taken away first: those that are left decide alone. If one of them ran on, it could take writes \
             too. {BEFORE_IT_STARTS}"
        ));
    }
    if request.dry_run {
        return Ok(Exit::Done);
    }
    destroyed.vouched(desk)?;
    let before = seen(desk, &cluster).await?.generation;
    let votes = VotesRequest { destroyed: destroyed.hosts.clone(), back: Vec::new(), by: request.by.clone() };
    let done: Done = desk.client.post(&path(&cluster, &["votes"]), &votes).await?.value()?;
    desk.screen.note(&done.done);
    let mut until = Instant::now() + OBEYED_WITHIN;
    let at_last = Instant::now() + SEEN_THROUGH_WITHIN;
    loop {
        match seen(desk, &cluster).await {
            // With the votes changed it is a failover like any other, and may be begun by the manager itself. The prospect is told of a primary
            // that serves.
            Ok(now) if now.generation > before && !now.recovering && !now.prospect.is_empty() => {
                let primary = now.primary.map_or_else(|| "another".to_owned(), |primary| primary.to_string());
                desk.screen.note(&format!(
                    "{primary} leads, generation {}: the manager began the failover by itself when the votes had changed (mhactl history {cluster})",
                    now.generation
                ));
                return Ok(Exit::Done);
            }
            Ok(now) if now.recovering && Instant::now() < at_last => until = Instant::now() + OBEYED_WITHIN,
            Ok(_) => match desk.failover(Some(cluster.clone()), request.clone(), true).await {
                Err(error) if error.exit == Exit::Refused && Instant::now() < until => {}
                ended => return ended,
            },
            Err(error) if Instant::now() >= until => return Err(error),
            Err(_) => {}
        }
        sleep(AGAIN).await;
    }
}

async fn seen(desk: &Desk, cluster: &str) -> Result<Snapshot, CliError> {
    desk.client.get(&path(cluster, &[]), &[]).await?.value()
}
