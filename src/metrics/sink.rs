//! What the work of one sink is counted in.

use std::sync::Arc;
use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

use super::catalogue::{Catalogue, Counters, Gauges, Histograms, Labels};
use super::words::{AttemptEnd, TakenFrom, WaitsFor, Went, WokenBy};
use super::{Metrics, Names, SinkPulse};

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
    settling: Settling,
    breaker_open: Gauges,
    fallback: Gauges,
    waiting: Gauges,
    parked: Gauges,
}

pub(super) const SINK: &[&str] = &["sink"];

/// Those of the record that an attempt leaves.
struct Settling {
    settlements: Counters,
    settle_seconds: Histograms,
    settle_errors: Counters,
    refused: Counters,
    gone: Counters,
}

impl Settling {
    fn new(c: &mut Catalogue) -> Settling {
        Settling {
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
        }
    }
}

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
            settling: Settling::new(c),
            breaker_open: c.gauges(
                "outboxd_breaker_open",
                SINK,
                "1 while the sink or its host is in trouble and only probed",
            ),
            fallback: c.gauges(
                "outboxd_fallback",
                SINK,
                "1 while mails go through the sink's second server, for the first is in trouble",
            ),
            waiting: c.gauges(
                "outboxd_waiting",
                &["sink", "why"],
                "1 while nothing may begin: rate, quota, the receiver's own word, the database",
            ),
            parked: c.gauges(
                "outboxd_parked_keys",
                SINK,
                "Keys whose first delivery cannot go now and would hold later ones back",
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
    }

    fn counters(&self) -> [&Counters; 5] {
        [
            &self.fetched_rows,
            &self.settling.settlements,
            &self.settling.settle_errors,
            &self.settling.refused,
            &self.settling.gone,
        ]
    }

    fn create(&self, sink: &str) {
        for family in self.counters() {
            drop(family.get_or_create(&of(sink)));
        }
        for family in [&self.in_flight, &self.breaker_open, &self.fallback, &self.parked] {
            drop(family.get_or_create(&of(sink)));
        }
        for family in [&self.attempt_seconds, &self.lag_seconds, &self.settling.settle_seconds] {
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
            (&self.attempts, "end", AttemptEnd::ALL.iter().map(|end| end.word()).collect()),
            (&self.fetches, "went", Went::ALL.iter().map(|went| went.word()).collect()),
            (&self.wakes, "by", WokenBy::ALL.iter().map(|by| by.word()).collect()),
        ]
    }

    fn remove(&self, sink: &str) {
        let labels = of(sink);
        for family in self.counters() {
            family.remove(&labels);
        }
        let gauges =
            [&self.owned, &self.in_flight, &self.breaker_open, &self.fallback, &self.parked];
        for family in gauges {
            family.remove(&labels);
        }
        for family in [&self.attempt_seconds, &self.lag_seconds, &self.settling.settle_seconds] {
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
    }

    pub fn of(&self, sink: &str, metrics: Metrics) -> SinkMetrics {
        let (one, counter) = (of(sink), |family: &Counters| family.get_or_create_owned(&of(sink)));
        let gauge = |family: &Gauges| family.get_or_create_owned(&one);
        let histogram = |family: &Histograms| family.get_or_create_owned(&one);
        let counters = |family: &Counters, name, words: &[&str]| {
            words.iter().map(|word| family.get_or_create_owned(&and(sink, name, word))).collect()
        };
        let waiting = WaitsFor::ALL
            .iter()
            .map(|why| (*why, self.waiting.get_or_create_owned(&and(sink, "why", why.word()))));
        SinkMetrics(Arc::new(Handles {
            attempts: counters(&self.attempts, "end", &words(AttemptEnd::ALL, AttemptEnd::word)),
            attempt_seconds: histogram(&self.attempt_seconds),
            lag_seconds: histogram(&self.lag_seconds),
            in_flight: gauge(&self.in_flight),
            fetches: counters(&self.fetches, "went", &words(Went::ALL, Went::word)),
            fetched_rows: counter(&self.fetched_rows),
            wakes: counters(&self.wakes, "by", &words(WokenBy::ALL, WokenBy::word)),
            settlements: counter(&self.settling.settlements),
            settle_seconds: histogram(&self.settling.settle_seconds),
            settle_errors: counter(&self.settling.settle_errors),
            refused: counter(&self.settling.refused),
            gone: counter(&self.settling.gone),
            breaker_open: gauge(&self.breaker_open),
            fallback: gauge(&self.fallback),
            waiting: waiting.collect(),
            parked: gauge(&self.parked),
            sink: sink.to_owned(),
            metrics,
        }))
    }

    pub fn taken(&self, sink: &str, from: TakenFrom) -> Owned {
        self.take_overs.get_or_create(&and(sink, "from", from.word())).inc();
        Counted::new(self.owned.get_or_create_owned(&of(sink)))
    }
}

pub(super) fn of(sink: &str) -> Labels {
    Labels::new(&[("sink", sink)])
}

pub(super) fn and(sink: &str, name: &'static str, word: &str) -> Labels {
    Labels::new(&[("sink", sink), (name, word)])
}

fn words<W: Copy>(all: &[W], word: fn(W) -> &'static str) -> Vec<&'static str> {
    all.iter().map(|of| word(*of)).collect()
}

/// What the work of one sink is counted in. Clones count in the same; so does a relay that still drains
/// a sink which the config in force has no more, only that nobody sees it.
#[derive(Clone)]
pub struct SinkMetrics(Arc<Handles>);

/// Lists are in the order of their words.
struct Handles {
    sink: String,
    metrics: Metrics,
    attempts: Vec<Counter>,
    attempt_seconds: Histogram,
    lag_seconds: Histogram,
    in_flight: Gauge,
    fetches: Vec<Counter>,
    fetched_rows: Counter,
    wakes: Vec<Counter>,
    settlements: Counter,
    settle_seconds: Histogram,
    settle_errors: Counter,
    refused: Counter,
    gone: Counter,
    breaker_open: Gauge,
    fallback: Gauge,
    waiting: Vec<(WaitsFor, Gauge)>,
    parked: Gauge,
}

/// One more in a gauge, until it is dropped.
pub struct Counted(Gauge);

/// A sink that this relay owns, until it is dropped.
pub type Owned = Counted;

impl Counted {
    fn new(gauge: Gauge) -> Counted {
        gauge.inc();
        Counted(gauge)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// A sink that is worked, until it is dropped.
pub struct AtWork(SinkMetrics);

impl Drop for AtWork {
    fn drop(&mut self) {
        self.0.0.metrics.pulse().ends(&self.0.0.sink);
        self.0.stands(&Standing::default());
    }
}

/// What lets a sink begin less than it could.
#[derive(Clone, Copy, Debug, Default)]
pub struct Standing {
    /// Whether its breaker or that of its host is open.
    pub is_open: bool,
    /// Whether mails go through its second server.
    pub on_second: bool,
    /// What it waits for besides.
    pub waits: Option<WaitsFor>,
    /// Keys that are held back by their first delivery.
    pub parked: usize,
    /// Whether it has as much in hand as it may.
    pub is_full: bool,
}

impl Standing {
    /// Why deliveries that are due do not begin, where that is not the relay's doing.
    fn excuse(&self) -> Option<&'static str> {
        match self.waits {
            _ if self.is_open => {
                Some("old, but the sink or its host is in trouble: its breaker is open")
            }
            Some(WaitsFor::Rate) => Some("old, but the sink waits for its rate"),
            Some(WaitsFor::Quota) => Some("old, but the sink waits for its daily quota"),
            Some(WaitsFor::Receiver) => Some("old, but the receiver asked to wait"),
            None if self.is_full => Some("old, but all attempts that may run are under way"),
            None if self.parked > 0 => Some("old, but keys wait for their first delivery"),
            None | Some(WaitsFor::Database) => None,
        }
    }
}

impl SinkMetrics {
    /// Its deliveries are worked from now on.
    #[must_use]
    pub fn at_work(&self) -> AtWork {
        self.0.metrics.pulse().begins(&self.0.sink);
        AtWork(self.clone())
    }

    /// An attempt begins.
    #[must_use]
    pub fn attempt(&self) -> Counted {
        Counted::new(self.0.in_flight.clone())
    }

    /// An attempt ended, or a row was put back or closed without one.
    pub fn ended(&self, end: AttemptEnd, took: Duration) {
        self.0.attempts[end as usize].inc();
        if end.is_attempt() {
            self.0.attempt_seconds.observe(took.as_secs_f64());
            self.change(|pulse| pulse.settled = Instant::now());
        }
    }

    /// A look brought so many rows.
    pub fn fetched(&self, rows: usize) {
        self.0.fetches[Went::Ok as usize].inc();
        self.0.fetched_rows.inc_by(u64::try_from(rows).unwrap_or_default());
        self.change(|pulse| pulse.cycled = Instant::now());
    }

    /// A look failed.
    pub fn not_fetched(&self) {
        self.0.fetches[Went::Failed as usize].inc();
    }

    /// Something made the sink look.
    pub fn woken(&self, by: WokenBy) {
        self.0.wakes[by as usize].inc();
    }

    /// A batch of settlements is committed.
    pub fn settled(&self, count: usize, took: Duration) {
        self.0.settlements.inc_by(u64::try_from(count).unwrap_or_default());
        self.0.settle_seconds.observe(took.as_secs_f64());
    }

    /// A delivery is on record as delivered, so long after it fell due.
    pub fn delivered(&self, lag: Duration) {
        self.0.lag_seconds.observe(lag.as_secs_f64());
    }

    /// A batch of settlements could not be written; it is repeated.
    pub fn not_settled(&self) {
        self.0.settle_errors.inc();
    }

    /// Settlements found that another relay has the sink, or that their row was changed or closed.
    pub fn not_applied(&self, count: usize, is_fenced_off: bool) {
        let counter = if is_fenced_off { &self.0.refused } else { &self.0.gone };
        counter.inc_by(u64::try_from(count).unwrap_or_default());
    }

    /// How the sink stands, about once a second.
    pub fn stands(&self, standing: &Standing) {
        self.0.breaker_open.set(i64::from(standing.is_open));
        self.0.fallback.set(i64::from(standing.on_second));
        self.0.parked.set(i64::try_from(standing.parked).unwrap_or(i64::MAX));
        for (why, gauge) in &self.0.waiting {
            gauge.set(i64::from(standing.waits == Some(*why)));
        }
        self.change(|pulse| {
            pulse.excuse = standing.excuse();
            if standing.is_full {
                pulse.cycled = Instant::now();
            }
        });
    }

    fn change(&self, change: impl FnOnce(&mut SinkPulse)) {
        self.0.metrics.pulse().change(&self.0.sink, change);
    }
}
