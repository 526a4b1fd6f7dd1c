//! What webhooks promise beyond what all sinks do.

use std::time::{Duration, Instant};

use outboxd::config::{Content, Way, WebhookSecret};
use outboxd::delivery::Outcome;
use outboxd::sink::{Prepared, Sink};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

use super::{
    LONG, SHORT, assert_delivered, assert_in_doubt, assert_transient, attempt, build, message,
    prepare, soon, webhook_to,
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

#[tokio::test]
async fn a_receiver_says_how_long_to_wait() {
    let (peer, sink, request) = stage().await;
    peer.script([Answer::status(429).header("Retry-After", "120")]);
    let outcome = attempt(&sink, &request, LONG).await;
    let Outcome::Transient { wait, .. } = outcome else { panic!("{outcome:?}") };
    assert_eq!(wait, Some(Duration::from_secs(120)));
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
    assert_transient(&attempt(&sink, &request, LONG).await, "could not connect: invalid peer cert");
    assert!(sink.probe().await.unwrap_err().contains("no TLS with"));
    let (sink, request) = to(&url.replace("127.0.0.1", "localhost"), true);
    assert_transient(&attempt(&sink, &request, SHORT * 10).await, "could not connect: ");
    assert_eq!(peer.requests(), 1);
}
