//! The main job: a committed row becomes a request, and a rolled-back one does not.

use crate::harness::http::HttpPeer;
use crate::harness::plane::{until_closed, until_routed};
use crate::harness::postgres::Database;
use crate::harness::relay::{Relay, config, crm};

#[tokio::test(flavor = "multi_thread")]
async fn a_committed_row_is_delivered_and_a_rolled_back_one_is_not() {
    let database = Database::migrated().await;
    let peer = HttpPeer::start().await;
    let relay = Relay::start(config(&database.url(), &crm(&peer.url("/hooks"), "")));
    let mut producer = database.connect().await;
    until_routed(&producer).await;
    for (payload, commit) in [("{\"n\": 1}", false), ("{\"n\":   2.50}", true)] {
        let transaction = producer.transaction().await.unwrap();
        let insert =
            "INSERT INTO outbox.message (type, payload) VALUES ('order.created', $1::text::jsonb)";
        transaction.execute(insert, &[&payload]).await.unwrap();
        if commit {
            transaction.commit().await.unwrap();
        } else {
            transaction.rollback().await.unwrap();
        }
    }
    until_closed(&producer).await;
    relay.stop().await;
    let requests = peer.received();
    assert_eq!(requests.len(), 1);
    assert_eq!(requests[0].body, b"{\"n\": 2.50}", "the text PostgreSQL gives for the jsonb");
    assert_eq!(requests[0].header("webhook-id"), Some("msg_shop_2_crm"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_while_no_relay_ran_is_delivered_after_a_restart() {
    let database = Database::migrated().await;
    let peer = HttpPeer::start().await;
    let text = crm(&peer.url("/hooks"), "");
    let producer = database.connect().await;
    let insert = "INSERT INTO outbox.message (type, payload) \
                  SELECT 'order.created', jsonb_build_object('n', g) FROM generate_series(1, 100) g";
    // Unrouted at first: nobody has mirrored a route yet. The second time the routes stand.
    for round in 1..=2 {
        producer.execute(insert, &[]).await.unwrap();
        let relay = Relay::start(config(&database.url(), &text));
        until_closed(&producer).await;
        relay.stop().await;
        assert_eq!(peer.requests(), round * 100);
    }
}
