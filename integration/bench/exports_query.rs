//! A file of a million rows out of a query: the relay beside `\\copy` of the same query by psql, on the same
//! server and disk, in the same run.

use std::time::{Duration, Instant};

use crate::harness::eventually;
use crate::harness::postgres::Database;
use crate::harness::relay::{Process, toml};

const ROWS: i64 = 1_000_000;
const LIMIT: Duration = Duration::from_secs(600);

/// Rows of about 190 bytes, of the types that orders have.
const TABLE: &str =
    "CREATE TABLE orders AS SELECT g AS id, now() - interval '20 hours' AS ordered_at,
     'customer-' || g % 1000 AS customer, (g % 100000)::numeric / 100 AS total, g % 2 = 0 AS paid,
     repeat('x', 110) AS note FROM generate_series(1, 1000000) g; ANALYZE orders";
const QUERY: &str = "SELECT id, ordered_at, customer, total, paid, note FROM orders
     WHERE ordered_at >= $1 AND ordered_at < $2";

/// Three runs; the first warms the server's cache.
pub async fn exports_query() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    client.batch_execute(TABLE).await.expect("a million orders");
    let folder = tempfile::tempdir().expect("a folder");
    let at: String = client
        .query_one(
            "SELECT to_char((now() AT TIME ZONE 'UTC') + interval '12 hours', 'HH24:MI')",
            &[],
        )
        .await
        .expect("the time")
        .get(0);
    let copied = folder.path().join("copied.csv");
    let bounded = QUERY.replace("$1", "'-infinity'").replace("$2", "'infinity'").replace('\n', " ");
    let copy = format!("\\copy ({bounded}) TO '{}' WITH (FORMAT csv, HEADER)", copied.display());
    for run in 1..=3 {
        let begun = Instant::now();
        database.psql(&copy);
        let baseline = begun.elapsed().as_secs_f64();
        client
            .batch_execute(
                "TRUNCATE outbox.export, outbox.calendar;
                 INSERT INTO outbox.calendar (kind, name, rule, since)
                 VALUES ('cut', 'orders', '', now() - interval '14 hours')",
            )
            .await
            .expect("one cut is due");
        let export = format!(
            "[exports.orders]\npath = \"{}/run-{run}-{{{{ period }}}}.csv\"\nquery = \"\"\"{QUERY}\"\"\"\n\
             every = {{ at = \"{at}\", time_zone = \"UTC\" }}\n",
            folder.path().display()
        );
        let relay = Process::start(&toml(&database.url(), "lease = \"10s\"", &export));
        let sql = "SELECT extract(epoch FROM published_at - opened_at)::float8, row_count, bytes
                     FROM outbox.export WHERE state = 'published'";
        let row = eventually("the file is published", LIMIT, async || {
            let row = client.query_opt(sql, &[]).await.map_err(|e| e.to_string())?;
            row.ok_or_else(|| "not yet".to_owned())
        })
        .await;
        let (took, rows, bytes): (f64, i64, i64) = (row.get(0), row.get(1), row.get(2));
        assert_eq!(rows, ROWS);
        println!(
            "exports_query run {run}: {rows} rows, {} MB in {took:.2} s; \\copy {baseline:.2} s, ratio {:.2}; \
             peak of the relay {} MB",
            bytes / 1_000_000,
            took / baseline,
            peak_kilobytes(relay.id()) / 1_000
        );
    }
}

/// The most memory that a process has held.
fn peak_kilobytes(id: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}
