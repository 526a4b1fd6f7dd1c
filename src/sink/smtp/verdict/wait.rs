//! How long a server wants us to wait, in its words.

use std::time::Duration;

use crate::config::parse_duration;

/// Longest wait that is believed.
const WAIT_MAX: Duration = Duration::from_secs(24 * 3600);

/// How long the server wants us to wait, where its words say so: "try again in 5 minutes", "come
/// back in 00:04:59", "retry after 300s". At most a day.
pub(super) fn of(text: &str) -> Option<Duration> {
    if !["again", "back", "retry", "wait", "later", "resend"].iter().any(|word| text.contains(word))
    {
        return None;
    }
    let words: Vec<&str> = text.split_ascii_whitespace().map(trim).collect();
    let lead = |word: &str| matches!(word, "in" | "after" | "wait" | "least" | "for");
    let spans = words.windows(2).enumerate().filter(|(_, pair)| lead(pair[0]));
    let mut spans = spans.filter_map(|(at, pair)| span(pair[1], words.get(at + 2).copied()));
    spans.next().map(|span| span.min(WAIT_MAX)).filter(|span| !span.is_zero())
}

/// `300s`, `00:05:00`, or a number and the word after it.
fn span(word: &str, unit: Option<&str>) -> Option<Duration> {
    let Ok(count) = word.parse::<u64>() else {
        return parse_duration(word).or_else(|| clock(word));
    };
    let seconds = match unit? {
        "s" | "sec" | "secs" | "second" | "seconds" => 1,
        "m" | "min" | "mins" | "minute" | "minutes" => 60,
        "h" | "hr" | "hrs" | "hour" | "hours" => 3600,
        _ => return None,
    };
    Some(Duration::from_secs(count.saturating_mul(seconds)))
}

/// Hours, minutes and seconds with colons between them.
fn clock(word: &str) -> Option<Duration> {
    let parts: Option<Vec<u32>> = word.split(':').map(|part| part.parse().ok()).collect();
    let parts = parts.filter(|parts| parts.len() == 3 && parts.iter().all(|part| *part < 100))?;
    let seconds = parts.into_iter().fold(0, |seconds, part| seconds * 60 + u64::from(part));
    Some(Duration::from_secs(seconds))
}

/// A word without the punctuation around it.
fn trim(word: &str) -> &str {
    word.trim_matches(|c: char| !c.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_taken_from_the_words() {
        for (text, seconds) in [
            ("450 4.7.1 Greylisted, try again in 300 seconds", Some(300)),
            ("451 4.7.1 Please try again in 5 minutes.", Some(300)),
            ("421 4.7.0 try again after 1 hour", Some(3_600)),
            ("450 Greylisted; please wait 2 min and resend", Some(120)),
            ("451 4.7.1 Greylisting in action, please come back in 00:04:51", Some(291)),
            ("450 4.7.1 retry in (300s)", Some(300)),
            ("450 4.7.1 retry in 4m59s", Some(299)),
            ("451 Wait at least 90 secs", Some(90)),
            ("451 deferred for\n10 minutes, try later", Some(600)),
            ("450 try again in 100 hours", Some(24 * 3_600)),
            ("450 try again in 99999999999999999 hours", Some(24 * 3_600)),
            ("450 try again in 99999999999999999999999 hours", None),
            ("450 try again in 0 seconds", None),
            ("450 try again in a few minutes", None),
            ("450 try again in 5", None),
            ("450 try again in 5 attempts", None),
            ("450 try again later, more than 100 mails per 60 seconds", None),
            ("451 idle for 300 seconds", None),
            ("450 4.7.1 come back in 12:30", None),
            ("450", None),
        ] {
            assert_eq!(
                of(&text.to_ascii_lowercase()).map(|wait| wait.as_secs()),
                seconds,
                "{text}"
            );
        }
    }
}
