//! `[relay]`: how this relay behaves.

use std::time::Duration;

use url::Url;

use super::read::Section;
use super::{Ping, Relay, Secret};

/// Reads the section.
pub(super) fn read(mut section: Section) -> Relay {
    let second = Duration::from_secs(1);
    let relay = Relay {
        lease: section.duration("lease", 10 * second, second..=300 * second),
        grace: section.duration("grace", 30 * second, Duration::ZERO..=3600 * second),
        ping: ping(&mut section),
    };
    section.close();
    relay
}

/// Whoever knows such a URL can keep an alarm from going off, so it is a secret and faults do not show it.
fn ping(section: &mut Section) -> Option<Ping> {
    let minute = Duration::from_secs(60);
    let found = section.secret("ping_url", "ping_url_file");
    let every = section.get("ping_every");
    let Some((item, text)) = found else {
        if let Some(every) =
            every.filter(|_| !section.has("ping_url") && !section.has("ping_url_file"))
        {
            every
                .fault("has no ping_url beside it", "write ping_url = \"https://…\", or remove it");
        }
        return None;
    };
    let every = every.and_then(|item| item.duration(minute / 60..=60 * minute)).unwrap_or(minute);
    match Url::parse(text.trim()) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.host().is_some() => {
            Some(Ping { url: Secret::new(url), every })
        }
        _ => {
            item.fault("is no http or https URL", "write it as the monitor gives it: https://…");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::testing::{parse, refuses};

    #[test]
    fn the_relay_has_defaults_and_bounds() {
        let relay = parse("").unwrap().relay;
        assert_eq!((relay.lease.as_secs(), relay.grace.as_secs()), (10, 30));
        let relay = parse("[relay]\nlease = \"1m\"\ngrace = \"0s\"\n").unwrap().relay;
        assert_eq!((relay.lease.as_secs(), relay.grace.as_secs()), (60, 0));
        for (line, fault) in [
            ("lease = \"500ms\"", "lease: \"500ms\" is out of range; 1s to 5m"),
            ("grace = \"2h\"", "grace: \"2h\" is out of range; 0s to 1h"),
            ("lease = \"10\"", "lease: \"10\" is no duration; write it with a unit, e.g. \"15s\""),
            (
                "lease = \"soon\"",
                "lease: \"soon\" is no duration; write it like \"500ms\", \"15s\", \"1h30m\" or \"7d\"",
            ),
            ("lease = 10", "lease: is an integer; write a duration, e.g. \"15s\""),
            ("lease = [\"10s\"]", "lease: is an array; write a duration, e.g. \"15s\""),
            ("leese = \"10s\"", "leese: is unknown; did you mean lease?"),
            (
                "colour = 3",
                "colour: is unknown; known here: lease, grace, ping_url, ping_url_file, ping_every",
            ),
            (
                "\"a b\" = 3",
                "\"a b\": is unknown; known here: lease, grace, ping_url, ping_url_file, ping_every",
            ),
            ("lease = \"${NOPE}\"", "lease: the environment variable NOPE is not set; set it"),
            ("lease = \"${NOPE\"", "lease: ${ has no }; write ${NAME}, or $$ for a dollar"),
            (
                "lease = \"${SESAME}\"",
                "lease: \"${SESAME}\" is no duration; write it like \"500ms\", \"15s\", \"1h30m\" or \"7d\"",
            ),
        ] {
            refuses(&format!("[relay]\n{line}\n"), &[&format!("outboxd.toml:2: relay.{fault}")]);
        }
    }

    #[test]
    fn a_ping_is_a_url_that_does_not_print() {
        assert!(parse("").unwrap().relay.ping.is_none());
        let url = "https://ping.example.com/sesame";
        let relay = parse(&format!("[relay]\nping_url = \"{url}\"\n")).unwrap().relay;
        assert!(!format!("{relay:?}").contains("sesame"));
        let ping = relay.ping.unwrap();
        assert_eq!((ping.url.expose(), ping.every), (url, Duration::from_secs(60)));
        for (lines, fault) in [
            (
                "ping_url = \"sesame\"",
                "ping_url: is no http or https URL; write it as the monitor gives it: https://…",
            ),
            (
                "ping_every = \"5m\"",
                "ping_every: has no ping_url beside it; write ping_url = \"https://…\", or remove it",
            ),
        ] {
            refuses(&format!("[relay]\n{lines}\n"), &[&format!("outboxd.toml:2: relay.{fault}")]);
        }
        let often = "[relay]\nping_url = \"http://a/\"\nping_every = \"500ms\"\n";
        refuses(often, &["outboxd.toml:3: relay.ping_every: \"500ms\" is out of range; 1s to 1h"]);
    }
}
