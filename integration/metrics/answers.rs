//! The listener itself: who is answered what, and within which bounds.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::crm;
use crate::harness::eventually;
use crate::harness::http::HttpPeer;
use crate::harness::plane::{LONG, send, until_closed, until_routed};
use crate::harness::postgres::Database;
use crate::harness::relay::{self, Process};
use crate::harness::scrape::{Series, Watched, ask, listen};

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_works_is_ready_and_one_that_was_told_to_stop_is_not() {
    let (database, peer) = (Database::migrated().await, HttpPeer::start().await);
    let client = database.connect().await;
    let watched = Watched::start(crm(&database, &peer.url("/"), ""));
    eventually("it is ready", LONG, async || match watched.page("/readyz").await {
        page if page.status == 200 => Ok(()),
        page => Err(page.body),
    })
    .await;
    until_routed(&client).await;
    send(&client, "t", "{}").await;
    until_closed(&client).await;
    let page = watched.page("/readyz").await;
    let said: serde_json::Value = serde_json::from_str(&page.body).unwrap();
    assert_eq!(said["ready"], true, "{}", page.body);
    let checks: Vec<String> = said["checks"].as_array().unwrap().iter().map(name).collect();
    assert_eq!(
        checks,
        ["draining", "loop", "lease", "listen", "database", "cycle crm", "due crm"],
        "{}",
        page.body
    );

    let Watched { relay, listener, .. } = watched;
    relay.ask_to_stop();
    let page = ask(listener.address(), "GET /readyz", "").await;
    assert_eq!(page.status, 503, "{}", page.body);
    assert!(page.body.contains("told to stop"), "{}", page.body);
    let series = Series::parse(&ask(listener.address(), "GET /metrics", "").await.body);
    assert_eq!((series.of("outboxd_ready"), series.of("outboxd_draining")), (0.0, 1.0));
    assert_eq!(
        ask(listener.address(), "GET /livez", "").await.status,
        200,
        "it ends, it does not hang"
    );
    relay.stop().await;
}

fn name(check: &serde_json::Value) -> String {
    let name = check["check"].as_str().unwrap().to_owned();
    check["sink"].as_str().map_or(name.clone(), |sink| format!("{name} {sink}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_are_for_those_who_ask_as_they_should() {
    let (process, stop) = (Arc::default(), CancellationToken::new());
    let listener = listen(&process, &stop, Some("0123456789abcdef"));
    let asked =
        async |request: &str, headers: &str| ask(listener.address(), request, headers).await;
    let token = "Authorization: Bearer 0123456789abcdef\r\n";

    let page = asked("GET /metrics", "").await;
    assert_eq!((page.status, page.head.contains("www-authenticate: bearer")), (401, true));
    assert_eq!(
        asked("GET /metrics", "Authorization: Bearer 0123456789abcdeg\r\n").await.status,
        401
    );
    assert_eq!(asked("HEAD /metrics", "").await.status, 401);
    let page = asked("GET /metrics", token).await;
    let kind = "content-type: application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert!(page.status == 200 && page.head.contains(kind), "{}", page.head);
    assert!(page.body.ends_with("# EOF\n"));

    // Health is asked without a token, also by whoever shows a wrong one.
    assert_eq!(asked("GET /livez", "").await.status, 200);
    assert_eq!(asked("GET /readyz", "Authorization: Bearer wrong\r\n").await.status, 503);
    let page = asked("HEAD /livez", "").await;
    assert_eq!((page.status, page.body.as_str()), (200, ""));

    assert_eq!(asked("GET /", "").await.status, 404);
    assert_eq!(asked("GET /metrics/x", token).await.status, 404);
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        let page = asked(&format!("{method} /metrics"), "content-length: 0\r\n").await;
        assert_eq!((page.status, page.head.contains("allow: get, head")), (405, true), "{method}");
    }
    let headers = format!("x: {}\r\n", "a".repeat(16 * 1024));
    assert_eq!(asked("GET /livez", &headers).await.status, 431, "headers are bounded");
    assert_eq!(asked("GET /livez", &"x: a\r\n".repeat(60)).await.status, 431, "and their number");
}

/// Health is asked by what restarts us: nobody may keep it from being answered for long.
#[tokio::test(flavor = "multi_thread")]
async fn connections_that_say_nothing_are_closed_and_do_not_keep_others_out() {
    let (process, stop) = (Arc::default(), CancellationToken::new());
    let listener = listen(&process, &stop, None);
    let mut silent = Vec::new();
    for _ in 0..80 {
        silent.push(TcpStream::connect(listener.address()).await.unwrap());
    }
    let mut drip = TcpStream::connect(listener.address()).await.unwrap();
    drip.write_all(b"GET /livez HT").await.unwrap();
    let begun = Instant::now();
    assert_eq!(ask(listener.address(), "GET /livez", "").await.status, 200);
    assert!(begun.elapsed() < Duration::from_millis(2_500), "{:?}", begun.elapsed());
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(LONG, drip.read_to_end(&mut rest)).await;
    assert!(ended.is_ok(), "half a request is closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loop_that_stands_still_is_not_live() {
    let (process, stop) = (Arc::default(), CancellationToken::new());
    // The listener watches a loop that this thread stops by not going on with it.
    let runtime = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let listener = runtime.block_on(async { listen(&process, &stop, None) });
        (runtime, listener)
    });
    let (runtime, listener) = runtime.join().unwrap();
    let page = ask(listener.address(), "GET /livez", "").await;
    assert_eq!(page.status, 200, "{}", page.body);
    eventually("it is told", LONG, async || {
        match ask(listener.address(), "GET /livez", "").await {
            page if page.status == 503 && page.body.contains("stands still") => Ok(()),
            page => Err(page.body),
        }
    })
    .await;
    runtime.shutdown_background();
}

#[tokio::test(flavor = "multi_thread")]
async fn health_asks_the_listener_and_a_port_that_is_taken_is_an_error_at_the_start() {
    let (database, peer) = (Database::migrated().await, HttpPeer::start().await);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap();
    let toml = |rest: &str| {
        relay::toml(
            &database.url(),
            "lease = \"2s\"",
            &format!("{}{rest}", relay::crm(&peer.url("/"), "")),
        )
    };
    let admin = format!("[admin]\nlisten = \"{listen}\"\n");
    let mut process = Process::start(&toml(&admin));
    assert_eq!(process.ended().await.code(), Some(1));
    let said = process.log();
    assert!(
        said.contains(&format!("cannot listen on {listen}")) && said.contains("another port"),
        "{said}"
    );
    let (code, words) = process.says(&["health"]);
    assert_eq!(code, 1, "nobody answers there: {words}");
    drop(taken);

    let process = Process::start(&toml(&admin));
    eventually("it is well", LONG, async || match process.says(&["health"]) {
        (0, words) if words.starts_with("ready\n") => Ok(()),
        (code, words) => Err(format!("{code}: {words}")),
    })
    .await;
    let (code, json) = process.says(&["health", "--json"]);
    let said: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((code, &said["ready"]), (0, &serde_json::Value::Bool(true)));
    assert_eq!(process.says(&["health", "--live"]).0, 0);
    process.signal("STOP");
    assert_eq!(process.says(&["health"]).0, 1, "a relay that stands still does not answer");
    process.signal("CONT");
    drop(process);

    let process = Process::start(&toml(""));
    assert_eq!(process.says(&["health"]).0, 2, "no [admin], nothing to ask");
}
