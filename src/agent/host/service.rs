//! Starts and stops the server, through systemd or by commands of the operator's.
//!
//! A started server is in a session of its own and survives the agent. Where the agent itself runs under systemd its
//! unit needs `KillMode=process`, or stopping the agent stops a server it started by command.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::process::Command;
use tokio::time::Instant;

use super::process::{Find, Process, ProcessError, Watch, find};
use super::writers::writer;

/// How often the server's process is looked for while it starts.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// A start command that has ended well has left a server behind it that has its files open by then, however long its recovery takes.
const BEHIND: Duration = Duration::from_secs(10);
/// How much of the output an error quotes.
const QUOTE: u64 = 2_000;
/// How long asking systemd about a unit may take.
const ASK_DEADLINE: Duration = Duration::from_secs(5);
/// The same while its process is searched for: a late answer is worth less than the next look.
const STATE_DEADLINE: Duration = Duration::from_secs(1);
/// The variable the distributions' units hand to the server as arguments.
const UNIT_ARGUMENTS: &str = "MYSQLD_OPTS";

/// Who starts and stops the server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Service {
    /// A systemd unit.
    Unit { name: String },
    /// A program with its arguments; without `stop` the server is asked by SIGTERM.
    Command { start: Vec<String>, stop: Option<Vec<String>> },
}

/// Why the server was not started or stopped.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    #[error("the service's {0} command is empty; name a program")]
    Empty(&'static str),
    #[error("{program} could not be run: {source}")]
    Run { program: String, source: io::Error },
    #[error(
        "starting the server: {program} ended well, and {} s later no server is found and nobody writes to {}; start it by hand as that \
         command does and see what it says, then put `service` in agent.toml right; it said last: {output}",
        BEHIND.as_secs(), data.display()
    )]
    NobodyBehind { program: String, data: PathBuf, output: String },
    #[error("{doing}: {program} ended with {status}; it said last: {output}")]
    Failed { doing: &'static str, program: String, status: String, output: String },
    #[error("{doing}: not done within {} s; it said last: {output}", deadline.as_secs_f64())]
    Late { doing: &'static str, deadline: Duration, output: String },
    #[error(
        "the unit {unit} does not pass ${UNIT_ARGUMENTS} to its server, so {arguments} would be ignored; add it to ExecStart, or use `service = command`"
    )]
    ArgumentsIgnored { unit: String, arguments: String },
    #[error(
        "the service manager was told to stop {0}; it is started again by whoever stopped it: systemctl start {0}"
    )]
    Stopped(String),
    #[error("a server argument holds a blank, a quote or a control character: {0:?}")]
    Argument(String),
    #[error("the log file {path} could not be used: {source}")]
    Log { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Process(#[from] ProcessError),
}

impl Service {
    /// Starts the server with `extra_args` behind its own and returns its process once `server` finds it. A program's
    /// output goes to `log`, or nowhere; with `data` one that ends well and leaves nobody there is not waited for. One that runs already
    /// is returned as it is, arguments or not.
    ///
    /// # Errors
    /// When the program fails, or the process is not there within `deadline`; the error quotes the output's end.
    pub async fn start(
        &self,
        extra_args: &[String],
        server: &Find,
        (log, data): (Option<&Path>, Option<&Path>),
        deadline: Duration,
    ) -> Result<Process, ServiceError> {
        if let Some(process) = find(server).await? {
            return Ok(process);
        }
        match self {
            Self::Unit { name } => start_unit(name, extra_args, server, deadline).await,
            Self::Command { start, .. } => {
                start_command(start, extra_args, server, (log, data), deadline).await
            }
        }
    }

    /// Stops the server cleanly and returns when its process is gone. Never for a server that was primary while
    /// clients may be connected (S5): that one is killed.
    ///
    /// # Errors
    /// When the program fails, or the process is still there after `deadline`.
    pub async fn stop(&self, server: &Watch, deadline: Duration) -> Result<(), ServiceError> {
        let doing = "stopping the server";
        match self {
            Self::Unit { name } => {
                run(doing, &words(&["systemctl", "stop", "--", name]), deadline).await.map(drop)?
            }
            Self::Command { stop: Some(stop), .. } => run(doing, stop, deadline).await.map(drop)?,
            Self::Command { stop: None, .. } => server.terminate()?,
        }
        Ok(server.confirm_gone(deadline).await?)
    }
}

impl Service {
    /// Whether somebody had systemd stop the server: it is down because it was told to be. Known of units only, and not where systemd
    /// does not answer.
    pub async fn was_stopped(&self) -> bool {
        let Self::Unit { name } = self else { return false };
        let ask = words(&["systemctl", "show", "--property=ActiveState,Result", "--", name]);
        run("asking for the unit's state", &ask, STATE_DEADLINE)
            .await
            .is_ok_and(|said| stopped_on_purpose(&said))
    }
}

/// A unit that is being stopped stays stopped: a start would take the stop's place. One that systemd means to start again by
/// itself, in a while and without our arguments, is taken out of that wait.
async fn free_to_start(name: &str) -> Result<(), ServiceError> {
    let ask = words(&["systemctl", "show", "--property=ActiveState,SubState,Result", "--", name]);
    let said = run("asking for the unit's state", &ask, ASK_DEADLINE).await?;
    if stopped_on_purpose(&said) {
        return Err(ServiceError::Stopped(name.to_owned()));
    }
    if said.lines().any(|line| line.starts_with("SubState=auto-restart")) {
        run("ending the unit's wait", &words(&["systemctl", "stop", "--", name]), ASK_DEADLINE).await?;
    }
    Ok(())
}

impl Service {
    /// Socket units by which systemd listens for the server: they accept connections for a dead one, and start one that is to
    /// stay down. Empty where systemd does not answer.
    pub async fn listening_sockets(&self) -> Vec<String> {
        let Self::Unit { name } = self else { return Vec::new() };
        let doing = "asking what starts the unit";
        let ask = words(&["systemctl", "show", "--property=TriggeredBy", "--value", "--", name]);
        let said = run(doing, &ask, ASK_DEADLINE).await.unwrap_or_default();
        let mut listening = Vec::new();
        for socket in said.split_whitespace().filter(|unit| unit.ends_with(".socket")) {
            if run(doing, &words(&["systemctl", "is-active", "--quiet", "--", socket]), ASK_DEADLINE)
                .await
                .is_ok()
            {
                listening.push(socket.to_owned());
            }
        }
        listening
    }
}

/// Whether systemd is stopping the whole host.
///
/// # Errors
/// When it does not answer.
pub async fn host_is_stopping() -> Result<bool, ServiceError> {
    let doing = "asking whether the host is stopping";
    match run(doing, &words(&["systemctl", "is-system-running"]), ASK_DEADLINE).await {
        Ok(said) => Ok(said.trim() == "stopping"),
        // It fails with every state but "running", and says the state all the same.
        Err(ServiceError::Failed { output, .. }) => Ok(output.trim() == "stopping"),
        Err(error) => Err(error),
    }
}

/// Whether systemd stops that unit to start it again at once.
///
/// # Errors
/// When it does not answer.
pub async fn is_restarting(unit: &str) -> Result<bool, ServiceError> {
    let ask = words(&["systemctl", "list-jobs", "--no-legend", "--full", "--", unit]);
    let said = run("asking for the unit's job", &ask, ASK_DEADLINE).await?;
    Ok(said.lines().any(|line| line.split_whitespace().nth(2) == Some("restart")))
}

/// By what `systemctl show` says. A crash leaves "failed", a signal or a core dump, or the unit starting again.
fn stopped_on_purpose(said: &str) -> bool {
    let value = |key: &str| said.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    matches!(value("ActiveState"), Some("inactive" | "deactivating")) && value("Result") == Some("success")
}

fn words(list: &[&str]) -> Vec<String> {
    list.iter().map(|word| (*word).to_owned()).collect()
}

async fn start_command(
    start: &[String],
    extra_args: &[String],
    server: &Find,
    (log, data): (Option<&Path>, Option<&Path>),
    deadline: Duration,
) -> Result<Process, ServiceError> {
    let doing = "starting the server";
    let program = start.first().ok_or(ServiceError::Empty("start"))?.clone();
    let mut output = Output::open(log)?;
    // `setsid` of util-linux replaces itself by the program, in a session of its own.
    let mut child = Command::new("setsid")
        .arg("--")
        .args(start)
        .args(extra_args)
        .stdin(Stdio::null())
        .stdout(output.handle()?)
        .stderr(output.handle()?)
        .spawn()
        .map_err(|source| ServiceError::Run { program: format!("setsid {program}"), source })?;
    let appears = async {
        let mut every = tokio::time::interval(LOOK_EVERY);
        let mut alone_since: Option<Instant> = None;
        loop {
            every.tick().await;
            if let Some(process) = find(server).await? {
                return Ok(process);
            }
            let ended = child
                .try_wait()
                .map_err(|source| Halt::Error(ServiceError::Run { program: program.clone(), source }))?;
            // A wrapper that ends well may have left the server behind it.
            if let Some(status) = ended.filter(|status| !status.success()) {
                return Err(Halt::Ended(status.to_string()));
            }
            let (Some(_), Some(data)) = (ended, data) else { continue };
            let since = *alone_since.get_or_insert_with(Instant::now);
            if since.elapsed() < BEHIND {
                continue;
            }
            match writer(data).await {
                Ok(None) => return Err(Halt::NobodyBehind(data.to_owned())),
                // It starts. A directory that cannot be read is for the server to complain of.
                Ok(Some(_)) | Err(_) => alone_since = None,
            }
        }
    };
    match tokio::time::timeout(deadline, appears).await {
        Ok(Ok(process)) => Ok(process),
        Ok(Err(Halt::Error(error))) => Err(error),
        Ok(Err(Halt::Ended(status))) => {
            Err(ServiceError::Failed { doing, program, status, output: output.last() })
        }
        Ok(Err(Halt::NobodyBehind(data))) => {
            Err(ServiceError::NobodyBehind { program, data, output: output.last() })
        }
        Err(_) => Err(ServiceError::Late { doing, deadline, output: output.last() }),
    }
}

/// Why waiting for the process ended without it.
enum Halt {
    Error(ServiceError),
    Ended(String),
    /// Its program ended well, and nobody is there.
    NobodyBehind(PathBuf),
}

impl From<ProcessError> for Halt {
    fn from(error: ProcessError) -> Self {
        Self::Error(error.into())
    }
}

/// Where a started program's output goes, and what of it is this start's.
struct Output {
    file: Option<(File, PathBuf, u64)>,
}

impl Output {
    fn open(log: Option<&Path>) -> Result<Self, ServiceError> {
        let Some(path) = log else { return Ok(Self { file: None }) };
        let failed = |source| ServiceError::Log { path: path.to_owned(), source };
        let file = OpenOptions::new().create(true).append(true).read(true).open(path).map_err(failed)?;
        let from = file.metadata().map_err(failed)?.len();
        Ok(Self { file: Some((file, path.to_owned(), from)) })
    }

    fn handle(&self) -> Result<Stdio, ServiceError> {
        let Some((file, path, _)) = &self.file else { return Ok(Stdio::null()) };
        let copy = file.try_clone().map_err(|source| ServiceError::Log { path: path.clone(), source })?;
        Ok(Stdio::from(copy))
    }

    fn last(&mut self) -> String {
        let Some((file, path, from)) = &mut self.file else { return "(its output was not kept)".to_owned() };
        let mut text = Vec::new();
        let read = file.seek(SeekFrom::End(0)).and_then(|end| {
            file.seek(SeekFrom::Start((*from).max(end.saturating_sub(QUOTE))))?;
            file.read_to_end(&mut text)
        });
        match read {
            Ok(_) => quote(&text),
            Err(error) => format!("({} could not be read: {error})", path.display()),
        }
    }
}

fn quote(output: &[u8]) -> String {
    let text = String::from_utf8_lossy(&output[output.len().saturating_sub(QUOTE as usize)..]);
    let text = text.trim();
    if text.is_empty() { "(nothing)".to_owned() } else { text.to_owned() }
}

async fn start_unit(
    name: &str,
    extra_args: &[String],
    server: &Find,
    deadline: Duration,
) -> Result<Process, ServiceError> {
    let doing = "starting the server's unit";
    let whole = async {
        free_to_start(name).await?;
        // Arguments reach a unit by a variable of systemd's own; it is taken back whatever comes.
        if !extra_args.is_empty() {
            check_unit_arguments(name, extra_args).await?;
            let setting = format!("{UNIT_ARGUMENTS}={}", extra_args.join(" "));
            run(doing, &words(&["systemctl", "set-environment", &setting]), ASK_DEADLINE).await?;
        }
        let started = run(doing, &words(&["systemctl", "start", "--", name]), deadline).await;
        if !extra_args.is_empty() {
            run(doing, &words(&["systemctl", "unset-environment", UNIT_ARGUMENTS]), ASK_DEADLINE).await?;
        }
        if let Err(ServiceError::Failed { doing, program, status, output }) = started {
            let journal =
                words(&["journalctl", "--unit", name, "--lines", "20", "--output", "cat", "--no-pager"]);
            let output = run(doing, &journal, ASK_DEADLINE).await.unwrap_or(output);
            return Err(ServiceError::Failed { doing, program, status, output });
        }
        started?;
        let mut every = tokio::time::interval(LOOK_EVERY);
        loop {
            every.tick().await;
            if let Some(process) = find(server).await? {
                return Ok(process);
            }
        }
    };
    let late = || ServiceError::Late { doing, deadline, output: format!("see journalctl --unit {name}") };
    // The inner start is bounded by `deadline` itself, so that the variable is taken back before this one strikes.
    tokio::time::timeout(deadline + 3 * ASK_DEADLINE, whole).await.map_err(|_| late())?
}

async fn check_unit_arguments(name: &str, extra_args: &[String]) -> Result<(), ServiceError> {
    let plain = |c: char| c.is_ascii_graphic() && !matches!(c, '"' | '\'' | '\\' | '$');
    if let Some(bad) = extra_args.iter().find(|argument| !argument.chars().all(plain)) {
        return Err(ServiceError::Argument(bad.clone()));
    }
    let question = words(&["systemctl", "show", "--property", "ExecStart", "--", name]);
    let answer = run("asking for the unit's ExecStart", &question, ASK_DEADLINE).await?;
    if answer.contains(&format!("${UNIT_ARGUMENTS}")) || answer.contains(&format!("${{{UNIT_ARGUMENTS}}}")) {
        return Ok(());
    }
    Err(ServiceError::ArgumentsIgnored { unit: name.to_owned(), arguments: extra_args.join(" ") })
}

/// Runs a program to its end and returns what it printed.
async fn run(doing: &'static str, command: &[String], deadline: Duration) -> Result<String, ServiceError> {
    let program = command.first().ok_or(ServiceError::Empty("stop"))?.clone();
    let ended = async {
        let child = Command::new(&program)
            .args(&command[1..])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        super::output::wait(child).await
    };
    let output = match tokio::time::timeout(deadline, ended).await {
        Err(_) => return Err(ServiceError::Late { doing, deadline, output: "(nothing)".to_owned() }),
        Ok(result) => result.map_err(|source| ServiceError::Run { program: program.clone(), source })?,
    };
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = quote(&[output.stdout, output.stderr].concat());
    Err(ServiceError::Failed { doing, program, status: output.status.to_string(), output: said })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(text: &str) -> Service {
        Service::Command { start: words(&["sh", "-c", text, "sh"]), stop: None }
    }

    #[test]
    fn only_a_clean_stop_was_meant() {
        assert!(stopped_on_purpose("Result=success\nActiveState=inactive\n"));
        assert!(stopped_on_purpose("ActiveState=deactivating\nResult=success\n"));
        for said in [
            "Result=signal\nActiveState=failed\n",
            "Result=core-dump\nActiveState=activating\n",
            "Result=success\nActiveState=active\n",
            "Result=exit-code\nActiveState=inactive\n",
            "",
        ] {
            assert!(!stopped_on_purpose(said), "{said}");
        }
    }

    #[tokio::test]
    async fn a_command_is_started_with_more_arguments_and_stopped() {
        let directory = tempfile::tempdir().unwrap();
        let (file, log) = (directory.path().join("pid"), directory.path().join("log"));
        let by = Find::PidFile(file.clone());
        let service = shell(&format!("echo got $1; echo $$ > {}; exec sleep 60", file.display()));
        let role = words(&["--init-rpl-role=SLAVE"]);
        let process = service.start(&role, &by, (Some(&log), None), Duration::from_secs(5)).await.unwrap();
        assert_eq!(std::fs::read_to_string(&log).unwrap(), "got --init-rpl-role=SLAVE\n");
        let own = std::fs::read_to_string("/proc/self/stat").unwrap();
        let its = std::fs::read_to_string(format!("/proc/{}/stat", process.pid)).unwrap();
        let session =
            |stat: &str| stat.rsplit_once(')').unwrap().1.split_whitespace().nth(3).unwrap().to_owned();
        assert_ne!(session(&own), session(&its), "a session of its own");
        let again = service.start(&[], &by, (Some(&log), None), Duration::from_secs(5)).await.unwrap();
        assert_eq!(again, process, "a running server is left alone");
        let watch = Watch::open(&process).unwrap().unwrap();
        service.stop(&watch, Duration::from_secs(5)).await.unwrap();
        assert_eq!(find(&by).await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_failed_start_says_what_the_program_said() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        std::fs::write(&log, "of an earlier run\n").unwrap();
        let by = Find::PidFile(directory.path().join("pid"));
        let start = |text: &'static str, deadline| {
            let (by, log) = (by.clone(), log.clone());
            async move { shell(text).start(&[], &by, (Some(&log), None), deadline).await.unwrap_err().to_string() }
        };
        let text = start("echo no space left >&2; exit 3", Duration::from_secs(5)).await;
        assert!(text.contains("no space left") && text.contains("3") && !text.contains("earlier"), "{text}");
        let text = start("echo thinking; exec sleep 1", Duration::from_millis(200)).await;
        assert!(text.contains("thinking") && text.contains("0.2 s"), "{text}");
        let nobody = Service::Command { start: Vec::new(), stop: None };
        assert!(nobody.start(&[], &by, (None, None), Duration::from_secs(1)).await.is_err());
    }

    #[tokio::test]
    async fn a_command_that_leaves_nobody_behind_is_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let (data, log) = (directory.path().join("data"), directory.path().join("log"));
        std::fs::create_dir(&data).unwrap();
        let by = Find::PidFile(directory.path().join("pid"));
        let within = Duration::from_secs(300);
        let start = async |text: &str, within| {
            let files = (Some(log.as_path()), Some(data.as_path()));
            shell(text).start(&[], &by, files, within).await.unwrap_err().to_string()
        };
        let starting =
            format!("sleep 60 > {}/ibdata1 & echo $! > {}/other", data.display(), directory.path().display());
        let slowly = start(&starting, BEHIND + Duration::from_secs(2)).await;
        assert!(slowly.contains("not done within"), "it recovers: {slowly}");
        let starts = find(&Find::PidFile(directory.path().join("other"))).await.unwrap().unwrap();
        Watch::open(&starts).unwrap().unwrap().kill().unwrap();
        let text = start("echo well", within).await;
        assert!(text.contains("ended well") && text.ends_with("well"), "{text}");
    }
}
