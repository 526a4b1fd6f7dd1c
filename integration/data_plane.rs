//! The guards of the data plane. Each test here goes red when its guard is taken out.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use outboxd::config::Config;
use outboxd::policy::Order;
use outboxd::store::work::{InHand, OpenSettlement, OpenState, fetch, settle_open};
use outboxd::store::{Link, Target};
use tokio_postgres::Client;

use crate::harness::eventually;
use crate::harness::http::{Answer, Gate, HttpPeer};
use crate::harness::plane::{
    LONG, message_ids, number, send, send_keyed, until_closed, until_count, until_routed,
};
use crate::harness::postgres::{Cluster, Database};
use crate::harness::proxy::{self, Proxy};
use crate::harness::relay::{Relay, config, crm};

fn link(config: &Config) -> Link {
    Link::new(Target::new(&config.database))
}

/// Guard: the fence of `settle_open.sql` is a lock, not a read. While a take-over has not committed
/// yet a former owner's settlement fails, and repeated afterwards it does nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_take_over_in_progress_keeps_a_former_owners_settlement_out() {
    let database = Database::migrated().await;
    let mut client = database.connect().await;
    client
        .batch_execute(
            "INSERT INTO outbox.sink (name, kind, owner, epoch) VALUES ('crm', 'webhook', 'old', 1);
             INSERT INTO outbox.message (type, payload) VALUES ('t', '{}');
             DELETE FROM outbox.delivery;
             INSERT INTO outbox.delivery (message_id, sink, due_at) VALUES (1, 'crm', now())",
        )
        .await
        .unwrap();
    let watcher = database.connect().await;
    let take_over = client.transaction().await.unwrap();
    take_over
        .execute("UPDATE outbox.sink SET owner = 'new', epoch = 2 WHERE name = 'crm'", &[])
        .await
        .unwrap();

    let old = link(&config(&database.url(), ""));
    let settlement = [OpenSettlement {
        message_id: 1,
        target: String::new(),
        rev: 0,
        attempt: 1,
        state: OpenState::Dead,
        delay: Duration::ZERO,
        reason: "a former owner's opinion".to_owned(),
        content_hash: None,
        recipients: None,
    }];
    let kept_out = settle_open(&old, "crm", 1, &settlement).await.unwrap_err();
    assert_eq!(
        kept_out.code().map(tokio_postgres::error::SqlState::code),
        Some("55P03"),
        "{kept_out}"
    );
    take_over.commit().await.unwrap();
    let applied = settle_open(&old, "crm", 1, &settlement).await.unwrap();
    assert_eq!(applied, [], "a stale epoch changes nothing");
    assert_eq!(
        number(&watcher, "SELECT count(*) FROM outbox.delivery WHERE state = 'dead'").await,
        0
    );
}

/// Guard: a settlement without an attempt, of a paused route for one, forgets no crash.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_put_back_before_its_intent_keeps_its_crashes() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    client
        .batch_execute(
            "INSERT INTO outbox.sink (name, kind, owner, epoch) VALUES ('crm', 'webhook', 'me', 1);
             INSERT INTO outbox.delivery (message_id, sink, due_at, crashes) VALUES (1, 'crm', now(), 2)",
        )
        .await
        .unwrap();
    let released = [OpenSettlement {
        message_id: 1,
        target: String::new(),
        rev: 0,
        attempt: 0,
        state: OpenState::Pending,
        delay: Duration::ZERO,
        reason: "route paused".to_owned(),
        content_hash: None,
        recipients: None,
    }];
    let link = link(&config(&database.url(), ""));
    assert_eq!(settle_open(&link, "crm", 1, &released).await.unwrap().len(), 1);
    let crashes = "SELECT coalesce(max(crashes), 0)::bigint FROM outbox.delivery";
    assert_eq!(number(&client, crashes).await, 2);
}

/// Guard: a fetch that brings nothing because of a pause has not seen everything up to its time: the
/// floor must not rise over what waits.
#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_while_paused_tells_nothing_of_what_waits() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    client
        .batch_execute(
            "INSERT INTO outbox.sink (name, kind) VALUES ('crm', 'webhook');
             INSERT INTO outbox.delivery (message_id, sink, due_at) VALUES (1, 'crm', now())",
        )
        .await
        .unwrap();
    let (link, epoch) = (link(&config(&database.url(), "")), jiff::Timestamp::UNIX_EPOCH);
    let in_hand = InHand::default();
    let look = || fetch(&link, "crm", 0, epoch, 10, &in_hand, Order::Block);
    assert!(look().await.unwrap().asked_at > epoch);
    for pause in ["SELECT outbox.pause_sink('crm')", "SELECT outbox.pause_all()"] {
        client.batch_execute(pause).await.unwrap();
        let walk = look().await.unwrap();
        assert!(walk.rows.is_empty());
        assert_eq!(walk.asked_at, epoch, "{pause}");
        client.batch_execute("SELECT outbox.pause_sink('crm', false)").await.unwrap();
    }
}

/// Guard: the floor trails. With eight producers committing meanwhile, next to no row may have to
/// wait for a full poll to be seen.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_trailing_floor_hides_next_to_nothing_from_eight_producers() {
    const EACH: i64 = 300;
    let database = Database::migrated().await;
    let peer = HttpPeer::start().await;
    peer.count_only();
    let rest = crm(&peer.url("/"), "concurrency = 64");
    let relay = Relay::start(config(&database.url(), &rest));
    let watcher = database.connect().await;
    until_routed(&watcher).await;
    let mut producers = Vec::new();
    for _ in 0..8 {
        let client = database.connect().await;
        producers.push(tokio::spawn(async move {
            for _ in 0..EACH {
                // Due at the insert, seen only at the commit, now sooner and now later: commits are
                // not in the order of due times.
                client
                    .batch_execute(
                        "BEGIN; INSERT INTO outbox.message (type, payload) VALUES ('t', '{}');
                         SELECT pg_sleep(0.02 * random()); COMMIT",
                    )
                    .await
                    .unwrap();
            }
        }));
    }
    for producer in producers {
        producer.await.unwrap();
    }
    until_closed(&watcher).await;
    until_count(&watcher, "the flow is written", "SELECT in_flight::bigint FROM outbox.flow", 0)
        .await;
    let hidden = number(&watcher, "SELECT hidden FROM outbox.flow").await;
    relay.stop().await;
    assert_eq!(peer.requests(), 8 * usize::try_from(EACH).unwrap());
    println!("{hidden} of {} rows waited for a full poll", 8 * EACH);
    assert!(hidden <= 8 * EACH / 100, "{hidden} of {} rows waited for a full poll", 8 * EACH);
}

/// Guard: a keyed row starts only if the key index shows it to be the lowest open one. A relay that
/// takes over knows nothing of the retry that its predecessor left waiting.
#[tokio::test(flavor = "multi_thread")]
async fn a_take_over_with_a_keyed_retry_pending_keeps_the_order() {
    let database = Database::migrated().await;
    let peer = HttpPeer::start().await;
    let rest = crm(&peer.url("/"), "").replace("\"100ms\", \"100ms\", \"100ms\"", "\"3s\"");
    let client = database.connect().await;

    peer.script([Answer::status(500)]);
    let first = Relay::start(config(&database.url(), &rest));
    until_routed(&client).await;
    let head = send_keyed(&client, "t", "k").await;
    let retry = "SELECT count(*) FROM outbox.delivery WHERE attempt = 1";
    until_count(&client, "the head waits for its retry", retry, 1).await;
    first.stop_now().await;

    let followers = [send_keyed(&client, "t", "k").await, send_keyed(&client, "t", "k").await];
    let other = send_keyed(&client, "t", "another key").await;
    let second = Relay::start(config(&database.url(), &rest));
    until_closed(&client).await;
    second.stop().await;
    let arrived = message_ids(&peer.received());
    let of_key: Vec<i64> = arrived.iter().copied().filter(|id| *id != other).collect();
    assert_eq!(of_key, [head, head, followers[0], followers[1]]);
    let place = |id| arrived.iter().rposition(|arrived| *arrived == id);
    assert!(place(other) < place(head), "another key does not wait: {arrived:?}");
}

/// Guard: a fetch passes over what is in hand. Its answer may come long after the settlement of a
/// row that was in flight when it began.
#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_reply_delayed_past_a_settlement_repeats_nothing() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let wire = Proxy::start(proxy::Target::Unix(Cluster::shared().socket())).await;
    let url = Cluster::tcp_url(wire.port(), database.name());
    let peer = HttpPeer::start().await;
    let gate = Gate::new();
    peer.always(Answer::Gated(gate.clone(), Box::new(Answer::status(200))));

    let relay = Relay::start(config(&url, &crm(&peer.url("/"), "")));
    until_routed(&client).await;
    send(&client, "t", "{}").await;
    peer.until(|peer| peer.requests() == 1).await;
    // The row is in flight. The next fetch reads, but its answer does not arrive.
    wire.hold_replies_after(b"FROM outbox.delivery w");
    wire.snared().await;
    gate.open();
    let begun = std::time::Instant::now();
    until_closed(&client).await;
    assert!(begun.elapsed() < Duration::from_secs(10), "recorded while the fetch is still waiting");
    wire.release();
    // Whatever the late answer brought has been started once a later message is through.
    let last = send(&client, "t", "{}").await;
    peer.until(|peer| peer.requests() >= 2).await;
    until_closed(&client).await;
    relay.stop().await;
    assert_eq!(message_ids(&peer.received()), [1, last]);
}

/// Guard: the completeness sweep. A message written past the trigger is seen.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_written_past_the_trigger_is_found_unseen() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let peer = HttpPeer::start().await;
    let relay = Relay::start(config(&database.url(), &crm(&peer.url("/"), "")));
    until_routed(&client).await;
    send(&client, "t", "{}").await;
    client
        .batch_execute("ALTER TABLE outbox.message DISABLE TRIGGER route_inserted")
        .await
        .unwrap();
    let past = send(&client, "t", "{}").await;
    client.batch_execute("ALTER TABLE outbox.message ENABLE TRIGGER route_inserted").await.unwrap();
    let unseen = "SELECT coalesce(min(message_id), 0) FROM outbox.unseen";
    until_count(&client, "the sweep finds it", unseen, past).await;
    assert_eq!(number(&client, "SELECT count(*) FROM outbox.unseen").await, 1);
    let state = "SELECT count(*) FROM outbox.history WHERE state = 'unseen'";
    assert_eq!(number(&client, state).await, 1);

    client.query("SELECT outbox.route_existing(ARRAY[$1::bigint])", &[&past]).await.unwrap();
    until_closed(&client).await;
    relay.stop().await;
    assert_eq!(peer.requests(), 2);
    assert_eq!(number(&client, "SELECT count(*) FROM outbox.unseen").await, 0);
}

/// Guard: the doorbell. A sleeping sink is woken by a commit, long before it would have looked.
#[tokio::test(flavor = "multi_thread")]
async fn a_sleeping_sink_is_woken_by_the_commit_and_a_busy_one_is_not_rung() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let peer = HttpPeer::start().await;
    let relay = Relay::start(config(&database.url(), &crm(&peer.url("/"), "")));
    until_routed(&client).await;
    let asleep = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'
                   AND mode = 'ExclusiveLock' AND granted
                   AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    until_count(&client, "the sink sleeps", asleep, 1).await;
    // Some of these fall right at the end of a sleep; all of them would need a chain of luck.
    let mut slow = 0;
    for _ in 0..5 {
        until_count(&client, "the sink sleeps", asleep, 1).await;
        let before = peer.requests();
        let begun = std::time::Instant::now();
        send(&client, "t", "{}").await;
        peer.until(|peer| peer.requests() > before).await;
        slow += i32::from(begun.elapsed() > Duration::from_millis(500));
    }
    relay.stop().await;
    assert!(slow <= 1, "{slow} of 5 commits waited for a poll");
}

/// Guard: outcomes other than `Delivered` apply only to the rev that was fetched. What an operator did
/// while an attempt was in flight stands.
#[tokio::test(flavor = "multi_thread")]
async fn an_operators_change_during_an_attempt_is_not_undone() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let peer = HttpPeer::start().await;
    let gate = Gate::new();
    peer.always(Answer::Gated(gate.clone(), Box::new(Answer::status(500))));
    let relay = Relay::start(config(&database.url(), &crm(&peer.url("/"), "")));
    until_routed(&client).await;
    send(&client, "t", "{}").await;
    peer.until(|peer| peer.requests() == 1).await;
    client
        .batch_execute(
            "UPDATE outbox.delivery
                SET state = 'dead', due_at = 'infinity', reason = 'an operator', rev = rev + 1",
        )
        .await
        .unwrap();
    gate.open();
    until_count(
        &client,
        "the settlement is counted",
        "SELECT coalesce(sum(gone), 0)::bigint FROM outbox.flow",
        1,
    )
    .await;
    relay.stop().await;
    let row = client.query_one("SELECT attempt, reason FROM outbox.delivery", &[]).await.unwrap();
    assert_eq!((row.get::<_, i32>(0), row.get::<_, &str>(1)), (0, "an operator"));
    assert_eq!(peer.requests(), 1);
}

/// How the fetch is planned, with statistics as they stand.
pub async fn fetch_plan(client: &Client) -> String {
    client.batch_execute("VACUUM ANALYZE outbox.delivery, outbox.message").await.unwrap();
    client
        .batch_execute(
            "BEGIN; SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off;
             SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off",
        )
        .await
        .unwrap();
    let fetch = include_str!("../sql/queries/fetch.sql");
    client.batch_execute(&format!("PREPARE next_rows AS {fetch}")).await.unwrap();
    let rows = client
        .query(
            "EXPLAIN EXECUTE next_rows('crm', 0::smallint, now(), 64, '{1,2}', '{\"\",\"\"}', '{\"\"}', '{k}', '{1}', true, false)",
            &[],
        )
        .await
        .unwrap();
    let plan: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    client.batch_execute("ROLLBACK; DEALLOCATE next_rows").await.unwrap();
    plan.join("\n")
}

/// The plan of the fetch must not depend on statistics taken while the table was empty.
#[tokio::test(flavor = "multi_thread")]
async fn the_fetch_walks_its_index_on_an_empty_analysed_table() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let plan = fetch_plan(&client).await;
    assert!(plan.contains("Index Scan using delivery_fetch"), "{plan}");
    assert!(plan.contains("Index Scan using message_pk"), "{plan}");
    assert!(!plan.contains("Seq Scan"), "{plan}");
    assert!(!plan.contains("Sort"), "{plan}");
}

/// Dedupe, unknown types, "nowhere": every message has an open delivery or a ledger row.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_becomes_of_a_message_it_is_on_record() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let peer = HttpPeer::start().await;
    let rest = crm(&peer.url("/"), "").replace("\"*\"", "\"order.*\"")
        + "[[routes]]\ntype = \"noise.*\"\nsink = []\n";
    let relay = Relay::start(config(&database.url(), &rest));
    until_routed(&client).await;
    client
        .batch_execute(
            "INSERT INTO outbox.message (type, payload, dedupe_key) VALUES
               ('order.created', '{}', 'a'), ('order.created', '{}', 'a'), ('order.created', '{}', 'b');
             INSERT INTO outbox.message (type, payload, dedupe_key) VALUES ('order.created', '{}', 'a');
             INSERT INTO outbox.message (type, payload) VALUES ('noise.x', '{}'), ('unknown', '{}');
             INSERT INTO outbox.message (type, payload, expires_at) VALUES ('order.created', '{}', now() - interval '1 s')",
        )
        .await
        .unwrap();
    let left = "SELECT count(*) FROM outbox.delivery WHERE state <> 'unrouted'";
    until_count(&client, "all but the unknown type is closed", left, 0).await;
    relay.stop().await;
    let states: Vec<String> = client
        .query(
            "SELECT state || coalesce(' ' || words, '') FROM outbox.history ORDER BY message_id",
            &[],
        )
        .await
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert_eq!(
        states,
        [
            "delivered HTTP 204 No Content",
            "duplicate duplicate of 1",
            "delivered HTTP 204 No Content",
            "duplicate duplicate of 1",
            "skipped",
            "unrouted",
            "expired",
        ]
    );
    assert_eq!(peer.requests(), 2);
}

/// No transaction of the relay is open while a sink is talked to.
#[tokio::test(flavor = "multi_thread")]
async fn no_transaction_is_open_while_a_sink_is_talked_to() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let peer = HttpPeer::start().await;
    let gate = Gate::new();
    peer.always(Answer::Gated(gate.clone(), Box::new(Answer::status(200))));
    let relay = Relay::start(config(&database.url(), &crm(&peer.url("/"), "")));
    until_routed(&client).await;
    send(&client, "t", "{}").await;
    peer.until(|peer| peer.requests() == 1).await;
    let found = Arc::new(AtomicBool::new(false));
    let open = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
                 AND application_name = 'outboxd' AND state LIKE 'idle in transaction%'
                 AND clock_timestamp() - state_change > interval '100 ms'";
    for _ in 0..20 {
        if number(&client, open).await > 0 {
            found.store(true, Ordering::SeqCst);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    gate.open();
    until_closed(&client).await;
    relay.stop().await;
    assert!(!found.load(Ordering::SeqCst));
}

/// A sleeping sink whose LISTEN session was lost holds no bell any more: it must take it again, or
/// nobody rings it until something else wakes it.
#[tokio::test(flavor = "multi_thread")]
async fn a_sleeping_sink_takes_its_bell_again_after_a_reconnect() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let peer = HttpPeer::start().await;
    let relay = Relay::start(config(&database.url(), &crm(&peer.url("/"), "")));
    until_routed(&client).await;
    let asleep = "SELECT coalesce(max(pid), 0)::bigint FROM pg_locks WHERE locktype = 'advisory'
                   AND mode = 'ExclusiveLock' AND granted
                   AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    let held_by_another_than = async |former: i64| {
        eventually("the sink holds its bell", LONG, async || match number(&client, asleep).await {
            pid if pid != 0 && pid != former => Ok(pid),
            pid => Err(format!("held by {pid}")),
        })
        .await
    };
    let first = held_by_another_than(0).await;
    client.query("SELECT pg_terminate_backend($1::bigint::integer)", &[&first]).await.unwrap();
    held_by_another_than(first).await;
    relay.stop().await;
}

/// An answer that comes after its sink has stopped waiting must not leave the bell held: a busy sink
/// that holds its bell makes every producer notify.
#[tokio::test(flavor = "multi_thread")]
async fn a_bell_that_is_granted_too_late_is_given_back() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let wire = Proxy::start(proxy::Target::Unix(Cluster::shared().socket())).await;
    let url = Cluster::tcp_url(wire.port(), database.name());
    let peer = HttpPeer::start().await;
    wire.hold_replies_after(b"pg_try_advisory_lock(");
    let relay = Relay::start(config(&url, &crm(&peer.url("/"), "")));
    wire.snared().await;
    // Longer than a sink waits for its bell.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted
                 AND mode = 'ExclusiveLock'
                 AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    for round in 0..40 {
        send(&client, "t", "{}").await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        if round == 10 {
            assert_eq!(number(&client, held).await, 1, "granted, though nobody heard of it");
            wire.release();
        }
    }
    assert_eq!(number(&client, held).await, 0, "the sink is busy");
    relay.stop().await;
}

/// A large payload takes its time on its way, on a connection of its own: nothing else waits for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_payload_that_takes_its_time_holds_up_no_fetch() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let wire = Proxy::start(proxy::Target::Unix(Cluster::shared().socket())).await;
    let url = Cluster::tcp_url(wire.port(), database.name());
    let peer = HttpPeer::start().await;
    let relay = Relay::start(config(&url, &crm(&peer.url("/"), "")));
    until_routed(&client).await;
    wire.hold_replies_after(b"AS payload FROM outbox.message");
    let large = format!("{{\"text\": \"{}\"}}", "long ".repeat(20_000));
    let large = send(&client, "t", &large).await;
    wire.snared().await;
    let begun = std::time::Instant::now();
    let small = send(&client, "t", "{}").await;
    peer.until(|peer| peer.requests() == 1).await;
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    wire.release();
    until_closed(&client).await;
    relay.stop().await;
    assert_eq!(message_ids(&peer.received()), [small, large]);
}
