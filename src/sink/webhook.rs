//! Webhooks: one HTTP POST for each message, as Standard Webhooks 1.0.0 has it.
//!
//! The status line decides the outcome; nothing that comes after it does. Redirects are never
//! followed: they turn a POST into a GET, and the 200 of a login page would count as delivered.

mod verdict;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Response, Url};

use self::verdict::judge;
use super::capture::Capture;
use super::signature::signature;
use super::{BuildError, tls};
use crate::config::{BodyForm, SinkConfig, WebhookConfig, WebhookSecret};
use crate::delivery::{Cause, Outcome, Phase, clean_text};
use crate::message::{IdempotencyKey, Message};
use crate::policy::Codes;

/// Longest wait for name, connection and TLS together.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// How long an unused connection is kept; shorter than what servers usually grant.
const IDLE_MAX: Duration = Duration::from_secs(20);
/// How much of a reply's body is read so that its connection can serve again.
const DRAIN_BYTES: usize = 64 * 1024;
/// How long that may take in all, …
const DRAIN_MAX: Duration = Duration::from_secs(1);
/// … and how much of it the attempt itself waits for, with the outcome already known.
const DRAIN_INLINE: Duration = Duration::from_millis(20);

/// A webhook sink.
pub struct Webhook {
    client: Client,
    tls: Arc<rustls::ClientConfig>,
    url: Url,
    secrets: Vec<WebhookSecret>,
    body: BodyForm,
    /// Where requests are kept in place of being sent.
    pub(super) capture: Option<Capture>,
}

/// The request of one delivery, without what is made afresh for each attempt.
pub struct Request {
    id: String,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Webhook {
    /// Builds the HTTP client.
    pub(super) fn build(sink: &SinkConfig, way: &WebhookConfig) -> Result<Webhook, BuildError> {
        let tls = tls::client_config(way.ca_file.as_deref())?;
        // A connection that does not come about is reported as such, not as a timeout in doubt.
        let connect = CONNECT_MAX.min(sink.timeout.mul_f64(0.75));
        let client = Client::builder()
            .tls_backend_preconfigured(rustls::ClientConfig::clone(&tls))
            .http1_only()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .no_proxy()
            .tcp_nodelay(true)
            .connect_timeout(connect)
            .pool_idle_timeout(IDLE_MAX)
            .pool_max_idle_per_host(sink.concurrency.get())
            .user_agent(concat!("outboxd/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(BuildError::Http)?;
        let (url, secrets, body) = (way.url.clone(), way.secrets.clone(), way.body);
        Ok(Webhook { client, tls, url, secrets, body, capture: None })
    }

    /// Makes the stable part of the request.
    pub(super) fn prepare(
        &self,
        message: &Message,
        key: &IdempotencyKey,
    ) -> Result<Request, String> {
        let body = match self.body {
            BodyForm::Payload => message.payload.clone(),
            BodyForm::Envelope => envelope(message),
        };
        let quoted = format!("\"{key}\"");
        let created_at = message.created_at.to_string();
        let mut headers = HeaderMap::new();
        let mut put = |name: &'static str, value: &str| -> Result<(), String> {
            let value = HeaderValue::from_str(value)
                .map_err(|_| format!("what belongs into the header {name} cannot stand there"))?;
            headers.insert(HeaderName::from_static(name), value);
            Ok(())
        };
        put("content-type", "application/json")?;
        put("webhook-id", key.as_str())?;
        put("idempotency-key", &quoted)?;
        put("outboxd-type", &message.message_type)?;
        put("outboxd-created-at", &created_at)?;
        if let Some(traceparent) = message.headers.get("traceparent").filter(|t| is_traceparent(t))
        {
            put("traceparent", traceparent)?;
        }
        Ok(Request { id: key.to_string(), headers, body: body.into_bytes() })
    }

    /// One attempt.
    ///
    /// No attempt sends twice. The client follows no redirect and repeats nothing; a request that
    /// meets a connection which the server has closed goes over another one only if no byte of it
    /// was written: hyper gives a request back only from the queue before its first byte.
    pub(super) async fn deliver(
        &self,
        request: &Request,
        permanent: Option<&Codes>,
        phase: &Phase,
    ) -> Outcome {
        let mut post = reqwest::Request::new(reqwest::Method::POST, self.url.clone());
        *post.headers_mut() = self.sign(request, Timestamp::now().as_second());
        *post.body_mut() = Some(request.body.clone().into());
        if let Err(outcome) = phase.begin() {
            return outcome;
        }
        if let Some(capture) = &self.capture {
            return capture.keep(&format!("{}.http", request.id), &self.in_full(&post)).await;
        }
        match self.client.execute(post).await {
            Ok(response) => {
                let (status, headers) = (response.status(), response.headers());
                let outcome = judge(&self.url, status, headers, permanent, Timestamp::now());
                drain(response).await;
                outcome
            }
            Err(error) => failed(&error),
        }
    }

    /// All headers of an attempt made at `timestamp`, in seconds since 1970.
    fn sign(&self, request: &Request, timestamp: i64) -> HeaderMap {
        let mut headers = request.headers.clone();
        headers.insert("webhook-timestamp", HeaderValue::from(timestamp));
        let signed = signature(&self.secrets, &request.id, timestamp, &request.body);
        if let Some(value) = signed.and_then(|text| HeaderValue::from_str(&text).ok()) {
            headers.insert("webhook-signature", value);
        }
        headers
    }

    /// The bytes of a request as HTTP/1.1 has them, but for the lines the client adds to every one.
    fn in_full(&self, post: &reqwest::Request) -> Vec<u8> {
        let target = &self.url[url::Position::BeforePath..url::Position::AfterQuery];
        let host = &self.url[url::Position::BeforeHost..url::Position::AfterPort];
        let mut out = format!("POST {target} HTTP/1.1\r\nhost: {host}\r\n").into_bytes();
        for (name, value) in post.headers() {
            out.extend_from_slice(name.as_str().as_bytes());
            out.extend_from_slice(b": ");
            out.extend_from_slice(value.as_bytes());
            out.extend_from_slice(b"\r\n");
        }
        let body = post.body().and_then(|body| body.as_bytes()).unwrap_or_default();
        out.extend_from_slice(format!("content-length: {}\r\n\r\n", body.len()).as_bytes());
        out.extend_from_slice(body);
        out
    }

    /// Connects, shakes hands and hangs up.
    pub(super) async fn probe(&self) -> Result<String, String> {
        let host = self.url.host_str().ok_or("the URL has no host")?;
        let port = self.url.port_or_known_default().ok_or("the URL has no port")?;
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let reach = async {
            let stream = tokio::net::TcpStream::connect((bare, port))
                .await
                .map_err(|e| format!("cannot connect to {host}:{port}: {e}"))?;
            if self.url.scheme() == "http" {
                return Ok(format!("{host}:{port} accepts connections"));
            }
            tls::handshake(&self.tls, bare, stream)
                .await
                .map_err(|e| format!("no TLS with {host}:{port}: {e}"))?;
            Ok(format!("{host}:{port} accepts connections, its certificate is good"))
        };
        tokio::time::timeout(CONNECT_MAX, reach)
            .await
            .unwrap_or_else(|_| Err(format!("{host}:{port} did not answer within 5 s")))
    }
}

impl Request {
    /// Left out are the signature, its timestamp, the URL (an operator may correct it) and the
    /// program's version (an upgrade must hold nothing).
    pub(super) fn hash(&self) -> [u8; 32] {
        let headers = self.headers.iter().flat_map(|(n, v)| [n.as_str().as_bytes(), v.as_bytes()]);
        super::hash_parts(headers.chain([self.body.as_slice()]))
    }

    /// The headers that are the same on every attempt.
    #[must_use]
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// The body as it is sent.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.body
    }
}

/// Built around the payload's text, which is not touched.
fn envelope(message: &Message) -> String {
    let message_type = serde_json::Value::from(message.message_type.as_str());
    let (created_at, payload) = (message.created_at, &message.payload);
    format!(r#"{{"type":{message_type},"timestamp":"{created_at}","data":{payload}}}"#)
}

/// Whether a header is well formed by W3C Trace Context: `00-<32 hex>-<16 hex>-<2 hex>`, the ids
/// not zero. Anything else is better left out than passed on.
fn is_traceparent(text: &str) -> bool {
    let hex = |part: &str, length: usize| {
        part.len() == length && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    let zero = |part: &str| part.bytes().all(|b| b == b'0');
    let parts: Vec<&str> = text.split('-').collect();
    let [version, trace, parent, flags] = parts[..] else { return false };
    let formed = hex(version, 2) && hex(trace, 32) && hex(parent, 16) && hex(flags, 2);
    formed && version != "ff" && !zero(trace) && !zero(parent)
}

/// Reads what is left of a reply, so that its connection can be used again. The outcome is known
/// already and must not wait: what does not come at once is read aside, and given up after
/// [`DRAIN_MAX`] or [`DRAIN_BYTES`] by dropping the connection.
async fn drain(mut response: Response) {
    if response.content_length() == Some(0) {
        return;
    }
    let mut rest = Box::pin(async move {
        let mut left = DRAIN_BYTES;
        while let Ok(Some(chunk)) = response.chunk().await {
            match left.checked_sub(chunk.len()) {
                Some(fewer) => left = fewer,
                None => return,
            }
        }
    });
    if tokio::time::timeout(DRAIN_INLINE, &mut rest).await.is_err() {
        tokio::spawn(tokio::time::timeout(DRAIN_MAX, rest));
    }
}

/// An attempt without a status line. Only what failed before there was a connection is certain.
fn failed(error: &reqwest::Error) -> Outcome {
    let cause = root_cause(error);
    if error.is_connect() {
        let reason = clean_text(&format!("could not connect: {cause}"));
        return Outcome::Transient { cause: Cause::Unreachable, reason, wait: None };
    }
    Outcome::InDoubt {
        reason: clean_text(&format!("no reply after the request was sent: {cause}")),
    }
}

/// The innermost error's words: the outer ones only repeat the URL.
pub(super) fn root_cause(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "timed out".to_owned();
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Way;
    use crate::name::Name;
    use crate::policy::{Order, Policy};

    fn webhook(body: BodyForm) -> Webhook {
        let way = WebhookConfig {
            url: Url::parse("https://user:pw@shop.example/hooks/in?token=1").unwrap(),
            secrets: Vec::new(),
            body,
            ca_file: None,
        };
        let sink = SinkConfig {
            name: Name::parse("crm").unwrap(),
            concurrency: std::num::NonZeroUsize::MIN,
            timeout: Duration::from_secs(15),
            policy: Policy::default(),
            order: Order::Block,
            rate: None,
            daily_quota: None,
            way: Way::Webhook(way),
        };
        let Way::Webhook(way) = &sink.way else { unreachable!() };
        Webhook::build(&sink, way).unwrap()
    }

    fn message(payload: &str) -> Message {
        Message {
            id: 42,
            message_type: "order.created".to_owned(),
            payload: payload.to_owned(),
            key: None,
            headers: std::collections::BTreeMap::new(),
            created_at: Timestamp::UNIX_EPOCH,
        }
    }

    fn key() -> IdempotencyKey {
        let name = |text| Name::parse(text).unwrap();
        IdempotencyKey::new(&name("shop"), 42, &name("crm"), "")
    }

    #[test]
    fn the_payload_is_sent_as_it_is() {
        let payload = "{\"n\": 12345678901234567890.10,  \"ä\": \"\\u0000\"}";
        let plain = webhook(BodyForm::Payload).prepare(&message(payload), &key()).unwrap();
        assert_eq!(plain.body(), payload.as_bytes());
        let wrapped = webhook(BodyForm::Envelope).prepare(&message(payload), &key()).unwrap();
        let expected = format!(
            r#"{{"type":"order.created","timestamp":"1970-01-01T00:00:00Z","data":{payload}}}"#
        );
        assert_eq!(wrapped.body(), expected.as_bytes());
        assert_ne!(plain.hash(), wrapped.hash());
    }

    #[test]
    fn the_hash_depends_on_the_message_and_not_on_the_attempt() {
        let webhook = webhook(BodyForm::Payload);
        let request = webhook.prepare(&message("{}"), &key()).unwrap();
        let again = webhook.prepare(&message("{}"), &key()).unwrap();
        assert_ne!(webhook.sign(&request, 1), webhook.sign(&again, 2));
        assert_eq!(request.hash(), again.hash());
        let mut other = message("{}");
        other.message_type = "order.paid".to_owned();
        assert_ne!(request.hash(), webhook.prepare(&other, &key()).unwrap().hash());
    }

    /// What an earlier version has sent is on the rows: if this changes, an upgrade holds them all.
    #[test]
    fn the_hash_is_the_same_in_every_version() {
        let request = webhook(BodyForm::Payload).prepare(&message("{\"n\": 1}"), &key()).unwrap();
        assert_eq!(
            crate::hex::hex(&request.hash()),
            "25aad8c0c342e64051ebcc6f36af802cedc58a4757a0463021a52c4b94d3db95"
        );
    }

    #[test]
    fn only_a_well_formed_traceparent_is_passed_on() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let passed = |value: &str| {
            let mut message = message("{}");
            message.headers.insert("traceparent".to_owned(), value.to_owned());
            let request = webhook(BodyForm::Payload).prepare(&message, &key()).unwrap();
            request.headers().get("traceparent").map(|v| v.to_str().unwrap().to_owned())
        };
        assert_eq!(passed(good).as_deref(), Some(good));
        let zero = "00-00000000000000000000000000000000-00f067aa0ba902b7-01";
        for bad in ["", "00-4bf9-00f0-01", zero, &good.to_uppercase(), &format!("{good}\r\nx: y")] {
            assert_eq!(passed(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_type_that_cannot_stand_in_a_header_is_permanent() {
        let mut message = message("{}");
        message.message_type = "order\r\nx: y".to_owned();
        let error = webhook(BodyForm::Payload).prepare(&message, &key()).err().unwrap();
        assert!(error.contains("outboxd-type"), "{error}");
    }
}
