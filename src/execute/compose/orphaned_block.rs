//! A server that was blocked for a switchover and hears no more of it: its manager died in the block. Its agent then asks the voters for
//! a generation above the target's, and serves again if nobody was ever let in below that. It decides nothing: the voters' promises
//! do, and whichever of promotion and taking back a majority granted first has won.

use std::time::Duration;

use futures::future::join_all;
use tokio::time::{Instant, sleep};

use crate::decide::lease::Terms;
use crate::decide::lease::holder::{Kept, Role};
use crate::decide::lease::take_back::{AGAIN, LeftAlone, PATIENCE, Tally};
use crate::decide::lease::voter::{Claim, Claimed};
use crate::decide::plan::{Evidence, Step};
use crate::execute::world::{StepError, Token};
use crate::model::ballot::Generation;
use crate::model::cluster::{ClusterName, Voter};
use crate::model::instance::InstanceId;

/// How long it is tried: after that a person, or a manager that returns, decides.
const TRIED_FOR: Duration = Duration::from_secs(600);
/// One opening, or one step of a replica's agent.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);

/// The agent of a blocked server, and what it reaches.
#[expect(
    async_fn_in_trait,
    reason = "both worlds are in this crate and run on one thread or are Send by construction"
)]
pub trait BlockedHost {
    /// What this host keeps of its role now; `None` once its agent has ended.
    async fn kept(&self) -> Option<Kept>;

    /// Where it belongs; `None` once it is no member any more.
    fn electorate(&self) -> Option<Electorate>;

    /// Waits so long by this host's clock.
    async fn sleep(&self, span: Duration);

    /// What a voter says of itself: the highest generation it knows, and whether it ever granted.
    async fn look(&self, voter: &Voter) -> Option<(Generation, bool)>;

    /// A voter's answer; `None` where it was not heard.
    async fn claim(&self, voter: &Voter, claim: &Claim) -> Option<Claimed>;

    /// Opens the server here to clients.
    async fn open(&self, generation: Generation, epoch: u64, deadline: Instant) -> Result<(), String>;

    async fn take_vip(&self, generation: Generation) -> Result<(), String>;

    /// Has the agent of a replica do a step; `None` where the server has none.
    async fn at_replica(
        &self,
        step: &Step,
        token: &Token,
        timeout: Duration,
    ) -> Option<Result<Evidence, StepError>>;
}

/// Who votes on the lease of a blocked server.
#[derive(Debug)]
pub struct Electorate {
    pub cluster: ClusterName,
    /// The blocked server.
    pub instance: InstanceId,
    pub voters: Vec<Voter>,
    pub terms: Terms,
}

/// Why it does not serve again now.
enum Trouble {
    /// Somebody leads, or led, after it; or a manager has spoken.
    Overtaken(String),
    Later(String),
}

/// One block, left to the agent of its server.
#[derive(Debug)]
pub struct OrphanedBlock {
    token: Token,
    blocked: LeftAlone,
    /// What takes the block back without a manager.
    otherwise: Vec<Step>,
    /// The block's own time.
    within: Duration,
}

impl OrphanedBlock {
    /// Of a host as the block's fence left it. Nothing where the block has nothing to be taken back to, or was overtaken before it began.
    pub fn new(token: &Token, kept: Kept, otherwise: &[Step], within: Duration) -> Option<Self> {
        let blocked = LeftAlone::new(otherwise, kept)?;
        let token = Token { back: true, ..token.clone() };
        Some(Self { token, blocked, otherwise: otherwise.to_vec(), within })
    }

    /// Waits for the manager's next word, and does without it when none comes.
    pub async fn take_back_unless_heard<H: BlockedHost>(&self, host: &H) {
        host.sleep(self.within + PATIENCE).await;
        let end = Instant::now() + TRIED_FOR;
        // A manager may have made it lead that very generation since: that is not this block's.
        let mut won = false;
        while Instant::now() < end {
            let Some(kept) = host.kept().await else { return };
            let ours = won && kept.role == (Role::Primary { generation: self.blocked.back });
            if !ours && !self.blocked.stands(kept) {
                return;
            }
            let done = match ours {
                // Won, and something of the opening failed.
                true => self.open(host, kept.epoch).await,
                false => self.win(host, &mut won).await,
            };
            match done {
                Ok(()) => {
                    tracing::warn!(
                        generation = %self.blocked.back,
                        recovery = self.token.recovery,
                        "its manager was not heard after the block, and nobody was let in elsewhere: serves again"
                    );
                    return self.follow(host).await;
                }
                Err(Trouble::Overtaken(why)) => {
                    return tracing::info!(why, "is not taken back after a block");
                }
                Err(Trouble::Later(why)) => tracing::warn!(why, "blocked, and not taken back yet"),
            }
            sleep(AGAIN).await;
        }
        tracing::error!("blocked, and not taken back: start a manager, or run \"mhactl open\" here");
    }

    /// Looks first: a claim that must fail would leave voters with a generation nobody leads. Then claims, and opens.
    async fn win<H: BlockedHost>(&self, host: &H, won: &mut bool) -> Result<(), Trouble> {
        let Some(Electorate { cluster, instance, voters, terms }) = host.electorate() else {
            return Err(Trouble::Overtaken("no member any more".to_owned()));
        };
        let looks = voters.iter().map(async |voter| Some((voter, host.look(voter).await?)));
        let seen: Vec<_> = join_all(looks).await.into_iter().flatten().collect();
        let overtaken = |(_, (known, granted)): &&(&Voter, (Generation, bool))| {
            self.blocked.is_overtaken(*known, *granted)
        };
        if let Some((voter, (known, _))) = seen.iter().find(overtaken) {
            return Err(Trouble::Overtaken(format!("{} knows generation {known} at work", voter.host)));
        }
        if seen.len() < terms.majority {
            return Err(Trouble::Later(format!("{} of {} voters answer", seen.len(), terms.voters.len())));
        }
        let claim = self.blocked.claim(cluster, self.token.ballot.clone(), instance);
        let answers = voters.iter().map(async |voter| (voter.host.clone(), host.claim(voter, &claim).await));
        let wait = match Tally::of(&terms, join_all(answers).await) {
            Tally::Won { wait } => wait,
            Tally::Lost { refused } => {
                return Err(Trouble::Overtaken(format!("refused by {}", refused.join(", "))));
            }
            Tally::Later { accepted } => {
                return Err(Trouble::Later(format!("{accepted} of {} votes", terms.majority)));
            }
        };
        host.sleep(wait).await;
        if !host.kept().await.is_some_and(|kept| self.blocked.stands(kept)) {
            return Err(Trouble::Overtaken("a manager has spoken".to_owned()));
        }
        *won = true;
        self.open(host, self.blocked.epoch).await
    }

    async fn open<H: BlockedHost>(&self, host: &H, epoch: u64) -> Result<(), Trouble> {
        let generation = self.blocked.back;
        host.open(generation, epoch, Instant::now() + STEP_TIMEOUT).await.map_err(Trouble::Later)?;
        if self.otherwise.iter().any(|step| matches!(step, Step::HoldVip { .. })) {
            host.take_vip(generation).await.map_err(Trouble::Later)?;
        }
        Ok(())
    }

    /// The replicas that were taken from it return, each by its own agent: a commit here may wait for them.
    async fn follow<H: BlockedHost>(&self, host: &H) {
        let points = self.otherwise.iter().filter(|step| matches!(step, Step::PointReplica { .. }));
        join_all(points.map(|step| self.lead_back(host, step))).await;
    }

    async fn lead_back<H: BlockedHost>(&self, host: &H, step: &Step) {
        let end = Instant::now() + TRIED_FOR;
        let leads = Role::Primary { generation: self.blocked.back };
        while host.kept().await.is_some_and(|kept| kept.role == leads) && Instant::now() < end {
            match host.at_replica(step, &self.token, STEP_TIMEOUT).await {
                None => return,
                Some(Ok(seen)) if step.is_satisfied(&seen) => return,
                Some(Ok(_)) => tracing::warn!(%step, "not so when read back"),
                Some(Err(error)) => tracing::warn!(%step, %error, "a replica does not return yet"),
            }
            sleep(AGAIN).await;
        }
    }
}
