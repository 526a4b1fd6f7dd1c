//! `outboxd run`: the relay, until told to stop.

use std::sync::Arc;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::info;

use super::{Answer, Failure, Verdict};
use crate::config::Config;
use crate::relay::{self, Life};

/// The first SIGTERM or SIGINT drains: nothing new starts, open attempts end. The second cuts
/// short what is still open.
pub(super) async fn run(config: Config) -> Answer {
    let life = Life::default();
    let mut signals = Signals::catch()
        .map_err(|error| Failure::Fault(format!("cannot listen for signals: {error}")))?;
    let (first, second) = (life.stop.clone(), life.now.clone());
    let watch = tokio::spawn(async move {
        let name = signals.next().await;
        info!("{name}: draining; a second one cuts short what is open");
        first.cancel();
        let name = signals.next().await;
        info!("{name}: cutting short");
        second.cancel();
    });
    let ended = relay::run(config, Arc::default(), life).await;
    watch.abort();
    ended.map(|()| Verdict::Ok).map_err(|error| Failure::Fault(error.to_string()))
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn catch() -> std::io::Result<Signals> {
        let terminate = signal(SignalKind::terminate())?;
        Ok(Signals { terminate, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
