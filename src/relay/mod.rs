//! The relay: it alone knows the order of the steps.
//!
//! The path of a message: `wake` says when to look, `fetch` what may start, `admit` puts on record
//! what must be before it starts, `route` says what to make of it, `deliver` makes one attempt, whose
//! `gate` knows how many may run, `decide` what its end means, `settle` records it. `work` walks a
//! sink through these, `own` holds the lease and works the sinks that `share` plans for this relay,
//! `restored` knows a copy of the database when it meets one, `cut` makes the files of CSV sinks,
//! `mailing` mails them, `schedule` writes the messages that fall due by the calendar, `keep` does the
//! chores, among them `watch`, which tells of troubles, and `prune`, which deletes
//! what is old.

mod admit;
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
mod mailing;
mod minute;
mod own;
mod prune;
mod ready;
mod restored;
pub mod route;
mod schedule;
mod settle;
mod share;
mod turn;
mod wake;
pub mod watch;
mod work;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::config::{Config, ScheduleConfig, SinkConfig, Way};
use crate::name::Name;
use crate::sink::{BuildError, Sink};
use crate::store::migrate::{self, SchemaState};
use crate::store::own::{Installation, RelayEntry, installation, sees_all};
use crate::store::routes::{Mirrored, mirror};
use crate::store::{Link, StoreError, Target};
use cut::Cutter;
use deliver::{Deliverer, Memory};
use gate::{Gate, Hosts};
use lease::Lease;
use mailing::{Left, Mailer};
use own::{Owner, Taken};
use restored::Guard;
use route::{Paused, Routes};
use schedule::Scheduler;
use turn::Turns;
use wake::{Bells, Wake};
use work::Worker;

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
         is worked. Correct [database] installation, or connect to the right database"
    )]
    Installation {
        /// As `migrate` stored it.
        found: String,
        /// As configured.
        wanted: String,
    },
    /// A sink cannot be built.
    #[error("sink {0}: {1}")]
    Sink(Name, #[source] BuildError),
}

/// Runs until `stop` is cancelled and everything in hand is settled; `now` ends it at once.
///
/// Waits for a database that is away, at the start and later, for as long as it takes.
///
/// # Errors
/// When it cannot start for a reason that waiting does not cure.
pub async fn run(
    config: Config,
    stop: CancellationToken,
    now: CancellationToken,
) -> Result<(), RunError> {
    let target = Target::new(&config.database);
    let found = tokio::select! {
        found = wait_for_schema(&target, &config) => found?,
        () = stop.cancelled() => return Ok(()),
    };
    let lease = config.relay.lease;
    let grace = config.relay.grace;
    let retention = config.retention.clone();
    let shared = Arc::new(Shared::build(config, &target, &found, &now)?);
    let entry = shared.entry(lease);
    let guard = Guard::new(Arc::clone(&shared.own), &entry);
    tokio::select! {
        looked = patiently(|| guard.look()) => looked?,
        () = stop.cancelled() => return Ok(()),
    }
    tokio::select! {
        mirrored = shared.mirror_routes(&entry.id) => mirrored?,
        () = stop.cancelled() => return Ok(()),
    }

    let installation = shared.installation.clone();
    let (link, paused) = (Arc::clone(&shared.keep), Arc::clone(&shared.paused));
    let chores = tokio::spawn(keep::keep(link, paused, installation, retention));
    let schedules = Scheduler::new(&target, shared.schedules.clone(), entry.id.clone());
    let schedules = tokio::spawn(schedules.run());
    let begin = Arc::clone(&shared);
    let begin = Box::new(move |taken| begin.begin(taken));
    let owner = Owner::new(Arc::clone(&shared.lease), entry, guard, begin);
    tokio::select! {
        () = owner.run(stop, grace) => {}
        () = now.cancelled() => warn!("stopping at once; what was in flight is repeated"),
    }
    chores.abort();
    schedules.abort();
    now.cancel();
    Ok(())
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
        if state != SchemaState::Current {
            return Ok(Err(state));
        }
        let link = Link::new(Arc::clone(target));
        sees_all(&link).await?;
        installation(&link).await.map(Ok)
    };
    let found = patiently(look).await?;
    let found = found.map_err(|state| {
        RunError::Schema(state.remedy(&config.database.schema).unwrap_or_default())
    })?;
    let wanted = config.database.installation.to_string();
    if found.name != wanted {
        return Err(RunError::Installation { found: found.name, wanted });
    }
    Ok(found)
}

/// What all sinks of this relay share.
struct Shared {
    sinks: BTreeMap<String, (Arc<SinkConfig>, Option<Arc<Sink>>)>,
    schedules: Vec<Arc<ScheduleConfig>>,
    routes: Arc<Routes>,
    paused: Arc<Paused>,
    installation: Name,
    doorbell: bool,
    bells: Bells,
    memory: Memory,
    hosts: Hosts,
    turns: Turns,
    lease: Arc<Lease>,
    lease_time: Duration,
    /// One connection each for the lease, for chores, for fetches, and for settlements: a slow one
    /// of these must not hold up the others.
    own: Arc<Link>,
    keep: Arc<Link>,
    fetch: Arc<Link>,
    settle: Arc<Link>,
    /// And one for payloads that are fetched alone.
    large: Arc<Link>,
    now: CancellationToken,
}

impl Shared {
    fn build(
        config: Config,
        target: &Arc<Target>,
        found: &Installation,
        now: &CancellationToken,
    ) -> Result<Shared, RunError> {
        let installation = config.database.installation;
        let mut sinks = BTreeMap::new();
        for (name, config) in config.sinks {
            let sink = Sink::build(&config).map_err(|error| RunError::Sink(name.clone(), error))?;
            sinks.insert(name.to_string(), (Arc::new(config), sink.map(Arc::new)));
        }
        let link = || Arc::new(Link::new(Arc::clone(target)));
        Ok(Shared {
            sinks,
            schedules: config.schedules.into_values().map(Arc::new).collect(),
            routes: Arc::new(Routes::new(config.routes)),
            paused: Arc::default(),
            installation,
            doorbell: found.doorbell,
            bells: Bells::start(Arc::clone(target), found.bell_class, now.clone()),
            memory: Memory::new(),
            hosts: Hosts::default(),
            turns: Turns::new(),
            lease: Arc::default(),
            lease_time: config.relay.lease,
            own: link(),
            keep: link(),
            fetch: link(),
            settle: link(),
            large: link(),
            now: now.clone(),
        })
    }

    fn entry(&self, lease: Duration) -> RelayEntry {
        let kind = |config: &SinkConfig| match &config.way {
            Way::Webhook(_) => "webhook".to_owned(),
            Way::Smtp(_) => "smtp".to_owned(),
            Way::Csv(csv) => csv.kind().to_owned(),
        };
        RelayEntry {
            id: random_id(),
            lease,
            host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            pid: i32::try_from(std::process::id()).unwrap_or_default(),
            routes_hash: self.routes.hash(),
            sinks: self.sinks.iter().map(|(n, (config, _))| (n.clone(), kind(config))).collect(),
            schedules: self.schedules.iter().map(|config| config.name.to_string()).collect(),
        }
    }

    /// Puts the config's routes in force, unless another config took their place since, and looks which
    /// are paused.
    async fn mirror_routes(&self, relay: &str) -> Result<(), RunError> {
        let kinds: Vec<(String, String)> = self.entry(Duration::from_secs(1)).sinks;
        let (hash, rows) = (self.routes.hash(), self.routes.rows());
        let mirrored = patiently(async || {
            crate::store::own::add_sinks(&self.own, &kinds).await?;
            mirror(&self.own, &hash, relay, &rows, false).await
        });
        match mirrored.await? {
            Mirrored::InForce => {}
            Mirrored::Applied => info!(routes = rows.len(), "routes are in force"),
            Mirrored::Superseded => warn!(
                "the routes of this config were replaced by another config's and stay so; if this \
                 config is the right one, run: outboxd route apply"
            ),
        }
        // Nothing of a paused route may start before that is known.
        patiently(async || keep::read_pauses(&self.keep, &self.paused).await).await.map(drop)?;
        Ok(())
    }

    /// Begins the work of a sink that was taken.
    fn begin(&self, taken: Taken) -> BoxFuture<'static, ()> {
        let Some((config, sink)) = self.sinks.get(&taken.sink) else {
            return async {}.boxed();
        };
        match sink {
            Some(sink) => self.work(Arc::clone(config), Arc::clone(sink), taken).boxed(),
            None => {
                let (made, made_until) = tokio::sync::watch::channel(None);
                let mailer = self.mailer(config, &taken, made_until);
                let left = Left {
                    sink: taken.sink,
                    relay: taken.relay,
                    epoch: taken.epoch,
                    link: Arc::clone(&self.settle),
                    lease_time: self.lease_time,
                    drain: taken.drain.clone(),
                    cut: taken.cut.clone(),
                };
                let cutter = Cutter {
                    config: Arc::clone(config),
                    epoch: taken.epoch,
                    link: Arc::clone(&self.settle),
                    lease: Arc::clone(&self.lease),
                    made_until: made,
                    drain: taken.drain,
                    cut: taken.cut,
                };
                async move {
                    tokio::join!(cutter.run(), async {
                        match mailer {
                            Some(mailer) => mailer.run().await,
                            None => left.hold().await,
                        }
                    });
                }
                .boxed()
            }
        }
    }

    /// What it takes to mail the files of a csv sink, where its config says so.
    fn mailer(
        &self,
        config: &Arc<SinkConfig>,
        taken: &Taken,
        made_until: tokio::sync::watch::Receiver<Option<Timestamp>>,
    ) -> Option<Mailer> {
        let Way::Csv(csv) = &config.way else { return None };
        let (smtp_config, smtp) = self.sinks.get(csv.mail.as_ref()?.sink.as_str())?;
        Some(Mailer {
            config: Arc::clone(config),
            through: (Arc::clone(smtp.as_ref()?), Arc::clone(smtp_config)),
            installation: self.installation.clone(),
            relay: taken.relay.clone(),
            epoch: taken.epoch,
            link: Arc::clone(&self.settle),
            lease: Arc::clone(&self.lease),
            lease_time: self.lease_time,
            made_until,
            drain: taken.drain.clone(),
            cut: taken.cut.clone(),
        })
    }

    fn work(
        &self,
        config: Arc<SinkConfig>,
        sink: Arc<Sink>,
        taken: Taken,
    ) -> impl Future<Output = ()> + use<> {
        let gate = Gate::new(self.hosts.of(&host(&config.way)));
        let (lanes, horizon) = self.routes.needs_of(&config);
        let deliverer = Arc::new(Deliverer {
            sink,
            config,
            gate,
            routes: Arc::clone(&self.routes),
            paused: Arc::clone(&self.paused),
            installation: self.installation.clone(),
            link: Arc::clone(&self.large),
            memory: self.memory.for_sink(),
            lease: Arc::clone(&self.lease),
            cut: taken.cut,
        });
        let (bells, doorbell) = (self.bells.clone(), self.doorbell);
        let (fetch, settle) = (Arc::clone(&self.fetch), Arc::clone(&self.settle));
        let (turns, lease) = (self.turns.clone(), self.lease_time);
        let give_up = self.now.clone();
        async move {
            let bell = if doorbell { Some(bells.take(taken.bell).await) } else { None };
            let (epoch, unclean, drain) = (taken.epoch, taken.unclean, taken.drain);
            let wake = Wake::new(bell);
            let worker = Worker {
                deliverer,
                epoch,
                unclean,
                wake,
                fetch,
                settle,
                turns,
                lease,
                lanes,
                horizon,
                drain,
                give_up,
            };
            worker.run().await;
        }
    }
}

/// Where a sink's connections go: the name its breaker is shared by.
fn host(way: &Way) -> String {
    match way {
        Way::Webhook(way) => {
            let port = way.url.port_or_known_default().unwrap_or_default();
            format!("{}:{port}", way.url.host_str().unwrap_or_default())
        }
        Way::Smtp(way) => format!("{}:{}", way.host, way.port),
        Way::Csv(_) => String::new(),
    }
}
