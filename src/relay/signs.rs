//! Signs of life: what the relays of a process show to those who watch it from outside.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;

/// A round of a relay asks the database a few questions, each given up after a lease at most, and then
/// rests for less than one. One that has not ended after so many hangs.
const ROUND_LEASES: u32 = 6;

/// What is shown, over all relays of the process.
#[derive(Debug, Default)]
pub struct Signs {
    /// When the round that was begun last has to be over.
    due: Mutex<Option<Instant>>,
    in_place: watch::Sender<u64>,
    handed_over: Notify,
}

impl Signs {
    /// A relay begins another round. It does so whether the database answers or not.
    pub fn round(&self, lease: Duration) {
        let due = Instant::now() + lease * ROUND_LEASES;
        let mut latest = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        // Two relays may go round at a reload, one of them slower: the later of both counts.
        *latest = (*latest).max(Some(due));
    }

    /// Whether a relay was to begin another round and did not. Before the first one nothing is late.
    #[must_use]
    pub fn are_late(&self) -> bool {
        let due = *self.due.lock().unwrap_or_else(PoisonError::into_inner);
        due.is_some_and(|due| due < Instant::now())
    }

    /// The first relay has entered, or a reload has ended, well or not: a config is in place.
    pub fn in_place(&self) {
        self.in_place.send_modify(|times| *times += 1);
    }

    /// A relay of this process gave a sink back: whoever takes its place need not wait for its next look.
    pub fn hand_over(&self) {
        self.handed_over.notify_one();
    }

    /// Waits until a relay of this process has given a sink back.
    pub async fn handed_over(&self) {
        self.handed_over.notified().await;
    }

    /// Sees each time that a config is in place.
    #[must_use]
    pub fn placed(&self) -> watch::Receiver<u64> {
        self.in_place.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_round_that_does_not_end_is_late_and_the_next_one_is_not() {
        let lease = Duration::from_secs(10);
        let signs = Signs::default();
        tokio::time::advance(lease * 100).await;
        assert!(!signs.are_late(), "a relay that waits for its database has not begun");
        signs.round(lease);
        tokio::time::advance(lease * ROUND_LEASES).await;
        assert!(!signs.are_late());
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(signs.are_late());
        signs.round(lease);
        assert!(!signs.are_late());
    }
}
