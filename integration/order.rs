//! Order per key where a head cannot be delivered.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::harness::http::{Answer, HttpPeer};
use crate::harness::plane::{
    message_ids, number, send, send_keyed, until_closed, until_count, until_routed,
};
use crate::harness::postgres::Database;
use crate::harness::relay::{Relay, config, crm};

const DEAD: &str = "SELECT count(*) FROM outbox.delivery WHERE state = 'dead'";
const PARKED: &str = "SELECT coalesce(max(parked), 0)::bigint FROM outbox.flow";

/// A peer that wants no message with `{"bad": …}`.
async fn picky() -> HttpPeer {
    let peer = HttpPeer::start().await;
    peer.decide(|request| {
        let is_bad = request.body.starts_with(b"{\"bad\"");
        Answer::status(if is_bad { 410 } else { 200 })
    });
    peer
}

const BAD_HEAD: &str =
    "INSERT INTO outbox.message (type, payload, key) VALUES ('t', '{\"bad\": 1}', 'k')";

/// Guard: a dead head blocks its key, and nothing else, until an operator has dealt with it.
#[tokio::test(flavor = "multi_thread")]
async fn block_parks_the_followers_of_a_dead_head() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let peer = picky().await;
    let relay = Relay::start(config(&database.url(), &crm(&peer.url("/"), "")));
    until_routed(&client).await;
    client.batch_execute(BAD_HEAD).await.unwrap();
    let followers = [send_keyed(&client, "t", "k").await, send_keyed(&client, "t", "k").await];
    let other = send_keyed(&client, "t", "other").await;
    until_count(&client, "the head is dead", DEAD, 1).await;
    until_count(&client, "its key is parked, visibly", PARKED, 1).await;
    let left = "SELECT count(*) FROM outbox.delivery";
    until_count(&client, "the other key is done", left, 3).await;
    let last = send(&client, "t", "{}").await;
    until_count(&client, "so is what has no key", left, 3).await;
    let arrived: BTreeSet<i64> = message_ids(&peer.received()).into_iter().collect();
    assert_eq!(arrived, BTreeSet::from([1, other, last]));

    client.batch_execute("DELETE FROM outbox.delivery WHERE state = 'dead'").await.unwrap();
    until_closed(&client).await;
    relay.stop().await;
    assert_eq!(message_ids(&peer.received())[3..], followers);
}

/// Guard: skip goes on past a dead head, in order.
#[tokio::test(flavor = "multi_thread")]
async fn skip_goes_on_without_a_dead_head() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let peer = picky().await;
    let rest = crm(&peer.url("/"), "order = \"skip\"");
    let relay = Relay::start(config(&database.url(), &rest));
    until_routed(&client).await;
    client.batch_execute(BAD_HEAD).await.unwrap();
    let mut followers = Vec::new();
    for _ in 0..5 {
        followers.push(send_keyed(&client, "t", "k").await);
    }
    let left = "SELECT count(*) FROM outbox.delivery";
    until_count(&client, "only the dead head is left", left, 1).await;
    assert_eq!(message_ids(&peer.received())[1..], followers);
    // The same from nothing, as after a take-over.
    relay.stop().await;
    let relay = Relay::start(config(&database.url(), &rest));
    let next = send_keyed(&client, "t", "k").await;
    until_count(&client, "still only the dead head is left", left, 1).await;
    assert_eq!(message_ids(&peer.received()).last(), Some(&next));
    relay.stop().await;
}

/// Guard: a hundred thousand messages behind a parked head are not walked by every fetch.
#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_behind_a_parked_head_cost_the_others_nothing() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let peer = picky().await;
    let relay = Relay::start(config(&database.url(), &crm(&peer.url("/"), "")));
    until_routed(&client).await;
    client.batch_execute(BAD_HEAD).await.unwrap();
    until_count(&client, "the head is dead", DEAD, 1).await;
    client
        .batch_execute(
            "INSERT INTO outbox.message (type, payload, key)
             SELECT 't', '{}', 'k' FROM generate_series(1, 100000)",
        )
        .await
        .unwrap();
    // Transactions may take ten seconds before the floor leaves them to the full poll: so long every
    // fetch walks what has just been written.
    let young = "SELECT count(*) FROM outbox.delivery
                  WHERE due_at <> 'infinity' AND due_at > clock_timestamp() - interval '11 s'";
    until_count(&client, "the followers are old enough", young, 0).await;
    let walked =
        "SELECT (pg_stat_get_tuples_returned(c.oid) + pg_stat_get_xact_tuples_returned(c.oid))
                    FROM pg_class c WHERE c.oid = 'outbox.delivery_fetch'::regclass";
    let before = number(&client, walked).await;
    let mut took = Vec::new();
    for n in 0..50 {
        let begun = Instant::now();
        let requests = peer.requests();
        if n % 2 == 0 {
            send(&client, "t", "{}").await;
        } else {
            send_keyed(&client, "t", "other").await;
        }
        peer.until(|peer| peer.requests() > requests).await;
        took.push(begun.elapsed());
    }
    took.sort();
    relay.stop().await;
    // What a session counted is told when it ends, or a second after it fell idle.
    let after = number(&client, walked).await;
    println!(
        "median {:?}, slowest {:?}, {} index entries walked",
        took[25],
        took[49],
        after - before
    );
    assert!(took[25] < Duration::from_millis(200), "{:?}", took[25]);
    // Every look that finds nothing else would walk them all: five of them within these seconds, seen
    // without the floor's rise. Pages of the full poll walk 2,000 each, at most one a second.
    assert!(after - before < 250_000, "{} index entries walked", after - before);
    assert_eq!(number(&client, PARKED).await, 1);
}

/// Guard: what waits for a route that has just come is still before what is written after it.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_waited_for_its_route_keeps_its_place() {
    let database = Database::migrated().await;
    let mut client = database.connect().await;
    let peer = HttpPeer::start().await;
    let rest = crm(&peer.url("/"), "");
    let relay = Relay::start(config(&database.url(), &rest));
    until_routed(&client).await;
    relay.stop().await;
    client
        .batch_execute("CREATE TEMP TABLE kept AS TABLE outbox.route; DELETE FROM outbox.route")
        .await
        .unwrap();
    let waiting = send_keyed(&client, "t", "k").await;
    client.batch_execute("INSERT INTO outbox.route TABLE kept").await.unwrap();
    let later = send_keyed(&client, "t", "k").await;
    let other = send_keyed(&client, "t", "other").await;

    // The chore that routes what waited is kept from it.
    let watcher = database.connect().await;
    let hold = client.transaction().await.unwrap();
    hold.batch_execute("SELECT pg_advisory_xact_lock('outbox.route'::regclass::oid::bigint)")
        .await
        .unwrap();
    let relay = Relay::start(config(&database.url(), &rest));
    let kept_back = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";
    until_count(&watcher, "the chore waits", kept_back, 1).await;
    peer.until(|peer| peer.requests() == 1).await;
    until_count(&watcher, "its key is parked", PARKED, 1).await;
    assert_eq!(message_ids(&peer.received()), [other]);
    hold.commit().await.unwrap();
    until_closed(&watcher).await;
    relay.stop().await;
    assert_eq!(message_ids(&peer.received()), [other, waiting, later]);
}
