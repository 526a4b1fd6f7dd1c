//! How many attempts may run, and starting them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Desk, FEW_SLOTS_PAUSE, Flight, Worker};
use crate::relay::admit::{Admission, Admitted};
use crate::relay::settle::{BACKLOG_MAX, Decided};
use crate::store::work::Fetched;

/// Fetched ahead of free slots is what a sink does in one part in so many of a second, as a row of a
/// higher lane waits behind it, and at most so many rows.
const AHEAD_SHARE: usize = 50;
const AHEAD_MAX: usize = 64;

impl Worker {
    /// How many attempts may run at the same time now.
    pub(super) fn slots(&self) -> usize {
        self.deliverer.config.concurrency.get().min(self.deliverer.gate.limit(Instant::now()))
    }

    /// Begins an attempt of a row that is admitted.
    pub(super) fn begin(&self, flight: &mut Flight, row: Fetched) {
        self.deliverer.gate.begin(Instant::now());
        let (attempt, counted) = (Arc::clone(&self.deliverer).attempt(row), self.metrics.attempt());
        flight.attempts.spawn(async move {
            let _counted = counted;
            attempt.await
        });
    }

    /// Starts what is ready and needs no admission, as far as there are slots; one is kept for a suspect
    /// whose turn has come.
    pub(super) fn fill(&self, admission: &Admission, flight: &mut Flight) {
        let kept = usize::from(flight.turn.is_given());
        while flight.attempts.len() + kept < self.slots() {
            if !flight.ready.peek().is_some_and(|row| admission.is_free(row)) {
                break;
            }
            let Some(row) = flight.ready.pick() else { break };
            self.begin(flight, row);
        }
    }

    /// Starts what is ready, as far as there are slots; what needs it is admitted first.
    pub(super) async fn start(&mut self, desk: &mut Desk) {
        if self.slots() == 0 {
            desk.flight.turn.give_up();
            return;
        }
        match desk.flight.ready.suspect() {
            Some(next) => desk.flight.turn.ask(&self.turns, next),
            None => desk.flight.turn.give_up(),
        }
        self.fill(&desk.admission, &mut desk.flight);
        let free = self.slots().saturating_sub(desk.flight.attempts.len());
        if free == 0 || desk.flight.ready.is_empty() {
            return;
        }
        let mut rows = Vec::new();
        let next = desk.flight.ready.suspect().map(|row| (row.message_id, row.target.clone()));
        if next.is_some_and(|next| desk.flight.turn.take(next)) {
            rows.extend(desk.flight.ready.pick_suspect());
        }
        while rows.len() < free {
            let Some(row) = desk.flight.ready.pick() else { break };
            rows.push(row);
        }
        if rows.is_empty() {
            return;
        }
        let Admitted { start, back, later } = self.admit(desk, rows).await;
        desk.hand.put_back(&back);
        for row in &back {
            desk.flight.turn.is_through(&(row.message_id, row.target.clone()));
        }
        for row in start {
            self.begin(&mut desk.flight, row);
        }
        for (row, settlement) in later {
            desk.flight.unsettled += 1;
            let decided =
                Decided { row, settlement, content_hash: None, recipients: None, is_urgent: false };
            let _ = desk.decided.send(decided).await;
        }
    }

    /// Admits rows; however long that takes, the ends of attempts are recorded meanwhile.
    pub(super) async fn admit(&mut self, desk: &mut Desk, rows: Vec<Fetched>) -> Admitted {
        let mut ended = Vec::new();
        let admitted = {
            let mut admit = Box::pin(desk.admission.admit(rows));
            loop {
                tokio::select! {
                    admitted = &mut admit => break admitted,
                    Some(end) = desk.flight.attempts.join_next() => {
                        self.record(&mut desk.flight, &desk.decided, end).await;
                    }
                    Some(batch) = desk.written.recv() => ended.push(batch),
                }
            }
        };
        for batch in ended {
            self.settled(desk, batch);
        }
        admitted
    }

    /// How many rows there is room for: free slots, and what is fetched ahead of them.
    pub(super) fn room(&self, flight: &Flight) -> usize {
        let slots = self.slots();
        let free = slots.saturating_sub(flight.attempts.len());
        // While the gate lets only some begin, nothing is fetched ahead of them.
        let is_open = slots == self.deliverer.config.concurrency.get();
        let ahead = if is_open { (flight.minute.pace() / AHEAD_SHARE).min(AHEAD_MAX) } else { 0 };
        free + ahead
    }

    /// How many rows a fetch may bring now.
    pub(super) fn wants(&self, desk: &Desk) -> usize {
        desk.hand.wants(self.room(&desk.flight), &desk.flight.ready.counts())
    }

    /// A fetch pays for a quarter of the slots, or after a short pause for any.
    pub(super) fn has_room(&self, desk: &Desk) -> bool {
        let wants = self.wants(desk);
        let worth_it = wants * 4 >= self.slots() || desk.fetched_at.elapsed() >= FEW_SLOTS_PAUSE;
        wants > 0 && worth_it && desk.hand.held() < BACKLOG_MAX
    }

    /// A gate that has opened brings the next look forward.
    pub(super) fn look_at_the_gate(&mut self, desk: &mut Desk) {
        let is_shut = self.slots() == 0;
        if desk.is_shut && !is_shut {
            self.wake.no_later_than(Duration::ZERO);
        }
        desk.is_shut = is_shut;
    }
}
