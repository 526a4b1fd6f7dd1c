//! The first process of a container: signals, a root that is read-only, another user, a memory limit.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::net::TcpListener;

use super::room::{CONFIG, Root, USER, is_inside};
use crate::harness::http::{Answer, Gate, HttpPeer};
use crate::harness::plane::{LONG, number, until_count};
use crate::harness::postgres::Cluster;
use crate::harness::relay::{crm, toml};

/// What waits when the relay starts.
const BACKLOG: i64 = 200_000;
/// What it may hold of memory that is its own: half of the limit in the manifests.
const LIMIT: &str = "--data=67108864";

/// A database that is reached over the loopback device of this room.
async fn shop() -> (Cluster, tokio_postgres::Client, String) {
    let cluster = Cluster::start_on_tcp();
    cluster.psql("postgres", "CREATE DATABASE shop");
    let client = cluster.connect("shop").await;
    let url = Cluster::tcp_url(cluster.tcp_port(), "shop");
    (cluster, client, url)
}

#[tokio::test(flavor = "multi_thread")]
async fn as_the_first_process_it_drains_at_the_first_signal_and_stops_at_the_second() {
    if !is_inside(
        "deploy::first::as_the_first_process_it_drains_at_the_first_signal_and_stops_at_the_second",
    ) {
        return;
    }
    let (_cluster, client, url) = shop().await;
    let peer = HttpPeer::start().await;
    peer.count_only();
    let file = "[sinks.file]\nkind = \"csv\"\npath = \"out/{{ period }}.csv\"\nevery = \"1s\"\n\
                columns = [{ name = \"id\", value = \"id\" }]\n\
                [[routes]]\ntype = \"file\"\nsink = \"file\"\n";
    let relay = "lease = \"2s\"\ngrace = \"20s\"";
    let config =
        toml(&url, relay, &(crm(&peer.url("/"), "concurrency = 64\ntimeout = \"60s\"") + file));
    let root = Root::new(&[(CONFIG, &config), ("/etc/outboxd/out/here", "")]);
    root.ok(&["migrate"]);
    root.ok(&["route", "apply"]);
    let backlog = format!(
        "INSERT INTO outbox.message (type, payload)
         SELECT 'order.created', jsonb_build_object('order_id', n) FROM generate_series(1, {BACKLOG}) n"
    );
    client.batch_execute(&backlog).await.unwrap();
    client
        .batch_execute("INSERT INTO outbox.message (type, payload) VALUES ('file', '{}')")
        .await
        .unwrap();

    let mut first = root.start(&["prlimit", LIMIT], &["run"]).await;
    assert_eq!(first.status("NSpid").split_whitespace().last(), Some("1"));
    if rustix::process::geteuid().is_root() {
        assert_eq!(first.status("Uid").split_whitespace().collect::<Vec<_>>(), [USER; 4]);
        assert_eq!(first.status("CapEff"), "0000000000000000");
    }
    peer.until(|peer| peer.requests() > 5_000).await;
    first.until_log("Read-only file system").await;
    assert!(first.log().contains("cannot write in /etc/outboxd/out"), "{}", first.log());
    assert_eq!(first.children(), [] as [u32; 0]);
    let peak = first.peak_megabytes();
    eprintln!("{peak} MB with {BACKLOG} waiting");

    let told = Instant::now();
    first.signal(Signal::TERM);
    assert_eq!(first.ended().await, Some(0));
    assert!(told.elapsed() < Duration::from_secs(20), "within its grace");
    let done = "SELECT count(*) FROM outbox.ledger WHERE sink = 'crm'";
    let done = number(&client, done).await;
    assert_eq!(i64::try_from(peer.requests()).unwrap(), done, "nothing was cut short");
    let open = "SELECT count(*) FROM outbox.delivery WHERE sink = 'crm'";
    // That of the file is everybody's, too.
    assert_eq!(number(&client, open).await, BACKLOG + 1 - done);

    let gate = Gate::new();
    peer.always(Answer::Gated(gate.clone(), Box::new(Answer::status(204))));
    let mut first = root.start(&[], &["run"]).await;
    peer.until(|peer| peer.at_once() > 0).await;
    first.signal(Signal::TERM);
    first.until_log("SIGTERM: draining").await;
    until_count(&client, "it drains", "SELECT count(*) FROM outbox.relay WHERE draining", 1).await;
    first.signal(Signal::INT);
    let told = Instant::now();
    assert_eq!(first.ended().await, Some(0));
    assert!(told.elapsed() < Duration::from_secs(10), "it did not wait for the answers");
    assert!(first.log().contains("SIGINT: cutting short"), "{}", first.log());
}

/// The relay is not the only one that may be told to stop: a migration can wait for a lock.
#[tokio::test(flavor = "multi_thread")]
async fn as_the_first_process_every_command_obeys_a_signal() {
    if !is_inside("deploy::first::as_the_first_process_every_command_obeys_a_signal") {
        return;
    }
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = Cluster::tcp_url(server.local_addr().unwrap().port(), "shop");
    let root = Root::new(&[(CONFIG, &toml(&url, "", "[[routes]]\ntype = \"*\"\nsink = []\n"))]);
    for (signal, words) in [(Signal::TERM, "SIGTERM"), (Signal::INT, "SIGINT")] {
        let mut first = root.start(&[], &["migrate"]).await;
        let (_silent, _) = tokio::time::timeout(LONG, server.accept()).await.unwrap().unwrap();
        first.signal(signal);
        assert_eq!(first.ended().await, Some(1));
        let said = format!("outboxd: {words}: ended before it was done");
        assert!(first.log().contains(&said), "{}", first.log());
    }
}
