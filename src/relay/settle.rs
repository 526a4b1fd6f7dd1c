//! Settle: recording how attempts ended, in batches.
//!
//! The [`Settler`] writes what was decided until it is
//! written: what a sink is known to have accepted is never sent again because the bookkeeping
//! failed, only the write is repeated.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::deliver::SENDER_RATE;
use super::hand::Place;
use crate::delivery::Settlement;
use crate::metrics::SinkMetrics;
use crate::policy::Order;
use crate::recipients::Recipients;
use crate::store::work::{
    self, Accepted, DeliveredSettlement, ExpiredSettlement, Fetched, OpenSettlement, OpenState,
};
use crate::store::{Link, StoreError, own};

/// Most settlements in one statement.
const BATCH_MAX: usize = 500;
/// How long the first settlement of a batch waits for others.
const LINGER: Duration = Duration::from_millis(20);
/// Settlements that may wait to be written; beyond it no attempt is started.
pub const BACKLOG_MAX: usize = 5_000;
/// First and longest pause after a write that failed.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// One decided end, on its way to the database.
#[derive(Debug)]
pub struct Decided {
    /// The row as fetched.
    pub row: Fetched,
    /// What is to be recorded.
    pub settlement: Settlement,
    /// Hash of what was sent.
    pub content_hash: Option<[u8; 32]>,
    /// What became of each recipient over all attempts, where this one learned something.
    pub recipients: Option<Recipients>,
    /// Whether it is written at once: while it is not, a follower waits, or a crash would leave in doubt
    /// what is known.
    pub is_urgent: bool,
}

/// One settlement that is committed.
#[derive(Debug)]
pub struct Written {
    /// Of the delivery.
    pub place: Place,
    /// Its key.
    pub key: Option<String>,
    /// What became of the delivery.
    pub end: Ended,
    /// When it falls due again, if it does.
    pub again_in: Option<Duration>,
    /// Whether the row was still as fetched; if not, somebody else closed or changed it.
    pub applied: bool,
}

/// What became of a delivery when its settlement was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It is closed.
    Closed,
    /// It waits for time.
    Pending,
    /// It waits for an operator.
    Stuck,
}

impl Written {
    /// Whether the next of its key may go on.
    #[must_use]
    pub fn is_out_of_the_way(&self, order: Order) -> bool {
        match self.end {
            Ended::Closed => true,
            Ended::Pending => false,
            Ended::Stuck => order == Order::Skip,
        }
    }
}

/// Writes the settlements of one sink.
pub struct Settler {
    link: Arc<Link>,
    sink: String,
    epoch: i64,
    metrics: SinkMetrics,
    /// Gives up writing: the process must end.
    give_up: CancellationToken,
}

impl Settler {
    /// Starts the task that writes; it ends when the sender is dropped and all is written.
    #[must_use]
    pub fn start(
        link: &Arc<Link>,
        sink: String,
        epoch: i64,
        metrics: SinkMetrics,
        give_up: &CancellationToken,
    ) -> (mpsc::Sender<Decided>, mpsc::Receiver<Vec<Written>>) {
        let (decided, incoming) = mpsc::channel(BACKLOG_MAX);
        let (outgoing, written) = mpsc::channel(64);
        let (link, give_up) = (Arc::clone(link), give_up.clone());
        let settler = Settler { link, sink, epoch, metrics, give_up };
        tokio::spawn(settler.run(incoming, outgoing));
        (decided, written)
    }

    async fn run(
        self,
        mut incoming: mpsc::Receiver<Decided>,
        outgoing: mpsc::Sender<Vec<Written>>,
    ) {
        let mut batch = Vec::with_capacity(BATCH_MAX);
        while gather(&mut incoming, &mut batch).await {
            let mut pause = PAUSE_MIN;
            let begun = Instant::now();
            let mut applied = HashSet::new();
            let written = loop {
                match self.write(&batch, &mut applied).await {
                    Ok(written) => {
                        debug!(sink = self.sink, count = batch.len(), took = ?begun.elapsed(), "settled");
                        self.metrics.settled(batch.len(), begun.elapsed());
                        for decided in batch.iter().filter(|decided| decided.is_delivered()) {
                            self.metrics.delivered(decided.row.fell_due.elapsed());
                        }
                        break written;
                    }
                    Err(error) => {
                        warn!(sink = self.sink, count = batch.len(), %error, retry_in = ?pause,
                            "cannot record outcomes yet; nothing is sent again, only the record is repeated");
                        self.metrics.not_settled();
                        self.cure(&error, &mut batch).await;
                    }
                }
                tokio::select! {
                    () = tokio::time::sleep(pause) => pause = (pause * 2).min(PAUSE_MAX),
                    () = self.give_up.cancelled() => {
                        warn!(sink = self.sink, count = batch.len(),
                            "stopping with outcomes that could not be recorded; these deliveries will be repeated");
                        return;
                    }
                }
            };
            batch.clear();
            if outgoing.send(written).await.is_err() {
                return;
            }
        }
    }

    /// Does what can be done against an error that would come again and again.
    async fn cure(&self, error: &StoreError, batch: &mut [Decided]) {
        if error.is_about_data() {
            for decided in batch {
                decided.settlement.make_ascii();
                if let Some(recipients) = &mut decided.recipients {
                    recipients.make_ascii();
                }
            }
        }
        if error.is_missing_partition()
            && let Err(error) = own::extend_ledger(&self.link).await
        {
            warn!(%error, "cannot make ledger partitions");
        }
    }

    /// Counts what found its row changed or closed, or another relay at the sink: then the fence refused
    /// all but what was delivered.
    async fn count_not_applied(
        &self,
        batch: &[Decided],
        applied: &HashSet<Place>,
    ) -> Result<(), StoreError> {
        let missed = batch.iter().filter(|decided| !applied.contains(&decided.place()));
        let (delivered, fenced): (Vec<_>, Vec<_>) =
            missed.partition(|missed| missed.is_delivered());
        let holds = fenced.is_empty() || own::holds(&self.link, &self.sink, self.epoch).await?;
        self.metrics.not_applied(fenced.len(), !holds);
        self.metrics.not_applied(delivered.len(), false);
        Ok(())
    }

    /// Writes a batch, in up to four statements; each is safe to repeat. What was applied is noted
    /// at once: when a later one fails and all are repeated, an earlier one finds its rows gone.
    async fn write(
        &self,
        batch: &[Decided],
        applied: &mut HashSet<Place>,
    ) -> Result<Vec<Written>, StoreError> {
        let (mut delivered, mut expired, mut open) = (Vec::new(), Vec::new(), Vec::new());
        for decided in batch {
            sort(decided, &mut delivered, &mut expired, &mut open);
        }
        let (link, sink) = (&self.link, self.sink.as_str());
        let accepted: Vec<Accepted> = batch.iter().filter_map(Decided::accepted).collect();
        if !accepted.is_empty() {
            work::note_accepted(link, sink, &accepted).await?;
        }
        if !delivered.is_empty() {
            applied.extend(work::settle_delivered(link, sink, &delivered).await?);
        }
        if !expired.is_empty() {
            applied.extend(work::settle_expired(link, sink, self.epoch, &expired).await?);
        }
        if !open.is_empty() {
            applied.extend(work::settle_open(link, sink, self.epoch, &open).await?);
        }
        self.count_not_applied(batch, applied).await?;
        Ok(batch
            .iter()
            .map(|decided| {
                let place = decided.place();
                Written {
                    key: decided.row.key.clone(),
                    end: match &decided.settlement {
                        Settlement::Done { .. } | Settlement::Expired => Ended::Closed,
                        Settlement::Retry { .. } | Settlement::Release { .. } => Ended::Pending,
                        Settlement::Dead { .. } | Settlement::Held { .. } => Ended::Stuck,
                    },
                    again_in: match &decided.settlement {
                        Settlement::Retry { delay, .. } | Settlement::Release { delay, .. } => {
                            Some(*delay)
                        }
                        Settlement::Done { .. }
                        | Settlement::Expired
                        | Settlement::Dead { .. }
                        | Settlement::Held { .. } => None,
                    },
                    applied: applied.contains(&place),
                    place,
                }
            })
            .collect())
    }
}

impl Decided {
    fn is_delivered(&self) -> bool {
        matches!(self.settlement, Settlement::Done { .. })
    }

    /// Who accepted what is not closed by that.
    fn accepted(&self) -> Option<Accepted> {
        let recipients = self.recipients.as_ref().filter(|_| !self.is_delivered())?.accepted();
        (!recipients.is_empty()).then(|| Accepted {
            message_id: self.row.message_id,
            target: self.row.target.clone(),
            round: self.row.round,
            recipients,
        })
    }

    fn place(&self) -> Place {
        (self.row.message_id, self.row.target.clone())
    }
}

/// Waits for settlements: a batch is full, or its first one has lingered, or one is urgent.
async fn gather(incoming: &mut mpsc::Receiver<Decided>, batch: &mut Vec<Decided>) -> bool {
    if incoming.recv_many(batch, BATCH_MAX).await == 0 {
        return false;
    }
    let until = tokio::time::Instant::now() + LINGER;
    while batch.len() < BATCH_MAX && !batch.iter().any(|decided| decided.is_urgent) {
        let room = BATCH_MAX - batch.len();
        match tokio::time::timeout_at(until, incoming.recv_many(batch, room)).await {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
    }
    true
}

fn sort(
    decided: &Decided,
    delivered: &mut Vec<DeliveredSettlement>,
    expired: &mut Vec<ExpiredSettlement>,
    open: &mut Vec<OpenSettlement>,
) {
    let row = &decided.row;
    let (message_id, target, rev) = (row.message_id, row.target.clone(), row.rev);
    let content_hash = decided.content_hash.map(Vec::from);
    let mut still_open = |attempt, state, delay, reason: &str| {
        open.push(OpenSettlement {
            message_id,
            target: row.target.clone(),
            rev,
            attempt,
            state,
            delay,
            reason: reason.to_owned(),
            content_hash: content_hash.clone(),
            recipients: decided.recipients.clone(),
        });
    };
    match &decided.settlement {
        Settlement::Done { receipt } => delivered.push(DeliveredSettlement {
            message_id,
            target,
            round: row.round,
            attempt: row.attempt + 1,
            receipt: receipt.clone(),
        }),
        Settlement::Expired => expired.push(ExpiredSettlement { message_id, target, rev }),
        Settlement::Retry { delay, reason } => {
            still_open(row.attempt + 1, OpenState::Pending, *delay, reason);
        }
        Settlement::Dead { reason } => {
            still_open(row.attempt + 1, OpenState::Dead, Duration::ZERO, reason);
        }
        Settlement::Held { reason, attempted } => {
            let attempts = row.attempt + i32::from(*attempted);
            still_open(attempts, OpenState::Held, Duration::ZERO, reason);
        }
        Settlement::Release { delay, reason } => {
            still_open(row.attempt, OpenState::Pending, *delay, reason);
        }
    }
}

/// One wide line for an attempt: what, which message, which sink, what happens next. No payload,
/// no address.
pub fn report(sink: &str, decided: &Decided, took: Duration) {
    let row = &decided.row;
    let message_type = row.message.as_ref().map_or("?", |m| m.message_type.as_str());
    let (message_id, target, attempt) = (row.message_id, row.target.as_str(), row.attempt + 1);
    match &decided.settlement {
        Settlement::Done { receipt } => {
            info!(
                message_id,
                r#type = message_type,
                sink,
                target,
                attempt,
                outcome = "delivered",
                receipt,
                ?took,
                "attempt"
            );
        }
        Settlement::Expired => {
            warn!(
                message_id,
                r#type = message_type,
                sink,
                target,
                outcome = "expired",
                "not sent: expires_at has passed; closed"
            );
        }
        Settlement::Retry { delay, reason } => {
            warn!(message_id, r#type = message_type, sink, target, attempt, outcome = "retry", reason,
                ?took, next_in = ?delay, "attempt");
        }
        Settlement::Dead { reason } => {
            warn!(
                message_id,
                r#type = message_type,
                sink,
                target,
                attempt,
                outcome = "dead",
                reason,
                ?took,
                "attempt; given up, mend the cause and run: outboxd retry {message_id}/{sink}"
            );
        }
        Settlement::Held { reason, attempted } => {
            let attempt = row.attempt + i32::from(*attempted);
            warn!(
                message_id,
                r#type = message_type,
                sink,
                target,
                attempt,
                outcome = "held",
                reason,
                ?took,
                "attempt; find out whether it arrived, then run: outboxd resolve {message_id}/{sink}"
            );
        }
        // As many as wait, and nothing is wrong with any.
        Settlement::Release { delay, reason } if reason.starts_with(SENDER_RATE) => {
            debug!(message_id, r#type = message_type, sink, target, outcome = "released", reason,
                next_in = ?delay, "no attempt was made");
        }
        Settlement::Release { delay, reason } => {
            warn!(message_id, r#type = message_type, sink, target, outcome = "released", reason,
                next_in = ?delay, "put back without an attempt");
        }
    }
}
