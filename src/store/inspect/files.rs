//! What there is of files: for those who look at them, and for those who want one on demand.

use std::collections::BTreeMap;

use jiff::Timestamp;
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use crate::message::Message;
use crate::store::error::StoreError;
use crate::store::link::{Link, Target};
use crate::store::query::QueryColumn;

/// A sink that makes files.
#[derive(Clone, Debug)]
pub struct FileSink {
    /// Its name.
    pub name: String,
    /// Whether its rows come from a query.
    pub is_export: bool,
    /// Whether it, or everything, waits.
    pub paused: bool,
    /// The rule by which its files are cut, in words; none before a relay had it, and of a cut by count.
    pub rule: Option<String>,
    /// The next cut.
    pub next_at: Option<Timestamp>,
    /// Whether the next cut should have given its file by now.
    pub overdue: bool,
    /// The database's time.
    pub now: Timestamp,
    /// Its last files, newest first, and older ones whose mail waits for an operator.
    pub files: Vec<FileRow>,
}

/// One file.
#[derive(Clone, Debug)]
pub struct FileRow {
    /// Its row.
    pub id: i64,
    /// The period it is named after.
    pub period: String,
    /// Which file of that period.
    pub part: i32,
    /// How far it has come.
    pub state: String,
    /// Begin of its span, where the cut is by time.
    pub due_from: Option<Timestamp>,
    /// Its end.
    pub due_before: Timestamp,
    /// Its rows.
    pub row_count: i64,
    /// Rows that committed after it was made though they belong into it; none if not counted yet.
    pub late_rows: Option<i64>,
    /// Its size.
    pub bytes: Option<i64>,
    /// Its hash.
    pub sha256: Option<String>,
    /// Where it is, or will be.
    pub file: Option<String>,
    /// Why it is not there yet.
    pub reason: Option<String>,
    /// Since when it is there.
    pub published_at: Option<Timestamp>,
    /// Whether it should be there by now.
    pub late: bool,
    /// The state of the mail it goes out with.
    pub mail: Option<String>,
    /// The mail server's last words.
    pub mail_reason: Option<String>,
}

/// The sinks that make files, or one of them, each with so many of its last files.
///
/// # Errors
/// When the database cannot be asked.
pub async fn files(
    link: &Link,
    sink: Option<&str>,
    count: i64,
) -> Result<Vec<FileSink>, StoreError> {
    let params = [(&sink as _, Type::TEXT), (&count as _, Type::INT8)];
    let rows = link.rows("look for files", &link.queries().export_list, &params).await?;
    let mut sinks: Vec<FileSink> = Vec::new();
    for row in &rows {
        let name: String = row.get("sink");
        if sinks.last().is_none_or(|sink| sink.name != name) {
            sinks.push(FileSink {
                name,
                is_export: row.get::<_, &str>("kind") == "export",
                paused: row.get("paused"),
                rule: row.get("rule"),
                next_at: row.get("next_at"),
                overdue: row.get::<_, Option<bool>>("overdue").unwrap_or(false),
                now: row.get("now"),
                files: Vec::new(),
            });
        }
        let file = row.get::<_, Option<i64>>("id").map(|id| file(id, row));
        if let Some(sink) = sinks.last_mut() {
            sink.files.extend(file);
        }
    }
    Ok(sinks)
}

fn file(id: i64, row: &Row) -> FileRow {
    FileRow {
        id,
        period: row.get("period"),
        part: row.get("part"),
        state: row.get("state"),
        due_from: row.get("due_from"),
        due_before: row.get("due_before"),
        row_count: row.get("row_count"),
        late_rows: row.get("late_rows"),
        bytes: row.get("bytes"),
        sha256: row.get("sha256"),
        file: row.get("file"),
        reason: row.get("reason"),
        published_at: row.get("published_at"),
        late: row.get::<_, Option<bool>>("late").unwrap_or(false),
        mail: row.get("mail"),
        mail_reason: row.get("mail_reason"),
    }
}

/// The query for the messages of a sink (`$3`) that were written from `$1` to before `$2`.
#[must_use]
pub fn messages_of_sink(target: &Target) -> &str {
    &target.queries.sink_messages
}

/// The columns of that query.
#[must_use]
pub fn message_columns() -> Vec<QueryColumn> {
    let columns = [
        ("id", Type::INT8),
        ("type", Type::TEXT),
        ("key", Type::TEXT),
        ("payload", Type::JSONB),
        ("headers", Type::JSONB),
        ("created_at", Type::TIMESTAMPTZ),
    ];
    columns.map(|(name, kind)| QueryColumn { name: name.to_owned(), kind }).into()
}

/// The message in a row of it: the values of those columns as text.
///
/// # Errors
/// When the row is not of that query.
pub fn message(values: &[Option<&str>]) -> Result<Message, String> {
    let other = || "this is no row of messages".to_owned();
    let [Some(id), Some(kind), key, Some(payload), headers, Some(created_at)] = values else {
        return Err(other());
    };
    let headers: Option<BTreeMap<String, String>> = match headers {
        Some(text) => serde_json::from_str(text).map_err(|_| other())?,
        None => None,
    };
    Ok(Message {
        id: id.parse().map_err(|_| other())?,
        message_type: (*kind).to_owned(),
        payload: (*payload).to_owned(),
        key: key.map(str::to_owned),
        headers: headers.unwrap_or_default(),
        created_at: created_at.parse().map_err(|_| other())?,
    })
}
