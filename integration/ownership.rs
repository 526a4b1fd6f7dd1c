//! Who works a sink: leases, take-over, hand-over, and a database that goes away.

use std::time::{Duration, Instant};

use crate::harness::eventually;
use crate::harness::http::{Answer, Gate, HttpPeer};
use crate::harness::plane::{
    LONG, message_ids, number, send, until_closed, until_count, until_routed,
};
use crate::harness::postgres::{Cluster, Database};
use crate::harness::proxy::{self, Proxy};
use crate::harness::relay::{Process, Relay, config, config_with, crm, toml};

const OWNER: &str = "SELECT coalesce(owner, '') FROM outbox.sink WHERE name = 'crm'";

async fn owner(client: &tokio_postgres::Client) -> String {
    client.query_opt(OWNER, &[]).await.unwrap().map_or(String::new(), |row| row.get(0))
}

async fn until_owned(client: &tokio_postgres::Client) -> String {
    eventually("the sink is taken", LONG, async || match owner(client).await {
        owner if owner.is_empty() => Err("no owner".to_owned()),
        owner => Ok(owner),
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clean_stop_hands_over_at_once() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let peer = HttpPeer::start().await;
    // A lease so long that only a hand-over can be this quick.
    let rest = crm(&peer.url("/"), "");
    let long = "lease = \"60s\"\ngrace = \"10s\"";
    let first = Relay::start(config_with(&database.url(), long, &rest));
    let first_owner = until_owned(&client).await;
    first.stop().await;
    assert_eq!(owner(&client).await, "", "handed over");
    assert_eq!(number(&client, "SELECT count(*) FROM outbox.relay").await, 0, "left");
    let begun = Instant::now();
    let second = Relay::start(config_with(&database.url(), long, &rest));
    assert_ne!(until_owned(&client).await, first_owner);
    assert!(begun.elapsed() < Duration::from_secs(20));
    send(&client, "t", "{}").await;
    until_closed(&client).await;
    second.stop().await;
    assert_eq!(peer.requests(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_is_cut_off_stops_in_time_and_another_takes_over() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let peer = HttpPeer::start().await;
    let rest = crm(&peer.url("/"), "");
    let wire = Proxy::start(proxy::Target::Unix(Cluster::shared().socket())).await;
    let first = Relay::start(config(&Cluster::tcp_url(wire.port(), database.name()), &rest));
    let first_owner = until_owned(&client).await;
    let second = Relay::start(config(&database.url(), &rest));
    until_count(&client, "both are entered", "SELECT count(*) FROM outbox.relay", 2).await;
    for _ in 0..50 {
        send(&client, "t", "{}").await;
    }
    until_closed(&client).await;

    // A black hole: nothing is refused, nothing answers.
    wire.stall(proxy::Direction::Requests);
    wire.stall(proxy::Direction::Replies);
    for _ in 0..50 {
        send(&client, "t", "{}").await;
    }
    until_closed(&client).await;
    assert_ne!(owner(&client).await, first_owner, "the second relay delivered");
    wire.resume();
    for _ in 0..10 {
        send(&client, "t", "{}").await;
    }
    until_closed(&client).await;
    let mut ids = message_ids(&peer.received());
    let all = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(
        (ids.len(), all),
        (110, 110),
        "nothing lost, nothing repeated: nothing was in flight"
    );
    first.stop().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn drain_finishes_what_is_open_and_cuts_what_does_not_end() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let peer = HttpPeer::start().await;
    let gate = Gate::new();
    peer.script([Answer::Gated(gate.clone(), Box::new(Answer::status(200))), Answer::Hang]);
    let rest = crm(&peer.url("/"), "timeout = \"1h\"");
    let relay = Relay::start(config_with(&database.url(), "lease = \"2s\"\ngrace = \"3s\"", &rest));
    until_routed(&client).await;
    send(&client, "t", "{}").await;
    peer.until(|peer| peer.requests() == 1).await;
    send(&client, "t", "{}").await;
    peer.until(|peer| peer.requests() == 2).await;
    relay.ask_to_stop();
    let draining = "SELECT count(*) FROM outbox.relay WHERE draining";
    until_count(&client, "the relay drains", draining, 1).await;
    send(&client, "t", "{}").await;
    gate.open();
    relay.stop().await;
    // The first was finished, the second cut short and settled as in doubt, the third not begun.
    let rows: Vec<(i64, String, i32, Option<String>)> = client
        .query("SELECT message_id, state, attempts, words FROM outbox.history ORDER BY 1", &[])
        .await
        .unwrap()
        .iter()
        .map(|row| (row.get(0), row.get(1), row.get(2), row.get(3)))
        .collect();
    assert_eq!(rows[0].1, "delivered");
    assert_eq!((rows[1].1.as_str(), rows[1].2), ("pending", 1));
    assert!(rows[1].3.as_ref().unwrap().contains("in doubt"), "{:?}", rows[1]);
    assert_eq!((rows[2].1.as_str(), rows[2].2), ("pending", 0));
    assert_eq!(peer.requests(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_stops_and_starts_loses_nothing() {
    let cluster = tokio::task::spawn_blocking(Cluster::start).await.unwrap();
    cluster.psql("postgres", "CREATE DATABASE shop");
    let peer = HttpPeer::start().await;
    let settings = config(&cluster.url("shop"), &crm(&peer.url("/"), "concurrency = 8"));
    let target = outboxd::store::Target::new(&settings.database);
    outboxd::store::migrate::migrate(&target, &settings.database).await.unwrap();
    peer.always(Answer::Delayed(Duration::from_millis(5), Box::new(Answer::status(200))));
    let relay = Relay::start(settings);
    let client = cluster.connect("shop").await;
    until_routed(&client).await;
    let many =
        "INSERT INTO outbox.message (type, payload) SELECT 't', '{}' FROM generate_series(1, 2000)";
    client.batch_execute(many).await.unwrap();
    peer.until(|peer| peer.requests() >= 200).await;
    cluster.stop_immediate();
    let before = peer.requests();
    cluster.start_again();
    let client = cluster.connect("shop").await;
    until_closed(&client).await;
    relay.stop().await;
    let ids = message_ids(&peer.received());
    let distinct: std::collections::BTreeSet<i64> = ids.iter().copied().collect();
    assert_eq!(distinct.len(), 2000);
    // Outcomes that were known are written once the database is back: nothing is repeated at all.
    assert_eq!(ids.len(), 2000, "{before} were sent before the stop");
    assert_eq!(number(&client, "SELECT count(*) FROM outbox.ledger").await, 2000);
}

/// Sessions that are ended under the relay, one after another, cost time and nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn sessions_ended_by_the_server_cost_nothing() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let peer = HttpPeer::start().await;
    peer.always(Answer::Delayed(Duration::from_millis(2), Box::new(Answer::status(200))));
    let relay = Relay::start(config(&database.url(), &crm(&peer.url("/"), "concurrency = 4")));
    until_routed(&client).await;
    let many =
        "INSERT INTO outbox.message (type, payload) SELECT 't', '{}' FROM generate_series(1, 1000)";
    client.batch_execute(many).await.unwrap();
    for _ in 0..10 {
        let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                    WHERE application_name = 'outboxd' AND datname = current_database()";
        let before = peer.requests();
        number(&client, end).await;
        peer.until(|peer| peer.requests() > before || peer.requests() >= 1000).await;
    }
    until_closed(&client).await;
    // The doorbell is back too: a sleeping sink is woken.
    let asleep = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted
                   AND mode = 'ExclusiveLock'
                   AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    until_count(&client, "the sink sleeps again", asleep, 1).await;
    relay.stop().await;
    let ids = message_ids(&peer.received());
    let distinct: std::collections::BTreeSet<i64> = ids.iter().copied().collect();
    assert_eq!((distinct.len(), ids.len()), (1000, 1000));
}

/// What a sink accepted while the database was away is recorded before the sink is worked again,
/// also when the lease ran out meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn an_outage_longer_than_the_lease_repeats_nothing_that_was_accepted() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let peer = HttpPeer::start().await;
    let gate = Gate::new();
    peer.always(Answer::Gated(gate.clone(), Box::new(Answer::status(200))));
    let wire = Proxy::start(proxy::Target::Unix(Cluster::shared().socket())).await;
    let url = Cluster::tcp_url(wire.port(), database.name());
    let relay = Relay::start(config(&url, &crm(&peer.url("/"), "")));
    until_routed(&client).await;
    for _ in 0..10 {
        send(&client, "t", "{}").await;
    }
    peer.until(|peer| peer.requests() == 10).await;
    wire.go_down().await;
    gate.open();
    // Two leases, so that it is certainly over.
    tokio::time::sleep(Duration::from_secs(4)).await;
    wire.resume();
    until_closed(&client).await;
    send(&client, "t", "{}").await;
    until_closed(&client).await;
    relay.stop().await;
    assert_eq!(peer.requests(), 11, "{:?}", message_ids(&peer.received()));
}

/// The grace period is for settlements too: a database that comes back within it gets them, though
/// the lease has run out and nothing more is sent.
#[tokio::test(flavor = "multi_thread")]
async fn a_drain_without_a_database_waits_for_it_until_the_grace_period_ends() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let peer = HttpPeer::start().await;
    let gate = Gate::new();
    peer.always(Answer::Gated(gate.clone(), Box::new(Answer::status(200))));
    let wire = Proxy::start(proxy::Target::Unix(Cluster::shared().socket())).await;
    let url = Cluster::tcp_url(wire.port(), database.name());
    let relay = "lease = \"1s\"\ngrace = \"40s\"";
    let relay = Relay::start(config_with(&url, relay, &crm(&peer.url("/"), "")));
    until_routed(&client).await;
    send(&client, "t", "{}").await;
    peer.until(|peer| peer.requests() == 1).await;
    wire.go_down().await;
    gate.open();
    relay.ask_to_stop();
    // Longer than the lease and the limit for settling what was cut short.
    tokio::time::sleep(Duration::from_secs(8)).await;
    wire.resume();
    let begun = Instant::now();
    relay.stop().await;
    assert!(begun.elapsed() < Duration::from_secs(30), "it ends as soon as all is recorded");
    assert_eq!(number(&client, "SELECT count(*) FROM outbox.delivery").await, 0);
    assert_eq!(number(&client, "SELECT count(*) FROM outbox.ledger").await, 1);
}

/// A chore that takes its time must not hold up the heartbeat.
#[tokio::test(flavor = "multi_thread")]
async fn a_chore_that_waits_for_a_lock_does_not_cost_the_lease() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let mut locker = database.connect().await;
    let peer = HttpPeer::start().await;
    let relay = Relay::start(config(&database.url(), &crm(&peer.url("/"), "")));
    let first_owner = until_owned(&client).await;
    let lock = locker.transaction().await.unwrap();
    lock.batch_execute("LOCK TABLE outbox.unseen IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
                    AND wait_event_type = 'Lock' AND application_name = 'outboxd'";
    until_count(&client, "the sweep waits for the lock", waiting, 1).await;
    // Two leases.
    tokio::time::sleep(Duration::from_secs(4)).await;
    let alive = "SELECT count(*) FROM outbox.relay WHERE heartbeat_at > clock_timestamp() - lease";
    assert_eq!(number(&client, alive).await, 1, "the heartbeat goes on");
    lock.rollback().await.unwrap();
    assert_eq!(owner(&client).await, first_owner);
    assert_eq!(number(&client, "SELECT epoch FROM outbox.sink").await, 1);
    relay.stop().await;
}

/// A connection that answers no more is given up with the first call that it leaves waiting.
#[tokio::test(flavor = "multi_thread")]
async fn a_silent_connection_costs_one_lease_at_most() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let peer = HttpPeer::start().await;
    let wire = Proxy::start(proxy::Target::Unix(Cluster::shared().socket())).await;
    let url = Cluster::tcp_url(wire.port(), database.name());
    let relay = Relay::start(config(&url, &crm(&peer.url("/"), "")));
    let first_owner = until_owned(&client).await;
    wire.hold_replies_after(b"UPDATE outbox.relay");
    wire.snared().await;
    let begun = Instant::now();
    eventually("the relay is entered anew, or goes on", LONG, async || {
        let beats = "SELECT count(*) FROM outbox.relay r JOIN outbox.sink s ON s.owner = r.id
                      WHERE r.heartbeat_at > clock_timestamp() - interval '1 s'";
        match number(&client, beats).await {
            1 if owner(&client).await != first_owner => Ok(()),
            _ => Err("its owner is silent".to_owned()),
        }
    })
    .await;
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    relay.stop().await;
}

/// A relay that is entered but could not look at the sinks looks again, long before its lease ends.
#[tokio::test(flavor = "multi_thread")]
async fn a_failure_right_after_the_entry_is_made_good_at_the_next_beat() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let peer = HttpPeer::start().await;
    let wire = Proxy::start(proxy::Target::Unix(Cluster::shared().socket())).await;
    let url = Cluster::tcp_url(wire.port(), database.name());
    wire.hold_replies_after(b"FROM outbox.sink s\n ORDER BY s.name");
    let settings = config_with(&url, "lease = \"30s\"\ngrace = \"10s\"", &crm(&peer.url("/"), ""));
    let relay = Relay::start(settings);
    wire.snared().await;
    wire.cut().await;
    wire.resume();
    let begun = Instant::now();
    until_owned(&client).await;
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    relay.stop().await;
}

/// A database that goes away in the middle of the start is waited for, as before and after it.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_survives_a_database_that_goes_away_in_its_middle() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let peer = HttpPeer::start().await;
    let wire = Proxy::start(proxy::Target::Unix(Cluster::shared().socket())).await;
    let url = Cluster::tcp_url(wire.port(), database.name());
    wire.hold_replies_after(b"INSERT INTO outbox.sink");
    let relay = Relay::start(config(&url, &crm(&peer.url("/"), "")));
    wire.snared().await;
    wire.cut().await;
    wire.resume();
    until_routed(&client).await;
    send(&client, "t", "{}").await;
    until_closed(&client).await;
    relay.stop().await;
}

/// A relay that was suspended past its lease sends nothing, and what it did not send has cost no
/// attempt.
#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_relay_spends_no_attempts() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let peer = HttpPeer::start().await;
    let rest = crm(&peer.url("/"), "concurrency = 100")
        .replace("{ delays = [\"100ms\", \"100ms\", \"100ms\"] }", "{ delays = [] }");
    let process = Process::start(&toml(&database.url(), "lease = \"1s\"", &rest));
    until_routed(&client).await;
    for _ in 0..5 {
        until_closed(&client).await;
        process.signal("STOP");
        for _ in 0..50 {
            send(&client, "t", "{}").await;
        }
        // Longer than the lease, so that it is certainly over.
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        process.signal("CONT");
    }
    until_closed(&client).await;
    assert_eq!(peer.requests(), 250);
    assert_eq!(number(&client, "SELECT max(attempts)::bigint FROM outbox.ledger").await, 1);
    process.signal("TERM");
}

/// A sink whose row somebody holds locked is taken later, and costs the others nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_locked_row_of_one_sink_does_not_cost_the_others_their_owner() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let mut locker = database.connect().await;
    let peer = HttpPeer::start().await;
    let second = format!("[sinks.aaa]\nkind = \"webhook\"\nurl = \"{}\"\n", peer.url("/"));
    let rest = second + &crm(&peer.url("/"), "");
    let relay = Relay::start(config(&database.url(), &rest));
    let owned = "SELECT count(owner) FROM outbox.sink";
    until_count(&client, "both are taken", owned, 2).await;
    locker
        .batch_execute("UPDATE outbox.sink SET owner = NULL, epoch = epoch + 1 WHERE name = 'aaa'")
        .await
        .unwrap();
    let lock = locker.transaction().await.unwrap();
    lock.batch_execute("SELECT FROM outbox.sink WHERE name = 'aaa' FOR UPDATE").await.unwrap();
    // Three leases.
    tokio::time::sleep(Duration::from_secs(6)).await;
    send(&client, "t", "{}").await;
    until_closed(&client).await;
    assert_eq!(number(&client, "SELECT epoch FROM outbox.sink WHERE name = 'crm'").await, 1);
    lock.rollback().await.unwrap();
    until_count(&client, "both are taken again", owned, 2).await;
    relay.stop().await;
}

/// The same while the owner works: only that sink's own settlements wait.
#[tokio::test(flavor = "multi_thread")]
async fn a_locked_row_of_one_sink_does_not_hold_up_the_outcomes_of_others() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let mut locker = database.connect().await;
    let (good, bad) = (HttpPeer::start().await, HttpPeer::start().await);
    bad.always(Answer::status(500));
    let second = format!(
        "[sinks.aaa]\nkind = \"webhook\"\nurl = \"{}\"\nretry = {{ delays = [\"1h\"] }}\n\
         [[routes]]\ntype = \"bad\"\nsink = \"aaa\"\n",
        bad.url("/")
    );
    let rest = second + &crm(&good.url("/"), "").replace("type = \"*\"", "type = \"good\"");
    let relay = Relay::start(config(&database.url(), &rest));
    until_count(&client, "both are taken", "SELECT count(owner) FROM outbox.sink", 2).await;
    let lock = locker.transaction().await.unwrap();
    lock.batch_execute("SELECT FROM outbox.sink WHERE name = 'aaa' FOR UPDATE").await.unwrap();
    send(&client, "bad", "{}").await;
    bad.until(|peer| peer.requests() == 1).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    send(&client, "good", "{}").await;
    let begun = Instant::now();
    let open = "SELECT count(*) FROM outbox.delivery WHERE sink = 'crm'";
    until_count(&client, "the other sink's outcome is recorded", open, 0).await;
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    lock.rollback().await.unwrap();
    let retried = "SELECT count(*) FROM outbox.delivery WHERE attempt = 1";
    until_count(&client, "its own outcome is recorded in the end", retried, 1).await;
    relay.stop().await;
    assert_eq!(bad.requests(), 1);
}
