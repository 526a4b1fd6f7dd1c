//! With the least rights, and with how many connections.

use std::fmt::Write as _;
use std::time::Duration;

use tokio_postgres::error::SqlState;

use super::{outboxd, outboxd_ok};
use crate::harness::eventually;
use crate::harness::http::HttpPeer;
use crate::harness::plane::{LONG, number, until_closed, until_count, until_routed};
use crate::harness::postgres::{Cluster, Database, connect};
use crate::harness::relay::{Process, crm, toml};

const RELAY: &str = "lease = \"2s\"\ngrace = \"10s\"";
/// What a relay holds at most once it is at work: a connection each for the lease, chores, fetches,
/// settlements and schedules, one that listens, and one for large payloads.
const STEADY: i64 = 7;

/// Three sinks, everything to all.
fn three(peer: &HttpPeer) -> String {
    let mut rest = crm(&peer.url("/crm"), "");
    for name in ["erp", "log"] {
        let _ = write!(
            rest,
            "[sinks.{name}]\nkind = \"webhook\"\nurl = \"{}\"\n[[routes]]\ntype = \"*\"\nsink = \"{name}\"\n",
            peer.url(&format!("/{name}"))
        );
    }
    rest
}

/// A relay that is nothing but `outbox_relay`, producers and operators alike; each may do its part and no
/// more.
#[tokio::test(flavor = "multi_thread")]
async fn each_role_does_its_part_and_no_more() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let name = database.name();
    for part in ["relay", "producer", "operator"] {
        let sql = format!("CREATE ROLE {part}_{name} LOGIN IN ROLE outbox_{part}");
        client.batch_execute(&sql).await.unwrap();
    }
    let url = |part: &str| database.url().replace("user=postgres", &format!("user={part}_{name}"));
    let peer = HttpPeer::start().await;
    let rest = three(&peer);
    let text = toml(&url("relay"), RELAY, &rest);
    let checked = outboxd(&text, &["check"]);
    assert!(checked.code == 0 && checked.out.contains("may do what a relay does"), "{checked:?}");
    let relay = Process::start(&text);
    until_routed(&client).await;
    until_count(&client, "it hears", "SELECT count(*) FROM outbox.relay WHERE listens", 1).await;
    let producer = connect(&url("producer").parse().unwrap()).await;
    for _ in 0..10 {
        let sql =
            "INSERT INTO outbox.message (type, payload, key) VALUES ('t', '{}', 'k') RETURNING id";
        producer.query_one(sql, &[]).await.unwrap();
    }
    until_closed(&client).await;
    assert_eq!(peer.requests(), 30);
    let operator = toml(&url("operator"), RELAY, &rest);
    assert!(outboxd_ok(&operator, &["status"]).contains("crm"));
    outboxd_ok(&operator, &["pause", "--sink", "crm"]);
    outboxd_ok(&operator, &["resume", "--sink", "crm"]);
    for sql in [
        "SELECT payload FROM outbox.message",
        "DELETE FROM outbox.message",
        "SELECT count(*) FROM outbox.ledger",
        "UPDATE outbox.sink SET owner = NULL",
    ] {
        let denied = producer.batch_execute(sql).await.unwrap_err();
        assert_eq!(denied.code().map(SqlState::code), Some("42501"), "{sql}: {denied:?}");
    }
    let as_relay = connect(&url("relay").parse().unwrap()).await;
    for sql in ["DROP TABLE outbox.message", "ALTER TABLE outbox.message DISABLE TRIGGER ALL"] {
        let denied = as_relay.batch_execute(sql).await.unwrap_err();
        assert_eq!(denied.code().map(SqlState::code), Some("42501"), "{sql}: {denied:?}");
    }
    assert!(!relay.log().contains("42501"), "{}", relay.log());
    drop((relay, producer, as_relay));
    for part in ["relay", "producer", "operator"] {
        Cluster::shared()
            .psql(name, &format!("DROP OWNED BY {part}_{name}; DROP ROLE {part}_{name}"));
    }
}

/// A rollout starts all relays at once: what that asks of the server is known beforehand.
#[tokio::test(flavor = "multi_thread")]
async fn five_relays_that_start_at_once_hold_few_connections() {
    const RELAYS: i64 = 5;
    let database = Database::migrated().await;
    let client = database.connect().await;
    let peer = HttpPeer::start().await;
    let text = toml(&database.url(), RELAY, &three(&peer));
    let held = "SELECT count(*) FROM pg_stat_activity
                 WHERE datname = current_database() AND application_name = 'outboxd'";
    let relays: Vec<Process> = (0..RELAYS).map(|_| Process::start(&text)).collect();
    let mut peak = 0;
    let ready = format!(
        "SELECT count(*) FROM outbox.relay HAVING count(*) FILTER (WHERE listens) = {RELAYS}"
    );
    eventually("all five work", LONG, async || {
        peak = peak.max(number(&client, held).await);
        let rows = client.query(&ready, &[]).await.unwrap();
        if rows.is_empty() { Err("not yet".to_owned()) } else { Ok(()) }
    })
    .await;
    let sql =
        "INSERT INTO outbox.message (type, payload) SELECT 't', '{}' FROM generate_series(1, 500)";
    client.batch_execute(sql).await.unwrap();
    let mut busy = 0;
    eventually("all is delivered", LONG, async || {
        busy = busy.max(number(&client, held).await);
        match number(&client, "SELECT count(*) FROM outbox.delivery").await {
            0 => Ok(()),
            open => Err(format!("{open} open")),
        }
    })
    .await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let idle = number(&client, held).await;
    println!(
        "{RELAYS} relays: {peak} connections at most while they start, {busy} at work, {idle} idle"
    );
    assert!(idle <= RELAYS * STEADY, "{idle}");
    assert!(peak <= RELAYS * (STEADY + 2), "{peak}");
    drop(relays);
}
