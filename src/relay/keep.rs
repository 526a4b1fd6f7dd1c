//! Keep: the chores that no single sink does. Every relay does them; each is bounded, and doing
//! one twice is harmless. `watch` and `prune`, beside this room, are two more.

use std::sync::Arc;
use std::time::Duration;

use tracing::{info, warn};

use super::prune::prune;
use super::route::Paused;
use super::watch::watch;
use crate::config::Retention;
use crate::metrics::Metrics;
use crate::name::Name;
use crate::store::inspect::pause::{RouteName, paused_routes, release_paused};
use crate::store::routes::{route_existing, sweep, unrouted};
use crate::store::{Link, StoreError, own};

/// How often what operators paused is looked at.
const PAUSES_EVERY: Duration = Duration::from_secs(1);
/// After how many looks at a resumed route everything that was put back is written, and how much is let
/// go on at a time.
const GO_ON_LOOKS: u32 = 3;
const RELEASE_PAGE: i64 = 1_000;
/// How often unrouted messages are looked at, and how many at a time.
const UNROUTED_EVERY: Duration = Duration::from_secs(2);
const UNROUTED_PAGE: i64 = 1_000;
/// How often a step of the completeness sweep is taken, and over how many ids.
const SWEEP_EVERY: Duration = Duration::from_secs(2);
const SWEEP_SPAN: i64 = 5_000;
/// How often the ledger's partitions are seen to.
const LEDGER_EVERY: Duration = Duration::from_secs(3600);

/// Does all chores until dropped.
pub async fn keep(
    link: Arc<Link>,
    paused: Arc<Paused>,
    installation: Name,
    retention: Retention,
    metrics: Metrics,
) {
    tokio::join!(
        look_at_pauses(Arc::clone(&link), paused),
        route_and_sweep(Arc::clone(&link), metrics.clone()),
        watch(Arc::clone(&link), installation, metrics.clone()),
        prune(link, retention, metrics),
    );
}

/// Keeps up with what operators pause, and lets go on what they resume: until this relay knew of it, it
/// went on putting rows back.
async fn look_at_pauses(link: Arc<Link>, paused: Arc<Paused>) {
    let mut look = tokio::time::interval(PAUSES_EVERY);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // Also at the looks after: what was put back last may not be written yet.
    let mut go_on: Vec<(RouteName, u32)> = Vec::new();
    loop {
        look.tick().await;
        let result = async {
            let resumed = read_pauses(&link, &paused).await?;
            go_on.extend(resumed.into_iter().map(|route| (route, GO_ON_LOOKS)));
            for (route, looks) in &mut go_on {
                while release_paused(&link, route, RELEASE_PAGE).await? > 0 {}
                *looks -= 1;
            }
            go_on.retain(|(_, looks)| *looks > 0);
            Ok::<(), StoreError>(())
        };
        if let Err(error) = result.await {
            warn!(%error, "cannot look which routes are paused; trying again");
        }
    }
}

/// Reads which routes are paused; answers those that go on.
///
/// # Errors
/// When the database cannot be asked.
pub async fn read_pauses(link: &Link, paused: &Paused) -> Result<Vec<RouteName>, StoreError> {
    let routes = paused_routes(link).await?.into_iter().map(|paused| paused.route);
    Ok(paused.set(routes.collect()))
}

async fn route_and_sweep(link: Arc<Link>, metrics: Metrics) {
    let mut chores = Chores { link, metrics, unrouted_after: 0, swept_to: 0 };
    let mut routes = tokio::time::interval(UNROUTED_EVERY);
    let mut sweeps = tokio::time::interval(SWEEP_EVERY);
    let mut ledger = tokio::time::interval(LEDGER_EVERY);
    for interval in [&mut routes, &mut sweeps, &mut ledger] {
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    }
    loop {
        let (chore, result) = tokio::select! {
            _ = routes.tick() => ("route waiting messages", chores.route_waiting().await),
            _ = sweeps.tick() => ("sweep", chores.sweep().await),
            _ = ledger.tick() => ("make ledger partitions", own::extend_ledger(&chores.link).await),
        };
        if let Err(error) = result {
            warn!(chore, %error, "a chore failed; trying again");
        }
    }
}

struct Chores {
    link: Arc<Link>,
    metrics: Metrics,
    /// Where the last page of unrouted messages ended.
    unrouted_after: i64,
    /// Where the last step of the sweep ended.
    swept_to: i64,
}

impl Chores {
    /// Routes unrouted messages for whose type a route has come; page by page, round and round, and
    /// without a pause while there are such messages: they have waited long enough.
    async fn route_waiting(&mut self) -> Result<(), StoreError> {
        loop {
            let page = unrouted(&self.link, self.unrouted_after, UNROUTED_PAGE).await?;
            self.unrouted_after = page.last().map_or(0, |(id, _)| *id);
            let ids: Vec<i64> =
                page.iter().filter(|(_, routed)| *routed).map(|(id, _)| *id).collect();
            if ids.is_empty() {
                return Ok(());
            }
            let routed = route_existing(&self.link, &ids).await?;
            info!(routed, "messages that waited for a route have one now");
        }
    }

    /// One step of the completeness sweep; from the end it begins again.
    async fn sweep(&mut self) -> Result<(), StoreError> {
        // Where rows are hidden the outbox looks idle, and every message without a delivery.
        own::sees_all(&self.link).await?;
        let (reached, found) = sweep(&self.link, self.swept_to, SWEEP_SPAN).await?;
        self.swept_to = reached.unwrap_or(0);
        self.metrics.swept(found);
        if found > 0 {
            warn!(
                found,
                "unseen messages: written past the routing trigger (disabled trigger, replica-mode \
                 load, logical apply); run: outboxd route unseen"
            );
        }
        Ok(())
    }
}
