//! Working a sink: wake, fetch, deliver, settle, over and over, until told to stop.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use super::deliver::Deliverer;
use super::fetch::{self, Hand};
use super::settle::{BACKLOG_MAX, Decided, Settler, Written, report};
use super::wake::Wake;
use crate::delivery::Settlement;
use crate::store::work::{self as store, Fetched, Flow};
use crate::store::{Link, StoreError};

/// How often the flow row is brought up to date, if anything changed.
const FLOW_EVERY: Duration = Duration::from_secs(1);
/// How often it is written all the same: "status" takes an older one for a silent owner's.
const FLOW_AT_LEAST: Duration = Duration::from_secs(30);
/// A fetch for few free slots waits so long for more of them.
const FEW_SLOTS_PAUSE: Duration = Duration::from_millis(3);
/// Most rows that are fetched ahead of free slots, and how long one may wait for its slot.
const AHEAD_MAX: usize = 64;
const AHEAD_LIMIT: Duration = Duration::from_secs(1);

/// What it takes to work one sink.
pub struct Worker {
    /// How attempts are made.
    pub deliverer: Arc<Deliverer>,
    /// The epoch this relay took the sink with.
    pub epoch: i64,
    /// When to look.
    pub wake: Wake,
    /// For fetches.
    pub fetch: Arc<Link>,
    /// For settlements.
    pub settle: Arc<Link>,
    /// Take no more, finish what is open, and end.
    pub drain: CancellationToken,
    /// Stop writing settlements: the process must end.
    pub give_up: CancellationToken,
}

/// The state of a sink while it is worked.
struct Desk {
    hand: Hand,
    flight: Flight,
    fetched_at: Instant,
    gone: i64,
    shown: Option<(Flow, Instant)>,
}

/// What has been fetched and is not known to be recorded.
#[derive(Default)]
struct Flight {
    attempts: JoinSet<(Decided, Duration)>,
    /// Fetched ahead of free slots, and when. Only for a sink that is so quick that a fetch for its
    /// free slots alone would take longer than its attempts.
    ready: VecDeque<(Instant, Fetched)>,
    /// Settlements handed to the settler and not known to be committed.
    unsettled: usize,
    minute: Minute,
}

impl Worker {
    fn sink(&self) -> &str {
        self.deliverer.config.name.as_str()
    }

    /// Works until drained, or cut: then open attempts end at once and are settled as what the
    /// sink knows of them. Answers when all that was decided is written.
    pub async fn run(mut self) {
        let sink = self.sink().to_owned();
        let (decided, mut written) =
            Settler::start(Arc::clone(&self.settle), sink, self.epoch, self.give_up.clone());
        let mut desk = Desk::new();
        let mut flow = tokio::time::interval(FLOW_EVERY);
        flow.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            // All that has ended comes first: a fetch for few slots costs as much as one for many.
            while let Some(end) = desk.flight.attempts.try_join_next() {
                self.ended(&mut desk.flight, end, &decided).await;
            }
            while let Ok(batch) = written.try_recv() {
                self.settled(&mut desk, batch);
            }
            let stopping = self.is_stopping();
            desk.put_back(stopping);
            if stopping && desk.flight.attempts.is_empty() && desk.flight.unsettled == 0 {
                break;
            }
            if !stopping && self.has_room(&desk) && self.wake.is_time() {
                self.look(&mut desk, &decided, &mut written).await;
            }
            let room = !stopping && self.has_room(&desk);
            let few = !stopping && !room && self.room(&desk.flight) > 0;
            tokio::select! {
                Some(end) = desk.flight.attempts.join_next() => {
                    self.ended(&mut desk.flight, end, &decided).await;
                }
                batch = written.recv() => match batch {
                    Some(batch) => self.settled(&mut desk, batch),
                    None => break,
                },
                () = self.wake.ready(), if room => {}
                () = self.drain.cancelled(), if !stopping => {}
                () = self.deliverer.cut.cancelled(), if !stopping => {}
                () = tokio::time::sleep(FEW_SLOTS_PAUSE), if few => {}
                _ = flow.tick() => self.show(&mut desk).await,
            }
        }
        self.show(&mut desk).await;
    }

    fn slots(&self) -> usize {
        self.deliverer.config.concurrency.get()
    }

    /// Starts what is ready, as far as there are slots.
    fn fill(&self, flight: &mut Flight) {
        while flight.attempts.len() < self.slots() {
            let Some((_, row)) = flight.ready.pop_front() else { break };
            flight.attempts.spawn(Arc::clone(&self.deliverer).attempt(row));
        }
    }

    /// How many rows a fetch may bring now.
    fn room(&self, flight: &Flight) -> usize {
        let free = self.slots().saturating_sub(flight.attempts.len());
        (free + flight.minute.pace().min(AHEAD_MAX)).saturating_sub(flight.ready.len())
    }

    /// A fetch pays for a quarter of the slots, or after a short pause for any; fetching ahead, once
    /// half of what was ready has started.
    fn has_room(&self, desk: &Desk) -> bool {
        let room = self.room(&desk.flight);
        let worth_it = desk.flight.ready.len() * 2 <= AHEAD_MAX
            && (room * 4 >= self.slots() || desk.fetched_at.elapsed() >= FEW_SLOTS_PAUSE);
        room > 0 && worth_it && desk.hand.held() < BACKLOG_MAX
    }

    fn is_stopping(&self) -> bool {
        self.drain.is_cancelled() || self.deliverer.cut.is_cancelled()
    }

    /// Fetches what may start now, or next, and starts it. However long the answer takes, the ends of
    /// attempts are recorded meanwhile; rows leave the hand when it has come, and not before.
    async fn look(
        &mut self,
        desk: &mut Desk,
        decided: &mpsc::Sender<Decided>,
        written: &mut mpsc::Receiver<Vec<Written>>,
    ) {
        let free = self.room(&desk.flight);
        let begun = Instant::now();
        let mut settled = Vec::new();
        let batch = {
            let fetch = fetch::fetch(&self.fetch, self.sink(), &mut desk.hand, free);
            // Boxed: a large future within every loop of every worker.
            let mut fetch = Box::pin(fetch);
            loop {
                tokio::select! {
                    batch = &mut fetch => break Some(batch),
                    Some(end) = desk.flight.attempts.join_next() => {
                        self.ended(&mut desk.flight, end, decided).await;
                    }
                    Some(batch) = written.recv() => settled.push(batch),
                    () = self.drain.cancelled() => break None,
                    () = self.deliverer.cut.cancelled() => break None,
                }
            }
        };
        desk.fetched_at = Instant::now();
        let (held, took) = (desk.hand.held(), begun.elapsed());
        debug!(sink = self.sink(), free, held, ?took, "fetched");
        // Told to stop: what the answer would have brought is no longer ours to start.
        if let Some(batch) = batch {
            self.start(desk, batch).await;
        }
        // Last, because they may bring the next look forward.
        for batch in settled {
            self.settled(desk, batch);
        }
    }

    async fn start(&mut self, desk: &mut Desk, batch: Result<fetch::Batch, StoreError>) {
        let batch = match batch {
            Ok(batch) => batch,
            Err(error) => {
                warn!(sink = self.sink(), %error, "cannot fetch; trying again");
                desk.hand.reset_floor();
                self.wake.failed();
                return;
            }
        };
        if batch.start.is_empty() && !batch.more {
            let (link, sink) = (Arc::clone(&self.fetch), self.sink().to_owned());
            if let Err(error) = self.wake.idled(store::next_due(&link, &sink, 0)).await {
                warn!(sink, %error, "cannot look for the next due; trying again");
                self.wake.failed();
            }
            return;
        }
        self.wake.worked(batch.more);
        let now = Instant::now();
        desk.flight.ready.extend(batch.start.into_iter().map(|row| (now, row)));
        self.fill(&mut desk.flight);
    }

    /// An attempt ended: hands its settlement over, and gives its slot to what is ready.
    async fn ended(
        &self,
        flight: &mut Flight,
        end: Result<(Decided, Duration), tokio::task::JoinError>,
        decided: &mpsc::Sender<Decided>,
    ) {
        if !self.is_stopping() {
            self.fill(flight);
        }
        match end {
            Ok((end, took)) => {
                report(self.sink(), &end, took);
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
            desk.flight.unsettled -= 1;
            desk.gone += i64::from(!written.applied);
            desk.hand.settled(&written.place, written.key.as_deref(), written.closed);
            // A retry may fall due, or a follower start, before the next look that is planned.
            match written.again_in {
                Some(delay) => self.wake.no_later_than(delay),
                None if written.key.is_some() => self.wake.no_later_than(Duration::ZERO),
                None => {}
            }
        }
    }

    /// Writes the flow row, if it changed.
    async fn show(&mut self, desk: &mut Desk) {
        let (delivered_minute, failed_minute) = desk.flight.minute.sums();
        let flow = Flow {
            in_flight: i32::try_from(desk.flight.attempts.len()).unwrap_or(i32::MAX),
            delivered_minute,
            failed_minute,
            hidden: i64::try_from(desk.hand.hidden()).unwrap_or(i64::MAX),
            gone: desk.gone,
        };
        let known = |(shown, at): (Flow, Instant)| shown == flow && at.elapsed() < FLOW_AT_LEAST;
        if desk.shown.is_some_and(known) {
            return;
        }
        if store::write_flow(&self.settle, self.sink(), self.epoch, flow).await.is_ok() {
            desk.shown = Some((flow, Instant::now()));
        }
    }
}

impl Desk {
    fn new() -> Desk {
        Desk {
            hand: Hand::new(),
            flight: Flight::default(),
            fetched_at: Instant::now(),
            gone: 0,
            shown: None,
        }
    }

    /// Puts back what has waited too long for a slot, because its row may have changed meanwhile, and
    /// everything when the worker stops.
    fn put_back(&mut self, stopping: bool) {
        let ready = &mut self.flight.ready;
        if stopping || ready.front().is_some_and(|(at, _)| at.elapsed() > AHEAD_LIMIT) {
            self.hand.put_back(ready.iter().map(|(_, row)| row));
            ready.clear();
        }
    }
}

/// Attempts of the last minute, by the second.
#[derive(Debug, Default)]
struct Minute {
    /// Begin of the second, delivered, failed.
    seconds: VecDeque<(Instant, i32, i32)>,
}

impl Minute {
    fn count(&mut self, delivered: bool) {
        let now = Instant::now();
        match self.seconds.back_mut() {
            Some(last) if now - last.0 < Duration::from_secs(1) => {
                last.1 += i32::from(delivered);
                last.2 += i32::from(!delivered);
            }
            _ => self.seconds.push_back((now, i32::from(delivered), i32::from(!delivered))),
        }
        while self.seconds.len() > 61 {
            self.seconds.pop_front();
        }
    }

    /// Attempts that ended within the last second or so.
    fn pace(&self) -> usize {
        let recent = self.seconds.iter().rev().take(2);
        let recent = recent.filter(|second| second.0.elapsed() < Duration::from_secs(2));
        let most = recent.map(|second| second.1 + second.2).max();
        usize::try_from(most.unwrap_or_default()).unwrap_or_default()
    }

    fn sums(&mut self) -> (i32, i32) {
        while self.seconds.front().is_some_and(|s| s.0.elapsed() > Duration::from_secs(60)) {
            self.seconds.pop_front();
        }
        self.seconds.iter().fold((0, 0), |sum, second| (sum.0 + second.1, sum.1 + second.2))
    }
}
