//! Alerts: what is in trouble, and who is told of it.

use std::time::Duration;

use tokio_postgres::types::Type;

use super::error::StoreError;
use super::link::Link;
use crate::alert::{Alert, COUNTED_MAX, Cause, Digest, TYPE};

/// Alerts read at a time; each is a sink or a type.
const ALERTS_MAX: i64 = 10_000;

/// Enters what is in trouble now, and marks what no longer is.
///
/// # Errors
/// When the database cannot be asked.
pub async fn watch(link: &Link) -> Result<(), StoreError> {
    let limit = COUNTED_MAX + 1;
    let params = [(&limit as _, Type::INT8), (&TYPE as _, Type::TEXT)];
    link.rows_by_index("look for troubles", &link.queries().watch, &params).await.map(drop)
}

/// What is in trouble, and what is to be told as over; the longest first.
///
/// # Errors
/// When the database cannot be asked.
pub async fn alerts(link: &Link) -> Result<Vec<Alert>, StoreError> {
    let params = [(&ALERTS_MAX as _, Type::INT8)];
    let rows = link.rows("read the alerts", &link.queries().alerts, &params).await?;
    let alert = |row: &tokio_postgres::Row| {
        let told: Option<i64> = row.get("told_news");
        Some(Alert {
            cause: Cause::of(row.get("cause"))?,
            subject: row.get("subject"),
            since: row.get("since"),
            seen_at: row.get("last_seen_at"),
            age: Duration::try_from_secs_f64(row.get("age")).unwrap_or_default(),
            count: row.get("count"),
            news: (row.get("news"), row.get("newest")),
            example: row.get("example"),
            reason: row.get("reason"),
            gone: row.get("gone"),
            told_at: row.get("told_at"),
            told: told.zip(row.get("told_newest")),
            cause_told_at: row.get("cause_told_at"),
        })
    };
    // The column's check holds the words; one of a newer version is that version's to tell.
    Ok(rows.iter().filter_map(alert).collect())
}

/// The sinks that alerts are routed to; an empty name where they go nowhere on purpose.
///
/// # Errors
/// When the database cannot be asked.
pub async fn receivers(link: &Link) -> Result<Vec<String>, StoreError> {
    let params = [(&TYPE as _, Type::TEXT)];
    let rows = link.rows("look who is told", &link.queries().receivers, &params).await?;
    Ok(rows.iter().map(|row| row.get("sink")).collect())
}

/// Tells; answers how many messages were written. None if another relay was faster, or the cause was
/// told less than `pause` ago.
///
/// # Errors
/// When the database cannot be asked; nothing is told then.
pub async fn tell(link: &Link, digest: &Digest, pause: Duration) -> Result<i32, StoreError> {
    let pause = i64::try_from(pause.as_millis()).unwrap_or(i64::MAX);
    let (told, messages) = (digest.told.to_string(), digest.messages.to_string());
    let params = [
        (&digest.cause.word() as _, Type::TEXT),
        (&digest.last_told as _, Type::TIMESTAMPTZ),
        (&pause as _, Type::INT8),
        (&told as _, Type::TEXT),
        (&messages as _, Type::TEXT),
    ];
    Ok(link.row("tell of a trouble", &link.queries().tell, &params).await?.get("messages"))
}
