//! The role of one member's host: whether clients pass, and whether to keep asking for the lease. Inputs are what
//! happened, effects are what to do about it; the caller does them in order and before it answers anyone.
//!
//! Isolation closes, and only closes: nothing here kills or demotes a server. The last holder opens again by itself when
//! a majority grants the same generation, none knows a higher one, and, after a restart, its set was compared.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Terms;
use super::refusal::Refusal;
pub use super::role::{Kept, Role, Start};
pub use super::signal::{Effect, Input};
use super::voter::Renewed;
use crate::model::ballot::Generation;
use crate::model::time::Moment;

/// While a majority has not answered for longer than an interval, a renewal is sent this many times in one: a network that is back is
/// noticed before the lease ends.
const HURRIED: u32 = 5;
/// Between two questions whether the set contains every reachable member's.
const COMPARE_EVERY: Duration = Duration::from_secs(1);

/// The machine.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Holder {
    terms: Terms,
    kept: Kept,
    /// Until when each voter's grant entitles.
    grants: BTreeMap<String, Moment>,
    /// What the kernel still had when the agent started.
    adopted_until: Option<Moment>,
    /// Answers to renewals sent before this are of another life.
    since: Moment,
    /// Voters that refused, and the generation they know.
    higher: BTreeMap<String, Generation>,
    /// What the kernel was last told; `None` while closed.
    open_until: Option<Moment>,
    /// Opening was ordered and has not happened yet: a minority that knows more does not forbid it.
    ordered: bool,
    server_up: bool,
    /// Grows with each start or end of the server.
    incarnation: u64,
    /// The server is the one that held the lease, or its set was compared, or the manager ordered it open.
    trusted: bool,
    /// It was restarted, so it is read-only and unarmed; or it was made read-only while it was closed, or may have been.
    restarted: bool,
    asked_at: Option<Moment>,
    renew_at: Moment,
    /// When the last renewal that each voter answered, whatever it said, was sent.
    answered: BTreeMap<String, Moment>,
}

impl Holder {
    /// An agent starts. Adopts what the kernel still holds for the same server; else begins closed.
    pub fn restored(terms: Terms, kept: Kept, start: Start, now: Moment) -> (Self, Vec<Effect>) {
        let same = start.same_boot && start.same_server && start.server_up;
        let mut holder = Self {
            terms,
            kept,
            grants: BTreeMap::new(),
            adopted_until: None,
            since: now,
            higher: BTreeMap::new(),
            open_until: None,
            ordered: false,
            server_up: start.server_up,
            incarnation: 0,
            trusted: same,
            restarted: !same,
            asked_at: None,
            renew_at: now,
            answered: BTreeMap::new(),
        };
        let effects = match kept.role {
            Role::Unmanaged => Vec::new(),
            Role::Primary { .. } => match start.until.filter(|until| same && *until > now) {
                Some(until) => {
                    holder.adopted_until = Some(until);
                    let mut effects = holder.hold(until);
                    effects.extend(start.resuming.then_some(Effect::Resume));
                    effects
                }
                // The agent before this one may have made the closed server read-only. Only it knew that.
                None => {
                    holder.restarted = true;
                    vec![Effect::Close, Effect::ReleaseVip]
                }
            },
            Role::Replica if same => vec![Effect::Admit],
            // Another server than the one that was told to be a replica: it boots with replication stopped.
            Role::Replica => {
                holder.kept.role = Role::Unknown;
                vec![Effect::Close, Effect::ReleaseVip, Effect::Persist]
            }
            Role::Unknown | Role::Fenced { .. } | Role::Deposed { .. } => {
                vec![Effect::Close, Effect::ReleaseVip]
            }
        };
        (holder, effects)
    }

    /// What must survive this process.
    pub fn kept(&self) -> Kept {
        self.kept
    }

    /// The role, for status.
    pub fn role(&self) -> Role {
        self.kept.role
    }

    /// Until when clients pass by the lease; `None` while closed or when no lease is needed.
    pub fn open_until(&self) -> Option<Moment> {
        self.open_until
    }

    /// Whether the lease is held now.
    pub fn holds(&self, now: Moment) -> bool {
        self.open_until.is_some_and(|until| until > now)
    }

    /// While it asks for the lease: when a majority of voters, whichever answered last, had been asked what they have answered.
    pub fn heard_at(&self) -> Option<Moment> {
        self.renews()?;
        let mut heard: Vec<Moment> =
            self.answered.values().map(|sent_at| *sent_at.max(&self.since)).collect();
        heard.sort_unstable_by(|a, b| b.cmp(a));
        let since = self.terms.majority.checked_sub(1).and_then(|nth| heard.get(nth).copied());
        Some(since.unwrap_or(self.since))
    }

    /// Voters that know a higher generation than this primary's.
    pub fn superseded_by(&self) -> &BTreeMap<String, Generation> {
        &self.higher
    }

    /// The voters may have changed: new terms for the same role.
    pub fn set_terms(&mut self, terms: Terms) {
        self.grants.retain(|voter, _| terms.voters.contains(voter));
        self.higher.retain(|voter, _| terms.voters.contains(voter));
        self.answered.retain(|voter, _| terms.voters.contains(voter));
        self.terms = terms;
    }

    /// When [`Input::Tick`] has something to do next; `None` while nothing will come by itself.
    pub fn due(&self) -> Option<Moment> {
        match (self.renews(), self.open_until) {
            (Some(_), Some(until)) => Some(self.renew_at.min(until)),
            (Some(_), None) => Some(self.renew_at),
            (None, until) => until,
        }
    }

    /// Takes in what happened; says what to do.
    ///
    /// # Errors
    /// A command that must not be obeyed; nothing has changed.
    pub fn handle(&mut self, input: Input, now: Moment) -> Result<Vec<Effect>, Refusal> {
        let mut effects = match input {
            Input::Tick => self.tick(now),
            Input::Answer { from, generation, sent_at, answer } => {
                self.answer(from, generation, sent_at, &answer);
                Vec::new()
            }
            Input::Open { generation, epoch } => self.open(generation, epoch, now)?,
            Input::Fence { generation } => self.fence(generation)?,
            Input::Admit => self.admit()?,
            Input::TakeVip { generation } => self.take_vip(generation, now)?,
            Input::LoseVip => self.lose_vip()?,
            Input::ServerGone => self.server_gone(now),
            Input::ServerStarted => self.server_started(now),
            Input::Compared { incarnation, contains_all } => {
                self.trusted |= contains_all && incarnation == self.incarnation;
                Vec::new()
            }
            Input::MadeReadOnly => self.made_read_only(now),
            Input::Grace { lasts } => self.grace(lasts, now)?,
        };
        effects.extend(self.settle(now));
        Ok(effects)
    }

    /// The generation it asks voters for, if it asks.
    fn renews(&self) -> Option<Generation> {
        match self.kept.role {
            Role::Primary { generation } if self.server_up => Some(generation),
            Role::Primary { .. }
            | Role::Unmanaged
            | Role::Unknown
            | Role::Replica
            | Role::Fenced { .. }
            | Role::Deposed { .. } => None,
        }
    }

    fn tick(&mut self, now: Moment) -> Vec<Effect> {
        match self.renews() {
            Some(generation) if now >= self.renew_at => self.renew(generation, self.terms.lease, now),
            Some(_) | None => Vec::new(),
        }
    }

    fn renew(&mut self, generation: Generation, lasts: Duration, now: Moment) -> Vec<Effect> {
        self.renew_at = now + self.pace(now);
        vec![Effect::SendRenew { generation, lasts }]
    }

    /// Between this renewal and the next. A lease that is held is worth more renewals when answers are missing; one that has ended is
    /// asked for at the usual pace, however long that takes.
    fn pace(&self, now: Moment) -> Duration {
        let every = self.terms.renew_every;
        let unanswered = self.heard_at().is_some_and(|heard| now.since(heard) > every * 3 / 2);
        if unanswered && self.holds(now) { every / HURRIED } else { every }
    }

    fn answer(&mut self, from: String, generation: Generation, sent_at: Moment, answer: &Renewed) {
        let ours = self.renews() == Some(generation);
        if !ours || sent_at < self.since || !self.terms.voters.contains(&from) {
            return;
        }
        let heard = self.answered.entry(from.clone()).or_insert(sent_at);
        *heard = sent_at.max(*heard);
        match answer {
            Renewed::Granted { lasts } => {
                // From when it was asked: the voter's clock began later than that.
                let until = sent_at + *lasts;
                let known = self.grants.entry(from).or_insert(until);
                *known = until.max(*known);
            }
            Renewed::Superseded { generation, .. } => {
                self.higher.insert(from, *generation);
            }
            Renewed::OtherHolder { .. } => {
                self.higher.insert(from, generation);
            }
            Renewed::NoVote => {}
        }
    }

    /// Until when a majority's grants entitle to serve.
    fn entitled_until(&self) -> Option<Moment> {
        let mut ends = self.grants.values().copied().collect::<Vec<_>>();
        ends.sort_unstable_by(|a, b| b.cmp(a));
        let granted = self.terms.majority.checked_sub(1).and_then(|nth| ends.get(nth).copied());
        granted.max(self.adopted_until)
    }

    /// Makes the kernel's state follow from what is known.
    fn settle(&mut self, now: Moment) -> Vec<Effect> {
        if self.renews().is_none() {
            return Vec::new();
        }
        if self.higher.len() > self.terms.voters.len().saturating_sub(self.terms.majority) {
            return self.depose();
        }
        let entitled = self.entitled_until().filter(|until| *until > now);
        match (self.open_until, entitled) {
            (Some(told), _) if told <= now && entitled.is_none() => self.isolate(),
            (Some(told), Some(until)) if told > now => {
                // Not every answer is worth a word to the kernel.
                if until >= told + self.terms.renew_every / 2 { self.hold(until) } else { Vec::new() }
            }
            (Some(_), None) => Vec::new(),
            (Some(_) | None, Some(until)) => self.reopen(until, now),
            (None, None) => Vec::new(),
        }
    }

    fn reopen(&mut self, until: Moment, now: Moment) -> Vec<Effect> {
        if !self.ordered && !self.higher.is_empty() {
            return self.depose();
        }
        if !self.trusted {
            if self.asked_at.is_some_and(|asked| now.since(asked) < COMPARE_EVERY) {
                return Vec::new();
            }
            self.asked_at = Some(now);
            return vec![Effect::AskCompare { incarnation: self.incarnation }];
        }
        // An ordered opening is armed and made writable by the plan.
        let resume = !self.ordered && self.restarted;
        (self.ordered, self.restarted) = (false, false);
        let mut effects = self.hold(until);
        if resume {
            effects.push(Effect::Resume);
        }
        effects
    }

    fn hold(&mut self, until: Moment) -> Vec<Effect> {
        self.open_until = Some(until);
        let vip = self.kept.vip.then_some(Effect::HoldVip { until });
        std::iter::once(Effect::HoldOpen { until }).chain(vip).collect()
    }

    /// The lease ran out. Rung 1 only; it goes on asking.
    fn isolate(&mut self) -> Vec<Effect> {
        self.open_until = None;
        self.adopted_until = None;
        let effects = vec![Effect::Close, Effect::ReleaseVip];
        if self.higher.is_empty() { effects } else { self.depose() }
    }

    fn depose(&mut self) -> Vec<Effect> {
        if let Some(generation) = self.kept.role.generation() {
            self.kept.role = Role::Deposed { generation };
        }
        self.kept.vip = false;
        self.forget();
        vec![Effect::Close, Effect::ReleaseVip, Effect::Persist]
    }

    fn forget(&mut self) {
        self.grants.clear();
        self.higher.clear();
        self.adopted_until = None;
        self.open_until = None;
        self.ordered = false;
        self.asked_at = None;
    }

    fn open(&mut self, generation: Generation, epoch: u64, now: Moment) -> Result<Vec<Effect>, Refusal> {
        if let Some(known) = self.kept.role.generation().filter(|known| *known > generation) {
            return Err(Refusal::Older { known, asked: generation });
        }
        if self.kept.role == (Role::Deposed { generation }) {
            return Err(Refusal::Superseded(generation));
        }
        if epoch != self.kept.epoch {
            return Err(Refusal::Stale { known: self.kept.epoch, asked: epoch });
        }
        if !self.server_up {
            return Err(Refusal::NoServer);
        }
        (self.trusted, self.restarted) = (true, false);
        if self.kept.role == (Role::Primary { generation }) {
            // Asked again: what is held stays held.
            self.ordered = self.open_until.is_none();
            return Ok(self.renew(generation, self.terms.lease, now));
        }
        self.forget();
        self.kept = Kept { role: Role::Primary { generation }, epoch: self.kept.epoch + 1, vip: false };
        self.since = now;
        self.ordered = true;
        // Written before anybody is asked. A host that asked first and then could not write would have a majority's grants for a generation
        // that it does not lead, and the old primary's agent takes its block back only while no voter has granted anything.
        let mut effects = vec![Effect::Persist];
        effects.extend(self.renew(generation, self.terms.lease, now));
        Ok(effects)
    }

    fn fence(&mut self, generation: Generation) -> Result<Vec<Effect>, Refusal> {
        if let Some(known) = self.kept.role.generation().filter(|known| *known > generation) {
            return Err(Refusal::Older { known, asked: generation });
        }
        self.forget();
        self.kept = Kept { role: Role::Fenced { generation }, epoch: self.kept.epoch + 1, vip: false };
        Ok(vec![Effect::Close, Effect::Persist])
    }

    fn admit(&mut self) -> Result<Vec<Effect>, Refusal> {
        if let Role::Primary { generation } = self.kept.role {
            return Err(Refusal::Leads(generation));
        }
        self.forget();
        self.kept = Kept { role: Role::Replica, vip: false, ..self.kept };
        Ok(vec![Effect::ReleaseVip, Effect::Persist, Effect::Admit])
    }

    fn take_vip(&mut self, generation: Generation, now: Moment) -> Result<Vec<Effect>, Refusal> {
        match self.open_until.filter(|until| *until > now) {
            Some(until) if self.kept.role == (Role::Primary { generation }) => {
                let kept = std::mem::replace(&mut self.kept.vip, true);
                Ok((!kept)
                    .then_some(Effect::Persist)
                    .into_iter()
                    .chain([Effect::HoldVip { until }])
                    .collect())
            }
            Some(_) | None => Err(Refusal::NotHolding(generation)),
        }
    }

    fn lose_vip(&mut self) -> Result<Vec<Effect>, Refusal> {
        match self.kept.role {
            Role::Primary { generation } => Err(Refusal::Leads(generation)),
            Role::Unmanaged | Role::Unknown | Role::Replica | Role::Fenced { .. } | Role::Deposed { .. } => {
                Ok(vec![Effect::ReleaseVip])
            }
        }
    }

    fn server_gone(&mut self, now: Moment) -> Vec<Effect> {
        (self.server_up, self.trusted, self.restarted) = (false, false, true);
        self.incarnation += 1;
        match self.kept.role {
            Role::Primary { .. } => {
                self.forget();
                self.since = now;
                // The address stays until its time is over: refused is better than silent.
                vec![Effect::Close]
            }
            // The next one boots with replication stopped: its readers would see old rows for ever.
            Role::Replica => {
                self.kept.role = Role::Unknown;
                vec![Effect::Close, Effect::Persist]
            }
            Role::Unmanaged | Role::Unknown | Role::Fenced { .. } | Role::Deposed { .. } => Vec::new(),
        }
    }

    fn server_started(&mut self, now: Moment) -> Vec<Effect> {
        if self.server_up {
            return Vec::new();
        }
        (self.server_up, self.trusted, self.restarted) = (true, false, true);
        self.incarnation += 1;
        (self.since, self.asked_at) = (now, None);
        match self.renews() {
            Some(generation) => self.renew(generation, self.terms.lease, now),
            None => Vec::new(),
        }
    }

    /// One that holds the lease again already is made writable at once.
    fn made_read_only(&mut self, now: Moment) -> Vec<Effect> {
        if self.renews().is_some() && self.holds(now) {
            return vec![Effect::Resume];
        }
        self.restarted = true;
        Vec::new()
    }

    fn grace(&mut self, lasts: Duration, now: Moment) -> Result<Vec<Effect>, Refusal> {
        match self.kept.role {
            Role::Primary { generation } if self.holds(now) => Ok(self.renew(generation, lasts, now)),
            Role::Primary { generation } => Err(Refusal::NotHolding(generation)),
            // Without a lease there is nothing that could run out.
            Role::Unmanaged | Role::Unknown | Role::Replica | Role::Fenced { .. } | Role::Deposed { .. } => {
                Ok(Vec::new())
            }
        }
    }
}

/// For how long a holder that is `closed` has been answered by so few voters that no majority can grant it anything, by
/// [`Holder::heard_at`]; `None` while it serves, asks for nothing, or is refused rather than unheard.
pub fn unheard(heard_at: Option<Moment>, closed: bool, lease: Duration, now: Moment) -> Option<Duration> {
    let unheard = now.since(heard_at.filter(|_| closed)?);
    (unheard >= lease).then_some(unheard)
}
