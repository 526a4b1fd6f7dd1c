//! A destination in trouble: rows wait with it and spend nothing; what only one message meets is that
//! message's own; what the receiver asks for is waited for.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpStream};
use tokio_postgres::Client;

use crate::harness::eventually;
use crate::harness::http::{Answer, HttpPeer};
use crate::harness::plane::{LONG, number, send, until_closed, until_count, until_routed};
use crate::harness::postgres::Database;
use crate::harness::relay::{Relay, config, crm};

const OPEN: &str = "SELECT count(*) FROM outbox.flow WHERE open_since IS NOT NULL";
const SPENT: &str = "SELECT coalesce(max(attempt), 0)::bigint FROM outbox.delivery";

async fn send_many(client: &Client, message_type: &str, count: i64) {
    client
        .execute(
            "INSERT INTO outbox.message (type, payload)
             SELECT $1, jsonb_build_object('n', g) FROM generate_series(1, $2::bigint) g",
            &[&message_type, &count],
        )
        .await
        .unwrap();
}

/// A place that refuses connections until it is opened; then it leads to a peer.
struct Place {
    address: SocketAddr,
}

impl Place {
    async fn closed() -> Place {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Place { address: listener.local_addr().unwrap() }
    }

    async fn open(&self, to: SocketAddr) -> tokio::task::JoinHandle<()> {
        let listener = TcpListener::bind(self.address).await.expect("nobody took the port");
        tokio::spawn(async move {
            while let Ok((mut from, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut to = TcpStream::connect(to).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut from, &mut to).await;
                });
            }
        })
    }
}

/// Guard: unreachable is not refused. Nobody is there, for longer than all retries would last.
#[tokio::test(flavor = "multi_thread")]
async fn an_outage_longer_than_all_retries_spends_no_attempt() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let peer = HttpPeer::start().await;
    let place = Place::closed().await;
    // Four attempts within 300 ms and some jitter.
    let relay =
        Relay::start(config(&database.url(), &crm(&format!("http://{}/", place.address), "")));
    until_routed(&client).await;
    send_many(&client, "t", 50).await;
    until_count(&client, "the breaker is open", OPEN, 1).await;
    let reason: String =
        client.query_one("SELECT open_reason FROM outbox.flow", &[]).await.unwrap().get(0);
    assert!(reason.contains("could not connect"), "{reason}");
    let probed = "SELECT count(*) FROM outbox.flow
                   WHERE clock_timestamp() - open_since > interval '3 s'";
    until_count(&client, "it has been open for three seconds", probed, 1).await;
    assert_eq!(number(&client, SPENT).await, 0, "no attempt is spent");
    let dead = "SELECT count(*) FROM outbox.delivery WHERE state = 'dead'";
    assert_eq!(number(&client, dead).await, 0);

    let _server = place.open(peer.address).await;
    until_closed(&client).await;
    until_count(&client, "the breaker is closed", OPEN, 0).await;
    relay.stop().await;
    assert_eq!(peer.requests(), 50);
}

/// Guard: one probe at a time, ever less often; then a ramp. A gateway answers that nobody is there.
#[tokio::test(flavor = "multi_thread")]
async fn while_open_there_is_one_probe_at_a_time_and_recovery_ramps_up() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let peer = HttpPeer::start().await;
    let away = Arc::new(Mutex::new((true, Vec::new())));
    let state = Arc::clone(&away);
    peer.decide(move |_| {
        let mut state = state.lock().unwrap();
        state.1.push(Instant::now());
        let status = if state.0 { 503 } else { 200 };
        Answer::Delayed(Duration::from_millis(20), Box::new(Answer::status(status)))
    });
    let relay = Relay::start(config(&database.url(), &crm(&peer.url("/"), "concurrency = 8")));
    until_routed(&client).await;
    send_many(&client, "t", 100).await;
    until_count(&client, "the breaker is open", OPEN, 1).await;
    let opened = away.lock().unwrap().1.len();
    assert!(opened <= 8 + 1, "{opened} requests before it opened");
    peer.until(|peer| peer.requests() >= opened + 2).await;
    let times = away.lock().unwrap().1.clone();
    let probes = &times[times.len() - 2..];
    let apart = probes[1] - probes[0];
    assert!(apart >= Duration::from_millis(1_900), "probes {apart:?} apart");
    assert_eq!(number(&client, SPENT).await, 0);
    away.lock().unwrap().0 = false;
    until_closed(&client).await;
    relay.stop().await;
    assert!(peer.peak_at_once() <= 8);
}

/// Guard: the breaker opens only when different messages meet the trouble.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_meets_trouble_while_others_pass_spends_its_attempts_and_stops_nobody() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let peer = HttpPeer::start().await;
    peer.decide(|request| {
        let is_bad = request.body.starts_with(b"{\"bad\"");
        Answer::status(if is_bad { 503 } else { 200 })
    });
    let relay = Relay::start(config(&database.url(), &crm(&peer.url("/"), "")));
    until_routed(&client).await;
    send(&client, "t", r#"{"bad": true}"#).await;
    let dead = "SELECT count(*) FROM outbox.delivery WHERE state = 'dead' AND attempt = 4";
    eventually("the bad one is dead, after all its attempts", LONG, async || {
        send(&client, "t", "{}").await;
        match number(&client, dead).await {
            1 => Ok(()),
            _ => Err("not yet".to_owned()),
        }
    })
    .await;
    let open = "SELECT count(*) FROM outbox.delivery WHERE state = 'pending'";
    until_count(&client, "all others are delivered", open, 0).await;
    relay.stop().await;
    assert_eq!(number(&client, OPEN).await, 0, "the breaker never opened");
}

/// Guard: `Retry-After` is a minimum, and holds for the whole destination.
#[tokio::test(flavor = "multi_thread")]
async fn what_one_message_is_told_to_wait_all_wait() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let peer = HttpPeer::start().await;
    let times = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&times);
    peer.decide(move |_| {
        let mut times = seen.lock().unwrap();
        times.push(Instant::now());
        let throttled = Answer::status(429).header("Retry-After", "2");
        if times.len() == 1 { throttled } else { Answer::status(200) }
    });
    let relay = Relay::start(config(&database.url(), &crm(&peer.url("/"), "concurrency = 1")));
    until_routed(&client).await;
    send_many(&client, "t", 20).await;
    let waits = "SELECT count(*) FROM outbox.flow WHERE waits_for LIKE '%429%'";
    until_count(&client, "the operator sees why", waits, 1).await;
    assert_eq!(number(&client, SPENT).await, 0);
    until_closed(&client).await;
    relay.stop().await;
    let times = times.lock().unwrap();
    assert_eq!(times.len(), 21);
    assert!(times[1] - times[0] >= Duration::from_secs(2), "{:?}", times[1] - times[0]);
}

/// P7: one sink is dead, another one hangs; the third does not notice.
#[tokio::test(flavor = "multi_thread")]
async fn sinks_in_trouble_do_not_delay_the_others() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let (hanging, good) = (HttpPeer::start().await, HttpPeer::start().await);
    hanging.always(Answer::Hang);
    let dead = Place::closed().await;
    let sink = |name: &str, url: String| {
        format!("[sinks.{name}]\nkind = \"webhook\"\nurl = \"{url}\"\ntimeout = \"5s\"\n")
    };
    let rest = sink("dead", format!("http://{}/", dead.address))
        + &sink("hanging", hanging.url("/"))
        + &sink("good", good.url("/"))
        + "[[routes]]\ntype = \"*\"\nsink = [\"dead\", \"hanging\", \"good\"]\n";
    let relay = Relay::start(config(&database.url(), &rest));
    until_routed(&client).await;
    send_many(&client, "t", 500).await;
    let begun = Instant::now();
    good.until(|peer| peer.requests() == 500).await;
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    let left = "SELECT count(*) FROM outbox.delivery WHERE sink = 'good'";
    until_count(&client, "its deliveries are closed", left, 0).await;
    let others = "SELECT count(*) FROM outbox.delivery WHERE sink <> 'good' AND state = 'pending'";
    assert_eq!(number(&client, others).await, 1_000, "the others wait");
    relay.stop_now().await;
}
