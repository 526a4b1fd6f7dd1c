//! The relay: it alone knows the order of the steps.
//!
//! The path of a message: `wake` says when to look, told by the `bells` where those are heard, `fetch` what may start, `admit` puts on record
//! what must be before it starts, `route` says what to make of it, `deliver` makes one attempt, whose
//! `gate` knows how many may run, and whose `pace` how many of one sender, `decide` what its end means, `settle` records it. `work` walks a
//! sink through these, `own` holds the lease and works the sinks that `share` plans for this relay,
//! `restored` knows a copy of the database when it meets one, `reload` puts a relay with another
//! config in its place, `cut` makes the files of CSV sinks,
//! `mailing` mails them, `schedule` writes the messages that fall due by the calendar, `keep` does the
//! chores, among them `watch`, which tells of troubles, and `prune`, which deletes
//! what is old. `admin` answers for all of it, over what `process` keeps from one config to the next.

pub mod admin;
mod admit;
mod bells;
mod breaker;
mod cut;
mod decide;
mod deliver;
mod fetch;
mod floor;
mod gate;
mod hand;
mod keep;
mod lease;
pub mod lines;
pub mod listening;
mod mailing;
mod minute;
mod own;
mod pace;
mod ping;
pub mod process;
mod prune;
mod ready;
pub mod reload;
mod restored;
pub mod route;
mod schedule;
mod settle;
mod share;
mod shared;
pub mod signs;
mod turn;
mod wake;
pub mod watch;
mod work;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::config::Config;
use crate::name::Name;
use crate::sink::BuildError;
use crate::sink::ping::Monitor;
use crate::store::migrate::{self, SchemaState};
use crate::store::own::{Installation, installation, sees_all, unsent};
use crate::store::{Link, StoreError, Target};
use own::Owner;
pub use process::Process;
use restored::Guard;
use schedule::Scheduler;
use shared::Shared;
use signs::Signs;

/// How long cut attempts may take to be settled once the grace period is over.
const CUT_LIMIT: Duration = Duration::from_secs(5);

/// Why the relay did not start. Once it runs, it ends only when told to.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The database refuses, in a way that waiting does not cure.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// The schema does not fit this binary; the remedy is in the text.
    #[error("{0}")]
    Schema(String),
    /// The config belongs to another installation.
    #[error(
        "this database belongs to installation \"{found}\", the config says \"{wanted}\"; nothing \
         is worked. {}",
        if *unsent {
            "Nothing was sent from it yet: run outboxd migrate to give it the config's name"
        } else {
            "Correct [database] installation, or connect to the right database"
        }
    )]
    Installation {
        /// As `migrate` stored it.
        found: String,
        /// As configured.
        wanted: String,
        /// Whether nothing was ever sent from here.
        unsent: bool,
    },
    /// A sink cannot be built.
    #[error("sink {0}: {1}")]
    Sink(Name, #[source] BuildError),
    /// The client for `ping_url` cannot be built.
    #[error("[relay] ping_url: {0}")]
    Ping(#[source] BuildError),
    /// A reload whose routes were in force before and were replaced since.
    #[error(
        "the routes of this config were replaced by another config's; if this config is the right one, \
         run: outboxd route apply, then reload again"
    )]
    Superseded,
    /// Relays of the other kind are in the way: what captures and what sends never share an outbox.
    #[error("{}", if *captures {
        "messages were sent from this database, so nothing is captured here: `run --capture` is for a \
         database of its own, which no relay ever sent from; drop and create your development database, \
         or name another one in [database] url"
    } else {
        "a relay that captures (run --capture) is at work on this database; stop it first, or name \
         another database in [database] url"
    })]
    Kind {
        /// Whether the relay that was refused captures.
        captures: bool,
    },
}

/// What a relay is told while it runs, and tells: tokens, each cancelled once, and signs of life.
#[derive(Clone, Debug, Default)]
pub struct Life {
    /// Drain: take no more, finish within the grace period, settle, hand over, end.
    pub stop: CancellationToken,
    /// The same without haste: another relay of this process takes its place.
    pub leave: CancellationToken,
    /// End at once.
    pub now: CancellationToken,
    /// The relay's word: it has entered, its routes are in force, it works.
    pub entered: CancellationToken,
    /// What it shows to those who watch the process.
    pub signs: Arc<Signs>,
    /// Whether it is to take another relay's place: then it does so wholly or not at all.
    pub replaces: bool,
    decided: Arc<OnceLock<Decided>>,
}

/// What a relay that is to take another's place came to, once and for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decided {
    /// It puts its routes in force.
    Commits,
    /// A later config is to be put in place instead.
    Withdrawn,
}

impl Life {
    /// Goes past the point of no return; `false` where it was withdrawn before.
    fn commit(&self) -> bool {
        *self.decided.get_or_init(|| Decided::Commits) == Decided::Commits
    }

    /// Has it give way to a later config; `false` where it is past the point of no return.
    fn withdraw(&self) -> bool {
        *self.decided.get_or_init(|| Decided::Withdrawn) == Decided::Withdrawn
    }

    /// Whether the relay was told to stop or leave.
    #[must_use]
    pub fn is_ending(&self) -> bool {
        self.stop.is_cancelled() || self.leave.is_cancelled()
    }

    /// Waits until the relay is told to stop or leave.
    pub async fn ending(&self) {
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = self.leave.cancelled() => {}
        }
    }
}

/// Runs until told to stop and everything in hand is settled.
///
/// Waits for a database that is away, at the start and later, for as long as it takes.
///
/// # Errors
/// When it cannot start for a reason that waiting does not cure, or must not go on.
pub async fn run(config: Config, process: Arc<Process>, life: Life) -> Result<(), RunError> {
    let target = Target::counted(&config.database, Arc::clone(&process.tally));
    let names = process::names(&config);
    if !life.replaces {
        process.stands_for(&target, &names);
    }
    let found = tokio::select! {
        found = wait_for_schema(&target, &config) => found?,
        () = life.ending() => return Ok(()),
    };
    let lease = config.relay.lease;
    let grace = config.relay.grace;
    let retention = config.retention.clone();
    // What only pretends to send must not vouch for what sends.
    let ping = config.relay.ping.as_ref().filter(|_| process.capture.is_none());
    let monitor = ping.map(|ping| Ok((Monitor::build(ping)?, ping.every)));
    let monitor = monitor.transpose().map_err(RunError::Ping)?;
    let shared = Arc::new(Shared::build(config, &process, &target, &found, &life)?);
    let entry = shared.entry(lease);
    let guard = Guard::new(Arc::clone(&shared.own), &entry);
    tokio::select! {
        looked = patiently(|| guard.look()) => looked?,
        () = life.ending() => return Ok(()),
    }
    if !life.commit() {
        return Ok(());
    }
    tokio::select! {
        mirrored = shared.mirror_routes(&entry.id, life.replaces) => mirrored?,
        () = life.ending() => return Ok(()),
    }
    process.stands_for(&target, &names);

    let installation = shared.installation.clone();
    let (link, paused) = (Arc::clone(&shared.keep), Arc::clone(&shared.paused));
    let chores = keep::keep(link, paused, installation, retention, shared.metrics.clone());
    let schedules =
        Scheduler::new(&target, shared.schedules.clone(), entry.id.clone(), shared.metrics.clone());
    let begin = Arc::clone(&shared);
    let begin = Box::new(move |taken| begin.begin(taken));
    let (lease, listening) = (Arc::clone(&shared.lease), Arc::clone(&shared.listening));
    let owner = Owner::new((lease, listening), shared.metrics.clone(), entry, guard, begin);
    let told = life.clone();
    let ping = async move {
        if let Some((monitor, every)) = monitor {
            ping::ping(monitor, every, process, told).await;
        }
    };
    // These end as soon as the relay is to go: what replaces it has other rules. And they begin once it has
    // entered: what they let go on, its former has no rules for.
    let entered = life.entered.clone();
    let besides = tokio::spawn(until_ending(life.clone(), async move {
        entered.cancelled().await;
        tokio::join!(chores, schedules.run(), ping);
    }));
    let ended = tokio::select! {
        ended = owner.run(&life, grace) => ended,
        () = life.now.cancelled() => {
            warn!("stopping at once; what was in flight is repeated");
            Ok(())
        }
    };
    besides.abort();
    life.now.cancel();
    ended
}

async fn until_ending(life: Life, work: impl Future<Output = ()>) {
    tokio::select! {
        () = work => {}
        () = life.ending() => {}
    }
}

/// An id that no other relay ever had.
fn random_id() -> String {
    format!("{:016x}", fastrand::u64(..))
}

/// Asks the database until it answers, for as long as waiting can help.
async fn patiently<T, F>(ask: impl FnMut() -> F) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    ask.retry(
        ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(200))
            .with_max_delay(Duration::from_secs(10))
            .with_jitter()
            .without_max_times(),
    )
    .when(|error: &StoreError| !error.is_final())
    .notify(|error, pause| warn!(%error, retry_in = ?pause, "waiting for PostgreSQL"))
    .await
}

/// Waits until the database answers, then looks whether this binary and config may work it.
async fn wait_for_schema(target: &Arc<Target>, config: &Config) -> Result<Installation, RunError> {
    let look = || async {
        let state = migrate::state(target).await?;
        match state.sound(&config.database.schema) {
            Some(words) if state != SchemaState::Current => info!("{words}"),
            Some(_) => {}
            None => return Ok(Err(state)),
        }
        let link = Link::new(Arc::clone(target));
        sees_all(&link).await?;
        let found = installation(&link).await?;
        let other = found.name != config.database.installation.as_str();
        Ok(Ok((found, other && unsent(&link).await?)))
    };
    let found = patiently(look).await?;
    let (found, unsent) = found.map_err(|state| {
        RunError::Schema(state.remedy(&config.database.schema).unwrap_or_default())
    })?;
    let wanted = config.database.installation.to_string();
    if found.name != wanted {
        return Err(RunError::Installation { found: found.name, wanted, unsent });
    }
    Ok(found)
}
