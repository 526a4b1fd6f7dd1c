//! kill -9 while a period is written: all of its messages stand, or none.

use std::time::{Duration, Instant};

use super::{occurrences, written};
use crate::audit::violations;
use crate::harness::eventually;
use crate::harness::plane::{LONG, number, until_count};
use crate::harness::postgres::Database;
use crate::harness::relay::{Process, toml};

/// Whether somebody is at a schedule.
const LOCK: &str = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 2
     AND classid = 'outbox.occurrence'::regclass
     AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
/// Reminders a period.
const REMINDERS: i64 = 20_000;

/// `OUTBOXD_TEST_KILLS=200` kills as often.
#[tokio::test(flavor = "multi_thread")]
async fn kill_9_while_reminders_are_written_leaves_all_of_a_period_or_none() {
    let kills = std::env::var("OUTBOXD_TEST_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(8);
    let database = Database::migrated().await;
    let client = database.connect().await;
    let schedule = format!(
        "[[routes]]\ntype = \"*\"\nsink = []\n\
         [schedules.reminders]\ntype = \"reminder.due\"\nevery = \"1s\"\n\
         query = \"SELECT jsonb_build_object('invoice', g, 'from', $1) AS payload, 'i-' || g AS key \
         FROM generate_series(1, {REMINDERS}) g\"\n"
    );
    let text = toml(&database.url(), "lease = \"2s\"", &schedule);
    let ran = "SELECT count(*) FROM outbox.occurrence WHERE state = 'ran'";
    let mut relay = Process::start(&text);
    // How long one takes, to kill anywhere within it.
    let begun = tokio::time::Instant::now();
    until(&client, ran, 1).await;
    let whole = begun.elapsed().clamp(Duration::from_millis(200), Duration::from_secs(3));
    let mut in_flight = 0;
    for kill in 0..kills {
        until(&client, LOCK, 1).await;
        let before = number(&client, ran).await;
        tokio::time::sleep(whole.mul_f64(f64::from(kill % 8) / 8.0)).await;
        in_flight += number(&client, LOCK).await;
        relay.kill();
        // What the server still does for a client that is gone ends by itself, and keeps nobody out.
        eventually("the lock is free", LONG, async || match number(&client, LOCK).await {
            0 => Ok(()),
            held => Err(format!("{held} held")),
        })
        .await;
        for (period, count) in written(&client, "reminders").await {
            assert_eq!(count, REMINDERS, "kill {kill}, period {period}");
        }
        for row in occurrences(&client, "reminders").await {
            assert!(row.contains(" 20000 of "), "kill {kill}: {row}");
        }
        relay = Process::start(&text);
        until(&client, ran, before + 1).await;
    }
    // The last one is up by then.
    let before = number(&client, ran).await;
    until(&client, ran, before + 1).await;
    relay.signal("TERM");
    assert!(relay.ended().await.success());
    let written = written(&client, "reminders").await;
    assert!(written.iter().all(|(_, count)| *count == REMINDERS), "{written:?}");
    let occurrences = occurrences(&client, "reminders").await;
    assert_eq!(occurrences.len(), written.len(), "a row for each that has messages, and no other");
    assert!(occurrences.iter().all(|row| row.contains(" 20000 of ")), "{occurrences:?}");
    assert!(in_flight > 0, "no kill fell into a run");
    assert_eq!(violations(&client).await, Vec::<String>::new());
    println!("{kills} kills, {in_flight} of them within a run: {} whole periods", written.len());
}

/// By itself the server would be at the query of a client that is gone until its end, and keep others out.
#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_is_killed_in_a_long_query_keeps_nobody_out() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let schedule = "[[routes]]\ntype = \"*\"\nsink = []\n\
         [schedules.slow]\ntype = \"report.due\"\nevery = \"1s\"\n\
         query = \"SELECT '{}'::jsonb AS payload FROM pg_sleep(50)\"\n";
    let relay = Process::start(&toml(&database.url(), "lease = \"2s\"", schedule));
    let sleeps = "SELECT count(*) FROM pg_stat_activity
                   WHERE datname = current_database() AND wait_event = 'PgSleep'";
    until_count(&client, "it is at its query", sleeps, 1).await;
    assert_eq!(number(&client, LOCK).await, 1);
    relay.kill();
    let begun = Instant::now();
    until_count(&client, "the server saw it die", LOCK, 0).await;
    let took = begun.elapsed();
    println!("free after {took:?}");
    assert!(took < Duration::from_secs(20), "{took:?}");
    assert_eq!(occurrences(&client, "slow").await, [""; 0]);
}

async fn until(client: &tokio_postgres::Client, sql: &str, least: i64) {
    eventually(sql, LONG, async || match number(client, sql).await {
        count if count >= least => Ok(()),
        count => Err(format!("{count} instead of {least}")),
    })
    .await;
}
