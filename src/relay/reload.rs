//! Reload: a config takes another's place without the process ending.
//!
//! A reload is a hand-over between two relays of one process. The new one is built, puts its routes in
//! force and enters, and only then the former one leaves: it drains sink by sink, and the new one takes
//! each as soon as it is free. So nothing is cut short for a reload, and one that fails changes nothing.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tracing::{error, info, warn};

use super::{Life, Process, RunError, run};
use crate::config::Config;

/// A relay of this process.
struct Generation {
    life: Life,
    task: JoinHandle<Result<(), RunError>>,
}

/// Runs a relay with the first config, and with each that comes after it one in its place, until told
/// to stop and everything in hand is settled. Configs that come while one is being put in place
/// replace that one.
///
/// # Errors
/// As [`run`], for the relay that is in place.
pub async fn run_reloading(
    first: Config,
    process: Arc<Process>,
    life: Life,
    mut configs: mpsc::Receiver<Config>,
) -> Result<(), RunError> {
    // The listener is the process's, not a relay's.
    let admin = first.admin.clone();
    let mut current = Generation::start(first, &process, &life, false);
    let mut candidate: Option<Generation> = None;
    let mut entered = false;
    let mut leaving = JoinSet::new();
    let ended = loop {
        tokio::select! {
            ended = &mut current.task => break ended,
            () = current.life.entered.cancelled(), if !entered => {
                entered = true;
                life.signs.in_place();
            }
            Some(config) = configs.recv(), if !life.is_ending() => {
                if config.admin != admin {
                    error!("reload refused, the config of before stays in force: [admin] changes with a restart only");
                    life.signs.in_place();
                    continue;
                }
                if let Some(former) = candidate.replace(Generation::start(config, &process, &life, true)) {
                    warn!("another reload came before the last one was in place; taking the later config");
                    former.life.leave.cancel();
                    leaving.spawn(former.task);
                }
            }
            refused = took_place(candidate.as_mut()) => {
                let Some(new) = candidate.take() else { continue };
                life.signs.in_place();
                match refused {
                    None => {
                        info!("reloaded: the new config is at work, the relay of the former one drains");
                        current.life.leave.cancel();
                        let former = std::mem::replace(&mut current, new);
                        leaving.spawn(former.task);
                    }
                    Some(error) => error!(
                        "reload refused, the config of before stays in force: {error}"
                    ),
                }
            }
        }
    };
    if let Some(new) = candidate {
        new.life.leave.cancel();
        leaving.spawn(new.task);
    }
    leaving.join_all().await;
    ended.unwrap_or_else(|crash| std::panic::resume_unwind(crash.into_panic()))
}

impl Generation {
    fn start(config: Config, process: &Arc<Process>, life: &Life, replaces: bool) -> Generation {
        let life = Life {
            stop: life.stop.child_token(),
            now: life.now.child_token(),
            replaces,
            signs: Arc::clone(&life.signs),
            ..Life::default()
        };
        let task = tokio::spawn(run(config, Arc::clone(process), life.clone()));
        Generation { life, task }
    }
}

/// Waits until a candidate has entered, or answers why it never will; for ever where there is none.
async fn took_place(candidate: Option<&mut Generation>) -> Option<String> {
    let Some(candidate) = candidate else { return std::future::pending().await };
    tokio::select! {
        biased;
        () = candidate.life.entered.cancelled() => None,
        ended = &mut candidate.task => Some(match ended {
            Ok(Ok(())) => "told to stop before it was in place".to_owned(),
            Ok(Err(error)) => error.to_string(),
            Err(crash) => format!("its relay crashed: {crash}"),
        }),
    }
}
