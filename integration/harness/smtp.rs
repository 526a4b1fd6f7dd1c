//! A scripted mail server: it records every mail and answers each step as it is told.

#![allow(dead_code, reason = "each user scripts only what it needs")]

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
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
    /// The final dot.
    Dot,
}

/// What to answer.
#[derive(Clone, Debug)]
pub enum Say {
    /// These bytes; a line end is added. A reply that begins with 2 accepts.
    Text(String),
    /// Close without a reply.
    Cut,
    /// Never answer.
    Hang,
    /// Wait until the gate is opened, then go on.
    Gated(Gate, Box<Say>),
    /// Reply, then close.
    ThenCut(Box<Say>),
}

/// What became of a mail that arrived in full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// A 2xx was sent.
    Accepted,
    /// Another reply was sent.
    Refused,
    /// No reply was sent.
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

struct State {
    settings: Settings,
    decide: Mutex<Option<Decide>>,
    script: Mutex<HashMap<Step, VecDeque<Say>>>,
    always: Mutex<HashMap<Step, Say>>,
    mails: Mutex<Vec<Arrived>>,
    commands: Mutex<Vec<String>>,
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
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind to 127.0.0.1");
        SmtpPeer::serve_on(listener, settings)
    }

    /// The same as [`SmtpPeer::start`] on a socket of one's own.
    pub fn start_on(listener: TcpListener) -> SmtpPeer {
        SmtpPeer::serve_on(listener, Settings::default())
    }

    fn serve_on(listener: TcpListener, settings: Settings) -> SmtpPeer {
        let address = listener.local_addr().expect("a bound socket has an address");
        let state = Arc::new(State {
            settings,
            decide: Mutex::default(),
            script: Mutex::default(),
            always: Mutex::default(),
            mails: Mutex::default(),
            commands: Mutex::default(),
            record: AtomicBool::new(true),
            accepted: AtomicUsize::new(0),
            opened: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
            changed: watch::channel(()).0,
        });
        let task = tokio::spawn(accept(listener, Arc::clone(&state)));
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
        let scripted = lock(&self.script).get_mut(&step).and_then(VecDeque::pop_front);
        scripted
            .or_else(|| lock(&self.always).get(&step).cloned())
            .unwrap_or_else(|| Say::text(usual))
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
        let fate = if reply.starts_with('2') { Fate::Accepted } else { Fate::Refused };
        if let Some(at) = place {
            lock(&self.mails)[at].fate = fate;
        }
        if fate == Fate::Accepted {
            self.accepted.fetch_add(1, Ordering::SeqCst);
        }
        self.changed.send_replace(());
    }
}

/// A connection that is counted as open as long as this lives.
struct Counted(Arc<State>, usize);

impl Counted {
    fn new(state: &Arc<State>) -> Counted {
        let number = state.opened.fetch_add(1, Ordering::SeqCst) + 1;
        let open = state.open.fetch_add(1, Ordering::SeqCst) + 1;
        state.peak.fetch_max(open, Ordering::SeqCst);
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

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

async fn accept(listener: TcpListener, state: Arc<State>) {
    // Dropped with this task, and with it all connections.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok((stream, _)) = listener.accept().await else { return };
        let _ = stream.set_nodelay(true);
        let counted = Counted::new(&state);
        connections.spawn(async move {
            let _ = talk(stream, &counted).await;
        });
    }
}

async fn talk(stream: TcpStream, counted: &Counted) -> io::Result<()> {
    let Counted(state, connection) = counted;
    let stream: Box<dyn Stream> = match &state.settings.tls {
        Some(tls) if state.settings.implicit_tls => {
            Box::new(tokio_rustls::TlsAcceptor::from(Arc::clone(tls)).accept(stream).await?)
        }
        _ => Box::new(stream),
    };
    let mut dialogue = Dialogue {
        stream: BufReader::new(stream),
        state,
        connection: *connection,
        encrypted: state.settings.implicit_tls,
        from: String::new(),
        to: Vec::new(),
    };
    if dialogue.say(Step::Greeting, "220 peer.example ESMTP").await?.is_some() {
        while dialogue.step().await? {}
    }
    Ok(())
}

struct Dialogue<'a> {
    stream: BufReader<Box<dyn Stream>>,
    state: &'a State,
    connection: usize,
    encrypted: bool,
    from: String,
    to: Vec<String>,
}

impl Dialogue<'_> {
    /// Answers a step; gives the reply, or nothing if the connection is over.
    async fn say(&mut self, step: Step, usual: &str) -> io::Result<Option<String>> {
        let answer = self.state.answer(step, usual);
        self.perform(answer, |_| ()).await
    }

    /// Does what the answer says; `before` sees a reply before it is written.
    async fn perform(
        &mut self,
        answer: Say,
        before: impl FnOnce(&str),
    ) -> io::Result<Option<String>> {
        let (mut answer, mut last) = (answer, false);
        loop {
            answer = match answer {
                Say::Gated(gate, then) => {
                    gate.passed().await;
                    *then
                }
                Say::ThenCut(then) => {
                    last = true;
                    *then
                }
                Say::Cut => return Ok(None),
                Say::Hang => {
                    // Until the other side hangs up.
                    tokio::io::copy_buf(&mut self.stream, &mut tokio::io::sink()).await?;
                    return Ok(None);
                }
                Say::Text(text) => {
                    before(&text);
                    self.write(&text).await?;
                    return Ok((!last).then_some(text));
                }
            };
        }
    }

    async fn write(&mut self, text: &str) -> io::Result<()> {
        self.stream.write_all(format!("{text}\r\n").as_bytes()).await?;
        self.stream.flush().await
    }

    async fn line(&mut self) -> io::Result<Option<String>> {
        let mut line = String::new();
        let read = self.stream.read_line(&mut line).await?;
        Ok((read > 0).then(|| line.trim_end().to_owned()))
    }

    /// One command; whether there may be another.
    async fn step(&mut self) -> io::Result<bool> {
        let Some(line) = self.line().await? else { return Ok(false) };
        let word = line.split(' ').next().unwrap_or_default().to_ascii_uppercase();
        if self.state.record.load(Ordering::SeqCst) {
            lock(&self.state.commands).push(word.clone());
            self.state.changed.send_replace(());
        }
        match word.as_str() {
            "EHLO" | "HELO" => {
                let offers = self.offers();
                Ok(self.say(Step::Ehlo, &offers).await?.is_some())
            }
            "STARTTLS" => self.start_tls().await,
            "AUTH" => self.log_in(&line).await,
            "MAIL" if !self.from.is_empty() => {
                self.write("503 5.5.1 nested MAIL").await?;
                Ok(true)
            }
            "MAIL" => {
                let said = self.say(Step::Mail, "250 2.1.0 Ok").await?;
                if said.as_ref().is_some_and(|s| s.starts_with('2')) {
                    self.from = address_in(&line);
                }
                Ok(said.is_some())
            }
            "RCPT" => {
                let said = self.say(Step::Rcpt, "250 2.1.5 Ok").await?;
                if said.as_ref().is_some_and(|s| s.starts_with('2')) {
                    self.to.push(address_in(&line));
                }
                Ok(said.is_some())
            }
            "DATA" => match self.say(Step::Data, "354 go on").await? {
                Some(said) if said.starts_with('3') => self.take_mail().await,
                said => Ok(said.is_some()),
            },
            "RSET" => {
                self.forget();
                self.write("250 2.0.0 Ok").await?;
                Ok(true)
            }
            "QUIT" => {
                self.write("221 2.0.0 Bye").await?;
                Ok(false)
            }
            "NOOP" => {
                self.write("250 2.0.0 Ok").await?;
                Ok(true)
            }
            _ => {
                self.write("500 5.5.2 unknown").await?;
                Ok(true)
            }
        }
    }

    fn forget(&mut self) {
        self.from.clear();
        self.to.clear();
    }

    fn offers(&self) -> String {
        let mut offers = vec!["peer.example"];
        let settings = &self.state.settings;
        if settings.tls.is_some() && !self.encrypted {
            offers.push("STARTTLS");
        }
        if settings.login.is_some() {
            offers.push(if settings.login_only { "AUTH LOGIN" } else { "AUTH PLAIN LOGIN" });
        }
        let last = offers.pop().unwrap_or_default();
        offers.iter().fold(String::new(), |lines, o| lines + "250-" + o + "\r\n") + "250 " + last
    }

    async fn start_tls(&mut self) -> io::Result<bool> {
        let Some(said) = self.say(Step::StartTls, "220 2.0.0 go on").await? else {
            return Ok(false);
        };
        let Some(tls) = self.state.settings.tls.clone().filter(|_| said.starts_with('2')) else {
            return Ok(true);
        };
        let nothing: Box<dyn Stream> = Box::new(tokio::io::empty());
        let bare = std::mem::replace(&mut self.stream, BufReader::new(nothing)).into_inner();
        let stream = tokio_rustls::TlsAcceptor::from(tls).accept(bare).await?;
        self.stream = BufReader::new(Box::new(stream));
        self.encrypted = true;
        Ok(true)
    }

    async fn log_in(&mut self, line: &str) -> io::Result<bool> {
        let decode = |text: &str| {
            String::from_utf8_lossy(&STANDARD.decode(text).unwrap_or_default()).into_owned()
        };
        let given = if let Some(token) = line.strip_prefix("AUTH PLAIN ") {
            let token = decode(token);
            let mut parts = token.split('\0').skip(1).map(str::to_owned);
            (parts.next().unwrap_or_default(), parts.next().unwrap_or_default())
        } else {
            self.write("334 VXNlcm5hbWU6").await?;
            let Some(user) = self.line().await? else { return Ok(false) };
            self.write("334 UGFzc3dvcmQ6").await?;
            let Some(password) = self.line().await? else { return Ok(false) };
            (decode(&user), decode(&password))
        };
        let right = self.state.settings.login.as_ref() == Some(&given);
        let usual = if right { "235 2.7.0 welcome" } else { "535 5.7.8 no" };
        Ok(self.say(Step::Auth, usual).await?.is_some())
    }

    async fn take_mail(&mut self) -> io::Result<bool> {
        let (mut data, mut line) = (Vec::new(), Vec::new());
        loop {
            line.clear();
            if self.stream.read_until(b'\n', &mut line).await? == 0 {
                return Ok(false);
            }
            if line == b".\r\n" {
                break;
            }
            data.extend_from_slice(line.strip_prefix(b".").unwrap_or(&line));
        }
        let mail = Arrived {
            from: std::mem::take(&mut self.from),
            to: std::mem::take(&mut self.to),
            data,
            fate: Fate::Unanswered,
            connection: self.connection,
            encrypted: self.encrypted,
        };
        // Noted before the answer, so that whoever has the answer finds the mail here.
        let state = self.state;
        let decide = lock(&state.decide).clone();
        let decided = decide.map(|decide| decide(&mail));
        let place = state.note(mail);
        let answer =
            decided.unwrap_or_else(|| state.answer(Step::Dot, "250 2.0.0 Ok: queued as PEER1"));
        Ok(self.perform(answer, |text| state.settle(place, text)).await?.is_some())
    }
}

/// What stands between the angle brackets.
fn address_in(line: &str) -> String {
    let inner = line.split_once('<').and_then(|(_, rest)| rest.split_once('>'));
    inner.map_or_else(|| line.to_owned(), |(address, _)| address.to_owned())
}
