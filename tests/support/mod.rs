//! Private database servers for tests: real ones, on loopback, from a data directory of their own, ended when dropped.
//! Never the system's server, and nothing is left behind but an initialized template in the build directory.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use mha::model::instance::{Flavor, InstanceId};
use mha::mysql::control::ControlEnv;
use mha::mysql::greeting::greeting;
use mha::mysql::{Account, Connection, Target, Tls};
use tokio::time::Instant;

/// In so long from now.
pub fn within(seconds: f64) -> Instant {
    Instant::now() + Duration::from_secs_f64(seconds)
}

/// A running server; killed when dropped.
#[derive(Debug)]
pub struct Server {
    child: Child,
    program: Command,
    dir: tempfile::TempDir,
    pub flavor: Flavor,
    pub port: u16,
}

impl Server {
    /// Starts a server with its own data; `None` (told) where this machine has none of that flavor. With `CI` set that is a failure.
    pub async fn start(flavor: Flavor, id: u32, more: &[&str]) -> Option<Self> {
        let Some(binary) = binary(flavor) else {
            assert!(std::env::var_os("CI").is_none(), "no {flavor} server on this machine");
            println!("skipped: no {flavor} server on this machine");
            return None;
        };
        let dir = tempfile::Builder::new().prefix("mha-test-").tempdir().unwrap();
        let data = dir.path().join("data");
        copy(&template(flavor, &binary), &data);
        // MySQL draws a new server UUID.
        let _ = fs::remove_file(data.join("auto.cnf"));
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        fs::write(dir.path().join("init.sql"), INIT).unwrap();
        let mut server = Command::new(binary);
        server.args([
            "--defaults-file=/dev/null",
            "--user=root",
            "--bind-address=127.0.0.1",
            "--log-bin=binlog",
        ]);
        server.args(["--relay-log=relay", "--innodb-buffer-pool-size=24M", "--sync-binlog=1"]);
        for (option, file) in [
            ("datadir", "data"),
            ("socket", "socket"),
            ("pid-file", "pid"),
            ("init-file", "init.sql"),
            ("log-error", "log.err"),
        ] {
            server.arg(format!("--{option}={}", dir.path().join(file).display()));
        }
        server.arg(format!("--tmpdir={}", dir.path().display()));
        server.args([format!("--port={port}"), format!("--server-id={id}")]);
        match flavor {
            Flavor::MariaDb => {
                server.args(["--log-slave-updates", "--skip-slave-start", "--gtid-strict-mode=1"])
            }
            Flavor::MySql => server.args([
                "--gtid-mode=ON",
                "--enforce-gtid-consistency=ON",
                "--skip-replica-start",
                "--mysqlx=OFF",
                "--secure-file-priv=",
            ]),
        };
        let child = server.args(more).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let mut this = Self { child, program: server, dir, flavor, port };
        this.wait_until_it_greets().await;
        Some(this)
    }

    /// Kills it, and starts it with the same options, as somebody would who knows nothing of its role.
    pub async fn start_again(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.child = self.program.spawn().unwrap();
        self.wait_until_it_greets().await;
    }

    async fn wait_until_it_greets(&mut self) {
        let deadline = within(30.0);
        loop {
            let seen = greeting(&self.target(), within(1.0)).await;
            if seen.is_ok() {
                return;
            }
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < deadline, "{seen:?}: {}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log.err")).unwrap_or_default()
    }

    pub fn id(&self) -> InstanceId {
        InstanceId::new("127.0.0.1", self.port)
    }

    pub fn target(&self) -> Target {
        Target::from(&self.id())
    }

    pub fn socket(&self) -> Target {
        Target::Socket(self.socket_path())
    }

    pub fn socket_path(&self) -> PathBuf {
        self.dir.path().join("socket")
    }

    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// An administrator's connection over TCP.
    pub async fn connect(&self) -> Connection {
        Connection::open(&self.target(), &account("mha"), &Tls::Off, None, within(10.0)).await.unwrap()
    }

    /// Sends a signal to this server's own process.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args([name, &self.child.id().to_string()]).status().unwrap();
        assert!(status.success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const INIT: &str = "SET SESSION sql_log_bin=0;
CREATE USER IF NOT EXISTS 'mha'@'%' IDENTIFIED BY 'se\\'cr\\\\et';
GRANT ALL ON *.* TO 'mha'@'%' WITH GRANT OPTION;
CREATE USER IF NOT EXISTS 'repl'@'%' IDENTIFIED BY 'se\\'cr\\\\et';
GRANT REPLICATION SLAVE ON *.* TO 'repl'@'%';
CREATE USER IF NOT EXISTS 'plain'@'%' IDENTIFIED BY 'se\\'cr\\\\et';
";

/// One of the accounts every test server has: `mha` (all rights), `repl`, `plain` (none).
pub fn account(user: &str) -> Account {
    Account { user: user.to_owned(), password: "se'cr\\et".into() }
}

pub fn env() -> ControlEnv {
    ControlEnv {
        replication: account("repl"),
        heartbeat: account("beat"),
        heartbeat_every: Duration::from_millis(250),
        statement: Duration::from_secs(10),
    }
}

/// The server's program: from the path, or from the prefix the lab unpacks MySQL into.
fn binary(flavor: Flavor) -> Option<PathBuf> {
    let found = match flavor {
        Flavor::MariaDb => ["/usr/sbin/mariadbd", "/usr/local/sbin/mariadbd"].map(PathBuf::from).to_vec(),
        Flavor::MySql => {
            let prefix = std::env::var_os("MHA_MYSQL_PREFIX").unwrap_or_else(|| "/opt/mha-lab/mysql".into());
            vec![Path::new(&prefix).join("bin/mysqld")]
        }
    };
    found.into_iter().find(|path| path.exists())
}

/// An initialized data directory, made once per build directory.
fn template(flavor: Flavor, binary: &Path) -> PathBuf {
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("template-{flavor}"));
    if place.exists() {
        return place;
    }
    let making =
        tempfile::Builder::new().prefix("template-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let data = making.path().join("data");
    let datadir = format!("--datadir={}", data.display());
    let mut init = match flavor {
        Flavor::MariaDb => {
            let mut init = Command::new("mariadb-install-db");
            init.args(["--no-defaults", "--user=root", "--auth-root-authentication-method=normal"]);
            init.arg("--skip-test-db");
            init
        }
        Flavor::MySql => {
            let mut init = Command::new(binary);
            init.args(["--no-defaults", "--user=root", "--initialize-insecure"]);
            init.arg("--innodb-redo-log-capacity=16M");
            init
        }
    };
    // A starting server removes every temporary table in the directory, another's too.
    init.arg(format!("--tmpdir={}", making.path().display()));
    let done = init.arg(datadir).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    // Another test process may have been faster: its template is as good.
    let _ = fs::rename(&data, &place);
    place
}

fn copy(from: &Path, to: &Path) {
    let done = Command::new("cp").arg("-a").args([from, to]).status().unwrap();
    assert!(done.success());
}
