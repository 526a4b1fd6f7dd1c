//! The far side: a mail catcher and a webhook receiver that speak the real protocols.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

use crate::harness::http::{Answer, HttpPeer, Received};
use crate::harness::smtp::{Fate, Say, SmtpPeer, Step};
use crate::tally::{Arrival, Found};

/// What the receiver needs for an answer, so that there is something in flight.
const WORK: Duration = Duration::from_millis(15);
/// Every so many-th new request is answered 503 at first, every so many-th mail 451.
const BUSY_EVERY: usize = 100;

/// Both receivers.
pub struct Receivers {
    smtp: SmtpPeer,
    http: HttpPeer,
    secret: String,
    desk: Arc<Mutex<Desk>>,
}

/// How much arrived at some moment.
#[derive(Clone, Copy)]
pub struct Counts {
    pub mails: usize,
    pub requests: usize,
}

/// What the webhook receiver knows.
#[derive(Default)]
struct Desk {
    /// Ids that were asked to come again.
    put_off: BTreeSet<String>,
    /// Ids whose work is done.
    seen: BTreeSet<String>,
    accepted: Vec<Received>,
    forged: usize,
}

impl Receivers {
    /// Starts both on free ports of 127.0.0.1.
    pub async fn start() -> anyhow::Result<Receivers> {
        let smtp = SmtpPeer::start().await;
        let busy = |n| match n % BUSY_EVERY {
            0 => Say::text("451 4.3.0 busy, come again"),
            _ => Say::text("250 2.1.5 Ok"),
        };
        smtp.script(Step::Rcpt, (1..=10 * BUSY_EVERY).map(busy));

        let http = HttpPeer::start().await;
        http.count_only();
        let key: [u8; 24] = std::array::from_fn(|_| fastrand::u8(..));
        let verifier = standardwebhooks::Webhook::from_bytes(key.into())?;
        let desk = Arc::new(Mutex::new(Desk::default()));
        let at_the_desk = Arc::clone(&desk);
        http.decide(move |request| {
            let answer = lock(&at_the_desk).receive(&verifier, request);
            Answer::Delayed(WORK, Box::new(answer))
        });
        Ok(Receivers { smtp, http, secret: secret(key), desk })
    }

    /// Where they are, for the relay's config.
    pub fn variables(&self) -> [(&'static str, String); 3] {
        [
            ("DEMO_SMTP_URL", format!("smtp://{}", self.smtp.address)),
            ("DEMO_WEBHOOK_URL", self.http.url("/hooks/orders")),
            ("DEMO_WEBHOOK_SECRET", self.secret.clone()),
        ]
    }

    /// How much was accepted so far, repeats included.
    pub fn counts(&self) -> Counts {
        Counts { mails: self.smtp.accepted(), requests: lock(&self.desk).accepted.len() }
    }

    /// Waits until a request has come that is not answered yet.
    pub async fn next_request(&self) {
        let before = self.http.requests();
        self.http.until(|http| http.requests() > before).await;
    }

    /// Writes down what was accepted, one file each, and reads what it says.
    pub fn write_down(&self, folder: &Path) -> anyhow::Result<Found> {
        let mut found = Found::default();
        let accepted = self.smtp.mails().into_iter().filter(|mail| mail.fate == Fate::Accepted);
        for (number, mail) in accepted.enumerate() {
            let arrival = Arrival::of_mail(&mail.data)?;
            let file = format!("{:04}-{}.eml", number + 1, arrival.id);
            fs::write(folder.join("mails").join(file), &mail.data)?;
            found.mails.push(arrival);
        }
        let desk = lock(&self.desk);
        for (number, request) in desk.accepted.iter().enumerate() {
            let arrival = Arrival::of_request(request)?;
            let file = format!("{:04}-{}.http", number + 1, arrival.id);
            fs::write(folder.join("requests").join(file), as_sent(request))?;
            found.requests.push(arrival);
        }
        (found.put_off, found.forged) = (desk.put_off.len(), desk.forged);
        Ok(found)
    }
}

impl Desk {
    /// What a good receiver does: verify, look whether the id was here before, do the work.
    fn receive(&mut self, verifier: &standardwebhooks::Webhook, request: &Received) -> Answer {
        if verify(verifier, request).is_err() {
            self.forged += 1;
            return Answer::status(401);
        }
        let id = request.header("webhook-id").unwrap_or_default().to_owned();
        if !self.seen.contains(&id)
            && self.seen.len() % BUSY_EVERY == BUSY_EVERY - 1
            && self.put_off.len() <= self.seen.len() / BUSY_EVERY
            && self.put_off.insert(id.clone())
        {
            return Answer::status(503);
        }
        // A repeat is answered like the first time, and its work is not done again.
        self.seen.insert(id);
        self.accepted.push(request.clone());
        Answer::status(204)
    }
}

fn verify(verifier: &standardwebhooks::Webhook, request: &Received) -> anyhow::Result<()> {
    let mut headers = HeaderMap::new();
    for (name, value) in &request.headers {
        headers.append(name.parse::<HeaderName>()?, HeaderValue::from_str(value)?);
    }
    verifier.verify(&request.body, &headers).context("signature")
}

fn as_sent(request: &Received) -> Vec<u8> {
    let mut head = format!("{} {} HTTP/1.1\r\n", request.method, request.path);
    for (name, value) in &request.headers {
        let _ = write!(head, "{name}: {value}\r\n");
    }
    [head.as_bytes(), b"\r\n", &request.body].concat()
}

fn secret(key: [u8; 24]) -> String {
    use base64::Engine as _;
    format!("whsec_{}", base64::engine::general_purpose::STANDARD.encode(key))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
