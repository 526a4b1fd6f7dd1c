//! Behind PgBouncer: in transaction mode everything but LISTEN goes through it, and a relay that hears
//! nothing there notices it, locks nothing, says so once, and polls.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use tokio_postgres::Client;

use super::{ASLEEP, latencies, outboxd, outboxd_ok};
use crate::audit::violations;
use crate::harness::eventually;
use crate::harness::http::{Answer, HttpPeer};
use crate::harness::plane::{
    LONG, message_ids, number, send, send_keyed, until_closed, until_count, until_routed,
};
use crate::harness::pooler::Pooler;
use crate::harness::postgres::{Cluster, Database};
use crate::harness::relay::{Process, Relay, config, crm, toml};

const RELAY: &str = "lease = \"2s\"\ngrace = \"10s\"";
/// What the relay says of its LISTEN session.
const LISTENS: &str =
    "SELECT coalesce(max(CASE WHEN listens THEN 1 WHEN NOT listens THEN 0 ELSE -1 END), -2)::bigint
       FROM outbox.relay";
/// Longest pause of a relay that polls, with its jitter, and a moment to deliver.
const POLL: Duration = Duration::from_millis(1_750);

/// A config with more keys in `[database]`.
fn with(url: &str, more: &str, rest: &str) -> String {
    toml(url, RELAY, rest).replace("[relay]", &format!("{more}\n[relay]"))
}

async fn pooled(mode: &str, size: u32) -> (Database, Client, Pooler) {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let pooler = Pooler::start(Cluster::shared(), mode, size).await;
    (database, client, pooler)
}

/// Guard: the test of the LISTEN session. Deaf, a relay locks no bell: it would stay behind in a server
/// connection, which is lent to others, and every producer would ring for nobody.
#[tokio::test(flavor = "multi_thread")]
async fn through_a_pooler_alone_a_relay_knows_that_it_is_deaf_and_polls() {
    let (database, client, pooler) = pooled("transaction", 3).await;
    let peer = HttpPeer::start().await;
    let relay = Process::start(&with(&pooler.url(database.name()), "", &crm(&peer.url("/"), "")));
    until_routed(&client).await;
    until_count(&client, "it is deaf and says so", LISTENS, 0).await;
    eventually("it says so in its log", LONG, async || {
        relay.log().contains("LISTEN hears nothing here").then_some(()).ok_or_else(|| relay.log())
    })
    .await;
    let took = latencies(&client, &peer, 7, false).await;
    println!("pooled, polling: {:?} (median), {:?} (worst of 7)", took[3], took[6]);
    assert!(took[6] < POLL, "{took:?}");
    let locks = "SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database
                  WHERE d.datname = current_database() AND l.locktype = 'advisory'";
    assert_eq!(number(&client, locks).await, 0, "nothing stays locked");
    let log = relay.log();
    assert_eq!(log.matches("LISTEN hears nothing here").count(), 1, "{log}");
    assert!(
        log.contains("[database] listen_url") && log.contains("[database] listen = false"),
        "{log}"
    );
    drop(relay);
    assert_eq!(number(&client, locks).await, 0);
}

/// By config it polls without trying, and nobody calls it deaf.
#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_is_told_to_poll_has_no_listen_session() {
    let (database, client, pooler) = pooled("transaction", 3).await;
    let peer = HttpPeer::start().await;
    let rest = crm(&peer.url("/"), "");
    let relay = Process::start(&with(&pooler.url(database.name()), "listen = false", &rest));
    until_routed(&client).await;
    let beaten =
        "SELECT count(*) FROM outbox.relay WHERE heartbeat_at > started_at + interval '1 s'";
    until_count(&client, "it has renewed its lease", beaten, 1).await;
    let took = latencies(&client, &peer, 3, false).await;
    assert!(took[2] < POLL, "{took:?}");
    assert_eq!(number(&client, LISTENS).await, -1);
    assert!(!relay.log().contains("LISTEN"), "{}", relay.log());
    let said = "SELECT count(*) FROM pg_stat_activity
                 WHERE datname = current_database() AND query ILIKE 'LISTEN%'";
    assert_eq!(number(&client, said).await, 0);
}

/// With a connection past the pooler it is woken: by far not as late as a poll.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_past_the_pooler_wakes_the_relay() {
    let (database, client, pooler) = pooled("transaction", 3).await;
    let peer = HttpPeer::start().await;
    let past = format!("listen_url = \"{}\"", database.url());
    let text = with(&pooler.url(database.name()), &past, &crm(&peer.url("/"), ""));
    let relay = Process::start(&text);
    until_routed(&client).await;
    until_count(&client, "it hears", LISTENS, 1).await;
    let took = latencies(&client, &peer, 9, true).await;
    println!("pooled, woken: {:?} (median), {:?} (worst of 9)", took[4], took[8]);
    assert!(took[4] < Duration::from_millis(300), "{took:?}");
    let direct = "SELECT count(*) FROM pg_stat_activity
                   WHERE datname = current_database() AND application_name = 'outboxd'
                     AND client_port = -1 AND query LIKE '%pg_listening_channels%'";
    until_count(&client, "one connection is direct", direct, 1).await;
    assert_eq!(violations(&client).await, Vec::<String>::new());
    drop(relay);
}

/// Load through three server connections; the pooler is killed, and paused, in its middle.
#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_that_is_restarted_and_paused_loses_nothing_and_keeps_the_order() {
    const MESSAGES: i64 = 3_000;
    let (database, client, mut pooler) = pooled("transaction", 3).await;
    let peer = HttpPeer::start().await;
    let relay = Process::start(&with(&pooler.url(database.name()), "", &crm(&peer.url("/"), "")));
    until_routed(&client).await;
    let insert = format!(
        "INSERT INTO outbox.message (type, payload, key)
         SELECT 't', '{{}}', CASE WHEN g % 3 = 0 THEN 'k' || g % 30 END FROM generate_series(1, {}) g",
        MESSAGES / 2
    );
    client.batch_execute(&insert).await.unwrap();
    peer.until(|peer| peer.requests() > 300).await;
    pooler.restart().await;
    let begun = Instant::now();
    let seen = peer.requests();
    peer.until(|peer| peer.requests() > seen + 100).await;
    println!("goes on {:?} after the pooler's restart", begun.elapsed());

    client.batch_execute(&insert).await.unwrap();
    // Waits for transactions in progress; from then on nobody gets a connection.
    pooler.console("PAUSE", "").await;
    let paused = peer.requests();
    tokio::time::sleep(Duration::from_secs(3)).await;
    // What was fetched before may go on; more than a batch cannot.
    println!("{} requests while the pooler was paused", peer.requests() - paused);
    pooler.console("RESUME", "").await;
    until_closed(&client).await;
    drop(relay);

    let ids = message_ids(&peer.received());
    let distinct: std::collections::BTreeSet<i64> = ids.iter().copied().collect();
    assert_eq!(i64::try_from(distinct.len()).unwrap(), MESSAGES, "nothing lost");
    println!("{} repeated", ids.len() - distinct.len());
    let keyed = client.query("SELECT id, key FROM outbox.message WHERE key IS NOT NULL", &[]).await;
    let keys: std::collections::BTreeMap<i64, String> =
        keyed.unwrap().iter().map(|row| (row.get(0), row.get(1))).collect();
    let mut last = std::collections::BTreeMap::new();
    for id in ids {
        if let Some(key) = keys.get(&id) {
            // A repeat of what was in flight is no step back.
            let before: i64 = last.insert(key.as_str(), id).unwrap_or_default();
            assert!(before <= id, "{before} before {id}");
        }
    }
    assert_eq!(violations(&client).await, Vec::<String>::new());
}

/// In session mode a pooler is as good as a direct connection, and LISTEN works through it.
#[tokio::test(flavor = "multi_thread")]
async fn in_session_mode_a_relay_is_woken_through_the_pooler() {
    let (database, client, pooler) = pooled("session", 20).await;
    let peer = HttpPeer::start().await;
    let relay = Relay::start(config(&pooler.url(database.name()), &crm(&peer.url("/"), "")));
    until_routed(&client).await;
    until_count(&client, "it hears", LISTENS, 1).await;
    let took = latencies(&client, &peer, 5, true).await;
    println!("session mode, woken: {:?} (median)", took[2]);
    assert!(took[2] < Duration::from_millis(300), "{took:?}");
    relay.stop().await;
    until_count(&client, "the bell is back", ASLEEP, 0).await;
}

/// Webhooks, files, a schedule and an export.
fn everything(peer: &HttpPeer, folder: &std::path::Path) -> String {
    let mut rest = crm(&peer.url("/"), "");
    let _ = write!(
        rest,
        "[sinks.once]\nkind = \"webhook\"\nurl = \"{}\"\nguarantee = \"at-most-once\"\ntimeout = \"1s\"\n\
         [[routes]]\ntype = \"once\"\nsink = \"once\"\n\
         [sinks.file]\nkind = \"csv\"\npath = \"{1}/f-{{{{ period }}}}.csv\"\nevery = \"1s\"\n\
         columns = [{{ name = \"id\", value = \"id\" }}]\n\
         [[routes]]\ntype = \"row\"\nsink = \"file\"\n\
         [schedules.tick]\ntype = \"t\"\nevery = \"1s\"\nquery = \"SELECT '{{}}'::jsonb AS payload\"\n\
         [exports.all]\nquery = \"SELECT 1 AS one\"\npath = \"{1}/all-{{{{ period }}}}.csv\"\nevery = \"1s\"\n",
        peer.url("/once"),
        folder.display()
    );
    rest
}

/// Every command, and what makes a delivery due, held or dead, in transaction mode; nothing is left of
/// named statements or settings in the server connections, which are few and shared with an application.
#[tokio::test(flavor = "multi_thread")]
async fn every_command_works_in_transaction_mode() {
    let database = Database::fresh().await;
    let pooler = Pooler::start(Cluster::shared(), "transaction", 2).await;
    let peer = HttpPeer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let rest = everything(&peer, folder.path());
    let text = with(&pooler.url(database.name()), "", &rest);
    let ok = |arguments: &[&str]| outboxd_ok(&text, arguments);
    ok(&["migrate"]);
    ok(&["route", "apply"]);
    let client = database.connect().await;
    let relay = Process::start(&text);
    let checked = outboxd(&text, &["check"]);
    assert_eq!(checked.code, 0, "{checked:?}");
    assert!(
        checked.out.contains("warn  listen") && checked.out.contains("listen_url"),
        "{checked:?}"
    );

    peer.decide(|request| match (&*request.path, request.header("outboxd-type")) {
        ("/once", _) => Answer::Hang,
        (_, Some("bad")) => Answer::status(410),
        _ => Answer::status(200),
    });
    let sent = ok(&["send", "t", "{}"]);
    let bad = send_keyed(&client, "bad", "k").await.to_string();
    let once = send(&client, "once", "{}").await.to_string();
    send(&client, "row", "{}").await;
    let stuck = "SELECT count(*) FROM outbox.delivery WHERE state IN ('dead', 'held')";
    until_count(&client, "one is dead and one held", stuck, 2).await;
    let files = "SELECT count(DISTINCT sink) FROM outbox.export WHERE state = 'published'";
    until_count(&client, "two files are there", files, 2).await;
    let ran = "SELECT least(count(*), 1) FROM outbox.occurrence WHERE state = 'ran'";
    until_count(&client, "the schedule ran", ran, 1).await;
    for arguments in [
        &["status"][..],
        &["status", "--json"],
        &["list"],
        &["list", "--state", "dead"],
        &["show", sent.trim()],
        &["preview", sent.trim()],
        &["schedule", "list"],
        &["export", "list"],
        &["pause", "--sink", "crm"],
        &["resume", "--sink", "crm"],
        &["retry", &bad],
        &["replay", sent.trim()],
        &["migrate", "--check"],
    ] {
        let said = outboxd(&text, arguments);
        assert!(said.code == 0 || arguments[0] == "status", "{arguments:?}: {said:?}");
        assert!(!said.err.contains("SQLSTATE"), "{arguments:?}: {said:?}");
    }
    until_count(&client, "the retried one is dead again", stuck, 2).await;
    ok(&["discard", &bad]);
    ok(&["resolve", &once, "--delivered"]);
    assert_eq!(number(&client, stuck).await, 0);
    drop(relay);
    assert_eq!(violations(&client).await, Vec::<String>::new());

    nothing_is_left(&pooler, database.name()).await;
}

/// What the server connections are like when they are lent to somebody else.
async fn nothing_is_left(pooler: &Pooler, db: &str) {
    let changed = "SELECT count(*) FROM pg_settings WHERE source = 'session'
                    AND name NOT IN ('application_name', 'client_encoding', 'DateStyle', 'TimeZone',
                                     'standard_conforming_strings')";
    let lent: tokio_postgres::Config = pooler.url(db).parse().unwrap();
    let (other, wire) = lent.connect(tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(wire);
    let named = "SELECT count(*) FROM pg_prepared_statements";
    for sql in [named, changed, "SELECT count(*) FROM pg_listening_channels()"] {
        let answer = other.simple_query(sql).await.unwrap();
        let count = answer.iter().find_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0),
            _ => None,
        });
        assert_eq!(count, Some("0"), "{sql}");
    }
}
