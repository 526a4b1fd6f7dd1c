//! What the database holds, as it was last looked at. When nobody can look, the last figures stay and
//! their age grows: none falls to zero because the database is away.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use prometheus_client::metrics::gauge::Gauge;

use super::Names;
use super::catalogue::{Catalogue, Counters, Gauges, Labels, Measure, Measures};
use super::words::{OpenState, Went};
use crate::alert::Cause;

/// The gauges of one look at the database.
pub struct Outbox {
    deliveries: Gauges,
    oldest_due: Measures,
    paused: Gauges,
    all_paused: Gauge,
    unrouted: Gauge,
    unseen: Gauge,
    alerts: Gauges,
    receivers: Gauge,
    relays: Gauge,
    up: Gauge,
    age: Measure,
    looks: Counters,
    last: Mutex<(Look, Instant)>,
}

/// One look.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Look {
    /// Each sink: deliveries due, later, dead and held; seconds since the oldest fell due; whether it
    /// is paused.
    pub sinks: Vec<LookAtSink>,
    /// Messages without a route.
    pub unrouted: i64,
    /// Messages written past the trigger.
    pub unseen: i64,
    /// Subjects in trouble, by cause.
    pub alerts: Vec<(Cause, i64)>,
    /// How many sinks alerts are routed to.
    pub receivers: i64,
    /// Relays whose lease runs.
    pub relays: i64,
    /// Whether everything is paused.
    pub paused: bool,
}

/// One sink in a look.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LookAtSink {
    /// Its name.
    pub name: String,
    /// How many could start now.
    pub due: i64,
    /// How many wait for time.
    pub later: i64,
    /// How many were given up.
    pub dead: i64,
    /// How many are in doubt.
    pub held: i64,
    /// Seconds since the oldest that is due fell due, zero where none is; none for what makes files.
    pub oldest_due: Option<f64>,
    /// Whether an operator paused it.
    pub paused: bool,
}

impl Outbox {
    pub(super) fn new(c: &mut Catalogue) -> Outbox {
        Outbox {
            deliveries: c.gauges(
                "outboxd_open_deliveries",
                &["sink", "state"],
                "Open deliveries: due, later, dead, held; counted up to 10001",
            ),
            oldest_due: c.gauges(
                "outboxd_oldest_due_seconds",
                &["sink"],
                "How long the oldest delivery has been due that could start now; 0 where none is",
            ),
            paused: c.gauges(
                "outboxd_sink_paused",
                &["sink"],
                "1 while an operator lets the sink wait",
            ),
            all_paused: c.gauge("outboxd_paused", "1 while the whole installation is paused"),
            unrouted: c.gauge(
                "outboxd_unrouted_messages",
                "Messages that wait for a route; counted up to 10001",
            ),
            unseen: c.gauge(
                "outboxd_unseen_messages",
                "Messages known to be written past the trigger; counted up to 10001",
            ),
            alerts: c.gauges(
                "outboxd_alerts",
                &["cause"],
                "Sinks, types, schedules in trouble, by cause",
            ),
            receivers: c.gauge(
                "outboxd_alert_receivers",
                "Sinks that alerts are routed to; 0: they go nowhere",
            ),
            relays: c.gauge("outboxd_live_relays", "Relays of this installation whose lease runs"),
            up: c.gauge(
                "outboxd_database_up",
                "1 if PostgreSQL answered the last look, be it too slowly for figures",
            ),
            age: c.gauge(
                "outboxd_snapshot_age_seconds",
                "How old the figures from the database are; before the first look, the process",
            ),
            looks: c.counters(
                "outboxd_snapshots",
                &["went"],
                "Looks at the database for these figures, by how they went",
            ),
            last: Mutex::new((Look::default(), Instant::now())),
        }
    }

    pub(super) fn create_fixed(&self) {
        for cause in Cause::ALL {
            drop(self.alerts.get_or_create(&Labels::new(&[("cause", cause.word())])));
        }
        for went in Went::ALL {
            drop(self.looks.get_or_create(&Labels::new(&[("went", went.word())])));
        }
    }

    pub(super) fn stand_for(&self, known: &Names, names: &Names) {
        for sink in &names.sinks {
            drop(self.oldest_due.get_or_create(&Labels::new(&[("sink", sink)])));
        }
        let (known, names) = (known.all(), names.all());
        for gone in known.iter().filter(|sink| !names.contains(sink)) {
            let labels = Labels::new(&[("sink", gone)]);
            self.oldest_due.remove(&labels);
            self.paused.remove(&labels);
            for state in OpenState::ALL {
                self.deliveries.remove(&of(gone, *state));
            }
        }
        for sink in &names {
            let labels = Labels::new(&[("sink", sink)]);
            drop(self.paused.get_or_create(&labels));
            for state in OpenState::ALL {
                drop(self.deliveries.get_or_create(&of(sink, *state)));
            }
        }
    }

    /// Takes the figures of a look that succeeded.
    pub fn looked(&self, look: Look) {
        for sink in &look.sinks {
            let labels = Labels::new(&[("sink", &sink.name)]);
            // What waits for its cut is no backlog.
            if let Some(seconds) = sink.oldest_due {
                self.oldest_due.get_or_create(&labels).set(seconds);
            }
            self.paused.get_or_create(&labels).set(i64::from(sink.paused));
            for (state, count) in [
                (OpenState::Due, sink.due),
                (OpenState::Later, sink.later),
                (OpenState::Dead, sink.dead),
                (OpenState::Held, sink.held),
            ] {
                self.deliveries.get_or_create(&of(&sink.name, state)).set(count);
            }
        }
        for cause in Cause::ALL {
            let subjects = look.alerts.iter().find(|(of, _)| *of == cause).map_or(0, |(_, n)| *n);
            self.alerts.get_or_create(&Labels::new(&[("cause", cause.word())])).set(subjects);
        }
        self.unrouted.set(look.unrouted);
        self.unseen.set(look.unseen);
        self.receivers.set(look.receivers);
        self.relays.set(look.relays);
        self.all_paused.set(i64::from(look.paused));
        self.up.set(1);
        self.count(Went::Ok);
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = (look, Instant::now());
    }

    /// Nobody could look: the last figures stay.
    pub fn not_looked(&self) {
        self.up.set(0);
        self.count(Went::Failed);
    }

    /// PostgreSQL answers, and too slowly for figures: the last ones stay.
    pub fn looked_in_vain(&self) {
        self.up.set(1);
        self.count(Went::Failed);
    }

    fn count(&self, went: Went) {
        self.looks.get_or_create(&Labels::new(&[("went", went.word())])).inc();
    }

    pub(super) fn measure_age(&self) {
        let looked_at = self.last.lock().unwrap_or_else(PoisonError::into_inner).1;
        self.age.set(looked_at.elapsed().as_secs_f64());
    }

    /// What the last look that succeeded found, and how long ago that was.
    #[must_use]
    pub fn last(&self) -> (Look, Duration) {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        (last.0.clone(), last.1.elapsed())
    }

    /// Whether PostgreSQL answered the last look.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.up.get() == 1
    }
}

fn of(sink: &str, state: OpenState) -> Labels {
    Labels::new(&[("sink", sink), ("state", state.word())])
}
