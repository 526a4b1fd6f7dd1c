//! A file of a million rows: seconds and memory of the real relay, beside what encoding alone and psql's
//! `\copy` of the same rows take in the same run. `OUTBOXD_BENCH_ROWS` as in `plane.rs`.

use std::path::Path;
use std::time::{Duration, Instant};

use outboxd::config::{CsvConfig, Way};
use outboxd::sink::csv::Layout;

use super::harness::eventually;
use super::harness::plane::number;
use super::harness::postgres::Database;
use super::harness::relay::{Process, toml};
use super::plane::{memory_of, preload, routed, rows};
use super::{bench_message, config};

/// A limit that is reached only where something is wrong.
const LONG: Duration = Duration::from_secs(900);

/// Eight columns of the messages that the benchmark inserts.
fn sink(folder: &Path, count: usize) -> String {
    format!(
        "[sinks.orders]\nkind = \"csv\"\npath = \"{}/orders-{{{{ period }}}}.csv\"\nmax_rows = {count}\n\
         columns = [{{ name = \"id\", value = \"id\", as = \"integer\" }},\n\
         {{ name = \"type\", value = \"type\" }}, {{ name = \"key\", value = \"key\" }},\n\
         {{ name = \"created_at\", value = \"created_at\", as = \"timestamp\" }},\n\
         {{ name = \"order_id\", value = \"payload.order_id\", as = \"integer\" }},\n\
         {{ name = \"customer\", value = \"payload.customer\" }},\n\
         {{ name = \"total\", value = \"payload.total\", as = \"decimal\" }},\n\
         {{ name = \"note\", value = \"payload.note\" }}]\n\
         [[routes]]\ntype = \"*\"\nsink = \"orders\"\n",
        folder.display()
    )
}

/// Files of messages, then files of a query.
pub async fn exports() {
    from_messages().await;
}

async fn from_messages() {
    let count = rows(1_000_000);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let rest = sink(folder.path(), count);
    let (database, client) = routed(&rest).await;
    preload(&client, count).await;
    client.batch_execute("VACUUM ANALYZE outbox.delivery, outbox.message").await.expect("vacuum");
    let encoding = encode(&database, &rest, count);
    let copying = copy(&database, folder.path());
    let begun = Instant::now();
    let relay = Process::start(&toml(&database.url(), "lease = \"10s\"", &rest));
    let published = "SELECT count(*) FROM outbox.export WHERE state = 'published'";
    eventually("the file is published", LONG, async || match number(&client, published).await {
        1 => Ok(()),
        _ => Err(relay.log()),
    })
    .await;
    let took = begun.elapsed();
    let memory = memory_of(relay.id());
    relay.kill();
    let millis = |from: &str, to: &str| {
        let sql =
            format!("SELECT (1000 * extract(epoch FROM {to} - {from}))::bigint FROM outbox.export");
        let client = &client;
        async move { number(client, &sql).await }
    };
    println!(
        "exports, {count} messages of 8 columns: {:.1} s from the relay's start to the file ({} ms to gather, \
         {} ms to write {} MB), the relay's memory {memory}; encoding alone {encoding:.1} s; psql \\copy of \
         the same rows {copying:.1} s",
        took.as_secs_f64(),
        millis("opened_at", "closed_at").await,
        millis("closed_at", "published_at").await,
        number(&client, "SELECT bytes / 1000000 FROM outbox.export").await,
    );
}

/// Seconds to make so many lines of one message in memory.
fn encode(database: &Database, rest: &str, count: usize) -> f64 {
    let config = config(database, rest);
    let csv: &CsvConfig = match &config.sinks.values().next().expect("a sink").way {
        Way::Csv(csv) => csv,
        Way::Webhook(_) | Way::Smtp(_) => unreachable!("a csv sink"),
    };
    let (layout, message) = (Layout::of(csv), bench_message(1));
    let begun = Instant::now();
    let bytes: usize = (0..count).map(|_| layout.line(&message).expect("a line").len()).sum();
    assert!(bytes > count);
    begun.elapsed().as_secs_f64()
}

/// Seconds that psql takes for a file of the same rows.
fn copy(database: &Database, folder: &Path) -> f64 {
    let file = folder.join("copy.csv");
    let begun = Instant::now();
    database.psql(&format!(
        "\\copy (SELECT id, type, key, created_at, payload->>'order_id', payload->>'customer', \
         payload->>'total', payload->>'note' FROM outbox.message ORDER BY id) TO '{}' CSV HEADER",
        file.display()
    ));
    begun.elapsed().as_secs_f64()
}
