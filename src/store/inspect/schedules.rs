//! Schedules as people look at them.

use jiff::Timestamp;
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use crate::store::error::StoreError;
use crate::store::link::Link;

/// A schedule as the database knows it.
#[derive(Clone, Debug)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// Its rule in words, as a relay has it.
    pub rule: String,
    /// Its beginning.
    pub since: Timestamp,
    /// What comes next, or has come and is not done yet.
    pub next_at: Option<Timestamp>,
    /// Why a period that is due could not run when it was last tried.
    pub reason: Option<String>,
    /// The database's time.
    pub now: Timestamp,
    /// The run that ended last.
    pub last: Option<LastRun>,
    /// Periods passed over within the last 30 days.
    pub missed: i64,
    /// When the first of these was noted.
    pub missed_since: Option<Timestamp>,
    /// Whether a relay that lives has it in its config.
    pub worked: bool,
}

/// A run.
#[derive(Clone, Debug)]
pub struct LastRun {
    /// Its period.
    pub period: String,
    /// Counted from 1.
    pub round: i32,
    /// When.
    pub ran_at: Timestamp,
    /// How many messages it wrote.
    pub messages: i64,
    /// The relay, or the operator.
    pub actor: String,
    /// Whether a delivery of them is still open.
    pub open: bool,
}

/// All schedules that the database knows, by name.
///
/// # Errors
/// When the database cannot be asked.
pub async fn listed(link: &Link) -> Result<Vec<Listed>, StoreError> {
    let rows =
        link.rows_by_index("look at the schedules", &link.queries().list_schedules, &[]).await?;
    let last = |row: &Row| {
        Some(LastRun {
            period: row.get::<_, Option<String>>("period")?,
            round: row.get("round"),
            ran_at: row.get("ran_at"),
            messages: row.get("messages"),
            actor: row.get("actor"),
            open: row.get("open"),
        })
    };
    let listed = |row: &Row| Listed {
        name: row.get("name"),
        rule: row.get("rule"),
        since: row.get("since"),
        next_at: row.get("next_at"),
        reason: row.get("reason"),
        now: row.get("now"),
        last: last(row),
        missed: row.get("missed"),
        missed_since: row.get("missed_since"),
        worked: row.get("worked"),
    };
    Ok(rows.iter().map(listed).collect())
}

/// The last run of a period, if it ran.
///
/// # Errors
/// When the database cannot be asked.
pub async fn last_run(
    link: &Link,
    schedule: &str,
    period: &str,
) -> Result<Option<(i32, Timestamp, String)>, StoreError> {
    let params = [(&schedule as _, Type::TEXT), (&period as _, Type::TEXT)];
    let rows = link.rows("look for a period", &link.queries().periods, &params).await?;
    let ran = rows.iter().find(|row| row.get::<_, &str>("state") == "ran");
    Ok(ran.map(|row| (row.get("round"), row.get("ran_at"), row.get("actor"))))
}
