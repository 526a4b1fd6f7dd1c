//! The catalogue: every metric is registered once, with its name, type, labels and help, which
//! `docs/metrics.md` repeats and a test compares.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::{EncodeLabelSet, LabelSetEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry};

/// A metric as the catalogue has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    /// As a query names it; of a histogram without `_bucket`, `_sum` and `_count`.
    pub name: String,
    /// counter, gauge or histogram.
    pub kind: &'static str,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    /// What it means.
    pub help: &'static str,
}

/// Labels of one series. Their values are names of the config or words of a closed set.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Labels(Vec<(&'static str, String)>);

impl Labels {
    pub fn new(labels: &[(&'static str, &str)]) -> Labels {
        Labels(labels.iter().map(|(name, value)| (*name, (*value).to_owned())).collect())
    }
}

impl EncodeLabelSet for Labels {
    fn encode(&self, encoder: &mut LabelSetEncoder) -> Result<(), std::fmt::Error> {
        self.0.encode(encoder)
    }
}

/// A gauge with fractions.
pub(super) type Measure = Gauge<f64, AtomicU64>;
pub(super) type Counters = Family<Labels, Counter>;
pub(super) type Gauges = Family<Labels, Gauge>;
pub(super) type Measures = Family<Labels, Measure>;
pub(super) type Histograms = Family<Labels, Histogram, fn() -> Histogram>;

/// Registers, and keeps the list.
#[derive(Default)]
pub(super) struct Catalogue {
    pub registry: Registry,
    pub list: Vec<Described>,
}

impl Catalogue {
    /// A counter without labels; its name ends in `_total`, which the format adds.
    pub fn counter(&mut self, name: &'static str, help: &'static str) -> Counter {
        self.add("counter", name, &[], help)
    }

    /// Counters by labels.
    pub fn counters(
        &mut self,
        name: &'static str,
        labels: &'static [&'static str],
        help: &'static str,
    ) -> Counters {
        self.add("counter", name, labels, help)
    }

    /// A gauge without labels.
    pub fn gauge<M: Metric + Clone + Default>(
        &mut self,
        name: &'static str,
        help: &'static str,
    ) -> M {
        self.add("gauge", name, &[], help)
    }

    /// Gauges by labels.
    pub fn gauges<M: Metric + Clone + Default>(
        &mut self,
        name: &'static str,
        labels: &'static [&'static str],
        help: &'static str,
    ) -> M {
        self.add("gauge", name, labels, help)
    }

    /// Histograms of seconds by labels.
    pub fn histograms(
        &mut self,
        name: &'static str,
        labels: &'static [&'static str],
        help: &'static str,
    ) -> Histograms {
        let make: fn() -> Histogram = || Histogram::new(SECONDS);
        let family = Histograms::new_with_constructor(make);
        self.note("histogram", name, labels, help, family.clone());
        family
    }

    fn add<M: Metric + Clone + Default>(
        &mut self,
        kind: &'static str,
        name: &'static str,
        labels: &'static [&'static str],
        help: &'static str,
    ) -> M {
        let metric = M::default();
        self.note(kind, name, labels, help, metric.clone());
        metric
    }

    fn note(
        &mut self,
        kind: &'static str,
        name: &'static str,
        labels: &'static [&'static str],
        help: &'static str,
        metric: impl Metric,
    ) {
        // The format adds the `_total` of a counter, and the point behind the help.
        self.registry.register(name, help, metric);
        let name = if kind == "counter" { format!("{name}_total") } else { name.to_owned() };
        self.list.push(Described { name, kind, labels, help });
    }
}

/// From a webhook on the same machine to a mail server with greylisting; the last finite one is the
/// default limit for a mail's attempt.
const SECONDS: [f64; 14] =
    [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 900.0];
