//! Turn after turn: the command, the wait until its server is level again, the switchover. Ctrl-C ends it after the command that runs.

use std::convert::Infallible;
use std::os::fd::AsFd as _;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use chrono::{DateTime, Utc};
use rustix::process::{Pid, Signal as Deadly, kill_process_group};
use serde::Serialize;
use tokio::process::{Child, Command};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::Rolling;
use super::order::{Turn, Wanted, not_level, order};
use crate::cli::commands::{Desk, Ended, caller, path};
use crate::cli::error::{CliError, Exit};
use crate::cli::output::Tone;
use crate::http::contract::{RollingRequest, SwitchoverRequest};
use crate::manager::rolling::LASTS;
use crate::manager::snapshot::Snapshot;
use crate::model::instance::InstanceId;
use crate::model::time::human;
use crate::random;

/// Between two looks at a server that is to be level again.
const AGAIN: Duration = Duration::from_secs(1);
/// So many looks in a row must find it level.
const LOOKS: u32 = 2;
/// How long a manager that is not reached is waited for.
const AWAY: Duration = Duration::from_secs(60);
/// How long a command that is told to end may take before it is killed.
const FAREWELL: Duration = Duration::from_secs(10);

/// A turn that went wrong: what, and whether the command was done with.
struct Trouble {
    why: String,
    reasons: Vec<String>,
    commanded: bool,
}

impl From<String> for Trouble {
    fn from(why: String) -> Self {
        Self { why, reasons: Vec::new(), commanded: false }
    }
}

impl From<CliError> for Trouble {
    fn from(error: CliError) -> Self {
        Self { why: error.problem.message, reasons: error.problem.reasons, commanded: false }
    }
}

/// One line of what happens, for people and programs.
#[derive(Serialize)]
struct Line<'a> {
    turn: usize,
    of: usize,
    host: Option<&'a InstanceId>,
    what: &'a str,
}

struct Run<'a> {
    desk: &'a Desk,
    cluster: &'a str,
    ask: &'a Rolling,
    interrupt: Signal,
    /// Somebody pressed Ctrl-C.
    interrupted: bool,
}

/// Runs it all, or shows the order.
pub(in crate::cli) async fn rolling(desk: &Desk, ask: Rolling) -> Ended {
    let cluster = desk.cluster(ask.cluster.clone()).await?;
    let first = snapshot(desk, &cluster).await?;
    let wanted = Wanted { skip: &ask.skip, max_lag: ask.max_lag, force: ask.force };
    let turns = order(&first, wanted).map_err(|reasons| {
        let next = "mend what is named; nothing was begun";
        let mut error = CliError::new(Exit::Refused, "refused", "no rolling change is possible now", next);
        error.problem.reasons = reasons;
        error
    })?;
    if turns.is_empty() {
        desk.screen.note("every server is left out: nothing is to be done");
        return Ok(Exit::Done);
    }
    show(desk, &turns);
    if ask.dry_run {
        return Ok(Exit::Done);
    }
    desk.agreed(ask.yes, "the rolling change", &format!("Run the command for these servers of {cluster}?"))?;
    let mark = Mark::take(desk, &cluster).await?;
    let interrupt = signal(SignalKind::interrupt()).map_err(|error| {
        CliError::usage(format!("cannot hear Ctrl-C: {error}"), "run it without a shell that forbids that")
    })?;
    let mut run = Run { desk, cluster: &cluster, ask: &ask, interrupt, interrupted: false };
    let all = async {
        for (index, turn) in turns.iter().enumerate() {
            if let Err(trouble) = run.turn((index, turns.len()), turn).await {
                return Err(stopped(&ask, &cluster, &turns, index, trouble));
            }
        }
        Ok(())
    };
    let ended = tokio::select! {
        ended = all => ended,
        never = mark.renewed() => match never {},
    };
    mark.give_back().await;
    ended?;
    if !desk.json {
        desk.screen.print(&desk.screen.paint(Tone::Good, "every server had its turn"));
    }
    Ok(Exit::Done)
}

/// That this one goes round, as the manager is told: another is refused meanwhile.
struct Mark<'a> {
    desk: &'a Desk,
    cluster: &'a str,
    id: String,
}

impl<'a> Mark<'a> {
    async fn take(desk: &'a Desk, cluster: &'a str) -> Result<Self, CliError> {
        let id = random::hex(8).map_err(|error| {
            CliError::usage(format!("no random number could be read: {error}"), "mend /dev/urandom")
        })?;
        let mark = Self { desk, cluster, id };
        mark.say(false).await?;
        Ok(mark)
    }

    async fn say(&self, ended: bool) -> Result<(), CliError> {
        let request = RollingRequest { id: self.id.clone(), by: caller(), ended };
        self.desk.client.post(&path(self.cluster, &["rolling"]), &request).await.map(drop)
    }

    /// A manager that restarts has forgotten it, and one that is away is told when it is back.
    async fn renewed(&self) -> Infallible {
        let mut told = false;
        loop {
            sleep(LASTS / 4).await;
            if let Err(error) = self.say(false).await
                && error.exit == Exit::Refused
                && !std::mem::replace(&mut told, true)
            {
                self.desk.screen.note(&format!("beside this one: {}", error.problem.reasons.join("; ")));
            }
        }
    }

    /// A manager that is not reached forgets it by itself.
    async fn give_back(&self) {
        let _ = self.say(true).await;
    }
}

async fn snapshot(desk: &Desk, cluster: &str) -> Result<Snapshot, CliError> {
    desk.client.get(&path(cluster, &[]), &[]).await?.value()
}

fn show(desk: &Desk, turns: &[Turn]) {
    for (index, turn) in turns.iter().enumerate() {
        if desk.json {
            say(desk, (index, turns.len()), turn, "is to be done");
        } else {
            desk.screen.print(&format!("{:>3}  {turn}", index + 1));
        }
    }
}

fn say(desk: &Desk, (index, of): (usize, usize), turn: &Turn, what: &str) {
    let line = Line { turn: index + 1, of, host: turn.instance(), what };
    match serde_json::to_string(&line) {
        Ok(text) if desk.json => desk.screen.print(&text),
        Ok(_) | Err(_) => {
            desk.screen.print(&format!("{}/{of} {turn}: {what}", index + 1));
        }
    }
}

impl Run<'_> {
    async fn turn(&mut self, at: (usize, usize), turn: &Turn) -> Result<(), Trouble> {
        if self.interrupted {
            return Err("Ctrl-C".to_owned().into());
        }
        let Some(instance) = turn.instance() else { return self.switchover(at, turn).await };
        let before = self.well(instance).await?;
        say(self.desk, at, turn, "the command runs");
        let began = Instant::now();
        self.command(instance, turn.role()).await?;
        say(self.desk, at, turn, &format!("the command is done after {}", human(began.elapsed())));
        let commanded = |trouble: Trouble| Trouble { commanded: true, ..trouble };
        let since = self.look().await.map_err(commanded)?.at;
        let began = Instant::now();
        self.level(&before, instance, since).await.map_err(commanded)?;
        say(self.desk, at, turn, &format!("level again after {}", human(began.elapsed())));
        Ok(())
    }

    /// Something may have happened since the order was made; what mends itself is waited for.
    async fn well(&mut self, instance: &InstanceId) -> Result<Snapshot, Trouble> {
        let deadline = Instant::now() + self.ask.wait;
        loop {
            let now = self.look().await?;
            if now.primary.as_ref() == Some(instance) {
                return Err(format!("{instance} leads by now: a failover came between").into());
            }
            let others = now.members.iter().map(|member| member.instance.clone());
            let skip: Vec<InstanceId> = others.filter(|other| other != instance).collect();
            let wanted = Wanted { skip: &skip, max_lag: self.ask.max_lag, force: self.ask.force };
            let Err(reasons) = order(&now, wanted) else { return Ok(now) };
            if Instant::now() >= deadline || self.interrupted {
                let why = "the cluster is not well any more".to_owned();
                return Err(Trouble { why, reasons, commanded: false });
            }
            self.pause().await;
        }
    }

    async fn switchover(&mut self, at: (usize, usize), turn: &Turn) -> Result<(), Trouble> {
        say(self.desk, at, turn, "begins");
        let request =
            SwitchoverRequest { to: self.ask.to.clone(), by: caller(), ..SwitchoverRequest::default() };
        let before = self.look().await?;
        let moving = self.desk.switchover(Some(self.cluster.to_owned()), request, true);
        tokio::pin!(moving);
        let ended = loop {
            tokio::select! {
                ended = &mut moving => break ended,
                _ = self.interrupt.recv() => {
                    self.interrupted = true;
                    self.desk.screen.note("stops after the switchover");
                }
            }
        };
        if ended? != Exit::Done {
            return Err("the switchover did not go through".to_owned().into());
        }
        let (Some(old), since) = (before.primary.clone(), self.look().await?.at) else { return Ok(()) };
        // It was no replica before: nothing is compared with what it was.
        let nothing = Snapshot { candidates: Vec::new(), ackers: Vec::new(), ..before };
        self.level(&nothing, &old, since).await
    }

    /// A look, also across a restart of the manager.
    async fn look(&mut self) -> Result<Snapshot, Trouble> {
        let deadline = Instant::now() + AWAY;
        loop {
            match snapshot(self.desk, self.cluster).await {
                Err(error)
                    if error.exit == Exit::NotReached && Instant::now() < deadline && !self.interrupted =>
                {
                    self.pause().await;
                }
                other => return Ok(other?),
            }
        }
    }

    async fn pause(&mut self) {
        tokio::select! {
            () = sleep(AGAIN) => {}
            _ = self.interrupt.recv() => self.interrupted = true,
        }
    }

    /// Waits until the server is a level replica as before, found so more than once.
    async fn level(
        &mut self,
        before: &Snapshot,
        instance: &InstanceId,
        since: DateTime<Utc>,
    ) -> Result<(), Trouble> {
        let deadline = Instant::now() + self.ask.wait;
        let mut found = 0;
        loop {
            let now = self.look().await?;
            if now.primary.as_ref() == Some(instance) && before.primary.as_ref() != Some(instance) {
                let why = "a switchover or failover came while its turn lasted";
                return Err(format!("{instance} leads by now: {why}").into());
            }
            let why = not_level(before, &now, instance, self.ask.max_lag, since);
            found = if why.is_none() { found + 1 } else { 0 };
            if found >= LOOKS {
                return Ok(());
            }
            let why = why.unwrap_or_else(|| format!("{instance} is only just level"));
            if self.interrupted {
                return Err(format!("Ctrl-C; then: {why}").into());
            }
            if Instant::now() >= deadline {
                return Err(format!("not level after {}: {why}", human(self.ask.wait)).into());
            }
            self.pause().await;
        }
    }

    async fn command(&mut self, instance: &InstanceId, role: &str) -> Result<(), Trouble> {
        let mut child = self.begin(instance, role)?;
        let deadline = Instant::now() + self.ask.command_timeout;
        let status: Result<ExitStatus, String> = loop {
            tokio::select! {
                ended = child.wait() => break ended.map_err(|error| error.to_string()),
                () = sleep_until(deadline) => {
                    end(&mut child).await;
                    break Err(format!("it was ended after {}", human(self.ask.command_timeout)));
                }
                _ = self.interrupt.recv() => {
                    if self.interrupted {
                        end(&mut child).await;
                        break Err("it was ended by a second Ctrl-C".to_owned());
                    }
                    self.interrupted = true;
                    self.desk.screen.note("stops after this command; Ctrl-C again ends the command too");
                }
            }
        };
        match status {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(format!("the command for {instance} failed: {status}").into()),
            Err(why) => Err(format!("the command for {instance} failed: {why}").into()),
        }
    }

    /// In a process group of its own: Ctrl-C at the terminal is ours to pass on.
    fn begin(&self, instance: &InstanceId, role: &str) -> Result<Child, Trouble> {
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", &self.ask.command])
            .env("HOST", &instance.host)
            .env("PORT", instance.port.to_string())
            .env("CLUSTER", self.cluster)
            .env("ROLE", role)
            .stdin(Stdio::null())
            .process_group(0)
            .kill_on_drop(true);
        if self.desk.json {
            // What it says goes beside the JSON.
            let beside = std::io::stderr().as_fd().try_clone_to_owned();
            command.stdout(beside.map_or_else(|_| Stdio::null(), Stdio::from));
        }
        command.spawn().map_err(|error| format!("the command cannot be run by /bin/sh: {error}").into())
    }
}

/// Ends a command and what it started.
async fn end(child: &mut Child) {
    for (deadly, patience) in [(Deadly::TERM, FAREWELL), (Deadly::KILL, FAREWELL)] {
        let group = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        let Some(group) = group else { return };
        // It may have ended meanwhile.
        let _ = kill_process_group(group, deadly);
        if timeout(patience, child.wait()).await.is_ok() {
            return;
        }
    }
}

/// What was asked for otherwise than usual, as it was.
fn options(ask: &Rolling) -> String {
    let spans = [
        ("--max-lag", ask.max_lag, Rolling::MAX_LAG),
        ("--wait", ask.wait, Rolling::WAIT),
        ("--command-timeout", ask.command_timeout, Rolling::COMMAND_TIMEOUT),
    ];
    let differs = spans.into_iter().filter(|(_, span, usual)| span != usual);
    let spans = differs.map(|(option, span, _)| format!(" {option} {}ms", span.as_millis()));
    let to = ask.to.iter().map(|to| format!(" --to {to}"));
    let force = ask.force.then(|| " --force".to_owned());
    spans.chain(to).chain(force).collect()
}

/// Where it stands, and how to go on.
fn stopped(ask: &Rolling, cluster: &str, turns: &[Turn], index: usize, trouble: Trouble) -> CliError {
    let names = |turns: &[Turn]| {
        let names: Vec<String> = turns.iter().map(ToString::to_string).collect();
        if names.is_empty() { "nothing".to_owned() } else { names.join("; ") }
    };
    let done = index + usize::from(trouble.commanded);
    let message = format!("stopped at {} ({} of {}): {}", turns[index], index + 1, turns.len(), trouble.why);
    let quoted = ask.command.replace('\'', r"'\''");
    let mut again = format!("mhactl rolling {cluster} --command '{quoted}'");
    let finished = turns[..done].iter().filter_map(Turn::instance);
    for instance in ask.skip.iter().chain(finished) {
        again.push_str(&format!(" --skip {instance}"));
    }
    again.push_str(&options(ask));
    let next = if done == turns.len() {
        "every server had its turn; see \"mhactl status\" for what is left to mend".to_owned()
    } else {
        format!("mend it, then go on with: {again}")
    };
    let mut error = CliError::new(Exit::Failed, "stopped", message, next);
    error.problem.reasons = trouble.reasons;
    error.problem.reasons.push(format!("done: {}", names(&turns[..done])));
    error.problem.reasons.push(format!("not done: {}", names(&turns[done..])));
    error
}
