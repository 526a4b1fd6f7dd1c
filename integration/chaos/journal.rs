//! What the oracle knows from outside: what producers said and how their transactions ended, and what
//! the receivers saw and answered. One clock for all of it, the machine's, which is also PostgreSQL's.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;

/// Tells one message from all others; it stands in the payload.
pub type Token = u64;

/// How a producer's transaction ended, as the producer knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The commit was answered.
    Committed,
    /// It was rolled back, or broke before its COMMIT was sent.
    RolledBack,
    /// The reply to the COMMIT was lost. The database knows.
    Unknown,
}

/// A message as its producer said it.
#[derive(Clone, Debug)]
pub struct Said {
    /// Its type.
    pub kind: &'static str,
    /// Its key, if it has one.
    pub key: Option<String>,
    /// Its place among all that was said; drawn while the key's row is locked, so that the places of
    /// one key are in the order in which its writers took turns.
    pub place: u64,
    /// Not to arrive before.
    pub due_at: Option<Timestamp>,
    /// How its transaction ended.
    pub fate: Fate,
    /// When that was known.
    pub at: Timestamp,
}

/// What a receiver answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answered {
    /// That it took it, in full.
    Accepted,
    /// That it did not.
    Refused,
    /// The same, in the words that allow to come again where a message may arrive only once.
    Later,
    /// Nothing that says so: the sender must be in doubt.
    Nothing,
}

/// A message as it arrived.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// Where.
    pub sink: &'static str,
    /// Which.
    pub token: Token,
    /// When it was read in full.
    pub at: Timestamp,
    /// What came back.
    pub answered: Answered,
    /// Hash of the idempotency key.
    pub id: u64,
    /// Hash of the bytes, without what is fresh by design.
    pub body: u64,
}

/// Something a producer could not do.
#[derive(Clone, Debug)]
pub struct Trouble {
    /// When it began to try, and when it knew.
    pub from: Timestamp,
    pub until: Timestamp,
    /// What the database said.
    pub error: String,
}

/// Everything, in the order it became known. Clones are one journal.
#[derive(Clone, Default)]
pub struct Journal(Arc<Pages>);

#[derive(Default)]
struct Pages {
    next: AtomicU64,
    said: Mutex<BTreeMap<Token, Said>>,
    arrived: Mutex<Vec<Arrival>>,
    troubles: Mutex<Vec<Trouble>>,
    slowest: Mutex<Vec<(Timestamp, Duration)>>,
    taken: Mutex<Vec<(String, Timestamp)>>,
}

/// All that was noted, for the judge.
#[derive(Clone, Default)]
pub struct Noted {
    pub said: BTreeMap<Token, Said>,
    pub arrived: Vec<Arrival>,
    pub troubles: Vec<Trouble>,
    /// Commits of the steady producer: when, and how long each took.
    pub commits: Vec<(Timestamp, Duration)>,
    /// Sinks that changed hands, and when that was seen.
    pub taken: Vec<(String, Timestamp)>,
}

impl Journal {
    /// A number nobody else has: a token, or a place.
    pub fn draw(&self) -> u64 {
        self.0.next.fetch_add(1, Ordering::SeqCst)
    }

    /// Notes what a producer said.
    pub fn said(&self, token: Token, said: Said) {
        lock(&self.0.said).insert(token, said);
    }

    /// Notes an arrival.
    pub fn arrived(&self, arrival: Arrival) {
        lock(&self.0.arrived).push(arrival);
    }

    /// Notes what a producer could not do.
    pub fn trouble(&self, from: Timestamp, error: String) {
        lock(&self.0.troubles).push(Trouble { from, until: Timestamp::now(), error });
    }

    /// Notes how long a commit of the steady producer took.
    pub fn commit_took(&self, at: Timestamp, took: Duration) {
        lock(&self.0.slowest).push((at, took));
    }

    /// Notes that a sink changed hands.
    pub fn taken(&self, sink: &str) {
        lock(&self.0.taken).push((sink.to_owned(), Timestamp::now()));
    }

    /// How many arrivals there were.
    pub fn arrivals(&self) -> usize {
        lock(&self.0.arrived).len()
    }

    /// All of it.
    pub fn noted(&self) -> Noted {
        Noted {
            said: lock(&self.0.said).clone(),
            arrived: lock(&self.0.arrived).clone(),
            troubles: lock(&self.0.troubles).clone(),
            commits: lock(&self.0.slowest).clone(),
            taken: lock(&self.0.taken).clone(),
        }
    }
}

/// Long runs keep hashes, not bytes.
pub fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
