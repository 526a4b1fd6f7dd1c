//! The benchmark: `cargo bench --bench outboxd -- [webhooks|mails|latency|wal|routing]…`, these five
//! without a word; by name only, because they take long, `isolation`, `snapshot`, `backlog` and `plane`,
//! see `plane.rs`, `exports`, `exports_query` and `newsletter`, see the files of these names. Figures are ratios inside
//! one run: each is measured beside its baseline, on a private PostgreSQL, against servers in this process.
//! Machines are noisy; seconds alone say little.

mod exports;
mod exports_query;
#[path = "../harness/mod.rs"]
#[allow(dead_code, reason = "the benchmark needs a part of the harness")]
mod harness;
mod line;
mod newsletter;
mod plane;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use outboxd::config::Config;
use outboxd::delivery::{Outcome, Phase};
use outboxd::message::{IdempotencyKey, Message};
use outboxd::sink::Sink;
use tokio::task::JoinSet;
use tokio_postgres::Client;

use harness::http::HttpPeer;
use harness::plane::{number, until_closed, until_count, until_routed};
use harness::postgres::Database;
use harness::relay::{Relay, config_with, crm};
use harness::smtp::SmtpPeer;

/// A payload of about 190 bytes.
const PAYLOAD: &str = "jsonb_build_object('order_id', g, 'customer', 'c-' || g % 1000, 'total', 19.90, \
     'note', repeat('x', 110))";

#[tokio::main]
async fn main() {
    let wanted: Vec<String> =
        std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let named = |name: &str| wanted.iter().any(|w| w == name);
    let runs = |name: &str| wanted.is_empty() || named(name);
    if runs("routing") {
        routing().await;
    }
    if runs("wal") {
        wal().await;
    }
    if runs("webhooks") {
        let peer = HttpPeer::start().await;
        peer.count_only();
        let rest = crm(&peer.url("/"), "concurrency = 64");
        drain("webhooks", 100_000, &rest, "crm", &|| peer.requests()).await;
    }
    if runs("mails") {
        let peer = SmtpPeer::start().await;
        peer.count_only();
        let rest = mail(&peer);
        drain("mails", 20_000, &rest, "mail", &|| peer.accepted()).await;
    }
    if runs("latency") {
        latency().await;
    }
    if named("isolation") {
        plane::isolation().await;
    }
    if named("snapshot") {
        plane::snapshot().await;
    }
    if named("backlog") {
        plane::backlog().await;
    }
    if named("exports_query") {
        exports_query::exports_query().await;
    }
    if named("newsletter") {
        newsletter::newsletter().await;
    }
    if named("plane") {
        plane::plane().await;
    }
    if named("exports") {
        exports::exports().await;
    }
}

fn mail(peer: &SmtpPeer) -> String {
    format!(
        "[sinks.mail]\nkind = \"smtp\"\nurl = \"smtp://{}\"\nfrom = \"Shop <shop@example.com>\"\n\
         concurrency = 8\n[[routes]]\ntype = \"*\"\nsink = \"mail\"\nto = \"ann@example.org\"\n\
         subject = \"Order {{{{ payload.order_id }}}}\"\ntext = \"Total {{{{ payload.total }}}}\"\n",
        peer.address
    )
}

fn config(database: &Database, rest: &str) -> Config {
    config_with(&database.url(), "lease = \"10s\"", rest)
}

fn per_second(count: usize, took: Duration) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX)) / took.as_secs_f64()
}

async fn insert(client: &Client, count: usize) {
    let sql = format!(
        "INSERT INTO outbox.message (type, payload) SELECT 'order.created', {PAYLOAD} \
         FROM generate_series(1, {count}) g"
    );
    client.batch_execute(&sql).await.expect("insert");
}

/// The same client in a bare loop: messages from memory, nothing recorded.
async fn bare_loop(config: &Config, sink: &str, count: usize) -> f64 {
    let (name, settings) =
        config.sinks.iter().find(|(name, _)| name.as_str() == sink).expect("the sink");
    let built = Sink::build(settings).expect("build");
    let built = Arc::new(built.expect("a sink with attempts"));
    let route = config.routes.iter().find(|r| r.sink.as_ref() == Some(name)).expect("its route");
    let next = Arc::new(AtomicUsize::new(0));
    let begun = Instant::now();
    let mut loops = JoinSet::new();
    // One loop a slot; what is prepared is prepared inside, as in the relay.
    for slot in 0..settings.concurrency.get() {
        let (built, next) = (Arc::clone(&built), Arc::clone(&next));
        let (installation, name) = (config.database.installation.clone(), name.clone());
        let prepare = prepare_all(&built, route, &installation, &name, slot);
        loops.spawn(async move {
            while next.fetch_add(1, Ordering::Relaxed) < count {
                let outcome = built.deliver(&prepare, None, &Phase::default()).await;
                assert!(matches!(outcome, Outcome::Delivered { .. }), "{outcome:?}");
            }
        });
    }
    while let Some(ended) = loops.join_next().await {
        ended.expect("the loop does not panic");
    }
    per_second(count, begun.elapsed())
}

fn prepare_all(
    sink: &Sink,
    route: &outboxd::config::Route,
    installation: &outboxd::name::Name,
    name: &outboxd::name::Name,
    slot: usize,
) -> outboxd::sink::Prepared {
    let message = bench_message(i64::try_from(slot).expect("few slots"));
    let key = IdempotencyKey::new(installation, message.id, name, "");
    sink.prepare(&message, &route.content, &key).expect("prepare")
}

/// A message as [`insert`] makes it.
fn bench_message(id: i64) -> Message {
    let payload = format!(
        "{{\"note\": \"{}\", \"total\": 19.90, \"customer\": \"c-1\", \"order_id\": 1}}",
        "x".repeat(110)
    );
    Message {
        id,
        message_type: "order.created".to_owned(),
        payload,
        key: None,
        headers: std::collections::BTreeMap::new(),
        created_at: "2026-11-24T12:00:00Z".parse().expect("a time"),
    }
}

/// Drains a backlog while eight producers go on inserting, beside the bare loop.
async fn drain(what: &str, count: usize, rest: &str, sink: &str, done: &dyn Fn() -> usize) {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let settings = config(&database, rest);
    // Routes come first, so that the backlog is routed as it is written.
    let relay = Relay::start(config(&database, rest));
    until_routed(&client).await;
    relay.stop().await;
    insert(&client, count).await;
    client.batch_execute("VACUUM ANALYZE outbox.delivery, outbox.message").await.expect("vacuum");
    let bare = bare_loop(&settings, sink, count / 2).await;
    let before = done();

    let stop = Arc::new(AtomicBool::new(false));
    let inserted = Arc::new(AtomicUsize::new(0));
    let mut producers = JoinSet::new();
    for _ in 0..8 {
        let (client, stop, inserted) =
            (database.connect().await, Arc::clone(&stop), Arc::clone(&inserted));
        producers.spawn(async move {
            let mut pace = tokio::time::interval(Duration::from_millis(20));
            while !stop.load(Ordering::Relaxed) {
                pace.tick().await;
                insert(&client, 1).await;
                inserted.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    let relay = Relay::start(settings);
    let begun = Instant::now();
    while done() - before < count {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let sent = begun.elapsed();
    stop.store(true, Ordering::Relaxed);
    while producers.join_next().await.is_some() {}
    until_closed(&client).await;
    let hidden = number(&client, "SELECT coalesce(sum(hidden), 0)::bigint FROM outbox.flow").await;
    relay.stop().await;
    let rate = per_second(count, sent);
    println!(
        "{what}: {count} in {:.1} s = {rate:.0}/s while 8 producers inserted {}; bare loop {bare:.0}/s; \
         ratio {:.2}; {} repeated; {hidden} found by full polls only",
        sent.as_secs_f64(),
        inserted.load(Ordering::Relaxed),
        rate / bare,
        done() - before - count - inserted.load(Ordering::Relaxed),
    );
}

/// From the commit's return to the request's arrival, when the relay sleeps.
async fn latency() {
    const SAMPLES: usize = 60;
    let database = Database::migrated().await;
    let client = database.connect().await;
    let peer = HttpPeer::start().await;
    let relay = Relay::start(config(&database, &crm(&peer.url("/"), "")));
    until_routed(&client).await;
    let asleep = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted
                   AND mode = 'ExclusiveLock'
                   AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    let mut took = Vec::new();
    for sample in 0..SAMPLES {
        until_count(&client, "the sink sleeps", asleep, 1).await;
        tokio::time::sleep(Duration::from_millis(fastrand::u64(50..300))).await;
        insert(&client, 1).await;
        let begun = Instant::now();
        peer.until(|peer| peer.requests() > sample).await;
        took.push(begun.elapsed());
    }
    relay.stop().await;
    took.sort();
    println!(
        "latency, commit to request, relay asleep, {SAMPLES} samples: median {:.1?}, p99 {:.1?}",
        took[SAMPLES / 2],
        took[SAMPLES * 99 / 100],
    );
}

/// WAL from INSERT to closed, for a message.
async fn wal() {
    const COUNT: usize = 50_000;
    let database = Database::migrated().await;
    let client = database.connect().await;
    let peer = HttpPeer::start().await;
    peer.count_only();
    let relay = Relay::start(config(&database, &crm(&peer.url("/"), "concurrency = 64")));
    until_routed(&client).await;
    let at = "SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint";
    let start = number(&client, at).await;
    insert(&client, COUNT).await;
    let inserted = number(&client, at).await;
    until_closed(&client).await;
    let closed = number(&client, at).await;
    relay.stop().await;
    let each = |bytes: i64| bytes / i64::try_from(COUNT).expect("it fits");
    println!(
        "wal: {} bytes a message from INSERT to closed ({} by the INSERT with its delivery, {} by the relay)",
        each(closed - start),
        each(inserted - start),
        each(closed - inserted),
    );
}

/// What routing costs producers: the same statements on a plain table beside it.
async fn routing() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    client
        .batch_execute(
            "INSERT INTO outbox.sink (name, kind) VALUES ('crm', 'webhook');
             CREATE TABLE plain (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, type text NOT NULL,
               payload jsonb NOT NULL, created_at timestamptz NOT NULL DEFAULT clock_timestamp());
             CREATE TABLE orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, customer text,
               total numeric, state text);
             CREATE INDEX ON orders (customer)",
        )
        .await
        .expect("prepare");
    for routes in [1, 200] {
        client
            .batch_execute(&format!(
                "TRUNCATE outbox.route; INSERT INTO outbox.route
                   (pattern, sink, target, exact, prefix, regex, specificity, bell)
                 SELECT CASE WHEN g % 2 = 0 THEN 'type' || g || '.*' ELSE 'type' || g || '.made' END,
                        'crm', '', g % 2 = 1, 'type' || g || '.', NULL, 199, 1
                   FROM generate_series(1, {routes} - 1) g
                 UNION ALL SELECT 'order.*', 'crm', '', false, 'order.', NULL, 199, 1;
                 ANALYZE outbox.route"
            ))
            .await
            .expect("routes");
        let bulk = bulk_cost(&client).await;
        let (plain, routed) = single_cost(&database).await;
        println!(
            "routing, {routes} routes: one INSERT of 100,000 rows takes {:.0} ms, plain table {:.0} ms \
             (x{:.1}); a business transaction of 3 statements {routed:.0}/s, with a plain table {plain:.0}/s \
             (ratio {:.2})",
            bulk.1 * 1e3,
            bulk.0 * 1e3,
            bulk.1 / bulk.0,
            routed / plain
        );
    }
}

async fn bulk_cost(client: &Client) -> (f64, f64) {
    let mut best = (f64::MAX, f64::MAX);
    for _ in 0..3 {
        let sql = format!(
            "INSERT INTO plain (type, payload) SELECT 'order.created', {PAYLOAD} FROM generate_series(1, 100000) g"
        );
        let begun = Instant::now();
        client.batch_execute(&sql).await.expect("plain");
        best.0 = best.0.min(begun.elapsed().as_secs_f64());
        let begun = Instant::now();
        insert(client, 100_000).await;
        best.1 = best.1.min(begun.elapsed().as_secs_f64());
        client
            .batch_execute("TRUNCATE plain, outbox.message, outbox.delivery")
            .await
            .expect("truncate");
    }
    best
}

/// Eight clients, each committing an order with its message; plain and routed in turns.
async fn single_cost(database: &Database) -> (f64, f64) {
    let (mut plain, mut routed) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        plain.push(transactions(database, "plain").await);
        routed.push(transactions(database, "outbox.message").await);
    }
    plain.sort_by(f64::total_cmp);
    routed.sort_by(f64::total_cmp);
    (plain[1], routed[1])
}

async fn transactions(database: &Database, table: &str) -> f64 {
    const EACH: usize = 400;
    let sql =
        format!("INSERT INTO {table} (type, payload) VALUES ('order.created', $1::text::jsonb)");
    let mut clients = JoinSet::new();
    let begun = Instant::now();
    for _ in 0..8 {
        let (mut client, sql) = (database.connect().await, sql.clone());
        clients.spawn(async move {
            let order = client
                .prepare("INSERT INTO orders (customer, total, state) VALUES ($1, 19.90, 'new') RETURNING id")
                .await
                .expect("prepare");
            let paid =
                client.prepare("UPDATE orders SET state = 'paid' WHERE id = $1").await.expect("prepare");
            let send = client.prepare(&sql).await.expect("prepare");
            let payload = format!("{{\"order_id\": 1, \"note\": \"{}\"}}", "x".repeat(150));
            for n in 0..EACH {
                let transaction = client.transaction().await.expect("begin");
                let customer = format!("c-{}", n % 100);
                let id: i64 =
                    transaction.query_one(&order, &[&customer]).await.expect("order").get(0);
                transaction.execute(&paid, &[&id]).await.expect("pay");
                transaction.execute(&send, &[&payload]).await.expect("send");
                transaction.commit().await.expect("commit");
            }
        });
    }
    while let Some(ended) = clients.join_next().await {
        ended.expect("the client does not panic");
    }
    per_second(8 * EACH, begun.elapsed())
}
