//! Mails that carry exported files: what is planned, and the record of each step.

use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::Date;
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::error::StoreError;
use super::link::{Link, Param};
use super::work::known;
use crate::delivery::in_ascii;
use crate::recipients::Recipients;

/// Files looked at in one go.
const UNMAILED_MAX: i64 = 1_000;

/// Who acts, for which sink.
#[derive(Clone, Copy, Debug)]
pub struct Actor<'a> {
    /// Whose files are mailed.
    pub sink: &'a str,
    /// The epoch this relay took it with.
    pub epoch: i64,
    /// The relay.
    pub relay: &'a str,
}

impl Actor<'_> {
    /// What statements under the fence take first.
    fn params(&self) -> [Param<'_>; 3] {
        [(&self.sink, Type::TEXT), (&self.epoch, Type::INT8), (&self.relay, Type::TEXT)]
    }
}

/// How far a mail at work has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MailingState {
    /// Its files are chosen.
    Planned,
    /// Its bytes are known.
    Built,
    /// Its dialogue has begun.
    Sending,
    /// It is known that it was not sent; it is tried again.
    Unsent,
}

/// A mail at work.
#[derive(Clone, Debug)]
pub struct Mailing {
    /// Its row.
    pub id: i64,
    /// Of its last file.
    pub period: String,
    /// How far it has come.
    pub state: MailingState,
    /// Dialogues so far that spent an attempt.
    pub attempt: u32,
    /// Whether an operator had it sent again: then at once.
    pub by_hand: bool,
    /// When it was planned; its date.
    pub planned_at: Timestamp,
    /// When it last changed; of one whose dialogue has begun, when that was.
    pub changed_at: Timestamp,
    /// How long until it is due; zero if it is.
    pub wait: Duration,
    /// The day whose mail it is: where one a day is the rule, and some have it.
    pub day: Option<Date>,
    /// What earlier dialogues learned of each recipient.
    pub recipients: Recipients,
}

/// What there is to mail.
#[derive(Clone, Debug)]
pub struct Desk {
    /// The database's time.
    pub now: Timestamp,
    /// The mail at work, if any.
    pub mailing: Option<Mailing>,
    /// The last day that has its mail, where one a day is the rule.
    pub last_day: Option<Date>,
    /// Published files that no mail carries, the oldest first: their export and period.
    pub unmailed: Vec<(i64, String)>,
}

/// A file that a mail carries.
#[derive(Clone, Debug)]
pub struct MailedFile {
    /// What it is called after.
    pub period: String,
    /// Where it was published.
    pub file: String,
    /// Its rows.
    pub rows: i64,
    /// Its size.
    pub bytes: i64,
    /// Its SHA-256, in hex.
    pub sha256: String,
    /// Begin of the span, where there is one.
    pub due_from: Option<Timestamp>,
    /// Its end.
    pub due_before: Timestamp,
}

/// How a dialogue ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MailingEnd {
    /// The server took it.
    Sent,
    /// It certainly did not; tried again after the delay.
    Unsent {
        /// How long it rests.
        delay: Duration,
        /// Whether that spent an attempt.
        spent: bool,
    },
    /// Nobody knows.
    Held,
    /// It certainly did not, and there is no use in asking again.
    Dead,
}

/// What there is to mail now; none while anything of it is paused.
///
/// # Errors
/// When the database cannot be asked.
pub async fn look(link: &Link, sink: &str, through: &str) -> Result<Option<Desk>, StoreError> {
    let params = [(&sink as _, Type::TEXT), (&through as _, Type::TEXT)];
    let rows = link.rows("look for a mail at work", &link.queries().mailing, &params).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    let params = [(&sink as _, Type::TEXT), (&UNMAILED_MAX as _, Type::INT8)];
    let files = link.rows("look for files to mail", &link.queries().unmailed, &params).await?;
    Ok(Some(Desk {
        now: row.get("now"),
        mailing: row.get::<_, Option<i64>>("id").map(|id| mailing(row, id)),
        last_day: row.get("last_day"),
        unmailed: files.iter().map(|file| (file.get("id"), file.get("period"))).collect(),
    }))
}

fn mailing(row: &Row, id: i64) -> Mailing {
    Mailing {
        id,
        period: row.get("period"),
        state: match row.get("state") {
            "planned" => MailingState::Planned,
            "built" => MailingState::Built,
            "sending" => MailingState::Sending,
            _ => MailingState::Unsent,
        },
        attempt: u32::try_from(row.get::<_, i32>("attempt")).unwrap_or_default(),
        by_hand: row.get("by_hand"),
        planned_at: row.get("planned_at"),
        changed_at: row.get("changed_at"),
        wait: Duration::try_from_secs_f64(row.get("wait")).unwrap_or_default(),
        day: row.get("day"),
        recipients: known(row),
    }
}

/// The files a mail carries, the oldest first.
///
/// # Errors
/// When the database cannot be asked.
pub async fn files(link: &Link, mailing: i64) -> Result<Vec<MailedFile>, StoreError> {
    let params = [(&mailing as _, Type::INT8)];
    let rows = link.rows("read a mail's files", &link.queries().mailed_files, &params).await?;
    let file = |row: &Row| MailedFile {
        period: row.get("period"),
        file: row.get("file"),
        rows: row.get("row_count"),
        bytes: row.get("bytes"),
        sha256: row.get("sha256"),
        due_from: row.get("due_from"),
        due_before: row.get("due_before"),
    };
    Ok(rows.iter().map(file).collect())
}

/// Plans a mail for files; none if the sink has another owner now.
///
/// # Errors
/// When the database cannot be asked, or the period has its mail already.
pub async fn plan(
    link: &Link,
    actor: &Actor<'_>,
    period: &str,
    exports: &[i64],
) -> Result<Option<i64>, StoreError> {
    let [sink, epoch, relay] = actor.params();
    let params =
        [sink, epoch, relay, (&period as _, Type::TEXT), (&exports as _, Type::INT8_ARRAY)];
    let rows = link.rows("plan a mail", &link.queries().plan_mailing, &params).await?;
    Ok(rows.first().map(|row| row.get("id")))
}

/// Lets further files go along with a mail that was not sent; `false` if it is not at that any more.
///
/// # Errors
/// When the database cannot be asked, or the period has its mail already.
pub async fn add(
    link: &Link,
    actor: &Actor<'_>,
    mailing: i64,
    period: &str,
    exports: &[i64],
) -> Result<bool, StoreError> {
    let [sink, epoch, relay] = actor.params();
    let params = [
        sink,
        epoch,
        relay,
        (&mailing as _, Type::INT8),
        (&period as _, Type::TEXT),
        (&exports as _, Type::INT8_ARRAY),
    ];
    let rows = link.rows("add files to a mail", &link.queries().add_to_mailing, &params).await?;
    Ok(!rows.is_empty())
}

/// Closes a mail of which nothing was sent, because a newer one goes out in its place.
///
/// # Errors
/// When the database cannot be asked.
pub async fn pass_over(link: &Link, actor: &Actor<'_>, mailing: i64) -> Result<bool, StoreError> {
    let params = [(&actor.relay as _, Type::TEXT), (&mailing as _, Type::INT8)];
    Ok(link.execute("pass a mail over", &link.queries().pass_mailing, &params).await? == 1)
}

/// Notes that a mail is built; `false` if it is not this relay's any more.
///
/// # Errors
/// When the database cannot be asked.
pub async fn build(
    link: &Link,
    actor: &Actor<'_>,
    mailing: i64,
    hash: &str,
) -> Result<bool, StoreError> {
    let [sink, epoch, relay] = actor.params();
    let params = [sink, epoch, relay, (&mailing as _, Type::INT8), (&hash as _, Type::TEXT)];
    Ok(link.execute("note a built mail", &link.queries().build_mailing, &params).await? == 1)
}

/// Commits the intent to send, durably, and answers when; none if it may not begin. `day` is taken by it
/// where one mail a day is the rule.
///
/// # Errors
/// When the database cannot be asked, or the day has its mail already. After one the intent may stand:
/// nothing may be sent then.
pub async fn begin(
    link: &Link,
    actor: &Actor<'_>,
    mailing: i64,
    day: Option<Date>,
    through: &str,
    hash: &str,
) -> Result<Option<Timestamp>, StoreError> {
    let [sink, epoch, relay] = actor.params();
    let params = [
        sink,
        epoch,
        relay,
        (&mailing as _, Type::INT8),
        (&day as _, Type::DATE),
        (&through as _, Type::TEXT),
        (&hash as _, Type::TEXT),
    ];
    let sql = &link.queries().begin_mailing;
    let rows = link.rows_by_index("begin a mail", sql, &params).await?;
    Ok(rows.first().map(|row| row.get("changed_at")))
}

/// What is recorded of a dialogue.
#[derive(Clone, Debug)]
pub struct Dialogue {
    /// When it began.
    pub begun: Timestamp,
    /// How it ended.
    pub end: MailingEnd,
    /// Why, or the server's receipt.
    pub reason: String,
    /// What was said.
    pub transcript: String,
    /// What became of each recipient over all dialogues, where this one learned something.
    pub recipients: Option<Recipients>,
}

impl Dialogue {
    /// Leaves of its words what every database can hold.
    pub fn make_ascii(&mut self) {
        self.reason = in_ascii(&self.reason);
        self.transcript = self.transcript.lines().map(in_ascii).collect::<Vec<_>>().join("\n");
        if let Some(recipients) = &mut self.recipients {
            recipients.make_ascii();
        }
    }
}

/// Records how a dialogue ended; `false` if that is known already, or not this relay's to say. Who accepted
/// is noted in any case.
///
/// # Errors
/// When the database cannot be asked. Safe to repeat.
pub async fn end(
    link: &Link,
    actor: &Actor<'_>,
    mailing: i64,
    dialogue: &Dialogue,
) -> Result<bool, StoreError> {
    let recipients = dialogue.recipients.as_ref();
    if let Some(accepted) = recipients.map(Recipients::accepted).filter(|r| !r.is_empty())
        && dialogue.end != MailingEnd::Sent
    {
        let accepted = accepted.json();
        let params = [(&mailing as _, Type::INT8), (&accepted as _, Type::TEXT)];
        let sql = &link.queries().note_mailing_accepted;
        link.execute("note who accepted a mail", sql, &params).await?;
    }
    let recipients = recipients.map(Recipients::json);
    let (state, delay, spent) = match &dialogue.end {
        MailingEnd::Sent => ("sent", Duration::ZERO, true),
        MailingEnd::Unsent { delay, spent } => ("unsent", *delay, *spent),
        MailingEnd::Held => ("held", Duration::ZERO, true),
        MailingEnd::Dead => ("dead", Duration::ZERO, true),
    };
    let delay = i64::try_from(delay.as_millis()).unwrap_or(i64::MAX);
    let params = [
        (&actor.relay as _, Type::TEXT),
        (&actor.epoch as _, Type::INT8),
        (&mailing as _, Type::INT8),
        (&state as _, Type::TEXT),
        (&delay as _, Type::INT8),
        (&dialogue.reason as _, Type::TEXT),
        (&dialogue.transcript as _, Type::TEXT),
        (&spent as _, Type::BOOL),
        (&dialogue.begun as _, Type::TIMESTAMPTZ),
        (&recipients as _, Type::TEXT),
    ];
    Ok(link.execute("record a mail's end", &link.queries().end_mailing, &params).await? == 1)
}

/// Notes why a mail was not begun, and how long it rests; `dead` where it cannot be made at all.
///
/// # Errors
/// When the database cannot be asked.
pub async fn put_off(
    link: &Link,
    actor: &Actor<'_>,
    mailing: i64,
    dead: bool,
    delay: Duration,
    reason: &str,
) -> Result<(), StoreError> {
    let delay = i64::try_from(delay.as_millis()).unwrap_or(i64::MAX);
    let params: [Param<'_>; 5] = [
        (&actor.relay as _, Type::TEXT),
        (&mailing as _, Type::INT8),
        (&dead as _, Type::BOOL),
        (&delay as _, Type::INT8),
        (&reason as _, Type::TEXT),
    ];
    link.execute("put a mail off", &link.queries().put_off_mailing, &params).await.map(drop)
}

/// Holds what a former owner was sending when it fell silent; answers the periods.
///
/// # Errors
/// When the database cannot be asked.
pub async fn hold_silent(
    link: &Link,
    actor: &Actor<'_>,
    until: Duration,
) -> Result<Vec<String>, StoreError> {
    let until = i64::try_from(until.as_millis()).unwrap_or(i64::MAX);
    let [sink, epoch, relay] = actor.params();
    let params = [sink, epoch, relay, (&until as _, Type::INT8)];
    let rows =
        link.rows("hold what was being mailed", &link.queries().hold_mailings, &params).await?;
    Ok(rows.iter().map(|row| row.get("period")).collect())
}
