//! The routes in force, and messages that still lack one.

use tokio_postgres::types::Type;

use super::error::StoreError;
use super::link::Link;

/// Most late deliveries of a sink that are noted: enough to say "more than a thousand".
const LATE_MAX: i64 = 1_001;

/// One route as the trigger needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteRow {
    /// As written.
    pub pattern: String,
    /// Empty for nowhere.
    pub sink: String,
    /// Empty where the route has no name.
    pub target: String,
    /// Of its deliveries; the higher the more urgent.
    pub lane: i16,
    /// Whether the pattern is a type itself.
    pub exact: bool,
    /// Text before the first `*`.
    pub prefix: String,
    /// Where the prefix does not decide alone.
    pub regex: Option<String>,
    /// The higher wins.
    pub specificity: i32,
}

/// What became of a set of routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mirrored {
    /// It was in force already.
    InForce,
    /// It is in force now.
    Applied,
    /// It was in force once and another took its place; a start does not go back.
    Superseded,
}

/// Where a set of routes stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// In force.
    InForce,
    /// Never was in force.
    New,
    /// Was in force once, and another took its place.
    Superseded,
}

/// Looks where a set of routes stands; changes nothing.
///
/// # Errors
/// When the database cannot be asked.
pub async fn standing(link: &Link, hash: &str) -> Result<Standing, StoreError> {
    let params = [(&hash as _, Type::TEXT)];
    let row = link.row("look at the routes", &link.queries().route_sets, &params).await?;
    Ok(match (row.get("in_force"), row.get("known")) {
        (true, _) => Standing::InForce,
        (false, true) => Standing::Superseded,
        (false, false) => Standing::New,
    })
}

/// Puts a set of routes in force, in one transaction under a lock. A set that was superseded is
/// put back only with `go_back`.
///
/// # Errors
/// When the database cannot be asked; the former set stays in force then.
pub async fn mirror(
    link: &Link,
    hash: &str,
    who: &str,
    routes: &[RouteRow],
    go_back: bool,
) -> Result<Mirrored, StoreError> {
    let queries = link.queries();
    link.transaction("mirror the routes", async |transaction| {
        transaction.query_typed(&queries.lock_routes, &[]).await?;
        let row = transaction.query_typed_one(&queries.route_sets, &[(&hash, Type::TEXT)]).await?;
        if row.get("in_force") {
            transaction.execute_typed(&queries.set_bells, &[]).await?;
            return Ok(Mirrored::InForce);
        }
        if row.get("known") && !go_back {
            return Ok(Mirrored::Superseded);
        }
        let set = [(&hash as _, Type::TEXT), (&who as _, Type::TEXT)];
        transaction.execute_typed(&queries.add_route_set, &set).await?;
        transaction.execute_typed(&queries.clear_routes, &[]).await?;
        let patterns: Vec<&str> = routes.iter().map(|r| r.pattern.as_str()).collect();
        let sinks: Vec<&str> = routes.iter().map(|r| r.sink.as_str()).collect();
        let targets: Vec<&str> = routes.iter().map(|r| r.target.as_str()).collect();
        let lanes: Vec<i16> = routes.iter().map(|r| r.lane).collect();
        let exact: Vec<bool> = routes.iter().map(|r| r.exact).collect();
        let prefixes: Vec<&str> = routes.iter().map(|r| r.prefix.as_str()).collect();
        let regexes: Vec<Option<&str>> = routes.iter().map(|r| r.regex.as_deref()).collect();
        let specificities: Vec<i32> = routes.iter().map(|r| r.specificity).collect();
        let rows = [
            (&patterns as _, Type::TEXT_ARRAY),
            (&sinks as _, Type::TEXT_ARRAY),
            (&targets as _, Type::TEXT_ARRAY),
            (&lanes as _, Type::INT2_ARRAY),
            (&exact as _, Type::BOOL_ARRAY),
            (&prefixes as _, Type::TEXT_ARRAY),
            (&regexes as _, Type::TEXT_ARRAY),
            (&specificities as _, Type::INT4_ARRAY),
        ];
        transaction.execute_typed(&queries.add_routes, &rows).await?;
        transaction.execute_typed(&queries.set_bells, &[]).await?;
        Ok(Mirrored::Applied)
    })
    .await
}

/// A page of unrouted messages after an id: each id, and whether a route has come for its type.
///
/// # Errors
/// When the database cannot be asked.
pub async fn unrouted(link: &Link, after: i64, limit: i64) -> Result<Vec<(i64, bool)>, StoreError> {
    let params = [(&after as _, Type::INT8), (&limit as _, Type::INT8)];
    let rows = link.rows("look for routes", &link.queries().unrouted, &params).await?;
    Ok(rows.iter().map(|row| (row.get("message_id"), row.get("routed"))).collect())
}

/// Routes messages that stand there already; answers how many found a route.
///
/// # Errors
/// When the database cannot be asked.
pub async fn route_existing(link: &Link, ids: &[i64]) -> Result<i64, StoreError> {
    let params = [(&ids as _, Type::INT8_ARRAY)];
    let row = link.row("route messages", &link.queries().route_existing, &params).await?;
    Ok(row.get("routed"))
}

/// One step of the completeness sweep over a span of ids after one: where it ended (none at the end of
/// the table) and how many unseen messages it found. Finds late deliveries too; see `sweep.sql`.
///
/// # Errors
/// When the database cannot be asked.
pub async fn sweep(link: &Link, after: i64, span: i64) -> Result<(Option<i64>, i64), StoreError> {
    let params =
        [(&after as _, Type::INT8), (&span as _, Type::INT8), (&LATE_MAX as _, Type::INT8)];
    let row = link.row("sweep", &link.queries().sweep, &params).await?;
    Ok((row.get("reached"), row.get("found")))
}

/// A page of the messages found unseen.
///
/// # Errors
/// When the database cannot be asked.
pub async fn unseen(link: &Link, limit: i64) -> Result<Vec<i64>, StoreError> {
    let rows =
        link.rows("list unseen messages", &link.queries().unseen, &[(&limit, Type::INT8)]).await?;
    Ok(rows.iter().map(|row| row.get("message_id")).collect())
}
