//! The breaker of a destination: whether to go on trying. Pure; the caller says what time it is.
//!
//! ```text
//! closed ──two different messages in trouble, none passed between──▶ open
//! open ──the pause is over──▶ probing: one attempt, alone
//! probing ──trouble again──▶ open, for twice as long
//!         ──an answer──▶ ramping: 2 attempts at a time, 4, 8, … ──▶ closed
//! any     ──it wants nothing from us──▶ open at once, and longer
//! ```
//!
//! Trouble that only one message meets is that message's own, and spends its attempts. Trouble that
//! different messages meet is the destination's: they wait with it and spend none.

use std::time::{Duration, Instant};

/// First and longest pause between probes.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// The same after a login or a sender was refused: seldom enough that no server locks the account for it.
const BAR_MIN: Duration = Duration::from_secs(60);
const BAR_MAX: Duration = Duration::from_secs(300);
/// How many attempts may run at first when a destination is back.
const RAMP_FROM: usize = 2;
/// Beyond so many at a time the ramp is over, whatever the sink's concurrency.
const RAMP_TO: usize = 1_024;

/// Whether and how a destination is tried.
#[derive(Debug)]
pub struct Breaker {
    state: State,
    /// The message that met trouble since something last passed, while it is the only one.
    troubled: Option<i64>,
    /// When something last passed.
    passed_at: Option<Instant>,
}

#[derive(Debug)]
enum State {
    Closed,
    Open { opened: Opened, until: Instant, pause: Duration },
    Probing { opened: Opened, pause: Duration },
    Ramping { limit: usize },
}

/// Since when a breaker is open, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Since when.
    pub since: Instant,
    /// What the first messages met, or the last one that was barred.
    pub reason: String,
    /// Whether it is there and wants nothing from us as we are.
    pub barred: bool,
}

impl Breaker {
    /// Closed.
    #[must_use]
    pub fn new() -> Breaker {
        Breaker { state: State::Closed, troubled: None, passed_at: None }
    }

    /// How many attempts may run at the same time now.
    #[must_use]
    pub fn limit(&self, now: Instant) -> usize {
        match &self.state {
            State::Closed => usize::MAX,
            State::Ramping { limit } => *limit,
            State::Open { until, .. } if now >= *until => 1,
            State::Open { .. } | State::Probing { .. } => 0,
        }
    }

    /// When the next probe may begin, while it is open.
    #[must_use]
    pub fn opens_at(&self) -> Option<Instant> {
        match &self.state {
            State::Open { until, .. } => Some(*until),
            State::Closed | State::Probing { .. } | State::Ramping { .. } => None,
        }
    }

    /// Since when it is open, and why; none while it is closed or ramping.
    #[must_use]
    pub fn opened(&self) -> Option<&Opened> {
        match &self.state {
            State::Open { opened, .. } | State::Probing { opened, .. } => Some(opened),
            State::Closed | State::Ramping { .. } => None,
        }
    }

    /// An attempt begins: while open, it is the probe.
    pub fn begin(&mut self, now: Instant) {
        if let State::Open { opened, until, pause } = &self.state
            && now >= *until
        {
            self.state = State::Probing { opened: opened.clone(), pause: *pause };
        }
    }

    /// An attempt ended without telling anything about the destination: whoever is next may probe.
    pub fn abstain(&mut self, now: Instant) {
        if let State::Probing { opened, pause } = &self.state {
            self.state = State::Open { opened: opened.clone(), until: now, pause: *pause };
        }
    }

    /// The destination answered, in an attempt that began at `begun`. What began before we were barred says
    /// nothing of whether we still are: a connection that had been let in goes on.
    pub fn pass(&mut self, begun: Instant, now: Instant) {
        if self.opened().is_some_and(|opened| opened.barred && begun < opened.since) {
            return;
        }
        self.troubled = None;
        self.passed_at = Some(now);
        self.state = match self.state {
            State::Closed => State::Closed,
            State::Open { .. } | State::Probing { .. } => State::Ramping { limit: RAMP_FROM },
            State::Ramping { limit } if limit >= RAMP_TO => State::Closed,
            State::Ramping { limit } => State::Ramping { limit: limit * 2 },
        };
    }

    /// A message met trouble in an attempt that began at `begun`. Answers whether that is the
    /// destination's trouble, so that it spends no attempt.
    ///
    /// The first one has the benefit of the doubt, once: whether others meet the same is not known. Unless
    /// it was met `at_door`, before anything was said of the message: then any message would have.
    pub fn trouble(
        &mut self,
        message_id: i64,
        at_door: bool,
        (begun, now): (Instant, Instant),
        reason: &str,
    ) -> bool {
        if let State::Open { .. } = self.state {
            return true;
        }
        if let State::Probing { opened, pause } = &self.state {
            let pause = (*pause * 2).min(PAUSE_MAX);
            self.state = State::Open { opened: opened.clone(), until: now + pause, pause };
            return true;
        }
        if self.passed_at.is_some_and(|passed_at| passed_at > begun) {
            return at_door;
        }
        match self.troubled {
            None => {
                self.troubled = Some(message_id);
                true
            }
            Some(other) if other == message_id && !at_door => false,
            Some(_) => {
                let opened = Opened { since: now, reason: reason.to_owned(), barred: false };
                self.state = State::Open { opened, until: now + PAUSE_MIN, pause: PAUSE_MIN };
                true
            }
        }
    }

    /// The destination wants nothing from us as we are: that is never a message's own trouble.
    pub fn bar(&mut self, now: Instant, reason: &str) {
        let pause = match &self.state {
            // Those that were in flight when the first was told so are told the same.
            State::Open { opened, .. } if opened.barred => return,
            State::Probing { opened, pause } if opened.barred => (*pause * 2).min(BAR_MAX),
            _ => BAR_MIN,
        };
        let since = self.opened().map_or(now, |opened| opened.since);
        let opened = Opened { since, reason: reason.to_owned(), barred: true };
        self.state = State::Open { opened, until: now + pause, pause };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFUSED: &str = "connection refused";

    /// A breaker that two messages opened, and when.
    fn open() -> (Breaker, Instant) {
        let (mut breaker, now) = (Breaker::new(), Instant::now());
        assert!(breaker.trouble(1, false, (now, now), REFUSED));
        assert!(breaker.trouble(2, false, (now, now), REFUSED));
        (breaker, now)
    }

    fn later(now: Instant, seconds: u64) -> Instant {
        now + Duration::from_secs(seconds)
    }

    #[test]
    fn it_opens_only_when_different_messages_meet_the_trouble() {
        let (mut breaker, now) = (Breaker::new(), Instant::now());
        assert!(breaker.trouble(1, false, (now, now), REFUSED), "the benefit of the doubt");
        for n in 1..50 {
            assert!(
                !breaker.trouble(1, false, (later(now, n), later(now, n)), REFUSED),
                "its own trouble"
            );
        }
        assert_eq!(breaker.limit(now), usize::MAX);
        assert!(breaker.trouble(2, false, (later(now, 60), later(now, 60)), REFUSED));
        assert_eq!(breaker.limit(later(now, 60)), 0);
        assert_eq!(breaker.opened().unwrap().reason, REFUSED);
    }

    #[test]
    fn a_message_that_meets_trouble_while_others_pass_spends_its_attempt() {
        let (mut breaker, now) = (Breaker::new(), Instant::now());
        breaker.pass(later(now, 1), later(now, 1));
        assert!(!breaker.trouble(1, false, (now, later(now, 2)), REFUSED));
        assert!(!breaker.trouble(2, false, (now, later(now, 2)), REFUSED));
        assert_eq!(breaker.limit(later(now, 2)), usize::MAX);
    }

    #[test]
    fn at_the_door_one_message_is_as_good_as_many() {
        let (mut breaker, now) = (Breaker::new(), Instant::now());
        assert!(breaker.trouble(1, true, (now, now), REFUSED));
        assert!(breaker.trouble(1, true, (later(now, 1), later(now, 1)), REFUSED));
        assert_eq!(breaker.limit(later(now, 1)), 0, "it is not tried every second for ever");
        // While others pass, it is spared and they go on.
        let mut breaker = Breaker::new();
        breaker.pass(later(now, 1), later(now, 1));
        assert!(breaker.trouble(1, true, (now, later(now, 2)), REFUSED));
        assert_eq!(breaker.limit(later(now, 2)), usize::MAX);
    }

    #[test]
    fn connections_that_were_let_in_before_do_not_end_a_bar() {
        let (mut breaker, now) = (Breaker::new(), Instant::now());
        breaker.bar(later(now, 1), "535 no");
        breaker.pass(now, later(now, 2));
        assert_eq!(breaker.limit(later(now, 2)), 0);
        breaker.begin(later(now, 61));
        breaker.pass(later(now, 61), later(now, 62));
        assert!(breaker.opened().is_none());
    }

    #[test]
    fn something_that_passes_between_keeps_it_closed() {
        let (mut breaker, now) = (Breaker::new(), Instant::now());
        assert!(breaker.trouble(1, false, (now, now), REFUSED));
        breaker.pass(later(now, 1), later(now, 1));
        assert!(breaker.trouble(2, false, (later(now, 2), later(now, 3)), REFUSED));
        assert_eq!(breaker.limit(later(now, 3)), usize::MAX);
    }

    #[test]
    fn while_open_one_probe_at_a_time_and_ever_longer_pauses() {
        let (mut breaker, mut now) = open();
        for pause in [1, 2, 4, 8, 16, 32, 60, 60] {
            assert_eq!(
                breaker.limit(later(now, pause).checked_sub(Duration::from_millis(1)).unwrap()),
                0
            );
            now = later(now, pause);
            assert_eq!(breaker.limit(now), 1);
            breaker.begin(now);
            assert_eq!(breaker.limit(now), 0, "the probe is alone");
            assert!(breaker.trouble(3, false, (now, now), REFUSED));
        }
    }

    #[test]
    fn a_probe_that_tells_nothing_leaves_the_turn_to_the_next() {
        let (mut breaker, now) = open();
        breaker.begin(later(now, 1));
        breaker.abstain(later(now, 1));
        assert_eq!(breaker.limit(later(now, 1)), 1);
    }

    #[test]
    fn recovery_ramps_up() {
        let (mut breaker, now) = open();
        breaker.begin(later(now, 1));
        breaker.pass(later(now, 2), later(now, 2));
        assert!(breaker.opened().is_none());
        let mut limits = Vec::new();
        for _ in 0..4 {
            limits.push(breaker.limit(later(now, 2)));
            breaker.pass(later(now, 3), later(now, 3));
        }
        assert_eq!(limits, [2, 4, 8, 16]);
        for _ in 0..20 {
            breaker.pass(later(now, 3), later(now, 3));
        }
        assert_eq!(breaker.limit(now), usize::MAX);
    }

    #[test]
    fn who_is_barred_waits_at_once_and_ever_longer() {
        let (mut breaker, mut now) = (Breaker::new(), Instant::now());
        breaker.bar(now, "535 no");
        let begun = now;
        for pause in [60, 120, 240, 300, 300] {
            breaker.bar(later(now, 1), "535 no, to those that were in flight");
            assert_eq!(breaker.opens_at(), Some(later(now, pause)));
            now = later(now, pause);
            assert_eq!(breaker.limit(now), 1, "one probe");
            breaker.begin(now);
            assert_eq!(breaker.limit(now), 0, "alone");
            breaker.bar(now, "535 still no");
            let opened = Opened { since: begun, reason: "535 still no".to_owned(), barred: true };
            assert_eq!(breaker.opened(), Some(&opened));
        }
        breaker.begin(later(now, 300));
        breaker.pass(later(now, 301), later(now, 301));
        assert_eq!(breaker.limit(now), RAMP_FROM);
        breaker.bar(later(now, 302), "535 again");
        assert_eq!(breaker.opens_at(), Some(later(now, 362)), "from the beginning");
    }

    #[test]
    fn a_destination_that_came_back_and_bars_us_is_another_trouble() {
        let (mut breaker, now) = open();
        breaker.begin(later(now, 1));
        breaker.bar(later(now, 1), "535 no");
        assert_eq!(breaker.opens_at(), Some(later(now, 61)));
        assert!(breaker.opened().unwrap().barred);
    }
}
