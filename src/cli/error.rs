//! Why a command did not do as asked, each with the exit code scripts turn on.

use crate::http::contract::{ErrorBody, Problem};

/// What the process ends with. Listed in `mhactl --help`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    Done = 0,
    Failed = 1,
    Usage = 2,
    Refused = 3,
    NotReached = 4,
    Unhealthy = 5,
    Credentials = 6,
}

/// A command's "no".
#[derive(Debug)]
pub(super) struct CliError {
    pub(super) exit: Exit,
    pub(super) problem: Problem,
}

impl CliError {
    pub(super) fn new(exit: Exit, code: &str, message: impl Into<String>, next: impl Into<String>) -> Self {
        let problem = Problem {
            code: code.to_owned(),
            message: message.into(),
            next: next.into(),
            reasons: Vec::new(),
        };
        Self { exit, problem }
    }

    pub(super) fn usage(message: impl Into<String>, next: impl Into<String>) -> Self {
        Self::new(Exit::Usage, "usage", message, next)
    }

    pub(super) fn not_reached(manager: &str, why: &str) -> Self {
        let message = format!("the manager at {manager} was not reached: {why}");
        let next = "is mha-manager running there? name another with --manager URL or MHA_MANAGER";
        Self::new(Exit::NotReached, "not_reached", message, next)
    }

    pub(super) fn not_understood(manager: &str, why: &str) -> Self {
        let message = format!("what {manager} answered is not understood: {why}");
        let next = "is it an mha-manager, and of this version? compare \"mhactl --version\"";
        Self::new(Exit::Failed, "not_understood", message, next)
    }

    pub(super) fn not_confirmed(what: &str) -> Self {
        let message = format!("{what} was not confirmed; nothing was changed");
        Self::new(Exit::Refused, "not_confirmed", message, "answer y at a terminal, or give --yes")
    }

    /// What the API answered instead of a success.
    pub(super) fn of_api(status: u16, body: ErrorBody) -> Self {
        let exit = match status {
            400 | 404 | 415 => Exit::Usage,
            401 | 403 | 429 => Exit::Credentials,
            409 => Exit::Refused,
            503 | 504 => Exit::NotReached,
            _ => Exit::Failed,
        };
        Self { exit, problem: body.error }
    }
}
