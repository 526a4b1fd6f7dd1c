//! What people do at a prompt: send a message, and change what became of its deliveries.

use std::time::Duration;

use jiff::Timestamp;
use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};

use crate::store::error::StoreError;
use crate::store::link::{Link, Param};

/// A message to send, as a producer would.
#[derive(Clone, Default)]
pub struct NewMessage {
    /// Its type.
    pub message_type: String,
    /// JSON, as it was written.
    pub payload: String,
    /// Orders deliveries.
    pub key: Option<String>,
    /// Not before.
    pub due_at: Option<Timestamp>,
    /// Or so many milliseconds from now, by the database's clock.
    pub due_in_ms: Option<i64>,
    /// Not after.
    pub expires_at: Option<Timestamp>,
    /// A second message of the type with the same one is a duplicate.
    pub dedupe_key: Option<String>,
    /// A JSON object of strings.
    pub headers: Option<String>,
}

/// What an operator does to open deliveries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Dead ones are tried again now, with all their attempts to come.
    Retry,
    /// They are closed for good.
    Discard,
    /// Held ones did arrive, or did not and are sent again.
    Resolve {
        /// Whether they arrived.
        delivered: bool,
    },
}

/// A delivery as somebody looked at it: what happens to it must not happen to what it became since.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Looked {
    /// Of the message.
    pub message_id: i64,
    /// Empty if unrouted.
    pub sink: String,
    /// Empty where the route has no name.
    pub target: String,
    /// The rev of an open one, the round of a closed one.
    pub seen: i32,
}

/// A delivery that was changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    /// Of the message.
    pub message_id: i64,
    /// Empty if unrouted.
    pub sink: String,
    /// Empty where the route has no name.
    pub target: String,
    /// Its state, or its outcome, before.
    pub was: String,
    /// And now.
    pub became: String,
}

/// How a replay goes about it.
#[derive(Clone, Copy, Debug)]
pub struct Spacing {
    /// The lane the deliveries wait in.
    pub lane: i16,
    /// Before the first one falls due.
    pub wait: Duration,
    /// Between two.
    pub every: Duration,
}

/// Sends a message; answers its id.
///
/// # Errors
/// When the database cannot be asked or does not take the message.
pub async fn send(link: &Link, message: &NewMessage) -> Result<i64, StoreError> {
    let params = [
        (&message.message_type as _, Type::TEXT),
        (&message.payload as _, Type::TEXT),
        (&message.key as _, Type::TEXT),
        (&message.due_at as _, Type::TIMESTAMPTZ),
        (&message.due_in_ms as _, Type::INT8),
        (&message.expires_at as _, Type::TIMESTAMPTZ),
        (&message.dedupe_key as _, Type::TEXT),
        (&message.headers as _, Type::TEXT),
    ];
    Ok(link.row("send", &link.queries().send, &params).await?.get("message_id"))
}

/// Does it to the open deliveries of one message that it suits, and answers those. Waits for whoever is
/// changing them.
///
/// # Errors
/// When the database cannot be asked; for `Resolve`, also while a relay may yet be sending one.
pub async fn act_on_message(
    link: &Link,
    act: Act,
    message_id: i64,
    sink: Option<&str>,
    target: Option<&str>,
    actor: &str,
) -> Result<Vec<Changed>, StoreError> {
    let mut params = vec![
        (&message_id as _, Type::INT8),
        (&sink as _, Type::TEXT),
        (&target as _, Type::TEXT),
        (&actor as _, Type::TEXT),
    ];
    let queries = link.queries();
    let sql = match &act {
        Act::Retry => &queries.retry_message,
        Act::Discard => &queries.discard_message,
        Act::Resolve { delivered } => {
            params.push((delivered as _, Type::BOOL));
            &queries.resolve_message
        }
    };
    let rows = link.rows("change a message's deliveries", sql, &params).await?;
    Ok(rows.iter().map(changed).collect())
}

/// Does it to those of a page that it suits, in one transaction, and answers them. Left out are those
/// that changed since they were looked at, or that somebody is changing now.
///
/// # Errors
/// When the database cannot be asked.
pub async fn act_on_page(
    link: &Link,
    act: Act,
    page: &[Looked],
    actor: &str,
) -> Result<Vec<Changed>, StoreError> {
    let page = Columns::of(page);
    let mut params = page.params();
    params.push((&actor as _, Type::TEXT));
    let queries = link.queries();
    let sql = match &act {
        Act::Retry => &queries.retry_page,
        Act::Discard => &queries.discard_page,
        Act::Resolve { delivered } => {
            params.push((delivered as _, Type::BOOL));
            &queries.resolve_page
        }
    };
    let rows = link.rows("change deliveries", sql, &params).await?;
    Ok(rows.iter().map(changed).collect())
}

/// Sends closed deliveries of one message again, in their routes' lanes; answers those.
///
/// # Errors
/// When the database cannot be asked.
pub async fn replay_message(
    link: &Link,
    message_id: i64,
    sink: Option<&str>,
    target: Option<&str>,
    actor: &str,
) -> Result<Vec<Changed>, StoreError> {
    let params = [
        (&message_id as _, Type::INT8),
        (&sink as _, Type::TEXT),
        (&target as _, Type::TEXT),
        (&actor as _, Type::TEXT),
    ];
    let rows = link.rows("replay a message", &link.queries().replay_message, &params).await?;
    Ok(rows.iter().map(changed).collect())
}

/// Sends a page of closed deliveries again, in one transaction; answers those that began another life.
///
/// # Errors
/// When the database cannot be asked.
pub async fn replay_page(
    link: &Link,
    page: &[Looked],
    actor: &str,
    spacing: Spacing,
) -> Result<Vec<Changed>, StoreError> {
    let page = Columns::of(page);
    let micros = |span: Duration| i64::try_from(span.as_micros()).unwrap_or(i64::MAX);
    let (wait, every) = (micros(spacing.wait), micros(spacing.every));
    let mut params = page.params();
    params.extend([
        (&actor as Value<'_>, Type::TEXT),
        (&spacing.lane as _, Type::INT2),
        (&wait as _, Type::INT8),
        (&every as _, Type::INT8),
    ]);
    let rows = link.rows("replay deliveries", &link.queries().replay_page, &params).await?;
    Ok(rows.iter().map(changed).collect())
}

/// Of a page, those that wait because their route was paused fall due now; answers them.
///
/// # Errors
/// When the database cannot be asked.
pub async fn release_page(link: &Link, page: &[Looked]) -> Result<Vec<Changed>, StoreError> {
    let page = Columns::of(page);
    let rows =
        link.rows("release deliveries", &link.queries().release_page, &page.params()).await?;
    Ok(rows.iter().map(changed).collect())
}

type Value<'a> = &'a (dyn ToSql + Sync);

/// A page as the statements take it.
struct Columns<'a> {
    ids: Vec<i64>,
    sinks: Vec<&'a str>,
    targets: Vec<&'a str>,
    seen: Vec<i32>,
}

impl Columns<'_> {
    fn of(page: &[Looked]) -> Columns<'_> {
        Columns {
            ids: page.iter().map(|row| row.message_id).collect(),
            sinks: page.iter().map(|row| row.sink.as_str()).collect(),
            targets: page.iter().map(|row| row.target.as_str()).collect(),
            seen: page.iter().map(|row| row.seen).collect(),
        }
    }

    fn params(&self) -> Vec<Param<'_>> {
        vec![
            (&self.ids as _, Type::INT8_ARRAY),
            (&self.sinks as _, Type::TEXT_ARRAY),
            (&self.targets as _, Type::TEXT_ARRAY),
            (&self.seen as _, Type::INT4_ARRAY),
        ]
    }
}

fn changed(row: &Row) -> Changed {
    Changed {
        message_id: row.get("message_id"),
        sink: row.get("sink"),
        target: row.get("target"),
        was: row.get("was"),
        became: row.get("became"),
    }
}

/// Enters a row for each of these sinks, as a starting relay does: names and kinds.
///
/// # Errors
/// When the database cannot be asked.
pub async fn enter_sinks(link: &Link, names: &[&str], kinds: &[&str]) -> Result<(), StoreError> {
    let params = [(&names as _, Type::TEXT_ARRAY), (&kinds as _, Type::TEXT_ARRAY)];
    link.execute("enter the sinks", &link.queries().add_sinks, &params).await.map(drop)
}
