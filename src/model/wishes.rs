//! What operators asked of single members and what holds until they ask otherwise: kept in the record, beside the configuration and
//! shown there. A configuration says how a cluster is meant; a wish, how somebody wants it for now.

use std::fmt;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::cluster::Member;
use super::extra::Remedy;
use super::instance::InstanceId;

/// Which of a replica's two threads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Threads {
    #[default]
    Both,
    Receiver,
    Applier,
}

impl Threads {
    /// The receiver is one of them.
    pub fn receives(self) -> bool {
        match self {
            Self::Both | Self::Receiver => true,
            Self::Applier => false,
        }
    }

    /// The applier is one of them.
    pub fn applies(self) -> bool {
        match self {
            Self::Both | Self::Applier => true,
            Self::Receiver => false,
        }
    }
}

impl fmt::Display for Threads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Both => "receiver and applier",
            Self::Receiver => "receiver",
            Self::Applier => "applier",
        })
    }
}

/// A replica that is to be below another member than the primary.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Below {
    pub instance: InstanceId,
    pub source: InstanceId,
}

/// A replica that somebody stopped, and that stays stopped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stopped {
    pub instance: InstanceId,
    pub threads: Threads,
    pub since: DateTime<Utc>,
    pub by: String,
}

/// A member that is to be brought back otherwise than policy says; until it was, or leads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BroughtBack {
    pub instance: InstanceId,
    pub how: Remedy,
    /// Of a rebuild: whose data is copied, where that was said.
    #[serde(default)]
    pub from: Option<InstanceId>,
}

/// All that holds until it is asked otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Wishes {
    /// Members the configuration does not name. They have no vote: voters are a fixed list.
    pub added: Vec<Member>,
    /// Members the configuration names and that are none.
    pub removed: Vec<InstanceId>,
    pub below: Vec<Below>,
    pub stopped: Vec<Stopped>,
    pub brought_back: Vec<BroughtBack>,
}

/// One of them, about one member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "wish", rename_all = "snake_case")]
pub enum Wish {
    /// It belongs below `source`; below the primary with none.
    Follow {
        source: Option<InstanceId>,
    },
    Stop {
        threads: Threads,
        by: String,
    },
    /// It replicates.
    Run,
    /// It is a member.
    Join {
        member: Box<Member>,
    },
    /// It is no member.
    Leave,
}

impl fmt::Display for Wish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Follow { source: Some(source) } => write!(f, "to be below {source}"),
            Self::Follow { source: None } => f.write_str("to be below the primary"),
            Self::Stop { threads, .. } => write!(f, "as stopped: {threads}"),
            Self::Run => f.write_str("to replicate"),
            Self::Join { .. } => f.write_str("as a member"),
            Self::Leave => f.write_str("as no member"),
        }
    }
}

impl Wishes {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The member it is to be below, where that is not the primary.
    pub fn source_of(&self, instance: &InstanceId) -> Option<&InstanceId> {
        self.below.iter().find(|below| below.instance == *instance).map(|below| &below.source)
    }

    pub fn stopped(&self, instance: &InstanceId) -> Option<&Stopped> {
        self.stopped.iter().find(|stopped| stopped.instance == *instance)
    }

    /// What is done with what only it has, instead of what policy says.
    pub fn remedy(&self, instance: &InstanceId) -> Option<Remedy> {
        self.brought_back.iter().find(|it| it.instance == *instance).map(|it| it.how)
    }

    /// An operator wants its data replaced.
    pub fn is_to_be_rebuilt(&self, instance: &InstanceId) -> bool {
        self.remedy(instance) == Some(Remedy::Rebuild)
    }

    /// From whom it is to be rebuilt.
    pub fn donor(&self, instance: &InstanceId) -> Option<&InstanceId> {
        self.brought_back.iter().find(|it| it.instance == *instance)?.from.as_ref()
    }

    /// It is to be brought back so; as policy says with none.
    pub fn bring_back(&mut self, instance: &InstanceId, how: Option<Remedy>, from: Option<&InstanceId>) {
        self.brought_back.retain(|it| it.instance != *instance);
        let from = from.cloned();
        self.brought_back.extend(how.map(|how| BroughtBack { instance: instance.clone(), how, from }));
    }

    /// What is wished of its threads now, as a wish: to take another one back.
    pub fn of_threads(&self, instance: &InstanceId) -> Wish {
        match self.stopped(instance) {
            Some(stopped) => Wish::Stop { threads: stopped.threads, by: stopped.by.clone() },
            None => Wish::Run,
        }
    }

    /// Takes a wish in; it replaces what was wished before of the same.
    pub fn note(&mut self, instance: &InstanceId, wish: &Wish, now: DateTime<Utc>) {
        match wish {
            Wish::Follow { source } => {
                self.below.retain(|below| below.instance != *instance);
                let below =
                    |source: &InstanceId| Below { instance: instance.clone(), source: source.clone() };
                self.below.extend(source.as_ref().map(below));
            }
            Wish::Stop { threads, by } => {
                self.stopped.retain(|stopped| stopped.instance != *instance);
                let (instance, threads, by) = (instance.clone(), *threads, by.clone());
                self.stopped.push(Stopped { instance, threads, since: now, by });
            }
            Wish::Run => self.stopped.retain(|stopped| stopped.instance != *instance),
            Wish::Join { member } => {
                self.removed.retain(|removed| removed != instance);
                self.added.retain(|added| added.instance != *instance);
                self.added.push((**member).clone());
            }
            Wish::Leave => {
                self.forget(instance);
                self.added.retain(|added| added.instance != *instance);
                self.removed.retain(|removed| removed != instance);
                self.removed.push(instance.clone());
            }
        }
    }

    /// Whether that is what is wished.
    pub fn holds(&self, instance: &InstanceId, wish: &Wish) -> bool {
        match wish {
            Wish::Follow { source } => self.source_of(instance) == source.as_ref(),
            Wish::Stop { threads, .. } => self.stopped(instance).is_some_and(|it| it.threads == *threads),
            Wish::Run => self.stopped(instance).is_none(),
            Wish::Join { .. } => self.added.iter().any(|added| added.instance == *instance),
            Wish::Leave => self.removed.contains(instance),
        }
    }

    /// It leads now, or left: what was wished of it as a replica is over.
    pub fn forget(&mut self, instance: &InstanceId) {
        self.below.retain(|below| below.instance != *instance);
        self.stopped.retain(|stopped| stopped.instance != *instance);
        self.brought_back.retain(|it| it.instance != *instance);
    }

    /// Who is a member: the configured ones without the removed, then the added. A member that is configured by now is as configured.
    pub fn members(&self, configured: &[Member]) -> Vec<Member> {
        let known = |instance: &InstanceId| configured.iter().any(|member| member.instance == *instance);
        let kept = configured.iter().filter(|member| !self.removed.contains(&member.instance));
        kept.chain(self.added.iter().filter(|member| !known(&member.instance))).cloned().collect()
    }
}

/// What is to be different about one member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub enum Change {
    /// A server becomes a member and follows; below `source` where one is named.
    Add {
        /// `http://host:port` of the agent beside it.
        #[serde(default)]
        agent: Option<String>,
        #[serde(default)]
        source: Option<InstanceId>,
    },
    /// It is a member no more; its replication is stopped unless it is to be kept running.
    Remove {
        #[serde(default)]
        keep_running: bool,
    },
    /// It is put below that member, the primary or another replica.
    Move {
        source: InstanceId,
    },
    /// It stops, and stays stopped.
    Stop {
        #[serde(default)]
        threads: Threads,
    },
    /// It replicates again.
    Start,
    ReadOnly {
        on: bool,
    },
}

/// An operator's word about one member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaAsk {
    pub instance: InstanceId,
    pub change: Change,
    /// Although commits may wait for an acknowledgement afterwards, or promises be fewer: what exactly is named in the refusal.
    pub force: bool,
    /// How long others may take to be level.
    pub within: Duration,
    /// Who asked, for the history.
    pub by: String,
}

impl ReplicaAsk {
    /// So long others may take to be level, unless asked otherwise.
    pub const WITHIN: Duration = Duration::from_secs(10);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::cluster::Promotion;

    fn db(host: &str) -> InstanceId {
        InstanceId::new(host, 3306)
    }

    fn member(host: &str) -> Member {
        Member { instance: db(host), promotion: Promotion::Allow, zone: None, agent: None }
    }

    #[test]
    fn each_wish_holds_until_the_next_of_its_kind() {
        let now = DateTime::<Utc>::UNIX_EPOCH;
        let mut wishes = Wishes::default();
        let below = |source: Option<&str>| Wish::Follow { source: source.map(db) };
        let stop = |threads| Wish::Stop { threads, by: "anna".to_owned() };
        for wish in [below(Some("db2")), below(Some("db4")), stop(Threads::Both), stop(Threads::Applier)] {
            wishes.note(&db("db3"), &wish, now);
            assert!(wishes.holds(&db("db3"), &wish), "{wish:?}");
        }
        assert!(!wishes.holds(&db("db3"), &stop(Threads::Both)));
        assert_eq!((wishes.below.len(), wishes.stopped.len()), (1, 1));
        for wish in [below(None), Wish::Run] {
            wishes.note(&db("db3"), &wish, now);
            assert!(wishes.holds(&db("db3"), &wish), "{wish:?}");
        }
        assert!(wishes.is_empty());
    }

    #[test]
    fn members_are_the_configured_without_the_removed_and_with_the_added() {
        let now = DateTime::<Utc>::UNIX_EPOCH;
        let configured = [member("db1"), member("db2")];
        let names = |wishes: &Wishes| {
            let members = wishes.members(&configured);
            members.iter().map(|member| member.instance.to_string()).collect::<Vec<_>>().join(" ")
        };
        let mut wishes = Wishes::default();
        let join = |host: &str| Wish::Join { member: Box::new(member(host)) };
        wishes.note(&db("db9"), &join("db9"), now);
        assert_eq!(names(&wishes), "db1 db2 db9");
        wishes.note(&db("db2"), &Wish::Leave, now);
        wishes.note(&db("db9"), &Wish::Leave, now);
        assert_eq!(names(&wishes), "db1");
        wishes.note(&db("db2"), &join("db2"), now);
        assert_eq!(names(&wishes), "db1 db2");
    }
}
