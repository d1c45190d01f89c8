//! The way to the manager.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::http::ErrorBody;

/// Deadline of one request.
const REQUEST: Duration = Duration::from_secs(10);

/// The manager answered, and refused.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Refused(String);

/// The manager's API.
#[derive(Debug)]
pub(super) struct Api {
    http: reqwest::Client,
    base: String,
    token: Option<SecretString>,
}

impl Api {
    pub(super) fn new(manager: &str, token_file: Option<&Path>) -> anyhow::Result<Self> {
        let token = token_file
            .map(|path| {
                let text = std::fs::read_to_string(path)
                    .with_context(|| format!("cannot read the token in {}", path.display()))?;
                anyhow::Ok(SecretString::from(text.trim().to_owned()))
            })
            .transpose()?;
        let http =
            reqwest::Client::builder().timeout(REQUEST).build().context("cannot make an HTTP client")?;
        Ok(Self { http, base: format!("{}/api/v1", manager.trim_end_matches('/')), token })
    }

    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        self.send(self.http.get(format!("{}/{path}", self.base))).await
    }

    pub(super) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> anyhow::Result<T> {
        self.send(self.http.post(format!("{}/{path}", self.base)).json(body)).await
    }

    async fn send<T: DeserializeOwned>(&self, request: reqwest::RequestBuilder) -> anyhow::Result<T> {
        let request = match &self.token {
            Some(token) => request.bearer_auth(token.expose_secret()),
            None => request,
        };
        let reply = request.send().await.with_context(|| {
            format!(
                "the manager at {} is not reached; is mha-manager running there? (--manager, MHA_MANAGER)",
                self.base
            )
        })?;
        let status = reply.status();
        let body = reply.bytes().await.context("the manager's answer broke off")?;
        if status.is_success() {
            return serde_json::from_slice(&body)
                .context("the manager's answer is not understood; are both of one version?");
        }
        let reasons = match serde_json::from_slice::<ErrorBody>(&body) {
            Ok(body) => body.errors.join("\n"),
            Err(_) => format!("{status}: {}", String::from_utf8_lossy(&body)),
        };
        Err(Refused(reasons).into())
    }
}
