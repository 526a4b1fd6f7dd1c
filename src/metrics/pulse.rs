//! The pulse: whether this process gets on, as `/livez` and `/readyz` ask.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What was last heard of everything that has to get on.
pub struct Pulse(Mutex<Heard>);

struct Heard {
    /// When the event loop last turned.
    beat: Instant,
    renewed: Option<Instant>,
    lease_until: Option<Instant>,
    /// Since when the LISTEN session hears, or does not; none where it does not try to.
    listens: Option<(bool, Instant)>,
    sinks: BTreeMap<String, SinkPulse>,
}

/// Of a sink that this process works.
#[derive(Clone, Copy, Debug)]
pub struct SinkPulse {
    /// How many relays of this process work it: two for a moment at a reload.
    workers: usize,
    /// When it last looked for work, or had reason not to.
    pub cycled: Instant,
    /// When an attempt last ended.
    pub settled: Instant,
    /// Whether what keeps deliveries waiting is not the relay's doing.
    pub excuse: Option<&'static str>,
}

impl SinkPulse {
    /// Of a sink that last got on then.
    #[must_use]
    pub fn at(then: Instant) -> SinkPulse {
        SinkPulse { workers: 0, cycled: then, settled: then, excuse: None }
    }
}

impl Pulse {
    pub(super) fn new() -> Pulse {
        let heard = Heard {
            beat: Instant::now(),
            renewed: None,
            lease_until: None,
            listens: None,
            sinks: BTreeMap::new(),
        };
        Pulse(Mutex::new(heard))
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The event loop turns.
    pub fn beat(&self) {
        self.heard().beat = Instant::now();
    }

    /// How long ago it last turned.
    #[must_use]
    pub fn silent_for(&self) -> Duration {
        self.heard().beat.elapsed()
    }

    pub(super) fn renewed(&self, left: Duration) {
        let now = Instant::now();
        let mut heard = self.heard();
        (heard.renewed, heard.lease_until) = (Some(now), Some(now + left));
    }

    pub(super) fn lease_is_over(&self) {
        self.heard().lease_until = None;
    }

    /// What is left of the lease.
    #[must_use]
    pub fn lease_left(&self) -> Duration {
        let until = self.heard().lease_until;
        until.map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()))
    }

    /// How long ago the lease was renewed; none before the relay has entered.
    #[must_use]
    pub fn renewed_ago(&self) -> Option<Duration> {
        self.heard().renewed.map(|at| at.elapsed())
    }

    pub(super) fn listens(&self, listens: Option<bool>) {
        let mut heard = self.heard();
        if heard.listens.map(|(hears, _)| hears) != listens {
            heard.listens = listens.map(|hears| (hears, Instant::now()));
        }
    }

    /// Whether the LISTEN session hears, and for how long that has been so; none where it does not try to.
    #[must_use]
    pub fn hears(&self) -> Option<(bool, Duration)> {
        self.heard().listens.map(|(hears, since)| (hears, since.elapsed()))
    }

    pub(super) fn begins(&self, sink: &str) {
        let new = SinkPulse::at(Instant::now());
        self.heard().sinks.entry(sink.to_owned()).or_insert(new).workers += 1;
    }

    pub(super) fn ends(&self, sink: &str) {
        let mut heard = self.heard();
        let Some(pulse) = heard.sinks.get_mut(sink) else { return };
        pulse.workers -= 1;
        if pulse.workers == 0 {
            heard.sinks.remove(sink);
        }
    }

    pub(super) fn change(&self, sink: &str, change: impl FnOnce(&mut SinkPulse)) {
        if let Some(pulse) = self.heard().sinks.get_mut(sink) {
            change(pulse);
        }
    }

    /// The sinks that this process works.
    #[must_use]
    pub fn sinks(&self) -> BTreeMap<String, SinkPulse> {
        self.heard().sinks.clone()
    }
}
