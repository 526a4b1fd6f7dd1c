//! The figures that metrics show of the outbox: one statement, at a fixed price.

use std::time::Duration;

use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::error::StoreError;
use super::inspect::status::Count;
use super::link::Link;
use crate::alert::{Cause, TYPE};
use crate::policy::Lane;

/// What stands in the outbox.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// The sinks that were asked for.
    pub sinks: Vec<SinkFigures>,
    /// How many subjects are in trouble, by cause.
    pub alerts: Vec<(Cause, i64)>,
    /// Messages without a route.
    pub unrouted: i64,
    /// Messages written past the trigger.
    pub unseen: i64,
    /// How many sinks alerts are routed to.
    pub receivers: i64,
    /// How many relays live.
    pub relays: i64,
    /// Whether everything is paused.
    pub paused: bool,
}

/// One sink.
#[derive(Clone, Debug, Default)]
pub struct SinkFigures {
    /// Its name.
    pub name: String,
    /// Deliveries that could start now.
    pub due: i64,
    /// That wait for time.
    pub later: i64,
    /// That were given up.
    pub dead: i64,
    /// That are in doubt.
    pub held: i64,
    /// Seconds since the oldest fell due.
    pub oldest_due: f64,
    /// Whether an operator paused it.
    pub paused: bool,
}

/// Looks once. Counts stop one above [`Count::LIMIT`]. The server ends a look that takes longer than the
/// limit: behind an old snapshot even a bounded count walks over dead entries of an index.
///
/// # Errors
/// When the database cannot be asked.
pub async fn figures(
    link: &Link,
    limit: Duration,
    sinks: &[String],
) -> Result<Figures, StoreError> {
    let lanes = Lane::ALL.map(Lane::number).to_vec();
    let params = [
        (&sinks as _, Type::TEXT_ARRAY),
        (&lanes as _, Type::INT2_ARRAY),
        (&Count::COUNTED as _, Type::INT8),
        (&TYPE as _, Type::TEXT),
    ];
    let sql = &link.queries().figures;
    let rows = link.rows_by_index_within("look at the outbox", limit, sql, &params).await?;
    let mut figures = Figures::default();
    for row in &rows {
        let count = row.get("due");
        match row.get("what") {
            "sink" => figures.sinks.push(sink(row)),
            "alert" => {
                figures.alerts.extend(Cause::of(row.get("name")).map(|cause| (cause, count)));
            }
            "unrouted" => figures.unrouted = count,
            "unseen" => figures.unseen = count,
            "receivers" => figures.receivers = count,
            "relays" => figures.relays = count,
            _ => figures.paused = row.get("paused"),
        }
    }
    Ok(figures)
}

fn sink(row: &Row) -> SinkFigures {
    SinkFigures {
        name: row.get("name"),
        due: row.get("due"),
        later: row.get("later"),
        dead: row.get("dead"),
        held: row.get("held"),
        oldest_due: row.get("oldest_due"),
        paused: row.get("paused"),
    }
}
