//! Each step as an operator reads it.

use std::collections::BTreeSet;
use std::fmt;

use super::Step;

impl Step {
    /// What it means that it is not so after it was done, and what to do where that is known.
    pub fn unmet(&self) -> String {
        let unmet = format!("{self} is not so when read back");
        if let Self::Unmoved { instance, .. } = self {
            return format!(
                "{unmet}: somebody wrote to {instance} after its writers were stopped, whom read_only does not hold (SUPER, \
                 CONNECTION_ADMIN, READ ONLY ADMIN); find and end that session, then ask again"
            );
        }
        unmet
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fence { instance, generation } => {
                write!(f, "{instance} closed to clients (generation {generation})")
            }
            Self::Block { instance, generation, .. } => {
                write!(f, "{instance} takes no writes and is closed to clients (generation {generation})")
            }
            Self::KeepUp { instance, source, closely, .. } => {
                write!(f, "{instance} is less than {} ms behind {source}", closely.as_millis())
            }
            Self::Turn { instance, from, to, acker, .. } => {
                let acker = if *acker { ", acknowledging" } else { "" };
                write!(f, "{instance} replicates from {to} instead of {from}{acker}")
            }
            Self::Quiet { instance, drain, end_older } => {
                write!(f, "transactions open on {instance} have {} ms to end", drain.as_millis())?;
                match end_older {
                    Some(older) => write!(f, ", those older than {} ms are ended", older.as_millis()),
                    None => Ok(()),
                }
            }
            Self::Unmoved { instance, set } => write!(f, "{instance} still has {set} and no more"),
            Self::Kill { instance } => write!(f, "{instance} server process killed"),
            Self::StopReceiving { instance, source } => {
                write!(f, "{instance} receives nothing more from {source}")
            }
            Self::Salvage { from, to, .. } => write!(f, "{to} gets what only {from}'s log holds"),
            Self::WaitApplied { instance, set, .. } => write!(f, "{instance} applies to {set}"),
            Self::CatchUpFrom { instance, source, set, .. } => {
                write!(f, "{instance} catches up from {source} to {set}")
            }
            Self::Claim { candidate, generation, proof } => {
                write!(f, "voters accept {candidate} for generation {generation}: {proof}")
            }
            Self::StopReplicating { instance } => write!(f, "{instance} stops replicating"),
            Self::ArmSource { instance, acks: 0 } => write!(f, "{instance} waits for no acknowledgement"),
            Self::ArmSource { instance, acks } => {
                write!(f, "{instance} armed: commits wait for {acks} acknowledgement(s)")
            }
            Self::PointReplica { instance, source, acker } => {
                write!(
                    f,
                    "{instance} replicates from {source}{}",
                    if *acker { ", acknowledging" } else { "" }
                )
            }
            Self::AckersAttached { instance, acks } => write!(f, "{acks} acker(s) attached to {instance}"),
            Self::Register { primary, generation, ackers, acks, degraded } => {
                write!(f, "{primary} recorded as primary of generation {generation}")?;
                match (ackers.is_empty(), degraded) {
                    (true, None) => Ok(()),
                    (true, Some(_)) => f.write_str(", lossless given up"),
                    (false, degraded) => {
                        let names: Vec<String> = ackers.iter().map(ToString::to_string).collect();
                        let span = if degraded.is_some() { ", lossless not in force" } else { "" };
                        write!(f, ", {acks} of {} acknowledging{span}", names.join(" "))
                    }
                }
            }
            Self::Open { instance, generation, .. } => {
                write!(f, "{instance} writable (generation {generation})")
            }
            Self::Admit { instance } => write!(f, "{instance} open for reads"),
            Self::HoldVip { instance, vip, .. } => write!(f, "{instance} holds {}", vip.address),
            Self::LoseVip { instance } => write!(f, "{instance} gives the VIP up"),
            Self::ForgetSource { instance, discard: None } => write!(f, "{instance} forgets its old source"),
            Self::ForgetSource { instance, discard: Some(set) } => {
                write!(f, "{instance} forgets its old source, and {set} that it received and has not applied")
            }
            Self::StartServer { instance, .. } => {
                write!(f, "{instance} server started, read-only and fenced")
            }
            Self::SetReadOnly { instance, on } => {
                write!(f, "{instance} {}", if *on { "read-only" } else { "writable" })
            }
            Self::Furnish { instance, semi_sync } => {
                write!(
                    f,
                    "{instance} has the heartbeat table, and accounts for heartbeat and replication (made where missing"
                )?;
                f.write_str(if *semi_sync { "), semi-sync loaded" } else { ")" })
            }
            Self::SaveExtra { instance, extra, .. } => write!(f, "{instance} has {extra} saved beside it"),
            Self::Rewind { instance, extra, keep, rows, .. } => {
                let what = if *rows { ", the rows of those as they were before" } else { "" };
                write!(f, "{instance} is set back to {keep}: without {extra}{what}")
            }
            Self::Direct { instance, order, .. } => write!(f, "{instance}: {order}"),
            Self::Rebuild { instance, from, keep } => {
                write!(f, "{instance} has begun a copy of {from}'s data beside its own")?;
                f.write_str(if *keep { ", which is kept" } else { "" })
            }
            Self::Exchange { instance, .. } => {
                write!(f, "{instance} server started with the copy as its data, read-only and fenced")
            }
            Self::Park { instance, why } => write!(f, "{instance} parked: {why}"),
            Self::Halt { instance, threads, .. } => write!(f, "{instance}: {threads} stopped"),
            Self::Events { instance, scheduler, enable } => {
                f.write_str(match (scheduler, enable) {
                    (true, _) => "scheduled events run on ",
                    (false, None) => "no scheduled event runs on ",
                    (false, Some(_)) => "scheduled events are enabled, with the scheduler off, on ",
                })?;
                write!(f, "{instance}")?;
                match enable.as_ref().map_or(0, BTreeSet::len) {
                    0 => Ok(()),
                    1 => f.write_str(", but for 1 that ran nowhere before"),
                    idle => write!(f, ", but for {idle} that ran nowhere before"),
                }
            }
            Self::Wish { instance, wish } => write!(f, "{instance} recorded {wish}"),
        }
    }
}
