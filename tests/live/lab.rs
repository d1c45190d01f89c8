//! One lab of the test's own: up when made, down when dropped, its words and its clients.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// A step of a test must not take longer.
pub(crate) const SOON: Duration = Duration::from_secs(30);
const BETWEEN_LOOKS: Duration = Duration::from_millis(100);

pub(crate) struct Lab {
    name: String,
    pub(crate) dir: PathBuf,
    writers: Vec<(Child, PathBuf)>,
}

impl Lab {
    /// Three hosts, or what the lab's options in `more` say, agents, a manager, adopted and healthy; a client writes through the VIP.
    pub(crate) fn up(flavor: &str, more: &[&str]) -> Self {
        let name = format!("live-{flavor}-{}", std::process::id());
        let mut lab = Self { name, dir: PathBuf::new(), writers: Vec::new() };
        lab.run(&[&["up", "--flavor", flavor][..], more].concat());
        let env = lab.run(&["env"]);
        lab.dir = env.lines().find_map(|line| line.strip_prefix("LAB=")).unwrap().into();
        lab.write(1, &["--rate", "200"]);
        lab.wait("the first writes", SOON, |lab| lab.acks(1).len() > 50);
        lab
    }

    fn command(&self, words: &[&str]) -> Command {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/lab");
        let mut command = Command::new(script);
        command.args(["--name", &self.name]).args(words).env("MHA_BIN", bin()).stdin(Stdio::null());
        command
    }

    /// Runs a verb of the lab; what it printed.
    pub(crate) fn run(&self, words: &[&str]) -> String {
        let (done, said) = self.attempt(words);
        assert!(done, "lab {words:?}: {said}");
        said
    }

    /// The same, where failing is an answer.
    pub(crate) fn attempt(&self, words: &[&str]) -> (bool, String) {
        let ran = self.command(words).output().unwrap();
        let said = if ran.stdout.is_empty() { ran.stderr } else { ran.stdout };
        (ran.status.success(), String::from_utf8_lossy(&said).into_owned())
    }

    pub(crate) fn sql(&self, host: &str, statement: &str) -> String {
        self.run(&["sql", host, statement]).trim_end().to_owned()
    }

    pub(crate) fn is_mysql(&self) -> bool {
        self.run(&["env"]).contains("FLAVOR=mysql")
    }

    /// Runs statements that no binary log gets, on a replica too. They may run more than once.
    pub(crate) fn unlogged(&self, host: &str, statements: &str) {
        let text = match self.is_mysql() {
            true => format!(
                "SET @closed = @@super_read_only; SET GLOBAL super_read_only = 0; SET sql_log_bin = 0; {statements}; \
                 SET GLOBAL super_read_only = @closed"
            ),
            false => format!("SET sql_log_bin = 0; {statements}"),
        };
        self.wait("statements that are not logged", SOON, |lab| lab.attempt(&["sql", host, &text]).0);
    }

    /// Appends a line to the configuration of a host's server; it holds from the server's next start.
    pub(crate) fn configure_server(&self, host: &str, line: &str) {
        let path = self.dir.join(host).join("server.cnf");
        let mut file = OpenOptions::new().append(true).open(path).unwrap();
        file.write_all(format!("[mysqld]\n{line}\n").as_bytes()).unwrap();
    }

    /// Nobody starts the server of that host until the returned process is given to `let_start`.
    pub(crate) fn keep_down(&self, host: &str) -> Child {
        let lock = self.dir.join(host).join("run/start.lock").display().to_string();
        self.spawn(&["exec", host, "flock", &lock, "cat"])
    }

    /// A process in a host, for as long as the test keeps it.
    pub(crate) fn spawn(&self, words: &[&str]) -> Child {
        self.command(words).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap()
    }

    /// `mhactl --direct`, where the manager would be.
    pub(crate) fn direct(&self, words: &[&str]) -> String {
        let config = self.dir.join("mgr/manager.toml").display().to_string();
        let program = bin().join("mhactl").display().to_string();
        self.run(&[&["exec", "mgr", &program, "--direct", "--config", &config][..], words].concat())
    }

    /// What the server's unit runs before it stops it.
    pub(crate) fn before_stop(&self, host: &str) -> Child {
        let config = self.dir.join(host).join("agent.toml").display().to_string();
        let program = bin().join("mha-agent").display().to_string();
        self.spawn(&["exec", host, &program, "--config", &config, "--before-stop"])
    }

    /// `mhactl status --json`; nothing while the manager does not answer.
    pub(crate) fn status(&self) -> Option<Value> {
        serde_json::from_str(&self.attempt(&["ctl", "status", "--json"]).1).ok()
    }

    pub(crate) fn sentence(&self) -> String {
        self.status()
            .map_or_else(String::new, |status| status["sentence"].as_str().unwrap_or_default().to_owned())
    }

    /// The primary's host by the manager's word.
    pub(crate) fn primary(&self) -> Option<String> {
        Some(self.status()?["primary"].as_str()?.to_owned())
    }

    pub(crate) fn generation(&self) -> Option<u64> {
        self.status()?["generation"].as_u64()
    }

    /// One member's row of `mhactl status --json`.
    pub(crate) fn member(&self, host: &str) -> Option<Value> {
        let status = self.status()?;
        status["members"].as_array()?.iter().find(|member| member["instance"] == host).cloned()
    }

    /// Whom a member replicates from, while it does.
    pub(crate) fn source(&self, host: &str) -> Option<String> {
        let member = self.member(host)?;
        let runs = member["receiver"] == "running" && member["applier"] == "running";
        runs.then(|| member["source"].as_str().map(ToOwned::to_owned))?
    }

    /// The cluster record as the manager's store holds it.
    pub(crate) fn record(&self) -> Value {
        let store = self.dir.join("mgr/data/mha.sqlite");
        let read_only = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
        let store = rusqlite::Connection::open_with_flags(store, read_only).unwrap();
        let json: String = store.query_row("SELECT json FROM record", [], |row| row.get(0)).unwrap();
        serde_json::from_str(&json).unwrap()
    }

    pub(crate) fn is_healthy(&self) -> bool {
        self.status().is_some_and(|status| status["verdict"] == "healthy")
    }

    /// A line more in the cluster's configuration; the manager is started anew.
    pub(crate) fn configure(&self, line: &str) {
        let mode = "mode = \"auto\"\n";
        self.reconfigure(mode, &format!("{mode}{line}\n"));
    }

    /// Another text in the manager's configuration; the manager is started anew.
    pub(crate) fn reconfigure(&self, from: &str, to: &str) {
        let config = self.dir.join("mgr/manager.toml");
        let text = std::fs::read_to_string(&config).unwrap();
        assert!(text.contains(from), "{text}");
        std::fs::write(&config, text.replacen(from, to, 1)).unwrap();
        self.run(&["kill-manager"]);
        self.run(&["start-manager"]);
        self.wait("the manager leads again", SOON, Self::is_healthy);
    }

    /// Looks until it is so; how long that took.
    pub(crate) fn wait(&self, what: &str, limit: Duration, so: impl Fn(&Self) -> bool) -> Duration {
        let began = Instant::now();
        while !so(self) {
            assert!(
                began.elapsed() < limit,
                "{what}: not within {limit:?}; {}\n{}",
                self.sentence(),
                self.log()
            );
            std::thread::sleep(BETWEEN_LOOKS);
        }
        began.elapsed()
    }

    /// The end of the manager's log, for a failure's message.
    pub(crate) fn log(&self) -> String {
        let log = std::fs::read_to_string(self.dir.join("mgr/mha-manager.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    /// The same of a host's agent.
    pub(crate) fn agent_log(&self, host: &str) -> String {
        let log = std::fs::read_to_string(self.dir.join(host).join("mha-agent.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// Starts a writer through the VIP.
    pub(crate) fn write(&mut self, client: u32, more: &[&str]) {
        self.write_at("vip", client, more);
    }

    /// Starts a writer at that host, whoever leads.
    pub(crate) fn write_at(&mut self, host: &str, client: u32, more: &[&str]) {
        let log = self.dir.join(format!("client/{client}.log"));
        let (program, password) = (bin().join("examples/writer"), self.dir.join("secrets/app"));
        let (number, path) = (client.to_string(), log.display().to_string());
        let (program, password) = (program.display().to_string(), password.display().to_string());
        let fixed = ["exec", "client", &program, "--host", host, "--password-file", &password];
        let words = [&fixed[..], &["--log", &path, "--client", &number], more].concat();
        let child = self.spawn(&words);
        self.writers.push((child, log));
    }

    /// Each acknowledgement of a client so far: its instant in microseconds of CLOCK_MONOTONIC, and the server's id.
    pub(crate) fn acks(&self, client: u32) -> Vec<(u64, u64)> {
        let text = std::fs::read_to_string(self.dir.join(format!("client/{client}.log"))).unwrap_or_default();
        // The last line may be half written.
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let records = whole.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        records
            .filter(|record| record["kind"] == "ack")
            .map(|ack| (ack["at_us"].as_u64().unwrap(), ack["server"].as_u64().unwrap()))
            .collect()
    }

    /// How many acknowledgements a client's connection was given, all connections of a writer being in its first one's log.
    pub(crate) fn count(&self, client: u32) -> usize {
        let text = std::fs::read_to_string(self.dir.join(format!("client/{client}.log"))).unwrap_or_default();
        text.matches("\"kind\":\"ack\"").count()
    }

    /// The longest time between two acknowledgements of a client since `from` (microseconds), now included.
    pub(crate) fn longest_gap(&self, client: u32, from: u64) -> Duration {
        let mut instants: Vec<u64> =
            self.acks(client).iter().map(|ack| ack.0).filter(|at| *at >= from).collect();
        instants.insert(0, from);
        instants.push(now_us());
        instants.windows(2).map(|pair| Duration::from_micros(pair[1].saturating_sub(pair[0]))).max().unwrap()
    }

    /// Ends the writers and compares all they were told with what the primary holds. `old`: the id of the server that
    /// led until the fault.
    pub(crate) fn check(&mut self, primary: &str, fault_us: u64, old: u32) -> Value {
        // By the pids of the client's host: nothing else of that name runs there.
        let end = r#"own=$(readlink /proc/self/ns/net); for p in /proc/[0-9]*; do
            [ "$(cat "$p/comm" 2>/dev/null)" = writer ] && [ "$(readlink "$p/ns/net")" = "$own" ] && kill "${p#/proc/}"; done; true"#;
        self.run(&["exec", "client", "bash", "-c", end]);
        let mut logs = Vec::new();
        for (mut child, log) in std::mem::take(&mut self.writers) {
            child.wait().unwrap();
            logs.extend(["--log".to_owned(), log.display().to_string()]);
        }
        let rows = self.dir.join("client/rows");
        std::fs::write(&rows, self.run(&["sql", primary, "SELECT client, n, server FROM app.writes"]))
            .unwrap();
        let ran = Command::new(bin().join("examples/checker"))
            .args(logs)
            .arg("--rows")
            .arg(&rows)
            .args(["--fault-us", &fault_us.to_string(), "--old", &old.to_string()])
            .output()
            .unwrap();
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        serde_json::from_slice(&ran.stdout).unwrap()
    }

    /// How many descriptors a program of a host has open.
    pub(crate) fn descriptors(&self, host: &str, program: &str) -> usize {
        let pid = std::fs::read_to_string(self.dir.join(host).join(format!("{program}.pid"))).unwrap();
        self.run(&["exec", host, "ls", &format!("/proc/{}/fd", pid.trim())]).lines().count()
    }

    /// Processor seconds a program of a host has used, and its resident megabytes.
    pub(crate) fn usage(&self, host: &str, program: &str) -> (f64, f64) {
        let pid = std::fs::read_to_string(self.dir.join(host).join(format!("{program}.pid"))).unwrap();
        let pid = pid.trim();
        let stat = self.run(&["exec", host, "cat", &format!("/proc/{pid}/stat")]);
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        let number = |index: usize| fields[index].parse::<f64>().unwrap();
        // Fields 14, 15 and 24 of proc(5): user and system time in ticks of 10 ms, resident pages of 4 KiB.
        ((number(11) + number(12)) / 100.0, number(21) * 4_096.0 / 1e6)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let (down, said) = self.attempt(&["down"]);
        for (mut child, _) in self.writers.drain(..) {
            let _ = child.wait();
        }
        if !down && !std::thread::panicking() {
            panic!("the lab cannot be removed: {said}");
        }
    }
}

/// Ends what [`Lab::keep_down`] began.
pub(crate) fn let_start(mut kept_down: Child) {
    drop(kept_down.stdin.take());
    kept_down.wait().unwrap();
}

/// CLOCK_MONOTONIC in microseconds: the same for every process of the lab.
pub(crate) fn now_us() -> u64 {
    let at = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    at.tv_sec.unsigned_abs() * 1_000_000 + at.tv_nsec.unsigned_abs() / 1_000
}

/// Where this build's programs are.
fn bin() -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_mha-manager")).parent().unwrap().to_owned()
}
