//! What `outboxd check` says of keys that sign mails. It asks no DNS: whoever publishes the record sees here
//! what it must be.

use crate::cli::finding::{Finding, Found};
use crate::config::{Config, DkimConfig, Way};

/// A line for each key, and one more for each that signs for another domain than that of `from`.
pub(super) fn keys(config: &Config) -> Vec<Finding> {
    let mut lines = Vec::new();
    for sink in config.sinks.values() {
        let Way::Smtp(smtp) = &sink.way else { continue };
        let from = match url::Host::parse(smtp.from.email.domain()) {
            Ok(host) => host.to_string(),
            Err(_) => smtp.from.email.domain().to_ascii_lowercase(),
        };
        for key in &smtp.dkim {
            let thing = format!("dkim {}", sink.name);
            let (algorithm, name) = (key.key.algorithm(), key.record_name());
            let words = format!("{algorithm}; its record: {name} TXT {}", key.key.record());
            lines.push(Finding::of(thing.clone(), Found::Good(words)));
            lines.extend(
                misaligned(key, &from).map(|words| Finding::of(thing, Found::Doubt(words))),
            );
        }
    }
    lines
}

/// DMARC counts a signature whose domain has the same owner as that of `From:` (RFC 7489 section 3.1.1).
/// Who owns what is known to a list of public suffixes; without it, one name above the other will do.
fn misaligned(key: &DkimConfig, from: &str) -> Option<String> {
    let domain = &key.domain;
    let is_below = |name: &str, top: &str| {
        name.strip_suffix(top).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    if is_below(from, domain) || is_below(domain, from) {
        return None;
    }
    Some(format!(
        "it signs for {domain}, from is of {from}: receivers that go by DMARC may not count it; \
         sign for {from} or a domain above it"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn said(from: &str, domain: &str) -> Vec<Found> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("integration/keys/outboxd.toml");
        let text = format!(
            "[database]\nurl = \"postgres://a@b/c\"\n\
             [sinks.mail]\nkind = \"smtp\"\nurl = \"smtps://m\"\nfrom = \"{from}\"\n\
             [sinks.mail.dkim]\ndomain = \"{domain}\"\nselector = \"s\"\nkey_file = \"ed25519.pem\"\n"
        );
        let config = Config::parse(&text, &folder, &|_| None).unwrap();
        keys(&config).into_iter().map(|finding| finding.found).collect()
    }

    #[test]
    fn a_key_is_told_with_its_record() {
        let found = said("shop@example.com", "example.com");
        let [Found::Good(words)] = &found[..] else { panic!("{found:?}") };
        let head =
            "ed25519-sha256; its record: s._domainkey.example.com TXT v=DKIM1; k=ed25519; p=";
        assert!(words.starts_with(head) && words.ends_with('='), "{words}");
        assert_eq!(words.len(), head.len() + 44);
    }

    #[test]
    fn a_key_of_another_domain_than_that_of_from_is_doubtful() {
        for (from, domain) in [
            ("a@example.com", "Example.COM"),
            ("a@Mail.example.com", "example.com"),
            ("a@example.com", "mail.example.com"),
            ("a@b\u{fc}cher.example", "xn--bcher-kva.example"),
        ] {
            assert_eq!(said(from, domain).len(), 1, "{from} {domain}");
        }
        for (from, domain) in [
            ("a@example.com", "example.net"),
            ("a@badexample.com", "example.com"),
            ("a@example.com", "badexample.com"),
        ] {
            let found = said(from, domain);
            let [Found::Good(_), Found::Doubt(words)] = &found[..] else { panic!("{found:?}") };
            assert!(words.contains(&format!("signs for {domain}, from is of {}", &from[2..])));
        }
    }
}
