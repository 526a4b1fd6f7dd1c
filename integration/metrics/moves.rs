//! Each metric moves when its cause happens. What a scene has seen moving is noted, and one that no scene
//! moves is a failure.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use outboxd::metrics::Metrics;
use outboxd::relay::Process;
use tokio_postgres::Client;

use crate::harness::eventually;
use crate::harness::http::{Answer, Gate, HttpPeer};
use crate::harness::plane::{
    LONG, number, send, send_keyed, until_closed, until_count, until_routed,
};
use crate::harness::postgres::{Cluster, Database};
use crate::harness::proxy::{self, Proxy};
use crate::harness::relay::{self, Relay, config, toml};
use crate::harness::scrape::{Series, Watched};
use crate::harness::smtp::SmtpPeer;

/// What a scene saw moving.
type Moved = BTreeSet<String>;

/// A relay that is watched, and its series before anything happened.
struct Scene {
    watched: Watched,
    before: Series,
    moved: Moved,
}

impl Scene {
    /// Starts a relay and waits until it works; `before` is as the process began.
    async fn start(config: outboxd::config::Config) -> Scene {
        let process: Arc<Process> = Arc::default();
        let began = Series::parse(&process.metrics.text());
        let watched = Watched::start_in(config, &process);
        let mut scene = Scene { watched, before: began, moved: Moved::new() };
        scene.becomes("outboxd_ready", 1.0).await;
        scene
    }

    async fn until(&mut self, series: &str, will_do: impl Fn(f64) -> bool) {
        // When the process began it stood for no sinks yet: what was not there had counted nothing.
        let before = self.before.0.get(series).copied().unwrap_or(0.0);
        assert!(!will_do(before), "{series} was {before} already");
        self.watched.until(series, will_do).await;
        self.moved.insert(name_of(series));
    }

    /// Waits until a series stands at this, which it did not before.
    async fn becomes(&mut self, series: &str, value: f64) {
        self.until(series, |now| (now - value).abs() < f64::EPSILON).await;
    }

    /// Waits until a series stands higher than before.
    async fn rises(&mut self, series: &str) {
        let before = self.before.0.get(series).copied().unwrap_or(0.0);
        self.until(series, |now| now > before).await;
    }

    /// From now on is compared with now.
    async fn anew(&mut self) {
        self.before = self.watched.series().await;
    }

    async fn end(self) -> Moved {
        self.watched.relay.stop().await;
        self.moved
    }
}

/// The name of a series' metric.
fn name_of(series: &str) -> String {
    let name = series.split('{').next().unwrap_or_default();
    let name =
        ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
    name.to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_moves_when_its_cause_happens() {
    let scenes = tokio::join!(
        deliveries(),
        operators(),
        a_sink_in_trouble(),
        a_database_in_trouble(),
        a_database_away(),
        a_silent_relay(),
        files_and_their_mails(),
        a_schedule(),
        written_past_the_trigger(),
    );
    let mut moved = Moved::new();
    for scene in <[Moved; 9]>::from(scenes) {
        moved.extend(scene);
    }
    moved.extend(the_process());
    let all: BTreeSet<String> =
        Metrics::new().described().iter().map(|metric| metric.name.clone()).collect();
    let missing: Vec<_> = all.difference(&moved).collect();
    assert!(missing.is_empty(), "no scene moves {missing:?}");
    assert_eq!(moved.difference(&all).count(), 0, "{moved:?}");
}

/// Deliveries by hand: each way an attempt can end.
async fn deliveries() -> Moved {
    let (database, peer, ops) =
        (Database::migrated().await, HttpPeer::start().await, HttpPeer::start().await);
    let client = database.connect().await;
    let more = format!(
        "[sinks.ops]\nkind = \"webhook\"\nurl = \"{}\"\n[[routes]]\ntype = \"outboxd.alert\"\nsink = \"ops\"\n",
        ops.url("/")
    );
    let rest = relay::crm(&peer.url("/"), &more)
        .replace("type = \"outboxd.alert\"\nsink = []", "type = \"x\"\nsink = []");
    let mut scene = Scene::start(config(&database.url(), &rest)).await;
    for constant in ["outboxd_listening", "outboxd_database_up", "outboxd_live_relays"] {
        scene.becomes(constant, 1.0).await;
    }
    for rising in [
        "outboxd_alert_receivers",
        "outboxd_lease_left_seconds",
        "outboxd_lease_renewals_total{went=\"ok\"}",
        "outboxd_database_connections_total",
        "outboxd_sweeps_total",
        "outboxd_snapshots_total{went=\"ok\"}",
        "outboxd_take_overs_total{sink=\"crm\",from=\"nobody\"}",
        "outboxd_owned{sink=\"crm\"}",
    ] {
        scene.rises(rising).await;
    }
    let version = format!("outboxd_build_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"));
    scene.watched.until(&version, |value| value > 0.5).await;
    scene.moved.insert("outboxd_build_info".to_owned());

    scene.anew().await;
    let gate = Gate::new();
    peer.script([Answer::Gated(gate.clone(), Box::new(Answer::status(204)))]);
    send(&client, "t", "{}").await;
    scene.becomes("outboxd_in_flight{sink=\"crm\"}", 1.0).await;
    scene.rises("outboxd_wakes_total{sink=\"crm\",by=\"bell\"}").await;
    scene.rises("outboxd_open_deliveries{sink=\"crm\",state=\"due\"}").await;
    scene.rises("outboxd_oldest_due_seconds{sink=\"crm\"}").await;
    gate.open();
    scene.rises("outboxd_attempts_total{sink=\"crm\",end=\"delivered\"}").await;
    for rising in [
        "outboxd_attempt_seconds_count{sink=\"crm\"}",
        "outboxd_delivery_lag_seconds_count{sink=\"crm\"}",
        "outboxd_settlements_total{sink=\"crm\"}",
        "outboxd_settle_seconds_count{sink=\"crm\"}",
        "outboxd_fetches_total{sink=\"crm\",went=\"ok\"}",
        "outboxd_fetched_rows_total{sink=\"crm\"}",
        "outboxd_wakes_total{sink=\"crm\",by=\"poll\"}",
    ] {
        scene.rises(rising).await;
    }
    // Held by the gate for a while, and due since before that.
    let lag = scene.watched.series().await.of("outboxd_delivery_lag_seconds_sum{sink=\"crm\"}");
    assert!((0.05..60.0).contains(&lag), "{lag}");

    peer.script([Answer::status(500)]);
    send(&client, "t", "{}").await;
    scene.rises("outboxd_attempts_total{sink=\"crm\",end=\"retry\"}").await;
    until_closed(&client).await;
    let expired =
        "INSERT INTO outbox.message (type, payload, expires_at) VALUES ('t', '{}', now())";
    client.batch_execute(expired).await.unwrap();
    scene.rises("outboxd_attempts_total{sink=\"crm\",end=\"expired\"}").await;
    peer.script([Answer::status(410)]);
    send(&client, "t", "{}").await;
    scene.rises("outboxd_attempts_total{sink=\"crm\",end=\"dead\"}").await;
    scene.becomes("outboxd_open_deliveries{sink=\"crm\",state=\"dead\"}", 1.0).await;
    scene.becomes("outboxd_alerts{cause=\"dead\"}", 1.0).await;
    scene.becomes("outboxd_alerts_told_total{cause=\"dead\"}", 1.0).await;
    scene.watched.relay.ask_to_stop();
    scene.becomes("outboxd_draining", 1.0).await;
    scene.end().await
}

/// What operators do, and messages that nobody routes.
async fn operators() -> Moved {
    let (database, peer) = (Database::migrated().await, HttpPeer::start().await);
    let client = database.connect().await;
    // Closed eight days ago: the relay prunes it when it starts.
    client
        .batch_execute(
            "WITH old AS (INSERT INTO outbox.message (type, payload) VALUES ('t', '{}') RETURNING id)
             SELECT FROM old;
             UPDATE outbox.message SET created_at = now() - interval '8 days';
             DELETE FROM outbox.delivery;
             CREATE TABLE outbox.ledger_before PARTITION OF outbox.ledger
               FOR VALUES FROM ('2001-01-01') TO ('2001-01-02');
             INSERT INTO outbox.ledger (message_id, sink, target, round, attempts, outcome, closed_at)
             SELECT id, 'crm', '', 1, 1, 'delivered', '2001-01-01 12:00+00' FROM outbox.message",
        )
        .await
        .unwrap();
    let rest = relay::crm(&peer.url("/"), "").replace("type = \"*\"", "type = \"t\"");
    let mut scene = Scene::start(config(&database.url(), &rest)).await;
    scene.becomes("outboxd_pruned_messages_total", 1.0).await;
    send(&client, "nobody.takes", "{}").await;
    scene.becomes("outboxd_unrouted_messages", 1.0).await;

    // A settlement that finds its row gone, and one that finds another owner.
    for (while_it_runs, counted) in [
        ("DELETE FROM outbox.delivery WHERE sink = 'crm'", "gone"),
        ("UPDATE outbox.sink SET epoch = epoch + 1", "refused"),
    ] {
        let (gate, seen) = (Gate::new(), peer.requests());
        peer.script([Answer::Gated(gate.clone(), Box::new(Answer::status(500)))]);
        send(&client, "t", "{}").await;
        peer.until(|peer| peer.requests() > seen).await;
        client.batch_execute(while_it_runs).await.unwrap();
        gate.open();
        scene.becomes(&format!("outboxd_settlements_{counted}_total{{sink=\"crm\"}}"), 1.0).await;
    }
    until_count(
        &client,
        "it goes on",
        "SELECT count(*) FROM outbox.delivery WHERE sink = 'crm'",
        0,
    )
    .await;
    client.batch_execute("SELECT outbox.pause_sink('crm', true, 'test')").await.unwrap();
    scene.becomes("outboxd_sink_paused{sink=\"crm\"}", 1.0).await;
    client.batch_execute("UPDATE outbox.installation SET paused = true").await.unwrap();
    scene.becomes("outboxd_paused", 1.0).await;
    scene.end().await
}

/// Sinks that are dead, limited or held up by a key.
async fn a_sink_in_trouble() -> Moved {
    let (database, peer) = (Database::migrated().await, HttpPeer::start().await);
    let client = database.connect().await;
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let second = SmtpPeer::start().await;
    let more = format!(
        "[sinks.mail]\nkind = \"smtp\"\nurl = \"smtp://{nobody}\"\nfrom = \"shop@example.com\"\n\
         [sinks.mail.fallback]\nurl = \"smtp://{}\"\n\
         [[routes]]\ntype = \"mail\"\nsink = \"mail\"\nto = \"a@x.example\"\nsubject = \"s\"\ntext = \"t\"\n\
         [sinks.away]\nkind = \"webhook\"\nurl = \"http://{nobody}/\"\n[[routes]]\ntype = \"away\"\nsink = \"away\"\n\
         [sinks.slow]\nkind = \"webhook\"\nurl = \"{}\"\nrate = \"1/h\"\n[[routes]]\ntype = \"slow\"\nsink = \"slow\"\n",
        second.address,
        peer.url("/slow")
    );
    let mut scene = Scene::start(config(&database.url(), &relay::crm(&peer.url("/"), &more))).await;
    until_routed(&client).await;
    for _ in 0..3 {
        send(&client, "away", "{}").await;
        send(&client, "slow", "{}").await;
    }
    scene.becomes("outboxd_breaker_open{sink=\"away\"}", 1.0).await;
    scene.rises("outboxd_attempts_total{sink=\"away\",end=\"released\"}").await;
    scene.becomes("outboxd_waiting{sink=\"slow\",why=\"rate\"}", 1.0).await;
    send(&client, "mail", "{}").await;
    scene.becomes("outboxd_fallback{sink=\"mail\"}", 1.0).await;
    peer.decide(|request| Answer::status(if request.path == "/slow" { 204 } else { 410 }));
    send_keyed(&client, "t", "ann").await;
    send_keyed(&client, "t", "ann").await;
    scene.becomes("outboxd_parked_keys{sink=\"crm\"}", 1.0).await;
    // A dead sink is no fault of the relay.
    let page = scene.watched.page("/readyz").await;
    assert_eq!(page.status, 200, "{}", page.body);
    scene.end().await
}

/// A database that answers, and refuses.
async fn a_database_in_trouble() -> Moved {
    let (database, peer) = (Database::migrated().await, HttpPeer::start().await);
    let client = database.connect().await;
    let mut scene = Scene::start(super::crm(&database, &peer.url("/"), "")).await;
    scene.anew().await;
    client.batch_execute("ALTER TABLE outbox.ledger RENAME TO gone").await.unwrap();
    send(&client, "t", "{}").await;
    scene.rises("outboxd_settle_errors_total{sink=\"crm\"}").await;
    scene.rises("outboxd_database_errors_total").await;
    client.batch_execute("ALTER TABLE outbox.gone RENAME TO ledger").await.unwrap();
    until_closed(&client).await;
    client.batch_execute("ALTER TABLE outbox.delivery RENAME TO gone").await.unwrap();
    scene.rises("outboxd_fetches_total{sink=\"crm\",went=\"failed\"}").await;
    scene.rises("outboxd_snapshots_total{went=\"failed\"}").await;
    client.batch_execute("ALTER TABLE outbox.gone RENAME TO delivery").await.unwrap();
    scene.end().await
}

/// A database that does not answer: the last figures stay.
async fn a_database_away() -> Moved {
    let (database, peer) = (Database::migrated().await, HttpPeer::start().await);
    let client = database.connect().await;
    let wire = Proxy::start(proxy::Target::Unix(Cluster::shared().socket())).await;
    let url = Cluster::tcp_url(wire.port(), database.name());
    let mut scene = Scene::start(config(&url, &relay::crm(&peer.url("/"), ""))).await;
    peer.script([Answer::status(410)]);
    send(&client, "t", "{}").await;
    scene.becomes("outboxd_open_deliveries{sink=\"crm\",state=\"dead\"}", 1.0).await;
    scene.anew().await;
    wire.cut().await;
    scene.rises("outboxd_listen_sessions_lost_total").await;
    scene.watched.until("outboxd_listening", |value| value > 0.5).await;
    scene.anew().await;
    wire.go_down().await;
    scene.becomes("outboxd_database_up", 0.0).await;
    scene.becomes("outboxd_listening", 0.0).await;
    scene.rises("outboxd_lease_renewals_total{went=\"failed\"}").await;
    scene.rises("outboxd_leases_lost_total").await;
    scene.becomes("outboxd_lease_left_seconds", 0.0).await;
    scene.becomes("outboxd_owned{sink=\"crm\"}", 0.0).await;
    scene.becomes("outboxd_ready", 0.0).await;
    scene.until("outboxd_snapshot_age_seconds", |age| age > 6.0).await;
    let series = scene.watched.series().await;
    let dead = series.of("outboxd_open_deliveries{sink=\"crm\",state=\"dead\"}");
    assert!((dead - 1.0).abs() < f64::EPSILON, "the last figure stays: {dead}");
    assert_eq!(scene.watched.page("/livez").await.status, 200, "a restart would mend nothing");
    wire.resume();
    scene.watched.until("outboxd_ready", |value| value > 0.5).await;
    scene.watched.until("outboxd_snapshot_age_seconds", |age| age < 6.0).await;
    scene.end().await
}

/// A relay that is killed, and this one in its place.
async fn a_silent_relay() -> Moved {
    let (database, peer) = (Database::migrated().await, HttpPeer::start().await);
    let client = database.connect().await;
    let rest = relay::crm(&peer.url("/"), "");
    let first = relay::Process::start(&toml(&database.url(), "lease = \"2s\"", &rest));
    let owned = "SELECT count(*) FROM outbox.sink WHERE owner IS NOT NULL";
    until_count(&client, "it owns the sink", owned, 1).await;
    let mut scene = Scene::start(config(&database.url(), &rest)).await;
    first.kill();
    scene.rises("outboxd_take_overs_total{sink=\"crm\",from=\"silent\"}").await;
    scene.end().await
}

/// Files, one that cannot be written, and their mails.
async fn files_and_their_mails() -> Moved {
    let (database, smtp) = (Database::migrated().await, SmtpPeer::start().await);
    let client = database.connect().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let sink = |name: &str, folder: &std::path::Path| {
        format!(
            "[sinks.{name}]\nkind = \"csv\"\npath = \"{}/{name}-{{{{ period }}}}.csv\"\nevery = \"1s\"\n\
             columns = [{{ name = \"id\", value = \"id\" }}]\n[[routes]]\ntype = \"order\"\nsink = \"{name}\"\n",
            folder.display()
        )
    };
    let rest = format!(
        "[sinks.post]\nkind = \"smtp\"\nurl = \"smtp://{}\"\nfrom = \"Shop <shop@example.com>\"\n{}\
         [sinks.orders.mail]\nsink = \"post\"\nto = \"office@example.com\"\ncatch_up = \"each\"\n{}",
        smtp.address,
        sink("orders", folder.path()),
        sink("broken", &file)
    );
    let mut scene = Scene::start(config(&database.url(), &rest)).await;
    send(&client, "order", "{}").await;
    for rising in [
        "outboxd_files_cut_total{sink=\"orders\"}",
        "outboxd_files_published_total{sink=\"orders\"}",
        "outboxd_file_rows_total{sink=\"orders\"}",
        "outboxd_file_mails_total{sink=\"orders\",end=\"sent\"}",
        "outboxd_file_errors_total{sink=\"broken\"}",
    ] {
        scene.rises(rising).await;
    }
    scene.end().await
}

/// A schedule that runs, and one that cannot.
async fn a_schedule() -> Moved {
    let (database, peer) = (Database::migrated().await, HttpPeer::start().await);
    let rest = format!(
        "{}[schedules.ticks]\ntype = \"tick\"\nevery = \"1s\"\n\
         [schedules.broken]\ntype = \"tick\"\nevery = \"1s\"\nquery = \"SELECT '{{}}'::jsonb AS payload FROM nowhere\"\n",
        relay::crm(&peer.url("/"), "")
    );
    let mut scene = Scene::start(config(&database.url(), &rest)).await;
    scene.rises("outboxd_schedule_runs_total{schedule=\"ticks\",end=\"ran\"}").await;
    scene.rises("outboxd_schedule_runs_total{schedule=\"broken\",end=\"failed\"}").await;
    scene.end().await
}

/// Messages that the trigger did not see.
async fn written_past_the_trigger() -> Moved {
    let (database, peer) = (Database::migrated().await, HttpPeer::start().await);
    let client: Client = database.connect().await;
    let mut scene = Scene::start(super::crm(&database, &peer.url("/"), "")).await;
    client.batch_execute("SET session_replication_role = replica").await.unwrap();
    send(&client, "t", "{}").await;
    scene.rises("outboxd_unseen_found_total").await;
    scene.becomes("outboxd_unseen_messages", 1.0).await;
    scene.end().await
}

/// What the system says of this process, held against what it is.
fn the_process() -> Moved {
    let metrics = Metrics::new();
    let before = Series::parse(&metrics.text());
    let files: Vec<_> = (0..20).map(|_| std::fs::File::open("/dev/null").unwrap()).collect();
    let threads: Vec<_> = (0..5)
        .map(|_| {
            let (end, ended) = std::sync::mpsc::channel::<()>();
            (end, std::thread::spawn(move || ended.recv()))
        })
        .collect();
    let memory = std::hint::black_box(vec![1_u8; 64 * 1024 * 1024]);
    let begun = std::time::Instant::now();
    // Processor time is counted in hundredths.
    while begun.elapsed() < Duration::from_millis(100) {
        std::hint::black_box(memory.iter().map(|byte| u64::from(*byte)).sum::<u64>());
    }
    let after = Series::parse(&metrics.text());
    for (name, by) in [
        ("process_cpu_seconds_total", 0.01),
        ("process_resident_memory_bytes", 32e6),
        ("process_virtual_memory_bytes", 32e6),
    ] {
        assert!(after.of(name) >= before.of(name) + by, "{name}");
    }
    // Other tests open and close as they go.
    assert!(after.of("process_open_fds") >= 20.0 && after.of("process_threads") >= 6.0);
    assert!(after.of("process_max_fds") >= after.of("process_open_fds"));
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
    assert!((now - 3_600.0..=now + 1.0).contains(&after.of("process_start_time_seconds")));
    drop((files, threads));
    let names = metrics.described().iter().map(|metric| metric.name.clone());
    names.filter(|name| name.starts_with("process_")).collect()
}

/// Prometheus may be set to ask as often as it likes, and several of them may.
#[tokio::test(flavor = "multi_thread")]
async fn however_often_it_is_scraped_the_database_is_looked_at_once_in_five_seconds() {
    let (database, peer) = (Database::migrated().await, HttpPeer::start().await);
    // The server counts the looks itself, from the relay's first statement on.
    database.psql(&format!("ALTER DATABASE {} SET log_statement = 'all'", database.name()));
    let scene = Scene::start(super::crm(&database, &peer.url("/"), "")).await;
    let watched = &scene.watched;
    let looks = |series: &Series| {
        series.of("outboxd_snapshots_total{went=\"ok\"}")
            + series.of("outboxd_snapshots_total{went=\"failed\"}")
    };
    let before = looks(&watched.series().await);
    let begun = std::time::Instant::now();
    let scrapes = (0..200).map(|n| watched.page(if n % 2 == 0 { "/metrics" } else { "/readyz" }));
    for page in futures_util::future::join_all(scrapes).await {
        assert_eq!(page.status, 200);
    }
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?} are too long for this test to say anything");
    let taken = looks(&watched.series().await) - before;
    assert!(taken <= 1.0, "{taken} looks in {took:?}");
    let all = looks(&watched.series().await);
    drop(scene.end().await);
    let words =
        format!("{} LOG:  execute <unnamed>: -- The figures that metrics show", database.name());
    let logged = Cluster::shared().log().matches(&words).count();
    assert_eq!(logged.to_string(), all.to_string(), "what the metric says of itself is true");
}

/// A look that takes too long is ended by the server, is not made again at once, and is no sign that the
/// database is away.
#[tokio::test(flavor = "multi_thread")]
async fn a_look_that_takes_too_long_ends_and_rests() {
    let (database, peer) = (Database::migrated().await, HttpPeer::start().await);
    let (client, other) = (database.connect().await, database.connect().await);
    let scene = Scene::start(config(&database.url(), &relay::crm(&peer.url("/"), ""))).await;
    let watched = &scene.watched;
    watched.until("outboxd_snapshots_total{went=\"ok\"}", |looks| looks > 0.5).await;
    client.batch_execute("BEGIN; LOCK TABLE outbox.unseen").await.unwrap();
    let failed = "outboxd_snapshots_total{went=\"failed\"}";
    watched.until(failed, |looks| looks > 0.5).await;
    let running = "SELECT count(*) FROM pg_stat_activity
                    WHERE datname = current_database() AND state = 'active'
                      AND query LIKE '-- The figures that metrics show%'";
    assert_eq!(number(&other, running).await, 0, "nobody waits for it, and it is over");
    // One look in five seconds would have failed a second time.
    watched.until("outboxd_snapshot_age_seconds", |age| age > 15.0).await;
    let series = watched.series().await;
    assert_eq!(series.of(failed).to_string(), "1");
    assert_eq!(series.of("outboxd_database_up").to_string(), "1");
    client.batch_execute("COMMIT").await.unwrap();
    watched.until("outboxd_snapshot_age_seconds", |age| age < 5.0).await;
    drop(scene.end().await);
}

/// A reload changes what the series stand for.
#[tokio::test(flavor = "multi_thread")]
async fn series_stand_for_the_sinks_of_the_config_from_the_start() {
    let (database, peer) = (Database::migrated().await, HttpPeer::start().await);
    let process: Arc<Process> = Arc::default();
    let one = Watched::start_in(super::crm(&database, &peer.url("/"), ""), &process);
    let names = |series: &Series| -> BTreeSet<String> {
        series
            .names()
            .into_iter()
            .filter(|name| name.contains("sink="))
            .map(ToOwned::to_owned)
            .collect()
    };
    // Before the database has answered at all.
    eventually("its series", LONG, async || {
        let names = names(&Series::parse(&process.metrics.text()));
        if names.is_empty() { Err("none".to_owned()) } else { Ok(()) }
    })
    .await;
    let first = Series::parse(&process.metrics.text());
    assert_eq!(first.of("outboxd_attempts_total{sink=\"crm\",end=\"delivered\"}").to_string(), "0");
    assert_eq!(first.of("outboxd_delivery_lag_seconds_count{sink=\"crm\"}").to_string(), "0");
    assert_eq!(first.of("outboxd_open_deliveries{sink=\"crm\",state=\"dead\"}").to_string(), "0");
    assert!(names(&first).iter().all(|name| name.contains("crm")));
    one.relay.stop().await;
    let rest = relay::crm(&peer.url("/"), "").replace("crm", "other");
    let two = Relay::start_in(config(&database.url(), &rest), &process);
    let renamed: BTreeSet<String> =
        names(&first).iter().map(|name| name.replace("crm", "other")).collect();
    eventually("those of the new config, and no others", LONG, async || {
        let now = names(&Series::parse(&process.metrics.text()));
        if now == renamed { Ok(()) } else { Err(format!("{now:?}")) }
    })
    .await;
    two.stop().await;
}
