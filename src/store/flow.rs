//! Intents, limits, and what a sink's owner is doing.

use std::time::Duration;

use tokio_postgres::types::Type;

use super::error::StoreError;
use super::link::Link;
use super::work::{Applied, Fetched, applied, fetched};

/// A delivery whose attempt is about to begin.
#[derive(Clone, Debug)]
pub struct Intent {
    /// Of the message.
    pub message_id: i64,
    /// Of the delivery.
    pub target: String,
    /// As fetched.
    pub rev: i32,
    /// Whether it may be sent again if its end stays unknown: not under at-most-once.
    pub repeatable: bool,
}

/// Commits intents; answers those that may start.
///
/// # Errors
/// When the database cannot be asked. The intents may have been committed all the same: see
/// [`sending`].
pub async fn begin_sending(
    link: &Link,
    sink: &str,
    epoch: i64,
    batch: &[Intent],
) -> Result<Applied, StoreError> {
    let ids: Vec<i64> = batch.iter().map(|i| i.message_id).collect();
    let targets: Vec<&str> = batch.iter().map(|i| i.target.as_str()).collect();
    let revs: Vec<i32> = batch.iter().map(|i| i.rev).collect();
    let repeatable: Vec<bool> = batch.iter().map(|i| i.repeatable).collect();
    let params = [
        (&sink as _, Type::TEXT),
        (&epoch as _, Type::INT8),
        (&ids as _, Type::INT8_ARRAY),
        (&targets as _, Type::TEXT_ARRAY),
        (&revs as _, Type::INT4_ARRAY),
        (&repeatable as _, Type::BOOL_ARRAY),
    ];
    let rows = link.rows_by_index("commit intents", &link.queries().begin_sending, &params).await?;
    Ok(applied(&rows))
}

/// A delivery a former owner was sending when it fell silent, and what became of it.
#[derive(Clone, Debug)]
pub struct LeftOpen {
    /// Of the message.
    pub message_id: i64,
    /// Of the delivery.
    pub target: String,
    /// `held`, `dead` or `pending`.
    pub state: String,
}

/// Decides what becomes of what former owners were sending; see `end_sending.sql`.
///
/// # Errors
/// When the database cannot be asked. Safe to repeat.
pub async fn end_sending(
    link: &Link,
    sink: &str,
    epoch: i64,
    crashes_max: i16,
    certainly_over_in: Duration,
) -> Result<Vec<LeftOpen>, StoreError> {
    let over_in = i64::try_from(certainly_over_in.as_millis()).unwrap_or(i64::MAX);
    let crashes_max = i32::from(crashes_max);
    let params = [
        (&sink as _, Type::TEXT),
        (&epoch as _, Type::INT8),
        (&crashes_max as _, Type::INT4),
        (&over_in as _, Type::INT8),
    ];
    let doing = "settle what a former owner was sending";
    let rows = link.rows_by_index(doing, &link.queries().end_sending, &params).await?;
    Ok(rows
        .iter()
        .map(|row| LeftOpen {
            message_id: row.get("message_id"),
            target: row.get("target"),
            state: row.get("state"),
        })
        .collect())
}

/// The deliveries with an intent of this epoch, at most `limit`, as they would be fetched if their
/// attempt had not been counted, and whether each may be repeated.
///
/// # Errors
/// When the database cannot be asked.
pub async fn sending(
    link: &Link,
    sink: &str,
    epoch: i64,
    limit: i64,
) -> Result<Vec<(Fetched, bool)>, StoreError> {
    let params = [(&sink as _, Type::TEXT), (&epoch as _, Type::INT8), (&limit as _, Type::INT8)];
    let rows = link.rows_by_index("look for intents", &link.queries().sending, &params).await?;
    Ok(rows.iter().map(|row| (fetched(row), row.get("repeatable"))).collect())
}

/// Which of a sink's limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Span {
    /// `rate`: so many within any span of this length.
    Rate(Duration),
    /// `daily_quota`: so many on a calendar day (UTC).
    Day,
}

/// What a limit leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reserved {
    /// How many attempts may begin.
    pub count: usize,
    /// After how long more may.
    pub wait: Duration,
}

/// Takes up to `wanted` from a sink's limit; none at all where the epoch no longer fits.
///
/// # Errors
/// When the database cannot be asked. What was taken by then stays taken.
pub async fn reserve(
    link: &Link,
    sink: &str,
    epoch: i64,
    span: Span,
    limit: u32,
    wanted: usize,
) -> Result<Option<Reserved>, StoreError> {
    let (word, period) = match span {
        Span::Rate(period) => ("rate", i64::try_from(period.as_millis()).unwrap_or(i64::MAX)),
        Span::Day => ("day", 24 * 3600 * 1000),
    };
    let wanted = i64::try_from(wanted).unwrap_or(i64::MAX);
    let limit = i64::from(limit);
    let params = [
        (&sink as _, Type::TEXT),
        (&epoch as _, Type::INT8),
        (&word as _, Type::TEXT),
        (&limit as _, Type::INT8),
        (&period as _, Type::INT8),
        (&wanted as _, Type::INT8),
    ];
    let rows = link.rows_by_index("reserve", &link.queries().reserve, &params).await?;
    Ok(rows.first().map(|row| Reserved {
        count: usize::try_from(row.get::<_, i32>("count")).unwrap_or_default(),
        wait: Duration::from_millis(u64::try_from(row.get::<_, i64>("wait")).unwrap_or_default()),
    }))
}

/// What a sink's owner is doing, for `status` and for alerts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// Attempts that run now.
    pub in_flight: i32,
    /// Delivered within the last minute.
    pub delivered_minute: i32,
    /// Attempts within the last minute that did not deliver.
    pub failed_minute: i32,
    /// Rows only a full poll found.
    pub hidden: i64,
    /// Settlements that found their row gone.
    pub gone: i64,
    /// Keys whose head cannot be delivered now.
    pub parked: i32,
    /// How long ago a breaker opened, and why.
    pub open: Option<(Duration, String)>,
    /// For how long the sink waits, and what for.
    pub waits: Option<(Duration, String)>,
    /// The longest retry horizon of the sink and its routes.
    pub horizon: Duration,
}

/// Writes what the owner of a sink is doing.
///
/// # Errors
/// When the database cannot be asked.
pub async fn write_flow(
    link: &Link,
    sink: &str,
    epoch: i64,
    flow: &Flow,
) -> Result<(), StoreError> {
    let ms = |time: &Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
    let open = flow.open.as_ref().map(|(time, _)| ms(time));
    let waits = flow.waits.as_ref().map(|(time, _)| ms(time));
    let open_reason = flow.open.as_ref().map(|(_, reason)| reason.as_str());
    let waits_for = flow.waits.as_ref().map(|(_, reason)| reason.as_str());
    let horizon = ms(&flow.horizon);
    let params = [
        (&sink as _, Type::TEXT),
        (&epoch as _, Type::INT8),
        (&flow.in_flight as _, Type::INT4),
        (&flow.delivered_minute as _, Type::INT4),
        (&flow.failed_minute as _, Type::INT4),
        (&flow.hidden as _, Type::INT8),
        (&flow.gone as _, Type::INT8),
        (&flow.parked as _, Type::INT4),
        (&open as _, Type::INT8),
        (&open_reason as _, Type::TEXT),
        (&waits as _, Type::INT8),
        (&waits_for as _, Type::TEXT),
        (&horizon as _, Type::INT8),
    ];
    link.execute("write the flow", &link.queries().write_flow, &params).await.map(drop)
}
