//! Own: the heartbeat that is the lease, and who works which sink.

mod drain;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::Notify;
use tokio::task::{JoinError, JoinHandle};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::lease::{Lease, since_boot};
use super::listening::Listening;
use super::restored::Guard;
use super::share::share;
use super::{Life, RunError};
use crate::metrics::{self, Metrics, TakenFrom};
use crate::store::own::{self, RelayEntry, SinkRow, TakenOver};
use crate::store::{Link, StoreError};

/// How often a relay looks at the sinks while another one drains a sink for it.
const EXPECTED_LOOK: Duration = Duration::from_millis(500);

/// A sink this relay works: its epoch, and how to stop the work.
struct Owned {
    epoch: i64,
    drain: CancellationToken,
    cut: CancellationToken,
    work: JoinHandle<()>,
    /// Whether it is being drained for another relay.
    giving: bool,
    /// Taken because the relay that it was meant for did not: not offered to that one again.
    keep: bool,
    /// Counts it as owned until it is dropped.
    counted: metrics::Owned,
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
    /// The relay that took it.
    pub relay: String,
    /// Whether another relay had it and fell silent without handing it over: what that one was
    /// sending may have arrived or not.
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
    listening: Arc<Listening>,
    metrics: Metrics,
    entry: RelayEntry,
    guard: Guard,
    begin: Box<Begin>,
    owned: BTreeMap<String, Owned>,
    /// The work of lost sinks, as long as it still records how its attempts ended. Until then the
    /// sink is not taken again: what it accepted would look as if it were still to be sent.
    ending: BTreeMap<String, JoinHandle<()>>,
    /// Told whenever the work of a sink has ended.
    ended: Arc<Notify>,
    /// Whether another relay has a sink that is meant for this one.
    expects: bool,
    /// When it was made.
    began: Instant,
    /// Since when sinks are seen without an owner, and with which epoch.
    free_since: BTreeMap<String, (i64, Instant)>,
}

impl Owner {
    /// An owner that is not entered yet and owns nothing.
    #[must_use]
    pub fn new(
        (lease, listening): (Arc<Lease>, Arc<Listening>),
        metrics: Metrics,
        entry: RelayEntry,
        guard: Guard,
        begin: Box<Begin>,
    ) -> Owner {
        Owner {
            link: Arc::clone(guard.link()),
            lease,
            listening,
            metrics,
            entry,
            guard,
            begin,
            owned: BTreeMap::new(),
            ending: BTreeMap::new(),
            ended: Arc::default(),
            expects: false,
            began: Instant::now(),
            free_since: BTreeMap::new(),
        }
    }

    /// Beats until told to stop or leave, then drains.
    ///
    /// # Errors
    /// When it must not work because relays of the other kind do.
    pub async fn run(mut self, life: &Life, grace: Duration) -> Result<(), RunError> {
        let beat = self.entry.lease / 3;
        let mut entered = false;
        while !life.is_ending() {
            life.signs.round(self.entry.lease);
            self.listening.tell();
            let result = if entered { self.beat(false).await } else { self.enter().await };
            match result {
                Ok(false) if !entered => {
                    return Err(RunError::Kind { captures: self.entry.captures });
                }
                Ok(alive) => {
                    entered = alive;
                    life.entered.cancel();
                }
                Err(error) => {
                    warn!(%error, retry_in = ?beat, "cannot renew the lease; trying again");
                    self.metrics.not_renewed();
                }
            }
            if !self.lease.holds() {
                if entered {
                    error!("the lease ran out; stopping all work until it is back");
                    self.metrics.lost_the_lease();
                }
                self.lose_all();
                entered = false;
                self.entry.id = super::random_id();
            }
            self.rest(beat.min(self.lease.left().max(beat / 4)), life).await;
        }
        self.drain(life, grace, beat).await;
        Ok(())
    }

    /// Waits for the next beat. A sink that is given away is handed over as soon as its work has
    /// ended, and one that another relay gives away is looked for: nobody works it in between.
    async fn rest(&mut self, pause: Duration, life: &Life) {
        let end = Instant::now() + pause;
        // The relay it replaces may only now be on its way out.
        let awaits = life.replaces && self.began.elapsed() < self.entry.lease;
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(end) => return,
                () = life.ending() => return,
                (sink, ended) = next_given(&mut self.owned) => self.give(&sink, ended).await,
                () = expected(life, self.expects || awaits) => {
                    if !self.lease.holds() {
                        return;
                    }
                    if let Err(error) = self.share_out().await {
                        self.expects = false;
                        warn!(%error, "cannot look at the sinks; trying again");
                    }
                }
            }
        }
    }

    /// Enters the relay under its id, which starts its lease; `false` where it must not work.
    async fn enter(&mut self) -> Result<bool, StoreError> {
        self.limited(self.guard.look()).await?;
        let asked_at = since_boot();
        if !self.limited(own::register(&self.link, &self.entry)).await? {
            return Ok(false);
        }
        self.lease.renew(asked_at, self.entry.lease);
        self.metrics.renewed(self.lease.left());
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
        let hears = self.listening.hears();
        let renewed =
            self.limited(own::heartbeat(&self.link, &self.entry.id, draining, hears)).await?;
        if !renewed {
            self.lease.end();
            return Ok(false);
        }
        self.lease.renew(asked_at, self.entry.lease);
        self.metrics.renewed(self.lease.left());
        self.limited(self.guard.look()).await?;
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

    /// Takes what is free and meant for this relay, gives up what is meant for another, and drops
    /// what another has already.
    async fn share_out(&mut self) -> Result<(), StoreError> {
        let rows = self.limited(own::sinks(&self.link)).await?;
        self.forget_ended();
        let share = share(&rows, &self.entry.id);
        self.expects = share.expects;
        for row in rows {
            let ours = row.owner.as_deref() == Some(self.entry.id.as_str());
            let neglected = self.is_neglected(&row);
            match self.owned.get(&row.name) {
                Some(owned) if ours && owned.epoch == row.epoch && owned.is_at_work() => {}
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
                None if ours || share.take.contains(&row.name) => self.take(row, false).await?,
                None if neglected => self.take(row, true).await?,
                None => {}
            }
        }
        self.give_up_one(&share.give);
        Ok(())
    }

    /// Whether a sink was without an owner for a whole lease though a relay is there that it is
    /// meant for. That one must have its reasons; somebody has to work the sink.
    fn is_neglected(&mut self, row: &SinkRow) -> bool {
        let known = self.entry.sinks.iter().any(|(name, _)| *name == row.name);
        if row.alive || !known {
            self.free_since.remove(&row.name);
            return false;
        }
        let (epoch, since) =
            self.free_since.entry(row.name.clone()).or_insert((row.epoch, Instant::now()));
        if *epoch != row.epoch {
            (*epoch, *since) = (row.epoch, Instant::now());
        }
        since.elapsed() >= self.entry.lease
    }

    /// Drains the first of these sinks for the relay it is meant for, unless one is drained already.
    fn give_up_one(&mut self, sinks: &[String]) {
        if self.owned.values().any(|owned| owned.giving) {
            return;
        }
        let may_go = |sink: &&String| self.owned.get(*sink).is_some_and(|owned| !owned.keep);
        if let Some(sink) = sinks.iter().find(may_go)
            && let Some(owned) = self.owned.get_mut(sink)
        {
            info!(sink, "above the fair share; draining it for another relay");
            owned.giving = true;
            owned.drain.cancel();
        }
    }

    /// Hands over a sink that was drained for another relay.
    async fn give(&mut self, sink: &str, ended: Result<(), JoinError>) {
        match ended {
            Ok(()) => self.hand_over(sink).await,
            Err(error) => {
                error!(sink, %error, "the work on this sink crashed, a fault inside outboxd");
                self.lose(sink);
            }
        }
    }

    async fn take(&mut self, row: SinkRow, keep: bool) -> Result<(), StoreError> {
        let call = own::take_over(&self.link, &self.entry.id, &row);
        let Some(TakenOver { epoch, former }) = self.limited(call).await? else {
            return Ok(());
        };
        let former = former.filter(|former| *former != self.entry.id);
        let (drain, cut) = (CancellationToken::new(), CancellationToken::new());
        let taken = Taken {
            sink: row.name.clone(),
            bell: row.bell,
            epoch,
            relay: self.entry.id.clone(),
            unclean: former.is_some(),
            drain: drain.clone(),
            cut: cut.clone(),
        };
        if taken.unclean {
            info!(sink = row.name, epoch, former, "took over from a silent relay");
        } else {
            info!(sink = row.name, epoch, "took");
        }
        if keep {
            warn!(
                sink = row.name,
                "the relay that this sink was meant for did not take it for a whole lease"
            );
        }
        let from = if taken.unclean { TakenFrom::Silent } else { TakenFrom::Nobody };
        let counted = self.metrics.taken(&row.name, from);
        let (work, ended) = ((self.begin)(taken), Arc::clone(&self.ended));
        let work = tokio::spawn(async move {
            work.await;
            ended.notify_one();
        });
        self.owned
            .insert(row.name, Owned { epoch, drain, cut, work, giving: false, keep, counted });
        Ok(())
    }

    /// Cuts open attempts short. Their settlements go on being written: `Delivered` stays true.
    fn lose(&mut self, sink: &str) {
        if let Some(owned) = self.owned.remove(sink) {
            owned.cut.cancel();
            drop(owned.counted);
            self.ending.insert(sink.to_owned(), owned.work);
        }
    }

    fn lose_all(&mut self) {
        self.expects = false;
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

    /// Gives back a sink whose work has ended.
    async fn hand_over(&mut self, sink: &str) {
        let Some(owned) = self.owned.remove(sink) else { return };
        let call = own::hand_over(&self.link, &self.entry.id, sink, owned.epoch);
        match self.limited(call).await {
            Ok(()) => info!(sink, "handed over"),
            Err(error) => warn!(sink, %error, "could not hand over"),
        }
    }
}

impl Owned {
    /// A sink that is given away may have been drained just now.
    fn is_at_work(&self) -> bool {
        self.giving || !self.work.is_finished()
    }
}

/// Waits for a sink that another relay gives away: one of this process says so, the others are looked at
/// where one is expected.
async fn expected(life: &Life, looks: bool) {
    tokio::select! {
        () = life.signs.handed_over() => {}
        () = tokio::time::sleep(EXPECTED_LOOK), if looks => {}
    }
}

/// The end of the work of a sink that is given away; waits for ever where there is none.
async fn next_given(owned: &mut BTreeMap<String, Owned>) -> (String, Result<(), JoinError>) {
    match owned.iter_mut().find(|(_, owned)| owned.giving) {
        Some((sink, owned)) => (sink.clone(), (&mut owned.work).await),
        None => std::future::pending().await,
    }
}
