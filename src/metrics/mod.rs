//! Metrics: what this process did and does, in numbers with bounded labels.
//!
//! One value, no global: the process has it, and all its relays count in it, one config after another.
//! Labels are names of the config and words of closed sets; never types, keys, ids, addresses or hosts.
//! Every series of a configured sink is there from the start, at zero: a rate over a series that appears
//! with its first event misses that event.

mod catalogue;
mod file;
mod outbox;
mod process;
mod pulse;
mod sink;
mod words;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;

pub use catalogue::Described;
pub use file::FileMetrics;
pub use outbox::{Look, LookAtSink, Outbox};
pub use pulse::{Pulse, SinkPulse};
pub use sink::{AtWork, Counted, Owned, SinkMetrics, Standing};
pub use words::{AttemptEnd, MailEnd, OpenState, RunEnd, TakenFrom, WaitsFor, Went, WokenBy};

use crate::alert::Cause;
use catalogue::{Catalogue, Counters, Labels, Measure};
use file::FileFamilies;
use sink::SinkFamilies;

/// How the OpenMetrics text is announced.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The names that labels take from a config.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// Sinks that deliver messages.
    pub sinks: Vec<String>,
    /// Sinks and exports that make files.
    pub files: Vec<String>,
    /// Schedules.
    pub schedules: Vec<String>,
}

impl Names {
    fn all(&self) -> Vec<String> {
        self.sinks.iter().chain(&self.files).cloned().collect()
    }
}

/// All metrics of a process. Clones count in the same ones.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    catalogue: Catalogue,
    /// What the series stand for now.
    names: Mutex<Names>,
    sinks: SinkFamilies,
    files: FileFamilies,
    outbox: Outbox,
    pulse: Pulse,
    counts: Counts,
}

/// What is counted once in a process.
struct Counts {
    runs: Counters,
    alerts_told: Counters,
    renewals: Counters,
    leases_lost: Counter,
    lease_left: Measure,
    listening: Gauge,
    listen_lost: Counter,
    ready: Gauge,
    draining: Gauge,
    database_errors: Counter,
    connections: Counter,
    sweeps: Counter,
    unseen_found: Counter,
    pruned: Counter,
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics::new()
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Metrics({})", self.0.catalogue.list.len())
    }
}

impl Metrics {
    /// All at zero, for no sinks yet.
    #[must_use]
    pub fn new() -> Metrics {
        let mut c = Catalogue::default();
        let version: prometheus_client::metrics::family::Family<Labels, Gauge> =
            c.gauges("outboxd_build_info", &["version"], "1, with the version of outboxd");
        version.get_or_create(&Labels::new(&[("version", env!("CARGO_PKG_VERSION"))])).set(1);
        let (sinks, files) = (SinkFamilies::new(&mut c), FileFamilies::new(&mut c));
        let outbox = Outbox::new(&mut c);
        let counts = Counts::new(&mut c);
        c.registry.register_collector(Box::new(process::ProcessCollector));
        c.list.extend(process::described());
        let (names, pulse) = (Mutex::default(), Pulse::new());
        let metrics =
            Metrics(Arc::new(Inner { catalogue: c, names, sinks, files, outbox, pulse, counts }));
        metrics.create_fixed();
        metrics
    }

    /// The series that no config names.
    fn create_fixed(&self) {
        for cause in Cause::ALL {
            drop(self.alerts_told(cause));
        }
        for went in Went::ALL {
            drop(self.0.counts.renewals.get_or_create(&Labels::new(&[("went", went.word())])));
        }
        self.0.outbox.create_fixed();
    }

    /// Takes the names of a config: series of new ones are there at zero, those of others go.
    pub fn stand_for(&self, names: Names) {
        let mut known = self.0.names.lock().unwrap_or_else(PoisonError::into_inner);
        self.0.sinks.stand_for(&known, &names);
        self.0.files.stand_for(&known, &names);
        self.0.outbox.stand_for(&known, &names);
        for (schedule, end) in runs(&known.schedules) {
            if !names.schedules.contains(schedule) {
                self.0.counts.runs.remove(&run_labels(schedule, end));
            }
        }
        for (schedule, end) in runs(&names.schedules) {
            drop(self.0.counts.runs.get_or_create(&run_labels(schedule, end)));
        }
        *known = names;
    }

    /// What one sink's work is counted in.
    #[must_use]
    pub fn sink(&self, sink: &str) -> SinkMetrics {
        self.0.sinks.of(sink, self.clone())
    }

    /// What the files of one sink are counted in.
    #[must_use]
    pub fn file(&self, sink: &str) -> FileMetrics {
        self.0.files.of(sink)
    }

    /// This relay took a sink; it is owned until what this answers is dropped.
    #[must_use]
    pub fn taken(&self, sink: &str, from: TakenFrom) -> Owned {
        self.0.sinks.taken(sink, from)
    }

    /// What the last look at the database found.
    #[must_use]
    pub fn outbox(&self) -> &Outbox {
        &self.0.outbox
    }

    /// What of it tells whether this process gets on.
    #[must_use]
    pub fn pulse(&self) -> &Pulse {
        &self.0.pulse
    }

    /// The list of all metrics.
    #[must_use]
    pub fn described(&self) -> &[Described] {
        &self.0.catalogue.list
    }

    /// All series, in the OpenMetrics text format.
    #[must_use]
    pub fn text(&self) -> String {
        self.0.counts.lease_left.set(self.0.pulse.lease_left().as_secs_f64());
        self.0.outbox.measure_age();
        let mut text = String::new();
        // A String takes everything.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.0.catalogue.registry);
        text
    }

    /// The lease was renewed and lets this relay act for so long.
    pub fn renewed(&self, left: Duration) {
        self.renewal(Went::Ok);
        self.0.pulse.renewed(left);
    }

    /// A renewal failed.
    pub fn not_renewed(&self) {
        self.renewal(Went::Failed);
    }

    fn renewal(&self, went: Went) {
        self.0.counts.renewals.get_or_create(&Labels::new(&[("went", went.word())])).inc();
    }

    /// The lease ran out while the relay was at work.
    pub fn lost_the_lease(&self) {
        self.0.counts.leases_lost.inc();
        self.0.pulse.lease_is_over();
    }

    /// Whether the LISTEN session hears; none where it does not try to.
    pub fn listens(&self, listens: Option<bool>) {
        let heard = self.0.counts.listening.set(i64::from(listens == Some(true)));
        if heard == 1 && listens == Some(false) {
            self.0.counts.listen_lost.inc();
        }
        self.0.pulse.listens(listens);
    }

    /// What /readyz answers, and whether the process was told to stop.
    pub fn ready(&self, is_ready: bool, is_draining: bool) {
        self.0.counts.ready.set(i64::from(is_ready));
        self.0.counts.draining.set(i64::from(is_draining));
    }

    /// How many calls have failed and connections were made so far, as the store counts them.
    pub fn database(&self, errors: u64, connections: u64) {
        catch_up(&self.0.counts.database_errors, errors);
        catch_up(&self.0.counts.connections, connections);
    }

    /// A step of the sweep, and what it found.
    pub fn swept(&self, found: i64) {
        self.0.counts.sweeps.inc();
        self.0.counts.unseen_found.inc_by(u64::try_from(found).unwrap_or_default());
    }

    /// Messages were deleted.
    pub fn pruned(&self, messages: i64) {
        self.0.counts.pruned.inc_by(u64::try_from(messages).unwrap_or_default());
    }

    /// Periods of a schedule ran, were missed, or failed.
    pub fn ran(&self, schedule: &str, end: RunEnd, periods: u64) {
        self.0.counts.runs.get_or_create(&run_labels(schedule, end)).inc_by(periods);
    }

    /// A cause was told of.
    pub fn told(&self, cause: Cause, messages: i32) {
        self.alerts_told(cause).inc_by(u64::try_from(messages).unwrap_or_default());
    }

    fn alerts_told(&self, cause: Cause) -> Counter {
        self.0.counts.alerts_told.get_or_create_owned(&Labels::new(&[("cause", cause.word())]))
    }
}

impl Counts {
    fn new(c: &mut Catalogue) -> Counts {
        Counts {
            runs: c.counters(
                "outboxd_schedule_runs",
                &["schedule", "end"],
                "Periods of a schedule: ran, missed (passed over), failed (stays due)",
            ),
            alerts_told: c.counters(
                "outboxd_alerts_told",
                &["cause"],
                "Alerts this relay has written as messages",
            ),
            renewals: c.counters(
                "outboxd_lease_renewals",
                &["went"],
                "Heartbeats: ok, or failed and tried again",
            ),
            leases_lost: c.counter(
                "outboxd_leases_lost",
                "Leases that ran out while this relay was at work, so that it stopped",
            ),
            lease_left: c.gauge(
                "outboxd_lease_left_seconds",
                "How long this relay may still send without another renewal",
            ),
            listening: c.gauge("outboxd_listening", "1 while the LISTEN session hears, else 0"),
            listen_lost: c
                .counter("outboxd_listen_sessions_lost", "LISTEN sessions that ended or fell deaf"),
            ready: c.gauge("outboxd_ready", "What /readyz answers: 1 ready, 0 not"),
            draining: c.gauge("outboxd_draining", "1 once this process was told to stop"),
            database_errors: c
                .counter("outboxd_database_errors", "Calls to PostgreSQL that failed"),
            connections: c.counter(
                "outboxd_database_connections",
                "Connections to PostgreSQL that were made",
            ),
            sweeps: c.counter("outboxd_sweeps", "Steps of the sweep for unseen messages"),
            unseen_found: c.counter(
                "outboxd_unseen_found",
                "Messages the sweep found that were written past the trigger",
            ),
            pruned: c.counter("outboxd_pruned_messages", "Messages deleted past their retention"),
        }
    }
}

fn runs(schedules: &[String]) -> impl Iterator<Item = (&String, RunEnd)> {
    schedules.iter().flat_map(|schedule| RunEnd::ALL.iter().map(move |end| (schedule, *end)))
}

fn run_labels(schedule: &str, end: RunEnd) -> Labels {
    Labels::new(&[("schedule", schedule), ("end", end.word())])
}

/// Brings a counter up to what is counted elsewhere.
fn catch_up(counter: &Counter, there: u64) {
    counter.inc_by(there.saturating_sub(counter.get()));
}

#[cfg(test)]
mod tests;
