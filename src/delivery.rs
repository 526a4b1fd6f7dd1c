//! A delivery: one message through one sink to one target, over all its attempts.
//!
//! ```text
//! pending ──attempt──▶ closed (delivered)         the row goes, a ledger row says so
//!         ──attempt──▶ pending, due later         refused or in doubt, attempts left
//!         ──attempt──▶ dead                       permanent, or attempts used up
//!         ──attempt──▶ held                       in doubt under at-most-once
//!         ──expires──▶ closed (expired)           never sent
//! dead, held ──operator──▶ pending or closed
//! unrouted ──a route appears──▶ pending           a type that no route takes yet
//! ```

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::recipients::Recipients;

/// What the sink knows after an attempt. Nothing in doubt is ever called failed or done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Accepted by the receiver; `receipt` is its evidence (HTTP status, SMTP reply).
    Delivered {
        /// At most [`TEXT_MAX`] characters.
        receipt: String,
    },
    /// Not delivered now; may be later.
    Transient {
        /// What kind of trouble it was: it decides whether an attempt is spent, whether the whole
        /// destination waits, and whether the message may be sent again under at-most-once.
        cause: Cause,
        /// Why, in words for the operator.
        reason: String,
        /// The least wait the receiver asked for (`Retry-After`).
        wait: Option<Duration>,
    },
    /// Not accepted, and asking again unchanged cannot help.
    Permanent {
        /// Why, in words for the operator.
        reason: String,
    },
    /// May or may not have arrived: the reply was lost after bytes went out that could deliver.
    InDoubt {
        /// Why, in words for the operator.
        reason: String,
    },
}

/// Why a message was not delivered this time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Nobody was reached who would have taken anything: name, connection, TLS, greeting, login or
    /// sender, or a connection lost before the message went out. Certainly not sent.
    Unreachable,
    /// The receiver is there and wants nothing from us as we are: it refuses the login or the sender
    /// (SMTP 530, 534, 535, 550 and the like). Certainly not sent, and true of every message until
    /// somebody mends it.
    Barred,
    /// A gateway answered in the receiver's place that it is not there (HTTP 502, 503, 504). Whether
    /// the receiver saw the message is not known.
    Away,
    /// The receiver asked to be left alone for a while (HTTP 429, 503 with `Retry-After`; SMTP 421,
    /// and 4xx about rates). Certainly not taken, and true of every message.
    Throttled,
    /// Answered "not now", and certainly not taken (SMTP 4xx).
    Refused,
    /// Answered that the request is wrong (HTTP 4xx): not taken, though the receiver saw it.
    Rejected,
    /// Answered that something went wrong while it was handled (HTTP 5xx, 3xx): it may have taken
    /// effect.
    Failed,
}

/// How often a message may reach its receiver.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Guarantee {
    /// `at-least-once`: sent again until it is known to have arrived, under the same idempotency key.
    #[default]
    AtLeastOnce,
    /// `at-most-once`: never sent again once it may have arrived; an operator decides.
    AtMostOnce,
}

/// What is to be recorded at the end of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// Close as delivered.
    Done {
        /// The sink's evidence.
        receipt: String,
    },
    /// Close as expired: `expires_at` or `expires_after` passed before an attempt began.
    Expired,
    /// Try again after `delay`, by the database's clock.
    Retry {
        /// Wait from now.
        delay: Duration,
        /// Why the attempt did not deliver.
        reason: String,
    },
    /// Give up and wait for an operator.
    Dead {
        /// Why.
        reason: String,
    },
    /// In doubt, or not to be sent as it is: wait for an operator.
    Held {
        /// Why.
        reason: String,
        /// Whether an attempt was made.
        attempted: bool,
    },
    /// Put back untouched: no attempt was made. `delay` keeps it out of the way meanwhile.
    Release {
        /// Wait from now.
        delay: Duration,
        /// Why it could not be attempted here.
        reason: String,
    },
}

impl Settlement {
    /// Leaves of its words what every database can hold.
    pub fn make_ascii(&mut self) {
        let (Settlement::Done { receipt: words }
        | Settlement::Retry { reason: words, .. }
        | Settlement::Dead { reason: words }
        | Settlement::Held { reason: words, .. }
        | Settlement::Release { reason: words, .. }) = self
        else {
            return;
        };
        *words = in_ascii(words);
    }
}

/// The text with a question mark for whatever not every database can hold.
#[must_use]
pub fn in_ascii(text: &str) -> String {
    text.chars().map(|c| if c == ' ' || c.is_ascii_graphic() { c } else { '?' }).collect()
}

/// Longest receipt or reason that is kept, in characters.
pub const TEXT_MAX: usize = 500;

/// Cuts and cleans a receiver's words so that they fit a row and a log line: control characters
/// become spaces, and at most [`TEXT_MAX`] characters stay.
#[must_use]
pub fn clean_text(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(TEXT_MAX)
        .collect::<String>()
        .trim()
        .to_owned()
}

/// How far an attempt has come: whether bytes are out that could deliver and that nobody has answered,
/// whether the relay may still let them go, and what is known of each recipient.
///
/// The sink begins the phase immediately before the first such byte, and ends it with the answer; whoever
/// cancels the attempt reads it, to tell "certainly not sent" from "in doubt".
#[derive(Default)]
pub struct Phase {
    /// Whether the content may have been seen.
    seen: AtomicBool,
    /// Whether something is out and not answered.
    open: AtomicBool,
    /// Whether the receiver refused us rather than the message.
    policy: AtomicBool,
    /// Whether nothing was said of the message yet, where the sink tells.
    door: AtomicBool,
    may_send: Option<Box<dyn Fn() -> bool + Send + Sync>>,
    recipients: Mutex<Recipients>,
}

impl Phase {
    /// A phase that asks, at the last moment, whether the relay may still send: a process that was
    /// suspended wakes up in the middle of an attempt with its lease gone. `recipients` is what earlier
    /// attempts left.
    #[must_use]
    pub fn guarded(
        may_send: impl Fn() -> bool + Send + Sync + 'static,
        recipients: Recipients,
    ) -> Phase {
        Phase {
            may_send: Some(Box::new(may_send)),
            recipients: Mutex::new(recipients),
            ..Phase::default()
        }
    }

    /// To be called immediately before the first byte that could deliver.
    ///
    /// # Errors
    /// The outcome to answer at once, without sending, when the relay may no longer send.
    pub fn begin(&self) -> Result<(), Outcome> {
        if self.may_send.as_ref().is_some_and(|may_send| !may_send()) {
            let reason = "the relay's lease ran out before the message went out".to_owned();
            return Err(Outcome::Transient { cause: Cause::Unreachable, reason, wait: None });
        }
        self.seen.store(true, Ordering::SeqCst);
        self.open.store(true, Ordering::SeqCst);
        Ok(())
    }

    /// To be called when what was begun is known not to have gone out, or has been answered: nothing is
    /// in doubt any more.
    pub fn end(&self) {
        self.open.store(false, Ordering::SeqCst);
    }

    /// Whether the message may have arrived, and nobody knows.
    #[must_use]
    pub fn may_have_arrived(&self) -> bool {
        self.open.load(Ordering::SeqCst)
    }

    /// Whether anybody may have seen the content.
    #[must_use]
    pub fn may_have_been_seen(&self) -> bool {
        self.seen.load(Ordering::SeqCst)
    }

    /// Notes whether what happens from now on happens before anything is said of the message: at the door,
    /// where no message is to blame.
    pub fn at_door(&self, is_at_door: bool) {
        self.door.store(is_at_door, Ordering::SeqCst);
    }

    /// Whether the attempt has come no further than the door.
    #[must_use]
    pub fn is_at_door(&self) -> bool {
        self.door.load(Ordering::SeqCst)
    }

    /// To be called when the receiver refused for good, and may have meant us: by a policy of its own, or
    /// because our address is on a list. Whether it did, others show that meet the same.
    pub fn refused_by_policy(&self) {
        self.policy.store(true, Ordering::SeqCst);
    }

    /// Whether a refusal may have meant us.
    #[must_use]
    pub fn is_refused_by_policy(&self) -> bool {
        self.policy.load(Ordering::SeqCst)
    }

    /// What is known of each recipient: earlier attempts and this one. Whoever is asked after an attempt
    /// that was cut short is told what is known by then.
    pub fn recipients(&self) -> MutexGuard<'_, Recipients> {
        self.recipients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The outcome of an attempt that was cut short at this phase.
    #[must_use]
    pub fn cut_short(&self, reason: &str) -> Outcome {
        if self.may_have_arrived() {
            let reason = format!("{reason} after the message went out");
            return Outcome::InDoubt { reason };
        }
        let reason = format!("{reason} before the message went out");
        Outcome::Transient { cause: Cause::Unreachable, reason, wait: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_cut_and_cleaned() {
        assert_eq!(clean_text("250 ok\r\nqueued\0as 1 "), "250 ok  queued as 1");
        assert_eq!(clean_text(&"ä".repeat(600)).chars().count(), TEXT_MAX);
    }

    #[test]
    fn an_attempt_cut_short_is_in_doubt_only_after_the_mark() {
        let phase = Phase::default();
        assert!(matches!(phase.cut_short("timed out"), Outcome::Transient { .. }));
        phase.begin().unwrap();
        assert!(matches!(phase.cut_short("timed out"), Outcome::InDoubt { .. }));
        phase.end();
        assert!(matches!(phase.cut_short("timed out"), Outcome::Transient { .. }));
        assert!(phase.may_have_been_seen());
    }

    #[test]
    fn nothing_begins_once_the_relay_may_not_send() {
        let phase = Phase::guarded(|| false, Recipients::default());
        assert!(matches!(phase.begin(), Err(Outcome::Transient { .. })));
        assert!(!phase.may_have_arrived());
    }
}
