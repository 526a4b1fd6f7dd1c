//! What all sinks of one relay share, and how the work of each is begun.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::bells::Bells;
use super::cut::Cutter;
use super::deliver::{Deliverer, Memory};
use super::gate::{Gate, Hosts};
use super::lease::Lease;
use super::listening::Listening;
use super::mailing::{Left, Mailer};
use super::own::Taken;
use super::pace::Paces;
use super::route::{Paused, Routes};
use super::turn::Turns;
use super::wake::Wake;
use super::work::Worker;
use super::{Life, Process, RunError, keep, patiently, random_id};
use crate::config::{Config, ScheduleConfig, SinkConfig, Way};
use crate::metrics::Metrics;
use crate::name::Name;
use crate::sink::Sink;
use crate::store::own::{Installation, RelayEntry, add_sinks};
use crate::store::routes::{Mirrored, mirror};
use crate::store::{Link, Target};

/// What all sinks of this relay share.
pub(super) struct Shared {
    sinks: BTreeMap<String, (Arc<SinkConfig>, Option<Arc<Sink>>)>,
    pub schedules: Vec<Arc<ScheduleConfig>>,
    config_hash: String,
    captures: bool,
    routes: Arc<Routes>,
    pub paused: Arc<Paused>,
    pub installation: Name,
    pub metrics: Metrics,
    /// None where the relay only polls.
    bells: Option<Bells>,
    pub listening: Arc<Listening>,
    memory: Memory,
    hosts: Arc<Hosts>,
    paces: Arc<Paces>,
    turns: Turns,
    pub lease: Arc<Lease>,
    lease_time: Duration,
    /// One connection each for the lease, for chores, for fetches, and for settlements: a slow one
    /// of these must not hold up the others.
    pub own: Arc<Link>,
    pub keep: Arc<Link>,
    fetch: Arc<Link>,
    settle: Arc<Link>,
    /// And one for payloads that are fetched alone.
    large: Arc<Link>,
    now: CancellationToken,
}

impl Shared {
    pub(super) fn build(
        config: Config,
        process: &Process,
        target: &Arc<Target>,
        found: &Installation,
        life: &Life,
    ) -> Result<Shared, RunError> {
        let installation = config.database.installation;
        let mut sinks = BTreeMap::new();
        for (name, mut config) in config.sinks {
            let sink = match &process.capture {
                None => Sink::build(&config),
                Some(directory) => Sink::build_capturing(&mut config, directory),
            };
            let sink = sink.map_err(|error| RunError::Sink(name.clone(), error))?;
            sinks.insert(name.to_string(), (Arc::new(config), sink.map(Arc::new)));
        }
        let link = || Arc::new(Link::new(Arc::clone(target)));
        let keep = link();
        let listens = found.doorbell && target.listens();
        let listening =
            Arc::new(Listening::new(listens, process.metrics.clone(), life.leave.clone()));
        let bells = listens.then(|| {
            let (keep, listening) = (Arc::clone(&keep), Arc::clone(&listening));
            Bells::start(keep, found.bell_class, listening, life.now.clone())
        });
        Ok(Shared {
            sinks,
            schedules: config.schedules.into_values().map(Arc::new).collect(),
            config_hash: config.hash,
            captures: process.capture.is_some(),
            routes: Arc::new(Routes::new(config.routes)),
            paused: Arc::default(),
            installation,
            metrics: process.metrics.clone(),
            bells,
            listening,
            memory: Memory::new(),
            hosts: Arc::clone(&process.hosts),
            paces: Arc::clone(&process.paces),
            turns: Turns::new(),
            lease: Arc::default(),
            lease_time: config.relay.lease,
            own: link(),
            keep,
            fetch: link(),
            settle: link(),
            large: link(),
            now: life.now.clone(),
        })
    }

    pub(super) fn entry(&self, lease: Duration) -> RelayEntry {
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
            config_hash: self.config_hash.clone(),
            captures: self.captures,
        }
    }

    /// Puts the config's routes in force, unless another config took their place since, and looks which
    /// are paused.
    pub(super) async fn mirror_routes(&self, relay: &str, replaces: bool) -> Result<(), RunError> {
        let kinds: Vec<(String, String)> = self.entry(Duration::from_secs(1)).sinks;
        let (hash, rows) = (self.routes.hash(), self.routes.rows());
        let mirrored = patiently(async || {
            add_sinks(&self.own, &kinds).await?;
            mirror(&self.own, &hash, relay, &rows, false).await
        });
        match mirrored.await? {
            Mirrored::InForce => {}
            Mirrored::Applied => info!(routes = rows.len(), "routes are in force"),
            Mirrored::Superseded if replaces => return Err(RunError::Superseded),
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
    pub(super) fn begin(&self, taken: Taken) -> BoxFuture<'static, ()> {
        let Some((config, sink)) = self.sinks.get(&taken.sink) else {
            return async {}.boxed();
        };
        match sink {
            Some(sink) => self.work(Arc::clone(config), Arc::clone(sink), taken).boxed(),
            None => {
                let (made, made_until) = tokio::sync::watch::channel(None);
                let mailer = self.mailer(config, &taken, made_until);
                let left = Left {
                    metrics: self.metrics.file(config.name.as_str()),
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
                    metrics: self.metrics.file(config.name.as_str()),
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
            metrics: self.metrics.file(config.name.as_str()),
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
        let pace = match &config.way {
            Way::Smtp(way) => way.sender_rate,
            Way::Webhook(_) | Way::Csv(_) => None,
        };
        let pace = pace.map(|rate| self.paces.of(&taken.sink, rate, taken.epoch, Instant::now()));
        let deliverer = Arc::new(Deliverer {
            sink,
            config,
            gate,
            pace,
            routes: Arc::clone(&self.routes),
            paused: Arc::clone(&self.paused),
            installation: self.installation.clone(),
            link: Arc::clone(&self.large),
            memory: self.memory.for_sink(),
            lease: Arc::clone(&self.lease),
            cut: taken.cut,
        });
        let bells = self.bells.clone();
        let (fetch, settle) = (Arc::clone(&self.fetch), Arc::clone(&self.settle));
        let (turns, lease) = (self.turns.clone(), self.lease_time);
        let give_up = self.now.clone();
        let metrics = self.metrics.sink(&taken.sink);
        async move {
            let bell = match bells {
                Some(bells) => Some(bells.take(taken.bell).await),
                None => None,
            };
            let (epoch, unclean, drain) = (taken.epoch, taken.unclean, taken.drain);
            let wake = Wake::new(bell);
            let worker = Worker {
                deliverer,
                epoch,
                unclean,
                wake,
                metrics,
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
        // Two servers are told apart by the sink itself; its trouble is that of both.
        Way::Smtp(way) => {
            let servers = std::iter::once(&way.server).chain(way.fallback.as_deref());
            let names = servers.map(|server| format!("{}:{}", server.host, server.port));
            names.collect::<Vec<_>>().join(" or ")
        }
        Way::Csv(_) => String::new(),
    }
}
