//! What tests ask the data plane.

use std::time::Duration;

use tokio_postgres::Client;

use super::eventually;

/// A limit that is reached only where a test fails.
pub const LONG: Duration = Duration::from_secs(60);

/// One number.
pub async fn number(client: &Client, sql: &str) -> i64 {
    client.query_one(sql, &[]).await.unwrap_or_else(|e| panic!("{sql}: {e:?}")).get(0)
}

/// Waits until a count is what it should be.
pub async fn until_count(client: &Client, what: &str, sql: &str, wanted: i64) {
    eventually(what, LONG, async || match number(client, sql).await {
        count if count == wanted => Ok(()),
        count => Err(format!("{count} instead of {wanted}")),
    })
    .await;
}

/// Waits until nothing is open any more.
pub async fn until_closed(client: &Client) {
    let sql = "SELECT count(*), coalesce(string_agg(DISTINCT state || ' ' || coalesce(reason, ''), '; '), '')
                 FROM outbox.delivery";
    eventually("every delivery is closed", LONG, async || {
        let row = client.query_one(sql, &[]).await.map_err(|e| e.to_string())?;
        match row.get::<_, i64>(0) {
            0 => Ok(()),
            open => Err(format!("{open} open: {}", row.get::<_, String>(1))),
        }
    })
    .await;
}

/// Waits until routes are in force: from then on nothing is unrouted.
pub async fn until_routed(client: &Client) {
    eventually("routes are in force", LONG, async || {
        match number(client, "SELECT count(*) FROM outbox.route").await {
            0 => Err("no routes".to_owned()),
            _ => Ok(()),
        }
    })
    .await;
}

/// Commits a message, and answers its id.
pub async fn send(client: &Client, message_type: &str, payload: &str) -> i64 {
    let sql =
        "INSERT INTO outbox.message (type, payload) VALUES ($1, $2::text::jsonb) RETURNING id";
    client.query_one(sql, &[&message_type, &payload]).await.expect("send").get(0)
}

/// Commits a keyed message, and answers its id.
pub async fn send_keyed(client: &Client, message_type: &str, key: &str) -> i64 {
    let sql = "INSERT INTO outbox.message (type, payload, key) VALUES ($1, '{}', $2) RETURNING id";
    client.query_one(sql, &[&message_type, &key]).await.expect("send").get(0)
}

/// The message ids in `webhook-id` headers, in order of arrival.
pub fn message_ids(requests: &[super::http::Received]) -> Vec<i64> {
    let id = |r: &super::http::Received| {
        let id = r.header("webhook-id").expect("every request has its id");
        id.split('_').nth(2).and_then(|id| id.parse().ok()).expect("msg_<installation>_<id>_<sink>")
    };
    requests.iter().map(id).collect()
}
