//! Connections that wait for the next mail.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::time::Instant;

use super::session::Session;

/// Most mails over one connection.
const MAILS_MAX: u32 = 100;
/// Longest a connection is kept unused.
const IDLE_MAX: Duration = Duration::from_secs(60);

/// The connections that no attempt holds: never more than there were attempts at a time.
#[derive(Default)]
pub(super) struct Stock(Arc<Mutex<Idle>>);

#[derive(Default)]
struct Idle {
    /// The one used last is at the end, and is taken first.
    sessions: Vec<Session>,
    /// Whether [`sweep`] is under way.
    swept: bool,
}

impl Stock {
    /// The connection used last that is not too old.
    pub fn take(&self) -> Option<Session> {
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        idle.expire();
        idle.sessions.pop()
    }

    /// Puts a connection aside after a clean end, or ends it if it has served enough.
    pub fn keep(&self, mut session: Session) {
        if session.mails >= MAILS_MAX {
            return session.part();
        }
        session.idle_since = Instant::now();
        session.wire.transcript = None;
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        idle.sessions.push(session);
        if !std::mem::replace(&mut idle.swept, true) {
            tokio::spawn(sweep(Arc::downgrade(&self.0)));
        }
    }
}

impl Idle {
    fn expire(&mut self) {
        for session in self.sessions.extract_if(.., |s| s.idle_since.elapsed() >= IDLE_MAX) {
            session.part();
        }
    }
}

/// Ends what has waited too long, so that a quiet relay holds no connection open; ends itself when
/// there is nothing left to wait for.
async fn sweep(stock: Weak<Mutex<Idle>>) {
    while let Some(next) = stock.upgrade().and_then(|stock| {
        let mut idle = stock.lock().unwrap_or_else(PoisonError::into_inner);
        idle.expire();
        let oldest = idle.sessions.iter().map(|s| s.idle_since).min();
        idle.swept = oldest.is_some();
        oldest
    }) {
        tokio::time::sleep_until(next + IDLE_MAX).await;
    }
}
