//! How a connection or a question failed, in the words of [`Unseen`]. The distinction that matters: a server that spoke
//! is alive, whatever it said; one that said nothing may be dead; and a failure of our own proves nothing of it.

use std::io::ErrorKind;

use super::wire::WireError;
use crate::model::observation::Unseen;

/// A failed connection or question: of whom, and how.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{server}: {unseen}")]
pub struct ClientError {
    /// The server as it was addressed: host and port, or a socket's path.
    pub server: String,
    pub unseen: Unseen,
    /// The server's own error code, where it sent one.
    pub code: Option<u16>,
}

impl ClientError {
    pub(super) fn new(server: &impl ToString, unseen: Unseen) -> Self {
        Self { server: server.to_string(), unseen, code: None }
    }

    /// From the connection's error.
    pub(super) fn of(server: &impl ToString, error: &WireError) -> Self {
        let code = match error {
            WireError::Server { code, .. } => Some(*code),
            WireError::Io(_) | WireError::Tls(_) | WireError::Refused(_) => None,
        };
        Self { server: server.to_string(), unseen: classify(error), code }
    }

    /// Whether the effect of the question is unknown: it was sent and no answer came.
    pub fn is_unanswered(&self) -> bool {
        match self.unseen {
            Unseen::Lost | Unseen::HungAfterLogin => true,
            Unseen::Refused
            | Unseen::NoRoute
            | Unseen::SilentBeforeGreeting
            | Unseen::AccessDenied(_)
            | Unseen::TooManyConnections
            | Unseen::WrongServer(_)
            | Unseen::Server { .. }
            | Unseen::Name(_)
            | Unseen::Looker(_) => false,
        }
    }

    /// The same, without any text the server may have quoted from a statement that held a secret.
    pub(super) fn scrubbed(mut self, secret: &str) -> Self {
        // Syntax errors quote the statement from an arbitrary place, so part of a password may be in them.
        let quotes = matches!(self.code, Some(1064 | 1149));
        let scrub = |text: &mut String| {
            if quotes || (!secret.is_empty() && text.contains(secret)) {
                "its words are left out: the statement held a password".clone_into(text);
            }
        };
        match &mut self.unseen {
            Unseen::Server { text, .. }
            | Unseen::AccessDenied(text)
            | Unseen::WrongServer(text)
            | Unseen::Name(text)
            | Unseen::Looker(text) => scrub(text),
            Unseen::Refused
            | Unseen::Lost
            | Unseen::NoRoute
            | Unseen::SilentBeforeGreeting
            | Unseen::HungAfterLogin
            | Unseen::TooManyConnections => {}
        }
        self
    }
}

impl From<ClientError> for Unseen {
    fn from(error: ClientError) -> Self {
        error.unseen
    }
}

/// What an error the server itself sent says of it.
pub fn spoken(code: u16, text: &str) -> Unseen {
    let text = plain(text);
    match code {
        1040 | 1203 | 1226 => Unseen::TooManyConnections,
        // 1129: this host is blocked; 3118 and 4151: the account is locked; 1820 and 1862: its password must change.
        1044 | 1045 | 1129 | 1130 | 1142 | 1143 | 1227 | 1251 | 1370 | 1524 | 1698 | 1820 | 1862 | 3118
        | 3159 | 4151 => Unseen::AccessDenied(format!("{code}: {text}")),
        code => Unseen::Server { code, text },
    }
}

/// A server's text without control characters and of bounded length: it ends in logs and terminals.
pub fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(1_000).collect()
}

fn classify(error: &WireError) -> Unseen {
    match error {
        WireError::Server { code, text } => spoken(*code, text),
        WireError::Io(error) => of_io(error),
        WireError::Tls(text) => Unseen::Looker(format!("TLS: {}", plain(text))),
        WireError::Refused(text) => Unseen::Looker(plain(text)),
    }
}

/// What the operating system's error says of the peer.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "std's list of kinds is open; the rest is our own failure"
)]
pub fn of_io(error: &std::io::Error) -> Unseen {
    match error.kind() {
        // A missing socket file is a port nobody listens on.
        ErrorKind::ConnectionRefused | ErrorKind::NotFound => Unseen::Refused,
        ErrorKind::ConnectionReset
        | ErrorKind::ConnectionAborted
        | ErrorKind::BrokenPipe
        | ErrorKind::NotConnected
        | ErrorKind::UnexpectedEof => Unseen::Lost,
        ErrorKind::TimedOut | ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => Unseen::NoRoute,
        // A socket file whose server accepts nothing any more: its backlog is full.
        ErrorKind::WouldBlock => Unseen::SilentBeforeGreeting,
        _ => Unseen::Looker(plain(&error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_spoke_is_alive() {
        for code in [1040, 1203, 1226] {
            assert_eq!(spoken(code, "x"), Unseen::TooManyConnections);
        }
        for code in [1040, 1044, 1045, 1129, 1130, 1053, 1290, 1698] {
            assert!(spoken(code, "x").proves_alive(), "{code}");
        }
    }

    #[test]
    fn a_quoted_password_is_left_out() {
        let said = |code, text: &str| ClientError {
            server: "db1".to_owned(),
            unseen: Unseen::Server { code, text: text.to_owned() },
            code: Some(code),
        };
        for error in [said(1064, "near 'ret' FOR"), said(1105, "bad s3cret")] {
            let text = error.scrubbed("s3cret").to_string();
            assert!(text.contains("left out") && !text.contains("ret'") && !text.contains("s3c"), "{text}");
        }
        assert!(said(1198, "stop it first").scrubbed("s3cret").to_string().contains("stop it first"));
    }

    #[test]
    fn control_characters_do_not_reach_a_terminal() {
        assert_eq!(plain("a\u{1b}[2Jb\n"), "a [2Jb ");
    }
}
