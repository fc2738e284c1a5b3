//! The API as a client meets it: HTTP over a Unix socket, answers as JSON.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use serde_json::{Value, json};
use tokio::net::UnixStream;

use super::auth::{Authority, Peer};
use super::handlers::App;
use super::routes::{Access, metrics_router, router, routes};
use super::server::Socket;
use crate::daemon::Shared;
use crate::daemon::testing::World;
use crate::events::Kind;
use crate::metrics::Metrics;

const TEXT: &str = "
version: 1
workers: { count: 1 }
switches:
  vs0:
    port-groups: { web: { vlan: 100 } }
    ports:
      vm1: { port-group: web, tap: tap1, netns: ns1, mac: '52:54:00:00:00:01' }
      vm2: { port-group: web, tap: tap2, netns: ns2 }
";

const ROOT: Peer = Peer {
    uid: 0,
    may_change: true,
};

const NOBODY: Peer = Peer {
    uid: 65534,
    may_change: false,
};

fn app() -> App {
    let world = World::new();
    let events = Arc::clone(world.daemon.events());
    let daemon = Shared::new(world.daemon);
    let source = daemon.clone();
    App {
        daemon,
        events,
        metrics: Arc::new(Metrics::new(Box::new(move || source.lock().sample())).unwrap()),
    }
}

fn served(app: &App, peer: Peer) -> Router {
    router(app.clone()).layer(axum::Extension(peer))
}

/// Asks a router over a connection of its own.
async fn ask(router: &Router, method: Method, path: &str, body: impl Into<Bytes>) -> Response<Incoming> {
    let (client, server) = UnixStream::pair().unwrap();
    let service = TowerToHyperService::new(router.clone());
    tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(server), service));
    ask_over(client, method, path, body.into()).await
}

async fn ask_over(client: UnixStream, method: Method, path: &str, body: Bytes) -> Response<Incoming> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(client)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "localhost")
        .body(Full::new(body))
        .unwrap();
    sender.send_request(request).await.unwrap()
}

async fn json_of(response: Response<Incoming>) -> Value {
    let body = response.into_body().collect().await.unwrap().to_bytes();
    serde_json::from_slice(&body).unwrap_or_else(|error| panic!("{error}: {body:?}"))
}

async fn call(router: &Router, method: Method, path: &str, body: Value) -> (StatusCode, Value) {
    let body = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    let response = ask(router, method, path, body).await;
    (response.status(), json_of(response).await)
}

async fn apply(router: &Router) {
    let body = json!({ "text": TEXT, "name": "switch.yaml" });
    let (status, report) = call(router, Method::PUT, "/v1/config", body).await;
    assert_eq!(status, StatusCode::OK, "{report}");
    assert_eq!(report["generation"], 1);
}

/// A path of the table with names put in.
fn filled(path: &str) -> String {
    path.replace("{name}", "vm1").replace("{generation}", "1")
}

#[tokio::test]
async fn every_route_of_the_table_is_served() {
    let app = app();
    let router = served(&app, ROOT);
    apply(&router).await;
    for route in routes() {
        let response = ask(&router, route.method.clone(), &filled(route.path), "").await;
        let status = response.status();
        let what = format!("{} {}: {status}", route.method, route.path);
        assert_ne!(status, StatusCode::METHOD_NOT_ALLOWED, "{what}");
        if status == StatusCode::NOT_FOUND {
            let error = json_of(response).await;
            let sentence = error["error"].as_str().unwrap();
            assert!(!sentence.contains("openapi.json"), "{what}: {sentence}");
        }
        assert!(!status.is_server_error(), "{what}");
    }
}

#[tokio::test]
async fn who_may_not_change_may_read() {
    let app = app();
    apply(&served(&app, ROOT)).await;
    let router = served(&app, NOBODY);
    for route in routes() {
        let response = ask(&router, route.method.clone(), &filled(route.path), "").await;
        let forbidden = response.status() == StatusCode::FORBIDDEN;
        let what = format!("{} {}", route.method, route.path);
        assert_eq!(forbidden, route.access == Access::Change, "{what}");
        if forbidden {
            let error = json_of(response).await;
            assert!(
                error["error"]
                    .as_str()
                    .unwrap()
                    .contains("uid 65534 may only read"),
                "{what}: {error}"
            );
        }
    }
    assert_eq!(app.daemon.lock().version().generation, 1);
}

#[tokio::test]
async fn views_follow_an_apply() {
    let app = app();
    let router = served(&app, ROOT);
    apply(&router).await;
    let get = |path: &'static str| call(&router, Method::GET, path, Value::Null);
    let (_, version) = get("/v1/version").await;
    assert_eq!(version["generation"], 1);
    let (_, show) = get("/v1/show").await;
    let ports = &show["switches"][0]["groups"][0]["ports"];
    assert_eq!(ports[0]["name"], "vm1");
    assert_eq!(ports[1]["state"], "up");
    let (_, port) = get("/v1/ports/vm1").await;
    assert_eq!(port["settings"]["security"]["forged-transmits"], "reject");
    assert_eq!(port["stats"]["receive"]["packets"], 0);
    let (_, stats) = get("/v1/stats").await;
    assert_eq!(stats.as_array().unwrap().len(), 2);
    let (_, group) = get("/v1/groups/web").await;
    assert_eq!(group["ports"], json!(["vm1", "vm2"]));
    let (_, history) = get("/v1/history").await;
    assert_eq!(history[0]["comment"], "apply switch.yaml");
    assert_eq!(history[0]["author"], "uid 0");
    let (_, config) = get("/v1/history/1").await;
    assert_eq!(config["config"]["switches"]["vs0"]["ports"]["vm2"]["tap"], "tap2");
    let (_, schema) = get("/v1/schema").await;
    assert!(schema["properties"]["switches"].is_object());
}

#[tokio::test]
async fn errors_are_sentences_in_json() {
    let app = app();
    let router = served(&app, ROOT);
    apply(&router).await;
    let wrong = TEXT.replace("port-group: web", "port-group: wbe");
    let body = json!({ "text": wrong, "name": "switch.yaml" });
    let (status, error) = call(&router, Method::PUT, "/v1/config", body).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    let problems = error["problems"].as_array().unwrap();
    assert_eq!(problems.len(), 2);
    assert!(problems[0]["line"].as_u64().unwrap() > 0, "{error}");
    assert!(
        error["error"].as_str().unwrap().contains("nothing was changed"),
        "{error}"
    );

    for (method, path, body, status, says) in [
        (
            Method::GET,
            "/v1/ports/vm11",
            "",
            StatusCode::NOT_FOUND,
            "did you mean `vm1`?",
        ),
        (
            Method::GET,
            "/v1/groups/wbe",
            "",
            StatusCode::NOT_FOUND,
            "did you mean `web`?",
        ),
        (
            Method::GET,
            "/v1/history/9",
            "",
            StatusCode::NOT_FOUND,
            "no generation 9",
        ),
        (
            Method::GET,
            "/v1/history/x",
            "",
            StatusCode::BAD_REQUEST,
            "a number is expected",
        ),
        (
            Method::GET,
            "/v1/nothing",
            "",
            StatusCode::NOT_FOUND,
            "there is no /v1/nothing",
        ),
        (
            Method::DELETE,
            "/v1/config",
            "",
            StatusCode::METHOD_NOT_ALLOWED,
            "does not take DELETE",
        ),
        (
            Method::PUT,
            "/v1/config",
            "{",
            StatusCode::BAD_REQUEST,
            "is not the JSON document",
        ),
        (
            Method::POST,
            "/v1/confirm",
            "",
            StatusCode::CONFLICT,
            "no configuration waits",
        ),
        (
            Method::GET,
            "/v1/events?since=yesterday",
            "",
            StatusCode::BAD_REQUEST,
            "since=yesterday",
        ),
        (
            Method::GET,
            "/v1/capture?snap-len=0",
            "",
            StatusCode::BAD_REQUEST,
            "snap-len",
        ),
        (
            Method::GET,
            "/v1/capture?prot=vm1",
            "",
            StatusCode::BAD_REQUEST,
            "prot",
        ),
        (
            Method::POST,
            "/v1/trace",
            r#"{"port":"vm1","frame":"0"}"#,
            StatusCode::BAD_REQUEST,
            "hexadecimal",
        ),
    ] {
        let response = ask(&router, method.clone(), path, body).await;
        assert_eq!(response.status(), status, "{method} {path}");
        let error = json_of(response).await;
        let sentence = error["error"].as_str().unwrap();
        assert!(sentence.contains(says), "{method} {path}: {sentence}");
    }
}

#[tokio::test]
async fn a_body_without_end_is_cut_off() {
    let app = app();
    let router = served(&app, ROOT);
    let huge = vec![b' '; super::routes::BODY_LIMIT + 1];
    let response = ask(&router, Method::PUT, "/v1/config", huge).await;
    assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
    assert!(json_of(response).await["error"].is_string());
}

#[tokio::test]
async fn a_trace_says_who_gets_the_frame() {
    let app = app();
    let router = served(&app, ROOT);
    apply(&router).await;
    let frame = "ffffffffffff 525400000001 88b5".to_owned() + &"00".repeat(46);
    let body = json!({ "port": "vm1", "frame": frame });
    let (status, report) = call(&router, Method::POST, "/v1/trace", body).await;
    assert_eq!(status, StatusCode::OK, "{report}");
    assert_eq!(report["verdict"], "forward");
    assert_eq!(report["hops"], json!([{ "port": "vm2", "vlan": null }]));
}

#[tokio::test]
async fn events_are_followed_line_by_line() {
    let app = app();
    let router = served(&app, ROOT);
    app.events.push(Kind::Start, None, "first".to_owned());
    let (_, only) = call(&router, Method::GET, "/v1/events", Value::Null).await;
    assert_eq!(only["message"], "first");
    let response = ask(&router, Method::GET, "/v1/events?follow=true", "").await;
    let mut body = response.into_body();
    let mut text = String::new();
    while !text.contains("first") {
        let frame = body.frame().await.unwrap().unwrap();
        text += std::str::from_utf8(&frame.into_data().unwrap()).unwrap();
    }
    app.events.push(Kind::PortUp, Some("vm1"), "second".to_owned());
    while !text.contains("second") {
        let frame = body.frame().await.unwrap().unwrap();
        text += std::str::from_utf8(&frame.into_data().unwrap()).unwrap();
    }
    let rows: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(rows.len(), 2);
    assert_eq!(rows[1]["port"], "vm1");
}

#[tokio::test]
async fn a_capture_is_pcapng_from_the_first_octet() {
    let app = app();
    let router = served(&app, ROOT);
    let response = ask(&router, Method::GET, "/v1/capture?drops=true", "").await;
    assert_eq!(response.headers()["content-type"], "application/x-pcapng");
    let mut body = response.into_body();
    let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(first[..4], [0x0a, 0x0d, 0x0d, 0x0a]);
}

#[tokio::test]
async fn prometheus_gets_metrics_and_health_and_no_more() {
    let app = app();
    apply(&served(&app, ROOT)).await;
    let router = metrics_router(app);
    let response = ask(&router, Method::GET, "/metrics", "").await;
    assert_eq!(response.headers()["content-type"], Metrics::CONTENT_TYPE);
    let text = response.into_body().collect().await.unwrap().to_bytes();
    let text = String::from_utf8(text.to_vec()).unwrap();
    assert!(
        text.contains(r#"vswitch_port_up{switch="vs0",group="web",port="vm1"} 1"#),
        "{text}"
    );
    assert!(text.contains(r#"vswitch_apply_total{result="applied"} 1"#));
    let (status, health) = call(&router, Method::GET, "/healthz", Value::Null).await;
    assert_eq!((status, &health["generation"]), (StatusCode::OK, &json!(1)));
    let (status, _) = call(&router, Method::GET, "/v1/config", Value::Null).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_silent_client_holds_nobody_up() {
    let app = app();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ctl.sock");
    let authority = Authority::of_host();
    let socket = Socket::bind(&path, 0o666, &authority).unwrap();
    let server = tokio::spawn(socket.serve(router(app), authority));
    let silent = UnixStream::connect(&path).await.unwrap();
    let client = UnixStream::connect(&path).await.unwrap();
    // The test runs as the server's own user, which may change things.
    let body = json!({ "text": TEXT, "name": "switch.yaml" }).to_string();
    let response = ask_over(client, Method::PUT, "/v1/config", body.into()).await;
    assert_eq!(response.status(), StatusCode::OK);
    drop(silent);
    server.abort();
    assert!(server.await.unwrap_err().is_cancelled());
    assert!(!path.exists());
}
