//! How fast: rates and quotas that hold over all relays, lanes that let the urgent pass.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use outboxd::store::flow::{Span, reserve};
use outboxd::store::{Link, Target};

use crate::harness::eventually;
use crate::harness::http::{Answer, HttpPeer};
use crate::harness::plane::{LONG, message_ids, number, until_closed, until_count, until_routed};
use crate::harness::postgres::Database;
use crate::harness::relay::{Relay, config, crm};

const MANY: &str =
    "INSERT INTO outbox.message (type, payload) SELECT 't', '{}' FROM generate_series(1, 100)";

/// Guard: no second holds more than the rate, also not the one in which another relay takes over.
#[tokio::test(flavor = "multi_thread")]
async fn no_span_holds_more_than_the_rate_across_a_hand_over() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let peer = HttpPeer::start().await;
    let times = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&times);
    peer.decide(move |_| {
        seen.lock().unwrap().push(Instant::now());
        Answer::status(200)
    });
    let rest = crm(&peer.url("/"), "rate = \"20/s\"\nconcurrency = 16");
    let first = Relay::start(config(&database.url(), &rest));
    until_routed(&client).await;
    client.batch_execute(MANY).await.unwrap();
    peer.until(|peer| peer.requests() >= 30).await;
    first.stop().await;
    let second = Relay::start(config(&database.url(), &rest));
    until_closed(&client).await;
    second.stop().await;
    let times = times.lock().unwrap();
    assert_eq!(times.len(), 100);
    // A request takes a moment from its permit to the peer; that is all the slack there is.
    let span = Duration::from_millis(950);
    let most = times
        .iter()
        .enumerate()
        .map(|(n, at)| times[n..].iter().take_while(|t| **t < *at + span).count());
    let most = most.max().unwrap();
    println!("most requests within {span:?}: {most}; all took {:?}", times[99] - times[0]);
    assert!(most <= 20, "{most} within a second");
    assert!(times[99] - times[0] >= Duration::from_secs(4), "{:?}", times[99] - times[0]);
}

/// Guard: what was begun is on record before it begins, so that no restart forgets it.
#[tokio::test(flavor = "multi_thread")]
async fn an_hourly_rate_and_a_daily_quota_survive_restarts() {
    for (limit, word, hour) in [
        ("rate = \"30/h\"", "rate: 30 in 1h", true),
        ("daily_quota = 30", "daily quota: 30", false),
    ] {
        let database = Database::migrated().await;
        let client = database.connect().await;
        let peer = HttpPeer::start().await;
        let rest = crm(&peer.url("/"), limit);
        for start in 1..=3 {
            let relay = Relay::start(config(&database.url(), &rest));
            if start == 1 {
                until_routed(&client).await;
                client.batch_execute(MANY).await.unwrap();
            }
            eventually("the sink waits for its limit", LONG, async || {
                let sql = "SELECT coalesce(max(waits_for), '-'), coalesce(max(s.epoch), 0)
                             FROM outbox.flow f JOIN outbox.sink s ON s.name = f.sink
                            WHERE f.updated_at > s.taken_at";
                let row = client.query_one(sql, &[]).await.map_err(|e| e.to_string())?;
                let (waits, epoch): (String, i64) = (row.get(0), row.get(1));
                if waits == word && epoch >= start {
                    Ok(())
                } else {
                    Err(format!("{waits} {epoch}"))
                }
            })
            .await;
            // The last one ends without a word: it forgets no more than the others.
            if start == 2 {
                relay.stop_now().await;
            } else {
                relay.stop().await;
            }
            assert_eq!(peer.requests(), 30, "{limit}, start {start}");
        }
        let older = if hour { "61 min" } else { "1 day" };
        let sql = format!("UPDATE outbox.spent SET bucket = bucket - interval '{older}'");
        client.batch_execute(&sql).await.unwrap();
        let relay = Relay::start(config(&database.url(), &rest));
        peer.until(|peer| peer.requests() == 60).await;
        relay.stop().await;
        assert_eq!(peer.requests(), 60);
    }
}

/// Guard: lanes. A password reset behind newsletters starts as soon as an attempt has ended.
#[tokio::test(flavor = "multi_thread")]
async fn the_high_lane_passes_a_hundred_thousand_newsletters() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let peer = HttpPeer::start().await;
    let slow = Answer::Delayed(Duration::from_millis(50), Box::new(Answer::status(200)));
    peer.always(slow);
    let rest = crm(&peer.url("/"), "concurrency = 4")
        .replace("type = \"*\"", "type = \"news\"\npriority = \"low\"")
        + "[[routes]]\ntype = \"reset\"\nsink = \"crm\"\npriority = \"high\"\n";
    let relay = Relay::start(config(&database.url(), &rest));
    until_routed(&client).await;
    client
        .batch_execute(
            "INSERT INTO outbox.message (type, payload) SELECT 'news', '{}' FROM generate_series(1, 100000)",
        )
        .await
        .unwrap();
    peer.until(|peer| peer.requests() >= 40).await;
    let mut worst = 0;
    for _ in 0..5 {
        let before = peer.requests();
        let sql = "INSERT INTO outbox.message (type, payload) VALUES ('reset', '{}') RETURNING id";
        let id: i64 = client.query_one(sql, &[]).await.unwrap().get(0);
        let place = || message_ids(&peer.received()).iter().position(|arrived| *arrived == id);
        peer.until(|peer| place().is_some() || peer.requests() > before + 100).await;
        let place = place().expect("it does not wait for a hundred newsletters");
        worst = worst.max((place + 1).saturating_sub(before));
    }
    println!("at worst {worst} requests from the commit of a reset to its own");
    // Four are in flight; each slot may be given away once more before the reset is seen.
    assert!(worst <= 9, "{worst} requests before a reset");
    let low = "SELECT count(*) FROM outbox.delivery WHERE lane = -1";
    assert!(number(&client, low).await > 90_000, "newsletters are still waiting");
    relay.stop_now().await;
}

/// Guard: by weight, not by rank. The low lane is served while the high one never runs dry.
#[tokio::test(flavor = "multi_thread")]
async fn the_low_lane_does_not_starve() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let peer = HttpPeer::start().await;
    let rest = crm(&peer.url("/"), "concurrency = 4")
        .replace("type = \"*\"", "type = \"news\"\npriority = \"low\"")
        + "[[routes]]\ntype = \"reset\"\nsink = \"crm\"\npriority = \"high\"\n";
    let relay = Relay::start(config(&database.url(), &rest));
    until_routed(&client).await;
    relay.stop().await;
    client
        .batch_execute(
            "INSERT INTO outbox.message (type, payload)
             SELECT CASE WHEN g <= 2000 THEN 'reset' ELSE 'news' END, '{}' FROM generate_series(1, 2400) g",
        )
        .await
        .unwrap();
    let relay = Relay::start(config(&database.url(), &rest));
    until_closed(&client).await;
    relay.stop().await;
    let arrived = message_ids(&peer.received());
    let news = arrived[..1_000].iter().filter(|id| **id > 2_000).count();
    println!("{news} of the first 1000 were of the low lane");
    assert!((20..=150).contains(&news), "{news} of the first 1000 were of the low lane");
    until_count(&client, "nothing is left", "SELECT count(*) FROM outbox.delivery", 0).await;
}

/// Guard: a paused route's rows are put back without an attempt, those of others go on, and a relay that
/// starts knows it from the beginning. Resumed, they all go.
#[tokio::test(flavor = "multi_thread")]
async fn a_paused_route_waits_and_the_others_of_its_sink_go_on() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let peer = HttpPeer::start().await;
    let rest = crm(&peer.url("/"), "rate = \"20/s\"").replace("type = \"*\"", "type = \"news\"")
        + "[[routes]]\ntype = \"order\"\nsink = \"crm\"\n";
    let relay = Relay::start(config(&database.url(), &rest));
    until_routed(&client).await;
    client.batch_execute("SELECT outbox.pause_route('news', 'crm')").await.unwrap();
    relay.stop().await;
    client
        .batch_execute(
            "INSERT INTO outbox.message (type, payload) SELECT 'news', '{}' FROM generate_series(1, 100);
             INSERT INTO outbox.message (type, payload) VALUES ('order', '{}'), ('order', '{}')",
        )
        .await
        .unwrap();
    let relay = Relay::start(config(&database.url(), &rest));
    let waiting =
        "SELECT count(*) FROM outbox.delivery WHERE reason = 'route paused' AND attempt = 0";
    until_count(&client, "the paused route's rows are out of the way", waiting, 100).await;
    peer.until(|peer| peer.requests() == 2).await;
    let arrived: BTreeSet<i64> = message_ids(&peer.received()).into_iter().collect();
    assert_eq!(arrived, BTreeSet::from([101, 102]));
    let used = "SELECT coalesce(sum(used), 0)::bigint FROM outbox.spent";
    assert_eq!(number(&client, used).await, 2, "what makes no attempt draws on no limit");

    client
        .batch_execute("SELECT outbox.pause_route('news', 'crm', paused => false)")
        .await
        .unwrap();
    until_closed(&client).await;
    relay.stop().await;
    assert_eq!(peer.requests(), 102);
}

/// Guard: what was used by a clock that was ahead and was set back counts for one period at most, and
/// not until that time comes.
#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_was_ahead_uses_up_no_limit_for_long() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    client
        .batch_execute(
            "INSERT INTO outbox.sink (name, kind, owner, epoch) VALUES ('crm', 'webhook', 'me', 1);
             INSERT INTO outbox.spent (sink, span, bucket, used)
             SELECT 'crm', s, date_trunc('day', now(), 'UTC') + interval '300 days', 1000
               FROM unnest('{rate,day}'::text[]) s",
        )
        .await
        .unwrap();
    let link = Link::new(Target::new(&config(&database.url(), "").database));
    for span in [Span::Rate(Duration::from_secs(60)), Span::Day] {
        let reserved = reserve(&link, "crm", 1, span, 20, 5).await.unwrap().unwrap();
        assert_eq!(reserved.count, 5, "{span:?}");
    }
    // A step of less than a period: then no span holds more than the limit.
    client
        .batch_execute("UPDATE outbox.spent SET bucket = now() + interval '30 s' WHERE used = 1000")
        .await
        .unwrap();
    let span = Span::Rate(Duration::from_secs(60));
    let reserved = reserve(&link, "crm", 1, span, 20, 5).await.unwrap().unwrap();
    assert_eq!(reserved.count, 0);
    assert!(reserved.wait <= Duration::from_secs(2 * 61), "{:?}", reserved.wait);
}

/// Guard: a route that goes on lets go its own rows, not those of a route beside it that stays paused:
/// those would be put back, and let go, and put back again.
#[tokio::test(flavor = "multi_thread")]
async fn a_route_that_goes_on_moves_nothing_of_one_that_stays_paused() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let peer = HttpPeer::start().await;
    let rest = crm(&peer.url("/"), "").replace("type = \"*\"", "type = \"news\"")
        + "[[routes]]\ntype = \"order.*\"\nsink = \"crm\"\n";
    let relay = Relay::start(config(&database.url(), &rest));
    until_routed(&client).await;
    client
        .batch_execute(
            "SELECT outbox.pause_route('news', 'crm'), outbox.pause_route('order.*', 'crm')",
        )
        .await
        .unwrap();
    relay.stop().await;
    client
        .batch_execute(
            "INSERT INTO outbox.message (type, payload) SELECT t, '{}'
               FROM unnest('{news,order.paid}'::text[]) t, generate_series(1, 20)",
        )
        .await
        .unwrap();
    let relay = Relay::start(config(&database.url(), &rest));
    let waiting = "SELECT count(*) FROM outbox.delivery WHERE reason = 'route paused'";
    until_count(&client, "both are out of the way", waiting, 40).await;
    client
        .batch_execute("SELECT outbox.pause_route('order.*', 'crm', paused => false)")
        .await
        .unwrap();
    until_count(&client, "one goes on", "SELECT count(*) FROM outbox.delivery", 20).await;
    let touched = "SELECT max(rev)::bigint FROM outbox.delivery";
    assert_eq!(number(&client, touched).await, 1, "the other's are put back once");
    relay.stop().await;
}
