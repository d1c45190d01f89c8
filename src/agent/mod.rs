//! The agent: one small process on each database host.

pub mod host;
