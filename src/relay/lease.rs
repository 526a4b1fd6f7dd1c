//! The lease, seen from inside: until when this relay may act.
//!
//! Time is CLOCK_BOOTTIME, which goes on while the machine sleeps: a relay that wakes from suspend
//! knows at once that its lease is over, though its timers have not fired yet.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Time since boot, suspend included.
#[must_use]
pub fn since_boot() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    Duration::new(seconds, u32::try_from(now.tv_nsec).unwrap_or_default())
}

/// Until when the relay may send.
#[derive(Debug, Default)]
pub struct Lease {
    /// Milliseconds since boot; 0 means the lease is gone.
    ends_at: AtomicU64,
}

impl Lease {
    /// Notes a renewal that was asked for at `asked_at`. The relay's own end lies a fifth before
    /// the one the database counts, so that it stops before another relay starts.
    pub fn renew(&self, asked_at: Duration, lease: Duration) {
        let end = asked_at + lease * 4 / 5;
        self.ends_at.store(u64::try_from(end.as_millis()).unwrap_or(u64::MAX), Ordering::SeqCst);
    }

    /// Gives the lease up.
    pub fn end(&self) {
        self.ends_at.store(0, Ordering::SeqCst);
    }

    /// What is left; zero once it is over.
    #[must_use]
    pub fn left(&self) -> Duration {
        let end = Duration::from_millis(self.ends_at.load(Ordering::SeqCst));
        end.saturating_sub(since_boot())
    }

    /// Whether the relay may still send.
    #[must_use]
    pub fn holds(&self) -> bool {
        !self.left().is_zero()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lease_ends_a_fifth_early_and_counts_from_the_question() {
        let lease = Lease::default();
        assert!(!lease.holds());
        lease.renew(since_boot(), Duration::from_secs(10));
        assert!(lease.left() > Duration::from_secs(7) && lease.left() <= Duration::from_secs(8));
        lease.renew(since_boot().saturating_sub(Duration::from_secs(9)), Duration::from_secs(10));
        assert!(!lease.holds());
        lease.renew(since_boot(), Duration::from_secs(10));
        lease.end();
        assert!(!lease.holds());
    }
}
