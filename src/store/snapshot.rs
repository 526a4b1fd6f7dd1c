//! A query of the user's, answered under one snapshot, row by row.
//!
//! Its transaction can change nothing and has a time limit. Nothing is sent on the wire before what came
//! is taken: the driver holds two pieces of an answer and leaves the rest to the socket, so that an answer
//! of any length costs the same memory. It needs a connection of its own for that.

use std::fmt;
use std::pin::Pin;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::Fuse;
use jiff::Timestamp;
use postgres_protocol::escape::escape_identifier;
use tokio::task::JoinHandle;
use tokio_postgres::error::{DbError, ErrorPosition};
use tokio_postgres::types::{Kind, Type};
use tokio_postgres::{Client, Row, RowStream};

use super::error::StoreError;
use super::link::{CALL_LIMIT, Param, Target, limited};
use super::query::QueryColumn;
use crate::config::ColumnForm;

const DOING: &str = "run the query";

/// Values come as PostgreSQL's own text, which these settle, whatever the role or the database has set.
/// A server that computes notices within five seconds that nobody waits for it any more; one that cannot
/// (before PostgreSQL 14, and on some systems) goes on to the time limit.
const SETTINGS: &str = "SET LOCAL idle_in_transaction_session_timeout = '60s'; \
     SET LOCAL TimeZone = 'UTC'; SET LOCAL DateStyle = 'ISO, YMD'; SET LOCAL IntervalStyle = 'iso_8601'; \
     SET LOCAL extra_float_digits = 1; SET LOCAL bytea_output = 'hex'; \
     DO $$ BEGIN PERFORM set_config('client_connection_check_interval', '5s', true); \
     EXCEPTION WHEN OTHERS THEN NULL; END $$";

/// A read-only transaction on a connection of its own. Dropping it ends both.
pub struct Snapshot {
    client: Client,
    wire: JoinHandle<()>,
    /// Whose rights the query has.
    role: String,
}

/// A query with its parameters.
pub struct Asked<'a> {
    /// One SELECT.
    pub sql: &'a str,
    /// `$1` and so on.
    pub params: &'a [Param<'a>],
    /// Which of its rows are wanted, over its columns; none: all.
    pub condition: Option<&'a str>,
}

/// How a value becomes text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Text {
    Cast,
    /// Shortest digits that are exact, without an exponent.
    Float,
    /// ISO 8601.
    Instant,
    Json,
}

/// The rows of an answer, one after another.
pub struct Answer<'a> {
    sql: &'a str,
    role: &'a str,
    /// Asked again after its end, the driver's own says that the connection is closed.
    rows: Fuse<Pin<Box<RowStream>>>,
}

/// One row of an answer.
pub struct Values(Row);

/// Why a query has no answer.
#[derive(Debug)]
pub enum QueryError {
    /// The query, or what it met in the tables; no value of a row is in these words.
    Query(String),
    /// The database or the wire.
    Store(StoreError),
}

impl From<StoreError> for QueryError {
    fn from(error: StoreError) -> QueryError {
        if error.is_of_query() {
            QueryError::Query(error.to_string())
        } else {
            QueryError::Store(error)
        }
    }
}

impl fmt::Display for QueryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            QueryError::Query(words) => f.write_str(words),
            QueryError::Store(error) => write!(f, "{error}"),
        }
    }
}

impl Snapshot {
    /// Connects and begins; each query may take as long as `timeout`, the reading of its rows included.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn begin(target: &Target, timeout: Duration) -> Result<Snapshot, StoreError> {
        let (client, connection) = Box::pin(target.connect_undriven()).await?;
        let wire = tokio::spawn(connection);
        let snapshot = Snapshot { client, wire, role: target.role().to_owned() };
        let begin = format!(
            "BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY; \
             SET LOCAL statement_timeout = {}; {SETTINGS}",
            timeout.as_millis()
        );
        snapshot.execute(&begin).await?;
        Ok(snapshot)
    }

    /// How many rows a query has. Where that fails, the snapshot stands as before.
    ///
    /// # Errors
    /// As [`Snapshot::rows`].
    pub async fn count(&self, asked: &Asked<'_>) -> Result<i64, QueryError> {
        self.execute("SAVEPOINT counted").await?;
        let counted = async {
            let mut rows = self.ask("count(*)", asked).await?;
            let row = rows.next().await.ok_or_else(|| StoreError::said(DOING, "no count"))?;
            let count = row.and_then(|row| row.try_get(0));
            count.map_err(|error| wrong(error, "", asked.sql, &self.role))
        }
        .await;
        if matches!(counted, Err(QueryError::Query(_))) {
            self.execute("ROLLBACK TO SAVEPOINT counted").await?;
        }
        counted
    }

    /// The rows of a query, with the chosen columns as text in the order they are given.
    ///
    /// # Errors
    /// When PostgreSQL does not take the query; what it meets only later is an error of
    /// [`Answer::next`].
    pub async fn rows<'a>(
        &'a self,
        asked: &Asked<'a>,
        columns: &[QueryColumn],
    ) -> Result<Answer<'a>, QueryError> {
        let list: Vec<String> = columns.iter().map(expression).collect();
        let rows = self.ask(&list.join(", "), asked).await?;
        Ok(Answer { sql: asked.sql, role: &self.role, rows: rows.fuse() })
    }

    /// Ends the transaction. A server that is left in one writes into its log that somebody hung up.
    pub async fn end(self) {
        // Nothing was changed, so nothing is lost where that fails.
        let _ = self.execute("COMMIT").await;
    }

    async fn ask(&self, list: &str, asked: &Asked<'_>) -> Result<Pin<Box<RowStream>>, QueryError> {
        // On lines of its own: the query may end in a comment.
        let before = format!("SELECT {list} FROM (\n");
        let mut text = format!("{before}{}\n) q", asked.sql);
        let query_end = text.chars().count();
        if let Some(condition) = asked.condition {
            text = format!("{text} WHERE (\n{condition}\n)");
        }
        let params = asked.params.iter().map(|(value, kind)| (*value, kind.clone()));
        let rows = self.client.query_typed_raw(&text, params).await;
        rows.map(Box::pin).map_err(|error| match error.as_db_error() {
            Some(said) if points_behind(said, query_end) => {
                QueryError::Query(format!("the condition: {}", said.message()))
            }
            _ => wrong(error, &before, asked.sql, &self.role),
        })
    }

    async fn execute(&self, text: &str) -> Result<(), StoreError> {
        let done = async {
            self.client.batch_execute(text).await.map_err(|e| StoreError::postgres(DOING, e))
        };
        limited(DOING, CALL_LIMIT, done).await
    }
}

impl Drop for Snapshot {
    /// The driver would read the rest of an answer before it hangs up.
    fn drop(&mut self) {
        self.wire.abort();
    }
}

impl Answer<'_> {
    /// The next row; none after the last.
    ///
    /// # Errors
    /// What the query met, or the end of the connection. The answer is of no more use then.
    pub async fn next(&mut self) -> Result<Option<Values>, QueryError> {
        match self.rows.next().await {
            None => Ok(None),
            Some(Ok(row)) => Ok(Some(Values(row))),
            Some(Err(error)) => Err(wrong(error, "", self.sql, self.role)),
        }
    }
}

impl Values {
    /// The values as text; none is a NULL.
    ///
    /// # Errors
    /// Never for an answer of [`Snapshot::rows`].
    pub fn texts(&self) -> Result<Vec<Option<&str>>, StoreError> {
        let texts = (0..self.0.len()).map(|at| self.0.try_get(at));
        texts.collect::<Result<_, _>>().map_err(|error| StoreError::postgres(DOING, error))
    }
}

/// The bounds of a period as `$1` and `$2`.
#[must_use]
pub fn bounds<'a>(from: &'a Timestamp, to: &'a Timestamp) -> [Param<'a>; 2] {
    [(from, Type::TIMESTAMPTZ), (to, Type::TIMESTAMPTZ)]
}

/// What the type of a column asks for.
#[must_use]
pub fn form(column: &QueryColumn) -> ColumnForm {
    form_and_text(&column.kind).0
}

fn form_and_text(kind: &Type) -> (ColumnForm, Text) {
    match *kind {
        Type::INT2 | Type::INT4 | Type::INT8 | Type::OID => (ColumnForm::Integer, Text::Cast),
        Type::NUMERIC => (ColumnForm::Decimal, Text::Cast),
        Type::FLOAT4 | Type::FLOAT8 => (ColumnForm::Decimal, Text::Float),
        Type::BOOL => (ColumnForm::Boolean, Text::Cast),
        Type::DATE => (ColumnForm::Date, Text::Cast),
        Type::TIMESTAMP | Type::TIMESTAMPTZ => (ColumnForm::Timestamp, Text::Instant),
        Type::JSON | Type::JSONB => (ColumnForm::Json, Text::Cast),
        Type::RECORD => (ColumnForm::Json, Text::Json),
        _ => match kind.kind() {
            Kind::Domain(base) => form_and_text(base),
            Kind::Array(_) | Kind::Composite(_) => (ColumnForm::Json, Text::Json),
            _ => (ColumnForm::Text, Text::Cast),
        },
    }
}

/// A column as the text that its form asks for.
fn expression(column: &QueryColumn) -> String {
    let value = format!("q.{}", escape_identifier(&column.name));
    match form_and_text(&column.kind).1 {
        Text::Cast => format!("{value}::text"),
        Text::Float => format!(
            "CASE WHEN strpos({value}::text, 'e') > 0 \
             THEN {value}::text::numeric::text ELSE {value}::text END"
        ),
        Text::Instant => format!("to_json({value}) #>> '{{}}'"),
        Text::Json => format!("to_json({value})::text"),
    }
}

fn wrong(error: tokio_postgres::Error, before: &str, sql: &str, role: &str) -> QueryError {
    StoreError::postgres(DOING, error).of_query(before, sql, role).into()
}

/// Whether the server points behind the query, into what was put there.
fn points_behind(said: &DbError, query_end: usize) -> bool {
    let Some(ErrorPosition::Original(at)) = said.position() else { return false };
    usize::try_from(*at).is_ok_and(|at| at > query_end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_may_be_called_anything() {
        let column = QueryColumn { name: "a\"b".to_owned(), kind: Type::TEXT };
        assert_eq!(expression(&column), "q.\"a\"\"b\"::text");
    }
}
