//! Several relays: how they share the sinks out, and what a hand-over costs.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use outboxd::store::{Link, Target, own};
use tokio_postgres::Client;

use crate::harness::eventually;
use crate::harness::http::{Answer, Gate, HttpPeer};
use crate::harness::plane::{LONG, message_ids, number, send, until_closed, until_count};
use crate::harness::postgres::Database;
use crate::harness::relay::{Process, Relay, config, toml};

/// Webhook sinks of these names, each taking the type of its name.
fn sinks(peer: &HttpPeer, names: &[&str]) -> String {
    let mut toml = String::new();
    for name in names {
        write!(
            toml,
            "[sinks.{name}]\nkind = \"webhook\"\nurl = \"{}\"\n[[routes]]\ntype = \"{name}\"\nsink = \"{name}\"\n",
            peer.url("/")
        )
        .unwrap();
    }
    toml
}

/// How many sinks each owner has, the most first.
async fn shares(client: &Client) -> Vec<i64> {
    let sql =
        "SELECT count(*) FROM outbox.sink WHERE owner IS NOT NULL GROUP BY owner ORDER BY 1 DESC";
    client.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

async fn until_shares(client: &Client, wanted: &[i64]) {
    eventually("the sinks are shared out", LONG, async || {
        let shares = shares(client).await;
        if shares == wanted { Ok(()) } else { Err(format!("{shares:?} instead of {wanted:?}")) }
    })
    .await;
}

async fn owner(client: &Client, sink: &str) -> Option<String> {
    client
        .query_one("SELECT owner FROM outbox.sink WHERE name = $1", &[&sink])
        .await
        .unwrap()
        .get(0)
}

/// Sum of all epochs: it rises with every sink that changes hands.
async fn epochs(client: &Client) -> i64 {
    number(client, "SELECT sum(epoch)::bigint FROM outbox.sink").await
}

/// Sends to each sink in turn until stopped; answers how many messages.
fn produce(
    client: Client,
    names: &'static [&'static str],
    stop: tokio_util::sync::CancellationToken,
) -> tokio::task::JoinHandle<usize> {
    tokio::spawn(async move {
        let mut sent = 0;
        while !stop.is_cancelled() {
            send(&client, names[sent % names.len()], "{}").await;
            sent += 1;
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        sent
    })
}

const RELAY: &str = "lease = \"2s\"\ngrace = \"10s\"";
const SEVEN: &[&str] = &["s1", "s2", "s3", "s4", "s5", "s6", "s7"];

#[tokio::test(flavor = "multi_thread")]
async fn three_relays_share_seven_sinks_and_every_change_of_hands_is_clean() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let peer = HttpPeer::start().await;
    peer.always(Answer::Delayed(Duration::from_millis(20), Box::new(Answer::status(200))));
    let start = || Relay::start(config(&database.url(), &sinks(&peer, SEVEN)));
    let process = || Process::start(&toml(&database.url(), RELAY, &sinks(&peer, SEVEN)));
    let first = start();
    until_shares(&client, &[7]).await;
    let stop = tokio_util::sync::CancellationToken::new();
    let producing = produce(database.connect().await, SEVEN, stop.clone());
    let (second, third) = (process(), start());
    until_shares(&client, &[3, 2, 2]).await;
    // Only what had to move has moved.
    assert_eq!(epochs(&client).await, 7 + 4);
    // Five beats, in which nothing happens.
    tokio::time::sleep(Duration::from_millis(3_400)).await;
    assert_eq!((epochs(&client).await, shares(&client).await), (7 + 4, vec![3, 2, 2]));

    let fourth = start();
    until_shares(&client, &[2, 2, 2, 1]).await;
    assert_eq!(epochs(&client).await, 7 + 4 + 1);
    fourth.stop().await;
    until_shares(&client, &[3, 2, 2]).await;
    first.stop().await;
    until_shares(&client, &[4, 3]).await;
    stop.cancel();
    let sent = producing.await.unwrap();
    until_closed(&client).await;
    let ids = message_ids(&peer.received());
    let distinct: std::collections::BTreeSet<i64> = ids.iter().copied().collect();
    assert_eq!((distinct.len(), ids.len()), (sent, sent), "nothing lost, nothing repeated");

    // The lease is 2 s, and the others look three times in it.
    let begun = Instant::now();
    second.kill();
    until_shares(&client, &[7]).await;
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    third.stop().await;
}

/// One sink at a time, by draining it: what is in flight ends in peace, and the others go on meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_sink_is_given_up_by_draining_it_and_no_other_with_it() {
    const FOUR: &[&str] = &["s1", "s2", "s3", "s4"];
    let database = Database::migrated().await;
    let client = database.connect().await;
    let peer = HttpPeer::start().await;
    let gate = Gate::new();
    peer.always(Answer::Gated(gate.clone(), Box::new(Answer::status(200))));
    let rest = sinks(&peer, FOUR).replace("[[routes]]", "concurrency = 100\n[[routes]]");
    let start = || Relay::start(config(&database.url(), &rest));
    let first = start();
    until_shares(&client, &[4]).await;
    for sink in FOUR {
        send(&client, sink, "{}").await;
    }
    peer.until(|peer| peer.requests() == 4).await;
    let second = start();
    let mut sent = 4;
    eventually("one sink starts nothing new and the three others do", LONG, async || {
        let before = peer.requests();
        for sink in FOUR {
            send(&client, sink, "{}").await;
        }
        sent += 4;
        peer.until(|peer| peer.requests() >= before + 3).await;
        // Time enough for the fourth, if it is to come.
        tokio::time::sleep(Duration::from_millis(300)).await;
        match peer.requests() - before {
            3 => Ok(()),
            started => Err(format!("{started} of 4 started")),
        }
    })
    .await;
    assert_eq!(shares(&client).await, [4], "it has its owner until the attempt has ended");
    gate.open();
    until_shares(&client, &[2, 2]).await;
    until_closed(&client).await;
    assert_eq!((peer.requests(), epochs(&client).await), (sent, 6), "nothing was cut short");
    first.stop().await;
    second.stop().await;
}

/// A relay that never gets to its third heartbeat gets nothing that works, neither while it lives
/// nor while its lease runs out.
#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_crashes_again_and_again_takes_nothing_from_the_others() {
    const FOUR: &[&str] = &["s1", "s2", "s3", "s4"];
    let database = Database::migrated().await;
    let client = database.connect().await;
    let peer = HttpPeer::start().await;
    let start = || Relay::start(config(&database.url(), &sinks(&peer, FOUR)));
    let (first, second) = (start(), start());
    until_shares(&client, &[2, 2]).await;
    let before = epochs(&client).await;
    let stop = tokio_util::sync::CancellationToken::new();
    let producing = produce(database.connect().await, FOUR, stop.clone());
    for crashes in 1..=4 {
        let third = Process::start(&toml(&database.url(), RELAY, &sinks(&peer, FOUR)));
        let entered = "SELECT count(*) FROM outbox.relay";
        until_count(&client, "it is entered", entered, 2 + crashes).await;
        // Two beats, and not the third.
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        third.kill();
    }
    let live = "SELECT count(*) FROM outbox.relay WHERE heartbeat_at > clock_timestamp() - lease";
    until_count(&client, "the last lease has run out", live, 2).await;
    stop.cancel();
    producing.await.unwrap();
    until_closed(&client).await;
    assert_eq!(epochs(&client).await, before, "no sink changed hands");
    let slowest = "SELECT (max(extract(epoch FROM l.closed_at - m.created_at)) * 1000)::bigint
                     FROM outbox.ledger l JOIN outbox.message m ON m.id = l.message_id";
    let slowest = number(&client, slowest).await;
    assert!(slowest < 1_500, "a message took {slowest} ms");
    first.stop().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn relays_with_different_sinks_share_what_both_know() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let peer = HttpPeer::start().await;
    let first =
        Relay::start(config(&database.url(), &sinks(&peer, &["only-a1", "only-a2", "x", "y"])));
    until_shares(&client, &[4]).await;
    let a = owner(&client, "x").await;
    let second = Relay::start(config(&database.url(), &sinks(&peer, &["only-b", "x", "y"])));
    // At once, because nobody else could work it.
    until_shares(&client, &[4, 1]).await;
    until_shares(&client, &[3, 2]).await;
    let before = epochs(&client).await;
    tokio::time::sleep(Duration::from_millis(2_000)).await;
    assert_eq!(epochs(&client).await, before);
    let mut owners = BTreeMap::new();
    for sink in ["only-a1", "only-a2", "only-b"] {
        owners.insert(sink, owner(&client, sink).await == a);
    }
    assert_eq!(owners, BTreeMap::from([("only-a1", true), ("only-a2", true), ("only-b", false)]));
    // What only the second knows waits for it.
    second.stop().await;
    until_shares(&client, &[4]).await;
    assert_eq!(owner(&client, "only-b").await, None);
    first.stop().await;
}

/// A sink whose plan comes to nothing is worked all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_sink_that_its_relay_does_not_take_is_taken_by_another_and_kept() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let peer = HttpPeer::start().await;
    // Ripe, alive and idle: the plan gives it one of the two. Of equals it means the first by id.
    client
        .batch_execute(
            "INSERT INTO outbox.relay (id, started_at, lease, host, pid, version, routes_hash, sinks)
             VALUES ('!idle', clock_timestamp() - interval '2 h', '1 h', 'h', 1, 'v', 'r', '{s1,s2}')",
        )
        .await
        .unwrap();
    let relay = Relay::start(config(&database.url(), &sinks(&peer, &["s1", "s2"])));
    until_shares(&client, &[2]).await;
    // Two leases, in which the plan goes on to speak against it.
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(epochs(&client).await, 2);
    relay.stop().await;
}

/// Who could work a sink is read from what relays have shown, not from what time has passed.
#[tokio::test(flavor = "multi_thread")]
async fn relays_that_live_and_stay_and_know_a_sink_could_work_it() {
    let database = Database::migrated().await;
    let settings = config(&database.url(), "");
    let link = Link::new(Target::new(&settings.database));
    own::add_sinks(&link, &[("crm".to_owned(), "webhook".to_owned())]).await.unwrap();
    let client = database.connect().await;
    // Seconds since start and since the last beat, with a lease of 10 s.
    for (id, started, beat, sinks, draining) in [
        ("ripe", 60, 1, "{crm,other}", false),
        ("third-beat", 10, 0, "{crm}", false),
        ("second-beat", 7, 0, "{crm}", false),
        ("crashed-after-two", 16, 9, "{crm}", false),
        ("silent", 60, 11, "{crm}", false),
        ("draining", 60, 1, "{crm}", true),
        ("ignorant", 60, 1, "{other}", false),
    ] {
        let entry = format!(
            "INSERT INTO outbox.relay (id, started_at, heartbeat_at, lease, host, pid, version,
               routes_hash, sinks, draining)
             VALUES ('{id}', clock_timestamp() - interval '{started} s',
             clock_timestamp() - interval '{beat} s', '10 s', 'h', 1, 'v', 'r', '{sinks}', {draining})"
        );
        client.batch_execute(&entry).await.unwrap();
    }
    let seen = own::sinks(&link).await.unwrap().remove(0);
    assert_eq!(seen.ripe, ["ripe", "third-beat"]);
    assert_eq!(seen.young, ["crashed-after-two", "second-beat"]);
    assert!(!seen.alive);
    for (owner, alive) in [("draining", true), ("ripe", true), ("silent", false), ("gone", false)] {
        client.execute("UPDATE outbox.sink SET owner = $1", &[&owner]).await.unwrap();
        assert_eq!(own::sinks(&link).await.unwrap()[0].alive, alive, "{owner}");
    }
}

/// Whoever takes a sink over hears whether it was left in order.
#[tokio::test(flavor = "multi_thread")]
async fn a_take_over_tells_who_fell_silent() {
    let database = Database::migrated().await;
    let settings = config(&database.url(), "");
    let link = Link::new(Target::new(&settings.database));
    own::add_sinks(&link, &[("crm".to_owned(), "webhook".to_owned())]).await.unwrap();
    let seen = async || own::sinks(&link).await.unwrap().remove(0);
    let stale = seen().await;
    let taken = own::take_over(&link, "a", &stale).await.unwrap().unwrap();
    assert_eq!((taken.epoch, taken.former), (1, None), "nobody had it");
    assert!(own::take_over(&link, "b", &stale).await.unwrap().is_none(), "another was faster");
    let stale = seen().await;
    let taken = own::take_over(&link, "b", &stale).await.unwrap().unwrap();
    assert_eq!((taken.epoch, taken.former.as_deref()), (2, Some("a")));
    let before = seen().await;
    own::hand_over(&link, "b", "crm", 2).await.unwrap();
    // Also where it is handed over between the look and the take-over.
    let taken = own::take_over(&link, "c", &before).await.unwrap().unwrap();
    assert_eq!((taken.epoch, taken.former), (3, None));
}
