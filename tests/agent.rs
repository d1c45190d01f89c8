//! Three agents over three real servers in the lab: the lease is the kernel's, a dead server is told as closed, a fence holds.
//! Needs root, MariaDB and nftables; says so and passes where they are missing. The lab is a namespace of its own, so the
//! test starts itself again inside it.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests: a failure is a panic that says where")]
#![allow(clippy::disallowed_methods, reason = "a measurement of seconds, on a host that does not sleep")]

#[path = "agent/cluster.rs"]
mod cluster;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use mha::agent::client::{AgentClient, Connections};
use mha::agent::wire::{Claim, Claimed, Membership};
use mha::decide::plan::{Proof, Step};
use mha::model::ballot::Generation;
use mha::model::cluster::Mode;
use mha::model::instance::InstanceId;
use mha::model::observation::{Access, AgentStatus, Process};

use cluster::{Cluster, db, orders, vip};

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

/// A client's connection to the server's port.
fn reaches(host: &str) -> bool {
    reaches_port(host, 3306)
}

fn reaches_port(host: &str, port: u16) -> bool {
    use std::net::ToSocketAddrs;
    let address: SocketAddr = (host, port).to_socket_addrs().unwrap().next().unwrap();
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
    a_cut_off_primary_whose_agent_restarts_is_writable_again(&cluster).await;
    a_dead_server_is_told_closed(&cluster).await;
    fail_over(&cluster).await;
    old_primary_comes_back(&cluster).await;
    a_crashed_replica_boots_fenced(&cluster).await;
    a_restarted_agent_adopts(&cluster, "db2").await;
    a_fence_resets_the_clients_of_the_address(&cluster).await;
    receivers_of_a_lost_host_stop_at_once(&cluster).await;
    a_booted_host_is_closed_before_its_agent_runs().await;
    votes_are_lost(&cluster).await;
    an_address_that_does_not_belong_is_removed(&cluster).await;
    idle_costs().await;
    votes_are_learned_again(&cluster).await;
    a_server_that_is_not_found_is_not_told_gone(&cluster).await;
}

async fn wait_for_agents(cluster: &Cluster) {
    for agent in &cluster.agents {
        wait_for_agent(agent).await;
    }
}

/// Until it answers for its server.
async fn wait_for_agent(agent: &AgentClient) {
    let began = Instant::now();
    while !agent.status(SOON).await.is_ok_and(|status| status.server.is_ok()) {
        let status = agent.status(SOON).await;
        assert!(began.elapsed() < SOON, "{status:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn wrong_token_and_older_ballot(cluster: &Cluster) {
    let connections = Connections::new().unwrap();
    let stranger = AgentClient::new(&connections, "http://db1:8421", "guess".to_owned().into());
    assert!(stranger.status(SOON).await.unwrap_err().to_string().contains("token"));
    // A name that leads to another host: neither its agent nor its server is taken for that one's.
    let named_wrong = cluster.of("db1").clone().of_host("db2");
    for refused in [
        named_wrong.status(SOON).await.unwrap_err().to_string(),
        named_wrong.member(&cluster.membership("db2"), SOON).await.unwrap_err().to_string(),
    ] {
        assert!(refused.contains("is that of db1, not of db2"), "{refused}");
    }
    let told = cluster.of("db1").member(&cluster.membership("db2"), SOON).await.unwrap_err().to_string();
    assert!(told.contains("this host is db1"), "{told}");
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

/// Closed and read-only while it hears no majority; then its agent is restarted, and no manager is there to say anything.
async fn a_cut_off_primary_whose_agent_restarts_is_writable_again(cluster: &Cluster) {
    let log = PathBuf::from(std::env::var("AGENT_TEST_DIR").unwrap()).join("db1/mha-agent.log");
    let said = |what: &str| std::fs::read_to_string(&log).unwrap_or_default().matches(what).count();
    // A commit that waits for an acknowledgement would hold read_only up, and the heartbeat is one.
    acknowledgements("db1", "OFF");
    ask("down-link db1").await;
    let read_only = "the fenced server is read-only too";
    until("the cut-off server is read-only", SOON * 2, || said(read_only) > 0).await;
    acknowledgements("db1", "ON");
    ask("kill-agent db1").await;
    ask("start-agent db1").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    ask("up-link db1").await;
    until("the primary is open", SOON, || reaches("db1")).await;
    wait_for_agents(cluster).await;
    let began = Instant::now();
    loop {
        let status = cluster.of("db1").status(SOON).await.unwrap();
        if status.server.is_ok_and(|report| !report.read_only) {
            break;
        }
        assert!(began.elapsed() < SOON, "it stays read-only");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    println!("{:>7.1} ms  from open to writable", began.elapsed().as_secs_f64() * 1e3);
    // What comes next begins from replicas that have everything.
    let set = async |host| cluster.of(host).status(SOON).await.unwrap().server.unwrap().executed;
    for replica in ["db2", "db3"] {
        while !set(replica).await.contains(&set("db1").await) {
            assert!(began.elapsed() < SOON * 4, "{replica} does not catch up");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    assert!(cluster.of("db1").status(SOON).await.unwrap().vip);
}

/// As nobody should: by hand, beside its agent.
fn acknowledgements(host: &str, on: &str) {
    let socket = PathBuf::from(std::env::var("AGENT_TEST_DIR").unwrap()).join(host).join("run/server.sock");
    let switch = format!("SET GLOBAL rpl_semi_sync_master_enabled = {on}");
    let arguments = ["-uroot", "-S", socket.to_str().unwrap(), "-e", &switch];
    assert!(Command::new("mariadb").args(arguments).status().unwrap().success());
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
    // The address stays until its time is over: a client is refused at once, not left waiting.
    assert!(told.access == Access::Closed, "{told:?}");
    assert_eq!(told.fenced, None, "closed is not fenced: it would open again by itself");
}

async fn fail_over(cluster: &Cluster) {
    cluster.tell_members(|membership| membership).await;
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
    a_role_that_cannot_be_written_is_granted_nothing(cluster).await;
    a_restarted_agent_opens_no_disarmed_server(cluster).await;
    cluster.done(Step::Open { instance: db2.clone(), generation: Generation(2), acks: 1 }).await;
    cluster.done(Step::HoldVip { instance: db2, generation: Generation(2), vip: vip() }).await;
    println!("{:>7.1} ms  the whole, one step after the other", began.elapsed().as_secs_f64() * 1e3);
    assert!(reaches("db2") && reaches("10.77.0.100") && !reaches("db1"));
}

/// Armed, and not any more, while the agent that was told so is gone.
async fn a_restarted_agent_opens_no_disarmed_server(cluster: &Cluster) {
    ask("kill-agent db2").await;
    acknowledgements("db2", "OFF");
    ask("start-agent db2").await;
    wait_for_agent(cluster.of("db2")).await;
    let open = Step::Open { instance: db("db2"), generation: Generation(2), acks: 1 };
    let why = cluster.step(open).await.unwrap_err().to_string();
    println!("          {why}");
    let status = cluster.of("db2").status(SOON).await.unwrap();
    assert!(status.server.unwrap().read_only, "{why}");
    cluster.done(Step::ArmSource { instance: db("db2"), acks: 1 }).await;
    cluster.done(Step::AckersAttached { instance: db("db2"), acks: 1 }).await;
}

/// As on a full disk: the new file beside the old one cannot be made.
async fn a_role_that_cannot_be_written_is_granted_nothing(cluster: &Cluster) {
    let own = PathBuf::from(std::env::var("AGENT_TEST_DIR").unwrap()).join("db2/agent");
    let in_the_way = ["role.new", "writable.new", "writable-step.new"].map(|name| own.join(name));
    for path in &in_the_way {
        std::fs::create_dir(path).unwrap();
    }
    let open = Step::Open { instance: db("db2"), generation: Generation(2), acks: 1 };
    let why = cluster.step(open).await.unwrap_err().to_string();
    assert!(why.contains("role.json") && why.contains("make room on that disk"), "{why}");
    for voter in ["db1", "db3"] {
        let voter = cluster.of(voter).status(SOON).await.unwrap();
        assert_eq!(voter.accepted_for, Some(db("db2")), "it accepted the claim");
        assert_eq!(voter.granted_ago, None, "and was asked for no lease: {voter:?}");
    }
    let target = cluster.of("db2").status(SOON).await.unwrap();
    assert_eq!(target.access, Access::Admitted, "still what it was: {target:?}");
    let again = cluster.step(Step::StopReplicating { instance: db("db2") }).await;
    let why = again.unwrap_err().to_string();
    assert!(why.contains("its own data directory") && why.contains("writable-step.new"), "{why}");
    let told = async |fault: bool| {
        let began = Instant::now();
        while cluster.of("db2").status(SOON).await.unwrap().own_disk_fault.is_some() != fault {
            assert!(began.elapsed() < SOON * 2, "a manager is not told");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    told(true).await;
    for path in &in_the_way {
        std::fs::remove_dir(path).unwrap();
    }
    told(false).await;
}

async fn old_primary_comes_back(cluster: &Cluster) {
    let db1 = db("db1");
    cluster.done(Step::StartServer { instance: db1.clone(), as_replica: true, drop_tail: true }).await;
    assert!(!reaches("db1"), "started, and still fenced");
    let stale = cluster.step(Step::Open { instance: db1.clone(), generation: Generation(1), acks: 0 }).await;
    assert!(stale.is_err() && !reaches("db1"), "no majority for an old generation");
    let status = cluster.of("db1").status(SOON).await.unwrap();
    assert_eq!(status.access, Access::Closed);
    cluster.done(Step::PointReplica { instance: db1.clone(), source: db("db2"), acker: true }).await;
    cluster.done(Step::Admit { instance: db1 }).await;
    assert!(reaches("db1"));
}

async fn a_crashed_replica_boots_fenced(cluster: &Cluster) {
    let [_, db2, db3] = HOSTS.map(db);
    cluster.done(Step::Admit { instance: db3.clone() }).await;
    assert!(reaches("db3"));
    // Nobody tells the agent of it.
    let configuration = PathBuf::from(std::env::var("AGENT_TEST_DIR").unwrap()).join("db3/server.cnf");
    let text = std::fs::read_to_string(&configuration).unwrap();
    std::fs::write(&configuration, format!("{text}\nextra_port = 3307\nextra_max_connections = 2\n"))
        .unwrap();
    ask("kill9 db3").await;
    until("a dead replica's port is closed", SOON, || !reaches("db3")).await;
    nobody_starts_beside_another(cluster, &db3).await;
    let seen =
        cluster.done(Step::StartServer { instance: db3.clone(), as_replica: true, drop_tail: true }).await;
    let agent = seen.agent.unwrap();
    assert!(agent.access == Access::Closed && agent.fenced.is_some(), "{agent:?}");
    assert!(matches!(agent.process, Process::Running { .. }), "{agent:?}");
    assert!(!reaches_port("db3", 3307), "every port of the server is closed");
    assert!(!reaches("db3"), "nothing replicates yet: its readers would see old rows");
    cluster.done(Step::PointReplica { instance: db3.clone(), source: db2.clone(), acker: true }).await;
    let seen = cluster.of("db3").status(SOON).await.unwrap().server.unwrap();
    assert_eq!(seen.channel().unwrap().source, db2, "the next to ask sees what the step left");
    cluster.done(Step::Admit { instance: db3.clone() }).await;
    assert!(reaches("db3") && reaches_port("db3", 3307));
    cluster.done(Step::Fence { instance: db3.clone(), generation: Generation(2) }).await;
    assert!(!reaches("db3") && !reaches_port("db3", 3307));
    cluster.done(Step::Admit { instance: db3 }).await;
}

/// As one that somebody else has just started, before its pid file tells of it.
async fn nobody_starts_beside_another(cluster: &Cluster, at: &InstanceId) {
    let data = PathBuf::from(std::env::var("AGENT_TEST_DIR").unwrap()).join(&at.host).join("data/foreign");
    let file = std::fs::File::create(&data).unwrap();
    let mut other = Command::new("sleep").arg("60").stdin(file).spawn().unwrap();
    let start = Step::StartServer { instance: at.clone(), as_replica: true, drop_tail: true };
    let refused = cluster.of(&at.host).step(&cluster.token, &start, Duration::from_secs(2)).await;
    let why = refused.unwrap_err().to_string();
    assert!(why.contains("(sleep) writes to") && why.contains("foreign"), "{why}");
    assert!(!reaches(&at.host));
    other.kill().unwrap();
    other.wait().unwrap();
    std::fs::remove_file(data).unwrap();
}

/// A client that waits for an answer through the VIP must hear of the fence: the sockets go before the address.
async fn a_fence_resets_the_clients_of_the_address(cluster: &Cluster) {
    use std::io::Read;
    let mut client = std::net::TcpStream::connect("10.77.0.100:3306").unwrap();
    client.set_read_timeout(Some(SOON)).unwrap();
    assert!(client.read(&mut [0; 512]).unwrap() > 0, "the greeting");
    let reader = std::thread::spawn(move || (client.read(&mut [0; 512]), Instant::now()));
    let began = Instant::now();
    let fenced = cluster.done(Step::Fence { instance: db("db2"), generation: Generation(2) }).await;
    assert_eq!(fenced.agent.unwrap().access, Access::Closed);
    let (heard, at) = reader.join().unwrap();
    println!("{:>7.1} ms  until a waiting client heard {heard:?}", (at - began).as_secs_f64() * 1e3);
    assert_eq!(heard.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    assert!(at - began < Duration::from_millis(500));
    assert!(spares("db2"), "its replicas still receive");
    the_operator_opens_by_hand(cluster).await;
}

/// No manager, and a host that will not open by itself.
async fn the_operator_opens_by_hand(cluster: &Cluster) {
    let directory = PathBuf::from(std::env::var("AGENT_TEST_DIR").unwrap());
    let mhactl = |host: &str| {
        Command::new(env!("CARGO_BIN_EXE_mhactl"))
            .args(["open", "--agent", &format!("http://{host}:8421"), "--yes", "--token-file"])
            .arg(directory.join("secrets/token"))
            .output()
            .unwrap()
    };
    let refused = mhactl("db3");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(3), "{said}");
    let opened = mhactl("db2");
    let said = String::from_utf8_lossy(&[opened.stdout, opened.stderr].concat()).into_owned();
    assert!(opened.status.success() && said.starts_with("db2 is open, generation 2"), "{said}");
    let status = cluster.of("db2").status(SOON).await.unwrap();
    assert!(status.vip && matches!(status.access, Access::Held { .. }), "{status:?}");
    assert!(reaches("10.77.0.100"));
    until("no replica would pass the next fence", SOON, || !spares("db2")).await;
}

/// Whether the kernel of that host lets somebody through a closed filter.
fn spares(host: &str) -> bool {
    let pid = PathBuf::from(std::env::var("AGENT_TEST_DIR").unwrap()).join(host).join("mha-agent.pid");
    let pid = std::fs::read_to_string(pid).unwrap();
    let list = ["nft", "list", "set", "inet", "mha_3306", "spared4"];
    let listed = Command::new("nsenter").args(["-n", "-t", pid.trim()]).args(list).output().unwrap();
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    String::from_utf8_lossy(&listed.stdout).contains("elements")
}

/// MariaDB's receiver, told to stop, asks its source to end the stream, and waits for one that is gone.
async fn receivers_of_a_lost_host_stop_at_once(cluster: &Cluster) {
    let [db1, db2, db3] = HOSTS.map(db);
    ask("down-link db2").await;
    for replica in [db1, db3] {
        let began = Instant::now();
        cluster.done(Step::StopReceiving { instance: replica.clone(), source: db2.clone() }).await;
        assert!(began.elapsed() < Duration::from_millis(300), "{replica}: {:?}", began.elapsed());
    }
    ask("up-link db2").await;
}

/// The primary's host boots: nothing of the kernel's is left, and the server may be there before the agent.
async fn a_booted_host_is_closed_before_its_agent_runs() {
    let directory = PathBuf::from(std::env::var("AGENT_TEST_DIR").unwrap());
    let close = format!(
        "exec db2 {} --close -c {}/db2/agent.toml",
        env!("CARGO_BIN_EXE_mha-agent"),
        directory.display()
    );
    until("the primary is open", SOON, || reaches("db2")).await;
    ask("kill-agent db2").await;
    ask(&close).await;
    assert!(reaches("db2"), "an agent has run in this boot: what it said holds");
    ask("kill9 db2").await;
    ask("exec db2 nft delete table inet mha_3306").await;
    std::fs::remove_file("/run/mha-db2/lease.json").unwrap();
    ask(&close).await;
    ask("server-start db2").await;
    let socket = directory.join("db2/run/server.sock");
    until("the server answers", SOON, || std::os::unix::net::UnixStream::connect(&socket).is_ok()).await;
    assert!(!reaches("db2"), "open before its agent has spoken");
    ask("start-agent db2").await;
    until("it was compared and leads again", SOON, || reaches("db2") && reaches("10.77.0.100")).await;
}

/// What db3 promised is gone with its disk: for as long as a grant may be outstanding it votes for nobody.
async fn votes_are_lost(cluster: &Cluster) {
    let directory = PathBuf::from(std::env::var("AGENT_TEST_DIR").unwrap());
    ask("kill-agent db3").await;
    std::fs::write(directory.join("db3/agent/votes/orders.json"), "{").unwrap();
    ask("start-agent db3").await;
    wait_for_agents(cluster).await;
    assert_eq!(cluster.of("db3").status(SOON).await.unwrap().generation, Generation(0));
    let claim = Claim {
        cluster: orders(),
        ballot: cluster.token.ballot.clone(),
        generation: Generation(3),
        candidate: db("db1"),
        proof: Proof::Expired,
        released: Vec::new(),
    };
    assert_eq!(cluster.of("db3").claim(&claim, SOON).await.unwrap(), Claimed::NoVote);
    assert!(reaches("db2"), "the lease goes on by the two that remember");
}

async fn votes_are_learned_again(cluster: &Cluster) {
    let began = Instant::now();
    let learned = loop {
        let status = cluster.of("db3").status(SOON).await.unwrap();
        if status.generation == Generation(2) {
            break status;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "{status:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    println!("{:>7.1} ms  until db3 votes again", began.elapsed().as_secs_f64() * 1e3);
    assert_eq!(learned.ballot, cluster.token.ballot);
}

/// Something else than the agent adds the cluster's address at a replica.
async fn an_address_that_does_not_belong_is_removed(cluster: &Cluster) {
    let status = async || cluster.of("db1").status(SOON).await.unwrap();
    let wait = async |what: &str, level: fn(&AgentStatus) -> bool| {
        let began = Instant::now();
        while !level(&status().await) {
            assert!(began.elapsed() < SOON, "{what}: {:?}", status().await);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        println!("{:>7.1} ms  until {what}", began.elapsed().as_secs_f64() * 1e3);
    };
    assert_eq!(status().await.stray_vip, None);
    ask("exec db1 ip address add 10.77.0.100/24 dev eth0").await;
    let removed = |seen: &AgentStatus| seen.stray_vip.as_ref().is_some_and(|vip| vip.left.is_none());
    wait("a stray address is removed", removed).await;
    assert!(!status().await.vip);
    // An operator who wants no changes gets none, and is told.
    cluster.tell_members(|membership| Membership { mode: Mode::Observe, ..membership }).await;
    ask("exec db1 ip address add 10.77.0.100/24 dev eth0").await;
    let left = |seen: &AgentStatus| {
        seen.stray_vip.as_ref().and_then(|vip| vip.left.as_ref()).is_some_and(|why| why.contains("observe"))
    };
    wait("it is told", left).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(status().await.vip, "left alone");
    cluster.tell_members(|membership| membership).await;
    wait("it is removed again", removed).await;
    let own = cluster.of("db2").status(SOON).await.unwrap();
    assert!(own.vip && own.stray_vip.is_none(), "the primary's own is left alone: {own:?}");
}

/// Its pid file is missing, and agent.toml has another name for its socket.
async fn a_server_that_is_not_found_is_not_told_gone(cluster: &Cluster) {
    let own = PathBuf::from(std::env::var("AGENT_TEST_DIR").unwrap()).join("db3");
    let process = async || cluster.of("db3").status(SOON).await.unwrap().process;
    ask("kill-agent db3").await;
    let text = std::fs::read_to_string(own.join("agent.toml")).unwrap();
    let text = text.replace("run/server.sock", "other.sock").replace("run/server.pid", "other.pid");
    std::fs::write(own.join("agent.toml"), text).unwrap();
    std::os::unix::fs::symlink(own.join("run/server.sock"), own.join("other.sock")).unwrap();
    ask("start-agent db3").await;
    wait_for_agents(cluster).await;
    assert!(matches!(process().await, Process::Running { .. }), "known by its number: {:?}", process().await);
    ask("kill-agent db3").await;
    std::fs::remove_file("/run/mha-db3/lease.json").unwrap();
    ask("start-agent db3").await;
    wait_for_agents(cluster).await;
    let told = process().await;
    assert!(matches!(&told, Process::Unknown { why } if why.contains("listens on port 3306")), "{told:?}");
    ask("kill9 db3").await;
    let began = Instant::now();
    while !matches!(process().await, Process::Gone { .. }) {
        assert!(began.elapsed() < SOON, "{:?}", process().await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
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
