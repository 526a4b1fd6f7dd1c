//! What the work of one sink is counted in.

use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

use super::catalogue::{Catalogue, Counters, Gauges, Histograms, Labels};
use super::words::{End, MailEnd, TakenFrom, WaitsFor, Went, WokenBy};
use super::{Metrics, Names};

/// The metrics with a label for the sink.
pub(super) struct SinkFamilies {
    owned: Gauges,
    take_overs: Counters,
    attempts: Counters,
    attempt_seconds: Histograms,
    lag_seconds: Histograms,
    in_flight: Gauges,
    fetches: Counters,
    fetched_rows: Counters,
    wakes: Counters,
    settlements: Counters,
    settle_seconds: Histograms,
    settle_errors: Counters,
    refused: Counters,
    gone: Counters,
    breaker_open: Gauges,
    waiting: Gauges,
    parked: Gauges,
    files_cut: Counters,
    files_published: Counters,
    file_rows: Counters,
    file_errors: Counters,
    mails: Counters,
}

const SINK: &[&str] = &["sink"];

impl SinkFamilies {
    pub fn new(c: &mut Catalogue) -> SinkFamilies {
        SinkFamilies {
            owned: c.gauges("outboxd_owned", SINK, "1 while this relay works the sink"),
            take_overs: c.counters(
                "outboxd_take_overs",
                &["sink", "from"],
                "Sinks taken: from nobody (handed over, or new), or from a relay that fell silent",
            ),
            attempts: c.counters(
                "outboxd_attempts",
                &["sink", "end"],
                "Attempts by how they ended; expired and released rows had none",
            ),
            attempt_seconds: c.histograms(
                "outboxd_attempt_seconds",
                SINK,
                "How long an attempt took, from its begin to the receiver's answer",
            ),
            lag_seconds: c.histograms(
                "outboxd_delivery_lag_seconds",
                SINK,
                "From when a delivery fell due to when its delivery was on record; the service level",
            ),
            in_flight: c.gauges("outboxd_in_flight", SINK, "Attempts that are open now"),
            fetches: c.counters(
                "outboxd_fetches",
                &["sink", "went"],
                "Looks for what may start: ok, or failed and repeated",
            ),
            fetched_rows: c.counters("outboxd_fetched_rows", SINK, "Deliveries that looks brought"),
            wakes: c.counters(
                "outboxd_wakes",
                &["sink", "by"],
                "What made the sink look: a producer's bell, or time",
            ),
            settlements: c
                .counters("outboxd_settlements", SINK, "Ends of attempts that are on record"),
            settle_seconds: c.histograms(
                "outboxd_settle_seconds",
                SINK,
                "How long a batch of settlements took to be committed, repeats included",
            ),
            settle_errors: c.counters(
                "outboxd_settle_errors",
                SINK,
                "Batches of settlements that could not be written at once",
            ),
            refused: c.counters(
                "outboxd_settlements_refused",
                SINK,
                "Settlements the fence refused: another relay has the sink. Nought, but for suspends",
            ),
            gone: c.counters(
                "outboxd_settlements_gone",
                SINK,
                "Settlements whose row an operator or another end had changed or closed",
            ),
            breaker_open: c.gauges(
                "outboxd_breaker_open",
                SINK,
                "1 while the sink or its host is in trouble and only probed",
            ),
            waiting: c.gauges(
                "outboxd_waiting",
                &["sink", "why"],
                "1 while nothing may begin: rate, quota, the receiver's own word, the database",
            ),
            parked: c.gauges(
                "outboxd_parked_keys",
                SINK,
                "Keys whose first delivery cannot go now and holds the later ones back",
            ),
            files_cut: c.counters("outboxd_files_cut", SINK, "Files that were opened by a cut"),
            files_published: c
                .counters("outboxd_files_published", SINK, "Files that have their name"),
            file_rows: c.counters("outboxd_file_rows", SINK, "Rows in published files"),
            file_errors: c.counters(
                "outboxd_file_errors",
                SINK,
                "Times a file could not be cut or written; its rows are safe",
            ),
            mails: c.counters(
                "outboxd_file_mails",
                &["sink", "end"],
                "Dialogues and refusals of the mails of files, by how they ended",
            ),
        }
    }

    /// Creates what is missing, and takes away what no name stands for any more.
    pub fn stand_for(&self, known: &Names, names: &Names) {
        for gone in known.all().iter().filter(|sink| !names.all().contains(sink)) {
            self.remove(gone);
        }
        for sink in names.all() {
            drop(self.owned.get_or_create(&of(&sink)));
            for from in TakenFrom::ALL {
                drop(self.take_overs.get_or_create(&and(&sink, "from", from.word())));
            }
        }
        for sink in &names.sinks {
            self.create(sink);
        }
        for file in &names.files {
            for family in [&self.files_cut, &self.files_published, &self.file_rows] {
                drop(family.get_or_create(&of(file)));
            }
            drop(self.file_errors.get_or_create(&of(file)));
            for end in MailEnd::ALL {
                drop(self.mails.get_or_create(&and(file, "end", end.word())));
            }
        }
    }

    fn counters(&self) -> [&Counters; 9] {
        [
            &self.fetched_rows,
            &self.settlements,
            &self.settle_errors,
            &self.refused,
            &self.gone,
            &self.files_cut,
            &self.files_published,
            &self.file_rows,
            &self.file_errors,
        ]
    }

    fn create(&self, sink: &str) {
        for family in &self.counters()[..5] {
            drop(family.get_or_create(&of(sink)));
        }
        for family in [&self.in_flight, &self.breaker_open, &self.parked] {
            drop(family.get_or_create(&of(sink)));
        }
        for family in [&self.attempt_seconds, &self.lag_seconds, &self.settle_seconds] {
            drop(family.get_or_create(&of(sink)));
        }
        for (family, name, words) in self.worded() {
            for word in words {
                drop(family.get_or_create(&and(sink, name, word)));
            }
        }
        for wait in WaitsFor::ALL {
            drop(self.waiting.get_or_create(&and(sink, "why", wait.word())));
        }
    }

    /// The counters of deliveries with a second label, its name and its words.
    fn worded(&self) -> [(&Counters, &'static str, Vec<&'static str>); 3] {
        [
            (&self.attempts, "end", End::ALL.iter().map(|end| end.word()).collect()),
            (&self.fetches, "went", Went::ALL.iter().map(|went| went.word()).collect()),
            (&self.wakes, "by", WokenBy::ALL.iter().map(|by| by.word()).collect()),
        ]
    }

    fn remove(&self, sink: &str) {
        let labels = of(sink);
        for family in self.counters() {
            family.remove(&labels);
        }
        for family in [&self.owned, &self.in_flight, &self.breaker_open, &self.parked] {
            family.remove(&labels);
        }
        for family in [&self.attempt_seconds, &self.lag_seconds, &self.settle_seconds] {
            family.remove(&labels);
        }
        for (family, name, words) in self.worded() {
            for word in words {
                family.remove(&and(sink, name, word));
            }
        }
        for wait in WaitsFor::ALL {
            self.waiting.remove(&and(sink, "why", wait.word()));
        }
        for from in TakenFrom::ALL {
            self.take_overs.remove(&and(sink, "from", from.word()));
        }
        for end in MailEnd::ALL {
            self.mails.remove(&and(sink, "end", end.word()));
        }
    }

    pub fn of(&self, sink: &str, metrics: Metrics) -> SinkMetrics {
        let labels = of(sink);
        SinkMetrics {
            attempt_seconds: self.attempt_seconds.get_or_create_owned(&labels),
            lag_seconds: self.lag_seconds.get_or_create_owned(&labels),
            in_flight: self.in_flight.get_or_create_owned(&labels),
            fetched_rows: self.fetched_rows.get_or_create_owned(&labels),
            settlements: self.settlements.get_or_create_owned(&labels),
            settle_seconds: self.settle_seconds.get_or_create_owned(&labels),
            breaker_open: self.breaker_open.get_or_create_owned(&labels),
            parked: self.parked.get_or_create_owned(&labels),
            sink: sink.to_owned(),
            metrics,
        }
    }
}

fn of(sink: &str) -> Labels {
    Labels::new(&[("sink", sink)])
}

fn and(sink: &str, name: &'static str, word: &str) -> Labels {
    Labels::new(&[("sink", sink), (name, word)])
}

/// What the work of one sink is counted in. Clones count in the same.
#[derive(Clone)]
pub struct SinkMetrics {
    sink: String,
    metrics: Metrics,
    attempt_seconds: Histogram,
    lag_seconds: Histogram,
    in_flight: Gauge,
    fetched_rows: Counter,
    settlements: Counter,
    settle_seconds: Histogram,
    breaker_open: Gauge,
    parked: Gauge,
}

/// An open attempt, until it is dropped.
pub struct InFlight(Gauge);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// A sink that is worked, until it is dropped.
pub struct AtWork(SinkMetrics);

impl Drop for AtWork {
    fn drop(&mut self) {
        self.0.metrics.pulse().ends(&self.0.sink);
        self.0.shut(false, None, 0);
    }
}

impl SinkMetrics {
    fn families(&self) -> &SinkFamilies {
        &self.metrics.0.sinks
    }

    fn count(&self, family: &Counters, name: &'static str, word: &str) {
        family.get_or_create(&and(&self.sink, name, word)).inc();
    }

    /// This relay took the sink.
    pub fn taken(&self, from: TakenFrom) {
        self.families().owned.get_or_create(&of(&self.sink)).inc();
        self.count(&self.families().take_overs, "from", from.word());
    }

    /// And gave it back, or lost it.
    pub fn not_owned(&self) {
        self.families().owned.get_or_create(&of(&self.sink)).dec();
    }

    /// Its deliveries are worked from now on.
    #[must_use]
    pub fn at_work(&self) -> AtWork {
        self.metrics.pulse().begins(&self.sink);
        AtWork(self.clone())
    }

    /// An attempt begins.
    #[must_use]
    pub fn attempt(&self) -> InFlight {
        self.in_flight.inc();
        InFlight(self.in_flight.clone())
    }

    /// An attempt ended, or a row was put back or closed without one.
    pub fn ended(&self, end: End, took: Duration) {
        self.count(&self.families().attempts, "end", end.word());
        if end.is_attempt() {
            self.attempt_seconds.observe(took.as_secs_f64());
            self.metrics.pulse().change(&self.sink, |pulse| pulse.settled = Instant::now());
        }
    }

    /// A look brought so many rows.
    pub fn fetched(&self, rows: usize) {
        self.count(&self.families().fetches, "went", Went::Ok.word());
        self.fetched_rows.inc_by(u64::try_from(rows).unwrap_or_default());
        self.cycled();
    }

    /// A look failed.
    pub fn not_fetched(&self) {
        self.count(&self.families().fetches, "went", Went::Failed.word());
    }

    /// The sink got on: it looked, or has as much in hand as it can.
    pub fn cycled(&self) {
        self.metrics.pulse().change(&self.sink, |pulse| pulse.cycled = Instant::now());
    }

    /// Something made the sink look.
    pub fn woken(&self, by: WokenBy) {
        self.count(&self.families().wakes, "by", by.word());
    }

    /// A batch of settlements is committed.
    pub fn settled(&self, count: usize, took: Duration) {
        self.settlements.inc_by(u64::try_from(count).unwrap_or_default());
        self.settle_seconds.observe(took.as_secs_f64());
    }

    /// A delivery is on record as delivered, so long after it fell due.
    pub fn delivered(&self, lag: Duration) {
        self.lag_seconds.observe(lag.as_secs_f64());
    }

    /// A batch of settlements could not be written; it is repeated.
    pub fn not_settled(&self) {
        self.families().settle_errors.get_or_create(&of(&self.sink)).inc();
    }

    /// Settlements found that another relay has the sink, or that their row was changed or closed.
    pub fn not_applied(&self, count: usize, fenced_off: bool) {
        let families = self.families();
        let family = if fenced_off { &families.refused } else { &families.gone };
        let count = u64::try_from(count).unwrap_or_default();
        family.get_or_create(&of(&self.sink)).inc_by(count);
    }

    /// What lets nothing begin, and what of it excuses deliveries that are due and not begun.
    pub fn shut(&self, open_breaker: bool, waits: Option<WaitsFor>, parked: usize) {
        self.breaker_open.set(i64::from(open_breaker));
        self.parked.set(i64::try_from(parked).unwrap_or(i64::MAX));
        for wait in WaitsFor::ALL {
            let waiting =
                self.families().waiting.get_or_create_owned(&and(&self.sink, "why", wait.word()));
            waiting.set(i64::from(waits == Some(*wait)));
        }
    }

    /// Why deliveries that are due do not begin, where that is not the relay's doing.
    pub fn excused(&self, excuse: Option<&'static str>) {
        self.metrics.pulse().change(&self.sink, |pulse| pulse.excuse = excuse);
    }

    /// A file was opened by a cut.
    pub fn file_cut(&self) {
        self.families().files_cut.get_or_create(&of(&self.sink)).inc();
    }

    /// A file has its name.
    pub fn file_published(&self, rows: i64) {
        self.families().files_published.get_or_create(&of(&self.sink)).inc();
        let rows = u64::try_from(rows).unwrap_or_default();
        self.families().file_rows.get_or_create(&of(&self.sink)).inc_by(rows);
    }

    /// A file could not be cut or written.
    pub fn file_failed(&self) {
        self.families().file_errors.get_or_create(&of(&self.sink)).inc();
    }

    /// A mail of files ended so.
    pub fn mailed(&self, end: MailEnd) {
        self.count(&self.families().mails, "end", end.word());
    }
}
