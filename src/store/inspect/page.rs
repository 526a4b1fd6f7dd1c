//! Deliveries page by page, for what is done to many of them: each page is bounded, walks an index, and
//! begins after the last one.

use jiff::Timestamp;
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::{OpenRow, lanes, open};
use crate::store::error::StoreError;
use crate::store::inspect::status::Count;
use crate::store::link::Link;

/// Rows looked at for one page; each page that changes something is a transaction.
pub const PAGE: i64 = 1_000;

/// The head of a key that cannot be delivered now.
#[derive(Clone, Debug)]
pub struct ParkedRow {
    /// The head.
    pub head: OpenRow,
    /// How many wait behind it.
    pub followers: Count,
}

/// A closed delivery, as a replay looks at it.
#[derive(Clone, Debug)]
pub struct ClosedRow {
    /// Of the message.
    pub message_id: i64,
    /// Empty where the message got no delivery.
    pub sink: String,
    /// Empty where the route has no name.
    pub target: String,
    /// Which of its lives it was.
    pub round: i32,
    /// How it was closed.
    pub outcome: String,
    /// When.
    pub closed_at: Timestamp,
    /// None if the message is gone.
    pub message_type: Option<String>,
    /// Orders deliveries.
    pub key: Option<String>,
    /// Whether it is one of those asked for, and may be sent again.
    pub fits: bool,
}

/// Which closed deliveries are asked for.
#[derive(Clone, Debug)]
pub struct Closed {
    /// Through this sink.
    pub sink: String,
    /// With one of these outcomes.
    pub outcomes: Vec<String>,
    /// Not earlier.
    pub since: Timestamp,
    /// Earlier.
    pub until: Timestamp,
}

/// Deliveries of a sink in a state other than `pending`, the oldest first; all of a message together.
///
/// # Errors
/// When the database cannot be asked.
pub async fn stuck(
    link: &Link,
    state: &str,
    sink: &str,
    after: i64,
) -> Result<Vec<OpenRow>, StoreError> {
    let params = [
        (&state as _, Type::TEXT),
        (&sink as _, Type::TEXT),
        (&after as _, Type::INT8),
        (&PAGE as _, Type::INT8),
    ];
    let rows =
        link.rows_by_index("look for deliveries", &link.queries().page_stuck, &params).await?;
    Ok(rows.iter().map(open).collect())
}

/// Pending deliveries of a sink's lane, the oldest due first: after an instant and a message, or from
/// now on.
///
/// # Errors
/// When the database cannot be asked.
pub async fn pending(
    link: &Link,
    sink: &str,
    lane: i16,
    after: (Option<Timestamp>, i64),
) -> Result<Vec<OpenRow>, StoreError> {
    let params = [
        (&sink as _, Type::TEXT),
        (&lane as _, Type::INT2),
        (&after.0 as _, Type::TIMESTAMPTZ),
        (&after.1 as _, Type::INT8),
        (&PAGE as _, Type::INT8),
    ];
    let rows =
        link.rows_by_index("look for deliveries", &link.queries().page_pending, &params).await?;
    Ok(rows.iter().map(open).collect())
}

/// Open deliveries of a key through a sink, in their order; all of a message together.
///
/// # Errors
/// When the database cannot be asked.
pub async fn of_key(
    link: &Link,
    sink: &str,
    key: &str,
    after: i64,
) -> Result<Vec<OpenRow>, StoreError> {
    let params = [
        (&sink as _, Type::TEXT),
        (&key as _, Type::TEXT),
        (&after as _, Type::INT8),
        (&PAGE as _, Type::INT8),
    ];
    let rows = link.rows_by_index("look for deliveries", &link.queries().page_key, &params).await?;
    Ok(rows.iter().map(open).collect())
}

/// Heads that cannot be delivered now and have followers, and whether all were looked at: at most
/// `look_max` of each state, sink and lane are.
///
/// # Errors
/// When the database cannot be asked.
pub async fn parked(
    link: &Link,
    sinks: &[String],
    look_max: i64,
    limit: i64,
) -> Result<(Vec<ParkedRow>, bool), StoreError> {
    let lanes = lanes();
    let params = [
        (&sinks as _, Type::TEXT_ARRAY),
        (&lanes as _, Type::INT2_ARRAY),
        (&look_max as _, Type::INT8),
        (&limit as _, Type::INT8),
        (&Count::COUNTED as _, Type::INT8),
    ];
    let rows =
        link.rows_by_index("look for parked keys", &link.queries().list_parked, &params).await?;
    let looked_at: i64 = rows.first().map_or(0, |row| row.get("looked_at"));
    let parked =
        |row: &Row| ParkedRow { head: open(row), followers: Count::new(row.get("followers")) };
    let heads = rows.iter().filter(|row| row.get::<_, Option<i64>>("message_id").is_some());
    Ok((heads.map(parked).collect(), looked_at < look_max))
}

/// The database's clock.
///
/// # Errors
/// When the database cannot be asked.
pub async fn now(link: &Link) -> Result<Timestamp, StoreError> {
    Ok(link.row("ask for the time", &link.queries().now, &[]).await?.get("now"))
}

/// Closed deliveries by message, all of a message together; the pages hold others too.
///
/// # Errors
/// When the database cannot be asked.
pub async fn closed(link: &Link, asked: &Closed, after: i64) -> Result<Vec<ClosedRow>, StoreError> {
    let params = [
        (&after as _, Type::INT8),
        (&PAGE as _, Type::INT8),
        (&asked.since as _, Type::TIMESTAMPTZ),
        (&asked.until as _, Type::TIMESTAMPTZ),
        (&asked.sink as _, Type::TEXT),
        (&asked.outcomes as _, Type::TEXT_ARRAY),
    ];
    let rows = link
        .rows_by_index("look for closed deliveries", &link.queries().page_closed, &params)
        .await?;
    let closed = |row: &Row| ClosedRow {
        message_id: row.get("message_id"),
        sink: row.get("sink"),
        target: row.get("target"),
        round: row.get("round"),
        outcome: row.get("outcome"),
        closed_at: row.get("closed_at"),
        message_type: row.get("type"),
        key: row.get("key"),
        fits: row.get("fits"),
    };
    Ok(rows.iter().map(closed).collect())
}
