//! The turns of suspects: messages in the middle of whose attempt a relay ended.
//!
//! One that was there once goes with at most a few others like it, one of each sink; one that was there
//! twice goes alone, in the whole relay. So whoever was only beside the message that ends relays is found
//! innocent before the third time. Turns are given in the order they were asked for: a slow sink's
//! suspects do not hold up those of the others.

use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::hand::Place;
use crate::store::work::Fetched;

/// How many suspects may be attempted at the same time, over all sinks of the relay.
const TOGETHER: u32 = 4;

/// Gives the turns, for all sinks of a relay.
#[derive(Clone)]
pub struct Turns(Arc<Semaphore>);

impl Turns {
    /// All of them are free.
    #[must_use]
    pub fn new() -> Turns {
        Turns(Arc::new(Semaphore::new(TOGETHER as usize)))
    }

    fn ask(&self, weight: u32) -> BoxFuture<'static, OwnedSemaphorePermit> {
        let turns = Arc::clone(&self.0).acquire_many_owned(weight);
        turns.map(|turn| turn.expect("turns are never closed")).boxed()
    }
}

/// The turn of one sink.
#[derive(Default)]
pub enum Turn {
    /// Not asked for.
    #[default]
    None,
    /// Asked for.
    Waiting(BoxFuture<'static, OwnedSemaphorePermit>),
    /// Given; the next suspect may start.
    Given(OwnedSemaphorePermit),
    /// Taken, until the suspect's end is committed: a crash before that is charged to it.
    Taken { suspect: Place, _turn: OwnedSemaphorePermit },
}

impl Turn {
    /// Asks for the turn of the suspect that is next, unless that was done.
    pub fn ask(&mut self, turns: &Turns, next: &Fetched) {
        match self {
            Turn::None => *self = Turn::Waiting(turns.ask(weight(next))),
            // The one it was asked for is not the next any more.
            Turn::Given(turn) if turn.num_permits() < weight(next) as usize => {
                *self = Turn::Waiting(turns.ask(weight(next)));
            }
            Turn::Waiting(_) | Turn::Given(_) | Turn::Taken { .. } => {}
        }
    }

    /// Whether it was asked for and is not given yet.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        matches!(self, Turn::Waiting(_))
    }

    /// Whether it is given: a slot is kept for its suspect.
    #[must_use]
    pub fn is_given(&self) -> bool {
        matches!(self, Turn::Given(_))
    }

    /// Waits until it is given. For ever, if it was not asked for.
    pub async fn given(&mut self) {
        let Turn::Waiting(asked) = self else { return std::future::pending().await };
        *self = Turn::Given(asked.await);
    }

    /// Takes it for a suspect; `false` if it was not given.
    pub fn take(&mut self, place: Place) -> bool {
        match std::mem::take(self) {
            Turn::Given(turn) => *self = Turn::Taken { suspect: place, _turn: turn },
            other => {
                *self = other;
                return false;
            }
        }
        true
    }

    /// Gives up what was asked for or given: while nothing of the sink may start, others go.
    pub fn give_up(&mut self) {
        if !matches!(self, Turn::Taken { .. }) {
            *self = Turn::None;
        }
    }

    /// Lets the next suspect go, if this was the one.
    pub fn is_through(&mut self, place: &Place) {
        if matches!(self, Turn::Taken { suspect, .. } if suspect == place) {
            *self = Turn::None;
        }
    }
}

fn weight(suspect: &Fetched) -> u32 {
    if suspect.crashes >= 2 { TOGETHER } else { 1 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::hand::testing::row;

    fn suspect(id: i64, crashes: i16) -> Fetched {
        Fetched { crashes, ..row(id, None) }
    }

    fn place(id: i64) -> Place {
        (id, String::new())
    }

    #[tokio::test]
    async fn who_was_there_twice_goes_alone_and_in_turn() {
        let turns = Turns::new();
        let (mut first, mut second, mut third) = (Turn::None, Turn::None, Turn::None);
        first.ask(&turns, &suspect(1, 1));
        first.given().await;
        assert!(first.take(place(1)));
        second.ask(&turns, &suspect(2, 2));
        assert!(second.given().now_or_never().is_none(), "alone");
        third.ask(&turns, &suspect(3, 1));
        assert!(third.given().now_or_never().is_none(), "behind the one that asked before");
        first.is_through(&place(2));
        assert!(second.given().now_or_never().is_none(), "that was another one");
        first.is_through(&place(1));
        second.given().await;
        assert!(second.take(place(2)));
        assert!(third.given().now_or_never().is_none(), "alone");
        second.is_through(&place(2));
        third.given().await;
    }

    #[tokio::test]
    async fn a_turn_given_for_one_is_not_taken_for_a_graver_one() {
        let turns = Turns::new();
        let mut turn = Turn::None;
        turn.ask(&turns, &suspect(1, 1));
        turn.given().await;
        turn.ask(&turns, &suspect(2, 2));
        assert!(turn.is_waiting());
        turn.given().await;
        turn.give_up();
        assert!(!turn.take(place(2)));
    }
}
