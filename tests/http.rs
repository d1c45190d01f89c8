//! The API's contract: every route guarded, every "no" explained, the JSON and the metrics as text.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod desk;

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use desk::{Desk, Script, dead, ended, failover, healthy};
use futures::StreamExt as _;
use mha::execute::Outcome;
use mha::http::{Access, ApiState, ENDPOINTS, Verb, router};
use mha::manager::snapshot::Snapshot;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};
use tower::ServiceExt as _;

async fn ask(state: ApiState, request: Request<Body>) -> (StatusCode, String) {
    let response = router(state).oneshot(request).await.unwrap();
    let status = response.status();
    let bytes = axum::body::to_bytes(response.into_body(), 1 << 24).await.unwrap();
    (status, String::from_utf8(bytes.to_vec()).unwrap())
}

fn get(path: &str) -> Request<Body> {
    Request::get(path).body(Body::empty()).unwrap()
}

fn post(path: &str, body: &str) -> Request<Body> {
    let request = Request::post(path).header("content-type", "application/json");
    request.body(Body::from(body.to_owned())).unwrap()
}

fn code(text: &str) -> String {
    let body: Value = serde_json::from_str(text).unwrap();
    let error = body.get("error").unwrap();
    for part in ["message", "next"] {
        assert!(error.get(part).unwrap().as_str().is_some_and(|text| !text.is_empty()), "no {part}: {text}");
    }
    error.get("code").unwrap().as_str().unwrap().to_owned()
}

#[tokio::test]
async fn no_route_answers_without_the_token_but_health() {
    let desk = Desk::new(healthy(), Script::default());
    for endpoint in ENDPOINTS {
        let path = endpoint.path.replace("{cluster}", "orders").replace("{id}", "r1");
        for (shown, status, word) in [
            (None, StatusCode::UNAUTHORIZED, "token_missing"),
            (Some("Basic czNjcmV0"), StatusCode::UNAUTHORIZED, "token_missing"),
            (Some("Bearer wrong"), StatusCode::FORBIDDEN, "token_wrong"),
            (Some("Bearer "), StatusCode::FORBIDDEN, "token_wrong"),
        ] {
            let mut request = match endpoint.verb {
                Verb::Get => get(&path),
                Verb::Post => post(&path, "{}"),
            };
            if let Some(shown) = shown {
                request.headers_mut().insert("authorization", shown.parse().unwrap());
            }
            let (got, text) = ask(desk.state(Some("s3cret")), request).await;
            match endpoint.access {
                Access::Open => assert_eq!(got, StatusCode::OK, "{endpoint:?}"),
                Access::Token => {
                    assert_eq!((got, code(&text).as_str()), (status, word), "{endpoint:?} {shown:?}");
                    assert!(!text.contains("db1"), "{text}");
                }
            }
        }
    }
    assert!(desk.heard.lock().unwrap().is_empty(), "an ask went through without the token");
}

#[tokio::test]
async fn the_right_token_opens_and_health_names_no_cluster() {
    let desk = Desk::new(healthy(), Script::default());
    let mut request = get("/api/v1/clusters");
    request.headers_mut().insert("authorization", "bearer s3cret".parse().unwrap());
    assert_eq!(ask(desk.state(Some("s3cret")), request).await.0, StatusCode::OK);
    let (_, text) = ask(desk.state(Some("s3cret")), get("/health")).await;
    assert_eq!(
        text,
        format!(r#"{{"version":"{}","up_seconds":0,"clusters":1,"leading":1}}"#, env!("CARGO_PKG_VERSION"))
    );
}

#[tokio::test]
async fn guesses_are_cut_short_and_the_right_token_is_still_heard() {
    let desk = Desk::new(healthy(), Script::default());
    let app = router(desk.state(Some("s3cret")));
    let show = |token: &str| {
        let mut request = get("/api/v1/clusters");
        request.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        app.clone().oneshot(request)
    };
    let mut last = StatusCode::OK;
    for _ in 0..30 {
        last = show("guess").await.unwrap().status();
    }
    assert_eq!(last, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(show("s3cret").await.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn without_a_token_only_this_hosts_names_are_answered() {
    let desk = Desk::new(healthy(), Script::default());
    for (host, status) in [
        ("127.0.0.1:8420", StatusCode::OK),
        ("localhost", StatusCode::OK),
        ("evil.example:8420", StatusCode::FORBIDDEN),
    ] {
        let mut request = get("/api/v1/clusters");
        request.headers_mut().insert("host", host.parse().unwrap());
        assert_eq!(ask(desk.state(None), request).await.0, status, "{host}");
    }
}

#[tokio::test]
async fn a_snapshot_comes_back_as_it_was_and_the_list_is_its_short_form() {
    let desk = Desk::new(dead(), Script::default());
    let (_, text) = ask(desk.state(None), get("/api/v1/clusters/orders")).await;
    assert_eq!(serde_json::from_str::<Snapshot>(&text).unwrap(), dead());
    let (_, text) = ask(desk.state(None), get("/api/v1/clusters")).await;
    assert_eq!(
        serde_json::from_str::<Value>(&text).unwrap(),
        json!({"clusters": [{
            "cluster": "orders", "mode": "auto", "verdict": "dead_primary", "sentence": "db1 is dead; isolating it",
            "primary": "db1", "generation": 4, "writable": false, "recovering": true, "issues": 1
        }]})
    );
}

#[tokio::test]
async fn a_tree_holds_each_member_once_also_in_a_circle() {
    let mut board = healthy();
    board.members[2].source = Some(desk::host("db2"));
    let tree = |text: &str| {
        fn names(node: &Value) -> String {
            let below: Vec<String> = node["replicas"].as_array().unwrap().iter().map(names).collect();
            format!("{}({})", node["instance"].as_str().unwrap(), below.join(" "))
        }
        let value: Value = serde_json::from_str(text).unwrap();
        value["roots"].as_array().unwrap().iter().map(names).collect::<Vec<_>>().join(" ")
    };
    let path = "/api/v1/clusters/orders/topology";
    let chain = Desk::new(board.clone(), Script::default());
    assert_eq!(tree(&ask(chain.state(None), get(path)).await.1), "db1(db2(db3()))");
    board.members[1].source = Some(desk::host("db3"));
    let circle = Desk::new(board, Script::default());
    assert_eq!(tree(&ask(circle.state(None), get(path)).await.1), "db1() db2(db3())");
}

#[tokio::test]
async fn what_is_not_understood_begins_nothing() {
    let desk = Desk::new(healthy(), Script::default());
    let big = format!("{{\"by\":\"{}\"}}", "x".repeat(100_000));
    let orders = "/api/v1/clusters/orders";
    let mut undeclared = post(&format!("{orders}/failover"), "{}");
    undeclared.headers_mut().insert("content-type", "text/plain".parse().unwrap());
    for (request, status, word) in [
        (post(&format!("{orders}/failover"), r#"{"acept_loss":true}"#), 400, "bad_request"),
        (post(&format!("{orders}/failover"), r#"{"to":"db2;rm"}"#), 400, "bad_request"),
        (post(&format!("{orders}/failover"), "not json"), 400, "bad_request"),
        (post(&format!("{orders}/failover"), &big), 413, "too_large"),
        (undeclared, 415, "not_json"),
        (get(&format!("{orders}/history?limt=3")), 400, "bad_request"),
        (get(&format!("{orders}/adopt?primary=db%001")), 400, "bad_request"),
        (get(&format!("{orders}/history/never")), 404, "no_such_recovery"),
        (get(&format!("{orders}/recovery")), 404, "no_recovery"),
        (get("/api/v1/clusters/other"), 404, "no_such_cluster"),
        (get("/nothing"), 404, "no_such_path"),
        (get(&format!("{orders}/failover")), 405, "method"),
    ] {
        let shown = format!("{} {}", request.method(), request.uri());
        let (got, text) = ask(desk.state(None), request).await;
        assert_eq!((got.as_u16(), code(&text).as_str()), (status, word), "{shown}: {text}");
    }
    assert!(desk.heard.lock().unwrap().is_empty());
}

#[tokio::test]
async fn asks_reach_the_loop_as_they_were_meant() {
    let desk = Desk::new(dead(), Script::default());
    let orders = "/api/v1/clusters/orders";
    let body = r#"{"to":"db2","accept_loss":true,"by":"ann\u001b@desk","dry_run":true}"#;
    let (status, text) = ask(desk.state(None), post(&format!("{orders}/failover"), body)).await;
    assert_eq!(status, StatusCode::OK);
    assert!(text.contains("if nothing") || text.contains("plans"), "{text}");
    let (status, text) = ask(desk.state(None), post(&format!("{orders}/failover"), "{}")).await;
    assert_eq!((status, text.as_str()), (StatusCode::ACCEPTED, r#"{"recovery":"r1"}"#));
    let (status, _) =
        ask(desk.state(None), post(&format!("{orders}/unpark"), r#"{"instance":"db3:3307"}"#)).await;
    assert_eq!(status, StatusCode::OK);
    let path = format!("{orders}/replica");
    for body in [
        r#"{"instance":"db3","change":{"do":"move","source":"db2"},"dry_run":true}"#,
        r#"{"instance":"db3","change":{"do":"stop","threads":"applier"},"within_ms":2000,"dry_run":true}"#,
        r#"{"instance":"db3","change":{"do":"remove"},"dry_run":true}"#,
    ] {
        let (status, text) = ask(desk.state(None), post(&path, body)).await;
        assert_eq!((status, text.contains("topology")), (StatusCode::OK, true), "{text}");
    }
    for body in [
        r#"{"instance":"db3","change":{"do":"move"}}"#,
        r#"{"instance":"db3","change":{"do":"stop","thread":"applier"}}"#,
        r#"{"instance":"db3","change":{"do":"start"},"within_ms":99999999}"#,
        r#"{"instance":"db4","change":{"do":"add","agent":"ftp://db4:8421"}}"#,
    ] {
        let (status, text) = ask(desk.state(None), post(&path, body)).await;
        assert_eq!((status, code(&text).as_str()), (StatusCode::BAD_REQUEST, "bad_request"), "{body}");
    }
    let heard = desk.heard.lock().unwrap().join("\n");
    assert!(heard.contains("threads: Applier }, force: false, within: 2s"), "{heard}");
    for part in
        ["Propose", "host: \"db2\"", "accept_loss: true", "by: \"ann@desk\"", "Failover", "Unpark", "3307"]
    {
        assert!(heard.contains(part), "{part} in {heard}");
    }
}

#[tokio::test]
async fn a_refusal_names_every_reason() {
    let script = Script {
        refusals: vec!["db3 takes writes too".to_owned(), "the agent on db2 is not heard".to_owned()],
    };
    let desk = Desk::new(healthy(), script);
    for request in [
        post("/api/v1/clusters/orders/failover", "{}"),
        post("/api/v1/clusters/orders/adopt", "{}"),
        get("/api/v1/clusters/orders/adopt"),
        post("/api/v1/clusters/orders/ack", "{}"),
    ] {
        let (status, text) = ask(desk.state(None), request).await;
        assert_eq!((status, code(&text).as_str()), (StatusCode::CONFLICT, "refused"));
        assert!(text.contains("db3 takes writes too") && text.contains("not heard"), "{text}");
    }
}

#[tokio::test]
async fn a_recovery_streams_until_its_end() {
    let desk = Desk::new(dead(), Script::default());
    let running = failover("r7");
    desk.recovery.send_replace(Some(Arc::new(running.clone())));
    let path = "/api/v1/clusters/orders/recovery?follow=true";
    let response = router(desk.state(None)).oneshot(get(path)).await.unwrap();
    let mut body = response.into_body().into_data_stream();
    let mut text = String::new();
    while text.matches('\n').count() <= running.entries.len() {
        text.push_str(std::str::from_utf8(&body.next().await.unwrap().unwrap()).unwrap());
    }
    desk.recovery.send_modify(|shown| {
        Arc::make_mut(shown.as_mut().unwrap()).entries.push(ended(Outcome::Done));
    });
    while let Some(chunk) = body.next().await {
        text.push_str(std::str::from_utf8(&chunk.unwrap()).unwrap());
    }
    let lines: Vec<Value> = text
        .lines()
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 1 + running.entries.len() + 1);
    assert_eq!(lines[0]["recovery"]["id"], "r7");
    assert_eq!(lines.last().unwrap()["entry"]["what"]["outcome"]["outcome"], "done");
}

#[tokio::test]
async fn a_stream_ends_with_the_service() {
    let desk = Desk::new(dead(), Script::default());
    desk.recovery.send_replace(Some(Arc::new(failover("r7"))));
    let request = get("/api/v1/clusters/orders/recovery?follow=true");
    let response = router(desk.state(None)).oneshot(request).await.unwrap();
    desk.stop.cancel();
    let all = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
    assert!(all.starts_with(b"{\"recovery\""));
}

/// Over a connection of its own; time passes as soon as both ends wait.
#[tokio::test]
async fn half_a_request_is_hung_up_on_and_a_stream_is_not() {
    let desk = Desk::new(dead(), Script::default());
    desk.recovery.send_replace(Some(Arc::new(failover("r7"))));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    #[expect(clippy::disallowed_methods, reason = "a test's own task, ended with its runtime")]
    let _serving = tokio::spawn(mha::http::serve(listener, desk.state(Some("s3cret"))));
    tokio::time::pause();
    let asked = async |text: &str| {
        let mut stream = TcpStream::connect(at).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        stream
    };
    let orders = "/api/v1/clusters/orders";
    let head = "HTTP/1.1\r\nhost: x\r\nauthorization: Bearer s3cret";
    let half =
        format!("POST {orders}/ack {head}\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n{{");
    for (begun, answer) in [("", ""), ("GET /health HTTP/1.1\r\nhost: x\r\n", ""), (&half, "body_unread")] {
        let (mut stream, mut said) = (asked(begun).await, Vec::new());
        let ended = timeout(Duration::from_secs(60), stream.read_to_end(&mut said)).await;
        ended.expect("the connection is still open").unwrap();
        let said = String::from_utf8(said).unwrap();
        assert!(said.contains(answer) && said.is_empty() == answer.is_empty(), "{begun:?}: {said}");
    }
    let mut stream = asked(&format!("GET {orders}/recovery?follow=true {head}\r\n\r\n")).await;
    let until = Instant::now() + Duration::from_secs(600);
    let mut said = Vec::new();
    while Instant::now() < until {
        assert!(stream.read_buf(&mut said).await.unwrap() > 0, "the stream was cut");
    }
    assert!(desk.heard.lock().unwrap().is_empty());
}

#[tokio::test]
async fn metrics_say_it_in_units_and_count_each_recovery_once() {
    let desk = Desk::new(healthy(), Script::default());
    let mut past = failover("r1");
    past.entries.push(ended(Outcome::Done));
    desk.remember(&past).await;
    let app = router(desk.state(None));
    let mut text = String::new();
    for _ in 0..2 {
        let response = app.clone().oneshot(get("/metrics")).await.unwrap();
        let bytes = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
        text = String::from_utf8(bytes.to_vec()).unwrap();
    }
    for line in [
        r#"mha_cluster_verdict{cluster="orders",verdict="healthy"} 1"#,
        r#"mha_cluster_verdict{cluster="orders",verdict="dead_primary"} 0"#,
        r#"mha_cluster_writable{cluster="orders"} 1"#,
        r#"mha_primary_info{cluster="orders",instance="db1"} 1"#,
        r#"mha_instance_up{cluster="orders",instance="db3"} 1"#,
        r#"mha_replica_seconds_behind{cluster="orders",instance="db2"} 0"#,
        r#"mha_replica_heartbeat_age_seconds{cluster="orders",instance="db2"} 0.21"#,
        r#"mha_replica_unapplied_transactions{cluster="orders",instance="db2"} 12"#,
        r#"mha_lease_remaining_seconds{cluster="orders",instance="db1"} 2.7"#,
        r#"mha_recoveries_total{cluster="orders",kind="failover",outcome="done"} 1"#,
        r#"mha_last_failover_until_writable_seconds{cluster="orders"} 0.052"#,
        r#"mha_last_failover_timestamp_seconds{cluster="orders"} 1795000000.123"#,
    ] {
        assert!(text.lines().any(|have| have == line), "{line}\nis not in\n{text}");
    }
    assert!(text.ends_with("# EOF\n"));
    let kinds = text.lines().filter(|line| line.starts_with("mha_cluster_verdict{")).count();
    assert_eq!(kinds, 16);
}
