//! A failover manager for MySQL and MariaDB.
//!
//! ```text
//! observe ──► decide ──► execute ──► observe …
//!  (IO)       (pure)      (IO)
//! ```
//!
//! Everything that may be *wrong* lives in the middle: [`decide`] is a function of what was seen ([`model::view`])
//! to what to do ([`decide::plan::Plan`], data so specific that [`execute`] has nothing left to choose). The map,
//! the rules and the words are in `ARCHITECTURE.md`.

pub mod agent;
mod body;
pub mod cli;
pub mod clock;
pub mod config;
pub mod decide;
pub mod execute;
pub mod http;
pub mod manager;
pub mod model;
pub mod mysql;
pub mod notify;
pub mod random;
mod serving;
pub mod store;
pub mod telemetry;
mod tls;
mod vital;
