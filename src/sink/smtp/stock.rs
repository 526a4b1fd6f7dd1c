//! Connections: never more than the sink may have, and those that wait for the next mail.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::session::Session;

/// Most mails over one connection, and how long it serves.
const MAILS_MAX: u32 = 100;
const AGE_MAX: Duration = Duration::from_mins(5);
/// Longest a connection is kept unused.
const IDLE_MAX: Duration = Duration::from_secs(60);

/// The connections of a mail server.
pub(super) struct Stock(Arc<Shelf>);

struct Shelf {
    state: Mutex<State>,
    /// Somebody may go on: a connection was put aside, or a slot has become free.
    freed: Notify,
}

struct State {
    /// Slots that nobody has.
    free: usize,
    /// The one used last is at the end, and is taken first.
    idle: Vec<Session>,
    /// Whether [`sweep`] is under way.
    swept: bool,
}

/// The right to one connection, for as long as it is open: also while it parts.
pub(super) struct Slot(Weak<Shelf>);

/// What an attempt goes on with.
pub(super) enum Taken {
    /// A connection that waited.
    Session(Box<Session>),
    /// The right to open one.
    Slot(Slot),
}

impl Stock {
    /// For up to `most` connections at a time.
    pub fn new(most: usize) -> Stock {
        let state = Mutex::new(State { free: most, idle: Vec::new(), swept: false });
        Stock(Arc::new(Shelf { state, freed: Notify::new() }))
    }

    /// The connection used last that is not too old, or else a slot for a new one; waits for either.
    pub async fn take(&self) -> Taken {
        loop {
            let mut freed = std::pin::pin!(self.0.freed.notified());
            // In the queue before it is looked: what is freed meanwhile is not missed.
            freed.as_mut().enable();
            if let Some(taken) = self.try_take() {
                return taken;
            }
            freed.await;
        }
    }

    fn try_take(&self) -> Option<Taken> {
        let mut state = self.0.state();
        let old = state.expired();
        let idle = state.idle.pop();
        let slot = idle.is_none() && state.free > 0;
        state.free -= usize::from(slot);
        // What parts gives its slot back, and needs the lock for it.
        drop(state);
        old.into_iter().for_each(Session::part);
        idle.map(|session| Taken::Session(Box::new(session)))
            .or_else(|| slot.then(|| Taken::Slot(Slot(Arc::downgrade(&self.0)))))
    }

    /// Puts a connection aside after a clean end, or ends it if it has served enough.
    pub fn keep(&self, mut session: Session) {
        if session.mails >= MAILS_MAX || session.opened.elapsed() >= AGE_MAX {
            return session.part();
        }
        session.idle_since = Instant::now();
        session.wire.transcript = None;
        let mut state = self.0.state();
        state.idle.push(session);
        if !std::mem::replace(&mut state.swept, true) {
            tokio::spawn(sweep(Arc::downgrade(&self.0)));
        }
        drop(state);
        self.0.freed.notify_one();
    }
}

impl Shelf {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn expired(&mut self) -> Vec<Session> {
        let is_old = |session: &Session| {
            session.idle_since.elapsed() >= IDLE_MAX || session.opened.elapsed() >= AGE_MAX
        };
        self.idle.extract_if(.., |session| is_old(session)).collect()
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(shelf) = self.0.upgrade() {
            shelf.state().free += 1;
            shelf.freed.notify_one();
        }
    }
}

/// Ends what has waited too long, so that a quiet relay holds no connection open; ends itself when
/// there is nothing left to wait for.
async fn sweep(shelf: Weak<Shelf>) {
    while let Some(next) = shelf.upgrade().and_then(|shelf| {
        let mut state = shelf.state();
        let old = state.expired();
        let oldest = state.idle.iter().map(|s| s.idle_since).min();
        state.swept = oldest.is_some();
        drop(state);
        old.into_iter().for_each(Session::part);
        oldest
    }) {
        tokio::time::sleep_until(next + IDLE_MAX).await;
    }
}
