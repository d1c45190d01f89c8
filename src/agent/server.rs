//! The agent's API. Every request shows the token; every request that changes something comes under a ballot this host obeys.
//! A manager's host serves the voter's part only, by the same code.

use std::convert::Infallible;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use axum::Json;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use secrecy::{ExposeSecret, SecretString};
use tokio::time::{Instant, timeout};

use super::lease_loop::{Order, OrderError};
use super::sql::fresh_report;
use super::state::Shared;
use super::voter::{Promised, VoteError, Votes};
use super::wire::{
    BringRequest, CallOffRequest, Claim, Claimed, DonateRequest, EVENTS_EVERY, Electorate, GraceReply,
    HOST_HEADER, Known, LONGEST_BODY, Lead, LeaveReply, LeaveRequest, Led, Membership, NoteRecord,
    OpenRequest, ProbeReply, ProbeRequest, Renew, Renewed, RequestRefused, SalvageReply, SalvageRequest,
    StepRequest, path,
};
use super::{donate, extra, leaving, rebuild, resume, salvage, steps};
use crate::clock;
use crate::decide::plan::Evidence;
use crate::execute::world::{StepError, Token};
use crate::model::ballot::Ballot;
use crate::model::extra::Dossier;
use crate::model::observation::AgentStatus;
use crate::mysql::client::Target;
use crate::mysql::greeting::greeting;
use crate::serving;

/// The longest ordinary request, in bytes: a step with a large GTID set.
const LONGEST_REQUEST: usize = 4 * 1024 * 1024;
/// The longest a request may ask this host to take.
const LONGEST_WORK: Duration = Duration::from_secs(3_600);

/// A refusal on its way out.
#[derive(Debug)]
pub struct Refused(RequestRefused);

impl Refused {
    fn cannot(why: impl ToString) -> Self {
        Self(RequestRefused::Cannot { why: why.to_string() })
    }
}

impl From<VoteError> for Refused {
    fn from(error: VoteError) -> Self {
        tracing::error!(error = %error, "no vote");
        Self::cannot(error)
    }
}

impl From<OrderError> for Refused {
    fn from(error: OrderError) -> Self {
        Self::cannot(error)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let status = match &self.0 {
            RequestRefused::OlderBallot { .. } => StatusCode::CONFLICT,
            RequestRefused::WrongHost { .. } => StatusCode::MISDIRECTED_REQUEST,
            RequestRefused::Cannot { .. } => StatusCode::UNPROCESSABLE_ENTITY,
        };
        (status, Json(self.0)).into_response()
    }
}

type Answer<T> = Result<Json<T>, Refused>;

/// What a voter answers, on any host; `host` is this one's name.
pub fn voter_router(votes: Votes, host: &str, token: SecretString) -> Router {
    let router = Router::new()
        .route(path::LEAD, post(lead))
        .route(path::RECORDED, post(note_record))
        .route(path::RENEW, post(renew))
        .route(path::CLAIM, post(claim))
        .route(path::VOTERS, post(introduce))
        .layer(DefaultBodyLimit::max(LONGEST_REQUEST))
        .with_state(votes);
    guarded(router, host, token)
}

/// Everything a member's agent answers.
pub fn router(shared: Arc<Shared>) -> Router {
    let token = shared.config.token.clone();
    let host = shared.config.host.clone();
    let votes = voter_router(shared.votes.clone(), &host, token.clone());
    let large = Router::new().route(path::BRING, post(bring)).layer(DefaultBodyLimit::max(LONGEST_BODY));
    let router = Router::new()
        .route(path::STATUS, get(status))
        .route(path::EVENTS, get(events))
        .route(path::MEMBER, post(member))
        .route(path::STEP, post(step))
        .route(path::PROBE, post(probe))
        .route(path::KNOWN, get(known))
        .route(path::SALVAGE, post(read_salvage))
        .route(path::EXTRA, get(dossier))
        .route(path::DONATE, post(give_copy))
        .route(path::CALL_OFF, post(call_off))
        .route(path::OPEN, post(open))
        .route(path::RESTART_GRACE, post(restart_grace))
        .route(path::LEAVE, post(leave))
        .layer(DefaultBodyLimit::max(LONGEST_REQUEST))
        .merge(large)
        .with_state(shared);
    guarded(router, &host, token).merge(votes)
}

/// The token is looked at first: strangers learn nothing of this host.
fn guarded(router: Router, host: &str, token: SecretString) -> Router {
    router
        .layer(middleware::from_fn_with_state(Arc::<str>::from(host), check_host))
        .layer(middleware::from_fn_with_state(token, check_token))
}

/// Refuses what is meant for another host: names that lead to one host would otherwise make one vote count twice, and one server two.
async fn check_host(State(host): State<Arc<str>>, request: Request, next: Next) -> Response {
    let meant = request.headers().get(HOST_HEADER).map(|value| String::from_utf8_lossy(value.as_bytes()));
    match meant {
        Some(meant) if *meant != *host => {
            tracing::warn!(%meant, own = %host, "a request for another host is refused: look at its name resolution");
            Refused(RequestRefused::WrongHost { host: host.to_string() }).into_response()
        }
        Some(_) | None => next.run(request).await,
    }
}

async fn check_token(State(token): State<SecretString>, request: Request, next: Next) -> Response {
    let shown = request.headers().get(header::AUTHORIZATION).map(|value| value.as_bytes());
    let shown = shown.and_then(|value| value.strip_prefix(b"Bearer ")).unwrap_or_default();
    if same(shown, token.expose_secret().as_bytes()) {
        serving::known(request.extensions());
        next.run(request).await
    } else {
        StatusCode::UNAUTHORIZED.into_response()
    }
}

/// Compares in a time that says nothing of where they differ.
fn same(shown: &[u8], token: &[u8]) -> bool {
    let differ = token.iter().enumerate().fold(0, |differ, (place, byte)| {
        differ | (byte ^ std::hint::black_box(shown.get(place).copied().unwrap_or(!byte)))
    });
    !token.is_empty() && shown.len() == token.len() && differ == 0
}

// === the vote ===

async fn lead(State(votes): State<Votes>, Json(lead): Json<Lead>) -> Answer<Led> {
    Ok(Json(votes.take_lead(&lead.cluster, &lead.ballot).await?))
}

async fn note_record(State(votes): State<Votes>, Json(note): Json<NoteRecord>) -> Answer<()> {
    Ok(Json(votes.note_record(&note.cluster, note.recorded).await?))
}

async fn renew(State(votes): State<Votes>, Json(ask): Json<Renew>) -> Answer<Renewed> {
    Ok(Json(votes.renew(&ask).await?))
}

async fn claim(State(votes): State<Votes>, Json(claim): Json<Claim>) -> Answer<Claimed> {
    let answer = votes.claim(&claim).await?;
    tracing::info!(generation = %claim.generation, candidate = %claim.candidate, ?answer, "claim");
    Ok(Json(answer))
}

async fn introduce(State(votes): State<Votes>, Json(electorate): Json<Electorate>) -> Answer<()> {
    Ok(Json(votes.introduce(electorate).await?))
}

// === looking ===

async fn status(State(shared): State<Arc<Shared>>) -> Json<AgentStatus> {
    Json(shared.status())
}

/// One status a line: at every change, and at the latest after [`EVENTS_EVERY`].
async fn events(State(shared): State<Arc<Shared>>) -> Response {
    let mut changes = shared.changes();
    changes.mark_changed();
    let lines = futures::stream::unfold((shared, changes), |(shared, mut changes)| async move {
        // Late is right: then the line says that nothing changed.
        let _ = timeout(EVENTS_EVERY, changes.changed()).await;
        if shared.cancel.is_cancelled() {
            return None;
        }
        let mut line = serde_json::to_vec(&shared.status()).ok()?;
        line.push(b'\n');
        Some((Ok::<_, Infallible>(Bytes::from(line)), (shared, changes)))
    });
    ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response()
}

async fn probe(State(shared): State<Arc<Shared>>, Json(request): Json<ProbeRequest>) -> Json<ProbeReply> {
    let deadline = Instant::now() + request.within.min(LONGEST_WORK);
    let outcome = greeting(&Target::from(&request.instance), deadline).await;
    let Promised { generation, granted_ago, .. } = shared.votes.promised(&request.cluster);
    Json(ProbeReply { outcome, generation, granted_ago })
}

async fn known(State(shared): State<Arc<Shared>>) -> Answer<Known> {
    let instance = shared.seen().membership.as_ref().map(|membership| membership.instance.clone());
    let instance = instance.ok_or_else(|| Refused::cannot(OrderError::NoMember))?;
    // Its asker waits a little longer, and so hears why.
    let deadline = Instant::now() + Duration::from_millis(800);
    let report = fresh_report(&shared, &shared.spare, deadline).await.map_err(Refused::cannot)?;
    Ok(Json(Known { instance, known: report.known() }))
}

async fn dossier(State(shared): State<Arc<Shared>>) -> Answer<Dossier> {
    Ok(Json(extra::dossier(&shared).await.map_err(Refused::cannot)?))
}

// === acting ===

/// Refuses what comes under an older ballot; remembers a newer one.
async fn obey(shared: &Shared, ballot: &Ballot) -> Result<(), Refused> {
    let cluster = shared.seen().membership.as_ref().map(|membership| membership.cluster.clone());
    let cluster = cluster.ok_or_else(|| Refused::cannot(OrderError::NoMember))?;
    let led = shared.votes.lead(&cluster, ballot).await?;
    if led.accepted { Ok(()) } else { Err(Refused(RequestRefused::OlderBallot { accepted: led.ballot })) }
}

async fn member(State(shared): State<Arc<Shared>>, Json(value): Json<Membership>) -> Answer<AgentStatus> {
    shared.server().map_err(Refused::cannot)?;
    let own = &shared.config.host;
    if value.instance.host != *own {
        return Err(Refused::cannot(format!(
            "this host is {own}, and is told that its server is {}; look at where the name {} leads on the manager's host",
            value.instance, value.instance.host
        )));
    }
    let known = shared.seen().membership.as_ref().map(|membership| membership.cluster.clone());
    if let Some(other) = known.filter(|known| *known != value.cluster) {
        return Err(Refused::cannot(format!(
            "this host is a member of {other}; stop the agent and remove its data directory to move it to {}",
            value.cluster
        )));
    }
    let led = shared.votes.lead(&value.cluster, &value.ballot).await?;
    if !led.accepted {
        return Err(Refused(RequestRefused::OlderBallot { accepted: led.ballot }));
    }
    if shared.seen().membership.as_ref() != Some(&value) {
        let (reply, done) = tokio::sync::oneshot::channel();
        let sent = shared.orders.send(Order::Member(Box::new(value), reply)).await;
        sent.map_err(|_| OrderError::Stopping)?;
        done.await.map_err(|_| OrderError::Stopping)??;
    }
    Ok(Json(shared.status()))
}

async fn step(
    State(shared): State<Arc<Shared>>,
    Json(request): Json<StepRequest>,
) -> Answer<Result<Evidence, StepError>> {
    authorize(&shared, &request.token).await?;
    let in_order = shared.ordered.lock().unwrap_or_else(PoisonError::into_inner).take(&request.token);
    if let Err(late) = in_order {
        return Ok(Json(Err(late)));
    }
    let instance = shared.seen().membership.as_ref().map(|membership| membership.instance.clone());
    if instance.as_ref() != Some(request.step.instance()) {
        return Err(Refused::cannot(format!("{} is not the server of this host", request.step.instance())));
    }
    // On a task of its own: an asker that goes away does not leave a step half done.
    let (tracker, started) = (shared.tracker.clone(), clock::now());
    let text = request.step.to_string();
    let work = tracker.spawn(async move {
        let request = StepRequest { within: request.within.min(LONGEST_WORK), ..request };
        steps::apply(&shared, &request).await
    });
    let outcome = work.await.map_err(|error| Refused::cannot(format!("the step ended badly: {error}")))?;
    let took = clock::now().since(started);
    match &outcome {
        Ok(_) => tracing::info!(step = text, ?took, "done"),
        Err(error) => tracing::warn!(step = text, ?took, error = %error, "not done"),
    }
    Ok(Json(outcome))
}

async fn authorize(shared: &Shared, token: &Token) -> Result<(), Refused> {
    obey(shared, &token.ballot).await
}

async fn read_salvage(
    State(shared): State<Arc<Shared>>,
    Json(request): Json<SalvageRequest>,
) -> Answer<SalvageReply> {
    authorize(&shared, &request.token).await?;
    Ok(Json(salvage::read(&shared, &request).await.map_err(Refused::cannot)?))
}

async fn bring(
    State(shared): State<Arc<Shared>>,
    Json(request): Json<BringRequest>,
) -> Answer<Result<Evidence, StepError>> {
    authorize(&shared, &request.token).await?;
    Ok(Json(salvage::bring(&shared, &request).await))
}

/// A copy of the data here, in pieces.
async fn give_copy(
    State(shared): State<Arc<Shared>>,
    Json(request): Json<DonateRequest>,
) -> Result<Response, Refused> {
    authorize(&shared, &request.token).await?;
    let body = donate::donate(&shared, request).await.map_err(Refused::cannot)?;
    Ok(([(header::CONTENT_TYPE, "application/octet-stream")], body).into_response())
}

async fn call_off(State(shared): State<Arc<Shared>>, Json(request): Json<CallOffRequest>) -> Answer<String> {
    authorize(&shared, &request.token).await?;
    Ok(Json(rebuild::call_off(&shared, &request.why).await.map_err(Refused::cannot)?))
}

/// The operator's order: voters still decide.
async fn open(State(shared): State<Arc<Shared>>, Json(request): Json<OpenRequest>) -> Answer<AgentStatus> {
    let deadline = Instant::now() + request.within.min(LONGEST_WORK);
    resume::by_hand(&shared, request.generation, deadline).await.map_err(Refused::cannot)?;
    Ok(Json(shared.status()))
}

async fn leave(State(shared): State<Arc<Shared>>, Json(request): Json<LeaveRequest>) -> Answer<LeaveReply> {
    let done = leaving::leave(&shared, request.stops).await.map_err(Refused::cannot)?;
    tracing::warn!(stops = ?request.stops, "{done}");
    Ok(Json(LeaveReply { done }))
}

async fn restart_grace(State(shared): State<Arc<Shared>>) -> Answer<GraceReply> {
    Ok(Json(GraceReply { granted: leaving::grace(&shared).await.map_err(Refused::cannot)? }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_compared_whole() {
        assert!(same(b"secret", b"secret"));
        for wrong in [&b""[..], b"secre", b"secret1", b"Secret"] {
            assert!(!same(wrong, b"secret"), "{wrong:?}");
        }
        assert!(!same(b"", b""));
    }
}
