//! What `outboxd doctor` asks the database: facts, of which others judge. Everything here reads only and is
//! bounded; what a role may not see is none, not an error.

pub mod catalog;
pub mod certificate;
pub mod repair;
pub mod session;

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::types::Type;

use super::error::StoreError;
use super::link::Link;

/// Message ids of one step of the look at all messages.
const SPAN: i64 = 20_000;

/// The settings that are judged.
pub const SETTINGS: &[&str] = &[
    "autovacuum",
    "default_transaction_read_only",
    "fsync",
    "full_page_writes",
    "idle_session_timeout",
    "lock_timeout",
    "max_connections",
    "max_prepared_transactions",
    "statement_timeout",
    "synchronous_commit",
    "track_counts",
    "transaction_timeout",
];

/// The server as it is for our role.
#[derive(Clone, Debug, Default)]
pub struct Place {
    /// The database.
    pub database: String,
    /// Whom we are.
    pub role: String,
    /// Whether that is a superuser, whom nothing is refused.
    pub is_super: bool,
    /// Whether it sees what others' sessions do.
    pub sees_stats: bool,
    /// How full the queue of notifications is, 1 is full.
    pub queue: f64,
    /// Connections it may still make.
    pub connections_left: i64,
}

/// One setting as it is for our role.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Setting {
    /// Timeouts in ms.
    pub value: String,
    /// Where it comes from, as `pg_settings` names it.
    pub source: String,
}

/// A table of the outbox and its vacuum.
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// Without the schema.
    pub name: String,
    /// Whether policies hide rows of it.
    pub row_security: bool,
    /// Whether it is left out by autovacuum.
    pub vacuum_off: bool,
    /// Its own, none where the server's counts.
    pub scale_factor: Option<f64>,
    /// Live rows, as the statistics have it.
    pub live: i64,
    /// Dead rows, as the statistics have it.
    pub dead: i64,
    /// With its indexes.
    pub bytes: i64,
}

/// What holds back vacuum.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Holder {
    /// session, slot, prepared or standby.
    pub kind: String,
    /// The name of a slot or a prepared transaction, the process id of the others.
    pub name: String,
    /// The server process.
    pub pid: Option<i32>,
    /// As it calls itself.
    pub application: String,
    /// Whose it is.
    pub role: Option<String>,
    /// As the server has it.
    pub state: String,
    /// For how long; none where that is not to be seen.
    pub seconds: Option<f64>,
    /// How many transactions began since.
    pub transactions: Option<i64>,
}

/// A role that may do too much.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Excess {
    /// Without the schema.
    pub table: String,
    /// Quoted, or PUBLIC.
    pub grantee: String,
    /// As GRANT has them.
    pub rights: String,
}

/// A relay that entered itself.
#[derive(Clone, Debug, Default)]
pub struct RelayFacts {
    /// A label only.
    pub host: String,
    /// Of its process.
    pub pid: i32,
    /// Of its program.
    pub version: String,
    /// Of its config and the files that this names.
    pub config_hash: String,
    /// Whether its LISTEN session hears; none where it does not try to.
    pub listens: Option<bool>,
    /// Seconds since it last renewed its lease.
    pub heartbeat_age: i64,
    /// Whether its lease runs.
    pub alive: bool,
}

/// Where ids of messages come from.
#[derive(Clone, Debug, Default)]
pub struct Sequence {
    /// Its name, with the schema.
    pub name: String,
    /// Ids that a session takes at a time.
    pub cache: i64,
    /// The last id given away; none where the role may not read it.
    pub reached: Option<i64>,
    /// The highest id that is still known.
    pub highest: i64,
}

/// A look at all messages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sweep {
    /// Messages with neither an open delivery nor a ledger row.
    pub found: i64,
    /// The first of them.
    pub first_id: Option<i64>,
    /// How far it came; none if to the end.
    pub stopped_at: Option<i64>,
}

/// Asks what is left of the server.
///
/// # Errors
/// When the database cannot be asked.
pub async fn place(link: &Link) -> Result<Place, StoreError> {
    let row = link.row("look at the server", &link.queries().doctor_server, &[]).await?;
    Ok(Place {
        database: row.get("database"),
        role: row.get("role"),
        is_super: row.get("is_super"),
        sees_stats: row.get("sees_stats"),
        queue: row.get("queue"),
        connections_left: row.get("connections_left"),
    })
}

/// Asks for [`SETTINGS`]; those that the server's version does not have are left out.
///
/// # Errors
/// When the database cannot be asked.
pub async fn settings(link: &Link) -> Result<BTreeMap<String, Setting>, StoreError> {
    let params = [(&SETTINGS as _, Type::TEXT_ARRAY)];
    let rows = link.rows("look at the settings", &link.queries().doctor_settings, &params).await?;
    let setting = |row: &tokio_postgres::Row| {
        (row.get("name"), Setting { value: row.get("setting"), source: row.get("source") })
    };
    Ok(rows.iter().map(setting).collect())
}

/// Asks how the tables stand with vacuum.
///
/// # Errors
/// When the database cannot be asked.
pub async fn tables(link: &Link) -> Result<Vec<Table>, StoreError> {
    let schema = link.target().schema().as_str();
    let params = [(&schema as _, Type::TEXT)];
    let rows = link.rows("look at the tables", &link.queries().doctor_tables, &params).await?;
    let table = |row: &tokio_postgres::Row| Table {
        name: row.get("name"),
        row_security: row.get("row_security"),
        vacuum_off: row.get("vacuum_off"),
        scale_factor: row.get("scale_factor"),
        live: row.get("live"),
        dead: row.get("dead"),
        bytes: row.get("bytes"),
    };
    Ok(rows.iter().map(table).collect())
}

/// Triggers that do not fire: table and name of each.
///
/// # Errors
/// When the database cannot be asked.
pub async fn silent_triggers(link: &Link) -> Result<Vec<(String, String)>, StoreError> {
    let schema = link.target().schema().as_str();
    let params = [(&schema as _, Type::TEXT)];
    let rows = link.rows("look at the triggers", &link.queries().doctor_triggers, &params).await?;
    Ok(rows.iter().map(|row| (row.get("table_name"), row.get("name"))).collect())
}

/// For whom no trigger fires, as ALTER names them.
///
/// # Errors
/// When the database cannot be asked.
pub async fn replica_mode(link: &Link) -> Result<Vec<String>, StoreError> {
    let rows = link.rows("look for replica mode", &link.queries().doctor_replica, &[]).await?;
    Ok(rows.iter().map(|row| row.get("who")).collect())
}

/// What holds back vacuum, the longest first.
///
/// # Errors
/// When the database cannot be asked.
pub async fn holders(link: &Link) -> Result<Vec<Holder>, StoreError> {
    let rows = link.rows("look at vacuum", &link.queries().doctor_holders, &[]).await?;
    let holder = |row: &tokio_postgres::Row| Holder {
        kind: row.get("kind"),
        name: row.get("name"),
        pid: row.get("pid"),
        application: row.get("application"),
        role: row.get("role"),
        state: row.get("state"),
        seconds: row.get("seconds"),
        transactions: row.get("transactions"),
    };
    Ok(rows.iter().map(holder).collect())
}

/// Roles that may change what only relays may.
///
/// # Errors
/// When the database cannot be asked.
pub async fn excess(link: &Link, group: &str, has_group: bool) -> Result<Vec<Excess>, StoreError> {
    let schema = link.target().schema().as_str();
    let params =
        [(&schema as _, Type::TEXT), (&group as _, Type::TEXT), (&has_group as _, Type::BOOL)];
    let rows = link.rows("look at the grants", &link.queries().doctor_excess, &params).await?;
    let excess = |row: &tokio_postgres::Row| Excess {
        table: row.get("table_name"),
        grantee: row.get("grantee"),
        rights: row.get("rights"),
    };
    Ok(rows.iter().map(excess).collect())
}

/// The relays that entered themselves.
///
/// # Errors
/// When the database cannot be asked.
pub async fn relays(link: &Link) -> Result<Vec<RelayFacts>, StoreError> {
    let rows = link.rows("look at the relays", &link.queries().doctor_relays, &[]).await?;
    let relay = |row: &tokio_postgres::Row| RelayFacts {
        host: row.get("host"),
        pid: row.get("pid"),
        version: row.get("version"),
        config_hash: row.get("config_hash"),
        listens: row.get("listens"),
        heartbeat_age: row.get("heartbeat_age"),
        alive: row.get("alive"),
    };
    Ok(rows.iter().map(relay).collect())
}

/// Looks at the sequence of message ids.
///
/// # Errors
/// When the database cannot be asked, or the sequence is gone.
pub async fn sequence(link: &Link) -> Result<Sequence, StoreError> {
    let schema = link.target().schema().as_str();
    let params = [(&schema as _, Type::TEXT)];
    let sql = &link.queries().doctor_sequence;
    let rows = link.rows_by_index("look at the sequence", sql, &params).await?;
    let gone = || StoreError::said("look at the sequence", "message.id draws from no sequence");
    let row = rows.first().ok_or_else(gone)?;
    let reached = if row.get("readable") {
        let row = link.row("look at the sequence", &link.queries().doctor_reached, &[]).await?;
        Some(row.get("reached"))
    } else {
        None
    };
    Ok(Sequence {
        name: row.get("sequence"),
        cache: row.get("cache"),
        reached,
        highest: row.get("highest"),
    })
}

/// Days, of today and tomorrow, that the ledger has no partition for.
///
/// # Errors
/// When the database cannot be asked.
pub async fn days_without_ledger(link: &Link) -> Result<Vec<String>, StoreError> {
    let schema = link.target().schema().as_str();
    let params = [(&schema as _, Type::TEXT)];
    let rows = link.rows("look at the ledger", &link.queries().doctor_ledger, &params).await?;
    Ok(rows.iter().map(|row| row.get("day")).collect())
}

/// Looks at all messages, a span of ids at a time, until the end or until the time is over.
///
/// # Errors
/// When the database cannot be asked.
pub async fn sweep(link: &Link, limit: Duration) -> Result<Sweep, StoreError> {
    let end = Instant::now() + limit;
    let mut sweep = Sweep::default();
    let mut after = 0_i64;
    loop {
        let params = [(&after as _, Type::INT8), (&SPAN as _, Type::INT8)];
        let sql = &link.queries().doctor_unseen;
        let rows = link.rows_by_index("look for unseen messages", sql, &params).await?;
        let Some(row) = rows.first() else { return Ok(sweep) };
        sweep.found += row.get::<_, i64>("found");
        sweep.first_id = sweep.first_id.or(row.get("first_id"));
        match row.get("reached") {
            None => return Ok(sweep),
            Some(reached) if Instant::now() >= end => {
                return Ok(Sweep { stopped_at: Some(reached), ..sweep });
            }
            Some(reached) => after = reached,
        }
    }
}

/// How far this host's clock is from the database's in seconds, ahead is positive, and by how much that
/// may be wrong: half of the time that the answer took.
///
/// # Errors
/// When the database cannot be asked.
pub async fn clock(link: &Link) -> Result<(f64, f64), StoreError> {
    let mut best: Option<(f64, f64)> = None;
    for _ in 0..3 {
        let (before, began) = (jiff::Timestamp::now(), Instant::now());
        let row = link.row("read the clock", &link.queries().now, &[]).await?;
        let half = began.elapsed().as_secs_f64() / 2.0;
        let theirs: jiff::Timestamp = row.get("now");
        let ahead = before.duration_since(theirs).as_secs_f64() + half;
        if best.is_none_or(|(_, wrong_by)| half < wrong_by) {
            best = Some((ahead, half));
        }
    }
    Ok(best.unwrap_or_default())
}
