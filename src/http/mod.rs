//! The manager's HTTP side: every route in one table, each with who may ask it. Never decides, never touches a server: it shows
//! the boards and passes an operator's asks to the cluster's loop.

mod api;
mod auth;
pub mod contract;
mod error;
mod follow;
mod metrics;
mod order;
mod planned;
mod state;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use futures::FutureExt;
use tokio::net::TcpListener;

use error::ApiError;
pub use state::ApiState;

use crate::serving;

/// Largest request body, in bytes.
const BODY: usize = 64 * 1024;
/// Longest time until an answer begins; a stream may then go on.
const ANSWER: Duration = Duration::from_secs(10);
/// How long open answers may take to finish once the service stops.
const FAREWELL: Duration = Duration::from_secs(2);

/// Who may ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Everybody: says that the service lives, and nothing of any cluster.
    Open,
    /// Whoever shows the token, where one is configured; otherwise whoever is on this host.
    Token,
}

/// How it is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    Get,
    Post,
}

/// One route.
#[derive(Clone, Copy)]
pub struct Endpoint {
    pub verb: Verb,
    pub path: &'static str,
    pub access: Access,
    /// What it is for, in one line.
    pub about: &'static str,
    handler: fn() -> MethodRouter<Arc<ApiState>>,
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} {} ({:?})", self.verb, self.path, self.access)
    }
}

/// A route of `ENDPOINTS`, so that each stands on one line.
macro_rules! endpoint {
    (GET $path:literal $access:ident $handler:expr, $about:literal) => {
        Endpoint {
            verb: Verb::Get,
            path: $path,
            access: Access::$access,
            about: $about,
            handler: || get($handler),
        }
    };
    (POST $path:literal $access:ident $handler:expr, $about:literal) => {
        Endpoint {
            verb: Verb::Post,
            path: $path,
            access: Access::$access,
            about: $about,
            handler: || post($handler),
        }
    };
}

/// Everything this service answers. A route that is not here does not exist.
pub const ENDPOINTS: &[Endpoint] = &[
    endpoint!(GET "/health" Open api::health, "the manager lives"),
    endpoint!(GET "/metrics" Token metrics::serve, "OpenMetrics text"),
    endpoint!(GET "/api/v1/clusters" Token api::clusters, "every cluster in short"),
    endpoint!(GET "/api/v1/clusters/{cluster}" Token api::snapshot, "one cluster, all that is known"),
    endpoint!(GET "/api/v1/clusters/{cluster}/topology" Token api::topology, "who replicates from whom"),
    endpoint!(GET "/api/v1/clusters/{cluster}/history" Token api::history, "past recoveries, newest first (?limit=)"),
    endpoint!(GET "/api/v1/clusters/{cluster}/history/{id}" Token api::recovery_by_id, "one recovery"),
    endpoint!(GET "/api/v1/clusters/{cluster}/told" Token api::told, "what on_event was told, newest first (?limit=)"),
    endpoint!(GET "/api/v1/clusters/{cluster}/recovery" Token follow::recovery, "the running or last one (?follow=true&id=)"),
    endpoint!(POST "/api/v1/clusters/{cluster}/failover" Token planned::failover, "fail over, or say what it would do"),
    endpoint!(POST "/api/v1/clusters/{cluster}/switchover" Token planned::switchover, "change the primary, or say what it would do"),
    endpoint!(POST "/api/v1/clusters/{cluster}/handoff" Token planned::handoff, "another leads instead of that one, or say what it would do"),
    endpoint!(POST "/api/v1/clusters/{cluster}/abort" Token planned::abort, "call the running operation off"),
    endpoint!(POST "/api/v1/clusters/{cluster}/rolling" Token planned::rolling, "a command goes round the servers, said while it does; one at a time"),
    endpoint!(GET "/api/v1/clusters/{cluster}/adopt" Token api::adopt_plan, "what adoption would change (?primary=)"),
    endpoint!(POST "/api/v1/clusters/{cluster}/adopt" Token api::adopt, "take the cluster into care"),
    endpoint!(POST "/api/v1/clusters/{cluster}/ack" Token api::acknowledge, "forget past automatic failovers"),
    endpoint!(POST "/api/v1/clusters/{cluster}/votes" Token api::votes, "the votes of destroyed hosts count no more, or again"),
    endpoint!(POST "/api/v1/clusters/{cluster}/rejoin" Token planned::rejoin, "bring a returned or parked member back, or say what it would do"),
    endpoint!(POST "/api/v1/clusters/{cluster}/replica" Token planned::replica, "change one member's place, threads or membership, or say what it would do"),
    endpoint!(POST "/api/v1/clusters/{cluster}/unpark" Token api::unpark, "a parked member back into automatic hands"),
];

/// All routes, behind their guards.
pub fn router(state: ApiState) -> Router {
    let state = Arc::new(state);
    let routes = |access: Access| {
        ENDPOINTS
            .iter()
            .filter(|endpoint| endpoint.access == access)
            .fold(Router::new(), |router, endpoint| router.route(endpoint.path, (endpoint.handler)()))
    };
    let guarded = routes(Access::Token).route_layer(from_fn_with_state(Arc::clone(&state), auth::guard));
    routes(Access::Open)
        .merge(guarded)
        .fallback(async || ApiError::no_route())
        .method_not_allowed_fallback(async || ApiError::wrong_method())
        .layer(from_fn(within_limits))
        .layer(DefaultBodyLimit::max(BODY))
        .with_state(state)
}

/// Serves until `state`'s stop token is cancelled.
pub async fn serve(listener: TcpListener, state: ApiState) {
    let stop = state.stop.clone();
    let stopped = stop.clone();
    tokio::select! {
        () = serving::serve(listener, router(state), stop) => {}
        // An idle client must not hold the service: the answers that were under way had their time.
        () = async { stopped.cancelled().await; tokio::time::sleep(FAREWELL).await } => {}
    }
}

/// An answer in time, whatever the handler does.
async fn within_limits(request: Request, next: Next) -> Response {
    let answer = AssertUnwindSafe(next.run(request)).catch_unwind();
    match tokio::time::timeout(ANSWER, answer).await {
        Ok(Ok(response)) => response,
        Ok(Err(_panic)) => ApiError::internal("the handler panicked; the log has its place").into_response(),
        Err(_) => ApiError::late(ANSWER).into_response(),
    }
}
