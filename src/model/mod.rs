//! PURE. The nouns: serializable values with no behaviour beyond their own invariants. No IO, no clock, no randomness.

pub mod ballot;
pub mod binlog;
pub mod cluster;
pub mod disk;
pub mod events;
pub mod extra;
pub mod gtid;
pub mod history;
pub mod instance;
pub mod intent;
pub mod inventory;
pub mod job;
pub mod log_fault;
pub mod observation;
pub mod policy;
pub mod reach;
pub mod reached;
pub mod record;
pub mod report;
pub mod restrictions;
pub mod sessions;
pub mod standing;
pub mod time;
pub mod verdict;
pub mod view;
pub mod wishes;
