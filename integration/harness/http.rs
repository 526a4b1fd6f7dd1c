//! A scripted HTTP/1.1 server: it records every request and answers each as it is told.

#![allow(dead_code, reason = "each user scripts only what it needs")]

use std::collections::VecDeque;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{
    AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader,
};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// A server on 127.0.0.1. Dropping it stops it and closes its connections.
pub struct HttpPeer {
    /// Where it listens.
    pub address: SocketAddr,
    state: Arc<State>,
    task: JoinHandle<()>,
}

/// One request as it arrived.
#[derive(Clone, Debug)]
pub struct Received {
    /// E.g. `POST`.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// In the order sent, names as sent.
    pub headers: Vec<(String, String)>,
    /// The body's bytes.
    pub body: Vec<u8>,
    /// Which connection it came on, counted from 1.
    pub connection: usize,
}

/// What to do with a request.
#[derive(Clone, Debug)]
pub enum Answer {
    /// A whole reply; `Content-Length` is added.
    Reply {
        /// The status code.
        status: u16,
        /// Further headers.
        headers: Vec<(String, String)>,
        /// The body.
        body: Vec<u8>,
    },
    /// These bytes, as they are, then the connection is closed.
    Raw(Vec<u8>),
    /// Read the request, then never answer.
    Hang,
    /// Close at the request's first byte, without reading on.
    CutBefore,
    /// Close after the request was read.
    CutAfter,
    /// A status line and headers that promise a body, then these bytes once a period for ever.
    Stream {
        /// The status code.
        status: u16,
        /// What is written each time.
        chunk: Vec<u8>,
        /// The pause between two.
        every: Duration,
    },
    /// These bytes one by one, a period apart, then the connection is closed.
    Drip {
        /// What is written.
        bytes: Vec<u8>,
        /// The pause between two bytes.
        every: Duration,
    },
    /// Read the request, wait until the gate is opened, then go on.
    Gated(Gate, Box<Answer>),
    /// Read the request, wait, then go on.
    Delayed(Duration, Box<Answer>),
}

/// Holds replies until it is opened; clones are one gate.
#[derive(Clone, Debug)]
pub struct Gate(Arc<watch::Sender<bool>>);

/// Answers a request by what is in it.
type Decide = Arc<dyn Fn(&Received) -> Answer + Send + Sync>;

struct State {
    script: Mutex<VecDeque<Answer>>,
    always: Mutex<Answer>,
    decide: Mutex<Option<Decide>>,
    received: Mutex<Vec<Received>>,
    record: AtomicBool,
    requests: AtomicUsize,
    opened: AtomicUsize,
    open: AtomicUsize,
    peak: AtomicUsize,
    at_once: AtomicUsize,
    peak_at_once: AtomicUsize,
    changed: watch::Sender<()>,
}

impl Answer {
    /// A reply with this status and no body.
    pub fn status(status: u16) -> Answer {
        Answer::Reply { status, headers: Vec::new(), body: Vec::new() }
    }

    /// A redirect.
    pub fn redirect(status: u16, location: &str) -> Answer {
        Answer::status(status).header("Location", location)
    }

    /// Adds a header to a reply.
    pub fn header(mut self, name: &str, value: &str) -> Answer {
        if let Answer::Reply { headers, .. } = &mut self {
            headers.push((name.to_owned(), value.to_owned()));
        }
        self
    }

    /// Gives a reply its body.
    pub fn body(mut self, bytes: impl Into<Vec<u8>>) -> Answer {
        if let Answer::Reply { body, .. } = &mut self {
            *body = bytes.into();
        }
        self
    }
}

impl Gate {
    /// A closed gate.
    pub fn new() -> Gate {
        Gate(Arc::new(watch::channel(false).0))
    }

    /// Opens it for good.
    pub fn open(&self) {
        self.0.send_replace(true);
    }

    /// Waits until it is open.
    pub async fn passed(&self) {
        let mut open = self.0.subscribe();
        let _ = open.wait_for(|open| *open).await;
    }
}

impl Default for Gate {
    fn default() -> Gate {
        Gate::new()
    }
}

impl HttpPeer {
    /// Starts a server that answers everything with 204.
    pub async fn start() -> HttpPeer {
        HttpPeer::listen(None).await
    }

    /// The same over TLS.
    pub async fn start_tls(config: Arc<rustls::ServerConfig>) -> HttpPeer {
        HttpPeer::listen(Some(config.into())).await
    }

    async fn listen(tls: Option<tokio_rustls::TlsAcceptor>) -> HttpPeer {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind to 127.0.0.1");
        HttpPeer::serve_on(listener, tls)
    }

    /// The same as [`HttpPeer::start`] on a socket of one's own.
    pub fn start_on(listener: TcpListener) -> HttpPeer {
        HttpPeer::serve_on(listener, None)
    }

    fn serve_on(listener: TcpListener, tls: Option<tokio_rustls::TlsAcceptor>) -> HttpPeer {
        let address = listener.local_addr().expect("a bound socket has an address");
        let state = Arc::new(State {
            script: Mutex::default(),
            always: Mutex::new(Answer::status(204)),
            decide: Mutex::default(),
            received: Mutex::default(),
            record: AtomicBool::new(true),
            requests: AtomicUsize::new(0),
            opened: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
            at_once: AtomicUsize::new(0),
            peak_at_once: AtomicUsize::new(0),
            changed: watch::channel(()).0,
        });
        let task = tokio::spawn(accept(listener, tls, Arc::clone(&state)));
        HttpPeer { address, state, task }
    }

    /// `http://127.0.0.1:PORT` and the path, which begins with a slash.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Answers the next requests with these, one each, before falling back to the usual answer.
    pub fn script(&self, answers: impl IntoIterator<Item = Answer>) {
        lock(&self.state.script).extend(answers);
    }

    /// The usual answer.
    pub fn always(&self, answer: Answer) {
        *lock(&self.state.always) = answer;
    }

    /// The usual answer, given by what is in the request.
    pub fn decide(&self, decide: impl Fn(&Received) -> Answer + Send + Sync + 'static) {
        *lock(&self.state.decide) = Some(Arc::new(decide));
    }

    /// Counts requests without keeping them, for runs too long to keep.
    pub fn count_only(&self) {
        self.state.record.store(false, Ordering::SeqCst);
    }

    /// All requests that were read in full, in order.
    pub fn received(&self) -> Vec<Received> {
        lock(&self.state.received).clone()
    }

    /// How many requests were read in full.
    pub fn requests(&self) -> usize {
        self.state.requests.load(Ordering::SeqCst)
    }

    /// How many connections were ever opened.
    pub fn connections(&self) -> usize {
        self.state.opened.load(Ordering::SeqCst)
    }

    /// How many connections are open.
    pub fn open_connections(&self) -> usize {
        self.state.open.load(Ordering::SeqCst)
    }

    /// The most requests that had been read and waited for their answer at the same time. Connections
    /// say less: one may still be on its way back to the client's pool.
    pub fn peak_at_once(&self) -> usize {
        self.state.peak_at_once.load(Ordering::SeqCst)
    }

    /// The most connections that were open at the same time.
    pub fn peak_connections(&self) -> usize {
        self.state.peak.load(Ordering::SeqCst)
    }

    /// How many requests have been read and wait for their answer.
    pub fn at_once(&self) -> usize {
        self.state.at_once.load(Ordering::SeqCst)
    }

    /// Waits until `condition` holds; it is looked at after every request and connection.
    pub async fn until(&self, condition: impl Fn(&HttpPeer) -> bool) {
        let mut changed = self.state.changed.subscribe();
        while !condition(self) {
            let _ = changed.changed().await;
        }
    }
}

impl Drop for HttpPeer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Received {
    /// The first header of that name, in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
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

async fn accept(listener: TcpListener, tls: Option<tokio_rustls::TlsAcceptor>, state: Arc<State>) {
    // Dropped with this task, and with it all connections.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok((stream, _)) = listener.accept().await else { return };
        let _ = stream.set_nodelay(true);
        let (tls, counted) = (tls.clone(), Counted::new(&state));
        connections.spawn(async move {
            let _ = match tls {
                None => serve(stream, &counted).await,
                Some(tls) => match tls.accept(stream).await {
                    Ok(stream) => serve(stream, &counted).await,
                    Err(error) => Err(error),
                },
            };
        });
    }
}

async fn serve<S>(stream: S, counted: &Counted) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let Counted(state, connection) = counted;
    let mut stream = BufReader::new(stream);
    loop {
        if stream.fill_buf().await?.is_empty() {
            return Ok(());
        }
        let scripted = lock(&state.script).pop_front();
        let decide = lock(&state.decide).clone().filter(|_| scripted.is_none());
        let mut answer = scripted.unwrap_or_else(|| lock(&state.always).clone());
        if matches!(answer, Answer::CutBefore) {
            return Ok(());
        }
        let request = read_request(&mut stream, *connection).await?;
        if let Some(decide) = decide {
            answer = decide(&request);
        }
        if state.record.load(Ordering::SeqCst) {
            lock(&state.received).push(request);
        }
        state.requests.fetch_add(1, Ordering::SeqCst);
        state.changed.send_replace(());
        let at_once = state.at_once.fetch_add(1, Ordering::SeqCst) + 1;
        state.peak_at_once.fetch_max(at_once, Ordering::SeqCst);
        let answer = waited(answer).await;
        state.at_once.fetch_sub(1, Ordering::SeqCst);
        if !perform(answer, &mut stream).await? {
            return Ok(());
        }
    }
}

async fn read_request<R>(stream: &mut R, connection: usize) -> io::Result<Received>
where
    R: AsyncBufRead + Unpin,
{
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut headers = Vec::new();
    loop {
        line.clear();
        if stream.read_line(&mut line).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.push((name.to_owned(), value.trim().to_owned()));
    }
    let mut request = Received { method, path, headers, body: Vec::new(), connection };
    let length = request.header("content-length").and_then(|l| l.parse().ok()).unwrap_or(0);
    request.body.resize(length, 0);
    stream.read_exact(&mut request.body).await?;
    Ok(request)
}

/// Waits as long as the answer says.
async fn waited(mut answer: Answer) -> Answer {
    loop {
        answer = match answer {
            Answer::Gated(gate, then) => {
                gate.passed().await;
                *then
            }
            Answer::Delayed(wait, then) => {
                tokio::time::sleep(wait).await;
                *then
            }
            now => return now,
        };
    }
}

/// Does what the answer says; whether the connection stays open.
async fn perform<S>(answer: Answer, stream: &mut BufReader<S>) -> io::Result<bool>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    match answer {
        Answer::Gated(..) | Answer::Delayed(..) => unreachable!("what was waited for is done"),
        Answer::Hang => {
            // Until the other side hangs up.
            let mut ignored = Vec::new();
            stream.read_to_end(&mut ignored).await?;
            Ok(false)
        }
        Answer::CutBefore | Answer::CutAfter => Ok(false),
        Answer::Raw(bytes) => {
            stream.write_all(&bytes).await?;
            stream.flush().await?;
            stream.shutdown().await?;
            Ok(false)
        }
        Answer::Reply { status, headers, body } => {
            let mut bytes = format!("HTTP/1.1 {status} {}\r\n", reason(status)).into_bytes();
            for (name, value) in &headers {
                write!(bytes, "{name}: {value}\r\n")?;
            }
            if status != 204 {
                write!(bytes, "Content-Length: {}\r\n", body.len())?;
            }
            bytes.extend_from_slice(b"\r\n");
            bytes.extend_from_slice(&body);
            stream.write_all(&bytes).await?;
            stream.flush().await?;
            Ok(true)
        }
        Answer::Drip { bytes, every } => {
            for byte in bytes {
                stream.write_all(&[byte]).await?;
                stream.flush().await?;
                tokio::time::sleep(every).await;
            }
            Ok(false)
        }
        Answer::Stream { status, chunk, every } => {
            let head = format!(
                "HTTP/1.1 {status} {}\r\nContent-Length: 1000000000000\r\n\r\n",
                reason(status)
            );
            stream.write_all(head.as_bytes()).await?;
            loop {
                stream.write_all(&chunk).await?;
                stream.flush().await?;
                tokio::time::sleep(every).await;
            }
        }
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        202 => "Accepted",
        204 => "No Content",
        301 | 302 | 303 | 307 | 308 => "Elsewhere",
        410 => "Gone",
        429 => "Too Many Requests",
        503 => "Service Unavailable",
        _ => "Status",
    }
}

/// Posts a body as outboxd does; the status line's code, or none without an answer.
pub async fn signed_post(
    port: u16,
    id: &'static str,
    secret: &'static str,
    body: &'static str,
) -> Option<u16> {
    signed_post_at(port, id, secret, body, body, jiff::Timestamp::now().as_second()).await
}

/// The same at another time, or with another body than the one that was signed.
pub async fn signed_post_at(
    port: u16,
    id: &str,
    secret: &str,
    original: &str,
    body: &str,
    at: i64,
) -> Option<u16> {
    let webhook = standardwebhooks::Webhook::new(secret).unwrap();
    let signature = webhook.sign(id, at, original.as_bytes()).unwrap();
    let request = format!(
        "POST /background HTTP/1.1\r\nhost: x\r\nwebhook-id: {id}\r\nwebhook-timestamp: {at}\r\n\
         webhook-signature: {signature}\r\noutboxd-type: invoice.paid\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await.unwrap();
    reply.split(' ').nth(1).and_then(|code| code.parse().ok())
}
