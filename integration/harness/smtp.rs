//! A scripted mail server: it records every mail and answers each step as it is told.

#![allow(dead_code, reason = "each user scripts only what it needs")]

mod dialogue;

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::http::Gate;

/// A server on 127.0.0.1. Dropping it stops it and closes its connections.
pub struct SmtpPeer {
    /// Where it listens.
    pub address: SocketAddr,
    state: Arc<State>,
    task: JoinHandle<()>,
}

/// How the server is set up.
#[derive(Default)]
pub struct Settings {
    /// Its certificate; with one it offers STARTTLS.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// TLS from the first byte instead.
    pub implicit_tls: bool,
    /// Asks for AUTH PLAIN or LOGIN with this user and password.
    pub login: Option<(String, String)>,
    /// Offers AUTH LOGIN only.
    pub login_only: bool,
    /// Offers AUTH XOAUTH2 only, with an access token in place of the password.
    pub tokens: bool,
    /// What else EHLO offers: `PIPELINING`, `SIZE 600`, `8BITMIME`, `SMTPUTF8`, `CHUNKING`, …
    pub offers: Vec<&'static str>,
    /// Keeps its replies back while it has another command to read, and sends them in one packet.
    pub glued: bool,
    /// Takes no more recipients of a mail than these: `452 4.5.3`.
    pub recipients_max: Option<usize>,
    /// Takes no more mails over a connection than these: then it hangs up without a word.
    pub mails_max: Option<usize>,
    /// Answers DATA with 354 also where it took no recipient, as RFC 2920 has it for pipelined ones.
    pub data_for_nobody: bool,
    /// Takes so few bytes at a time that a large mail cannot be on its way as a whole.
    pub narrow: bool,
}

/// A step of the dialogue that can be scripted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// On connect.
    Greeting,
    /// EHLO or HELO.
    Ehlo,
    /// STARTTLS.
    StartTls,
    /// The end of AUTH.
    Auth,
    /// MAIL FROM.
    Mail,
    /// RCPT TO.
    Rcpt,
    /// DATA.
    Data,
    /// In the middle of the mail, once some of it has arrived. Usually nothing is said here; what is said
    /// in place of it is the last word about that mail.
    Body,
    /// The final dot.
    Dot,
}

/// What to answer.
#[derive(Clone, Debug)]
pub enum Say {
    /// These bytes; a line end is added. A reply that begins with 2 accepts.
    Text(String),
    /// These bytes as they are, and no line end: garbage, or half a reply.
    Bytes(Vec<u8>),
    /// One reply in several packets.
    Pieces(Vec<&'static str>),
    /// Close without a reply.
    Cut,
    /// Break the connection off: the other side sees a reset.
    Reset,
    /// Wait so long, then go on: a tarpit.
    After(Duration, Box<Say>),
    /// Never answer.
    Hang,
    /// Never answer, and read nothing any more.
    Stall,
    /// Wait until the gate is opened, then go on.
    Gated(Gate, Box<Say>),
    /// Reply, then close.
    ThenCut(Box<Say>),
    /// Reply, then break the connection off.
    ThenReset(Box<Say>),
    /// Reply, then never again.
    ThenHang(Box<Say>),
}

/// What became of a mail that arrived in full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// A 2xx was sent.
    Accepted,
    /// A 4xx or 5xx was sent.
    Refused,
    /// No reply was sent, or none that says what became of it.
    Unanswered,
}

/// A mail that arrived in full.
#[derive(Clone, Debug)]
pub struct Arrived {
    /// The envelope's sender.
    pub from: String,
    /// The envelope's recipients that were accepted.
    pub to: Vec<String>,
    /// The bytes, without the dots SMTP adds.
    pub data: Vec<u8>,
    /// What became of it.
    pub fate: Fate,
    /// Which connection it came on, counted from 1.
    pub connection: usize,
    /// Whether that was encrypted.
    pub encrypted: bool,
}

/// Answers a mail by what is in it.
type Decide = Arc<dyn Fn(&Arrived) -> Say + Send + Sync>;

/// Answers a recipient; without an answer the usual one stands.
type DecideRecipient = Arc<dyn Fn(&str) -> Option<Say> + Send + Sync>;

struct State {
    port: u16,
    settings: Settings,
    login: Mutex<Option<(String, String)>>,
    decide: Mutex<Option<Decide>>,
    decide_recipient: Mutex<Option<DecideRecipient>>,
    script: Mutex<HashMap<Step, VecDeque<Say>>>,
    always: Mutex<HashMap<Step, Say>>,
    mails: Mutex<Vec<Arrived>>,
    commands: Mutex<Vec<String>>,
    lines: Mutex<Vec<String>>,
    reads: Mutex<Vec<String>>,
    record: AtomicBool,
    accepted: AtomicUsize,
    opened: AtomicUsize,
    open: AtomicUsize,
    peak: AtomicUsize,
    changed: watch::Sender<()>,
}

impl Say {
    /// A reply, e.g. `451 4.7.1 later`.
    pub fn text(text: &str) -> Say {
        Say::Text(text.to_owned())
    }
}

impl SmtpPeer {
    /// Starts a server that accepts everything, unencrypted.
    pub async fn start() -> SmtpPeer {
        SmtpPeer::start_with(Settings::default()).await
    }

    /// Starts a server that is set up so.
    pub async fn start_with(settings: Settings) -> SmtpPeer {
        let socket = TcpSocket::new_v4().expect("a socket");
        if settings.narrow {
            socket.set_recv_buffer_size(4096).expect("a small buffer");
        }
        socket.bind(([127, 0, 0, 1], 0).into()).expect("bind to 127.0.0.1");
        SmtpPeer::serve_on(socket.listen(1024).expect("listen"), settings)
    }

    /// The same as [`SmtpPeer::start`] on a socket of one's own.
    pub fn start_on(listener: TcpListener) -> SmtpPeer {
        SmtpPeer::serve_on(listener, Settings::default())
    }

    /// Lets in whoever has this password or token, and nobody else from now on.
    pub fn admit(&self, user: &str, secret: &str) {
        *lock(&self.state.login) = Some((user.to_owned(), secret.to_owned()));
    }

    fn serve_on(listener: TcpListener, settings: Settings) -> SmtpPeer {
        let address = listener.local_addr().expect("a bound socket has an address");
        let state = Arc::new(State {
            port: address.port(),
            login: Mutex::new(settings.login.clone()),
            settings,
            decide: Mutex::default(),
            decide_recipient: Mutex::default(),
            script: Mutex::default(),
            always: Mutex::default(),
            mails: Mutex::default(),
            commands: Mutex::default(),
            lines: Mutex::default(),
            reads: Mutex::default(),
            record: AtomicBool::new(true),
            accepted: AtomicUsize::new(0),
            opened: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
            changed: watch::channel(()).0,
        });
        let task = tokio::spawn(dialogue::accept(listener, Arc::clone(&state)));
        SmtpPeer { address, state, task }
    }

    /// Answers the next times at this step with these, before falling back to the usual answer.
    pub fn script(&self, step: Step, answers: impl IntoIterator<Item = Say>) {
        lock(&self.state.script).entry(step).or_default().extend(answers);
    }

    /// The usual answer at this step.
    pub fn always(&self, step: Step, answer: Say) {
        lock(&self.state.always).insert(step, answer);
    }

    /// Back to accepting at this step, whatever of its script is left.
    pub fn usual(&self, step: Step) {
        lock(&self.state.always).remove(&step);
        lock(&self.state.script).remove(&step);
    }

    /// The usual answer to a mail, given by what is in it.
    pub fn decide(&self, decide: impl Fn(&Arrived) -> Say + Send + Sync + 'static) {
        *lock(&self.state.decide) = Some(Arc::new(decide));
    }

    /// The usual answer to RCPT, given by the address: none is `250`, before any script.
    pub fn decide_recipient(&self, decide: impl Fn(&str) -> Option<Say> + Send + Sync + 'static) {
        *lock(&self.state.decide_recipient) = Some(Arc::new(decide));
    }

    /// Counts mails without keeping them, for runs too long to keep.
    pub fn count_only(&self) {
        self.state.record.store(false, Ordering::SeqCst);
    }

    /// All mails that arrived in full, in order.
    pub fn mails(&self) -> Vec<Arrived> {
        lock(&self.state.mails).clone()
    }

    /// How many mails were accepted.
    pub fn accepted(&self) -> usize {
        self.state.accepted.load(Ordering::SeqCst)
    }

    /// Every command's first word, in order, over all connections.
    pub fn commands(&self) -> Vec<String> {
        lock(&self.state.commands).clone()
    }

    /// Every command as it came, without its line end, in order, over all connections.
    pub fn lines(&self) -> Vec<String> {
        lock(&self.state.lines).clone()
    }

    /// The commands that came together, their first words in one string for each time that the server had
    /// to wait for more: `MAIL RCPT RCPT DATA` where they were pipelined.
    pub fn reads(&self) -> Vec<String> {
        lock(&self.state.reads).clone()
    }

    /// How many connections were ever opened.
    pub fn connections(&self) -> usize {
        self.state.opened.load(Ordering::SeqCst)
    }

    /// How many connections are open.
    pub fn open_connections(&self) -> usize {
        self.state.open.load(Ordering::SeqCst)
    }

    /// The most connections that were open at the same time.
    pub fn peak_connections(&self) -> usize {
        self.state.peak.load(Ordering::SeqCst)
    }

    /// Waits until `condition` holds; it is looked at after every command, mail and connection.
    pub async fn until(&self, condition: impl Fn(&SmtpPeer) -> bool) {
        let mut changed = self.state.changed.subscribe();
        while !condition(self) {
            let _ = changed.changed().await;
        }
    }
}

impl Drop for SmtpPeer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl State {
    fn answer(&self, step: Step, usual: &str) -> Say {
        self.scripted(step).unwrap_or_else(|| Say::text(usual))
    }

    fn scripted(&self, step: Step) -> Option<Say> {
        let scripted = lock(&self.script).get_mut(&step).and_then(VecDeque::pop_front);
        scripted.or_else(|| lock(&self.always).get(&step).cloned())
    }

    /// The answer to RCPT, for which so many were taken already.
    fn recipient(&self, address: &str, taken: usize) -> Say {
        if self.settings.recipients_max.is_some_and(|most| taken >= most) {
            return Say::text("452 4.5.3 too many recipients");
        }
        let decide = lock(&self.decide_recipient).clone();
        let decided = decide.and_then(|decide| decide(address));
        decided.unwrap_or_else(|| self.answer(Step::Rcpt, "250 2.1.5 Ok"))
    }

    /// Keeps a mail that arrived; gives its place among them.
    fn note(&self, mail: Arrived) -> Option<usize> {
        let place = self.record.load(Ordering::SeqCst).then(|| {
            let mut mails = lock(&self.mails);
            mails.push(mail);
            mails.len() - 1
        });
        self.changed.send_replace(());
        place
    }

    /// Notes what is about to be answered to it.
    fn settle(&self, place: Option<usize>, reply: &str) {
        let fate = match reply.as_bytes().first() {
            Some(b'2') => Fate::Accepted,
            Some(b'4' | b'5') => Fate::Refused,
            _ => Fate::Unanswered,
        };
        if let Some(at) = place {
            lock(&self.mails)[at].fate = fate;
        }
        if fate == Fate::Accepted {
            self.accepted.fetch_add(1, Ordering::SeqCst);
        }
        self.changed.send_replace(());
    }
}

impl State {
    /// How many connections to this server the kernel has that nobody has closed: a client's end that is
    /// closed is seen here at once, and by the task that serves it only later.
    fn established(&self) -> usize {
        let port = format!(":{:04X}", self.port);
        let table = std::fs::read_to_string("/proc/self/net/tcp").expect("Linux has this table");
        let rows = table.lines().map(str::split_ascii_whitespace);
        let is_ours = |mut row: std::str::SplitAsciiWhitespace<'_>| {
            row.nth(1).is_some_and(|local| local.ends_with(&port)) && row.nth(1) == Some("01")
        };
        rows.filter(|row| is_ours(row.clone())).count()
    }
}

/// A connection that is counted as open as long as this lives.
struct Counted(Arc<State>, usize);

impl Counted {
    fn new(state: &Arc<State>) -> Counted {
        let number = state.opened.fetch_add(1, Ordering::SeqCst) + 1;
        let open = state.open.fetch_add(1, Ordering::SeqCst) + 1;
        state.peak.fetch_max(state.established().min(open), Ordering::SeqCst);
        state.changed.send_replace(());
        Counted(Arc::clone(state), number)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
        self.0.changed.send_replace(());
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
