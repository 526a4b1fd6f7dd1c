//! `[sinks.NAME]`: what all kinds have. Each kind has a room of its own beside this one.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::item::{Item, NAME_FORM};
use super::read::Section;
use super::{SinkConfig, Way, csv, retry, smtp, webhook};
use crate::name::Name;
use crate::policy::{Order, Policy};
use crate::retry::RetryPolicy;

/// What a route must know of a sink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Webhook,
    Smtp,
    Csv,
}

/// The declared sinks, also those with faults, so that a route to one of them is no second fault.
pub(super) type Kinds = BTreeMap<String, Option<Kind>>;

const KINDS: [(&str, Kind); 3] =
    [("webhook", Kind::Webhook), ("smtp", Kind::Smtp), ("csv", Kind::Csv)];

const CONCURRENCY_MAX: usize = 1_000;
const TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(3600);

/// Reads all sinks.
pub(super) fn read(tables: &Section) -> (BTreeMap<Name, SinkConfig>, Kinds) {
    let mut sinks = BTreeMap::new();
    let mut kinds = Kinds::new();
    let mut paths = Vec::new();
    for (name, item) in tables.entries() {
        let (kind, sink) = sink(name, &item);
        kinds.insert(name.to_owned(), kind);
        if let Some(sink) = sink {
            if let Way::Csv(csv) = &sink.way
                && let Some(path) = item.section().and_then(|mut section| section.get("path"))
            {
                paths.push((csv.path(), name, path));
            }
            sinks.insert(sink.name.clone(), sink);
        }
    }
    paths.sort_by_key(|(_, _, item)| item.line);
    for (index, (path, _, item)) in paths.iter().enumerate() {
        if let Some((_, first, _)) = paths[..index].iter().find(|(earlier, ..)| earlier == path) {
            let problem = format!("sinks.{first} writes the same files");
            item.fault(problem, "give each csv sink a path of its own");
        }
    }
    (sinks, kinds)
}

fn sink(name: &str, item: &Item) -> (Option<Kind>, Option<SinkConfig>) {
    let Some(mut section) = item.section() else { return (None, None) };
    let name = Name::parse(name);
    if name.is_err() {
        section.fault("is no name", NAME_FORM);
    }
    let remedy = "write kind = \"webhook\", \"smtp\" or \"csv\"";
    let kind = section.need("kind", remedy).and_then(|item| item.choice(&KINDS));
    let sink = match kind {
        Some(Kind::Webhook) => {
            section.not_yet(&["rate", "guarantee", "allow_private"]);
            let (concurrency, timeout, retry) = common(&mut section, 16, 15);
            let way = webhook::read(&mut section).map(Way::Webhook);
            way.map(|way| (concurrency, timeout, retry, way))
        }
        Some(Kind::Smtp) => {
            section.not_yet(&["rate", "guarantee"]);
            let (concurrency, timeout, retry) = common(&mut section, 4, 15 * 60);
            smtp::read(&mut section).map(|smtp| (concurrency, timeout, retry, Way::Smtp(smtp)))
        }
        Some(Kind::Csv) => {
            section.not_yet(&["rate", "guarantee", "mail"]);
            for key in ["concurrency", "timeout", "retry"] {
                section.refuse(key, "does nothing for a csv sink", "remove it");
            }
            let way = csv::read(&mut section).map(Way::Csv);
            let timeout = Duration::from_secs(15 * 60);
            way.map(|way| (NonZeroUsize::MIN, timeout, RetryPolicy::default(), way))
        }
        None => return (None, None),
    };
    section.close();
    let sink = sink.and_then(|(concurrency, timeout, retry, way)| {
        let policy = Policy { retry, ..Policy::default() };
        let (order, rate, daily_quota) = (Order::default(), None, None);
        let name = name.ok()?;
        Some(SinkConfig { name, concurrency, timeout, policy, order, rate, daily_quota, way })
    });
    (kind, sink)
}

/// What sinks have that talk to a server.
fn common(
    section: &mut Section,
    concurrency: usize,
    timeout: u64,
) -> (NonZeroUsize, Duration, RetryPolicy) {
    let written = section.get("concurrency").and_then(|item| item.count(1..=CONCURRENCY_MAX));
    let concurrency = NonZeroUsize::new(written.unwrap_or(concurrency));
    let timeout = section.duration("timeout", Duration::from_secs(timeout), TIMEOUT);
    let policy = section.get("retry").map(|item| retry::read(&item)).unwrap_or_default();
    (concurrency.unwrap_or(NonZeroUsize::MIN), timeout, policy)
}

/// More roots make sense only where certificates are checked.
pub(super) fn ca_file(section: &mut Section, encrypted: bool) -> Option<PathBuf> {
    let item = section.get("ca_file")?;
    if !encrypted {
        item.fault("does nothing without TLS", "remove it, or change the scheme of url");
        return None;
    }
    item.certificates()
}

#[cfg(test)]
mod tests {
    use crate::config::testing::{refuses, refuses_each};

    const WEBHOOK: &str = "kind = \"webhook\"\nurl = \"https://crm.example/hooks\"\n";

    #[test]
    fn faults_of_all_kinds() {
        refuses_each(
            "[sinks.a]\n",
            "sinks.a",
            WEBHOOK,
            &[
                ("kind", "1: kind: is missing; write kind = \"webhook\", \"smtp\" or \"csv\""),
                (
                    "kind = \"webhok\"",
                    "3: kind: \"webhok\" is unknown; use \"webhook\", \"smtp\", \"csv\"",
                ),
                ("kind = 1", "3: kind: is an integer; write a string"),
                ("concurrency = 0", "4: concurrency: 0 is out of range; 1 to 1000"),
                ("concurrency = -1", "4: concurrency: -1 is out of range; 1 to 1000"),
                ("concurrency = \"4\"", "4: concurrency: is a string; write a whole number"),
                ("timeout = \"50ms\"", "4: timeout: \"50ms\" is out of range; 100ms to 1h"),
                ("timout = \"1s\"", "4: timout: is unknown; did you mean timeout?"),
                ("rate = \"14/s\"", "4: rate: is not there yet; remove it"),
                ("guarantee = \"at-most-once\"", "4: guarantee: is not there yet; remove it"),
                ("allow_private = []", "4: allow_private: is not there yet; remove it"),
            ],
        );
        refuses("[sinks]\na = 3\n", &["outboxd.toml:2: sinks.a: is an integer; write a table"]);
        refuses(
            &format!("[sinks.A_1]\n{WEBHOOK}"),
            &["outboxd.toml:1: sinks.A_1: is no name; \
               use a lower-case letter, then up to 39 of a-z, 0-9 and -"],
        );
    }
}
