//! SQL at the edge: connections that prove whom they reached, probes that turn rows into reports, and the statements that
//! make a plan's SQL steps true. It decides nothing: what to do, and whether it may be done, was settled before.
//!
//! The flow is `client` → `probe` (rows to [`Report`](crate::model::report::Report)) and `client` → `control`
//! ([`Step`](crate::decide::plan::Step) to statements). Words that differ by flavor and version are in `dialect` only.

pub mod client;
pub mod control;
pub mod dialect;
pub mod events;
pub mod fault;
pub mod greeting;
pub mod hanging;
pub mod inventory;
mod parse;
pub mod probe;
pub mod record;
pub mod sessions;
mod wire;

pub use client::{Account, Connection, Target, Tls};
pub use control::{ControlEnv, ControlError};
pub use fault::ClientError;
