//! Whether bells are heard here: noted by what listens, read by the lease, and by whoever tells of it.

use std::sync::{Mutex, PoisonError};

use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;

/// How a relay learns that there is work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hearing {
    /// Bells are heard.
    Hears,
    /// There is a LISTEN session, and it hears nothing. The relay polls.
    Deaf,
    /// There is no LISTEN session now. The relay polls.
    Away,
    /// None is wanted, or producers do not ring in this database. The relay polls.
    Off,
}

/// How this relay learns of work just now.
#[derive(Debug)]
pub struct Listening {
    hearing: Mutex<Hearing>,
    metrics: Metrics,
    /// Cancelled once another relay of this process has taken this one's place.
    leave: CancellationToken,
}

impl Listening {
    /// Before the first session: away where one is `wanted`.
    #[must_use]
    pub fn new(wanted: bool, metrics: Metrics, leave: CancellationToken) -> Listening {
        let hearing = Mutex::new(if wanted { Hearing::Away } else { Hearing::Off });
        Listening { hearing, metrics, leave }
    }

    /// As it is now.
    #[must_use]
    pub fn now(&self) -> Hearing {
        *self.hearing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether bells are heard; none where nobody tries to.
    #[must_use]
    pub fn hears(&self) -> Option<bool> {
        match self.now() {
            Hearing::Hears => Some(true),
            Hearing::Deaf | Hearing::Away => Some(false),
            Hearing::Off => None,
        }
    }

    /// Notes how it is from now on.
    pub(super) fn note(&self, hearing: Hearing) {
        *self.hearing.lock().unwrap_or_else(PoisonError::into_inner) = hearing;
        self.tell();
    }

    /// Says of the process how this relay hears, unless another one speaks for it by now. Said again with
    /// each beat: the one before may have had the last word.
    pub(super) fn tell(&self) {
        if self.leave.is_cancelled() {
            return;
        }
        // A pooler that keeps this relay from hearing keeps every other one too: it polls, and a restart
        // would not mend it.
        self.metrics.listens(self.hears().filter(|_| self.now() != Hearing::Deaf));
    }
}
