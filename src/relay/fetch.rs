//! Fetch: what may start now. Read-only; a row is not marked, it is remembered.
//!
//! The [`Hand`] holds a row from its fetch until its settlement is known to be committed. A fetch
//! passes over, in its own statement, what was in hand when it began; so a row can only come back
//! through a fetch that began after the commit and sees it, however late an answer arrives.
//!
//! A keyed row starts only when the key index shows it to be the lowest open one of its key. That
//! is asked once when a key becomes active and once when its head closes. While a key has a head,
//! in flight or parked, the fetch passes its followers over.

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use jiff::Timestamp;

use super::floor::Floor;
use crate::store::work::{self, Fetched, InHand};
use crate::store::{Link, StoreError};

/// A delivery's place: message and target.
pub type Place = (i64, String);
/// A key of a target.
pub type Key = (String, String);

/// Most rows one fetch asks for.
const LIMIT_MAX: usize = 1_000;
/// Most keys that are remembered as active or parked; beyond it the fetch looks at each keyed row.
const KEYS_MAX: usize = 1_000;
/// Most parked keys that one full poll asks for again.
const PARKED_PAGE: usize = 500;

/// The head of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Head {
    message_id: i64,
    in_flight: bool,
}

/// The in-memory set of a sink: what was fetched, and which keys have a head.
#[derive(Debug)]
pub struct Hand {
    rows: HashSet<Place>,
    keys: HashMap<Key, Head>,
    /// Keys whose head closed: who is next?
    ask: Vec<Key>,
    /// Where the last page of parked keys ended.
    parked_turn: usize,
    floor: Floor,
}

/// What a fetch brought.
#[derive(Debug, Default)]
pub struct Batch {
    /// To be started now, in this order.
    pub start: Vec<Fetched>,
    /// Whether more is likely to be waiting: the fetch was full, or keys are still to be asked for.
    pub more: bool,
}

impl Hand {
    /// An empty hand: after a take-over and after every reconnect nothing is known.
    #[must_use]
    pub fn new() -> Hand {
        Hand {
            rows: HashSet::new(),
            keys: HashMap::new(),
            ask: Vec::new(),
            parked_turn: 0,
            floor: Floor::new(),
        }
    }

    /// Starts again from the beginning of the index, keeping what is in hand.
    pub fn reset_floor(&mut self) {
        self.floor = Floor::new();
    }

    /// How many rows only a full poll has found.
    #[must_use]
    pub fn hidden(&self) -> u64 {
        self.floor.hidden()
    }

    /// How many rows are held.
    #[must_use]
    pub fn held(&self) -> usize {
        self.rows.len()
    }

    /// What a fetch that begins now passes over.
    fn passed_over(&self) -> InHand {
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
            head.in_flight = false;
            if closed {
                self.ask.push(key);
            }
        }
    }

    /// Lets rows go that were fetched and will not be started; a later fetch finds them again.
    pub fn put_back<'a>(&mut self, rows: impl IntoIterator<Item = &'a Fetched>) {
        for row in rows {
            self.floor.lower_to(row.due_at);
            self.settled(&place(row), row.key.as_deref(), true);
        }
    }

    fn hold(&mut self, row: &Fetched) {
        self.rows.insert(place(row));
    }

    /// Takes the head that the key index named: starts it if it may and there is room for it among
    /// `free`, or parks the key behind it.
    fn take_head(&mut self, row: Fetched, startable: bool, free: usize, start: &mut Vec<Fetched>) {
        let key = (row.target.clone(), row.key.clone().unwrap_or_default());
        let place = place(&row);
        let mut startable = startable && !self.rows.contains(&place);
        if startable && start.len() >= free {
            self.ask.push(key.clone());
            startable = false;
        }
        if startable || self.keys.len() < KEYS_MAX || self.keys.contains_key(&key) {
            let in_flight = startable || self.rows.contains(&place);
            self.keys.insert(key, Head { message_id: row.message_id, in_flight });
        }
        if startable {
            self.hold(&row);
            start.push(row);
        }
    }

    /// A page of parked keys, to see whether an operator moved their heads.
    fn parked_page(&mut self) -> Vec<Key> {
        let parked: Vec<Key> =
            self.keys.iter().filter(|(_, head)| !head.in_flight).map(|(k, _)| k.clone()).collect();
        if parked.is_empty() {
            return parked;
        }
        let first = self.parked_turn % parked.len();
        self.parked_turn = first + PARKED_PAGE;
        let page = PARKED_PAGE.min(parked.len());
        parked.into_iter().cycle().skip(first).take(page).collect()
    }
}

fn place(row: &Fetched) -> Place {
    (row.message_id, row.target.clone())
}

/// Fetches what may start now, at most `free` deliveries.
///
/// # Errors
/// When the database cannot be asked; what had been fetched by then is not in hand any more.
pub async fn fetch(
    link: &Link,
    sink: &str,
    hand: &mut Hand,
    free: usize,
) -> Result<Batch, StoreError> {
    let mut start = Vec::new();
    match look(link, sink, hand, free, &mut start).await {
        Ok(more) => Ok(Batch { start, more }),
        // Half of the look worked: nobody would ever start these rows, and every fetch would pass
        // them over.
        Err(error) => {
            hand.put_back(&start);
            Err(error)
        }
    }
}

/// Fills `start`; answers whether more is likely to be waiting.
async fn look(
    link: &Link,
    sink: &str,
    hand: &mut Hand,
    free: usize,
    start: &mut Vec<Fetched>,
) -> Result<bool, StoreError> {
    follow_up(link, sink, hand, free, start).await?;

    let limit = free.saturating_sub(start.len()).min(LIMIT_MAX);
    let in_hand = hand.passed_over();
    let begun = Instant::now();
    let from = hand.floor.start(begun);
    let limit_sql = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = work::fetch(link, sink, 0, from.from, limit_sql, &in_hand).await?;
    let full = rows.len() >= limit;
    let due: Vec<Timestamp> = rows.iter().map(|row| row.due_at).collect();
    hand.floor.learn(from, &due, begun.elapsed(), Instant::now());

    let page = from.full && hand.ask.is_empty();
    let mut new_keys: Vec<Key> = if page { hand.parked_page() } else { Vec::new() };
    for row in rows {
        match row.key.clone() {
            None => {
                hand.hold(&row);
                start.push(row);
            }
            // Of a known key only the head itself passes the fetch: it stays the lowest. It comes
            // without its payload, which is fetched alone: retries of heads are rare.
            Some(key) => {
                let key = (row.target.clone(), key);
                match hand.keys.get(&key) {
                    Some(head) if head.message_id == row.message_id => {
                        hand.take_head(row, true, free, start);
                    }
                    None if !new_keys.contains(&key) => new_keys.push(key),
                    Some(_) | None => {}
                }
            }
        }
    }
    if !new_keys.is_empty() {
        ask_heads(link, sink, hand, &new_keys, free, start).await?;
    }
    Ok(full || !hand.ask.is_empty())
}

/// Starts the next of each key whose head closed, as far as there is room.
async fn follow_up(
    link: &Link,
    sink: &str,
    hand: &mut Hand,
    free: usize,
    start: &mut Vec<Fetched>,
) -> Result<(), StoreError> {
    let keys: Vec<Key> = hand.ask.iter().take(free).cloned().collect();
    if keys.is_empty() {
        return Ok(());
    }
    ask_heads(link, sink, hand, &keys, free, start).await?;
    hand.ask.drain(..keys.len());
    Ok(())
}

/// Asks the key index who is the head of each key; a key with none is forgotten.
async fn ask_heads(
    link: &Link,
    sink: &str,
    hand: &mut Hand,
    keys: &[Key],
    free: usize,
    start: &mut Vec<Fetched>,
) -> Result<(), StoreError> {
    let heads = work::heads(link, sink, keys).await?;
    for key in keys {
        if hand.keys.get(key).is_some_and(|head| !head.in_flight) {
            hand.keys.remove(key);
        }
    }
    for (row, startable) in heads {
        hand.take_head(row, startable, free, start);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: i64, key: Option<&str>) -> Fetched {
        Fetched {
            message_id: id,
            target: String::new(),
            key: key.map(str::to_owned),
            attempt: 0,
            rev: 0,
            round: 1,
            crashes: 0,
            content_hash: None,
            due_at: Timestamp::UNIX_EPOCH,
            expired: false,
            message: None,
        }
    }

    fn ids(rows: &[Fetched]) -> Vec<i64> {
        rows.iter().map(|row| row.message_id).collect()
    }

    #[test]
    fn a_fetch_passes_over_what_is_in_hand_until_its_settlement_is_committed() {
        let mut hand = Hand::new();
        hand.hold(&row(1, None));
        assert_eq!(hand.passed_over().rows, (vec![1], vec![String::new()]));
        hand.settled(&(1, String::new()), None, true);
        assert_eq!(hand.passed_over().rows, (vec![], vec![]));
    }

    #[test]
    fn followers_wait_for_the_head_and_the_next_is_asked_for_once() {
        let mut hand = Hand::new();
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
    fn a_parked_head_starts_nothing() {
        let mut hand = Hand::new();
        let mut start = Vec::new();
        hand.take_head(row(5, Some("k")), false, 1, &mut start);
        assert!(start.is_empty());
        assert_eq!(hand.parked_page().len(), 1);
    }
}
