//! What mail promises beyond what all sinks do.

use std::sync::Arc;

use outboxd::config::{Login, MailSecurity, Secret, Way};
use outboxd::delivery::{Cause, Outcome, Phase};
use outboxd::message::Message;
use outboxd::policy::Codes;
use outboxd::sink::{Prepared, Sink};

use super::{
    Fate, LONG, SHORT, Say, Settings, SmtpPeer, Step, assert_delivered, assert_in_doubt,
    assert_permanent, assert_transient, attempt, attempt_under, build, config, mail, message,
    prepare, short, smtp_to, soon,
};
use crate::harness::http::Gate;

/// A certificate for a host, as a file to trust it by and as a server's config.
pub fn certificate(host: &str) -> (tempfile::NamedTempFile, Arc<rustls::ServerConfig>) {
    let made = rcgen::generate_simple_self_signed([host.to_owned()]).unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), made.cert.pem()).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    (file, Arc::new(config))
}

fn to_bob(id: i64) -> Message {
    message(id, r#"{"to": "bob@shop.example", "text": "hello"}"#)
}

async fn stage() -> (SmtpPeer, Sink, Prepared) {
    let peer = SmtpPeer::start().await;
    let sink = build(LONG, Way::Smtp(smtp_to(peer.address.port())));
    let letter = prepare(&sink, &mail(), &to_bob(42));
    (peer, sink, letter)
}

fn sent(letter: &Prepared) -> &[u8] {
    let Prepared::Mail(mail) = letter else { panic!("no mail") };
    mail.data()
}

#[tokio::test]
async fn the_mail_arrives_byte_by_byte() {
    let (peer, sink, _) = stage().await;
    for text in [".", "..\n.x\n", "\n.\n", "\r.\r\n", "a\rb\n.\r\nc", "", "ä\n.ö"] {
        let payload = serde_json::json!({ "to": "bob@shop.example", "text": text }).to_string();
        let letter = prepare(&sink, &mail(), &message(1, &payload));
        assert_delivered(&attempt(&sink, &letter, LONG).await, "250");
        let arrived = peer.mails().pop().unwrap();
        assert_eq!(arrived.data, sent(&letter), "{text:?}");
        assert_eq!((arrived.from.as_str(), arrived.fate), ("shop@example.com", Fate::Accepted));
        assert_eq!(arrived.to, ["bob@shop.example"]);
    }
    assert_eq!(peer.connections(), 1);
}

#[tokio::test]
async fn a_large_mail_arrives_whole() {
    let (peer, sink, _) = stage().await;
    let text = ".line\n".repeat(200_000);
    let payload = serde_json::json!({ "to": "bob@shop.example", "text": text }).to_string();
    let letter = prepare(&sink, &mail(), &message(1, &payload));
    assert_delivered(&attempt(&sink, &letter, LONG).await, "250");
    assert_eq!(peer.mails().pop().unwrap().data, sent(&letter));
}

/// The fault this sink was built against: a library put the connection of an abandoned mail back,
/// and the late 250 of the first mail was taken for the answer to the second, which was refused.
#[tokio::test]
async fn a_late_reply_never_counts_for_the_next_mail() {
    let (peer, sink, letter) = stage().await;
    let gate = Gate::new();
    let late = Say::Gated(gate.clone(), Box::new(Say::text("250 2.0.0 late")));
    peer.script(Step::Dot, [late, Say::text("550 5.7.1 second refused")]);
    let outcome = attempt(&sink, &letter, SHORT).await;
    assert_in_doubt(&outcome, "timed out after the message went out");
    gate.open();
    let second = prepare(&sink, &mail(), &to_bob(43));
    assert_permanent(&attempt(&sink, &second, LONG).await, "550 5.7.1 second refused");
    assert_eq!(peer.connections(), 2);
}

/// The same for an attempt dropped at every other step.
#[tokio::test]
async fn a_dialogue_dropped_anywhere_is_not_resumed() {
    for step in [Step::Greeting, Step::Ehlo, Step::Mail, Step::Rcpt, Step::Data] {
        let (peer, sink, letter) = stage().await;
        peer.script(step, [Say::Hang]);
        assert_transient(&attempt(&sink, &letter, SHORT).await, "before the message went out");
        soon("closed", peer.until(|p| p.open_connections() == 0)).await;
        peer.script(Step::Rcpt, [Say::text("550 5.1.1 second refused")]);
        assert_permanent(&attempt(&sink, &letter, LONG).await, "second refused");
        assert_eq!(peer.connections(), 2, "{step:?}");
    }
}

/// A reply at a step, how its mail ends, and the wait it asks for.
type Case = (Step, &'static str, &'static str, Option<u64>);

/// Whoever swaps two causes, or takes one mail's trouble for the server's, meets a line here.
const REPLIES: &[Case] = &[
    (Step::Greeting, "554 5.3.2 no", "barred", None),
    (Step::Greeting, "450 4.3.2 try again in 60 seconds", "unreachable", Some(60)),
    (Step::Greeting, "421 4.3.2 no", "throttled", None),
    (Step::Greeting, "421 4.7.0 too many connections, retry in 5 minutes", "throttled", Some(300)),
    (Step::Ehlo, "550 5.7.1 no", "barred", None),
    (Step::Ehlo, "451 4.7.1 connection rate too high", "throttled", None),
    (Step::Mail, "451 4.3.0 no", "refused", None),
    (Step::Mail, "450 4.7.1 greylisted, try again in 300 seconds", "refused", Some(300)),
    (Step::Mail, "450 4.7.1 sending rate exceeded", "throttled", None),
    (Step::Mail, "421 4.7.0 no", "throttled", None),
    (Step::Mail, "550 5.7.1 no", "barred", None),
    (Step::Mail, "530 5.7.0 log in first", "barred", None),
    (Step::Mail, "552 5.3.4 too large", "permanent", None),
    (Step::Mail, "503 5.5.1 nested", "unreachable", None),
    (Step::Rcpt, "450 4.2.0 no", "refused", None),
    (Step::Rcpt, "450 4.2.1 receiving mail at a rate that prevents more", "refused", None),
    (Step::Rcpt, "451 4.7.1 Greylisting at this rate, come back in 00:05:00", "refused", Some(300)),
    (Step::Rcpt, "452 4.5.3 too many recipients", "refused", None),
    (Step::Rcpt, "450 4.7.1 rate limit exceeded, try again in 2 min", "throttled", Some(120)),
    (Step::Rcpt, "421 4.7.0 no", "throttled", None),
    (Step::Rcpt, "451 4.7.1 come later", "refused", Some(300)),
    (Step::Rcpt, "552 5.2.2 full", "refused", Some(1_800)),
    (Step::Rcpt, "553 5.7.1 Sender address rejected: not owned by user", "barred", None),
    (Step::Rcpt, "550 5.1.1 no", "permanent", None),
    (Step::Rcpt, "354 what", "refused", None),
    (Step::Data, "451 4.3.0 no", "refused", None),
    (Step::Data, "454 Throttling failure: Daily message quota exceeded", "throttled", None),
    (Step::Data, "421 4.3.0 wait 10 seconds", "throttled", Some(10)),
    (Step::Data, "554 5.5.1 no", "permanent", None),
    (Step::Data, "250 what", "refused", None),
    (Step::Dot, "452 4.3.1 no", "refused", Some(1_800)),
    (Step::Dot, "454 Throttling failure: Maximum sending rate exceeded", "throttled", None),
    (Step::Dot, "451 4.7.0 throttled, try again in 1 hour", "throttled", Some(3_600)),
    (Step::Dot, "421 4.3.0 no", "throttled", None),
    (Step::Dot, "554 5.6.0 no", "permanent", None),
    (Step::Dot, "354 what", "in doubt", None),
    (Step::Dot, "what", "in doubt", None),
];

#[tokio::test]
async fn replies_mean_what_phase_and_code_say() {
    for &(step, reply, expected, wait) in REPLIES {
        let (peer, sink, letter) = stage().await;
        peer.script(step, [Say::text(reply)]);
        let outcome = attempt(&sink, &letter, LONG).await;
        assert_eq!(short(&outcome), (expected, wait), "{step:?} {reply}");
        let next = attempt(&sink, &letter, LONG).await;
        assert_delivered(&next, "250");
        // A refusal keeps the connection; what is not understood, or 421, does not.
        let refused = !reply.starts_with("421") && reply.starts_with(['4', '5']);
        let kept = refused && !matches!(step, Step::Greeting | Step::Ehlo);
        assert_eq!(peer.connections(), if kept { 1 } else { 2 }, "{step:?} {reply}");
    }
}

/// From RCPT on; before it nothing is a mail's fault.
#[tokio::test]
async fn a_list_says_which_replies_are_permanent() {
    let codes = Codes::new([450, 554]);
    let cases: &[Case] = &[
        (Step::Greeting, "554 5.3.2 no", "barred", None),
        (Step::Mail, "554 5.7.1 no", "barred", None),
        (Step::Mail, "450 4.7.1 no", "refused", Some(300)),
        (Step::Rcpt, "450 4.2.1 no", "permanent", None),
        (Step::Rcpt, "451 4.2.1 no", "refused", None),
        (Step::Rcpt, "550 5.1.1 no", "refused", None),
        (Step::Rcpt, "550 5.1.1 try again in 9 seconds", "refused", Some(9)),
        (Step::Data, "554 5.5.1 no", "permanent", None),
        (Step::Data, "503 5.5.1 no", "unreachable", None),
        (Step::Dot, "554 5.6.0 no", "permanent", None),
        (Step::Dot, "552 5.3.4 no", "permanent", None),
        (Step::Dot, "421 4.3.0 no", "throttled", None),
    ];
    for &(step, reply, expected, wait) in cases {
        let (peer, sink, letter) = stage().await;
        peer.script(step, [Say::text(reply)]);
        let outcome = attempt_under(&sink, &letter, Some(&codes), LONG).await;
        assert_eq!(short(&outcome), (expected, wait), "{step:?} {reply}");
    }
    // What is permanent for one recipient is no reason to give up another one.
    let (peer, sink, _) = stage().await;
    let payload = r#"{"to": "a@x.example, b@x.example", "text": "t"}"#;
    let letter = prepare(&sink, &mail(), &message(1, payload));
    peer.script(Step::Rcpt, [Say::text("450 4.2.1 first"), Say::text("550 5.1.1 second")]);
    let outcome = attempt_under(&sink, &letter, Some(&codes), LONG).await;
    assert_eq!(short(&outcome), ("refused", None), "{outcome:?}");
}

/// Nothing can have been delivered before the final dot, so a connection that breaks is the sink's
/// trouble; after it nobody knows.
#[tokio::test]
async fn a_connection_that_breaks_means_what_its_phase_says() {
    for (step, expected) in [
        (Step::Greeting, "unreachable"),
        (Step::Ehlo, "unreachable"),
        (Step::Mail, "unreachable"),
        (Step::Rcpt, "unreachable"),
        (Step::Data, "unreachable"),
        (Step::Dot, "in doubt"),
    ] {
        let (peer, sink, letter) = stage().await;
        peer.script(step, [Say::Cut]);
        assert_eq!(short(&attempt(&sink, &letter, LONG).await), (expected, None), "{step:?}");
    }
}

/// Each recipient has an outcome of its own: who accepted is never sent the mail again, who could not take
/// it is tried again alone, who refused it is not asked again.
#[tokio::test]
async fn each_recipient_has_its_own_outcome() {
    let (peer, sink, _) = stage().await;
    let payload = r#"{"to": "a@x.example, b@x.example, c@x.example", "text": "t"}"#;
    let letter = prepare(&sink, &mail(), &message(1, payload));
    let later = Say::text("451 4.7.1 <b@x.example> later");
    let unknown = Say::text("550 5.1.1 c@x.example unknown");
    peer.script(Step::Rcpt, [Say::text("250 ok"), later, unknown]);
    let first = Phase::default();
    let outcome = sink.deliver(&letter, None, &first).await;
    let reason = "1 accepted, 1 refused, 1 deferred: recipient refused: 451 4.7.1 <…> later";
    let Outcome::Transient { cause: Cause::Refused, reason: found, .. } = outcome else {
        panic!("{outcome:?}")
    };
    assert_eq!(found, reason);
    assert_eq!(peer.mails()[0].to, ["a@x.example"]);

    let known = first.recipients().clone();
    assert_eq!(known.of("c@x.example").unwrap().reply, "550 5.1.1 … unknown");
    let second = Phase::guarded(|| true, known);
    let outcome = sink.deliver(&letter, None, &second).await;
    let reason = "2 accepted, 1 refused: refused: 550 5.1.1 … unknown".to_owned();
    assert_eq!(outcome, Outcome::Permanent { reason });
    assert_eq!(peer.mails()[1].to, ["b@x.example"]);

    // An operator lets those who refused be asked again.
    let known = second.recipients().accepted();
    let third = Phase::guarded(|| true, known);
    assert_delivered(&sink.deliver(&letter, None, &third).await, "250");
    assert_eq!(peer.mails()[2].to, ["c@x.example"]);
    assert_eq!((peer.mails().len(), peer.connections()), (3, 1));

    // Nobody is left: nothing is said to the server.
    let fourth = Phase::guarded(|| true, third.recipients().clone());
    assert_delivered(&sink.deliver(&letter, None, &fourth).await, "250");
    assert_eq!(peer.mails().len(), 3);
}

/// Guard: what was said before the server hung up stands. Some hang up right behind a refusal, and a mail that
/// nobody wants must not pass for a server that is away.
#[tokio::test]
async fn a_refusal_stands_although_the_server_hangs_up_behind_it() {
    for (step, reply, expected) in [
        (Step::Rcpt, "550 5.1.1 unknown", "permanent"),
        (Step::Rcpt, "451 4.3.0 later", "refused"),
        (Step::Mail, "550 5.7.1 sender refused", "barred"),
    ] {
        let settings = Settings { offers: vec!["PIPELINING"], ..Settings::default() };
        let peer = SmtpPeer::start_with(settings).await;
        let sink = build(LONG, Way::Smtp(smtp_to(peer.address.port())));
        let letter = prepare(&sink, &mail(), &message(1, r#"{"to": "a@x.example", "text": "t"}"#));
        peer.script(step, [Say::ThenCut(Box::new(Say::text(reply)))]);
        assert_eq!(short(&attempt(&sink, &letter, LONG).await).0, expected, "{reply}");
        assert_delivered(&attempt(&sink, &letter, LONG).await, "250");
    }
}

/// A server that takes few recipients at a time is offered the others right away, over the same connection.
#[tokio::test]
async fn a_full_transaction_is_followed_by_another() {
    let (peer, sink, _) = stage().await;
    let payload = r#"{"to": "a@x.example, b@x.example, c@x.example", "text": "t"}"#;
    let letter = prepare(&sink, &mail(), &message(1, payload));
    let full = || Say::text("452 4.5.3 too many recipients");
    peer.script(Step::Rcpt, [Say::text("250 ok"), full(), full(), Say::text("250 ok"), full()]);
    assert_delivered(&attempt(&sink, &letter, LONG).await, "250");
    let to: Vec<String> = peer.mails().into_iter().flat_map(|mail| mail.to).collect();
    assert_eq!(to, ["a@x.example", "b@x.example", "c@x.example"]);
    assert_eq!(peer.connections(), 1);
    // One that takes nobody is not asked for ever.
    peer.script(Step::Rcpt, [full(), full(), full()]);
    assert_eq!(short(&attempt(&sink, &letter, LONG).await), ("refused", None));
}

/// Guard: PIPELINING. MAIL, each RCPT and DATA come in one piece, and the mail with its dot in the next; a
/// server that does not offer it gets one command at a time. Nobody is delivered to whom the server refused,
/// not even by one that waits for the mail all the same.
#[tokio::test]
async fn an_envelope_is_one_write_and_each_reply_is_matched() {
    let payload = r#"{"to": "a@x.example, b@x.example, c@x.example", "text": "t"}"#;
    for offers in [true, false] {
        let extensions = if offers { vec!["PIPELINING"] } else { Vec::new() };
        let settings = Settings { offers: extensions, ..Settings::default() };
        let peer = SmtpPeer::start_with(settings).await;
        let sink = build(LONG, Way::Smtp(smtp_to(peer.address.port())));
        let letter = prepare(&sink, &mail(), &message(1, payload));
        let no = |word: &str| Say::text(&format!("550 5.1.1 {word}"));
        peer.script(Step::Rcpt, [no("a"), Say::text("250 ok"), no("c")]);
        assert_permanent(&attempt(&sink, &letter, LONG).await, "550 5.1.1 a");
        assert_eq!(peer.mails()[0].to, ["b@x.example"], "offers {offers}");
        assert_eq!(
            peer.reads().contains(&"MAIL RCPT RCPT RCPT DATA".to_owned()),
            offers,
            "{:?}",
            peer.reads()
        );

        // All are refused: without a transaction the next mail comes over the same connection.
        peer.script(Step::Rcpt, [no("a"), no("b"), no("c")]);
        assert_permanent(&attempt(&sink, &letter, LONG).await, "550 5.1.1 a");
        assert_delivered(&attempt(&sink, &letter, LONG).await, "250");
        assert_eq!((peer.mails().len(), peer.connections()), (2, 1), "offers {offers}");

        peer.script(Step::Rcpt, [no("a"), no("b"), no("c")]);
        peer.script(Step::Data, [Say::text("354 go on")]);
        assert_permanent(&attempt(&sink, &letter, LONG).await, "550 5.1.1 a");
        assert_eq!(peer.mails().len(), 2, "offers {offers}");
        // Without the extension it was never asked.
        assert_eq!(
            peer.commands().iter().filter(|c| *c == "DATA").count(),
            if offers { 4 } else { 2 }
        );
    }
}

/// Guard: the number of connections is exact, also while some part and others are cut.
#[tokio::test(flavor = "multi_thread")]
async fn there_are_never_more_connections_than_may_be() {
    let peer = SmtpPeer::start().await;
    let mut config = config(LONG, Way::Smtp(smtp_to(peer.address.port())));
    config.concurrency = 3.try_into().unwrap();
    let sink = Arc::new(Sink::build(&config).unwrap().unwrap());
    let payload = r#"{"to": "a@x.example", "text": "t"}"#;
    let letter = Arc::new(prepare(&sink, &mail(), &message(1, payload)));
    let mut attempts = tokio::task::JoinSet::new();
    for n in 0..500_u64 {
        let (sink, letter) = (Arc::clone(&sink), Arc::clone(&letter));
        attempts.spawn(async move {
            // Every seventh is given up at once: its connection counts until it is closed.
            let limit = if n % 7 == 0 { std::time::Duration::from_micros(n) } else { LONG };
            attempt(&sink, &letter, limit).await
        });
    }
    let outcomes = attempts.join_all().await;
    let delivered = outcomes.iter().filter(|o| matches!(o, Outcome::Delivered { .. })).count();
    assert!(delivered >= 428, "{delivered}");
    assert!(peer.connections() > 3, "some parted after a hundred mails");
    assert!(peer.peak_connections() <= 3, "{}", peer.peak_connections());
}

/// The same fault from the other side: a server that answers twice shifts all that follows.
#[tokio::test]
async fn a_reply_too_many_never_counts_for_the_next_mail() {
    let (peer, sink, letter) = stage().await;
    peer.script(Step::Dot, [Say::text("250 2.0.0 once\r\n250 2.0.0 twice")]);
    assert_delivered(&attempt(&sink, &letter, LONG).await, "once");
    peer.script(Step::Rcpt, [Say::text("550 5.1.1 refused")]);
    assert_permanent(&attempt(&sink, &letter, LONG).await, "refused");
    assert_eq!(peer.connections(), 2);
}

#[tokio::test]
async fn idle_connections_are_given_up() {
    let (peer, sink, letter) = stage().await;
    assert_delivered(&attempt(&sink, &letter, LONG).await, "250");
    tokio::time::pause();
    tokio::time::advance(std::time::Duration::from_secs(61)).await;
    tokio::time::resume();
    soon("closed", peer.until(|p| p.open_connections() == 0)).await;
    assert!(peer.commands().contains(&"QUIT".to_owned()));
}

/// It spends no attempt: the relay sees one delivered.
#[tokio::test]
async fn a_connection_the_server_closed_meanwhile_is_replaced() {
    let (peer, sink, letter) = stage().await;
    let endings = [
        (Step::Dot, Say::ThenCut(Box::new(Say::text("250 2.0.0 and goodbye")))),
        (Step::Mail, Say::text("421 4.3.2 too many mails")),
        (Step::Mail, Say::Cut),
    ];
    for (round, (step, say)) in endings.into_iter().enumerate() {
        if step == Step::Dot {
            peer.script(step, [say]);
            assert_delivered(&attempt(&sink, &letter, LONG).await, "goodbye");
            soon("closed", peer.until(|p| p.open_connections() == 0)).await;
        } else {
            peer.script(step, [say]);
        }
        assert_delivered(&attempt(&sink, &letter, LONG).await, "PEER1");
        assert_eq!(peer.connections(), round + 2);
    }
    assert_eq!(peer.accepted(), 4);
}

#[tokio::test]
async fn a_fresh_connection_closed_at_mail_is_a_failed_attempt() {
    let (peer, sink, letter) = stage().await;
    peer.script(Step::Mail, [Say::Cut]);
    assert_transient(&attempt(&sink, &letter, LONG).await, "MAIL: ");
    assert_eq!(peer.connections(), 1);
}

#[tokio::test]
async fn a_connection_serves_a_hundred_mails_and_parts_politely() {
    let (peer, sink, letter) = stage().await;
    for _ in 0..101 {
        assert_delivered(&attempt(&sink, &letter, LONG).await, "250");
    }
    assert_eq!((peer.accepted(), peer.connections()), (101, 2));
    soon("QUIT", peer.until(|p| p.commands().contains(&"QUIT".to_owned()))).await;
    soon("closed", peer.until(|p| p.open_connections() == 1)).await;
}

fn secured(peer: &SmtpPeer, security: MailSecurity, ca: &std::path::Path) -> Sink {
    let mut way = smtp_to(peer.address.port());
    way.server.security = security;
    way.server.ca_file = Some(ca.to_owned());
    let (user, password) = ("shop".to_owned(), Secret::new("pass wörd"));
    way.server.login = Some(Login::Password { user, password });
    build(LONG, Way::Smtp(way))
}

fn settings(tls: Option<Arc<rustls::ServerConfig>>) -> Settings {
    let login = Some(("shop".to_owned(), "pass wörd".to_owned()));
    Settings { tls, login, ..Settings::default() }
}

#[tokio::test]
async fn encrypted_and_logged_in() {
    let (ca, tls) = certificate("127.0.0.1");
    for (security, implicit_tls, login_only) in [
        (MailSecurity::StartTls, false, false),
        (MailSecurity::StartTls, false, true),
        (MailSecurity::Tls, true, false),
    ] {
        let settings = Settings { implicit_tls, login_only, ..settings(Some(Arc::clone(&tls))) };
        let peer = SmtpPeer::start_with(settings).await;
        let sink = secured(&peer, security, ca.path());
        let place = format!("{} takes mail", peer.address);
        assert_eq!(sink.probe().await.unwrap(), place);
        let letter = prepare(&sink, &mail(), &to_bob(1));
        assert_delivered(&attempt(&sink, &letter, LONG).await, "250");
        assert_delivered(&attempt(&sink, &letter, LONG).await, "250");
        assert!(peer.mails().iter().all(|m| m.encrypted && m.data == sent(&letter)));
        assert_eq!(peer.connections(), 2);
    }
}

#[tokio::test]
async fn wrong_credentials_are_the_sinks_trouble() {
    let (ca, tls) = certificate("127.0.0.1");
    let peer = SmtpPeer::start_with(settings(Some(tls))).await;
    peer.script(Step::Auth, [Say::text("535 5.7.8 no"), Say::text("535 5.7.8 no")]);
    let sink = secured(&peer, MailSecurity::StartTls, ca.path());
    let letter = prepare(&sink, &mail(), &to_bob(1));
    let outcome = attempt(&sink, &letter, LONG).await;
    assert_transient(&outcome, "AUTH: 535 5.7.8 no");
    assert_eq!(short(&outcome), ("barred", None));
    assert!(sink.probe().await.unwrap_err().contains("AUTH: 535 5.7.8 no"));
    assert!(peer.mails().is_empty());
}

/// A thousand mails with a wrong password must not look like somebody who guesses.
#[tokio::test]
async fn a_refused_login_is_tried_again_after_a_minute_and_one_at_a_time() {
    let peer = SmtpPeer::start_with(settings(None)).await;
    let mut way = smtp_to(peer.address.port());
    let (user, password) = ("shop".to_owned(), Secret::new("old"));
    way.server.login = Some(Login::Password { user, password });
    let sink = build(LONG, Way::Smtp(way));
    let letter = prepare(&sink, &mail(), &to_bob(1));
    let logins = || peer.commands().iter().filter(|c| *c == "AUTH").count();
    for round in 1..3 {
        let attempts = (0..8).map(|_| attempt(&sink, &letter, LONG));
        for outcome in futures_util::future::join_all(attempts).await {
            assert_transient(&outcome, "AUTH: 535 5.7.8 no");
            assert_eq!(short(&outcome), ("barred", None));
        }
        assert_eq!(logins(), round);
        tokio::time::pause();
        tokio::time::advance(std::time::Duration::from_secs(61)).await;
        tokio::time::resume();
    }
    peer.admit("shop", "old");
    let attempts = (0..8).map(|_| attempt(&sink, &letter, LONG));
    for outcome in futures_util::future::join_all(attempts).await {
        assert_delivered(&outcome, "250");
    }
}

/// Tokens last an hour; whoever renews them writes the file anew, and nobody tells the relay.
#[tokio::test]
async fn an_access_token_is_read_anew_for_each_login() {
    let settings = Settings { tokens: true, ..settings(None) };
    let peer = SmtpPeer::start_with(settings).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    let write = |token: &str| std::fs::write(&file, format!("{token}\n")).unwrap();
    let mut way = smtp_to(peer.address.port());
    way.server.login = Some(Login::Token { user: "shop".to_owned(), file: file.clone() });
    let sink = build(LONG, Way::Smtp(way));
    let letter = prepare(&sink, &mail(), &to_bob(1));
    peer.admit("shop", "first");
    write("first");
    assert_delivered(&attempt(&sink, &letter, LONG).await, "250");
    // Renewed while the connection of the old one goes on, until the server ends it.
    peer.admit("shop", "second");
    write("second");
    assert_delivered(&attempt(&sink, &letter, LONG).await, "250");
    assert_eq!(peer.connections(), 1);
    peer.script(Step::Mail, [Say::text("421 4.7.0 token expired")]);
    assert_delivered(&attempt(&sink, &letter, LONG).await, "250");
    assert_eq!(peer.connections(), 2);
    // Expired, and nobody renewed it: refused after the challenge is answered.
    peer.admit("shop", "third");
    peer.script(Step::Mail, [Say::text("421 4.7.0 token expired")]);
    let outcome = attempt(&sink, &letter, LONG).await;
    assert_transient(&outcome, "AUTH: 535 5.7.8 no");
    assert_eq!(short(&outcome), ("barred", None));
    write("third");
    tokio::time::pause();
    tokio::time::advance(std::time::Duration::from_secs(61)).await;
    tokio::time::resume();
    assert_delivered(&attempt(&sink, &letter, LONG).await, "250");
    // What is in the file is never told.
    for (text, problem) in [("", "no access token"), ("a b", "more than one word")] {
        write(text);
        peer.script(Step::Mail, [Say::text("421 4.7.0 token expired")]);
        let outcome = attempt(&sink, &letter, LONG).await;
        assert_transient(&outcome, problem);
        tokio::time::pause();
        tokio::time::advance(std::time::Duration::from_secs(61)).await;
        tokio::time::resume();
    }
}

/// What was offered before TLS may have been said by anybody.
#[tokio::test]
async fn extensions_from_before_tls_are_forgotten() {
    let (ca, tls) = certificate("127.0.0.1");
    let peer = SmtpPeer::start_with(settings(Some(tls))).await;
    let before = "250-peer.example\r\n250-STARTTLS\r\n250 AUTH PLAIN";
    peer.script(Step::Ehlo, [Say::text(before), Say::text("250 peer.example")]);
    let sink = secured(&peer, MailSecurity::StartTls, ca.path());
    let letter = prepare(&sink, &mail(), &to_bob(1));
    let outcome = attempt(&sink, &letter, LONG).await;
    assert_transient(&outcome, "offers neither PLAIN nor LOGIN");
    assert_eq!(peer.commands(), ["EHLO", "STARTTLS", "EHLO"]);
}

#[tokio::test]
async fn required_encryption_is_required() {
    let (ca, tls) = certificate("127.0.0.1");
    // Not offered, refused, a bad certificate: never in clear text.
    let hiding = SmtpPeer::start_with(settings(None)).await;
    let refusing = SmtpPeer::start_with(settings(Some(tls))).await;
    refusing.always(Step::StartTls, Say::text("454 4.7.0 not now"));
    let (_, stranger) = certificate("127.0.0.1");
    let strange = SmtpPeer::start_with(settings(Some(stranger))).await;
    for (peer, reason, whose) in [
        (&hiding, "offers no STARTTLS, which is required", "barred"),
        (&refusing, "STARTTLS: 454", "unreachable"),
        (&strange, "TLS: invalid peer certificate", "unreachable"),
    ] {
        let sink = secured(peer, MailSecurity::StartTls, ca.path());
        let letter = prepare(&sink, &mail(), &to_bob(1));
        let outcome = attempt(&sink, &letter, LONG).await;
        assert_transient(&outcome, reason);
        assert_eq!(short(&outcome), (whose, None));
        let commands = peer.commands();
        assert!(!commands.iter().any(|c| c == "AUTH" || c == "MAIL"), "{commands:?}");
    }
}

/// CVE-2021-38371 and its like: what was slipped in before the handshake must not count after it.
#[tokio::test]
async fn words_from_before_the_handshake_do_not_count() {
    let (ca, tls) = certificate("127.0.0.1");
    let peer = SmtpPeer::start_with(settings(Some(tls))).await;
    peer.script(Step::StartTls, [Say::text("220 go on\r\n250-evil\r\n250 AUTH PLAIN")]);
    let sink = secured(&peer, MailSecurity::StartTls, ca.path());
    let letter = prepare(&sink, &mail(), &to_bob(1));
    assert_transient(&attempt(&sink, &letter, LONG).await, "spoke before the TLS handshake");
}

#[tokio::test]
async fn the_mark_is_set_just_before_the_mail_can_arrive() {
    let (peer, sink, letter) = stage().await;
    let (data, dot) = (Gate::new(), Gate::new());
    let hold = |gate: &Gate, text| Say::Gated(gate.clone(), Box::new(Say::text(text)));
    peer.script(Step::Data, [hold(&data, "354 go on")]);
    peer.script(Step::Dot, [hold(&dot, "250 ok")]);
    let phase = Phase::default();
    let watch = async {
        soon("DATA", peer.until(|p| p.commands().last().is_some_and(|c| c == "DATA"))).await;
        assert!(!phase.may_have_arrived());
        data.open();
        soon("the mail", peer.until(|p| p.mails().len() == 1)).await;
        assert!(phase.may_have_arrived());
        dot.open();
    };
    let (outcome, ()) = tokio::join!(sink.deliver(&letter, None, &phase), watch);
    assert_delivered(&outcome, "250 ok");
}

#[tokio::test]
async fn there_are_never_more_connections_than_attempts() {
    let (peer, sink, letter) = stage().await;
    for _ in 0..10 {
        let attempts = (0..4).map(|_| attempt(&sink, &letter, LONG));
        futures_util::future::join_all(attempts).await;
    }
    assert_eq!(peer.accepted(), 40);
    assert!(peer.peak_connections() <= 4, "{}", peer.peak_connections());
}
