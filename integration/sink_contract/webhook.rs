//! What webhooks promise beyond what all sinks do.

use std::time::{Duration, Instant};

use outboxd::config::{Content, Way, WebhookSecret};
use outboxd::delivery::Outcome;
use outboxd::policy::Codes;
use outboxd::sink::{Prepared, Sink};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

use super::{
    LONG, SHORT, assert_delivered, assert_in_doubt, assert_transient, attempt, attempt_under,
    build, message, prepare, short, soon, webhook_to,
};
use crate::harness::http::{Answer, Gate, HttpPeer, Received};

async fn stage() -> (HttpPeer, Sink, Prepared) {
    let peer = HttpPeer::start().await;
    let sink = build(LONG, Way::Webhook(webhook_to(&peer.url("/in?a=b"))));
    let request = prepare(&sink, &Content::Message, &message(42, r#"{"n":  1.10, "ä": "\u00e4"}"#));
    (peer, sink, request)
}

fn header_map(request: &Received) -> HeaderMap {
    let pair = |(name, value): &(String, String)| {
        (name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap())
    };
    request.headers.iter().map(pair).collect()
}

#[tokio::test]
async fn the_request_is_what_the_contract_says() {
    let (peer, sink, request) = stage().await;
    attempt(&sink, &request, LONG).await;
    let received = peer.received().remove(0);
    assert_eq!((received.method.as_str(), received.path.as_str()), ("POST", "/in?a=b"));
    assert_eq!(received.body, "{\"n\":  1.10, \"ä\": \"\\u00e4\"}".as_bytes());
    let is = |name: &str, value: &str| assert_eq!(received.header(name), Some(value), "{name}");
    is("content-type", "application/json");
    is("user-agent", concat!("outboxd/", env!("CARGO_PKG_VERSION")));
    is("webhook-id", "msg_shop_42_out");
    is("idempotency-key", "\"msg_shop_42_out\"");
    is("outboxd-type", "order.created");
    is("outboxd-created-at", "2026-11-20T10:15:30.123456Z");
    is("host", &peer.address.to_string());
    for absent in ["webhook-signature", "traceparent", "accept-encoding", "referer", "cookie"] {
        assert_eq!(received.header(absent), None, "{absent}");
    }
}

/// Their verifier, not ours, during a change of secrets.
#[tokio::test]
async fn the_published_verifier_accepts_old_and_new_secret() {
    let secrets = [
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oDazfgnXQsYRIzmcI0BrMGKDr5",
    ];
    let peer = HttpPeer::start().await;
    let mut way = webhook_to(&peer.url("/in"));
    way.secrets = secrets.map(|s| WebhookSecret::parse(s).unwrap()).into();
    let sink = build(LONG, Way::Webhook(way));
    let payload = "{\"n\": 12345678901234567890.10,  \"ä\": \"\\n\\u0000 \"}";
    let request = prepare(&sink, &Content::Message, &message(1, payload));
    assert_delivered(&attempt(&sink, &request, LONG).await, "204");
    let received = peer.received().remove(0);
    for secret in secrets {
        let verifier = standardwebhooks::Webhook::new(secret).unwrap();
        verifier.verify(&received.body, &header_map(&received)).unwrap();
    }
    let stranger = standardwebhooks::Webhook::new("whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYX");
    let verdict = stranger.unwrap().verify(&received.body, &header_map(&received));
    assert!(verdict.is_err());
}

/// Standard Webhooks; else a login page's 200 counts as delivered.
#[tokio::test]
async fn redirects_are_not_followed() {
    let (peer, sink, request) = stage().await;
    let elsewhere = HttpPeer::start().await;
    for status in [301, 302, 303, 307, 308] {
        peer.script([Answer::redirect(status, &elsewhere.url("/login?token=secret"))]);
        let outcome = attempt(&sink, &request, LONG).await;
        assert_transient(&outcome, &elsewhere.url("/login"));
        assert!(!format!("{outcome:?}").contains("secret"));
    }
    assert_eq!((peer.requests(), elsewhere.connections()), (5, 0));
}

#[tokio::test]
async fn nothing_after_the_status_line_changes_the_outcome() {
    let (peer, sink, request) = stage().await;
    let raw = |text: &str| Answer::Raw(text.as_bytes().to_vec());
    let stream = |chunk: &[u8], pause| Answer::Stream {
        status: 200,
        chunk: chunk.to_vec(),
        every: Duration::from_millis(pause),
    };
    let gzip = Answer::status(200).header("Content-Encoding", "gzip").body("no gzip at all");
    let answers = [
        raw("HTTP/1.1 200 OK\r\n\r\n"),
        raw("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort"),
        raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n"),
        raw("HTTP/1.0 200 OK\r\n\r\nold"),
        gzip,
        Answer::status(200).body(vec![b'x'; 20_000_000]),
        stream(b"x", 1000),
        stream(&vec![b'x'; 65536], 0),
    ];
    for answer in answers {
        let (what, began) =
            (format!("{answer:?}").chars().take(90).collect::<String>(), Instant::now());
        peer.script([answer]);
        let outcome = attempt(&sink, &request, LONG).await;
        assert!(matches!(outcome, Outcome::Delivered { .. }), "{what}: {outcome:?}");
        assert!(began.elapsed() < LONG / 4, "{what}: {:?}", began.elapsed());
    }
    // What is read aside ends too: by size, or after a second.
    soon("all given up", peer.until(|p| p.open_connections() <= 1)).await;
}

#[tokio::test]
async fn a_reply_that_is_none_is_in_doubt() {
    let (peer, sink, request) = stage().await;
    for junk in ["", "HTTP/1.1 2", "HTTP/1.1 200 OK", "SSH-2.0-OpenSSH\r\n\r\n"] {
        peer.script([Answer::Raw(junk.as_bytes().to_vec())]);
        assert_in_doubt(&attempt(&sink, &request, LONG).await, "no reply after");
    }
}

/// Whoever swaps two causes meets a line here. A `Retry-After` counts as far as it makes sense.
#[tokio::test]
async fn answers_mean_what_their_status_says() {
    let (peer, sink, request) = stage().await;
    for (status, asked, expected, wait) in [
        (200, None, "delivered", None),
        (202, Some("60"), "delivered", None),
        (301, None, "failed", None),
        (304, None, "failed", None),
        (400, None, "rejected", None),
        (401, None, "rejected", None),
        (404, Some("60"), "rejected", Some(60)),
        (408, None, "rejected", None),
        (409, None, "rejected", None),
        (410, Some("60"), "permanent", None),
        (422, None, "rejected", None),
        (425, None, "rejected", None),
        (429, None, "throttled", None),
        (429, Some("120"), "throttled", Some(120)),
        (429, Some("soon"), "throttled", None),
        (500, None, "failed", None),
        (500, Some("60"), "failed", Some(60)),
        (501, None, "failed", None),
        (502, None, "away", None),
        (502, Some("60"), "away", Some(60)),
        (503, None, "away", None),
        (503, Some("-1"), "away", None),
        (503, Some("Sun, 06 Nov 1994 08:49:37 GMT"), "away", None),
        (503, Some("99999999999"), "throttled", Some(24 * 3_600)),
        (504, None, "away", None),
        (599, None, "failed", None),
    ] {
        let answer = Answer::status(status);
        peer.script([match asked {
            Some(wait) => answer.header("Retry-After", wait),
            None => answer,
        }]);
        let outcome = attempt(&sink, &request, LONG).await;
        assert_eq!(short(&outcome), (expected, wait), "{status} {asked:?}");
    }
}

#[tokio::test]
async fn a_list_says_which_answers_are_permanent() {
    let (peer, sink, request) = stage().await;
    let codes = Codes::new([400, 429].into_iter().chain(500..=599));
    for (status, expected) in [
        (200, "delivered"),
        (400, "permanent"),
        (404, "rejected"),
        (410, "rejected"),
        (429, "permanent"),
        (500, "permanent"),
        (503, "permanent"),
    ] {
        peer.script([Answer::status(status)]);
        let outcome = attempt_under(&sink, &request, Some(&codes), LONG).await;
        assert_eq!(short(&outcome), (expected, None), "{status}");
    }
}

/// At most once stands on this: a connection that has served before and breaks once bytes of the
/// request may have gone is in doubt, and the request is not sent again behind the relay's back.
#[tokio::test]
async fn a_used_connection_that_breaks_is_in_doubt_and_nothing_is_sent_again() {
    for (what, broken, arrived) in [
        ("at the first byte", Answer::CutBefore, 0),
        ("after the request", Answer::CutAfter, 1),
        ("within the answer", Answer::Raw(b"HTTP/1.1 2".to_vec()), 1),
    ] {
        let (peer, sink, request) = stage().await;
        assert_delivered(&attempt(&sink, &request, LONG).await, "204");
        peer.script([broken]);
        assert_in_doubt(&attempt(&sink, &request, LONG).await, "no reply after");
        soon("the connection is closed", peer.until(|p| p.open_connections() == 0)).await;
        assert_eq!((peer.connections(), peer.requests()), (1, 1 + arrived), "{what}");
    }
}

/// The answer after a 204 that nobody asked for must not count for the next request.
#[tokio::test]
async fn an_answer_too_many_never_counts_for_the_next_request() {
    let (peer, sink, request) = stage().await;
    peer.script([Answer::status(204).body("HTTP/1.1 204 No Content\r\n\r\n"), Answer::status(500)]);
    assert_delivered(&attempt(&sink, &request, LONG).await, "204");
    assert_eq!(short(&attempt(&sink, &request, LONG).await), ("failed", None));
}

/// A server may close a connection at the moment we take it up again. Nothing was written on it
/// that could have been read, so the request goes over a new one and arrives once.
#[tokio::test]
async fn a_connection_closed_while_idle_is_replaced() {
    let (peer, sink, request) = stage().await;
    for round in 1..=20 {
        peer.script([Answer::Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_vec())]);
        assert_delivered(&attempt(&sink, &request, LONG).await, "200");
        assert_eq!(peer.requests(), round);
        soon("closed", peer.until(|p| p.open_connections() == 0)).await;
    }
}

#[tokio::test]
async fn attempts_run_side_by_side() {
    let (peer, sink, request) = stage().await;
    let gate = Gate::new();
    peer.always(Answer::Gated(gate.clone(), Box::new(Answer::status(200))));
    let all = async {
        let attempts: [_; 8] = std::array::from_fn(|_| attempt(&sink, &request, LONG));
        futures_util::future::join_all(attempts).await
    };
    let opener = async {
        soon("eight at once", peer.until(|p| p.requests() == 8)).await;
        gate.open();
    };
    let (outcomes, ()) = tokio::join!(all, opener);
    assert!(outcomes.iter().all(|o| matches!(o, Outcome::Delivered { .. })));
}

#[tokio::test]
async fn a_certificate_must_be_trusted_and_name_the_host() {
    let (certificate, server) = super::smtp::certificate("127.0.0.1");
    let peer = HttpPeer::start_tls(server).await;
    let url = format!("https://{}/in", peer.address);
    let to = |url: &str, trusted: bool| {
        let mut way = webhook_to(url);
        way.ca_file = trusted.then(|| certificate.path().to_owned());
        let sink = build(LONG, Way::Webhook(way));
        let request = prepare(&sink, &Content::Message, &message(1, "{}"));
        (sink, request)
    };
    let (sink, request) = to(&url, true);
    assert_delivered(&attempt(&sink, &request, LONG).await, "204");
    assert!(sink.probe().await.unwrap().contains("certificate is good"));
    let (sink, request) = to(&url, false);
    let outcome = attempt(&sink, &request, LONG).await;
    assert_transient(&outcome, "could not connect: invalid peer cert");
    assert_eq!(short(&outcome), ("unreachable", None));
    assert!(sink.probe().await.unwrap_err().contains("no TLS with"));
    let (sink, request) = to(&url.replace("127.0.0.1", "localhost"), true);
    assert_transient(&attempt(&sink, &request, SHORT * 10).await, "could not connect: ");
    assert_eq!(peer.requests(), 1);
}
