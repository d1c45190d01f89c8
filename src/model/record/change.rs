//! Every change of a cluster's record, as a value, and the one function that applies it. The live service and the simulation write
//! the record by nothing else.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{ClusterRecord, Degraded, Parked};
use crate::model::ballot::{Ballot, Generation};
use crate::model::cluster::Voter;
use crate::model::events::EventsWanted;
use crate::model::extra::Remedy;
use crate::model::gtid::GtidSet;
use crate::model::instance::InstanceId;
use crate::model::overtaken::Recorded;
use crate::model::standing::Known;
use crate::model::wishes::Wish;

/// So many automatic failovers are remembered.
const FAILOVERS: usize = 16;

/// One change of the record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "snake_case")]
pub enum RecordChange {
    /// A primary leads with these ackers. The first one adopts the cluster.
    Register(Box<Registration>),
    /// Nothing is done about the member until a person decides.
    Park { instance: InstanceId, why: String },
    /// An operator's word about one member, until the next of its kind.
    Override { instance: InstanceId, wish: Wish },
    /// The member is in automatic hands again, brought back by `method`; as policy says without one.
    Release { instance: InstanceId, method: Option<Remedy>, donor: Option<InstanceId> },
    /// A rebuild was called off: its data is no longer to be replaced, and unless the member leads a person decides about it.
    CallOffRebuild { instance: InstanceId, why: String },
    /// These members came back, or are no longer to be brought back otherwise than policy says.
    ForgetRemedies { instances: Vec<InstanceId> },
    /// An operator has seen the automatic failovers: they count against the budget no more.
    AcknowledgeFailovers,
    /// What the manager knows of the servers that one which starts later cannot see any more.
    Known(Known),
    /// The votes of these hosts count no more: an operator vouches that they are destroyed. Of all others they do.
    Votes { without: Vec<String> },
    /// These hosts vote, and no others.
    Voters { voters: Vec<Voter> },
    /// What is wanted of scheduled events; with none they are the operator's.
    Events { wanted: Option<EventsWanted> },
    /// The voters know of a newer record than this one.
    Outdated { known: Recorded },
}

/// Who leads, with whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registration {
    pub primary: InstanceId,
    pub generation: Generation,
    /// Of the manager that registers it.
    pub ballot: Ballot,
    pub ackers: Vec<InstanceId>,
    pub acks: u32,
    /// Why the promise of `lossless` does not hold, if it does not.
    pub degraded: Option<String>,
    /// No operator asked for it: a change of primary counts against the budget.
    pub automatic: bool,
    /// What the primary had when it was armed, or by now; used only where [`Registration::needs_base`].
    pub base: Option<GtidSet>,
}

impl Registration {
    /// Whether what was acknowledged before this is recorded may be on fewer of its ackers than its number of acknowledgements says: these promise
    /// something else from then on, an acker leaves, or another manager may have recorded others meanwhile.
    pub fn needs_base(&self, before: Option<&ClusterRecord>) -> bool {
        let others = before.is_some_and(|before| {
            let leaves = before.ackers.iter().any(|acker| !self.ackers.contains(acker));
            self.acks > 0 && (leaves || before.outdated.is_some())
        });
        others || self.promises_anew(before)
    }

    /// Whether acknowledgements promise something else once this is recorded.
    pub fn promises_anew(&self, before: Option<&ClusterRecord>) -> bool {
        before.is_none_or(|before| before.promises_anew(&self.primary, self.acks, self.degraded.is_some()))
    }
}

impl RecordChange {
    /// Whether a manager with an older record would decide wrongly: it would take an acknowledgement for more than it was, promote a member that
    /// is parked, or count votes that are no more. The voters know of a new primary themselves.
    pub fn must_be_told(&self, before: Option<&ClusterRecord>) -> bool {
        match self {
            Self::Register(new) => before.is_some_and(|before| {
                let less = new.acks < before.acks || new.degraded.is_some() && before.degraded.is_none();
                before.generation == new.generation && (less || before.ackers != new.ackers)
            }),
            Self::Park { .. } | Self::Votes { .. } | Self::Voters { .. } => true,
            Self::Override { .. }
            | Self::Release { .. }
            | Self::CallOffRebuild { .. }
            | Self::ForgetRemedies { .. }
            | Self::AcknowledgeFailovers
            | Self::Known(_)
            | Self::Events { .. }
            | Self::Outdated { .. } => false,
        }
    }
}

/// There is no record to change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the cluster is not adopted")]
pub struct NotAdopted;

impl ClusterRecord {
    /// The record after `change`, which happens at `at`: its revision is the next one.
    ///
    /// # Errors
    /// When nothing is recorded and the change is no registration.
    pub fn apply(
        before: Option<&Self>,
        change: &RecordChange,
        at: DateTime<Utc>,
    ) -> Result<Self, NotAdopted> {
        let mut record = match (before, change) {
            (Some(before), _) => before.clone(),
            (None, RecordChange::Register(first)) => Self::new(first.primary.clone(), first.generation, at),
            (
                None,
                RecordChange::Park { .. }
                | RecordChange::Override { .. }
                | RecordChange::Release { .. }
                | RecordChange::CallOffRebuild { .. }
                | RecordChange::ForgetRemedies { .. }
                | RecordChange::AcknowledgeFailovers
                | RecordChange::Known(_)
                | RecordChange::Votes { .. }
                | RecordChange::Voters { .. }
                | RecordChange::Events { .. }
                | RecordChange::Outdated { .. },
            ) => return Err(NotAdopted),
        };
        record.revision += 1;
        match change {
            RecordChange::Register(registration) => record.register(before, registration, at),
            RecordChange::Park { instance, why } => record.park(instance, why, at),
            RecordChange::Override { instance, wish } => record.wishes.note(instance, wish, at),
            RecordChange::Release { instance, method, donor } => {
                record.parked.retain(|parked| parked.instance != *instance);
                record.rows_left_out.retain(|left_out| left_out.instance != *instance);
                record.wishes.bring_back(instance, *method, donor.as_ref());
            }
            RecordChange::CallOffRebuild { instance, why } => {
                record.wishes.bring_back(instance, None, None);
                if record.primary == *instance {
                    record.parked.retain(|parked| parked.instance != *instance);
                } else {
                    record.park(instance, why, at);
                }
            }
            RecordChange::ForgetRemedies { instances } => {
                instances.iter().for_each(|instance| record.wishes.bring_back(instance, None, None));
            }
            RecordChange::Outdated { known } => record.outdated = Some(*known),
            RecordChange::AcknowledgeFailovers => record.failovers.clear(),
            RecordChange::Known(known) => {
                record.ackers_proven.clone_from(&known.ackers);
                record.history_resets.clone_from(&known.resets);
                record.filtered_logs.clone_from(&known.filtered_logs);
                record.answered_alone.clone_from(&known.answered_alone);
                record.rows_left_out.clone_from(&known.rows_left_out);
                record.identities.clone_from(&known.identities);
                record.lapse.clone_from(&known.lapse);
            }
            RecordChange::Votes { without } => record.without_vote.clone_from(without),
            RecordChange::Voters { voters } => record.voters.clone_from(voters),
            RecordChange::Events { wanted } => record.events.clone_from(wanted),
        }
        Ok(record)
    }

    fn park(&mut self, instance: &InstanceId, why: &str, at: DateTime<Utc>) {
        self.parked.retain(|parked| parked.instance != *instance);
        self.parked.push(Parked { instance: instance.clone(), since: at, why: why.to_owned() });
    }

    fn register(&mut self, before: Option<&Self>, new: &Registration, at: DateTime<Utc>) {
        if new.needs_base(before) {
            self.base.clone_from(&new.base);
        }
        self.note_doubt(&new.primary, &new.ackers, (new.acks, new.degraded.is_some()), new.automatic);
        if new.automatic && before.is_some_and(|before| before.primary != new.primary) {
            self.failovers.push(at);
            let excess = self.failovers.len().saturating_sub(FAILOVERS);
            self.failovers.drain(..excess);
        }
        // It is one span for as long as the promise does not hold, whatever else changes meanwhile.
        if self.primary != new.primary {
            self.answered_alone = None;
            if !self.former.contains(&self.primary) {
                self.former.push(self.primary.clone());
            }
        }
        if new.promises_anew(before) && new.degraded.is_none() {
            self.lapse = None;
        }
        self.degraded = new.degraded.as_ref().map(|why| match self.degraded.take() {
            Some(before) => before,
            None => Degraded { since: at, why: why.clone() },
        });
        self.parked.retain(|parked| parked.instance != new.primary);
        self.wishes.forget(&new.primary);
        self.primary.clone_from(&new.primary);
        self.generation = new.generation;
        self.ballot.clone_from(&new.ballot);
        self.ackers.clone_from(&new.ackers);
        self.acks = new.acks;
        self.outdated = None;
    }
}

#[cfg(test)]
mod tests;
