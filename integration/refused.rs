//! A mail server that refuses us, and not our mails: the sink waits and tells, no row dies of it. And one
//! that wants less of us.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio_postgres::Client;

use crate::harness::http::HttpPeer;
use crate::harness::plane::{LONG, number, until_closed, until_count, until_routed};
use crate::harness::postgres::Database;
use crate::harness::relay::{Process, Relay, config, toml};
use crate::harness::smtp::{Say, Settings, SmtpPeer, Step};

const OPEN: &str = "SELECT count(*) FROM outbox.flow WHERE open_since IS NOT NULL";
const DEAD: &str = "SELECT count(*) FROM outbox.delivery WHERE state = 'dead'";
const PENDING: &str = "SELECT count(*) FROM outbox.delivery WHERE sink = 'mail' AND state = 'pending' AND attempt = 0";
const DELIVERED: &str =
    "SELECT count(*) FROM outbox.ledger WHERE sink = 'mail' AND outcome = 'delivered'";

/// A mail sink with one route, and what else stands in its table.
fn mail(peer: &SmtpPeer, more: &str) -> String {
    format!(
        "[sinks.mail]\nkind = \"smtp\"\nurl = \"smtp://127.0.0.1:{}\"\nfrom = \"shop@example.com\"\n\
         retry = {{ delays = [\"100ms\", \"100ms\", \"100ms\"] }}\n{more}\n\
         [[routes]]\ntype = \"order.*\"\nsink = \"mail\"\nto = \"{{{{ payload.to }}}}\"\n\
         subject = \"{{{{ id }}}}\"\ntext = \"hello\"\n",
        peer.address.port(),
    )
}

async fn send_many(client: &Client, count: i64) {
    client
        .execute(
            "INSERT INTO outbox.message (type, payload)
             SELECT 'order.created', jsonb_build_object('to', 'to' || g || '@x.example')
               FROM generate_series(1, $1::bigint) g",
            &[&count],
        )
        .await
        .unwrap();
}

/// The whole way, as an operator meets it: the password is wrong. The alert goes through another sink,
/// `status` says what to do, and once it is done and the process told so, everything goes out.
#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_told_once_and_no_row_dies() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let chat = HttpPeer::start().await;
    let login = Some(("shop".to_owned(), "right".to_owned()));
    let peer = SmtpPeer::start_with(Settings { login, ..Settings::default() }).await;
    let with = |password: &str| {
        let login = format!("username = \"shop\"\npassword = \"{password}\"\nconcurrency = 4");
        let rest = mail(&peer, &login)
            + &format!(
                "[sinks.chat]\nkind = \"webhook\"\nurl = \"{}\"\n\
                 [[routes]]\ntype = \"outboxd.alert\"\nsink = \"chat\"\n",
                chat.url("/"),
            );
        toml(&database.url(), "", &rest)
    };
    let process = Process::start(&with("wrong"));
    until_routed(&client).await;
    send_many(&client, 1_000).await;
    let told = tokio::time::timeout(LONG, chat.until(|chat| chat.requests() == 1)).await;
    told.expect("an alert");
    let body: Value = serde_json::from_slice(&chat.received()[0].body).unwrap();
    assert_eq!(body["title"].as_str(), Some("shop: mail refuses us"));
    assert_eq!((number(&client, DEAD).await, number(&client, PENDING).await), (0, 1_000));
    let logins = peer.commands().iter().filter(|line| line.starts_with("AUTH")).count();
    println!("{logins} logins were tried for 1000 rows");
    assert!((1..=4).contains(&logins), "{logins} logins");
    let (code, status) = process.says(&["status"]);
    assert!(status.contains("refuses us: AUTH: 535") && status.contains("SIGHUP"), "{status}");
    assert_eq!(code, 1, "an operator must do something");

    process.reload(&with("right"));
    until_count(&client, "all go out", DELIVERED, 1_000).await;
    assert_eq!(peer.accepted(), 1_000);
    until_count(&client, "it is not barred any more", OPEN, 0).await;
}

/// Guard: senders. The sink's own sender is refused: the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_sender_that_is_refused_kills_no_row() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let peer = SmtpPeer::start().await;
    peer.always(Step::Rcpt, Say::text("553 5.7.1 Sender address rejected: not owned by user"));
    let relay = Relay::start(config(&database.url(), &mail(&peer, "concurrency = 4")));
    until_routed(&client).await;
    send_many(&client, 100).await;
    until_count(&client, "the sink waits", OPEN, 1).await;
    relay.stop().await;
    assert_eq!((number(&client, DEAD).await, number(&client, PENDING).await), (0, 100));
    assert!(peer.connections() <= 4, "{} connections", peer.connections());
}

/// Guard: a block list. A few rows die before it is clear that it is us; the others wait and go out.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_of_refusals_by_policy_stops_before_it_kills_all() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let peer = SmtpPeer::start().await;
    peer.always(Step::Rcpt, Say::text("550 5.7.1 blocked, see our list"));
    let config = || config(&database.url(), &mail(&peer, "concurrency = 4"));
    let relay = Relay::start(config());
    until_routed(&client).await;
    send_many(&client, 200).await;
    until_count(&client, "the sink waits", OPEN, 1).await;
    relay.stop().await;
    let dead = number(&client, DEAD).await;
    println!("{dead} of 200 rows died before it was clear");
    assert_eq!(dead, 9, "the tenth waits with the others");
    assert_eq!(number(&client, PENDING).await, 191);
    let reason = "SELECT open_reason FROM outbox.flow WHERE sink = 'mail'";
    let reason = database.psql(reason);
    assert!(reason.starts_with("refuses us: recipient refused: 550 5.7.1 blocked"), "{reason}");

    peer.usual(Step::Rcpt);
    let relay = Relay::start(config());
    until_count(&client, "the others go out", DELIVERED, 191).await;
    relay.stop().await;
    assert_eq!(number(&client, DEAD).await, 9);
}

/// Guard: several recipients. Those whose refusal was taken back are asked again.
#[tokio::test(flavor = "multi_thread")]
async fn whose_refusal_was_taken_back_is_asked_again() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let peer = SmtpPeer::start().await;
    peer.always(Step::Rcpt, Say::text("550 5.7.1 blocked, see our list"));
    let config = || config(&database.url(), &mail(&peer, "concurrency = 1"));
    let relay = Relay::start(config());
    until_routed(&client).await;
    client
        .batch_execute(
            "INSERT INTO outbox.message (type, payload)
             SELECT 'order.created', jsonb_build_object('to', 'a' || g || '@x.example, b@x.example')
               FROM generate_series(1, 20) g",
        )
        .await
        .unwrap();
    until_count(&client, "the sink waits", OPEN, 1).await;
    relay.stop().await;
    peer.usual(Step::Rcpt);
    let relay = Relay::start(config());
    until_count(&client, "the others go out", DELIVERED, 11).await;
    relay.stop().await;
    assert!(peer.mails().iter().all(|mail| mail.to.len() == 2));
}

/// Guard: single refusals by policy, among acceptances, are those messages' own.
#[tokio::test(flavor = "multi_thread")]
async fn refusals_by_policy_among_acceptances_stop_nobody() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let peer = SmtpPeer::start().await;
    // Three of four recipients are refused.
    peer.decide_recipient(|to| {
        let number: u32 = to.trim_start_matches("to").split('@').next()?.parse().ok()?;
        (!number.is_multiple_of(4)).then(|| Say::text("550 5.7.1 we do not like this one"))
    });
    let relay = Relay::start(config(&database.url(), &mail(&peer, "concurrency = 1")));
    until_routed(&client).await;
    send_many(&client, 80).await;
    until_count(&client, "all have an end", DEAD, 60).await;
    until_count(&client, "all have an end", DELIVERED, 20).await;
    assert_eq!(number(&client, OPEN).await, 0);
    relay.stop().await;
}

/// Guard: the server's pace. It says 454 after the mail, to all that are in flight: the sink waits, nothing
/// is asked meanwhile, no attempt is spent, and everything arrives once.
#[tokio::test(flavor = "multi_thread")]
async fn a_burst_of_454_slows_the_sink_and_loses_no_row() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let peer = SmtpPeer::start().await;
    let times = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&times);
    peer.decide(move |_| {
        let mut seen = seen.lock().unwrap();
        seen.push(Instant::now());
        match seen.len() {
            ..=8 => Say::text("454 Throttling failure: Maximum sending rate exceeded."),
            _ => Say::text("250 2.0.0 ok"),
        }
    });
    let relay = Relay::start(config(&database.url(), &mail(&peer, "concurrency = 8")));
    until_routed(&client).await;
    send_many(&client, 200).await;
    until_closed(&client).await;
    relay.stop().await;
    let spent = "SELECT count(*) FROM outbox.ledger WHERE sink = 'mail' AND attempts > 1";
    assert_eq!((number(&client, DELIVERED).await, number(&client, spent).await), (200, 0));
    let times = times.lock().unwrap();
    assert_eq!(times.len(), 208, "each was asked once more, and no other");
    let pause = times[8] - times[0];
    println!("the next mail came {pause:?} after the first that was told so");
    assert!(pause >= Duration::from_secs(5), "{pause:?}");
}

/// Guard: the sender's rate over a hand-over, measured at the server; and each row waits in the database
/// until its turn.
#[tokio::test(flavor = "multi_thread")]
async fn no_second_holds_more_than_the_senders_rate_across_a_hand_over() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let peer = SmtpPeer::start().await;
    let times = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&times);
    peer.decide(move |_| {
        seen.lock().unwrap().push(Instant::now());
        Say::text("250 2.0.0 ok")
    });
    let rest = mail(&peer, "sender_rate = \"20/s\"\nconcurrency = 16");
    let first = Relay::start(config(&database.url(), &rest));
    until_routed(&client).await;
    send_many(&client, 100).await;
    peer.until(|peer| peer.accepted() >= 30).await;
    first.stop().await;
    let pushed = "SELECT coalesce(max(rev), 0)::bigint FROM outbox.delivery";
    let before = number(&client, pushed).await;
    let second = Relay::start(config(&database.url(), &rest));
    until_closed(&client).await;
    second.stop().await;
    let times = times.lock().unwrap();
    assert_eq!(times.len(), 100);
    // The first mails take longer from their beginning to the server: they connect.
    let span = Duration::from_millis(800);
    let within =
        |(n, at): (usize, &Instant)| times[n..].iter().take_while(|t| **t < *at + span).count();
    let most = times.iter().enumerate().map(within).max().unwrap();
    let took = times[99] - times[0];
    println!(
        "most mails within {span:?}: {most}; all took {took:?}; a row was put back {before} times"
    );
    assert!(most <= 20, "{most} within a second");
    assert!(took >= Duration::from_secs(4) && took < Duration::from_secs(12), "{took:?}");
    assert!(before <= 3, "a row was put back {before} times");
}

/// Guard: many of one sender. Each is put back once, and those of another sender, written after them into
/// the same lane, pass; so does a higher lane of the same sender. What waits uses up no quota.
#[tokio::test(flavor = "multi_thread")]
async fn many_of_one_sender_are_put_back_once_and_stop_nobody() {
    const MANY: i64 = 3_000;
    let database = Database::migrated().await;
    let client = database.connect().await;
    let peer = SmtpPeer::start().await;
    let route = |name: &str, more: &str| {
        format!(
            "[[routes]]\ntype = \"{name}\"\nsink = \"mail\"\nto = \"{{{{ payload.to }}}}\"\n\
             subject = \"{name}\"\ntext = \"hello\"\n{more}\n"
        )
    };
    let rest = mail(&peer, "sender_rate = \"10/s\"\ndaily_quota = 1000\nconcurrency = 8")
        + &route("other", "from = \"shop@other.example\"")
        + &route("made", "from = \"{{ payload.from }}\"")
        + &route("reset", "priority = \"high\"");
    let relay = Relay::start(config(&database.url(), &rest));
    until_routed(&client).await;
    send_many(&client, MANY).await;
    let begun = Instant::now();
    let few = "INSERT INTO outbox.message (type, payload)
               SELECT t, '{\"to\": \"x@x.example\", \"from\": \"a@made.example\"}'
                 FROM unnest('{other,made,reset}'::text[]) t, generate_series(1, 5)";
    client.batch_execute(few).await.unwrap();
    let arrived = |subject: &str| {
        let header = format!("Subject: {subject}\r\n");
        let has = |data: &[u8]| String::from_utf8_lossy(data).contains(&header);
        peer.mails().iter().filter(|mail| has(&mail.data)).count()
    };
    for subject in ["other", "made", "reset"] {
        tokio::time::timeout(LONG, peer.until(|_| arrived(subject) == 5)).await.expect(subject);
        println!("all {subject} had arrived after {:?}", begun.elapsed());
    }
    let never = "SELECT count(*) FROM outbox.delivery WHERE rev = 0";
    until_count(&client, "all have their turn", never, 0).await;
    println!("all of {MANY} had their turn after {:?}", begun.elapsed());
    // From here on nothing is written but what begins, and what a higher lane took the turn of.
    let written =
        "SELECT sum(rev)::bigint + (SELECT count(*) FROM outbox.ledger) FROM outbox.delivery";
    let before = (number(&client, written).await, peer.accepted());
    peer.until(|peer| peer.accepted() >= before.1 + 30).await;
    let after = number(&client, written).await;
    let again = after - before.0;
    println!("{again} more times put back while 30 began");
    assert!(again <= 30, "{again} times put back while 30 began");
    let most = "SELECT max(rev)::bigint FROM outbox.delivery";
    let (most, waiting) = (number(&client, most).await, number(&client, PENDING).await);
    relay.stop_now().await;
    let sum = number(&client, "SELECT sum(rev)::bigint FROM outbox.delivery").await;
    println!("{waiting} waited, put back {sum} times in all and one {most} times at most");
    // On a busy machine some come late for their turn and queue once more; it is not once a second.
    assert!(waiting > MANY - 1_000 && most <= 10, "{waiting} waiting, put back {most} times");
    let used = "SELECT sum(used)::bigint FROM outbox.spent WHERE span = 'day'";
    let (used, sent) = (number(&client, used).await, i64::try_from(peer.accepted()).unwrap());
    // Where the sender is in the payload it is only known once the row is drawn for.
    assert!(used <= sent + 8 + 5, "{used} of the quota for {sent} mails");
}

/// Guard: a sender that the application wrote is its own trouble.
#[tokio::test(flavor = "multi_thread")]
async fn a_sender_made_of_a_message_bars_nobody() {
    let database = Database::migrated().await;
    let client = database.connect().await;
    let peer = SmtpPeer::start().await;
    peer.script(Step::Mail, [Say::text("553 5.1.8 no such domain")]);
    let rest = mail(&peer, "concurrency = 1").replace(
        "[[routes]]\ntype = \"order.*\"\n",
        "[[routes]]\ntype = \"order.*\"\nfrom = \"{{ payload.to }}\"\n",
    );
    let relay = Relay::start(config(&database.url(), &rest));
    until_routed(&client).await;
    send_many(&client, 10).await;
    until_count(&client, "the others go out", DELIVERED, 9).await;
    relay.stop().await;
    assert_eq!((number(&client, DEAD).await, number(&client, OPEN).await), (1, 0));
}
