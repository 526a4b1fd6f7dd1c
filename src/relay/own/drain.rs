//! The end of a relay: takes no more, finishes, settles, hands over.

use std::time::Duration;

use tokio::time::Instant;
use tracing::{info, warn};

use super::Owner;
use crate::relay::{CUT_LIMIT, Life};
use crate::store::own;

/// How often a drain looks whether work has ended: the news may come a moment before the end.
const DRAIN_LOOK: Duration = Duration::from_millis(500);

impl Owner {
    /// Hands each sink over as soon as its work has ended. What is still open when `grace` is over is cut
    /// short, settled and handed over. A relay that only leaves its place to another in the same process
    /// is in no hurry: its grace begins when the process is told to stop.
    pub(super) async fn drain(mut self, life: &Life, grace: Duration, beat: Duration) {
        info!(sinks = self.owned.len(), ?grace, "draining");
        for owned in self.owned.values() {
            owned.drain.cancel();
        }
        let mut end = None;
        while self.is_at_work() && end.is_none_or(|end| Instant::now() < end) {
            if end.is_none() && life.stop.is_cancelled() {
                end = Some(Instant::now() + grace);
            }
            life.signs.round(self.entry.lease);
            if let Err(error) = self.beat(true).await {
                warn!(%error, "cannot renew the lease while draining");
            }
            if !self.lease.holds() {
                // Nothing is sent any more; what was accepted can still be recorded.
                self.lose_all();
            }
            let left = end.map_or(DRAIN_LOOK, |end| end.saturating_duration_since(Instant::now()));
            let wait = beat.min(left).min(DRAIN_LOOK);
            let _ = tokio::time::timeout(wait, self.ended.notified()).await;
            self.hand_over_finished(life).await;
        }
        if self.is_at_work() {
            self.cut_short(life).await;
        }
        self.lease.end();
        match self.limited(own::leave(&self.link, &self.entry.id)).await {
            Ok(()) => info!("left"),
            Err(error) => {
                warn!(%error, "could not leave; others take over when the lease has run out");
            }
        }
    }

    async fn cut_short(&mut self, life: &Life) {
        warn!(
            sinks = self.owned.len() + self.ending.len(),
            "the grace period is over; cutting open attempts short"
        );
        for owned in self.owned.values() {
            owned.cut.cancel();
        }
        let limit = Instant::now() + CUT_LIMIT;
        while self.is_at_work() && Instant::now() < limit {
            let wait = Duration::from_millis(100);
            let _ = tokio::time::timeout(wait, self.ended.notified()).await;
            self.hand_over_finished(life).await;
        }
    }

    async fn hand_over_finished(&mut self, life: &Life) {
        let finished: Vec<String> = self
            .owned
            .iter()
            .filter(|(_, owned)| owned.work.is_finished())
            .map(|(sink, _)| sink.clone())
            .collect();
        for sink in finished {
            self.hand_over(&sink).await;
            life.signs.hand_over();
        }
    }
}
