//! What a relay holds in memory: rows fetched and keys with a head.

use std::time::Duration;

use crate::harness::http::{Answer, HttpPeer};
use crate::harness::plane::{LONG, message_ids, send, until_closed, until_count, until_routed};
use crate::harness::postgres::{Cluster, Database};
use crate::harness::proxy::{self, Proxy};
use crate::harness::relay::{Relay, config, crm};

/// A look that fails in the middle has brought rows already. They must not stay in hand: nobody
/// would start them, and every later fetch would pass them over.
#[tokio::test(flavor = "multi_thread")]
async fn a_look_that_fails_in_the_middle_leaves_no_row_behind() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let wire = Proxy::start(proxy::Target::Unix(Cluster::shared().socket())).await;
    let url = Cluster::tcp_url(wire.port(), database.name());
    let peer = HttpPeer::start().await;
    let relay = Relay::start(config(&url, &crm(&peer.url("/"), "")));
    until_routed(&client).await;
    // The fetch brings both; then the key index is asked who is the head of "k".
    wire.hold_replies_after(b"AS k (target, key)\n CROSS JOIN LATERAL");
    client
        .batch_execute(
            "INSERT INTO outbox.message (type, payload, key) VALUES ('t', '{}', NULL), ('t', '{}', 'k')",
        )
        .await
        .unwrap();
    wire.snared().await;
    wire.cut().await;
    wire.resume();
    until_closed(&client).await;
    relay.stop().await;
    let mut ids = message_ids(&peer.received());
    ids.sort_unstable();
    assert_eq!(ids, [1, 2]);
}

/// A full poll asks for hundreds of parked keys at once; their heads start as far as there is room.
#[tokio::test(flavor = "multi_thread")]
async fn parked_heads_that_fall_due_together_keep_to_the_concurrency() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let peer = HttpPeer::start().await;
    peer.always(Answer::status(500));
    let rest =
        crm(&peer.url("/"), "concurrency = 2").replace("\"100ms\", \"100ms\", \"100ms\"", "\"1h\"");
    let relay = Relay::start(config(&database.url(), &rest));
    until_routed(&client).await;
    client
        .batch_execute(
            "INSERT INTO outbox.message (type, payload, key)
             SELECT 't', '{}', 'key ' || n FROM generate_series(1, 40) AS n",
        )
        .await
        .unwrap();
    let parked = "SELECT count(*) FROM outbox.delivery WHERE attempt = 1";
    until_count(&client, "every head waits for its retry", parked, 40).await;
    peer.always(Answer::Delayed(Duration::from_millis(100), Box::new(Answer::status(200))));
    client
        .batch_execute("UPDATE outbox.delivery SET due_at = clock_timestamp(), rev = rev + 1")
        .await
        .unwrap();
    until_closed(&client).await;
    relay.stop().await;
    assert!(peer.peak_at_once() <= 2, "{} at once", peer.peak_at_once());
}

/// More parked keys than are remembered: their followers, which fall due before everything else,
/// must not fill every fetch.
#[tokio::test(flavor = "multi_thread")]
async fn more_parked_keys_than_are_remembered_hold_up_nobody() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let peer = HttpPeer::start().await;
    let rest = crm(&peer.url("/"), "");
    let relay = Relay::start(config(&database.url(), &rest));
    until_routed(&client).await;
    relay.stop().await;
    // Heads that are dead, each with a follower.
    client
        .batch_execute(
            "INSERT INTO outbox.message (type, payload, key)
             SELECT 't', '{}', 'key ' || n FROM generate_series(1, 1200) AS n;
             UPDATE outbox.delivery SET state = 'dead', rev = rev + 1, due_at = 'infinity', reason = 'no';
             INSERT INTO outbox.message (type, payload, key)
             SELECT 't', '{}', 'key ' || n FROM generate_series(1, 1200) AS n;",
        )
        .await
        .unwrap();
    let last = send(&client, "t", "{}").await;
    let relay = Relay::start(config(&database.url(), &rest));
    let until = async |count| {
        let arrived = peer.until(|peer| peer.requests() == count);
        tokio::time::timeout(LONG, arrived).await.expect("the fetch gets past the followers");
    };
    until(1).await;
    assert_eq!(message_ids(&peer.received()), [last]);
    // Heads that are given up make way for their followers, remembered or not.
    let give_up = "DELETE FROM outbox.delivery WHERE message_id IN (1, 1190, 1200)";
    client.batch_execute(give_up).await.unwrap();
    until(4).await;
    relay.stop().await;
    let mut ids = message_ids(&peer.received());
    ids.sort_unstable();
    assert_eq!(ids, [1_201, 2_390, 2_400, last]);
}
