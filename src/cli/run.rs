//! `outboxd run`: the relay, until told to stop.

use std::path::Path;
use std::sync::Arc;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tracing::{error, info};

use super::notify::ServiceManager;
use super::{Answer, Failure, Verdict};
use crate::config::Config;
use crate::relay::Life;
use crate::relay::reload::run_reloading;

/// The first SIGTERM or SIGINT drains: nothing new starts, open attempts end. The second cuts
/// short what is still open. SIGHUP reads the config again and puts it in place of the one there was.
pub(super) async fn run(file: &Path, config: Config) -> Answer {
    let life = Life::default();
    let signals = Signals::catch()?;
    let manager = Arc::new(ServiceManager::find());
    manager.waiting();
    let (reload, configs) = mpsc::channel(1);
    let (signs, follower) = (Arc::clone(&life.signs), Arc::clone(&manager));
    let follow = tokio::spawn(async move { follower.follow(&signs).await });
    let obey = tokio::spawn(obey(signals, file.to_owned(), life.clone(), reload, manager));
    let ended = run_reloading(config, Arc::default(), life, configs).await;
    obey.abort();
    follow.abort();
    ended.map(|()| Verdict::Ok).map_err(|error| Failure::Fault(error.to_string()))
}

async fn obey(
    mut signals: Signals,
    file: std::path::PathBuf,
    life: Life,
    reload: mpsc::Sender<Config>,
    manager: Arc<ServiceManager>,
) {
    loop {
        match signals.next().await {
            Told::Reload if life.stop.is_cancelled() => info!("SIGHUP: too late, stopping"),
            Told::Reload => {
                manager.reloading();
                match Config::load(&file) {
                    Ok(config) => {
                        info!("SIGHUP: the config is sound; putting it in place");
                        let _ = reload.send(config).await;
                    }
                    Err(error) => {
                        error!(
                            "SIGHUP: reload refused, the config of before stays in force: {error}"
                        );
                        manager.at_work();
                    }
                }
            }
            Told::End(name) if life.stop.is_cancelled() => {
                info!("{name}: cutting short");
                life.now.cancel();
            }
            Told::End(name) => {
                info!("{name}: draining; a second one cuts short what is open");
                manager.stopping();
                life.stop.cancel();
            }
        }
    }
}

/// What a signal means.
pub(super) enum Told {
    End(&'static str),
    Reload,
}

pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    pub(super) fn catch() -> Result<Signals, Failure> {
        let listen = |kind| {
            signal(kind)
                .map_err(|error| Failure::Fault(format!("cannot listen for signals: {error}")))
        };
        Ok(Signals {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hang_up: listen(SignalKind::hangup())?,
        })
    }

    pub(super) async fn next(&mut self) -> Told {
        tokio::select! {
            _ = self.terminate.recv() => Told::End("SIGTERM"),
            _ = self.interrupt.recv() => Told::End("SIGINT"),
            _ = self.hang_up.recv() => Told::Reload,
        }
    }
}
