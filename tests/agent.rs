//! Three agents over three real servers in the lab: the lease is the kernel's, a dead server is told as closed, a fence holds.
//! Needs root, MariaDB and nftables; says so and passes where they are missing. The lab is a namespace of its own, so the
//! test starts itself again inside it.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests: a failure is a panic that says where")]
#![allow(clippy::disallowed_methods, reason = "a measurement of seconds, on a host that does not sleep")]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use mha::agent::client::{AgentClient, Connections};
use mha::agent::wire::{Claim, Claimed, Lead, Membership};
use mha::decide::plan::{Evidence, Proof, Step};
use mha::execute::world::{StepError, Token};
use mha::model::ballot::{Ballot, Generation};
use mha::model::cluster::{ClusterName, Member, Promotion, VipAddress, Voter};
use mha::model::instance::InstanceId;
use mha::model::observation::{Access, AgentStatus, Process};
use mha::model::policy::Policy;

const HOSTS: [&str; 3] = ["db1", "db2", "db3"];
const SOON: Duration = Duration::from_secs(5);

fn lab(arguments: &[&str]) -> (bool, String) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/lab");
    let name = format!("agent{}", std::process::id());
    let bin = Path::new(env!("CARGO_BIN_EXE_mha-agent")).parent().unwrap();
    let ran =
        Command::new(script).args(["--name", &name]).args(arguments).env("MHA_BIN", bin).output().unwrap();
    let said = [ran.stdout, ran.stderr].concat();
    (ran.status.success(), String::from_utf8_lossy(&said).into_owned())
}

#[test]
fn three_agents_over_real_servers() {
    let root = rustix::process::geteuid().is_root();
    if !root || !Path::new("/usr/sbin/mariadbd").exists() || !Path::new("/usr/sbin/nft").exists() {
        return println!("skipped: needs root, mariadbd and nft");
    }
    let (up, said) = lab(&["up", "--bare"]);
    assert!(up, "{said}");
    let (_, settings) = lab(&["env"]);
    let directory = settings.lines().find_map(|line| line.strip_prefix("LAB=")).unwrap().to_owned();
    for host in HOSTS {
        write_config(Path::new(&directory), host);
        assert!(lab(&["start-agent", host]).0);
    }
    let this = std::env::current_exe().unwrap();
    let inside = ["exec", "mgr", "env", &format!("AGENT_TEST_DIR={directory}"), this.to_str().unwrap()];
    let test = ["--ignored", "--exact", "inside", "--nocapture"];
    let arguments = [&inside[..], &test[..]].concat().into_iter().map(str::to_owned).collect::<Vec<_>>();
    let running = std::thread::spawn(move || lab(&arguments.iter().map(String::as_str).collect::<Vec<_>>()));
    while !running.is_finished() {
        // What the test inside asks of the lab, which has no way to ask by itself.
        if let Ok(asked) = std::fs::read_to_string(Path::new(&directory).join("asked")) {
            std::fs::remove_file(Path::new(&directory).join("asked")).unwrap();
            let (done, said) = lab(&asked.split_whitespace().collect::<Vec<_>>());
            std::fs::write(Path::new(&directory).join("done"), if done { String::new() } else { said })
                .unwrap();
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let (passed, said) = running.join().unwrap();
    let logs = HOSTS.map(|host| {
        std::fs::read_to_string(Path::new(&directory).join(host).join("mha-agent.log")).unwrap_or_default()
    });
    lab(&["down"]);
    println!("{said}");
    assert!(passed, "{}", logs.join("\n----\n"));
}

fn write_config(directory: &Path, host: &str) {
    let own = directory.join(host);
    let (own, shared) = (own.display(), directory.display());
    let text = format!(
        r#"host = "{host}"
token = {{ file = "{shared}/secrets/token" }}
data_dir = "{own}/agent"
run_dir = "/run/mha-{host}"
[server]
socket = "{own}/run/server.sock"
pid_file = "{own}/run/server.pid"
service = {{ command = ["{own}/start-server"], log = "{own}/start.log" }}
[admin]
user = "mha"
password = {{ file = "{shared}/secrets/admin" }}
[heartbeat]
user = "mha_heartbeat"
password = {{ file = "{shared}/secrets/heartbeat" }}
[replication]
user = "mha_repl"
password = {{ file = "{shared}/secrets/replication" }}
"#
    );
    std::fs::write(directory.join(host).join("agent.toml"), text).unwrap();
}

// === inside the lab ===

/// Has the test outside do something to the lab.
async fn ask(what: &str) {
    let directory = PathBuf::from(std::env::var("AGENT_TEST_DIR").unwrap());
    std::fs::write(directory.join("asking"), what).unwrap();
    std::fs::rename(directory.join("asking"), directory.join("asked")).unwrap();
    let began = Instant::now();
    let said = loop {
        if let Ok(said) = std::fs::read_to_string(directory.join("done")) {
            break said;
        }
        assert!(began.elapsed() < SOON * 4, "{what}: not done");
        tokio::time::sleep(Duration::from_millis(2)).await;
    };
    std::fs::remove_file(directory.join("done")).unwrap();
    assert_eq!(said, "", "{what}");
}

struct Cluster {
    agents: Vec<AgentClient>,
    token: Token,
}

fn db(host: &str) -> InstanceId {
    InstanceId::new(host, 3306)
}

fn orders() -> ClusterName {
    ClusterName("orders".to_owned())
}

impl Cluster {
    fn new() -> Self {
        let directory = PathBuf::from(std::env::var("AGENT_TEST_DIR").unwrap());
        let token = std::fs::read_to_string(directory.join("secrets/token")).unwrap();
        let connections = Connections::new().unwrap();
        let client = |host: &&str| {
            AgentClient::new(&connections, &format!("http://{host}:8421"), token.trim().to_owned().into())
        };
        let ballot = Ballot { number: 1, manager: "test".to_owned() };
        Self {
            agents: HOSTS.iter().map(client).collect(),
            token: Token { ballot, recovery: "r1".to_owned(), automatic: true },
        }
    }

    fn of(&self, host: &str) -> &AgentClient {
        &self.agents[HOSTS.iter().position(|name| *name == host).unwrap()]
    }

    async fn step(&self, step: Step) -> Result<Evidence, StepError> {
        let host = step.instance().host.clone();
        let began = Instant::now();
        let done = self.of(&host).step(&self.token, &step, SOON).await;
        println!("{:>7.1} ms  {step}", began.elapsed().as_secs_f64() * 1e3);
        done
    }

    async fn done(&self, step: Step) -> Evidence {
        let evidence = self.step(step.clone()).await.unwrap_or_else(|error| panic!("{step}: {error}"));
        assert!(step.is_satisfied(&evidence), "{step}: {evidence:?}");
        evidence
    }

    fn membership(&self, host: &str) -> Membership {
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
            policy: Policy::default(),
            generation: Generation(0),
            primary: None,
            acks: 1,
        }
    }

    async fn claim(
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

    async fn adopt(&self) {
        for (agent, host) in self.agents.iter().zip(HOSTS) {
            let lead = Lead { cluster: orders(), ballot: self.token.ballot.clone() };
            assert!(agent.lead(&lead, SOON).await.unwrap().accepted);
            agent.member(&self.membership(host), SOON).await.unwrap();
            assert!(reaches(host), "a member that is told nothing else is left open");
        }
        assert_eq!(self.claim(1, "db1", Proof::Adoption, Vec::new()).await, 3);
        self.done(Step::Open { instance: db("db1"), generation: Generation(1) }).await;
        self.done(Step::HoldVip { instance: db("db1"), generation: Generation(1), vip: vip() }).await;
        for host in ["db2", "db3"] {
            self.done(Step::Admit { instance: db(host) }).await;
        }
    }
}

fn vip() -> VipAddress {
    VipAddress { address: "10.77.0.100".parse().unwrap(), prefix: 24, interface: "eth0".to_owned() }
}

/// A client's connection to the server's port.
fn reaches(host: &str) -> bool {
    use std::net::ToSocketAddrs;
    let address: SocketAddr = (host, 3306).to_socket_addrs().unwrap().next().unwrap();
    std::net::TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_ok()
}

/// How long until the level holds.
async fn until(what: &str, within: Duration, level: impl Fn() -> bool) -> Duration {
    let began = Instant::now();
    while !level() {
        assert!(began.elapsed() < within, "not within {within:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    println!("{:>7.1} ms  until {what}", began.elapsed().as_secs_f64() * 1e3);
    began.elapsed()
}

#[tokio::test]
#[ignore = "started by the other test, inside the lab"]
async fn inside() {
    let cluster = Cluster::new();
    wait_for_agents(&cluster).await;
    wrong_token_and_older_ballot(&cluster).await;
    cluster.adopt().await;
    a_dead_agents_lease_ends(&cluster).await;
    a_dead_server_is_told_closed(&cluster).await;
    fail_over(&cluster).await;
    old_primary_comes_back(&cluster).await;
    a_restarted_agent_adopts(&cluster, "db2").await;
    idle_costs().await;
}

async fn wait_for_agents(cluster: &Cluster) {
    for agent in &cluster.agents {
        let began = Instant::now();
        while !agent.status(SOON).await.is_ok_and(|status| status.server.is_ok()) {
            let status = agent.status(SOON).await;
            assert!(began.elapsed() < SOON, "{status:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

async fn wrong_token_and_older_ballot(cluster: &Cluster) {
    let connections = Connections::new().unwrap();
    let stranger = AgentClient::new(&connections, "http://db1:8421", "guess".to_owned().into());
    assert!(stranger.status(SOON).await.unwrap_err().to_string().contains("token"));
    let before_adoption = cluster.step(Step::Fence { instance: db("db1"), generation: Generation(1) }).await;
    assert!(before_adoption.is_err() && reaches("db1"), "an unadopted server is left alone");
}

async fn a_restarted_agent_adopts(cluster: &Cluster, host: &'static str) {
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (seen, ends) = (std::sync::Arc::clone(&stop), std::sync::atomic::Ordering::Relaxed);
    let watcher = std::thread::spawn(move || {
        let mut tries = 0;
        while !seen.load(ends) {
            assert!(reaches(host), "closed while its agent was restarted");
            tries += 1;
            std::thread::sleep(Duration::from_millis(5));
        }
        tries
    });
    let granted = cluster.of(host).restart_grace(SOON).await.unwrap().granted;
    assert!(granted > Duration::from_secs(55), "{granted:?}");
    ask(&format!("kill-agent {host}")).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    ask(&format!("start-agent {host}")).await;
    wait_for_agents(cluster).await;
    let status = cluster.of(host).status(SOON).await.unwrap();
    assert!(matches!(status.access, Access::Held { .. }) && status.vip, "{status:?}");
    stop.store(true, ends);
    println!("          restarted under {} connections", watcher.join().unwrap());
}

async fn a_dead_agents_lease_ends(cluster: &Cluster) {
    ask("kill-agent db1").await;
    let took = until("the kernel closes a dead agent's port", SOON, || !reaches("db1")).await;
    assert!(took < Duration::from_millis(3_300), "{took:?}");
    ask("start-agent db1").await;
    until("the next agent opens it again by itself", SOON, || reaches("db1")).await;
    wait_for_agents(cluster).await;
    let began = Instant::now();
    while !cluster.of("db1").status(SOON).await.unwrap().vip {
        assert!(began.elapsed() < SOON);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn a_dead_server_is_told_closed(cluster: &Cluster) {
    let mut events = cluster.of("db1").events(SOON).await.unwrap();
    let pid = match events.next(SOON).await.unwrap().process {
        Process::Running { pid, .. } => pid,
        other @ (Process::Gone { .. } | Process::Unknown { .. }) => panic!("{other:?}"),
    };
    let pid = rustix::process::Pid::from_raw(pid.try_into().unwrap()).unwrap();
    let began = Instant::now();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let told: AgentStatus = loop {
        let status = events.next(SOON).await.unwrap();
        if matches!(status.process, Process::Gone { .. }) {
            break status;
        }
    };
    println!("{:>7.1} ms  from kill -9 to the event", began.elapsed().as_secs_f64() * 1e3);
    assert!(told.access == Access::Closed && !told.vip, "{told:?}");
    assert_eq!(told.fenced, None, "closed is not fenced: it would open again by itself");
}

async fn fail_over(cluster: &Cluster) {
    let began = Instant::now();
    let [db1, db2, db3] = HOSTS.map(db);
    cluster.done(Step::Fence { instance: db1.clone(), generation: Generation(1) }).await;
    for replica in [&db2, &db3] {
        cluster.done(Step::StopReceiving { instance: replica.clone(), source: db1.clone() }).await;
    }
    assert_eq!(cluster.claim(2, "db2", Proof::Expired, Vec::new()).await, 0, "granted too lately");
    assert_eq!(cluster.claim(2, "db2", Proof::Fenced, vec![db1.clone()]).await, 3);
    cluster.done(Step::StopReplicating { instance: db2.clone() }).await;
    cluster.done(Step::ArmSource { instance: db2.clone(), acks: 1 }).await;
    cluster.done(Step::PointReplica { instance: db3, source: db2.clone(), acker: true }).await;
    cluster.done(Step::AckersAttached { instance: db2.clone(), acks: 1 }).await;
    cluster.done(Step::Open { instance: db2.clone(), generation: Generation(2) }).await;
    cluster.done(Step::HoldVip { instance: db2, generation: Generation(2), vip: vip() }).await;
    println!("{:>7.1} ms  the whole, one step after the other", began.elapsed().as_secs_f64() * 1e3);
    assert!(reaches("db2") && reaches("10.77.0.100") && !reaches("db1"));
}

async fn old_primary_comes_back(cluster: &Cluster) {
    let db1 = db("db1");
    cluster.done(Step::StartServer { instance: db1.clone(), as_replica: true }).await;
    assert!(!reaches("db1"), "started, and still fenced");
    let stale = cluster.step(Step::Open { instance: db1.clone(), generation: Generation(1) }).await;
    assert!(stale.is_err() && !reaches("db1"), "no majority for an old generation");
    let status = cluster.of("db1").status(SOON).await.unwrap();
    assert_eq!(status.access, Access::Closed);
    cluster.done(Step::PointReplica { instance: db1.clone(), source: db("db2"), acker: true }).await;
    cluster.done(Step::Admit { instance: db1 }).await;
    assert!(reaches("db1"));
}

/// What an agent costs while nothing happens.
async fn idle_costs() {
    let directory = PathBuf::from(std::env::var("AGENT_TEST_DIR").unwrap());
    for host in HOSTS {
        let pid = std::fs::read_to_string(directory.join(host).join("mha-agent.pid")).unwrap();
        let pid = pid.trim();
        let ticks = || {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
            let fields = stat.rsplit_once(')').unwrap().1.split_whitespace().collect::<Vec<_>>();
            fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
        };
        let before = ticks();
        tokio::time::sleep(Duration::from_secs(10)).await;
        let percent = (ticks() - before) as f64 / 10.0;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let memory = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
        println!("          {host}: {percent:.1} % of a core, {memory}");
    }
}
