//! Messages that end the relay, or outgrow it. They are found out, counted and put aside; what is beside
//! them is delivered.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio_postgres::Client;

use crate::harness::http::{Answer, HttpPeer, Received};
use crate::harness::plane::{message_ids, number, send, until_count, until_routed};
use crate::harness::postgres::Database;
use crate::harness::relay::{Process, Relay, config, crm, toml};
use crate::harness::smtp::SmtpPeer;

const RELAY: &str = "lease = \"1s\"\ngrace = \"10s\"";
const OPEN: &str = "SELECT count(*) FROM outbox.delivery WHERE state IN ('pending', 'sending')";

async fn reason(client: &Client, id: i64) -> (String, String) {
    let sql = "SELECT state, coalesce(reason, '') FROM outbox.delivery WHERE message_id = $1";
    let row = client.query_one(sql, &[&id]).await.unwrap();
    (row.get(0), row.get(1))
}

/// Kills the relay whenever the peer sees one of these messages, and starts it again, as a supervisor
/// would, until nothing is pending. Answers how often that was.
async fn supervise(client: &Client, peer: &HttpPeer, toml: &str, poison: &[i64]) -> usize {
    let mut relay = Process::start(toml);
    let mut killed = 0;
    loop {
        let seen = |peer: &HttpPeer| {
            message_ids(&peer.received()).iter().filter(|id| poison.contains(id)).count()
        };
        tokio::select! {
            () = peer.until(|peer| seen(peer) > killed) => {
                relay.kill();
                killed = seen(peer);
                assert!(killed <= 5 * poison.len(), "it goes on and on");
                relay = Process::start(toml);
            }
            () = until_count(client, "nothing is pending", OPEN, 0) => break,
        }
    }
    relay.signal("TERM");
    assert!(relay.ended().await.success(), "it never ends by itself");
    killed
}

/// Answers everything but some messages, which hang: their relay will not live to see the answer.
fn hang_on(peer: &HttpPeer, poison: &[i64], otherwise: Answer) {
    let poison = poison.to_vec();
    peer.decide(move |request: &Received| {
        let is_poison = poison.contains(&message_ids(std::slice::from_ref(request))[0]);
        if is_poison { Answer::Hang } else { otherwise.clone() }
    });
}

/// Guard (the count): the first crash may go uncounted, because nobody knew yet; then three are counted,
/// and the message is dead. Its neighbours, in flight beside it each time at first, are all delivered.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_ends_its_relay_is_dead_after_three_and_its_neighbours_are_delivered() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let peer = HttpPeer::start().await;
    let slow = Answer::Delayed(Duration::from_millis(50), Box::new(Answer::status(200)));
    hang_on(&peer, &[20], slow);
    let more = "concurrency = 16\ntimeout = \"60s\"";
    let toml = toml(&database.url(), RELAY, &crm(&peer.url("/"), more));
    let first = Process::start(&toml);
    until_routed(&client).await;
    drop(first);
    for _ in 0..40 {
        send(&client, "t", "{}").await;
    }
    let killed = supervise(&client, &peer, &toml, &[20]).await;
    assert!((3..=4).contains(&killed), "{killed}");
    let (state, words) = reason(&client, 20).await;
    assert_eq!(state, "dead");
    assert!(words.contains("the relay crashed 3 times while sending it"), "{words}");
    assert_eq!(number(&client, "SELECT count(*) FROM outbox.delivery").await, 1, "only this one");
    let delivered =
        "SELECT count(DISTINCT message_id) FROM outbox.ledger WHERE outcome = 'delivered'";
    assert_eq!(number(&client, delivered).await, 39);
    // Once they were suspects they went alone: nobody was beside it when it was counted again.
    let seen = message_ids(&peer.received());
    println!("{killed} crashes, {} requests for 40 messages", seen.len());
    let alone = "SELECT count(*) FROM outbox.delivery WHERE crashes = 3 AND attempt > 0";
    assert_eq!(number(&client, alone).await, 1);
}

/// Two of them, and messages of a second sink beside: what one ends is not laid to the other's charge.
#[tokio::test(flavor = "multi_thread")]
async fn two_of_them_are_both_found_out_and_another_sink_goes_on() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let peer = HttpPeer::start().await;
    let poison = [3, 7];
    hang_on(
        &peer,
        &poison,
        Answer::Delayed(Duration::from_millis(20), Box::new(Answer::status(200))),
    );
    let mut rest = crm(&peer.url("/"), "concurrency = 4\ntimeout = \"60s\"");
    rest += &crm(&peer.url("/"), "").replace("crm", "erp").replace("\"*\"", "\"erp\"");
    rest = rest.replace("type = \"*\"", "type = \"t\"");
    let toml = toml(&database.url(), RELAY, &rest);
    let first = Process::start(&toml);
    until_routed(&client).await;
    drop(first);
    for _ in 0..10 {
        send(&client, "t", "{}").await;
        send(&client, "erp", "{}").await;
    }
    supervise(&client, &peer, &toml, &poison).await;
    let dead: Vec<i64> = client
        .query("SELECT message_id FROM outbox.delivery WHERE state = 'dead' ORDER BY 1", &[])
        .await
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert_eq!(dead, poison);
    let delivered =
        "SELECT count(DISTINCT message_id) FROM outbox.ledger WHERE outcome = 'delivered'";
    assert_eq!(number(&client, delivered).await, 18);
}

/// Under at-most-once the first crash is enough: what may have arrived is held.
#[tokio::test(flavor = "multi_thread")]
async fn under_at_most_once_it_is_held_at_its_first_crash() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let peer = HttpPeer::start().await;
    hang_on(&peer, &[2], Answer::status(200));
    let more = "guarantee = \"at-most-once\"\ntimeout = \"60s\"";
    let toml = toml(&database.url(), RELAY, &crm(&peer.url("/"), more));
    let first = Process::start(&toml);
    until_routed(&client).await;
    drop(first);
    for _ in 0..3 {
        send(&client, "t", "{}").await;
    }
    assert_eq!(supervise(&client, &peer, &toml, &[2]).await, 1);
    let (state, words) = reason(&client, 2).await;
    assert_eq!(state, "held", "{words}");
    let ids = message_ids(&peer.received());
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len(), "{ids:?}");
}

/// The memory this process holds at most since it began, in megabytes.
fn peak_megabytes(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

/// Messages and templates that outgrow their limits are dead with a reason, at once, the relay's memory
/// stays flat, and the one behind them is delivered.
#[tokio::test(flavor = "multi_thread")]
async fn what_outgrows_its_limits_is_dead_with_a_reason_and_memory_stays_flat() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let peer = SmtpPeer::start().await;
    let route = |name: &str, to: &str, text: &str| {
        format!(
            "[[routes]]\ntype = \"{name}\"\nsink = \"mail\"\nto = '''{to}'''\nsubject = \"s\"\ntext = '''{text}'''\n"
        )
    };
    let ann = "ann@example.org";
    let endless = "{% for a in range(9999) %}{% for b in range(9999) %}x{% endfor %}{% endfor %}";
    let huge = "{% for a in range(9000) %}{{ payload.s }}{% endfor %}";
    let recursive = "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}";
    let repeated = "{{ 'x' * 4000000000 }}";
    let rest = format!(
        "[sinks.mail]\nkind = \"smtp\"\nurl = \"smtp://{}\"\nfrom = \"shop@example.com\"\n",
        peer.address
    ) + &route("good", ann, "x")
        + &route("endless", ann, endless)
        + &route("huge", ann, huge)
        + &route("recursive", ann, recursive)
        + &route("repeated", ann, repeated)
        + &route("list", "{{ payload.to }}", "x")
        + &route("big", ann, "{{ payload.a | length }}");
    let relay = Process::start(&toml(&database.url(), RELAY, &rest));
    until_routed(&client).await;
    let kilobyte = format!(r#"{{"s": "{}"}}"#, "x".repeat(1000));
    let deep = format!(r#"{{"a": {}{}}}"#, "[".repeat(2000), "]".repeat(2000));
    let list: Vec<String> = (0..100_000).map(|n| format!("a{n}@example.org")).collect();
    let list = format!(r#"{{"to": "{}"}}"#, list.join(", "));
    send(&client, "good", "{}").await;
    until_count(&client, "one is delivered", "SELECT count(*) FROM outbox.ledger", 1).await;
    let before = peak_megabytes(relay.id());
    let words = [
        (send(&client, "endless", "{}").await, "text: the template runs too long"),
        (send(&client, "huge", &kilobyte).await, "text: the text is larger than"),
        (send(&client, "recursive", "{}").await, "text: "),
        (send(&client, "repeated", "{}").await, "text: "),
        (send(&client, "list", &list).await, "to: it names more than"),
        (send(&client, "big", &deep).await, "payload is "),
    ];
    let big = "INSERT INTO outbox.message (type, payload)
               SELECT 'big', jsonb_build_object('a', jsonb_agg(1)) FROM generate_series(1, 10000000)";
    client.batch_execute(big).await.unwrap();
    send(&client, "good", "{}").await;
    until_count(&client, "all is decided", OPEN, 0).await;
    let after = peak_megabytes(relay.id());
    for (id, words) in words {
        let (state, found) = reason(&client, id).await;
        assert_eq!(state, "dead", "{found}");
        assert!(found.contains(words), "{found}");
    }
    println!("peak memory {before} MB before, {after} MB after");
    let (_, found) = reason(&client, 8).await;
    assert!(found.contains("payload is too large for a mail"), "{found}");
    assert_eq!(peer.mails().len(), 2);
    assert!(after < before + 200, "{before} MB before, {after} MB after");
}

/// Guard (the fence around an attempt): whatever panics inside ends as an outcome, and what is behind it
/// goes on. Nobody but the table's owner can write such a time; the mail library panics on it.
#[tokio::test(flavor = "multi_thread")]
async fn a_panic_inside_is_an_outcome() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let peer = SmtpPeer::start().await;
    let rest = format!(
        "[sinks.mail]\nkind = \"smtp\"\nurl = \"smtp://{}\"\nfrom = \"shop@example.com\"\nconcurrency = 1\n\
         retry = {{ delays = [\"100ms\", \"100ms\"] }}\n\
         [[routes]]\ntype = \"*\"\nsink = \"mail\"\nto = \"ann@example.org\"\nsubject = \"s\"\ntext = \"x\"\n",
        peer.address
    );
    let relay = Relay::start(config(&database.url(), &rest));
    until_routed(&client).await;
    client
        .batch_execute(
            "BEGIN;
             INSERT INTO outbox.message (type, payload) VALUES ('t', '{}'), ('t', '{}'), ('t', '{}');
             UPDATE outbox.message SET created_at = '1960-01-01' WHERE id < 3;
             COMMIT",
        )
        .await
        .unwrap();
    until_count(&client, "all is decided", OPEN, 0).await;
    relay.stop().await;
    for id in [1, 2] {
        let (state, words) = reason(&client, id).await;
        assert_eq!(state, "dead", "{words}");
        assert!(words.contains("a panic, see the log"), "{words}");
    }
    assert_eq!(peer.accepted(), 1);
}

/// Guard: a message that cannot be made says nothing of its destination. While that is away, such
/// messages are no probes that "passed".
#[tokio::test(flavor = "multi_thread")]
async fn messages_that_cannot_be_made_neither_open_nor_close_the_breaker() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let vacant = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let rest = format!(
        "[sinks.mail]\nkind = \"smtp\"\nurl = \"smtp://{vacant}\"\nfrom = \"shop@example.com\"\n\
         [[routes]]\ntype = \"*\"\nsink = \"mail\"\nto = \"ann@example.org\"\nsubject = \"s\"\n\
         text = \"{{{{ payload.s }}}}\"\n"
    );
    let relay = Relay::start(config(&database.url(), &rest));
    until_routed(&client).await;
    for _ in 0..2 {
        send(&client, "t", r#"{"s": "x"}"#).await;
    }
    let open = "SELECT count(*) FROM outbox.flow WHERE open_since IS NOT NULL";
    until_count(&client, "the breaker opens", open, 1).await;
    let since =
        "SELECT coalesce((extract(epoch FROM open_since) * 1000)::bigint, 0) FROM outbox.flow";
    let opened = number(&client, since).await;
    for _ in 0..5 {
        send(&client, "t", "{}").await;
    }
    let dead = "SELECT count(*) FROM outbox.delivery WHERE state = 'dead'";
    until_count(&client, "they are dead", dead, 5).await;
    // Both of the others have been probes since, and the flow tells of it.
    let probes =
        number(&client, "SELECT sum(rev) FROM outbox.delivery WHERE state = 'pending'").await;
    let both = format!(
        "SELECT count(*) FROM (SELECT sum(rev) AS revs FROM outbox.delivery WHERE state = 'pending') d
          WHERE d.revs >= {probes} + 2"
    );
    until_count(&client, "the others are tried", &both, 1).await;
    let now =
        number(&client, "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint").await;
    let told = format!(
        "SELECT count(*) FROM outbox.flow WHERE extract(epoch FROM updated_at) * 1000 > {now}"
    );
    until_count(&client, "the flow tells", &told, 1).await;
    let still = number(&client, since).await;
    assert!((still - opened).abs() < 500, "it opened anew {} ms later", still - opened);
    assert_eq!(number(&client, open).await, 1);
    let attempts = "SELECT sum(attempt) FROM outbox.delivery WHERE state = 'pending'";
    assert_eq!(number(&client, attempts).await, 0, "waiting spends nothing");
    relay.stop().await;
}
