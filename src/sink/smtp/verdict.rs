//! What a refusal means: whose trouble it is, and for how long. Pure.
//!
//! Taking one recipient's trouble for the server's would keep every other mail waiting for it, so
//! only clear words about the sender's pace count as such.

use std::time::Duration;

use super::wire::Reply;
use crate::config::parse_duration;
use crate::delivery::Cause;
use crate::policy::Codes;

/// Longest wait that is believed.
const WAIT_MAX: Duration = Duration::from_secs(24 * 3600);

/// Where in the dialogue a reply came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Greeting,
    Hello,
    Login,
    Mail,
    Recipient,
    Data,
    Content,
}

/// What a reply that is no yes means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// For good: this recipient's, or the mail's. `policy`: the receiver refuses us and not the address.
    Refused { policy: bool },
    /// Not now. The cause says whose trouble it is.
    Deferred { cause: Cause, wait: Option<Duration> },
    /// Too many recipients in one transaction: this one goes with the next one.
    TooMany,
}

/// What a reply means. `permanent` are the codes after which asking again cannot help, if the route
/// names any.
pub(super) fn of(step: Step, reply: &Reply, permanent: Option<&Codes>) -> Verdict {
    let for_good = permanent.map_or(reply.is_refusal(), |codes| codes.has(reply.code));
    let wait = wait(reply);
    if step == Step::Mail {
        let cause = if reply.is_refusal() { Cause::Barred } else { of_mail(reply) };
        return Verdict::Deferred { cause, wait };
    }
    if for_good {
        return Verdict::Refused { policy: false };
    }
    if step == Step::Recipient && reply.code == 452 && matches!(enhanced(reply), Some([4, 5, 3])) {
        return Verdict::TooMany;
    }
    Verdict::Deferred { cause: of_mail(reply), wait }
}

/// Why a mail was refused for now. 454 is how Amazon says that its sending rate or quota is used up,
/// also in answer to DATA and to the mail itself.
fn of_mail(reply: &Reply) -> Cause {
    if is_about_pace(reply) || (reply.code == 454 && !is_greylisting(reply)) {
        return Cause::Throttled;
    }
    Cause::Refused
}

/// Why the server did not let us in: no mail's fault, whatever it says.
pub(super) fn of_entry(reply: &Reply) -> Cause {
    if is_about_pace(reply) { Cause::Throttled } else { Cause::Unreachable }
}

/// How long the server wants us to wait, where its words say so: "try again in 5 minutes", "come
/// back in 00:04:59", "retry after 300s". At most a day.
pub(super) fn wait(reply: &Reply) -> Option<Duration> {
    let text = words(reply);
    if !has_any(&text, &["again", "back", "retry", "wait", "later", "resend"]) {
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

/// Whether the server asks the sender as such to slow down or to go away for a while.
fn is_about_pace(reply: &Reply) -> bool {
    if !reply.is_transient() || is_greylisting(reply) {
        return false;
    }
    if reply.code == 421 {
        return true;
    }
    // RFC 3463: x.1 is about the address, x.2 about the mailbox, x.6 about the content, and 4.5.3
    // about the number of recipients. "Receiving mail at a rate that …" comes with 4.2.1.
    let status = enhanced(reply);
    if matches!(status, Some([_, 1 | 2 | 6, _] | [_, 5, 3])) {
        return false;
    }
    let text = words(reply);
    let mut each = text.split(|c: char| !c.is_ascii_alphanumeric());
    if each.any(|word| matches!(word, "rate" | "rates" | "ratelimit" | "ratelimited")) {
        return true;
    }
    let crowds =
        ["connections", "sessions", "messages", "mails", "requests", "commands", "concurrent"];
    let bounds = ["quota", "limit"];
    let senders = [
        "sending",
        "sender",
        "daily",
        "hourly",
        "per hour",
        "per day",
        "per minute",
        "per second",
        "connection",
        "concurrent",
    ];
    has_any(&text, &["throttl"])
        || (has_any(&text, &["too many"]) && has_any(&text, &crowds) && !text.contains("recipient"))
        || (has_any(&text, &bounds) && has_any(&text, &senders) && !text.contains("recipient"))
}

/// Whether the server defers whom it sees for the first time: one mail's matter, and over by
/// itself when it comes again.
fn is_greylisting(reply: &Reply) -> bool {
    let text = words(reply).replace(['-', ' '], "");
    has_any(&text, &["greylist", "graylist"])
}

/// The status code of RFC 3463 with which a reply begins.
fn enhanced(reply: &Reply) -> Option<[u16; 3]> {
    let word = reply.lines.first()?.split_ascii_whitespace().next()?;
    let parts: Option<Vec<u16>> = word.split('.').map(|part| part.parse().ok()).collect();
    parts?.try_into().ok()
}

fn words(reply: &Reply) -> String {
    reply.lines.join(" ").to_ascii_lowercase()
}

fn has_any(text: &str, any: &[&str]) -> bool {
    any.iter().any(|one| text.contains(one))
}

/// A word without the punctuation around it.
fn trim(word: &str) -> &str {
    word.trim_matches(|c: char| !c.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::*;
    use Cause::{Refused, Throttled, Unreachable};

    fn reply(text: &str) -> Reply {
        let (code, rest) = text.split_at(3);
        let lines = rest.trim_start().split('\n').map(str::to_owned).collect();
        Reply { code: code.parse().unwrap(), lines }
    }

    /// As servers write them.
    #[test]
    fn only_clear_words_about_pace_are_everybodys_trouble() {
        for (text, mail, entry) in [
            ("421 4.7.0 Try again later, closing connection", Throttled, Throttled),
            ("421 4.3.2 Service shutting down", Throttled, Throttled),
            ("421", Throttled, Throttled),
            ("421 4.7.0 Greylisted, come back later", Refused, Unreachable),
            ("454 Throttling failure: Maximum sending rate exceeded.", Throttled, Throttled),
            ("454 Throttling failure: Daily message quota exceeded.", Throttled, Throttled),
            ("454 4.7.0 Temporary authentication failure", Throttled, Unreachable),
            ("454 4.7.0 TLS not available due to local problem", Throttled, Unreachable),
            ("450 4.7.1 Error: rate limit exceeded", Throttled, Throttled),
            (
                "450 4.7.1 <a@b>: Recipient address rejected: rate of mail too high",
                Throttled,
                Throttled,
            ),
            ("451 4.7.1 Sender throttled", Throttled, Throttled),
            ("451 4.7.0 hourly sending limit reached", Throttled, Throttled),
            ("432 4.3.2 STOREDRV.ClientSubmit; sender thread limit exceeded", Throttled, Throttled),
            ("450 Too many messages, slow down", Throttled, Throttled),
            ("451 4.7.500 Server busy\ntoo many concurrent connections", Throttled, Throttled),
            // One recipient's or one mail's.
            (
                "450 4.2.1 The user is receiving mail at a rate that prevents more",
                Refused,
                Unreachable,
            ),
            ("452 4.2.2 Mailbox full: quota of the sender's friend exceeded", Refused, Unreachable),
            ("452 4.1.1 daily limit of this address", Refused, Unreachable),
            ("452 4.5.3 Too many recipients, message limit", Refused, Unreachable),
            ("452 Too many recipients per message", Refused, Unreachable),
            ("452 4.3.1 Insufficient system storage", Refused, Unreachable),
            ("450 4.7.1 Greylisted at this rate, try again in 300 seconds", Refused, Unreachable),
            ("451 4.7.1 grey-listing is in action", Refused, Unreachable),
            ("450 4.2.0 Recipient address rejected: Graylisted", Refused, Unreachable),
            ("454 greylisted", Refused, Unreachable),
            ("451 4.3.0 temporarily overloaded", Refused, Unreachable),
            ("451 Moderate and separate, please generate accurate mail", Refused, Unreachable),
            ("450", Refused, Unreachable),
            // Never a matter of pace.
            ("550 5.7.1 sending rate exceeded", Refused, Unreachable),
            ("554 5.3.2 throttled", Refused, Unreachable),
        ] {
            assert_eq!((of_mail(&reply(text)), of_entry(&reply(text))), (mail, entry), "{text}");
        }
    }

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
            assert_eq!(wait(&reply(text)).map(|wait| wait.as_secs()), seconds, "{text}");
        }
    }
}
