//! Decide: outcome × policy × attempt → settlement. The whole policy, and pure.

use std::time::Duration;

use crate::delivery::{Cause, Guarantee, Outcome, Settlement};
use crate::policy::Policy;

/// How long a row rests that met its destination's trouble; the gate keeps it longer.
const TROUBLE_PAUSE: Duration = Duration::from_secs(1);

/// What is to be recorded after an attempt: outcome × policy × attempt → settlement.
///
/// `attempt` counts from 1 and includes this one; `random` is drawn from 0 to 1. `sinks_trouble` says
/// that different messages met the same: then the attempt is not spent, the message waits with its
/// sink. In doubt under at-least-once means again: the receiver sees the same idempotency key.
#[must_use]
pub fn decide(
    outcome: Outcome,
    policy: &Policy,
    attempt: u32,
    sinks_trouble: bool,
    random: f64,
) -> Settlement {
    let at_most_once = policy.guarantee == Guarantee::AtMostOnce;
    let (reason, wait) = match outcome {
        Outcome::Delivered { receipt } => return Settlement::Done { receipt },
        Outcome::Permanent { reason } => return Settlement::Dead { reason },
        Outcome::InDoubt { reason } if at_most_once => {
            return held(&reason);
        }
        Outcome::InDoubt { reason } => (format!("in doubt: {reason}"), None),
        Outcome::Transient { cause, reason, wait } => match cause {
            Cause::Away | Cause::Failed if at_most_once => {
                return held(&reason);
            }
            Cause::Rejected if at_most_once => return Settlement::Dead { reason },
            Cause::Barred | Cause::Throttled | Cause::Unreachable | Cause::Away
                if sinks_trouble =>
            {
                return Settlement::Release { delay: wait.unwrap_or(TROUBLE_PAUSE), reason };
            }
            Cause::Barred
            | Cause::Throttled
            | Cause::Unreachable
            | Cause::Away
            | Cause::Refused
            | Cause::Rejected
            | Cause::Failed => (reason, wait),
        },
    };
    match policy.retry.delay_after(attempt, wait, random) {
        Some(delay) => Settlement::Retry { delay, reason },
        None => Settlement::Dead { reason: format!("{reason}; gave up after {attempt} attempts") },
    }
}

fn held(reason: &str) -> Settlement {
    Settlement::Held { reason: format!("in doubt: {reason}"), attempted: true }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::retry::RetryPolicy;

    const FIRST: Duration = Duration::from_secs(10);
    const SECOND: Duration = Duration::from_secs(20);

    fn reason() -> String {
        "no".to_owned()
    }

    /// What a settlement is, in a word and its wait.
    fn short(settlement: &Settlement) -> (&'static str, u64) {
        match settlement {
            Settlement::Done { .. } => ("done", 0),
            Settlement::Expired => ("expired", 0),
            Settlement::Retry { delay, .. } => ("retry", delay.as_secs()),
            Settlement::Dead { .. } => ("dead", 0),
            Settlement::Held { .. } => ("held", 0),
            Settlement::Release { delay, .. } => ("release", delay.as_secs()),
        }
    }

    /// Every outcome under each guarantee, with and without others in the same trouble, at the
    /// first, the second, the last allowed and a later attempt.
    #[test]
    fn decide_is_a_table() {
        use Cause::{Away, Barred, Failed, Refused, Rejected, Throttled, Unreachable};
        let transient = |cause, wait: u64| Outcome::Transient {
            cause,
            reason: reason(),
            wait: Some(Duration::from_secs(wait)).filter(|w| !w.is_zero()),
        };
        let delivered = Outcome::Delivered { receipt: "HTTP 200".to_owned() };
        let permanent = Outcome::Permanent { reason: reason() };
        let in_doubt = Outcome::InDoubt { reason: reason() };
        let again = [("retry", 10), ("retry", 20), ("dead", 0), ("dead", 0)];
        let after = |wait| [("retry", wait), ("retry", wait), ("dead", 0), ("dead", 0)];
        let always = |end| [end; 4];
        let (done, dead, held) = (always(("done", 0)), always(("dead", 0)), always(("held", 0)));
        let back = |wait| always(("release", wait));
        // Outcome; at least once: alone, with others; at most once: alone, with others.
        let table = [
            (delivered, done, done, done, done),
            (permanent, dead, dead, dead, dead),
            (in_doubt, again, again, held, held),
            (transient(Unreachable, 0), again, back(1), again, back(1)),
            (transient(Unreachable, 60), after(60), back(60), after(60), back(60)),
            (transient(Barred, 0), again, back(1), again, back(1)),
            (transient(Barred, 60), after(60), back(60), after(60), back(60)),
            (transient(Away, 0), again, back(1), held, held),
            (transient(Away, 60), after(60), back(60), held, held),
            (transient(Throttled, 0), again, back(1), again, back(1)),
            (transient(Throttled, 60), after(60), back(60), after(60), back(60)),
            (transient(Refused, 0), again, again, again, again),
            (transient(Refused, 60), after(60), after(60), after(60), after(60)),
            (transient(Rejected, 0), again, again, dead, dead),
            (transient(Rejected, 60), after(60), after(60), dead, dead),
            (transient(Failed, 0), again, again, held, held),
            (transient(Failed, 60), after(60), after(60), held, held),
        ];
        for (outcome, alone, with_others, alone_once, with_others_once) in table {
            for (guarantee, sinks_trouble, expected) in [
                (Guarantee::AtLeastOnce, false, alone),
                (Guarantee::AtLeastOnce, true, with_others),
                (Guarantee::AtMostOnce, false, alone_once),
                (Guarantee::AtMostOnce, true, with_others_once),
            ] {
                let retry = RetryPolicy { delays: vec![FIRST, SECOND], jitter: 0.5 };
                let policy = Policy { retry, guarantee, ..Policy::default() };
                for (attempt, expected) in [1, 2, 3, 9].into_iter().zip(expected) {
                    let found = decide(outcome.clone(), &policy, attempt, sinks_trouble, 0.0);
                    let label = format!(
                        "{outcome:?}, {guarantee:?}, others {sinks_trouble}, attempt {attempt}"
                    );
                    assert_eq!(short(&found), expected, "{label}");
                }
            }
        }
    }

    #[test]
    fn reasons_say_what_it_was() {
        let retry = RetryPolicy { delays: vec![FIRST], jitter: 0.5 };
        let policy = Policy { retry, ..Policy::default() };
        let refused = || Outcome::Transient { cause: Cause::Refused, reason: reason(), wait: None };
        let in_doubt = || Outcome::InDoubt { reason: reason() };
        let dead = |reason: &str| Settlement::Dead { reason: reason.to_owned() };
        assert_eq!(decide(refused(), &policy, 2, false, 0.0), dead("no; gave up after 2 attempts"));
        assert_eq!(
            decide(in_doubt(), &policy, 2, false, 0.0),
            dead("in doubt: no; gave up after 2 attempts")
        );
        let delay = Duration::from_secs(15);
        assert_eq!(
            decide(refused(), &policy, 1, false, 1.0),
            Settlement::Retry { delay, reason: reason() },
            "jitter"
        );
        let once = Policy { guarantee: Guarantee::AtMostOnce, ..policy };
        assert_eq!(decide(in_doubt(), &once, 1, false, 0.0), held("no"));
    }
}
