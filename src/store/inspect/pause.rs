//! What is paused, and pausing it.

use jiff::Timestamp;
use tokio_postgres::types::Type;

use crate::policy::Lane;
use crate::store::error::StoreError;
use crate::store::link::Link;

/// Whether everything is paused.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PausedAll {
    /// Nothing is fetched.
    pub paused: bool,
    /// What for: `operator`, or why a relay would not go on by itself.
    pub paused_for: Option<String>,
}

/// A route in force.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RouteName {
    /// Of types.
    pub pattern: String,
    /// Where it leads.
    pub sink: String,
    /// Its name, or empty.
    pub target: String,
}

/// A route that an operator paused.
#[derive(Clone, Debug)]
pub struct PausedRoute {
    /// Which.
    pub route: RouteName,
    /// Who.
    pub actor: String,
    /// When.
    pub paused_at: Timestamp,
}

/// Whether everything is paused.
///
/// # Errors
/// When the database cannot be asked.
pub async fn paused(link: &Link) -> Result<PausedAll, StoreError> {
    let row = link.row("look what is paused", &link.queries().paused, &[]).await?;
    Ok(PausedAll { paused: row.get("paused"), paused_for: row.get("paused_for") })
}

/// The routes that operators paused.
///
/// # Errors
/// When the database cannot be asked.
pub async fn paused_routes(link: &Link) -> Result<Vec<PausedRoute>, StoreError> {
    let rows = link.rows("look what is paused", &link.queries().paused_routes, &[]).await?;
    let paused = |row: &tokio_postgres::Row| PausedRoute {
        route: route(row),
        actor: row.get("actor"),
        paused_at: row.get("paused_at"),
    };
    Ok(rows.iter().map(paused).collect())
}

/// Lets a page of what waits because its route was paused fall due now; answers how many.
///
/// # Errors
/// When the database cannot be asked.
pub async fn release_paused(link: &Link, route: &RouteName, limit: i64) -> Result<u64, StoreError> {
    let lanes = Lane::ALL.map(Lane::number).to_vec();
    let params = [
        (&route.sink as _, Type::TEXT),
        (&route.target as _, Type::TEXT),
        (&lanes as _, Type::INT2_ARRAY),
        (&limit as _, Type::INT8),
        (&route.pattern as _, Type::TEXT),
    ];
    let doing = "let a route's deliveries go on";
    let rows = link.rows_by_index(doing, &link.queries().release_paused, &params).await?;
    Ok(rows.len() as u64)
}

/// The routes in force that lead somewhere.
///
/// # Errors
/// When the database cannot be asked.
pub async fn routes_in_force(link: &Link) -> Result<Vec<RouteName>, StoreError> {
    let rows = link.rows("look at the routes", &link.queries().routes_in_force, &[]).await?;
    Ok(rows.iter().map(route).collect())
}

/// Pauses a sink, or lets it go on; `false` if it was so already.
///
/// # Errors
/// When the database cannot be asked, or knows no such sink.
pub async fn pause_sink(
    link: &Link,
    sink: &str,
    pause: bool,
    actor: &str,
) -> Result<bool, StoreError> {
    let params = [(&sink as _, Type::TEXT), (&pause as _, Type::BOOL), (&actor as _, Type::TEXT)];
    Ok(link.row("pause a sink", &link.queries().pause_sink, &params).await?.get("changed"))
}

/// Pauses everything, or lets it go on; `false` if it was so already.
///
/// # Errors
/// When the database cannot be asked, or is paused because it was restored or copied.
pub async fn pause_all(link: &Link, pause: bool, actor: &str) -> Result<bool, StoreError> {
    let params = [(&pause as _, Type::BOOL), (&actor as _, Type::TEXT)];
    Ok(link.row("pause everything", &link.queries().pause_all, &params).await?.get("changed"))
}

/// Pauses a route, or lets it go on; `false` if it was so already.
///
/// # Errors
/// When the database cannot be asked, or no such route is in force.
pub async fn pause_route(
    link: &Link,
    route: &RouteName,
    pause: bool,
    actor: &str,
) -> Result<bool, StoreError> {
    let params = [
        (&route.pattern as _, Type::TEXT),
        (&route.sink as _, Type::TEXT),
        (&route.target as _, Type::TEXT),
        (&pause as _, Type::BOOL),
        (&actor as _, Type::TEXT),
    ];
    Ok(link.row("pause a route", &link.queries().pause_route, &params).await?.get("changed"))
}

fn route(row: &tokio_postgres::Row) -> RouteName {
    RouteName { pattern: row.get("pattern"), sink: row.get("sink"), target: row.get("target") }
}
