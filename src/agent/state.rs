//! What the agent's tasks know together, and the one status made of it. Facts are written by the task that sees them; nothing is
//! decided here.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::barrier::Barrier;
use super::client::{AgentClient, Connections};
use super::hands::Hands;
use super::hanging::Stops;
use super::host::process::Watch;
use super::jobs::Jobs;
use super::lease_loop::{Order, OrderError};
use super::reach::{self, Tested};
use super::sql::{Spare, mysql_account};
use super::voter::Votes;
use super::wire::Membership;
use crate::clock;
use crate::config::{AgentConfig, ServerConfig};
use crate::decide::lease::holder::{self, Input, Kept, Role};
use crate::execute::world::Orders;
use crate::model::disk::Disk;
use crate::model::extra::Saved;
use crate::model::instance::{Flavor, InstanceId, Version};
use crate::model::log_fault::LogFault;
use crate::model::observation::{Access, AgentStatus, Leaving, Process, StrayVip, Unseen};
use crate::model::reach::Reach;
use crate::model::report::Report;
use crate::model::time::Moment;
use crate::mysql::ControlEnv;

/// So many write heartbeats tell how long a commit takes.
const COMMITS: usize = 5;
/// An answer that takes less than this is no hang.
const PROMPT: Duration = Duration::from_millis(100);

/// The server's process.
#[derive(Debug, Clone)]
pub enum ServerProcess {
    Unknown(String),
    Running(Arc<Watch>),
    Gone(Moment),
}

/// Facts, each by its task.
#[derive(Debug)]
pub struct Seen {
    pub membership: Option<Membership>,
    pub kept: Kept,
    pub open_until: Option<Moment>,
    /// While it asks for the lease: when a majority of voters had last been asked what they have answered.
    pub heard_at: Option<Moment>,
    /// As last read back; what is held runs out at `open_until`.
    pub access: Access,
    pub vip: bool,
    /// The last time that the address was found here without the lease, added by something else.
    pub stray_vip: Option<Stray>,
    pub process: ServerProcess,
    /// The last one that ended: its files are its own until the kernel has done with it.
    pub ending: Option<Arc<Watch>>,
    pub server: Result<Report, Unseen>,
    pub polled_at: Moment,
    /// When the first of the questions that were not answered was asked.
    pub unanswered_since: Option<Moment>,
    /// When the question now on its way was asked.
    pub asked_at: Option<Moment>,
    pub heartbeat_since: Option<Moment>,
    /// Why the last write heartbeats failed, several in a row.
    pub heartbeat_fault: Option<String>,
    /// How long the last write heartbeats took, newest last.
    pub commits: VecDeque<Duration>,
    /// When the stream last brought anything; `None` while it does not replicate.
    pub stream_moved_at: Option<Moment>,
    pub stopping: bool,
    /// The service manager said that it is about to stop the server; until another process of it is there.
    pub leaving: Option<Leave>,
    /// Family and version of the server when it last answered: a dead one cannot be asked how it is started.
    pub last_identity: Option<(Flavor, Version)>,
    /// Transactions the primary lacks, saved here.
    pub extra: Option<Saved>,
    pub disks: Vec<Disk>,
    /// Why the agent could not write to its own data directory when it last tried.
    pub own_disk_fault: Option<String>,
    pub log_fault: Option<LogFault>,
    /// Since when a statement that stops replication has not come back, and its applier has waited for a table lock.
    pub stop_hangs_since: Option<Moment>,
    pub applier_waits_since: Option<Moment>,
    pub stops: Stops,
    /// A thread of its replication ended, and nobody stopped it.
    pub threads_killed: bool,
    /// A manager's order left its replication standing.
    pub stopped_by_order: bool,
    /// As [`AgentStatus::answered_at_shutdown`].
    pub answered_at_shutdown: bool,
    /// Where its server writes its errors, if into a file, as the process of that number has said.
    pub error_log: Option<(u32, Option<PathBuf>)>,
    /// Why starting its server failed last, until it runs.
    pub start_failed: Option<String>,
    /// Test logins at the other members.
    pub reach: BTreeMap<InstanceId, Tested>,
    /// The server's data directory, since its process was looked at.
    pub data: Option<PathBuf>,
}

impl Seen {
    /// Who may reach the server: the kernel closes by itself when the lease runs out, before the keeper turns to it.
    fn access_at(&self, now: Moment) -> Access {
        match (self.access, self.open_until) {
            (Access::Held { .. }, Some(until)) if until > now => Access::Held { remaining: until.since(now) },
            (Access::Held { .. }, _) => Access::Closed,
            (Access::Admitted, _) => Access::Admitted,
            (Access::Closed, _) => Access::Closed,
        }
    }

    /// For how long no majority of voters has answered one that is closed for that. Told from the same moment as that it is closed: a
    /// manager that heard the one without the other would open it again, and wait for that in vain.
    pub fn unheard(&self, now: Moment) -> Option<Duration> {
        let lease = self.membership.as_ref()?.policy.lease;
        holder::unheard(self.heard_at, self.access_at(now) == Access::Closed, lease, now)
    }

    /// Notes how long a write heartbeat took.
    pub fn note_commit(&mut self, took: Duration) {
        self.commits.push_back(took);
        if self.commits.len() > COMMITS {
            self.commits.pop_front();
        }
    }

    /// The middle of the last ones; one that waited for a moment is no slow disk.
    fn commit_takes(&self) -> Option<Duration> {
        let mut sorted: Vec<Duration> = self.commits.iter().copied().collect();
        sorted.sort_unstable();
        (sorted.len() == COMMITS).then(|| sorted[COMMITS / 2])
    }

    /// Its agent was told to keep clients out, and the kernel does: nobody reaches the server.
    pub fn is_fenced(&self) -> bool {
        matches!(self.kept.role, Role::Fenced { .. } | Role::Deposed { .. }) && self.access == Access::Closed
    }
}

/// The cluster's address, found where it does not belong.
#[derive(Debug, Clone)]
pub struct Stray {
    pub at: Moment,
    /// Why it is there still, if so.
    pub left: Option<String>,
}

impl Stray {
    /// One that was removed is told of for a while: whatever added it may do so again, and a person must find it.
    fn shown(&self, now: Moment) -> Option<StrayVip> {
        let ago = now.since(self.at);
        (ago < STRAY_SHOWN_FOR).then(|| StrayVip { ago, left: self.left.clone() })
    }
}

/// How long it is told that the address was found where it does not belong.
const STRAY_SHOWN_FOR: Duration = Duration::from_secs(600);

/// What was said of the server's end, and what came of it.
#[derive(Debug, Clone, Copy)]
pub struct Leave {
    /// It comes back by then; else another is to lead by then.
    pub restarts: bool,
    pub until: Moment,
    /// Closed since nobody took over: only another process of the server opens again.
    pub closed: bool,
}

/// What was said and did not happen is forgotten so long after its time.
const UNSAID_AFTER: Duration = Duration::from_secs(60);

/// Shared by all tasks of one agent.
#[derive(Debug)]
pub struct Shared {
    pub config: AgentConfig,
    pub votes: Votes,
    pub connections: Connections,
    pub boot_id: String,
    pub tracker: TaskTracker,
    pub cancel: CancellationToken,
    /// `None` for a witness.
    pub hands: Option<Hands>,
    pub orders: mpsc::Sender<Order>,
    /// A connection kept between steps.
    pub spare: Spare,
    /// The lock that holds commits up while a switchover goes on.
    pub barrier: Barrier,
    /// Held while the server is made a replica, or none: the later of two such orders is the one that stands, however long the server
    /// stood still in the first.
    pub turning: tokio::sync::Mutex<()>,
    /// The orders that it was given, so that a late one is refused.
    pub ordered: Mutex<Orders>,
    pub jobs: Jobs,
    seen: Mutex<Seen>,
    changed: watch::Sender<u64>,
}

impl Shared {
    pub fn new(
        config: AgentConfig,
        votes: Votes,
        connections: Connections,
        boot_id: String,
        hands: Option<Hands>,
        orders: mpsc::Sender<Order>,
        (tracker, cancel): (TaskTracker, CancellationToken),
    ) -> Self {
        let now = clock::now();
        let seen = Seen {
            membership: None,
            kept: Kept::default(),
            open_until: None,
            heard_at: None,
            access: Access::Admitted,
            vip: false,
            stray_vip: None,
            process: ServerProcess::Unknown("not looked for yet".to_owned()),
            ending: None,
            server: Err(Unseen::Looker("not asked yet".to_owned())),
            polled_at: now,
            unanswered_since: None,
            asked_at: None,
            heartbeat_since: None,
            heartbeat_fault: None,
            commits: VecDeque::new(),
            stream_moved_at: None,
            stopping: false,
            leaving: None,
            last_identity: None,
            extra: None,
            disks: Vec::new(),
            own_disk_fault: None,
            log_fault: None,
            stop_hangs_since: None,
            applier_waits_since: None,
            stops: Stops::default(),
            threads_killed: false,
            stopped_by_order: false,
            answered_at_shutdown: false,
            error_log: None,
            start_failed: None,
            reach: BTreeMap::new(),
            data: None,
        };
        let (changed, _) = watch::channel(0);
        let seen = Mutex::new(seen);
        Self {
            config,
            votes,
            connections,
            boot_id,
            tracker,
            cancel,
            hands,
            orders,
            spare: Spare::default(),
            barrier: Barrier::default(),
            turning: tokio::sync::Mutex::new(()),
            ordered: Mutex::default(),
            jobs: Jobs::default(),
            seen,
            changed,
        }
    }

    /// The facts. Held for a few instructions only, never over an await.
    pub fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something changed that a manager should hear of at once.
    pub fn announce_change(&self) {
        self.changed.send_modify(|version| *version += 1);
    }

    /// Wakes at every change that matters.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// The server of this host.
    ///
    /// # Errors
    /// On a witness.
    pub fn server(&self) -> Result<(&ServerConfig, &Hands), String> {
        match (&self.config.server, &self.hands) {
            (Some(server), Some(hands)) => Ok((server, hands)),
            _ => Err(format!("{} is a witness: it only votes", self.config.host)),
        }
    }

    /// Begins work that ends by itself, or with the agent.
    pub fn start(&self, work: impl Future<Output = ()> + Send + 'static) {
        let cancel = self.cancel.clone();
        self.tracker.spawn(async move { cancel.run_until_cancelled(work).await });
    }

    /// Another host's agent.
    pub fn peer(&self, host: &str, url: &str) -> AgentClient {
        AgentClient::new(&self.connections, url, self.config.token.clone()).of_host(host)
    }

    /// The agent of that member; none for a stranger, and where the configuration names none.
    pub fn agent_of(&self, instance: &InstanceId) -> Option<AgentClient> {
        let url = {
            let seen = self.seen();
            let members = &seen.membership.as_ref()?.members;
            members.iter().find(|member| member.instance == *instance)?.agent.clone()?
        };
        Some(self.peer(&instance.host, &url))
    }

    /// What SQL steps need.
    ///
    /// # Errors
    /// On a witness, or before the host is a member.
    pub fn control_env(&self) -> Result<ControlEnv, String> {
        let (server, _) = self.server()?;
        let policy = self.seen().membership.as_ref().map(|membership| membership.policy.clone());
        let policy = policy.ok_or("this host is told of no cluster yet; adopt it first")?;
        Ok(ControlEnv {
            replication: mysql_account(&server.replication),
            heartbeat: mysql_account(&server.heartbeat),
            heartbeat_every: policy.silence / 4,
            statement: policy.statement,
        })
    }

    /// Gives the keeper something that happened, and waits until its effects are done.
    ///
    /// # Errors
    /// The keeper's refusal or failure.
    pub async fn order(&self, input: Input) -> Result<(), OrderError> {
        let (reply, done) = oneshot::channel();
        self.orders.send(Order::Input(input, Some(reply))).await.map_err(|_| OrderError::Stopping)?;
        done.await.map_err(|_| OrderError::Stopping)?
    }

    fn reach(&self, seen: &Seen, now: Moment) -> Vec<Reach> {
        let user = self.config.server.as_ref().map(|server| server.replication.user.as_str());
        reach::shown(&seen.reach, user.unwrap_or_default(), now)
    }

    /// What the agent says of itself and its server.
    pub fn status(&self) -> AgentStatus {
        let seen = self.seen();
        let cluster = seen.membership.as_ref().map(|membership| membership.cluster.clone());
        let promised = cluster.map(|cluster| self.votes.promised(&cluster)).unwrap_or_default();
        let now = clock::now();
        let held = seen.kept.role.generation();
        let fenced = match seen.kept.role {
            Role::Fenced { generation } => Some(generation),
            Role::Unmanaged | Role::Unknown | Role::Replica | Role::Primary { .. } | Role::Deposed { .. } => {
                None
            }
        };
        let access = seen.access_at(now);
        let in_flight = seen.asked_at.map(|asked| now.since(asked)).filter(|age| *age > PROMPT);
        let unanswered = seen.unanswered_since.map(|since| now.since(since)).or(in_flight);
        AgentStatus {
            host: self.config.host.clone(),
            boot_id: self.boot_id.clone(),
            ballot: promised.ballot,
            generation: promised.generation,
            accepted_for: promised.holder,
            held,
            fenced,
            epoch: seen.kept.epoch,
            process: match &seen.process {
                ServerProcess::Unknown(why) => Process::Unknown { why: why.clone() },
                ServerProcess::Running(watch) => {
                    Process::Running { pid: watch.process().pid, up: now.since(watch.process().started) }
                }
                ServerProcess::Gone(at) => Process::Gone { since: now.since(*at) },
            },
            access,
            unheard: seen.unheard(now),
            vip: seen.vip,
            stray_vip: seen.stray_vip.as_ref().and_then(|stray| stray.shown(now)),
            server: seen.server.clone(),
            server_age: now.since(seen.polled_at),
            unanswered: unanswered.unwrap_or_default(),
            heartbeat_stuck: seen.heartbeat_since.map(|since| now.since(since)),
            heartbeat_fault: seen.heartbeat_fault.clone(),
            commit_takes: seen.commit_takes(),
            stream_still: seen.stream_moved_at.map(|moved| now.since(moved)),
            granted_ago: promised.granted_ago,
            stopping: seen.stopping,
            leaving: leaving(&seen, now),
            extra: seen.extra.clone(),
            job: self.jobs.shown(),
            disks: seen.disks.clone(),
            own_disk_fault: seen.own_disk_fault.clone(),
            log_fault: seen.log_fault.clone(),
            stop_hangs: seen.stop_hangs_since.map(|since| now.since(since)),
            applier_waits: seen.applier_waits_since.map(|since| now.since(since)),
            threads_killed: seen.threads_killed,
            stopped_by_order: seen.stopped_by_order,
            answered_at_shutdown: seen.answered_at_shutdown,
            start_failed: seen.start_failed.clone(),
            voters: seen.membership.as_ref().map(Membership::voting_hosts).unwrap_or_default(),
            reach: self.reach(&seen, now),
        }
    }
}

fn leaving(seen: &Seen, now: Moment) -> Option<Leaving> {
    let leave = seen.leaving?;
    let runs = matches!(seen.process, ServerProcess::Running(_));
    if runs && now.since(leave.until) > UNSAID_AFTER {
        return None;
    }
    let remaining = leave.until.since(now);
    Some(match leave {
        Leave { restarts: true, .. } => Leaving::Restart { remaining },
        Leave { closed: true, .. } => Leaving::Now,
        Leave { .. } => Leaving::Handoff { remaining },
    })
}
