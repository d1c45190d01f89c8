//! The vote of the manager's own host, where it makes the number of a cluster's votes odd: the same promises over the same routes as
//! on any other host. It votes as it is asked and knows nothing of what this manager wants.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use secrecy::SecretString;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::StartError;
use crate::agent::server::voter_router;
use crate::agent::voter::Votes;
use crate::config::{ClusterConfig, ManagerConfig, VOTE_PORT};
use crate::serving;
use crate::store::Store;

/// This host as a voter.
#[derive(Debug, Clone)]
pub(super) struct OwnVote {
    /// As the voters' lists have it.
    pub(super) host: String,
    pub(super) votes: Votes,
}

/// Serves the vote until `stop`; `None` where no cluster counts it, nor counted it when its voters were last recorded.
///
/// # Errors
/// When the store or a promise kept here cannot be read, or the port cannot be had.
pub(super) async fn serve(
    config: &ManagerConfig,
    store: &Store,
    tracker: &TaskTracker,
    stop: &CancellationToken,
) -> Result<Option<OwnVote>, StartError> {
    let Some(voter) = &config.vote else { return Ok(None) };
    let mut token = None;
    for ClusterConfig { cluster, agent_token, .. } in &config.clusters {
        let record = store.record(&cluster.name).await?;
        let named = record.iter().flat_map(|record| &record.voters);
        if cluster.voters.iter().chain(named).any(|counted| counted.host == voter.host) {
            token = token.or_else(|| agent_token.clone());
        }
    }
    let Some(token) = token else { return Ok(None) };
    let votes = Votes::open(&config.data_dir)?;
    let port = voter.url.rsplit(':').next().and_then(|port| port.parse().ok()).unwrap_or(VOTE_PORT);
    let listener = bind(port).await.map_err(|source| StartError::Vote { port, source })?;
    spawn(listener, votes.clone(), voter.host.clone(), token, tracker, stop);
    tracing::info!(host = voter.host, port, "this host votes");
    Ok(Some(OwnVote { host: voter.host.clone(), votes }))
}

/// On every address: a host's own name often means its loopback, which no holder of a lease could reach.
pub(super) async fn bind(port: u16) -> std::io::Result<TcpListener> {
    match TcpListener::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))).await {
        Err(error) if error.kind() != std::io::ErrorKind::AddrInUse => {
            TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))).await
        }
        bound => bound,
    }
}

pub(super) fn spawn(
    listener: TcpListener,
    votes: Votes,
    host: String,
    token: SecretString,
    tracker: &TaskTracker,
    stop: &CancellationToken,
) {
    let stop = stop.clone();
    tracker.spawn(async move {
        let app = voter_router(votes, &host, token);
        // Holders keep their connections open: they are not waited for.
        stop.run_until_cancelled(serving::serve(listener, app, stop.clone())).await;
    });
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::agent::client::{AgentClient, CallError, Connections};
    use crate::agent::wire::Lead;
    use crate::model::ballot::Ballot;
    use crate::model::cluster::ClusterName;

    #[tokio::test]
    async fn it_votes_over_the_network_for_who_shows_the_token() {
        let directory = tempfile::tempdir().unwrap();
        let votes = Votes::open(directory.path()).unwrap();
        let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
        let listener = bind(0).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        spawn(listener, votes.clone(), "m1".to_owned(), SecretString::from("right"), &tracker, &stop);
        let url = format!("http://127.0.0.1:{port}");
        let connections = Connections::new().unwrap();
        let within = Duration::from_secs(5);
        let ballot = Ballot { number: 3, manager: "m".to_owned() };
        let lead = Lead { cluster: ClusterName("orders".to_owned()), ballot: ballot.clone() };
        let wrong = AgentClient::new(&connections, &url, SecretString::from("wrong"));
        assert!(matches!(wrong.lead(&lead, within).await, Err(CallError::Token { .. })));
        let right = AgentClient::new(&connections, &url, SecretString::from("right"));
        assert!(right.lead(&lead, within).await.unwrap().accepted);
        assert_eq!(votes.promised(&lead.cluster).ballot, ballot);
        // A vote that is asked under another host's name would count twice.
        let twice = right.clone().of_host("m2").lead(&lead, within).await;
        assert!(matches!(twice, Err(CallError::WrongHost { reached, .. }) if reached == "m1"));
        let next = Lead { ballot: Ballot { number: 4, ..ballot }, ..lead };
        assert!(right.of_host("m1").lead(&next, within).await.unwrap().accepted);
        stop.cancel();
        tracker.close();
        tokio::time::timeout(within, tracker.wait()).await.unwrap();
    }
}
