//! The server's process: found, watched without polling, killed, and proven gone.
//!
//! A process is a pid *and* the time it started: a pid that came to belong to another process is never signalled.

use std::collections::HashSet;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use tokio::io::unix::AsyncFd;

use crate::clock;
use crate::model::time::Moment;

/// How long a search of `/proc` may take.
const DEADLINE: Duration = Duration::from_secs(2);
/// The kernel shows times to programs in these units, on every architecture Linux servers run on.
const TICKS_PER_SECOND: u64 = 100;
/// A pid file is written by the process it names, so it is not older than that process; its stamp is of a coarser clock.
const STAMP_SLACK: Duration = Duration::from_secs(2);

/// What is known of the server's process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "process", rename_all = "snake_case")]
pub enum ProcessState {
    Running {
        pid: u32,
        started_ago: Duration,
    },
    /// It ended; `ago` counts from when that was seen here.
    Gone {
        ago: Duration,
    },
    Unknown {
        why: String,
    },
}

/// How the server's process is recognised, in this network namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Find {
    PidFile(PathBuf),
    /// Who listens on this TCP port.
    TcpPort(u16),
    /// Who listens on the unix socket bound to this path, written as the server was told.
    Socket(PathBuf),
}

/// Why a process could not be found, watched or killed.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    #[error("reading {path}: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path} does not hold a process id: {text:?}")]
    NoPid { path: PathBuf, text: String },
    #[error(
        "{path} names pid {pid}, which started after the file was written: it is left from an earlier run"
    )]
    StalePidFile { path: PathBuf, pid: u32 },
    #[error(
        "somebody listens on {at}, but no process here owns that socket; the agent needs root to see them all"
    )]
    HiddenOwner { at: String },
    #[error("searching the process table took longer than {} s", DEADLINE.as_secs())]
    Late,
    #[error("{doing} pid {pid}: {source}")]
    Kernel { pid: u32, doing: &'static str, source: io::Error },
    #[error("pid {pid} is still there {} ms after SIGKILL; it may sleep in the disk, and dies when the disk answers", waited.as_millis())]
    StillThere { pid: u32, waited: Duration },
}

/// One process, told from every other of this boot.
#[derive(Debug, Clone, Eq, Serialize, Deserialize)]
pub struct Process {
    pub pid: u32,
    /// When it started, to 10 ms.
    pub started: Moment,
    /// The program's short name, as the kernel has it.
    pub command: String,
}

impl PartialEq for Process {
    /// By pid and start: a program that becomes another (`exec`) is the same process by another name.
    fn eq(&self, other: &Self) -> bool {
        (self.pid, self.started) == (other.pid, other.started)
    }
}

/// Looks for the server's process; `None` when it is not running.
///
/// # Errors
/// When `/proc` or the pid file cannot be read, or what they say contradicts itself.
pub async fn find(by: &Find) -> Result<Option<Process>, ProcessError> {
    let by = by.clone();
    let search = tokio::task::spawn_blocking(move || match by {
        Find::PidFile(path) => from_pid_file(&path),
        Find::TcpPort(port) => owner_of(listening_tcp(port)?, || format!("TCP port {port}")),
        Find::Socket(path) => owner_of(listening_unix(&path)?, || path.display().to_string()),
    });
    match tokio::time::timeout(DEADLINE, search).await {
        Err(_) => Err(ProcessError::Late),
        Ok(Err(error)) => Err(ProcessError::Read { path: "/proc".into(), source: io::Error::other(error) }),
        Ok(Ok(found)) => found,
    }
}

/// The inodes of the sockets that `process` has open; none when it is gone.
///
/// # Errors
/// When it may not be looked into, or the search is late.
pub(super) async fn sockets_of(process: &Process) -> Result<HashSet<u64>, ProcessError> {
    let path = PathBuf::from(format!("/proc/{}/fd", process.pid));
    let search = tokio::task::spawn_blocking(move || match std::fs::read_dir(&path) {
        Ok(open) => Ok(open.flatten().filter_map(|entry| socket_inode(&entry.path())).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(HashSet::new()),
        Err(source) => Err(ProcessError::Read { path, source }),
    });
    match tokio::time::timeout(DEADLINE, search).await {
        Err(_) => Err(ProcessError::Late),
        Ok(Err(error)) => Err(ProcessError::Read { path: "/proc".into(), source: io::Error::other(error) }),
        Ok(Ok(found)) => found,
    }
}

fn socket_inode(link: &Path) -> Option<u64> {
    let to = std::fs::read_link(link).ok()?;
    to.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// A process under watch. Dropping it changes nothing for the process.
#[derive(Debug)]
pub struct Watch {
    process: Process,
    descriptor: AsyncFd<OwnedFd>,
    gone_at: OnceLock<Moment>,
}

impl Watch {
    /// Watches exactly `process`; `None` when it is gone already, even if its pid is in use again.
    ///
    /// # Errors
    /// When the kernel gives no descriptor for it.
    pub fn open(process: &Process) -> Result<Option<Self>, ProcessError> {
        let failed = |source: io::Error| ProcessError::Kernel { pid: process.pid, doing: "watching", source };
        let Some(pid) = i32::try_from(process.pid).ok().and_then(Pid::from_raw) else { return Ok(None) };
        let descriptor = match pidfd_open(pid, PidfdFlags::NONBLOCK) {
            Ok(descriptor) => descriptor,
            Err(rustix::io::Errno::SRCH) => return Ok(None),
            Err(error) => return Err(failed(error.into())),
        };
        // Read after the descriptor is held: from here on the pid cannot come to mean another process unseen.
        if read_stat(process.pid).is_none_or(|stat| stat.started != process.started || stat.ended) {
            return Ok(None);
        }
        let descriptor = super::watch(descriptor).map_err(failed)?;
        Ok(Some(Self { process: process.clone(), descriptor, gone_at: OnceLock::new() }))
    }

    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Returns when the process has ended: all its threads, its sockets closed. At once if it has.
    pub async fn exited(&self) {
        // An error here means the reactor is shutting down, and this future with it.
        if let Ok(mut ready) = self.descriptor.readable().await {
            ready.retain_ready();
        }
        self.gone_at.get_or_init(clock::now);
    }

    /// Returns when the process has begun to end and runs no code of its own any more; it stays until its memory is given back, and
    /// only then do its sockets close: 50 ms and more for a database. Where the kernel cannot tell (before 6.9) that is seen within half a
    /// second.
    pub async fn ending(&self) {
        while self.runs() {
            if let Some(thread) = self.some_thread() {
                if let Ok(mut ready) = thread.readable().await {
                    ready.retain_ready();
                }
                // Its threads are told within the same moment, and end in any order.
                for _ in 0..ENDING_LOOKS {
                    if !self.runs() {
                        return;
                    }
                    tokio::time::sleep(ENDING_LOOK_EVERY).await;
                }
            }
            // That thread had ended its own work, or none can be watched here.
            tokio::time::sleep(NEXT_THREAD_AFTER).await;
        }
    }

    fn runs(&self) -> bool {
        read_stat(self.process.pid).is_some_and(|stat| stat.started == self.process.started && !stat.ended)
    }

    /// A descriptor of a thread that is not the first; `None` where the kernel has none, or there is no second thread.
    fn some_thread(&self) -> Option<AsyncFd<OwnedFd>> {
        // PIDFD_THREAD (include/uapi/linux/pidfd.h): readable when that thread ends.
        let flags = PidfdFlags::NONBLOCK | PidfdFlags::from_bits_retain(libc::O_EXCL as u32);
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.process.pid)).ok()?;
        threads
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
            .filter(|thread| *thread != self.process.pid)
            .find_map(|thread| {
                let thread = Pid::from_raw(i32::try_from(thread).ok()?)?;
                super::watch(pidfd_open(thread, flags).ok()?).ok()
            })
    }

    /// Running, or gone and since when that has been known.
    pub fn state(&self) -> ProcessState {
        let now = clock::now();
        if self.gone_at.get().is_none() && self.runs() {
            return ProcessState::Running {
                pid: self.process.pid,
                started_ago: now.since(self.process.started),
            };
        }
        ProcessState::Gone { ago: now.since(*self.gone_at.get_or_init(|| now)) }
    }

    /// Sends SIGKILL; to a process that has ended, nothing.
    ///
    /// # Errors
    /// When the kernel forbids it.
    pub fn kill(&self) -> Result<(), ProcessError> {
        self.signal(Signal::KILL, "killing")
    }

    /// Sends SIGTERM: a clean stop. Never for a server that was primary while clients may be connected (S5).
    ///
    /// # Errors
    /// When the kernel forbids it.
    pub fn terminate(&self) -> Result<(), ProcessError> {
        self.signal(Signal::TERM, "terminating")
    }

    fn signal(&self, signal: Signal, doing: &'static str) -> Result<(), ProcessError> {
        match pidfd_send_signal(self.descriptor.get_ref(), signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(ProcessError::Kernel { pid: self.process.pid, doing, source: error.into() }),
        }
    }

    /// Waits until the process is proven gone.
    ///
    /// # Errors
    /// [`ProcessError::StillThere`] when it is not within `deadline`: a process in uninterruptible sleep outlives SIGKILL.
    pub async fn confirm_gone(&self, deadline: Duration) -> Result<(), ProcessError> {
        tokio::time::timeout(deadline, self.exited())
            .await
            .map_err(|_| ProcessError::StillThere { pid: self.process.pid, waited: deadline })
    }
}

/// Between two looks whether a process whose thread ended is ending, and how many.
const ENDING_LOOK_EVERY: Duration = Duration::from_millis(1);
const ENDING_LOOKS: u32 = 10;
/// Before another thread is watched.
const NEXT_THREAD_AFTER: Duration = Duration::from_millis(500);
/// Flag in `/proc/PID/stat`: the first thread is ending (include/linux/sched.h). A database's first thread ends with the process.
const PF_EXITING: u64 = 4;

struct Stat {
    command: String,
    started: Moment,
    ended: bool,
}

/// `None` when there is no such process.
fn read_stat(pid: u32) -> Option<Stat> {
    parse_stat(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn parse_stat(text: &str) -> Option<Stat> {
    // The command is in parentheses and may hold any character, parentheses included.
    let (head, tail) = text.rsplit_once(')')?;
    let command = head.split_once('(')?.1.to_owned();
    let fields: Vec<&str> = tail.split_ascii_whitespace().collect();
    let ticks: u64 = fields.get(19)?.parse().ok()?;
    // A leader that ended before its other threads is a zombie too, but the process lives.
    let flags = fields.get(6).and_then(|flags| flags.parse::<u64>().ok()).unwrap_or(0);
    let zombie =
        matches!(*fields.first()?, "Z" | "X") && fields.get(17).is_none_or(|threads| *threads <= "1");
    let ended = zombie || flags & PF_EXITING != 0;
    Some(Stat { command, started: Moment::from_micros(ticks * (1_000_000 / TICKS_PER_SECOND)), ended })
}

/// The process of that number, unless it has ended.
pub(super) fn running(pid: u32) -> Option<Process> {
    let stat = read_stat(pid).filter(|stat| !stat.ended)?;
    Some(Process { pid, started: stat.started, command: stat.command })
}

fn from_pid_file(path: &Path) -> Result<Option<Process>, ProcessError> {
    let failed = |source| ProcessError::Read { path: path.to_owned(), source };
    let text = match std::fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(failed)?,
    };
    let Ok(pid) = text.trim().parse::<u32>() else {
        return Err(ProcessError::NoPid { path: path.to_owned(), text: text.chars().take(40).collect() });
    };
    let Some(found) = running(pid) else { return Ok(None) };
    let written = std::fs::metadata(path).and_then(|about| about.modified()).map_err(failed)?;
    let file_age = written.elapsed().unwrap_or_default();
    if file_age > clock::now().since(found.started) + STAMP_SLACK {
        return Err(ProcessError::StalePidFile { path: path.to_owned(), pid });
    }
    Ok(Some(found))
}

/// Of this thread's network namespace: `/proc/net` would be the main thread's.
fn read_net(name: &str) -> Result<String, ProcessError> {
    let path = PathBuf::from("/proc/thread-self/net").join(name);
    match std::fs::read(&path) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        // A kernel without IPv6 has no tcp6.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(source) => Err(ProcessError::Read { path, source }),
    }
}

fn listening_tcp(port: u16) -> Result<Vec<u64>, ProcessError> {
    let text = read_net("tcp")? + &read_net("tcp6")?;
    Ok(text.lines().filter_map(|line| tcp_listener(line, port)).collect())
}

fn tcp_listener(line: &str, port: u16) -> Option<u64> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let local = u16::from_str_radix(fields.get(1)?.rsplit_once(':')?.1, 16).ok()?;
    (local == port && *fields.get(3)? == "0A").then(|| fields.get(9)?.parse().ok()).flatten()
}

fn listening_unix(path: &Path) -> Result<Vec<u64>, ProcessError> {
    let text = read_net("unix")?;
    Ok(text.lines().filter_map(|line| unix_listener(line, &path.to_string_lossy())).collect())
}

fn unix_listener(line: &str, path: &str) -> Option<u64> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    // Flag "accepts connections".
    let accepts = u32::from_str_radix(fields.get(3)?, 16).ok()? & 0x0001_0000 != 0;
    (accepts && fields.get(7..)?.join(" ") == path).then(|| fields[6].parse().ok()).flatten()
}

/// A service manager that listens on a server's behalf (a socket unit) holds the socket whether the server runs or not.
fn is_service_manager(process: &Process) -> bool {
    process.pid == 1 && matches!(process.command.as_str(), "systemd" | "init")
}

/// The oldest process that has one of these sockets open, children inherit them; never the service manager.
fn owner_of(inodes: Vec<u64>, at: impl Fn() -> String) -> Result<Option<Process>, ProcessError> {
    if inodes.is_empty() {
        return Ok(None);
    }
    let links: Vec<PathBuf> = inodes.iter().map(|inode| format!("socket:[{inode}]").into()).collect();
    let proc = |source| ProcessError::Read { path: "/proc".into(), source };
    let (mut owners, mut activated) = (Vec::new(), false);
    for entry in std::fs::read_dir("/proc").map_err(proc)? {
        let Some(pid) = entry.map_err(proc)?.file_name().to_str().and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        // Gone in between, or not ours to look into.
        let Ok(open) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { continue };
        let owns =
            open.flatten().any(|entry| std::fs::read_link(entry.path()).is_ok_and(|to| links.contains(&to)));
        match owns.then(|| running(pid)).flatten() {
            Some(owner) if is_service_manager(&owner) => activated = true,
            owner => owners.extend(owner),
        }
    }
    match owners.into_iter().min_by_key(|owner| (owner.started, owner.pid)) {
        Some(owner) => Ok(Some(owner)),
        None if activated => Ok(None),
        None => Err(ProcessError::HiddenOwner { at: at() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn a_stat_line_with_a_hostile_name() {
        let line = "42 (a) R (b) S 1 42 42 0 -1 4194560 5 0 0 0 1 2 0 0 20 0 1 0 123456 1 2 3";
        let stat = parse_stat(line).unwrap();
        assert_eq!((stat.command.as_str(), stat.ended), ("a) R (b", false));
        assert_eq!(stat.started, Moment::from_micros(1_234_560_000));
        assert!(parse_stat(&line.replace(") S 1", ") Z 1")).unwrap().ended);
        assert!(parse_stat(&line.replace("4194560", "4194564")).unwrap().ended, "its first thread is ending");
        assert!(parse_stat("nonsense").is_none());
    }

    #[test]
    fn listeners_are_told_from_connections() {
        let line =
            "   0: 00000000:0CEA 00000000:0000 0A 00000000:00000000 00:00000000 00000000   0   0 77 1 x";
        assert_eq!(tcp_listener(line, 3306), Some(77));
        assert_eq!(tcp_listener(line, 3307), None);
        assert_eq!(tcp_listener(&line.replace(" 0A ", " 01 "), 3306), None);
        let line = "0000: 00000002 00000000 00010000 0001 01 99 /run/my server.sock";
        assert_eq!(unix_listener(line, "/run/my server.sock"), Some(99));
        assert_eq!(unix_listener(&line.replace("00010000", "00000000"), "/run/my server.sock"), None);
    }

    #[tokio::test]
    async fn a_process_is_found_killed_and_proven_gone() {
        let mut child = Command::new("sleep").arg("60").stdin(Stdio::null()).spawn().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("server.pid");
        let by = Find::PidFile(file.clone());
        assert_eq!(find(&by).await.unwrap(), None, "no file, no process");
        std::fs::write(&file, format!("{}\n", child.id())).unwrap();
        let found = find(&by).await.unwrap().unwrap();
        assert_eq!(found.pid, child.id());
        let watch = Watch::open(&found).unwrap().unwrap();
        assert!(matches!(watch.state(), ProcessState::Running { .. }));
        assert!(watch.confirm_gone(Duration::from_millis(20)).await.is_err());
        let impostor = Process { started: Moment::ZERO, ..found.clone() };
        assert!(Watch::open(&impostor).unwrap().is_none(), "the same pid, another start");
        watch.kill().unwrap();
        watch.confirm_gone(Duration::from_secs(2)).await.unwrap();
        assert!(matches!(watch.state(), ProcessState::Gone { .. }));
        child.wait().unwrap();
        watch.kill().unwrap();
        assert!(Watch::open(&found).unwrap().is_none());
        assert_eq!(find(&by).await.unwrap(), None);
        std::fs::write(&file, "x").unwrap();
        assert!(matches!(find(&by).await, Err(ProcessError::NoPid { .. })));
    }

    #[test]
    #[ignore = "the other test's process: the runner's thread and this one"]
    fn a_second_thread() {
        std::thread::sleep(Duration::from_secs(60));
    }

    #[tokio::test]
    async fn the_end_is_told_when_it_begins() {
        let mut own = Command::new(std::env::current_exe().unwrap());
        own.args(["--ignored", "--exact", "agent::host::process::tests::a_second_thread"]);
        let mut child = own.stdout(Stdio::null()).spawn().unwrap();
        let threads = || std::fs::read_dir(format!("/proc/{}/task", child.id())).unwrap().count();
        while threads() < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let watch = Watch::open(&running(child.id()).unwrap()).unwrap().unwrap();
        let early = watch.some_thread().is_some();
        let too_soon = tokio::time::timeout(Duration::from_millis(50), watch.ending()).await;
        assert!(too_soon.is_err(), "it runs");
        watch.kill().unwrap();
        if early {
            tokio::time::timeout(Duration::from_secs(2), watch.ending()).await.unwrap();
        }
        watch.confirm_gone(Duration::from_secs(2)).await.unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_socket_unit_is_no_server() {
        let of = |pid, command: &str| Process { pid, started: Moment::ZERO, command: command.to_owned() };
        assert!(is_service_manager(&of(1, "systemd")));
        // The first process of a container, and a server that is called like one.
        assert!(!is_service_manager(&of(1, "mariadbd")) && !is_service_manager(&of(2, "systemd")));
    }

    #[tokio::test]
    async fn a_listener_leads_to_its_process() {
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = tcp.local_addr().unwrap().port();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("server.sock");
        let unix = std::os::unix::net::UnixListener::bind(&path).unwrap();
        for by in [Find::TcpPort(port), Find::Socket(path)] {
            assert_eq!(find(&by).await.unwrap().unwrap().pid, std::process::id());
        }
        drop((tcp, unix));
        assert_eq!(find(&Find::TcpPort(port)).await.unwrap(), None);
    }
}
