//! The agent: one small process on each database host.

pub mod client;
pub mod durable;
pub mod host;
pub mod voter;
pub mod wire;
