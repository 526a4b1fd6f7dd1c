//! Wake: when to look. A hint only; every hint leads to the same look.
//!
//! A sink with work polls: at once after a full fetch, else after a pause that grows. After a
//! second without work its owner takes the sink's bell, looks once more, and sleeps: from then on
//! producers ring. Polling never stops altogether, so a lost ring costs seconds, not messages.

use std::time::{Duration, Instant};

use super::bells::Bell;
use crate::metrics::WokenBy;

/// First pause after work, and the longest one while awake.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_millis(250);
/// Without work for so long, the owner sleeps.
const SLEEPY_AFTER: Duration = Duration::from_secs(1);
/// Longest sleep with a bell, and longest pause without one.
const SLEEP_MAX: Duration = Duration::from_secs(5);
const DEAF_PAUSE_MAX: Duration = Duration::from_secs(1);

/// How awake the owner of a sink is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mood {
    /// Polls.
    Awake,
    /// Holds the bell and has one more look to take.
    Locked,
    /// Holds the bell and sleeps.
    Asleep,
}

/// When one sink looks next.
pub struct Wake {
    /// None where producers do not ring here.
    bell: Option<Bell>,
    mood: Mood,
    worked_at: Instant,
    pause: Duration,
    look_at: Instant,
}

impl Wake {
    /// Looks at once.
    #[must_use]
    pub fn new(bell: Option<Bell>) -> Wake {
        let now = Instant::now();
        Wake { bell, mood: Mood::Awake, worked_at: now, pause: PAUSE_MIN, look_at: now }
    }

    /// Whether it is time to look.
    #[must_use]
    pub fn is_time(&self) -> bool {
        Instant::now() >= self.look_at
    }

    /// Whether the next look is the one that decides about sleeping: it must see everything.
    #[must_use]
    pub fn is_about_to_sleep(&self) -> bool {
        self.mood != Mood::Awake
    }

    /// Something will be due by then that no look has seen coming.
    pub fn no_later_than(&mut self, wait: Duration) {
        self.look_at = self.look_at.min(Instant::now() + wait);
    }

    /// The look found work; with `more` there is more than could be taken.
    pub fn worked(&mut self, more: bool) {
        self.get_up();
        let now = Instant::now();
        self.worked_at = now;
        self.pause = PAUSE_MIN;
        self.look_at = if more { now } else { now + PAUSE_MIN };
    }

    /// The look failed: the database is away. Everything may have been missed.
    pub fn failed(&mut self) {
        self.get_up();
        self.pause = (self.pause * 2).min(DEAF_PAUSE_MAX);
        self.look_at = Instant::now() + jittered(self.pause);
    }

    /// The look found nothing; `next_due` is when time alone brings work, asked for only before
    /// sleeping.
    pub async fn idled<E>(
        &mut self,
        next_due: impl Future<Output = Result<Option<Duration>, E>>,
    ) -> Result<(), E> {
        let now = Instant::now();
        match self.mood {
            Mood::Awake if now - self.worked_at < SLEEPY_AFTER => {
                self.pause = (self.pause * 3 / 2).min(PAUSE_MAX);
                self.look_at = now + jittered(self.pause);
            }
            Mood::Awake => {
                let locked = match &self.bell {
                    Some(bell) => bell.lock().await,
                    None => false,
                };
                if locked {
                    // What committed before the bell was held is seen by one more look.
                    self.mood = Mood::Locked;
                    self.look_at = Instant::now();
                } else {
                    self.pause = (self.pause * 3 / 2).min(DEAF_PAUSE_MAX);
                    self.look_at = now + jittered(self.pause);
                }
            }
            Mood::Locked | Mood::Asleep => {
                let due = next_due.await?.unwrap_or(SLEEP_MAX);
                self.mood = Mood::Asleep;
                self.look_at = Instant::now() + due.min(SLEEP_MAX);
            }
        }
        Ok(())
    }

    /// Waits until it is time to look, or the bell rings.
    pub async fn ready(&mut self) -> WokenBy {
        let time = tokio::time::sleep_until(self.look_at.into());
        let Some(bell) = &self.bell else {
            time.await;
            return WokenBy::Poll;
        };
        tokio::select! {
            () = time => WokenBy::Poll,
            () = bell.rung() => {
                // Also rung when the LISTEN session is new, and that holds no bell: whoever was
                // asleep has to take it again before sleeping on.
                self.get_up();
                self.look_at = Instant::now();
                WokenBy::Bell
            }
        }
    }

    fn get_up(&mut self) {
        if self.mood != Mood::Awake {
            self.mood = Mood::Awake;
            if let Some(bell) = &self.bell {
                bell.unlock();
            }
        }
    }
}

/// Up to a quarter longer, so that relays and sinks do not look in step.
fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(1.0 + fastrand::f64() / 4.0)
}
