//! What people look at: single messages, lists of deliveries, the server and its rights. All of it
//! bounded and by index, so that looking costs the database next to nothing however much is open.

pub mod act;
pub mod files;
pub mod mail;
pub mod page;
pub mod pause;
pub mod schedules;
pub mod status;

use jiff::Timestamp;
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::error::StoreError;
use super::link::Link;
use crate::message::Message;
use crate::policy::Lane;
use crate::recipients::Recipients;

/// The lanes, for the fetch index must always be asked by lane.
fn lanes() -> Vec<i16> {
    Lane::ALL.map(Lane::number).into()
}

/// Tables a relay works on, with each right it needs there.
const TABLE_RIGHTS: &[(&str, &[&str])] = &[
    ("message", &["SELECT"]),
    ("installation", &["SELECT"]),
    ("migration", &["SELECT"]),
    ("delivery", &["SELECT", "UPDATE", "DELETE"]),
    ("sink", &["SELECT", "INSERT", "UPDATE"]),
    ("flow", &["SELECT", "INSERT", "UPDATE"]),
    ("relay", &["SELECT", "INSERT", "UPDATE", "DELETE"]),
    ("route", &["SELECT", "INSERT", "DELETE"]),
    ("route_set", &["SELECT", "INSERT"]),
    ("spent", &["SELECT", "INSERT", "UPDATE"]),
    ("unseen", &["SELECT", "INSERT", "DELETE"]),
    ("export", &["SELECT", "INSERT", "UPDATE"]),
    ("calendar", &["SELECT", "INSERT", "UPDATE"]),
    ("mailing", &["SELECT", "INSERT", "UPDATE"]),
    ("occurrence", &["SELECT", "INSERT", "UPDATE"]),
    ("ledger", &["SELECT", "INSERT"]),
    ("action", &["SELECT", "INSERT"]),
    ("late", &["SELECT", "INSERT", "DELETE"]),
    ("alert", &["SELECT", "INSERT", "UPDATE", "DELETE"]),
    ("paused_route", &["SELECT"]),
];
/// Functions a relay calls.
const FUNCTION_RIGHTS: &[&str] = &[
    "is_restored",
    "pause_restored",
    "extend_ledger",
    "routes_of",
    "route_existing",
    "ring",
    "tell",
    "prune",
    "drop_ledger",
    "forget",
    "forget_calendar",
    "may_enter",
    "has_recipient",
    "recipient_counts",
    "learned",
];
/// What tells whether operators were granted their part, which each migration does as a whole.
const OPERATOR_RIGHTS: (&[(&str, &[&str])], &[&str]) = (
    &[("history", &["SELECT"]), ("parked", &["SELECT"]), ("installation", &["SELECT"])],
    &["retry", "pause_route", "recipient_counts"],
);
/// The same of producers.
const PRODUCER_RIGHTS: (&[(&str, &[&str])], &[&str]) = (&[], &["send"]);

/// Whom we are talking to.
#[derive(Clone, Debug)]
pub struct Server {
    /// 150008 for 15.8.
    pub number: i32,
    /// As the server writes it.
    pub version: String,
    /// The database.
    pub database: String,
    /// The role we are connected as.
    pub role: String,
    /// Whether it only follows another server, and takes no writes.
    pub standby: bool,
    /// The name of the relays' group role.
    pub group: String,
    /// Whether that role exists.
    pub has_group: bool,
    /// What the role is for.
    pub member: Member,
    /// Who owns the schema, or the database where that is missing.
    pub owner: String,
    /// Whether the owner may let others into the relays' group.
    pub owner_grants: bool,
}

/// What a role is for, by the groups it is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Member {
    /// In the relays' group.
    Relay,
    /// In the producers' only: the application's.
    Application,
    /// In neither.
    Neither,
}

/// A group role that a migration makes and gives rights to, as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Such as `outbox_relay`.
    pub name: String,
    /// Whether it is there.
    pub exists: bool,
    /// What it lacks.
    pub wanting: Vec<String>,
}

/// One message, without its payload.
#[derive(Clone, Debug)]
pub struct MessageRow {
    /// Its type.
    pub message_type: String,
    /// Orders deliveries.
    pub key: Option<String>,
    /// When it was written.
    pub created_at: Timestamp,
    /// Not before.
    pub due_at: Option<Timestamp>,
    /// Not after.
    pub expires_at: Option<Timestamp>,
}

/// One delivery of a message: an open one, or one closed life of it.
#[derive(Clone, Debug)]
pub struct DeliveryRow {
    /// Empty where no route took the message, or one sent it nowhere.
    pub sink: String,
    /// Empty where the route has no name.
    pub target: String,
    /// The state of an open delivery, the outcome of a closed one.
    pub state: String,
    /// Attempts settled.
    pub attempts: i32,
    /// Counts its lives, from 1.
    pub round: i32,
    /// Counts its changes; open ones only.
    pub rev: Option<i32>,
    /// The next attempt, if it waits for time.
    pub due_at: Option<Timestamp>,
    /// The same in seconds from now by the database's clock.
    pub due_in: Option<i64>,
    /// None while open.
    pub closed_at: Option<Timestamp>,
    /// Reason of an open delivery, receipt of a closed one.
    pub words: Option<String>,
    /// Of a held one: until then the relay that fell silent may yet be sending it.
    pub hold_until: Option<Timestamp>,
    /// The same in seconds from now by the database's clock.
    pub hold_for: Option<f64>,
    /// Attempts in whose middle a relay ended without a word.
    pub crashes: i16,
    /// What is known of each recipient; of open ones only.
    pub recipients: Recipients,
}

/// Something an operator did.
#[derive(Clone, Debug)]
pub struct ActionRow {
    /// When.
    pub acted_at: Timestamp,
    /// Who.
    pub actor: String,
    /// What.
    pub verb: String,
    /// To which delivery.
    pub sink: Option<String>,
    /// To which delivery.
    pub target: Option<String>,
    /// More about it.
    pub note: Option<String>,
}

/// An open delivery in a list.
#[derive(Clone, Debug)]
pub struct OpenRow {
    /// Of the message.
    pub message_id: i64,
    /// Empty if unrouted.
    pub sink: String,
    /// Empty where the route has no name.
    pub target: String,
    /// pending, sending, held, dead or unrouted.
    pub state: String,
    /// Attempts settled.
    pub attempt: i32,
    /// Counts its changes.
    pub rev: i32,
    /// Why the last attempt did not deliver.
    pub reason: Option<String>,
    /// How many recipients came to each end, in words, where that is known and the statement asks.
    pub recipients: Option<String>,
    /// Orders deliveries.
    pub key: Option<String>,
    /// Of a held one: until then the relay that fell silent may yet be sending it.
    pub hold_until: Option<Timestamp>,
    /// The next attempt, if it waits for time.
    pub due_at: Option<Timestamp>,
    /// The same in seconds from now by the database's clock.
    pub due_in: Option<i64>,
    /// None if the message is gone.
    pub message_type: Option<String>,
    /// When the message was written.
    pub created_at: Option<Timestamp>,
    /// Seconds since then.
    pub age: Option<i64>,
}

/// Asks the server who it is.
///
/// # Errors
/// When the database cannot be asked.
pub async fn server(link: &Link) -> Result<Server, StoreError> {
    let schema = link.target().schema().as_str();
    let (group, producers) = (format!("{schema}_relay"), format!("{schema}_producer"));
    let params =
        [(&group as _, Type::TEXT), (&producers as _, Type::TEXT), (&schema as _, Type::TEXT)];
    let row = link.row("ask the server", &link.queries().server, &params).await?;
    let member = match (row.get("relay"), row.get("producer")) {
        (true, _) => Member::Relay,
        (false, true) => Member::Application,
        (false, false) => Member::Neither,
    };
    Ok(Server {
        number: row.get("number"),
        version: row.get("version"),
        database: row.get("database"),
        role: row.get("role"),
        standby: row.get("standby"),
        has_group: row.get("has_group"),
        member,
        owner: row.get("owner"),
        owner_grants: row.get("owner_grants"),
        group,
    })
}

/// The rights a relay needs and the connected role lacks, as GRANT has them.
///
/// # Errors
/// When the database cannot be asked.
pub async fn wanting_rights(link: &Link) -> Result<Vec<String>, StoreError> {
    wanting(link, None, (TABLE_RIGHTS, FUNCTION_RIGHTS)).await
}

/// The three group roles: whether they are there, and have what migrations grant them.
///
/// # Errors
/// When the database cannot be asked.
pub async fn groups(link: &Link) -> Result<Vec<Group>, StoreError> {
    let schema = link.target().schema().as_str();
    let parts = [
        ("producer", PRODUCER_RIGHTS),
        ("relay", (TABLE_RIGHTS, FUNCTION_RIGHTS)),
        ("operator", OPERATOR_RIGHTS),
    ];
    let names = parts.map(|(part, _)| format!("{schema}_{part}"));
    let params = [(&names.as_slice() as _, Type::TEXT_ARRAY)];
    let rows = link.rows("look for the group roles", &link.queries().groups, &params).await?;
    let there: Vec<String> = rows.iter().map(|row| row.get("name")).collect();
    let mut groups = Vec::new();
    for (name, (_, rights)) in names.into_iter().zip(parts) {
        let exists = there.contains(&name);
        let wanting = if exists { wanting(link, Some(&name), rights).await? } else { Vec::new() };
        groups.push(Group { name, exists, wanting });
    }
    Ok(groups)
}

/// What a role lacks of these rights on tables and functions; the connected one if none is named.
async fn wanting(
    link: &Link,
    role: Option<&str>,
    (tables, functions): (&[(&str, &[&str])], &[&str]),
) -> Result<Vec<String>, StoreError> {
    let schema = link.target().schema().as_str();
    let (tables, rights): (Vec<&str>, Vec<&str>) = tables
        .iter()
        .flat_map(|(table, rights)| rights.iter().map(move |right| (*table, *right)))
        .unzip();
    let params = [
        (&schema as _, Type::TEXT),
        (&tables as _, Type::TEXT_ARRAY),
        (&rights as _, Type::TEXT_ARRAY),
        (&functions as _, Type::TEXT_ARRAY),
        (&role as _, Type::NAME),
    ];
    let rows = link.rows("look at the rights", &link.queries().rights, &params).await?;
    Ok(rows.iter().map(|row| row.get("wanting")).collect())
}

/// A message, or none of that id.
///
/// # Errors
/// When the database cannot be asked.
pub async fn message(link: &Link, message_id: i64) -> Result<Option<MessageRow>, StoreError> {
    let params = [(&message_id as _, Type::INT8)];
    let rows = link.rows("look at a message", &link.queries().message, &params).await?;
    Ok(rows.first().map(|row| MessageRow {
        message_type: row.get("type"),
        key: row.get("key"),
        created_at: row.get("created_at"),
        due_at: row.get("due_at"),
        expires_at: row.get("expires_at"),
    }))
}

/// A message with all that its deliveries are made of; none if it is gone.
///
/// # Errors
/// When the database cannot be asked.
pub async fn whole_message(link: &Link, message_id: i64) -> Result<Option<Message>, StoreError> {
    let params = [(&message_id as _, Type::INT8)];
    let rows = link.rows("read a message", &link.queries().whole_message, &params).await?;
    Ok(rows.first().map(|row| Message {
        id: message_id,
        message_type: row.get("type"),
        payload: row.get("payload"),
        key: row.get("key"),
        headers: super::work::headers(row.get("headers")),
        created_at: row.get("created_at"),
    }))
}

/// All deliveries of a message, open and closed.
///
/// # Errors
/// When the database cannot be asked.
pub async fn deliveries(link: &Link, message_id: i64) -> Result<Vec<DeliveryRow>, StoreError> {
    let params = [(&message_id as _, Type::INT8)];
    let rows =
        link.rows_by_index("look at deliveries", &link.queries().deliveries, &params).await?;
    let delivery = |row: &Row| DeliveryRow {
        sink: row.get("sink"),
        target: row.get("target"),
        state: row.get("state"),
        attempts: row.get("attempts"),
        round: row.get("round"),
        rev: row.get("rev"),
        due_at: row.get("due_at"),
        due_in: row.get("due_in"),
        closed_at: row.get("closed_at"),
        words: row.get("words"),
        hold_until: row.get("hold_until"),
        hold_for: row.get("hold_for"),
        crashes: row.get::<_, Option<i16>>("crashes").unwrap_or(0),
        recipients: super::work::known(row),
    };
    Ok(rows.iter().map(delivery).collect())
}

/// What operators did to a message's deliveries, oldest first.
///
/// # Errors
/// When the database cannot be asked.
pub async fn actions(link: &Link, message_id: i64) -> Result<Vec<ActionRow>, StoreError> {
    let params = [(&message_id as _, Type::INT8)];
    let rows = link.rows_by_index("look at actions", &link.queries().actions, &params).await?;
    let action = |row: &Row| ActionRow {
        acted_at: row.get("acted_at"),
        actor: row.get("actor"),
        verb: row.get("verb"),
        sink: row.get("sink"),
        target: row.get("target"),
        note: row.get("note"),
    };
    Ok(rows.iter().map(action).collect())
}

/// Every sink there is a row or a delivery of.
///
/// # Errors
/// When the database cannot be asked.
pub async fn known_sinks(link: &Link) -> Result<Vec<String>, StoreError> {
    let rows = link.rows_by_index("look for sinks", &link.queries().known_sinks, &[]).await?;
    Ok(rows.iter().map(|row| row.get("name")).collect())
}

/// Deliveries in these states, none of them `pending`, newest first. The sink of an unrouted one
/// is empty.
///
/// # Errors
/// When the database cannot be asked.
pub async fn list_stuck(
    link: &Link,
    states: &[&str],
    sinks: &[String],
    limit: i64,
) -> Result<Vec<OpenRow>, StoreError> {
    let params = [
        (&states as _, Type::TEXT_ARRAY),
        (&sinks as _, Type::TEXT_ARRAY),
        (&limit as _, Type::INT8),
    ];
    let rows = link.rows_by_index("list deliveries", &link.queries().list_stuck, &params).await?;
    Ok(rows.iter().map(open).collect())
}

/// Pending deliveries, the oldest due first.
///
/// # Errors
/// When the database cannot be asked.
pub async fn list_pending(
    link: &Link,
    sinks: &[String],
    limit: i64,
) -> Result<Vec<OpenRow>, StoreError> {
    let lanes = lanes();
    let params = [
        (&sinks as _, Type::TEXT_ARRAY),
        (&lanes as _, Type::INT2_ARRAY),
        (&limit as _, Type::INT8),
    ];
    let rows = link.rows_by_index("list deliveries", &link.queries().list_pending, &params).await?;
    Ok(rows.iter().map(open).collect())
}

fn open(row: &Row) -> OpenRow {
    OpenRow {
        message_id: row.get("message_id"),
        sink: row.get("sink"),
        target: row.get("target"),
        state: row.get("state"),
        attempt: row.get("attempt"),
        rev: row.get("rev"),
        reason: row.get("reason"),
        recipients: row.try_get("recipients").unwrap_or_default(),
        key: row.get("key"),
        hold_until: row.get("hold_until"),
        due_at: row.get("due_at"),
        due_in: row.get("due_in"),
        message_type: row.get("type"),
        created_at: row.get("created_at"),
        age: row.get("age"),
    }
}
