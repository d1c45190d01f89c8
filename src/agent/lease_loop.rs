//! The one task that owns the lease's machine: it feeds it what happened, in order, and does what it says before anything
//! else happens. All waiting for networks and servers is done by other tasks, which report back here.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_blocking;

use super::durable::{self, DurableError};
use super::hands::HandsError;
use super::host::process::Process;
use super::host::ruleset::Ruleset;
use super::renewals::Renewals;
use super::state::{ServerProcess, Shared};
use super::wire::Membership;
use super::{compare, resume, stray_vip};
use crate::clock;
use crate::decide::lease::Terms;
use crate::decide::lease::holder::{Effect, Holder, Input, Kept, Role, Start};
use crate::decide::lease::refusal::Refusal;
use crate::model::observation::Access;
use crate::model::time::Moment;

/// Below `data_dir`: what this host is a member of, and what it is there.
pub(super) const MEMBERSHIP: &str = "membership.json";
pub(super) const ROLE: &str = "role.json";
/// Below `run_dir`.
const RUN_FILE: &str = "lease.json";
/// Between two looks because other programs change the packet filter, at least: some do it many times a second.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(20);
/// How often the kernel's own state is read back.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What the task is told.
#[derive(Debug)]
pub enum Order {
    /// Something happened, or is wanted; answered when its effects are done.
    Input(Input, Option<oneshot::Sender<Result<(), OrderError>>>),
    /// The manager says what this host is a member of.
    Member(Box<Membership>, oneshot::Sender<Result<(), OrderError>>),
    /// The server's process was found, or ended.
    Server(ServerProcess),
    /// Other ports of the server are known than before; answered when they are guarded as the others are.
    Ports(oneshot::Sender<()>),
}

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("{0}")]
    Hands(String),
    #[error(transparent)]
    Durable(#[from] DurableError),
    #[error("this host is told of no cluster yet; adopt it first")]
    NoMember,
    #[error("the agent is stopping")]
    Stopping,
}

impl<E: Into<HandsError>> From<E> for OrderError {
    fn from(error: E) -> Self {
        Self::Hands(error.into().to_string())
    }
}

/// What this boot's kernel was told, for the next agent process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct RunFile {
    boot_id: String,
    until: Option<Moment>,
    server: Option<Process>,
    /// The server's data directory.
    #[serde(default)]
    data: Option<PathBuf>,
    /// The open server is still being made writable.
    #[serde(default)]
    resuming: bool,
}

/// The task.
#[derive(Debug)]
pub struct Keeper {
    shared: Arc<Shared>,
    holder: Option<Holder>,
    server: Option<Process>,
    /// It was last noted that no majority of voters answers.
    unheard: bool,
    renewals: Renewals,
    /// Whether the server, open already, is still being made writable.
    resuming: Arc<AtomicBool>,
}

impl Keeper {
    /// Takes up where the last process of this agent, or this host's last boot, left off. `found` is the server's process now.
    ///
    /// # Errors
    /// When what was kept cannot be read: then nothing is opened, and nothing guessed.
    pub async fn start(shared: Arc<Shared>, found: ServerProcess) -> Result<Self, DurableError> {
        let run = run_file(&shared);
        let membership: Option<Membership> = durable::read(&shared.config.data_dir.join(MEMBERSHIP))?;
        let kept: Option<Kept> = durable::read(&role_path(&shared))?;
        let was = run.as_ref().and_then(|run| run.server.clone());
        let server = match &found {
            ServerProcess::Running(watch) => Some(watch.process().clone()),
            ServerProcess::Unknown(_) | ServerProcess::Gone(_) => None,
        };
        let start = Start {
            same_boot: run.is_some(),
            until: run.as_ref().and_then(|run| run.until),
            server_up: server.is_some(),
            same_server: server.is_some() && server == was,
            resuming: run.as_ref().is_some_and(|run| run.resuming),
        };
        shared.seen().process = found;
        let mut keeper = Self {
            shared,
            holder: None,
            server,
            unheard: false,
            renewals: Renewals::default(),
            resuming: Arc::default(),
        };
        if let Some(membership) = membership {
            // A member without its role was somebody: closed until told.
            let kept = kept.unwrap_or(Kept { role: Role::Unknown, ..Kept::default() });
            keeper.begin(membership, kept, start).await;
        }
        Ok(keeper)
    }

    /// Runs until cancelled. What the kernel holds is left to it.
    pub async fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        let cancel = self.shared.cancel.clone();
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut ruleset = Ruleset::open().inspect_err(|error| {
            tracing::warn!(error = %error, "the kernel does not tell of changes of the packet filter; it is read back every second only");
        }).ok();
        let mut look_again = tokio::time::Instant::now();
        loop {
            let due = self.holder.as_ref().and_then(Holder::due);
            let pause = due.map_or(Duration::from_secs(3_600), |due| due.since(clock::now()));
            tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                order = orders.recv() => match order {
                    Some(order) => self.take(order).await,
                    None => return,
                },
                () = tokio::time::sleep(pause) => self.note(Input::Tick).await,
                changed = filter_changed(&mut ruleset, look_again) => {
                    if let Err(error) = changed {
                        tracing::warn!(error = %error, "the kernel tells no more of changes of the packet filter; it is read back every second only");
                        ruleset = None;
                    }
                    self.look().await;
                    look_again = tokio::time::Instant::now() + LOOK_AGAIN_AFTER;
                }
                _ = look.tick() => self.look().await,
            }
        }
    }

    async fn take(&mut self, order: Order) {
        match order {
            Order::Input(input, reply) => {
                let done = self.feed(input).await;
                if let (Err(error), None) = (&done, &reply) {
                    tracing::warn!(error = %error, "not done");
                }
                // Nobody waits any more: it is done all the same.
                let _ = reply.map(|reply| reply.send(done));
            }
            Order::Member(membership, reply) => {
                let _ = reply.send(self.member(*membership).await);
            }
            Order::Server(process) => self.server_seen(process).await,
            Order::Ports(reply) => {
                if let Ok((_, hands)) = self.shared.server() {
                    hands.forget_filter().await;
                    self.look().await;
                }
                let _ = reply.send(());
            }
        }
    }

    /// Closed first, told after: who hears "gone" may rely on it.
    async fn server_seen(&mut self, process: ServerProcess) {
        let input = match &process {
            ServerProcess::Running(watch) => {
                self.server = Some(watch.process().clone());
                Input::ServerStarted
            }
            ServerProcess::Gone(_) | ServerProcess::Unknown(_) => Input::ServerGone,
        };
        let mut done = Ok(());
        if self.holder.is_some() {
            done = self.feed(input).await;
        }
        self.write_run_file();
        match done {
            Ok(()) => self.shared.seen().process = process,
            // Not proven closed, so not told as gone.
            Err(error) => {
                tracing::error!(error = %error, "the server is gone and its port could not be closed");
                self.shared.seen().process = ServerProcess::Unknown(error.to_string());
            }
        }
        self.shared.announce_change();
    }

    async fn note(&mut self, input: Input) {
        if let Err(error) = self.feed(input).await {
            tracing::error!(error = %error, "the lease's effect failed");
        }
    }

    async fn feed(&mut self, input: Input) -> Result<(), OrderError> {
        let holder = self.holder.as_mut().ok_or(OrderError::NoMember)?;
        let before = holder.clone();
        let opens = matches!(input, Input::Open { .. } | Input::Admit | Input::TakeVip { .. });
        // Its end is told with what it closed, in one word: "closed" alone would read as a server that lost its lease.
        let told_after = input == Input::ServerGone;
        let effects = holder.handle(input, clock::now())?;
        let done = self.carry_out(effects).await;
        if done.is_err() && opens {
            // What could not be kept must not be lived by either. A fence that failed stays one.
            self.holder = Some(before);
        }
        self.note_role(!told_after);
        done
    }

    async fn carry_out(&mut self, effects: Vec<Effect>) -> Result<(), OrderError> {
        let mut first = Ok(());
        for effect in effects {
            let opens = matches!(
                effect,
                Effect::Admit | Effect::SendRenew { .. } | Effect::HoldVip { .. } | Effect::Resume
            );
            if first.is_err() && opens {
                continue;
            }
            let done = self.act(effect).await;
            if first.is_ok() {
                first = done;
            }
        }
        first
    }

    async fn act(&mut self, effect: Effect) -> Result<(), OrderError> {
        let shared = Arc::clone(&self.shared);
        let (_, hands) = shared.server().map_err(OrderError::Hands)?;
        let vip = shared.seen().membership.as_ref().and_then(|membership| membership.vip.clone());
        match effect {
            Effect::Persist => {
                if let Some(holder) = &self.holder {
                    let (path, kept) = (role_path(&shared), holder.kept());
                    let written = spawn_blocking(move || durable::write(&path, &kept)).await;
                    written.map_err(|error| OrderError::Hands(error.to_string()))??;
                }
            }
            Effect::SendRenew { generation, lasts } => self.renewals.send(&shared, generation, lasts),
            Effect::Close => {
                // Fewer promises first: were the agent to die now, the next one must not adopt what is being closed.
                self.write_run_file();
                hands.close().await?;
                shared.seen().access = Access::Closed;
            }
            Effect::HoldOpen { until } => {
                hands.hold_open(until).await?;
                let held = Access::Held { remaining: until.since(clock::now()) };
                let before = std::mem::replace(&mut shared.seen().access, held);
                self.write_run_file();
                // Only where it opens, and only once it is open: what a block spared is needed while the server serves on until its fence,
                // and a closed filter would cut the streams that are no longer spared.
                if before == Access::Closed
                    && let Err(error) = hands.spare_nobody().await
                {
                    tracing::warn!(error = %error, "the replicas' streams of an earlier block would pass the next fence too");
                }
            }
            Effect::Admit => {
                hands.admit().await?;
                shared.seen().access = Access::Admitted;
                self.write_run_file();
            }
            Effect::HoldVip { until } => {
                if let Some(vip) = vip {
                    hands.hold_vip(&vip, until).await?;
                    shared.seen().vip = true;
                }
            }
            Effect::ReleaseVip => {
                if let Some(vip) = vip {
                    hands.release_vip(&vip).await?;
                    shared.seen().vip = false;
                }
            }
            Effect::AskCompare { incarnation } => {
                let work = compare::ask(Arc::clone(&shared), incarnation);
                self.spawn(work);
            }
            Effect::Resume => {
                self.resuming.store(true, Ordering::Relaxed);
                self.write_run_file();
                let (resuming, shared) = (Arc::clone(&self.resuming), Arc::clone(&shared));
                // The run file says so from the next renewal on.
                self.spawn(async move {
                    resume::lead_again(shared).await;
                    resuming.store(false, Ordering::Relaxed);
                });
            }
        }
        Ok(())
    }

    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.shared.start(work);
    }

    async fn member(&mut self, membership: Membership) -> Result<(), OrderError> {
        let path = self.shared.config.data_dir.join(MEMBERSHIP);
        if self.holder.is_none() {
            // The role first: a member without one would begin closed.
            let (role, kept) = (role_path(&self.shared), Kept::default());
            let written = spawn_blocking(move || durable::write(&role, &kept)).await;
            written.map_err(|error| OrderError::Hands(error.to_string()))??;
        }
        let value = membership.clone();
        let written = spawn_blocking(move || durable::write(&path, &value)).await;
        written.map_err(|error| OrderError::Hands(error.to_string()))??;
        match &mut self.holder {
            Some(holder) => {
                holder.set_terms(terms(&membership, &self.shared.config.host));
                self.shared.seen().membership = Some(membership);
            }
            None => {
                let up = self.server.is_some();
                let start =
                    Start { same_boot: true, until: None, server_up: up, same_server: up, resuming: false };
                self.begin(membership, Kept::default(), start).await;
            }
        }
        self.publish();
        // Whoever leads now may be what somebody waits for.
        self.shared.announce_change();
        Ok(())
    }

    async fn begin(&mut self, membership: Membership, kept: Kept, start: Start) {
        let terms = terms(&membership, &self.shared.config.host);
        self.shared.seen().membership = Some(membership);
        let (holder, effects) = Holder::restored(terms, kept, start, clock::now());
        self.holder = Some(holder);
        if let Err(error) = self.carry_out(effects).await {
            tracing::error!(error = %error, "the host is not as it should begin");
        }
        self.write_run_file();
        self.publish();
    }

    fn publish(&mut self) {
        self.note_role(true);
    }

    fn note_role(&mut self, announce: bool) {
        let Some(holder) = &self.holder else { return };
        let mut seen = self.shared.seen();
        let now = clock::now();
        let was = (seen.kept, seen.open_until.is_some(), self.unheard);
        (seen.kept, seen.open_until, seen.heard_at) = (holder.kept(), holder.open_until(), holder.heard_at());
        let is = (seen.kept, seen.open_until.is_some(), seen.unheard(now).is_some());
        drop(seen);
        self.unheard = is.2;
        if was != is {
            tracing::info!(role = ?is.0.role, open = is.1, unheard = is.2, epoch = is.0.epoch, "role");
            if announce {
                self.shared.announce_change();
            }
        }
    }

    /// Reads back what the kernel holds; puts back rules that somebody flushed.
    async fn look(&mut self) {
        let shared = Arc::clone(&self.shared);
        let (Some(holder), Ok((_, hands))) = (&self.holder, shared.server()) else { return };
        let role = holder.role();
        if role == Role::Unmanaged {
            return;
        }
        let open = holder.open_until().filter(|until| *until > clock::now());
        let vip = shared.seen().membership.as_ref().and_then(|membership| membership.vip.clone());
        let access = hands.access().await;
        if let Ok(access) = access {
            // Also where it cannot be put right below: nobody may be told of a closed server that is not.
            shared.seen().access = access;
        }
        let wanted = match (&access, role, open) {
            (Ok(Access::Held { .. }), Role::Primary { .. }, Some(_))
            | (Ok(Access::Admitted), Role::Replica, _) => None,
            (_, Role::Primary { .. }, Some(until)) => Some(Effect::HoldOpen { until }),
            (_, Role::Replica, _) => Some(Effect::Admit),
            (Ok(Access::Closed), _, _) => None,
            (_, _, _) => Some(Effect::Close),
        };
        if let Some(effect) = wanted {
            tracing::warn!(found = ?access, ?effect, "the packet filter is not as told, and is put right");
            if let Err(error) = self.act(effect).await {
                tracing::error!(error = %error, "the packet filter cannot be put right");
            }
        }
        if let Some(vip) = vip {
            let belongs = matches!(role, Role::Primary { .. }) && open.is_some();
            stray_vip::look(&shared, hands, &vip, belongs).await;
        }
    }

    fn write_run_file(&self) {
        let until = self.holder.as_ref().and_then(Holder::open_until);
        let file = RunFile {
            boot_id: self.shared.boot_id.clone(),
            until,
            server: self.server.clone(),
            data: self.shared.seen().data.clone(),
            resuming: self.resuming.load(Ordering::Relaxed),
        };
        if let Err(error) = durable::write_volatile(&run_path(&self.shared), &file) {
            tracing::warn!(error = %error, "after a restart this agent begins closed");
        }
    }
}

/// Waits until another process has changed the packet filter; for ever where the kernel does not tell.
async fn filter_changed(
    ruleset: &mut Option<Ruleset>,
    not_before: tokio::time::Instant,
) -> std::io::Result<()> {
    tokio::time::sleep_until(not_before).await;
    match ruleset {
        Some(ruleset) => ruleset.changed().await,
        None => std::future::pending().await,
    }
}

/// What all parties of this cluster agree upon.
pub(super) fn terms(membership: &Membership, me: &str) -> Terms {
    let voters = membership.voters.iter().map(|voter| voter.host.clone()).collect();
    Terms::new(me, voters, &membership.policy)
}

/// The server's process and its data directory, as an earlier agent of this boot knew them.
pub(super) fn known_before(shared: &Shared) -> (Option<Process>, Option<PathBuf>) {
    run_file(shared).map_or((None, None), |run| (run.server, run.data))
}

fn run_file(shared: &Shared) -> Option<RunFile> {
    let run: Option<RunFile> = durable::read(&run_path(shared)).unwrap_or_else(|error| {
        // Only this boot's comfort: without it the host begins closed.
        tracing::warn!(error = %error, "what this boot's kernel was told is not known");
        None
    });
    run.filter(|run| run.boot_id == shared.boot_id)
}

/// Whether an agent has run since this boot, so that what the kernel holds is what it was told.
pub(super) fn kernel_was_told(run_dir: &Path, boot_id: &str) -> bool {
    let run: Option<RunFile> = durable::read(&run_dir.join(RUN_FILE)).unwrap_or_default();
    run.is_some_and(|run| run.boot_id == boot_id)
}

fn role_path(shared: &Shared) -> PathBuf {
    shared.config.data_dir.join(ROLE)
}

fn run_path(shared: &Shared) -> PathBuf {
    shared.config.run_dir.join(RUN_FILE)
}
