//! A primary that dies while deliveries are under way, and a standby that takes its place.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tokio_postgres::Client;

use crate::harness::eventually;
use crate::harness::http::{Answer, HttpPeer};
use crate::harness::plane::{LONG, message_ids, number, until_closed, until_count, until_routed};
use crate::harness::postgres::{Cluster, fill_template};
use crate::harness::relay::{Process, crm, toml};

const RELAY: &str = "lease = \"2s\"\ngrace = \"10s\"";
const MESSAGES: i64 = 2_000;
const CONCURRENCY: usize = 16;

/// A primary and its standby, and a database with the outbox on both.
struct Pair {
    primary: Cluster,
    standby: Cluster,
}

impl Pair {
    async fn start(synchronous: bool) -> Pair {
        let start = || {
            let primary = Cluster::start_on_tcp();
            let standby = Cluster::start_standby_of(&primary);
            Pair { primary, standby }
        };
        let pair = tokio::task::spawn_blocking(start).await.unwrap();
        let client = pair.primary.connect("postgres").await;
        client.batch_execute("CREATE DATABASE shop").await.unwrap();
        if synchronous {
            client.batch_execute("ALTER SYSTEM SET synchronous_standby_names = '*'").await.unwrap();
            client.batch_execute("SELECT pg_reload_conf()").await.unwrap();
            let sync = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'";
            until_count(&client, "the standby is synchronous", sync, 1).await;
        }
        fill_template(&pair.primary, "shop").await;
        pair
    }

    /// As an operator writes it: both, and the one that takes writes.
    fn url(&self) -> String {
        let (one, two) = (self.primary.tcp_port(), self.standby.tcp_port());
        format!(
            "postgresql://postgres@127.0.0.1:{one},127.0.0.1:{two}/shop?target_session_attrs=read-write"
        )
    }

    async fn until_replicated(&self) {
        let client = self.primary.connect("postgres").await;
        let behind =
            "SELECT count(*) FROM pg_stat_replication WHERE replay_lsn < pg_current_wal_lsn()";
        until_count(&client, "the standby is up to date", behind, 0).await;
    }
}

fn webhook(peer: &HttpPeer, more: &str) -> String {
    peer.decide(|_| Answer::Delayed(Duration::from_millis(5), Box::new(Answer::status(200))));
    crm(&peer.url("/"), &format!("concurrency = {CONCURRENCY}\n{more}"))
}

async fn produce(client: &Client) {
    let sql = format!(
        "INSERT INTO outbox.message (type, payload) SELECT 't', '{{}}' FROM generate_series(1, {MESSAGES})"
    );
    client.batch_execute(&sql).await.unwrap();
}

/// Kills the primary, promotes the standby, and waits until the relay records there what it delivers.
async fn fail_over(pair: &Pair) {
    let begun = Instant::now();
    tokio::task::block_in_place(|| {
        pair.primary.stop_immediate();
        pair.standby.promote();
    });
    let promoted = begun.elapsed();
    let client = pair.standby.connect("shop").await;
    let recorded = "SELECT count(*) FROM outbox.ledger";
    let before = number(&client, recorded).await;
    let more = format!("SELECT least(count(*), 1) FROM outbox.ledger HAVING count(*) > {before}");
    eventually("it goes on", LONG, async || {
        let rows = client.query(&more, &[]).await.unwrap();
        if rows.is_empty() { Err("nothing more on record".to_owned()) } else { Ok(()) }
    })
    .await;
    println!("promoted after {promoted:?}, at work again after {:?}", begun.elapsed());
}

fn counts(peer: &HttpPeer) -> BTreeMap<i64, usize> {
    let mut counts = BTreeMap::new();
    for id in message_ids(&peer.received()) {
        *counts.entry(id).or_insert(0) += 1;
    }
    counts
}

/// Guard: several hosts, and the wish for one that takes writes. What was replicated is delivered; what is
/// repeated was under way, or its settlement had not reached the standby.
#[tokio::test(flavor = "multi_thread")]
async fn a_promoted_standby_is_found_and_nothing_replicated_is_lost() {
    let pair = Pair::start(false).await;
    let client = pair.primary.connect("shop").await;
    let peer = HttpPeer::start().await;
    let relay = Process::start(&toml(&pair.url(), RELAY, &webhook(&peer, "")));
    until_routed(&client).await;
    produce(&client).await;
    pair.until_replicated().await;
    peer.until(|peer| peer.requests() >= 600).await;
    // From here on the standby hears nothing, and what is recorded it will not know.
    let behind = peer.requests();
    let standby = pair.standby.connect("postgres").await;
    standby.batch_execute("ALTER SYSTEM SET primary_conninfo = ''").await.unwrap();
    standby.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    let replicas = "SELECT count(*) FROM pg_stat_replication";
    until_count(&client, "the standby is cut off", replicas, 0).await;
    let lag = peer.requests() + 200;
    peer.until(|peer| peer.requests() >= lag).await;
    fail_over(&pair).await;
    let client = pair.standby.connect("shop").await;
    assert_eq!(number(&client, "SELECT count(*) FROM outbox.message").await, MESSAGES);
    client
        .batch_execute("INSERT INTO outbox.message (type, payload) VALUES ('t', '{}')")
        .await
        .unwrap();
    until_closed(&client).await;
    let counts = counts(&peer);
    assert_eq!(i64::try_from(counts.len()).unwrap(), MESSAGES + 1, "nothing lost");
    let ids = message_ids(&peer.received());
    let first = |id: &i64| ids.iter().position(|other| other == id).unwrap();
    let repeated: Vec<usize> =
        counts.iter().filter(|(_, count)| **count > 1).map(|(id, _)| first(id)).collect();
    println!("{} of {MESSAGES} repeated", repeated.len());
    assert!(counts.values().all(|count| *count <= 2), "once more at most");
    assert!(!repeated.is_empty(), "the standby was behind");
    // What was on record before is not repeated; a settlement may be on its way for a moment.
    let earliest = repeated.iter().min().unwrap();
    assert!(
        earliest + 200 >= behind,
        "request {earliest}, and the standby heard all until {behind}"
    );
    let hears = "SELECT count(*) FROM outbox.relay WHERE listens";
    until_count(&client, "its LISTEN session followed", hears, 1).await;
    drop(relay);
}

/// With a synchronous standby the intent is there too before the first byte: nothing is asked twice.
#[tokio::test(flavor = "multi_thread")]
async fn at_most_once_holds_over_a_failover_to_a_synchronous_standby() {
    let pair = Pair::start(true).await;
    let client = pair.primary.connect("shop").await;
    let peer = HttpPeer::start().await;
    let rest = webhook(&peer, "guarantee = \"at-most-once\"");
    let relay = Process::start(&toml(&pair.url(), RELAY, &rest));
    until_routed(&client).await;
    produce(&client).await;
    peer.until(|peer| peer.requests() >= 600).await;
    fail_over(&pair).await;
    let client = pair.standby.connect("shop").await;
    let moving = "SELECT count(*) FROM outbox.delivery WHERE state IN ('pending', 'sending')";
    until_count(&client, "all is decided", moving, 0).await;
    drop(relay);
    let counts = counts(&peer);
    assert!(counts.values().all(|count| *count == 1), "nothing is asked twice");
    let held = number(&client, "SELECT count(*) FROM outbox.delivery WHERE state = 'held'").await;
    let delivered = "SELECT count(*) FROM outbox.ledger WHERE outcome = 'delivered'";
    let delivered = number(&client, delivered).await;
    println!("{delivered} delivered, {held} held");
    assert_eq!(delivered + held, MESSAGES, "nothing lost");
    // Held is what was under way, and what was accepted in the last moments before the end.
    assert!(held <= 400, "{held}");
}

/// Guard: a primary that takes no more writes (25006) is left for the one that does, also by the LISTEN
/// session, which such a server does not end.
#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_became_read_only_is_left() {
    let pair = Pair::start(false).await;
    let old = pair.primary.connect("shop").await;
    let peer = HttpPeer::start().await;
    let relay = Process::start(&toml(&pair.url(), RELAY, &webhook(&peer, "")));
    until_routed(&old).await;
    until_count(&old, "it hears", "SELECT count(*) FROM outbox.relay WHERE listens", 1).await;
    pair.until_replicated().await;
    tokio::task::block_in_place(|| pair.standby.promote());
    let demoted = "ALTER SYSTEM SET default_transaction_read_only = on";
    old.batch_execute(demoted).await.unwrap();
    old.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    let begun = Instant::now();
    let client = pair.standby.connect("shop").await;
    client
        .batch_execute("INSERT INTO outbox.message (type, payload) VALUES ('t', '{}')")
        .await
        .unwrap();
    eventually("it works the new primary", LONG, async || {
        (peer.requests() > 0).then_some(()).ok_or_else(|| relay.log())
    })
    .await;
    println!("works the new primary after {:?}", begun.elapsed());
    let listens = "SELECT count(*) FROM pg_stat_activity
                    WHERE datname = 'shop' AND query LIKE '%pg_listening_channels%'";
    eventually("it listens at the new primary", LONG, async || {
        match (number(&client, listens).await, number(&old, listens).await) {
            // The question itself is one of the old server's sessions.
            (2.., 1) => Ok(()),
            (new, old) => Err(format!("{new} there, {old} here")),
        }
    })
    .await;
    println!("and listens there after {:?}", begun.elapsed());
    assert!(
        !relay.log().contains("the lease ran out") || begun.elapsed() < LONG,
        "{}",
        relay.log()
    );
}
