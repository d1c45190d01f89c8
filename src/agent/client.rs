//! The asking side of the agent's API: managers, `mhactl` and other agents. Every call has a deadline; connections are kept
//! open between calls. It judges nothing it is told.

use std::fmt;
use std::time::Duration;

use reqwest::{Method, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::carry::{Decoder, Piece};
use super::wire::{
    BringRequest, CallOffRequest, Claim, Claimed, DonateRequest, EVENTS_EVERY, Electorate, GraceReply,
    HOST_HEADER, Known, LONGEST_BODY, Lead, LeaveReply, LeaveRequest, Led, Membership, NoteRecord,
    OpenRequest, ProbeReply, ProbeRequest, Renew, Renewed, RequestRefused, SalvageReply, SalvageRequest,
    StepRequest, Stops, path,
};
use crate::body;
use crate::decide::plan::{Evidence, Step};
use crate::execute::world::{StepError, Token};
use crate::model::ballot::{Ballot, Generation};
use crate::model::cluster::ClusterName;
use crate::model::extra::Dossier;
use crate::model::instance::InstanceId;
use crate::model::observation::AgentStatus;
use crate::tls;

/// Longest wait for a connection, within the call's own deadline.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);
/// How often an agent that works at a step is asked whether it is still there, and how long that may take.
const PULSE: Duration = Duration::from_secs(1);
const PULSE_WITHIN: Duration = Duration::from_secs(5);
/// The longest answer that is read, in bytes, salvaged transactions aside: a status with large GTID sets.
const LONGEST_ANSWER: usize = 4 << 20;
/// An idle connection is kept for so long: longer than any loop's pause.
const KEEP_IDLE: Duration = Duration::from_secs(90);
/// The agent's work ends so much before its answer is waited for no longer, at most: what it found out must still arrive.
const ANSWER_MARGIN: Duration = Duration::from_millis(500);

/// Why a call gave nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    #[error("no answer from the agent at {url} within {} ms", within.as_millis())]
    Late { url: String, within: Duration },
    #[error("the agent at {url} cannot be reached: {why}")]
    Unreachable { url: String, why: String },
    #[error("the agent at {url} refuses the token; give both sides the same one")]
    Token { url: String },
    #[error("the agent at {url} obeys ballot {accepted}: another manager leads")]
    OlderBallot { url: String, accepted: Ballot },
    #[error(
        "the agent at {url} is that of {reached}, not of {meant}; look at where that address leads (DNS, the hosts file, the agent's address \
         in the configuration)"
    )]
    WrongHost { url: String, meant: String, reached: String },
    #[error("the agent at {url} answers: {why}")]
    Refused { url: String, why: String },
    #[error("the agent at {url} answers what is not understood: {why}; is it of another version?")]
    Strange { url: String, why: String },
}

impl From<CallError> for StepError {
    fn from(error: CallError) -> Self {
        match &error {
            CallError::Late { url, within } => {
                Self::NoAnswer { within: *within, what: format!("the agent at {url}") }
            }
            // The connection may have broken after the request had arrived.
            CallError::Unreachable { .. } | CallError::Strange { .. } => {
                Self::NoAnswer { within: Duration::ZERO, what: error.to_string() }
            }
            CallError::OlderBallot { .. } => Self::Deposed(error.to_string()),
            CallError::Token { .. } | CallError::Refused { .. } | CallError::WrongHost { .. } => {
                Self::Failed(error.to_string())
            }
        }
    }
}

/// How long the agent may work at a request whose answer is waited for `within`.
fn work_within(within: Duration) -> Duration {
    within.saturating_sub(ANSWER_MARGIN.min(within / 10))
}

/// The connections of this process to all agents. Clones share them.
#[derive(Debug, Clone)]
pub struct Connections {
    kept: reqwest::Client,
    /// Every call on a connection of its own.
    fresh: reqwest::Client,
}

impl Connections {
    /// # Errors
    /// When the HTTP client cannot be set up.
    pub fn new() -> Result<Self, CallError> {
        tls::use_ring();
        let build = |idle: usize| {
            reqwest::Client::builder()
                .no_proxy()
                // Agents speak plain HTTP: no authority is read from disk, nor missed where there is none.
                .tls_certs_only([])
                .tcp_nodelay(true)
                .connect_timeout(CONNECT_WITHIN)
                .pool_idle_timeout(KEEP_IDLE)
                .pool_max_idle_per_host(idle)
                .redirect(reqwest::redirect::Policy::none())
                .build()
                .map_err(|error| CallError::Unreachable { url: String::new(), why: chain(&error) })
        };
        Ok(Self { kept: build(8)?, fresh: build(0)? })
    }
}

/// One agent.
#[derive(Clone)]
pub struct AgentClient {
    http: reqwest::Client,
    url: String,
    token: SecretString,
    /// The host whose agent is meant, where it is known.
    host: Option<String>,
}

impl fmt::Debug for AgentClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AgentClient").field("url", &self.url).finish_non_exhaustive()
    }
}

impl AgentClient {
    /// `url` as configured: `http://host:port`. Connects at the first call.
    pub fn new(connections: &Connections, url: &str, token: SecretString) -> Self {
        let url = url.trim_end_matches('/').to_owned();
        Self { http: connections.kept.clone(), url, token, host: None }
    }

    /// The same agent, on a new connection for every call: none waits for a retransmission of an earlier one.
    pub(super) fn on_fresh_connections(mut self, connections: &Connections) -> Self {
        self.http = connections.fresh.clone();
        self
    }

    /// The same, for the agent of that host only: another one that answers there refuses.
    #[must_use]
    pub fn of_host(self, host: &str) -> Self {
        Self { host: Some(host.to_owned()), ..self }
    }

    /// Where it listens.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// What the agent sees now.
    ///
    /// # Errors
    /// As every call: no answer in time, or a refusal.
    pub async fn status(&self, within: Duration) -> Result<AgentStatus, CallError> {
        self.get(path::STATUS, within).await
    }

    /// The stream of its status: at once on every change that matters, and at least every [`EVENTS_EVERY`].
    ///
    /// # Errors
    /// When the stream is not open within the time.
    pub async fn events(&self, within: Duration) -> Result<Events, CallError> {
        let sending = self.request(Method::GET, path::EVENTS).send();
        let response = self.in_time(within, sending).await?;
        match response.status() {
            StatusCode::OK => Ok(Events { response, url: self.url.clone(), rest: Vec::new() }),
            status => Err(self.refused_stream(status, response, within).await),
        }
    }

    /// Tells the agent what it is a member of.
    ///
    /// # Errors
    /// As every call; [`CallError::OlderBallot`] when another manager leads there.
    pub async fn member(&self, membership: &Membership, within: Duration) -> Result<AgentStatus, CallError> {
        self.post(path::MEMBER, membership, within).await
    }

    /// Takes the lead at that voter. A refusal is an answer: look at [`Led::accepted`].
    ///
    /// # Errors
    /// As every call.
    pub async fn lead(&self, lead: &Lead, within: Duration) -> Result<Led, CallError> {
        self.post(path::LEAD, lead, within).await
    }

    /// Tells that voter which record was written.
    ///
    /// # Errors
    /// As every call.
    pub async fn note_record(&self, note: &NoteRecord, within: Duration) -> Result<(), CallError> {
        self.post(path::RECORDED, note, within).await
    }

    /// Renews the lease at that voter.
    ///
    /// # Errors
    /// As every call.
    pub async fn renew(&self, renew: &Renew, within: Duration) -> Result<Renewed, CallError> {
        self.post(path::RENEW, renew, within).await
    }

    /// Tells a voter that knows nothing who the others are.
    ///
    /// # Errors
    /// As every call.
    pub async fn introduce(&self, electorate: &Electorate, within: Duration) -> Result<(), CallError> {
        self.post(path::VOTERS, electorate, within).await
    }

    /// Claims a generation at that voter.
    ///
    /// # Errors
    /// As every call.
    pub async fn claim(&self, claim: &Claim, within: Duration) -> Result<Claimed, CallError> {
        self.post(path::CLAIM, claim, within).await
    }

    /// Makes a step about the agent's server true. For [`Step::Open`] the agent is looked at first, so that an order that arrives
    /// late, after a fence, is refused.
    ///
    /// # Errors
    /// What the agent says, or that it said nothing: then the effect may or may not have happened. A long step is waited for only while
    /// its host answers: the connection alone would not tell that it is gone. The agent's own deadline is earlier than `within`, so that
    /// its reason is the answer, not this side's impatience.
    pub async fn step(&self, token: &Token, step: &Step, within: Duration) -> Result<Evidence, StepError> {
        let deadline = Instant::now() + within;
        let epoch =
            if matches!(step, Step::Open { .. }) { Some(self.status(within).await?.epoch) } else { None };
        let within = deadline.saturating_duration_since(Instant::now());
        let (token, step) = (token.clone(), step.clone());
        let request = StepRequest { token, step, epoch, within: work_within(within) };
        let answer: Result<Evidence, StepError> = tokio::select! {
            answer = self.post(path::STEP, &request, within) => answer?,
            error = self.silenced() => return Err(error.into()),
        };
        answer
    }

    /// Waits until the agent does not answer in time.
    async fn silenced(&self) -> CallError {
        loop {
            sleep(PULSE).await;
            if let Err(error @ CallError::Late { .. }) = self.status(PULSE_WITHIN).await {
                return error;
            }
        }
    }

    /// Has the agent look at another server's port.
    ///
    /// # Errors
    /// As every call, of the agent; how the look went is the value.
    pub async fn probe(
        &self,
        cluster: &ClusterName,
        instance: &InstanceId,
        within: Duration,
    ) -> Result<ProbeReply, CallError> {
        // The look ends before the call does, so that its outcome is heard.
        let (cluster, instance) = (cluster.clone(), instance.clone());
        let request = ProbeRequest { instance, cluster, within: within * 4 / 5 };
        self.post(path::PROBE, &request, within).await
    }

    /// Everything the server there can give.
    ///
    /// # Errors
    /// As every call.
    pub async fn known(&self, within: Duration) -> Result<Known, CallError> {
        self.get(path::KNOWN, within).await
    }

    /// What only the dead server's log there holds.
    ///
    /// # Errors
    /// As every call.
    pub async fn salvage(&self, request: &SalvageRequest) -> Result<SalvageReply, CallError> {
        let work = SalvageRequest { within: work_within(request.within), ..request.clone() };
        let call = self.request(Method::POST, path::SALVAGE).json(&work);
        self.call(call, request.within, LONGEST_BODY).await
    }

    /// Brings salvaged transactions to the server there.
    ///
    /// # Errors
    /// As [`Self::step`].
    pub async fn bring(&self, request: &BringRequest) -> Result<Evidence, StepError> {
        let work = BringRequest { within: work_within(request.within), ..request.clone() };
        let answer: Result<Evidence, StepError> = self.post(path::BRING, &work, request.within).await?;
        answer
    }

    /// What is in the extra transactions that are saved there.
    ///
    /// # Errors
    /// As every call; refused where none are.
    pub async fn dossier(&self, within: Duration) -> Result<Dossier, CallError> {
        self.get(path::EXTRA, within).await
    }

    /// A copy of the data there, in pieces, as fast as they are taken.
    ///
    /// # Errors
    /// As every call; refused where no copy can be had.
    pub(super) async fn donate(
        &self,
        request: &DonateRequest,
        within: Duration,
    ) -> Result<Donation, CallError> {
        let sending = self.request(Method::POST, path::DONATE).json(request).send();
        let response = self.in_time(within, sending).await?;
        match response.status() {
            StatusCode::OK => Ok(Donation { response, url: self.url.clone(), decoder: Decoder::default() }),
            status => Err(self.refused_stream(status, response, within).await),
        }
    }

    /// Ends what that host is busy with; answers what that was.
    ///
    /// # Errors
    /// As every call; refused where nothing can be ended.
    pub async fn call_off(&self, request: &CallOffRequest, within: Duration) -> Result<String, CallError> {
        self.post(path::CALL_OFF, request, within).await
    }

    /// The operator's order to open, without a manager.
    ///
    /// # Errors
    /// As every call; refused without a majority's lease.
    pub async fn open(&self, generation: Generation, within: Duration) -> Result<AgentStatus, CallError> {
        self.post(path::OPEN, &OpenRequest { generation, within: work_within(within) }, within).await
    }

    /// One long grant before a planned restart of the agent.
    ///
    /// # Errors
    /// As every call.
    pub async fn restart_grace(&self, within: Duration) -> Result<GraceReply, CallError> {
        self.post(path::RESTART_GRACE, &(), within).await
    }

    /// Something of that host is about to be stopped: answered when it may be.
    ///
    /// # Errors
    /// As every call.
    pub async fn leave(&self, stops: Stops, within: Duration) -> Result<LeaveReply, CallError> {
        self.post(path::LEAVE, &LeaveRequest { stops }, within).await
    }

    fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.url));
        let request = request.bearer_auth(self.token.expose_secret());
        match &self.host {
            Some(host) => request.header(HOST_HEADER, host),
            None => request,
        }
    }

    async fn get<A: DeserializeOwned>(&self, path: &str, within: Duration) -> Result<A, CallError> {
        self.call(self.request(Method::GET, path), within, LONGEST_ANSWER).await
    }

    async fn post<Q: Serialize, A: DeserializeOwned>(
        &self,
        path: &str,
        body: &Q,
        within: Duration,
    ) -> Result<A, CallError> {
        self.call(self.request(Method::POST, path).json(body), within, LONGEST_ANSWER).await
    }

    async fn call<A: DeserializeOwned>(
        &self,
        request: reqwest::RequestBuilder,
        within: Duration,
        most: usize,
    ) -> Result<A, CallError> {
        let whole = async {
            let response = request.send().await?;
            let status = response.status();
            Ok::<_, reqwest::Error>((status, body::read(response, most).await?))
        };
        let (status, body) = self.in_time(within, whole).await?;
        let body = body.ok_or_else(|| self.too_long(most))?;
        if status != StatusCode::OK {
            return Err(self.refusal(status, &body));
        }
        serde_json::from_slice(&body)
            .map_err(|error| CallError::Strange { url: self.url.clone(), why: error.to_string() })
    }

    async fn in_time<T>(
        &self,
        within: Duration,
        work: impl Future<Output = Result<T, reqwest::Error>>,
    ) -> Result<T, CallError> {
        match timeout(within, work).await {
            Err(_) => Err(CallError::Late { url: self.url.clone(), within }),
            Ok(Err(error)) => {
                Err(CallError::Unreachable { url: self.url.clone(), why: chain(&error.without_url()) })
            }
            Ok(Ok(value)) => Ok(value),
        }
    }

    fn too_long(&self, most: usize) -> CallError {
        let why = format!("its answer is longer than the {most} bytes that are read");
        CallError::Strange { url: self.url.clone(), why }
    }

    /// Why there is no stream.
    async fn refused_stream(
        &self,
        status: StatusCode,
        response: reqwest::Response,
        within: Duration,
    ) -> CallError {
        match self.in_time(within, body::read(response, LONGEST_ANSWER)).await {
            Ok(Some(body)) => self.refusal(status, &body),
            Ok(None) => self.too_long(LONGEST_ANSWER),
            Err(error) => error,
        }
    }

    fn refusal(&self, status: StatusCode, body: &[u8]) -> CallError {
        let url = self.url.clone();
        if status == StatusCode::UNAUTHORIZED {
            return CallError::Token { url };
        }
        match serde_json::from_slice(body) {
            Ok(RequestRefused::OlderBallot { accepted }) => CallError::OlderBallot { url, accepted },
            Ok(RequestRefused::WrongHost { host }) => {
                CallError::WrongHost { url, meant: self.host.clone().unwrap_or_default(), reached: host }
            }
            Ok(RequestRefused::Cannot { why }) => CallError::Refused { url, why },
            Err(_) => CallError::Strange { url, why: format!("HTTP status {status}") },
        }
    }
}

/// An open stream of one agent's status.
pub struct Events {
    response: reqwest::Response,
    url: String,
    /// What came after the last whole line.
    rest: Vec<u8>,
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Events {
    /// The next status. A stream that is silent for longer than a few [`EVENTS_EVERY`] is lost. Cancelling loses nothing.
    ///
    /// # Errors
    /// The stream broke, or nothing came within the time. Open another one.
    pub async fn next(&mut self, within: Duration) -> Result<AgentStatus, CallError> {
        let deadline = Instant::now() + within.max(EVENTS_EVERY);
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line = self.rest.drain(..=end).collect::<Vec<_>>();
                return serde_json::from_slice(&line)
                    .map_err(|error| CallError::Strange { url: self.url.clone(), why: error.to_string() });
            }
            if self.rest.len() > LONGEST_ANSWER {
                return Err(CallError::Strange { url: self.url.clone(), why: "an endless line".to_owned() });
            }
            let lost = |why: &str| CallError::Unreachable { url: self.url.clone(), why: why.to_owned() };
            match timeout_at(deadline, self.response.chunk()).await {
                Err(_) => return Err(CallError::Late { url: self.url.clone(), within }),
                Ok(Err(error)) => return Err(lost(&chain(&error.without_url()))),
                Ok(Ok(None)) => return Err(lost("it closed the stream")),
                Ok(Ok(Some(bytes))) => self.rest.extend_from_slice(&bytes),
            }
        }
    }
}

/// A copy on its way.
#[derive(Debug)]
pub(super) struct Donation {
    response: reqwest::Response,
    url: String,
    decoder: Decoder,
}

impl Donation {
    /// The next piece. Cancelling loses nothing.
    ///
    /// # Errors
    /// The stream broke, or nothing came within the time.
    pub(super) async fn next(&mut self, within: Duration) -> Result<Piece, CallError> {
        let deadline = Instant::now() + within;
        let url = || self.url.clone();
        loop {
            match self.decoder.next() {
                Err(error) => return Err(CallError::Strange { url: url(), why: error.to_string() }),
                Ok(Some(piece)) => return Ok(piece),
                Ok(None) => {}
            }
            match timeout_at(deadline, self.response.chunk()).await {
                Err(_) => return Err(CallError::Late { url: url(), within }),
                Ok(Err(error)) => {
                    return Err(CallError::Unreachable { url: url(), why: chain(&error.without_url()) });
                }
                Ok(Ok(None)) => {
                    let why = "it ended before the copy was whole".to_owned();
                    return Err(CallError::Unreachable { url: url(), why });
                }
                Ok(Ok(Some(bytes))) => self.decoder.push(&bytes),
            }
        }
    }
}

/// The error and its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agent_gives_up_before_its_asker_does() {
        for within in [100, 500, 1_000, 5_000, 300_000].map(Duration::from_millis) {
            let work = work_within(within);
            assert!(work < within && work >= within * 9 / 10, "{within:?} {work:?}");
        }
    }
}
