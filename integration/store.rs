//! The connections to the database.

use std::sync::Arc;
use std::time::Duration;

use outboxd::store::{Link, Target};

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
