//! Five relays whose clocks are half a minute wrong either way: each period runs once. The control, five
//! timers that go by their own clocks, is caught by the same judge.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use tokio_postgres::Client;

use super::{occurrences, written};
use crate::harness::eventually;
use crate::harness::plane::{LONG, until_count};
use crate::harness::postgres::Database;
use crate::harness::relay::{Process, toml};

/// How wrong each clock is, in seconds.
const WRONG_BY: [i64; 5] = [-30, -15, 0, 15, 30];

const SCHEDULES: &str = "[[routes]]\ntype = \"*\"\nsink = []\n\
     [schedules.ticks]\ntype = \"tick\"\nevery = \"2s\"\ncatch_up = \"all\"\n\
     [schedules.report]\ntype = \"report.due\"\n\
     every = { at = \"00:00\", time_zone = \"Europe/Vienna\" }\ncatch_up = \"all\"\n";

fn clock(wrong_by: i64) -> Vec<(&'static str, String)> {
    let library = std::env::var("OUTBOXD_FAKETIME")
        .expect("OUTBOXD_FAKETIME is not set; run integration/run.sh, which provides libfaketime");
    vec![
        ("LD_PRELOAD", library),
        ("FAKETIME", format!("{wrong_by:+}s")),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
    ]
}

/// What a program reads off such a clock, in seconds since 1970.
fn read(wrong_by: i64) -> i64 {
    let output = Command::new("date").arg("+%s").envs(clock(wrong_by)).output().expect("date");
    String::from_utf8_lossy(&output.stdout).trim().parse().expect("a number")
}

/// Each period once, and none left out between the first and the last.
fn judge(written: &[(String, i64)], expected: &[String]) -> Result<(), String> {
    let counts: BTreeMap<&str, i64> = written.iter().map(|(p, n)| (p.as_str(), *n)).collect();
    for period in expected {
        match counts.get(period.as_str()) {
            Some(1) => {}
            count => return Err(format!("period {period}: {count:?} messages")),
        }
    }
    if counts.len() == expected.len() {
        return Ok(());
    }
    Err(format!("{counts:?} instead of {expected:?}"))
}

/// All periods of two seconds from the first that was written to the last.
async fn expected(client: &Client, first: &str, last: &str) -> Vec<String> {
    let sql = "SELECT to_char(t, 'YYYY-MM-DD\"T\"HH24MISS')
                 FROM generate_series(to_timestamp($1, 'YYYY-MM-DD\"T\"HH24MISS')::timestamp,
                                      to_timestamp($2, 'YYYY-MM-DD\"T\"HH24MISS')::timestamp,
                                      interval '2 seconds') t";
    let rows = client.query(sql, &[&first, &last]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn five_relays_with_wrong_clocks_run_each_period_once() {
    for wrong_by in WRONG_BY {
        let now = jiff::Timestamp::now().as_second();
        assert!((read(wrong_by) - now - wrong_by).abs() <= 5, "the clock is wrong by {wrong_by} s");
    }
    let database = Database::migrated().await;
    let client = database.connect().await;
    let text = toml(&database.url(), "lease = \"2s\"", SCHEDULES);
    let mut relays: Vec<Process> = WRONG_BY
        .iter()
        .map(|wrong_by| {
            let clock = clock(*wrong_by);
            Process::start_with(&text, |command| {
                command.envs(clock.iter().map(|(name, value)| (name, value.as_str())));
            })
        })
        .collect();
    let entered = "SELECT count(*) FROM outbox.relay WHERE schedules @> '{ticks,report}'";
    until_count(&client, "all five are there", entered, 5).await;
    // Five midnights fall due at once, and are looked at by all.
    client
        .batch_execute(
            "UPDATE outbox.calendar SET settled_until = clock_timestamp() - interval '5 days'
              WHERE name = 'report'",
        )
        .await
        .unwrap();
    let ticks = "SELECT count(*) FROM outbox.occurrence WHERE schedule = 'ticks'";
    eventually("ticks run", LONG, async || {
        match crate::harness::plane::number(&client, ticks).await {
            10.. => Ok(()),
            few => Err(few.to_string()),
        }
    })
    .await;
    let reports = "SELECT count(*) FROM outbox.occurrence WHERE schedule = 'report'";
    until_count(&client, "five midnights", reports, 5).await;
    // Whoever finds a period done by another must leave it at that, also once its mark is lost.
    client
        .batch_execute(
            "UPDATE outbox.calendar SET settled_until = clock_timestamp() - interval '5 days'
              WHERE name = 'report';
             UPDATE outbox.calendar SET settled_until = clock_timestamp() - interval '10 seconds'
              WHERE name = 'ticks'",
        )
        .await
        .unwrap();
    let settled = "SELECT count(*) FROM outbox.calendar
                    WHERE settled_until > clock_timestamp() - interval '1 day' AND name = 'report'";
    until_count(&client, "all midnights are settled once more", settled, 1).await;
    let caught_up = "SELECT count(*) FROM outbox.calendar
                      WHERE settled_until > clock_timestamp() - interval '3 seconds' AND name = 'ticks'";
    until_count(&client, "all ticks are settled once more", caught_up, 1).await;
    for relay in &mut relays {
        relay.signal("TERM");
        assert!(relay.ended().await.success());
    }
    let written_ticks = written(&client, "ticks").await;
    let (first, last) = (&written_ticks[0].0, &written_ticks[written_ticks.len() - 1].0);
    assert_eq!(judge(&written_ticks, &expected(&client, first, last).await), Ok(()));
    assert_eq!(occurrences(&client, "ticks").await.len(), written_ticks.len());
    let reports = written(&client, "report").await;
    let names: Vec<String> = reports.iter().map(|(period, _)| period.clone()).collect();
    assert_eq!((judge(&reports, &names), reports.len()), (Ok(()), 5));
    let by = "SELECT count(DISTINCT actor) FROM outbox.occurrence";
    println!(
        "{} periods, run by {} of 5 relays",
        written_ticks.len() + 5,
        crate::harness::plane::number(&client, by).await
    );
}

/// The control: five timers with the same wrong clocks, each of which knows by its own clock and memory
/// what it has done, as a timer in each instance of an application does.
#[tokio::test(flavor = "multi_thread")]
async fn control_timers_that_go_by_their_own_clocks_are_caught() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let mut timers = tokio::task::JoinSet::new();
    for wrong_by in WRONG_BY {
        let client = database.connect().await;
        timers.spawn(async move {
            let mut done = read(wrong_by) / 2;
            for _ in 0..3 {
                while read(wrong_by) / 2 == done {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                done = read(wrong_by) / 2;
                let sql = "INSERT INTO outbox.message (type, payload, headers)
                           SELECT 'tick', '{}', jsonb_build_object('outboxd-schedule', 'ticks',
                             'outboxd-period', to_char(to_timestamp($1::bigint::float8) AT TIME ZONE 'UTC',
                                                       'YYYY-MM-DD\"T\"HH24MISS'))";
                client.execute(sql, &[&(done * 2)]).await.unwrap();
            }
        });
    }
    timers.join_all().await;
    let written = written(&client, "ticks").await;
    let (first, last) = (&written[0].0, &written[written.len() - 1].0);
    let red = judge(&written, &expected(&client, first, last).await);
    assert!(red.is_err(), "timers by their own clocks pass for one: {written:?}");
    // And where their clocks agree, each of them still fires.
    assert_eq!(written.iter().map(|(_, count)| count).sum::<i64>(), 15);
}
