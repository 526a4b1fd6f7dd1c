//! Prune: what is closed and old enough goes, in small steps with pauses between them. One relay at a
//! time does it, by its own config.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{info, warn};

use crate::config::Retention;
use crate::metrics::Metrics;
use crate::store::{Link, StoreError, prune as store};

/// Ids a step looks at; no more messages than this are deleted at once.
const SPAN: i32 = 2_000;
/// Between two steps at least; and as long as the last one took, so that pruning never takes more than
/// half of a connection's time.
const PAUSE: Duration = Duration::from_millis(100);
/// Between two rounds.
const REST: Duration = Duration::from_secs(60);
/// How often partitions, actions and the like are seen to.
const RECORDS_EVERY: Duration = Duration::from_secs(15 * 60);
/// Dedupe keys a step, and steps after each round: so their table is gone round at a flat price.
const DEDUPE_STEP: i64 = 5_000;
const DEDUPE_STEPS: usize = 10;
/// What operators did is kept for at least this long.
const ACTIONS_KEPT: Duration = Duration::from_secs(90 * 24 * 3600);
/// And runs of schedules, files and their mails: a year can be looked back on as a whole.
const CALENDAR_KEPT: Duration = Duration::from_secs(400 * 24 * 3600);

/// Prunes until dropped.
pub async fn prune(link: Arc<Link>, retention: Retention, metrics: Metrics) {
    let kinds = store::kinds(&retention);
    let mut pruner = Pruner { link, retention, metrics, kinds, dedupe_after: Default::default() };
    let mut records_due = Instant::now();
    loop {
        if let Err(error) = pruner.messages().await {
            warn!(%error, "old messages could not be pruned; trying again");
        }
        if let Err(error) = pruner.dedupe_keys().await {
            warn!(%error, "expired dedupe keys could not be pruned; trying again");
        }
        if records_due <= Instant::now() {
            match pruner.records().await {
                Ok(()) => records_due = Instant::now() + RECORDS_EVERY,
                Err(error) => warn!(%error, "old records could not be pruned; trying again"),
            }
        }
        tokio::time::sleep(REST).await;
    }
}

struct Pruner {
    link: Arc<Link>,
    retention: Retention,
    metrics: Metrics,
    kinds: String,
    /// Where the last step round the dedupe keys ended.
    dedupe_after: (String, String),
}

impl Pruner {
    /// One round over all messages that are old enough to be looked at.
    async fn messages(&mut self) -> Result<(), StoreError> {
        let (mut after, mut total) = (0, 0);
        loop {
            let begun = Instant::now();
            let (reached, pruned) =
                store::prune(&self.link, after, SPAN, self.retention.default, &self.kinds).await?;
            total += pruned;
            self.metrics.pruned(pruned);
            let Some(reached) = reached else { break };
            after = reached;
            tokio::time::sleep(PAUSE.max(begun.elapsed())).await;
        }
        if total > 0 {
            info!(messages = total, "messages past their retention are deleted");
        }
        Ok(())
    }

    /// A few steps round the dedupe keys.
    async fn dedupe_keys(&mut self) -> Result<(), StoreError> {
        for _ in 0..DEDUPE_STEPS {
            let reached = store::forget_dedupe(&self.link, &self.dedupe_after, DEDUPE_STEP).await?;
            self.dedupe_after = reached.clone().unwrap_or_default();
            if reached.is_none() {
                break;
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }

    /// Whatever else grows: partitions of the ledger, actions and the like.
    async fn records(&mut self) -> Result<(), StoreError> {
        let longest = self.retention.longest();
        while let Some(done) = store::drop_ledger(&self.link, longest).await? {
            info!(done, "a partition of the ledger speaks of no message any more");
            tokio::time::sleep(PAUSE).await;
        }
        store::forget(&self.link, longest.max(ACTIONS_KEPT)).await?;
        store::forget_calendar(&self.link, longest.max(CALENDAR_KEPT)).await?;
        Ok(())
    }
}
