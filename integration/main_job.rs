//! The main job: a committed row becomes a request, and a rolled-back one does not.

use std::path::Path;

use outboxd::config::Config;
use outboxd::store::Target;
use outboxd::store::migrate::migrate;

use crate::harness::http::HttpPeer;
use crate::harness::plane::{until_closed, until_count, until_routed};
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

/// The same in a schema whose name is a keyword: statements, roles, locks and bells.
#[tokio::test(flavor = "multi_thread")]
async fn another_schema_works_alike() {
    let database = Database::fresh().await;
    let peer = HttpPeer::start().await;
    let text = format!(
        "[database]\nurl = \"{}\"\nschema = \"order\"\ninstallation = \"shop\"\n{}",
        database.url(),
        crm(&peer.url("/"), "")
    );
    let settings = || Config::parse(&text, Path::new("test.toml"), &|_| None).expect("it parses");
    let target = Target::new(&settings().database);
    migrate(&target, &settings().database).await.unwrap();
    let relay = Relay::start(settings());
    let client = database.connect().await;
    let routes = "SELECT count(*) FROM \"order\".route WHERE sink <> ''";
    until_count(&client, "routes are in force", routes, 1).await;
    let asleep = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted
                   AND mode = 'ExclusiveLock'
                   AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    for sent in 1..=2 {
        until_count(&client, "the sink sleeps", asleep, 1).await;
        let begun = std::time::Instant::now();
        client.batch_execute("SELECT \"order\".send('t', '{}', key => 'k')").await.unwrap();
        peer.until(|peer| peer.requests() == sent).await;
        assert!(begun.elapsed() < std::time::Duration::from_secs(3), "its bell rang");
    }
    until_count(&client, "all is closed", "SELECT count(*) FROM \"order\".delivery", 0).await;
    relay.stop().await;
}
