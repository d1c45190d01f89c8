//! The running recovery, or the last one: whole, or as lines while it goes on. A stream ends with the recovery, with the service,
//! or after an hour; an asker that was cut off asks again by id.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::Uri;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use futures::stream;
use serde::Deserialize;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::ApiState;
use super::api::{Answer, find, query};
use super::contract::FollowLine;
use super::error::ApiError;
use crate::execute::journal::Recovery;
use crate::manager::handle::ClusterHandle;

/// An empty line after so much silence shows that the stream lives.
const SILENCE: Duration = Duration::from_secs(5);
/// Longest stream.
const LONGEST: Duration = Duration::from_secs(3600);
/// How long a recovery that was just begun may take to appear on the board.
const APPEARS: Duration = Duration::from_secs(5);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Which {
    #[serde(default)]
    follow: bool,
    id: Option<String>,
}

pub(super) async fn recovery(State(api): State<Arc<ApiState>>, Path(name): Path<String>, uri: Uri) -> Answer {
    let handle = api.cluster(&name)?.clone();
    let which: Which = query(&uri)?;
    let id = match which.id {
        Some(id) => id,
        None => handle.recovery.borrow().as_ref().ok_or_else(ApiError::no_recovery)?.id.clone(),
    };
    let now = current(&api, &handle, &id).await?;
    if which.follow { Ok(lines(api, handle, now)) } else { Ok(Json(&*now).into_response()) }
}

/// That recovery: from the board, as soon as it is there, or from the store.
async fn current(api: &ApiState, handle: &ClusterHandle, id: &str) -> Result<Arc<Recovery>, ApiError> {
    if let Some(shown) = on_board(&handle.recovery, id) {
        return Ok(shown);
    }
    let stored = find(api, handle, id).await;
    if let Ok(recovery) = &stored
        && recovery.outcome().is_some()
    {
        return stored.map(Arc::new);
    }
    let mut board = handle.recovery.clone();
    let appeared = board.wait_for(|shown| shown.as_ref().is_some_and(|shown| shown.id == id));
    match timeout(APPEARS, appeared).await {
        Ok(Ok(shown)) => shown.clone().ok_or_else(|| ApiError::unknown_recovery(id)),
        Ok(Err(_)) | Err(_) => stored.map(Arc::new),
    }
}

fn on_board(board: &watch::Receiver<Option<Arc<Recovery>>>, id: &str) -> Option<Arc<Recovery>> {
    board.borrow().as_ref().filter(|shown| shown.id == id).cloned()
}

/// One stream's place in its recovery.
struct Follower {
    api: Arc<ApiState>,
    handle: ClusterHandle,
    now: Arc<Recovery>,
    /// Entries already sent; `None` before the first line.
    sent: Option<usize>,
    until: Instant,
}

fn lines(api: Arc<ApiState>, handle: ClusterHandle, now: Arc<Recovery>) -> Response {
    let follower = Follower { api, handle, now, sent: None, until: Instant::now() + LONGEST };
    let stream = stream::unfold(follower, |mut follower| async move {
        let chunk = follower.next().await?;
        Some((Ok::<_, Infallible>(chunk), follower))
    });
    ([(CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(stream)).into_response()
}

impl Follower {
    /// The next lines; `None` at the end.
    async fn next(&mut self) -> Option<Bytes> {
        let Some(sent) = self.sent else {
            self.sent = Some(0);
            let head = Recovery { entries: Vec::new(), ..(*self.now).clone() };
            return line(&FollowLine::Recovery(head));
        };
        if self.now.entries.len() > sent {
            self.sent = Some(self.now.entries.len());
            let lines = self
                .now
                .entries
                .get(sent..)?
                .iter()
                .filter_map(|entry| line(&FollowLine::Entry(entry.clone())));
            return Some(lines.flatten().collect());
        }
        if self.now.outcome().is_some() || Instant::now() > self.until {
            return None;
        }
        let stop = self.api.stop.clone();
        tokio::select! {
            () = stop.cancelled() => None,
            found = self.more(sent) => {
                if let Some(newer) = found {
                    self.now = newer;
                }
                // The entries themselves go with the next call; an empty line keeps both ends awake.
                Some(Bytes::from_static(b"\n"))
            }
        }
    }

    /// The recovery once it has more than `sent` entries; `None` after a silence.
    async fn more(&self, sent: usize) -> Option<Arc<Recovery>> {
        let id = self.now.id.as_str();
        let mut board = self.handle.recovery.clone();
        let grown = board.wait_for(|shown| {
            shown.as_ref().is_none_or(|shown| shown.id != id || shown.entries.len() > sent)
        });
        let seen = timeout(SILENCE, grown).await.ok().map(|shown| shown.ok().and_then(|shown| shown.clone()));
        match seen {
            Some(Some(shown)) if shown.id == id => Some(shown),
            // Another one began, or the cluster's loop ended: the store has the rest.
            Some(_) => {
                let found = find(&self.api, &self.handle, id).await.ok();
                if found.as_ref().is_none_or(|found| found.outcome().is_none() && found.entries.len() <= sent)
                {
                    sleep(SILENCE).await;
                }
                found.map(Arc::new)
            }
            None => None,
        }
    }
}

fn line(line: &FollowLine) -> Option<Bytes> {
    let mut text = serde_json::to_vec(line).ok()?;
    text.push(b'\n');
    Some(Bytes::from(text))
}
