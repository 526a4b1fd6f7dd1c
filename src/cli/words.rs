//! The small languages of the command line: names of deliveries, spans, instants, ages.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use jiff::Timestamp;

use crate::config;
use crate::name::Name;

/// `MESSAGE`, `MESSAGE/SINK` or `MESSAGE/SINK/TARGET`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DeliveryName {
    pub message_id: i64,
    /// None: through every sink.
    pub sink: Option<String>,
    /// None: to every target.
    pub target: Option<String>,
}

impl FromStr for DeliveryName {
    type Err = String;

    fn from_str(text: &str) -> Result<DeliveryName, String> {
        let mut parts = text.split('/');
        let id = parts.next().unwrap_or_default();
        let digits = !id.is_empty() && id.bytes().all(|b| b.is_ascii_digit());
        let message_id = id.parse().ok().filter(|id| digits && *id > 0).ok_or(
            "write the message's id, or id/sink, or id/sink/target: 42, 42/mail, 42/mail/office",
        )?;
        let mut name = || parts.next().map(|part| Name::parse(part).map(|n| n.to_string()));
        let (sink, target) = (name().transpose()?, name().transpose()?);
        if parts.next().is_some() {
            return Err("has more than three parts; write id/sink/target".to_owned());
        }
        Ok(DeliveryName { message_id, sink, target })
    }
}

impl fmt::Display for DeliveryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.message_id)?;
        for part in [&self.sink, &self.target].into_iter().flatten() {
            write!(f, "/{part}")?;
        }
        Ok(())
    }
}

impl DeliveryName {
    /// Whether a delivery of the message is meant.
    pub fn takes(&self, sink: &str, target: &str) -> bool {
        self.sink.as_deref().is_none_or(|s| s == sink)
            && self.target.as_deref().is_none_or(|t| t == target)
    }
}

/// `EXPORT/PERIOD`: the file of a period, or the mail it goes out with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FileName {
    /// The csv sink or export.
    pub sink: String,
    pub period: String,
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.sink, self.period)
    }
}

/// What an operator can name: a delivery begins with a digit, a file with a letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Named {
    Delivery(DeliveryName),
    File(FileName),
}

impl FromStr for Named {
    type Err = String;

    fn from_str(text: &str) -> Result<Named, String> {
        if !text.starts_with(|c: char| c.is_ascii_lowercase()) {
            return text.parse().map(Named::Delivery);
        }
        let (sink, period) = text
            .split_once('/')
            .filter(|(_, period)| period.starts_with(|c: char| c.is_ascii_digit()))
            .ok_or(
                "write a message, 42 or 42/mail, or the period of an export, orders/2026-11-20",
            )?;
        let sink = Name::parse(sink)?.to_string();
        Ok(Named::File(FileName { sink, period: period.to_owned() }))
    }
}

/// The name of one delivery, as [`DeliveryName`] reads it.
pub(super) fn delivery_name(message_id: i64, sink: &str, target: &str) -> String {
    match (sink, target) {
        ("", _) => message_id.to_string(),
        (sink, "") => format!("{message_id}/{sink}"),
        (sink, target) => format!("{message_id}/{sink}/{target}"),
    }
}

/// A span of time, as the config writes it.
pub(super) fn span(text: &str) -> Result<Duration, String> {
    config::parse_duration(text)
        .ok_or_else(|| "write it like \"500ms\", \"15s\", \"1h30m\" or \"7d\"".to_owned())
}

/// An instant with its offset, so that it means the same everywhere.
pub(super) fn instant(text: &str) -> Result<Timestamp, String> {
    text.parse().map_err(|_| {
        "write it with an offset, like 2026-11-20T08:00:00Z or 2026-11-20T09:00:00+01:00".to_owned()
    })
}

/// `name=value`.
pub(super) fn header(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.trim().is_empty() => {
            Ok((name.trim().to_owned(), value.to_owned()))
        }
        _ => Err("write it like traceparent=00-…".to_owned()),
    }
}

/// A span in its two largest units: `12s`, `4m10s`, `3d4h`.
pub(super) fn age(seconds: i64) -> String {
    const UNITS: [(i64, &str); 4] = [(86_400, "d"), (3_600, "h"), (60, "m"), (1, "s")];
    let mut rest = seconds.max(0);
    let mut parts = Vec::new();
    for (size, unit) in UNITS {
        if rest >= size {
            parts.push(format!("{}{unit}", rest / size));
            rest %= size;
        } else if !parts.is_empty() {
            break;
        }
        if parts.len() == 2 {
            break;
        }
    }
    if parts.is_empty() { "0s".to_owned() } else { parts.concat() }
}

/// When something falls due, seen from now.
pub(super) fn due(seconds: Option<i64>) -> String {
    match seconds {
        None => "-".to_owned(),
        Some(0) => "now".to_owned(),
        Some(left) if left > 0 => format!("in {}", age(left)),
        Some(past) => format!("{} ago", age(past.saturating_neg())),
    }
}

/// An instant to the second, in UTC.
pub(super) fn moment(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%SZ").to_string()
}

/// What somebody did, from the verb in the record of actions.
pub(super) fn did(verb: &str) -> &str {
    match verb {
        "retry" => "retried",
        "discard" => "discarded",
        "resolve" => "resolved",
        "replay" => "replayed",
        "pause" => "paused",
        "resume" => "resumed",
        "run" => "ran",
        other => other,
    }
}

/// So many a span: `100/min`; the time between two.
pub(super) fn every(text: &str) -> Result<Duration, String> {
    let wrong = || "write it like \"14/s\", \"100/min\", \"500/h\" or \"2000/d\"".to_owned();
    let (count, unit) = text.split_once('/').ok_or_else(wrong)?;
    let seconds = match unit {
        "s" => 1,
        "min" | "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    let digits = count.bytes().all(|b| b.is_ascii_digit());
    let count: u32 = count.parse().ok().filter(|n| digits && *n > 0).ok_or_else(wrong)?;
    Ok(Duration::from_secs(seconds) / count)
}

/// `1 delivery`, `2 deliveries`.
pub(super) fn deliveries(count: u64) -> String {
    if count == 1 { "1 delivery".to_owned() } else { format!("{count} deliveries") }
}

/// Text from the database on its way to a terminal, which must not take it for a command.
pub(super) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deliveries_are_named_by_message_sink_and_target() {
        for (text, sink, target) in [
            ("42", None, None),
            ("42/mail", Some("mail"), None),
            ("42/mail/office", Some("mail"), Some("office")),
        ] {
            let name: DeliveryName = text.parse().unwrap();
            assert_eq!((name.sink.as_deref(), name.target.as_deref()), (sink, target), "{text}");
            assert_eq!((name.message_id, name.to_string().as_str()), (42, text));
        }
        for text in ["", "x", "-1", "0", "+4", "42/", "42/Mail", "42/mail/", "42/a/b/c", "42 /a"] {
            assert!(text.parse::<DeliveryName>().is_err(), "{text}");
        }
        assert!("99999999999999999999".parse::<DeliveryName>().is_err());
        assert_eq!(delivery_name(7, "", ""), "7");
        assert_eq!(delivery_name(7, "crm", ""), "7/crm");
        assert_eq!(delivery_name(7, "mail", "office"), "7/mail/office");
    }

    #[test]
    fn a_name_without_target_takes_all_targets() {
        let name = |text: &str| text.parse::<DeliveryName>().unwrap();
        assert!(name("1").takes("mail", "office") && name("1/mail").takes("mail", "office"));
        assert!(!name("1/mail").takes("crm", ""));
        assert!(!name("1/mail/office").takes("mail", ""));
    }

    #[test]
    fn ages_show_their_two_largest_units() {
        for (seconds, shown) in [
            (-5, "0s"),
            (0, "0s"),
            (59, "59s"),
            (60, "1m"),
            (250, "4m10s"),
            (3_600, "1h"),
            (3_605, "1h"),
            (7_500, "2h5m"),
            (273_600, "3d4h"),
        ] {
            assert_eq!(age(seconds), shown, "{seconds}");
        }
        assert_eq!(due(Some(90)), "in 1m30s");
        assert_eq!(due(Some(-90)), "1m30s ago");
        assert_eq!(due(Some(i64::MIN)), due(Some(-i64::MAX)));
        assert_eq!((due(Some(0)), due(None)), ("now".to_owned(), "-".to_owned()));
    }

    #[test]
    fn arguments_say_what_would_be_right() {
        assert_eq!(span("1h30m"), Ok(Duration::from_secs(5_400)));
        assert!(span("soon").unwrap_err().contains("15s"));
        assert!(instant("2026-11-20T08:00:00+01:00").is_ok());
        assert!(instant("2026-11-20 08:00").unwrap_err().contains("offset"));
        assert_eq!(header("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert!(header("a").is_err() && header("=b").is_err());
    }

    #[test]
    fn a_rate_is_the_time_between_two() {
        for (text, millis) in
            [("10/s", 100), ("100/min", 600), ("60/h", 60_000), ("1/d", 86_400_000)]
        {
            assert_eq!(every(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for wrong in ["", "10", "0/s", "+1/s", "1/w", "/s", "1.5/s"] {
            assert!(every(wrong).unwrap_err().contains("100/min"), "{wrong}");
        }
    }

    #[test]
    fn a_terminal_is_given_no_commands() {
        assert_eq!(plain("a\x1b[31mb\nc ä"), "a?[31mb?c ä");
    }

    #[test]
    fn a_file_is_named_by_its_sink_and_period() {
        let file = |text: &str| match text.parse() {
            Ok(Named::File(name)) => (name.sink, name.period),
            other => panic!("{other:?}"),
        };
        let named = |sink: &str, period: &str| (sink.to_owned(), period.to_owned());
        assert_eq!(file("orders/2026-11-20"), named("orders", "2026-11-20"));
        assert_eq!(file("o/2026-11-20T1400-2"), named("o", "2026-11-20T1400-2"));
        assert!(matches!("42/mail".parse(), Ok(Named::Delivery(_))));
        assert!("orders".parse::<Named>().unwrap_err().contains("orders/2026-11-20"));
        assert!("orders/mail".parse::<Named>().is_err());
    }
}
