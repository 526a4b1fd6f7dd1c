//! Progress: whether the relay gets on, as opposed to whether it answers.
//!
//! Not ready is what another relay or a restart may mend: no lease, no looks, a LISTEN session that is away, work
//! that is due and not begun for no reason of its sink. A sink that is dead, slow, paused or limited leaves
//! the relay ready: nobody else would reach it either.

use std::time::Duration;

use serde_json::{Value, json};

use crate::metrics::{LookAtSink, Metrics, SinkPulse};

/// The event loop turns twice a second.
const LOOP_MAX: Duration = Duration::from_secs(10);
/// A sink looks every five seconds at least, and a call may take fifteen.
const CYCLE_MAX: Duration = Duration::from_secs(30);
/// A LISTEN session that broke is back within moments; until then the relay polls.
const DEAF_MAX: Duration = Duration::from_secs(30);
/// The oldest due may be so old, while attempts end or the sink has its reasons.
const DUE_MAX: Duration = Duration::from_secs(300);
/// An attempt that ended so long ago still counts as getting on.
const ENDED_MAX: Duration = Duration::from_secs(60);
/// Figures that are older are called old, also where PostgreSQL answers.
const FRESH: Duration = Duration::from_secs(60);

/// What was checked.
pub(in crate::relay) struct Progress {
    pub(super) checks: Vec<Check>,
}

/// One check.
#[derive(Debug)]
pub(super) struct Check {
    name: &'static str,
    sink: Option<String>,
    pub ok: bool,
    seconds: Option<f64>,
    reason: String,
}

impl Check {
    fn new(name: &'static str, ok: bool, of: Option<Duration>, reason: impl Into<String>) -> Check {
        let seconds = of.map(|of| (of.as_secs_f64() * 10.0).round() / 10.0);
        Check { name, sink: None, ok, seconds, reason: reason.into() }
    }

    fn of_sink(self, sink: &str) -> Check {
        Check { sink: Some(sink.to_owned()), ..self }
    }

    fn json(&self) -> Value {
        let mut value = json!({ "check": self.name, "ok": self.ok, "reason": self.reason });
        if let Some(sink) = &self.sink {
            value["sink"] = json!(sink);
        }
        if let Some(seconds) = self.seconds {
            value["seconds"] = json!(seconds);
        }
        value
    }
}

impl Progress {
    /// Checks everything.
    pub fn of(metrics: &Metrics, is_draining: bool) -> Progress {
        let pulse = metrics.pulse();
        let mut checks = vec![
            draining(is_draining),
            loop_turns(pulse.silent_for()),
            lease(pulse.renewed_ago(), pulse.lease_left()),
            listens(pulse.hears()),
        ];
        let (look, age) = metrics.outbox().last();
        checks.push(database(metrics.outbox().is_up(), age));
        for (sink, pulse) in pulse.sinks() {
            checks.push(cycle(pulse.cycled.elapsed()).of_sink(&sink));
            if let Some(found) = look.sinks.iter().find(|found| found.name == sink) {
                let paused = look.paused || found.paused;
                checks.push(due(found, &pulse, paused).of_sink(&sink));
            }
        }
        Progress { checks }
    }

    pub fn is_ready(&self) -> bool {
        self.checks.iter().all(|check| check.ok)
    }

    /// The first thing that keeps the relay from getting on, none where it does.
    pub fn stuck(&self) -> Option<String> {
        let check = self.checks.iter().find(|check| !check.ok)?;
        let of = check.sink.as_ref().map_or(String::new(), |sink| format!("sink {sink}: "));
        Some(format!("{of}{}", check.reason))
    }

    /// The body of the answer.
    pub fn text(&self, word: &str) -> String {
        let checks: Vec<Value> = self.checks.iter().map(Check::json).collect();
        let mut text = format!("{:#}", json!({ word: self.is_ready(), "checks": checks }));
        text.push('\n');
        text
    }
}

fn draining(is_draining: bool) -> Check {
    let reason =
        if is_draining { "told to stop: it takes nothing more" } else { "not told to stop" };
    Check::new("draining", !is_draining, None, reason)
}

/// Whether the event loop of the relay turns.
pub(super) fn loop_turns(silent_for: Duration) -> Check {
    let ok = silent_for <= LOOP_MAX;
    let reason = if ok { "the event loop turns" } else { "the event loop stands still" };
    Check::new("loop", ok, Some(silent_for), reason)
}

fn lease(renewed_ago: Option<Duration>, left: Duration) -> Check {
    let (ok, reason) = match renewed_ago {
        None => (false, "not entered yet: PostgreSQL is away, or the log says why"),
        Some(_) if left.is_zero() => (false, "the lease is over: it could not be renewed"),
        Some(_) => (true, "the lease is renewed"),
    };
    Check::new("lease", ok, renewed_ago, reason)
}

fn listens(hears: Option<(bool, Duration)>) -> Check {
    match hears {
        None => Check::new(
            "listen",
            true,
            None,
            "polls: nobody rings here, or a pooler keeps it from hearing",
        ),
        Some((true, since)) => Check::new("listen", true, Some(since), "the LISTEN session hears"),
        Some((false, since)) if since <= DEAF_MAX => {
            Check::new("listen", true, Some(since), "the LISTEN session is away; polling meanwhile")
        }
        Some((false, since)) => {
            Check::new("listen", false, Some(since), "the LISTEN session does not come back")
        }
    }
}

/// Never fails by itself: a database that is away shows in the lease and the looks.
fn database(is_up: bool, age: Duration) -> Check {
    let reason = match is_up {
        true if age <= FRESH => "the figures are fresh",
        true => "PostgreSQL answers, too slowly for figures; old ones",
        false => "PostgreSQL did not answer; old figures",
    };
    Check::new("database", true, Some(age), reason)
}

fn cycle(ago: Duration) -> Check {
    let ok = ago <= CYCLE_MAX;
    let reason = if ok { "looks for work, or has its hands full" } else { "cannot look for work" };
    Check::new("cycle", ok, Some(ago), reason)
}

fn due(found: &LookAtSink, pulse: &SinkPulse, is_paused: bool) -> Check {
    let age = Duration::try_from_secs_f64(found.oldest_due.unwrap_or_default()).unwrap_or_default();
    let check = |ok, reason: &str| Check::new("due", ok, Some(age), reason);
    if age <= DUE_MAX {
        return check(true, "nothing is due for long");
    }
    match pulse.excuse {
        _ if is_paused => check(true, "old, but paused by an operator"),
        Some(excuse) => check(true, excuse),
        None if pulse.settled.elapsed() <= ENDED_MAX => check(true, "old, but attempts end"),
        None => {
            check(false, "deliveries are due and not begun, and the sink has no reason for that")
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_relays_own_troubles_make_it_unready() {
        assert!(!draining(true).ok && draining(false).ok);
        assert!(loop_turns(LOOP_MAX).ok && !loop_turns(LOOP_MAX + SECOND).ok);
        assert!(!lease(None, Duration::ZERO).ok);
        assert!(!lease(Some(SECOND), Duration::ZERO).ok && lease(Some(SECOND), SECOND).ok);
        assert!(cycle(CYCLE_MAX).ok && !cycle(CYCLE_MAX + SECOND).ok);
        assert!(listens(None).ok && listens(Some((true, SECOND * 1_000))).ok);
        assert!(
            listens(Some((false, DEAF_MAX))).ok && !listens(Some((false, DEAF_MAX + SECOND))).ok
        );
    }

    #[test]
    fn what_is_due_for_long_is_the_relays_trouble_only_without_another_reason() {
        let long_ago = Instant::now().checked_sub(ENDED_MAX + SECOND).unwrap();
        let pulse = SinkPulse::at(long_ago);
        let found = |seconds| LookAtSink { oldest_due: Some(seconds), ..LookAtSink::default() };
        let is_ok = |seconds, pulse: &SinkPulse, paused| due(&found(seconds), pulse, paused).ok;
        assert!(is_ok(300.0, &pulse, false));
        assert!(!is_ok(301.0, &pulse, false));
        assert!(is_ok(301.0, &pulse, true));
        let mut excused = pulse;
        excused.excuse = Some("breaker");
        assert!(is_ok(301.0, &excused, false));
        let mut busy = pulse;
        busy.settled = Instant::now();
        assert!(is_ok(301.0, &busy, false));
    }
}
