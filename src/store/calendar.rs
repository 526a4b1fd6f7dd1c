//! Where the calendar's rules stand.

use std::time::Duration;

use jiff::Timestamp;
use tokio_postgres::types::Type;

use super::error::StoreError;
use super::link::Link;

/// Whose rule it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuleKind {
    /// A schedule.
    Schedule,
    /// A sink whose files are cut by the calendar.
    Cut,
}

impl RuleKind {
    /// Its word in the database.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            RuleKind::Schedule => "schedule",
            RuleKind::Cut => "cut",
        }
    }
}

/// Enters a rule, or what changed of it. When it was first seen stays.
///
/// # Errors
/// When the database cannot be asked.
pub async fn enter(
    link: &Link,
    kind: RuleKind,
    name: &str,
    rule: &str,
    late_after: Duration,
) -> Result<(), StoreError> {
    let late_after = i64::try_from(late_after.as_millis()).unwrap_or(i64::MAX);
    let params = [
        (&kind.word() as _, Type::TEXT),
        (&name as _, Type::TEXT),
        (&rule as _, Type::TEXT),
        (&late_after as _, Type::INT8),
    ];
    link.execute("enter a rule", &link.queries().enter_rule, &params).await.map(drop)
}

/// Notes what comes next by a rule.
///
/// # Errors
/// When the database cannot be asked.
pub async fn note_next(
    link: &Link,
    kind: RuleKind,
    name: &str,
    next_at: Option<Timestamp>,
) -> Result<(), StoreError> {
    let params = [
        (&kind.word() as _, Type::TEXT),
        (&name as _, Type::TEXT),
        (&next_at as _, Type::TIMESTAMPTZ),
    ];
    link.execute("note what comes next", &link.queries().note_next, &params).await.map(drop)
}
