//! The routing trigger, which every producer pays for.

use std::time::{Duration, Instant};

use crate::harness::plane::number;
use crate::harness::postgres::Database;

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
