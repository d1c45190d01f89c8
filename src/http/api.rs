//! `/api/v1`: boards shown, history read, an operator's asks passed on. Never decides: what the cluster's loop answers is what
//! is said.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::ApiState;
use super::contract::{
    AcknowledgeRequest, AdoptRequest, Begun, ClusterSummary, Clusters, Done, Health, History, ToldList,
    Topology, UnparkRequest, VotesRequest,
};
use super::error::ApiError;
use super::order::Order;
use crate::clock;
use crate::execute::journal::Recovery;
use crate::manager::event::Ask;
use crate::manager::handle::ClusterHandle;
use crate::model::instance::InstanceId;

/// How far back one recovery is looked for.
const DEEPEST: u32 = 1_000;
/// Most recoveries in one answer.
const MOST: u32 = 200;
/// Longest name of whoever asks, in characters.
const LONGEST_NAME: usize = 100;

pub(super) type Api = State<Arc<ApiState>>;
pub(super) type Answer = Result<Response, ApiError>;

pub(super) fn answer<T: serde::Serialize>(value: T) -> Answer {
    Ok(Json(value).into_response())
}

pub(super) async fn health(State(api): Api) -> Json<Health> {
    Json(Health {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        up_seconds: clock::now().since(api.started).as_secs(),
        clusters: api.clusters.len(),
        leading: api.clusters.values().filter(|handle| handle.board.borrow().not_leading.is_none()).count(),
    })
}

pub(super) async fn clusters(State(api): Api) -> Answer {
    let clusters = api.clusters.values().map(|handle| ClusterSummary::of(&handle.board.borrow())).collect();
    answer(Clusters { clusters })
}

pub(super) async fn snapshot(State(api): Api, Path(name): Path<String>) -> Answer {
    let board = Arc::clone(&api.cluster(&name)?.board.borrow());
    answer(&*board)
}

pub(super) async fn topology(State(api): Api, Path(name): Path<String>) -> Answer {
    let board = Arc::clone(&api.cluster(&name)?.board.borrow());
    answer(Topology::of(&board))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Limit {
    limit: Option<u32>,
}

pub(super) async fn history(State(api): Api, Path(name): Path<String>, uri: Uri) -> Answer {
    let handle = api.cluster(&name)?;
    let limit = query::<Limit>(&uri)?.limit.unwrap_or(20).clamp(1, MOST);
    answer(History { recoveries: api.store.history(&handle.name, limit).await? })
}

pub(super) async fn told(State(api): Api, Path(name): Path<String>, uri: Uri) -> Answer {
    let handle = api.cluster(&name)?;
    let limit = query::<Limit>(&uri)?.limit.unwrap_or(20).clamp(1, MOST);
    answer(ToldList { told: api.store.told(&handle.name, limit).await? })
}

pub(super) async fn recovery_by_id(State(api): Api, Path((name, id)): Path<(String, String)>) -> Answer {
    answer(find(&api, api.cluster(&name)?, &id).await?)
}

/// A recovery of that cluster, from the store.
pub(super) async fn find(api: &ApiState, handle: &ClusterHandle, id: &str) -> Result<Recovery, ApiError> {
    let all = api.store.history(&handle.name, DEEPEST).await?;
    all.into_iter().find(|recovery| recovery.id == id).ok_or_else(|| ApiError::unknown_recovery(id))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Primary {
    primary: Option<InstanceId>,
}

pub(super) async fn adopt_plan(State(api): Api, Path(name): Path<String>, uri: Uri) -> Answer {
    let handle = api.cluster(&name)?;
    let primary = query::<Primary>(&uri)?.primary;
    let plan = handle.ask(|answer| Ask::AdoptPlan { primary, answer }).await.map_err(ApiError::no_answer)?;
    match plan {
        Ok(plan) => answer(plan),
        Err(reasons) => Err(not_adoptable(&name, reasons)),
    }
}

fn not_adoptable(name: &str, reasons: Vec<String>) -> ApiError {
    let next = "mend what is named, then adopt again; nothing was changed";
    ApiError::refused(format!("{name} cannot be adopted yet"), next, reasons)
}

pub(super) async fn adopt(Order { handle, ask }: Order<AdoptRequest>) -> Answer {
    let AdoptRequest { primary, by } = ask;
    tracing::info!(cluster = %handle.name, by = shown_name(&by), "adoption asked for");
    let started = handle.ask(|answer| Ask::Adopt { primary, answer }).await.map_err(ApiError::no_answer)?;
    match started {
        Ok(recovery) => begun(Ok(recovery), String::new(), ""),
        Err(reasons) => Err(not_adoptable(&handle.name.0, reasons)),
    }
}

pub(super) async fn acknowledge(Order { handle, ask }: Order<AcknowledgeRequest>) -> Answer {
    let AcknowledgeRequest { by } = ask;
    tracing::info!(cluster = %handle.name, by = shown_name(&by), "past failovers acknowledged");
    let done = handle.ask(|answer| Ask::Acknowledge { answer }).await.map_err(ApiError::no_answer)?;
    let next = "\"mhactl status\" shows the cluster as it is";
    match done {
        Ok(()) => answer(Done {
            done: format!("past failovers of {} are acknowledged: its budget begins anew", handle.name),
        }),
        Err(why) => {
            Err(ApiError::refused(format!("{} could not be acknowledged", handle.name), next, vec![why]))
        }
    }
}

pub(super) async fn votes(Order { handle, ask }: Order<VotesRequest>) -> Answer {
    let VotesRequest { destroyed, back, by } = ask;
    tracing::warn!(cluster = %handle.name, ?destroyed, ?back, by = shown_name(&by), "a change of the voters asked for");
    let done =
        handle.ask(|answer| Ask::Votes { destroyed, back, answer }).await.map_err(ApiError::no_answer)?;
    match done {
        Ok(voters) => answer(Done { done: format!("the voters of {} are now: {voters}", handle.name) }),
        Err(why) => {
            let next = "\"mhactl status\" shows whose agent is heard";
            Err(ApiError::refused(format!("the voters of {} were not changed", handle.name), next, vec![why]))
        }
    }
}

pub(super) async fn unpark(Order { handle, ask }: Order<UnparkRequest>) -> Answer {
    let UnparkRequest { instance, by } = ask;
    tracing::info!(cluster = %handle.name, %instance, by = shown_name(&by), "unpark asked for");
    let asked = instance.clone();
    let done =
        handle.ask(|answer| Ask::Unpark { instance: asked, answer }).await.map_err(ApiError::no_answer)?;
    let next = "\"mhactl status\" shows which members are parked";
    match done {
        Ok(()) => answer(Done { done: format!("{instance} is in automatic hands again") }),
        Err(why) => Err(ApiError::refused(format!("{instance} was not unparked"), next, vec![why])),
    }
}

pub(super) fn begun(started: Result<String, Vec<String>>, refusal: String, next: &str) -> Answer {
    match started {
        Ok(recovery) => Ok((StatusCode::ACCEPTED, Json(Begun { recovery })).into_response()),
        Err(reasons) => Err(ApiError::refused(refusal, next, reasons)),
    }
}

/// Query parameters; unknown ones are refused.
pub(super) fn query<T: DeserializeOwned>(uri: &Uri) -> Result<T, ApiError> {
    Query::try_from_uri(uri).map(|Query(value)| value).map_err(|error| {
        ApiError::bad_request(
            format!("the query is not understood: {}", deepest(&error)),
            "correct what follows the \"?\"",
        )
    })
}

/// The innermost cause, which is the one that names the field.
pub(super) fn deepest(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// A name fit for log and history.
pub(super) fn shown_name(by: &str) -> String {
    by.chars().filter(|c| !c.is_control()).take(LONGEST_NAME).collect()
}
