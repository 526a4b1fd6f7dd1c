//! What every sink with attempts promises, held against scripted servers and foreign code.

mod content;
mod dkim;
mod fallback;
mod foreign;
pub mod smtp;
mod webhook;

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::time::Duration;

use outboxd::config::{
    BodyForm, Content, Mail, MailSecurity, MailServer, SinkConfig, SmtpConfig, Way, WebhookConfig,
};
use outboxd::delivery::{Cause, Outcome, Phase};
use outboxd::message::{IdempotencyKey, Message};
use outboxd::name::Name;
use outboxd::policy::{Codes, Order, Policy};
use outboxd::sink::{Prepared, Sink};
use outboxd::template::Template;

use crate::harness::http::{Answer, HttpPeer};
use crate::harness::smtp::{Fate, Say, Settings, SmtpPeer, Step};

/// Longer than anything here takes; a test that meets it hangs.
pub const LONG: Duration = Duration::from_secs(20);
/// The total timeout of an attempt that is meant to meet it.
pub const SHORT: Duration = Duration::from_millis(300);

pub fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

pub fn message(id: i64, payload: &str) -> Message {
    Message {
        id,
        message_type: "order.created".to_owned(),
        payload: payload.to_owned(),
        key: None,
        headers: BTreeMap::new(),
        created_at: "2026-11-20T10:15:30.123456Z".parse().unwrap(),
    }
}

pub fn build(timeout: Duration, way: Way) -> Sink {
    Sink::build(&config(timeout, way)).unwrap().unwrap()
}

pub fn config(timeout: Duration, way: Way) -> SinkConfig {
    SinkConfig {
        name: name("out"),
        concurrency: NonZeroUsize::new(4).unwrap(),
        timeout,
        policy: Policy::default(),
        order: Order::Block,
        rate: None,
        daily_quota: None,
        way,
    }
}

pub fn webhook_to(url: &str) -> WebhookConfig {
    WebhookConfig {
        url: url::Url::parse(url).unwrap(),
        secrets: Vec::new(),
        body: BodyForm::Payload,
        ca_file: None,
    }
}

pub fn smtp_to(port: u16) -> SmtpConfig {
    let server = MailServer {
        host: "127.0.0.1".to_owned(),
        port,
        security: MailSecurity::Plain,
        login: None,
        clear_text_login: false,
        ca_file: None,
    };
    SmtpConfig::new(server, "Shop <shop@example.com>".parse().unwrap())
}

/// A mail to whom the payload says, with the text it says.
pub fn mail() -> Content {
    let parse = |source: &str| Template::parse(source).unwrap();
    let to = vec![parse("{{ payload.to }}")];
    Content::Mail(Box::new(Mail::new(to, parse("Order {{ id }}"), parse("{{ payload.text }}"))))
}

pub fn prepare(sink: &Sink, content: &Content, message: &Message) -> Prepared {
    let key = IdempotencyKey::new(&name("shop"), message.id, &name("out"), "");
    sink.prepare(message, content, &key).unwrap()
}

/// An attempt as the relay makes it: bounded, and cancelled by dropping.
pub async fn attempt(sink: &Sink, prepared: &Prepared, limit: Duration) -> Outcome {
    attempt_under(sink, prepared, None, limit).await
}

/// The same under a config that names the permanent answers.
pub async fn attempt_under(
    sink: &Sink,
    prepared: &Prepared,
    permanent: Option<&Codes>,
    limit: Duration,
) -> Outcome {
    let phase = Phase::default();
    let delivery = tokio::time::timeout(limit, sink.deliver(prepared, permanent, &phase));
    delivery.await.unwrap_or_else(|_| phase.cut_short("timed out"))
}

/// What an outcome is, in a word, and the wait it asks for in seconds.
pub fn short(outcome: &Outcome) -> (&'static str, Option<u64>) {
    match outcome {
        Outcome::Delivered { .. } => ("delivered", None),
        Outcome::Permanent { .. } => ("permanent", None),
        Outcome::InDoubt { .. } => ("in doubt", None),
        Outcome::Transient { cause, wait, .. } => {
            let word = match cause {
                Cause::Unreachable => "unreachable",
                Cause::Barred => "barred",
                Cause::Away => "away",
                Cause::Throttled => "throttled",
                Cause::Refused => "refused",
                Cause::Rejected => "rejected",
                Cause::Failed => "failed",
            };
            (word, wait.map(|wait| wait.as_secs()))
        }
    }
}

/// Bounds the wait for a condition.
pub async fn soon<T>(what: &str, condition: impl Future<Output = T>) -> T {
    let waited = tokio::time::timeout(LONG, condition).await;
    waited.unwrap_or_else(|_| panic!("in vain: {what}"))
}

#[track_caller]
pub fn assert_delivered(outcome: &Outcome, receipt_part: &str) {
    let Outcome::Delivered { receipt } = outcome else { panic!("{outcome:?}") };
    assert!(receipt.contains(receipt_part), "{receipt}");
}

#[track_caller]
pub fn assert_transient(outcome: &Outcome, reason_part: &str) {
    let Outcome::Transient { reason, .. } = outcome else { panic!("{outcome:?}") };
    assert!(reason.contains(reason_part), "{reason}");
}

#[track_caller]
pub fn assert_permanent(outcome: &Outcome, reason_part: &str) {
    let Outcome::Permanent { reason } = outcome else { panic!("{outcome:?}") };
    assert!(reason.contains(reason_part), "{reason}");
}

#[track_caller]
pub fn assert_in_doubt(outcome: &Outcome, reason_part: &str) {
    let Outcome::InDoubt { reason } = outcome else { panic!("{outcome:?}") };
    assert!(reason.contains(reason_part), "{reason}");
}

/// What a receiver does with the next attempt.
enum Mood {
    Later,
    Never,
    SlowBefore,
    SlowAfter,
    CutAfter,
    WrongCredentials,
}

/// A receiver of either kind.
enum Receiver {
    Http(HttpPeer),
    Smtp(SmtpPeer),
}

/// A sink, its receiver, and what it sends.
struct Stage {
    sink: Sink,
    receiver: Receiver,
    prepared: Prepared,
}

impl Stage {
    /// One of each kind.
    async fn all() -> [Stage; 2] {
        let http = HttpPeer::start().await;
        let webhook = build(LONG, Way::Webhook(webhook_to(&http.url("/in"))));
        let smtp = SmtpPeer::start().await;
        let mailer = build(LONG, Way::Smtp(smtp_to(smtp.address.port())));
        let message = message(42, r#"{"to": "bob@shop.example", "text": "hello"}"#);
        let request = prepare(&webhook, &Content::Message, &message);
        let letter = prepare(&mailer, &mail(), &message);
        [
            Stage { sink: webhook, receiver: Receiver::Http(http), prepared: request },
            Stage { sink: mailer, receiver: Receiver::Smtp(smtp), prepared: letter },
        ]
    }

    async fn attempt(&self, limit: Duration) -> Outcome {
        attempt(&self.sink, &self.prepared, limit).await
    }

    fn next(&self, mood: &Mood) {
        match &self.receiver {
            Receiver::Http(peer) => peer.script([match mood {
                Mood::Later => Answer::status(503),
                Mood::Never => Answer::status(410),
                Mood::SlowBefore | Mood::SlowAfter => Answer::Hang,
                Mood::CutAfter => Answer::CutAfter,
                Mood::WrongCredentials => Answer::status(401),
            }]),
            Receiver::Smtp(peer) => match mood {
                Mood::Later => peer.script(Step::Dot, [Say::text("451 4.7.1 later")]),
                Mood::Never => peer.script(Step::Dot, [Say::text("554 5.7.1 no")]),
                Mood::SlowBefore => peer.script(Step::Data, [Say::Hang]),
                Mood::SlowAfter => peer.script(Step::Dot, [Say::Hang]),
                Mood::CutAfter => peer.script(Step::Dot, [Say::Cut]),
                Mood::WrongCredentials => {
                    peer.script(Step::Greeting, [Say::text("554 5.7.1 no access")]);
                }
            },
        }
    }

    fn accepted(&self) -> usize {
        match &self.receiver {
            Receiver::Http(peer) => peer.requests(),
            Receiver::Smtp(peer) => peer.accepted(),
        }
    }

    fn connections(&self) -> usize {
        match &self.receiver {
            Receiver::Http(peer) => peer.connections(),
            Receiver::Smtp(peer) => peer.connections(),
        }
    }

    async fn all_closed(&self) {
        match &self.receiver {
            Receiver::Http(peer) => {
                soon("closed", peer.until(|p| p.open_connections() == 0)).await;
            }
            Receiver::Smtp(peer) => {
                soon("closed", peer.until(|p| p.open_connections() == 0)).await;
            }
        }
    }
}

#[tokio::test]
async fn accepted_is_delivered_with_the_receivers_words() {
    let [webhook, mail] = Stage::all().await;
    assert_delivered(&webhook.attempt(LONG).await, "HTTP 204 No Content");
    assert_delivered(&mail.attempt(LONG).await, "250 2.0.0 Ok: queued as PEER1");
    assert_eq!((webhook.accepted(), mail.accepted()), (1, 1));
}

#[tokio::test]
async fn a_receiver_that_wants_it_later_is_asked_later() {
    for stage in Stage::all().await {
        stage.next(&Mood::Later);
        assert!(matches!(stage.attempt(LONG).await, Outcome::Transient { .. }));
        assert!(matches!(stage.attempt(LONG).await, Outcome::Delivered { .. }));
    }
}

#[tokio::test]
async fn a_receiver_that_never_wants_it_is_believed() {
    for stage in Stage::all().await {
        stage.next(&Mood::Never);
        assert!(matches!(stage.attempt(LONG).await, Outcome::Permanent { .. }));
    }
}

#[tokio::test]
async fn wrong_credentials_fail_no_message() {
    for stage in Stage::all().await {
        stage.next(&Mood::WrongCredentials);
        assert!(matches!(stage.attempt(LONG).await, Outcome::Transient { .. }));
        assert!(matches!(stage.attempt(LONG).await, Outcome::Delivered { .. }));
    }
}

#[tokio::test]
async fn silence_before_anything_could_arrive_is_not_in_doubt() {
    let [_, mail] = Stage::all().await;
    mail.next(&Mood::SlowBefore);
    let outcome = mail.attempt(SHORT).await;
    assert_transient(&outcome, "timed out before the message went out");
    assert_eq!(short(&outcome), ("unreachable", None));
    // Nothing of a webhook has gone out as long as TLS does not come about.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/in", silent.local_addr().unwrap());
    let sink = build(SHORT, Way::Webhook(webhook_to(&url)));
    let request = prepare(&sink, &Content::Message, &message(1, "{}"));
    let outcome = attempt(&sink, &request, SHORT).await;
    assert_transient(&outcome, "could not connect: timed out");
    assert_eq!(short(&outcome), ("unreachable", None));
}

#[tokio::test]
async fn silence_after_it_was_sent_is_in_doubt() {
    for stage in Stage::all().await {
        stage.next(&Mood::SlowAfter);
        let outcome = stage.attempt(SHORT).await;
        assert_in_doubt(&outcome, "timed out after the message went out");
    }
}

#[tokio::test]
async fn a_connection_cut_after_it_was_sent_is_in_doubt() {
    for stage in Stage::all().await {
        stage.next(&Mood::CutAfter);
        assert!(matches!(stage.attempt(LONG).await, Outcome::InDoubt { .. }));
        assert!(matches!(stage.attempt(LONG).await, Outcome::Delivered { .. }));
    }
}

#[tokio::test]
async fn nobody_there_is_not_in_doubt() {
    for stage in Stage::all().await {
        let Stage { sink, receiver, prepared } = stage;
        drop(receiver);
        let outcome = attempt(&sink, &prepared, LONG).await;
        assert_transient(&outcome, "connect: ");
        assert_eq!(short(&outcome), ("unreachable", None));
        assert!(sink.probe().await.unwrap_err().contains("connect"));
    }
}

#[tokio::test]
async fn connections_are_used_again() {
    for stage in Stage::all().await {
        for _ in 0..20 {
            assert!(matches!(stage.attempt(LONG).await, Outcome::Delivered { .. }));
        }
        assert_eq!((stage.accepted(), stage.connections()), (20, 1));
    }
}

#[tokio::test]
async fn a_dropped_attempt_takes_its_connection_with_it() {
    for stage in Stage::all().await {
        assert!(matches!(stage.attempt(LONG).await, Outcome::Delivered { .. }));
        stage.next(&Mood::SlowAfter);
        assert!(matches!(stage.attempt(SHORT).await, Outcome::InDoubt { .. }));
        stage.all_closed().await;
        stage.next(&Mood::Never);
        assert!(matches!(stage.attempt(LONG).await, Outcome::Permanent { .. }));
        assert!(matches!(stage.attempt(LONG).await, Outcome::Delivered { .. }));
        assert_eq!(stage.connections(), 2);
    }
}

#[tokio::test]
async fn a_probe_sends_nothing() {
    for stage in Stage::all().await {
        let found = stage.sink.probe().await.unwrap();
        assert!(found.starts_with("127.0.0.1:"), "{found}");
        if let Receiver::Http(peer) = &stage.receiver {
            soon("a connection", peer.until(|p| p.connections() == 1)).await;
        }
        assert_eq!((stage.accepted(), stage.connections()), (0, 1));
        if let Receiver::Smtp(peer) = &stage.receiver {
            assert!(!peer.commands().contains(&"MAIL".to_owned()));
        }
    }
}

#[tokio::test]
async fn the_same_row_gives_the_same_hash() {
    let again = Stage::all().await;
    for (stage, again) in Stage::all().await.into_iter().zip(again) {
        assert_eq!(stage.prepared.hash(), again.prepared.hash());
    }
}
