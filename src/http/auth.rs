//! Who may ask. One token, shown as a bearer, compared in constant time; without one, only this host's own programs. Never
//! writes a token into a log or an answer.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use axum::extract::{ConnectInfo, Request, State};
use axum::http::header::{AUTHORIZATION, HOST};
use axum::middleware::Next;
use axum::response::Response;
use secrecy::{ExposeSecret, SecretString};

use super::ApiState;
use super::error::ApiError;
use crate::clock;
use crate::model::time::Moment;
use crate::serving;

/// Wrong tokens heard out within one second; the right one is always heard.
const WRONG_PER_SECOND: u32 = 10;

/// Wrong tokens in the present second.
#[derive(Debug, Default)]
pub(super) struct Denials {
    since: Moment,
    count: u32,
}

impl Denials {
    /// Counts one more; whether it is still to be answered in full.
    fn note(&mut self, now: Moment) -> bool {
        if now.since(self.since) >= Duration::from_secs(1) {
            *self = Self { since: now, count: 0 };
        }
        self.count += 1;
        self.count <= WRONG_PER_SECOND
    }
}

/// Lets a request pass that may, and tells of every one that does something.
pub(super) async fn guard(
    State(api): State<Arc<ApiState>>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let from = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(peer)| *peer);
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    if let Err(error) = admit(&api, &request) {
        let loud = api.denials.lock().unwrap_or_else(PoisonError::into_inner).note(clock::now());
        if loud {
            tracing::warn!(?from, %method, path, "request refused: token missing, wrong, or asked by another name");
            return Err(error);
        }
        return Err(ApiError::too_many_wrong());
    }
    serving::known(request.extensions());
    let response = next.run(request).await;
    if method == axum::http::Method::POST {
        tracing::info!(?from, path, status = response.status().as_u16(), "asked by an operator");
    }
    Ok(response)
}

fn admit(api: &ApiState, request: &Request) -> Result<(), ApiError> {
    let Some(token) = &api.token else {
        // A page in a browser on this host must not command the manager through a name that resolves to loopback.
        let host = request.headers().get(HOST).and_then(|host| host.to_str().ok());
        return if host.is_none_or(is_loopback) { Ok(()) } else { Err(ApiError::foreign_host()) };
    };
    let shown = request.headers().get(AUTHORIZATION).and_then(|value| value.as_bytes().split_at_checked(7));
    match shown {
        Some((scheme, shown)) if scheme.eq_ignore_ascii_case(b"bearer ") => {
            if same(shown.trim_ascii(), token) { Ok(()) } else { Err(ApiError::token_wrong()) }
        }
        Some(_) | None => Err(ApiError::token_missing()),
    }
}

/// Whether `host`, with or without a port, is this host.
fn is_loopback(host: &str) -> bool {
    let address = |text: &str| text.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    let bare = host
        .strip_prefix('[')
        .and_then(|rest| rest.split_once(']'))
        .map_or_else(|| host.split_once(':').map_or(host, |(bare, _)| bare), |(bare, _)| bare);
    bare.eq_ignore_ascii_case("localhost") || address(bare)
}

/// Compares every byte shown, wherever the first difference is.
fn same(shown: &[u8], token: &SecretString) -> bool {
    let token = token.expose_secret().as_bytes();
    if token.is_empty() {
        return false;
    }
    let different = shown.iter().enumerate().fold(shown.len() ^ token.len(), |different, (index, byte)| {
        different | usize::from(byte ^ token[index % token.len()])
    });
    std::hint::black_box(different) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_token_is_the_token() {
        let token = SecretString::from("s3cret");
        assert!(same(b"s3cret", &token));
        for wrong in [&b""[..], b"s", b"s3cre", b"s3crets3cret", b"S3cret", b"s3cret\0"] {
            assert!(!same(wrong, &token), "{wrong:?}");
        }
        assert!(!same(b"", &SecretString::from("")));
    }

    #[test]
    fn loopback_by_name_and_address() {
        for host in ["localhost", "localhost:8420", "127.0.0.1:8420", "[::1]:8420", "127.0.0.2"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["evil.example", "localhost.evil.example:8420", "10.0.0.1", "127.0.0.1.evil.example"] {
            assert!(!is_loopback(host), "{host}");
        }
    }

    #[test]
    fn wrong_tokens_are_answered_briefly_after_ten() {
        let mut denials = Denials::default();
        let now = Moment::from_micros(5_000_000);
        assert!((0..10).all(|_| denials.note(now)));
        assert!(!denials.note(now));
        assert!(denials.note(now + Duration::from_secs(1)));
    }
}
