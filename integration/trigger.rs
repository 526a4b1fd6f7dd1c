//! The routing trigger, which every producer pays for.

use std::time::{Duration, Instant};

use crate::harness::http::HttpPeer;
use crate::harness::plane::{number, until_count, until_routed};
use crate::harness::postgres::Database;
use crate::harness::relay::{Relay, config, crm};

/// One statement with tens of thousands of messages that lose to an earlier one costs about as much
/// as one without: the losers are looked up, not compared one by one.
#[tokio::test]
async fn a_bulk_insert_with_many_duplicates_costs_no_more_than_one_without() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    // A pooled session: after a few calls its plans are those that know no parameters.
    for n in 0..8 {
        let few = format!(
            "INSERT INTO outbox.message (type, payload, dedupe_key)
             VALUES ('t', '{{}}', 'first {n}'), ('t', '{{}}', 'first {n}')"
        );
        client.batch_execute(&few).await.unwrap();
    }
    let insert = async |name: &str, keys: i64| -> Duration {
        let many = format!(
            "INSERT INTO outbox.message (type, payload, dedupe_key)
             SELECT 't', '{{}}', '{name} ' || n % {keys} FROM generate_series(1, 60000) AS n"
        );
        let begun = Instant::now();
        client.batch_execute(&many).await.unwrap();
        begun.elapsed()
    };
    let without = insert("distinct", 60_000).await;
    let with = insert("twice", 30_000).await;
    assert!(with < without * 4, "{with:?} with duplicates, {without:?} without");
    assert_eq!(number(&client, "SELECT count(*) FROM outbox.ledger").await, 30_008);
    assert_eq!(number(&client, "SELECT count(*) FROM outbox.delivery").await, 90_008);
}

/// Messages that waited for a route are routed without a pause once it has come.
#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_unrouted_messages_do_not_wait_for_one_look_after_another() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let peer = HttpPeer::start().await;
    peer.count_only();
    client
        .batch_execute(
            "INSERT INTO outbox.message (type, payload) SELECT 't', '{}' FROM generate_series(1, 8000)",
        )
        .await
        .unwrap();
    let begun = Instant::now();
    let relay = Relay::start(config(&database.url(), &crm(&peer.url("/"), "")));
    let unrouted = "SELECT count(*) FROM outbox.delivery WHERE state = 'unrouted'";
    until_count(&client, "all are routed", unrouted, 0).await;
    // A page every two seconds would take sixteen.
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    relay.stop().await;
}

/// Whether producers ring for a sink follows its kind, also while the routes stay as they are.
#[tokio::test(flavor = "multi_thread")]
async fn a_sink_that_becomes_a_webhook_is_rung() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let peer = HttpPeer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let csv = format!(
        "[sinks.crm]\nkind = \"csv\"\npath = \"{}/{{{{ period }}}}.csv\"\nevery = \"1h\"\n\
         columns = [{{ name = \"id\", value = \"id\", as = \"integer\" }}]\n\
         [[routes]]\ntype = \"*\"\nsink = \"crm\"\n",
        folder.path().display()
    );
    let relay = Relay::start(config(&database.url(), &csv));
    until_routed(&client).await;
    relay.stop().await;
    let rung = "SELECT count(bell) FROM outbox.route";
    assert_eq!(number(&client, rung).await, 0, "a file is cut by the clock");
    let relay = Relay::start(config(&database.url(), &crm(&peer.url("/"), "")));
    until_count(&client, "its producers ring", rung, 1).await;
    relay.stop().await;
}

/// Times that no client can read are refused where they are written: one such row would keep every
/// list from being shown.
#[tokio::test]
async fn times_beyond_what_clients_can_read_are_refused() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    for column in ["due_at", "expires_at"] {
        for time in ["infinity", "-infinity", "20000-01-01", "4000-01-01 BC"] {
            let sql = format!(
                "INSERT INTO outbox.message (type, payload, {column}) VALUES ('t', '{{}}', '{time}')"
            );
            let error = client.batch_execute(&sql).await.unwrap_err();
            let constraint = error.as_db_error().and_then(|db| db.constraint());
            assert_eq!(constraint, Some(format!("message_{column}_finite").as_str()), "{time}");
        }
        let sql = format!(
            "INSERT INTO outbox.message (type, payload, {column}) VALUES ('t', '{{}}', '9998-12-31')"
        );
        client.batch_execute(&sql).await.unwrap();
    }
}
