//! A second mail server takes what the first certainly was not sent, where that is the server's trouble.

use std::time::Duration;

use outboxd::config::{Login, Secret, SmtpConfig, Way};
use outboxd::delivery::{Outcome, Phase};
use outboxd::recipients::Recipients;
use outboxd::sink::{Prepared, Sink};
use tokio::net::TcpListener;

use super::{
    LONG, Say, Settings, SmtpPeer, Step, assert_delivered, assert_in_doubt, assert_transient,
    attempt, build, mail, message, prepare, short, smtp_to, soon,
};

fn both(first: &SmtpPeer, second: &SmtpPeer) -> SmtpConfig {
    let mut way = smtp_to(first.address.port());
    way.fallback = Some(Box::new(smtp_to(second.address.port()).server));
    way
}

fn letter(sink: &Sink) -> Prepared {
    prepare(sink, &mail(), &message(42, r#"{"to": "bob@shop.example", "text": "hello"}"#))
}

async fn stage() -> (SmtpPeer, SmtpPeer, Sink, Prepared) {
    let (first, second) = (SmtpPeer::start().await, SmtpPeer::start().await);
    let sink = build(LONG, Way::Smtp(both(&first, &second)));
    let letter = letter(&sink);
    (first, second, sink, letter)
}

/// Moves the clock past what a server in trouble rests.
async fn later(seconds: u64) {
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(seconds)).await;
    tokio::time::resume();
}

#[tokio::test]
async fn while_the_first_takes_mails_the_second_sees_nothing() {
    let (first, second, sink, letter) = stage().await;
    for _ in 0..3 {
        assert_delivered(&attempt(&sink, &letter, LONG).await, "250 2.0.0 Ok");
    }
    assert_eq!((first.accepted(), second.connections()), (3, 0));
    assert!(sink.on_second().is_none());
}

/// Whatever broke before the final dot began.
#[tokio::test]
async fn the_second_takes_what_the_first_was_not_sent() {
    let goodbye = || Say::text("421 4.3.2 shutting down");
    for (step, say) in [
        (Step::Greeting, Say::Cut),
        (Step::Greeting, goodbye()),
        (Step::Greeting, Say::text("554 5.7.1 not you")),
        (Step::Greeting, Say::text("450 4.3.2 not now")),
        (Step::Ehlo, Say::text("550 5.7.1 not you")),
        (Step::Ehlo, Say::Cut),
        (Step::Mail, Say::Cut),
        (Step::Mail, goodbye()),
        (Step::Rcpt, Say::Cut),
        (Step::Rcpt, goodbye()),
        (Step::Data, Say::Reset),
        (Step::Data, goodbye()),
    ] {
        let (first, second, sink, letter) = stage().await;
        first.script(step, [say.clone()]);
        let outcome = attempt(&sink, &letter, LONG).await;
        let through = format!("fallback {}: 250 2.0.0 Ok", second.address);
        assert_delivered(&outcome, &through);
        assert_eq!((first.accepted(), second.accepted()), (0, 1), "{step:?} {say:?}");
    }
}

/// In the middle of a mail that is too large to be on its way as a whole: its dot cannot be out.
#[tokio::test]
async fn a_first_server_that_leaves_in_the_middle_of_a_mail_was_not_sent_it() {
    for say in [Say::Reset, Say::text("421 4.3.2 shutting down")] {
        let first = SmtpPeer::start_with(Settings { narrow: true, ..Settings::default() }).await;
        let second = SmtpPeer::start().await;
        first.script(Step::Body, [say.clone()]);
        let sink = build(LONG, Way::Smtp(both(&first, &second)));
        let payload =
            serde_json::json!({ "to": "bob@shop.example", "text": "x\n".repeat(1 << 20) });
        let letter = prepare(&sink, &mail(), &message(42, &payload.to_string()));
        assert_delivered(&attempt(&sink, &letter, LONG).await, "fallback");
        assert_eq!((first.mails().len(), second.accepted()), (0, 1), "{say:?}");
    }
}

/// S24: nobody knows whether the first has it, so nobody else gets it.
#[tokio::test]
async fn after_the_final_dot_nobody_else_is_asked() {
    let late = Say::Gated(crate::harness::http::Gate::new(), Box::new(Say::text("250 late")));
    for (say, expected) in [
        (Say::Cut, "in doubt"),
        (Say::Reset, "in doubt"),
        (late, "in doubt"),
        (Say::text("what"), "in doubt"),
        (Say::text("421 4.3.0 no"), "throttled"),
        (Say::text("451 4.3.0 no"), "refused"),
        (Say::text("554 5.6.0 no"), "permanent"),
    ] {
        let (first, second, sink, letter) = stage().await;
        first.script(Step::Dot, [say.clone()]);
        let outcome = attempt(&sink, &letter, Duration::from_millis(500)).await;
        assert_eq!(short(&outcome).0, expected, "{say:?}");
        assert_eq!((first.mails().len(), second.connections()), (1, 0), "{say:?}");
    }
}

/// What the first says of the mail stands: another server is not asked for a better answer.
#[tokio::test]
async fn an_answer_about_the_mail_stands() {
    for (step, reply, expected) in [
        (Step::Mail, "550 5.1.0 sender rejected", "barred"),
        (Step::Mail, "451 4.3.0 no", "refused"),
        (Step::Rcpt, "450 4.2.1 no", "refused"),
        (Step::Rcpt, "450 4.7.1 rate limit exceeded", "throttled"),
        (Step::Rcpt, "550 5.1.1 no", "permanent"),
        (Step::Rcpt, "421 4.7.0 greylisted, come back later", "refused"),
        (Step::Data, "451 4.3.0 no", "refused"),
        (Step::Data, "554 5.5.1 no", "permanent"),
        (Step::Body, "552 5.3.4 too much", "permanent"),
    ] {
        let (first, second, sink, letter) = stage().await;
        first.script(step, [Say::text(reply)]);
        let outcome = attempt(&sink, &letter, LONG).await;
        assert_eq!(short(&outcome).0, expected, "{step:?} {reply}");
        assert_eq!(second.connections(), 0, "{step:?} {reply}");
        assert!(sink.on_second().is_none(), "{step:?} {reply}");
    }
}

/// One recipient put off by the first, and then the connection breaks: the mail waits for its next attempt.
/// Who was accepted or refused by the first stays so with the second.
#[tokio::test]
async fn recipients_keep_what_was_answered_for_them() {
    let three = r#"{"to": "a@x.example, b@x.example, c@x.example", "text": "t"}"#;
    for (reply, expected) in [("450 4.2.1 full", "unreachable"), ("550 5.1.1 gone", "permanent")] {
        let (first, second, sink, _) = stage().await;
        let letter = prepare(&sink, &mail(), &message(1, three));
        first.script(Step::Rcpt, [Say::text(reply), Say::Cut]);
        let phase = Phase::default();
        let outcome = sink.deliver(&letter, None, &phase).await;
        assert_eq!(short(&outcome).0, expected, "{outcome:?}");
        if expected == "permanent" {
            assert_eq!(second.mails()[0].to, ["b@x.example", "c@x.example"]);
            assert_eq!(phase.recipients().counts(), "2 accepted, 1 refused");
        } else {
            assert_eq!(second.connections(), 0);
        }
    }
}

/// A dead server must not cost each mail a connection, and one that is back is found again.
#[tokio::test]
async fn a_first_server_in_trouble_rests_and_is_asked_by_one_mail_at_a_time() {
    let (first, second, sink, letter) = stage().await;
    first.always(Step::Greeting, Say::Cut);
    for _ in 0..20 {
        assert_delivered(&attempt(&sink, &letter, LONG).await, "fallback");
    }
    assert_eq!((first.connections(), second.accepted()), (1, 20));
    let (_, why) = sink.on_second().unwrap();
    assert!(why.starts_with("greeting: "), "{why}");
    later(31).await;
    let attempts = (0..4).map(|_| attempt(&sink, &letter, LONG));
    for outcome in futures_util::future::join_all(attempts).await {
        assert_delivered(&outcome, "fallback");
    }
    assert_eq!((first.connections(), second.accepted()), (2, 24));
    first.usual(Step::Greeting);
    later(31).await;
    for _ in 0..3 {
        assert_delivered(&attempt(&sink, &letter, LONG).await, "250 2.0.0 Ok");
    }
    assert_eq!((first.accepted(), second.accepted()), (3, 24));
    assert!(sink.on_second().is_none());
}

#[tokio::test]
async fn a_server_that_is_not_there_and_comes_back() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let second = SmtpPeer::start().await;
    let mut way = smtp_to(address.port());
    way.fallback = Some(Box::new(smtp_to(second.address.port()).server));
    let sink = build(LONG, Way::Smtp(way));
    let letter = letter(&sink);
    for _ in 0..3 {
        assert_delivered(&attempt(&sink, &letter, LONG).await, "fallback");
    }
    let first = SmtpPeer::start_on(TcpListener::bind(address).await.unwrap());
    later(31).await;
    assert_delivered(&attempt(&sink, &letter, LONG).await, "250 2.0.0 Ok");
    assert_eq!((first.accepted(), second.accepted()), (1, 3));
}

/// A login that the first refuses is no reason for a customer to wait; it is not tried again for a minute.
#[tokio::test]
async fn a_refused_login_is_the_servers_trouble() {
    let login = Some(("shop".to_owned(), "new".to_owned()));
    let first = SmtpPeer::start_with(Settings { login, ..Settings::default() }).await;
    let second = SmtpPeer::start().await;
    let mut way = both(&first, &second);
    let (user, password) = ("shop".to_owned(), Secret::new("old"));
    way.server.login = Some(Login::Password { user, password });
    let sink = build(LONG, Way::Smtp(way));
    let letter = letter(&sink);
    let logins = || first.commands().iter().filter(|c| *c == "AUTH").count();
    for (seconds, expected) in [(0, 1), (45, 1), (16, 2)] {
        later(seconds).await;
        let attempts = (0..4).map(|_| attempt(&sink, &letter, LONG));
        for outcome in futures_util::future::join_all(attempts).await {
            assert_delivered(&outcome, "fallback");
        }
        assert_eq!(logins(), expected);
    }
    assert_eq!(sink.on_second().unwrap().1, "AUTH: 535 5.7.8 no");
}

#[tokio::test]
async fn two_servers_in_trouble_are_told_of_together_and_both_are_asked_again() {
    let (first, second, sink, letter) = stage().await;
    first.script(Step::Greeting, [Say::Cut]);
    second.script(Step::Greeting, [Say::text("450 4.3.2 not now, try again in 60 seconds")]);
    let outcome = attempt(&sink, &letter, LONG).await;
    assert_transient(&outcome, "greeting: the server closed the connection; fallback 127.0.0.1:");
    assert_transient(&outcome, "greeting: 450 4.3.2 not now");
    assert_eq!(short(&outcome), ("unreachable", Some(60)));
    // The first is not spared when there is nobody else.
    assert_delivered(&attempt(&sink, &letter, LONG).await, "250 2.0.0 Ok");
    assert_eq!((first.accepted(), second.accepted()), (1, 0));
}

/// Not the server's trouble: the relay itself may send no more.
#[tokio::test]
async fn without_a_lease_nobody_is_asked() {
    let (first, second, sink, letter) = stage().await;
    let phase = Phase::guarded(|| false, Recipients::default());
    let outcome = sink.deliver(&letter, None, &phase).await;
    assert_transient(&outcome, "lease ran out");
    assert_eq!((first.mails().len(), second.connections()), (0, 0));
}

/// An attempt that is cut short while it asks the first leaves the turn to the next one.
#[tokio::test]
async fn a_mail_that_is_cut_short_while_it_asks_blocks_nobody() {
    let (first, second, sink, letter) = stage().await;
    first.script(Step::Greeting, [Say::Cut, Say::Hang]);
    assert_delivered(&attempt(&sink, &letter, LONG).await, "fallback");
    later(31).await;
    let outcome = attempt(&sink, &letter, Duration::from_millis(300)).await;
    assert_transient(&outcome, "before the message went out");
    soon("closed", first.until(|p| p.open_connections() == 0)).await;
    assert_delivered(&attempt(&sink, &letter, LONG).await, "250 2.0.0 Ok");
    assert_eq!((first.accepted(), second.accepted()), (1, 1));
}

/// The second has a door of its own: what is in doubt there is in doubt.
#[tokio::test]
async fn what_the_second_does_not_answer_is_in_doubt_too() {
    let (first, second, sink, letter) = stage().await;
    first.always(Step::Greeting, Say::Cut);
    second.script(Step::Dot, [Say::Cut, Say::text("550 5.7.1 no")]);
    let outcome = attempt(&sink, &letter, LONG).await;
    assert_in_doubt(&outcome, "no answer to the mail");
    let Outcome::Permanent { reason } = attempt(&sink, &letter, LONG).await else {
        panic!("refused")
    };
    assert_eq!(reason, format!("fallback {}: mail refused: 550 5.7.1 no", second.address));
}
