//! Reading and salvaging binary logs that a real MariaDB server wrote, most of them after that server was killed.
//!
//! Each test runs a private server in a directory of its own, reachable by its unix socket only. Where MariaDB is not
//! installed a test says so and passes, unless the environment variable `CI` is set: then it fails.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests are tests")]

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use mha::agent::host::process::{Find, Process, Watch, find};
use mha::agent::host::salvage::{SalvageError, salvage, statements};
use mha::agent::host::service::Service;
use mha::agent::host::tail::{Limits, Place, Tail, TailError, Transaction, scan};
use mha::model::instance::Flavor;

const PATIENCE: Duration = Duration::from_secs(30);

fn program(name: &str) -> Option<PathBuf> {
    ["/usr/sbin", "/usr/bin"]
        .iter()
        .map(|directory| Path::new(directory).join(name))
        .find(|path| path.exists())
}

/// A private server, killed when dropped.
struct Server {
    directory: tempfile::TempDir,
    process: Option<Process>,
}

impl Server {
    /// `None` where there is no MariaDB to run.
    async fn start(arguments: &[&str]) -> Option<Self> {
        let (Some(install), Some(_)) = (program("mariadb-install-db"), program("mariadbd")) else {
            assert!(
                std::env::var_os("CI").is_none(),
                "MariaDB is not installed: apt-get install mariadb-server"
            );
            println!("not run: MariaDB is not installed");
            return None;
        };
        let directory = tempfile::tempdir().unwrap();
        let installed = Command::new(install)
            .args([
                "--no-defaults",
                "--user=root",
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
            ])
            .arg(format!("--datadir={}", directory.path().join("data").display()))
            // A starting server removes every temporary table in the directory, another's too.
            .arg(format!("--tmpdir={}", directory.path().display()))
            .output()
            .unwrap();
        assert!(installed.status.success(), "{}", String::from_utf8_lossy(&installed.stderr));
        let mut server = Self { directory, process: None };
        server.run(arguments).await;
        Some(server)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    async fn run(&mut self, arguments: &[&str]) {
        let mut start: Vec<String> =
            ["--no-defaults", "--user=root", "--skip-networking", "--log-bin=binlog"]
                .into_iter()
                .chain(["--server-id=7", "--innodb-buffer-pool-size=32M", "--innodb-log-file-size=8M"])
                .map(str::to_owned)
                .collect();
        start.insert(0, program("mariadbd").unwrap().display().to_string());
        start.push(format!("--datadir={}", self.path("data").display()));
        start.push(format!("--socket={}", self.path("sock").display()));
        start.push(format!("--pid-file={}", self.path("pid").display()));
        start.push(format!("--tmpdir={}", self.directory.path().display()));
        let service = Service::Command { start, stop: None };
        let more: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let by = Find::Socket(self.path("sock"));
        let log = self.path("log");
        self.process = Some(service.start(&more, &by, (Some(&log), None), PATIENCE).await.unwrap());
        while !self.sql("select 1", &[]).0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn sql(&self, text: &str, arguments: &[&str]) -> (bool, String) {
        let output = Command::new("mariadb")
            .args(["--no-defaults", "--user=root", "--batch", "--skip-column-names", "--binary-mode"])
            .arg(format!("--socket={}", self.path("sock").display()))
            .args(arguments)
            .args(["--execute", text])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    fn must(&self, text: &str) -> String {
        let (well, answer) = self.sql(text, &[]);
        assert!(well, "{text}: {answer}");
        answer
    }

    fn index(&self) -> PathBuf {
        self.path("data/binlog.index")
    }

    async fn kill(&mut self) {
        let Some(process) = self.process.take() else { return };
        if let Some(watch) = Watch::open(&process).unwrap() {
            watch.kill().unwrap();
            watch.confirm_gone(PATIENCE).await.unwrap();
        }
        assert_eq!(find(&Find::PidFile(self.path("pid"))).await.unwrap(), None);
    }

    async fn tail(&self, from: Option<&Place>, files: usize) -> Tail {
        let limits = Limits { files, ..Limits::default() };
        scan(Flavor::MariaDb, &self.index(), from, limits).await.unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(watch) = self.process.take().and_then(|process| Watch::open(&process).ok().flatten()) {
            let _ = watch.kill();
        }
    }
}

fn gtids(tail: &Tail) -> Vec<&str> {
    tail.transactions.iter().map(|transaction| transaction.gtid.as_str()).collect()
}

async fn decode(tail: &Tail, missing: &[Transaction]) -> Result<Vec<Vec<u8>>, SalvageError> {
    let tool = ["mariadb-binlog".to_owned()];
    let sql = salvage(Flavor::MariaDb, &tool, tail, missing, 64 << 20, PATIENCE).await?;
    statements(&sql)
}

const WORK: &str = "create database d; create table d.t (a int primary key, b text) engine=innodb;
    create table d.m (a int) engine=aria transactional=0; insert into d.t values (1, 'one');
    insert into d.m values (1); begin; insert into d.t values (2, 'two'); update d.t set b = 'zwei' where a = 2; commit;
    xa start 'x'; insert into d.t values (3, 'three'); xa end 'x'; xa prepare 'x'; xa commit 'x';
    create table d.c as select * from d.t; drop table d.c; flush binary logs; insert into d.t values (4, 'four')";

#[tokio::test]
async fn every_kind_of_group_of_a_killed_server_is_found() {
    for format in ["ROW", "STATEMENT", "MIXED"] {
        let arguments = [&format!("--binlog-format={format}")[..], "--log-bin-compress=1"];
        let Some(mut server) = Server::start(&arguments).await else { return };
        let before = server.must("select @@gtid_binlog_pos");
        assert!(server.sql(WORK, &["--force"]).0);
        let last = server.must("select @@gtid_binlog_pos");
        server.kill().await;
        let tail = server.tail(None, 100).await;
        let count: usize = last.rsplit_once('-').unwrap().1.parse().unwrap();
        let expected: Vec<String> = (1..=count).map(|number| format!("0-7-{number}")).collect();
        assert_eq!(gtids(&tail), expected, "{format}, {before} to {last}");
        for pair in tail.transactions.windows(2) {
            assert!(pair[0].complete && pair[1].complete, "{format}: {pair:?}");
            assert!(pair[0].file < pair[1].file || pair[0].end == pair[1].start, "{format}: {pair:?}");
        }
        assert!(!tail.torn);
        assert_eq!(tail.previous.as_deref(), Some(""), "nothing was before the first file");
        let newest = server.tail(None, 1).await;
        assert_eq!(gtids(&newest), [&last], "{format}");
        assert_eq!(newest.previous.unwrap(), format!("0-7-{}", count - 1), "{format}");
        let third = &tail.transactions[2];
        let from = Place { file: third.file.clone(), position: third.start };
        assert_eq!(gtids(&server.tail(Some(&from), 1).await), expected[2..], "{format}");
        assert!(server.tail(Some(&newest.end), 1).await.transactions.is_empty());
    }
}

#[tokio::test]
async fn a_salvaged_tail_brings_a_copy_level() {
    for format in ["ROW", "STATEMENT"] {
        let arguments = [&format!("--binlog-format={format}")[..]];
        let Some(mut server) = Server::start(&arguments).await else { return };
        server.must("create database d; create table d.t (a int primary key, b varbinary(200))");
        let known = server.must("select @@gtid_binlog_pos");
        let Some(copy) = Server::start(&arguments).await else { return };
        copy.must("create database d; create table d.t (a int primary key, b varbinary(200))");
        server.must(
            r"insert into d.t values (1, 'x/*!*/;\nDROP DATABASE d/*!*/;\n'); flush binary logs;
            set names latin1; insert into d.t values (2, _binary x'fff0'), (3, 'it''s # ; -- \\');
            set sql_mode='NO_BACKSLASH_ESCAPES'; insert into d.t values (4, '\'), (5, ';')",
        );
        server.kill().await;
        let tail = server.tail(None, 10).await;
        let at = gtids(&tail).iter().position(|gtid| *gtid == known).unwrap() + 1;
        let sql = decode(&tail, &tail.transactions[at..]).await.unwrap();
        for part in ["gtid_seq_no", "COMMIT"] {
            assert!(sql.iter().any(|text| String::from_utf8_lossy(text).contains(part)), "{part}");
        }
        // One statement at a time, behind a delimiter nobody has written: only our splitting is tried.
        let mut script = b"delimiter ~!~\n".to_vec();
        for statement in &sql {
            script.extend([statement, &b"~!~\n"[..]].concat());
        }
        let file = copy.path("script");
        std::fs::write(&file, script).unwrap();
        let replayed = Command::new("mariadb")
            .args(["--no-defaults", "--user=root", "--binary-mode"])
            .arg(format!("--socket={}", copy.path("sock").display()))
            .stdin(std::fs::File::open(file).unwrap())
            .output()
            .unwrap();
        assert!(replayed.status.success(), "{format}: {}", String::from_utf8_lossy(&replayed.stderr));
        server.run(&arguments).await;
        let rows = "select a, hex(b) from d.t order by a";
        assert_eq!(copy.must(rows), server.must(rows), "{format}");
        assert_eq!(copy.must("select @@gtid_binlog_pos"), tail.transactions.last().unwrap().gtid, "{format}");
    }
}

#[tokio::test]
async fn a_torn_end_is_told_and_never_salvaged() {
    let Some(mut server) = Server::start(&["--binlog-format=ROW"]).await else { return };
    assert!(server.sql(WORK, &["--force"]).0);
    server.must(
        "begin; insert into d.t values (50, repeat('x', 3000)); insert into d.t values (51, 'y'); commit",
    );
    server.kill().await;
    let whole = server.tail(None, 100).await;
    let last = whole.transactions.last().unwrap().clone();
    let path = whole.files.last().unwrap();
    let bytes = std::fs::read(path).unwrap();
    let (start, end) = (last.start as usize, last.end as usize);
    assert_eq!(end, bytes.len());
    for cut in (start..end).step_by(37).chain([end - 1]) {
        std::fs::write(path, &bytes[..cut]).unwrap();
        let tail = server.tail(None, 100).await;
        let left = tail.transactions.last().unwrap();
        assert!(tail.torn || tail.end.position == cut as u64, "cut at {cut}");
        if left.gtid == last.gtid {
            assert!(!left.complete, "cut at {cut}");
            let refused = decode(&tail, std::slice::from_ref(left)).await;
            assert!(matches!(refused, Err(SalvageError::Incomplete(_))), "cut at {cut}");
        }
        let complete = tail.transactions.iter().filter(|transaction| transaction.complete).count();
        assert_eq!(complete, whole.transactions.len() - 1, "cut at {cut}");
    }
    // Lengthened and not written, as after a power loss.
    std::fs::write(path, [&bytes[..], &[0; 5000]].concat()).unwrap();
    let tail = server.tail(None, 100).await;
    assert!(tail.torn);
    assert_eq!(tail.transactions, whole.transactions);
    let (index, limits) = (server.index(), Limits::default());
    let beyond = Place { file: last.file.clone(), position: 1 << 20 };
    let error = scan(Flavor::MariaDb, &index, Some(&beyond), limits).await.unwrap_err();
    assert!(matches!(error, TailError::Beyond { .. }), "{error}");
    let purged = Place { file: "binlog.000999".to_owned(), position: 4 };
    let error = scan(Flavor::MariaDb, &index, Some(&purged), limits).await.unwrap_err();
    assert!(matches!(error, TailError::NotInIndex { .. }), "{error}");
    let error = scan(Flavor::MariaDb, &index, None, Limits { bytes: 100, ..limits }).await.unwrap_err();
    assert!(matches!(error, TailError::TooMuch { .. }), "{error}");
    // Garbage within the log is damage, not an end.
    std::fs::write(path, &bytes).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(&[0; 19], last.start).unwrap();
    let error = scan(Flavor::MariaDb, &index, None, limits).await.unwrap_err();
    assert!(matches!(error, TailError::Damaged { .. }), "{error}");
}

#[tokio::test]
async fn an_encrypted_log_is_named_as_such() {
    let plugin = ["/usr/lib/mysql/plugin/file_key_management.so"].iter().any(|path| Path::new(path).exists());
    if !plugin {
        assert!(std::env::var_os("CI").is_none(), "the file_key_management plugin is not installed");
        println!("not run: the file_key_management plugin is not installed");
        return;
    }
    let keys = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(keys.path(), format!("1;{}\n", "ab".repeat(32))).unwrap();
    let file = format!("--file-key-management-filename={}", keys.path().display());
    let arguments = ["--plugin-load-add=file_key_management", &file, "--encrypt-binlog=1"];
    let Some(mut server) = Server::start(&arguments).await else { return };
    server.must("create database d");
    server.kill().await;
    let error = scan(Flavor::MariaDb, &server.index(), None, Limits::default()).await.unwrap_err();
    assert!(matches!(error, TailError::Encrypted { .. }), "{error}");
}

const MYSQL_WORK: &str = "create database d; create table d.t (a int primary key, b text); insert into d.t values (1, 'x');
    set gtid_next='AUTOMATIC:blue'; insert into d.t values (2, 'y'); set gtid_next='AUTOMATIC'; begin;
    insert into d.t values (3, 'z'); savepoint s; insert into d.t values (9, '9'); rollback to s; commit; xa start 'x';
    insert into d.t values (4, 'w'); xa end 'x'; xa prepare 'x'; xa commit 'x'; create table d.c as select * from d.t;
    set binlog_transaction_compression=1; insert into d.t values (5, repeat('v', 2000));
    set binlog_transaction_compression=0; flush binary logs; set gtid_next='AUTOMATIC:green_2';
    insert into d.t values (6, 'y')";

/// `MHA_MYSQL_PREFIX` names the directory whose `bin` holds `mysqld`, `mysql` and `mysqlbinlog`.
#[tokio::test]
async fn a_killed_mysql_server_with_tagged_gtids() {
    let Some(bin) = std::env::var_os("MHA_MYSQL_PREFIX").map(|prefix| Path::new(&prefix).join("bin")) else {
        println!("not run: MHA_MYSQL_PREFIX names no MySQL");
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let common = [
        bin.join("mysqld").display().to_string(),
        "--no-defaults".to_owned(),
        "--user=root".to_owned(),
        format!("--datadir={}", path("data").display()),
        "--secure-file-priv=".to_owned(),
        format!("--tmpdir={}", directory.path().display()),
    ];
    let made = Command::new(&common[0]).args(&common[1..]).arg("--initialize-insecure").output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let mut start = common.to_vec();
    start.push(format!("--socket={}", path("sock").display()));
    start.push(format!("--pid-file={}", path("pid").display()));
    for option in ["--skip-networking", "--mysqlx=OFF", "--gtid-mode=ON", "--enforce-gtid-consistency=ON"] {
        start.push(option.to_owned());
    }
    for option in ["--log-bin=binlog", "--server-id=7", "--performance-schema=OFF"] {
        start.push(option.to_owned());
    }
    let (by, log) = (Find::PidFile(path("pid")), path("log"));
    let service = Service::Command { start, stop: None };
    let process = service.start(&[], &by, (Some(&log), None), PATIENCE).await.unwrap();
    let sql = |text: &str| {
        let output = Command::new(bin.join("mysql"))
            .args(["--no-defaults", "--user=root", "--batch", "--skip-column-names", "--execute", text])
            .arg(format!("--socket={}", path("sock").display()))
            .output()
            .unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    while !sql("select 1").0 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(sql(MYSQL_WORK).0);
    let server = sql("select @@server_uuid").1;
    let watch = Watch::open(&process).unwrap().unwrap();
    watch.kill().unwrap();
    watch.confirm_gone(PATIENCE).await.unwrap();

    let names = ["1", "2", "3", "blue:1", "4", "5", "6", "7", "8", "green_2:1"];
    let index = path("data/binlog");
    let limits = Limits { files: 100, ..Limits::default() };
    let tail = scan(Flavor::MySql, &index, None, limits).await.unwrap();
    assert_eq!(gtids(&tail), names.map(|name| format!("{server}:{name}")));
    assert!(tail.transactions.iter().all(|transaction| transaction.complete) && !tail.torn, "{tail:?}");
    let newest = scan(Flavor::MySql, &index, None, Limits::default()).await.unwrap();
    assert_eq!(newest.previous.unwrap(), format!("{server}:1-8,{server}:blue:1"));

    let missing = [tail.transactions[3].clone(), tail.transactions[8].clone(), tail.transactions[9].clone()];
    let tool = [bin.join("mysqlbinlog").display().to_string()];
    let sql = salvage(Flavor::MySql, &tool, &tail, &missing, 64 << 20, PATIENCE).await.unwrap();
    let found: Vec<String> = statements(&sql)
        .unwrap()
        .iter()
        .map(|statement| String::from_utf8_lossy(statement).into_owned())
        .filter(|statement| {
            statement.starts_with("SET @@SESSION.GTID_NEXT= '") && statement.contains(&server)
        })
        .collect();
    let expected: Vec<String> = missing
        .iter()
        .map(|transaction| format!("SET @@SESSION.GTID_NEXT= '{}'", transaction.gtid))
        .collect();
    assert_eq!(found, expected, "exactly what is missing, although known ones stand between");
}
