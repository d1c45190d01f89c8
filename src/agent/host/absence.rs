//! Whether it is proven that a server does not run. That it is not found by its pid file and its socket proves nothing: the file may be
//! missing or older than a change of the clock, and a server that starts has no socket yet. It looks, and changes nothing.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use tokio::task::spawn_blocking;

use super::listeners::Listeners;
use super::process::{self, Find, Process, Watch, find};
use super::writers::{Writer, writer};

/// The programs of both families, as the kernel has their names.
const PROGRAMS: [&str; 2] = ["mysqld", "mariadbd"];

/// What a server that runs can be known by.
#[derive(Debug, Clone)]
pub struct Marks {
    pub ports: Vec<u16>,
    pub socket: PathBuf,
    /// Its data directory, where that is known. Else every server of this network namespace may be it that listens on no other port.
    pub data: Option<PathBuf>,
    /// The process that it was when an agent of this boot last saw it.
    pub was: Option<Process>,
}

/// # Errors
/// What does not let it be said that the server does not run, in words.
pub async fn prove(marks: &Marks) -> Result<(), String> {
    if let Some(was) = &marks.was
        && Watch::open(was).map_err(|error| error.to_string())?.is_some()
    {
        return Err(format!("the process that it was runs still (pid {})", was.pid));
    }
    let ports = marks.ports.iter().map(|port| (Find::TcpPort(*port), format!("port {port}")));
    let socket = (Find::Socket(marks.socket.clone()), marks.socket.display().to_string());
    for (by, at) in ports.chain([socket]) {
        if let Some(Process { pid, command, .. }) = find(&by).await.map_err(|error| error.to_string())? {
            return Err(format!("process {pid} ({command}) listens on {at}"));
        }
    }
    match &marks.data {
        Some(data) => nobody_writes(data).await,
        None => no_server_without_a_port(marks).await,
    }
}

async fn nobody_writes(data: &Path) -> Result<(), String> {
    match writer(data).await {
        Ok(None) => Ok(()),
        Ok(Some(Writer { pid, name, file })) => {
            Err(format!("process {pid} ({name}) writes to {}", file.display()))
        }
        Err(error) => Err(format!("who writes to {} is not known: {error}", data.display())),
    }
}

/// One that listens on a port of its own is another server of this host: the ports of the one asked for were looked at before.
async fn no_server_without_a_port(marks: &Marks) -> Result<(), String> {
    let was = marks.was.as_ref().map(|was| was.command.clone());
    let listed = spawn_blocking(move || servers_here(was.as_deref())).await;
    let servers = listed.map_err(io::Error::other).flatten();
    let servers = servers.map_err(|error| format!("which processes run is not known: {error}"))?;
    for server in servers {
        let ports = async { Listeners::open()?.ports_of(&server).await };
        let ports = ports.await.map_err(|error| error.to_string())?;
        if ports.is_empty() {
            let Process { pid, command, .. } = server;
            return Err(format!(
                "process {pid} ({command}) may be it, for it listens on no port; set `data_dir` in agent.toml so that they can be told apart"
            ));
        }
    }
    Ok(())
}

/// Servers of the calling thread's network namespace.
fn servers_here(was: Option<&str>) -> io::Result<Vec<Process>> {
    let own = fs::read_link("/proc/thread-self/ns/net")?;
    let pids = fs::read_dir("/proc")?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let servers = pids.filter_map(process::running);
    let named = servers.filter(|it| PROGRAMS.contains(&it.command.as_str()) || was == Some(&it.command));
    // One whose namespace is not shown may be of this one.
    let here =
        |it: &Process| fs::read_link(format!("/proc/{}/ns/net", it.pid)).map_or(true, |its| its == own);
    Ok(named.filter(here).collect())
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;

    fn marks(directory: &Path) -> Marks {
        let data = directory.join("data");
        fs::create_dir_all(&data).unwrap();
        Marks { ports: Vec::new(), socket: directory.join("server.sock"), data: Some(data), was: None }
    }

    fn sleeps(program: &Path, stdin: Stdio) -> Child {
        Command::new(program).arg("60").stdin(stdin).spawn().unwrap()
    }

    fn end(mut child: Child) {
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[tokio::test]
    async fn whoever_listens_or_writes_may_be_the_server() {
        let directory = tempfile::tempdir().unwrap();
        let nobody = marks(directory.path());
        prove(&nobody).await.unwrap();
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = tcp.local_addr().unwrap().port();
        let listens = prove(&Marks { ports: vec![port], ..nobody.clone() }).await.unwrap_err();
        assert!(listens.contains(&format!("listens on port {port}")), "{listens}");
        let unix = std::os::unix::net::UnixListener::bind(&nobody.socket).unwrap();
        let listens = prove(&nobody).await.unwrap_err();
        assert!(listens.contains("server.sock"), "{listens}");
        drop(unix);
        // It starts: its files are open, and it listens on nothing yet.
        let file = fs::File::create(nobody.data.as_ref().unwrap().join("ibdata1")).unwrap();
        let child = sleeps(Path::new("sleep"), file.into());
        let writes = prove(&nobody).await.unwrap_err();
        assert!(writes.contains("(sleep) writes to") && writes.contains("ibdata1"), "{writes}");
        end(child);
        prove(&nobody).await.unwrap();
        let lost = Marks { data: Some(directory.path().join("nowhere")), ..nobody };
        assert!(prove(&lost).await.is_err(), "a directory that cannot be looked into proves nothing");
    }

    #[tokio::test]
    async fn a_process_that_ran_before_is_known_by_its_number_and_start() {
        let directory = tempfile::tempdir().unwrap();
        let child = sleeps(Path::new("sleep"), Stdio::null());
        let was = process::running(child.id());
        let marks = Marks { was, ..marks(directory.path()) };
        let runs = prove(&marks).await.unwrap_err();
        assert!(runs.contains("runs still"), "{runs}");
        end(child);
        prove(&marks).await.unwrap();
    }

    #[tokio::test]
    async fn where_the_data_is_not_known_any_server_without_a_port_may_be_it() {
        let directory = tempfile::tempdir().unwrap();
        // A name of its own: servers of other tests run beside this one.
        let program = directory.path().join("mha-test-db");
        // No copy: another test's child may hold the file open for writing until it executes.
        std::os::unix::fs::symlink("/bin/sleep", &program).unwrap();
        let child = sleeps(&program, Stdio::null());
        let was = process::running(child.id()).map(|it| it.command);
        while was.as_deref() != Some("mha-test-db")
            && process::running(child.id()).unwrap().command != "mha-test-db"
        {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        let found = servers_here(Some("mha-test-db")).unwrap();
        assert!(found.iter().any(|it| it.pid == child.id()), "{found:?}");
        let ended =
            Process { pid: 1, started: crate::model::time::Moment::ZERO, command: "mha-test-db".to_owned() };
        let unknown = Marks { data: None, was: Some(ended), ..marks(directory.path()) };
        let may_be = prove(&unknown).await.unwrap_err();
        assert!(may_be.contains("may be it") && may_be.contains("data_dir"), "{may_be}");
        end(child);
        assert!(servers_here(Some("mha-test-db")).unwrap().iter().all(|it| it.command != "mha-test-db"));
    }
}
