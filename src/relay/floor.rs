//! The fetch floor: where in the fetch index a lane's next fetch begins.
//!
//! Rows that were settled leave dead index entries behind, and while some long transaction holds
//! them back from vacuum, a fetch from the start would walk them all, every time; so would it walk
//! the followers of a parked key. The floor spares that. It is only an optimisation: a row can commit
//! late and stand below it, so the floor trails behind the time, and a full poll finds what it hides: page
//! by page, at most a fiftieth of the time.

use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::store::work::Reached;

/// How far the floor stays behind the database's time, at least: so long a transaction may take.
const TRAIL: Duration = Duration::from_secs(1);
/// How far it may fall behind when full polls keep finding rows below it.
const TRAIL_MAX: Duration = Duration::from_secs(600);
/// How far it stays behind the database's time where it rises without a fetch: over the followers of
/// parked keys. Transactions longer than that are found by the full poll.
const PASS_TRAIL: Duration = Duration::from_secs(10);
/// Shortest time between pages of the full poll.
const FULL_EVERY: Duration = Duration::from_secs(1);
/// Full polls may take one part in so many of the time.
const FULL_SHARE: u32 = 50;

/// Below every due time there can be: a row is never due before the moment it is written.
const LOWEST: Timestamp = Timestamp::UNIX_EPOCH;
const BEGIN: Reached = (LOWEST, 0);

/// The floor of one lane.
#[derive(Debug)]
pub struct Floor {
    at: Timestamp,
    /// The highest the floor has been: what is found below it, a fetch from there would have missed.
    reached: Timestamp,
    trail: Duration,
    next_page: Instant,
    /// Where the last page of the full poll ended.
    page_after: Reached,
    /// Rows that only the full poll, or the lower floor after it, has found.
    hidden: u64,
}

impl Floor {
    /// Nothing is known: the first fetch begins at the lowest due time there is.
    #[must_use]
    pub fn new() -> Floor {
        let next_page = Instant::now() + FULL_EVERY;
        Floor { at: LOWEST, reached: LOWEST, trail: TRAIL, next_page, page_after: BEGIN, hidden: 0 }
    }

    /// Where a fetch begins.
    #[must_use]
    pub fn at(&self) -> Timestamp {
        self.at
    }

    /// Where the page of the full poll begins that is due now, if there is anything below the floor.
    #[must_use]
    pub fn page(&self, now: Instant) -> Option<Reached> {
        (now >= self.next_page && self.at > LOWEST).then_some(self.page_after)
    }

    /// Whether a page of the full poll is due now, or would be if there were anything below.
    #[must_use]
    pub fn is_page_due(&self, now: Instant) -> bool {
        now >= self.next_page
    }

    /// Learns from a fetch: `due` are the due times of its rows, `asked_at` the database's time. What was
    /// due a trail ago is all visible by then, so that of an old backlog nothing is walked twice.
    pub fn learn(&mut self, due: &[Timestamp], asked_at: Timestamp, now: Instant) {
        self.count_hidden(due);
        if let Some(highest) = due.iter().max() {
            let settled = asked_at.saturating_sub(self.trail).unwrap_or(LOWEST);
            self.at = self.at.max(settled.min(*highest));
            self.reached = self.reached.max(self.at);
        }
        if self.at == LOWEST {
            // What there is was looked at from the very beginning.
            self.next_page = now + FULL_EVERY;
        }
    }

    /// Learns from a page of the full poll: the due times of what it found, where it ended, and how
    /// long it took.
    pub fn learn_page(
        &mut self,
        due: &[Timestamp],
        ended: Option<Reached>,
        took: Duration,
        now: Instant,
    ) {
        self.next_page = now + (took * FULL_SHARE).max(FULL_EVERY);
        self.page_after = ended.unwrap_or(BEGIN);
        let hidden = self.count_hidden(due);
        if let Some(lowest) = hidden {
            let behind = self.reached.duration_since(lowest);
            let behind = Duration::try_from(behind).unwrap_or(TRAIL_MAX);
            self.trail = self.trail.max(behind + TRAIL).min(TRAIL_MAX);
            self.at = self.at.min(lowest.saturating_sub(self.trail).unwrap_or(LOWEST));
        }
    }

    fn count_hidden(&mut self, due: &[Timestamp]) -> Option<Timestamp> {
        let hidden = due.iter().filter(|due| **due < self.reached);
        self.hidden += hidden.clone().count() as u64;
        hidden.min().copied()
    }

    /// Everything due up to `asked_at`, by the database's clock, is in hand or behind a parked key.
    pub fn pass(&mut self, asked_at: Timestamp) {
        let below = asked_at.saturating_sub(self.trail.max(PASS_TRAIL)).unwrap_or(LOWEST);
        self.at = self.at.max(below);
        self.reached = self.reached.max(self.at);
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
    fn it_trails_the_time_and_never_falls_by_a_fetch() {
        let (mut floor, now) = (Floor::new(), Instant::now());
        floor.learn(&[at(10), at(20)], at(20), now);
        assert_eq!(floor.at(), at(19));
        floor.learn(&[at(19)], at(20), now);
        assert_eq!(floor.at(), at(19));
    }

    #[test]
    fn of_an_old_backlog_nothing_is_walked_twice() {
        let (mut floor, now) = (Floor::new(), Instant::now());
        floor.learn(&[at(10), at(20)], at(500), now);
        assert_eq!(floor.at(), at(20));
    }

    #[test]
    fn what_is_put_back_is_above_it() {
        let (mut floor, now) = (Floor::new(), Instant::now());
        floor.learn(&[at(10), at(20)], at(20), now);
        floor.lower_to(at(10));
        assert_eq!(floor.at(), at(10));
        floor.learn(&[at(10)], at(20), now);
        assert_eq!(floor.hidden(), 0);
    }

    #[test]
    fn the_full_poll_goes_page_by_page_and_begins_again() {
        let (mut floor, now) = (Floor::new(), Instant::now());
        let later = |n| now + Duration::from_secs(n);
        assert_eq!(floor.page(later(5)), None, "nothing is below the lowest");
        floor.learn(&[at(100)], at(100), now);
        assert_eq!(floor.page(now), None);
        assert_eq!(floor.page(later(1)), Some(BEGIN));
        floor.learn_page(&[], Some((at(3), 7)), Duration::ZERO, later(1));
        assert_eq!(floor.page(later(1)), None);
        assert_eq!(floor.page(later(2)), Some((at(3), 7)));
        floor.learn_page(&[], None, Duration::ZERO, later(2));
        assert_eq!(floor.page(later(3)), Some(BEGIN));
    }

    #[test]
    fn full_polls_take_at_most_a_fiftieth_of_the_time() {
        let (mut floor, now) = (Floor::new(), Instant::now());
        floor.learn(&[at(100)], at(100), now);
        floor.learn_page(&[], None, Duration::from_secs(1), now);
        assert_eq!(floor.page(now + Duration::from_secs(49)), None);
        assert!(floor.page(now + Duration::from_secs(50)).is_some());
    }

    #[test]
    fn what_it_hid_is_counted_and_widens_the_trail() {
        let (mut floor, now) = (Floor::new(), Instant::now());
        floor.learn(&[at(100)], at(100), now);
        floor.learn_page(&[at(70)], None, Duration::ZERO, now);
        assert_eq!(floor.hidden(), 1);
        assert_eq!(floor.at(), at(70 - 30), "29 s hidden, and one more");
        floor.learn(&[at(200)], at(200), now);
        assert_eq!(floor.at(), at(200 - 30));
    }

    #[test]
    fn it_rises_over_parked_keys_and_leaves_room_for_long_transactions() {
        let mut floor = Floor::new();
        floor.pass(at(100));
        assert_eq!(floor.at(), at(90));
        floor.pass(at(50));
        assert_eq!(floor.at(), at(90));
    }
}
