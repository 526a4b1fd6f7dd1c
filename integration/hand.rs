//! What a relay holds in memory: rows fetched and keys with a head.

use crate::harness::http::HttpPeer;
use crate::harness::plane::{message_ids, until_closed, until_routed};
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
