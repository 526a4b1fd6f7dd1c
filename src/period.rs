//! Periods: spans counted from midnight UTC, and the names of the files they give.

use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// A day, in microseconds.
const DAY: i64 = 24 * 3600 * 1_000_000;

/// One closed-open span of a fixed length that divides a day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Period {
    start: i64,
    length: i64,
}

impl Period {
    /// The period of that length that `at` falls into. A length of zero or more than a day counts
    /// as a day.
    #[must_use]
    pub fn of(at: Timestamp, length: Duration) -> Period {
        let length = i64::try_from(length.as_micros()).unwrap_or(DAY);
        let length = if length == 0 { DAY } else { length.min(DAY) };
        Period { start: at.as_microsecond().div_euclid(length) * length, length }
    }

    /// The first instant after the period.
    #[must_use]
    pub fn end(&self) -> Timestamp {
        Timestamp::from_microsecond(self.start + self.length).unwrap_or(Timestamp::MAX)
    }

    /// What stands for the period in a file's name: `2026-11-20` for a day, `2026-11-20T1405` for
    /// shorter spans, `2026-11-20T140530` for those shorter than a minute. Sortable, without `:`.
    #[must_use]
    pub fn label(&self) -> String {
        let start = Timestamp::from_microsecond(self.start).unwrap_or(Timestamp::MIN);
        let form = match self.length {
            DAY => "%Y-%m-%d",
            length if length % 60_000_000 == 0 => "%Y-%m-%dT%H%M",
            _ => "%Y-%m-%dT%H%M%S",
        };
        start.to_zoned(TimeZone::UTC).strftime(form).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label(at: &str, seconds: u64) -> String {
        Period::of(at.parse().unwrap(), Duration::from_secs(seconds)).label()
    }

    #[test]
    fn labels_are_sortable_and_hold_no_colon() {
        assert_eq!(label("2026-11-20T14:05:59.9Z", 86_400), "2026-11-20");
        assert_eq!(label("2026-11-20T14:05:59.9Z", 60), "2026-11-20T1405");
        assert_eq!(label("2026-11-20T14:05:59.9Z", 3_600), "2026-11-20T1400");
        assert_eq!(label("2026-11-20T14:05:59.9Z", 10), "2026-11-20T140550");
    }

    #[test]
    fn a_period_ends_where_the_next_begins() {
        let at: Timestamp = "2026-11-20T14:05:59.9Z".parse().unwrap();
        let period = Period::of(at, Duration::from_secs(60));
        assert_eq!(period.end(), "2026-11-20T14:06:00Z".parse().unwrap());
        assert_ne!(Period::of(period.end(), Duration::from_secs(60)), period);
    }
}
