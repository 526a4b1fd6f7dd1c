//! Deliver: one attempt, bounded in time and memory, fenced against panics.

mod sender;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

pub use self::sender::SENDER_RATE;
use super::decide::decide;
use super::gate::Gate;
use super::lease::Lease;
use super::pace::Pace;
use super::route::{Paused, Routes};
use super::settle::Decided;
use crate::config::{Content, Route, SinkConfig};
use crate::delivery::{Cause, Guarantee, Outcome, Phase, Settlement};
use crate::message::{IdempotencyKey, Message};
use crate::name::Name;
use crate::policy::Policy;
use crate::recipients::RecipientState;
use crate::sink::mail::NoMail;
use crate::sink::{Prepared, Sink};
use crate::store::work::{self, Fetched};
use crate::store::{Link, StoreError};

/// Bytes of payloads that are fetched alone, in memory over all sinks of a relay, and for one sink: one
/// that hangs leaves room for the others. Payloads that come with the fetch are small, and as many as
/// there are attempts.
pub const MEMORY_MAX: usize = 64 * 1024 * 1024;
const MEMORY_SINK_MAX: usize = MEMORY_MAX / 2;
/// What one permit of the memory stands for.
const MEMORY_UNIT: usize = 1024;
/// How long a row of a paused route rests, unless the route goes on before: long, as each rest is a
/// write. `resume` knows the rows by their reason.
const ROUTE_PAUSE: Duration = Duration::from_secs(3600);
const ROUTE_PAUSED: &str = "route paused";
/// How long a row rests that this relay's config has no route for: at first not long, as a relay that has
/// one may be about to take this one's place.
const UNKNOWN_ROUTE_FIRST: Duration = Duration::from_secs(2);
const UNKNOWN_ROUTE_PAUSE: Duration = Duration::from_secs(60);
/// How long an attempt that is cut short after it went out may still take: an answer that is here already
/// is read, and not called a doubt.
const LAST_WORDS: Duration = Duration::from_millis(100);
/// How long a row rests after its payload could not be read.
const UNREAD_PAUSE: Duration = Duration::from_secs(1);
/// How long a row rests that could not be sent because the lease was over: until that is noticed.
const NO_LEASE_PAUSE: Duration = Duration::from_secs(1);

/// Why a delivery is held whose content the config has changed since its first attempt.
const OTHER_CONTENT: &str = "an earlier attempt sent other content under the same idempotency key: the \
     config or its templates changed since; not sent. Send the new content all the same with: outboxd \
     resolve --not-delivered, or with rerender = true on the route";

/// What the attempts of one sink share.
pub struct Deliverer {
    /// The sink.
    pub sink: Arc<Sink>,
    /// Its config.
    pub config: Arc<SinkConfig>,
    /// The config's routes.
    pub routes: Arc<Routes>,
    /// Those of them that operators paused.
    pub paused: Arc<Paused>,
    /// Part of every idempotency key.
    pub installation: Name,
    /// For payloads that are fetched alone.
    pub link: Arc<Link>,
    /// Bounds the payload bytes in memory, for the relay and for the sink.
    pub memory: Memory,
    /// Whether the relay may still send.
    pub lease: Arc<Lease>,
    /// Learns from every attempt how many may run.
    pub gate: Gate,
    /// Knows how many may begin of one sender, where that is limited.
    pub pace: Option<Arc<Pace>>,
    /// Cuts open attempts short.
    pub cut: CancellationToken,
}

/// Room for payloads that are fetched alone.
#[derive(Clone)]
pub struct Memory {
    relay: Arc<Semaphore>,
    sink: Arc<Semaphore>,
}

/// The room a payload takes, until it is dropped.
type Room = (OwnedSemaphorePermit, OwnedSemaphorePermit);

impl Memory {
    /// All of it is free.
    #[must_use]
    pub fn new() -> Memory {
        let room = |bytes| Arc::new(Semaphore::new(bytes / MEMORY_UNIT));
        Memory { relay: room(MEMORY_MAX), sink: room(MEMORY_SINK_MAX) }
    }

    /// The same memory for one more sink.
    #[must_use]
    pub fn for_sink(&self) -> Memory {
        Memory { relay: Arc::clone(&self.relay), sink: Memory::new().sink }
    }

    /// Waits for room; a payload larger than all of it waits until it is alone.
    async fn reserve(&self, bytes: usize) -> Room {
        let take = |room: &Arc<Semaphore>, all: usize| {
            let units = bytes.div_ceil(MEMORY_UNIT).clamp(1, all / MEMORY_UNIT);
            let units = u32::try_from(units).expect("the memory has fewer units than that");
            Arc::clone(room).acquire_many_owned(units)
        };
        // The sink's first: whoever waits for it holds nothing that others need.
        let sink = take(&self.sink, MEMORY_SINK_MAX).await.expect("the memory is never closed");
        let relay = take(&self.relay, MEMORY_MAX).await.expect("the memory is never closed");
        (sink, relay)
    }
}

/// How an attempt ended, before the policy is asked.
enum End {
    Outcome(Outcome),
    /// Nobody was asked: the trouble is the message's, and says nothing of its destination.
    Inside(Outcome),
    /// No attempt was made.
    Settled(Settlement),
}

impl End {
    /// Whether what was made to be sent may have reached anybody. What nobody can have seen binds no
    /// later attempt to its content.
    fn may_be_seen(&self, phase: &Phase) -> bool {
        let unreachable = |outcome: &Outcome| {
            matches!(outcome, Outcome::Transient { cause: Cause::Unreachable, .. })
        };
        let is_lost = matches!(self, End::Outcome(end) if unreachable(end));
        // Some may have it although the attempt got no further with others.
        phase.may_have_been_seen() && (!is_lost || !phase.recipients().accepted().is_empty())
    }
}

impl Deliverer {
    /// Makes one attempt and decides what is to be recorded. Never panics and never hangs: the
    /// sink's timeout, or `cut`, ends it, and its phase tells what is known then.
    pub async fn attempt(self: Arc<Self>, row: Fetched) -> (Decided, Duration) {
        let begun = Instant::now();
        let phase = Arc::new(self.phase(&row));
        let mut content_hash = None;
        let attempt = async {
            let mut attempt =
                std::pin::pin!(fenced(self.try_once(&row, &phase, &mut content_hash), &phase));
            tokio::select! {
                biased;
                end = &mut attempt => end,
                () = self.cut.cancelled() => {
                    if !phase.may_have_arrived() {
                        return cut_off(&phase);
                    }
                    let last = tokio::time::timeout(LAST_WORDS, attempt).await;
                    last.unwrap_or_else(|_| cut_off(&phase))
                }
            }
        };
        let end = attempt.await;
        self.give_back(&row);
        let content_hash = content_hash.filter(|_| end.may_be_seen(&phase));
        let settlement = self.settlement(&row, end, &phase, begun);
        let is_urgent = row.key.is_some() || self.guarantee(&row) == Guarantee::AtMostOnce;
        let recipients = phase.recipients().clone();
        let recipients = (recipients != row.recipients).then_some(recipients);
        (Decided { row, settlement, content_hash, recipients, is_urgent }, begun.elapsed())
    }

    /// What is to be recorded, and what the gate learns from it.
    fn settlement(&self, row: &Fetched, end: End, phase: &Phase, begun: Instant) -> Settlement {
        let now = Instant::now();
        // Cut short by us: that says nothing of the destination either.
        let is_stopped = self.cut.is_cancelled() || !self.lease.holds();
        let (outcome, is_ours) = match end {
            End::Outcome(outcome) => (outcome, is_stopped),
            End::Inside(outcome) => (outcome, true),
            End::Settled(settlement) => {
                self.gate.abstain(now);
                return settlement;
            }
        };
        let outcome = if is_ours { outcome } else { self.weigh(row, outcome, phase, now) };
        let sinks_trouble = if is_ours {
            self.gate.abstain(now);
            false
        } else {
            self.gate.learn((row.message_id, phase.is_at_door()), &outcome, (begun, now))
        };
        match outcome {
            // Not the receiver's doing: it spends no attempt.
            Outcome::Transient { reason, .. } if is_stopped && !phase.may_have_been_seen() => {
                Settlement::Release { delay: NO_LEASE_PAUSE, reason }
            }
            outcome => {
                let number = u32::try_from(row.attempt).unwrap_or_default() + 1;
                decide(outcome, self.policy(row), number, sinks_trouble, fastrand::f64())
            }
        }
    }

    /// Takes a refusal that means us for what it is: not this message's end. Until there are so many that
    /// this is clear, it is taken for the message's.
    fn weigh(&self, row: &Fetched, outcome: Outcome, phase: &Phase, now: Instant) -> Outcome {
        let mut known = phase.recipients();
        if known.accepted() != row.recipients.accepted() {
            self.gate.accepted(now);
            return outcome;
        }
        let Outcome::Permanent { reason } = outcome else { return outcome };
        if !phase.is_refused_by_policy() || !self.gate.is_run_of_refusals(row.message_id) {
            return Outcome::Permanent { reason };
        }
        // Refused is for good: they are asked again.
        let is_new = |address: &str| {
            row.recipients.of(address).is_none_or(|before| before.state != RecipientState::Refused)
        };
        let refused = known.iter().filter(|(_, now)| now.state == RecipientState::Refused);
        let refused = refused.filter(|(address, _)| is_new(address));
        let again: Vec<_> = refused.map(|(a, r)| (a.to_owned(), r.reply.clone())).collect();
        for (address, reply) in again {
            known.note(&address, RecipientState::Deferred, &reply);
        }
        Outcome::Transient { cause: Cause::Barred, reason, wait: None }
    }

    /// How often a row's message may reach its receiver.
    pub fn guarantee(&self, row: &Fetched) -> Guarantee {
        self.policy(row).guarantee
    }

    /// Whether a row's time has passed: it is closed without an attempt.
    fn is_over(&self, row: &Fetched) -> bool {
        let age = row.message.as_ref().map(|message| message.age);
        let limit = self.policy(row).expires_after;
        row.expired || age.zip(limit).is_some_and(|(age, limit)| age >= limit)
    }

    /// Whether the operators let a row's route wait: it is put back without an attempt.
    fn is_paused(&self, row: &Fetched) -> bool {
        self.route(row).is_some_and(|route| self.paused.has(route))
    }

    /// Whether nothing will be sent for a row: it needs no intent and draws on no limit.
    pub fn makes_no_attempt(&self, row: &Fetched) -> bool {
        self.is_over(row) || self.is_paused(row)
    }

    fn phase(&self, row: &Fetched) -> Phase {
        let (lease, cut) = (Arc::clone(&self.lease), self.cut.clone());
        let may_send = move || lease.holds() && !cut.is_cancelled();
        Phase::guarded(may_send, row.recipients.clone())
    }

    async fn try_once(
        &self,
        row: &Fetched,
        phase: &Phase,
        content_hash: &mut Option<[u8; 32]>,
    ) -> End {
        if self.is_over(row) {
            return End::Settled(Settlement::Expired);
        }
        if self.is_paused(row) {
            let reason = ROUTE_PAUSED.to_owned();
            return End::Settled(Settlement::Release { delay: ROUTE_PAUSE, reason });
        }
        // A route may have been resumed since its row was let through as one that makes no attempt.
        if self.guarantee(row) == Guarantee::AtMostOnce && !row.sending {
            let reason = "its intent is not committed".to_owned();
            return End::Settled(Settlement::Release { delay: Duration::ZERO, reason });
        }
        // What waits is not made, where that can be told beforehand.
        if let Some(later) = self.waits_for_its_sender(row) {
            return End::Settled(later);
        }
        let (message, route, memory) = match self.load(row).await {
            Ok(loaded) => loaded,
            Err(end) => return end,
        };
        let key =
            IdempotencyKey::new(&self.installation, message.id, &self.config.name, &row.target);
        let made = if route.content.reads_files() {
            self.make_with_files(row, (message, key), memory).await
        } else {
            self.sink.prepare(&message, &route.content, &key).map(|made| (made, memory))
        };
        let (prepared, _memory) = match made {
            Ok(made) => made,
            Err(NoMail::Never(reason)) => return End::Inside(Outcome::Permanent { reason }),
            // It spends an attempt, so that what is never put there comes to an end.
            Err(NoMail::NotNow(reason)) => {
                let cause = Cause::Refused;
                return End::Inside(Outcome::Transient { cause, reason, wait: None });
            }
        };
        let hash = prepared.hash();
        if !route.policy.rerender && row.content_hash.as_ref().is_some_and(|sent| *sent != hash) {
            let reason = OTHER_CONTENT.to_owned();
            return End::Settled(Settlement::Held { reason, attempted: false });
        }
        if let Some(later) = self.begins_for_its_sender(row, &prepared) {
            return End::Settled(later);
        }
        *content_hash = Some(hash);
        // Waiting for memory or the database is not the receiver's time.
        let limit = self.config.timeout;
        let permanent = route.policy.permanent.as_ref();
        let sent =
            tokio::time::timeout(limit, self.sink.deliver(&prepared, permanent, phase)).await;
        End::Outcome(
            sent.unwrap_or_else(|_| phase.cut_short(&format!("timed out after {limit:?}"))),
        )
    }

    /// Makes what goes out with files: apart, as a disk may take its time, and in memory of their size.
    async fn make_with_files(
        &self,
        row: &Fetched,
        job: (Message, IdempotencyKey),
        memory: Option<Room>,
    ) -> Result<(Prepared, Option<Room>), NoMail> {
        let (bytes, job) = self
            .apart(row, job, |sink, content, (message, _)| sink.weigh(message, content))
            .await?;
        let bytes =
            usize::try_from(bytes).unwrap_or(usize::MAX).saturating_add(job.0.payload.len());
        // Whoever holds some of the memory and waits for more of it may wait for ever.
        drop(memory);
        let memory = self.memory.reserve(bytes).await;
        let (made, _) = self
            .apart(row, job, |sink, content, (message, key)| sink.prepare(message, content, key))
            .await?;
        Ok((made, Some(memory)))
    }

    /// Does a piece of work that may block, and gives back what it was done with.
    async fn apart<Job: Send + 'static, Done: Send + 'static>(
        &self,
        row: &Fetched,
        job: Job,
        work: fn(&Sink, &Content, &Job) -> Result<Done, NoMail>,
    ) -> Result<(Done, Job), NoMail> {
        let Some(message) = &row.message else {
            return Err(NoMail::Never("its message is gone".to_owned()));
        };
        let (sink, routes) = (Arc::clone(&self.sink), Arc::clone(&self.routes));
        let (name, target) = (self.config.name.clone(), row.target.clone());
        let message_type = message.message_type.clone();
        let work = move || {
            let gone = || NoMail::Never("its route is gone".to_owned());
            let route = routes.of(name.as_str(), &target, &message_type).ok_or_else(gone)?;
            Ok((work(&sink, &route.content, &job)?, job))
        };
        let limit = self.config.timeout;
        match tokio::time::timeout(limit, tokio::task::spawn_blocking(work)).await {
            Ok(Ok(done)) => done,
            Ok(Err(broken)) => match broken.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => Err(NoMail::NotNow("the relay stops".to_owned())),
            },
            Err(_) => {
                let reason = format!("attachments: the files could not be read within {limit:?}");
                Err(NoMail::NotNow(reason))
            }
        }
    }

    /// The route of a row; none where another relay with another config routed it.
    fn route(&self, row: &Fetched) -> Option<&Route> {
        let message = row.message.as_ref()?;
        self.routes.of(self.config.name.as_str(), &row.target, &message.message_type)
    }

    /// What is done about a row's outcomes.
    fn policy(&self, row: &Fetched) -> &Policy {
        self.route(row).map_or(&self.config.policy, |route| &route.policy)
    }

    /// The message with its payload, its route, and the memory it takes.
    async fn load(&self, row: &Fetched) -> Result<(Message, &Route, Option<Room>), End> {
        let dead = |reason: &str| End::Inside(Outcome::Permanent { reason: reason.to_owned() });
        let gone = || dead("its message is gone: somebody deleted the row");
        let Some(fetched) = &row.message else { return Err(gone()) };
        let Some(route) = self.route(row) else {
            let reason =
                "this relay's config has no such route; another config routed it".to_owned();
            let delay = if row.rev == 0 { UNKNOWN_ROUTE_FIRST } else { UNKNOWN_ROUTE_PAUSE };
            return Err(End::Settled(Settlement::Release { delay, reason }));
        };
        let unread = |error: StoreError| {
            let reason = format!("the payload could not be read: {error}");
            End::Settled(Settlement::Release { delay: UNREAD_PAUSE, reason })
        };
        let (payload, memory) = if let Some(payload) = &fetched.payload {
            (payload.clone(), None)
        } else {
            // Room is made for its size before it is fetched.
            let bytes = work::payload_bytes(&self.link, row.message_id).await.map_err(unread)?;
            let bytes = usize::try_from(bytes.ok_or_else(gone)?).unwrap_or(usize::MAX);
            let memory = self.memory.reserve(bytes).await;
            let payload = work::payload(&self.link, row.message_id).await.map_err(unread)?;
            (payload.ok_or_else(gone)?, Some(memory))
        };
        let message = Message {
            id: row.message_id,
            message_type: fetched.message_type.clone(),
            payload,
            key: row.key.clone(),
            headers: fetched.headers.clone(),
            created_at: fetched.created_at,
        };
        Ok((message, route, memory))
    }
}

/// Makes of a panic an end like any other: the message's own, and nobody else's.
async fn fenced(attempt: impl Future<Output = End>, phase: &Phase) -> End {
    let end = AssertUnwindSafe(attempt).catch_unwind().await;
    end.unwrap_or_else(|_| {
        End::Inside(phase.cut_short("outboxd failed inside (a panic, see the log)"))
    })
}

/// The relay stops or lost the sink: what was not sent spends no attempt.
fn cut_off(phase: &Phase) -> End {
    if phase.may_have_arrived() {
        return End::Outcome(phase.cut_short("cut short by the relay's stop"));
    }
    let reason = "the relay stopped before the message went out".to_owned();
    End::Settled(Settlement::Release { delay: Duration::ZERO, reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_an_end_like_any_other_and_not_the_destinations() {
        let phase = Phase::default();
        let broken = async || -> End { panic!("on purpose") };
        let End::Inside(Outcome::Transient { .. }) = fenced(broken(), &phase).await else {
            panic!("before anything was sent it may be tried again");
        };
        phase.begin().unwrap();
        let End::Inside(Outcome::InDoubt { .. }) = fenced(broken(), &phase).await else {
            panic!("after that it is in doubt");
        };
    }

    #[test]
    fn only_what_may_have_been_seen_binds_later_attempts_to_its_content() {
        let outcome =
            |cause| End::Outcome(Outcome::Transient { cause, reason: String::new(), wait: None });
        let phase = Phase::default();
        assert!(!outcome(Cause::Refused).may_be_seen(&phase), "refused before anything was sent");
        phase.begin().unwrap();
        assert!(!outcome(Cause::Unreachable).may_be_seen(&phase));
        for cause in [Cause::Away, Cause::Throttled, Cause::Refused, Cause::Failed] {
            assert!(outcome(cause).may_be_seen(&phase), "{cause:?}");
        }
        assert!(End::Outcome(Outcome::InDoubt { reason: String::new() }).may_be_seen(&phase));
    }
}
