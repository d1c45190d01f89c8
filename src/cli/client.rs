//! The manager's API from the outside. Every wait has an end; every text that came in is made harmless before it is a value.

use std::time::Duration;

use reqwest::{Method, Response, Url};
use secrecy::ExposeSecret as _;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::CliError;
use super::output::{clean, clean_value};
use super::settings::Settings;
use crate::body;
use crate::http::contract::ErrorBody;
use crate::tls;

const CONNECT: Duration = Duration::from_secs(3);
/// Longer than the manager's own limit, so that its words are heard.
const ANSWER: Duration = Duration::from_secs(15);
/// Longest silence of a stream, which says something every 5 s.
const SILENCE: Duration = Duration::from_secs(15);
/// Largest line of a stream, in bytes: one plan.
const LONGEST_LINE: usize = 16 * 1024 * 1024;
/// Largest answer, in bytes: the history with its timelines.
const LONGEST_ANSWER: usize = 64 << 20;

/// A way to the manager.
#[derive(Debug)]
pub(super) struct Client {
    settings: Settings,
    http: reqwest::Client,
    base: Url,
}

/// A success, as it came.
#[derive(Debug)]
pub(super) struct Reply {
    /// The API's JSON.
    pub(super) text: String,
    manager: String,
}

impl Reply {
    /// Its value, every text in it harmless.
    pub(super) fn value<T: DeserializeOwned>(&self) -> Result<T, CliError> {
        harmless(&self.text).map_err(|error| CliError::not_understood(&self.manager, &error.to_string()))
    }
}

fn harmless<T: DeserializeOwned>(text: &str) -> serde_json::Result<T> {
    let mut value = serde_json::from_str(text)?;
    clean_value(&mut value);
    serde_json::from_value(value)
}

impl Client {
    pub(super) fn new(settings: Settings) -> Result<Self, CliError> {
        let base = Url::parse(&settings.manager)
            .ok()
            .filter(|url| url.scheme() == "http" && url.has_host())
            .ok_or_else(|| {
                let message = format!("{:?} is no address of a manager", settings.manager);
                CliError::usage(message, "write it like http://127.0.0.1:8420")
            })?;
        tls::use_ring();
        let http = reqwest::Client::builder()
            // The manager speaks plain HTTP: no authority is read from disk.
            .tls_certs_only([])
            // What goes to a manager goes nowhere else.
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT)
            .read_timeout(SILENCE)
            .build()
            .map_err(|error| CliError::not_reached(&settings.manager, &error.to_string()))?;
        Ok(Self { settings, http, base })
    }

    pub(super) async fn get(&self, path: &[&str], query: &[(&str, &str)]) -> Result<Reply, CliError> {
        let response = self.send(Method::GET, path, query, None::<&()>, Some(ANSWER)).await?;
        self.reply(response).await
    }

    pub(super) async fn post(&self, path: &[&str], body: &impl Serialize) -> Result<Reply, CliError> {
        let response = self.send(Method::POST, path, &[], Some(body), Some(ANSWER)).await?;
        self.reply(response).await
    }

    /// The lines of a recovery as it goes on.
    pub(super) async fn follow(&self, cluster: &str, id: Option<&str>) -> Result<Lines, CliError> {
        let path = ["api", "v1", "clusters", cluster, "recovery"];
        let query: Vec<(&str, &str)> =
            [("follow", "true")].into_iter().chain(id.map(|id| ("id", id))).collect();
        let response = self.send(Method::GET, &path, &query, None::<&()>, None).await?;
        let manager = self.settings.manager.clone();
        Ok(Lines { response, buffer: Vec::new(), manager })
    }

    async fn send(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, &str)],
        body: Option<&impl Serialize>,
        within: Option<Duration>,
    ) -> Result<Response, CliError> {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let mut request = self.http.request(method, url);
        if let Some(within) = within {
            request = request.timeout(within);
        }
        if let Some(token) = &self.settings.token {
            request = request.bearer_auth(token.expose_secret());
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await.map_err(|error| self.not_reached(&error))?;
        if response.status().is_success() { Ok(response) } else { Err(self.refusal(response).await) }
    }

    async fn refusal(&self, response: Response) -> CliError {
        let status = response.status();
        let text = self.body(response).await.unwrap_or_default();
        match harmless::<ErrorBody>(&text) {
            Ok(body) => CliError::of_api(status.as_u16(), body),
            Err(_) => CliError::not_understood(&self.settings.manager, &format!("status {status}")),
        }
    }

    async fn reply(&self, response: Response) -> Result<Reply, CliError> {
        Ok(Reply { text: self.body(response).await?, manager: self.settings.manager.clone() })
    }

    async fn body(&self, response: Response) -> Result<String, CliError> {
        match body::read(response, LONGEST_ANSWER).await {
            Ok(Some(body)) => Ok(String::from_utf8_lossy(&body).into_owned()),
            Ok(None) => Err(CliError::not_understood(&self.settings.manager, "an answer without end")),
            Err(error) => Err(self.not_reached(&error)),
        }
    }

    fn not_reached(&self, error: &reqwest::Error) -> CliError {
        CliError::not_reached(&self.settings.manager, &root(error))
    }
}

/// The innermost cause: "connection refused" says more than "error sending request".
fn root(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "no answer in time".to_owned();
    }
    let mut inner: &dyn std::error::Error = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    clean(&inner.to_string())
}

/// A stream of JSON lines.
#[derive(Debug)]
pub(super) struct Lines {
    response: Response,
    buffer: Vec<u8>,
    manager: String,
}

impl Lines {
    /// The next line as it came and as a value; `None` at the end of the stream.
    pub(super) async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<(String, T)>, CliError> {
        loop {
            while let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                let text = String::from_utf8_lossy(&line).trim().to_owned();
                if !text.is_empty() {
                    let value = harmless(&text)
                        .map_err(|error| CliError::not_understood(&self.manager, &error.to_string()))?;
                    return Ok(Some((text, value)));
                }
            }
            if self.buffer.len() > LONGEST_LINE {
                return Err(CliError::not_understood(&self.manager, "a line without end"));
            }
            match self.response.chunk().await {
                Ok(Some(chunk)) => self.buffer.extend_from_slice(&chunk),
                Ok(None) => return Ok(None),
                Err(error) => return Err(CliError::not_reached(&self.manager, &root(&error))),
            }
        }
    }
}
