//! The queries of schedules and exports: SQL that the operator wrote.

use jiff::Timestamp;
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::error::StoreError;
use super::link::Link;

/// One column that a query answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryColumn {
    /// Its name.
    pub name: String,
    /// What it holds.
    pub kind: Type,
}

pub(super) const BEFORE: &str = "SELECT rows.* FROM (SELECT 1) AS one LEFT JOIN (SELECT * FROM (\n";
const BEHIND: &str = "\n) AS rows LIMIT 0) AS rows ON true";

/// Asks for the columns of a query whose `$1` and `$2` are timestamptz. No row of it is made: it is
/// planned, and started with a limit of none, so that a right that the role lacks shows as well.
///
/// It stands in parentheses, where a statement that writes is none. The one row that is left is all NULL
/// and brings the columns along; a named statement would do without, but not through a pooler.
///
/// # Errors
/// What is wrong with the query, with its line, or what the role may not do; or the connection's.
pub async fn describe(link: &Link, sql: &str) -> Result<Vec<QueryColumn>, StoreError> {
    let doing = "look at the query";
    let bound = Timestamp::UNIX_EPOCH;
    let params = [(&bound as _, Type::TIMESTAMPTZ), (&bound as _, Type::TIMESTAMPTZ)];
    let row = link.row(doing, &describing(sql), &params).await;
    Ok(columns(&row.map_err(|error| error.of_query(BEFORE, sql, link.target().role()))?))
}

/// The statement that does so; [`BEFORE`] stands before the query.
pub(super) fn describing(sql: &str) -> String {
    format!("{BEFORE}{sql}{BEHIND}")
}

/// The columns of its answer.
pub(super) fn columns(row: &Row) -> Vec<QueryColumn> {
    let columns = row.columns().iter();
    columns.map(|c| QueryColumn { name: c.name().to_owned(), kind: c.type_().clone() }).collect()
}
