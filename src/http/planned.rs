//! Planned changes over the API: an operator's asks passed on. Never decides.

use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::HeaderMap;

use super::api::{Answer, Api, Body, answer, begun, read, shown_name};
use super::contract::{AbortRequest, Done, HandoffRequest, RejoinRequest, SwitchoverRequest};
use super::error::ApiError;
use crate::decide::switchover::handoff as handoff_ask;
use crate::manager::event::{Ask, Proposal, Then};
use crate::model::intent::SwitchoverAsk;

/// The longest write block and the longest wait that may be asked for.
const LONGEST: Duration = Duration::from_secs(3_600);
/// How long a handoff goes on asking, where that is not said.
const HANDOFF: Duration = Duration::from_secs(30);
/// The shortest write block: a server's own deadlines are whole seconds.
const SHORTEST_BLOCK: Duration = Duration::from_millis(1_500);

/// How often a member is looked at again before an operator is told that nothing is known: within the time an ask may take.
const LOOKS: u32 = 10;

pub(super) async fn switchover(
    State(api): Api,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let handle = api.cluster(&name)?;
    let request: SwitchoverRequest = read(&headers, body)?;
    let dry_run = request.dry_run;
    let ask = ask_of(request)?;
    if dry_run {
        let asked = handle.ask(|answer| Ask::Switchover { ask, then: Then::Propose(answer) }).await;
        return answer(asked.map_err(ApiError::no_answer)?);
    }
    let asked = handle.ask(|answer| Ask::Switchover { ask, then: Then::Begin(answer) }).await;
    let next = "mend what is named; \"mhactl switchover --dry-run\" shows whether that was all";
    begun(asked.map_err(ApiError::no_answer)?, format!("no switchover of {name} was begun"), next)
}

pub(super) async fn handoff(
    State(api): Api,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let handle = api.cluster(&name)?;
    let HandoffRequest { instance, remaining_ms, by, dry_run } = read(&headers, body)?;
    let board = std::sync::Arc::clone(&handle.board.borrow());
    if !board.members.iter().any(|member| member.instance == instance) {
        let next = "\"mhactl topology\" lists the members";
        return Err(ApiError::bad_request(format!("{instance} is no member of {name}"), next));
    }
    if board.primary.as_ref() != Some(&instance) {
        let sentence = format!("{instance} does not lead {name}: nothing is to be handed over");
        return if dry_run {
            answer(Proposal { sentence, plans: Vec::new(), blockers: Vec::new(), dossier: None })
        } else {
            answer(Done { done: sentence })
        };
    }
    let remaining = remaining_ms.map_or(HANDOFF, Duration::from_millis).min(LONGEST);
    let ask = handoff_ask(remaining, shown_name(&by));
    if dry_run {
        let asked = handle.ask(|answer| Ask::Switchover { ask, then: Then::Propose(answer) }).await;
        return answer(asked.map_err(ApiError::no_answer)?);
    }
    let asked = handle.ask(|answer| Ask::Switchover { ask, then: Then::Begin(answer) }).await;
    let next = "mend what is named, and ask again";
    begun(asked.map_err(ApiError::no_answer)?, format!("{instance} was not handed over"), next)
}

fn ask_of(request: SwitchoverRequest) -> Result<SwitchoverAsk, ApiError> {
    let default = SwitchoverAsk::default();
    let span = |given: Option<u64>, default: Duration| given.map_or(default, Duration::from_millis);
    let ask = SwitchoverAsk {
        to: request.to,
        write_block: span(request.write_block_ms, default.write_block),
        wait_lag: span(request.wait_lag_ms, default.wait_lag),
        drain: span(request.drain_ms, default.drain),
        kill_long_transactions: request.kill_long_transactions,
        by: shown_name(&request.by),
    };
    if ask.write_block < SHORTEST_BLOCK || ask.write_block > LONGEST {
        let message = format!("a write block of {} ms cannot be kept", ask.write_block.as_millis());
        return Err(ApiError::bad_request(message, "ask for 1500 ms to an hour"));
    }
    if ask.wait_lag > LONGEST || ask.drain > LONGEST {
        return Err(ApiError::bad_request("a wait of more than an hour", "ask for less"));
    }
    Ok(ask)
}

pub(super) async fn rejoin(
    State(api): Api,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let handle = api.cluster(&name)?;
    let RejoinRequest { instance, how, by, dry_run } = read(&headers, body)?;
    tracing::info!(cluster = %handle.name, %instance, ?how, dry_run, by = shown_name(&by), "rejoin asked for");
    let asked = instance.clone();
    if dry_run {
        let proposed =
            handle.ask(|answer| Ask::ProposeRejoin { instance: asked, how, looks: LOOKS, answer }).await;
        return answer(proposed.map_err(ApiError::no_answer)?);
    }
    let started = handle.ask(|answer| Ask::Rejoin { instance: asked, how, looks: LOOKS, answer }).await;
    let next = "mend what is named; \"mhactl rejoin --dry-run\" shows what would be done";
    begun(started.map_err(ApiError::no_answer)?, format!("nothing of {instance} was begun"), next)
}

pub(super) async fn abort(
    State(api): Api,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let handle = api.cluster(&name)?;
    let AbortRequest { by } = read(&headers, body)?;
    tracing::info!(cluster = %handle.name, by = shown_name(&by), "abort asked for");
    let done = handle.ask(|answer| Ask::Abort { answer }).await.map_err(ApiError::no_answer)?;
    let next = "\"mhactl history\" shows what ran";
    match done {
        Ok(done) => answer(Done { done }),
        Err(why) => Err(ApiError::refused(format!("nothing of {name} was called off"), next, vec![why])),
    }
}
