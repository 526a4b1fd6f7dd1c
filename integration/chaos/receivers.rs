//! The receivers: each notes what arrives and how it was answered, before it answers.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::net::TcpSocket;

use super::journal::{Answered, Arrival, Journal, Token, hash};
use crate::harness::http::{Answer, HttpPeer, Received};
use crate::harness::smtp::{Arrived, Say, SmtpPeer, Step};

/// Attempts at the same time, by sink.
pub const CONCURRENCY: &[(&str, usize)] = &[
    ("steady", 16),
    ("slow", 4),
    ("flaky", 8),
    ("mail", 4),
    ("away", 8),
    ("once", 8),
    ("letter", 4),
];

/// The sinks where a message may arrive only once: a webhook and a mail server.
pub const ONCE: &[&str] = &["once", "letter"];

/// Tried again soon and for as long as a run may take.
const RETRY: &str = "retry = { attempts = 101, first = \"100ms\", factor = 1.5, max = \"1s\" }";

const AT_MOST_ONCE: &str = "guarantee = \"at-most-once\"";

/// The receivers of a run.
pub struct Receivers {
    /// Takes everything at once; what is measured is measured here.
    pub steady: HttpPeer,
    /// Takes its time.
    pub slow: HttpPeer,
    /// Misbehaves when told to.
    pub flaky: HttpPeer,
    /// A mail server; misbehaves when told to.
    pub mail: SmtpPeer,
    /// The same two, where a message may arrive only once.
    pub once: HttpPeer,
    pub letter: SmtpPeer,
    /// A port that nobody listens on, until the end.
    away: Mutex<Away>,
    bad: Bad,
    files: tempfile::TempDir,
    journal: Journal,
}

/// What misbehaves now.
#[derive(Clone, Default)]
struct Bad {
    receiver: Arc<AtomicBool>,
    mail_server: Arc<AtomicBool>,
}

enum Away {
    Bound(TcpSocket),
    Back { _peer: HttpPeer },
    Moving,
}

impl Receivers {
    /// Starts them; the seed is for what the misbehaving ones draw.
    pub async fn start(journal: &Journal, seed: u64) -> Receivers {
        let bad = Bad::default();
        let (steady, slow) = (HttpPeer::start().await, HttpPeer::start().await);
        let (flaky, once) = (HttpPeer::start().await, HttpPeer::start().await);
        let (mail, letter) = (SmtpPeer::start().await, SmtpPeer::start().await);
        for peer in [&steady, &slow, &flaky, &once] {
            peer.count_only();
        }
        mail.count_only();
        letter.count_only();
        let away = TcpSocket::new_v4().expect("a socket");
        away.bind("127.0.0.1:0".parse().expect("an address")).expect("bind to 127.0.0.1");

        takes(&steady, "steady", journal, |request| match request.header("outboxd-type") {
            Some("poison.gone") => (Answered::Refused, Answer::status(410)),
            _ => (Answered::Accepted, Answer::status(204)),
        });
        let random = Arc::new(Mutex::new(fastrand::Rng::with_seed(seed)));
        let draw = Arc::clone(&random);
        takes(&slow, "slow", journal, move |_| {
            let wait = Duration::from_millis(lock(&draw).u64(10..80));
            (Answered::Accepted, Answer::Delayed(wait, Box::new(Answer::status(200))))
        });
        for (peer, sink) in [(&flaky, "flaky"), (&once, "once")] {
            let (draw, is_bad) = (Arc::clone(&random), Arc::clone(&bad.receiver));
            takes(peer, sink, journal, move |_| {
                let bad = is_bad.load(Ordering::SeqCst);
                let mut random = lock(&draw);
                let (answered, answer) = misbehave(if bad { random.u32(0..100) } else { 100 });
                // There is an end to be in doubt about when a relay is killed.
                let wait = Duration::from_millis(random.u64(0..60));
                (answered, Answer::Delayed(wait, Box::new(answer)))
            });
        }
        for (peer, sink) in [(&mail, "mail"), (&letter, "letter")] {
            let (draw, is_bad) = (Arc::clone(&random), Arc::clone(&bad.mail_server));
            let noted = journal.clone();
            peer.decide(move |mail| {
                let bad = is_bad.load(Ordering::SeqCst);
                let (answered, say) = judge_mail(if bad { lock(&draw).u32(0..100) } else { 100 });
                note_mail(&noted, sink, mail, answered);
                say
            });
        }
        let (files, journal) = (tempfile::tempdir().expect("a folder"), journal.clone());
        let away = Mutex::new(Away::Bound(away));
        Receivers { steady, slow, flaky, mail, once, letter, away, bad, files, journal }
    }

    /// Where the CSV files appear.
    pub fn files(&self) -> &Path {
        self.files.path()
    }

    /// Everything but `[database]` and `[relay]`.
    pub fn config(&self) -> String {
        let webhook = |name: &str, url: &str, more: &str| {
            let (_, slots) = CONCURRENCY.iter().find(|(sink, _)| *sink == name).expect("listed");
            format!(
                "[sinks.{name}]\nkind = \"webhook\"\nurl = \"{url}\"\nconcurrency = {slots}\n{RETRY}\n{more}\n"
            )
        };
        let mail = |name: &str, peer: &SmtpPeer, more: &str| {
            format!(
                "[sinks.{name}]\nkind = \"smtp\"\nurl = \"smtp://{}\"\nfrom = \"shop@example.com\"\n\
                 concurrency = 4\n{RETRY}\n{more}\n",
                peer.address
            )
        };
        let away = match &*lock(&self.away) {
            Away::Bound(socket) => socket.local_addr().expect("a bound socket has an address"),
            Away::Back { .. } | Away::Moving => unreachable!("the config is written first"),
        };
        [
            webhook("steady", &self.steady.url("/"), "timeout = \"10s\""),
            webhook("slow", &self.slow.url("/"), "timeout = \"10s\""),
            webhook("flaky", &self.flaky.url("/"), "timeout = \"1500ms\""),
            webhook("away", &format!("http://{away}/"), ""),
            webhook("once", &self.once.url("/"), &format!("timeout = \"1500ms\"\n{AT_MOST_ONCE}")),
            mail("mail", &self.mail, "timeout = \"2s\""),
            mail("letter", &self.letter, &format!("timeout = \"1500ms\"\n{AT_MOST_ONCE}")),
            format!(
                "[sinks.orders]\nkind = \"csv\"\npath = \"{}/orders-{{{{ period }}}}.csv\"\n\
                 every = \"1s\"\nmax_rows = 200\n\
                 columns = [{{ name = \"token\", value = \"payload.token\", as = \"integer\" }}]\n",
                self.files.path().display()
            ),
            "[[routes]]\ntype = \"order.*\"\nsink = [\"steady\", \"slow\", \"flaky\", \"orders\"]\n\
             [[routes]]\ntype = \"tick\"\nsink = \"steady\"\n\
             [[routes]]\ntype = \"more.*\"\nsink = \"steady\"\n\
             [[routes]]\ntype = \"poison.gone\"\nsink = \"steady\"\n\
             [[routes]]\ntype = \"away.*\"\nsink = \"away\"\n\
             [[routes]]\ntype = \"once.*\"\nsink = \"once\"\n\
             [[routes]]\ntype = \"once.*\"\nsink = \"letter\"\nto = \"a@example.org\"\n\
             subject = \"{{ payload.token }}\"\ntext = \"{{ payload.text }}\"\n\
             [[routes]]\ntype = \"mail.*\"\nsink = \"mail\"\nto = \"a@example.org\"\n\
             subject = \"{{ payload.token }}\"\ntext = \"{{ payload.text }}\"\n"
                .to_owned(),
        ]
        .concat()
    }

    /// Lets the flaky receiver misbehave, or not.
    pub fn bad_receiver(&self, bad: bool) {
        self.bad.receiver.store(bad, Ordering::SeqCst);
    }

    /// Lets the mail server misbehave, or not.
    pub fn bad_mail_server(&self, bad: bool, seed: u64) {
        self.bad.mail_server.store(bad, Ordering::SeqCst);
        let steps = [
            (Step::Greeting, Say::text("421 4.3.2 not now")),
            (Step::Greeting, Say::Cut),
            (Step::Mail, Say::text("451 4.3.0 not now")),
            (Step::Rcpt, Say::text("450 4.2.1 not now")),
            (Step::Data, Say::text("451 4.3.0 not now")),
            (Step::Data, Say::Cut),
        ];
        let mut random = fastrand::Rng::with_seed(seed);
        for peer in [&self.mail, &self.letter] {
            for (step, _) in &steps {
                peer.usual(*step);
            }
            if bad {
                let times = 1 + random.usize(..6);
                for (step, say) in &steps {
                    peer.script(*step, std::iter::repeat_n(say.clone(), times));
                }
            }
        }
    }

    /// The receiver that was away all the time is there.
    pub fn come_back(&self) {
        let mut away = lock(&self.away);
        *away = match std::mem::replace(&mut *away, Away::Moving) {
            Away::Bound(socket) => {
                let peer = HttpPeer::start_on(socket.listen(128).expect("listen"));
                peer.count_only();
                takes(&peer, "away", &self.journal, |_| (Answered::Accepted, Answer::status(200)));
                Away::Back { _peer: peer }
            }
            there => there,
        };
    }
}

/// A server that notes each request with the answer it gets.
fn takes(
    peer: &HttpPeer,
    sink: &'static str,
    journal: &Journal,
    decide: impl Fn(&Received) -> (Answered, Answer) + Send + Sync + 'static,
) {
    let journal = journal.clone();
    peer.decide(move |request| {
        let (answered, answer) = decide(request);
        let id = request.header("webhook-id").unwrap_or_default();
        let stable = ["idempotency-key", "outboxd-type", "outboxd-created-at"];
        let mut bytes = request.body.clone();
        for name in stable {
            bytes.extend_from_slice(request.header(name).unwrap_or_default().as_bytes());
        }
        journal.arrived(Arrival {
            sink,
            token: token_in(&request.body),
            at: Timestamp::now(),
            answered,
            id: hash(id.as_bytes()),
            body: hash(&bytes),
        });
        answer
    });
}

fn note_mail(journal: &Journal, sink: &'static str, mail: &Arrived, answered: Answered) {
    let text = String::from_utf8_lossy(&mail.data);
    let header = |name: &str| {
        let found = text.lines().find_map(|line| line.strip_prefix(name));
        found.unwrap_or_default().trim().to_owned()
    };
    journal.arrived(Arrival {
        sink,
        token: header("Subject:").parse().expect("the subject is the token"),
        at: Timestamp::now(),
        answered,
        id: hash(header("Message-ID:").as_bytes()),
        body: hash(&mail.data),
    });
}

fn token_in(body: &[u8]) -> Token {
    let payload: serde_json::Value = serde_json::from_slice(body).expect("the body is JSON");
    payload["token"].as_u64().expect("every payload has its token")
}

/// What a webhook receiver can do wrong.
fn misbehave(percent: u32) -> (Answered, Answer) {
    let raw = |text: &str| Answer::Raw(text.as_bytes().to_vec());
    let later = |status| Answer::status(status).header("Retry-After", "1");
    match percent {
        // Takes it, and breaks off or dawdles after the status line: taken all the same.
        0..8 => (Answered::Accepted, raw("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")),
        8..11 => {
            let every = Duration::from_secs(1);
            (Answered::Accepted, Answer::Stream { status: 200, chunk: vec![b'x'], every })
        }
        // Takes it, and nobody is told.
        11..15 => (Answered::Nothing, Answer::CutAfter),
        15..18 => (Answered::Nothing, raw("HTTP/1.1 20")),
        18..20 => (Answered::Nothing, Answer::Hang),
        20..22 => {
            let (bytes, every) = (b"HTTP/1.1 200 OK\r\n".to_vec(), Duration::from_millis(500));
            (Answered::Nothing, Answer::Drip { bytes, every })
        }
        22..30 => (Answered::Refused, Answer::status(500)),
        30..33 => (Answered::Later, later(503)),
        33..36 => (Answered::Later, later(429)),
        _ => (Answered::Accepted, Answer::status(200)),
    }
}

/// What a mail server can do wrong once it has the mail.
fn judge_mail(percent: u32) -> (Answered, Say) {
    match percent {
        0..10 => (Answered::Nothing, Say::Cut),
        10..15 => (Answered::Nothing, Say::Hang),
        15..30 => (Answered::Later, Say::text("451 4.3.0 not now")),
        30..40 => {
            (Answered::Accepted, Say::ThenCut(Box::new(Say::text("250 2.0.0 Ok: queued as PEER"))))
        }
        _ => (Answered::Accepted, Say::text("250 2.0.0 Ok: queued as PEER")),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
