//! The bells of a relay: the LISTEN session that hears them and holds those of sinks that sleep.
//!
//! A session is believed only after it has heard a call of another connection's: a pooler in transaction
//! mode takes a LISTEN like any statement and hears nothing. Then nothing is locked, and sinks poll.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::listening::{Hearing, Listening};
use crate::store::listen::{DEAF, Heard, Listener, echoes};
use crate::store::{Link, StoreError};

/// Pauses between attempts to connect.
const PAUSE_MIN: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// How long a sink waits for its bell.
const LOCK_LIMIT: Duration = Duration::from_secs(1);
/// How often the LISTEN session is asked whether it still hears, and how often it is called from another
/// connection: that one costs producers' NOTIFY a moment.
const HEARTBEAT_EVERY: Duration = Duration::from_secs(10);
const TEST_EVERY: Duration = Duration::from_mins(1);
/// How long after a session that heard nothing the next one is tried.
const DEAF_RETRY: Duration = Duration::from_mins(1);
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
    /// Starts the task that keeps the LISTEN session, until `stop`. `link` is another connection, which
    /// calls the session to see whether it hears.
    #[must_use]
    pub fn start(
        link: Arc<Link>,
        bell_class: i32,
        listening: Arc<Listening>,
        stop: CancellationToken,
    ) -> Bells {
        let (ask, asked) = mpsc::channel(256);
        let bells = Bells { ask, rings: Arc::default() };
        let rings = Arc::clone(&bells.rings);
        let ears = Ears { link, bell_class, asked, rings, listening };
        tokio::spawn(async move {
            tokio::select! {
                () = ears.keep_listening() => {}
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
    /// Waits until it rings, or until all ring because what was missed is to be looked for.
    pub(super) async fn rung(&self) {
        self.ring.notified().await;
    }

    /// Takes the bell for sleeping; `false` if it cannot be had now.
    pub(super) async fn lock(&self) -> bool {
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

    pub(super) fn unlock(&self) {
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

/// The LISTEN session and what it needs; one task's own.
struct Ears {
    link: Arc<Link>,
    bell_class: i32,
    asked: mpsc::Receiver<Ask>,
    rings: Arc<Rings>,
    listening: Arc<Listening>,
}

impl Ears {
    /// Connects, listens, and connects again, for ever.
    async fn keep_listening(mut self) {
        let mut pause = PAUSE_MIN;
        let (mut heard_before, mut told_deaf) = (false, false);
        loop {
            let link = Arc::clone(&self.link);
            let connect = Box::pin(Listener::connect(link.target(), self.bell_class));
            let Some(connected) = self.refusing(connect).await else { return };
            let hearing = match connected {
                Ok((listener, heard)) => {
                    // What takes this relay's place in the process has a session of its own, and says
                    // of that how it hears.
                    match self.listen(listener, heard, heard_before).await {
                        Some(hearing) => hearing,
                        None => return,
                    }
                }
                Err(error) => {
                    warn!(%error, retry_in = ?pause, "cannot listen; polling meanwhile");
                    Hearing::Away
                }
            };
            if self.listening.now() == Hearing::Hears {
                (heard_before, told_deaf, pause) = (true, false, PAUSE_MIN);
            }
            self.listening.note(hearing);
            let wait = if hearing == Hearing::Deaf {
                if !std::mem::replace(&mut told_deaf, true) {
                    warn!("listen: {DEAF}");
                }
                DEAF_RETRY
            } else {
                pause
            };
            pause = (pause * 2).min(PAUSE_MAX);
            ring_all(&self.rings);
            if self.refusing(tokio::time::sleep(wait)).await.is_none() {
                return;
            }
        }
    }

    /// Waits for this; sinks that ask meanwhile are told that there is no bell to be had. None once
    /// nobody can ask any more.
    async fn refusing<T>(&mut self, call: impl Future<Output = T>) -> Option<T> {
        tokio::pin!(call);
        loop {
            tokio::select! {
                answer = &mut call => return Some(answer),
                ask = self.asked.recv() => match ask {
                    Some(Ask::Lock(_, answer)) => drop(answer.send(false)),
                    Some(_) => {}
                    None => return None,
                }
            }
        }
    }

    /// Serves one LISTEN session to its end; answers what is to be noted then, none once nobody can ask
    /// any more.
    async fn listen(
        &mut self,
        mut listener: Listener,
        mut heard: impl futures_util::Stream<Item = Heard> + Send + Unpin + 'static,
        again: bool,
    ) -> Option<Hearing> {
        // The wire needs a task of its own, which never waits: a call on the session waits for it.
        let (to_ring, echo) = (Arc::clone(&self.rings), Arc::new(Notify::new()));
        let called = Arc::clone(&echo);
        let wire = AbortOnDrop(tokio::spawn(async move {
            loop {
                match heard.next().await {
                    Some(Heard::Bell(bell)) => {
                        let rings = to_ring.lock().unwrap_or_else(PoisonError::into_inner);
                        if let Some(ring) = rings.get(&bell) {
                            ring.notify_one();
                        }
                    }
                    Some(Heard::Echo) => called.notify_one(),
                    Some(Heard::End) | None => return,
                }
            }
        }));
        // Before anything of worth hangs on it: through a pooler a bell that is locked stays locked, in
        // a connection that is lent to others.
        let link = Arc::clone(&self.link);
        let test = async {
            let channel = listener.listen_for_echo().await?;
            Ok::<_, StoreError>((echoes(&link, &channel, &echo).await?, channel))
        };
        match self.refusing(test).await {
            Some(Ok((true, channel))) => {
                if again || self.listening.now() == Hearing::Deaf {
                    info!("listening again");
                }
                self.listening.note(Hearing::Hears);
                if self.serve(listener, wire, &channel, &echo).await.is_break() {
                    return None;
                }
                warn!("the LISTEN session ended; polling until it is back");
                Some(Hearing::Away)
            }
            Some(Ok((false, _))) => {
                listener.leave().await;
                Some(Hearing::Deaf)
            }
            Some(Err(error)) => {
                warn!(%error, "the LISTEN session cannot be tested; polling meanwhile");
                Some(Hearing::Away)
            }
            None => None,
        }
    }

    /// Serves a session that hears; breaks off once nobody can ask any more.
    async fn serve(
        &mut self,
        mut listener: Listener,
        mut wire: AbortOnDrop,
        channel: &str,
        echo: &Arc<Notify>,
    ) -> ControlFlow<()> {
        let mut heartbeat = tokio::time::interval(HEARTBEAT_EVERY);
        let mut test = tokio::time::interval_at(Instant::now() + TEST_EVERY, TEST_EVERY);
        let (mut tested, mut made) = (None, self.link.connections());
        let mut result = listener.listen(&wanted(&self.rings)).await;
        // Whatever was missed while deaf is found by a look now.
        ring_all(&self.rings);
        while result.is_ok() {
            result = tokio::select! {
                _ = &mut wire.0 => break,
                ask = self.asked.recv() => match ask {
                    Some(Ask::Listen) => listener.listen(&wanted(&self.rings)).await,
                    Some(Ask::Lock(bell, answer)) => listener.lock_bell(bell).await.map(|held| {
                        let _ = answer.send(held);
                    }),
                    Some(Ask::Unlock(bell)) => listener.unlock_bell(bell).await,
                    None => return ControlFlow::Break(()),
                },
                _ = heartbeat.tick() => {
                    // A connection made anew may lead to another server than this session.
                    let now = self.link.connections();
                    if std::mem::replace(&mut made, now) != now {
                        test.reset_immediately();
                    }
                    listener.heartbeat().await
                }
                _ = test.tick(), if tested.is_none() => {
                    let (link, channel) = (Arc::clone(&self.link), channel.to_owned());
                    let echo = Arc::clone(echo);
                    let call = async move { echoes(&link, &channel, &echo).await };
                    tested = Some(AbortOnDrop(tokio::spawn(call)));
                    Ok(())
                }
                heard = end_of(&mut tested) => {
                    tested = None;
                    if heard == Some(false) {
                        warn!("the LISTEN session no longer hears; listening anew");
                        break;
                    }
                    Ok(())
                }
            };
        }
        if let Err(error) = result {
            warn!(%error, "the LISTEN session does not answer");
        }
        ControlFlow::Continue(())
    }
}

fn ring_all(rings: &Rings) {
    for ring in rings.lock().unwrap_or_else(PoisonError::into_inner).values() {
        ring.notify_one();
    }
}

fn wanted(rings: &Rings) -> BTreeSet<i32> {
    rings.lock().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
}

/// Whether a test that runs was heard; none where it could not be made. Waits for ever where none runs.
async fn end_of(test: &mut Option<AbortOnDrop<Result<bool, StoreError>>>) -> Option<bool> {
    match test {
        Some(test) => (&mut test.0).await.ok().and_then(Result::ok),
        None => std::future::pending().await,
    }
}

/// A task that goes with what it is for.
struct AbortOnDrop<T = ()>(JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
