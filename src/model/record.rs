//! What was learned and must not be forgotten: kept in the store, shown beside the configuration.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::ballot::{Ballot, Generation};
use super::cluster::Voter;
use super::events::EventsWanted;
use super::gtid::GtidSet;
use super::instance::InstanceId;
use super::overtaken::Recorded;
use super::standing::{AckerEvidence, AnsweredAlone, FilteredLog, KnownReset, MemberIdentity, RowsLeftOut};
use super::wishes::Wishes;

mod change;

pub use change::{NotAdopted, RecordChange, Registration};

/// The durable memory of one adopted cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterRecord {
    /// Grows by one with each change. The store refuses a record that does not follow the one it holds.
    #[serde(default)]
    pub revision: u64,
    /// Of the present primary.
    pub generation: Generation,
    pub primary: InstanceId,
    /// The ballot this manager leads with.
    pub ballot: Ballot,
    /// Registered ackers of this generation: written before one is armed, and an entry removed only after it was disarmed.
    pub ackers: Vec<InstanceId>,
    /// a: the smallest number of acknowledgements in force in this generation. 0 while nothing is armed.
    pub acks: u32,
    /// Since when the promise of `lossless` does not hold, and why.
    pub degraded: Option<Degraded>,
    /// Members that must not be touched until a person decides, with the reason.
    pub parked: Vec<Parked>,
    /// Automatic failovers that count against the budget, newest last, at most 16.
    pub failovers: Vec<DateTime<Utc>>,
    pub adopted_at: DateTime<Utc>,
    /// Members that led while an acknowledgement promised less than `lossless`, or were left by an operator's word: what only they
    /// have may have been acknowledged to a client. Until they follow again.
    #[serde(default)]
    pub doubted: Vec<InstanceId>,
    /// The newest generation that ended without proof that the next primary has all that was acknowledged: an operator moved it, or lossless
    /// was not in force.
    #[serde(default)]
    pub waived: Option<Generation>,
    /// Who has led or was registered to acknowledge since: their transactions are of the history that went on. What anybody else has alone
    /// may have been acknowledged.
    #[serde(default)]
    pub since_waived: Vec<InstanceId>,
    /// Who votes. The configuration's list is taken over one host at a time. Empty until it was recorded first.
    #[serde(default)]
    pub voters: Vec<Voter>,
    /// Hosts whose vote counts no more, by an operator's word: they are destroyed. Until they are given it back.
    #[serde(default)]
    pub without_vote: Vec<String>,
    /// What operators asked of single members, until they ask otherwise.
    #[serde(default)]
    pub wishes: Wishes,
    /// What the primary had when its acknowledgements began to promise what they do: who only lacks what came later has all that was
    /// acknowledged before. `None` where nobody could tell.
    #[serde(default)]
    pub base: Option<GtidSet>,
    /// Which runs of the ackers' servers still have everything that they acknowledged. An acker that is not here must be seen level with a
    /// living primary before a failover rests on it.
    #[serde(default)]
    pub ackers_proven: Vec<AckerEvidence>,
    /// Servers that were seen to have forgotten their own history, until that is mended.
    #[serde(default)]
    pub history_resets: Vec<KnownReset>,
    /// Servers whose binary log leaves something out, as last read.
    #[serde(default)]
    pub filtered_logs: Vec<FilteredLog>,
    /// Who the members' servers were when they last answered.
    #[serde(default)]
    pub identities: Vec<MemberIdentity>,
    /// Who led earlier generations, each once.
    #[serde(default)]
    pub former: Vec<InstanceId>,
    /// Replicas that may lack rows whose transactions they have, until their data is replaced or an operator has looked.
    #[serde(default)]
    pub rows_left_out: Vec<RowsLeftOut>,
    /// Commits of the primary that were answered without an acknowledgement, until lossless is in force anew.
    #[serde(default)]
    pub answered_alone: Option<AnsweredAlone>,
    /// Why acknowledgements of this primary did not prove that another server has the row, at some time since its base was recorded.
    #[serde(default)]
    pub lapse: Option<String>,
    /// The record that the voters know of, where this one is older: nothing that it says of acknowledgements is relied on before a primary is
    /// registered again.
    #[serde(default)]
    pub outdated: Option<Recorded>,
    /// What is wanted of scheduled events; `None` until the primary was asked, or where they are the operator's.
    #[serde(default)]
    pub events: Option<EventsWanted>,
}

impl ClusterRecord {
    /// What is recorded of a cluster when nothing is known but who leads it. Revision 0 is in no store.
    pub fn new(primary: InstanceId, generation: Generation, adopted_at: DateTime<Utc>) -> Self {
        Self {
            revision: 0,
            generation,
            primary,
            ballot: Ballot::default(),
            ackers: Vec::new(),
            acks: 0,
            degraded: None,
            parked: Vec::new(),
            failovers: Vec::new(),
            adopted_at,
            doubted: Vec::new(),
            voters: Vec::new(),
            without_vote: Vec::new(),
            wishes: Wishes::default(),
            base: None,
            ackers_proven: Vec::new(),
            history_resets: Vec::new(),
            filtered_logs: Vec::new(),
            identities: Vec::new(),
            former: Vec::new(),
            rows_left_out: Vec::new(),
            answered_alone: None,
            lapse: None,
            waived: None,
            since_waived: Vec::new(),
            outdated: None,
            events: None,
        }
    }

    /// No operator vouches that this host is destroyed.
    pub fn has_vote(&self, host: &str) -> bool {
        self.without_vote.iter().all(|lost| lost != host)
    }

    /// Whether acknowledgements promise something else than before, once this is recorded: another primary's, or of more hosts.
    pub fn promises_anew(&self, primary: &InstanceId, acks: u32, degraded: bool) -> bool {
        self.primary != *primary || self.degraded.is_some() && !degraded || acks > self.acks
    }

    /// Whose own log may hold what a client was told is kept, before `primary` is recorded with these ackers. An operator's word
    /// may have left rows behind; a span without lossless may have, and a primary that acknowledged asynchronously, also where lossless is
    /// configured by the time it returns. Whoever follows again, and a primary whose acknowledgements are
    /// in force again, is doubted no more.
    pub fn note_doubt(
        &mut self,
        primary: &InstanceId,
        ackers: &[InstanceId],
        (acks, degraded): (u32, bool),
        automatic: bool,
    ) {
        // Where another manager has led since, its ackers are guessed, and nobody knows what it accepted.
        let ackers = if self.outdated.is_some() { &[] } else { ackers };
        self.doubted
            .retain(|doubted| !ackers.contains(doubted) && (doubted != primary || degraded || acks == 0));
        let unsure = !automatic || self.acks == 0 || self.degraded.is_some() || self.outdated.is_some();
        let left = (self.primary != *primary && unsure).then(|| self.primary.clone());
        let here = degraded.then(|| primary.clone());
        if left.is_some() {
            self.waived = Some(self.generation);
            self.since_waived.clear();
        }
        for instance in left.into_iter().chain(here) {
            if !self.doubted.contains(&instance) {
                self.doubted.push(instance);
            }
        }
        if self.waived.is_some() {
            for instance in ackers.iter().chain([primary]) {
                if !self.since_waived.contains(instance) {
                    self.since_waived.push(instance.clone());
                }
            }
        }
    }

    /// Why a client may have been told that what only this member has is kept, if so.
    pub fn doubt_about(&self, instance: &InstanceId) -> Option<String> {
        if self.doubted.contains(instance) {
            let why = "lossless was not in force while it led, or an operator moved the primary";
            return Some(why.to_owned());
        }
        let generation = self.waived.filter(|_| !self.since_waived.contains(instance))?;
        Some(format!(
            "generation {generation} ended without proof that the next primary has all that was acknowledged, and {instance} has not followed \
             since"
        ))
    }
}

/// A span in which an acknowledgement promised less than `lossless` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Degraded {
    pub since: DateTime<Utc>,
    pub why: String,
}

/// A member taken out of automatic hands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parked {
    pub instance: InstanceId,
    pub since: DateTime<Utc>,
    pub why: String,
}
