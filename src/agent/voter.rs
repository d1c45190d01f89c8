//! This host's votes, one per cluster: `decide::lease`'s voter over a file. A promise is durable before its answer leaves;
//! a disk that refuses means no vote, said in words. A file that is damaged is put aside: that voter knows nothing, and learns from the
//! others first ([`crate::decide::lease::relearn`]).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::task::spawn_blocking;

use super::durable::{self, DurableError};
use super::wire::Electorate;
use crate::clock;
use crate::decide::lease::Terms;
use crate::decide::lease::relearn::Relearn;
use crate::decide::lease::voter::{Claim, Claimed, Led, Persist, Promises, Renew, Renewed, Voter};
use crate::model::ballot::{Ballot, Generation};
use crate::model::cluster::ClusterName;
use crate::model::instance::InstanceId;
use crate::model::overtaken::Recorded;

/// Clusters one host votes for, at most.
const MOST_CLUSTERS: usize = 1_024;

/// Why there is no vote.
#[derive(Debug, thiserror::Error)]
pub enum VoteError {
    #[error("this host does not vote: {0}")]
    Durable(#[from] DurableError),
    #[error("{0:?} is no cluster's name")]
    Name(String),
    #[error("this host votes for {MOST_CLUSTERS} clusters already; is somebody making names up?")]
    TooMany,
    #[error("this host does not vote: the write did not end: {0}")]
    Halted(String),
}

/// What this host promised, as status shows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Promised {
    pub ballot: Ballot,
    pub generation: Generation,
    /// Whose that generation is.
    pub holder: Option<InstanceId>,
    pub granted_ago: Option<Duration>,
}

/// All votes of this host.
#[derive(Debug, Clone)]
pub struct Votes {
    directory: PathBuf,
    voters: Arc<Mutex<BTreeMap<ClusterName, Voter>>>,
    /// What was last promised, readable while a write hangs in the disk.
    shown: Arc<std::sync::Mutex<BTreeMap<ClusterName, Voter>>>,
    /// Who votes beside this host, as members said.
    electorates: Arc<std::sync::Mutex<BTreeMap<ClusterName, Electorate>>>,
}

/// A cluster of which this host's voter knows nothing, and the others to learn from.
#[derive(Debug)]
pub(crate) struct Blank {
    pub(super) electorate: Electorate,
    pub(super) relearn: Relearn,
}

impl Votes {
    /// Reads every promise below `data_dir`. Grants given before count as given now.
    ///
    /// # Errors
    /// When the directory or a file in it cannot be read: the whole host then does not vote.
    pub fn open(data_dir: &Path) -> Result<Self, VoteError> {
        let directory = data_dir.join("votes");
        let failed = |source| DurableError::Io { path: directory.clone(), doing: "opening", source };
        std::fs::create_dir_all(&directory).map_err(failed)?;
        let mut voters = BTreeMap::new();
        for entry in std::fs::read_dir(&directory).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let Some(name) = path.file_stem().and_then(|stem| stem.to_str()).map(str::to_owned) else {
                continue;
            };
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            let promises = match durable::read::<Promises>(&path) {
                Err(DurableError::Damaged { .. }) => put_aside(&path)?,
                other @ (Ok(_) | Err(DurableError::Io { .. })) => other?.unwrap_or_default(),
            };
            voters.insert(ClusterName(name), Voter::restored(promises, clock::now()));
        }
        let shown = Arc::new(std::sync::Mutex::new(voters.clone()));
        let electorates = Arc::default();
        Ok(Self { directory, voters: Arc::new(Mutex::new(voters)), shown, electorates })
    }

    /// A manager takes the lead.
    ///
    /// # Errors
    /// When there is no vote.
    pub async fn take_lead(&self, cluster: &ClusterName, ballot: &Ballot) -> Result<Led, VoteError> {
        self.vote(cluster, |voter| voter.take_lead(ballot)).await
    }

    /// A command comes under this ballot: whether it is obeyed here.
    pub async fn lead(&self, cluster: &ClusterName, ballot: &Ballot) -> Result<Led, VoteError> {
        self.vote(cluster, |voter| voter.lead(ballot)).await
    }

    /// A record was written.
    ///
    /// # Errors
    /// When there is no vote.
    pub async fn note_record(&self, cluster: &ClusterName, recorded: Recorded) -> Result<(), VoteError> {
        self.vote(cluster, |voter| ((), voter.note_record(recorded))).await
    }

    /// The holder renews.
    ///
    /// # Errors
    /// When there is no vote.
    pub async fn renew(&self, ask: &Renew) -> Result<Renewed, VoteError> {
        self.vote(&ask.cluster, |voter| voter.renew(ask, clock::now())).await
    }

    /// A manager claims.
    ///
    /// # Errors
    /// When there is no vote.
    pub async fn claim(&self, claim: &Claim) -> Result<Claimed, VoteError> {
        self.vote(&claim.cluster, |voter| voter.claim(claim, clock::now())).await
    }

    /// What was promised for that cluster.
    pub fn promised(&self, cluster: &ClusterName) -> Promised {
        let voters = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(voter) = voters.get(cluster) else { return Promised::default() };
        let Promises { ballot, generation, holder, .. } = voter.promises().clone();
        Promised { ballot, generation, holder, granted_ago: voter.granted_ago(clock::now()) }
    }

    /// A member or a manager says who votes; an earlier manager's word does not replace a later one's.
    ///
    /// # Errors
    /// When there is no vote.
    pub async fn introduce(&self, electorate: Electorate) -> Result<(), VoteError> {
        // So that the voter is there, and its wait begins.
        self.vote(&electorate.cluster, |_| ((), Persist::Unchanged)).await?;
        let mut known = self.electorates.lock().unwrap_or_else(PoisonError::into_inner);
        let is_later =
            known.get(&electorate.cluster).is_none_or(|last| last.ballot.number <= electorate.ballot.number);
        if is_later {
            known.insert(electorate.cluster.clone(), electorate);
        }
        Ok(())
    }

    /// Clusters whose promises this host lost or never had.
    pub(crate) fn blanks(&self, me: &str) -> Vec<Blank> {
        let voters = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let known = self.electorates.lock().unwrap_or_else(PoisonError::into_inner);
        let blank = |electorate: &Electorate| {
            let since = voters.get(&electorate.cluster)?.blank_since()?;
            let hosts = electorate.voters.iter().map(|voter| voter.host.clone()).collect();
            let terms = Terms::new(me, hosts, &electorate.policy);
            Some(Blank { electorate: electorate.clone(), relearn: Relearn::new(&terms, since) })
        };
        known.values().filter_map(blank).collect()
    }

    /// Promises from now on what the others know.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) async fn relearn(&self, cluster: &ClusterName, learned: &Promises) -> Result<(), VoteError> {
        self.vote(cluster, |voter| ((), voter.relearn(learned))).await
    }

    /// Works on a copy, which becomes the voter when what it promised is written.
    async fn vote<A>(
        &self,
        cluster: &ClusterName,
        work: impl FnOnce(&mut Voter) -> (A, Persist),
    ) -> Result<A, VoteError> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        if cluster.0.is_empty() || cluster.0.len() > 64 || !cluster.0.chars().all(plain) {
            return Err(VoteError::Name(cluster.0.clone()));
        }
        let mut voters = self.voters.lock().await;
        if voters.len() >= MOST_CLUSTERS && !voters.contains_key(cluster) {
            return Err(VoteError::TooMany);
        }
        let known = voters.get(cluster).cloned();
        let mut voter = known.unwrap_or_else(|| Voter::restored(Promises::default(), clock::now()));
        let (answer, persist) = work(&mut voter);
        if persist == Persist::First {
            let path = self.directory.join(format!("{cluster}.json"));
            let promises = voter.promises().clone();
            let written = spawn_blocking(move || durable::write(&path, &promises)).await;
            written.map_err(|error| VoteError::Halted(error.to_string()))??;
        }
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        shown.insert(cluster.clone(), voter.clone());
        voters.insert(cluster.clone(), voter);
        Ok(answer)
    }
}

/// Keeps the damaged file for whoever wants to look, and begins with nothing.
fn put_aside(path: &Path) -> Result<Promises, DurableError> {
    let aside = path.with_extension("damaged");
    tracing::error!(file = %path.display(), kept = %aside.display(), "this host's promises are damaged; it votes again when it has learned from the others");
    std::fs::rename(path, &aside).map_err(|source| DurableError::Io {
        path: path.to_owned(),
        doing: "putting aside",
        source,
    })?;
    Ok(Promises::default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::plan::Proof;

    fn orders() -> ClusterName {
        ClusterName("orders".to_owned())
    }

    fn claim(generation: u64) -> Claim {
        Claim {
            cluster: orders(),
            ballot: Ballot { number: 1, manager: "m".to_owned() },
            generation: Generation(generation),
            candidate: InstanceId::new("db1", 3306),
            proof: Proof::Adoption,
            released: Vec::new(),
        }
    }

    #[tokio::test]
    async fn promises_outlive_the_process_and_a_damaged_file_is_no_vote() {
        let directory = tempfile::tempdir().unwrap();
        let votes = Votes::open(directory.path()).unwrap();
        assert!(matches!(votes.claim(&claim(3)).await, Ok(Claimed::Accepted { .. })));
        let again = Votes::open(directory.path()).unwrap();
        assert_eq!(again.promised(&orders()).generation, Generation(3));
        assert!(matches!(again.claim(&claim(2)).await, Ok(Claimed::Superseded { .. })));
        std::fs::write(directory.path().join("votes/orders.json"), "{\"ballot\":").unwrap();
        let damaged = Votes::open(directory.path()).unwrap();
        let failover = Claim { generation: Generation(4), proof: Proof::Expired, ..claim(4) };
        assert!(matches!(damaged.claim(&failover).await, Ok(Claimed::NoVote)));
        assert!(directory.path().join("votes/orders.damaged").exists());
        // Nothing is told of it at all when the whole directory is lost.
        std::fs::remove_dir_all(directory.path().join("votes")).unwrap();
        let lost = Votes::open(directory.path()).unwrap();
        assert!(matches!(lost.claim(&failover).await, Ok(Claimed::NoVote)));
        let holder = InstanceId::new("db1", 3306);
        let learned = Promises { generation: Generation(3), holder: Some(holder), ..Promises::default() };
        lost.relearn(&orders(), &learned).await.unwrap();
        assert!(matches!(lost.claim(&failover).await, Ok(Claimed::Accepted { .. })));
    }

    /// Hosts that vote no more know only what was promised while they did.
    #[tokio::test]
    async fn a_blank_voter_does_not_learn_from_an_earlier_managers_list() {
        let directory = tempfile::tempdir().unwrap();
        let votes = Votes::open(directory.path()).unwrap();
        let electorate = |number, hosts: &[&str]| Electorate {
            ballot: Ballot { number, manager: "m".to_owned() },
            cluster: orders(),
            voters: hosts
                .iter()
                .map(|host| crate::model::cluster::Voter { host: (*host).to_owned(), url: String::new() })
                .collect(),
            policy: crate::model::policy::Policy::default(),
        };
        for (number, hosts) in [(7, ["c", "d", "x"]), (3, ["a", "b", "c"])] {
            votes.introduce(electorate(number, &hosts)).await.unwrap();
        }
        let blanks = votes.blanks("x");
        assert_eq!(blanks.len(), 1);
        assert_eq!(blanks[0].electorate, electorate(7, &["c", "d", "x"]));
    }

    #[tokio::test]
    async fn a_disk_that_refuses_gives_no_vote_and_no_promise() {
        let directory = tempfile::tempdir().unwrap();
        let votes = Votes::open(directory.path()).unwrap();
        std::fs::remove_dir_all(directory.path().join("votes")).unwrap();
        assert!(votes.claim(&claim(3)).await.is_err());
        assert_eq!(votes.promised(&orders()).generation, Generation(0));
        let hostile = ClusterName("../../etc/x".to_owned());
        assert!(matches!(votes.lead(&hostile, &claim(1).ballot).await, Err(VoteError::Name(_))));
    }
}
