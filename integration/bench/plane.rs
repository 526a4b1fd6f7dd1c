//! Figures of the data plane under strain, each beside its baseline in the same run. The sizes are those
//! of the closing notes; `OUTBOXD_BENCH_ROWS` stands in for the largest of them, to try things out.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio_postgres::Client;

use super::harness::http::{Answer, HttpPeer};
use super::harness::plane::{number, until_closed, until_count, until_routed};
use super::harness::postgres::Database;
use super::harness::relay::{Process, Relay, crm, toml};
use super::{config, insert, per_second};

pub fn rows(usual: usize) -> usize {
    let said = std::env::var("OUTBOXD_BENCH_ROWS").ok();
    said.map_or(usual, |said| said.parse().expect("OUTBOXD_BENCH_ROWS is a number"))
}

/// A backlog in statements of 100,000 rows.
pub async fn preload(client: &Client, count: usize) {
    let mut left = count;
    while left > 0 {
        let now = left.min(100_000);
        insert(client, now).await;
        left -= now;
    }
}

/// A migrated database whose routes stand.
pub async fn routed(rest: &str) -> (Database, Client) {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let relay = Relay::start(config(&database, rest));
    until_routed(&client).await;
    relay.stop().await;
    (database, client)
}

/// What a second sink notices of a first one that hangs: from the commit's return to the request's
/// arrival at the second, with the first idle and with all of its slots and a backlog waiting.
pub async fn isolation() {
    let backlog = rows(20_000);
    let database = Database::migrated().await;
    let client = database.connect().await;
    let (first, second) = (HttpPeer::start().await, HttpPeer::start().await);
    first.count_only();
    second.count_only();
    first.always(Answer::Hang);
    let arrived: Arc<Mutex<HashMap<u64, Instant>>> = Arc::default();
    let note = Arc::clone(&arrived);
    second.decide(move |request| {
        let payload: serde_json::Value = serde_json::from_slice(&request.body).expect("JSON");
        let n = payload["n"].as_u64().expect("its number");
        note.lock().unwrap_or_else(PoisonError::into_inner).entry(n).or_insert_with(Instant::now);
        Answer::status(204)
    });
    let rest = format!(
        "[sinks.first]\nkind = \"webhook\"\nurl = \"{}\"\n[[routes]]\ntype = \"order.*\"\nsink = \"first\"\n{}",
        first.url("/"),
        crm(&second.url("/"), "").replace("\"*\"", "\"second\""),
    );
    let relay = Relay::start(config(&database, &rest));
    until_routed(&client).await;
    let owned = "SELECT count(*) FROM outbox.sink WHERE owner IS NULL";
    until_count(&client, "both are taken", owned, 0).await;
    let mut figures = Vec::new();
    let mut next = 0;
    for hangs in [false, true] {
        if hangs {
            preload(&client, backlog).await;
            first.until(|peer| peer.requests() >= 16).await;
        }
        figures.push(waits(&client, &arrived, &mut next).await);
    }
    relay.stop_now().await;
    let [(idle_median, idle), (median, hanging)] = figures[..] else { unreachable!() };
    println!(
        "isolation: a second sink while the first is idle: median {idle_median:.1?}, p99 {idle:.1?}; while it \
         hangs with {backlog} waiting: median {median:.1?}, p99 {hanging:.1?} (x{:.2})",
        hanging.as_secs_f64() / idle.as_secs_f64()
    );
}

/// Median and p99 of a steady trickle to the second sink.
async fn waits(
    client: &Client,
    arrived: &Mutex<HashMap<u64, Instant>>,
    next: &mut u64,
) -> (Duration, Duration) {
    const SAMPLES: usize = 2_000;
    let mut committed = Vec::with_capacity(SAMPLES);
    let mut pace = tokio::time::interval(Duration::from_millis(3));
    for _ in 0..SAMPLES {
        pace.tick().await;
        let sql = format!(
            "INSERT INTO outbox.message (type, payload) VALUES ('second', '{{\"n\": {next}}}')"
        );
        client.batch_execute(&sql).await.expect("insert");
        committed.push((*next, Instant::now()));
        *next += 1;
    }
    let lock = || arrived.lock().unwrap_or_else(PoisonError::into_inner);
    let limit = Instant::now() + Duration::from_secs(60);
    while !committed.iter().all(|(n, _)| lock().contains_key(n)) {
        assert!(Instant::now() < limit, "the second sink stands still");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut took: Vec<Duration> =
        committed.iter().map(|(n, at)| lock()[n].saturating_duration_since(*at)).collect();
    took.sort_unstable();
    (took[SAMPLES / 2], took[SAMPLES * 99 / 100])
}

/// How fast a backlog is drained while a REPEATABLE READ snapshot from before its first row is held,
/// beside the same without; the last tenth of each beside its first.
pub async fn snapshot() {
    let count = rows(500_000);
    for held in [false, true] {
        let peer = HttpPeer::start().await;
        peer.count_only();
        let rest = crm(&peer.url("/"), "concurrency = 64");
        let (database, client) = routed(&rest).await;
        let reader = database.connect().await;
        if held {
            let hold = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM outbox.message";
            reader.batch_execute(hold).await.expect("hold a snapshot");
        }
        preload(&client, count).await;
        client.batch_execute("ANALYZE outbox.delivery, outbox.message").await.expect("analyze");
        let relay = Relay::start(config(&database, &rest));
        let mut tenths = Vec::new();
        let begun = Instant::now();
        peer.until(|peer| peer.requests() > 0).await;
        let mut last = Instant::now();
        for tenth in 1..=10 {
            peer.until(|peer| peer.requests() >= count * tenth / 10).await;
            tenths.push(per_second(count / 10, last.elapsed()));
            last = Instant::now();
        }
        let rate = per_second(count, begun.elapsed());
        relay.stop().await;
        let dead = "SELECT coalesce(sum(n_dead_tup), 0)::bigint FROM pg_stat_all_tables WHERE schemaname = 'outbox'";
        println!(
            "snapshot {}: {count} drained at {rate:.0}/s; first tenth {:.0}/s, last tenth {:.0}/s (ratio {:.2}); \
             {} dead tuples",
            if held { "held" } else { "not held" },
            tenths[0],
            tenths[9],
            tenths[9] / tenths[0],
            number(&client, dead).await,
        );
    }
}

/// How fast a part of a large backlog is drained, how soon after its start the relay delivers, and how
/// much memory it takes; a hundredth of the backlog beside it.
pub async fn backlog() {
    let large = rows(3_000_000);
    let small = large / 100;
    for open in [small, large] {
        let peer = HttpPeer::start().await;
        peer.count_only();
        let rest = crm(&peer.url("/"), "concurrency = 64");
        let (database, client) = routed(&rest).await;
        preload(&client, open).await;
        client
            .batch_execute("VACUUM ANALYZE outbox.delivery, outbox.message")
            .await
            .expect("vacuum");
        let begun = Instant::now();
        let relay = Process::start(&toml(&database.url(), "lease = \"10s\"", &rest));
        peer.until(|peer| peer.requests() > 0).await;
        let first = begun.elapsed();
        let begun = Instant::now();
        let before = peer.requests();
        peer.until(|peer| peer.requests() >= small).await;
        let rate = per_second(peer.requests() - before, begun.elapsed());
        let memory = memory_of(relay.id());
        relay.kill();
        println!(
            "backlog of {open}: first delivery {first:.1?} after the start, then {rate:.0}/s over {small}; \
             the relay's memory {memory}"
        );
    }
}

/// Resident memory of a process, now and at most.
pub fn memory_of(pid: u32) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = |name: &str| {
        let found = status.lines().find_map(|line| line.strip_prefix(name));
        found.unwrap_or(": unknown").trim_start_matches(':').trim().to_owned()
    };
    format!("{}, at most {}", line("VmRSS"), line("VmHWM"))
}

/// What one message costs the database from INSERT to closed: WAL, and tuples left dead, by table.
pub async fn plane() {
    let count = rows(50_000);
    let peer = HttpPeer::start().await;
    peer.count_only();
    let rest = crm(&peer.url("/"), "concurrency = 64");
    let database = Database::migrated().await;
    let client = database.connect().await;
    client
        .batch_execute(
            "ALTER TABLE outbox.message SET (autovacuum_enabled = off);
             ALTER TABLE outbox.delivery SET (autovacuum_enabled = off)",
        )
        .await
        .expect("vacuum off");
    let relay = Relay::start(config(&database, &rest));
    until_routed(&client).await;
    let at = "SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint";
    let start = number(&client, at).await;
    insert(&client, count).await;
    let inserted = number(&client, at).await;
    until_closed(&client).await;
    let closed = number(&client, at).await;
    relay.stop().await;
    // Statistics arrive a moment after the sessions that gathered them have ended.
    let gone = "SELECT n_tup_del FROM pg_stat_all_tables WHERE relid = 'outbox.delivery'::regclass";
    until_count(&client, "statistics are in", gone, i64::try_from(count).expect("it fits")).await;
    let tables = client
        .query(
            "SELECT relname::text, n_tup_ins, n_tup_upd, n_tup_del, n_dead_tup
               FROM pg_stat_all_tables
              WHERE schemaname = 'outbox' AND n_tup_ins + n_tup_upd + n_tup_del > 0
              ORDER BY n_dead_tup DESC, relname",
            &[],
        )
        .await
        .expect("statistics");
    let each = |bytes: i64| bytes / i64::try_from(count).expect("it fits");
    let share = |n: i64| {
        per_second(usize::try_from(n).unwrap_or_default(), Duration::from_secs(1))
            / per_second(count, Duration::from_secs(1))
    };
    let dead: i64 = tables.iter().map(|row| row.get::<_, i64>(4)).sum();
    println!(
        "plane: {} bytes of WAL a message ({} by the INSERT with its delivery, {} by the relay), {:.3} dead tuples",
        each(closed - start),
        each(inserted - start),
        each(closed - inserted),
        share(dead),
    );
    for row in tables {
        let (name, dead): (String, i64) = (row.get(0), row.get(4));
        let [inserted, updated, deleted] = [1, 2, 3].map(|column| row.get::<_, i64>(column));
        println!(
            "  {name}: {inserted} inserted, {updated} updated, {deleted} deleted, {dead} dead"
        );
    }
}
