//! The agents of the lab as a manager speaks to them.

use std::path::PathBuf;
use std::time::Instant;

use mha::agent::client::{AgentClient, Connections};
use mha::agent::wire::{Claim, Claimed, Lead, Membership};
use mha::decide::plan::{Evidence, Proof, Step};
use mha::execute::world::{StepError, Token};
use mha::model::ballot::{Ballot, Generation};
use mha::model::cluster::{ClusterName, Member, Mode, Promotion, VipAddress, Voter};
use mha::model::instance::InstanceId;
use mha::model::policy::Policy;

use crate::{HOSTS, SOON, reaches};

/// Three agents and what a manager's words to them carry.
pub(crate) struct Cluster {
    pub(crate) agents: Vec<AgentClient>,
    pub(crate) token: Token,
}

pub(crate) fn db(host: &str) -> InstanceId {
    InstanceId::new(host, 3306)
}

pub(crate) fn orders() -> ClusterName {
    ClusterName("orders".to_owned())
}

impl Cluster {
    pub(crate) fn new() -> Self {
        let directory = PathBuf::from(std::env::var("AGENT_TEST_DIR").unwrap());
        let token = std::fs::read_to_string(directory.join("secrets/token")).unwrap();
        let connections = Connections::new().unwrap();
        let client = |host: &&str| {
            AgentClient::new(&connections, &format!("http://{host}:8421"), token.trim().to_owned().into())
        };
        let ballot = Ballot { number: 1, manager: "test".to_owned() };
        Self {
            agents: HOSTS.iter().map(client).collect(),
            token: Token { ballot, recovery: "r1".to_owned(), operation: 0, automatic: true, back: false },
        }
    }

    pub(crate) fn of(&self, host: &str) -> &AgentClient {
        &self.agents[HOSTS.iter().position(|name| *name == host).unwrap()]
    }

    pub(crate) async fn step(&self, step: Step) -> Result<Evidence, StepError> {
        let host = step.instance().host.clone();
        let began = Instant::now();
        let done = self.of(&host).step(&self.token, &step, SOON).await;
        println!("{:>7.1} ms  {step}", began.elapsed().as_secs_f64() * 1e3);
        done
    }

    pub(crate) async fn done(&self, step: Step) -> Evidence {
        let evidence = self.step(step.clone()).await.unwrap_or_else(|error| panic!("{step}: {error}"));
        assert!(step.is_satisfied(&evidence), "{step}: {evidence:?}");
        evidence
    }

    pub(crate) fn membership(&self, host: &str) -> Membership {
        let url = |host: &str| format!("http://{host}:8421");
        let member = |host: &&str| Member {
            instance: db(host),
            promotion: Promotion::Allow,
            zone: None,
            agent: Some(url(host)),
        };
        let voter = |host: &&str| Voter { host: (*host).to_owned(), url: url(host) };
        Membership {
            ballot: self.token.ballot.clone(),
            cluster: orders(),
            instance: db(host),
            members: HOSTS.iter().map(member).collect(),
            voters: HOSTS.iter().map(voter).collect(),
            vip: Some(vip()),
            mode: Mode::Manual,
            policy: Policy::default(),
            generation: Generation(0),
            primary: None,
            acks: 1,
        }
    }

    pub(crate) async fn claim(
        &self,
        generation: u64,
        candidate: &str,
        proof: Proof,
        released: Vec<InstanceId>,
    ) -> usize {
        let claim = Claim {
            cluster: orders(),
            ballot: self.token.ballot.clone(),
            generation: Generation(generation),
            candidate: db(candidate),
            proof,
            released,
        };
        let mut accepted = 0;
        for agent in &self.agents {
            match agent.claim(&claim, SOON).await {
                Ok(Claimed::Accepted { .. }) => accepted += 1,
                other => println!("          {}: {other:?}", agent.url()),
            }
        }
        accepted
    }

    pub(crate) async fn adopt(&self) {
        for (agent, host) in self.agents.iter().zip(HOSTS) {
            let lead = Lead { cluster: orders(), ballot: self.token.ballot.clone() };
            assert!(agent.lead(&lead, SOON).await.unwrap().accepted);
            // Nobody acknowledges yet: one that leads again by itself must not wait for that.
            let unarmed = Membership { acks: 0, ..self.membership(host) };
            agent.member(&unarmed, SOON).await.unwrap();
            assert!(reaches(host), "a member that is told nothing else is left open");
        }
        assert_eq!(self.claim(1, "db1", Proof::Adoption, Vec::new()).await, 3);
        self.done(Step::Open { instance: db("db1"), generation: Generation(1), acks: 0 }).await;
        self.done(Step::HoldVip { instance: db("db1"), generation: Generation(1), vip: vip() }).await;
        for host in ["db2", "db3"] {
            self.done(Step::Admit { instance: db(host) }).await;
        }
    }
}

impl Cluster {
    /// As a manager does when the record has changed.
    pub(crate) async fn tell_members(&self, change: impl Fn(Membership) -> Membership) {
        for (agent, host) in self.agents.iter().zip(HOSTS) {
            agent.member(&change(self.membership(host)), SOON).await.unwrap();
        }
    }
}

pub(crate) fn vip() -> VipAddress {
    VipAddress { address: "10.77.0.100".parse().unwrap(), prefix: 24, interface: "eth0".to_owned() }
}
