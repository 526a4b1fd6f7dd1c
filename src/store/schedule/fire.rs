//! The one transaction that a period's messages are written in.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio_postgres::types::Type;
use tokio_postgres::{Client, IsolationLevel, Row, Transaction};

use super::answer::{answer, stand_in};
use super::stands;
use crate::config::ScheduleQuery;
use crate::store::error::StoreError;
use crate::store::link::{CALL_LIMIT, Param, Target};
use crate::store::query::{self, describing};

/// What it is called in errors.
const DOING: &str = "run a period";

/// A period that is to run.
#[derive(Clone, Debug)]
pub struct Period<'a> {
    /// Of which schedule.
    pub schedule: &'a str,
    /// Its name.
    pub name: &'a str,
    /// The type of its messages.
    pub message_type: &'a str,
    /// Where it begins: the tick before.
    pub from: Timestamp,
    /// Its tick.
    pub due_at: Timestamp,
    /// From then on that something of it is still open is told.
    pub late_at: Timestamp,
    /// The relay, or the operator.
    pub actor: &'a str,
}

/// Why a period runs.
#[derive(Clone, Copy, Debug)]
pub enum Occasion {
    /// It is due.
    Due {
        /// Up to where the schedule was settled when that was decided.
        settled_until: Timestamp,
        /// How many periods before it are passed over with it.
        passed: i64,
        /// What comes next.
        next_at: Option<Timestamp>,
    },
    /// An operator wants it; also once more, if `again`.
    ByHand {
        /// Also if it ran before: as another round.
        again: bool,
    },
}

/// What became of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fired {
    /// Its messages stand.
    Ran {
        /// Counted from 1.
        round: i32,
        /// How many there are; a query can have no row.
        messages: i64,
    },
    /// It ran before, or was passed over.
    Already,
    /// Somebody else is at this schedule now.
    Elsewhere,
    /// The schedule is settled further than it was when this was decided.
    Moved,
    /// Nothing may run.
    Paused,
}

/// Runs a period: enters it, writes its messages and settles the schedule, all in one transaction or
/// nothing. Of several that try at once, whoever comes first does it, and the others do not wait.
///
/// # Errors
/// When the query fails or answers what no message can be made of, or the database cannot be asked.
/// After an error the period may have run, if the connection broke at the very end: whoever tries again
/// finds it done.
pub async fn fire(
    target: &Target,
    period: &Period<'_>,
    occasion: Occasion,
    query: Option<&ScheduleQuery>,
) -> Result<Fired, StoreError> {
    let statement = query.map_or(CALL_LIMIT, |query| query.timeout);
    // The server ends what takes too long; this is for one that falls silent.
    let limit = statement + CALL_LIMIT;
    let mut client = Box::pin(target.connect()).await?;
    let run = Run { target, period, occasion, query };
    match tokio::time::timeout(limit, run.transaction(&mut client, statement)).await {
        Ok(fired) => fired,
        Err(_) => Err(StoreError::silent(DOING, limit)),
    }
}

struct Run<'a> {
    target: &'a Target,
    period: &'a Period<'a>,
    occasion: Occasion,
    query: Option<&'a ScheduleQuery>,
}

impl Run<'_> {
    async fn transaction(
        &self,
        client: &mut Client,
        statement: Duration,
    ) -> Result<Fired, StoreError> {
        let begin = client.build_transaction().isolation_level(IsolationLevel::ReadCommitted);
        let transaction = begin.start().await.map_err(fail)?;
        // A relay that died or froze keeps nobody waiting for longer than a few seconds, and what ran
        // stays, also where the database commits asynchronously by default.
        let settings = format!(
            "SET LOCAL statement_timeout = {}; SET LOCAL client_connection_check_interval = '2s'; \
             SET LOCAL idle_in_transaction_session_timeout = '5s'; SET LOCAL synchronous_commit = on",
            statement.as_millis()
        );
        transaction.batch_execute(&settings).await.map_err(fail)?;
        let fired = match self.steps(&transaction).await {
            Ok(fired) => fired,
            Err(unfired) => {
                // The lock is free when that is told. On a broken wire the server sees to it.
                let _ = transaction.rollback().await;
                return Err(unfired);
            }
        };
        transaction.commit().await.map_err(fail)?;
        Ok(fired)
    }

    async fn steps(&self, transaction: &Transaction<'_>) -> Result<Fired, StoreError> {
        let (queries, schedule) = (&self.target.queries, &self.period.schedule);
        let params = [(schedule as _, Type::TEXT)];
        let row = transaction.query_typed_one(&queries.hold_schedule, &params).await;
        if !row.map_err(fail)?.get::<_, bool>("held") {
            return Ok(Fired::Elsewhere);
        }
        // Asked after the lock is held: whoever held it before has committed.
        let names = [*schedule];
        let params: [Param<'_>; 1] = [(&names.as_slice() as _, Type::TEXT_ARRAY)];
        let rows = transaction.query_typed(&queries.schedules_standing, &params).await;
        let standing = stands(&rows.map_err(fail)?)
            .ok_or_else(|| StoreError::said(DOING, "the database does not know the schedule"))?;
        if standing.paused {
            return Ok(Fired::Paused);
        }
        if let Occasion::Due { settled_until, .. } = self.occasion
            && standing.schedules.first().is_none_or(|s| s.settled_until != settled_until)
        {
            return Ok(Fired::Moved);
        }
        let Some(round) = self.enter(transaction).await? else {
            self.settle(transaction).await?;
            return Ok(Fired::Already);
        };
        let written = self.write(transaction).await?;
        let messages: i64 = written.get("messages");
        let (first, last): (Option<i64>, Option<i64>) =
            (written.get("first_id"), written.get("last_id"));
        let params: [Param<'_>; 6] = [
            (schedule, Type::TEXT),
            (&self.period.name, Type::TEXT),
            (&round, Type::INT4),
            (&messages, Type::INT8),
            (&first, Type::INT8),
            (&last, Type::INT8),
        ];
        transaction.execute_typed(&queries.fill_occurrence, &params).await.map_err(fail)?;
        if let Occasion::ByHand { .. } = self.occasion {
            let note = format!("schedule {schedule}, period {}, round {round}", self.period.name);
            let params: [Param<'_>; 3] =
                [(&self.period.actor, Type::TEXT), (&"run", Type::TEXT), (&note, Type::TEXT)];
            transaction.execute_typed(&queries.note_action, &params).await.map_err(fail)?;
        }
        self.settle(transaction).await?;
        Ok(Fired::Ran { round, messages })
    }

    /// The round that was entered; none if there is nothing to run.
    async fn enter(&self, transaction: &Transaction<'_>) -> Result<Option<i32>, StoreError> {
        let (passed, by_hand, again) = match self.occasion {
            Occasion::Due { passed, .. } => (passed, false, false),
            Occasion::ByHand { again } => (0, true, again),
        };
        let period = self.period;
        let params: [Param<'_>; 8] = [
            (&period.schedule, Type::TEXT),
            (&period.name, Type::TEXT),
            (&period.due_at, Type::TIMESTAMPTZ),
            (&passed, Type::INT8),
            (&period.late_at, Type::TIMESTAMPTZ),
            (&period.actor, Type::TEXT),
            (&by_hand, Type::BOOL),
            (&again, Type::BOOL),
        ];
        let sql = &self.target.queries.enter_occurrence;
        let row = transaction.query_typed_opt(sql, &params).await.map_err(fail)?;
        Ok(row.map(|row| row.get("round")))
    }

    async fn write(&self, transaction: &Transaction<'_>) -> Result<Row, StoreError> {
        let period = self.period;
        let headers = json!({
            "outboxd-schedule": period.schedule,
            "outboxd-period": period.name,
        })
        .to_string();
        let Some(query) = self.query else {
            let payload = payload(period).to_string();
            let params: [Param<'_>; 3] = [
                (&period.message_type, Type::TEXT),
                (&payload, Type::TEXT),
                (&headers, Type::TEXT),
            ];
            let sql = &self.target.queries.write_period;
            return transaction.query_typed_one(sql, &params).await.map_err(fail);
        };
        let bounds: [Param<'_>; 2] =
            [(&period.from, Type::TIMESTAMPTZ), (&period.due_at, Type::TIMESTAMPTZ)];
        let asked = transaction.query_typed_one(&describing(&query.sql), &bounds).await;
        let role = self.target.role();
        let refused = |before: &str, error| fail(error).of_query(before, &query.sql, role);
        let columns = query::columns(&asked.map_err(|error| refused(query::BEFORE, error))?);
        let answer = answer(&query.sql, &columns)
            .map_err(|wrong| StoreError::said("read the schedule's query", wrong))?;
        let sql =
            self.target.queries.write_answer.replace(&stand_in(self.target.schema()), &answer);
        let [from, to] = bounds;
        let params: [Param<'_>; 4] =
            [from, to, (&period.message_type, Type::TEXT), (&headers, Type::TEXT)];
        let before = sql.split(&query.sql).next().unwrap_or_default();
        let written = transaction.query_typed_one(&sql, &params).await;
        written.map_err(|error| refused(before, error))
    }

    /// By hand a period may run before its time, or long after: that settles nothing.
    async fn settle(&self, transaction: &Transaction<'_>) -> Result<(), StoreError> {
        let Occasion::Due { next_at, .. } = self.occasion else { return Ok(()) };
        let params: [Param<'_>; 3] = [
            (&self.period.schedule, Type::TEXT),
            (&self.period.due_at, Type::TIMESTAMPTZ),
            (&next_at, Type::TIMESTAMPTZ),
        ];
        let sql = &self.target.queries.settle_schedule;
        transaction.execute_typed(sql, &params).await.map_err(fail).map(drop)
    }
}

/// The payload of a period without a query.
fn payload(period: &Period<'_>) -> Value {
    json!({
        "schedule": period.schedule,
        "period": period.name,
        "due_at": period.due_at.to_string(),
        "from": period.from.to_string(),
        "to": period.due_at.to_string(),
    })
}

fn fail(error: tokio_postgres::Error) -> StoreError {
    StoreError::postgres(DOING, error)
}
