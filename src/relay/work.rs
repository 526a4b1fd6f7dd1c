//! Working a sink: wake, fetch, admit, deliver, settle, over and over, until told to stop.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use super::admit::{Admission, Admitted};
use super::deliver::Deliverer;
use super::fetch::{self, Hand};
use super::minute::Minute;
use super::ready::Ready;
use super::settle::{BACKLOG_MAX, Decided, Settler, Written, report};
use super::wake::Wake;
use crate::delivery::Settlement;
use crate::policy::Lane;
use crate::store::flow::{Flow, write_flow};
use crate::store::work::{Fetched, next_due};
use crate::store::{Link, StoreError};

/// How often the flow row is brought up to date, if anything changed.
const FLOW_EVERY: Duration = Duration::from_secs(1);
/// How often it is written all the same: "status" takes an older one for a silent owner's.
const FLOW_AT_LEAST: Duration = Duration::from_secs(30);
/// A fetch for few free slots waits so long for more of them.
const FEW_SLOTS_PAUSE: Duration = Duration::from_millis(3);
/// Fetched ahead of free slots is what a sink does in one part in so many of a second, as a row of a
/// higher lane waits behind it, and at most so many rows; and how long one may wait for its slot.
const AHEAD_SHARE: usize = 50;
const AHEAD_MAX: usize = 64;
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
    /// For fetches, limits and intents.
    pub fetch: Arc<Link>,
    /// For settlements.
    pub settle: Arc<Link>,
    /// Lets one suspect at a time be attempted, over all sinks of the relay.
    pub suspect: Arc<Semaphore>,
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
            Settler::start(Arc::clone(&self.settle), sink, self.epoch, self.give_up.clone());
        let mut desk = self.desk(decided, written);
        if !self.end_former(&mut desk.admission).await {
            return;
        }
        let mut flow = tokio::time::interval(FLOW_EVERY);
        flow.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
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
                break;
            }
            self.look_at_the_gate(&mut desk);
            if !stopping && self.has_room(&desk) && self.wake.is_time() {
                self.look(&mut desk).await;
            }
            if !stopping {
                self.start(&mut desk).await;
            }
            let room = !stopping && self.has_room(&desk);
            let few = !stopping && !room && self.room(&desk.flight) > 0;
            let opens_at = self.deliverer.gate.opens_at(Instant::now());
            let opens = tokio::time::sleep_until(opens_at.unwrap_or_else(Instant::now).into());
            tokio::select! {
                Some(end) = desk.flight.attempts.join_next() => self.ended(&mut desk, end).await,
                batch = desk.written.recv() => match batch {
                    Some(batch) => self.settled(&mut desk, batch),
                    None => break,
                },
                () = self.wake.ready(), if room => {}
                () = self.drain.cancelled(), if !stopping => {}
                () = self.deliverer.cut.cancelled(), if !stopping => {}
                () = tokio::time::sleep(FEW_SLOTS_PAUSE), if few => {}
                () = opens, if opens_at.is_some() => {}
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

    /// How many attempts may run at the same time now.
    fn slots(&self) -> usize {
        self.deliverer.config.concurrency.get().min(self.deliverer.gate.limit(Instant::now()))
    }

    /// Begins an attempt of a row that is admitted.
    fn begin(&self, flight: &mut Flight, row: Fetched, suspect: Option<OwnedSemaphorePermit>) {
        self.deliverer.gate.begin(Instant::now());
        let attempt = Arc::clone(&self.deliverer).attempt(row);
        flight.attempts.spawn(async move {
            let end = attempt.await;
            drop(suspect);
            end
        });
    }

    /// Starts what is ready and needs no admission, as far as there are slots.
    fn fill(&self, admission: &Admission, flight: &mut Flight) {
        while flight.attempts.len() < self.slots() {
            if !flight.ready.peek().is_some_and(|row| admission.is_free(row)) {
                break;
            }
            let Some(row) = flight.ready.pick() else { break };
            self.begin(flight, row, None);
        }
    }

    /// Starts what is ready, as far as there are slots; what needs it is admitted first.
    async fn start(&mut self, desk: &mut Desk) {
        self.fill(&desk.admission, &mut desk.flight);
        let free = self.slots().saturating_sub(desk.flight.attempts.len());
        if free == 0 || desk.flight.ready.is_empty() {
            return;
        }
        let mut rows = Vec::new();
        let mut suspect = None;
        if desk.flight.ready.has_suspect()
            && let Ok(permit) = Arc::clone(&self.suspect).try_acquire_owned()
            && let Some(row) = desk.flight.ready.pick_suspect()
        {
            suspect = Some(((row.message_id, row.target.clone()), permit));
            rows.push(row);
        }
        while rows.len() < free {
            let Some(row) = desk.flight.ready.pick() else { break };
            rows.push(row);
        }
        if rows.is_empty() {
            return;
        }
        let Admitted { start, back } = self.admit(desk, rows).await;
        desk.hand.put_back(&back);
        for row in start {
            let is_suspect =
                suspect.as_ref().is_some_and(|(s, _)| s.0 == row.message_id && s.1 == row.target);
            let permit = if is_suspect { suspect.take().map(|(_, permit)| permit) } else { None };
            self.begin(&mut desk.flight, row, permit);
        }
    }

    /// Admits rows; however long that takes, the ends of attempts are recorded meanwhile.
    async fn admit(&self, desk: &mut Desk, rows: Vec<Fetched>) -> Admitted {
        let mut ended = Vec::new();
        let admitted = {
            let mut admit = Box::pin(desk.admission.admit(rows));
            loop {
                tokio::select! {
                    admitted = &mut admit => break admitted,
                    Some(end) = desk.flight.attempts.join_next() => {
                        self.record(&mut desk.flight, &desk.decided, end).await;
                    }
                    Some(batch) = desk.written.recv() => ended.push(batch),
                }
            }
        };
        for batch in ended {
            self.note(desk, batch);
        }
        admitted
    }

    /// How many rows a fetch may bring now.
    fn room(&self, flight: &Flight) -> usize {
        let slots = self.slots();
        let free = slots.saturating_sub(flight.attempts.len());
        // While the gate lets only some begin, nothing is fetched ahead of them.
        let is_open = slots == self.deliverer.config.concurrency.get();
        let ahead = if is_open { (flight.minute.pace() / AHEAD_SHARE).min(AHEAD_MAX) } else { 0 };
        (free + ahead).saturating_sub(flight.ready.len())
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

    /// A gate that has opened brings the next look forward.
    fn look_at_the_gate(&mut self, desk: &mut Desk) {
        let is_shut = self.slots() == 0;
        if desk.is_shut && !is_shut {
            self.wake.no_later_than(Duration::ZERO);
        }
        desk.is_shut = is_shut;
    }

    /// Fetches what may start now, or next, and starts it. However long the answer takes, the ends of
    /// attempts are recorded meanwhile; rows leave the hand when it has come, and not before.
    async fn look(&mut self, desk: &mut Desk) {
        let free = self.room(&desk.flight);
        let begun = Instant::now();
        let mut settled = Vec::new();
        let batch = {
            let thorough = self.wake.is_about_to_sleep();
            let fetch = fetch::fetch(&self.fetch, self.sink(), &mut desk.hand, free, thorough);
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
        debug!(sink = self.sink(), free, held, ?took, "fetched");
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
                self.wake.failed();
                return;
            }
        };
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
        for written in &batch {
            // A retry may fall due, or a follower start, before the next look that is planned.
            match written.again_in {
                Some(delay) => self.wake.no_later_than(delay),
                None if written.key.is_some() => self.wake.no_later_than(Duration::ZERO),
                None => {}
            }
        }
        self.note(desk, batch);
    }

    fn note(&self, desk: &mut Desk, batch: Vec<Written>) {
        for written in batch {
            desk.flight.unsettled -= 1;
            desk.gone += i64::from(!written.applied);
            let is_out = written.is_out_of_the_way(self.deliverer.config.order);
            desk.hand.settled(&written.place, written.key.as_deref(), is_out);
        }
    }

    /// Once a second.
    async fn tick(&mut self, desk: &mut Desk) {
        self.show(desk).await;
        let holds = |place: &(i64, String)| desk.hand.holds(place);
        match desk.admission.strays(holds).await {
            Ok(strays) => {
                for row in strays {
                    warn!(
                        message_id = row.message_id,
                        sink = self.sink(),
                        target = row.target,
                        "its intent was committed and its attempt never began; put back"
                    );
                    let delay = Duration::ZERO;
                    let reason = "its attempt never began".to_owned();
                    let settlement = Settlement::Release { delay, reason };
                    desk.flight.unsettled += 1;
                    let decided = Decided { row, settlement, content_hash: None };
                    let _ = desk.decided.send(decided).await;
                }
            }
            Err(error) => {
                warn!(sink = self.sink(), %error, "cannot look for intents; trying again")
            }
        }
    }

    /// Writes the flow row, if it changed.
    async fn show(&mut self, desk: &mut Desk) {
        let (now, gate) = (Instant::now(), &self.deliverer.gate);
        let (delivered_minute, failed_minute) = desk.flight.minute.sums();
        let small = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
        let flow = Flow {
            in_flight: small(desk.flight.attempts.len()),
            delivered_minute,
            failed_minute,
            hidden: i64::try_from(desk.hand.hidden()).unwrap_or(i64::MAX),
            gone: desk.gone,
            parked: small(desk.hand.parked()),
            open: gate.opened().map(|opened| (now - opened.since, opened.reason)),
            waits: gate.waits(now).map(|waits| (waits.until - now, waits.reason)),
            horizon: self.horizon,
        };
        let known = |(shown, at): &(Flow, Instant)| *shown == flow && at.elapsed() < FLOW_AT_LEAST;
        if desk.shown.as_ref().is_some_and(known) {
            return;
        }
        if write_flow(&self.settle, self.sink(), self.epoch, &flow).await.is_ok() {
            desk.shown = Some((flow, now));
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
