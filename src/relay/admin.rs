//! Admin: the listener that answers for the process, as long as the process lives.
//!
//! `/livez` says whether the event loop turns, `/readyz` whether the relay gets on, `/metrics` tells it in
//! numbers. The listener has a thread and a loop of its own, so that it can say when the other one stands.
//! It serves on hyper itself and not on a framework: there are three pages, and the bounds (headers,
//! connections, time) are ours to set there.

mod pages;
pub(super) mod progress;

use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::Process;
use crate::config::{Admin, Secret};

/// Connections that may be open; more wait to be accepted.
const CONNECTIONS_MAX: usize = 64;
/// Bytes of a request's line and headers.
const HEADER_MAX: usize = 8 * 1024;
const HEADERS_MAX: usize = 50;
/// How long the headers may take, and the whole connection: each carries one request.
const HEADER_LIMIT: Duration = Duration::from_secs(1);
const CONNECTION_LIMIT: Duration = Duration::from_secs(10);
/// How often the event loop of the relay shows that it turns.
const BEAT_EVERY: Duration = Duration::from_millis(500);
/// After a connection could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why there is no listener.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// Somebody else has the port, or it is not ours to take.
    #[error(
        "cannot listen on {listen}: {error}; stop what listens there, or choose another port in [admin] \
         listen"
    )]
    Listen {
        /// As configured.
        listen: SocketAddr,
        /// What the system says.
        error: std::io::Error,
    },
    /// The thread could not be started.
    #[error("cannot start the thread of the admin listener: {0}")]
    Thread(std::io::Error),
}

/// A running listener; ends when dropped.
#[derive(Debug)]
pub struct Listener {
    address: SocketAddr,
    end: CancellationToken,
}

/// What the pages are made of.
struct Desk {
    process: Arc<Process>,
    token: Option<Secret>,
    /// Whether the process was told to stop.
    stop: CancellationToken,
}

impl Listener {
    /// Listens, and answers for a process from then on; `stop` is what tells it to drain. Must be called
    /// within the runtime that it watches.
    ///
    /// # Errors
    /// When the port cannot be had.
    pub fn start(
        config: &Admin,
        process: &Arc<Process>,
        stop: &CancellationToken,
    ) -> Result<Listener, AdminError> {
        let refused = |error| AdminError::Listen { listen: config.listen, error };
        let listener = StdListener::bind(config.listen).map_err(refused)?;
        listener.set_nonblocking(true).map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(AdminError::Thread)?;
        let end = CancellationToken::new();
        let (process, token, stop) = (Arc::clone(process), config.token.clone(), stop.clone());
        tokio::spawn(beat(Arc::clone(&process), end.clone()));
        let desk = Arc::new(Desk { process, token, stop });
        let ended = end.clone();
        let serve = move || {
            runtime.block_on(async {
                tokio::select! {
                    () = serve(listener, desk) => {}
                    () = ended.cancelled() => {}
                }
            });
            // A name look-up that still hangs is nobody's any more.
            runtime.shutdown_background();
        };
        let thread = std::thread::Builder::new().name("admin".to_owned());
        thread.spawn(serve).map_err(AdminError::Thread)?;
        info!(%address, "health and metrics: /livez, /readyz, /metrics");
        Ok(Listener { address, end })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.end.cancel();
    }
}

/// Shows that the event loop turns.
async fn beat(process: Arc<Process>, end: CancellationToken) {
    let mut beats = tokio::time::interval(BEAT_EVERY);
    loop {
        tokio::select! {
            _ = beats.tick() => process.metrics.pulse().beat(),
            () = end.cancelled() => return,
        }
    }
}

async fn serve(listener: StdListener, desk: Arc<Desk>) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return warn!(%error, "the admin listener cannot listen"),
    };
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let place = Arc::clone(&room).acquire_owned().await.expect("the room is never closed");
        match listener.accept().await {
            Ok((stream, _)) => {
                let desk = Arc::clone(&desk);
                tokio::spawn(async move {
                    let _ = tokio::time::timeout(CONNECTION_LIMIT, converse(stream, desk)).await;
                    drop(place);
                });
            }
            Err(error) => {
                warn!(%error, "the admin listener cannot accept; trying again");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// One connection. That it breaks is nobody's trouble here.
async fn converse(stream: TcpStream, desk: Arc<Desk>) {
    let answer = service_fn(move |request| pages::answer(request, Arc::clone(&desk)));
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_LIMIT)
        .max_buf_size(HEADER_MAX)
        .max_headers(HEADERS_MAX)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), answer);
    let _ = served.await;
}
