//! Retention: what is closed and old enough is deleted. The rule itself is the database's, in functions
//! that a relay calls and cannot go around.

use std::time::Duration;

use serde_json::json;
use tokio_postgres::types::Type;

use super::error::StoreError;
use super::link::Link;
use crate::config::Retention;

/// The types that are kept for another time than the default, as `prune` takes them.
#[must_use]
pub fn kinds(retention: &Retention) -> String {
    let kind = |(pattern, keep): &(crate::pattern::TypePattern, Duration)| {
        json!({
            "pattern": pattern.to_string(),
            "exact": pattern.is_exact(),
            "prefix": pattern.prefix(),
            "regex": pattern.regex(),
            "specificity": pattern.specificity(),
            "keep_ms": milliseconds(*keep),
        })
    };
    retention.types.iter().map(kind).collect::<serde_json::Value>().to_string()
}

fn milliseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// One step over a span of ids after one: where it ended, none where a round ends or another relay is
/// at work; and how many messages were deleted.
///
/// # Errors
/// When the database cannot be asked.
pub async fn prune(
    link: &Link,
    after: i64,
    span: i32,
    keep: Duration,
    kinds: &str,
) -> Result<(Option<i64>, i64), StoreError> {
    let keep = milliseconds(keep);
    let params = [
        (&after as _, Type::INT8),
        (&span as _, Type::INT4),
        (&keep as _, Type::INT8),
        (&kinds as _, Type::TEXT),
    ];
    let row = link.row("prune messages", &link.queries().prune, &params).await?;
    Ok((row.get("reached"), row.get("pruned")))
}

/// Lets go of one partition of the ledger that speaks of no message any more; answers what was done,
/// none if there is nothing to do or somebody reads the ledger just now.
///
/// # Errors
/// When the database cannot be asked.
pub async fn drop_ledger(link: &Link, longest: Duration) -> Result<Option<String>, StoreError> {
    let keep = milliseconds(longest);
    let params = [(&keep as _, Type::INT8)];
    match link.row("drop a ledger partition", &link.queries().drop_ledger, &params).await {
        Ok(row) => Ok(row.get("done")),
        Err(error) if error.is_lock_timeout() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Forgets what operators did longer ago than `keep`, sets of routes and counters that are of no more
/// use; answers how many rows.
///
/// # Errors
/// When the database cannot be asked.
pub async fn forget(link: &Link, keep: Duration) -> Result<i64, StoreError> {
    let keep = milliseconds(keep);
    let row = link.row("forget", &link.queries().forget, &[(&keep as _, Type::INT8)]).await?;
    link.execute("forget silent relays", &link.queries().forget_relays, &[]).await?;
    Ok(row.get("forgotten"))
}

/// Forgets runs of schedules, files and mails older than `keep`, of which nothing else speaks; answers
/// how many rows. The last of each schedule and sink stay.
///
/// # Errors
/// When the database cannot be asked.
pub async fn forget_calendar(link: &Link, keep: Duration) -> Result<i64, StoreError> {
    let keep = milliseconds(keep);
    let params = [(&keep as _, Type::INT8)];
    let row = link.row("forget old files", &link.queries().forget_calendar, &params).await?;
    Ok(row.get("forgotten"))
}

/// One step round the dedupe keys, deleting those that expired: where it ended, none at the end.
///
/// # Errors
/// When the database cannot be asked.
pub async fn forget_dedupe(
    link: &Link,
    after: &(String, String),
    limit: i64,
) -> Result<Option<(String, String)>, StoreError> {
    let params =
        [(&after.0 as _, Type::TEXT), (&after.1 as _, Type::TEXT), (&limit as _, Type::INT8)];
    let rows =
        link.rows_by_index("forget dedupe keys", &link.queries().forget_dedupe, &params).await?;
    Ok(rows.first().map(|row| (row.get("type"), row.get("key"))))
}
