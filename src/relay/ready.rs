//! What was fetched and waits for its start. Lanes are served by weight, so that none starves.

use std::collections::VecDeque;
use std::time::Instant;

use crate::policy::Lane;
use crate::store::work::Fetched;

/// Fetched rows, by lane.
#[derive(Default)]
pub struct Ready {
    lanes: [VecDeque<(Instant, Fetched)>; 3],
    /// How much a lane is owed: the one that is owed most is next.
    owed: [i64; 3],
    /// Rows in the middle of whose attempt a relay ended: they start one at a time.
    suspects: VecDeque<Fetched>,
}

/// The lane of a row; one that an older relay knows nothing of counts as normal.
#[must_use]
pub fn lane_of(row: &Fetched) -> Lane {
    Lane::ALL.into_iter().find(|lane| lane.number() == row.lane).unwrap_or_default()
}

impl Ready {
    /// Takes a row that was fetched `now`.
    pub fn push(&mut self, now: Instant, row: Fetched) {
        if row.crashes > 0 {
            self.suspects.push_back(row);
        } else {
            self.lanes[place(lane_of(&row))].push_back((now, row));
        }
    }

    /// How many rows wait in each lane, the most urgent first; suspects left out.
    #[must_use]
    pub fn counts(&self) -> [usize; 3] {
        self.lanes.each_ref().map(VecDeque::len)
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lanes.iter().all(VecDeque::is_empty) && self.suspects.is_empty()
    }

    /// The row whose turn it is.
    #[must_use]
    pub fn peek(&self) -> Option<&Fetched> {
        self.turn().and_then(|turn| self.lanes[turn].front()).map(|(_, row)| row)
    }

    /// Takes the row whose turn it is: of the lanes that have one, the one that is owed most.
    pub fn pick(&mut self) -> Option<Fetched> {
        let turn = self.turn()?;
        let mut all = 0;
        for lane in Lane::ALL {
            if !self.lanes[place(lane)].is_empty() {
                self.owed[place(lane)] += i64::from(lane.weight());
                all += i64::from(lane.weight());
            }
        }
        self.owed[turn] -= all;
        for (lane, owed) in self.lanes.iter().zip(&mut self.owed) {
            // A lane without work saves nothing up.
            if lane.is_empty() {
                *owed = 0;
            }
        }
        self.lanes[turn].pop_front().map(|(_, row)| row)
    }

    fn turn(&self) -> Option<usize> {
        let owed = |lane: &Lane| self.owed[place(*lane)] + i64::from(lane.weight());
        let has_work = |lane: &Lane| !self.lanes[place(*lane)].is_empty();
        // Of equals the most urgent: max_by_key takes the last.
        Lane::ALL.into_iter().rev().filter(has_work).max_by_key(owed).map(place)
    }

    /// Takes the next suspect.
    pub fn pick_suspect(&mut self) -> Option<Fetched> {
        self.suspects.pop_front()
    }

    /// The next suspect.
    #[must_use]
    pub fn suspect(&self) -> Option<&Fetched> {
        self.suspects.front()
    }

    /// Takes out what was fetched before `then`; suspects stay, as their intent is refused if their
    /// row has changed.
    pub fn take_older(&mut self, then: Instant) -> Vec<Fetched> {
        let mut old = Vec::new();
        for lane in &mut self.lanes {
            while lane.front().is_some_and(|(at, _)| *at < then) {
                old.extend(lane.pop_front().map(|(_, row)| row));
            }
        }
        old
    }

    /// Takes out everything.
    pub fn take_all(&mut self) -> Vec<Fetched> {
        let lanes = self.lanes.iter_mut().flat_map(|lane| lane.drain(..).map(|(_, row)| row));
        lanes.chain(self.suspects.drain(..)).collect()
    }
}

const fn place(lane: Lane) -> usize {
    match lane {
        Lane::High => 0,
        Lane::Normal => 1,
        Lane::Low => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::hand::testing::row;

    fn fill(ready: &mut Ready, lane: Lane, count: i64) {
        for id in 0..count {
            let mut row = row(id, None);
            row.lane = lane.number();
            ready.push(Instant::now(), row);
        }
    }

    #[test]
    fn lanes_are_served_by_weight_and_none_starves() {
        let mut ready = Ready::default();
        for lane in Lane::ALL {
            fill(&mut ready, lane, 100);
        }
        let mut counts = [0; 3];
        for _ in 0..42 {
            counts[place(lane_of(&ready.pick().unwrap()))] += 1;
        }
        assert_eq!(counts, [32, 8, 2]);
    }

    #[test]
    fn the_most_urgent_is_first_and_a_lane_without_work_saves_nothing_up() {
        let mut ready = Ready::default();
        fill(&mut ready, Lane::Low, 100);
        for _ in 0..50 {
            ready.pick().unwrap();
        }
        fill(&mut ready, Lane::High, 2);
        assert_eq!(lane_of(ready.peek().unwrap()), Lane::High);
        assert_eq!(lane_of(&ready.pick().unwrap()), Lane::High);
        assert_eq!(lane_of(&ready.pick().unwrap()), Lane::High);
        assert_eq!(lane_of(&ready.pick().unwrap()), Lane::Low);
    }

    #[test]
    fn what_is_peeked_at_is_what_is_picked() {
        let mut ready = Ready::default();
        for lane in Lane::ALL {
            fill(&mut ready, lane, 30);
        }
        while let Some(next) = ready.peek().map(lane_of) {
            assert_eq!(lane_of(&ready.pick().unwrap()), next);
        }
    }
}
