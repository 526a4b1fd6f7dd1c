//! CSV files: what waits, the cut, and the set of each file.

use jiff::Timestamp;
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::error::StoreError;
use super::link::Link;
use super::work::{Fetched, fetched, gone_or_hidden, headers};
use crate::message::Message;

/// Rows and payload bytes of one page.
const PAGE_ROWS: i64 = 1_000;
const PAGE_BYTES: i64 = 8 * 1024 * 1024;

/// What waits for a sink's next cut.
#[derive(Clone, Copy, Debug)]
pub struct Waiting {
    /// The database's time.
    pub now: Timestamp,
    /// Whether the sink, or everything, is paused: then nothing is cut.
    pub paused: bool,
    /// When the oldest of them fell due; none if nothing waits.
    pub oldest: Option<Timestamp>,
    /// How many are due, counted to the limit asked for.
    pub count: i64,
    /// Up to where the last cut reached.
    pub cut_before: Option<Timestamp>,
    /// The same of the last cut by time.
    pub ticked_before: Option<Timestamp>,
    /// When the sink's calendar was first seen; of one without a calendar, now.
    pub since: Timestamp,
}

/// How far a file has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExportState {
    /// Its set is being gathered.
    Open,
    /// Its set is fixed; the file is to be written.
    Closed,
    /// Its bytes are on disk, or were; it is to get its name.
    Built,
}

/// A file a sink is at work on.
#[derive(Clone, Debug)]
pub struct Export {
    /// Its row.
    pub id: i64,
    /// The period it is named after.
    pub period: String,
    /// Which file of that period.
    pub part: i32,
    /// How far it has come.
    pub state: ExportState,
    /// Begin of its span, where the cut is by time.
    pub due_from: Option<Timestamp>,
    /// What fell due before belongs into it.
    pub due_before: Timestamp,
    /// Most rows, where the cut is by count.
    pub rows_max: Option<i64>,
    /// Rows gathered so far; once it is built, those of the file.
    pub row_count: i64,
    /// Lowest and highest id of its messages, if it has any.
    pub ids: Option<(i64, i64)>,
    /// Size and hash of a built file.
    pub content: Option<(i64, String)>,
    /// Of a built file: hash of the columns and of how they are written.
    pub layout: Option<String>,
}

impl Export {
    /// What the file is called after: the period, and its part from the second on.
    #[must_use]
    pub fn name(&self) -> String {
        match self.part {
            1 => self.period.clone(),
            part => format!("{}-{part}", self.period),
        }
    }
}

/// A file as it was built.
pub struct Built<'a> {
    /// Where it will be.
    pub file: &'a str,
    /// Its size.
    pub bytes: u64,
    /// Its SHA-256, in hex.
    pub sha256: &'a str,
    /// How many rows are in it: of messages fewer than were gathered, where somebody deleted some.
    pub rows: i64,
    /// Hash of the columns and of how they are written.
    pub layout: &'a str,
}

fn export(row: &Row) -> Export {
    Export {
        id: row.get("id"),
        period: row.get("period"),
        part: row.get("part"),
        state: match row.get("state") {
            "open" => ExportState::Open,
            "built" => ExportState::Built,
            _ => ExportState::Closed,
        },
        due_from: row.get("due_from"),
        due_before: row.get("due_before"),
        rows_max: row.get("rows_max"),
        row_count: row.get("row_count"),
        ids: row.get::<_, Option<i64>>("first_id").zip(row.get("last_id")),
        content: row.get::<_, Option<i64>>("bytes").zip(row.get("sha256")),
        layout: row.get("layout"),
    }
}

/// What waits for the next cut; counts no further than `limit`.
///
/// # Errors
/// When the database cannot be asked.
pub async fn waiting(link: &Link, sink: &str, limit: i64) -> Result<Waiting, StoreError> {
    let params = [(&sink as _, Type::TEXT), (&limit as _, Type::INT8)];
    let rows =
        link.rows_by_index("look for rows to export", &link.queries().csv_waiting, &params).await?;
    let row = rows.first().ok_or_else(|| StoreError::said("look", "no answer"))?;
    Ok(Waiting {
        now: row.get("now"),
        paused: row.get("paused"),
        oldest: row.get("oldest"),
        count: row.get("waiting"),
        cut_before: row.get("cut_before"),
        ticked_before: row.get("ticked_before"),
        since: row.get("since"),
    })
}

/// The file the sink is at work on, if any.
///
/// # Errors
/// When the database cannot be asked.
pub async fn at_work(link: &Link, sink: &str) -> Result<Option<Export>, StoreError> {
    let params = [(&sink as _, Type::TEXT)];
    let rows =
        link.rows("look for a file at work", &link.queries().export_at_work, &params).await?;
    Ok(rows.first().map(export))
}

/// A cut that is to be made.
pub struct NewCut<'a> {
    /// What the file is called after.
    pub period: &'a str,
    /// Begin of its span.
    pub due_from: Option<Timestamp>,
    /// What fell due before belongs into it.
    pub due_before: Timestamp,
    /// Most rows, where the cut is by count.
    pub rows_max: Option<i64>,
    /// From then on the file is late.
    pub late_at: Timestamp,
    /// Whether a mail is to carry it.
    pub to_mail: bool,
}

/// Opens the next file of a period; none if the sink is paused or has another owner now.
///
/// # Errors
/// When the database cannot be asked.
pub async fn open(
    link: &Link,
    sink: &str,
    epoch: i64,
    cut: &NewCut<'_>,
) -> Result<Option<Export>, StoreError> {
    let params = [
        (&sink as _, Type::TEXT),
        (&epoch as _, Type::INT8),
        (&cut.period as _, Type::TEXT),
        (&cut.due_from as _, Type::TIMESTAMPTZ),
        (&cut.due_before as _, Type::TIMESTAMPTZ),
        (&cut.rows_max as _, Type::INT8),
        (&cut.late_at as _, Type::TIMESTAMPTZ),
        (&cut.to_mail as _, Type::BOOL),
    ];
    let rows = link.rows("open a file", &link.queries().open_export, &params).await?;
    Ok(rows.first().map(export))
}

/// A page of what still belongs into an open file.
///
/// # Errors
/// When the database cannot be asked.
pub async fn gather_page(
    link: &Link,
    sink: &str,
    due_before: Timestamp,
    rows_max: Option<i64>,
) -> Result<Vec<Fetched>, StoreError> {
    let limit = rows_max.unwrap_or(PAGE_ROWS).min(PAGE_ROWS);
    let params = [
        (&sink as _, Type::TEXT),
        (&due_before as _, Type::TIMESTAMPTZ),
        (&limit as _, Type::INT8),
        (&PAGE_BYTES as _, Type::INT8),
    ];
    let rows =
        link.rows_by_index("gather rows to export", &link.queries().gather_page, &params).await?;
    let rows: Vec<Fetched> = rows.iter().map(fetched).collect();
    gone_or_hidden(link, rows.iter()).await?;
    Ok(rows)
}

/// Moves deliveries into an open file; answers how many moved.
///
/// # Errors
/// When the database cannot be asked. Safe to repeat: what moved does not move again.
pub async fn gather(
    link: &Link,
    sink: &str,
    epoch: i64,
    export: i64,
    rows: &[&Fetched],
) -> Result<i64, StoreError> {
    let ids: Vec<i64> = rows.iter().map(|row| row.message_id).collect();
    let targets: Vec<&str> = rows.iter().map(|row| row.target.as_str()).collect();
    let revs: Vec<i32> = rows.iter().map(|row| row.rev).collect();
    let params = [
        (&sink as _, Type::TEXT),
        (&epoch as _, Type::INT8),
        (&export as _, Type::INT8),
        (&ids as _, Type::INT8_ARRAY),
        (&targets as _, Type::TEXT_ARRAY),
        (&revs as _, Type::INT4_ARRAY),
    ];
    let rows = link.rows_by_index("move rows into a file", &link.queries().gather, &params).await?;
    Ok(rows.first().map_or(0, |row| row.get("moved")))
}

/// Fixes the set of a file; `false` while something that belongs into it is still open, which nothing
/// does where its rows come from a query.
///
/// # Errors
/// When the database cannot be asked.
pub async fn close(
    link: &Link,
    sink: &str,
    epoch: i64,
    export: i64,
    is_query: bool,
) -> Result<bool, StoreError> {
    let params = [
        (&sink as _, Type::TEXT),
        (&epoch as _, Type::INT8),
        (&export as _, Type::INT8),
        (&is_query as _, Type::BOOL),
    ];
    Ok(link.execute("close a file", &link.queries().close_export, &params).await? == 1)
}

/// Where a page of a file ended: message and target.
pub type Keyset = (i64, String);

/// A page of a closed file's messages after a keyset, and where the page ended; empty at the end.
///
/// # Errors
/// When the database cannot be asked.
pub async fn page(
    link: &Link,
    export: i64,
    after: &Keyset,
) -> Result<Vec<(Keyset, Message)>, StoreError> {
    let params = [
        (&export as _, Type::INT8),
        (&after.0 as _, Type::INT8),
        (&after.1 as _, Type::TEXT),
        (&PAGE_ROWS as _, Type::INT8),
        (&PAGE_BYTES as _, Type::INT8),
    ];
    let rows =
        link.rows_by_index("read a file's rows", &link.queries().export_page, &params).await?;
    let message = |row: &Row| Message {
        id: row.get("message_id"),
        message_type: row.get("type"),
        payload: row.get("payload"),
        key: row.get("key"),
        headers: headers(row.get("headers")),
        created_at: row.get("created_at"),
    };
    Ok(rows.iter().map(|row| ((row.get("message_id"), row.get("target")), message(row))).collect())
}

/// Notes that a file is built: its bytes are on disk, its name comes next. `false` if the sink has
/// another owner now.
///
/// # Errors
/// When the database cannot be asked.
pub async fn build(
    link: &Link,
    sink: &str,
    epoch: i64,
    export: i64,
    built: &Built<'_>,
) -> Result<bool, StoreError> {
    let bytes = i64::try_from(built.bytes).unwrap_or(i64::MAX);
    let params = [
        (&sink as _, Type::TEXT),
        (&epoch as _, Type::INT8),
        (&export as _, Type::INT8),
        (&built.file as _, Type::TEXT),
        (&bytes as _, Type::INT8),
        (&built.sha256 as _, Type::TEXT),
        (&built.rows as _, Type::INT8),
        (&built.layout as _, Type::TEXT),
    ];
    Ok(link.execute("note a built file", &link.queries().build_export, &params).await? == 1)
}

/// Notes that the bytes of a built file are nowhere to be found: it is written again.
///
/// # Errors
/// When the database cannot be asked.
pub async fn unbuild(link: &Link, sink: &str, epoch: i64, export: i64) -> Result<bool, StoreError> {
    let params = [(&sink as _, Type::TEXT), (&epoch as _, Type::INT8), (&export as _, Type::INT8)];
    Ok(link.execute("write a file again", &link.queries().unbuild_export, &params).await? == 1)
}

/// Ends an export that has no rows and gives no file.
///
/// # Errors
/// When the database cannot be asked.
pub async fn leave_empty(
    link: &Link,
    sink: &str,
    epoch: i64,
    export: i64,
) -> Result<bool, StoreError> {
    let params = [(&sink as _, Type::TEXT), (&epoch as _, Type::INT8), (&export as _, Type::INT8)];
    Ok(link.execute("leave a file out", &link.queries().leave_empty, &params).await? == 1)
}

/// Notes that the file of that hash stands.
///
/// # Errors
/// When the database cannot be asked.
pub async fn publish(link: &Link, export: i64, sha256: &str) -> Result<(), StoreError> {
    let params = [(&export as _, Type::INT8), (&sha256 as _, Type::TEXT)];
    link.execute("note a file", &link.queries().publish_export, &params).await.map(drop)
}

/// Notes why a file does not stand yet.
///
/// # Errors
/// When the database cannot be asked.
pub async fn note(link: &Link, export: i64, reason: &str) -> Result<(), StoreError> {
    let params = [(&export as _, Type::INT8), (&reason as _, Type::TEXT)];
    link.execute("note a file's trouble", &link.queries().note_export, &params).await.map(drop)
}

/// A file that was made, whose late rows nobody has counted yet.
#[derive(Clone, Debug)]
pub struct Earlier {
    /// Its row.
    pub id: i64,
    /// The period it is named after.
    pub period: String,
    /// Begin of its span.
    pub from: Timestamp,
    /// Its end.
    pub before: Timestamp,
    /// How many rows it has.
    pub row_count: i64,
}

/// The export before one, if its late rows are still to be counted.
///
/// # Errors
/// When the database cannot be asked.
pub async fn before(link: &Link, sink: &str, export: i64) -> Result<Option<Earlier>, StoreError> {
    let params = [(&sink as _, Type::TEXT), (&export as _, Type::INT8)];
    let rows =
        link.rows("look for the file before", &link.queries().export_before, &params).await?;
    Ok(rows.first().map(|row| Earlier {
        id: row.get("id"),
        period: row.get("period"),
        from: row.get("due_from"),
        before: row.get("due_before"),
        row_count: row.get("row_count"),
    }))
}

/// Notes how many rows committed after their file was made.
///
/// # Errors
/// When the database cannot be asked.
pub async fn note_late(link: &Link, export: i64, rows: i64) -> Result<(), StoreError> {
    let params = [(&export as _, Type::INT8), (&rows as _, Type::INT8)];
    link.execute("note late rows", &link.queries().note_late, &params).await.map(drop)
}
