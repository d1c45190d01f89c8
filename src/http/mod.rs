//! `/api/v1` and `/health`: what the manager shows and is asked, as JSON. Decides nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};

use crate::execute::journal::Recovery;
use crate::manager::event::Ask;
use crate::manager::handle::ClusterHandle;
use crate::manager::snapshot::Snapshot;
use crate::model::cluster::ClusterName;
use crate::model::instance::InstanceId;
use crate::model::intent::FailoverAsk;
use crate::store::Store;

/// What the routes share.
#[derive(Debug, Clone)]
pub struct ApiState {
    clusters: Arc<BTreeMap<String, ClusterHandle>>,
    store: Store,
    token: Option<SecretString>,
}

impl ApiState {
    /// For these clusters; callers must show `token` where there is one.
    pub fn new(clusters: Vec<ClusterHandle>, store: Store, token: Option<SecretString>) -> Self {
        let clusters = clusters.into_iter().map(|handle| (handle.name.0.clone(), handle)).collect();
        Self { clusters: Arc::new(clusters), store, token }
    }

    fn cluster(&self, name: &str) -> Result<&ClusterHandle, ApiError> {
        self.clusters.get(name).ok_or_else(|| {
            let known: Vec<&str> = self.clusters.keys().map(String::as_str).collect();
            ApiError(
                StatusCode::NOT_FOUND,
                vec![format!("no cluster {name:?}; there are: {}", known.join(", "))],
            )
        })
    }
}

/// Why a request was not answered as asked: what happened and what to do, line by line.
#[derive(Debug)]
struct ApiError(StatusCode, Vec<String>);

/// The body of every error.
#[derive(Debug, Serialize, Deserialize)]
pub struct ErrorBody {
    pub errors: Vec<String>,
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.0, Json(ErrorBody { errors: self.1 })).into_response()
    }
}

fn internal(error: impl std::fmt::Display) -> ApiError {
    ApiError(StatusCode::SERVICE_UNAVAILABLE, vec![error.to_string()])
}

fn refused(reasons: Vec<String>) -> ApiError {
    ApiError(StatusCode::CONFLICT, reasons)
}

/// All routes; everything but `/health` behind the token.
pub fn router(state: ApiState) -> axum::Router {
    let api = axum::Router::new()
        .route("/clusters", get(clusters))
        .route("/clusters/{cluster}", get(cluster))
        .route("/clusters/{cluster}/history", get(history))
        .route("/clusters/{cluster}/failover", post(failover))
        .route("/clusters/{cluster}/adopt", get(adopt_plan).post(adopt))
        .route("/clusters/{cluster}/ack", post(acknowledge))
        .route("/clusters/{cluster}/unpark", post(unpark))
        .layer(middleware::from_fn_with_state(state.clone(), authorize));
    axum::Router::new().route("/health", get(|| async { "ok\n" })).nest("/api/v1", api).with_state(state)
}

async fn authorize(State(state): State<ApiState>, request: Request, next: Next) -> Response {
    let Some(token) = &state.token else { return next.run(request).await };
    let shown =
        request.headers().get(header::AUTHORIZATION).map(header::HeaderValue::as_bytes).unwrap_or_default();
    let wanted = format!("Bearer {}", token.expose_secret());
    // Looks at every byte whatever the first differing one is.
    let same = shown.len() == wanted.len()
        && shown.iter().zip(wanted.as_bytes()).fold(0, |all, (a, b)| all | (a ^ b)) == 0;
    if same {
        return next.run(request).await;
    }
    let text =
        "a token is needed: give mhactl the manager's token with --token-file or MHA_TOKEN_FILE".to_owned();
    ApiError(StatusCode::UNAUTHORIZED, vec![text]).into_response()
}

async fn clusters(State(state): State<ApiState>) -> Json<Vec<Snapshot>> {
    Json(state.clusters.values().map(|handle| handle.board.borrow().as_ref().clone()).collect())
}

async fn cluster(
    State(state): State<ApiState>,
    Path(name): Path<String>,
) -> Result<Json<Snapshot>, ApiError> {
    let handle = state.cluster(&name)?;
    Ok(Json(handle.board.borrow().as_ref().clone()))
}

/// Query of the history.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Limit {
    #[serde(default = "ten")]
    limit: u32,
}

fn ten() -> u32 {
    10
}

async fn history(
    State(state): State<ApiState>,
    Path(name): Path<String>,
    Query(query): Query<Limit>,
) -> Result<Json<Vec<Recovery>>, ApiError> {
    state.cluster(&name)?;
    let found = state.store.history(&ClusterName(name), query.limit.min(1_000)).await.map_err(internal)?;
    Ok(Json(found))
}

/// Body of a failover.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FailoverBody {
    #[serde(default)]
    pub to: Option<InstanceId>,
    #[serde(default)]
    pub accept_loss: bool,
    #[serde(default)]
    pub old_primary_is_dead: bool,
    #[serde(default)]
    pub dry_run: bool,
}

async fn failover(
    State(state): State<ApiState>,
    Path(name): Path<String>,
    Json(body): Json<FailoverBody>,
) -> Result<Response, ApiError> {
    let handle = state.cluster(&name)?;
    let ask = FailoverAsk {
        to: body.to,
        accept_loss: body.accept_loss,
        old_primary_is_dead: body.old_primary_is_dead,
        by: "api".to_owned(),
    };
    if body.dry_run {
        let proposal = handle.ask(|answer| Ask::DryRun { ask, answer }).await.map_err(internal)?;
        return Ok(Json(proposal).into_response());
    }
    let id = handle.ask(|answer| Ask::Failover { ask, answer }).await.map_err(internal)?.map_err(refused)?;
    Ok(Json(id).into_response())
}

/// Body of an adoption; empty lets the manager find the primary.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdoptBody {
    #[serde(default)]
    pub primary: Option<InstanceId>,
}

async fn adopt_plan(
    State(state): State<ApiState>,
    Path(name): Path<String>,
    Query(body): Query<AdoptBody>,
) -> Result<Response, ApiError> {
    let handle = state.cluster(&name)?;
    let primary = body.primary;
    let plan =
        handle.ask(|answer| Ask::AdoptPlan { primary, answer }).await.map_err(internal)?.map_err(refused)?;
    Ok(Json(plan).into_response())
}

async fn adopt(
    State(state): State<ApiState>,
    Path(name): Path<String>,
    Json(body): Json<AdoptBody>,
) -> Result<Json<String>, ApiError> {
    let handle = state.cluster(&name)?;
    let primary = body.primary;
    let id = handle.ask(|answer| Ask::Adopt { primary, answer }).await.map_err(internal)?.map_err(refused)?;
    Ok(Json(id))
}

async fn acknowledge(State(state): State<ApiState>, Path(name): Path<String>) -> Result<Json<()>, ApiError> {
    let handle = state.cluster(&name)?;
    let done = handle.ask(|answer| Ask::Acknowledge { answer }).await.map_err(internal)?;
    done.map(Json).map_err(|why| refused(vec![why]))
}

/// Body of an unpark.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnparkBody {
    pub instance: InstanceId,
}

async fn unpark(
    State(state): State<ApiState>,
    Path(name): Path<String>,
    Json(body): Json<UnparkBody>,
) -> Result<Json<()>, ApiError> {
    let handle = state.cluster(&name)?;
    let instance = body.instance;
    let done = handle.ask(|answer| Ask::Unpark { instance, answer }).await.map_err(internal)?;
    done.map(Json).map_err(|why| refused(vec![why]))
}
