//! Every "no" of the API: a status, a word for programs, a sentence for people, and what to do.

use std::time::Duration;

use axum::Json;
use axum::http::StatusCode;
use axum::http::header::WWW_AUTHENTICATE;
use axum::response::{IntoResponse, Response};

use super::contract::{ErrorBody, Problem};
use crate::store::StoreError;

/// An answer that is not a success.
#[derive(Debug)]
pub(super) struct ApiError {
    status: StatusCode,
    problem: Problem,
}

impl ApiError {
    fn new(status: StatusCode, code: &str, message: impl Into<String>, next: impl Into<String>) -> Self {
        let problem = Problem {
            code: code.to_owned(),
            message: message.into(),
            next: next.into(),
            reasons: Vec::new(),
        };
        Self { status, problem }
    }

    pub(super) fn no_route() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "no_such_path",
            "there is nothing at this path",
            "ask /api/v1/clusters",
        )
    }

    pub(super) fn wrong_method() -> Self {
        let message = "this path is not asked with this method";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method", message, "GET reads, POST does")
    }

    pub(super) fn unknown_cluster(name: &str, known: &[&str]) -> Self {
        let message = format!("there is no cluster {name:?}");
        Self::new(
            StatusCode::NOT_FOUND,
            "no_such_cluster",
            message,
            format!("name one of: {}", known.join(", ")),
        )
    }

    pub(super) fn unknown_recovery(id: &str) -> Self {
        let message = format!("there is no recovery {id:?} in this cluster's history");
        Self::new(StatusCode::NOT_FOUND, "no_such_recovery", message, "take an id from \"mhactl history\"")
    }

    pub(super) fn no_recovery() -> Self {
        let message = "no recovery has run since this manager started";
        Self::new(StatusCode::NOT_FOUND, "no_recovery", message, "older ones are in \"mhactl history\"")
    }

    pub(super) fn bad_request(message: impl Into<String>, next: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", message, next)
    }

    pub(super) fn too_large(limit: usize) -> Self {
        let message = format!("the request's body is larger than {limit} bytes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message, "send only the documented fields")
    }

    pub(super) fn body_unread(why: &str) -> Self {
        let message = format!("the request's body could not be read: {why}");
        let next = "send it whole, as long as its header says; nothing was begun";
        Self::new(StatusCode::REQUEST_TIMEOUT, "body_unread", message, next)
    }

    pub(super) fn not_json() -> Self {
        let message = "the request's body is not declared as JSON";
        let next = "send the header content-type: application/json";
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "not_json", message, next)
    }

    /// The cluster's loop said no, with every reason.
    pub(super) fn refused(message: impl Into<String>, next: impl Into<String>, reasons: Vec<String>) -> Self {
        let mut error = Self::new(StatusCode::CONFLICT, "refused", message, next);
        error.problem.reasons = reasons;
        error
    }

    pub(super) fn no_answer(why: String) -> Self {
        let next = "look into the manager's log; \"mhactl status\" shows whether it went on";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "no_answer", why, next)
    }

    pub(super) fn late(limit: Duration) -> Self {
        let message = format!("the manager did not answer within {} s", limit.as_secs());
        let next = "ask again; whether something was begun is in \"mhactl history\"";
        Self::new(StatusCode::GATEWAY_TIMEOUT, "late", message, next)
    }

    pub(super) fn internal(message: &str) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message, "report it with the manager's log")
    }

    pub(super) fn token_missing() -> Self {
        let next = "show it: mhactl --token-file FILE, or the header authorization: Bearer TOKEN";
        Self::new(
            StatusCode::UNAUTHORIZED,
            "token_missing",
            "this manager wants a token and none was shown",
            next,
        )
    }

    pub(super) fn token_wrong() -> Self {
        let next = "compare the token file with the one [manager] token names, without a new line at its end";
        Self::new(StatusCode::FORBIDDEN, "token_wrong", "the token shown is not this manager's", next)
    }

    pub(super) fn too_many_wrong() -> Self {
        let message = "too many wrong tokens were shown within a second";
        Self::new(
            StatusCode::TOO_MANY_REQUESTS,
            "too_many_wrong_tokens",
            message,
            "wait a second, then show the right one",
        )
    }

    pub(super) fn foreign_host() -> Self {
        let message = "without a token this manager answers only requests to a loopback address";
        let next = "ask http://127.0.0.1:8420, or give [manager] a token";
        Self::new(StatusCode::FORBIDDEN, "foreign_host", message, next)
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        tracing::error!(error = %error, "the store did not answer the API");
        let next = "look at the disk of [manager] data_dir, and into the manager's log";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "store", error.to_string(), next)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let wants_token = self.status == StatusCode::UNAUTHORIZED;
        let mut response = (self.status, Json(ErrorBody { error: self.problem })).into_response();
        if wants_token {
            let bearer = axum::http::HeaderValue::from_static("Bearer realm=\"mha\"");
            response.headers_mut().insert(WWW_AUTHENTICATE, bearer);
        }
        response
    }
}
