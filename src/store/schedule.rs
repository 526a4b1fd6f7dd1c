//! Schedules: where each stands, and what becomes of its periods.

mod answer;
mod fire;

use std::time::Duration;

use jiff::Timestamp;
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::error::StoreError;
use super::link::Link;
pub use answer::faults;
pub use fire::{Fired, Occasion, Period, fire};

/// Where schedules stand.
#[derive(Clone, Debug)]
pub struct Standing {
    /// The database's time.
    pub now: Timestamp,
    /// Nothing may run: an operator paused everything, or this is a copy.
    pub paused: bool,
    /// Those that are entered.
    pub schedules: Vec<Stand>,
}

/// Where a schedule stands.
#[derive(Clone, Debug)]
pub struct Stand {
    /// Which.
    pub name: String,
    /// Nothing up to then is looked at again.
    pub settled_until: Timestamp,
    /// A period was due then: it ran, or was passed over.
    pub settled_by_period: bool,
    /// What was noted to come next.
    pub next_at: Option<Timestamp>,
}

/// Notes why a period that is due could not run.
///
/// # Errors
/// When the database cannot be asked.
pub async fn note(link: &Link, name: &str, reason: &str) -> Result<(), StoreError> {
    let params = [(&name as _, Type::TEXT), (&reason as _, Type::TEXT)];
    link.execute("note why a period did not run", &link.queries().note_schedule, &params)
        .await
        .map(drop)
}

/// Enters a schedule, or what changed of it. Its beginning stays, which is now unless given.
///
/// # Errors
/// When the database cannot be asked.
pub async fn enter(
    link: &Link,
    name: &str,
    rule: &str,
    late_after: Duration,
    beginning: Option<Timestamp>,
) -> Result<(), StoreError> {
    let late_after = i64::try_from(late_after.as_millis()).unwrap_or(i64::MAX);
    let params = [
        (&name as _, Type::TEXT),
        (&rule as _, Type::TEXT),
        (&late_after as _, Type::INT8),
        (&beginning as _, Type::TIMESTAMPTZ),
    ];
    link.execute("enter a schedule", &link.queries().enter_schedule, &params).await.map(drop)
}

/// Where these schedules stand.
///
/// # Errors
/// When the database cannot be asked.
pub async fn standing(link: &Link, names: &[&str]) -> Result<Standing, StoreError> {
    let params = [(&names as _, Type::TEXT_ARRAY)];
    let doing = "look where the schedules stand";
    let rows = link.rows(doing, &link.queries().schedules_standing, &params).await?;
    stands(&rows).ok_or_else(|| StoreError::said(doing, "asked for no schedule"))
}

fn stands(rows: &[Row]) -> Option<Standing> {
    let first = rows.first()?;
    let stand = |row: &Row| {
        Some(Stand {
            name: row.get("name"),
            settled_until: row.get::<_, Option<Timestamp>>("settled_until")?,
            settled_by_period: row.get("settled_by_period"),
            next_at: row.get("next_at"),
        })
    };
    Some(Standing {
        now: first.get("now"),
        paused: first.get("paused"),
        schedules: rows.iter().filter_map(stand).collect(),
    })
}

/// Notes up to where a schedule is settled, if given, and what comes next.
///
/// # Errors
/// When the database cannot be asked.
pub async fn settle(
    link: &Link,
    schedule: &str,
    until: Option<Timestamp>,
    next_at: Option<Timestamp>,
) -> Result<(), StoreError> {
    let params = [
        (&schedule as _, Type::TEXT),
        (&until as _, Type::TIMESTAMPTZ),
        (&next_at as _, Type::TIMESTAMPTZ),
    ];
    link.execute("settle a schedule", &link.queries().settle_schedule, &params).await.map(drop)
}

/// Periods that are passed over.
#[derive(Clone, Debug)]
pub struct Passed<'a> {
    /// Of which schedule.
    pub schedule: &'a str,
    /// Up to where it was settled when that was decided.
    pub settled_until: Timestamp,
    /// The newest of them.
    pub name: &'a str,
    /// Its tick.
    pub due_at: Timestamp,
    /// How many there are before it.
    pub before: i64,
    /// The relay.
    pub actor: &'a str,
    /// What comes next.
    pub next_at: Option<Timestamp>,
}

/// Passes over periods; `false` if somebody else is at the schedule, it was settled further meanwhile, or
/// nothing may run.
///
/// # Errors
/// When the database cannot be asked.
pub async fn pass_over(link: &Link, passed: &Passed<'_>) -> Result<bool, StoreError> {
    let params = [
        (&passed.schedule as _, Type::TEXT),
        (&passed.settled_until as _, Type::TIMESTAMPTZ),
        (&passed.name as _, Type::TEXT),
        (&passed.due_at as _, Type::TIMESTAMPTZ),
        (&passed.before as _, Type::INT8),
        (&passed.actor as _, Type::TEXT),
        (&passed.next_at as _, Type::TIMESTAMPTZ),
    ];
    let row = link.row("pass over periods", &link.queries().pass_over, &params).await?;
    Ok(row.get("passed"))
}
