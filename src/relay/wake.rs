//! Wake: when to look. A hint only; every hint leads to the same look.
//!
//! A sink with work polls: at once after a full fetch, else after a pause that grows. After a
//! second without work its owner takes the sink's bell, looks once more, and sleeps: from then on
//! producers ring. Polling never stops altogether, so a lost ring costs seconds, not messages.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::store::Target;
use crate::store::listen::{Heard, Listener};

/// First pause after work, and the longest one while awake.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_millis(250);
/// Without work for so long, the owner sleeps.
const SLEEPY_AFTER: Duration = Duration::from_secs(1);
/// Longest sleep with a bell, and longest pause without one.
const SLEEP_MAX: Duration = Duration::from_secs(5);
const DEAF_PAUSE_MAX: Duration = Duration::from_secs(1);
/// How long a sink waits for its bell.
const LOCK_LIMIT: Duration = Duration::from_secs(1);
/// How often the LISTEN session is asked whether it still hears.
const HEARTBEAT_EVERY: Duration = Duration::from_secs(10);

/// What a sink asks of the LISTEN session.
enum Ask {
    /// Bells came or went.
    Listen,
    Lock(i32, oneshot::Sender<bool>),
    Unlock(i32),
}

/// The bells of all sinks of this relay, over one LISTEN session.
#[derive(Clone)]
pub struct Bells {
    ask: mpsc::Sender<Ask>,
    rings: Arc<Rings>,
}

/// The sinks to be woken, by their bells.
type Rings = Mutex<BTreeMap<i32, Arc<Notify>>>;

impl Bells {
    /// Starts the task that keeps the LISTEN session, until `stop`.
    #[must_use]
    pub fn start(target: Arc<Target>, bell_class: i32, stop: CancellationToken) -> Bells {
        let (ask, asked) = mpsc::channel(256);
        let bells = Bells { ask, rings: Arc::default() };
        let rings = Arc::clone(&bells.rings);
        tokio::spawn(async move {
            tokio::select! {
                () = keep_listening(&target, bell_class, asked, rings) => {}
                () = stop.cancelled() => {}
            }
        });
        bells
    }

    /// The bell of a sink this relay works from now on.
    pub async fn take(&self, bell: i32) -> Bell {
        let ring = Arc::new(Notify::new());
        self.rings.lock().unwrap_or_else(PoisonError::into_inner).insert(bell, Arc::clone(&ring));
        let _ = self.ask.send(Ask::Listen).await;
        Bell { bells: self.clone(), number: bell, ring }
    }
}

/// The bell of one sink.
pub struct Bell {
    bells: Bells,
    number: i32,
    ring: Arc<Notify>,
}

impl Bell {
    /// Takes the bell for sleeping; `false` if it cannot be had now.
    async fn lock(&self) -> bool {
        let (answer, answered) = oneshot::channel();
        let locked = async {
            self.bells.ask.send(Ask::Lock(self.number, answer)).await.is_ok()
                && answered.await.unwrap_or(false)
        };
        // While the session reconnects nobody answers; the sink polls then.
        let locked = tokio::time::timeout(LOCK_LIMIT, locked).await.unwrap_or(false);
        if !locked {
            // It may yet be granted, after we have stopped waiting.
            self.unlock();
        }
        locked
    }

    fn unlock(&self) {
        // Best effort: a bell that stays locked makes producers ring once too often.
        let _ = self.bells.ask.try_send(Ask::Unlock(self.number));
    }
}

impl Drop for Bell {
    fn drop(&mut self) {
        self.bells.rings.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.number);
        let _ = self.bells.ask.try_send(Ask::Unlock(self.number));
        let _ = self.bells.ask.try_send(Ask::Listen);
    }
}

/// Connects, listens, and connects again, for ever.
async fn keep_listening(
    target: &Arc<Target>,
    bell_class: i32,
    mut asked: mpsc::Receiver<Ask>,
    rings: Arc<Rings>,
) {
    let mut pause = PAUSE_MAX;
    let mut heard_before = false;
    loop {
        match Listener::connect(target, bell_class).await {
            Ok((listener, heard)) => {
                if heard_before {
                    info!("listening again");
                }
                heard_before = true;
                pause = PAUSE_MAX;
                listen(listener, heard, &mut asked, &rings).await;
                warn!("the LISTEN session ended; polling until it is back");
            }
            Err(error) => {
                warn!(%error, retry_in = ?pause, "cannot listen; polling meanwhile");
                // Sinks that ask meanwhile are told that there is no bell to be had.
                let until = tokio::time::sleep(pause);
                tokio::pin!(until);
                loop {
                    tokio::select! {
                        () = &mut until => break,
                        ask = asked.recv() => match ask {
                            Some(Ask::Lock(_, answer)) => drop(answer.send(false)),
                            Some(_) => {}
                            None => return,
                        }
                    }
                }
                pause = (pause * 2).min(SLEEP_MAX);
            }
        }
        ring_all(&rings);
    }
}

fn ring_all(rings: &Rings) {
    for ring in rings.lock().unwrap_or_else(PoisonError::into_inner).values() {
        ring.notify_one();
    }
}

/// Serves one LISTEN session to its end.
async fn listen(
    mut listener: Listener,
    mut heard: impl futures_util::Stream<Item = Heard> + Send + Unpin + 'static,
    asked: &mut mpsc::Receiver<Ask>,
    rings: &Arc<Rings>,
) {
    // The wire needs a task of its own, which never waits: a call on the session waits for it.
    let to_ring = Arc::clone(rings);
    let mut wire = tokio::spawn(async move {
        while let Some(Heard::Bell(bell)) = heard.next().await {
            let rings = to_ring.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(ring) = rings.get(&bell) {
                ring.notify_one();
            }
        }
    });
    let wanted = |rings: &Rings| -> BTreeSet<i32> {
        rings.lock().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
    };
    let mut heartbeat = tokio::time::interval(HEARTBEAT_EVERY);
    let mut result = listener.listen(&wanted(rings)).await;
    // Whatever was missed while deaf is found by a look now.
    ring_all(rings);
    while result.is_ok() {
        result = tokio::select! {
            _ = &mut wire => break,
            ask = asked.recv() => match ask {
                Some(Ask::Listen) => listener.listen(&wanted(rings)).await,
                Some(Ask::Lock(bell, answer)) => listener.lock_bell(bell).await.map(|held| {
                    let _ = answer.send(held);
                }),
                Some(Ask::Unlock(bell)) => listener.unlock_bell(bell).await,
                None => break,
            },
            _ = heartbeat.tick() => listener.heartbeat().await,
        };
    }
    if let Err(error) = result {
        warn!(%error, "the LISTEN session does not answer");
    }
    wire.abort();
}

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
    pub async fn ready(&mut self) {
        let time = tokio::time::sleep_until(self.look_at.into());
        let Some(bell) = &self.bell else { return time.await };
        tokio::select! {
            () = time => {}
            () = bell.ring.notified() => {
                // Also rung when the LISTEN session is new, and that holds no bell: whoever was
                // asleep has to take it again before sleeping on.
                self.get_up();
                self.look_at = Instant::now();
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
