//! Where it runs: versions of PostgreSQL, poolers, TLS, failover, upgrades, and with which rights.

mod failover;
mod pooler;
mod rights;
mod tls;
mod upgrades;
mod versions;

use std::path::Path;
use std::time::{Duration, Instant};

use tokio_postgres::Client;

use crate::cli::{Said, run_in};
use crate::harness::eventually;
use crate::harness::http::HttpPeer;
use crate::harness::plane::{LONG, number, send};

/// Its sink sleeps: the bell is held.
const ASLEEP: &str = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'
     AND mode = 'ExclusiveLock' AND granted
     AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";

/// Runs the command line with this config; what it says.
fn outboxd(toml: &str, arguments: &[&str]) -> Said {
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(folder.path().join("outboxd.toml"), toml).expect("write the config");
    run_in(folder.path(), arguments, &[])
}

/// The same, of what must succeed.
#[track_caller]
fn outboxd_ok(toml: &str, arguments: &[&str]) -> String {
    let said = outboxd(toml, arguments);
    assert_eq!(said.code, 0, "{arguments:?}: {said:?}");
    said.out
}

/// How long single messages take to a peer, from commit to request: sorted.
async fn latencies(client: &Client, peer: &HttpPeer, count: usize, asleep: bool) -> Vec<Duration> {
    let mut found = Vec::new();
    for _ in 0..count {
        if asleep {
            eventually("the sink sleeps", LONG, async || match number(client, ASLEEP).await {
                0 => Err("awake".to_owned()),
                _ => Ok(()),
            })
            .await;
        } else {
            // Until it would sleep, if it could.
            tokio::time::sleep(Duration::from_millis(1_700 + fastrand::u64(..500))).await;
        }
        let before = peer.requests();
        let begun = Instant::now();
        send(client, "t", "{}").await;
        peer.until(|peer| peer.requests() > before).await;
        found.push(begun.elapsed());
    }
    found.sort();
    found
}

/// A folder that files are written into.
fn shown(path: &Path) -> String {
    path.display().to_string()
}
