//! PURE. The nouns: serializable values with no behaviour beyond their own invariants. No IO, no clock, no randomness.

pub mod binlog;
pub mod gtid;
pub mod instance;
pub mod time;
