//! `[sinks.NAME]`: what all kinds have. Each kind has a room of its own beside this one.

use std::collections::BTreeMap;
use std::num::{NonZeroU32, NonZeroUsize};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::item::{Item, NAME_FORM};
use super::policy::{self, HTTP_CODES, SMTP_CODES};
use super::read::Section;
use super::{SinkConfig, Way, csv, smtp, webhook};
use crate::name::Name;
use crate::policy::{Order, Policy, Rate};

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

const ORDERS: [(&str, Order); 2] = [("block", Order::Block), ("skip", Order::Skip)];

/// What a sink says about its pace, for all its routes together.
pub(super) const PACE_KEYS: [&str; 3] = ["order", "rate", "daily_quota"];

const CONCURRENCY_MAX: usize = 1_000;
const QUOTA_MAX: usize = 1_000_000_000;
const TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(3600);

/// What sinks have that talk to a server; a csv sink has it as it stands.
struct Common {
    concurrency: NonZeroUsize,
    timeout: Duration,
    policy: Policy,
    order: Order,
    rate: Option<Rate>,
    daily_quota: Option<NonZeroU32>,
}

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
    section.refuse("priority", "is a route's", "write it in [[routes]]");
    let sink = match kind {
        Some(Kind::Webhook) => {
            section.not_yet(&["allow_private"]);
            let common = common(&mut section, 16, 15, &HTTP_CODES);
            policy::refuse_doubtful(&mut section, &common.policy);
            webhook::read(&mut section).map(|way| (common, Way::Webhook(way)))
        }
        Some(Kind::Smtp) => {
            let common = common(&mut section, 4, 15 * 60, &SMTP_CODES);
            smtp::read(&mut section).map(|way| (common, Way::Smtp(way)))
        }
        Some(Kind::Csv) => {
            section.not_yet(&["mail"]);
            let common = ["concurrency", "timeout"].into_iter();
            for key in common.chain(policy::KEYS).chain(PACE_KEYS) {
                section.refuse(key, "does nothing for a csv sink", "remove it");
            }
            csv::read(&mut section).map(|way| (Common::of_csv(), Way::Csv(Box::new(way))))
        }
        None => return (None, None),
    };
    section.close();
    let sink = sink.and_then(|(common, way)| {
        let Common { concurrency, timeout, policy, order, rate, daily_quota } = common;
        let name = name.ok()?;
        Some(SinkConfig { name, concurrency, timeout, policy, order, rate, daily_quota, way })
    });
    (kind, sink)
}

/// Reads what sinks have that talk to a server; `timeout` in seconds.
fn common(
    section: &mut Section,
    concurrency: usize,
    timeout: u64,
    codes: &RangeInclusive<u16>,
) -> Common {
    let written = section.get("concurrency").and_then(|item| item.count(1..=CONCURRENCY_MAX));
    let concurrency = NonZeroUsize::new(written.unwrap_or(concurrency));
    let quota = |item: Item| NonZeroU32::new(u32::try_from(item.count(1..=QUOTA_MAX)?).ok()?);
    Common {
        concurrency: concurrency.unwrap_or(NonZeroUsize::MIN),
        timeout: section.duration("timeout", Duration::from_secs(timeout), TIMEOUT),
        policy: policy::Written::read(section, codes).over(&Policy::default()),
        order: section.get("order").and_then(|item| item.choice(&ORDERS)).unwrap_or_default(),
        rate: section.get("rate").and_then(|item| item.rate()),
        daily_quota: section.get("daily_quota").and_then(quota),
    }
}

impl Common {
    fn of_csv() -> Common {
        Common {
            concurrency: NonZeroUsize::MIN,
            timeout: Duration::from_secs(15 * 60),
            policy: Policy::default(),
            order: Order::default(),
            rate: None,
            daily_quota: None,
        }
    }
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
    use super::*;
    use crate::config::testing::{refuses, refuses_each, sink};

    const WEBHOOK: &str = "kind = \"webhook\"\nurl = \"https://crm.example/hooks\"\n";

    #[test]
    fn pace_and_order_are_read_and_have_defaults() {
        let plain = sink(WEBHOOK);
        assert_eq!((plain.order, plain.rate, plain.daily_quota), (Order::Block, None, None));
        let pace = "order = \"skip\"\nrate = \"600/min\"\ndaily_quota = 50000\n";
        for head in [WEBHOOK, "kind = \"smtp\"\nurl = \"smtps://m\"\nfrom = \"a@b.example\"\n"] {
            let read = sink(&format!("{head}{pace}"));
            let rate = read.rate.map(|rate| (rate.count.get(), rate.period.as_secs()));
            assert_eq!((read.order, rate), (Order::Skip, Some((600, 60))));
            assert_eq!(read.daily_quota.map(NonZeroU32::get), Some(50_000));
        }
    }

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
                (
                    "rate = \"14/m\"",
                    "4: rate: \"14/m\" is no rate; \
                     write a number from 1 to 1000000, then /s, /min, /h or /d, e.g. \"14/s\"",
                ),
                ("rate = 14", "4: rate: is an integer; write a rate, e.g. \"14/s\""),
                ("daily_quota = 0", "4: daily_quota: 0 is out of range; 1 to 1000000000"),
                ("daily_quota = \"50000\"", "4: daily_quota: is a string; write a whole number"),
                ("order = \"park\"", "4: order: \"park\" is unknown; use \"block\", \"skip\""),
                ("priority = \"high\"", "4: priority: is a route's; write it in [[routes]]"),
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
