//! Own: the heartbeat that is the lease, and who works which sink.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::lease::{Lease, since_boot};
use crate::store::own::{self, RelayEntry, SinkRow};
use crate::store::{Link, StoreError};

/// How often a drain looks whether work has ended: the news may come a moment before the end.
const DRAIN_LOOK: Duration = Duration::from_millis(500);

/// A sink this relay works: its epoch, and how to stop the work.
struct Owned {
    epoch: i64,
    drain: CancellationToken,
    cut: CancellationToken,
    work: JoinHandle<()>,
}

/// How a sink's work is begun: answers the work, which ends when it is drained or cut.
pub type Begin = dyn Fn(Taken) -> BoxFuture<'static, ()> + Send + Sync;

/// A sink that was just taken over.
pub struct Taken {
    /// Its name.
    pub sink: String,
    /// Its bell.
    pub bell: i32,
    /// The epoch it was taken with.
    pub epoch: i64,
    /// Whether the former owner fell silent instead of handing over.
    pub unclean: bool,
    /// Take no more and end.
    pub drain: CancellationToken,
    /// End at once.
    pub cut: CancellationToken,
}

/// Keeps the lease and the sinks of one relay.
pub struct Owner {
    link: Arc<Link>,
    lease: Arc<Lease>,
    entry: RelayEntry,
    begin: Box<Begin>,
    owned: BTreeMap<String, Owned>,
    /// The work of lost sinks, as long as it still records how its attempts ended. Until then the
    /// sink is not taken again: what it accepted would look as if it were still to be sent.
    ending: BTreeMap<String, JoinHandle<()>>,
    /// Told whenever the work of a sink has ended.
    ended: Arc<Notify>,
}

impl Owner {
    /// An owner that is not entered yet and owns nothing.
    #[must_use]
    pub fn new(link: Arc<Link>, lease: Arc<Lease>, entry: RelayEntry, begin: Box<Begin>) -> Owner {
        let (owned, ending, ended) = (BTreeMap::new(), BTreeMap::new(), Arc::default());
        Owner { link, lease, entry, begin, owned, ending, ended }
    }

    /// Beats until `stop`, then drains: sinks that finish within `grace` are handed over one by
    /// one; what is still open at its end is cut short, settled and handed over.
    pub async fn run(mut self, stop: CancellationToken, grace: Duration) {
        let beat = self.entry.lease / 3;
        let mut entered = false;
        while !stop.is_cancelled() {
            let result = if entered { self.beat(false).await } else { self.enter().await };
            match result {
                Ok(alive) => entered = alive,
                Err(error) => {
                    warn!(%error, retry_in = ?beat, "cannot renew the lease; trying again");
                }
            }
            if !self.lease.holds() {
                if entered {
                    error!("the lease ran out; stopping all work until it is back");
                }
                self.lose_all();
                entered = false;
                self.entry.id = super::random_id();
            }
            tokio::select! {
                () = tokio::time::sleep(beat.min(self.lease.left().max(beat / 4))) => {}
                () = stop.cancelled() => {}
            }
        }
        self.drain(grace, beat).await;
    }

    /// Enters the relay under its id, which starts its lease.
    async fn enter(&mut self) -> Result<bool, StoreError> {
        let asked_at = since_boot();
        self.limited(own::register(&self.link, &self.entry)).await?;
        self.lease.renew(asked_at, self.entry.lease);
        info!(relay = self.entry.id, "entered");
        // Entered it is, whatever happens next: to enter twice under one id is refused.
        if let Err(error) = self.share_out().await {
            warn!(%error, "cannot look at the sinks; trying again");
        }
        Ok(true)
    }

    /// Renews the lease and looks at the sinks; `false` if the lease had run out.
    async fn beat(&mut self, draining: bool) -> Result<bool, StoreError> {
        let asked_at = since_boot();
        let renewed = self.limited(own::heartbeat(&self.link, &self.entry.id, draining)).await?;
        if !renewed {
            self.lease.end();
            return Ok(false);
        }
        self.lease.renew(asked_at, self.entry.lease);
        if !draining {
            self.share_out().await?;
        }
        Ok(true)
    }

    /// No call may take longer than the lease has left; the connection that let one wait so long
    /// is given up, or the next call would wait behind it.
    async fn limited<T>(
        &self,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let limit = self.lease.left().clamp(self.entry.lease / 4, self.entry.lease);
        match tokio::time::timeout(limit, call).await {
            Ok(result) => result,
            Err(_) => {
                self.link.forget().await;
                Err(StoreError::silent("renew the lease", limit))
            }
        }
    }

    /// Takes every sink whose owner is gone, and drops those that another relay has now.
    async fn share_out(&mut self) -> Result<(), StoreError> {
        let names: Vec<String> = self.entry.sinks.iter().map(|(name, _)| name.clone()).collect();
        let rows = self.limited(own::sinks(&self.link, &names)).await?;
        self.forget_ended();
        for row in rows {
            let ours = row.owner.as_deref() == Some(self.entry.id.as_str());
            match self.owned.get(&row.name) {
                Some(owned) if ours && owned.epoch == row.epoch && !owned.work.is_finished() => {}
                Some(_) if ours => {
                    error!(
                        sink = row.name,
                        "the work on this sink ended by itself, a fault inside outboxd; taking it up anew"
                    );
                    self.lose(&row.name);
                }
                Some(_) => {
                    warn!(sink = row.name, "another relay has this sink now; stopping work on it");
                    self.lose(&row.name);
                }
                None if self.ending.contains_key(&row.name) => {}
                None if !row.alive || ours => self.take(row).await?,
                None => {}
            }
        }
        Ok(())
    }

    async fn take(&mut self, row: SinkRow) -> Result<(), StoreError> {
        let former = row.owner.clone();
        let Some(epoch) = self.limited(own::take_over(&self.link, &self.entry.id, &row)).await?
        else {
            return Ok(());
        };
        let unclean = former.as_ref().is_some_and(|former| *former != self.entry.id);
        match former.filter(|former| *former != self.entry.id) {
            Some(former) => info!(sink = row.name, epoch, former, "took over from a silent relay"),
            None => info!(sink = row.name, epoch, "took"),
        }
        let (drain, cut) = (CancellationToken::new(), CancellationToken::new());
        let taken = Taken {
            sink: row.name.clone(),
            bell: row.bell,
            epoch,
            unclean,
            drain: drain.clone(),
            cut: cut.clone(),
        };
        let (work, ended) = ((self.begin)(taken), Arc::clone(&self.ended));
        let work = tokio::spawn(async move {
            work.await;
            ended.notify_one();
        });
        self.owned.insert(row.name, Owned { epoch, drain, cut, work });
        Ok(())
    }

    /// Cuts open attempts short. Their settlements go on being written: `Delivered` stays true.
    fn lose(&mut self, sink: &str) {
        if let Some(owned) = self.owned.remove(sink) {
            owned.cut.cancel();
            self.ending.insert(sink.to_owned(), owned.work);
        }
    }

    fn lose_all(&mut self) {
        for sink in self.owned.keys().cloned().collect::<Vec<_>>() {
            self.lose(&sink);
        }
    }

    fn forget_ended(&mut self) {
        self.ending.retain(|_, work| !work.is_finished());
    }

    fn is_at_work(&mut self) -> bool {
        self.forget_ended();
        !self.owned.is_empty() || !self.ending.is_empty()
    }

    /// Stops taking, finishes, settles, hands over.
    async fn drain(mut self, grace: Duration, beat: Duration) {
        info!(sinks = self.owned.len(), ?grace, "draining");
        for owned in self.owned.values() {
            owned.drain.cancel();
        }
        let end = tokio::time::Instant::now() + grace;
        while self.is_at_work() && tokio::time::Instant::now() < end {
            if let Err(error) = self.beat(true).await {
                warn!(%error, "cannot renew the lease while draining");
            }
            if !self.lease.holds() {
                // Nothing is sent any more; what was accepted can still be recorded.
                self.lose_all();
            }
            let left = end.saturating_duration_since(tokio::time::Instant::now());
            let wait = beat.min(left).min(DRAIN_LOOK);
            let _ = tokio::time::timeout(wait, self.ended.notified()).await;
            self.hand_over_finished().await;
        }
        if self.is_at_work() {
            warn!(
                sinks = self.owned.len() + self.ending.len(),
                "the grace period is over; cutting open attempts short"
            );
            for owned in self.owned.values() {
                owned.cut.cancel();
            }
            let cut_off_limit = tokio::time::Instant::now() + super::CUT_LIMIT;
            while self.is_at_work() && tokio::time::Instant::now() < cut_off_limit {
                let wait = Duration::from_millis(100);
                let _ = tokio::time::timeout(wait, self.ended.notified()).await;
                self.hand_over_finished().await;
            }
        }
        self.lease.end();
        match self.limited(own::leave(&self.link, &self.entry.id)).await {
            Ok(()) => info!("left"),
            Err(error) => {
                warn!(%error, "could not leave; others take over when the lease has run out");
            }
        }
    }

    async fn hand_over_finished(&mut self) {
        let finished: Vec<(String, i64)> = self
            .owned
            .iter()
            .filter(|(_, owned)| owned.work.is_finished())
            .map(|(sink, owned)| (sink.clone(), owned.epoch))
            .collect();
        for (sink, epoch) in finished {
            self.owned.remove(&sink);
            let call = own::hand_over(&self.link, &self.entry.id, &sink, epoch);
            match self.limited(call).await {
                Ok(()) => info!(sink, "handed over"),
                Err(error) => warn!(sink, %error, "could not hand over"),
            }
        }
    }
}
