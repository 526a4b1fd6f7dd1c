//! What a sink says about outcomes and its routes may say for themselves: `retry`, `guarantee`,
//! `permanent`, `expires_after`, `rerender`.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::item::Item;
use super::read::Section;
use super::retry;
use crate::delivery::Guarantee;
use crate::policy::{Codes, Policy};
use crate::retry::RetryPolicy;

/// The keys of a policy.
pub(super) const KEYS: [&str; 5] = ["retry", "guarantee", "permanent", "expires_after", "rerender"];

/// Answers that a webhook may call permanent: whatever is not a success.
pub(super) const HTTP_CODES: RangeInclusive<u16> = 300..=599;
/// Answers that a mail sink may call permanent: whatever refuses.
pub(super) const SMTP_CODES: RangeInclusive<u16> = 400..=599;

const GUARANTEES: [(&str, Guarantee); 2] =
    [("at-least-once", Guarantee::AtLeastOnce), ("at-most-once", Guarantee::AtMostOnce)];
/// The first digit of a class.
const CLASSES: [(&str, u16); 2] = [("4xx", 4), ("5xx", 5)];
const EXPIRES_AFTER: RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(365 * 24 * 3600);

/// What is written; the rest is as it would be without.
#[derive(Default)]
pub(super) struct Written {
    retry: Option<RetryPolicy>,
    guarantee: Option<Guarantee>,
    permanent: Option<Codes>,
    expires_after: Option<Duration>,
    rerender: Option<bool>,
}

impl Written {
    /// Reads the keys of a policy; `codes` are those that `permanent` may name.
    pub fn read(section: &mut Section, codes: &RangeInclusive<u16>) -> Written {
        Written {
            retry: section.get("retry").map(|item| retry::read(&item)),
            guarantee: section.get("guarantee").and_then(|item| item.choice(&GUARANTEES)),
            permanent: section.get("permanent").and_then(|item| permanent_codes(&item, codes)),
            expires_after: section
                .get("expires_after")
                .and_then(|item| item.duration(EXPIRES_AFTER)),
            rerender: section.get("rerender").and_then(|item| item.boolean()),
        }
    }

    /// The policy that results where `base` would hold.
    pub fn over(&self, base: &Policy) -> Policy {
        Policy {
            retry: self.retry.clone().unwrap_or_else(|| base.retry.clone()),
            guarantee: self.guarantee.unwrap_or(base.guarantee),
            expires_after: self.expires_after.or(base.expires_after),
            permanent: self.permanent.clone().or_else(|| base.permanent.clone()),
            rerender: self.rerender.unwrap_or(base.rerender),
        }
    }
}

/// A webhook's 3xx or 5xx may have taken effect, so at most once holds it for an operator. To name
/// it permanent would be to call it failed.
pub(super) fn refuse_doubtful(section: &mut Section, policy: &Policy) {
    let doubtful = |codes: &Codes| (300..400).chain(500..600).find(|code| codes.has(*code));
    let code = policy.permanent.as_ref().and_then(doubtful);
    let Some(code) = code.filter(|_| policy.guarantee == Guarantee::AtMostOnce) else { return };
    let key = if section.has("permanent") { "permanent" } else { "guarantee" };
    if let Some(item) = section.get(key) {
        let problem = format!("a {code} may have taken effect: at-most-once holds it");
        item.fault(problem, "let permanent name 4xx only, or use at-least-once");
    }
}

/// A list of codes and classes. An empty one is a list too: nothing is permanent.
fn permanent_codes(item: &Item, codes: &RangeInclusive<u16>) -> Option<Codes> {
    let items = item.list()?;
    let (first, last) = (usize::from(*codes.start()), usize::from(*codes.end()));
    let read = |item: &Item| -> Option<RangeInclusive<u16>> {
        if item.is_text() {
            let class = item.choice(&CLASSES)?;
            return Some(class * 100..=class * 100 + 99);
        }
        let code = u16::try_from(item.count(first..=last)?).ok()?;
        Some(code..=code)
    };
    // All of them, so that each fault is told.
    let ranges: Vec<_> = items.iter().map(read).collect();
    Some(Codes::new(ranges.into_iter().collect::<Option<Vec<_>>>()?.into_iter().flatten()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::testing::{SINKS, parse, refuses, refuses_each, sink};

    const WEBHOOK: &str = "kind = \"webhook\"\nurl = \"https://crm.example/hooks\"\n";
    const SMTP: &str = "kind = \"smtp\"\nurl = \"smtps://m.example\"\nfrom = \"a@b.example\"\n";

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_policy_is_read_and_has_defaults() {
        for head in [WEBHOOK, SMTP] {
            assert_eq!(sink(head).policy, Policy::default());
            let policy = sink(&format!(
                "{head}retry = {{ delays = [\"1s\"], jitter = 0 }}\nguarantee = \"at-most-once\"\n\
                 permanent = [400, \"4xx\"]\nexpires_after = \"2h\"\nrerender = true\n"
            ))
            .policy;
            let codes = Codes::new(400..=499);
            let expected = Policy {
                retry: RetryPolicy { delays: vec![seconds(1)], jitter: 0.0 },
                guarantee: Guarantee::AtMostOnce,
                expires_after: Some(seconds(7200)),
                permanent: Some(codes),
                rerender: true,
            };
            assert_eq!(policy, expected);
            let words = "guarantee = \"at-least-once\"\npermanent = []\nrerender = false\n";
            let policy = sink(&format!("{head}{words}")).policy;
            let permanent = Some(Codes::default());
            assert_eq!(policy, Policy { permanent, ..Policy::default() }, "an empty list is one");
        }
        let moved = sink(&format!("{WEBHOOK}permanent = [301, 599]\n")).policy.permanent.unwrap();
        assert!(moved.has(301) && moved.has(599) && !moved.has(302));
    }

    #[test]
    fn a_route_says_for_itself_what_differs() {
        let config = parse(&format!(
            "{SINKS}[sinks.once]\n{WEBHOOK}guarantee = \"at-most-once\"\npermanent = [400]\n\
             expires_after = \"1d\"\nrerender = true\nretry = {{ delays = [\"7s\"] }}\n\
             [[routes]]\ntype = \"a\"\nsink = [\"once\", \"crm\", \"file\"]\n\
             guarantee = \"at-least-once\"\npermanent = []\n\
             [[routes]]\ntype = \"b\"\nsink = [\"once\", \"mail\"]\nto = \"a@b.example\"\n\
             subject = \"S\"\ntext = \"T\"\nrerender = false\nexpires_after = \"1m\"\n\
             retry = {{ delays = [] }}\n\
             [[routes]]\ntype = \"c\"\nsink = \"once\"\n"
        ))
        .unwrap();
        let delays = |policy: &Policy| policy.retry.delays.first().map(Duration::as_secs);
        let found: Vec<_> = config
            .routes
            .iter()
            .map(|route| {
                let sink = route.sink.as_ref().unwrap().as_str();
                let policy = &route.policy;
                let once = policy.guarantee == Guarantee::AtMostOnce;
                let codes = policy.permanent.as_ref().map(|codes| codes.has(400));
                let expires = policy.expires_after.map(|span| span.as_secs());
                (sink, once, codes, expires, policy.rerender, delays(policy))
            })
            .collect();
        assert_eq!(
            found,
            [
                ("once", false, Some(false), Some(86_400), true, Some(7)),
                ("crm", false, Some(false), None, false, Some(5)),
                ("file", false, None, None, false, Some(5)),
                ("once", true, Some(true), Some(60), false, None),
                ("mail", false, None, Some(60), false, None),
                ("once", true, Some(true), Some(86_400), true, Some(7)),
            ]
        );
    }

    #[test]
    fn faults_of_policies() {
        let both: &[(&str, &str)] = &[
            (
                "guarantee = \"exactly-once\"",
                "5: guarantee: \"exactly-once\" is unknown; \
                 use \"at-least-once\", \"at-most-once\"",
            ),
            ("guarantee = 1", "5: guarantee: is an integer; write a string"),
            ("permanent = 410", "5: permanent: is an integer; write a list: [ … ]"),
            ("permanent = [\"3xx\"]", "5: permanent[0]: \"3xx\" is unknown; use \"4xx\", \"5xx\""),
            ("permanent = [[]]", "5: permanent[0]: is an array; write a whole number"),
            ("expires_after = \"0s\"", "5: expires_after: \"0s\" is out of range; 1s to 365d"),
            ("expires_after = \"366d\"", "5: expires_after: \"366d\" is out of range; 1s to 365d"),
            (
                "expires_after = 60",
                "5: expires_after: is an integer; write a duration, e.g. \"15s\"",
            ),
            ("rerender = \"yes\"", "5: rerender: is a string; write true or false"),
            ("retry = 3", "5: retry: is an integer; write a table"),
        ];
        let timeout = "timeout = \"1s\"\n";
        refuses_each("[sinks.a]\n", "sinks.a", &format!("{WEBHOOK}{timeout}"), both);
        refuses_each("[sinks.a]\n", "sinks.a", SMTP, both);
        let webhook: &[(&str, &str)] = &[
            ("permanent = [400, 200]", "4: permanent[1]: 200 is out of range; 300 to 599"),
            ("permanent = [600]", "4: permanent[0]: 600 is out of range; 300 to 599"),
        ];
        refuses_each("[sinks.a]\n", "sinks.a", WEBHOOK, webhook);
        refuses_each(
            "[sinks.a]\n",
            "sinks.a",
            SMTP,
            &[("permanent = [399]", "5: permanent[0]: 399 is out of range; 400 to 599")],
        );
    }
    #[test]
    fn at_most_once_calls_nothing_permanent_that_may_have_taken_effect() {
        let fault = |code: u16| {
            format!(
                "a {code} may have taken effect: at-most-once holds it; \
                 let permanent name 4xx only, or use at-least-once"
            )
        };
        let once = "guarantee = \"at-most-once\"\n";
        let head = format!("{WEBHOOK}{once}");
        refuses_each(
            "[sinks.a]\n",
            "sinks.a",
            &head,
            &[
                ("permanent = [\"5xx\"]", &format!("5: permanent: {}", fault(500))),
                ("permanent = [400, 301]", &format!("5: permanent: {}", fault(301))),
            ],
        );
        let route = |sink: &str, more: &str| {
            format!("[sinks.a]\n{sink}[[routes]]\ntype = \"a\"\nsink = \"a\"\n{more}")
        };
        for (sink, more, key) in
            [(once, "permanent = [503]\n", "permanent"), ("permanent = [503]\n", once, "guarantee")]
        {
            let text = route(&format!("{WEBHOOK}{sink}"), more);
            let told = format!("outboxd.toml:8: routes[0].{key}: {}", fault(503));
            refuses(&text, &[&told]);
        }
        // A mail server's answer is one: nothing was taken.
        let mail = "to = \"a@b.example\"\nsubject = \"S\"\ntext = \"T\"\n";
        let policy = parse(&route(&format!("{SMTP}{once}permanent = [550]\n"), mail)).unwrap();
        assert!(policy.routes[0].policy.permanent.as_ref().unwrap().has(550));
    }
}
