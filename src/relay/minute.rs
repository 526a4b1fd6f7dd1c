//! What a sink did within the last minute.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Attempts of the last minute, by the second.
#[derive(Debug, Default)]
pub struct Minute {
    /// Begin of the second, delivered, failed.
    seconds: VecDeque<(Instant, i32, i32)>,
}

impl Minute {
    /// Counts an attempt that ended now.
    pub fn count(&mut self, delivered: bool) {
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
    #[must_use]
    pub fn pace(&self) -> usize {
        let recent = self.seconds.iter().rev().take(2);
        let recent = recent.filter(|second| second.0.elapsed() < Duration::from_secs(2));
        let most = recent.map(|second| second.1 + second.2).max();
        usize::try_from(most.unwrap_or_default()).unwrap_or_default()
    }

    /// Delivered, and not, within the last minute.
    pub fn sums(&mut self) -> (i32, i32) {
        while self.seconds.front().is_some_and(|s| s.0.elapsed() > Duration::from_secs(60)) {
            self.seconds.pop_front();
        }
        self.seconds.iter().fold((0, 0), |sum, second| (sum.0 + second.1, sum.1 + second.2))
    }
}
