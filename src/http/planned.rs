//! Planned changes over the API: an operator's asks passed on. Never decides.

use std::time::Duration;

use super::api::{Answer, answer, begun, shown_name};
use super::contract::{
    AbortRequest, Done, FailoverRequest, HandoffRequest, RejoinRequest, ReplicaRequest, RollingRequest,
    SwitchoverRequest,
};
use super::error::ApiError;
use super::order::Order;
use crate::clock;
use crate::decide::switchover::handoff as handoff_ask;
use crate::manager::event::{Ask, Proposal, Then};
use crate::manager::handle::ClusterHandle;
use crate::manager::rolling::LASTS;
use crate::model::intent::{FailoverAsk, How, SwitchoverAsk};
use crate::model::wishes::{Change, ReplicaAsk};

/// The longest write block and the longest wait that may be asked for.
const LONGEST: Duration = Duration::from_secs(3_600);
/// How long a handoff goes on asking, where that is not said.
const HANDOFF: Duration = Duration::from_secs(30);
/// The shortest write block: a server's own deadlines are whole seconds.
const SHORTEST_BLOCK: Duration = Duration::from_millis(1_500);

/// Longest name a rolling change gives itself, in bytes.
const LONGEST_ID: usize = 64;
/// How often a member is looked at again before an operator is told that nothing is known: within the time an ask may take.
const LOOKS: u32 = 10;

pub(super) async fn switchover(Order { handle, ask: request }: Order<SwitchoverRequest>) -> Answer {
    let dry_run = request.dry_run;
    let ask = ask_of(request)?;
    let words = Words {
        refusal: format!("no switchover of {} was begun", handle.name),
        next: "mend what is named; \"mhactl switchover --dry-run\" shows whether that was all",
    };
    show_or_begin(&handle, dry_run, |then| Ask::Switchover { ask, then }, words).await
}

/// How an ask that was refused is told.
pub(super) struct Words {
    pub(super) refusal: String,
    pub(super) next: &'static str,
}

/// The one frame of everything an operator asks for: only shown, or begun, or refused with every reason.
pub(super) async fn show_or_begin(
    handle: &ClusterHandle,
    dry_run: bool,
    ask: impl FnOnce(Then) -> Ask,
    words: Words,
) -> Answer {
    if dry_run {
        let proposed = handle.ask(|answer| ask(Then::Propose(answer))).await;
        return answer(proposed.map_err(ApiError::no_answer)?);
    }
    let started = handle.ask(|answer| ask(Then::Begin(answer))).await;
    begun(started.map_err(ApiError::no_answer)?, words.refusal, words.next)
}

pub(super) async fn failover(Order { handle, ask }: Order<FailoverRequest>) -> Answer {
    let FailoverRequest { to, accept_loss, old_primary_is_dead, by, dry_run } = ask;
    let ask = FailoverAsk { to, accept_loss, old_primary_is_dead, by: shown_name(&by) };
    let words = Words {
        refusal: format!("no failover of {} was begun", handle.name),
        next: "mend what is named; \"mhactl failover --dry-run\" shows whether that was all",
    };
    show_or_begin(&handle, dry_run, |then| Ask::Failover { ask, then }, words).await
}

pub(super) async fn replica(Order { handle, ask }: Order<ReplicaRequest>) -> Answer {
    let ReplicaRequest { instance, mut change, force, within_ms, by, dry_run } = ask;
    let within = within_ms.map_or(ReplicaAsk::WITHIN, Duration::from_millis);
    if within > LONGEST {
        return Err(ApiError::bad_request("a wait of more than an hour", "ask for less"));
    }
    if let Change::Add { agent: Some(url), .. } = &mut change {
        let refused = |(wrong, advice): (String, String)| {
            ApiError::bad_request(wrong, format!("{advice}; nothing was begun"))
        };
        *url = crate::config::agent_url(url).map_err(refused)?;
    }
    let by = shown_name(&by);
    tracing::info!(cluster = %handle.name, %instance, ?change, force, dry_run, by, "a replica's change asked for");
    let words = Words {
        refusal: format!("nothing of {instance} was begun"),
        next: "mend what is named; with --dry-run nothing is changed",
    };
    let ask = ReplicaAsk { instance, change, force, within, by };
    show_or_begin(&handle, dry_run, |then| Ask::Replica { ask, then }, words).await
}

pub(super) async fn handoff(Order { handle, ask }: Order<HandoffRequest>) -> Answer {
    let HandoffRequest { instance, remaining_ms, by, dry_run } = ask;
    let board = std::sync::Arc::clone(&handle.board.borrow());
    if let Some(stranger) = board.stranger(&instance) {
        return Err(ApiError::bad_request(stranger.to_string(), "name one of them"));
    }
    if board.primary.as_ref() != Some(&instance) {
        let sentence = format!("{instance} does not lead {}: nothing is to be handed over", handle.name);
        return if dry_run {
            answer(Proposal { sentence, plans: Vec::new(), blockers: Vec::new(), dossier: None })
        } else {
            answer(Done { done: sentence })
        };
    }
    let remaining = remaining_ms.map_or(HANDOFF, Duration::from_millis).min(LONGEST);
    if remaining.is_zero() {
        let message = format!("{instance} cannot be handed over within no time");
        return Err(ApiError::bad_request(message, "ask with remaining_ms of 1000 or more"));
    }
    let ask = handoff_ask(remaining, shown_name(&by));
    let words = Words {
        refusal: format!("{instance} was not handed over"),
        next: "mend what is named, and ask again",
    };
    show_or_begin(&handle, dry_run, |then| Ask::Switchover { ask, then }, words).await
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
        remaining: None,
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

pub(super) async fn rejoin(Order { handle, ask }: Order<RejoinRequest>) -> Answer {
    let RejoinRequest { instance, how, from, by, dry_run } = ask;
    tracing::info!(cluster = %handle.name, %instance, ?how, dry_run, by = shown_name(&by), "rejoin asked for");
    if from.is_some() && how != How::Rebuild {
        let message = "`from` names whose copy a member is rebuilt from, and nothing is rebuilt";
        return Err(ApiError::bad_request(message, "ask for how = \"rebuild\", or leave `from` out"));
    }
    let words = Words {
        refusal: format!("nothing of {instance} was begun"),
        next: "mend what is named; \"mhactl rejoin --dry-run\" shows what would be done",
    };
    show_or_begin(&handle, dry_run, |then| Ask::Rejoin { instance, how, from, looks: LOOKS, then }, words)
        .await
}

pub(super) async fn rolling(Order { handle, ask }: Order<RollingRequest>) -> Answer {
    let RollingRequest { id, by, ended } = ask;
    if id.is_empty() || id.len() > LONGEST_ID {
        let next = format!("give it a name of at most {LONGEST_ID} bytes");
        return Err(ApiError::bad_request("a rolling change needs an id", next));
    }
    if ended {
        handle.rolling.ended(&id);
        return answer(Done { done: "ended".to_owned() });
    }
    match handle.rolling.goes(&id, &shown_name(&by), (clock::now(), clock::wall())) {
        Ok(()) => answer(Done { done: format!("noted for {} s", LASTS.as_secs()) }),
        Err(why) => {
            let next = "wait until that has ended, or end it where it runs (Ctrl-C)";
            Err(ApiError::refused(
                format!("one goes round the servers of {} already", handle.name),
                next,
                vec![why],
            ))
        }
    }
}

pub(super) async fn abort(Order { handle, ask }: Order<AbortRequest>) -> Answer {
    let AbortRequest { by } = ask;
    tracing::info!(cluster = %handle.name, by = shown_name(&by), "abort asked for");
    let done = handle.ask(|answer| Ask::Abort { answer }).await.map_err(ApiError::no_answer)?;
    let next = "\"mhactl history\" shows what ran";
    match done {
        Ok(done) => answer(Done { done }),
        Err(why) => {
            Err(ApiError::refused(format!("nothing of {} was called off", handle.name), next, vec![why]))
        }
    }
}
