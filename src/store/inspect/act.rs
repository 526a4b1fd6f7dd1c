//! What people do at a prompt: send a message, try dead deliveries again.

use jiff::Timestamp;
use tokio_postgres::types::Type;

use crate::store::error::StoreError;
use crate::store::link::Link;

/// A message to send, as a producer would.
#[derive(Clone, Default)]
pub struct NewMessage {
    /// Its type.
    pub message_type: String,
    /// JSON, as it was written.
    pub payload: String,
    /// Orders deliveries.
    pub key: Option<String>,
    /// Not before.
    pub due_at: Option<Timestamp>,
    /// Or so many milliseconds from now, by the database's clock.
    pub due_in_ms: Option<i64>,
    /// Not after.
    pub expires_at: Option<Timestamp>,
    /// A second message of the type with the same one is a duplicate.
    pub dedupe_key: Option<String>,
    /// A JSON object of strings.
    pub headers: Option<String>,
}

/// A page of a sink's dead deliveries, tried again.
#[derive(Clone, Debug)]
pub struct RetriedPage {
    /// The last delivery of the page: where the next one begins.
    pub last: (i64, String),
    /// How many are pending now.
    pub retried: u64,
}

/// Sends a message; answers its id.
///
/// # Errors
/// When the database cannot be asked or does not take the message.
pub async fn send(link: &Link, message: &NewMessage) -> Result<i64, StoreError> {
    let params = [
        (&message.message_type as _, Type::TEXT),
        (&message.payload as _, Type::TEXT),
        (&message.key as _, Type::TEXT),
        (&message.due_at as _, Type::TIMESTAMPTZ),
        (&message.due_in_ms as _, Type::INT8),
        (&message.expires_at as _, Type::TIMESTAMPTZ),
        (&message.dedupe_key as _, Type::TEXT),
        (&message.headers as _, Type::TEXT),
    ];
    Ok(link.row("send", &link.queries().send, &params).await?.get("message_id"))
}

/// Makes dead deliveries of one message pending again; answers the sink and target of each.
///
/// # Errors
/// When the database cannot be asked.
pub async fn retry_message(
    link: &Link,
    message_id: i64,
    sink: Option<&str>,
    target: Option<&str>,
    actor: &str,
) -> Result<Vec<(String, String)>, StoreError> {
    let params = [
        (&message_id as _, Type::INT8),
        (&sink as _, Type::TEXT),
        (&target as _, Type::TEXT),
        (&actor as _, Type::TEXT),
    ];
    let rows = link.rows("retry a message", &link.queries().retry_message, &params).await?;
    Ok(rows.iter().map(|row| (row.get("sink"), row.get("target"))).collect())
}

/// Makes the next dead deliveries of a sink pending again; none when there are no more.
///
/// # Errors
/// When the database cannot be asked.
pub async fn retry_sink(
    link: &Link,
    sink: &str,
    after: &(i64, String),
    limit: i64,
    actor: &str,
) -> Result<Option<RetriedPage>, StoreError> {
    let params = [
        (&sink as _, Type::TEXT),
        (&after.0 as _, Type::INT8),
        (&after.1 as _, Type::TEXT),
        (&limit as _, Type::INT8),
        (&actor as _, Type::TEXT),
    ];
    let rows = link.rows("retry a sink", &link.queries().retry_sink, &params).await?;
    let retried = rows.iter().filter(|row| row.get("applied")).count() as u64;
    Ok(rows
        .last()
        .map(|row| RetriedPage { last: (row.get("message_id"), row.get("target")), retried }))
}

/// Enters a row for each of these sinks, as a starting relay does: names and kinds.
///
/// # Errors
/// When the database cannot be asked.
pub async fn enter_sinks(link: &Link, names: &[&str], kinds: &[&str]) -> Result<(), StoreError> {
    let params = [(&names as _, Type::TEXT_ARRAY), (&kinds as _, Type::TEXT_ARRAY)];
    link.execute("enter the sinks", &link.queries().add_sinks, &params).await.map(drop)
}
