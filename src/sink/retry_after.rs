//! `Retry-After`: how long a receiver wants to be left alone.

use std::time::Duration;

use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimeParser;

/// Longest wait that is believed.
const WAIT_MAX: Duration = Duration::from_secs(24 * 3600);

/// Reads a `Retry-After` (RFC 9110 section 10.2.3): seconds or an HTTP date. Junk, negative and
/// past values count as absent; a day at most.
#[must_use]
pub fn retry_after(value: &str, now: Timestamp) -> Option<Duration> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) {
        let seconds = value.parse().unwrap_or(u64::MAX);
        return Some(Duration::from_secs(seconds).min(WAIT_MAX)).filter(|wait| !wait.is_zero());
    }
    let date = DateTimeParser::new().relaxed_weekday(true).parse_timestamp(value).ok()?;
    let wait = Duration::try_from(date.duration_since(now)).ok()?;
    Some(wait.min(WAIT_MAX)).filter(|wait| !wait.is_zero())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_believed_only_as_far_as_it_makes_sense() {
        let now = "1994-11-06T08:49:00Z".parse().unwrap();
        let wait = |value| retry_after(value, now).map(|w| w.as_secs());
        assert_eq!(wait("120"), Some(120));
        assert_eq!(wait("Sun, 06 Nov 1994 08:49:37 GMT"), Some(37));
        assert_eq!(wait("99999999999999999999999"), Some(24 * 3600));
        assert_eq!(wait("Sun, 06 Nov 2094 08:49:37 GMT"), Some(24 * 3600));
        for ignored in ["", "0", "-1", "1e9", "soon", "1.5", "Sun, 06 Nov 1994 08:48:00 GMT"] {
            assert_eq!(wait(ignored), None, "{ignored}");
        }
    }
}
