//! When to try again.

use std::time::Duration;

/// How often and after which waits a delivery is tried again.
///
/// n delays mean n + 1 attempts. The wait that is stored on the row is the delay, lengthened by a
/// random part of up to `jitter` of itself, so that rows that failed together do not return
/// together; it is never shortened.
#[derive(Clone, Debug, PartialEq)]
pub struct RetryPolicy {
    /// Wait before the second, third, … attempt.
    pub delays: Vec<Duration>,
    /// Largest random lengthening, as a part of the delay: 0.1 is ten percent.
    pub jitter: f64,
}

impl RetryPolicy {
    /// Most delays a policy may have.
    pub const DELAYS_MAX: usize = 100;
    /// Longest single delay.
    pub const DELAY_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

    /// The wait after attempt number `attempt` (counted from 1), or none if it was the last.
    ///
    /// `random` is drawn from 0 to 1 by the caller; `at_least` is what the receiver asked for and
    /// is only ever lengthened.
    #[must_use]
    pub fn delay_after(
        &self,
        attempt: u32,
        at_least: Option<Duration>,
        random: f64,
    ) -> Option<Duration> {
        let index = usize::try_from(attempt.max(1) - 1).ok()?;
        let base =
            (*self.delays.get(index)?).max(at_least.unwrap_or_default()).min(Self::DELAY_MAX);
        Some(base.mul_f64(1.0 + self.jitter * random.clamp(0.0, 1.0)))
    }

    /// The span from the first attempt to the last, without jitter.
    #[must_use]
    pub fn horizon(&self) -> Duration {
        self.delays.iter().sum()
    }
}

impl Default for RetryPolicy {
    /// 5 s, 5 min, 30 min, 2 h, 5 h, 10 h, 14 h, 24 h, 24 h: ten attempts over a little more than
    /// three days, after the example in the Standard Webhooks specification.
    fn default() -> Self {
        let minutes = [5, 30, 2 * 60, 5 * 60, 10 * 60, 14 * 60, 24 * 60, 24 * 60];
        let mut delays = vec![Duration::from_secs(5)];
        delays.extend(minutes.map(|m| Duration::from_secs(m * 60)));
        RetryPolicy { delays, jitter: 0.1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn n_delays_mean_n_plus_one_attempts() {
        let policy = RetryPolicy { delays: vec![Duration::from_secs(1); 3], jitter: 0.0 };
        let waits: Vec<bool> =
            (1..=5).map(|a| policy.delay_after(a, None, 0.0).is_some()).collect();
        assert_eq!(waits, [true, true, true, false, false]);
    }

    #[test]
    fn jitter_only_lengthens_and_stays_in_bounds() {
        let policy = RetryPolicy { delays: vec![Duration::from_secs(10)], jitter: 0.2 };
        for step in 0..=100 {
            let wait = policy.delay_after(1, None, f64::from(step) / 100.0).unwrap();
            assert!(wait >= Duration::from_secs(10) && wait <= Duration::from_secs(12), "{wait:?}");
        }
    }

    #[test]
    fn what_the_receiver_asked_for_is_a_floor_and_is_capped() {
        let policy = RetryPolicy { delays: vec![Duration::from_secs(10)], jitter: 0.1 };
        let wait = |asked| policy.delay_after(1, Some(Duration::from_secs(asked)), 0.0).unwrap();
        assert_eq!(wait(120), Duration::from_secs(120));
        assert_eq!(wait(1), Duration::from_secs(10));
        assert_eq!(wait(u64::MAX / 2), RetryPolicy::DELAY_MAX);
    }

    #[test]
    fn the_default_reaches_over_three_days() {
        assert!(RetryPolicy::default().horizon() >= Duration::from_secs(3 * 24 * 3600));
    }
}
