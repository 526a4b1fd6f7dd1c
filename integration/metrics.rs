//! Health and metrics: what the listener answers, and that each figure moves when its cause happens.

mod answers;
mod logs;
mod moves;
mod table;

use crate::harness::postgres::Database;
use crate::harness::relay;

/// Sinks that the tests of this room have, with the peer's URL for the webhook: `crm`.
pub fn crm(database: &Database, url: &str, more: &str) -> outboxd::config::Config {
    relay::config(&database.url(), &relay::crm(url, more))
}
