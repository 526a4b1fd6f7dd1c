//! Working a sink: wake, fetch, admit, deliver, settle, over and over, until told to stop.

mod start;
mod tell;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use super::admit::Admission;
use super::deliver::Deliverer;
use super::fetch;
use super::hand::Hand;
use super::minute::Minute;
use super::ready::Ready;
use super::settle::{Decided, Settler, Written, report};
use super::turn::{Turn, Turns};
use super::wake::Wake;
use crate::delivery::Settlement;
use crate::metrics::{AttemptEnd, SinkMetrics};
use crate::policy::Lane;
use crate::store::flow::Flow;
use crate::store::work::next_due;
use crate::store::{Link, StoreError};

/// How often the flow row is brought up to date, if anything changed.
const FLOW_EVERY: Duration = Duration::from_secs(1);
/// How often it is written all the same: "status" takes an older one for a silent owner's.
const FLOW_AT_LEAST: Duration = Duration::from_secs(30);
/// A fetch for few free slots waits so long for more of them.
const FEW_SLOTS_PAUSE: Duration = Duration::from_millis(3);
/// How long what was fetched ahead of free slots may wait for one.
const AHEAD_LIMIT: Duration = Duration::from_secs(1);
/// Pause before what a former owner was sending is settled again after a failure.
const FORMER_PAUSE: Duration = Duration::from_secs(1);

/// What it takes to work one sink.
pub struct Worker {
    /// How attempts are made.
    pub deliverer: Arc<Deliverer>,
    /// The epoch this relay took the sink with.
    pub epoch: i64,
    /// Whether the former owner fell silent.
    pub unclean: bool,
    /// When to look.
    pub wake: Wake,
    /// What it is counted in.
    pub metrics: SinkMetrics,
    /// For fetches, limits and intents.
    pub fetch: Arc<Link>,
    /// For settlements.
    pub settle: Arc<Link>,
    /// Gives suspects their turns, over all sinks of the relay.
    pub turns: Turns,
    /// The relay's lease.
    pub lease: Duration,
    /// The lanes that the config's routes to this sink use.
    pub lanes: Vec<Lane>,
    /// The longest retry horizon of the sink's routes.
    pub horizon: Duration,
    /// Take no more, finish what is open, and end.
    pub drain: CancellationToken,
    /// Stop writing settlements: the process must end.
    pub give_up: CancellationToken,
}

/// The state of a sink while it is worked.
struct Desk {
    hand: Hand,
    admission: Admission,
    flight: Flight,
    fetched_at: Instant,
    /// Whether the gate let nothing begin when it was last asked.
    is_shut: bool,
    /// Whether the second server of a mail sink was in use when it was last told.
    on_second: bool,
    gone: i64,
    shown: Option<(Flow, Instant)>,
    decided: mpsc::Sender<Decided>,
    written: mpsc::Receiver<Vec<Written>>,
}

/// What has been fetched and is not known to be recorded.
#[derive(Default)]
struct Flight {
    attempts: JoinSet<(Decided, Duration)>,
    /// Fetched, and waiting for a slot or for its admission. More than there are slots only for a sink
    /// that is so quick that a fetch for its free slots alone would take longer than its attempts.
    ready: Ready,
    /// Settlements handed to the settler and not known to be committed.
    unsettled: usize,
    /// Of the suspects, which start one at a time.
    turn: Turn,
    minute: Minute,
}

/// An attempt's end as its task gives it.
type End = Result<(Decided, Duration), JoinError>;

impl Worker {
    fn sink(&self) -> &str {
        self.deliverer.config.name.as_str()
    }

    /// Works until drained, or cut: then open attempts end at once and are settled as what the
    /// sink knows of them. Answers when all that was decided is written.
    pub async fn run(mut self) {
        let sink = self.sink().to_owned();
        let (decided, written) =
            Settler::start(&self.settle, sink, self.epoch, self.metrics.clone(), &self.give_up);
        let _at_work = self.metrics.at_work();
        let mut desk = self.desk(decided, written);
        if !self.end_former(&mut desk.admission).await {
            return;
        }
        let mut flow = tokio::time::interval(FLOW_EVERY);
        flow.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut swept = false;
        loop {
            // All that has ended comes first: a fetch for few slots costs as much as one for many.
            while let Some(end) = desk.flight.attempts.try_join_next() {
                self.ended(&mut desk, end).await;
            }
            while let Ok(batch) = desk.written.try_recv() {
                self.settled(&mut desk, batch);
            }
            let stopping = self.is_stopping();
            desk.put_back(stopping);
            if stopping && desk.flight.attempts.is_empty() && desk.flight.unsettled == 0 {
                if std::mem::replace(&mut swept, true) {
                    break;
                }
                // An intent that is left behind would be in doubt to the next owner.
                self.end_strays(&mut desk).await;
                continue;
            }
            self.look_at_the_gate(&mut desk);
            if !stopping && self.has_room(&desk) && self.wake.is_time() {
                self.look(&mut desk).await;
            }
            if !stopping {
                self.start(&mut desk).await;
            }
            let room = !stopping && self.has_room(&desk);
            let few = !stopping && !room && self.wants(&desk) > 0;
            let opens_at = self.deliverer.gate.opens_at(Instant::now());
            let opens = tokio::time::sleep_until(opens_at.unwrap_or_else(Instant::now).into());
            tokio::select! {
                Some(end) = desk.flight.attempts.join_next() => self.ended(&mut desk, end).await,
                batch = desk.written.recv() => match batch {
                    Some(batch) => self.settled(&mut desk, batch),
                    None => break,
                },
                by = self.wake.ready(), if room => self.metrics.woken(by),
                () = self.drain.cancelled(), if !stopping => {}
                () = self.deliverer.cut.cancelled(), if !stopping => {}
                () = tokio::time::sleep(FEW_SLOTS_PAUSE), if few => {}
                () = opens, if opens_at.is_some() => {}
                () = desk.flight.turn.given(), if desk.flight.turn.is_waiting() => {}
                _ = flow.tick() => self.tick(&mut desk).await,
            }
        }
        self.show(&mut desk).await;
    }

    fn desk(&self, decided: mpsc::Sender<Decided>, written: mpsc::Receiver<Vec<Written>>) -> Desk {
        let (link, deliverer) = (Arc::clone(&self.fetch), Arc::clone(&self.deliverer));
        Desk {
            hand: Hand::new(self.deliverer.config.order, &self.lanes),
            admission: Admission::new(link, deliverer, self.epoch, self.unclean),
            flight: Flight::default(),
            fetched_at: Instant::now(),
            is_shut: false,
            on_second: false,
            gone: 0,
            shown: None,
            decided,
            written,
        }
    }

    /// Settles what a former owner was sending, before anything is fetched; `false` if told to stop
    /// before that could be written.
    async fn end_former(&self, admission: &mut Admission) -> bool {
        loop {
            match admission.end_former(self.lease).await {
                Ok(()) => return true,
                Err(error) => warn!(sink = self.sink(), %error,
                    "cannot settle what a former owner was sending; nothing is fetched before, trying again"),
            }
            tokio::select! {
                () = tokio::time::sleep(FORMER_PAUSE) => {}
                () = self.drain.cancelled() => return false,
                () = self.deliverer.cut.cancelled() => return false,
            }
        }
    }

    fn is_stopping(&self) -> bool {
        self.drain.is_cancelled() || self.deliverer.cut.is_cancelled()
    }

    /// Fetches what may start now, or next, and starts it. However long the answer takes, the ends of
    /// attempts are recorded meanwhile; rows leave the hand when it has come, and not before.
    async fn look(&mut self, desk: &mut Desk) {
        let (room, ready) = (self.room(&desk.flight), desk.flight.ready.counts());
        let begun = Instant::now();
        let mut settled = Vec::new();
        let batch = {
            let thorough = self.wake.is_about_to_sleep();
            let (link, sink) = (&self.fetch, self.sink());
            let fetch = fetch::fetch(link, sink, &mut desk.hand, room, &ready, thorough);
            // Boxed: a large future within every loop of every worker.
            let mut fetch = Box::pin(fetch);
            loop {
                tokio::select! {
                    batch = &mut fetch => break Some(batch),
                    Some(end) = desk.flight.attempts.join_next() => {
                        if !self.is_stopping() {
                            self.fill(&desk.admission, &mut desk.flight);
                        }
                        self.record(&mut desk.flight, &desk.decided, end).await;
                    }
                    Some(batch) = desk.written.recv() => settled.push(batch),
                    () = self.drain.cancelled() => break None,
                    () = self.deliverer.cut.cancelled() => break None,
                }
            }
        };
        desk.fetched_at = Instant::now();
        let (held, took) = (desk.hand.held(), begun.elapsed());
        debug!(sink = self.sink(), room, held, ?took, "fetched");
        // Told to stop: what the answer would have brought is no longer ours to start.
        if let Some(batch) = batch {
            self.take_in(desk, batch).await;
        }
        // Last, because they may bring the next look forward.
        for batch in settled {
            self.settled(desk, batch);
        }
    }

    async fn take_in(&mut self, desk: &mut Desk, batch: Result<fetch::Batch, StoreError>) {
        let batch = match batch {
            Ok(batch) => batch,
            Err(error) => {
                warn!(sink = self.sink(), %error, "cannot fetch; trying again");
                desk.hand.reset_floor();
                self.metrics.not_fetched();
                self.wake.failed();
                return;
            }
        };
        self.metrics.fetched(batch.start.len());
        if batch.start.is_empty() && !batch.more {
            let (link, sink) = (Arc::clone(&self.fetch), self.sink().to_owned());
            if let Err(error) = self.wake.idled(next_due(&link, &sink)).await {
                warn!(sink, %error, "cannot look for the next due; trying again");
                self.wake.failed();
            }
            return;
        }
        self.wake.worked(batch.more);
        let now = Instant::now();
        for row in batch.start {
            desk.flight.ready.push(now, row);
        }
        self.fill(&desk.admission, &mut desk.flight);
    }

    /// An attempt ended: gives its slot to what is ready, and hands its settlement over.
    async fn ended(&self, desk: &mut Desk, end: End) {
        if !self.is_stopping() {
            self.fill(&desk.admission, &mut desk.flight);
        }
        self.record(&mut desk.flight, &desk.decided, end).await;
    }

    async fn record(&self, flight: &mut Flight, decided: &mpsc::Sender<Decided>, end: End) {
        match end {
            Ok((end, took)) => {
                report(self.sink(), &end, took);
                self.metrics.ended(AttemptEnd::of(&end.settlement), took);
                flight.minute.count(matches!(end.settlement, Settlement::Done { .. }));
                flight.unsettled += 1;
                if decided.send(end).await.is_err() {
                    error!(sink = self.sink(), "outcomes can no longer be recorded");
                }
            }
            // Attempts are fenced against panics and are never aborted.
            Err(error) => {
                error!(sink = self.sink(), %error, "an attempt was lost; it is made again after a restart");
            }
        }
    }

    /// Settlements are committed.
    fn settled(&mut self, desk: &mut Desk, batch: Vec<Written>) {
        for written in batch {
            // A retry may fall due, or a follower start, before the next look that is planned.
            match written.again_in {
                Some(delay) => self.wake.no_later_than(delay),
                None if written.key.is_some() => self.wake.no_later_than(Duration::ZERO),
                None => {}
            }
            desk.flight.unsettled -= 1;
            desk.flight.turn.is_through(&written.place);
            desk.gone += i64::from(!written.applied);
            let is_out = written.is_out_of_the_way(self.deliverer.config.order);
            desk.hand.settled(&written.place, written.key.as_deref(), is_out);
        }
    }
}

impl Desk {
    /// Puts back what has waited too long for a slot, because its row may have changed meanwhile, and
    /// everything when the worker stops.
    fn put_back(&mut self, stopping: bool) {
        let ready = &mut self.flight.ready;
        let back = if stopping {
            ready.take_all()
        } else if let Some(then) = Instant::now().checked_sub(AHEAD_LIMIT) {
            ready.take_older(then)
        } else {
            Vec::new()
        };
        self.hand.put_back(&back);
    }
}
