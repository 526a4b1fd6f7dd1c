//! Faults made by mail servers that others wrote: Postfix's `smtp-sink`, aiosmtpd, Exim.

use std::path::PathBuf;

use outboxd::config::{Login, MailSecurity, Secret, Way};
use outboxd::delivery::Outcome;
use outboxd::sink::{Prepared, Sink};
use serde_json::json;

use crate::harness::mail_servers::{Aiosmtpd, Certificate, Exim, SmtpSink};
use crate::sink_contract::{
    LONG, SHORT, assert_delivered, assert_in_doubt, assert_permanent, assert_transient, attempt,
    build, mail, message, prepare, short, smtp_to,
};

/// A mail sink without encryption, and a mail.
fn stage(port: u16, to: &str) -> (Sink, Prepared) {
    let sink = build(LONG, Way::Smtp(smtp_to(port)));
    let letter = letter(&sink, to, "hello");
    (sink, letter)
}

fn letter(sink: &Sink, to: &str, text: &str) -> Prepared {
    let payload = json!({ "to": to, "text": text }).to_string();
    prepare(sink, &mail(), &message(42, &payload))
}

fn sent(letter: &Prepared) -> &[u8] {
    let Prepared::Mail(mail) = letter else { panic!("no mail") };
    mail.data()
}

/// Options of smtp-sink, how the mail ends, and how many times smtp-sink had it in full.
type Case = (&'static [&'static str], &'static str, usize);

const SMTP_SINK: &[Case] = &[
    (&[], "delivered", 1),
    // Without pipelining, and without ESMTP at all.
    (&["-p"], "delivered", 1),
    (&["-e"], "delivered", 1),
    (&["-E", "-8", "-N", "-a"], "delivered", 1),
    // Refused for now, at each command.
    (&["-r", "CONNECT"], "unreachable", 0),
    (&["-r", "EHLO"], "unreachable", 0),
    (&["-r", "MAIL"], "refused", 0),
    (&["-r", "RCPT"], "refused", 0),
    (&["-r", "DATA"], "refused", 0),
    (&["-r", "."], "refused", 1),
    // Refused for good.
    (&["-f", "CONNECT"], "barred", 0),
    (&["-f", "MAIL"], "barred", 0),
    (&["-f", "RCPT"], "permanent", 0),
    (&["-f", "DATA"], "permanent", 0),
    (&["-f", "."], "permanent", 1),
    (&["-f", ".", "-B", "552 5.3.4 too large"], "permanent", 1),
    // 421 and closed.
    (&["-Q", "CONNECT"], "throttled", 0),
    (&["-Q", "EHLO"], "throttled", 0),
    (&["-Q", "MAIL"], "throttled", 0),
    (&["-Q", "RCPT"], "throttled", 0),
    (&["-Q", "DATA"], "throttled", 0),
    (&["-Q", "."], "throttled", 1),
    // Closed without a word.
    (&["-q", "CONNECT"], "unreachable", 0),
    (&["-q", "EHLO"], "unreachable", 0),
    (&["-q", "MAIL"], "unreachable", 0),
    (&["-q", "RCPT"], "unreachable", 0),
    (&["-q", "DATA"], "unreachable", 0),
    (&["-q", "."], "in doubt", 1),
    // It answers 550 and reads no further, before the mail has ended.
    (&["-A", "0"], "permanent", 0),
    // Slow, not broken.
    (&["-W", ".:1"], "delivered", 1),
    (&["-w", "1"], "delivered", 1),
    (&["-H", "1"], "delivered", 1),
];

#[tokio::test]
async fn smtp_sink_fails_in_every_phase_and_is_understood() {
    for &(arguments, expected, had) in SMTP_SINK {
        let server = SmtpSink::start(arguments).await;
        let (sink, letter) = stage(server.port, "bob@shop.example");
        let outcome = attempt(&sink, &letter, LONG).await;
        assert_eq!(short(&outcome).0, expected, "{arguments:?}: {outcome:?}");
        let whole = String::from_utf8_lossy(sent(&letter)).replace("\r\n", "\n");
        let in_full = server.mails().into_iter().filter(|mail| *mail == whole).count();
        assert_eq!(in_full, had, "{arguments:?}");
    }
}

/// It ends as a whole with its third mail, which it has in full and does not answer.
#[tokio::test]
async fn smtp_sink_that_ends_with_a_mail_leaves_doubt_about_that_one_only() {
    let mut server = SmtpSink::start(&["-M", "3"]).await;
    let (sink, letter) = stage(server.port, "bob@shop.example");
    for _ in 0..2 {
        assert_delivered(&attempt(&sink, &letter, LONG).await, "250");
    }
    assert_in_doubt(&attempt(&sink, &letter, LONG).await, "the server closed the connection");
    server.ended().await;
    let outcome = attempt(&sink, &letter, LONG).await;
    assert_eq!(short(&outcome).0, "unreachable", "{outcome:?}");
    assert_eq!(server.mails().len(), 3);
}

/// It answers the dot when we have given up: whoever takes that for a failure sends the mail twice.
#[tokio::test]
async fn smtp_sink_that_answers_the_dot_too_late_leaves_doubt() {
    let server = SmtpSink::start(&["-W", ".:90"]).await;
    let (sink, letter) = stage(server.port, "bob@shop.example");
    assert_in_doubt(&attempt(&sink, &letter, SHORT).await, "timed out after the message went out");
    assert_eq!(server.mails().len(), 1, "and it has it");
}

/// The hook that fails, how the mail ends, and how many were taken.
const AIOSMTPD: &[(&str, &str, &str, usize)] = &[
    ("EHLO", "450 4.3.2 later", "unreachable", 0),
    ("EHLO", "close", "unreachable", 0),
    ("EHLO", "hang", "unreachable", 0),
    // It answers 500 without more, which is how servers say that they do not know the command.
    ("MAIL", "raise", "unreachable", 0),
    ("MAIL", "550 5.7.1 not you", "barred", 0),
    ("MAIL", "451 4.3.0 later", "refused", 0),
    ("MAIL", "hang", "unreachable", 0),
    ("RCPT", "raise", "unreachable", 0),
    ("RCPT", "550 5.1.1 nobody", "permanent", 0),
    ("RCPT", "450 4.2.1 later", "refused", 0),
    ("RCPT", "close", "unreachable", 0),
    ("DATA", "raise", "permanent", 0),
    ("DATA", "451 4.3.0 later", "refused", 0),
    ("DATA", "552 5.3.4 too large", "permanent", 0),
    ("DATA", "close", "in doubt", 0),
    ("DATA", "hang", "in doubt", 0),
    ("none", "", "delivered", 1),
];

#[tokio::test]
async fn aiosmtpd_fails_in_every_hook_and_is_understood() {
    for &(hook, answer, expected, taken) in AIOSMTPD {
        let server = Aiosmtpd::start(&json!({ "answers": { hook: answer } })).await;
        let (sink, letter) = stage(server.port, "bob@shop.example");
        let limit = if answer == "hang" { SHORT } else { LONG };
        let outcome = attempt(&sink, &letter, limit).await;
        assert_eq!(short(&outcome).0, expected, "{hook} {answer}: {outcome:?}");
        server.until_taken(taken).await;
        let mails = server.mails();
        assert_eq!(mails.len(), taken, "{hook} {answer}");
        assert!(mails.iter().all(|mail| mail.data == sent(&letter)), "{hook} {answer}");
    }
}

/// A mail sink with STARTTLS and a login, and a mail to whom it may concern.
fn secured(
    port: u16,
    ca: PathBuf,
    password: &str,
    from: &str,
    to: &str,
    text: &str,
) -> (Sink, Prepared) {
    let mut smtp = smtp_to(port);
    smtp.server.security = MailSecurity::StartTls;
    smtp.server.ca_file = Some(ca);
    smtp.from = from.parse().unwrap();
    let (user, password) = ("shop".to_owned(), Secret::new(password));
    smtp.server.login = Some(Login::Password { user, password });
    let sink = build(LONG, Way::Smtp(smtp));
    let letter = letter(&sink, to, text);
    (sink, letter)
}

#[tokio::test]
async fn exim_says_what_it_thinks_of_each_mail() {
    let ours = Certificate::for_host("127.0.0.1");
    let folder = tempfile::tempdir().unwrap();
    let (ca, _) = ours.write(folder.path());
    let exim = Exim::start(Some(&ours), Some(("shop", "secret"))).await;
    let port = exim.port;
    let try_it = async |password: &str, from: &str, to: &str, text: &str| {
        let (sink, letter) = secured(port, ca.clone(), password, from, to, text);
        let outcome = attempt(&sink, &letter, LONG).await;
        (outcome, letter)
    };
    const SHOP: &str = "Shop <shop@example.com>";
    let bob = "bob@shop.example";
    let (outcome, letter) = try_it("secret", SHOP, bob, "Grüße\n.\n").await;
    assert_delivered(&outcome, "250 OK id=");
    exim.until_delivered(1).await;
    let whole = String::from_utf8_lossy(sent(&letter)).replace("\r\n", "\n");
    let delivered = exim.mails().pop().unwrap();
    assert!(delivered.ends_with(&whole), "{delivered}");
    assert!(delivered.contains("Envelope-to: bob@shop.example"), "{delivered}");

    let (outcome, _) = try_it("wrong", SHOP, bob, "x").await;
    assert_eq!(short(&outcome).0, "barred", "{outcome:?}");
    let (outcome, _) = try_it("secret", "banned@example.com", bob, "x").await;
    assert_eq!(short(&outcome).0, "barred", "{outcome:?}");
    let (outcome, _) = try_it("secret", SHOP, "nobody@shop.example", "x").await;
    assert_permanent(&outcome, "5.1.1 no such user");
    let (outcome, _) = try_it("secret", SHOP, "later@shop.example", "x").await;
    assert_transient(&outcome, "4.2.1 mailbox busy");
    let large = "x\n".repeat(600_000);
    let (outcome, _) = try_it("secret", SHOP, bob, &large).await;
    assert!(matches!(outcome, Outcome::Permanent { .. }), "{outcome:?}");

    let other = Certificate::for_host("127.0.0.1");
    let elsewhere = tempfile::tempdir().unwrap();
    let (wrong, _) = other.write(elsewhere.path());
    let (sink, letter) = secured(port, wrong, "secret", SHOP, bob, "x");
    let outcome = attempt(&sink, &letter, LONG).await;
    assert_transient(&outcome, "certificate");
    assert_eq!(exim.mails().len(), 1, "{}", exim.log());
}
