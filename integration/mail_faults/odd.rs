//! What is odd and no fault: servers that are slow, wordy, or have limits of their own.

use std::collections::BTreeMap;
use std::time::Duration;

use outboxd::config::Way;
use outboxd::sink::{Prepared, Sink};
use serde_json::json;

use super::relayed::mail as mail_config;
use crate::harness::http::Gate;
use crate::harness::plane::{number, send, until_closed, until_routed};
use crate::harness::postgres::Database;
use crate::harness::relay::{Relay, config};
use crate::harness::smtp::{Fate, Say, Settings, SmtpPeer, Step};
use crate::sink_contract::{
    LONG, assert_delivered, attempt, build, mail, message, prepare, smtp_to, soon,
};

fn letter_to(sink: &Sink, to: &str) -> Prepared {
    let payload = json!({ "to": to, "text": "hello" }).to_string();
    prepare(sink, &mail(), &message(42, &payload))
}

fn after(say: Say) -> Say {
    Say::After(Duration::from_millis(100), Box::new(say))
}

#[tokio::test]
async fn replies_that_are_odd_and_valid_are_understood() {
    let long = format!("250 2.0.0 {}", "x".repeat(1_000));
    let odd = [
        (Step::Greeting, Say::text("220-peer.example\r\n220-no spam, please\r\n220 ESMTP")),
        (Step::Greeting, Say::text("220")),
        (Step::Greeting, after(Say::text("220 late"))),
        (Step::Ehlo, Say::text("250-peer.example\r\n250-SIZE\r\n250-X-ODD a=b\r\n250 HELP")),
        (Step::Ehlo, Say::Bytes(b"250-peer.example\n250 PIPELINING\n".to_vec())),
        (Step::Mail, Say::text("250-first\r\n250 second")),
        (Step::Mail, Say::Pieces(vec!["2", "50", " 2.1.0 ", "Ok\r"])),
        (Step::Rcpt, Say::text("251 2.1.5 User not local; will forward")),
        (Step::Rcpt, Say::text("252 2.1.5 cannot say, but will try")),
        (Step::Rcpt, after(Say::text("250 a tarpit"))),
        (Step::Data, Say::text("354")),
        (Step::Data, Say::Bytes(b"354 go on\n".to_vec())),
        (Step::Dot, Say::text("250-2.0.0 warning: your clock is slow\r\n250 2.0.0 queued")),
        (Step::Dot, Say::text("250")),
        (Step::Dot, Say::Bytes(b"250 2.0.0 angenommen f\xfcr Zustellung\r\n".to_vec())),
        (Step::Dot, Say::Pieces(vec!["250-2.0.0 ", "Ok\r\n25", "0 queued"])),
        (Step::Dot, Say::text(&long)),
        (Step::Dot, after(Say::text("250 late"))),
    ];
    for (step, say) in odd {
        for offers in [vec![], vec!["PIPELINING", "SIZE 1000000", "8BITMIME", "CHUNKING"]] {
            let settings = Settings { offers, glued: true, ..Settings::default() };
            let peer = SmtpPeer::start_with(settings).await;
            peer.script(step, [say.clone()]);
            let sink = build(LONG, Way::Smtp(smtp_to(peer.address.port())));
            let letter = letter_to(&sink, "a@x.example, b@x.example");
            assert_delivered(&attempt(&sink, &letter, LONG).await, "250");
            assert_delivered(&attempt(&sink, &letter, LONG).await, "250");
            assert_eq!((peer.accepted(), peer.connections()), (2, 1), "{step:?} {say:?}");
        }
    }
}

/// A mail to more than a server takes at a time goes out in as many as it takes, at once.
#[tokio::test]
async fn a_limit_of_recipients_splits_the_mail() {
    for offers in [vec![], vec!["PIPELINING"]] {
        let settings = Settings { offers, recipients_max: Some(50), ..Settings::default() };
        let peer = SmtpPeer::start_with(settings).await;
        let sink = build(LONG, Way::Smtp(smtp_to(peer.address.port())));
        let to: Vec<String> = (0..120).map(|n| format!("reader-{n}@x.example")).collect();
        assert_delivered(
            &attempt(&sink, &letter_to(&sink, &to.join(", ")), LONG).await,
            "250 2.0.0",
        );
        let mails = peer.mails();
        assert_eq!(mails.iter().map(|mail| mail.to.len()).collect::<Vec<_>>(), [50, 50, 20]);
        assert_eq!(mails.into_iter().flat_map(|mail| mail.to).collect::<Vec<_>>(), to);
    }
}

/// Servers close connections when they have served enough: nothing is lost, doubled, or charged for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_hangs_up_after_some_mails_costs_no_attempt() {
    let settings =
        Settings { offers: vec!["PIPELINING"], mails_max: Some(7), ..Settings::default() };
    let peer = SmtpPeer::start_with(settings).await;
    let database = Database::migrated().await;
    let client = database.connect().await;
    let rest = mail_config(&format!("smtp://{}", peer.address), "");
    let relay = Relay::start(config(&database.url(), &rest));
    until_routed(&client).await;
    let sql = "INSERT INTO outbox.message (type, payload) SELECT 'order.created',
                 jsonb_build_object('to', 'reader-' || g || '@x.example', 'about', '')
                 FROM generate_series(1, 200) g";
    client.batch_execute(sql).await.unwrap();
    until_closed(&client).await;
    relay.stop().await;
    let mut copies = BTreeMap::new();
    for mail in peer.mails() {
        *copies.entry(mail.to.join(" ")).or_insert(0) += 1;
    }
    assert_eq!((copies.len(), copies.values().max()), (200, Some(&1)));
    let first = "SELECT count(*) FROM outbox.ledger WHERE outcome = 'delivered' AND attempts = 1";
    assert_eq!(number(&client, first).await, 200);
    assert!(peer.connections() >= 29, "{}", peer.connections());
}

/// A server that thinks for long about one mail holds one slot, and the mail arrives once.
#[tokio::test(flavor = "multi_thread")]
async fn a_mail_that_waits_for_its_reply_holds_up_no_other() {
    let peer = SmtpPeer::start().await;
    let gate = Gate::new();
    peer.script(Step::Dot, [Say::Gated(gate.clone(), Box::new(Say::text("250 2.0.0 late")))]);
    let database = Database::migrated().await;
    let client = database.connect().await;
    let rest = mail_config(&format!("smtp://{}", peer.address), "concurrency = 2");
    let relay = Relay::start(config(&database.url(), &rest));
    until_routed(&client).await;
    let post =
        async || send(&client, "order.created", r#"{"to": "a@x.example", "about": ""}"#).await;
    post().await;
    soon("it has the first", peer.until(|peer| peer.mails().len() == 1)).await;
    for _ in 0..50 {
        post().await;
    }
    soon("it has all", peer.until(|peer| peer.accepted() == 50)).await;
    assert_eq!(peer.mails()[0].fate, Fate::Unanswered);
    gate.open();
    until_closed(&client).await;
    relay.stop().await;
    assert_eq!((peer.mails().len(), peer.accepted()), (51, 51));
    let late =
        "SELECT count(*) FROM outbox.ledger WHERE receipt = '250 2.0.0 late' AND attempts = 1";
    assert_eq!(number(&client, late).await, 1);
}
