//! The real binary, killed. Nothing is lost, and repeats happen only for what was in flight.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::harness::eventually;
use crate::harness::http::{Answer, HttpPeer};
use crate::harness::plane::{
    LONG, message_ids, number, send, until_closed, until_count, until_routed,
};
use crate::harness::postgres::Database;
use crate::harness::relay::{Process, crm, toml};
use crate::harness::smtp::SmtpPeer;

const RELAY: &str = "lease = \"2s\"\ngrace = \"10s\"";
const CONCURRENCY: usize = 32;

fn repeats(ids: &[i64]) -> BTreeMap<i64, usize> {
    let mut counts = BTreeMap::new();
    for id in ids {
        *counts.entry(*id).or_insert(0) += 1;
    }
    counts.retain(|_, count| *count > 1);
    counts
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_under_load_loses_nothing_and_repeats_only_what_was_in_flight() {
    const MESSAGES: i64 = 20_000;
    const KILLS: usize = 3;
    let database = Database::migrated().await;
    let client = database.connect().await;
    let peer = HttpPeer::start().await;
    let config =
        toml(&database.url(), RELAY, &crm(&peer.url("/"), &format!("concurrency = {CONCURRENCY}")));
    let mut relay = Process::start(&config);
    until_routed(&client).await;
    let producer = database.connect().await;
    let producing = tokio::spawn(async move {
        for _ in 0..200 {
            producer
                .batch_execute(
                    "INSERT INTO outbox.message (type, payload)
                     SELECT 't', jsonb_build_object('n', g) FROM generate_series(1, 100) g",
                )
                .await
                .unwrap();
        }
    });
    let mut killed_at = Vec::new();
    for kill in 1..=KILLS {
        let until = usize::try_from(MESSAGES).unwrap() / (KILLS + 1) * kill;
        peer.until(|peer| peer.requests() >= until).await;
        relay.kill();
        killed_at.push(peer.requests());
        relay = Process::start(&config);
    }
    producing.await.unwrap();
    until_closed(&client).await;
    relay.signal("TERM");
    assert!(relay.ended().await.success());

    let ids = message_ids(&peer.received());
    let repeated = repeats(&ids);
    let distinct = i64::try_from(ids.len()).unwrap()
        - repeated.values().map(|n| i64::try_from(*n).unwrap() - 1).sum::<i64>();
    assert_eq!(distinct, MESSAGES, "nothing lost");
    // In flight, and delivered but not recorded yet: what is sent within the linger of a batch.
    // The bound is asserted from what the peer saw: a repeat lies within the last requests before
    // the kill, never further back than attempts and settlements can be under way.
    for (id, count) in &repeated {
        assert!(*count <= 1 + KILLS, "message {id} came {count} times");
        let first = ids.iter().position(|i| i == id).unwrap();
        let kill = killed_at.iter().find(|at| first < **at).expect("before some kill");
        assert!(kill - first <= 3_000, "message {id} was repeated {} requests later", kill - first);
    }
    println!("{} messages, killed at {killed_at:?}: {} repeated", MESSAGES, repeated.len());
    assert_eq!(number(&client, "SELECT count(*) FROM outbox.ledger").await, MESSAGES);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_relays_one_is_killed_and_the_other_takes_over_within_the_lease() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let peer = HttpPeer::start().await;
    let config = toml(&database.url(), RELAY, &crm(&peer.url("/"), ""));
    let first = Process::start(&config);
    until_routed(&client).await;
    let owned = "SELECT count(*) FROM outbox.sink WHERE owner IS NOT NULL";
    until_count(&client, "the first has the sink", owned, 1).await;
    let second = Process::start(&config);
    until_count(&client, "both are entered", "SELECT count(*) FROM outbox.relay", 2).await;
    let epoch = number(&client, "SELECT epoch FROM outbox.sink").await;
    first.kill();
    let begun = Instant::now();
    send(&client, "t", "{}").await;
    peer.until(|peer| peer.requests() == 1).await;
    let took = begun.elapsed();
    println!("taken over after {took:?} with a lease of 2 s");
    assert!(took < Duration::from_secs(6), "{took:?}");
    assert_eq!(number(&client, "SELECT epoch FROM outbox.sink").await, epoch + 1);
    drop(second);
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_drains_and_a_second_signal_ends_at_once() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let peer = HttpPeer::start().await;
    let config = toml(&database.url(), RELAY, &crm(&peer.url("/"), "timeout = \"1h\""));
    let mut relay = Process::start(&config);
    until_routed(&client).await;
    peer.always(Answer::Hang);
    send(&client, "t", "{}").await;
    peer.until(|peer| peer.requests() == 1).await;
    relay.signal("INT");
    let draining = "SELECT count(*) FROM outbox.relay WHERE draining";
    until_count(&client, "it drains", draining, 1).await;
    let begun = Instant::now();
    relay.signal("TERM");
    relay.ended().await;
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!(number(&client, "SELECT count(*) FROM outbox.delivery").await, 1, "not lost");
}

/// kill -9 again and again of two relays while files are cut: all files together hold each message once.
#[tokio::test(flavor = "multi_thread")]
async fn kill_9_while_files_are_cut_leaves_each_message_in_one_file() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let folder = tempfile::tempdir().unwrap();
    let rest = format!(
        "[sinks.orders]\nkind = \"csv\"\npath = \"{}/orders-{{{{ period }}}}.csv\"\nmax_rows = 700\n\
         every = \"1s\"\ncolumns = [{{ name = \"id\", value = \"id\" }}]\n\
         [[routes]]\ntype = \"*\"\nsink = \"orders\"\n",
        folder.path().display()
    );
    let config = toml(&database.url(), "lease = \"1s\"", &rest);
    let mut relays = [Process::start(&config), Process::start(&config)];
    until_routed(&client).await;
    let mut seed = 42_u64;
    for kill in 0..12 {
        client
            .batch_execute(
                "INSERT INTO outbox.message (type, payload) SELECT 't', '{}' FROM generate_series(1, 1000)",
            )
            .await
            .unwrap();
        // Wherever it happens to be: the pause only varies the place.
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        tokio::time::sleep(Duration::from_millis(100 + (seed >> 33) % 900)).await;
        std::mem::replace(&mut relays[kill % 2], Process::start(&config)).kill();
    }
    until_closed(&client).await;
    let unpublished = "SELECT count(*) FROM outbox.export WHERE state <> 'published'";
    until_count(&client, "all files stand", unpublished, 0).await;
    for relay in &mut relays {
        relay.signal("TERM");
        relay.ended().await;
    }
    let mut ids = Vec::new();
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let path = entry.unwrap().path();
        assert!(path.extension().is_some_and(|e| e == "csv"), "left over: {}", path.display());
        for row in csv::Reader::from_path(path).unwrap().records() {
            ids.push(row.unwrap()[0].parse::<i64>().unwrap());
        }
    }
    ids.sort_unstable();
    assert_eq!(ids, (1..=12_000).collect::<Vec<i64>>());
    assert_eq!(number(&client, "SELECT sum(row_count)::bigint FROM outbox.export").await, 12_000);
}

/// Mails under kill -9: none is lost.
#[tokio::test(flavor = "multi_thread")]
async fn kill_9_between_mails_loses_none() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let peer = SmtpPeer::start().await;
    let rest = format!(
        "[sinks.mail]\nkind = \"smtp\"\nurl = \"smtp://{}\"\nfrom = \"shop@example.com\"\n\
         [[routes]]\ntype = \"*\"\nsink = \"mail\"\nto = \"a@example.org\"\nsubject = \"{{{{ id }}}}\"\ntext = \"x\"\n",
        peer.address
    );
    let config = toml(&database.url(), RELAY, &rest);
    let mut relay = Process::start(&config);
    until_routed(&client).await;
    client
        .batch_execute("INSERT INTO outbox.message (type, payload) SELECT 't', '{}' FROM generate_series(1, 3000)")
        .await
        .unwrap();
    peer.until(|peer| peer.accepted() >= 1000).await;
    relay.kill();
    relay = Process::start(&config);
    until_closed(&client).await;
    relay.signal("TERM");
    eventually("it left", LONG, async || {
        match number(&client, "SELECT count(*) FROM outbox.sink WHERE owner IS NOT NULL").await {
            0 => Ok(()),
            _ => Err("still owned".to_owned()),
        }
    })
    .await;
    let subjects: std::collections::BTreeSet<String> = peer
        .mails()
        .iter()
        .map(|mail| {
            let text = String::from_utf8_lossy(&mail.data).into_owned();
            text.lines().find(|l| l.starts_with("Subject: ")).unwrap_or_default().to_owned()
        })
        .collect();
    assert_eq!(subjects.len(), 3000);
    println!("3000 mails, {} sent twice", peer.accepted() - 3000);
}
