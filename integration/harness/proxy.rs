//! A proxy that makes the faults of a network, before PostgreSQL or any other server.
//!
//! It listens on a free port of 127.0.0.1 and forwards to a TCP address or a Unix socket. Held bytes
//! are kept and go on when they may, as TCP does it once a broken line heals; nothing is lost but by
//! [`Proxy::cut`]. Tasks run on the runtime of the test that started the proxy and end with it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Chunks on their way in one direction of one connection. More than that, and the sender waits, as
/// it would for a full window.
const IN_FLIGHT: usize = 256;

/// What the proxy stands before.
#[derive(Clone)]
pub enum Target {
    /// A server on a TCP address.
    Tcp(SocketAddr),
    /// A server on a Unix socket, such as `Cluster::socket()`.
    Unix(PathBuf),
}

/// The two ways through a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// From the client to the server.
    Requests,
    /// From the server to the client.
    Replies,
}

/// The fault of the moment. Every pump watches it.
#[derive(Default)]
struct Fault {
    requests_held: bool,
    replies_held: bool,
    /// Connections whose replies alone are held, by number.
    held_connections: Vec<usize>,
    /// The same for requests.
    held_requests: Vec<usize>,
    /// The first connection that sends these bytes is held in this direction.
    snare: Option<(Direction, Vec<u8>)>,
    reply_delay: Duration,
    refusing: bool,
}

impl Fault {
    fn holds(&self, direction: Direction, connection: usize) -> bool {
        match direction {
            Direction::Requests => self.requests_held || self.held_requests.contains(&connection),
            Direction::Replies => self.replies_held || self.held_connections.contains(&connection),
        }
    }
}

/// The connections that the next cut ends.
#[derive(Clone, Default)]
struct Generation {
    cut: CancellationToken,
    pumps: TaskTracker,
}

struct Shared {
    target: Target,
    fault: watch::Sender<Fault>,
    generation: Mutex<Generation>,
    accepted: AtomicUsize,
    open: AtomicUsize,
}

/// A running proxy. Ends, and cuts what is open, when dropped.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: tokio::task::JoinHandle<()>,
}

impl Proxy {
    /// Listens on a free port and forwards to `target`.
    pub async fn start(target: Target) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind a free port");
        let address = listener.local_addr().expect("read the port");
        let shared = Arc::new(Shared {
            target,
            fault: watch::Sender::new(Fault::default()),
            generation: Mutex::default(),
            accepted: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Self { address, shared, accepting }
    }

    /// Where to connect instead of the target.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The port of [`Proxy::address`].
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// How many connections were ever accepted, also those refused while down. The last one accepted
    /// has this number.
    pub fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// How many connections are open now.
    pub fn open(&self) -> usize {
        self.shared.open.load(Ordering::SeqCst)
    }

    /// Cuts every open connection, with what is in flight, and returns when that is done. The client
    /// sees a reset. New connections are accepted.
    pub async fn cut(&self) {
        let old = {
            let mut now = self.shared.generation.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *now)
        };
        old.cut.cancel();
        old.pumps.close();
        old.pumps.wait().await;
    }

    /// Cuts every connection and refuses new ones until [`Proxy::resume`].
    pub async fn go_down(&self) {
        self.shared.fault.send_modify(|fault| fault.refusing = true);
        self.cut().await;
    }

    /// Lets nothing through in one direction until [`Proxy::resume`]. Both directions stalled is a
    /// black hole: connections stay, and nobody hears anything.
    pub fn stall(&self, direction: Direction) {
        self.shared.fault.send_modify(|fault| match direction {
            Direction::Requests => fault.requests_held = true,
            Direction::Replies => fault.replies_held = true,
        });
    }

    /// Lets requests through but keeps all replies until [`Proxy::release`].
    pub fn hold_replies(&self) {
        self.stall(Direction::Replies);
    }

    /// Keeps the replies of one connection, by its number from 1, until [`Proxy::release`].
    pub fn hold_replies_of(&self, connection: usize) {
        self.shared.fault.send_modify(|fault| fault.held_connections.push(connection));
    }

    /// Waits for the first connection that sends `bytes` (a piece of a statement's text, say) and
    /// keeps its replies, that to those bytes included, until [`Proxy::release`]. The bytes are
    /// looked for in what one read returns. [`Proxy::snared`] tells which connection it was.
    pub fn hold_replies_after(&self, bytes: &[u8]) {
        self.set_snare(Direction::Replies, bytes);
    }

    /// The same for requests: what the connection sends, from those bytes on, is kept until
    /// [`Proxy::release`], also when the client has hung up by then.
    pub fn hold_requests_from(&self, bytes: &[u8]) {
        self.set_snare(Direction::Requests, bytes);
    }

    fn set_snare(&self, direction: Direction, bytes: &[u8]) {
        assert!(!bytes.is_empty(), "every request holds an empty string");
        let snare = Some((direction, bytes.to_vec()));
        self.shared.fault.send_modify(|fault| fault.snare = snare);
    }

    /// Waits until [`Proxy::hold_replies_after`] has caught a connection, and returns its number.
    pub async fn snared(&self) -> usize {
        let mut fault = self.shared.fault.subscribe();
        let held =
            |fault: &Fault| fault.held_connections.last().or(fault.held_requests.last()).copied();
        let caught = |fault: &Fault| fault.snare.is_none() && held(fault).is_some();
        let fault = fault.wait_for(caught).await.expect("the proxy holds the sender");
        held(&fault).expect("one was caught")
    }

    /// Lets go of all held replies, in order.
    pub fn release(&self) {
        self.shared.fault.send_modify(|fault| {
            fault.replies_held = false;
            fault.held_connections.clear();
            fault.held_requests.clear();
            fault.snare = None;
        });
    }

    /// Delays every reply that has not gone on yet by `delay` from its arrival. Replies in flight at
    /// the same time wait at the same time, as on a long line.
    pub fn delay_replies(&self, delay: Duration) {
        self.shared.fault.send_modify(|fault| fault.reply_delay = delay);
    }

    /// Ends every fault: accepts, forwards, delays nothing.
    pub fn resume(&self) {
        self.shared.fault.send_modify(|fault| *fault = Fault::default());
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.shared.generation.lock().unwrap_or_else(PoisonError::into_inner).cut.cancel();
    }
}

/// Counts a connection as open until it ends, by whatever way.
struct Open(Arc<Shared>);

impl Open {
    fn new(shared: Arc<Shared>) -> Self {
        shared.open.fetch_add(1, Ordering::SeqCst);
        Self(shared)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        let Ok((client, _)) = listener.accept().await else { continue };
        let number = shared.accepted.fetch_add(1, Ordering::SeqCst) + 1;
        if shared.fault.borrow().refusing {
            reset(&client);
            continue;
        }
        let now = shared.generation.lock().unwrap_or_else(PoisonError::into_inner);
        let cut = now.cut.clone();
        let open = Open::new(Arc::clone(&shared));
        now.pumps.spawn(async move {
            let shared = Arc::clone(&open.0);
            let mut client = client;
            tokio::select! {
                () = cut.cancelled() => {}
                () = connect_and_forward(&mut client, number, &shared) => return,
            }
            reset(&client);
        });
    }
}

async fn connect_and_forward(client: &mut TcpStream, number: usize, shared: &Shared) {
    match &shared.target {
        Target::Tcp(address) => match TcpStream::connect(address).await {
            Ok(mut server) => {
                // Small packets go on at once, as they would without us.
                let _ = server.set_nodelay(true);
                let (from, to) = server.split();
                forward(client, from, to, number, shared).await;
            }
            Err(_) => reset(client),
        },
        Target::Unix(path) => match UnixStream::connect(path).await {
            Ok(mut server) => {
                let (from, to) = server.split();
                forward(client, from, to, number, shared).await;
            }
            Err(_) => reset(client),
        },
    }
}

async fn forward(
    client: &mut TcpStream,
    from_server: impl AsyncRead + Unpin,
    to_server: impl AsyncWrite + Unpin,
    number: usize,
    shared: &Shared,
) {
    let _ = client.set_nodelay(true);
    let (from_client, to_client) = client.split();
    // Each way ends by itself, so that a half-closed connection stays one.
    tokio::join!(
        pump(from_client, to_server, Direction::Requests, number, shared),
        pump(from_server, to_client, Direction::Replies, number, shared),
    );
}

async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    direction: Direction,
    number: usize,
    shared: &Shared,
) {
    let (sender, mut chunks) = mpsc::channel::<(Instant, Vec<u8>)>(IN_FLIGHT);
    let read = async move {
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(length @ 1..) = from.read(&mut buffer).await {
            let chunk = buffer[..length].to_vec();
            if direction == Direction::Requests {
                spring(&chunk, number, shared);
            }
            if sender.send((Instant::now(), chunk)).await.is_err() {
                break;
            }
        }
    };
    let write = async move {
        while let Some((arrived, chunk)) = chunks.recv().await {
            pass(Some(arrived), direction, number, shared).await;
            if to.write_all(&chunk).await.is_err() {
                return;
            }
        }
        // The end of the stream is a message too, and is held like any other.
        pass(None, direction, number, shared).await;
        let _ = to.shutdown().await;
    };
    tokio::join!(read, write);
}

/// Holds a connection that sends what is waited for, before the server sees it.
fn spring(chunk: &[u8], number: usize, shared: &Shared) {
    shared.fault.send_if_modified(|fault| {
        let caught = fault
            .snare
            .take_if(|(_, bytes)| chunk.windows(bytes.len()).any(|window| window == &**bytes));
        match &caught {
            Some((Direction::Replies, _)) => fault.held_connections.push(number),
            Some((Direction::Requests, _)) => fault.held_requests.push(number),
            None => {}
        }
        caught.is_some()
    });
}

/// Waits until what arrived at `arrived` may go on.
async fn pass(arrived: Option<Instant>, direction: Direction, number: usize, shared: &Shared) {
    let mut fault = shared.fault.subscribe();
    loop {
        let may_go_at = {
            let now = fault.borrow_and_update();
            let delayed = arrived.filter(|_| direction == Direction::Replies);
            match delayed.map(|arrived| arrived + now.reply_delay) {
                _ if now.holds(direction, number) => None,
                due => Some(due.unwrap_or_else(Instant::now)),
            }
        };
        match may_go_at {
            Some(at) if at <= Instant::now() => return,
            Some(at) => tokio::select! {
                () = tokio::time::sleep_until(at) => {}
                _ = fault.changed() => {}
            },
            None => {
                if fault.changed().await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Makes the coming close a reset, so that the other side does not take it for an orderly end.
fn reset(stream: &TcpStream) {
    let _ = stream.set_zero_linger();
}
