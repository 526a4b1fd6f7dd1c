//! The work of a sink: fetch, and settle.

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::error::StoreError;
use super::link::Link;
use super::own::sees_all;
use crate::policy::{Lane, Order};
use crate::recipients::Recipients;

/// A delivery as fetched: the row, and its message where it stands.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// Of the message.
    pub message_id: i64,
    /// Which of several deliveries of the message through the sink.
    pub target: String,
    /// The lane it waits in.
    pub lane: i16,
    /// Orders deliveries.
    pub key: Option<String>,
    /// Attempts settled so far.
    pub attempt: i32,
    /// The row's change count.
    pub rev: i32,
    /// Which of the delivery's lives, counted from 1: a replay begins another.
    pub round: i32,
    /// Whether its intent is committed since it was fetched.
    pub sending: bool,
    /// Attempts in whose middle a relay ended without a word.
    pub crashes: i16,
    /// Of what an earlier attempt sent.
    pub content_hash: Option<Vec<u8>>,
    /// What earlier attempts learned of each recipient.
    pub recipients: Recipients,
    /// When it fell due.
    pub due_at: Timestamp,
    /// The same on the clock of this process, as the database's clock had it when it was fetched.
    pub fell_due: Instant,
    /// Whether `expires_at` has passed.
    pub expired: bool,
    /// None where the message is gone.
    pub message: Option<FetchedMessage>,
}

/// The message of a fetched delivery.
#[derive(Clone)]
pub struct FetchedMessage {
    /// Its type.
    pub message_type: String,
    /// When it was written.
    pub created_at: Timestamp,
    /// How long ago that was when it was fetched, by the database's clock; zero where the fetch does
    /// not ask.
    pub age: Duration,
    /// The producer's headers.
    pub headers: BTreeMap<String, String>,
    /// None where it must be fetched alone, because it is large.
    pub payload: Option<String>,
}

impl std::fmt::Debug for FetchedMessage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FetchedMessage({})", self.message_type)
    }
}

/// What a fetch passes over.
#[derive(Debug, Default)]
pub struct InHand {
    /// Rows fetched and not known to be settled.
    pub rows: (Vec<i64>, Vec<String>),
    /// Keys with a head in hand or parked: targets, keys, heads.
    pub keys: (Vec<String>, Vec<String>, Vec<i64>),
    /// Whether there are more such keys than these.
    pub more_keys: bool,
}

/// An attempt's end that leaves the delivery open.
#[derive(Clone, Debug)]
pub struct OpenSettlement {
    /// Of the message.
    pub message_id: i64,
    /// Of the delivery.
    pub target: String,
    /// As fetched.
    pub rev: i32,
    /// Attempts settled, this one included.
    pub attempt: i32,
    /// What becomes of it.
    pub state: OpenState,
    /// Wait before the next attempt.
    pub delay: Duration,
    /// In words for the operator.
    pub reason: String,
    /// Hash of what was sent, if anything was made to be sent.
    pub content_hash: Option<Vec<u8>>,
    /// What became of each recipient, where something was learned.
    pub recipients: Option<Recipients>,
}

/// The states an attempt can leave a delivery in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenState {
    /// Tried again later.
    Pending,
    /// Given up; waits for an operator.
    Dead,
    /// In doubt, or not to be sent as it is; waits for an operator.
    Held,
}

impl OpenState {
    fn word(self) -> &'static str {
        match self {
            OpenState::Pending => "pending",
            OpenState::Dead => "dead",
            OpenState::Held => "held",
        }
    }
}

/// An attempt's end that closes the delivery as delivered.
#[derive(Clone, Debug)]
pub struct DeliveredSettlement {
    /// Of the message.
    pub message_id: i64,
    /// Of the delivery.
    pub target: String,
    /// Which of the delivery's lives, counted from 1.
    pub round: i32,
    /// Attempts settled, this one included.
    pub attempt: i32,
    /// The sink's evidence.
    pub receipt: String,
}

/// Who accepted what an attempt left open.
#[derive(Clone, Debug)]
pub struct Accepted {
    /// Of the message.
    pub message_id: i64,
    /// Of the delivery.
    pub target: String,
    /// Which of the delivery's lives, counted from 1.
    pub round: i32,
    /// They alone.
    pub recipients: Recipients,
}

/// A row that was to be closed without an attempt.
#[derive(Clone, Debug)]
pub struct ExpiredSettlement {
    /// Of the message.
    pub message_id: i64,
    /// Of the delivery.
    pub target: String,
    /// As fetched.
    pub rev: i32,
}

/// What a row knows of its recipients; most know nothing.
pub(super) fn known(row: &Row) -> Recipients {
    row.get::<_, Option<&str>>("recipients").map(Recipients::parse).unwrap_or_default()
}

pub(super) fn fetched(row: &Row) -> Fetched {
    let message = row.get::<_, Option<String>>("type").map(|message_type| FetchedMessage {
        message_type,
        created_at: row.get("created_at"),
        age: milliseconds(row.try_get("age_ms").unwrap_or_default()),
        headers: headers(row.get("headers")),
        payload: row.get("payload"),
    });
    Fetched {
        message_id: row.get("message_id"),
        target: row.get("target"),
        lane: row.try_get("lane").unwrap_or_default(),
        key: row.get("key"),
        attempt: row.get("attempt"),
        rev: row.get("rev"),
        round: row.get("round"),
        sending: false,
        crashes: row.get("crashes"),
        content_hash: row.get("content_hash"),
        recipients: known(row),
        due_at: row.try_get("due_at").unwrap_or(Timestamp::MAX),
        fell_due: fell_due(row),
        expired: row.get("expired"),
        message,
    }
}

/// Not before the fetch where the row says nothing of it: an intent has no time to fall due.
fn fell_due(row: &Row) -> Instant {
    let now = Instant::now();
    let asked_at: Option<Timestamp> = row.try_get("asked_at").ok();
    let due_at: Option<Timestamp> = row.try_get("due_at").ok();
    let ago = asked_at.zip(due_at).map(|(asked_at, due_at)| asked_at.duration_since(due_at));
    let ago = ago.and_then(|ago| Duration::try_from(ago).ok()).unwrap_or_default();
    now.checked_sub(ago).unwrap_or(now)
}

/// The constraint on the column lets only an object of strings in.
pub(super) fn headers(text: Option<&str>) -> BTreeMap<String, String> {
    text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

/// What a walk of the fetch index brought.
#[derive(Debug)]
pub struct Walk {
    /// What it found.
    pub rows: Vec<Fetched>,
    /// The database's time: up to there everything was seen, if less was found than asked for.
    pub asked_at: Timestamp,
}

/// The next due deliveries of a lane from `floor` on; see `fetch.sql`.
///
/// # Errors
/// When the database cannot be asked.
pub async fn fetch(
    link: &Link,
    sink: &str,
    lane: i16,
    floor: Timestamp,
    limit: i64,
    in_hand: &InHand,
    order: Order,
) -> Result<Walk, StoreError> {
    let skip = order == Order::Skip;
    let params = [
        (&sink as _, Type::TEXT),
        (&lane as _, Type::INT2),
        (&floor as _, Type::TIMESTAMPTZ),
        (&limit as _, Type::INT8),
        (&in_hand.rows.0 as _, Type::INT8_ARRAY),
        (&in_hand.rows.1 as _, Type::TEXT_ARRAY),
        (&in_hand.keys.0 as _, Type::TEXT_ARRAY),
        (&in_hand.keys.1 as _, Type::TEXT_ARRAY),
        (&in_hand.keys.2 as _, Type::INT8_ARRAY),
        (&in_hand.more_keys as _, Type::BOOL),
        (&skip as _, Type::BOOL),
    ];
    let rows = link.rows_by_index("fetch", &link.queries().fetch, &params).await?;
    let asked_at = rows.first().map_or(Timestamp::UNIX_EPOCH, |row| row.get("asked_at"));
    Ok(Walk { rows: found(link, &rows).await?, asked_at })
}

/// A statement that answers one row at least: without a message id it found nothing. In the order they
/// fell due.
async fn found(link: &Link, rows: &[Row]) -> Result<Vec<Fetched>, StoreError> {
    let is_there = |row: &&Row| row.get::<_, Option<i64>>("message_id").is_some();
    let mut found: Vec<Fetched> = rows.iter().filter(is_there).map(fetched).collect();
    found.sort_by_key(|row| (row.due_at, row.message_id));
    gone_or_hidden(link, found.iter()).await?;
    Ok(found)
}

/// Where a page of the full poll ended: due time and message id.
pub type Reached = (Timestamp, i64);

/// A page of what stands due below `floor` and is not in hand; see `fetch_below.sql`. Answers also
/// where it ended, or none at the end of it all.
///
/// # Errors
/// When the database cannot be asked.
pub async fn fetch_below(
    link: &Link,
    sink: &str,
    lane: i16,
    after: Reached,
    floor: Timestamp,
    (walk, limit): (i64, i64),
    in_hand: &InHand,
) -> Result<(Vec<Fetched>, Option<Reached>), StoreError> {
    let params = [
        (&sink as _, Type::TEXT),
        (&lane as _, Type::INT2),
        (&after.0 as _, Type::TIMESTAMPTZ),
        (&after.1 as _, Type::INT8),
        (&floor as _, Type::TIMESTAMPTZ),
        (&walk as _, Type::INT8),
        (&limit as _, Type::INT8),
        (&in_hand.rows.0 as _, Type::INT8_ARRAY),
        (&in_hand.rows.1 as _, Type::TEXT_ARRAY),
        (&in_hand.keys.0 as _, Type::TEXT_ARRAY),
        (&in_hand.keys.1 as _, Type::TEXT_ARRAY),
    ];
    let rows = link.rows_by_index("poll in full", &link.queries().fetch_below, &params).await?;
    let reached = rows.first().filter(|row| row.get::<_, i64>("walked") >= walk);
    Ok((found(link, &rows).await?, reached.map(|row| (row.get("end_at"), row.get("end_id")))))
}

/// The lowest open delivery of each key, and whether it may start now.
///
/// # Errors
/// When the database cannot be asked.
pub async fn heads(
    link: &Link,
    sink: &str,
    keys: &[(String, String)],
    order: Order,
) -> Result<Vec<(Fetched, bool)>, StoreError> {
    let (targets, keys): (Vec<&str>, Vec<&str>) =
        keys.iter().map(|(target, key)| (target.as_str(), key.as_str())).unzip();
    let skip = order == Order::Skip;
    let params = [
        (&sink as _, Type::TEXT),
        (&targets as _, Type::TEXT_ARRAY),
        (&keys as _, Type::TEXT_ARRAY),
        (&skip as _, Type::BOOL),
    ];
    let rows = link.rows_by_index("find the heads of keys", &link.queries().heads, &params).await?;
    let heads: Vec<(Fetched, bool)> =
        rows.iter().map(|row| (fetched(row), row.get("startable"))).collect();
    gone_or_hidden(link, heads.iter().map(|(row, _)| row)).await?;
    Ok(heads)
}

/// A message that is not there may be hidden, and its delivery must not be given up for that.
pub(super) async fn gone_or_hidden(
    link: &Link,
    mut rows: impl Iterator<Item = &Fetched>,
) -> Result<(), StoreError> {
    if rows.any(|row| row.message.is_none()) { sees_all(link).await } else { Ok(()) }
}

/// How many bytes a payload will take; none if the message is gone.
///
/// # Errors
/// When the database cannot be asked.
pub async fn payload_bytes(link: &Link, message_id: i64) -> Result<Option<u64>, StoreError> {
    let params = [(&message_id as _, Type::INT8)];
    let rows = link.rows("measure a payload", &link.queries().payload_bytes, &params).await?;
    if rows.is_empty() {
        sees_all(link).await?;
    }
    Ok(rows.first().and_then(|row| u64::try_from(row.get::<_, i64>("bytes")).ok()))
}

/// One payload; none if the message is gone.
///
/// # Errors
/// When the database cannot be asked.
pub async fn payload(link: &Link, message_id: i64) -> Result<Option<String>, StoreError> {
    let params = [(&message_id as _, Type::INT8)];
    let rows = link.rows("fetch a payload", &link.queries().payload, &params).await?;
    if rows.is_empty() {
        sees_all(link).await?;
    }
    Ok(rows.first().map(|row| row.get("payload")))
}

/// How long until the next delivery of a sink falls due; none if none waits for time.
///
/// # Errors
/// When the database cannot be asked.
pub async fn next_due(link: &Link, sink: &str) -> Result<Option<Duration>, StoreError> {
    let lanes = Lane::ALL.map(Lane::number).to_vec();
    let params = [(&sink as _, Type::TEXT), (&lanes as _, Type::INT2_ARRAY)];
    let rows =
        link.rows_by_index("look for the next due", &link.queries().next_due, &params).await?;
    let ms = rows.first().and_then(|row| row.get::<_, Option<i64>>("ms"));
    Ok(ms.map(milliseconds))
}

/// A span as statements give it; a negative one is none.
fn milliseconds(ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(ms).unwrap_or_default())
}

/// Which deliveries a settlement applied to.
pub type Applied = Vec<(i64, String)>;

pub(super) fn applied(rows: &[Row]) -> Applied {
    rows.iter().map(|row| (row.get("message_id"), row.get("target"))).collect()
}

/// Closes deliveries as delivered; answers those whose row was still open. The others are recorded
/// all the same.
///
/// # Errors
/// When the database cannot be asked. Safe to repeat: what was written is not written twice.
pub async fn settle_delivered(
    link: &Link,
    sink: &str,
    batch: &[DeliveredSettlement],
) -> Result<Applied, StoreError> {
    let all: Vec<&DeliveredSettlement> = batch.iter().collect();
    let sql = &link.queries().settle_delivered;
    let closed = applied(&write_delivered(link, "settle as delivered", sql, sink, &all).await?);
    if closed.len() < all.len() {
        let found: HashSet<&(i64, String)> = closed.iter().collect();
        let late = |s: &&DeliveredSettlement| !found.contains(&(s.message_id, s.target.clone()));
        let late: Vec<&DeliveredSettlement> = all.into_iter().filter(late).collect();
        let sql = &link.queries().settle_late;
        write_delivered(link, "settle what was closed meanwhile", sql, sink, &late).await?;
    }
    Ok(closed)
}

async fn write_delivered(
    link: &Link,
    doing: &'static str,
    sql: &str,
    sink: &str,
    batch: &[&DeliveredSettlement],
) -> Result<Vec<Row>, StoreError> {
    let ids: Vec<i64> = batch.iter().map(|s| s.message_id).collect();
    let targets: Vec<&str> = batch.iter().map(|s| s.target.as_str()).collect();
    let attempts: Vec<i32> = batch.iter().map(|s| s.attempt).collect();
    let rounds: Vec<i32> = batch.iter().map(|s| s.round).collect();
    let receipts: Vec<&str> = batch.iter().map(|s| s.receipt.as_str()).collect();
    let params = [
        (&sink as _, Type::TEXT),
        (&ids as _, Type::INT8_ARRAY),
        (&targets as _, Type::TEXT_ARRAY),
        (&attempts as _, Type::INT4_ARRAY),
        (&receipts as _, Type::TEXT_ARRAY),
        (&rounds as _, Type::INT4_ARRAY),
    ];
    link.rows_by_index(doing, sql, &params).await
}

/// Closes deliveries as expired, under the fence.
///
/// # Errors
/// When the database cannot be asked.
pub async fn settle_expired(
    link: &Link,
    sink: &str,
    epoch: i64,
    batch: &[ExpiredSettlement],
) -> Result<Applied, StoreError> {
    let ids: Vec<i64> = batch.iter().map(|s| s.message_id).collect();
    let targets: Vec<&str> = batch.iter().map(|s| s.target.as_str()).collect();
    let revs: Vec<i32> = batch.iter().map(|s| s.rev).collect();
    let params = [
        (&sink as _, Type::TEXT),
        (&epoch as _, Type::INT8),
        (&ids as _, Type::INT8_ARRAY),
        (&targets as _, Type::TEXT_ARRAY),
        (&revs as _, Type::INT4_ARRAY),
    ];
    let rows =
        link.rows_by_index("settle as expired", &link.queries().settle_expired, &params).await?;
    Ok(applied(&rows))
}

/// Notes who accepted what is not closed by that, whoever owns the sink now.
///
/// # Errors
/// When the database cannot be asked. Safe to repeat.
pub async fn note_accepted(link: &Link, sink: &str, batch: &[Accepted]) -> Result<(), StoreError> {
    let ids: Vec<i64> = batch.iter().map(|s| s.message_id).collect();
    let targets: Vec<&str> = batch.iter().map(|s| s.target.as_str()).collect();
    let rounds: Vec<i32> = batch.iter().map(|s| s.round).collect();
    let recipients: Vec<String> = batch.iter().map(|s| s.recipients.json()).collect();
    let params = [
        (&sink as _, Type::TEXT),
        (&ids as _, Type::INT8_ARRAY),
        (&targets as _, Type::TEXT_ARRAY),
        (&rounds as _, Type::INT4_ARRAY),
        (&recipients as _, Type::TEXT_ARRAY),
    ];
    let sql = &link.queries().note_accepted;
    link.rows_by_index("note who accepted", sql, &params).await.map(drop)
}

/// Records attempts that left their delivery open, under the fence.
///
/// # Errors
/// When the database cannot be asked.
pub async fn settle_open(
    link: &Link,
    sink: &str,
    epoch: i64,
    batch: &[OpenSettlement],
) -> Result<Applied, StoreError> {
    let ids: Vec<i64> = batch.iter().map(|s| s.message_id).collect();
    let targets: Vec<&str> = batch.iter().map(|s| s.target.as_str()).collect();
    let revs: Vec<i32> = batch.iter().map(|s| s.rev).collect();
    let attempts: Vec<i32> = batch.iter().map(|s| s.attempt).collect();
    let states: Vec<&str> = batch.iter().map(|s| s.state.word()).collect();
    let delays: Vec<i64> =
        batch.iter().map(|s| i64::try_from(s.delay.as_millis()).unwrap_or(i64::MAX)).collect();
    let reasons: Vec<&str> = batch.iter().map(|s| s.reason.as_str()).collect();
    let hashes: Vec<Option<&[u8]>> = batch.iter().map(|s| s.content_hash.as_deref()).collect();
    let recipients: Vec<Option<String>> =
        batch.iter().map(|s| s.recipients.as_ref().map(Recipients::json)).collect();
    let params = [
        (&sink as _, Type::TEXT),
        (&epoch as _, Type::INT8),
        (&ids as _, Type::INT8_ARRAY),
        (&targets as _, Type::TEXT_ARRAY),
        (&revs as _, Type::INT4_ARRAY),
        (&attempts as _, Type::INT4_ARRAY),
        (&states as _, Type::TEXT_ARRAY),
        (&delays as _, Type::INT8_ARRAY),
        (&reasons as _, Type::TEXT_ARRAY),
        (&hashes as _, Type::BYTEA_ARRAY),
        (&recipients as _, Type::TEXT_ARRAY),
    ];
    let rows = link.rows_by_index("settle", &link.queries().settle_open, &params).await?;
    Ok(applied(&rows))
}
