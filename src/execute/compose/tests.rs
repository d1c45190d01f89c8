use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::decide::lease::voter::Outstanding;
use crate::decide::plan::Proof;
use crate::execute::record::RecordError;
use crate::model::ballot::Ballot;
use crate::model::cluster::{ClusterName, Member, Mode, Promotion, Voter as VoterHost};
use crate::model::policy::Policy;
use crate::model::record::ClusterRecord;

const MS: Duration = Duration::from_millis(1);

/// What one voter answers, one after the other, and how long each answer takes.
type Script = Vec<(Duration, Result<Claimed, String>)>;

struct Scripted(RefCell<std::vec::IntoIter<(Duration, Result<Claimed, String>)>>);

impl Voter for Scripted {
    async fn claim(&self, _claim: &Claim, _timeout: Duration) -> Result<Claimed, String> {
        let next = self.0.borrow_mut().next();
        let (takes, answer) = next.expect("it is asked no more often than the test says");
        tokio::time::sleep(takes).await;
        answer
    }
}

/// A cluster of which only the voters, the record and looks at agents are there.
struct Outside {
    cluster: Cluster,
    voters: BTreeMap<String, Script>,
    record: Option<ClusterRecord>,
    looked_at: RefCell<Vec<InstanceId>>,
    waited: RefCell<Vec<Duration>>,
}

impl Outside {
    fn new(voters: &[(&str, Script)]) -> Self {
        let member = |host: &str| Member {
            instance: InstanceId::new(host, 3306),
            promotion: Promotion::Allow,
            zone: None,
            agent: Some(format!("http://{host}:8421")),
        };
        let host = |(host, _): &(&str, Script)| VoterHost { host: (*host).to_owned(), url: String::new() };
        let cluster = Cluster {
            name: ClusterName("orders".to_owned()),
            mode: Mode::Auto,
            members: ["db1", "db2", "db3"].map(member).into(),
            vip: None,
            traffic: None,
            voters: voters.iter().map(host).collect(),
            policy: Policy::default(),
        };
        let record = ClusterRecord::new(InstanceId::new("db1", 3306), Generation(1), DateTime::UNIX_EPOCH);
        Self {
            cluster,
            voters: voters.iter().map(|(host, script)| ((*host).to_owned(), script.clone())).collect(),
            record: Some(record),
            looked_at: RefCell::default(),
            waited: RefCell::default(),
        }
    }

    async fn claim(self, proof: Proof) -> (Self, Result<BTreeSet<String>, String>) {
        let composed = Composed::new(Box::new(self));
        let token = Token {
            ballot: Ballot::default(),
            recovery: "r1".to_owned(),
            operation: 0,
            automatic: true,
            back: false,
        };
        let claimed = composed.claim(&InstanceId::new("db2", 3306), Generation(2), proof, &token).await;
        let votes = claimed.map(|seen| seen.votes.unwrap().accepted.into_iter().collect());
        (*composed.primitives, votes.map_err(|error| error.to_string()))
    }
}

impl RecordStore for Outside {
    async fn record(&self) -> Result<Option<ClusterRecord>, RecordError> {
        Ok(self.record.clone())
    }

    async fn save_record(&self, _record: &ClusterRecord) -> Result<(), RecordError> {
        Err(RecordError::Store("nothing is recorded here".to_owned()))
    }

    async fn note_record(&self, _record: &ClusterRecord) -> Result<(), RecordError> {
        Err(RecordError::Store("nothing is recorded here".to_owned()))
    }
}

impl Primitives for Outside {
    type Session = NoSession;

    fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    fn wall(&self) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH
    }

    async fn sleep(&self, span: Duration) {
        self.waited.borrow_mut().push(span);
    }

    fn has_agent(&self, _instance: &InstanceId) -> bool {
        true
    }

    async fn step(&self, step: &Step, _: &Token, timeout: Duration) -> Result<Evidence, StepError> {
        Err(StepError::NoAnswer { within: timeout, what: step.to_string() })
    }

    async fn look(&self, instance: &InstanceId, timeout: Duration) -> Result<Evidence, StepError> {
        self.looked_at.borrow_mut().push(instance.clone());
        Err(StepError::NoAnswer { within: timeout, what: instance.to_string() })
    }

    async fn ask_voter(&self, host: &str, claim: &Claim, patience: Duration) -> Result<Claimed, String> {
        let script = self.voters[host].clone().into_iter();
        claim_until_answered(Scripted(RefCell::new(script)), claim.clone(), patience).await
    }

    async fn session(&self, instance: &InstanceId, _: Instant) -> Result<NoSession, StepError> {
        Err(StepError::Failed(format!("{instance} is not there")))
    }

    async fn read_log(&self, _: &InstanceId, _: &GtidSet, _: Duration, _: &Token) -> Result<LogTail, String> {
        Err("there is no log".to_owned())
    }

    async fn bring(
        &self,
        to: &InstanceId,
        _: Vec<String>,
        _: Duration,
        _: &Token,
    ) -> Result<Evidence, StepError> {
        Err(StepError::Failed(format!("{to} is not there")))
    }

    async fn direct(&self, _: &InstanceId, _: TrafficOrder, _: Generation, _: &str) -> Result<(), StepError> {
        Ok(())
    }
}

/// Of a server that nobody reaches.
enum NoSession {}

impl ServerSession for NoSession {
    async fn report(&mut self, _: Instant) -> Result<Report, StepError> {
        match *self {}
    }

    async fn wait_applied(&mut self, _: &GtidSet, _: Duration) -> Result<bool, StepError> {
        match *self {}
    }

    async fn open_transactions(&mut self, _: Instant) -> Result<Vec<OpenTransaction>, StepError> {
        match *self {}
    }

    async fn end_transaction(&mut self, _: &OpenTransaction, _: Instant) -> Result<(), StepError> {
        match *self {}
    }
}

fn accepted(after: Duration) -> (Duration, Result<Claimed, String>) {
    (after, Ok(Claimed::Accepted { outstanding: Vec::new() }))
}

fn bound(remaining: Duration) -> (Duration, Result<Claimed, String>) {
    (MS, Ok(Claimed::HeldBack { by: InstanceId::new("db1", 3306), remaining }))
}

fn hosts(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn three(db3: Script) -> Outside {
    Outside::new(&[("db1", vec![accepted(MS)]), ("db2", vec![accepted(2 * MS)]), ("db3", db3)])
}

#[tokio::test(start_paused = true)]
async fn a_claim_goes_on_with_the_first_majority() {
    let began = Instant::now();
    let (_, votes) = three(vec![accepted(900 * MS)]).claim(Proof::AckFence).await;
    assert_eq!(votes, Ok(hosts(&["db1", "db2"])));
    assert!(began.elapsed() < 10 * MS, "it waited {:?} for the last voter", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn every_voter_hears_of_an_adoption() {
    let (_, votes) = three(vec![accepted(900 * MS)]).claim(Proof::Adoption).await;
    assert_eq!(votes, Ok(hosts(&["db1", "db2", "db3"])));
    let (_, votes) = three(vec![(MS, Err("no answer".to_owned()))]).claim(Proof::Adoption).await;
    assert_eq!(votes, Ok(hosts(&["db1", "db2"])), "one that does not answer keeps nobody from adopting");
}

#[tokio::test(start_paused = true)]
async fn a_voter_that_is_bound_is_asked_until_it_is_free() {
    let busy = vec![bound(120 * MS), bound(70 * MS), bound(20 * MS), accepted(MS)];
    let silent = || vec![(MS, Err("no answer".to_owned()))];
    let outside = Outside::new(&[("db1", silent()), ("db2", vec![accepted(MS)]), ("db3", busy)]);
    assert_eq!(outside.claim(Proof::Expired).await.1, Ok(hosts(&["db2", "db3"])));
    // Asked about every 50 ms for as long as two leases and a statement.
    let busy = vec![bound(3_000 * MS); 1_000];
    let outside = Outside::new(&[("db1", silent()), ("db2", vec![accepted(MS)]), ("db3", busy)]);
    let Policy { lease, statement, .. } = outside.cluster.policy.clone();
    let began = Instant::now();
    let refused = outside.claim(Proof::Expired).await.1.unwrap_err();
    assert!(
        refused.starts_with("1 of 2 votes (") && refused.contains("db3: granted db1 the lease"),
        "{refused}"
    );
    let patience = lease * 2 + statement;
    assert!(began.elapsed() > patience - 100 * MS && began.elapsed() <= patience, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn what_is_granted_has_ended_before_a_claim_is_used() {
    let granted = Outstanding { granted_ago: 1_000 * MS, lasts: 3_000 * MS };
    let answer = (MS, Ok(Claimed::Accepted { outstanding: vec![granted] }));
    let outside = Outside::new(&[("db1", vec![answer]), ("db2", vec![accepted(MS)])]);
    let waited = outside.claim(Proof::AckFence).await.0.waited.into_inner();
    assert!(matches!(waited.as_slice(), [span] if *span > 2_000 * MS && *span < 2_500 * MS), "{waited:?}");
    let nothing = three(vec![accepted(MS)]).claim(Proof::AckFence).await.0;
    assert!(nothing.waited.into_inner().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_fence_that_this_run_has_not_seen_is_asked_for_again() {
    for (proof, asked) in [(Proof::Fenced, true), (Proof::AckFence, false), (Proof::Operator, false)] {
        let (outside, votes) = three(vec![accepted(MS)]).claim(proof).await;
        assert!(votes.is_ok(), "no answer lifts nothing, and is no failure");
        let looked_at = outside.looked_at.into_inner();
        let expected = asked.then(|| InstanceId::new("db1", 3306)).into_iter().collect::<Vec<_>>();
        assert_eq!(looked_at, expected, "{proof:?}");
    }
}
