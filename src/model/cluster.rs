//! What the operator wants: a cluster, its members, its address for clients. Comes from TOML, never from observation.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::instance::InstanceId;
use super::policy::Policy;
use super::time::millis;

/// A cluster's name: `[A-Za-z0-9_-]{1,64}`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClusterName(pub String);

impl fmt::Display for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How far the manager may go by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Watch and tell. Nothing is changed, not even what `adopt` would set up.
    #[default]
    Observe,
    /// Keep leases and roles; act on failures only on the operator's word.
    Manual,
    /// Fail over by itself.
    Auto,
}

/// Whether a member may lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Promotion {
    /// Chosen before its equals.
    Prefer,
    #[default]
    Allow,
    /// Never leads; its log may still save transactions.
    Never,
}

/// One server of a cluster, as configured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    pub instance: InstanceId,
    #[serde(default)]
    pub promotion: Promotion,
    /// Free text: rack, zone, data centre. Among equals a candidate of the dead primary's zone is chosen.
    #[serde(default)]
    pub zone: Option<String>,
    /// `http://host:port` of the agent on this host; `None` without an agent.
    #[serde(default)]
    pub agent: Option<String>,
}

/// A holder of one vote. One vote per host, a fixed list.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Voter {
    /// The host's name, as in the members' list or of its own for a witness.
    pub host: String,
    /// `http://host:port` where it votes.
    pub url: String,
}

/// The address clients use; it follows the primary.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VipAddress {
    pub address: IpAddr,
    /// Prefix length, 1-32 or 1-128.
    pub prefix: u8,
    /// Name of the interface it is added to on the primary's host.
    pub interface: String,
}

impl fmt::Display for VipAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} on {}", self.address, self.prefix, self.interface)
    }
}

/// A program of the operator's that sends clients where they belong: it knows their proxy, or the name they ask for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrafficProgram {
    pub program: PathBuf,
    /// How long one call may take; then it is ended with all it started, and counts as failed.
    #[serde(rename = "within_ms", with = "millis")]
    pub within: Duration,
}

/// A whole cluster as configured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    pub name: ClusterName,
    pub mode: Mode,
    pub members: Vec<Member>,
    pub vip: Option<VipAddress>,
    /// Asked beside the VIP, or instead of one.
    #[serde(default)]
    pub traffic: Option<TrafficProgram>,
    /// In configuration order: members' agents, witnesses, and the manager's own host where that makes the number odd.
    pub voters: Vec<Voter>,
    pub policy: Policy,
}

/// An instance that was named and is none of a cluster's members.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stranger {
    pub instance: InstanceId,
    pub cluster: ClusterName,
    /// Whom to name instead.
    pub members: Vec<InstanceId>,
}

impl Stranger {
    /// Nothing where it is among them.
    pub fn among<'a>(
        members: impl Iterator<Item = &'a InstanceId> + Clone,
        cluster: &ClusterName,
        instance: &InstanceId,
    ) -> Option<Self> {
        (!members.clone().any(|member| member == instance)).then(|| Self {
            instance: instance.clone(),
            cluster: cluster.clone(),
            members: members.cloned().collect(),
        })
    }
}

impl fmt::Display for Stranger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { instance, cluster, members } = self;
        write!(f, "{instance} is no member of {cluster}, whose members are")?;
        for (place, member) in members.iter().enumerate() {
            write!(f, "{} {member}", if place == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

impl Cluster {
    /// Nothing where it is a member.
    pub fn stranger(&self, instance: &InstanceId) -> Option<Stranger> {
        Stranger::among(self.members.iter().map(|member| &member.instance), &self.name, instance)
    }

    /// The member of that name.
    pub fn member(&self, instance: &InstanceId) -> Option<&Member> {
        self.members.iter().find(|member| member.instance == *instance)
    }

    /// How many votes decide: more than half of all configured voters. `None` without voters.
    pub fn majority(&self) -> Option<usize> {
        (!self.voters.is_empty()).then_some(self.voters.len() / 2 + 1)
    }

    /// Position in configuration order, the last tie-break between candidates.
    pub fn order(&self, instance: &InstanceId) -> usize {
        self.members.iter().position(|member| member.instance == *instance).unwrap_or(usize::MAX)
    }
}
