//! The chaos suite: real relays, a real PostgreSQL and real sockets, while everything around breaks;
//! judged by what producers and receivers know, and by the audit.
//!
//! A run is drawn from a seed: the seed and the commit give the same faults in the same order. Times
//! are the machine's, so the same seed does not give the same interleaving. It prints its seed.
//!
//! By hand: `OUTBOXD_CHAOS_SECONDS=1800 OUTBOXD_CHAOS_SEED=7 cargo test --test integration -- --nocapture
//! chaos::all_faults_together` runs every fault for so long; without a seed one is drawn. At its end
//! stands a table: fault, how often, what held, repeats, longest recovery. `OUTBOXD_CHAOS_SEED` alone
//! gives the short runs another seed, `OUTBOXD_CHAOS_RELAYS` the number of relays (default 2).
//!
//! What it does not do: the relay's and the database's real clocks cannot be stepped without stepping
//! the machine's; `clock.rs` steps the time the relay is told by the database instead. Standbys,
//! poolers, full disks, torn files and version mixtures (8, 9, 11, 15, 16, 21, 23 of `postgres.md` C3)
//! are not here; restored and cloned databases (18) have tests of their own.

mod faults;
mod journal;
mod oracle;
mod plan;
mod producers;
mod receivers;
mod stage;

use std::time::{Duration, Instant};

use faults::{Struck, strike};
use oracle::{Found, judge, table};
use plan::{DATABASE, Fault, NEIGHBOURS, PROCESSES, Plan};
use stage::Stage;

use crate::audit::violations;

/// Longest pause between two faults.
const QUIET: Duration = Duration::from_millis(700);
/// By then everything must be delivered once faults have stopped.
const DRAIN_MAX: Duration = Duration::from_secs(90);

fn from_env<T: std::str::FromStr>(name: &str) -> Option<T> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

/// Runs each fault of a mix once, or all of them over and over for so long; then lets everything heal,
/// and judges.
async fn run(mix: &[Fault], seed: u64, seconds: Option<u64>) {
    let seed = from_env("OUTBOXD_CHAOS_SEED").unwrap_or(seed);
    println!("OUTBOXD_CHAOS_SEED={seed}");
    let relays = from_env("OUTBOXD_CHAOS_RELAYS").unwrap_or(2);
    let stage = Stage::start(seed, relays).await;
    let plan = Plan::new(seed, mix.iter().copied(), QUIET);
    let (turn, begun) = (plan.turn(), Instant::now());
    let mut struck: Vec<Struck> = Vec::new();
    for next in plan {
        let over = match seconds {
            Some(seconds) => begun.elapsed() >= Duration::from_secs(seconds),
            None => struck.len() == turn,
        };
        if over {
            break;
        }
        tokio::time::sleep(next.after).await;
        struck.push(strike(&stage, next).await);
    }
    stage.calm().await;
    let drained = stage.until_drained(DRAIN_MAX).await;
    stage.end().await;

    let client = stage.client().await;
    let found = Found::read(&client, stage.receivers.files()).await;
    let audit = violations(&client).await;
    let noted = stage.journal.noted();
    let verdict = judge(&noted, &struck, &found);
    println!("{}", table(&struck, &verdict));
    println!("drained {drained:?} after the last fault; the audit found {audit:?}");
    let few = verdict.broken.iter().take(20).cloned().collect::<Vec<_>>().join("\n");
    assert!(
        verdict.broken.is_empty(),
        "OUTBOXD_CHAOS_SEED={seed}: {} broken, the first:\n{few}",
        verdict.broken.len()
    );
    assert!(audit.is_empty(), "OUTBOXD_CHAOS_SEED={seed}: {audit:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn killed_and_suspended_relays_lose_nothing_and_repeat_what_was_in_flight() {
    run(PROCESSES, 1, None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_database_that_fails_in_every_way_costs_time_only() {
    run(DATABASE, 2, None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn neighbours_that_misbehave_repeat_nothing() {
    run(NEIGHBOURS, 4, None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn all_faults_together() {
    let mut mix = [PROCESSES, DATABASE, NEIGHBOURS].concat();
    mix.sort_unstable();
    mix.dedup();
    let seconds = from_env("OUTBOXD_CHAOS_SECONDS");
    let seed = if seconds.is_some() { fastrand::u64(..1_000_000) } else { 3 };
    run(&mix, seed, Some(seconds.unwrap_or(5))).await;
}
