//! Ending: what is recorded of a dialogue's end. Pure.

use std::time::Duration;

use jiff::Timestamp;

use super::{PAUSE_MAX, PAUSE_MIN};
use crate::delivery::{Settlement, clean_text};
use crate::metrics::MailEnd;
use crate::store::mailing::MailingEnd;

/// How long a mail rests that met its server's trouble: the longer that lasts, the rarer it is asked.
pub(super) fn rest(planned_at: Timestamp, now: Timestamp) -> Duration {
    let age = now.duration_since(planned_at).unsigned_abs();
    (age / 10).clamp(PAUSE_MIN, PAUSE_MAX)
}

/// How the dialogue ended, and the words for it. A server in trouble spends no attempt; as there is no
/// breaker before a mail's one dialogue, the mail rests at least so long.
pub(super) fn ending(settlement: Settlement, rest: Duration) -> (MailingEnd, String) {
    match settlement {
        Settlement::Done { receipt } => (MailingEnd::Sent, receipt),
        Settlement::Retry { delay, reason } => (MailingEnd::Unsent { delay, spent: true }, reason),
        Settlement::Release { delay, reason } => {
            (MailingEnd::Unsent { delay: delay.max(rest), spent: false }, reason)
        }
        Settlement::Held { reason, .. } => (MailingEnd::Held, reason),
        Settlement::Dead { reason } => (MailingEnd::Dead, reason),
        Settlement::Expired => (MailingEnd::Dead, "expired".to_owned()),
    }
}

/// The end as metrics have it.
pub(super) fn counted(end: &MailingEnd) -> MailEnd {
    match end {
        MailingEnd::Sent => MailEnd::Sent,
        MailingEnd::Unsent { .. } => MailEnd::Unsent,
        MailingEnd::Held => MailEnd::Held,
        MailingEnd::Dead => MailEnd::Dead,
    }
}

/// A transcript as the database takes it.
pub(super) fn clean_lines(text: &str) -> String {
    text.lines().map(clean_text).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_stays_in_trouble_is_asked_ever_more_rarely() {
        let planned_at: Timestamp = "2026-11-20T01:00:05Z".parse().unwrap();
        let delay = |seconds, wanted: u64| {
            let now = planned_at + jiff::SignedDuration::from_secs(seconds);
            let delay = Duration::from_secs(wanted);
            let released = Settlement::Release { delay, reason: String::new() };
            match ending(released, rest(planned_at, now)) {
                (MailingEnd::Unsent { delay, spent: false }, _) => delay.as_secs(),
                (other, _) => panic!("{other:?}"),
            }
        };
        assert_eq!([delay(3, 1), delay(100, 1), delay(86_400, 1)], [1, 10, 60]);
        assert_eq!(delay(3, 300), 300, "the server's own word");
    }
}
