//! The agent: one small process on each database host.

pub mod client;
pub mod host;
pub mod wire;
