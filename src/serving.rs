//! Every HTTP port of ours, from the connection to the router: how many there may be, and by when a caller must have said what it wants.
//! Who shows no token in time, or only begins a request, is hung up on; where all places are taken, such a one makes room for the next.
//! Never judges a request: the guards behind it say whom they know.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::ConnectInfo;
use axum::http::{Extensions, Request};
use axum::serve::Listener;
use futures::{StreamExt as _, stream};
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, Id, JoinSet};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

/// How much a port takes upon itself.
#[derive(Debug, Clone, Copy)]
struct Limits {
    /// Connections at one time.
    connections: usize,
    /// From the connection to the first request whose token a guard knew.
    known: Duration,
    /// From one answer to the end of the next request's headers. Longer than our own clients keep an idle connection.
    header: Duration,
    /// From a request's headers to the end of its body, and one second more for each MiB that has come.
    body: Duration,
}

const LIMITS: Limits = Limits {
    connections: 512,
    known: Duration::from_secs(10),
    header: Duration::from_secs(120),
    body: Duration::from_secs(5),
};

/// A request's body that did not come in time.
#[derive(Debug, thiserror::Error)]
#[error("the request's body did not come within {} s", .0.as_secs())]
struct BodyLate(Duration);

/// Whoever is at the other end of a connection.
#[derive(Debug, Clone, Default)]
struct Caller(Arc<AtomicBool>);

/// Said by a guard: whoever asks this is known, and may keep the connection.
pub(crate) fn known(asked: &Extensions) {
    if let Some(Caller(known)) = asked.get() {
        known.store(true, Ordering::Relaxed);
    }
}

/// Serves until `stop`, then until the answers under way have ended; ends what is left where it is dropped.
pub(crate) async fn serve(listener: TcpListener, app: Router, stop: CancellationToken) {
    serve_within(LIMITS, listener, app, stop).await;
}

async fn serve_within(limits: Limits, mut listener: TcpListener, app: Router, stop: CancellationToken) {
    let mut places = Places { most: limits.connections, taken: Vec::new(), full: false };
    let mut tasks = JoinSet::new();
    loop {
        tokio::select! {
            (stream, peer) = Listener::accept(&mut listener) => if places.make_room() {
                let caller = Caller::default();
                let work = attend(limits, stream, peer, app.clone(), caller.clone(), stop.clone());
                places.taken.push(Place { caller, task: tasks.spawn(work) });
            },
            Some(ended) = tasks.join_next_with_id() => {
                places.leave(match ended {
                    Ok((task, ())) => task,
                    Err(error) => error.id(),
                });
            }
            () = stop.cancelled() => break,
        }
    }
    drop(listener);
    while tasks.join_next().await.is_some() {}
}

// === places ===

/// One connection.
struct Place {
    caller: Caller,
    task: AbortHandle,
}

/// All of a port, the oldest first.
struct Places {
    most: usize,
    taken: Vec<Place>,
    /// All are taken by callers that are known; said once.
    full: bool,
}

impl Places {
    /// Whether one more may come: where all places are taken, the oldest caller that nobody knows loses its own.
    fn make_room(&mut self) -> bool {
        if self.taken.len() < self.most {
            return true;
        }
        let stranger = self.taken.iter().position(|place| !place.caller.0.load(Ordering::Relaxed));
        if let Some(stranger) = stranger {
            self.taken.remove(stranger).task.abort();
            return true;
        }
        if !std::mem::replace(&mut self.full, true) {
            tracing::warn!(connections = self.most, "no more connections are taken: who has that many open?");
        }
        false
    }

    fn leave(&mut self, task: Id) {
        self.taken.retain(|place| place.task.id() != task);
        self.full &= self.taken.len() >= self.most;
    }
}

// === one connection ===

async fn attend(
    limits: Limits,
    stream: TcpStream,
    peer: SocketAddr,
    app: Router,
    caller: Caller,
    stop: CancellationToken,
) {
    // Without it an event may wait 40 ms for an acknowledgement.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(error = %error, "a connection keeps its delay");
    }
    let app = TowerToHyperService::new(app);
    let shown = caller.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let mut request = request.map(|body| in_time(body, limits.body));
        request.extensions_mut().insert(ConnectInfo(peer));
        request.extensions_mut().insert(shown.clone());
        app.call(request)
    });
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(limits.header);
    let mut connection = pin!(server.serve_connection(TokioIo::new(stream), service));
    let (mut late, mut stops) = (pin!(sleep(limits.known)), pin!(stop.cancelled()));
    let (mut watched, mut stopping) = (true, false);
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::trace!(%peer, error = %error, "a connection ended");
                }
                return;
            }
            () = &mut late, if watched => {
                watched = false;
                if !caller.0.load(Ordering::Relaxed) {
                    return;
                }
            }
            () = &mut stops, if !stopping => {
                stopping = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}

/// The body, as long as it comes in time.
fn in_time(body: Incoming, within: Duration) -> Body {
    if body.is_end_stream() {
        return Body::new(body);
    }
    let began = Instant::now();
    let coming = (Body::new(body).into_data_stream(), 0_usize);
    Body::from_stream(stream::unfold(coming, move |(mut body, read)| async move {
        let within = within + Duration::from_secs((read >> 20).try_into().unwrap_or(u64::MAX));
        let piece: Result<Bytes, axum::BoxError> = match timeout_at(began + within, body.next()).await {
            Ok(piece) => piece?.map_err(Into::into),
            Err(_) => Err(BodyLate(within).into()),
        };
        let read = read.saturating_add(piece.as_ref().map_or(0, Bytes::len));
        Some((piece, (body, read)))
    }))
}

#[cfg(test)]
mod tests {
    use axum::extract::Request as Asked;
    use axum::http::StatusCode;
    use axum::routing::{get, post};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::time::timeout;

    use super::*;

    const FEW: Limits = Limits {
        connections: 4,
        known: Duration::from_millis(500),
        header: Duration::from_secs(60),
        body: Duration::from_millis(500),
    };
    /// Every wait here ends long before.
    const LONG: Duration = Duration::from_secs(20);

    /// A port where `/stream` is told that its caller is known, and speaks for three times as long as a body may take.
    async fn port(limits: Limits, stop: &CancellationToken) -> (SocketAddr, tokio::task::JoinHandle<()>) {
        let stream = async |asked: Asked| {
            known(asked.extensions());
            let ticks = stream::iter(0..15).then(async |_| {
                sleep(Duration::from_millis(100)).await;
                Ok::<_, std::convert::Infallible>("tick\n")
            });
            Body::from_stream(ticks)
        };
        let read = async |asked: Asked| {
            known(asked.extensions());
            match axum::body::to_bytes(asked.into_body(), 1 << 20).await {
                Ok(bytes) => (StatusCode::OK, bytes.len().to_string()),
                Err(error) => (StatusCode::REQUEST_TIMEOUT, error.into_inner().to_string()),
            }
        };
        let app = Router::new()
            .route("/", get(async || "here"))
            .route("/stream", get(stream))
            .route("/read", post(read));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        #[expect(clippy::disallowed_methods, reason = "a test's own task, ended with its runtime")]
        let serving = tokio::spawn(serve_within(limits, listener, app, stop.clone()));
        (at, serving)
    }

    async fn send(at: SocketAddr, text: &str) -> TcpStream {
        let mut stream = TcpStream::connect(at).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        stream
    }

    /// All it says until it hangs up; an abrupt end is one too.
    async fn heard(mut stream: TcpStream) -> String {
        let mut all = Vec::new();
        let _ = timeout(LONG, stream.read_to_end(&mut all)).await.expect("the connection is still open");
        String::from_utf8(all).unwrap()
    }

    /// How often it was heard until the stream's own end.
    async fn ticks(stream: &mut TcpStream) -> usize {
        let mut all = Vec::new();
        while !all.ends_with(b"0\r\n\r\n") {
            assert!(timeout(LONG, stream.read_buf(&mut all)).await.unwrap().unwrap() > 0, "it was cut");
        }
        String::from_utf8(all).unwrap().matches("tick").count()
    }

    #[tokio::test]
    async fn a_request_that_is_only_begun_is_hung_up_on() {
        let stop = CancellationToken::new();
        let (at, _serving) = port(FEW, &stop).await;
        for begun in ["", "GET / HTTP/1.1\r\nhost: x\r\n", "G"] {
            assert_eq!(heard(send(at, begun).await).await, "", "{begun}");
        }
        // One header after the other: none of them buys more time.
        let mut slow = send(at, "GET / HTTP/1.1\r\n").await;
        let dribble = async {
            while slow.write_all(b"a: b\r\n").await.is_ok() {
                sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(LONG, dribble).await.expect("it may go on for ever");
        // Who is answered and shows no token may not stay either.
        let answer = heard(send(at, "GET / HTTP/1.1\r\nhost: x\r\n\r\n").await).await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("here"), "{answer}");
    }

    #[tokio::test]
    async fn a_body_that_does_not_come_is_told_so_and_ends_the_connection() {
        let stop = CancellationToken::new();
        let (at, _serving) = port(FEW, &stop).await;
        let half = "POST /read HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nten bytes.";
        let answer = heard(send(at, half).await).await;
        assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("did not come within"), "{answer}");
        let whole =
            "POST /read HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 10\r\n\r\nten bytes.";
        assert!(heard(send(at, whole).await).await.ends_with("10"));
    }

    #[tokio::test]
    async fn a_stream_is_not_cut_and_who_is_known_keeps_the_connection() {
        let stop = CancellationToken::new();
        let (at, _serving) = port(FEW, &stop).await;
        let mut stream = send(at, "GET /stream HTTP/1.1\r\nhost: x\r\n\r\n").await;
        assert_eq!(ticks(&mut stream).await, 15);
        // On the same connection, once more.
        stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
        assert!(heard(stream).await.ends_with("here"));
    }

    #[tokio::test]
    async fn a_flood_takes_nobodys_place_but_its_own() {
        let stop = CancellationToken::new();
        let (at, _serving) = port(Limits { known: LONG * 2, ..FEW }, &stop).await;
        let mut stream = send(at, "GET /stream HTTP/1.1\r\nhost: x\r\n\r\n").await;
        let mut flood = Vec::new();
        for _ in 0..40 {
            flood.push(send(at, "GET / HTTP/1.1\r\n").await);
            // Each is answered between, without waiting for a place.
            let asked = "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
            assert!(heard(send(at, asked).await).await.ends_with("here"));
        }
        let oldest = flood.swap_remove(0);
        assert_eq!(heard(oldest).await, "", "the first of the flood is gone before its time");
        assert_eq!(ticks(&mut stream).await, 15, "who was known stayed");
    }

    #[tokio::test]
    async fn it_ends_with_the_answers_under_way() {
        let stop = CancellationToken::new();
        let (at, serving) = port(FEW, &stop).await;
        let mut stream = send(at, "GET /stream HTTP/1.1\r\nhost: x\r\n\r\n").await;
        let mut first = [0; 16];
        stream.read_exact(&mut first).await.unwrap();
        let idle = send(at, "").await;
        stop.cancel();
        assert_eq!(ticks(&mut stream).await, 15);
        timeout(LONG, serving).await.unwrap().unwrap();
        assert_eq!(heard(idle).await, "");
    }
}
