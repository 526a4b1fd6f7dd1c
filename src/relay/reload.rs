//! Reload: a config takes another's place without the process ending.
//!
//! A reload is a hand-over between two relays of one process. The new one is built, puts its routes in
//! force and enters, and only then the former one leaves: it drains sink by sink, and each is taken as soon
//! as it is free, by the new one or by another relay that has fewer. So nothing that is being sent is cut
//! short for a reload, and one that fails changes nothing.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;
use tokio::task::{JoinHandle, JoinSet};
use tracing::{error, info, warn};

use super::{Life, Process, RunError, run};
use crate::config::{Admin, Config};

/// The config that is to be put in place next: the newest that came.
#[derive(Debug, Default)]
pub struct Newest {
    config: Mutex<Option<Config>>,
    came: Notify,
}

impl Newest {
    /// A config came.
    pub fn put(&self, config: Config) {
        *self.config.lock().unwrap_or_else(PoisonError::into_inner) = Some(config);
        self.came.notify_one();
    }

    fn take(&self) -> Option<Config> {
        self.config.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// A relay of this process.
struct Generation {
    life: Life,
    task: JoinHandle<Result<(), RunError>>,
}

/// Runs a relay with the first config, and with each that comes after it one in its place, until told
/// to stop and everything in hand is settled. One that still waits for its database gives way to a later
/// one; one that has begun to put its routes in force is waited for.
///
/// # Errors
/// As [`run`], for the relay that is in place.
pub async fn run_reloading(
    first: Config,
    process: Arc<Process>,
    life: Life,
    newest: Arc<Newest>,
) -> Result<(), RunError> {
    // The listener is the process's, not a relay's.
    let admin = first.admin.clone();
    let mut house = House {
        current: Generation::start(first, &process, &life, false),
        candidate: None,
        leaving: JoinSet::new(),
        process,
        life,
        admin,
    };
    let ended = loop {
        tokio::select! {
            biased;
            ended = &mut house.current.task => break ended,
            () = house.current.life.entered.cancelled(), if !house.life.entered.is_cancelled() => {
                house.life.entered.cancel();
                house.life.signs.in_place();
            }
            refused = took_place(house.candidate.as_mut()) => house.decided(refused, &newest),
            Some(left) = house.leaving.join_next() => say_how_it_left(left),
            () = newest.came.notified(), if !house.life.is_ending() => house.replace(&newest),
        }
    };
    // Whatever ended it, nobody works here any more: the others are not to linger.
    house.life.stop.cancel();
    if let Some(new) = house.candidate {
        new.life.leave.cancel();
        house.leaving.spawn(new.task);
    }
    while let Some(left) = house.leaving.join_next().await {
        say_how_it_left(left);
    }
    ended.unwrap_or_else(|crash| std::panic::resume_unwind(crash.into_panic()))
}

/// The relays of the process.
struct House {
    current: Generation,
    candidate: Option<Generation>,
    leaving: JoinSet<Left>,
    process: Arc<Process>,
    life: Life,
    admin: Option<Admin>,
}

/// How a task that ran a relay ended.
type Left = Result<Result<(), RunError>, tokio::task::JoinError>;

impl House {
    /// Begins to put the newest config in place, unless one is past the point of no return: then it waits.
    fn replace(&mut self, newest: &Newest) {
        if self.candidate.as_ref().is_some_and(|candidate| !candidate.life.withdraw()) {
            return;
        }
        if let Some(former) = self.candidate.take() {
            warn!("another reload came before the last one was in place; taking the later config");
            former.life.leave.cancel();
            self.leaving.spawn(former.task);
        }
        let Some(config) = newest.take() else { return };
        if config.admin == self.admin {
            self.candidate = Some(Generation::start(config, &self.process, &self.life, true));
            return;
        }
        error!(
            "reload refused, the config of before stays in force: [admin] changes with a restart only"
        );
        self.is_in_place();
    }

    /// A candidate took its place, or was refused.
    fn decided(&mut self, refused: Option<String>, newest: &Newest) {
        let Some(new) = self.candidate.take() else { return };
        match refused {
            None => {
                info!("reloaded: the new config is at work, the relay of the former one drains");
                self.current.life.leave.cancel();
                let former = std::mem::replace(&mut self.current, new);
                self.leaving.spawn(former.task);
                self.life.entered.cancel();
            }
            Some(_) if self.life.stop.is_cancelled() => return,
            Some(error) => {
                error!("reload refused, the config of before stays in force: {error}");
            }
        }
        self.is_in_place();
        // One that came meanwhile.
        self.replace(newest);
    }

    /// Shows that a config is in place, if one ever was.
    fn is_in_place(&self) {
        if self.life.entered.is_cancelled() {
            self.life.signs.in_place();
        }
    }
}

fn say_how_it_left(left: Result<Left, tokio::task::JoinError>) {
    match left.and_then(|left| left) {
        Ok(Ok(())) => {}
        Ok(Err(error)) => error!(%error, "a relay that was replaced ended badly"),
        Err(crash) => error!(%crash, "a relay that was replaced crashed, a fault inside outboxd"),
    }
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
