//! The connections to the database.

use std::sync::Arc;
use std::time::Duration;

use outboxd::store::work::{DeliveredSettlement, settle_delivered};
use outboxd::store::{Link, Target};

use crate::harness::plane::until_count;
use crate::harness::postgres::Database;
use crate::harness::relay::config;

/// A statement that must go through its index travels within a read-only transaction of its own.
/// Others that share the connection must not get in between: they would be refused, or take the
/// settings from it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn statements_that_share_a_connection_stay_out_of_each_others_transactions() {
    let database = Database::migrated().await;
    let link = Arc::new(Link::new(Target::new(&config(&database.url(), "").database)));
    let end = tokio::time::Instant::now() + Duration::from_secs(3);
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let reader = Arc::clone(&link);
        callers.spawn(async move {
            while tokio::time::Instant::now() < end {
                let sql = "SELECT current_setting('enable_seqscan') AS setting";
                let rows = reader.rows_by_index("read", sql, &[]).await.expect("read");
                assert_eq!(rows[0].get::<_, &str>("setting"), "off");
            }
        });
        let writer = Arc::clone(&link);
        callers.spawn(async move {
            while tokio::time::Instant::now() < end {
                let sql = "UPDATE outbox.installation SET created_at = clock_timestamp()";
                writer.execute("write", sql, &[]).await.expect("write");
            }
        });
    }
    callers.join_all().await;
}

/// A settlement whose reply was lost is repeated, perhaps while the server is still at the first one.
#[tokio::test(flavor = "multi_thread")]
async fn a_settlement_repeated_while_the_first_still_runs_is_recorded_once() {
    let database = Database::migrated().await;
    let mut client = database.connect().await;
    let watcher = database.connect().await;
    client
        .batch_execute(
            "INSERT INTO outbox.message (type, payload) VALUES ('t', '{}'), ('t', '{}');
             DELETE FROM outbox.delivery;
             INSERT INTO outbox.delivery (message_id, sink, due_at) VALUES (1, 'crm', now())",
        )
        .await
        .unwrap();
    let settlement = |message_id| DeliveredSettlement {
        message_id,
        target: String::new(),
        round: 1,
        attempt: 1,
        receipt: "HTTP 200 OK".to_owned(),
    };
    let first = client.transaction().await.unwrap();
    let sql = include_str!("../sql/queries/settle_delivered.sql");
    let (ids, targets, receipts) = (vec![1_i64], vec![""], vec!["HTTP 200 OK"]);
    first
        .query(sql, &[&"crm", &ids, &targets, &vec![1_i32], &receipts, &vec![1_i32]])
        .await
        .unwrap();

    let link = Link::new(Target::new(&config(&database.url(), "").database));
    let again = [settlement(1), settlement(2)];
    let again = tokio::spawn(async move { settle_delivered(&link, "crm", &again).await });
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
                    AND wait_event_type = 'Lock'";
    until_count(&watcher, "the repeat waits for the first", waiting, 1).await;
    first.commit().await.unwrap();
    assert_eq!(again.await.unwrap().unwrap(), [], "both rows are gone");
    let recorded = "SELECT count(*) FROM outbox.ledger WHERE message_id = $1::bigint";
    for message in [1_i64, 2] {
        let times: i64 = watcher.query_one(recorded, &[&message]).await.unwrap().get(0);
        assert_eq!(times, 1, "message {message}");
    }
}
