//! The hand of a sink: what was fetched, and which keys have a head.
//!
//! It holds a row from its fetch until its settlement is known to be committed. A fetch passes over, in
//! its own statement, what was in hand when it began; so a row can only come back through a fetch that
//! began after the commit and sees it, however late an answer arrives.

use std::collections::{HashMap, HashSet};

use super::floor::Floor;
use super::ready::lane_of;
use crate::policy::{Lane, Order};
use crate::store::work::{Fetched, InHand};

/// A delivery's place: message and target.
pub type Place = (i64, String);
/// A key of a target.
pub type Key = (String, String);

/// Most rows one fetch asks for.
pub(super) const LIMIT_MAX: usize = 1_000;
/// Most keys that are remembered as active or parked; beyond it the fetch looks at each keyed row.
const KEYS_MAX: usize = 1_000;
/// Most parked keys that one full poll asks for again.
const PARKED_PAGE: usize = 500;

/// The head of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) message_id: i64,
    pub(super) is: HeadIs,
}

/// Where the head of a key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HeadIs {
    InFlight,
    /// Out of the way; who is next will be asked.
    Gone,
    /// It cannot be delivered now.
    Parked,
}

/// The in-memory set of a sink: what was fetched, and which keys have a head.
#[derive(Debug)]
pub struct Hand {
    pub(super) rows: HashSet<Place>,
    pub(super) keys: HashMap<Key, Head>,
    /// Keys whose head closed: who is next?
    pub(super) ask: Vec<Key>,
    /// Where the last page of parked keys ended.
    parked_turn: usize,
    pub(super) lanes: Vec<LaneView>,
    pub(super) order: Order,
}

/// What is known of a lane.
#[derive(Debug)]
pub(super) struct LaneView {
    pub(super) lane: Lane,
    pub(super) floor: Floor,
    /// Whether it is looked at every time: routes of the config use it, or its last fetch found rows.
    /// The others are looked at when a page of the full poll is due.
    pub(super) configured: bool,
    pub(super) busy: bool,
}

impl Hand {
    /// An empty hand: after a take-over nothing is known. `lanes` are those that routes use.
    #[must_use]
    pub fn new(order: Order, lanes: &[Lane]) -> Hand {
        let view = |lane| LaneView {
            lane,
            floor: Floor::new(),
            configured: lane == Lane::Normal || lanes.contains(&lane),
            // The first look is at all of them.
            busy: true,
        };
        Hand {
            rows: HashSet::new(),
            keys: HashMap::new(),
            ask: Vec::new(),
            parked_turn: 0,
            lanes: Lane::ALL.map(view).into(),
            order,
        }
    }

    /// Starts again from the beginning of the index, keeping what is in hand.
    pub fn reset_floor(&mut self) {
        for view in &mut self.lanes {
            view.floor = Floor::new();
            view.busy = true;
        }
    }

    /// How many rows only a full poll has found.
    #[must_use]
    pub fn hidden(&self) -> u64 {
        self.lanes.iter().map(|view| view.floor.hidden()).sum()
    }

    /// How many keys have a head that cannot be delivered now, as far as they are remembered.
    #[must_use]
    pub fn parked(&self) -> usize {
        self.keys.values().filter(|head| head.is == HeadIs::Parked).count()
    }

    /// Whether a row is in hand.
    #[must_use]
    pub fn holds(&self, place: &Place) -> bool {
        self.rows.contains(place)
    }

    /// How many rows a look may bring: of each lane its share of `room`, less what waits of it already.
    #[must_use]
    pub fn wants(&self, room: usize, ready: &[usize; 3]) -> usize {
        let views = self.lanes.iter().zip(ready).filter(|(view, _)| view.configured || view.busy);
        views.map(|(view, ready)| limit(&self.lanes, view, room).saturating_sub(*ready)).sum()
    }

    /// How many rows are held.
    #[must_use]
    pub fn held(&self) -> usize {
        self.rows.len()
    }

    /// What a fetch that begins now passes over.
    pub(super) fn passed_over(&self) -> InHand {
        let rows = self.rows.iter().cloned().unzip();
        let mut keys = (Vec::new(), Vec::new(), Vec::new());
        for ((target, key), head) in &self.keys {
            keys.0.push(target.clone());
            keys.1.push(key.clone());
            keys.2.push(head.message_id);
        }
        InHand { rows, keys, more_keys: self.keys.len() >= KEYS_MAX }
    }

    /// Notes that the settlement of a row is committed, and lets the row go.
    pub fn settled(&mut self, place: &Place, key: Option<&str>, closed: bool) {
        self.rows.remove(place);
        let Some(key) = key else { return };
        let key = (place.1.clone(), key.to_owned());
        if let Some(head) = self.keys.get_mut(&key).filter(|head| head.message_id == place.0) {
            head.is = if closed { HeadIs::Gone } else { HeadIs::Parked };
            if closed {
                self.ask.push(key);
            }
        }
    }

    /// Lets rows go that were fetched and will not be started; a later fetch finds them again.
    pub fn put_back<'a>(&mut self, rows: impl IntoIterator<Item = &'a Fetched>) {
        for row in rows {
            if let Some(view) = self.lanes.iter_mut().find(|view| view.lane == lane_of(row)) {
                view.floor.lower_to(row.due_at);
                view.busy = true;
            }
            self.settled(&place(row), row.key.as_deref(), true);
        }
    }

    /// Holds a row until its settlement is known to be committed.
    pub fn hold(&mut self, row: &Fetched) {
        self.rows.insert(place(row));
    }

    /// Takes the head that the key index named: starts it if it may and there is room for it among
    /// `free`, or parks the key behind it.
    pub(super) fn take_head(
        &mut self,
        row: Fetched,
        startable: bool,
        free: usize,
        start: &mut Vec<Fetched>,
    ) {
        let key = (row.target.clone(), row.key.clone().unwrap_or_default());
        let place = place(&row);
        let mut startable = startable && !self.rows.contains(&place);
        if startable && start.len() >= free {
            self.ask.push(key.clone());
            startable = false;
        }
        if startable || self.keys.len() < KEYS_MAX || self.keys.contains_key(&key) {
            let in_flight = startable || self.rows.contains(&place);
            let is = if in_flight { HeadIs::InFlight } else { HeadIs::Parked };
            self.keys.insert(key, Head { message_id: row.message_id, is });
        }
        if startable {
            self.hold(&row);
            start.push(row);
        }
    }

    /// A page of parked keys, to see whether an operator moved their heads.
    pub(super) fn parked_page(&mut self) -> Vec<Key> {
        let parked: Vec<Key> = self
            .keys
            .iter()
            .filter(|(_, head)| head.is == HeadIs::Parked)
            .map(|(k, _)| k.clone())
            .collect();
        if parked.is_empty() {
            return parked;
        }
        let first = self.parked_turn % parked.len();
        self.parked_turn = first + PARKED_PAGE;
        let page = PARKED_PAGE.min(parked.len());
        parked.into_iter().cycle().skip(first).take(page).collect()
    }
}

pub(super) fn place(row: &Fetched) -> Place {
    (row.message_id, row.target.clone())
}

/// How many rows a lane may bring: all there is room for, or its share while others have work too. A
/// share is one at least, but for none.
pub(super) fn limit(lanes: &[LaneView], view: &LaneView, free: usize) -> usize {
    if free == 0 {
        return 0;
    }
    let weight = |lane: Lane| lane.weight() as usize;
    let others = lanes.iter().filter(|other| other.busy && other.lane != view.lane);
    let all = weight(view.lane) + others.map(|other| weight(other.lane)).sum::<usize>();
    (free * weight(view.lane)).div_ceil(all).clamp(1, LIMIT_MAX)
}

#[cfg(test)]
pub mod testing {
    use jiff::Timestamp;

    use super::*;

    /// A row that was due long ago.
    pub fn row(id: i64, key: Option<&str>) -> Fetched {
        Fetched {
            message_id: id,
            target: String::new(),
            lane: 0,
            key: key.map(str::to_owned),
            attempt: 0,
            rev: 0,
            round: 1,
            sending: false,
            crashes: 0,
            content_hash: None,
            recipients: crate::recipients::Recipients::default(),
            due_at: Timestamp::UNIX_EPOCH,
            fell_due: std::time::Instant::now(),
            expired: false,
            message: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::row;
    use super::*;

    fn ids(rows: &[Fetched]) -> Vec<i64> {
        rows.iter().map(|row| row.message_id).collect()
    }

    #[test]
    fn a_fetch_passes_over_what_is_in_hand_until_its_settlement_is_committed() {
        let mut hand = Hand::new(Order::Block, &[]);
        hand.hold(&row(1, None));
        assert_eq!(hand.passed_over().rows, (vec![1], vec![String::new()]));
        hand.settled(&(1, String::new()), None, true);
        assert_eq!(hand.passed_over().rows, (vec![], vec![]));
    }

    #[test]
    fn followers_wait_for_the_head_and_the_next_is_asked_for_once() {
        let mut hand = Hand::new(Order::Block, &[]);
        let mut start = Vec::new();
        hand.take_head(row(5, Some("k")), true, 1, &mut start);
        assert_eq!(ids(&start), [5]);
        assert_eq!(hand.passed_over().keys, (vec![String::new()], vec!["k".to_owned()], vec![5]));
        hand.settled(&(5, String::new()), Some("k"), false);
        assert!(hand.ask.is_empty(), "a retry leaves the head in its place");
        hand.settled(&(5, String::new()), Some("k"), true);
        assert_eq!(hand.ask, [(String::new(), "k".to_owned())]);
    }

    #[test]
    fn a_lane_gets_all_the_room_unless_others_have_work() {
        let mut hand = Hand::new(Order::Block, &[]);
        let limits = |hand: &Hand, free| -> Vec<usize> {
            hand.lanes.iter().map(|view| limit(&hand.lanes, view, free)).collect()
        };
        assert_eq!(limits(&hand, 42), [32, 8, 2]);
        assert_eq!(limits(&hand, 1), [1, 1, 1]);
        assert_eq!(limits(&hand, 0), [0, 0, 0]);
        for view in &mut hand.lanes {
            view.busy = view.lane == Lane::Normal;
        }
        assert_eq!(limits(&hand, 42), [34, 42, 9]);
    }

    #[test]
    fn a_parked_head_starts_nothing() {
        let mut hand = Hand::new(Order::Block, &[]);
        let mut start = Vec::new();
        hand.take_head(row(5, Some("k")), false, 1, &mut start);
        assert!(start.is_empty());
        assert_eq!(hand.parked_page().len(), 1);
    }
}
