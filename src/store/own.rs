//! Who works what: relays, their heartbeats, and the owners of sinks.

use std::time::Duration;

use tokio_postgres::types::Type;

use super::error::StoreError;
use super::link::Link;

/// What the database says of itself.
#[derive(Clone, Debug)]
pub struct Installation {
    /// The name `migrate` stored.
    pub name: String,
    /// Whether producers may NOTIFY here.
    pub doorbell: bool,
    /// First half of the advisory locks of bells.
    pub bell_class: i32,
}

/// A relay as it enters itself.
#[derive(Clone, Debug)]
pub struct RelayEntry {
    /// Random, new for every start.
    pub id: String,
    /// How long its silence is tolerated.
    pub lease: Duration,
    /// A label only.
    pub host: String,
    /// Of the process.
    pub pid: i32,
    /// Of the mirrored routes in its config.
    pub routes_hash: String,
    /// Names and kinds of the sinks its config knows.
    pub sinks: Vec<(String, String)>,
    /// Names of its schedules.
    pub schedules: Vec<String>,
    /// Of its config and the files that this names.
    pub config_hash: String,
    /// Whether it only pretends to send.
    pub captures: bool,
}

/// One sink as the database knows it.
#[derive(Clone, Debug, Default)]
pub struct SinkRow {
    /// Its name.
    pub name: String,
    /// Its number in locks and channels.
    pub bell: i32,
    /// Which relay works it.
    pub owner: Option<String>,
    /// The number that fences former owners.
    pub epoch: i64,
    /// Whether an operator paused it.
    pub paused: bool,
    /// Whether the owner's lease runs.
    pub alive: bool,
    /// Relays that could work it and have renewed their lease three times: they live, do not drain
    /// and know the sink.
    pub ripe: Vec<String>,
    /// The same of those that have not.
    pub young: Vec<String>,
}

/// A sink that was taken over.
#[derive(Clone, Debug)]
pub struct TakenOver {
    /// The new epoch.
    pub epoch: i64,
    /// The owner before, none where it had handed the sink over.
    pub former: Option<String>,
}

/// Reads the installation's row.
///
/// # Errors
/// When the database cannot be asked, or was migrated by hand without the row.
pub async fn installation(link: &Link) -> Result<Installation, StoreError> {
    let row = link.row("read the installation", &link.queries().installation, &[]).await?;
    Ok(Installation {
        name: row.get("name"),
        doorbell: row.get("doorbell"),
        bell_class: row.get("bell_class"),
    })
}

/// Whether nothing was ever sent from here: then `migrate` may still give the installation another name.
///
/// # Errors
/// When the database cannot be asked.
pub async fn unsent(link: &Link) -> Result<bool, StoreError> {
    let row = link.row("look whether anything was sent", &link.queries().unsent, &[]).await?;
    Ok(row.get("unsent"))
}

/// A row for each sink of a config, by name and kind.
///
/// # Errors
/// When the database cannot be asked.
pub async fn add_sinks(link: &Link, sinks: &[(String, String)]) -> Result<(), StoreError> {
    let (names, kinds): (Vec<&str>, Vec<&str>) =
        sinks.iter().map(|(name, kind)| (name.as_str(), kind.as_str())).unzip();
    let params = [(&names as _, Type::TEXT_ARRAY), (&kinds as _, Type::TEXT_ARRAY)];
    link.execute("enter the sinks", &link.queries().add_sinks, &params).await.map(drop)
}

/// Enters a relay; `false` where it must not work: one that sends beside one that captures, or one that
/// captures where messages ever went out.
///
/// # Errors
/// When the database cannot be asked.
pub async fn register(link: &Link, relay: &RelayEntry) -> Result<bool, StoreError> {
    let names: Vec<&str> = relay.sinks.iter().map(|(name, _)| name.as_str()).collect();
    let lease = i64::try_from(relay.lease.as_millis()).unwrap_or(i64::MAX);
    let entry = [
        (&relay.id as _, Type::TEXT),
        (&lease as _, Type::INT8),
        (&relay.host as _, Type::TEXT),
        (&relay.pid as _, Type::INT4),
        (&env!("CARGO_PKG_VERSION") as _, Type::TEXT),
        (&relay.routes_hash as _, Type::TEXT),
        (&names as _, Type::TEXT_ARRAY),
        (&relay.schedules as _, Type::TEXT_ARRAY),
        (&relay.config_hash as _, Type::TEXT),
        (&relay.captures as _, Type::BOOL),
    ];
    let entered = link.execute("enter the relay", &link.queries().register, &entry).await?;
    link.execute("forget silent relays", &link.queries().forget_relays, &[]).await?;
    Ok(entered == 1)
}

/// Renews the lease; `false` if it had run out before. `listens` says whether the relay's LISTEN session
/// hears, none where it does not try to.
///
/// # Errors
/// When the database cannot be asked.
pub async fn heartbeat(
    link: &Link,
    id: &str,
    draining: bool,
    listens: Option<bool>,
) -> Result<bool, StoreError> {
    let params =
        [(&id as _, Type::TEXT), (&draining as _, Type::BOOL), (&listens as _, Type::BOOL)];
    Ok(link.execute("renew the lease", &link.queries().heartbeat, &params).await? == 1)
}

/// Takes the relay's row away, after a clean stop.
///
/// # Errors
/// When the database cannot be asked.
pub async fn leave(link: &Link, id: &str) -> Result<(), StoreError> {
    link.execute("leave", &link.queries().leave, &[(&id, Type::TEXT)]).await.map(drop)
}

/// All sinks, by name, with the relays that could work them.
///
/// # Errors
/// When the database cannot be asked.
pub async fn sinks(link: &Link) -> Result<Vec<SinkRow>, StoreError> {
    let rows = link.rows("look at the sinks", &link.queries().sinks, &[]).await?;
    Ok(rows
        .iter()
        .map(|row| SinkRow {
            name: row.get("name"),
            bell: row.get("bell"),
            owner: row.get("owner"),
            epoch: row.get("epoch"),
            paused: row.get("paused"),
            alive: row.get("alive"),
            ripe: row.get("ripe"),
            young: row.get("young"),
        })
        .collect())
}

/// Takes a sink whose owner is gone; none if another relay was faster.
///
/// # Errors
/// When the database cannot be asked.
pub async fn take_over(
    link: &Link,
    id: &str,
    seen: &SinkRow,
) -> Result<Option<TakenOver>, StoreError> {
    let params =
        [(&id as _, Type::TEXT), (&seen.name as _, Type::TEXT), (&seen.epoch as _, Type::INT8)];
    let rows = link.rows("take over a sink", &link.queries().take_over, &params).await?;
    Ok(rows.first().map(|row| TakenOver { epoch: row.get("epoch"), former: row.get("former") }))
}

/// Makes sure that this role sees every row: what row security hides would be taken for absent.
///
/// # Errors
/// When rows are hidden, with the remedy, or the database cannot be asked.
pub async fn sees_all(link: &Link) -> Result<(), StoreError> {
    let schema = link.target().schema().as_str();
    let params = [(&schema as _, Type::TEXT)];
    let rows = link.rows("look for hidden rows", &link.queries().hidden, &params).await?;
    if rows.is_empty() {
        return Ok(());
    }
    let tables: Vec<String> =
        rows.iter().map(|row| format!("{schema}.{}", row.get::<_, &str>("name"))).collect();
    let words = format!(
        "row security hides rows of {} from the relay's role, and what is hidden would be taken for \
         absent; run as an administrator: ALTER ROLE <the relay's role> BYPASSRLS, or for each table: \
         CREATE POLICY relay ON <the table> TO <the relay's role> USING (true)",
        tables.join(", ")
    );
    Err(StoreError::said("look for hidden rows", words))
}

/// Whether a sink is still the relay's that took it with this epoch.
///
/// # Errors
/// When the database cannot be asked.
pub async fn holds(link: &Link, sink: &str, epoch: i64) -> Result<bool, StoreError> {
    let params = [(&sink as _, Type::TEXT), (&epoch as _, Type::INT8)];
    Ok(link.row("look whose sink it is", &link.queries().fence, &params).await?.get("holds"))
}

/// Gives a drained sink back.
///
/// # Errors
/// When the database cannot be asked.
pub async fn hand_over(link: &Link, id: &str, sink: &str, epoch: i64) -> Result<(), StoreError> {
    let params = [(&id as _, Type::TEXT), (&sink as _, Type::TEXT), (&epoch as _, Type::INT8)];
    link.execute("hand over a sink", &link.queries().hand_over, &params).await.map(drop)
}

/// Makes the ledger's partitions for today and the days after.
///
/// # Errors
/// When the database cannot be asked.
pub async fn extend_ledger(link: &Link) -> Result<(), StoreError> {
    link.rows("extend the ledger", &link.queries().extend_ledger, &[]).await.map(drop)
}
