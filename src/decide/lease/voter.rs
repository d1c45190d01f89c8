//! One host's vote on one cluster's lease. It never decides anything: it keeps promises. It never answers before what the
//! answer promises is durable: every function says whether [`Promises`] must be written and synced first.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::LONGEST_GRANT;
use crate::decide::plan::Proof;
use crate::model::ballot::{Ballot, Generation};
use crate::model::cluster::ClusterName;
use crate::model::instance::InstanceId;
use crate::model::overtaken::Recorded;
use crate::model::time::Moment;

/// After how many times its length a grant to a former holder is forgotten. A claim that is repeated then need not wait for it, so it must be
/// over by every clock: (lasts + f)(1 + δ), of which the configuration allows less than (1 + 1) × 1.1 lengths.
pub const FORGOTTEN_AFTER: u32 = 3;

/// What a voter must never forget.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Promises {
    /// Highest ballot obeyed.
    pub ballot: Ballot,
    /// Highest ballot of another manager than that one's that was obeyed before it. Never falls either.
    #[serde(default)]
    pub rival: Ballot,
    /// The newest record of the cluster that a manager has told of. Never falls.
    #[serde(default)]
    pub recorded: Recorded,
    /// Highest generation accepted. Invariant: neither this nor `ballot` ever falls.
    pub generation: Generation,
    /// To whom that generation belongs. Invariant: one generation, one holder.
    pub holder: Option<InstanceId>,
    /// Who may have a grant that has not run out: the holder, and at most those before it.
    pub may_hold: Vec<InstanceId>,
    /// The longest grant that may be outstanding; zero before the first.
    pub lasts: Duration,
}

/// The holder asks to keep its lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renew {
    pub cluster: ClusterName,
    pub holder: InstanceId,
    pub generation: Generation,
    /// T, or up to [`LONGEST_GRANT`] before a planned restart of the agent.
    pub lasts: Duration,
}

/// Answer to [`Renew`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Renewed {
    /// Granted, for so long from when the holder asked.
    Granted { lasts: Duration },
    /// A higher generation was accepted here.
    Superseded { generation: Generation, holder: Option<InstanceId> },
    /// This very generation belongs to another, or to nobody.
    OtherHolder { holder: Option<InstanceId> },
    /// This voter knows of no generation: it is new, or lost what it promised ([`super::relearn`]).
    NoVote,
}

/// A manager asks that `generation` belong to `candidate`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    pub cluster: ClusterName,
    pub ballot: Ballot,
    pub generation: Generation,
    pub candidate: InstanceId,
    pub proof: Proof,
    /// With [`Proof::Fenced`] or [`Proof::Stonith`]: the instances that were. Only grants to these are lifted: the one fenced need
    /// not be the one this voter has granted.
    #[serde(default)]
    pub released: Vec<InstanceId>,
}

/// A grant to somebody else that had been given when a claim was accepted.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Outstanding {
    pub granted_ago: Duration,
    pub lasts: Duration,
}

/// Answer to [`Claim`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Claimed {
    /// Durably accepted: older generations' renewals are refused from now on.
    Accepted { outstanding: Vec<Outstanding> },
    /// A higher ballot, or an equal one of another manager, is obeyed here.
    OlderBallot { accepted: Ballot },
    /// A higher generation is known here.
    Superseded { generation: Generation, holder: Option<InstanceId> },
    /// This very generation was given to another.
    Taken { holder: Option<InstanceId> },
    /// Somebody is entitled to lead for so long still: this voter heard of it after the claimant did.
    HeldBack { by: InstanceId, remaining: Duration },
    /// [`Proof::TakenBack`] only: this voter granted something to whoever was to follow, or cannot know that it did not.
    MayHaveLed { holder: Option<InstanceId> },
    /// As [`Renewed::NoVote`]; only an adoption's or an operator's claim is accepted.
    NoVote,
}

/// Answer to [`Voter::lead`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Led {
    /// Whether the ballot is obeyed here from now on.
    pub accepted: bool,
    /// Now obeyed.
    pub ballot: Ballot,
    /// [`Promises::rival`]: what another manager than that one last led with, as far as this voter knows.
    #[serde(default)]
    pub rival: Ballot,
    /// [`Promises::recorded`].
    #[serde(default)]
    pub recorded: Recorded,
    pub generation: Generation,
    pub holder: Option<InstanceId>,
}

/// Whether [`Promises`] must be durable before the answer may leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Persist {
    First,
    Unchanged,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Grant {
    to: InstanceId,
    at: Moment,
    lasts: Duration,
}

impl Grant {
    fn remaining(&self, now: Moment) -> Duration {
        self.lasts.saturating_sub(now.since(self.at))
    }
}

/// One voter. Clone it, call, write, then swap: an answer whose promise could not be written must not be given.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Voter {
    promises: Promises,
    /// At most one per holder, on this host's clock. Kept for [`FORGOTTEN_AFTER`] times its length.
    grants: Vec<Grant>,
    restored_at: Moment,
    /// What it knows of the generation was told by other voters: what it granted itself is forgotten.
    relearned: bool,
    /// The generation known here was accepted for a blocked holder that asked by itself.
    taken_back: bool,
}

impl Voter {
    /// With what was durable. When its grants were given is forgotten, so they count as given now.
    pub fn restored(promises: Promises, now: Moment) -> Self {
        let grants = if promises.lasts.is_zero() { Vec::new() } else { promises.may_hold.clone() };
        let grants =
            grants.into_iter().map(|to| Grant { to, at: now, lasts: promises.lasts }).collect::<Vec<_>>();
        Self { promises, grants, restored_at: now, relearned: false, taken_back: false }
    }

    /// What must survive this process.
    pub fn promises(&self) -> &Promises {
        &self.promises
    }

    /// Since when it has known of no generation; `None` when it knows one.
    pub fn blank_since(&self) -> Option<Moment> {
        (self.promises.generation == Generation::default()).then_some(self.restored_at)
    }

    /// Takes over what the other voters know. Only where it knew nothing itself: what it promised is never forgotten.
    pub fn relearn(&mut self, learned: &Promises) -> Persist {
        if self.blank_since().is_none() || learned.generation == Generation::default() {
            return Persist::Unchanged;
        }
        let ballot = if self.obeys(&learned.ballot) { &learned.ballot } else { &self.promises.ballot };
        let rivals = [&self.promises.rival, &learned.rival];
        let rival = rivals.into_iter().max_by_key(|rival| rival.number).cloned().unwrap_or_default();
        let recorded = self.promises.recorded.max(learned.recorded);
        self.promises = Promises { ballot: ballot.clone(), rival, recorded, ..learned.clone() };
        self.relearned = true;
        Persist::First
    }

    /// Whether a command under `ballot` is to be obeyed.
    pub fn obeys(&self, ballot: &Ballot) -> bool {
        self.promises.ballot.yields_to(ballot)
    }

    /// How long ago the present holder was last granted the lease.
    pub fn granted_ago(&self, now: Moment) -> Option<Duration> {
        let holder = self.promises.holder.as_ref()?;
        self.grants.iter().find(|grant| grant.to == *holder).map(|grant| now.since(grant.at))
    }

    /// A manager takes the lead, with a ballot that nobody has used before. An equal one is refused, though it is of the same id: of
    /// two managers on copies of one store only one may lead with it.
    pub fn take_lead(&mut self, ballot: &Ballot) -> (Led, Persist) {
        if *ballot != self.promises.ballot {
            return self.lead(ballot);
        }
        let (led, persist) = self.lead(ballot);
        (Led { accepted: false, ..led }, persist)
    }

    /// A command comes under this ballot. Touches neither lease nor generation.
    pub fn lead(&mut self, ballot: &Ballot) -> (Led, Persist) {
        let accepted = self.obeys(ballot);
        let persist = if accepted { self.accept_ballot(ballot) } else { Persist::Unchanged };
        let Promises { ballot, rival, recorded, generation, holder, .. } = self.promises.clone();
        (Led { accepted, ballot, rival, recorded, generation, holder }, persist)
    }

    /// A record was written that a later manager must not miss. Whoever wrote it: it is asked for by its number only.
    pub fn note_record(&mut self, recorded: Recorded) -> Persist {
        if recorded <= self.promises.recorded {
            return Persist::Unchanged;
        }
        self.promises.recorded = recorded;
        Persist::First
    }

    /// The holder renews.
    pub fn renew(&mut self, ask: &Renew, now: Moment) -> (Renewed, Persist) {
        self.prune(now);
        let known = &self.promises;
        if self.blank_since().is_some() {
            return (Renewed::NoVote, Persist::Unchanged);
        }
        if ask.generation < known.generation {
            let answer = Renewed::Superseded { generation: known.generation, holder: known.holder.clone() };
            return (answer, Persist::Unchanged);
        }
        if ask.generation == known.generation && known.holder.as_ref() != Some(&ask.holder) {
            return (Renewed::OtherHolder { holder: known.holder.clone() }, Persist::Unchanged);
        }
        let mut persist = Persist::Unchanged;
        if ask.generation > known.generation {
            // This voter missed the claim. Believing it only fences more: nobody renews what no majority accepted.
            self.accept(ask.generation, &ask.holder);
            persist = Persist::First;
        }
        let lasts = ask.lasts.min(LONGEST_GRANT);
        self.remember_grant(&ask.holder, now, lasts);
        let longest = self.grants.iter().map(|grant| grant.lasts).max().unwrap_or(lasts);
        if longest != self.promises.lasts {
            self.promises.lasts = longest;
            persist = Persist::First;
        }
        (Renewed::Granted { lasts }, persist)
    }

    /// A manager claims a generation for a candidate.
    pub fn claim(&mut self, claim: &Claim, now: Moment) -> (Claimed, Persist) {
        self.prune(now);
        let known = &self.promises;
        if !self.obeys(&claim.ballot) {
            return (Claimed::OlderBallot { accepted: known.ballot.clone() }, Persist::Unchanged);
        }
        let by_hand = matches!(claim.proof, Proof::Adoption | Proof::Operator);
        if self.blank_since().is_some() && !by_hand {
            return (Claimed::NoVote, Persist::Unchanged);
        }
        if claim.generation < known.generation {
            let answer = Claimed::Superseded { generation: known.generation, holder: known.holder.clone() };
            return (answer, Persist::Unchanged);
        }
        let again = claim.generation == known.generation;
        if again && known.holder.as_ref() != Some(&claim.candidate) {
            return (Claimed::Taken { holder: known.holder.clone() }, Persist::Unchanged);
        }
        let taken_back = claim.proof == Proof::TakenBack;
        // A manager that asked for the same server has more to do before it opens it.
        let overtaken = if again { !self.taken_back } else { self.may_have_granted_beside(&claim.candidate) };
        if taken_back && overtaken {
            return (Claimed::MayHaveLed { holder: self.promises.holder.clone() }, Persist::Unchanged);
        }
        if let Some(grant) = self.holds_back(claim, now) {
            let (by, remaining) = (grant.to.clone(), grant.remaining(now));
            return (Claimed::HeldBack { by, remaining }, Persist::Unchanged);
        }
        let outstanding = self
            .grants
            .iter()
            .filter(|grant| !is_lifted(grant, claim))
            .map(|grant| Outstanding { granted_ago: now.since(grant.at), lasts: grant.lasts })
            .collect();
        let mut persist = self.accept_ballot(&claim.ballot);
        if !again {
            // The candidate's own grants stay: it may be holding an older generation by them.
            self.grants.retain(|grant| grant.to == claim.candidate || !is_lifted(grant, claim));
            self.accept(claim.generation, &claim.candidate);
            self.taken_back = taken_back;
            persist = Persist::First;
        }
        (Claimed::Accepted { outstanding }, persist)
    }

    fn holds_back(&self, claim: &Claim, now: Moment) -> Option<&Grant> {
        let counts = |grant: &&Grant| !is_lifted(grant, claim) && !grant.remaining(now).is_zero();
        self.grants.iter().filter(counts).max_by_key(|grant| grant.remaining(now))
    }

    /// Whether somebody else may have led the generation known here. One grant is enough: it may be part of a majority.
    fn may_have_granted_beside(&self, candidate: &InstanceId) -> bool {
        let Some(holder) = self.promises.holder.as_ref().filter(|holder| *holder != candidate) else {
            return false;
        };
        self.relearned || self.grants.iter().any(|grant| grant.to == *holder)
    }

    fn accept_ballot(&mut self, ballot: &Ballot) -> Persist {
        if self.promises.ballot == *ballot {
            return Persist::Unchanged;
        }
        let before = std::mem::replace(&mut self.promises.ballot, ballot.clone());
        if before.manager != ballot.manager && before.number > self.promises.rival.number {
            self.promises.rival = before;
        }
        Persist::First
    }

    fn accept(&mut self, generation: Generation, holder: &InstanceId) {
        self.promises.generation = generation;
        (self.relearned, self.taken_back) = (false, false);
        self.promises.holder = Some(holder.clone());
        self.promises.may_hold = self.grants.iter().map(|grant| grant.to.clone()).collect();
        if !self.promises.may_hold.contains(holder) {
            self.promises.may_hold.push(holder.clone());
        }
    }

    fn remember_grant(&mut self, to: &InstanceId, now: Moment, lasts: Duration) {
        let old = self.grants.iter().position(|grant| grant.to == *to);
        match old.map(|index| &mut self.grants[index]) {
            // A long grant given before a restart is not shortened by the short ones after it.
            Some(grant) if grant.remaining(now) > lasts => {}
            Some(grant) => (grant.at, grant.lasts) = (now, lasts),
            None => self.grants.push(Grant { to: to.clone(), at: now, lasts }),
        }
    }

    fn prune(&mut self, now: Moment) {
        let holder = self.promises.holder.as_ref();
        self.grants
            .retain(|grant| Some(&grant.to) == holder || now.since(grant.at) < grant.lasts * FORGOTTEN_AFTER);
    }
}

/// Whether `claim` need not wait for `grant`: it is the candidate's own, or its holder is proven unable to use it.
fn is_lifted(grant: &Grant, claim: &Claim) -> bool {
    if grant.to == claim.candidate {
        return true;
    }
    match claim.proof {
        Proof::Fenced | Proof::Stonith => claim.released.contains(&grant.to),
        Proof::Operator | Proof::Adoption => true,
        Proof::AckFence | Proof::Expired | Proof::AssumedDead | Proof::TakenBack => false,
    }
}
