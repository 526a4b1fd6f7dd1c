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
use std::time::Duration;

/// What the sink knows after an attempt. Nothing in doubt is ever called failed or done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Accepted by the receiver; `receipt` is its evidence (HTTP status, SMTP reply).
    Delivered {
        /// At most [`TEXT_MAX`] characters.
        receipt: String,
    },
    /// Certainly not accepted now; may be later.
    Transient {
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

/// What is to be recorded at the end of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// Close as delivered.
    Done {
        /// The sink's evidence.
        receipt: String,
    },
    /// Close as expired: `expires_at` passed before an attempt began.
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
    /// Put back untouched: no attempt was made. `delay` keeps it out of the way meanwhile.
    Release {
        /// Wait from now.
        delay: Duration,
        /// Why it could not be attempted here.
        reason: String,
    },
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

/// How far an attempt has come: whether bytes have gone out that could deliver.
///
/// The sink marks it immediately before the first such byte; whoever cancels the attempt reads it,
/// to tell "certainly not sent" from "in doubt".
#[derive(Debug, Default)]
pub struct Phase(AtomicBool);

impl Phase {
    /// From here on the message may arrive.
    pub fn mark_may_arrive(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Whether the message may have arrived.
    #[must_use]
    pub fn may_have_arrived(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    /// The outcome of an attempt that was cut short at this phase.
    #[must_use]
    pub fn cut_short(&self, reason: &str) -> Outcome {
        if self.may_have_arrived() {
            let reason = format!("{reason} after the message went out");
            return Outcome::InDoubt { reason };
        }
        Outcome::Transient { reason: format!("{reason} before the message went out"), wait: None }
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
        phase.mark_may_arrive();
        assert!(matches!(phase.cut_short("timed out"), Outcome::InDoubt { .. }));
    }
}
