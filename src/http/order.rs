//! An operator's order about one cluster, as every handler that changes something takes it: the cluster is found first, then what is
//! asked is understood.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::de::DeserializeOwned;

use super::api::deepest;
use super::error::ApiError;
use super::{ApiState, BODY};
use crate::manager::handle::ClusterHandle;

/// What is asked, and of which cluster.
pub(super) struct Order<T> {
    pub(super) handle: ClusterHandle,
    pub(super) ask: T,
}

impl<T: DeserializeOwned> FromRequest<Arc<ApiState>> for Order<T> {
    type Rejection = Response;

    async fn from_request(request: Request, api: &Arc<ApiState>) -> Result<Self, Response> {
        let (mut parts, body) = request.into_parts();
        let name = Path::<String>::from_request_parts(&mut parts, api).await;
        let Path(name) = name.map_err(IntoResponse::into_response)?;
        let handle = api.cluster(&name).map_err(IntoResponse::into_response)?.clone();
        let headers = parts.headers.clone();
        let body = Bytes::from_request(Request::from_parts(parts, body), api).await;
        let ask = read(&headers, body).map_err(IntoResponse::into_response)?;
        Ok(Self { handle, ask })
    }
}

/// A JSON body; unknown fields are refused, so that a misspelt one is not an ask without it.
fn read<T: DeserializeOwned>(
    headers: &HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<T, ApiError> {
    let json = |value: &axum::http::HeaderValue| {
        value
            .to_str()
            .is_ok_and(|kind| kind.split(';').next().is_some_and(|kind| kind.trim() == "application/json"))
    };
    if !headers.get(CONTENT_TYPE).is_some_and(json) {
        return Err(ApiError::not_json());
    }
    let bytes = body.map_err(|refused| match refused.status() {
        StatusCode::PAYLOAD_TOO_LARGE => ApiError::too_large(BODY),
        _ => ApiError::body_unread(&deepest(&refused)),
    })?;
    serde_json::from_slice(&bytes).map_err(|error| {
        ApiError::bad_request(format!("the body is not understood: {error}"), "correct it; nothing was begun")
    })
}
