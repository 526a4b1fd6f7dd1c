//! Process: what outlives a config. A relay that takes another's place in the same process counts in the
//! same metrics, and answers through the same listener.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::debug;

use super::gate::Hosts;
use super::pace::Paces;
use crate::config::{Config, Way};
use crate::metrics::{Look, LookAtSink, Metrics, Names};
use crate::store::figures::{Figures, figures};
use crate::store::{Link, Tally, Target};

/// The database is looked at for its figures no more often than this, whoever asks.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// And it looks for no more than one part in so many of the time.
const REST: u32 = 10;
/// How long a look may take; then the server ends it and the last figures stay.
const LOOK_LIMIT: Duration = Duration::from_secs(2);
/// How long the server may take to say so.
const ANSWER_LIMIT: Duration = Duration::from_secs(3);

/// What all relays of a process share, one after another.
#[derive(Debug, Default)]
pub struct Process {
    /// For development: nothing is sent, and what would be becomes files in this directory.
    pub capture: Option<PathBuf>,
    /// What is counted.
    pub metrics: Metrics,
    /// What is known of hosts, over a reload too.
    pub(super) hosts: Arc<Hosts>,
    /// And what began for each sender.
    pub(super) paces: Arc<Paces>,
    /// What becomes of calls to the database.
    pub(super) tally: Arc<Tally>,
    scope: Mutex<Option<Scope>>,
    look_from: tokio::sync::Mutex<Option<Instant>>,
}

/// What is looked at.
#[derive(Clone, Debug)]
struct Scope {
    link: Arc<Link>,
    names: Names,
}

/// The names of a config that metrics have labels for.
pub(super) fn names(config: &Config) -> Names {
    let mut names = Names::default();
    for (name, sink) in &config.sinks {
        let kind = match sink.way {
            Way::Webhook(_) | Way::Smtp(_) => &mut names.sinks,
            Way::Csv(_) => &mut names.files,
        };
        kind.push(name.to_string());
    }
    names.schedules = config.schedules.keys().map(ToString::to_string).collect();
    names
}

impl Process {
    /// One that captures, where a directory is given.
    #[must_use]
    pub fn new(capture: Option<PathBuf>) -> Process {
        Process { capture, ..Process::default() }
    }

    /// From now on the process stands for this config.
    pub(super) fn stands_for(&self, target: &Arc<Target>, names: &Names) {
        self.metrics.stand_for(names.clone());
        let (link, names) = (Arc::new(Link::new(Arc::clone(target))), names.clone());
        *self.scope.lock().unwrap_or_else(PoisonError::into_inner) = Some(Scope { link, names });
    }

    /// Has the database looked at, unless that was done just now. Whoever asks meanwhile waits for the
    /// same look; one who goes away does not end it.
    pub(super) async fn look(self: Arc<Self>) {
        let _ = tokio::spawn(async move { self.look_once().await }).await;
    }

    async fn look_once(&self) {
        let mut look_from = self.look_from.lock().await;
        let begun = Instant::now();
        if look_from.is_some_and(|at| begun < at) {
            return;
        }
        *look_from = Some(begun + LOOK_EVERY);
        let scope = self.scope.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let outbox = self.metrics.outbox();
        let Some(Scope { link, names }) = scope else { return outbox.not_looked() };
        let sinks: Vec<String> = names.sinks.iter().chain(&names.files).cloned().collect();
        match tokio::time::timeout(ANSWER_LIMIT, figures(&link, LOOK_LIMIT, &sinks)).await {
            Ok(Ok(figures)) => {
                *look_from = Some(begun + pause(begun.elapsed()));
                outbox.looked(look(figures, &names));
            }
            Ok(Err(error)) if error.is_cut_off() => {
                debug!(%error, "the look at the outbox took too long");
                *look_from = Some(begun + pause(begun.elapsed()));
                outbox.looked_in_vain();
            }
            Ok(Err(error)) => {
                debug!(%error, "cannot look at the outbox for its figures");
                outbox.not_looked();
            }
            Err(_) => {
                link.forget().await;
                outbox.not_looked();
            }
        }
    }

    /// The metrics as text.
    pub(super) fn text(&self) -> String {
        self.metrics.database(self.tally.errors(), self.tally.connections());
        self.metrics.text()
    }
}

/// From the beginning of a look that took so long to that of the next one.
fn pause(took: Duration) -> Duration {
    (took * REST).max(LOOK_EVERY)
}

fn look(figures: Figures, names: &Names) -> Look {
    let sinks = figures.sinks.into_iter().map(|sink| LookAtSink {
        due: sink.due,
        later: sink.later,
        dead: sink.dead,
        held: sink.held,
        oldest_due: names.sinks.contains(&sink.name).then_some(sink.oldest_due),
        paused: sink.paused,
        name: sink.name,
    });
    Look {
        sinks: sinks.collect(),
        unrouted: figures.unrouted,
        unseen: figures.unseen,
        alerts: figures.alerts,
        receivers: figures.receivers,
        relays: figures.relays,
        paused: figures.paused,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_take_a_tenth_of_the_time_at_most() {
        let of = |millis| pause(Duration::from_millis(millis));
        assert_eq!([of(3), of(500), of(2_000)].map(|pause| pause.as_secs()), [5, 5, 20]);
    }
}
