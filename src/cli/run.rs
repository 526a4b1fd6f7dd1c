//! `outboxd run`: the relay, until told to stop.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{error, info, warn};

use super::notify::ServiceManager;
use super::outside::{explained, to_work};
use super::{Answer, Failure, Verdict, connect};
use crate::config::Config;
use crate::relay::admin::Listener;
use crate::relay::reload::{Newest, run_reloading};
use crate::relay::{Life, Process, RunError};

const EXAMPLES: &str = "\
Examples:
  outboxd run                      deliver, until SIGTERM or SIGINT; a second one cuts short
  outboxd run --capture captured   for development: mails, requests and files are written, not sent
  kill -HUP PID                    read the config again and put it in place, without a stop";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Run {
    /// Send nothing: write what would be sent into this directory (for development; refused on a
    /// database that messages were ever sent from)
    #[arg(long, value_name = "DIR")]
    capture: Option<PathBuf>,
}

impl Run {
    /// The first SIGTERM or SIGINT drains: nothing new starts, open attempts end. The second cuts
    /// short what is still open. SIGHUP reads the config again and puts it in place of the one there was.
    pub async fn run(&self, file: &Path, config: Config) -> Answer {
        let life = Life::default();
        let signals = Signals::catch()?;
        let manager = Arc::new(ServiceManager::find());
        manager.waiting();
        let (signs, follower) = (Arc::clone(&life.signs), Arc::clone(&manager));
        let follow = tokio::spawn(async move { follower.follow(&signs).await });
        let newest = Arc::new(Newest::default());
        let reload = Arc::clone(&newest);
        let obey = tokio::spawn(obey(signals, file.to_owned(), life.clone(), reload, manager));
        if let Some(directory) = &self.capture {
            warn!("nothing is sent: what would be is written into {}", directory.display());
        }
        let process = Arc::new(Process::new(self.capture.clone()));
        let listener =
            config.admin.as_ref().map(|admin| Listener::start(admin, &process, &life.stop));
        let listener = listener.transpose().map_err(|error| Failure::Fault(error.to_string()))?;
        let link = connect(&config);
        let ended = run_reloading(config, process, life, newest).await;
        drop(listener);
        obey.abort();
        follow.abort();
        match ended {
            Ok(()) => Ok(Verdict::Ok),
            Err(RunError::Store(error)) => Err(explained(error, &link, to_work).await),
            Err(error) => Err(Failure::Fault(error.to_string())),
        }
    }
}

async fn obey(
    mut signals: Signals,
    file: PathBuf,
    life: Life,
    reload: Arc<Newest>,
    manager: Arc<ServiceManager>,
) {
    loop {
        match signals.next().await {
            Told::Reload if life.stop.is_cancelled() => info!("SIGHUP: too late, stopping"),
            Told::Reload => {
                manager.reloading();
                match Config::load(&file) {
                    Ok(config) => {
                        info!(
                            "SIGHUP: the config was read and is sound; the relay is to put it in place"
                        );
                        reload.put(config);
                    }
                    Err(error) => {
                        error!(
                            "SIGHUP: reload refused, the config of before stays in force: {error}"
                        );
                        if life.entered.is_cancelled() {
                            manager.at_work();
                        } else {
                            manager.waiting();
                        }
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
