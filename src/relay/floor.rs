//! The fetch floor: where in the fetch index a lane's next fetch begins.
//!
//! Rows that were settled leave dead index entries behind, and while some long transaction holds
//! them back from vacuum, a fetch from the start would walk them all, every time. The floor spares
//! that. It is only an optimisation: a row can commit late and stand below it, so the floor trails
//! behind what was seen, and a full poll, at most a fiftieth of the time, finds what it hides.

use std::time::{Duration, Instant};

use jiff::Timestamp;

/// How far the floor stays behind the highest due time fetched, at least.
const TRAIL: Duration = Duration::from_secs(1);
/// How far it may fall behind when full polls keep finding rows below it.
const TRAIL_MAX: Duration = Duration::from_secs(600);
/// Shortest time between full polls.
const FULL_EVERY: Duration = Duration::from_secs(1);
/// A full poll may take one part in so many of the time.
const FULL_SHARE: u32 = 50;

/// Below every due time there can be: a row is never due before the moment it is written.
const LOWEST: Timestamp = Timestamp::UNIX_EPOCH;

/// The floor of one lane.
#[derive(Debug)]
pub struct Floor {
    at: Timestamp,
    /// The highest the floor has been: what is found below it, a fetch from there would have missed.
    reached: Timestamp,
    trail: Duration,
    next_full: Instant,
    /// Rows that only a full poll, or the lower floor after one, has found.
    hidden: u64,
}

/// Where to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// The lowest due time to look at.
    pub from: Timestamp,
    /// Whether this is a full poll.
    pub full: bool,
}

impl Floor {
    /// Nothing is known: the first fetch is a full poll.
    #[must_use]
    pub fn new() -> Floor {
        Floor { at: LOWEST, reached: LOWEST, trail: TRAIL, next_full: Instant::now(), hidden: 0 }
    }

    /// Where the fetch that begins `now` starts.
    #[must_use]
    pub fn start(&self, now: Instant) -> Start {
        if now >= self.next_full {
            return Start { from: LOWEST, full: true };
        }
        Start { from: self.at, full: false }
    }

    /// Learns from a fetch: `due` are the due times of its rows, `took` how long it ran.
    pub fn learn(&mut self, start: Start, due: &[Timestamp], took: Duration, now: Instant) {
        let hidden: Vec<&Timestamp> = due.iter().filter(|due| **due < self.reached).collect();
        self.hidden += hidden.len() as u64;
        if start.full {
            self.next_full = now + (took * FULL_SHARE).max(FULL_EVERY);
            if let Some(lowest) = hidden.into_iter().min() {
                let behind = self.reached.duration_since(*lowest);
                let behind = Duration::try_from(behind).unwrap_or(TRAIL_MAX);
                self.trail = self.trail.max(behind + TRAIL).min(TRAIL_MAX);
                self.at = (*lowest).saturating_sub(self.trail).unwrap_or(LOWEST);
                return;
            }
        }
        if let Some(highest) = due.iter().max() {
            let below = highest.saturating_sub(self.trail).unwrap_or(LOWEST);
            self.at = self.at.max(below);
            self.reached = self.reached.max(self.at);
        }
    }

    /// Rows that were fetched are put back: the next fetch must find them again.
    pub fn lower_to(&mut self, due: Timestamp) {
        self.at = self.at.min(due);
        self.reached = self.reached.min(due);
    }

    /// How many rows a full poll had to find.
    #[must_use]
    pub fn hidden(&self) -> u64 {
        self.hidden
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + seconds).unwrap()
    }

    #[test]
    fn the_floor_trails_what_was_fetched_by_a_second() {
        let mut floor = Floor::new();
        let now = Instant::now();
        assert!(floor.start(now).full);
        floor.learn(floor.start(now), &[at(10), at(20)], Duration::ZERO, now);
        assert_eq!(floor.start(now), Start { from: at(19), full: false });
        floor.learn(floor.start(now), &[at(5)], Duration::ZERO, now);
        assert_eq!(floor.start(now).from, at(19), "it never falls by an ordinary fetch");
    }

    #[test]
    fn a_full_poll_takes_at_most_a_fiftieth_of_the_time() {
        let mut floor = Floor::new();
        let now = Instant::now();
        floor.learn(floor.start(now), &[], Duration::from_millis(100), now);
        assert!(!floor.start(now + Duration::from_millis(4_900)).full);
        assert!(floor.start(now + Duration::from_millis(5_000)).full);
    }

    #[test]
    fn rows_found_below_the_floor_are_counted_and_widen_the_trail() {
        let mut floor = Floor::new();
        let now = Instant::now();
        floor.learn(floor.start(now), &[at(100)], Duration::ZERO, now);
        let later = now + Duration::from_secs(2);
        assert!(floor.start(later).full);
        floor.learn(floor.start(later), &[at(90), at(101)], Duration::ZERO, later);
        assert_eq!(floor.hidden(), 1);
        assert_eq!(floor.start(later).from, at(80), "9 s behind, and 1 s of trail, below 90");
        floor.learn(floor.start(later), &[at(95)], Duration::ZERO, later);
        assert_eq!(floor.hidden(), 2, "found only because the floor was lowered");
        floor.learn(floor.start(later), &[at(200)], Duration::ZERO, later);
        assert_eq!(floor.start(later).from, at(190));
        floor.lower_to(at(150));
        floor.learn(floor.start(later), &[at(150), at(200)], Duration::ZERO, later);
        assert_eq!((floor.start(later).from, floor.hidden()), (at(190), 2), "put back, not hidden");
    }
}
