//! Fetch: what may start now. Read-only; a row is not marked, it is remembered in the [`Hand`].
//!
//! A keyed row starts only when the key index shows it to be the lowest open one of its key. That
//! is asked once when a key becomes active and once when its head closes. While a key has a head,
//! in flight or parked, the fetch passes its followers over.

use std::time::Instant;

use jiff::Timestamp;

use super::hand::{Hand, Head, HeadIs, Key, LIMIT_MAX, limit, place};
use crate::store::work::{self, Fetched, InHand};
use crate::store::{Link, StoreError};

/// Most rows that one page of the full poll walks.
const BELOW_PAGE: i64 = 2_000;
/// How many it may bring, whatever room there is: next to nothing is found there, unless more keys are
/// parked than are remembered.
const BELOW_FOUND_MIN: usize = 100;

/// What a fetch brought.
#[derive(Debug, Default)]
pub struct Batch {
    /// To be started now, in this order.
    pub start: Vec<Fetched>,
    /// Whether more is likely to be waiting: the fetch was full, or keys are still to be asked for.
    pub more: bool,
}

/// Fetches what may start now: of each lane its share of `room`, less what is `ready` of it already. A
/// share is one at least, so that no lane waits for another. With `thorough` every lane is looked at.
///
/// # Errors
/// When the database cannot be asked; what had been fetched by then is not in hand any more.
pub async fn fetch(
    link: &Link,
    sink: &str,
    hand: &mut Hand,
    room: usize,
    ready: &[usize; 3],
    thorough: bool,
) -> Result<Batch, StoreError> {
    let mut start = Vec::new();
    match look(link, sink, hand, room, ready, thorough, &mut start).await {
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
    room: usize,
    ready: &[usize; 3],
    thorough: bool,
    start: &mut Vec<Fetched>,
) -> Result<bool, StoreError> {
    let free = hand.wants(room, ready);
    follow_up(link, sink, hand, free, start).await?;

    let free_now = room.saturating_sub(start.len());
    let in_hand = hand.passed_over();
    let begun = Instant::now();
    let asks: Vec<(usize, usize)> = hand
        .lanes
        .iter()
        .enumerate()
        .filter(|(_, view)| {
            thorough || view.configured || view.busy || view.floor.is_page_due(begun)
        })
        .map(|(place, view)| {
            (place, limit(&hand.lanes, view, free_now).saturating_sub(ready[place]))
        })
        .filter(|(_, limit)| *limit > 0)
        .collect();
    let order = hand.order;
    let walks = futures_util::future::try_join_all(asks.iter().map(|(place, limit)| {
        let view = &hand.lanes[*place];
        let limit = i64::try_from(*limit).unwrap_or(i64::MAX);
        work::fetch(link, sink, view.lane.number(), view.floor.at(), limit, &in_hand, order)
    }));
    let walks = walks.await?;
    let is_parked = hand.parked() > 0;
    let (mut rows, mut full) = (Vec::new(), false);
    for ((place, limit), walk) in asks.into_iter().zip(walks) {
        let view = &mut hand.lanes[place];
        let due: Vec<Timestamp> = walk.rows.iter().map(|row| row.due_at).collect();
        view.floor.learn(&due, walk.asked_at, Instant::now());
        view.busy = !walk.rows.is_empty();
        full |= walk.rows.len() >= limit;
        // What was walked and not brought is behind parked keys: not to be walked again.
        if walk.rows.len() < limit && is_parked {
            view.floor.pass(walk.asked_at);
        }
        rows.extend(walk.rows);
    }
    let polled = poll_below(link, sink, hand, free_now, &in_hand, begun).await?;
    let parked = polled.is_some() && hand.ask.is_empty();
    rows.extend(polled.unwrap_or_default());
    let mut new_keys: Vec<Key> = if parked { hand.parked_page() } else { Vec::new() };
    for row in rows {
        match row.key.clone() {
            None => {
                if hand.rows.insert(place(&row)) {
                    start.push(row);
                }
            }
            // Of a known key only the head itself passes the fetch, when its retry is due. It is asked
            // for like a new one: a lower message may wait for its route.
            Some(key) => {
                let key = (row.target.clone(), key);
                let is_head = |head: &Head| head.message_id == row.message_id;
                if hand.keys.get(&key).is_none_or(is_head) && !new_keys.contains(&key) {
                    new_keys.push(key);
                }
            }
        }
    }
    if !new_keys.is_empty() {
        ask_heads(link, sink, hand, &new_keys, free, start).await?;
    }
    Ok(full || !hand.ask.is_empty())
}

/// Takes a page of the full poll in each lane where one is due; none if none was.
async fn poll_below(
    link: &Link,
    sink: &str,
    hand: &mut Hand,
    free: usize,
    in_hand: &InHand,
    now: Instant,
) -> Result<Option<Vec<Fetched>>, StoreError> {
    let mut found = None;
    let limit = free.clamp(BELOW_FOUND_MIN, LIMIT_MAX);
    let bounds = (BELOW_PAGE, i64::try_from(limit).unwrap_or(i64::MAX));
    for view in &mut hand.lanes {
        // Even where nothing is below the floor, parked keys are asked for in this rhythm.
        if view.floor.is_page_due(now) {
            found.get_or_insert_with(Vec::new);
        }
        let Some(after) = view.floor.page(now) else { continue };
        let (lane, floor) = (view.lane.number(), view.floor.at());
        let begun = Instant::now();
        let (rows, mut ended) =
            work::fetch_below(link, sink, lane, after, floor, bounds, in_hand).await?;
        if rows.len() >= limit {
            ended = rows.last().map(|row| (row.due_at, row.message_id));
        }
        let due: Vec<Timestamp> = rows.iter().map(|row| row.due_at).collect();
        view.floor.learn_page(&due, ended, begun.elapsed(), Instant::now());
        found.get_or_insert_with(Vec::new).extend(rows);
    }
    Ok(found)
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
    let heads = work::heads(link, sink, keys, hand.order).await?;
    for key in keys {
        if hand.keys.get(key).is_some_and(|head| head.is != HeadIs::InFlight) {
            hand.keys.remove(key);
        }
    }
    for (row, startable) in heads {
        hand.take_head(row, startable, free, start);
    }
    Ok(())
}
