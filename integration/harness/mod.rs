//! What the tests stand on: a real PostgreSQL, a proxy that makes faults, and a way to wait.

pub mod dkim;
pub mod http;
pub mod mail_servers;
pub mod plane;
pub mod pooler;
pub mod postgres;
pub mod program;
pub mod proxy;
pub mod relay;
pub mod scrape;
pub mod smtp;

use std::panic::Location;
use std::time::{Duration, Instant};

/// How often [`eventually`] looks. Short, because a test waits half of it on average.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Waits until `probe` says `Ok`, and returns what it says. After `limit` it panics with the last
/// state seen, so a probe's `Err` should tell what was found instead. Limits may be long: they cost
/// time only where the test fails.
#[track_caller]
pub fn eventually<T>(
    what: &str,
    limit: Duration,
    mut probe: impl AsyncFnMut() -> Result<T, String>,
) -> impl Future<Output = T> {
    let caller = Location::caller();
    async move {
        let start = Instant::now();
        let mut last = String::from("nothing, the first look did not return");
        loop {
            let left = limit.saturating_sub(start.elapsed());
            match tokio::time::timeout(left, probe()).await {
                Ok(Ok(found)) => return found,
                Ok(Err(state)) => last = state,
                Err(_) => {}
            }
            assert!(
                start.elapsed() < limit,
                "{caller}: not within {limit:?}: {what}; last seen: {last}"
            );
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}
