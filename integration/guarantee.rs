//! At most once, held against every end an attempt can have and against everything that can end a relay
//! in its middle. The oracle is the receiver: what it counts, it counts once.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_postgres::Client;

use crate::harness::http::{Answer, Gate, HttpPeer};
use crate::harness::plane::{
    message_ids, number, send, send_keyed, until_closed, until_count, until_routed,
};
use crate::harness::postgres::{Cluster, Database};
use crate::harness::proxy::{self, Proxy};
use crate::harness::relay::{Process, Relay, config, config_with, crm, toml};
use crate::harness::smtp::{Say, SmtpPeer, Step};

const RELAY: &str = "lease = \"1s\"\ngrace = \"10s\"";
const ONCE: &str = "guarantee = \"at-most-once\"";
/// A piece of the statement that commits intents, and of no other.
const INTENT: &[u8] = b"repeatable = s.repeatable";
/// Nothing waits for time, and no attempt is under way.
const MOVING: &str = "SELECT count(*) FROM outbox.delivery WHERE state IN ('pending', 'sending')";
const HELD: &str = "SELECT count(*) FROM outbox.delivery WHERE state = 'held'";
const SENDING: &str = "SELECT count(*) FROM outbox.delivery WHERE state = 'sending'";
const DELIVERED: &str = "SELECT count(*) FROM outbox.ledger WHERE outcome = 'delivered'";

/// How often each message was asked for.
fn counts(peer: &HttpPeer) -> BTreeMap<i64, usize> {
    let mut counts = BTreeMap::new();
    for id in message_ids(&peer.received()) {
        *counts.entry(id).or_insert(0) += 1;
    }
    counts
}

/// A sink and a route of one name, for messages of that type.
fn way(name: &str, kind: &str, url: &str, more: &str, route: &str) -> String {
    format!(
        "[sinks.{name}]\nkind = \"{kind}\"\nurl = \"{url}\"\ntimeout = \"1s\"\n{ONCE}\n\
         retry = {{ delays = [\"100ms\", \"100ms\", \"100ms\"] }}\n{more}\n\
         [[routes]]\ntype = \"{name}\"\nsink = \"{name}\"\n{route}\n"
    )
}

/// State, attempts, words and whether it may not be resolved yet, of the one delivery through a sink.
async fn end_of(client: &Client, sink: &str) -> (String, i32, String) {
    let sql = "SELECT state, attempt, coalesce(reason, '') FROM outbox.delivery WHERE sink = $1
               UNION ALL
               SELECT outcome, attempts, coalesce(receipt, '') FROM outbox.ledger WHERE sink = $1";
    let rows = client.query(sql, &[&sink]).await.unwrap();
    assert_eq!(rows.len(), 1, "{sink}");
    (rows[0].get(0), rows[0].get(1), rows[0].get(2))
}

/// A port on which nobody listens yet.
async fn vacant_port() -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().port()
}

/// Answers every request on a port with 200.
async fn answer_on(port: u16) {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 4096]).await;
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
            let _ = stream.write_all(answer).await;
        }
    });
}

/// Every end a request can have: what is known not to have been taken is tried again or dead, all the
/// rest is held, and nothing is asked twice that may have arrived.
#[tokio::test(flavor = "multi_thread")]
async fn each_end_of_a_request() {
    // Name, what the peer does at first, what becomes of it, its words, attempts, requests.
    let soon = |status| Answer::status(status).header("Retry-After", "1");
    let ends = [
        ("taken", Answer::status(200), "delivered", "HTTP 200", 1, 1),
        ("throttled", soon(429), "delivered", "HTTP 200", 1, 2),
        ("busy", soon(503), "delivered", "HTTP 200", 1, 2),
        ("wrong", Answer::status(400), "dead", "HTTP 400", 1, 1),
        ("timeout", Answer::status(408), "dead", "HTTP 408", 1, 1),
        ("gone", Answer::status(410), "dead", "HTTP 410", 1, 1),
        ("failed", Answer::status(500), "held", "in doubt: HTTP 500", 1, 1),
        ("moved", Answer::redirect(302, "/there"), "held", "in doubt: HTTP 302", 1, 1),
        ("away", Answer::status(502), "held", "in doubt: HTTP 502", 1, 1),
        ("closed", Answer::status(503), "held", "in doubt: HTTP 503", 1, 1),
        ("silent", Answer::Hang, "held", "in doubt: timed out after 1s", 1, 1),
        ("cut", Answer::CutAfter, "held", "in doubt: no reply", 1, 1),
        ("half", Answer::Raw(b"HTTP/1.1 2".to_vec()), "held", "in doubt: no reply", 1, 1),
    ];
    let database = Database::migrated().await;
    let client = database.connect().await;
    let peer = HttpPeer::start().await;
    let port = vacant_port().await;
    let mut rest = way("absent", "webhook", &format!("http://127.0.0.1:{port}/"), "", "");
    let mut first = BTreeMap::new();
    for (name, answer, ..) in &ends {
        rest += &way(name, "webhook", &peer.url(&format!("/{name}")), "", "");
        first.insert(format!("/{name}"), answer.clone());
    }
    let first = std::sync::Mutex::new(first);
    peer.decide(move |request| {
        first.lock().unwrap().remove(&request.path).unwrap_or(Answer::status(200))
    });
    let relay = Relay::start(config(&database.url(), &rest));
    until_routed(&client).await;
    for (name, ..) in &ends {
        send(&client, name, "{}").await;
    }
    send(&client, "absent", "{}").await;
    let refused = "SELECT count(*) FROM outbox.delivery
                    WHERE sink = 'absent' AND state = 'pending' AND reason LIKE 'could not connect%'";
    until_count(&client, "nobody is there: it waits", refused, 1).await;
    answer_on(port).await;
    until_count(&client, "all is decided", MOVING, 0).await;
    relay.stop().await;
    // A restart changes nothing of it.
    let relay = Relay::start(config(&database.url(), &rest));
    let flow = "SELECT count(*) FROM outbox.sink WHERE owner IS NOT NULL";
    until_count(&client, "taken again", flow, 14).await;
    relay.stop().await;
    for (name, _, state, words, attempts, requests) in ends {
        let (found, tried, said) = end_of(&client, name).await;
        assert_eq!((found.as_str(), tried), (state, attempts), "{name}: {said}");
        assert!(said.starts_with(words), "{name}: {said}");
        let path = format!("/{name}");
        let seen: Vec<_> = peer.received().into_iter().filter(|r| r.path == path).collect();
        assert_eq!(seen.len(), requests, "{name}");
    }
    assert_eq!(end_of(&client, "absent").await.0, "delivered");
}

/// The same for mails: until the final dot is on its way nothing can be delivered.
#[tokio::test(flavor = "multi_thread")]
async fn each_end_of_a_mail() {
    let text = |text: &str| Say::text(text);
    // Name, the step and what is said there at first, what becomes of it, its words, mails seen.
    let ends = [
        ("taken", Step::Dot, text("250 2.0.0 queued as 1"), "delivered", "250 2.0.0", 1),
        ("recipient", Step::Rcpt, text("451 4.3.0 later"), "delivered", "250", 1),
        ("data", Step::Data, text("451 4.3.0 later"), "delivered", "250", 1),
        ("dropped", Step::Data, Say::Cut, "delivered", "250", 1),
        ("mute", Step::Data, Say::Hang, "delivered", "250", 1),
        ("refused", Step::Dot, text("451 4.3.0 later"), "delivered", "250", 2),
        ("never", Step::Dot, text("554 5.6.0 no"), "dead", "mail refused: 554", 1),
        ("cut", Step::Dot, Say::Cut, "held", "in doubt: no answer", 1),
        ("silent", Step::Dot, Say::Hang, "held", "in doubt: timed out", 1),
        ("odd", Step::Dot, text("354 go on"), "held", "in doubt: unexpected", 1),
    ];
    let database = Database::migrated().await;
    let client = database.connect().await;
    let (mut rest, mut peers) = (String::new(), Vec::new());
    for (name, step, say, ..) in &ends {
        let peer = SmtpPeer::start().await;
        peer.script(*step, [say.clone()]);
        let from = "from = \"shop@example.com\"";
        let mail = "to = \"ann@example.org\"\nsubject = \"{{ id }}\"\ntext = \"x\"";
        rest += &way(name, "smtp", &format!("smtp://{}", peer.address), from, mail);
        peers.push(peer);
    }
    let relay = Relay::start(config(&database.url(), &rest));
    until_routed(&client).await;
    for (name, ..) in &ends {
        send(&client, name, "{}").await;
    }
    until_count(&client, "all is decided", MOVING, 0).await;
    relay.stop().await;
    for ((name, _, _, state, words, mails), peer) in ends.into_iter().zip(peers) {
        let (found, _, said) = end_of(&client, name).await;
        assert_eq!(found, state, "{name}: {said}");
        assert!(said.starts_with(words), "{name}: {said}");
        assert_eq!(peer.mails().len(), mails, "{name}");
    }
}

/// Guard: a route's guarantee goes before its sink's, either way.
#[tokio::test(flavor = "multi_thread")]
async fn a_route_says_its_own_guarantee() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let peer = HttpPeer::start().await;
    let route = |kind: &str, sink: &str, more: &str| {
        format!("[[routes]]\ntype = \"{kind}\"\nsink = \"{sink}\"\n{more}\n")
    };
    let sink = |name: &str, more: &str| {
        format!(
            "[sinks.{name}]\nkind = \"webhook\"\nurl = \"{}\"\nretry = {{ delays = [\"100ms\"] }}\n{more}\n",
            peer.url(&format!("/{name}"))
        )
    };
    let rest = sink("loose", "")
        + &sink("strict", ONCE)
        + &route("again", "loose", "")
        + &route("once", "loose", ONCE)
        + &route("strict.again", "strict", "guarantee = \"at-least-once\"")
        + &route("strict.once", "strict", "");
    peer.script([
        Answer::status(500),
        Answer::status(500),
        Answer::status(500),
        Answer::status(500),
    ]);
    let relay = Relay::start(config(&database.url(), &rest));
    until_routed(&client).await;
    for kind in ["again", "once", "strict.again", "strict.once"] {
        send(&client, kind, "{}").await;
    }
    until_count(&client, "all is decided", MOVING, 0).await;
    relay.stop().await;
    let held: Vec<i64> = client
        .query("SELECT message_id FROM outbox.delivery WHERE state = 'held' ORDER BY 1", &[])
        .await
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert_eq!(held, [2, 4]);
    assert_eq!(number(&client, DELIVERED).await, 2);
    assert_eq!(counts(&peer).into_values().collect::<Vec<_>>(), [2, 1, 2, 1]);
}

/// Guard (the intent): the receiver has the bytes when the relay is killed. Nobody asks it again.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_under_way_when_its_relay_was_killed_is_held_and_never_asked_again() {
    const HANGING: usize = 8;
    let database = Database::migrated().await;
    let client = database.connect().await;
    let peer = HttpPeer::start().await;
    let rest = crm(&peer.url("/"), &format!("{ONCE}\nconcurrency = {HANGING}"));
    let config = toml(&database.url(), RELAY, &rest);
    let relay = Process::start(&config);
    until_routed(&client).await;
    peer.always(Answer::Hang);
    for _ in 0..HANGING * 2 {
        send(&client, "t", "{}").await;
    }
    peer.until(|peer| peer.requests() == HANGING).await;
    relay.kill();
    peer.always(Answer::status(200));
    let relay = Process::start(&config);
    until_count(&client, "all is decided", MOVING, 0).await;
    let hanging = i64::try_from(HANGING).unwrap();
    assert_eq!(number(&client, HELD).await, hanging);
    assert_eq!(number(&client, DELIVERED).await, hanging);
    let waiting = "SELECT count(*) FROM outbox.delivery
                    WHERE state = 'held' AND attempt = 1 AND epoch IS NULL
                      AND reason LIKE 'in doubt: the relay%'
                      AND hold_until > clock_timestamp() + interval '5 s'";
    assert_eq!(number(&client, waiting).await, hanging, "not to be resolved yet");
    drop(relay);
    assert!(counts(&peer).values().all(|count| *count == 1), "{:?}", counts(&peer));
    assert_eq!(peer.requests(), HANGING * 2);
}

/// A config that came to know the sink, but no longer the route, holds what was under way all the same.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_under_way_is_held_also_when_its_route_is_gone() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let peer = HttpPeer::start().await;
    peer.always(Answer::Hang);
    let rest = crm(&peer.url("/"), "");
    let strict = rest.replace("type = \"*\"", &format!("type = \"t\"\n{ONCE}"));
    let relay = Process::start(&toml(&database.url(), RELAY, &strict));
    until_routed(&client).await;
    send(&client, "t", "{}").await;
    peer.until(|peer| peer.requests() == 1).await;
    relay.kill();
    let other = rest.replace("type = \"*\"", "type = \"other\"");
    let relay = Relay::start(config_with(&database.url(), RELAY, &other));
    until_count(&client, "it is held", HELD, 1).await;
    relay.stop().await;
    assert_eq!(peer.requests(), 1);
}

/// The same under load, killed again and again wherever it happens to be.
#[tokio::test(flavor = "multi_thread")]
async fn under_kill_9_again_and_again_no_message_is_asked_twice() {
    const MESSAGES: i64 = 2_000;
    const KILLS: usize = 5;
    let database = Database::migrated().await;
    let client = database.connect().await;
    let peer = HttpPeer::start().await;
    peer.always(Answer::Delayed(Duration::from_millis(3), Box::new(Answer::status(200))));
    let config =
        toml(&database.url(), RELAY, &crm(&peer.url("/"), &format!("{ONCE}\nconcurrency = 16")));
    let mut relay = Process::start(&config);
    until_routed(&client).await;
    let many = format!(
        "INSERT INTO outbox.message (type, payload) SELECT 't', '{{}}' FROM generate_series(1, {MESSAGES})"
    );
    client.batch_execute(&many).await.unwrap();
    for kill in 1..=KILLS {
        let until = usize::try_from(MESSAGES).unwrap() / (KILLS + 1) * kill;
        peer.until(|peer| peer.requests() >= until).await;
        relay.kill();
        relay = Process::start(&config);
    }
    until_count(&client, "all is decided", MOVING, 0).await;
    relay.signal("TERM");
    assert!(relay.ended().await.success());
    let (held, delivered) = (number(&client, HELD).await, number(&client, DELIVERED).await);
    println!(
        "{MESSAGES} messages, {KILLS} kills: {delivered} delivered, {held} held, {} requests",
        peer.requests()
    );
    let twice: Vec<_> = counts(&peer).into_iter().filter(|(_, count)| *count > 1).collect();
    assert!(twice.is_empty(), "asked more than once: {twice:?}");
    assert_eq!(held + delivered, MESSAGES);
    // What was delivered was certainly asked; of what is held the receiver may know.
    assert!(i64::try_from(peer.requests()).unwrap() >= delivered);
    assert!(delivered > MESSAGES / 2, "{delivered}");
}

/// A paused process wakes after its lease, in the middle of an attempt whose reply has come: it is true,
/// and closes the row that the other relay holds.
#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_wakes_after_its_lease_closes_what_it_had_sent_and_sends_nothing() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let peer = HttpPeer::start().await;
    let gate = Gate::new();
    peer.script([Answer::Gated(gate.clone(), Box::new(Answer::status(200)))]);
    let rest = crm(&peer.url("/"), &format!("{ONCE}\nconcurrency = 1\ntimeout = \"60s\""));
    let config = toml(&database.url(), RELAY, &rest);
    let zombie = Process::start(&config);
    until_routed(&client).await;
    send(&client, "t", "{}").await;
    peer.until(|peer| peer.requests() == 1).await;
    let heir = Process::start(&config);
    until_count(&client, "both are entered", "SELECT count(*) FROM outbox.relay", 2).await;
    zombie.signal("STOP");
    for _ in 0..20 {
        send(&client, "t", "{}").await;
    }
    until_count(&client, "the heir holds it", HELD, 1).await;
    until_count(&client, "and delivers the others", DELIVERED, 20).await;
    gate.open();
    // The answer is there before it wakes.
    crate::harness::eventually("it is answered", crate::harness::plane::LONG, async || {
        if peer.at_once() == 0 { Ok(()) } else { Err("not yet".to_owned()) }
    })
    .await;
    zombie.signal("CONT");
    until_closed(&client).await;
    assert_eq!(number(&client, DELIVERED).await, 21);
    assert!(counts(&peer).values().all(|count| *count == 1), "{:?}", counts(&peer));
    drop((zombie, heir));
}

/// Guard (the last look before the first byte): a process that is paused between its intent and the
/// first byte, and wakes after its lease, sends nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_wakes_between_its_intent_and_the_first_byte_sends_nothing() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let peer = HttpPeer::start().await;
    let wire = Proxy::start(proxy::Target::Unix(Cluster::shared().socket())).await;
    let rest = crm(&peer.url("/"), ONCE);
    let url = Cluster::tcp_url(wire.port(), database.name());
    let zombie = Process::start(&toml(&url, RELAY, &rest));
    until_routed(&client).await;
    let owned = "SELECT count(*) FROM outbox.sink WHERE owner IS NOT NULL";
    until_count(&client, "it has the sink", owned, 1).await;
    let heir = Process::start(&toml(&database.url(), RELAY, &rest));
    until_count(&client, "both are entered", "SELECT count(*) FROM outbox.relay", 2).await;
    // A payload that is fetched alone, after the intent: there the process is paused.
    wire.hold_replies_after(b"SELECT m.payload::text");
    let large = format!(r#"{{"s": "{}"}}"#, "x".repeat(20_000));
    send(&client, "t", &large).await;
    wire.snared().await;
    assert_eq!(number(&client, SENDING).await, 1, "its intent is committed");
    zombie.signal("STOP");
    until_count(&client, "the heir holds it", HELD, 1).await;
    wire.release();
    zombie.signal("CONT");
    let again = "SELECT count(*) FROM outbox.relay r
                  WHERE r.heartbeat_at > clock_timestamp() - r.lease";
    until_count(&client, "it is entered anew", again, 2).await;
    for mut relay in [zombie, heir] {
        relay.signal("TERM");
        assert!(relay.ended().await.success());
    }
    assert_eq!(peer.requests(), 0);
    assert_eq!(number(&client, HELD).await, 1);
}

/// The same again and again under load, wherever the process happens to be.
#[tokio::test(flavor = "multi_thread")]
async fn processes_paused_longer_than_their_lease_send_nothing_twice() {
    const MESSAGES: i64 = 1_000;
    let database = Database::migrated().await;
    let client = database.connect().await;
    let peer = HttpPeer::start().await;
    peer.always(Answer::Delayed(Duration::from_millis(5), Box::new(Answer::status(200))));
    let config =
        toml(&database.url(), RELAY, &crm(&peer.url("/"), &format!("{ONCE}\nconcurrency = 8")));
    let relays = [Process::start(&config), Process::start(&config)];
    until_count(&client, "both are entered", "SELECT count(*) FROM outbox.relay", 2).await;
    until_routed(&client).await;
    let many = format!(
        "INSERT INTO outbox.message (type, payload) SELECT 't', '{{}}' FROM generate_series(1, {MESSAGES})"
    );
    client.batch_execute(&many).await.unwrap();
    let owner = "SELECT r.pid::bigint FROM outbox.sink s JOIN outbox.relay r ON r.id = s.owner";
    for pause in 1..=3 {
        peer.until(|peer| peer.requests() >= 200 * pause).await;
        let pid = u32::try_from(number(&client, owner).await).unwrap();
        let relay = relays.iter().find(|relay| relay.id() == pid).expect("one of ours");
        let epoch = number(&client, "SELECT epoch FROM outbox.sink").await;
        relay.signal("STOP");
        let next = format!("SELECT count(*) FROM outbox.sink WHERE epoch > {epoch}");
        until_count(&client, "the other takes over", &next, 1).await;
        relay.signal("CONT");
    }
    until_count(&client, "all is decided", MOVING, 0).await;
    let twice: Vec<_> = counts(&peer).into_iter().filter(|(_, count)| *count > 1).collect();
    assert!(twice.is_empty(), "asked more than once: {twice:?}");
    let (held, delivered) = (number(&client, HELD).await, number(&client, DELIVERED).await);
    println!("{MESSAGES} messages, 3 pauses: {delivered} delivered, {held} held");
    assert_eq!(held + delivered, MESSAGES);
}

/// The commit of an intent whose reply is lost: nothing is sent for it, and once the owner finds that
/// it was committed all the same, it is sent, once, as its first attempt, and its followers after it.
#[tokio::test(flavor = "multi_thread")]
async fn an_intent_whose_reply_was_lost_is_found_and_sent_once() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let peer = HttpPeer::start().await;
    let wire = Proxy::start(proxy::Target::Unix(Cluster::shared().socket())).await;
    let url = Cluster::tcp_url(wire.port(), database.name());
    let relay = Relay::start(config(&url, &crm(&peer.url("/"), ONCE)));
    until_routed(&client).await;
    wire.hold_replies_after(INTENT);
    for _ in 0..3 {
        send_keyed(&client, "t", "k").await;
    }
    wire.snared().await;
    until_count(&client, "it is committed", SENDING, 1).await;
    wire.cut().await;
    assert_eq!(peer.requests(), 0, "nobody knows yet that it was committed");
    wire.release();
    until_closed(&client).await;
    relay.stop().await;
    assert_eq!(message_ids(&peer.received()), [1, 2, 3]);
    let once = "SELECT count(*) FROM outbox.ledger WHERE attempts = 1";
    assert_eq!(number(&client, once).await, 3, "counted once");
}

/// The same while the relay stops: what it never sent is not left in doubt to the next one.
#[tokio::test(flavor = "multi_thread")]
async fn a_drain_leaves_no_intent_behind() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let peer = HttpPeer::start().await;
    let wire = Proxy::start(proxy::Target::Unix(Cluster::shared().socket())).await;
    let url = Cluster::tcp_url(wire.port(), database.name());
    let relay = Relay::start(config(&url, &crm(&peer.url("/"), ONCE)));
    until_routed(&client).await;
    // Once a second the owner looks around, and tells what it does; now it has just done so.
    until_count(&client, "it tells", "SELECT count(*) FROM outbox.flow", 1).await;
    wire.hold_replies_after(INTENT);
    send(&client, "t", "{}").await;
    wire.snared().await;
    until_count(&client, "it is committed", SENDING, 1).await;
    relay.ask_to_stop();
    wire.cut().await;
    wire.release();
    relay.stop().await;
    assert_eq!(peer.requests(), 0);
    let pending = "SELECT count(*) FROM outbox.delivery WHERE state = 'pending' AND attempt = 0";
    assert_eq!(number(&client, pending).await, 1, "{:?}", end_of(&client, "crm").await);
}

/// Guard (only what is known never to have begun goes back): a database that forgets how an attempt
/// ended, as one that is restored to an earlier moment or fails over does, shows its intent again. That
/// is no reason to send it again.
#[tokio::test(flavor = "multi_thread")]
async fn an_intent_that_comes_back_after_its_attempt_is_held() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let peer = HttpPeer::start().await;
    peer.always(Answer::status(500));
    let relay = Relay::start(config(&database.url(), &crm(&peer.url("/"), ONCE)));
    until_routed(&client).await;
    send(&client, "t", "{}").await;
    until_count(&client, "it is held", HELD, 1).await;
    client
        .batch_execute(
            "UPDATE outbox.delivery d
                SET state = 'sending', epoch = s.epoch, repeatable = false, reason = NULL, rev = rev + 1
               FROM outbox.sink s WHERE s.name = d.sink",
        )
        .await
        .unwrap();
    until_count(&client, "it is held again", HELD, 1).await;
    relay.stop().await;
    assert_eq!(peer.requests(), 1);
    let (state, attempts, reason) = end_of(&client, "crm").await;
    assert_eq!((state.as_str(), attempts), ("held", 1));
    assert!(reason.starts_with("in doubt: "), "{reason}");
}

/// Guard (the fence): an intent that arrives after the take-over changes nothing. Without the fence the
/// row would wait for ever: no owner has it in hand, and none fetches it.
#[tokio::test(flavor = "multi_thread")]
async fn an_intent_that_arrives_after_the_take_over_changes_nothing() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let peer = HttpPeer::start().await;
    let gate = Gate::new();
    peer.always(Answer::Gated(gate.clone(), Box::new(Answer::status(200))));
    let wire = Proxy::start(proxy::Target::Unix(Cluster::shared().socket())).await;
    let url = Cluster::tcp_url(wire.port(), database.name());
    let rest = |concurrency| {
        crm(&peer.url("/"), &format!("{ONCE}\nconcurrency = {concurrency}\ntimeout = \"60s\""))
    };
    let first = Relay::start(config_with(&url, RELAY, &rest(2)));
    until_routed(&client).await;
    wire.hold_requests_from(INTENT);
    let two =
        "INSERT INTO outbox.message (type, payload) SELECT 't', '{}' FROM generate_series(1, 2)";
    client.batch_execute(two).await.unwrap();
    wire.snared().await;
    wire.stall(proxy::Direction::Requests);
    let epoch = number(&client, "SELECT epoch FROM outbox.sink").await;
    let second = Relay::start(config_with(&database.url(), RELAY, &rest(1)));
    peer.until(|peer| peer.requests() == 1).await;
    assert_eq!(number(&client, "SELECT epoch FROM outbox.sink").await, epoch + 1);
    assert_eq!(number(&client, SENDING).await, 1, "the second has one slot");
    // The late statement is let through, and looked at while it waits for our lock.
    let lock = database.connect().await;
    lock.batch_execute("BEGIN; LOCK TABLE outbox.delivery IN SHARE MODE").await.unwrap();
    wire.resume();
    let late = |more: &str| {
        format!(
            "SELECT count(*) FROM pg_stat_activity
              WHERE datname = current_database() AND pid <> pg_backend_pid()
                AND query LIKE '%repeatable = s.repeatable%' AND state = 'active' {more}"
        )
    };
    until_count(&client, "it has arrived", &late("AND wait_event_type = 'Lock'"), 1).await;
    lock.batch_execute("COMMIT").await.unwrap();
    until_count(&client, "it has been answered", &late(""), 0).await;
    gate.open();
    until_closed(&client).await;
    first.stop().await;
    second.stop().await;
    assert_eq!(counts(&peer).into_values().collect::<Vec<_>>(), [1, 1]);
}

/// Guard (synchronous commit): an intent is durable before the first byte, also in a database that
/// commits asynchronously by default.
#[tokio::test(flavor = "multi_thread")]
async fn an_intent_outlives_a_crash_of_a_database_that_commits_asynchronously() {
    let settings = [("synchronous_commit", "off"), ("wal_writer_delay", "10s")];
    let cluster = tokio::task::spawn_blocking(move || Cluster::start_with(None, &settings));
    let cluster = cluster.await.unwrap();
    cluster.psql("postgres", "CREATE DATABASE shop");
    let peer = HttpPeer::start().await;
    let rest = crm(&peer.url("/"), &format!("{ONCE}\ntimeout = \"60s\""));
    let settings = config(&cluster.url("shop"), &rest);
    let target = outboxd::store::Target::new(&settings.database);
    outboxd::store::migrate::migrate(&target, &settings.database).await.unwrap();
    let relay = Process::start(&toml(&cluster.url("shop"), RELAY, &rest));
    let client = cluster.connect("shop").await;
    until_routed(&client).await;
    client
        .batch_execute("SET synchronous_commit = on; INSERT INTO outbox.message (type, payload) VALUES ('t', '{}')")
        .await
        .unwrap();
    peer.always(Answer::Hang);
    peer.until(|peer| peer.requests() == 1).await;
    cluster.stop_immediate();
    relay.kill();
    peer.always(Answer::status(200));
    cluster.start_again();
    let client = cluster.connect("shop").await;
    let relay = Process::start(&toml(&cluster.url("shop"), RELAY, &rest));
    until_count(&client, "all is decided", MOVING, 0).await;
    assert_eq!(number(&client, HELD).await, 1);
    assert_eq!(peer.requests(), 1);
    drop(relay);
}

fn mail_to(address: std::net::SocketAddr, text: &str, more: &str) -> String {
    format!(
        "[sinks.mail]\nkind = \"smtp\"\nurl = \"smtp://{address}\"\nfrom = \"shop@example.com\"\n\
         retry = {{ delays = [\"1h\", \"1h\", \"1h\"] }}\n\
         [[routes]]\ntype = \"t\"\nsink = \"mail\"\nto = \"ann@example.org\"\nsubject = \"s\"\n\
         text = \"{text}\"\n{more}\n"
    )
}

/// Makes what waits for its next attempt due now.
async fn hurry(client: &Client) {
    let hurry = "UPDATE outbox.delivery SET due_at = clock_timestamp(), rev = rev + 1
                  WHERE state = 'pending'";
    client.batch_execute(hurry).await.unwrap();
}

/// Guard: what a first attempt has sent is not sent with other content under the same key.
#[tokio::test(flavor = "multi_thread")]
async fn other_content_than_the_first_attempts_is_held_unless_the_route_rerenders() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let peer = SmtpPeer::start().await;
    let refused = "SELECT count(*) FROM outbox.delivery WHERE state = 'pending' AND attempt = 1";
    for (changed, rerender) in [("new", false), ("new", true), ("old", false)] {
        let before = peer.mails().len();
        let relay = Relay::start(config(&database.url(), &mail_to(peer.address, "old", "")));
        until_routed(&client).await;
        peer.script(Step::Dot, [Say::text("451 4.3.0 later")]);
        send(&client, "t", "{}").await;
        until_count(&client, "it is refused", refused, 1).await;
        relay.stop().await;
        let more = format!("rerender = {rerender}");
        let relay = Relay::start(config(&database.url(), &mail_to(peer.address, changed, &more)));
        hurry(&client).await;
        if changed == "new" && !rerender {
            until_count(&client, "it is held", HELD, 1).await;
            let (_, attempts, reason) = end_of(&client, "mail").await;
            assert!(reason.contains("other content under the same idempotency key"), "{reason}");
            assert_eq!(attempts, 1, "no second attempt was made");
            assert_eq!(peer.mails().len(), before + 1, "nothing was sent");
            // As an operator's "not delivered" leaves it.
            let resolve =
                "UPDATE outbox.delivery SET state = 'pending', due_at = clock_timestamp(),
                                  content_hash = NULL, rev = rev + 1 WHERE state = 'held'";
            client.batch_execute(resolve).await.unwrap();
        }
        until_closed(&client).await;
        relay.stop().await;
        let mails = peer.mails();
        let [.., first, second] = &mails[..] else { panic!("two mails") };
        let id = |mail: &crate::harness::smtp::Arrived| {
            let text = String::from_utf8_lossy(&mail.data).into_owned();
            text.lines().find(|line| line.starts_with("Message-ID: ")).unwrap().to_owned()
        };
        assert_eq!((mails.len(), id(first)), (before + 2, id(second)), "the same key");
        assert_eq!(first.data == second.data, changed == "old");
        client.batch_execute("TRUNCATE outbox.ledger, outbox.message").await.unwrap();
    }
}

/// A request that nobody saw binds to nothing: a config that is corrected during an outage holds
/// nothing up.
#[tokio::test(flavor = "multi_thread")]
async fn content_that_reached_nobody_may_change() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let port = vacant_port().await;
    let rest = |more: &str| crm(&format!("http://127.0.0.1:{port}/"), more).replace("100ms", "1h");
    let relay = Relay::start(config(&database.url(), &rest("")));
    until_routed(&client).await;
    send(&client, "t", "{}").await;
    let tried = "SELECT count(*) FROM outbox.delivery WHERE reason LIKE 'could not connect%'";
    until_count(&client, "nobody is there", tried, 1).await;
    relay.stop().await;
    answer_on(port).await;
    let relay = Relay::start(config(&database.url(), &rest("body = \"envelope\"")));
    hurry(&client).await;
    until_closed(&client).await;
    relay.stop().await;
}

/// What is over is closed as expired under either guarantee, before an attempt is counted and without
/// drawing on the sink's quota.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_old_is_closed_unsent_and_spends_nothing() {
    for guarantee in [ONCE, "guarantee = \"at-least-once\""] {
        let database = Database::migrated().await;
        let client = database.connect().await;
        let peer = HttpPeer::start().await;
        let mut rest = crm(&peer.url("/"), &format!("{guarantee}\ndaily_quota = 1"));
        writeln!(rest, "[[routes]]\ntype = \"brief\"\nsink = \"crm\"\nexpires_after = \"1s\"")
            .unwrap();
        // Written while no relay runs, and old enough when one does.
        let relay = Relay::start(config(&database.url(), &rest));
        until_routed(&client).await;
        relay.stop().await;
        client
            .batch_execute(
                "INSERT INTO outbox.message (type, payload, expires_at)
                 SELECT 't', '{}', clock_timestamp() FROM generate_series(1, 3);
                 INSERT INTO outbox.message (type, payload)
                 SELECT 'brief', '{}' FROM generate_series(1, 3);
                 UPDATE outbox.message SET created_at = created_at - interval '1 h';
                 INSERT INTO outbox.message (type, payload) VALUES ('brief', '{}')",
            )
            .await
            .unwrap();
        client.batch_execute("UPDATE outbox.message SET created_at = clock_timestamp() + interval '1 min' WHERE id = 7").await.unwrap();
        let relay = Relay::start(config(&database.url(), &rest));
        until_closed(&client).await;
        relay.stop().await;
        let expired =
            "SELECT count(*) FROM outbox.ledger WHERE outcome = 'expired' AND attempts = 0";
        assert_eq!(number(&client, expired).await, 6, "{guarantee}");
        assert_eq!(message_ids(&peer.received()), [7], "{guarantee}");
    }
}
