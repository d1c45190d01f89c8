//! The lines of a writer's log, as writer and checker both know them.

use serde::{Deserialize, Serialize};

/// Why an attempt was no acknowledgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Failure {
    /// Could not connect or log in: refused, reset, no route, access denied.
    Connect,
    /// Neither a connection nor a refusal in time.
    ConnectTimeout,
    /// The server answered with an error (1290 among them): nothing was written.
    Refused,
    /// The connection broke before the answer.
    Lost,
    /// No answer in time.
    StatementTimeout,
    /// A first attempt met its own key: somebody else wrote this row.
    Foreign,
}

/// One line. `at_us` is `CLOCK_MONOTONIC` in microseconds, taken when the answer was in the client's hands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum Record {
    /// The server acknowledged row `n`; `retried` when an earlier attempt's answer was lost.
    Ack { client: u32, n: u64, at_us: u64, server: u32, retried: bool },
    /// An attempt that was none.
    Error { client: u32, n: u64, at_us: u64, failure: Failure, text: String },
}
