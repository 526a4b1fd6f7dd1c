//! The main job: a committed row becomes a request, and a rolled-back one does not.

use std::time::Duration;

use crate::harness::eventually;
use crate::harness::http::{Answer, HttpPeer};
use crate::harness::postgres::Database;
use crate::harness::relay::{Relay, config, crm};

const LONG: Duration = Duration::from_secs(30);

/// Waits until nothing is open any more.
pub async fn all_closed(database: &Database) {
    let client = database.connect().await;
    eventually("every delivery is closed", LONG, async || {
        let row = client
            .query_one("SELECT count(*), coalesce(string_agg(DISTINCT state || ' ' || coalesce(reason, ''), '; '), '') FROM outbox.delivery", &[])
            .await
            .map_err(|e| e.to_string())?;
        match row.get::<_, i64>(0) {
            0 => Ok(()),
            open => Err(format!("{open} open: {}", row.get::<_, String>(1))),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_committed_row_is_delivered_and_a_rolled_back_one_is_not() {
    let database = Database::migrated().await;
    let peer = HttpPeer::start().await;
    let relay = Relay::start(config(&database.url(), &crm(&peer.url("/hooks"), "")));
    let mut producer = database.connect().await;
    eventually("routes are in force", LONG, async || {
        let count: i64 = producer
            .query_one("SELECT count(*) FROM outbox.route", &[])
            .await
            .map_err(|e| e.to_string())?
            .get(0);
        if count == 1 { Ok(()) } else { Err(format!("{count} routes")) }
    })
    .await;
    let transaction = producer.transaction().await.unwrap();
    transaction
        .execute(
            "INSERT INTO outbox.message (type, payload) VALUES ('order.created', '{\"n\": 1}')",
            &[],
        )
        .await
        .unwrap();
    transaction.rollback().await.unwrap();
    let transaction = producer.transaction().await.unwrap();
    transaction
        .execute("INSERT INTO outbox.message (type, payload) VALUES ('order.created', '{\"n\":   2.50}')", &[])
        .await
        .unwrap();
    transaction.commit().await.unwrap();

    all_closed(&database).await;
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
    let insert = "INSERT INTO outbox.message (type, payload) SELECT 'order.created', jsonb_build_object('n', g) FROM generate_series(1, 100) g";
    producer.execute(insert, &[]).await.unwrap();

    // Unrouted first: nobody has mirrored a route yet.
    let relay = Relay::start(config(&database.url(), &text));
    all_closed(&database).await;
    relay.stop().await;
    assert_eq!(peer.requests(), 100);

    producer.execute(insert, &[]).await.unwrap();
    peer.always(Answer::status(204));
    let relay = Relay::start(config(&database.url(), &text));
    all_closed(&database).await;
    relay.stop().await;
    assert_eq!(peer.requests(), 200);
}
