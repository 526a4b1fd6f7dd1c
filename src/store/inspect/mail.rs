//! Exported periods and their mails, as operators look at them and decide about them.

use jiff::Timestamp;
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use crate::recipients::Recipients;
use crate::store::error::StoreError;
use crate::store::link::Link;
use crate::store::work::known;

/// A mail.
#[derive(Clone, Debug)]
pub struct MailRow {
    /// Its row.
    pub id: i64,
    /// Whose files it carries.
    pub sink: String,
    /// Of the last of them.
    pub period: String,
    /// As the database has it.
    pub state: String,
    /// Dialogues so far that spent an attempt.
    pub attempt: i32,
    /// Of the whole mail.
    pub hash: Option<String>,
    /// Not to be sent again before then.
    pub hold_until: Option<Timestamp>,
    /// The mail server's last words, or an operator's.
    pub reason: Option<String>,
    /// The last dialogue.
    pub transcript: Option<String>,
    /// What is known of each recipient.
    pub recipients: Recipients,
}

/// One change of a mail's state.
#[derive(Clone, Debug)]
pub struct StepRow {
    /// Counted from 1.
    pub step: i32,
    /// The state it changed to.
    pub state: String,
    /// When.
    pub at: Timestamp,
    /// Who: a relay, or an operator.
    pub actor: String,
    /// Of the whole mail.
    pub hash: Option<String>,
    /// Why.
    pub note: Option<String>,
}

/// A file.
#[derive(Clone, Debug)]
pub struct ExportRow {
    /// The csv sink or export.
    pub sink: String,
    /// What it is called after.
    pub period: String,
    /// As the database has it.
    pub state: String,
    /// Begin of its span.
    pub due_from: Option<Timestamp>,
    /// Its end.
    pub due_before: Timestamp,
    /// Its rows.
    pub row_count: i64,
    /// Rows that came too late for it.
    pub late_rows: Option<i64>,
    /// Where it is.
    pub file: Option<String>,
    /// Its size.
    pub bytes: Option<i64>,
    /// Its SHA-256, in hex.
    pub sha256: Option<String>,
    /// Why it does not stand yet.
    pub reason: Option<String>,
}

/// The mail that carries the file of a period, if one does.
///
/// # Errors
/// When the database cannot be asked.
pub async fn find(link: &Link, sink: &str, period: &str) -> Result<Option<MailRow>, StoreError> {
    let params = [(&sink as _, Type::TEXT), (&period as _, Type::TEXT)];
    let rows = link.rows("look for a mail", &link.queries().find_mailing, &params).await?;
    let mail = |row: &Row| MailRow {
        id: row.get("id"),
        sink: row.get("sink"),
        period: row.get("period"),
        state: row.get("state"),
        attempt: row.get("attempt"),
        hash: row.get("hash"),
        hold_until: row.get("hold_until"),
        reason: row.get("reason"),
        transcript: row.get("transcript"),
        recipients: known(row),
    };
    Ok(rows.first().map(mail))
}

/// The files of a mail, or the file of a period that has none.
///
/// # Errors
/// When the database cannot be asked.
pub async fn files(
    link: &Link,
    sink: &str,
    period: &str,
    mailing: Option<i64>,
) -> Result<Vec<ExportRow>, StoreError> {
    let params =
        [(&sink as _, Type::TEXT), (&period as _, Type::TEXT), (&mailing as _, Type::INT8)];
    let rows = link.rows("look for files", &link.queries().find_exports, &params).await?;
    let file = |row: &Row| ExportRow {
        sink: row.get("sink"),
        period: row.get("name"),
        state: row.get("state"),
        due_from: row.get("due_from"),
        due_before: row.get("due_before"),
        row_count: row.get("row_count"),
        late_rows: row.get("late_rows"),
        file: row.get("file"),
        bytes: row.get("bytes"),
        sha256: row.get("sha256"),
        reason: row.get("reason"),
    };
    Ok(rows.iter().map(file).collect())
}

/// Each change of a mail's state, the first one first.
///
/// # Errors
/// When the database cannot be asked.
pub async fn steps(link: &Link, mailing: i64) -> Result<Vec<StepRow>, StoreError> {
    let params = [(&mailing as _, Type::INT8)];
    let rows = link.rows("read a mail's steps", &link.queries().mailing_steps, &params).await?;
    let step = |row: &Row| StepRow {
        step: row.get("step"),
        state: row.get("state"),
        at: row.get("at"),
        actor: row.get("actor"),
        hash: row.get("hash"),
        note: row.get("note"),
    };
    Ok(rows.iter().map(step).collect())
}

/// Says of a held mail whether it arrived; answers the state it was in.
///
/// # Errors
/// When there is no such mail, it is not held, or a relay may yet be sending it; in words.
pub async fn resolve(
    link: &Link,
    sink: &str,
    period: &str,
    delivered: bool,
    actor: &str,
) -> Result<String, StoreError> {
    let params = [
        (&sink as _, Type::TEXT),
        (&period as _, Type::TEXT),
        (&delivered as _, Type::BOOL),
        (&actor as _, Type::TEXT),
    ];
    Ok(link.row("resolve a mail", &link.queries().resolve_mailing, &params).await?.get("was"))
}

/// Tries a dead mail again; answers the state it was in.
///
/// # Errors
/// When there is no such mail or it is not dead; in words.
pub async fn retry(
    link: &Link,
    sink: &str,
    period: &str,
    actor: &str,
) -> Result<String, StoreError> {
    let params = [(&sink as _, Type::TEXT), (&period as _, Type::TEXT), (&actor as _, Type::TEXT)];
    Ok(link.row("retry a mail", &link.queries().retry_mailing, &params).await?.get("was"))
}

/// Gives a mail up for good; answers the state it was in.
///
/// # Errors
/// When there is no such mail, or it is out or on its way; in words.
pub async fn discard(
    link: &Link,
    sink: &str,
    period: &str,
    actor: &str,
) -> Result<String, StoreError> {
    let params = [(&sink as _, Type::TEXT), (&period as _, Type::TEXT), (&actor as _, Type::TEXT)];
    Ok(link.row("discard a mail", &link.queries().discard_mailing, &params).await?.get("was"))
}
