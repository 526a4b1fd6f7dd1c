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
//! `OUTBOXD_CHAOS_KILLS=1000 cargo test --test integration -- --nocapture chaos::relays_that_are_killed`
//! kills relays so often, a few a second, under load at sinks where a message may arrive only once.
//!
//! What it does not do: the relay's and the database's real clocks cannot be stepped without stepping
//! the machine's; `clock.rs` steps the time the relay is told by the database instead. Standbys,
//! poolers, full disks, torn files and version mixtures (8, 9, 11, 15, 16, 21, 23 of `postgres.md` C3)
//! are not here; restored and cloned databases (18) have tests of their own.

mod clock;
mod control;
mod faults;
mod journal;
mod once;
mod oracle;
mod plan;
mod producers;
mod receivers;
mod rights;
mod stage;

use std::time::{Duration, Instant};

use futures_util::future::join_all;

use faults::{Struck, strike};
use oracle::{Found, Verdict, judge, table};
use plan::{DATABASE, Fault, NEIGHBOURS, PROCESSES, Plan, Strike};
use stage::Stage;

use crate::audit::violations;

/// Longest pause between two faults: in short runs, and in long ones.
const QUIET_SHORT: Duration = Duration::from_millis(200);
const QUIET_LONG: Duration = Duration::from_secs(1);
/// By then everything must be delivered once faults have stopped.
const DRAIN_MAX: Duration = Duration::from_secs(90);

/// How much a run strikes.
struct Course {
    mix: Vec<Fault>,
    /// Faults that strike at the same time.
    at_once: usize,
    /// Over and over for so long; else each fault once.
    lasts: Option<Duration>,
}

fn from_env<T: std::str::FromStr>(name: &str) -> Option<T> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

/// Strikes and judges.
async fn run(course: Course, seed: u64) {
    let (stage, seed) = begin(seed).await;
    let struck = strike_all(&stage, course, seed).await;
    end(stage, struck, seed).await;
}

/// The stage of a seed, unless another one is asked for.
async fn begin(seed: u64) -> (Stage, u64) {
    let seed = from_env("OUTBOXD_CHAOS_SEED").unwrap_or(seed);
    println!("OUTBOXD_CHAOS_SEED={seed}");
    let relays = from_env("OUTBOXD_CHAOS_RELAYS").unwrap_or(2);
    (Stage::start(seed, relays).await, seed)
}

/// Lets everything heal, and judges.
async fn end(stage: Stage, struck: Vec<Struck>, seed: u64) -> Verdict {
    stage.calm().await;
    // What was in flight at a kill is tried a few at a time: the more kills, the longer.
    let limit =
        DRAIN_MAX + Duration::from_millis(500) * u32::try_from(struck.len()).unwrap_or(u32::MAX);
    let drained = stage.until_drained(limit).await;
    let held = once::resolve(&stage, limit).await;
    stage.end().await;
    let client = stage.client().await;
    let found = Found::read(&client, stage.receivers.files(), held).await;
    let audit = violations(&client).await;
    let noted = stage.journal.noted();
    let verdict = judge(&noted, &struck, &found);
    println!("{}", table(&struck, &verdict));
    println!("drained {drained:?} after the last fault; the audit found {audit:?}");
    if !verdict.broken.is_empty() {
        for one in &struck {
            println!("{} to {} {:?}", one.from, one.until, one.fault);
        }
    }
    let few = verdict.broken.iter().take(20).cloned().collect::<Vec<_>>().join("\n");
    assert!(
        verdict.broken.is_empty(),
        "OUTBOXD_CHAOS_SEED={seed}: {} broken, the first:\n{few}",
        verdict.broken.len()
    );
    assert!(audit.is_empty(), "OUTBOXD_CHAOS_SEED={seed}: {audit:?}");
    verdict
}

/// The faults of a course, in the order in which they began.
async fn strike_all(stage: &Stage, course: Course, seed: u64) -> Vec<Struck> {
    let quiet = if course.lasts.is_some() { QUIET_LONG } else { QUIET_SHORT };
    let mut plan = Plan::new(seed, course.mix, quiet);
    let (mut left, begun) = (plan.turn(), Instant::now());
    let mut struck: Vec<Struck> = Vec::new();
    loop {
        let count = match course.lasts {
            Some(lasts) if begun.elapsed() >= lasts => break,
            Some(_) => course.at_once,
            None if left == 0 => break,
            None => course.at_once.min(left),
        };
        left = left.saturating_sub(count);
        let next: Vec<Strike> = plan.by_ref().take(count).collect();
        tokio::time::sleep(next[0].after).await;
        struck.extend(join_all(next.into_iter().map(|next| strike(stage, next))).await);
    }
    struck
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn killed_and_suspended_relays_lose_nothing_and_repeat_what_was_in_flight() {
    run(Course { mix: PROCESSES.to_vec(), at_once: 1, lasts: None }, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_database_that_fails_in_every_way_costs_time_only() {
    run(Course { mix: DATABASE.to_vec(), at_once: 1, lasts: None }, 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn neighbours_that_misbehave_repeat_nothing() {
    run(Course { mix: NEIGHBOURS.to_vec(), at_once: 4, lasts: None }, 4).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn relays_that_are_killed_over_and_over_send_at_most_once() {
    let kills = from_env("OUTBOXD_CHAOS_KILLS").unwrap_or(6);
    let (stage, seed) = begin(5).await;
    let struck = once::kills(&stage, kills, seed).await;
    let Verdict { once, once_most, held, .. } = end(stage, struck, seed).await;
    println!(
        "at most once: {kills} kills, {once} deliveries, each {once_most} time at most; {held} held until an operator \
         asked, all others delivered"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn all_faults_together() {
    let mut mix = [PROCESSES, DATABASE, NEIGHBOURS].concat();
    mix.sort_unstable();
    mix.dedup();
    let seconds: Option<u64> = from_env("OUTBOXD_CHAOS_SECONDS");
    let seed = if seconds.is_some() { fastrand::u64(..1_000_000) } else { 3 };
    let lasts = Some(Duration::from_secs(seconds.unwrap_or(2)));
    run(Course { mix, at_once: 1, lasts }, seed).await;
}
